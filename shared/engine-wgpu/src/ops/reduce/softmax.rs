//! Softmax, LogSoftmax and Hardmax along one axis; before operator set 13, over all dimensions from that axis on.
//!
//! A workgroup takes a line where lines are long and contiguous on a real GPU, or very long; one thread takes a line elsewhere.

use super::Lines;
use crate::error::OpError;
use crate::ir::{Node, OWN_DOMAIN};
use crate::lower::{Effort, KernelBuilder, Lowering, Params, THREADS, linear_groups};
use crate::ops::elementwise::math;
use crate::ops::elementwise::same_float;
use crate::ops::rule::Rule;
use crate::shape::axis;

/// The operators of this room.
///
/// `sanderling::Softmax` gives 0 where `Softmax` gives no number: in lines of which no element is above minus infinity.
pub(in crate::ops) const RULES: &[Rule] = &[
    Rule::device("Softmax", same_float, |n, cx| lower(n, cx, "exp(x - most) / sum")),
    Rule::device("Softmax", same_float, |n, cx| lower(n, cx, GUARDED)).in_domain(OWN_DOMAIN),
    Rule::device("LogSoftmax", same_float, |n, cx| lower(n, cx, "x - most - log(sum)")),
    Rule::device("Hardmax", same_float, |n, cx| lower(n, cx, HARD)),
];

/// As Softmax, but for what is no number.
const GUARDED: &str = "select(exp(x - most) / sum, 0.0, is_nan(exp(x - most) / sum))";

/// One at the first largest element, zero elsewhere.
const HARD: &str = "select(0.0, 1.0, k == first)";

/// Lines at least this long are worth a workgroup of a real GPU. A software adapter walks eight lines as fast as one, a thread each:
/// that was twice as fast up to 512.
const LONG: usize = 128;

/// Lines at least this long are too long for one thread wherever they lie.
const VERY_LONG: usize = 4096;

fn lines(node: &Node, shape: &[usize]) -> Result<Lines, OpError> {
    if node.opset >= 13 {
        return Ok(Lines::along(shape, node.attributes.int("axis", -1)?)?.0);
    }
    let stated = node.attributes.int("axis", 1)?;
    let at = if usize::try_from(stated).is_ok_and(|at| at == shape.len()) {
        shape.len()
    } else {
        axis(stated, shape.len())?
    };
    Ok(Lines { outer: shape[..at].iter().product(), length: shape[at..].iter().product(), inner: 1 })
}

fn lower(node: &Node, cx: &mut Lowering<'_>, result: &str) -> Result<(), OpError> {
    let (x, y) = (cx.input(node, 0)?, cx.output(node, 0)?);
    let lines = lines(node, &x.shape)?;
    if lines.length == 0 || lines.count() == 0 {
        return Ok(());
    }
    let wave = cx.tuning.workgroup_tiles && result != HARD;
    let wide = (wave && lines.inner == 1 && lines.length >= LONG) || lines.length >= VERY_LONG;
    let threads = if wide { cx.tuning.row_threads(lines.length) } else { THREADS };
    let text = if wide { wide_text(result) } else { narrow_text(result) };
    let text = text.replace("THREADS", &threads.to_string());
    let text = format!("{}{text}", math::needed_by(&text));
    let kernel = KernelBuilder::new("softmax").raw("x", "array<f32>").raw("y", "array<f32>").text(&text).finish();
    let groups = if wide { lines.count() } else { lines.count().div_ceil(THREADS as usize) };
    let numbers = Params::sizes([("lines", lines.count()), ("length", lines.length), ("inner", lines.inner)])?;
    // Three walks along the line, the one that sums in tiles.
    let walk = if wide { lines.length.div_ceil(threads as usize) } else { lines.length };
    let effort = Effort::looping(lines.elements().saturating_mul(4), walk.saturating_mul(3) + walk / 64 + 1);
    cx.dispatch(kernel, vec![x.arg, y.arg], numbers, linear_groups(groups), effort);
    Ok(())
}

fn narrow_text(result: &str) -> String {
    format!(
        "@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {{
    let place = group + group_base();
    let line = (place.y * 65535u + place.x) * THREADSu + lane;
    if (line >= param.lines) {{ return; }}
    let n = param.length; let step = param.inner;
    let base = (line / step) * n * step + line % step;
    var most = x[base]; var first = 0u;
    for (var k = 1u; k < n; k++) {{
        let v = x[base + k * step];
        if (v > most || (is_nan(v) && !is_nan(most))) {{ most = v; first = k; }}
    }}
    var sum = 0.0;
    for (var tile = 0u; tile < n; tile += 64u) {{
        var part = 0.0;
        for (var k = tile; k < min(tile + 64u, n); k++) {{ part += exp(x[base + k * step] - most); }}
        sum += part;
    }}
    for (var k = 0u; k < n; k++) {{ let at = base + k * step; let x = x[at]; y[at] = {result}; }}
}}"
    )
}

fn wide_text(result: &str) -> String {
    // Only Hardmax asks which of equal elements comes first.
    let first = if result == HARD {
        "    var own = n;
    for (var k = lane; k < n; k += THREADSu) {
        let v = x[base + k * step];
        if (own == n && (v == most || (is_nan(v) && is_nan(most)))) { own = k; }
    }
    workgroupBarrier();
    shared_values[lane] = bitcast<f32>(own);
    workgroupBarrier();
    var first = n;
    for (var other = 0u; other < THREADSu; other++) { first = min(first, bitcast<u32>(shared_values[other])); }
"
    } else {
        "    var sum = 0.0;
    for (var k = lane; k < n; k += THREADSu) { sum += exp(x[base + k * step] - most); }
    sum = spread(lane, sum, false);
"
    };
    let text = "var<workgroup> shared_values: array<f32, THREADS>;
fn spread(lane: u32, value: f32, extreme: bool) -> f32 {
    workgroupBarrier();
    shared_values[lane] = value;
    workgroupBarrier();
    for (var half = THREADSu / 2u; half > 0u; half = half / 2u) {
        if (lane < half) {
            let a = shared_values[lane]; let b = shared_values[lane + half];
            shared_values[lane] = select(a + b, larger(a, b), extreme);
        }
        workgroupBarrier();
    }
    return shared_values[0];
}
@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let place = group + group_base();
    let line = place.y * 65535u + place.x;
    let n = param.length; let step = param.inner;
    // Surplus workgroups repeat the last line: barriers must be met by all.
    let own_line = min(line, param.lines - 1u);
    let base = (own_line / step) * n * step + own_line % step;
    var most = x[base];
    for (var k = lane; k < n; k += THREADSu) { most = larger(most, x[base + k * step]); }
    most = spread(lane, most, true);
FIRST    if (line >= param.lines) { return; }
    for (var k = lane; k < n; k += THREADSu) { let at = base + k * step; let x = x[at]; y[at] = RESULT; }
}";
    text.replace("FIRST", first).replace("RESULT", result)
}
