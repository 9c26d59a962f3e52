//! ScatterElements, its elder Scatter, and ScatterND: a copy of a tensor with some elements replaced or added to.
//!
//! Each output element looks for the updates that hit it, in their order: the same bits every time, whatever the indices
//! repeat, and packed bytes need no atomics. Where that search would take too long, updates are written in parallel
//! instead, which ONNX allows when nothing is reduced (it forbids repeated indices then).

use crate::error::OpError;
use crate::host::rearrange;
use crate::ir::{Literal, Node};
use crate::lower::{
    Effort, GROUPS_MAX, KernelBuilder, Lowering, Operand, Params, Repr, THREADS, element_groups, steps,
};
use crate::ops::elementwise::checked;
use crate::ops::movement::gather::{Tuples, element_axis, wrap};
use crate::ops::movement::index::{check_alone, index_at, is_safe};
use crate::ops::movement::{given, on_host, same_type};
use crate::ops::rule::Rule;
use crate::shape::strides;
use crate::value_info::{Inputs, ValueInfo};

/// The operators of this family.
pub(crate) const RULES: &[Rule] = &[
    Rule::device("ScatterElements", infer_elements, lower_elements).with_host(evaluate_elements),
    Rule::device("Scatter", infer_elements, lower_elements).with_host(evaluate_elements),
    Rule::device("ScatterND", infer_nd, lower_nd).with_host(evaluate_nd),
];

/// Most comparisons of one search: a second or so on the slowest devices.
const SEARCH_MAX: u64 = 1 << 31;

/// Comparisons above which parallel writing pays for its second launch.
const SEARCH_GOOD: u64 = 1 << 24;

/// Reduction of an update with the value that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reduction {
    Replace,
    Add,
    Mul,
    Max,
    Min,
}

impl Reduction {
    fn of(node: &Node) -> Result<Self, OpError> {
        Ok(match node.attributes.text("reduction", "none")? {
            "none" => Self::Replace,
            "add" => Self::Add,
            "mul" => Self::Mul,
            "max" => Self::Max,
            "min" => Self::Min,
            other => return Err(OpError::invalid(format!("reduction {other:?}"))),
        })
    }

    /// WGSL of `fn meet(old, new)`; `wide`: results beyond 32 bits are faults.
    fn wgsl(self, repr: Repr, wide: bool) -> String {
        let wgsl = repr.wgsl();
        let plain = match self {
            Self::Add if wide => format!("checked_add_{wgsl}(old, new_one)"),
            Self::Mul if wide => format!("checked_mul_{wgsl}(old, new_one)"),
            Self::Replace => "new_one".to_owned(),
            Self::Add => "old + new_one".to_owned(),
            Self::Mul => "old * new_one".to_owned(),
            Self::Max => "max(old, new_one)".to_owned(),
            Self::Min => "min(old, new_one)".to_owned(),
        };
        let checks = checked::needed_by(&plain);
        // WGSL's max and min may lose a NaN, and `x != x` is false on some drivers.
        let nan = match (self, repr) {
            (Self::Max | Self::Min, Repr::F32) => {
                "if ((bitcast<u32>(old) & 0x7fffffffu) > 0x7f800000u) { return old; }\n    \
                 if ((bitcast<u32>(new_one) & 0x7fffffffu) > 0x7f800000u) { return new_one; }\n    "
            }
            _ => "",
        };
        format!("{checks}fn meet(old: {wgsl}, new_one: {wgsl}) -> {wgsl} {{\n    {nan}return {plain};\n}}\n")
    }

    fn floats(self, old: f64, new: f64) -> f64 {
        match self {
            Self::Replace => new,
            Self::Add => old + new,
            Self::Mul => old * new,
            Self::Max | Self::Min if old.is_nan() => old,
            Self::Max | Self::Min if new.is_nan() => new,
            Self::Max => old.max(new),
            Self::Min => old.min(new),
        }
    }

    fn integers(self, old: i64, new: i64) -> i64 {
        match self {
            Self::Replace => new,
            Self::Add => old.wrapping_add(new),
            Self::Mul => old.wrapping_mul(new),
            Self::Max => old.max(new),
            Self::Min => old.min(new),
        }
    }
}

