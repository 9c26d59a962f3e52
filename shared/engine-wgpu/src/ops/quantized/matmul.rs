//! Matrix products of 8-bit integers: `MatMulInteger`, `QLinearMatMul` and ONNX Runtime's forms with float answers.

use super::finish::{Finish, Places, floating, requantise, to_float};
use super::gemm::{Batch, Channels, Gemm};
use super::pack::{self, Source};
use super::{MICROSOFT, Points, check_bytes, dynamic};
use crate::error::OpError;
use crate::ir::{ElementType, Node, OWN_DOMAIN};
use crate::lower::{Lowering, Operand, Repr};
use crate::ops::epilogue::Epilogue;
use crate::ops::rule::Rule;
use crate::shape::{broadcast, broadcast_strides};
use crate::value_info::{Inputs, ValueInfo};

/// The operators of this room.
///
/// `sanderling::QLinearMatMul` has an `int32` bias as input 8 and the attributes of [`crate::ops::epilogue`] without
/// residual; `sanderling::MatMulIntegerToFloat` has them with the residual as input 7.
pub(in crate::ops) const RULES: &[Rule] = &[
    Rule::device("MatMulInteger", infer_integer, lower_integer),
    Rule::device("QLinearMatMul", infer_qlinear, lower_qlinear),
    Rule::device("QLinearMatMul", infer_qlinear, lower_qlinear).in_domain(OWN_DOMAIN),
    Rule::device("MatMulIntegerToFloat", infer_to_float, lower_to_float).in_domain(MICROSOFT),
    Rule::device("MatMulIntegerToFloat", infer_to_float, lower_to_float).in_domain(OWN_DOMAIN),
    Rule::device("DynamicQuantizeMatMul", infer_dynamic, lower_dynamic).in_domain(MICROSOFT),
];

const QLINEAR: Places = Places { a_scale: 1, b_scale: 4, y_scale: 6, y_point: 7, bias: 8 };

/// A product's sizes, from the shapes of its operands.
#[derive(Debug)]
struct Sizes {
    batch: Vec<usize>,
    batch_a: Vec<usize>,
    batch_b: Vec<usize>,
    m: usize,
    n: usize,
    k: usize,
    y: Vec<usize>,
}

fn sizes(a: &[usize], b: &[usize]) -> Result<Sizes, OpError> {
    let mismatch = || OpError::invalid(format!("shapes {a:?} and {b:?} cannot be multiplied"));
    let (batch_a, m, k) = match a {
        [] => return Err(mismatch()),
        [k] => (&a[..0], 1, *k),
        [batch @ .., m, k] => (batch, *m, *k),
    };
    let (batch_b, k_b, n) = match b {
        [] => return Err(mismatch()),
        [k] => (&b[..0], *k, 1),
        [batch @ .., k, n] => (batch, *k, *n),
    };
    if k != k_b {
        return Err(mismatch());
    }
    let batch = broadcast(batch_a, batch_b)?;
    let mut y = batch.clone();
    y.extend((a.len() > 1).then_some(m));
    y.extend((b.len() > 1).then_some(n));
    Ok(Sizes { batch, batch_a: batch_a.to_vec(), batch_b: batch_b.to_vec(), m, n, k, y })
}

/// Checks both operands and gives the shape of their product.
fn product_shape(a: &ValueInfo, b: &ValueInfo) -> Result<Vec<usize>, OpError> {
    check_bytes(a)?;
    check_bytes(b)?;
    sizes(&a.shape, &b.shape).map(|sizes| sizes.y)
}

fn infer_integer(_node: &Node, inputs: Inputs<'_>) -> Result<Vec<ValueInfo>, OpError> {
    Ok(vec![ValueInfo::new(ElementType::I32, product_shape(inputs.at(0)?, inputs.at(1)?)?)])
}

fn lower_integer(node: &Node, cx: &mut Lowering<'_>) -> Result<(), OpError> {
    let (a, b) = (source(node, 0)?, source(node, 1)?);
    let (a_points, b_points) = (Points::of(node, cx, 2)?, Points::of(node, cx, 3)?);
    let shapes = shapes(node, cx, 0, 1)?;
    product(cx, node, (a, a_points), (b, b_points), &shapes, |_cx, _channels| Ok(Finish::Integer))
}

fn infer_qlinear(_node: &Node, inputs: Inputs<'_>) -> Result<Vec<ValueInfo>, OpError> {
    let shape = product_shape(inputs.at(0)?, inputs.at(3)?)?;
    let dtype = inputs.at(7)?.dtype;
    check_bytes(inputs.at(7)?)?;
    Ok(vec![ValueInfo::new(dtype, shape)])
}

