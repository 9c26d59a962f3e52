//! Operators on the bits of integers, and the view of one type's bits as another's.

use super::{Class, binary, broadcasting, checked, same, unary};
use crate::error::OpError;
use crate::ir::{ElementType, Node};
use crate::lower::Lowering;
use crate::ops::rule::Rule;
use crate::value_info::{Inputs, ValueInfo};

/// The operators of this room.
pub(in crate::ops) const RULES: &[Rule] = &[
    Rule::device("BitwiseAnd", infer, |n, cx| binary(n, cx, |_| "a & b".into())),
    Rule::device("BitwiseOr", infer, |n, cx| binary(n, cx, |_| "a | b".into())),
    Rule::device("BitwiseXor", infer, |n, cx| binary(n, cx, |_| "a ^ b".into())),
    Rule::device("BitwiseNot", infer_not, |n, cx| unary(n, cx, |_| "~x".into())),
    Rule::device("BitShift", infer, lower_shift),
];

fn integers(info: &ValueInfo) -> Result<(), OpError> {
    if info.dtype.is_float() || info.dtype == ElementType::Bool {
        return Err(OpError::invalid(format!("it works on integers, not {}", info.dtype)));
    }
    Ok(())
}

fn infer(node: &Node, inputs: Inputs<'_>) -> Result<Vec<ValueInfo>, OpError> {
    integers(inputs.at(0)?)?;
    broadcasting(node, inputs)
}

fn infer_not(node: &Node, inputs: Inputs<'_>) -> Result<Vec<ValueInfo>, OpError> {
    integers(inputs.at(0)?)?;
    if inputs.at(0)?.dtype == ElementType::U64 {
        return Err(OpError::unsupported("the complement of uint64 is outside the 32 bits of the device"));
    }
    same(node, inputs)
}

/// Shifting by the width or more (or by a negative number) leaves nothing but the sign.
fn lower_shift(node: &Node, cx: &mut Lowering<'_>) -> Result<(), OpError> {
    let dtype = node.input(0).map_or(ElementType::U32, |id| cx.info(id).dtype);
    let width = dtype.bits().min(32);
    let right = match node.attributes.text("direction", "")? {
        "RIGHT" => true,
        "LEFT" => false,
        other => return Err(OpError::invalid(format!("the direction {other:?}"))),
    };
    binary(node, cx, |class| {
        let beyond = format!("u32(b) >= {width}u");
        match (class, right) {
            (Class::Signed, true) => format!("(a >> select(u32(b), 31u, {beyond}))"),
            (_, true) => format!("select(a >> (u32(b) & 31u), T(0), {beyond})"),
            (Class::Signed, false) if checked::is_wide(dtype) => "shifted_left_i32(a, b)".to_owned(),
            (_, false) if checked::is_wide(dtype) => "shifted_left_u32(a, b)".to_owned(),
            (_, false) => format!("select(a << (u32(b) & 31u), T(0), {beyond})"),
        }
    })
}
