//! Gather, GatherElements, GatherND and Compress: elements by the numbers in another tensor.
//!
//! Indices that are known are checked while planning. Those that a request computes are checked by the kernel, see
//! [`super::index`].

use crate::error::OpError;
use crate::host::rearrange;
use crate::ir::{ElementType, Literal, Node};
use crate::lower::{Effort, KernelBuilder, Lowering, Params, element_groups, steps};
use crate::ops::movement::index::{check_alone, index_at, is_safe};
use crate::ops::movement::{given, on_host, product};
use crate::ops::rule::Rule;
use crate::shape::{axis, param, strides};
use crate::value_info::{Inputs, ValueInfo};

/// The operators of this family.
pub(crate) const RULES: &[Rule] = &[
    Rule::device("Gather", infer_gather, lower_gather).with_host(evaluate_gather),
    Rule::device("GatherElements", infer_elements, lower_elements).with_host(evaluate_elements),
    Rule::device("GatherND", infer_nd, lower_nd).with_host(evaluate_nd),
    Rule::device("Compress", infer_compress, lower_compress).with_host(evaluate_compress),
];

/// An index as ONNX counts, inside `0..n`.
pub(super) fn wrap(index: i64, n: usize) -> Result<usize, OpError> {
    let signed = i64::try_from(n).unwrap_or(i64::MAX);
    let at = if index < 0 { index.saturating_add(signed) } else { index };
    let outside = || OpError::invalid(format!("index {index} is outside a dimension of {n}"));
    usize::try_from(at).ok().filter(|&at| at < n).ok_or_else(outside)
}

/// Refuses indices that are no integers, or point into an empty dimension.
pub(super) fn check_indices(indices: &ValueInfo, n: usize) -> Result<(), OpError> {
    if !matches!(indices.dtype, ElementType::I64 | ElementType::I32) {
        return Err(OpError::invalid(format!("its indices are {}", indices.dtype)));
    }
    if n == 0 && indices.elements() > 0 {
        return Err(OpError::invalid("its indices point into an empty dimension"));
    }
    Ok(())
}

fn gather_axis(node: &Node, inputs: Inputs<'_>) -> Result<usize, OpError> {
    axis(node.attributes.int("axis", 0)?, inputs.at(0)?.rank())
}

pub(in crate::ops) fn infer_gather(node: &Node, inputs: Inputs<'_>) -> Result<Vec<ValueInfo>, OpError> {
    let (x, indices) = (inputs.at(0)?, inputs.at(1)?);
    let at = gather_axis(node, inputs)?;
    check_indices(indices, x.shape[at])?;
    if let Some(known) = &indices.known {
        known.to_i64s().into_iter().try_for_each(|index| wrap(index, x.shape[at]).map(|_inside| ()))?;
    }
    let shape = [&x.shape[..at], &indices.shape, &x.shape[at + 1..]].concat();
    Ok(vec![ValueInfo::new(x.dtype, shape)])
}

pub(in crate::ops) fn lower_gather(node: &Node, cx: &mut Lowering<'_>) -> Result<(), OpError> {
    let infos = cx.input_infos(node);
    let at = gather_axis(node, Inputs(&infos))?;
    let (x, indices, y) = (cx.input(node, 0)?, cx.input(node, 1)?, cx.output(node, 0)?);
    let safe = is_safe(cx, node, 1, &x.shape[at..=at]);
    if y.elements() == 0 && !safe && indices.elements() > 0 {
        return check_alone(cx, &indices, &x.shape[at..=at]);
    }
    let index = index_at(safe);
    let text = format!(
        "{index}\nfn element(i: u32) -> {} {{
    let inner = param.inner; let n = param.axis;
    let rest = i / inner;
    let index = index_at(rest % param.indices, n);
    return load_x(((rest / param.indices) * n + index) * inner + i % inner);
}}",
        y.repr.wgsl()
    );
    let kernel =
        KernelBuilder::new("gather").read("x", x.repr).read("indices", indices.repr).text(&text).element(y.repr);
    let elements = y.elements();
    let numbers = Params::sizes([
        ("elements", elements),
        ("inner", product(&x.shape[at + 1..])?),
        ("indices", indices.elements()),
        ("axis", x.shape[at]),
    ])?;
    let args = vec![x.arg, indices.arg, y.arg];
    cx.dispatch(kernel, args, numbers, element_groups(elements, y.repr), elements as u64);
    Ok(())
}