/// Puts updates on the host, each at its flat place.
fn apply(node: &Node, x: &Literal, updates: &Literal, targets: &[usize]) -> Result<Vec<Literal>, OpError> {
    let (shape, reduction) = (x.shape().to_vec(), Reduction::of(node)?);
    if reduction == Reduction::Replace {
        let mut from: Vec<(usize, usize)> = (0..x.elements()).map(|at| (0, at)).collect();
        targets.iter().enumerate().for_each(|(update, &at)| from[at] = (1, update));
        return Ok(vec![rearrange(x.dtype(), shape, &[x, updates], |flat| Ok(Some(from[flat])))?]);
    }
    if x.dtype().is_float() {
        let (mut values, new) = (x.to_f64s(), updates.to_f64s());
        targets.iter().zip(new).for_each(|(&at, new)| values[at] = reduction.floats(values[at], new));
        return Ok(vec![Literal::from_f64s(x.dtype(), shape, &values)]);
    }
    let (mut values, new) = (x.to_i64s(), updates.to_i64s());
    targets.iter().zip(new).for_each(|(&at, new)| values[at] = reduction.integers(values[at], new));
    Ok(vec![Literal::from_i64s(x.dtype(), shape, &values)])
}

fn elements_of(node: &Node, inputs: Inputs<'_>) -> Result<usize, OpError> {
    let (x, indices, updates) = (inputs.at(0)?, inputs.at(1)?, inputs.at(2)?);
    same_type(x.dtype, updates.dtype)?;
    Reduction::of(node)?;
    if updates.shape != indices.shape {
        return Err(OpError::invalid(format!("{:?} updates for {:?} indices", updates.shape, indices.shape)));
    }
    element_axis(node, x, indices)
}

fn infer_elements(node: &Node, inputs: Inputs<'_>) -> Result<Vec<ValueInfo>, OpError> {
    elements_of(node, inputs)?;
    let x = inputs.at(0)?;
    Ok(vec![ValueInfo::new(x.dtype, x.shape.clone())])
}

fn lower_elements(node: &Node, cx: &mut Lowering<'_>) -> Result<(), OpError> {
    let infos = cx.input_infos(node);
    let axis = elements_of(node, Inputs(&infos))?;
    let reduction = Reduction::of(node)?;
    let (x, indices, updates) = (cx.input(node, 0)?, cx.input(node, 1)?, cx.input(node, 2)?);
    let y = cx.output(node, 0)?;
    let safe = is_safe(cx, node, 1, &x.shape[axis..=axis]);
    let meet = reduction.wgsl(y.repr, is_wide(cx, node));
    if y.elements() == 0 && !safe && indices.elements() > 0 {
        check_alone(cx, &indices, &x.shape[axis..=axis])?;
    }
    let (rank, wgsl) = (y.shape.len(), y.repr.wgsl());
    let mut text = format!(
        "{}\n{}fn element(i: u32) -> {wgsl} {{
    var value = load_x(i); var rest = i; var at = 0u; var c = 0u;\n",
        index_at(safe),
        meet
    );
    for d in 0..rank {
        text.push_str(&format!("    c = rest / param.stride[{d}]; rest = rest % param.stride[{d}];\n"));
        text.push_str(&match d == axis {
            true => "    let wanted = c;\n".to_owned(),
            false => {
                format!("    if (c >= param.size[{d}]) {{ return value; }} at += c * param.step[{d}];\n")
            }
        });
    }
    let look = format!(
        "let place = at + k * param.step[{axis}];
        if (index_at(place, param.length) == wanted) {{ value = meet(value, load_updates(place)); }}"
    );
    let (walk, rounds) = steps("k", &format!("param.size[{axis}]"), indices.shape[axis], &look);
    text.push_str(&format!("{walk}    return value;\n}}"));
    let kernel = KernelBuilder::new("scatter_elements")
        .read("x", x.repr)
        .read("indices", indices.repr)
        .read("updates", updates.repr)
        .text(&text)
        .element(y.repr);
    let elements = y.elements();
    let numbers = Params::sizes([("elements", elements), ("length", x.shape[axis])])?;
    let numbers = numbers.list("stride", &strides(&x.shape))?.list("size", &indices.shape)?;
    let numbers = numbers.list("step", &strides(&indices.shape))?;
    let work = search(elements, indices.shape[axis])?;
    let args = vec![x.arg, indices.arg, updates.arg, y.arg];
    cx.dispatch(kernel, args, numbers, element_groups(elements, y.repr), Effort::looping(work, rounds));
    Ok(())
}

