//! Arithmetic: four operations, Mod, Pow and rounding. Integers divide towards zero and wrap to their width.

use super::exact::{self, Operation};
use super::host::{given, map, map_float, zip};
use super::launch::Element;
use super::{Class, binary, broadcasting, checked, same, same_float, unary};
use crate::error::OpError;
use crate::ir::{Literal, Node};
use crate::lower::Lowering;
use crate::ops::rule::Rule;
use crate::shape::broadcast;
use crate::value_info::{Inputs, ValueInfo};

/// The operators of this room.
pub(in crate::ops) const RULES: &[Rule] = &[
    Rule::device("Add", broadcasting, |n, cx| exact::arithmetic(n, cx, Operation::Add))
        .with_host(|_n, i| zip(i, |a, b| a + b, i64::wrapping_add)),
    Rule::device("Sub", broadcasting, |n, cx| exact::arithmetic(n, cx, Operation::Sub))
        .with_host(|_n, i| zip(i, |a, b| a - b, i64::wrapping_sub)),
    Rule::device("Mul", broadcasting, |n, cx| exact::arithmetic(n, cx, Operation::Mul))
        .with_host(|_n, i| zip(i, |a, b| a * b, i64::wrapping_mul)),
    Rule::device("Div", broadcasting, |n, cx| exact::arithmetic(n, cx, Operation::Div))
        .with_host(|_n, i| zip(i, |a, b| a / b, |a, b| a.checked_div(b).unwrap_or(0))),
    Rule::device("Mod", broadcasting, lower_mod).with_host(host_mod),
    Rule::device("Pow", infer_pow, lower_pow).with_host(host_pow),
    Rule::device("Neg", same, |n, cx| exact::turned(n, cx, "checked_neg", "-x"))
        .with_host(|_n, i| map(i, |x| -x, i64::wrapping_neg)),
    Rule::device("Abs", same, |n, cx| exact::turned(n, cx, "checked_abs", "abs(x)"))
        .with_host(|_n, i| map(i, f64::abs, i64::wrapping_abs)),
    Rule::device("Sign", same, |n, cx| {
        unary(n, cx, |class| match class {
            Class::Float => "select(sign(x), x, is_nan(x))".into(),
            Class::Signed => "sign(x)".into(),
            Class::Unsigned => "min(x, 1u)".into(),
        })
    })
    .with_host(|_n, i| map(i, |x| if x.is_nan() || x == 0.0 { x } else { x.signum() }, i64::signum)),
    Rule::device("Floor", same_float, |n, cx| unary(n, cx, |_| "floor(x)".into()))
        .with_host(|_n, i| map_float(i, f64::floor)),
    Rule::device("Ceil", same_float, |n, cx| unary(n, cx, |_| "ceil(x)".into()))
        .with_host(|_n, i| map_float(i, f64::ceil)),
    // WGSL's `round` is to even, as ONNX wants.
    Rule::device("Round", same_float, |n, cx| unary(n, cx, |_| "round(x)".into()))
        .with_host(|_n, i| map_float(i, f64::round_ties_even)),
    Rule::device("Sqrt", same_float, |n, cx| {
        unary(n, cx, |_| "select(sqrt(max(x, 0.0)), select(quiet_nan(), x, is_nan(x)), x < 0.0 || is_nan(x))".into())
    })
    .with_host(|_n, i| map_float(i, f64::sqrt)),
    Rule::device("Reciprocal", same_float, |n, cx| unary(n, cx, |_| "1.0 / x".into()))
        .with_host(|_n, i| map_float(i, |x| 1.0 / x)),
];