fn evaluate_gather(node: &Node, inputs: &[Option<&Literal>]) -> Result<Vec<Literal>, OpError> {
    let at = on_host(inputs, |inputs| gather_axis(node, inputs))?;
    let (x, indices) = (given(inputs, 0)?, given(inputs, 1)?);
    let n = x.shape()[at];
    let inner = product(&x.shape()[at + 1..])?;
    let numbers = indices.to_i64s();
    let shape = [&x.shape()[..at], indices.shape(), &x.shape()[at + 1..]].concat();
    let y = rearrange(x.dtype(), shape, &[x], |flat| {
        let rest = flat / inner;
        let index = wrap(numbers[rest % numbers.len()], n)?;
        Ok(Some((0, ((rest / numbers.len()) * n + index) * inner + flat % inner)))
    })?;
    Ok(vec![y])
}

/// The axis along which single elements are gathered or scattered, after looking that the indices lie inside the rest.
pub(super) fn element_axis(node: &Node, x: &ValueInfo, indices: &ValueInfo) -> Result<usize, OpError> {
    let at = axis(node.attributes.int("axis", 0)?, x.rank())?;
    let inside = indices.rank() == x.rank() && (0..x.rank()).all(|d| d == at || indices.shape[d] <= x.shape[d]);
    if !inside {
        return Err(OpError::invalid(format!("indices of shape {:?} for data of {:?}", indices.shape, x.shape)));
    }
    check_indices(indices, x.shape[at])?;
    Ok(at)
}

fn infer_elements(node: &Node, inputs: Inputs<'_>) -> Result<Vec<ValueInfo>, OpError> {
    let (x, indices) = (inputs.at(0)?, inputs.at(1)?);
    element_axis(node, x, indices)?;
    Ok(vec![ValueInfo::new(x.dtype, indices.shape.clone())])
}

fn lower_elements(node: &Node, cx: &mut Lowering<'_>) -> Result<(), OpError> {
    let infos = cx.input_infos(node);
    let at = element_axis(node, Inputs(&infos).at(0)?, Inputs(&infos).at(1)?)?;
    let (x, indices, y) = (cx.input(node, 0)?, cx.input(node, 1)?, cx.output(node, 0)?);
    let safe = is_safe(cx, node, 1, &x.shape[at..=at]);
    let rank = y.shape.len();
    let mut text =
        format!("{}\nfn element(i: u32) -> {} {{\n    var rest = i; var at = 0u;\n", index_at(safe), y.repr.wgsl());
    for d in 0..rank {
        let own = format!("param.stride[{d}]");
        let coordinate = if d == at { "index_at(i, param.length)".to_owned() } else { format!("rest / {own}") };
        text.push_str(&format!("    at += ({coordinate}) * param.step[{d}]; rest = rest % {own};\n"));
    }
    text.push_str("    return load_x(at);\n}");
    let kernel = KernelBuilder::new("gather_elements")
        .read("x", x.repr)
        .read("indices", indices.repr)
        .text(&text)
        .element(y.repr);
    let elements = y.elements();
    let numbers = Params::sizes([("elements", elements), ("length", x.shape[at])])?;
    let numbers = numbers.list("stride", &strides(&y.shape))?.list("step", &strides(&x.shape))?;
    let args = vec![x.arg, indices.arg, y.arg];
    cx.dispatch(kernel, args, numbers, element_groups(elements, y.repr), elements as u64);
    Ok(())
}

fn evaluate_elements(node: &Node, inputs: &[Option<&Literal>]) -> Result<Vec<Literal>, OpError> {
    let at = on_host(inputs, |inputs| element_axis(node, inputs.at(0)?, inputs.at(1)?))?;
    let (x, indices) = (given(inputs, 0)?, given(inputs, 1)?);
    let numbers = indices.to_i64s();
    let (own, steps) = (strides(indices.shape()), strides(x.shape()));
    let y = rearrange(x.dtype(), indices.shape().to_vec(), &[x], |flat| {
        let (mut rest, mut from) = (flat, 0);
        for d in 0..own.len() {
            let coordinate = if d == at { wrap(numbers[flat], x.shape()[at])? } else { rest / own[d] };
            from += coordinate * steps[d];
            rest %= own[d];
        }
        Ok(Some((0, from)))
    })?;
    Ok(vec![y])
}

/// Addressing of slices of a tensor by tuples of indices.
#[derive(Debug, Clone)]
pub(super) struct Tuples {
    /// Leading dimensions that data and indices share.
    pub(super) batch: usize,
    /// Numbers in a tuple.
    pub(super) length: usize,
    /// Tuples in each batch.
    pub(super) per_batch: usize,
    /// Elements of the data in each batch.
    pub(super) batch_elements: usize,
    /// Elements of the slice that a tuple addresses.
    pub(super) slice: usize,
}