/// Returns whether the output's type is one of 64-bit integers.
fn is_wide(cx: &Lowering<'_>, node: &Node) -> bool {
    node.output(0).is_some_and(|id| checked::is_wide(cx.info(id).dtype))
}

/// Comparisons of a search for `candidates` updates by each of `elements`.
fn search(elements: usize, candidates: usize) -> Result<u64, OpError> {
    let work = (elements as u64).saturating_mul(candidates as u64);
    let many =
        || OpError::unsupported(format!("scattering {candidates} updates over {elements} elements takes too long"));
    if work <= SEARCH_MAX { Ok(work) } else { Err(many()) }
}

fn evaluate_elements(node: &Node, inputs: &[Option<&Literal>]) -> Result<Vec<Literal>, OpError> {
    let axis = on_host(inputs, |inputs| elements_of(node, inputs))?;
    let (x, indices) = (given(inputs, 0)?, given(inputs, 1)?);
    let (own, steps) = (strides(indices.shape()), strides(x.shape()));
    let numbers = indices.to_i64s().into_iter().enumerate();
    let targets = numbers.map(|(flat, index)| {
        let (mut rest, mut target) = (flat, 0);
        for d in 0..own.len() {
            let c = if d == axis { wrap(index, x.shape()[d])? } else { rest / own[d] };
            target += c * steps[d];
            rest %= own[d];
        }
        Ok(target)
    });
    let targets: Vec<usize> = targets.collect::<Result<_, OpError>>()?;
    apply(node, x, given(inputs, 2)?, &targets)
}

fn nd_of(node: &Node, inputs: Inputs<'_>) -> Result<Tuples, OpError> {
    let (x, indices, updates) = (inputs.at(0)?, inputs.at(1)?, inputs.at(2)?);
    same_type(x.dtype, updates.dtype)?;
    Reduction::of(node)?;
    let tuples = Tuples::of(x, indices, 0)?;
    let wanted = [&indices.shape[..indices.rank().saturating_sub(1)], &x.shape[tuples.length..]].concat();
    if updates.shape != wanted {
        return Err(OpError::invalid(format!("{:?} updates where {wanted:?} are addressed", updates.shape)));
    }
    Ok(tuples)
}

fn infer_nd(node: &Node, inputs: Inputs<'_>) -> Result<Vec<ValueInfo>, OpError> {
    nd_of(node, inputs)?;
    let x = inputs.at(0)?;
    Ok(vec![ValueInfo::new(x.dtype, x.shape.clone())])
}

fn lower_nd(node: &Node, cx: &mut Lowering<'_>) -> Result<(), OpError> {
    let infos = cx.input_infos(node);
    let tuples = nd_of(node, Inputs(&infos))?;
    let reduction = Reduction::of(node)?;
    let operands = [cx.input(node, 0)?, cx.input(node, 1)?, cx.input(node, 2)?, cx.output(node, 0)?];
    let comparisons = (operands[3].elements() as u64).saturating_mul(tuples.per_batch as u64);
    let parallel = reduction == Reduction::Replace && operands[3].repr.per_word() == 1;
    let (sizes, _steps) = tuples.addressed(&operands[0].shape);
    let safe = is_safe(cx, node, 1, &sizes);
    if operands[3].elements() == 0 && !safe && operands[1].elements() > 0 {
        check_alone(cx, &operands[1], &sizes)?;
    }
    if parallel && comparisons > SEARCH_GOOD {
        write_nd(cx, &operands, &tuples, &index_at(safe))
    } else {
        let meet = reduction.wgsl(operands[3].repr, is_wide(cx, node));
        search_nd(cx, &operands, &tuples, (&index_at(safe), &meet))
    }
}

/// Returns the numbers of both kernels: strides of the addressed dimensions are in slices.
fn nd_params(elements: usize, x: &Operand, tuples: &Tuples) -> Result<Params, OpError> {
    let (sizes, steps) = tuples.addressed(&x.shape);
    let steps: Vec<usize> = steps.iter().map(|step| step / tuples.slice.max(1)).collect();
    let numbers = Params::sizes([("elements", elements), ("slice", tuples.slice), ("tuples", tuples.per_batch)])?;
    numbers.list("size", &sizes)?.list("step", &steps)
}

