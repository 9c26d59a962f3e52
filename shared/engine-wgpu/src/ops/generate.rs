//! Operators that need no request: shapes as values, constants, ranges.

use crate::error::OpError;
use crate::fault::Fault;
use crate::ir::{Attribute, ElementType, Literal, Node};
use crate::lower::{KernelBuilder, Lowering, Params, element_groups};
use crate::ops::elementwise::checked;
use crate::ops::movement::{fill, given, integers, on_host, product, size};
use crate::ops::rule::Rule;
use crate::value_info::{Inputs, Range, ValueInfo};

/// The operators of this family.
pub(super) const RULES: &[Rule] = &[
    Rule::host("Shape", infer_shape, |n, i| infos_known(n, i, infer_shape)),
    Rule::host("Size", infer_size, |n, i| infos_known(n, i, infer_size)),
    Rule::host("Constant", infer_constant, |n, i| infos_known(n, i, infer_constant)),
    Rule::device("ConstantOfShape", infer_filled, lower_filled).with_host(evaluate_filled),
    Rule::device("Range", infer_range, lower_range).with_host(evaluate_range),
    Rule::device("EyeLike", infer_eye, lower_eye).with_host(evaluate_eye),
];

/// For operators whose inference already gives the value.
fn infos_known(
    node: &Node,
    inputs: &[Option<&Literal>],
    infer: crate::ops::rule::Infer,
) -> Result<Vec<Literal>, OpError> {
    let infos = on_host(inputs, |inputs| infer(node, inputs))?;
    Ok(infos.into_iter().filter_map(|info| info.known).collect())
}

fn infer_shape(node: &Node, inputs: Inputs<'_>) -> Result<Vec<ValueInfo>, OpError> {
    let shape = &inputs.at(0)?.shape;
    let rank = i64::try_from(shape.len()).unwrap_or(i64::MAX);
    let from_end = |at: i64| if at < 0 { at.saturating_add(rank) } else { at }.clamp(0, rank);
    let place = |at: i64| usize::try_from(from_end(at)).unwrap_or(0);
    let (start, end) = (place(node.attributes.int("start", 0)?), place(node.attributes.int("end", rank)?));
    let sizes = shape.get(start..end).unwrap_or_default().iter();
    let sizes: Vec<i64> = sizes.map(|&size| i64::try_from(size).unwrap_or(i64::MAX)).collect();
    Ok(vec![ValueInfo::known(Literal::i64_vector(&sizes))])
}

fn infer_size(_node: &Node, inputs: Inputs<'_>) -> Result<Vec<ValueInfo>, OpError> {
    let elements = i64::try_from(product(&inputs.at(0)?.shape)?).unwrap_or(i64::MAX);
    Ok(vec![ValueInfo::known(Literal::from_i64s(ElementType::I64, Vec::new(), &[elements]))])
}

fn infer_constant(node: &Node, _inputs: Inputs<'_>) -> Result<Vec<ValueInfo>, OpError> {
    let stated = ["value", "value_float", "value_int", "value_floats", "value_ints"];
    let found = stated.iter().find_map(|name| node.attributes.find(name));
    let literal = match found {
        Some(Attribute::Tensor(literal)) => literal.clone(),
        Some(Attribute::Float(value)) => Literal::from_f32s(Vec::new(), &[*value]),
        Some(Attribute::Int(value)) => Literal::from_i64s(ElementType::I64, Vec::new(), &[*value]),
        Some(Attribute::Floats(values)) => Literal::from_f32s(vec![values.len()], values),
        Some(Attribute::Ints(values)) => Literal::i64_vector(values),
        Some(Attribute::Text(_) | Attribute::Texts(_) | Attribute::Graph(_)) | None => {
            return Err(OpError::unsupported("its value is text, sparse or missing"));
        }
    };
    Ok(vec![ValueInfo::known(literal)])
}

/// The value that fills a tensor: one element, zero as `float32` unless stated.
fn filling(node: &Node) -> Result<Literal, OpError> {
    match node.attributes.find("value") {
        None => Ok(Literal::from_f32s(vec![1], &[0.0])),
        Some(Attribute::Tensor(value)) if value.elements() == 1 => Ok(value.clone()),
        Some(_) => Err(OpError::invalid("its value is not one element")),
    }
}