impl Tuples {
    /// Reads the form from the shapes.
    pub(super) fn of(x: &ValueInfo, indices: &ValueInfo, batch: i64) -> Result<Self, OpError> {
        let invalid = || {
            let (x, indices) = (&x.shape, &indices.shape);
            OpError::invalid(format!(
                "index tuples of shape {indices:?} for data of {x:?} with {batch} batch dimensions"
            ))
        };
        let batch = usize::try_from(batch).map_err(|_negative| invalid())?;
        let (&length, outer) = indices.shape.split_last().ok_or_else(invalid)?;
        let fits = batch <= outer.len()
            && batch + length <= x.rank()
            && x.shape[..batch] == indices.shape[..batch]
            && length > 0;
        if !fits {
            return Err(invalid());
        }
        let addressed = &x.shape[batch..batch + length];
        check_indices(indices, addressed.iter().copied().min().unwrap_or(1))?;
        Ok(Self {
            batch,
            length,
            per_batch: product(&outer[batch..])?,
            batch_elements: product(&x.shape[batch..])?,
            slice: product(&x.shape[batch + length..])?,
        })
    }

    /// Sizes and strides of the addressed dimensions.
    pub(super) fn addressed(&self, shape: &[usize]) -> (Vec<usize>, Vec<usize>) {
        let range = self.batch..self.batch + self.length;
        (shape[range.clone()].to_vec(), strides(shape)[range].to_vec())
    }

    /// First element, within its batch, of the slice that a tuple addresses.
    pub(super) fn begin(tuple: &[i64], sizes: &[usize], steps: &[usize]) -> Result<usize, OpError> {
        let places = tuple.iter().zip(sizes.iter().zip(steps));
        places.map(|(&index, (&n, step))| Ok(wrap(index, n)? * step)).sum()
    }
}

fn nd_shape(x: &ValueInfo, indices: &ValueInfo, tuples: &Tuples) -> Vec<usize> {
    let outer = indices.rank().saturating_sub(1);
    [&indices.shape[..outer], &x.shape[tuples.batch + tuples.length..]].concat()
}

fn infer_nd(node: &Node, inputs: Inputs<'_>) -> Result<Vec<ValueInfo>, OpError> {
    let (x, indices) = (inputs.at(0)?, inputs.at(1)?);
    let tuples = Tuples::of(x, indices, node.attributes.int("batch_dims", 0)?)?;
    Ok(vec![ValueInfo::new(x.dtype, nd_shape(x, indices, &tuples))])
}

fn lower_nd(node: &Node, cx: &mut Lowering<'_>) -> Result<(), OpError> {
    let infos = cx.input_infos(node);
    let batch = node.attributes.int("batch_dims", 0)?;
    let tuples = Tuples::of(Inputs(&infos).at(0)?, Inputs(&infos).at(1)?, batch)?;
    let (x, indices, y) = (cx.input(node, 0)?, cx.input(node, 1)?, cx.output(node, 0)?);
    let (sizes, addressed) = tuples.addressed(&x.shape);
    let safe = is_safe(cx, node, 1, &sizes);
    if y.elements() == 0 && !safe && indices.elements() > 0 {
        return check_alone(cx, &indices, &sizes);
    }
    let index = index_at(safe);
    let length = tuples.length;
    let parts: String = (0..length)
        .map(|k| format!("    at += index_at(tuple * {length}u + {k}u, param.size[{k}]) * param.step[{k}];\n"))
        .collect();
    let text = format!(
        "{index}\nfn element(i: u32) -> {} {{
    let tuple = i / param.slice;
    var at = (tuple / param.tuples) * param.batch + i % param.slice;
{parts}    return load_x(at);
}}",
        y.repr.wgsl()
    );
    let kernel =
        KernelBuilder::new("gather_nd").read("x", x.repr).read("indices", indices.repr).text(&text).element(y.repr);
    let elements = y.elements();
    let numbers = Params::sizes([
        ("elements", elements),
        ("slice", tuples.slice),
        ("tuples", tuples.per_batch),
        ("batch", tuples.batch_elements),
    ])?;
    let numbers = numbers.list("size", &sizes)?.list("step", &addressed)?;
    let args = vec![x.arg, indices.arg, y.arg];
    cx.dispatch(kernel, args, numbers, element_groups(elements, y.repr), elements as u64);
    Ok(())
}

