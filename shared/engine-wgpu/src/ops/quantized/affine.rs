//! `QuantizeLinear` and `DequantizeLinear`: per tensor, per axis and in blocks, between floats and 4- to 32-bit integers.

use super::{given, limits};
use crate::error::OpError;
use crate::ir::{ElementType, Literal, Node};
use crate::lower::{KernelBuilder, Lowering, Params, Repr, element_groups};
use crate::ops::rule::Rule;
use crate::shape::axis;
use crate::value_info::{Inputs, ValueInfo};

/// The operators of this room.
pub(in crate::ops) const RULES: &[Rule] = &[
    Rule::device("QuantizeLinear", infer_quantize, lower_quantize).with_host(host_quantize),
    Rule::device("DequantizeLinear", infer_dequantize, lower_dequantize).with_host(host_dequantize),
    Rule::device("QuantizeLinear", infer_quantize, lower_quantize).with_host(host_quantize).in_domain(super::MICROSOFT),
    Rule::device("DequantizeLinear", infer_dequantize, lower_dequantize)
        .with_host(host_dequantize)
        .in_domain(super::MICROSOFT),
];

/// Which scale belongs to which element.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Granularity {
    /// One scale for the tensor.
    Tensor,
    /// One for each index along an axis of that size, with so many elements behind each index.
    Axis { size: usize, inner: usize },
    /// One for each block of so many indices along the axis, at each place of the other axes.
    Blocks { size: usize, inner: usize, block: usize, blocks: usize },
}

impl Granularity {
    fn of(node: &Node, x: &[usize], scale: &[usize]) -> Result<Self, OpError> {
        let block = node.attributes.int("block_size", 0)?;
        if scale.is_empty() || (scale == [1] && block == 0) {
            return Ok(Self::Tensor);
        }
        let at = axis(node.attributes.int("axis", 1)?, x.len())?;
        let (size, inner) = (x[at], x[at + 1..].iter().product());
        if block == 0 {
            if scale != [size] {
                return Err(OpError::invalid(format!("{scale:?} scales for an axis of {size}")));
            }
            return Ok(Self::Axis { size, inner });
        }
        let block = usize::try_from(block).map_err(|_negative| OpError::invalid("its block size is negative"))?;
        let blocks = size.div_ceil(block);
        let mut expected = x.to_vec();
        expected[at] = blocks;
        if scale != expected {
            return Err(OpError::invalid(format!(
                "scales of shape {scale:?} where blocks of {block} need {expected:?}"
            )));
        }
        Ok(Self::Blocks { size, inner, block, blocks })
    }

    /// Returns the position of the scale of element `i`.
    fn index(self, i: usize) -> usize {
        match self {
            Self::Tensor => 0,
            Self::Axis { size, inner } => i / inner % size,
            Self::Blocks { size, inner, block, blocks } => {
                (i / (size * inner) * blocks + i / inner % size / block) * inner + i % inner
            }
        }
    }

    /// `fn scale_of(i: u32) -> u32` over the params of [`Self::params`].
    const fn text(self) -> &'static str {
        match self {
            Self::Tensor => "fn scale_of(i: u32) -> u32 { return 0u; }",
            Self::Axis { .. } => "fn scale_of(i: u32) -> u32 { return (i / param.inner) % param.size; }",
            Self::Blocks { .. } => {
                "fn scale_of(i: u32) -> u32 {
    let size = param.size; let inner = param.inner;
    return (i / (size * inner) * param.blocks + (i / inner) % size / param.block) * inner + i % inner;
}"
            }
        }
    }

    fn params(self, elements: usize) -> Result<Params, OpError> {
        match self {
            Self::Tensor => Params::sizes([("elements", elements)]),
            Self::Axis { size, inner } => Params::sizes([("elements", elements), ("size", size), ("inner", inner)]),
            Self::Blocks { size, inner, block, blocks } => {
                let sizes = [("size", size), ("inner", inner), ("block", block), ("blocks", blocks)];
                Params::sizes(sizes)?.size("elements", elements)
            }
        }
    }
}

fn granularity(node: &Node, inputs: Inputs<'_>) -> Result<Granularity, OpError> {
    let (x, scale) = (inputs.at(0)?, inputs.at(1)?);
    if !scale.dtype.is_float() {
        return Err(OpError::unsupported(format!("a scale of {}", scale.dtype)));
    }
    if let Some(points) = inputs.optional(2)
        && points.elements() != scale.elements()
    {
        return Err(OpError::invalid(format!("scales {:?} and zero points {:?}", scale.shape, points.shape)));
    }
    Granularity::of(node, &x.shape, &scale.shape)
}

/// The type that an attribute like `output_dtype` names; `None` for 0.
fn named_type(node: &Node) -> Result<Option<ElementType>, OpError> {
    let number = node.attributes.int("output_dtype", 0)?;
    if number == 0 {
        return Ok(None);
    }
    let known = i32::try_from(number).ok().and_then(ElementType::from_onnx);
    known.map(Some).ok_or_else(|| OpError::unsupported(format!("output_dtype {number}")))
}

fn quantized_type(node: &Node, points: Option<ElementType>) -> Result<ElementType, OpError> {
    let dtype = match points {
        Some(dtype) => dtype,
        None => named_type(node)?.unwrap_or(ElementType::U8),
    };
    limits(dtype).map(|_fits| dtype)
}