fn lower_mod(node: &Node, cx: &mut Lowering<'_>) -> Result<(), OpError> {
    let fmod = node.attributes.flag("fmod", false)?;
    let zero = cx.input_range(node, 1).contains(0);
    binary(node, cx, |class| {
        let by = match (class, zero) {
            (Class::Signed, true) => "divisor_i32(b)",
            (Class::Unsigned, true) => "divisor_u32(b)",
            (Class::Float, _) | (_, false) => "b",
        };
        match (class, fmod) {
            (Class::Float, true) => "remainder(a, b)".to_owned(),
            (Class::Float, false) => "modulo(a, b)".to_owned(),
            (Class::Signed, true) => format!("remainder_i32(a, {by})"),
            (Class::Unsigned, _) => format!("a % {by}"),
            // The result has the divisor's sign.
            (Class::Signed, false) => {
                "select(R, R + b, R != 0 && (R < 0) != (b < 0))".replace('R', &format!("remainder_i32(a, {by})"))
            }
        }
    })
}

fn host_mod(node: &Node, inputs: &[Option<&Literal>]) -> Result<Vec<Literal>, OpError> {
    let fmod = node.attributes.flag("fmod", false)?;
    let floats = |a: f64, b: f64| {
        let r = a % b;
        if fmod || r.is_nan() {
            r
        } else if r == 0.0 {
            0.0_f64.copysign(b)
        } else if (r < 0.0) == (b < 0.0) {
            r
        } else {
            r + b
        }
    };
    let integers = |a: i64, b: i64| {
        let r = a.checked_rem(b).unwrap_or(0);
        if !fmod && r != 0 && (r < 0) != (b < 0) { r + b } else { r }
    };
    zip(inputs, floats, integers)
}

/// Base and exponent may differ in type; the answer has the base's.
fn infer_pow(_node: &Node, inputs: Inputs<'_>) -> Result<Vec<ValueInfo>, OpError> {
    let (a, b) = (inputs.at(0)?, inputs.at(1)?);
    Ok(vec![ValueInfo::new(a.dtype, broadcast(&a.shape, &b.shape)?)])
}

fn lower_pow(node: &Node, cx: &mut Lowering<'_>) -> Result<(), OpError> {
    let (a, b, y) = (cx.input(node, 0)?, cx.input(node, 1)?, cx.output(node, 0)?);
    let wide = node.output(0).is_some_and(|id| checked::is_wide(cx.info(id).dtype));
    let checks = if wide { "checked_" } else { "" };
    let text = match (Class::of(a.repr), Class::of(b.repr)) {
        (Class::Float, Class::Float) => "power(a, b)".to_owned(),
        (Class::Float, _) => "power(a, f32(b))".to_owned(),
        // Powers of integers are exact, and a float holds 24 bits of one.
        (Class::Signed, Class::Float) => format!("{checks}power_i32(a, whole_exponent(b))"),
        (Class::Unsigned, Class::Float) => format!("{checks}power_u32(a, u32(max(whole_exponent(b), 0)))"),
        (Class::Signed, Class::Signed) => format!("{checks}power_i32(a, b)"),
        (Class::Signed, Class::Unsigned) => format!("{checks}power_i32(a, i32(min(b, 2147483647u)))"),
        (Class::Unsigned, Class::Unsigned) => format!("{checks}power_u32(a, b)"),
        (Class::Unsigned, Class::Signed) => format!("{checks}power_u32(a, u32(max(b, 0)))"),
    };
    Element::new("pow").input("a", a).input("b", b).run(cx, node, &y, &text)
}

fn host_pow(_node: &Node, inputs: &[Option<&Literal>]) -> Result<Vec<Literal>, OpError> {
    let (a, b) = (given(inputs, 0)?, given(inputs, 1)?);
    if a.dtype().is_float() || b.dtype().is_float() {
        let wide = Literal::from_f64s(crate::ir::ElementType::F64, a.shape().to_vec(), &a.to_f64s());
        let power = zip(&[Some(&wide), Some(b)], f64::powf, |a, _b| a)?;
        return Ok(power.iter().map(|y| Literal::from_f64s(a.dtype(), y.shape().to_vec(), &y.to_f64s())).collect());
    }
    zip(inputs, f64::powf, |a, b| match u32::try_from(b) {
        Ok(exponent) => a.wrapping_pow(exponent),
        Err(_negative) => match a {
            1 => 1,
            -1 if b % 2 == 0 => 1,
            -1 => -1,
            _ => 0,
        },
    })
}
