//! ONNX Runtime's `SkipLayerNormalization` and `SkipSimplifiedLayerNormalization`: a sum, and its normalisation over the
//! last dimension, in one kernel.

use crate::error::OpError;
use crate::ir::Node;
use crate::lower::{Effort, GROUPS_MAX, KernelBuilder, Lowering, Params, linear_groups};
use crate::ops::rule::Rule;
use crate::value_info::{Inputs, ValueInfo};

const MICROSOFT: &str = "com.microsoft";

/// ONNX Runtime's default, smaller than that of ONNX's own operators.
const EPSILON: f32 = 1e-12;

/// The operators of this family.
pub(super) const RULES: &[Rule] = &[
    Rule::device("SkipLayerNormalization", infer, |node, cx| launch(node, cx, &LAYER)).in_domain(MICROSOFT),
    Rule::device("SkipSimplifiedLayerNormalization", infer, |node, cx| launch(node, cx, &SIMPLIFIED))
        .in_domain(MICROSOFT),
];

/// Differences between the two operators.
struct Form {
    /// True if the mean is taken off first.
    centred: bool,
    /// Input of the offset after scaling.
    beta: Option<usize>,
    /// Input of the bias before.
    bias: usize,
}

const LAYER: Form = Form { centred: true, beta: Some(3), bias: 4 };
const SIMPLIFIED: Form = Form { centred: false, beta: None, bias: 3 };

/// Outputs that only training asks for: mean and inverse deviation.
const TRAINING: [usize; 2] = [1, 2];

/// The output that holds the sum.
const SUM: usize = 3;

fn infer(node: &Node, inputs: Inputs<'_>) -> Result<Vec<ValueInfo>, OpError> {
    let (x, skip, gamma) = (inputs.at(0)?, inputs.at(1)?, inputs.at(2)?);
    let width = x.shape.last().copied().unwrap_or(0);
    if !x.dtype.is_float() || width == 0 {
        return Err(OpError::invalid(format!("it normalises {} of shape {:?}", x.dtype, x.shape)));
    }
    // The skip repeats over images, never within one.
    let inner = skip.elements();
    if inner == 0 || x.elements() % inner != 0 || skip.shape.last() != Some(&width) || !x.shape.ends_with(trimmed(skip))
    {
        return Err(OpError::invalid(format!("a skip of shape {:?} for {:?}", skip.shape, x.shape)));
    }
    let others = (2..inputs.len()).filter_map(|at| inputs.optional(at));
    if gamma.shape != [width] || others.into_iter().any(|info| info.shape != [width]) {
        return Err(OpError::invalid(format!("scale, offset or bias are not {width} long")));
    }
    if TRAINING.iter().any(|&at| node.output(at).is_some()) {
        return Err(OpError::unsupported("its mean and deviation are for training only"));
    }
    let info = || ValueInfo::new(x.dtype, x.shape.clone());
    Ok(vec![info(), ValueInfo::new(x.dtype, Vec::new()), ValueInfo::new(x.dtype, Vec::new()), info()])
}

/// The shape without dimensions of 1 in front.
fn trimmed(info: &ValueInfo) -> &[usize] {
    let first = info.shape.iter().position(|&size| size != 1).unwrap_or(info.shape.len());
    &info.shape[first..]
}

fn launch(node: &Node, cx: &mut Lowering<'_>, form: &Form) -> Result<(), OpError> {
    let (x, skip, gamma) = (cx.input(node, 0)?, cx.input(node, 1)?, cx.input(node, 2)?);
    let beta = form.beta.map(|at| cx.optional_input(node, at)).transpose()?.flatten();
    let bias = cx.optional_input(node, form.bias)?;
    let width = x.shape.last().copied().unwrap_or(1).max(1);
    let rows = x.elements() / width;
    if rows == 0 {
        return Ok(());
    }
    let mut kernel =
        KernelBuilder::new("skip_norm").read("x", x.repr).read("skip", skip.repr).read("gamma", gamma.repr);
    let mut args = vec![x.arg, skip.arg, gamma.arg];
    let (mut added, mut offset) = ("", "");
    if let Some(beta) = beta {
        kernel = kernel.read("beta", beta.repr);
        args.push(beta.arg);
        offset = " + load_beta(c)";
    }
    if let Some(bias) = bias {
        kernel = kernel.read("bias", bias.repr);
        args.push(bias.arg);
        added = " + load_bias(c)";
    }
    kernel = kernel.raw("y", "array<f32>");
    args.push(match node.output(0) {
        Some(id) => cx.place(id).arg,
        None => cx.scratch(x.elements()),
    });
    let mut keep = "";
    if let Some(id) = node.output(SUM) {
        kernel = kernel.raw("sums", "array<f32>");
        args.push(cx.place(id).arg);
        keep = "sums[begin + c] = value(begin, c);";
    }
    let mean = if form.centred { "total(lane, part) / f32(param.width)" } else { "0.0" };
    let threads = cx.tuning.row_threads(width);
    let text = format!(
        "var<workgroup> parts: array<f32, THREADS>;
fn value(begin: u32, c: u32) -> f32 {{ return load_x(begin + c) + load_skip((begin + c) % param.skips){added}; }}
fn total(lane: u32, part: f32) -> f32 {{
    parts[lane] = part;
    workgroupBarrier();
    for (var half = THREADSu / 2u; half > 0u; half = half / 2u) {{
        if (lane < half) {{ parts[lane] += parts[lane + half]; }}
        workgroupBarrier();
    }}
    let sum = parts[0];
    workgroupBarrier();
    return sum;
}}
@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {{
    let place = group + group_base();
    let row = place.y * {GROUPS_MAX}u + place.x;
    let begin = min(row, param.rows - 1u) * param.width;
    var part = 0.0;
    for (var c = lane; c < param.width; c += THREADSu) {{ part += value(begin, c); }}
    let mean = {mean};
    part = 0.0;
    for (var c = lane; c < param.width; c += THREADSu) {{ let d = value(begin, c) - mean; part += d * d; }}
    let deviation = sqrt(total(lane, part) / f32(param.width) + bitcast<f32>(param.epsilon));
    if (row >= param.rows) {{ return; }}
    for (var c = lane; c < param.width; c += THREADSu) {{
        {keep}
        y[begin + c] = (value(begin, c) - mean) / deviation * load_gamma(c){offset};
    }}
}}"
    );
    let kernel = kernel.text(&text.replace("THREADS", &threads.to_string()));
    let epsilon = node.attributes.float("epsilon", EPSILON)?;
    let numbers =
        Params::sizes([("rows", rows), ("width", width), ("skips", skip.elements())])?.float("epsilon", epsilon);
    let work = x.elements() as u64 * 4;
    let rounds = width.div_ceil(threads as usize).saturating_mul(3);
    cx.dispatch(kernel.finish(), args, numbers, linear_groups(rows), Effort::looping(work, rounds));
    Ok(())
}
