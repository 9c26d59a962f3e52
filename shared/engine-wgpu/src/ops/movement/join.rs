//! Concat: several tensors one after the other.

use crate::error::OpError;
use crate::host::rearrange;
use crate::ir::{Literal, Node, ValueId};
use crate::lower::{KernelBuilder, Lowering, Operand, Params, element_groups};
use crate::ops::movement::{on_host, product, same_type};
use crate::ops::product::groups_of;
use crate::ops::rule::Rule;
use crate::shape::axis;
use crate::value_info::{Inputs, ValueInfo};

/// The operators of this family.
pub(crate) const RULES: &[Rule] = &[Rule::device("Concat", infer, lower).with_host(evaluate)];

/// Tensors that one kernel joins: WebGPU promises 8 storage bindings, one is the output.
const JOINED_MAX: usize = 7;

/// Threads of a workgroup along a round.
const ROUND_THREADS: usize = 64;

/// Places of a round that one thread fills.
const PLACES: usize = 4;

/// The shape of the whole, and the axis along which it grows.
fn joined(node: &Node, inputs: Inputs<'_>) -> Result<(Vec<usize>, usize), OpError> {
    let first = inputs.at(0)?;
    let default = if node.opset < 4 { Some(1) } else { None };
    let wanted = node.attributes.optional_int("axis")?.or(default);
    let wanted = wanted.ok_or_else(|| OpError::invalid("it has no axis"))?;
    let at = axis(wanted, first.rank())?;
    let mut shape = first.shape.clone();
    for k in 1..inputs.len() {
        let part = inputs.at(k)?;
        same_type(first.dtype, part.dtype)?;
        let fits = part.rank() == shape.len() && (0..shape.len()).all(|d| d == at || part.shape[d] == shape[d]);
        if !fits {
            return Err(OpError::invalid(format!("{:?} and {:?} do not join at axis {at}", first.shape, part.shape)));
        }
        shape[at] = shape[at].checked_add(part.shape[at]).ok_or_else(|| OpError::TooLarge(shape.clone()))?;
    }
    Ok((shape, at))
}

fn infer(node: &Node, inputs: Inputs<'_>) -> Result<Vec<ValueInfo>, OpError> {
    Ok(vec![ValueInfo::new(inputs.at(0)?.dtype, joined(node, inputs)?.0)])
}

fn lower(node: &Node, cx: &mut Lowering<'_>) -> Result<(), OpError> {
    let infos = cx.input_infos(node);
    let (shape, at) = joined(node, Inputs(&infos))?;
    let inner = product(&shape[at + 1..])?;
    let parts: Vec<ValueId> = node.inputs.iter().flatten().copied().filter(|&id| cx.info(id).elements() > 0).collect();
    let Some(to) = node.output(0) else { return Ok(()) };
    if let [only] = parts.as_slice() {
        return cx.alias(to, *only);
    }
    let parts = parts.into_iter().map(|id| {
        let part = cx.operand(id)?;
        let run = part.shape[at] * inner;
        Ok((part, run))
    });
    let parts: Vec<(Operand, usize)> = parts.collect::<Result<_, OpError>>()?;
    let y = cx.place(to);
    join(cx, parts, &y)
}

/// Joins runs of elements: each part brings so many to each round.
fn join(cx: &mut Lowering<'_>, mut parts: Vec<(Operand, usize)>, y: &Operand) -> Result<(), OpError> {
    // Too many for one kernel: groups are joined in scratch space first.
    while parts.len() > JOINED_MAX {
        let mut fewer = Vec::with_capacity(parts.len().div_ceil(JOINED_MAX));
        for group in parts.chunks(JOINED_MAX) {
            let run = group.iter().map(|(_part, run)| run).sum();
            let elements = group.iter().map(|(part, _run)| part.elements()).sum();
            let arg = cx.scratch(y.repr.words(elements));
            let whole = Operand { arg, repr: y.repr, shape: vec![elements] };
            launch(cx, group, &whole)?;
            fewer.push((whole, run));
        }
        parts = fewer;
    }
    launch(cx, &parts, y)
}