fn infer_quantize(node: &Node, inputs: Inputs<'_>) -> Result<Vec<ValueInfo>, OpError> {
    granularity(node, inputs)?;
    let x = inputs.at(0)?;
    if !x.dtype.is_float() && x.dtype != ElementType::I32 {
        return Err(OpError::invalid(format!("it quantizes {}", x.dtype)));
    }
    let dtype = quantized_type(node, inputs.optional(2).map(|info| info.dtype))?;
    Ok(vec![ValueInfo::new(dtype, x.shape.clone())])
}

fn lower_quantize(node: &Node, cx: &mut Lowering<'_>) -> Result<(), OpError> {
    let infos = cx.input_infos(node);
    let granularity = granularity(node, Inputs(&infos))?;
    let (x, scale, points) = (cx.input(node, 0)?, cx.input(node, 1)?, cx.optional_input(node, 2)?);
    let y = cx.output(node, 0)?;
    let dtype = quantized_type(node, infos.get(2).copied().flatten().map(|info| info.dtype))?;
    let (low, high) = limits(dtype)?;
    let mut kernel = KernelBuilder::new("quantize").read("x", x.repr).read("scale", scale.repr);
    let mut args = vec![x.arg, scale.arg];
    let mut point = "0.0";
    if let Some(points) = points {
        kernel = kernel.read("points", points.repr);
        args.push(points.arg);
        point = "f32(load_points(k))";
    }
    args.push(y.arg);
    let wgsl = y.repr.wgsl();
    let kernel = kernel.text(granularity.text()).text(&format!(
        "fn element(i: u32) -> {wgsl} {{
    let k = scale_of(i);
    let q = round(f32(load_x(i)) / load_scale(k)) + {point};
    return {wgsl}(clamp(q, {low}.0, {high}.0));
}}"
    ));
    let elements = y.elements();
    cx.dispatch(
        kernel.element(y.repr),
        args,
        granularity.params(elements)?,
        element_groups(elements, y.repr),
        elements as u64,
    );
    Ok(())
}

#[expect(clippy::cast_possible_truncation, reason = "clamped to 16 bits before")]
fn host_quantize(node: &Node, inputs: &[Option<&Literal>]) -> Result<Vec<Literal>, OpError> {
    let (x, scale) = (given(inputs, 0)?, given(inputs, 1)?);
    let points = inputs.get(2).copied().flatten();
    let granularity = Granularity::of(node, x.shape(), scale.shape())?;
    let dtype = quantized_type(node, points.map(Literal::dtype))?;
    let (low, high) = limits(dtype)?;
    let scales = scale.to_f32s();
    let points = points.map(Literal::to_f32s);
    let quantize = |(i, x): (usize, f32)| {
        let k = granularity.index(i);
        let point = points.as_ref().map_or(0.0, |points| points[k]);
        let q = f64::from((x / scales[k]).round_ties_even() + point);
        q.max(f64::from(low)).min(f64::from(high)) as i64
    };
    let values: Vec<i64> = x.to_f32s().into_iter().enumerate().map(quantize).collect();
    Ok(vec![Literal::from_i64s(dtype, x.shape().to_vec(), &values)])
}

fn infer_dequantize(node: &Node, inputs: Inputs<'_>) -> Result<Vec<ValueInfo>, OpError> {
    granularity(node, inputs)?;
    let (x, scale) = (inputs.at(0)?, inputs.at(1)?);
    if x.dtype != ElementType::I32 {
        limits(x.dtype)?;
    }
    let dtype = named_type(node)?.unwrap_or(scale.dtype);
    Ok(vec![ValueInfo::new(dtype, x.shape.clone())])
}

fn lower_dequantize(node: &Node, cx: &mut Lowering<'_>) -> Result<(), OpError> {
    let infos = cx.input_infos(node);
    let granularity = granularity(node, Inputs(&infos))?;
    let (x, scale, points) = (cx.input(node, 0)?, cx.input(node, 1)?, cx.optional_input(node, 2)?);
    let y = cx.output(node, 0)?;
    let mut kernel = KernelBuilder::new("dequantize").read("x", x.repr).read("scale", scale.repr);
    let mut args = vec![x.arg, scale.arg];
    let mut point = "0";
    if let Some(points) = points {
        kernel = kernel.read("points", points.repr);
        args.push(points.arg);
        point = "i32(load_points(k))";
    }
    args.push(y.arg);
    let kernel = kernel.text(granularity.text()).text(&format!(
        "fn element(i: u32) -> f32 {{ let k = scale_of(i); return f32(i32(load_x(i)) - {point}) * load_scale(k); }}"
    ));
    let elements = y.elements();
    cx.dispatch(
        kernel.element(Repr::F32),
        args,
        granularity.params(elements)?,
        element_groups(elements, y.repr),
        elements as u64,
    );
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "rounding to f32 is what the operator does")]
fn host_dequantize(node: &Node, inputs: &[Option<&Literal>]) -> Result<Vec<Literal>, OpError> {
    let (x, scale) = (given(inputs, 0)?, given(inputs, 1)?);
    let granularity = Granularity::of(node, x.shape(), scale.shape())?;
    let dtype = named_type(node)?.unwrap_or(scale.dtype());
    let scales = scale.to_f32s();
    let points = inputs.get(2).copied().flatten().map(Literal::to_i64s);
    let dequantize = |(i, x): (usize, i64)| {
        let k = granularity.index(i);
        let point = points.as_ref().map_or(0, |points| points[k]);
        f64::from((x - point) as f32 * scales[k])
    };
    let values: Vec<f64> = x.to_i64s().into_iter().enumerate().map(dequantize).collect();
    Ok(vec![Literal::from_f64s(dtype, x.shape().to_vec(), &values)])
}