/// WGSL of `fn slice_at(tuple)`: the slice that a tuple addresses, by way of `index_at`.
fn slice_at(length: usize, index: &str) -> String {
    let part = |k: usize| format!("    at += index_at(tuple * {length}u + {k}u, param.size[{k}]) * param.step[{k}];\n");
    let parts: String = (0..length).map(part).collect();
    format!("{index}\nfn slice_at(tuple: u32) -> u32 {{\n    var at = 0u;\n{parts}    return at;\n}}\n")
}

fn search_nd(
    cx: &mut Lowering<'_>,
    operands: &[Operand; 4],
    tuples: &Tuples,
    (index, meet): (&str, &str),
) -> Result<(), OpError> {
    let [x, indices, updates, y] = operands;
    let elements = y.elements();
    let work = search(elements, tuples.per_batch)?;
    let look = "if (slice_at(tuple) == i / param.slice) {
            value = meet(value, load_updates(tuple * param.slice + i % param.slice));
        }";
    let (walk, rounds) = steps("tuple", "param.tuples", tuples.per_batch, look);
    let text = format!(
        "{}{meet}fn element(i: u32) -> {} {{
    var value = load_x(i);
{walk}    return value;
}}",
        slice_at(tuples.length, index),
        y.repr.wgsl()
    );
    let kernel = KernelBuilder::new("scatter_nd")
        .read("x", x.repr)
        .read("indices", indices.repr)
        .read("updates", updates.repr)
        .text(&text)
        .element(y.repr);
    let args = vec![x.arg, indices.arg, updates.arg, y.arg];
    let effort = Effort::looping(work, rounds);
    cx.dispatch(kernel, args, nd_params(elements, x, tuples)?, element_groups(elements, y.repr), effort);
    Ok(())
}

/// Copies the data, then writes all updates at once.
fn write_nd(cx: &mut Lowering<'_>, operands: &[Operand; 4], tuples: &Tuples, index: &str) -> Result<(), OpError> {
    let [x, indices, updates, y] = operands;
    let wgsl = y.repr.wgsl();
    let copy = KernelBuilder::new("copy")
        .read("x", x.repr)
        .text(&format!("fn element(i: u32) -> {wgsl} {{ return load_x(i); }}"))
        .element(y.repr);
    let elements = y.elements();
    let groups = element_groups(elements, y.repr);
    cx.dispatch(copy, vec![x.arg, y.arg], Params::sizes([("elements", elements)])?, groups, elements as u64);
    let array = match y.repr {
        Repr::F32 => "array<f32>",
        Repr::I32 => "array<i32>",
        Repr::U32 | Repr::I8x4 | Repr::U8x4 => "array<u32>",
    };
    let text = format!(
        "{}@compute @workgroup_size({THREADS})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {{
    let i = (group.y * {GROUPS_MAX}u + group.x) * {THREADS}u + lane;
    if (i >= param.elements) {{ return; }}
    y[slice_at(i / param.slice) * param.slice + i % param.slice] = load_updates(i);
}}",
        slice_at(tuples.length, index)
    );
    let kernel = KernelBuilder::new("scatter_nd_write")
        .read("indices", indices.repr)
        .read("updates", updates.repr)
        .raw("y", array)
        .text(&text)
        .finish();
    let count = updates.elements();
    let numbers = nd_params(count, x, tuples)?;
    cx.dispatch(kernel, vec![indices.arg, updates.arg, y.arg], numbers, element_groups(count, y.repr), count as u64);
    Ok(())
}

fn evaluate_nd(node: &Node, inputs: &[Option<&Literal>]) -> Result<Vec<Literal>, OpError> {
    let tuples = on_host(inputs, |inputs| nd_of(node, inputs))?;
    let (x, numbers) = (given(inputs, 0)?, given(inputs, 1)?.to_i64s());
    let (sizes, steps) = tuples.addressed(x.shape());
    let mut targets = Vec::with_capacity(tuples.per_batch * tuples.slice);
    for tuple in numbers.chunks(tuples.length) {
        let begin = Tuples::begin(tuple, &sizes, &steps)?;
        targets.extend(begin..begin + tuples.slice);
    }
    apply(node, x, given(inputs, 2)?, &targets)
}