fn evaluate_nd(node: &Node, inputs: &[Option<&Literal>]) -> Result<Vec<Literal>, OpError> {
    let batch = node.attributes.int("batch_dims", 0)?;
    let (tuples, shape) = on_host(inputs, |inputs| {
        let (x, indices) = (inputs.at(0)?, inputs.at(1)?);
        let tuples = Tuples::of(x, indices, batch)?;
        let shape = nd_shape(x, indices, &tuples);
        Ok::<_, OpError>((tuples, shape))
    })?;
    let x = given(inputs, 0)?;
    let numbers = given(inputs, 1)?.to_i64s();
    let (sizes, steps) = tuples.addressed(x.shape());
    let y = rearrange(x.dtype(), shape, &[x], |flat| {
        let tuple = flat / tuples.slice;
        let begin = Tuples::begin(&numbers[tuple * tuples.length..][..tuples.length], &sizes, &steps)?;
        Ok(Some((0, (tuple / tuples.per_batch) * tuples.batch_elements + begin + flat % tuples.slice)))
    })?;
    Ok(vec![y])
}

/// The axis (`None` for the flattened tensor), its size, and the places along it that the condition picks.
fn picked(node: &Node, inputs: Inputs<'_>) -> Result<(Option<usize>, Vec<usize>), OpError> {
    let x = inputs.at(0)?;
    let condition = inputs.known(1)?;
    let at = node.attributes.optional_int("axis")?.map(|at| axis(at, x.rank())).transpose()?;
    let n = at.map_or_else(|| product(&x.shape), |at| Ok(x.shape[at]))?;
    if condition.elements() > n {
        return Err(OpError::invalid(format!("{} conditions for {n} elements", condition.elements())));
    }
    let flags = condition.to_i64s().into_iter().enumerate();
    Ok((at, flags.filter(|&(_at, flag)| flag != 0).map(|(at, _flag)| at).collect()))
}

/// The shape of what is picked, elements behind the axis, and its size.
fn compressed(x: &[usize], at: Option<usize>, picks: usize) -> Result<(Vec<usize>, usize, usize), OpError> {
    let Some(at) = at else { return Ok((vec![picks], 1, product(x)?)) };
    let mut shape = x.to_vec();
    shape[at] = picks;
    Ok((shape, product(&x[at + 1..])?, x[at]))
}

fn infer_compress(node: &Node, inputs: Inputs<'_>) -> Result<Vec<ValueInfo>, OpError> {
    let x = inputs.at(0)?;
    let (at, picks) = picked(node, inputs)?;
    Ok(vec![ValueInfo::new(x.dtype, compressed(&x.shape, at, picks.len())?.0)])
}

fn lower_compress(node: &Node, cx: &mut Lowering<'_>) -> Result<(), OpError> {
    let infos = cx.input_infos(node);
    let (at, picks) = picked(node, Inputs(&infos))?;
    let (x, condition, y) = (cx.input(node, 0)?, cx.input(node, 1)?, cx.output(node, 0)?);
    let (_shape, inner, n) = compressed(&x.shape, at, picks.len())?;
    // The condition is short and the same for all: each thread counts its own way through it.
    let look = "if (load_condition(k) != 0) { if (seen == wanted) { index = k; } seen++; }";
    let (walk, rounds) = steps("k", "param.conditions", condition.elements(), look);
    let text = format!(
        "fn element(i: u32) -> {} {{
    let inner = param.inner; let rest = i / inner;
    let wanted = rest % param.picks;
    var seen = 0u; var index = 0u;
{walk}    return load_x(((rest / param.picks) * param.length + index) * inner + i % inner);
}}",
        y.repr.wgsl()
    );
    let kernel =
        KernelBuilder::new("compress").read("x", x.repr).read("condition", condition.repr).text(&text).element(y.repr);
    let elements = y.elements();
    let numbers = Params::sizes([
        ("elements", elements),
        ("inner", inner),
        ("length", n),
        ("picks", picks.len()),
        ("conditions", condition.elements()),
    ])?;
    let work = elements as u64 * u64::from(param(condition.elements())?);
    let effort = Effort::looping(work, rounds);
    cx.dispatch(kernel, vec![x.arg, condition.arg, y.arg], numbers, element_groups(elements, y.repr), effort);
    Ok(())
}

fn evaluate_compress(node: &Node, inputs: &[Option<&Literal>]) -> Result<Vec<Literal>, OpError> {
    let (at, picks) = on_host(inputs, |inputs| picked(node, inputs))?;
    let x = given(inputs, 0)?;
    let (shape, inner, n) = compressed(x.shape(), at, picks.len())?;
    let y = rearrange(x.dtype(), shape, &[x], |flat| {
        let rest = flat / inner;
        Ok(Some((0, ((rest / picks.len()) * n + picks[rest % picks.len()]) * inner + flat % inner)))
    })?;
    Ok(vec![y])
}