fn infer_filled(node: &Node, inputs: Inputs<'_>) -> Result<Vec<ValueInfo>, OpError> {
    let shape: Vec<usize> = integers(inputs, 0)?.into_iter().map(size).collect::<Result<_, _>>()?;
    Ok(vec![ValueInfo::new(filling(node)?.dtype(), shape)])
}

fn lower_filled(node: &Node, cx: &mut Lowering<'_>) -> Result<(), OpError> {
    let words = crate::lower::to_words(&filling(node)?)?;
    let bits = words.first().copied().unwrap_or(0);
    node.output(0).map_or(Ok(()), |to| fill(cx, to, bits))
}

fn evaluate_filled(node: &Node, inputs: &[Option<&Literal>]) -> Result<Vec<Literal>, OpError> {
    let infos = on_host(inputs, |inputs| infer_filled(node, inputs))?;
    let value = filling(node)?;
    let fill = |info: ValueInfo| crate::host::rearrange(info.dtype, info.shape, &[&value], |_flat| Ok(Some((0, 0))));
    infos.into_iter().map(fill).collect()
}

/// First value, step and number of values, exact for integers and in `f64` for floats.
enum Progression {
    Integers(i64, i64, usize),
    Floats(f64, f64, usize),
}

fn progression(inputs: Inputs<'_>) -> Result<(ElementType, Progression), OpError> {
    let [start, limit, delta] = [inputs.known(0)?, inputs.known(1)?, inputs.known(2)?];
    if [start, limit, delta].iter().any(|literal| literal.elements() != 1) {
        return Err(OpError::invalid("its start, limit and delta are not one number each"));
    }
    let dtype = start.dtype();
    if limit.dtype() != dtype || delta.dtype() != dtype {
        return Err(OpError::invalid("its start, limit and delta differ in type"));
    }
    if dtype.is_float() {
        let [start, limit, delta] = [start, limit, delta].map(|literal| literal.to_f64s()[0]);
        let count = ((limit - start) / delta).ceil().max(0.0);
        // Saturates, and a NaN is no values; the size check behind inference refuses what is too many.
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "`as` saturates")]
        let count = count as usize;
        return Ok((dtype, Progression::Floats(start, delta, count)));
    }
    let [start, limit, delta] = [start, limit, delta].map(|literal| literal.to_i64s()[0]);
    if delta == 0 {
        return Err(OpError::invalid("its delta is zero"));
    }
    let (span, step) = (i128::from(limit) - i128::from(start), i128::from(delta));
    let count = if (span > 0) == (step > 0) { (span.abs() + step.abs() - 1) / step.abs() } else { 0 };
    let count = usize::try_from(count).map_err(|_wide| OpError::TooLarge(vec![usize::MAX]))?;
    Ok((dtype, Progression::Integers(start, delta, count)))
}

impl Progression {
    const fn count(&self) -> usize {
        match self {
            Self::Integers(.., count) | Self::Floats(.., count) => *count,
        }
    }
}

fn infer_range(_node: &Node, inputs: Inputs<'_>) -> Result<Vec<ValueInfo>, OpError> {
    let (dtype, progression) = progression(inputs)?;
    Ok(vec![ValueInfo::new(dtype, vec![progression.count()])])
}