fn lower_qlinear(node: &Node, cx: &mut Lowering<'_>) -> Result<(), OpError> {
    let (a, b) = (source(node, 0)?, source(node, 3)?);
    let (a_points, b_points) = (Points::of(node, cx, 2)?, Points::of(node, cx, 5)?);
    let shapes = shapes(node, cx, 0, 3)?;
    product(cx, node, (a, a_points), (b, b_points), &shapes, |cx, channels| requantise(cx, node, &QLINEAR, channels))
}

fn infer_to_float(_node: &Node, inputs: Inputs<'_>) -> Result<Vec<ValueInfo>, OpError> {
    Ok(vec![ValueInfo::new(inputs.at(2)?.dtype, product_shape(inputs.at(0)?, inputs.at(1)?)?)])
}

fn lower_to_float(node: &Node, cx: &mut Lowering<'_>) -> Result<(), OpError> {
    let (a, b) = (source(node, 0)?, source(node, 1)?);
    let (a_points, b_points) = (Points::of(node, cx, 4)?, Points::of(node, cx, 5)?);
    let shapes = shapes(node, cx, 0, 1)?;
    product(cx, node, (a, a_points), (b, b_points), &shapes, |cx, channels| to_float(node, cx, channels))
}

fn infer_dynamic(_node: &Node, inputs: Inputs<'_>) -> Result<Vec<ValueInfo>, OpError> {
    let (a, b) = (inputs.at(0)?, inputs.at(1)?);
    if a.dtype != ElementType::F32 {
        return Err(OpError::invalid(format!("it quantizes {}", a.dtype)));
    }
    check_bytes(b)?;
    Ok(vec![ValueInfo::new(ElementType::F32, sizes(&a.shape, &b.shape)?.y)])
}

fn lower_dynamic(node: &Node, cx: &mut Lowering<'_>) -> Result<(), OpError> {
    let x = cx.input(node, 0)?;
    let (scale, point) = (cx.scratch(1), cx.scratch(1));
    dynamic::parameters(cx, &x, scale, point)?;
    let a = cx.scratch(Repr::U8x4.words(x.elements()));
    dynamic::quantize(cx, &x, scale, point, a)?;
    let a = Operand { arg: a, repr: Repr::U8x4, shape: x.shape.clone() };
    let a_points = Points::Bound(Operand { arg: point, repr: Repr::U8x4, shape: Vec::new() });
    let b_points = Points::of(node, cx, 3)?;
    let shapes = shapes(node, cx, 0, 1)?;
    product(cx, node, (Source::Made(a), a_points), (source(node, 1)?, b_points), &shapes, |cx, channels| {
        let a_scale = Operand { arg: scale, repr: Repr::F32, shape: Vec::new() };
        let (b_scale, bias) = (cx.input(node, 2)?, cx.optional_input(node, 4)?);
        floating(a_scale, Some(b_scale), bias, Epilogue::NONE, channels)
    })
}

fn source(node: &Node, at: usize) -> Result<Source, OpError> {
    node.input(at).map(Source::Value).ok_or_else(|| OpError::invalid(format!("input {at} is missing")))
}

fn shapes(node: &Node, cx: &Lowering<'_>, a: usize, b: usize) -> Result<Sizes, OpError> {
    let infos = cx.input_infos(node);
    let inputs = Inputs(&infos);
    sizes(&inputs.at(a)?.shape, &inputs.at(b)?.shape)
}

/// Packs both operands and launches their product.
fn product(
    cx: &mut Lowering<'_>,
    node: &Node,
    (a, a_points): (Source, Points),
    (b, b_points): (Source, Points),
    sizes: &Sizes,
    finish: impl FnOnce(&mut Lowering<'_>, usize) -> Result<Finish, OpError>,
) -> Result<(), OpError> {
    let &Sizes { m, n, k, .. } = sizes;
    a_points.check(m)?;
    b_points.check(n)?;
    let count = |batch: &[usize]| batch.iter().product::<usize>();
    let (count_a, count_b) = (count(&sizes.batch_a), count(&sizes.batch_b));
    let finish = finish(cx, n)?;
    let y = cx.output(node, 0)?;
    let a = pack::rows(cx, &a, (count_a * m, k), a_points)?;
    let b = pack::columns(cx, &b, (count_b, k, n), b_points)?;
    // Many matrices times one are one tall matrix times one.
    let (batch, m) = if count_b == 1 && count(&sizes.batch) == count_a && a.points.stride() == 0 {
        (Vec::new(), count_a * m)
    } else {
        let of_a = broadcast_strides(&sizes.batch_a, &sizes.batch);
        let of_b = broadcast_strides(&sizes.batch_b, &sizes.batch);
        let batch = |((&size, &a), &b): ((&usize, &usize), &usize)| Batch { size, a, b, channel: 0 };
        (sizes.batch.iter().zip(&of_a).zip(&of_b).map(batch).collect(), m)
    };
    Gemm { sizes: (m, n, k), a, b, batch, channels: Channels::Columns, finish, y: y.arg, repr: y.repr }.lower(cx)
}
