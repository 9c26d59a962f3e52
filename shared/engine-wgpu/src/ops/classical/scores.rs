//! Scores of classifiers and regressors: post transforms and labels, as ONNX Runtime computes them.
//!
//! A classifier of two classes that has one score writes two: `1 - s` and `s`, or `-s` and `s` (with a logistic transform
//! of both). The standard leaves that open; `onnxruntime/core/providers/cpu/ml/ml_common.h` is followed.

use super::{ints, no_text, words};
use crate::error::OpError;
use crate::ir::Node;
use crate::lower::{Arg, Effort, GROUPS_MAX, KernelBuilder, Lowering, Params, Repr, THREADS, linear_groups};

/// Transform that is applied to the scores last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transform {
    None,
    Logistic,
    Softmax,
    SoftmaxZero,
    Probit,
}

/// In the order of the numbers that `TreeEnsemble` has for them.
const TRANSFORMS: [(&str, Transform); 5] = [
    ("NONE", Transform::None),
    ("SOFTMAX", Transform::Softmax),
    ("LOGISTIC", Transform::Logistic),
    ("SOFTMAX_ZERO", Transform::SoftmaxZero),
    ("PROBIT", Transform::Probit),
];

impl Transform {
    /// Reads the attribute `post_transform`, a name.
    pub(super) fn named(node: &Node) -> Result<Self, OpError> {
        let name = node.attributes.text("post_transform", "NONE")?;
        let found = TRANSFORMS.iter().find(|(known, _transform)| *known == name);
        found.map(|(_name, transform)| *transform).ok_or_else(|| OpError::invalid(format!("the transform {name:?}")))
    }

    /// Reads the attribute `post_transform`, a number.
    pub(super) fn numbered(node: &Node) -> Result<Self, OpError> {
        let number = node.attributes.int("post_transform", 0)?;
        let found = usize::try_from(number).ok().and_then(|at| TRANSFORMS.get(at));
        found.map(|(_name, transform)| *transform).ok_or_else(|| OpError::invalid(format!("the transform {number}")))
    }
}

/// WGSL of the functions that transforms are written in.
pub(super) const FUNCTIONS: &str = "fn logistic(v: f32) -> f32 {
    let p = 1.0 / (1.0 + exp(-min(abs(v), 88.0)));
    return select(p, 1.0 - p, v < 0.0);
}
fn probit(p: f32) -> f32 {
    let x = 2.0 * p - 1.0;
    let l = log((1.0 - x) * (1.0 + x));
    let v = 2.0 / (3.14159 * 0.147) + 0.5 * l;
    return 1.41421356 * select(1.0, -1.0, x < 0.0) * sqrt(-v + sqrt(v * v - l / 0.147));
}
";

/// WGSL that writes `transform` of `param.columns` scores `raw[at + c]` to `y[at + c]`.
fn transform_text(transform: Transform) -> String {
    let each = |value: &str| {
        format!("    for (var c = 0u; c < param.columns; c++) {{ let v = raw[at + c]; y[at + c] = {value}; }}\n")
    };
    let largest = "    var top = raw[at];
    for (var c = 1u; c < param.columns; c++) { top = max(top, raw[at + c]); }
    var sum = 0.0;
";
    match transform {
        Transform::None => each("v"),
        Transform::Logistic => each("logistic(v)"),
        Transform::Probit => each("probit(v)"),
        Transform::Softmax => format!(
            "{largest}    for (var c = 0u; c < param.columns; c++) {{ sum += exp(raw[at + c] - top); }}\n{}",
            each("exp(v - top) / sum")
        ),
        // What is 0 stays as small as it is, and does not count.
        Transform::SoftmaxZero => format!(
            "{largest}    for (var c = 0u; c < param.columns; c++) {{
        let v = raw[at + c];
        sum += select(0.0, exp(v - top), abs(v) > 1e-7);
    }}\n{}",
            each("select(v * exp(-top), exp(v - top), abs(v) > 1e-7) / sum")
        ),
    }
}

/// Launches a kernel with a thread for each row; the text sees the row as `row`.
pub(super) fn by_row(
    cx: &mut Lowering<'_>,
    kernel: KernelBuilder,
    args: Vec<Arg>,
    functions: &str,
    text: &str,
    numbers: Params,
    (rows, rounds): (usize, usize),
) {
    let text = format!(
        "{functions}@compute @workgroup_size({THREADS})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {{
    let place = group + group_base();
    let row = (place.y * {GROUPS_MAX}u + place.x) * {THREADS}u + lane;
    if (row >= param.rows) {{ return; }}
{text}}}"
    );
    let work = (rows as u64).saturating_mul(rounds.max(1) as u64);
    let groups = linear_groups(rows.div_ceil(THREADS as usize));
    cx.dispatch(kernel.text(&text).finish(), args, numbers, groups, Effort::looping(work, rounds));
}

/// Scores as they were added up: one row for each input row.
#[derive(Debug, Clone, Copy)]
pub(super) struct Raw {
    pub(super) arg: Arg,
    pub(super) rows: usize,
    pub(super) columns: usize,
}

impl Raw {
    /// Writes the transformed scores to `y`, which has as many columns.
    pub(super) fn write(self, cx: &mut Lowering<'_>, transform: Transform, y: Arg) -> Result<(), OpError> {
        // Of a single score only this transform is computed.
        let transform = match transform {
            Transform::Probit => Transform::Probit,
            Transform::None | Transform::Logistic | Transform::Softmax | Transform::SoftmaxZero
                if self.columns == 1 =>
            {
                Transform::None
            }
            other => other,
        };
        let kernel = KernelBuilder::new("scores").raw("raw", "array<f32>").raw("y", "array<f32>");
        let text = format!("    let at = row * param.columns;\n{}", transform_text(transform));
        let numbers = Params::sizes([("rows", self.rows), ("columns", self.columns)])?;
        let rounds = self.columns.saturating_mul(3);
        by_row(cx, kernel, vec![self.arg, y], FUNCTIONS, &text, numbers, (self.rows, rounds));
        Ok(())
    }

    /// Writes the label of the largest score; the first of equal ones.
    pub(super) fn write_best(self, cx: &mut Lowering<'_>, labels: Arg, y: Arg) -> Result<(), OpError> {
        let kernel =
            KernelBuilder::new("best_label").raw("raw", "array<f32>").read("labels", Repr::I32).raw("y", "array<i32>");
        let text = "    let at = row * param.columns;
    var best = 0u;
    for (var c = 1u; c < param.columns; c++) { if (raw[at + c] > raw[at + best]) { best = c; } }
    y[row] = load_labels(best);
";
        let numbers = Params::sizes([("rows", self.rows), ("columns", self.columns)])?;
        by_row(cx, kernel, vec![self.arg, labels, y], "", text, numbers, (self.rows, self.columns));
        Ok(())
    }
}

/// Labels of a classifier in the order of its classes, from the attribute of that name.
///
/// # Errors
/// When they are text, or do not fit the device.
pub(super) fn labels(node: &Node, integers: &str, texts: &str) -> Result<Vec<u32>, OpError> {
    no_text(node, &[texts])?;
    words(integers, ints(node, integers)?)
}
