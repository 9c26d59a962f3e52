//! CumSum and CumProd: running sums and products along one axis, one thread a line.

use super::Lines;
use crate::error::OpError;
use crate::facts::{Fact, Inputs};
use crate::ir::{Literal, Node};
use crate::lower::{Effort, KernelBuilder, Lowering, THREADS, linear_groups, steps};
use crate::ops::Rule;
use crate::ops::elementwise::host::given;
use crate::ops::movement::{integers, on_host};
use crate::ops::shape::param;

/// The operators of this room.
pub(in crate::ops) const RULES: &[Rule] =
    &[Rule::device("CumSum", infer, lower).with_host(host), Rule::device("CumProd", infer, lower)];

fn lines(inputs: Inputs<'_>) -> Result<Lines, OpError> {
    let stated = integers(inputs, 1)?;
    let [at] = stated[..] else { return Err(OpError::invalid("its axis is no scalar")) };
    Ok(Lines::along(&inputs.at(0)?.shape, at)?.0)
}

fn infer(_node: &Node, inputs: Inputs<'_>) -> Result<Vec<Fact>, OpError> {
    lines(inputs)?;
    let x = inputs.at(0)?;
    if x.dtype.bits() == 8 {
        return Err(OpError::unsupported(format!("running sums of {}", x.dtype)));
    }
    Ok(vec![Fact::new(x.dtype, x.shape.clone())])
}

fn lower(node: &Node, cx: &mut Lowering<'_>) -> Result<(), OpError> {
    let lines = lines(Inputs(&cx.input_facts(node)))?;
    let (x, y) = (cx.input(node, 0)?, cx.output(node, 0)?);
    if lines.elements() == 0 {
        return Ok(());
    }
    let wgsl = x.repr.wgsl();
    let (start, join) = if node.op == "CumSum" { (0, "+") } else { (1, "*") };
    let at = if node.attributes.flag("reverse", false)? { "n - 1u - k" } else { "k" };
    let (before, after) =
        if node.attributes.flag("exclusive", false)? { ("y[at] = sum;", "") } else { ("", "y[at] = sum;") };
    let step = format!("let at = base + ({at}) * step; let v = load_x(at); {before} sum = sum {join} v; {after}");
    let (walk, rounds) = steps("k", "n", lines.length, &step);
    let text = format!(
        "@compute @workgroup_size({THREADS})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {{
    let place = group + group_base();
    let line = (place.y * 65535u + place.x) * {THREADS}u + lane;
    if (line >= param(0u)) {{ return; }}
    let n = param(1u); let step = param(2u);
    let base = (line / step) * n * step + line % step;
    var sum = {wgsl}({start});
{walk}}}"
    );
    let array = match wgsl {
        "f32" => "array<f32>",
        "i32" => "array<i32>",
        _ => "array<u32>",
    };
    let kernel = KernelBuilder::new("cumulative").read("x", x.repr).raw("y", array).text(&text).finish();
    let groups = linear_groups(lines.count().div_ceil(THREADS as usize));
    let numbers = vec![param(lines.count())?, param(lines.length)?, param(lines.inner)?];
    cx.dispatch(kernel, vec![x.arg, y.arg], numbers, groups, Effort::looping(lines.elements(), rounds));
    Ok(())
}

fn host(node: &Node, inputs: &[Option<&Literal>]) -> Result<Vec<Literal>, OpError> {
    let Lines { length, inner, .. } = on_host(inputs, lines)?;
    let (reverse, exclusive) = (node.attributes.flag("reverse", false)?, node.attributes.flag("exclusive", false)?);
    let x = given(inputs, 0)?;
    let values = x.to_f64s();
    let mut sums = vec![0.0; values.len()];
    for line in 0..values.len().checked_div(length).unwrap_or(0) {
        let base = line / inner * length * inner + line % inner;
        let mut sum = 0.0;
        for k in 0..length {
            let at = base + if reverse { length - 1 - k } else { k } * inner;
            sums[at] = if exclusive { sum } else { sum + values[at] };
            sum += values[at];
        }
    }
    Ok(vec![Literal::from_f64s(x.dtype(), x.shape().to_vec(), &sums)])
}
