//! Casts between element types: floats are cut off towards zero, narrow integers wrap, halves round to even.

use super::Class;
use super::host::given;
use super::launch::Element;
use crate::error::OpError;
use crate::ir::{ElementType, Literal, Node};
use crate::lower::Lowering;
use crate::ops::rule::Rule;
use crate::value_info::{Inputs, ValueInfo};

/// The operators of this room.
pub(in crate::ops) const RULES: &[Rule] = &[
    Rule::device("Cast", infer, lower).with_host(|node, inputs| host(inputs, target(node)?)),
    Rule::device("CastLike", infer_like, lower).with_host(|_node, inputs| host(inputs, given(inputs, 1)?.dtype())),
];

fn target(node: &Node) -> Result<ElementType, OpError> {
    let number = node.attributes.int("to", 0)?;
    let dtype = i32::try_from(number).ok().and_then(ElementType::from_onnx);
    dtype.ok_or_else(|| OpError::unsupported(format!("a cast to element type {number}")))
}

fn infer(node: &Node, inputs: Inputs<'_>) -> Result<Vec<ValueInfo>, OpError> {
    Ok(vec![ValueInfo::new(target(node)?, inputs.at(0)?.shape.clone())])
}

fn infer_like(_node: &Node, inputs: Inputs<'_>) -> Result<Vec<ValueInfo>, OpError> {
    Ok(vec![ValueInfo::new(inputs.at(1)?.dtype, inputs.at(0)?.shape.clone())])
}

/// Returns whether every value of the one type lies on the device as the same value of the other does: halves are
/// widened where they enter, and wide numbers narrowed.
const fn is_same_word(from: ElementType, to: ElementType) -> bool {
    use ElementType::{Bf16, Bool, F16, F32, F64, I16, I32, I64, U16, U32, U64};
    matches!(
        (from, to),
        (F16 | Bf16 | F32 | F64, F32 | F64) | (Bool | I16 | I32 | I64, I32 | I64) | (U16 | U32 | U64, U32 | U64)
    )
}

fn lower(node: &Node, cx: &mut Lowering<'_>) -> Result<(), OpError> {
    let (Some(input), Some(output)) = (node.input(0), node.output(0)) else { return Ok(()) };
    let (from, to) = (cx.info(input).dtype, cx.info(output).dtype);
    if is_same_word(from, to) {
        return cx.alias(output, input);
    }
    let (x, y) = (cx.input(node, 0)?, cx.output(node, 0)?);
    let class = Class::of(x.repr);
    let range = cx.input_range(node, 0);
    let text = match (class, to) {
        (Class::Float, ElementType::I64) => "checked_i64(x)",
        (Class::Float, ElementType::U64) => "checked_u64(x)",
        (Class::Unsigned, ElementType::I64) if range.high > i64::from(i32::MAX) => "narrowed_i64(x)",
        (Class::Signed, ElementType::U64) if range.low < 0 => "narrowed_u64(x)",
        // Through i32 where that holds it, so that negative floats wrap as in ONNX Runtime.
        (Class::Float, ElementType::U32) => "select(u32(x), u32(i32(x)), x < 0.0)",
        // NaN is true as well.
        (Class::Float, ElementType::Bool) => "select(0, 1, (bitcast<u32>(x) & 0x7fffffffu) != 0u)",
        (_, ElementType::Bool) => "select(0, 1, x != T(0))",
        (Class::Float, ElementType::F16) if from != ElementType::F16 => "to_f16(x)",
        (_, ElementType::F16) => "to_f16(f32(x))",
        (Class::Float, ElementType::Bf16) if from != ElementType::Bf16 => "to_bf16(x)",
        (_, ElementType::Bf16) => "to_bf16(f32(x))",
        (_, ElementType::F32 | ElementType::F64) => "f32(x)",
        // A negative float to a narrow unsigned type wraps through i32, as C compilers and NumPy have it.
        (_, ElementType::U4 | ElementType::U8 | ElementType::U16) => "u32(i32(x))",
        (_, ElementType::U32 | ElementType::U64) => "u32(x)",
        (_, ElementType::I4 | ElementType::I8 | ElementType::I16 | ElementType::I32 | ElementType::I64) => "i32(x)",
    };
    Element::new("cast").input("x", x).run(cx, node, &y, text)
}

fn host(inputs: &[Option<&Literal>], to: ElementType) -> Result<Vec<Literal>, OpError> {
    let x = given(inputs, 0)?;
    let shape = x.shape().to_vec();
    Ok(vec![match (x.dtype().is_float(), to.is_float()) {
        (_, true) => Literal::from_f64s(to, shape, &x.to_f64s()),
        (true, false) if to == ElementType::Bool => {
            let values: Vec<i64> = x.to_f64s().into_iter().map(|value| i64::from(value != 0.0)).collect();
            Literal::from_i64s(to, shape, &values)
        }
        (_, false) => Literal::from_i64s(to, shape, &x.to_i64s()),
    }])
}