/// One launch; finding its round takes a division, which is slow where a vector unit has none: of whole words, each row of
/// workgroups has a round of its own, and each thread several places of it.
fn launch(cx: &mut Lowering<'_>, parts: &[(Operand, usize)], y: &Operand) -> Result<(), OpError> {
    let elements = y.elements();
    let mut kernel = KernelBuilder::new("concat");
    let mut end = 0;
    let mut all_ends = Vec::with_capacity(parts.len());
    let mut ends = String::from("    let end0 = 0u;");
    let mut loads = String::new();
    for (k, (part, run)) in parts.iter().enumerate() {
        kernel = kernel.read(&format!("x{k}"), part.repr);
        ends.push_str(&format!(" let end{} = param.ends[{k}];", k + 1));
        let load = format!("value = load_x{k}(round * (end{} - end{k}) + at - end{k});", k + 1);
        loads.push_str(&match (k, k + 1 == parts.len()) {
            (0, true) => load,
            (0, false) => format!("if (at < end1) {{ {load} }}"),
            (_, true) => format!(" else {{ {load} }}"),
            (_, false) => format!(" else if (at < end{}) {{ {load} }}", k + 1),
        });
        end += run;
        all_ends.push(end);
    }
    let all = Params::sizes([("elements", elements), ("length", end)])?.list("ends", &all_ends)?;
    let mut args: Vec<_> = parts.iter().map(|(part, _run)| part.arg).collect();
    args.push(y.arg);
    let one = y.repr.wgsl();
    let (kernel, groups) = match round_groups(cx, y, end) {
        Some(groups) => {
            let place = format!(
                "    {{\n        let at = first + AT;\n        if (at < length) {{\n            var value = {one}();\n            \
                 {loads}\n            y[round * length + at] = value;\n        }}\n    }}\n"
            );
            let places: String = (0..PLACES).map(|k| place.replace("AT", &format!("{}u", k * ROUND_THREADS))).collect();
            let text = format!(
                "@compute @workgroup_size({ROUND_THREADS})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {{
    let base = group + group_base();
    let round = base.y;
    let first = base.x * {}u + lane;
    let length = param.length;
{ends}
{places}}}",
                PLACES * ROUND_THREADS
            );
            (kernel.raw("y", y.repr.array()).text(&text).finish(), groups)
        }
        None => {
            let text = format!(
                "fn element(i: u32) -> {one} {{\n    let round = i / param.length; let at = i % param.length;\n{ends}\n    \
                 var value = {one}();\n    {loads}\n    return value;\n}}"
            );
            (kernel.text(&text).element(y.repr), element_groups(elements, y.repr))
        }
    };
    cx.dispatch(kernel, args, all, groups, elements as u64);
    Ok(())
}

/// Workgroups where each row has a round of its own, if it has whole words and lies in one binding.
fn round_groups(cx: &Lowering<'_>, y: &Operand, length: usize) -> Option<[u32; 3]> {
    let elements = y.elements();
    let rounds = groups_of(elements / length.max(1), 1).ok()?;
    let groups = groups_of(length, PLACES * ROUND_THREADS).ok()?;
    let fits = y.repr.per_word() == 1 && elements as u64 <= cx.tuning.part_words && length >= ROUND_THREADS;
    fits.then_some([groups, rounds, 1])
}

fn evaluate(node: &Node, inputs: &[Option<&Literal>]) -> Result<Vec<Literal>, OpError> {
    let (shape, at) = on_host(inputs, |inputs| joined(node, inputs))?;
    let parts: Vec<&Literal> = inputs.iter().copied().flatten().collect();
    let Some(first) = parts.first() else { return Err(OpError::invalid("it has no inputs")) };
    let inner = product(&shape[at + 1..])?;
    let round = (shape[at] * inner).max(1);
    let runs: Vec<usize> = parts.iter().map(|part| part.shape()[at] * inner).collect();
    let whole = rearrange(first.dtype(), shape, &parts, |flat| {
        let (round, mut rest) = (flat / round, flat % round);
        for (k, &run) in runs.iter().enumerate() {
            if rest < run {
                return Ok(Some((k, round * run + rest)));
            }
            rest -= run;
        }
        Ok(None)
    })?;
    Ok(vec![whole])
}
