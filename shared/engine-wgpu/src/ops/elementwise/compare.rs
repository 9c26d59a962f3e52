//! Comparisons, logic and tests for what is not a number. The answer is `bool`, 0 or 1 in an `i32`.

use super::host::{compare, given};
use super::launch::Element;
use super::{Class, binary, same, same_type};
use crate::error::OpError;
use crate::ir::{ElementType, Literal, Node};
use crate::lower::Lowering;
use crate::ops::rule::Rule;
use crate::shape::broadcast;
use crate::value_info::{Inputs, ValueInfo};

/// The operators of this room.
pub(in crate::ops) const RULES: &[Rule] = &[
    Rule::device("Equal", infer, |n, cx| plain(n, cx, "a == b"))
        .with_host(|_n, i| compare(i, |a, b| a == b, |a, b| a == b)),
    Rule::device("Less", infer, |n, cx| plain(n, cx, "a < b"))
        .with_host(|_n, i| compare(i, |a, b| a < b, |a, b| a < b)),
    Rule::device("LessOrEqual", infer, |n, cx| plain(n, cx, "a <= b"))
        .with_host(|_n, i| compare(i, |a, b| a <= b, |a, b| a <= b)),
    Rule::device("Greater", infer, |n, cx| plain(n, cx, "a > b"))
        .with_host(|_n, i| compare(i, |a, b| a > b, |a, b| a > b)),
    Rule::device("GreaterOrEqual", infer, |n, cx| plain(n, cx, "a >= b"))
        .with_host(|_n, i| compare(i, |a, b| a >= b, |a, b| a >= b)),
    Rule::device("And", infer_logic, |n, cx| logic(n, cx, "(a != 0) && (b != 0)"))
        .with_host(|_n, i| compare(i, |_a, _b| false, |a, b| a != 0 && b != 0)),
    Rule::device("Or", infer_logic, |n, cx| logic(n, cx, "(a != 0) || (b != 0)"))
        .with_host(|_n, i| compare(i, |_a, _b| false, |a, b| a != 0 || b != 0)),
    Rule::device("Xor", infer_logic, |n, cx| logic(n, cx, "(a != 0) != (b != 0)"))
        .with_host(|_n, i| compare(i, |_a, _b| false, |a, b| (a != 0) != (b != 0))),
    Rule::device("Not", infer_not, |n, cx| super::unary(n, cx, |_| "select(0, 1, x == 0)".into())).with_host(host_not),
    Rule::device("IsNaN", infer_test, |n, cx| super::unary(n, cx, |_| "select(0, 1, is_nan(x))".into()))
        .with_host(|_n, i| test(i, f64::is_nan)),
    Rule::device("IsInf", infer_test, lower_is_inf),
];

fn infer(_node: &Node, inputs: Inputs<'_>) -> Result<Vec<ValueInfo>, OpError> {
    let (a, b) = (inputs.at(0)?, inputs.at(1)?);
    same_type(a.dtype, b.dtype)?;
    Ok(vec![ValueInfo::new(ElementType::Bool, broadcast(&a.shape, &b.shape)?)])
}

fn is_bool(info: &ValueInfo) -> Result<(), OpError> {
    if info.dtype == ElementType::Bool {
        Ok(())
    } else {
        Err(OpError::invalid(format!("it takes bool, not {}", info.dtype)))
    }
}

fn infer_logic(node: &Node, inputs: Inputs<'_>) -> Result<Vec<ValueInfo>, OpError> {
    is_bool(inputs.at(0)?)?;
    infer(node, inputs)
}

fn infer_not(node: &Node, inputs: Inputs<'_>) -> Result<Vec<ValueInfo>, OpError> {
    is_bool(inputs.at(0)?)?;
    same(node, inputs)
}

fn infer_test(_node: &Node, inputs: Inputs<'_>) -> Result<Vec<ValueInfo>, OpError> {
    let x = inputs.at(0)?;
    if !x.dtype.is_float() {
        return Err(OpError::invalid(format!("it tests floats, not {}", x.dtype)));
    }
    Ok(vec![ValueInfo::new(ElementType::Bool, x.shape.clone())])
}

fn plain(node: &Node, cx: &mut Lowering<'_>, test: &str) -> Result<(), OpError> {
    binary(node, cx, |class| match class {
        // Some compilers turn comparisons around as if there were no NaN.
        Class::Float => format!("select(0, 1, ({test}) && !is_nan(a) && !is_nan(b))"),
        Class::Signed | Class::Unsigned => format!("select(0, 1, {test})"),
    })
}

fn logic(node: &Node, cx: &mut Lowering<'_>, test: &str) -> Result<(), OpError> {
    binary(node, cx, |_class| format!("select(0, 1, {test})"))
}

fn lower_is_inf(node: &Node, cx: &mut Lowering<'_>) -> Result<(), OpError> {
    let (x, y) = (cx.input(node, 0)?, cx.output(node, 0)?);
    let flag = |on: bool| f32::from(u8::from(on));
    let positive = flag(node.attributes.flag("detect_positive", true)?);
    let negative = flag(node.attributes.flag("detect_negative", true)?);
    let kernel = Element::new("is_inf").input("x", x).number("positive", positive).number("negative", negative);
    kernel.run(cx, node, &y, "select(0, 1, is_inf(x) && select(positive, negative, x < 0.0) != 0.0)")
}

fn host_not(_node: &Node, inputs: &[Option<&Literal>]) -> Result<Vec<Literal>, OpError> {
    let x = given(inputs, 0)?;
    let values: Vec<i64> = x.to_i64s().into_iter().map(|value| i64::from(value == 0)).collect();
    Ok(vec![Literal::from_i64s(ElementType::Bool, x.shape().to_vec(), &values)])
}

fn test(inputs: &[Option<&Literal>], test: impl Fn(f64) -> bool) -> Result<Vec<Literal>, OpError> {
    let x = given(inputs, 0)?;
    let values: Vec<i64> = x.to_f64s().into_iter().map(|value| i64::from(test(value))).collect();
    Ok(vec![Literal::from_i64s(ElementType::Bool, x.shape().to_vec(), &values)])
}
