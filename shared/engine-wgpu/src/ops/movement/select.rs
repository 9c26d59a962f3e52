//! Operators that keep, mirror or mark elements by their place: Trilu, ReverseSequence, OneHot.

use crate::error::OpError;
use crate::fault::Fault;
use crate::host::rearrange;
use crate::ir::{Literal, Node};
use crate::lower::{KernelBuilder, Lowering, Params, element_groups};
use crate::ops::movement::{given, on_host, product};
use crate::ops::rule::Rule;
use crate::shape::{axis, strides};
use crate::value_info::{Inputs, Range, ValueInfo};

/// The operators of this family.
pub(crate) const RULES: &[Rule] = &[
    Rule::device("Trilu", infer_trilu, lower_trilu).with_host(evaluate_trilu),
    Rule::device("ReverseSequence", infer_reverse, lower_reverse).with_host(evaluate_reverse),
    Rule::device("OneHot", infer_hot, lower_hot).with_host(evaluate_hot),
];

/// Rows and columns of the matrices that a tensor holds.
fn matrices(shape: &[usize]) -> Result<(usize, usize), OpError> {
    match shape {
        [.., rows, columns] => Ok((*rows, *columns)),
        _ => Err(OpError::invalid(format!("shape {shape:?} holds no matrices"))),
    }
}

fn infer_trilu(_node: &Node, inputs: Inputs<'_>) -> Result<Vec<ValueInfo>, OpError> {
    let x = inputs.at(0)?;
    matrices(&x.shape)?;
    if inputs.optional(1).is_some_and(|k| k.elements() != 1) {
        return Err(OpError::invalid("its k is not one number"));
    }
    Ok(vec![ValueInfo::new(x.dtype, x.shape.clone())])
}

fn lower_trilu(node: &Node, cx: &mut Lowering<'_>) -> Result<(), OpError> {
    let (x, k, y) = (cx.input(node, 0)?, cx.optional_input(node, 1)?, cx.output(node, 0)?);
    let (rows, columns) = matrices(&x.shape)?;
    let wgsl = y.repr.wgsl();
    let mut kernel = KernelBuilder::new("trilu").read("x", x.repr);
    let mut args = vec![x.arg];
    if let Some(k) = &k {
        kernel = kernel.read("k", k.repr);
        args.push(k.arg);
    }
    let (k, keeps) = (if k.is_some() { "load_k(0u)" } else { "0" }, if upper(node)? { ">=" } else { "<=" });
    let text = format!(
        "fn element(i: u32) -> {wgsl} {{
    let column = i32(i % param.columns); let row = i32((i / param.columns) % param.rows);
    if (column - row {keeps} {k}) {{ return load_x(i); }}
    return {wgsl}(0);
}}"
    );
    let elements = y.elements();
    args.push(y.arg);
    let numbers = Params::sizes([("elements", elements), ("rows", rows), ("columns", columns)])?;
    let groups = element_groups(elements, y.repr);
    cx.dispatch(kernel.text(&text).element(y.repr), args, numbers, groups, elements as u64);
    Ok(())
}

fn upper(node: &Node) -> Result<bool, OpError> {
    Ok(node.attributes.flag("upper", true)?)
}

fn evaluate_trilu(node: &Node, inputs: &[Option<&Literal>]) -> Result<Vec<Literal>, OpError> {
    let x = given(inputs, 0)?;
    let (rows, columns) = matrices(x.shape())?;
    let k = inputs.get(1).copied().flatten().and_then(|k| k.to_i64s().first().copied()).unwrap_or(0);
    let upper = upper(node)?;
    let y = rearrange(x.dtype(), x.shape().to_vec(), &[x], |flat| {
        let signed = |value: usize| i64::try_from(value).unwrap_or(i64::MAX);
        let beyond = signed(flat % columns) - signed((flat / columns) % rows);
        let keep = if upper { beyond >= k } else { beyond <= k };
        Ok(keep.then_some((0, flat)))
    })?;
    Ok(vec![y])
}

/// The axes of batch and time.
fn sequence_axes(node: &Node, inputs: Inputs<'_>) -> Result<(usize, usize), OpError> {
    let (x, lengths) = (inputs.at(0)?, inputs.at(1)?);
    let batch = axis(node.attributes.int("batch_axis", 1)?, x.rank())?;
    let time = axis(node.attributes.int("time_axis", 0)?, x.rank())?;
    if batch == time || lengths.shape != [x.shape[batch]] {
        return Err(OpError::invalid(format!("lengths of shape {:?} for data of {:?}", lengths.shape, x.shape)));
    }
    Ok((batch, time))
}

fn infer_reverse(node: &Node, inputs: Inputs<'_>) -> Result<Vec<ValueInfo>, OpError> {
    sequence_axes(node, inputs)?;
    let x = inputs.at(0)?;
    Ok(vec![ValueInfo::new(x.dtype, x.shape.clone())])
}

