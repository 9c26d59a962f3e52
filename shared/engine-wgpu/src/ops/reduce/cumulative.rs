//! CumSum and CumProd: running sums and products along one axis, one thread a line.

use super::Lines;
use crate::error::OpError;
use crate::ir::{Literal, Node};
use crate::lower::{Effort, KernelBuilder, Lowering, Params, THREADS, linear_groups, steps};
use crate::ops::elementwise::checked;
use crate::ops::elementwise::host::given;
use crate::ops::movement::{integers, on_host};
use crate::ops::rule::Rule;
use crate::value_info::{Inputs, Range, ValueInfo};

/// The operators of this room.
pub(in crate::ops) const RULES: &[Rule] =
    &[Rule::device("CumSum", infer, lower).with_host(host), Rule::device("CumProd", infer, lower)];

fn lines(inputs: Inputs<'_>) -> Result<Lines, OpError> {
    let stated = integers(inputs, 1)?;
    let [at] = stated[..] else { return Err(OpError::invalid("its axis is no scalar")) };
    Ok(Lines::along(&inputs.at(0)?.shape, at)?.0)
}

fn infer(_node: &Node, inputs: Inputs<'_>) -> Result<Vec<ValueInfo>, OpError> {
    lines(inputs)?;
    let x = inputs.at(0)?;
    if x.dtype.bits() == 8 {
        return Err(OpError::unsupported(format!("running sums of {}", x.dtype)));
    }
    Ok(vec![ValueInfo::new(x.dtype, x.shape.clone())])
}

fn lower(node: &Node, cx: &mut Lowering<'_>) -> Result<(), OpError> {
    let lines = lines(Inputs(&cx.input_infos(node)))?;
    let (x, y) = (cx.input(node, 0)?, cx.output(node, 0)?);
    if lines.elements() == 0 {
        return Ok(());
    }
    let wgsl = x.repr.wgsl();
    let wide = node.input(0).is_some_and(|id| checked::is_wide(cx.info(id).dtype));
    let all = node.input(0).map_or(Range::new(0, 0), |id| Range::of_type(cx.info(id).dtype));
    let fits = node.op == "CumSum" && cx.input_range(node, 0).summed(lines.length).within(all);
    let (start, name, sign) = if node.op == "CumSum" { (0, "add", "+") } else { (1, "mul", "*") };
    let next = match wide && !fits {
        true => format!("checked_{name}_{wgsl}(sum, v)"),
        false => format!("sum {sign} v"),
    };
    let at = if node.attributes.flag("reverse", false)? { "n - 1u - k" } else { "k" };
    let place = format!("let at = base + ({at}) * step;");
    let step = match (node.attributes.flag("exclusive", false)?, wide && !fits) {
        // The sum with the last term is nobody's answer, and no fault.
        (true, true) => {
            format!("{place} if (k > 0u) {{ let v = before; sum = {next}; }} y[at] = sum; before = load_x(at);")
        }
        (true, false) => format!("{place} let v = load_x(at); y[at] = sum; sum = {next};"),
        (false, _) => format!("{place} let v = load_x(at); sum = {next}; y[at] = sum;"),
    };
    let (walk, rounds) = steps("k", "n", lines.length, &step);
    let checks = checked::needed_by(&step);
    let text = format!(
        "{checks}@compute @workgroup_size({THREADS})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {{
    let place = group + group_base();
    let line = (place.y * 65535u + place.x) * {THREADS}u + lane;
    if (line >= param.lines) {{ return; }}
    let n = param.length; let step = param.inner;
    let base = (line / step) * n * step + line % step;
    var sum = {wgsl}({start}); var before = {wgsl}({start});
{walk}}}"
    );
    let array = match wgsl {
        "f32" => "array<f32>",
        "i32" => "array<i32>",
        _ => "array<u32>",
    };
    let kernel = KernelBuilder::new("cumulative").read("x", x.repr).raw("y", array).text(&text).finish();
    let groups = linear_groups(lines.count().div_ceil(THREADS as usize));
    let numbers = Params::sizes([("lines", lines.count()), ("length", lines.length), ("inner", lines.inner)])?;
    cx.dispatch(kernel, vec![x.arg, y.arg], numbers, groups, Effort::looping(lines.elements(), rounds));
    Ok(())
}

fn host(node: &Node, inputs: &[Option<&Literal>]) -> Result<Vec<Literal>, OpError> {
    let Lines { length, inner, .. } = on_host(inputs, lines)?;
    let (reverse, exclusive) = (node.attributes.flag("reverse", false)?, node.attributes.flag("exclusive", false)?);
    let x = given(inputs, 0)?;
    let places = |line: usize| {
        let base = line / inner * length * inner + line % inner;
        (0..length).map(move |k| base + if reverse { length - 1 - k } else { k } * inner)
    };
    let lines = x.elements().checked_div(length).unwrap_or(0);
    let shape = x.shape().to_vec();
    if x.dtype().is_float() {
        let sums = sums(&x.to_f64s(), (0..lines).map(places), exclusive, |a, b| a + b);
        return Ok(vec![Literal::from_f64s(x.dtype(), shape, &sums)]);
    }
    let sums = sums(&x.to_i64s(), (0..lines).map(places), exclusive, i64::wrapping_add);
    Ok(vec![Literal::from_i64s(x.dtype(), shape, &sums)])
}

/// Running sums along lines of places.
fn sums<T: Copy + Default>(
    values: &[T],
    lines: impl Iterator<Item = impl Iterator<Item = usize>>,
    exclusive: bool,
    add: impl Fn(T, T) -> T,
) -> Vec<T> {
    let mut sums = vec![T::default(); values.len()];
    for line in lines {
        let mut sum = T::default();
        for at in line {
            let next = add(sum, values[at]);
            sums[at] = if exclusive { sum } else { next };
            sum = next;
        }
    }
    sums
}
