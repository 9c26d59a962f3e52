//! Operators of many inputs: Max, Min, Sum, Mean, Where, Clip.

use super::host::{given, indices, map, zip};
use super::launch::Element;
use super::{Class, checked, same_type};
use crate::error::OpError;
use crate::ir::{ElementType, Literal, Node};
use crate::lower::{Lowering, Operand};
use crate::ops::rule::Rule;
use crate::shape::broadcast;
use crate::value_info::{Inputs, Range, ValueInfo};

/// The operators of this room.
pub(in crate::ops) const RULES: &[Rule] = &[
    Rule::device("Max", infer, |n, cx| fold(n, cx, &|class, a, b| larger("larger", "max", class, a, b)))
        .with_host(|_n, i| host_fold(i, |a, b| if b > a || b.is_nan() { b } else { a }, i64::max)),
    Rule::device("Min", infer, |n, cx| fold(n, cx, &|class, a, b| larger("smaller", "min", class, a, b)))
        .with_host(|_n, i| host_fold(i, |a, b| if b < a || b.is_nan() { b } else { a }, i64::min)),
    Rule::device("Sum", infer, |n, cx| fold(n, cx, &|_class, a, b| format!("({a} + {b})")))
        .with_host(|_n, i| host_fold(i, |a, b| a + b, i64::wrapping_add)),
    Rule::device("Mean", infer, |n, cx| fold(n, cx, &|_class, a, b| format!("({a} + {b})"))),
    Rule::device("Where", infer_where, lower_where).with_host(host_where),
];

/// Inputs of one kernel: with the sum so far and the answer within eight bindings, strides within the params.
const TOGETHER: usize = 5;

fn infer(_node: &Node, inputs: Inputs<'_>) -> Result<Vec<ValueInfo>, OpError> {
    let first = inputs.at(0)?;
    let mut shape = first.shape.clone();
    for at in 1..inputs.len() {
        let next = inputs.at(at)?;
        same_type(first.dtype, next.dtype)?;
        shape = broadcast(&shape, &next.shape)?;
    }
    Ok(vec![ValueInfo::new(first.dtype, shape)])
}

fn larger(float: &str, integer: &str, class: Class, a: &str, b: &str) -> String {
    match class {
        Class::Float => format!("{float}({a}, {b})"),
        Class::Signed | Class::Unsigned => format!("{integer}({a}, {b})"),
    }
}

/// Joins all inputs pair by pair, some at a time.
fn fold(node: &Node, cx: &mut Lowering<'_>, join: &dyn Fn(Class, &str, &str) -> String) -> Result<(), OpError> {
    let y = cx.output(node, 0)?;
    let dtype = node.output(0).map_or(ElementType::F32, |id| cx.info(id).dtype);
    let class = Class::of(y.repr);
    let count = node.inputs.len();
    let mut so_far: Option<Operand> = None;
    let mut at = 0;
    while at < count {
        let end = (at + TOGETHER).min(count);
        let mut kernel = Element::new("variadic");
        let mut expression = String::new();
        if let Some(operand) = so_far.take() {
            kernel = kernel.input("before", operand);
            expression = "before".into();
        }
        for place in at..end {
            let name = format!("x{place}");
            kernel = kernel.input(&name, cx.input(node, place)?);
            expression = if expression.is_empty() { name } else { join(class, &expression, &name) };
        }
        let last = end == count;
        if last && node.op == "Mean" {
            kernel = kernel.number("count", f32::from(u16::try_from(count).unwrap_or(u16::MAX)));
            expression = format!("({expression}) / count");
        }
        let target =
            if last { y.clone() } else { Operand { arg: cx.scratch(y.repr.words(y.elements())), ..y.clone() } };
        kernel.into(cx, &target, dtype, &expression)?;
        so_far = Some(target);
        at = end;
    }
    Ok(())
}

fn host_fold(
    inputs: &[Option<&Literal>],
    f: impl Fn(f64, f64) -> f64,
    g: impl Fn(i64, i64) -> i64,
) -> Result<Vec<Literal>, OpError> {
    let mut so_far = given(inputs, 0)?.clone();
    for at in 1..inputs.len() {
        let pair = [Some(&so_far), Some(given(inputs, at)?)];
        if let Some(next) = zip(&pair, &f, &g)?.pop() {
            so_far = next;
        }
    }
    Ok(vec![so_far])
}