fn lower_reverse(node: &Node, cx: &mut Lowering<'_>) -> Result<(), OpError> {
    let infos = cx.input_infos(node);
    let (batch, time) = sequence_axes(node, Inputs(&infos))?;
    let (x, lengths, y) = (cx.input(node, 0)?, cx.input(node, 1)?, cx.output(node, 0)?);
    let longest = i64::try_from(x.shape[time]).unwrap_or(i64::MAX);
    let check = match cx.input_range(node, 1).within(Range::new(0, longest)) {
        true => String::new(),
        false => format!("if (stated < 0 || stated > i32(param.time)) {{ {} }}", Fault::Length.report()),
    };
    let text = format!(
        "fn element(i: u32) -> {} {{
    let t = (i / param.time_step) % param.time;
    let stated = i32(load_lengths((i / param.batch_step) % param.batch));
    {check}
    let length = u32(clamp(stated, 0, i32(param.time)));
    if (t >= length) {{ return load_x(i); }}
    return load_x(i - t * param.time_step + (length - 1u - t) * param.time_step);
}}",
        y.repr.wgsl()
    );
    let kernel = KernelBuilder::new("reverse_sequence")
        .read("x", x.repr)
        .read("lengths", lengths.repr)
        .text(&text)
        .element(y.repr);
    let (elements, steps) = (y.elements(), strides(&x.shape));
    let numbers = Params::sizes([
        ("elements", elements),
        ("batch_step", steps[batch]),
        ("batch", x.shape[batch]),
        ("time_step", steps[time]),
        ("time", x.shape[time]),
    ])?;
    let args = vec![x.arg, lengths.arg, y.arg];
    cx.dispatch(kernel, args, numbers, element_groups(elements, y.repr), elements as u64);
    Ok(())
}

fn evaluate_reverse(node: &Node, inputs: &[Option<&Literal>]) -> Result<Vec<Literal>, OpError> {
    let (batch, time) = on_host(inputs, |inputs| sequence_axes(node, inputs))?;
    let (x, lengths) = (given(inputs, 0)?, given(inputs, 1)?.to_i64s());
    let (steps, shape) = (strides(x.shape()), x.shape());
    let y = rearrange(x.dtype(), shape.to_vec(), &[x], |flat| {
        let t = (flat / steps[time]) % shape[time];
        let length = lengths.get((flat / steps[batch]) % shape[batch]).copied().unwrap_or(0);
        let length = usize::try_from(length).unwrap_or(0).min(shape[time]);
        let from = if t < length { length - 1 - t } else { t };
        Ok(Some((0, flat - t * steps[time] + from * steps[time])))
    })?;
    Ok(vec![y])
}

/// The shape of the marked tensor, its new axis and the axis' size.
fn hot(node: &Node, inputs: Inputs<'_>) -> Result<(Vec<usize>, usize, usize), OpError> {
    let (indices, values) = (inputs.at(0)?, inputs.at(2)?);
    let depth = inputs.known(1)?;
    let [depth] = depth.to_i64s()[..] else { return Err(OpError::invalid("its depth is not one number")) };
    if values.elements() != 2 {
        return Err(OpError::invalid("its values are not two numbers"));
    }
    let depth = super::size(depth)?;
    let at = axis(node.attributes.int("axis", -1)?, indices.rank() + 1)?;
    let mut shape = indices.shape.clone();
    shape.insert(at, depth);
    Ok((shape, at, depth))
}

fn infer_hot(node: &Node, inputs: Inputs<'_>) -> Result<Vec<ValueInfo>, OpError> {
    Ok(vec![ValueInfo::new(inputs.at(2)?.dtype, hot(node, inputs)?.0)])
}

fn lower_hot(node: &Node, cx: &mut Lowering<'_>) -> Result<(), OpError> {
    let infos = cx.input_infos(node);
    let (_shape, at, depth) = hot(node, Inputs(&infos))?;
    let (indices, values, y) = (cx.input(node, 0)?, cx.input(node, 2)?, cx.output(node, 0)?);
    let text = format!(
        "fn element(i: u32) -> {} {{
    let inner = param.inner; let depth = i32(param.depth);
    var index = i32(load_indices((i / inner / param.depth) * inner + i % inner));
    index = select(index, index + depth, index < 0);
    return load_values(select(0u, 1u, index == i32((i / inner) % param.depth)));
}}",
        y.repr.wgsl()
    );
    let kernel = KernelBuilder::new("one_hot")
        .read("indices", indices.repr)
        .read("values", values.repr)
        .text(&text)
        .element(y.repr);
    let elements = y.elements();
    let inner = product(&y.shape[at + 1..])?;
    let numbers = Params::sizes([("elements", elements), ("inner", inner), ("depth", depth)])?;
    let args = vec![indices.arg, values.arg, y.arg];
    cx.dispatch(kernel, args, numbers, element_groups(elements, y.repr), elements as u64);
    Ok(())
}

fn evaluate_hot(node: &Node, inputs: &[Option<&Literal>]) -> Result<Vec<Literal>, OpError> {
    let (shape, at, depth) = on_host(inputs, |inputs| hot(node, inputs))?;
    let (indices, values) = (given(inputs, 0)?.to_i64s(), given(inputs, 2)?);
    let inner = product(&shape[at + 1..])?;
    let signed = i64::try_from(depth).unwrap_or(i64::MAX);
    let y = rearrange(values.dtype(), shape, &[values], |flat| {
        let index = indices.get((flat / inner / depth) * inner + flat % inner).copied().unwrap_or(-1);
        let index = if index < 0 { index.saturating_add(signed) } else { index };
        let on = usize::try_from(index).is_ok_and(|index| index == (flat / inner) % depth);
        Ok(Some((0, usize::from(on))))
    })?;
    Ok(vec![y])
}