fn lower_range(node: &Node, cx: &mut Lowering<'_>) -> Result<(), OpError> {
    let infos = cx.input_infos(node);
    if let (dtype, Progression::Integers(start, delta, count)) = progression(Inputs(&infos))?
        && checked::is_wide(dtype)
    {
        let steps = i64::try_from(count.saturating_sub(1)).unwrap_or(i64::MAX);
        let last = delta.saturating_mul(steps).saturating_add(start);
        if !Range::new(last, last).within(Range::of_type(dtype)) {
            return Err(OpError::Fault(Fault::Overflow));
        }
    }
    let (start, delta, y) = (cx.input(node, 0)?, cx.input(node, 2)?, cx.output(node, 0)?);
    let wgsl = y.repr.wgsl();
    let kernel = KernelBuilder::new("range")
        .read("start", start.repr)
        .read("delta", delta.repr)
        .text(&format!("fn element(i: u32) -> {wgsl} {{ return load_start(0u) + {wgsl}(i) * load_delta(0u); }}"))
        .element(y.repr);
    let elements = y.elements();
    let groups = element_groups(elements, y.repr);
    cx.dispatch(
        kernel,
        vec![start.arg, delta.arg, y.arg],
        Params::sizes([("elements", elements)])?,
        groups,
        elements as u64,
    );
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "a host range is far shorter than 2^53")]
fn evaluate_range(_node: &Node, inputs: &[Option<&Literal>]) -> Result<Vec<Literal>, OpError> {
    let (dtype, progression) = on_host(inputs, progression)?;
    let shape = vec![progression.count()];
    Ok(vec![match progression {
        Progression::Integers(start, delta, count) => {
            let steps = std::iter::successors(Some(start), |value| Some(value.wrapping_add(delta)));
            let values: Vec<i64> = steps.take(count).collect();
            Literal::from_i64s(dtype, shape, &values)
        }
        Progression::Floats(start, delta, count) => {
            let values: Vec<f64> = (0..count).map(|step| start + step as f64 * delta).collect();
            Literal::from_f64s(dtype, shape, &values)
        }
    }])
}

/// Type and shape of the output, and which diagonal holds ones.
fn eye(node: &Node, inputs: Inputs<'_>) -> Result<(ValueInfo, i64), OpError> {
    let x = inputs.at(0)?;
    let dtype = match node.attributes.optional_int("dtype")? {
        None => x.dtype,
        Some(number) => i32::try_from(number)
            .ok()
            .and_then(ElementType::from_onnx)
            .ok_or_else(|| OpError::unsupported(format!("element type {number}, which this engine does not know")))?,
    };
    if x.rank() != 2 {
        return Err(OpError::invalid(format!("shape {:?} is no matrix", x.shape)));
    }
    Ok((ValueInfo::new(dtype, x.shape.clone()), node.attributes.int("k", 0)?))
}

fn infer_eye(node: &Node, inputs: Inputs<'_>) -> Result<Vec<ValueInfo>, OpError> {
    Ok(vec![eye(node, inputs)?.0])
}

fn lower_eye(node: &Node, cx: &mut Lowering<'_>) -> Result<(), OpError> {
    let infos = cx.input_infos(node);
    let (_fact, k) = eye(node, Inputs(&infos))?;
    let y = cx.output(node, 0)?;
    let [_rows, columns] = y.shape[..] else { return Err(OpError::invalid("its output is no matrix")) };
    let wgsl = y.repr.wgsl();
    // Beyond the matrix every diagonal is the same: empty.
    let k = i32::try_from(k.clamp(-(1 << 30), 1 << 30)).unwrap_or(0);
    let kernel = KernelBuilder::new("eye_like")
        .text(&format!(
            "fn element(i: u32) -> {wgsl} {{
    return {wgsl}(select(0u, 1u, i32(i % param.columns) - i32(i / param.columns) == i32(param.diagonal)));
}}"
        ))
        .element(y.repr);
    let elements = y.elements();
    let numbers = Params::sizes([("elements", elements), ("columns", columns)])?.signed("diagonal", k);
    cx.dispatch(kernel, vec![y.arg], numbers, element_groups(elements, y.repr), elements as u64);
    Ok(())
}

fn evaluate_eye(node: &Node, inputs: &[Option<&Literal>]) -> Result<Vec<Literal>, OpError> {
    let (info, k) = on_host(inputs, |inputs| eye(node, inputs))?;
    let columns = given(inputs, 0)?.shape().get(1).copied().unwrap_or(1).max(1);
    let signed = |value: usize| i64::try_from(value).unwrap_or(i64::MAX);
    let one = |at: usize| i64::from(signed(at % columns) - signed(at / columns) == k);
    let values: Vec<i64> = (0..info.elements()).map(one).collect();
    Ok(vec![Literal::from_i64s(info.dtype, info.shape, &values)])
}