fn infer_where(_node: &Node, inputs: Inputs<'_>) -> Result<Vec<ValueInfo>, OpError> {
    let (condition, a, b) = (inputs.at(0)?, inputs.at(1)?, inputs.at(2)?);
    same_type(a.dtype, b.dtype)?;
    same_type(condition.dtype, ElementType::Bool)?;
    let shape = broadcast(&broadcast(&condition.shape, &a.shape)?, &b.shape)?;
    Ok(vec![ValueInfo::new(a.dtype, shape)])
}

fn lower_where(node: &Node, cx: &mut Lowering<'_>) -> Result<(), OpError> {
    let (condition, a, b, y) = (cx.input(node, 0)?, cx.input(node, 1)?, cx.input(node, 2)?, cx.output(node, 0)?);
    let kernel = Element::new("where").input("condition", condition).input("a", a).input("b", b);
    kernel.run(cx, node, &y, "select(b, a, condition != 0)")
}

fn host_where(_node: &Node, inputs: &[Option<&Literal>]) -> Result<Vec<Literal>, OpError> {
    let all = [given(inputs, 0)?, given(inputs, 1)?, given(inputs, 2)?];
    let (shape, places) = indices(&all)?;
    let condition = all[0].to_i64s();
    let literal = crate::host::rearrange(all[1].dtype(), shape, &all[1..], |at| {
        let from = usize::from(condition[places[0][at]] == 0);
        Ok(Some((from, places[from + 1][at])))
    })?;
    Ok(vec![literal])
}

/// The bounds are attributes before operator set 11, scalars after.
pub(super) fn infer_clip(_node: &Node, inputs: Inputs<'_>) -> Result<Vec<ValueInfo>, OpError> {
    let x = inputs.at(0)?;
    for bound in [inputs.optional(1), inputs.optional(2)].into_iter().flatten() {
        same_type(x.dtype, bound.dtype)?;
        if bound.elements() != 1 {
            return Err(OpError::invalid("its bounds are no scalars"));
        }
    }
    Ok(vec![ValueInfo::new(x.dtype, x.shape.clone())])
}

/// Returns whether a bound of 64-bit integers is beyond all that the device holds, as in "no more than the largest
/// int64".
fn is_no_bound(node: &Node, cx: &Lowering<'_>, at: usize) -> bool {
    let Some(info) = node.input(at).map(|id| cx.info(id)).filter(|info| checked::is_wide(info.dtype)) else {
        return false;
    };
    let value = info.known.as_ref().and_then(|literal| literal.to_i64s().first().copied());
    let all = Range::of_type(info.dtype);
    value.is_some_and(|value| if at == 1 { value <= all.low } else { value >= all.high })
}

pub(super) fn lower_clip(node: &Node, cx: &mut Lowering<'_>) -> Result<(), OpError> {
    let (x, y) = (cx.input(node, 0)?, cx.output(node, 0)?);
    let mut kernel = Element::new("clip").input("x", x);
    let mut expression = String::from("x");
    for (at, name, test) in [(1, "min", "<"), (2, "max", ">")] {
        let bound = ["", "low", "high"][at];
        if is_no_bound(node, cx, at) {
            continue;
        }
        match cx.optional_input(node, at)? {
            Some(operand) => kernel = kernel.input(bound, Operand { shape: Vec::new(), ..operand }),
            None if node.attributes.find(name).is_some() => {
                let value = node.attributes.float(name, 0.0)?;
                kernel = kernel.number(if at == 1 { "low" } else { "high" }, value);
            }
            None => continue,
        }
        expression = format!("select({expression}, {bound}, {expression} {test} {bound})");
    }
    kernel.run(cx, node, &y, &expression)
}

pub(super) fn host_clip(node: &Node, inputs: &[Option<&Literal>]) -> Result<Vec<Literal>, OpError> {
    let bound = |at: usize, name: &str| -> Result<(Option<f64>, Option<i64>), OpError> {
        if let Some(literal) = inputs.get(at).copied().flatten() {
            return Ok((literal.to_f64s().first().copied(), literal.to_i64s().first().copied()));
        }
        let given = node.attributes.find(name).is_some();
        let value = node.attributes.float(name, 0.0)?;
        Ok((given.then(|| f64::from(value)), None))
    };
    let (low, high) = (bound(1, "min")?, bound(2, "max")?);
    let float = |x: f64| {
        let x = low.0.map_or(x, |low| if x < low { low } else { x });
        high.0.map_or(x, |high| if x > high { high } else { x })
    };
    let integer = |x: i64| {
        let x = low.1.map_or(x, |low| x.max(low));
        high.1.map_or(x, |high| x.min(high))
    };
    map(inputs, float, integer)
}
