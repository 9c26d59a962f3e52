//! Normalization of contiguous rows: Layer, RMS, Instance and Group.
//!
//! One workgroup a row: mean first, then the variance around it (never as a difference of squares), then the answer.

use crate::error::OpError;
use crate::ir::{ElementType, Node};
use crate::lower::{Arg, Effort, KernelBuilder, Lowering, Operand, Params, linear_groups};
use crate::ops::rule::Rule;
use crate::shape::{axis, broadcast, broadcast_strides, strides};
use crate::value_info::{Inputs, ValueInfo};

/// The operators of this room.
pub(in crate::ops) const RULES: &[Rule] = &[
    Rule::device("LayerNormalization", infer_layer, lower_layer),
    Rule::device("SimplifiedLayerNormalization", infer_layer, lower_layer),
    Rule::device("RMSNormalization", infer_layer, lower_layer),
    Rule::device("InstanceNormalization", infer_channels, lower_instance),
    Rule::device("GroupNormalization", infer_channels, lower_group),
];

/// Rows of one tensor and what each element is multiplied by and added to.
#[derive(Debug)]
struct Rows {
    x: Operand,
    y: Arg,
    count: usize,
    length: usize,
    epsilon: f32,
    /// True if the mean is taken off.
    centred: bool,
    /// Shape under which scale and bias broadcast to the tensor.
    shape: Vec<usize>,
    scale: Option<Operand>,
    bias: Option<Operand>,
    mean: Option<Arg>,
    inverse: Option<Arg>,
}

/// Most dimensions over which scale and bias may broadcast.
const RANK_MAX: usize = 16;

impl Rows {
    fn lower(self, cx: &mut Lowering<'_>) -> Result<(), OpError> {
        if self.count * self.length == 0 {
            return Ok(());
        }
        if self.shape.len() > RANK_MAX {
            return Err(OpError::unsupported("too many dimensions"));
        }
        let mut kernel = KernelBuilder::new("normalize").raw("x", "array<f32>").raw("y", "array<f32>");
        let mut args = vec![self.x.arg, self.y];
        let mut numbers =
            Params::sizes([("rows", self.count), ("length", self.length)])?.float("epsilon", self.epsilon);
        let own = strides(&self.shape);
        let mut value = String::from("(x[base + k] - mean) * inverse");
        let mut functions = String::new();
        for (name, operand, sign) in [("scale", &self.scale, "*"), ("bias", &self.bias, "+")] {
            let Some(operand) = operand else { continue };
            kernel = kernel.read(name, operand.repr);
            args.push(operand.arg);
            let mut terms = vec!["0u".to_owned()];
            for (d, &step) in broadcast_strides(&operand.shape, &self.shape).iter().enumerate() {
                if step != 0 {
                    let place = format!("{name}_{d}");
                    numbers = numbers.list(place.as_str().to_owned(), &[own[d].max(1), self.shape[d].max(1), step])?;
                    terms.push(format!("(i / param.{place}[0]) % param.{place}[1] * param.{place}[2]"));
                }
            }
            functions
                .push_str(&format!("fn {name}_at(i: u32) -> f32 {{ return load_{name}({}); }}\n", terms.join(" + ")));
            value = format!("{value} {sign} {name}_at(base + k)");
        }
        let mut statistics = String::new();
        for (name, arg, what) in [("means", self.mean, "mean"), ("inverses", self.inverse, "inverse")] {
            if let Some(arg) = arg {
                kernel = kernel.raw(name, "array<f32>");
                args.push(arg);
                statistics.push_str(&format!("    if (lane == 0u) {{ {name}[row] = {what}; }}\n"));
            }
        }
        let mean = if self.centred { MEAN } else { "    let mean = 0.0;\n" };
        let text = format!(
            "{functions}{SPREAD}@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {{
    let place = group + group_base();
    let wanted = place.y * 65535u + place.x;
    let n = param.length;
    // Surplus workgroups repeat the last row: barriers must be met by all.
    let row = min(wanted, param.rows - 1u);
    let base = row * n;
{mean}    var squares = 0.0;
    for (var k = lane; k < n; k += THREADSu) {{ let d = x[base + k] - mean; squares += d * d; }}
    let inverse = 1.0 / sqrt(spread(lane, squares) / f32(n) + bitcast<f32>(param.epsilon));
    if (wanted >= param.rows) {{ return; }}
{statistics}    for (var k = lane; k < n; k += THREADSu) {{ y[base + k] = {value}; }}
}}"
        );
        let work = u64::try_from(self.count * self.length).unwrap_or(u64::MAX).saturating_mul(4);
        let threads = cx.tuning.row_threads(self.length);
        let text = text.replace("THREADS", &threads.to_string());
        let rounds = self.length.div_ceil(threads as usize).saturating_mul(3);
        cx.dispatch(
            kernel.text(&text).finish(),
            args,
            numbers,
            linear_groups(self.count),
            Effort::looping(work, rounds),
        );
        Ok(())
    }
}

const MEAN: &str = "    var sum = 0.0;
    for (var k = lane; k < n; k += THREADSu) { sum += x[base + k]; }
    let mean = spread(lane, sum) / f32(n);
";

/// Sums a number over the workgroup.
const SPREAD: &str = "var<workgroup> sums: array<f32, THREADS>;
fn spread(lane: u32, value: f32) -> f32 {
    workgroupBarrier();
    sums[lane] = value;
    workgroupBarrier();
    for (var half = THREADSu / 2u; half > 0u; half = half / 2u) {
        if (lane < half) { sums[lane] = sums[lane] + sums[lane + half]; }
        workgroupBarrier();
    }
    return sums[0];
}
";

fn infer_layer(node: &Node, inputs: Inputs<'_>) -> Result<Vec<ValueInfo>, OpError> {
    let x = inputs.at(0)?;
    if !x.dtype.is_float() {
        return Err(OpError::invalid(format!("it normalizes floats, not {}", x.dtype)));
    }
    let at = axis(node.attributes.int("axis", -1)?, x.rank())?;
    for input in [inputs.optional(1), inputs.optional(2)].into_iter().flatten() {
        if broadcast(&input.shape, &x.shape)? != x.shape {
            return Err(OpError::invalid("its scale or bias does not broadcast to its input"));
        }
    }
    let mut shape = x.shape.clone();
    shape[at..].fill(1);
    Ok(vec![
        ValueInfo::new(x.dtype, x.shape.clone()),
        ValueInfo::new(ElementType::F32, shape.clone()),
        ValueInfo::new(ElementType::F32, shape),
    ])
}

fn lower_layer(node: &Node, cx: &mut Lowering<'_>) -> Result<(), OpError> {
    let (x, y) = (cx.input(node, 0)?, cx.output(node, 0)?);
    let at = axis(node.attributes.int("axis", -1)?, x.shape.len())?;
    let centred = node.op == "LayerNormalization";
    let (mean, inverse) = if centred { (node.output(1), node.output(2)) } else { (None, node.output(1)) };
    Rows {
        y: y.arg,
        count: x.shape[..at].iter().product(),
        length: x.shape[at..].iter().product(),
        epsilon: node.attributes.float("epsilon", 1e-5)?,
        centred,
        shape: x.shape.clone(),
        scale: cx.optional_input(node, 1)?,
        bias: if centred { cx.optional_input(node, 2)? } else { None },
        mean: mean.map(|id| cx.place(id).arg),
        inverse: inverse.map(|id| cx.place(id).arg),
        x,
    }
    .lower(cx)
}

/// Infers the outputs; checks scale and bias: one number a channel, or (GroupNormalization before operator set 21) one a group.
fn infer_channels(node: &Node, inputs: Inputs<'_>) -> Result<Vec<ValueInfo>, OpError> {
    let x = inputs.at(0)?;
    let [_batch, channels, ..] = x.shape[..] else { return Err(OpError::invalid("it has no channels")) };
    let mut wanted = channels;
    if node.op == "GroupNormalization" {
        let groups = groups(node)?;
        if channels % groups != 0 {
            return Err(OpError::invalid(format!("{channels} channels do not divide into {groups} groups")));
        }
        wanted = if node.opset < 21 { groups } else { channels };
    }
    for at in 1..3 {
        if inputs.at(at)?.shape != [wanted] {
            return Err(OpError::invalid(format!("input {at} does not hold {wanted} numbers")));
        }
    }
    Ok(vec![ValueInfo::new(x.dtype, x.shape.clone())])
}

fn groups(node: &Node) -> Result<usize, OpError> {
    let stated = node.attributes.int("num_groups", 0)?;
    usize::try_from(stated)
        .ok()
        .filter(|&groups| groups > 0)
        .ok_or_else(|| OpError::invalid(format!("{stated} groups")))
}

fn lower_instance(node: &Node, cx: &mut Lowering<'_>) -> Result<(), OpError> {
    let x = cx.input(node, 0)?;
    let (count, length) = (x.shape[..2].iter().product(), x.shape[2..].iter().product());
    let shape = vec![x.shape[0], x.shape[1], length];
    lower_channels(node, cx, x, count, length, shape)
}

fn lower_group(node: &Node, cx: &mut Lowering<'_>) -> Result<(), OpError> {
    let x = cx.input(node, 0)?;
    let (batch, channels, groups) = (x.shape[0], x.shape[1], groups(node)?);
    let spatial: usize = x.shape[2..].iter().product();
    let length = channels / groups * spatial;
    let shape = if node.opset < 21 { vec![batch, groups, length] } else { vec![batch, channels, spatial] };
    lower_channels(node, cx, x, batch * groups, length, shape)
}

fn lower_channels(
    node: &Node,
    cx: &mut Lowering<'_>,
    x: Operand,
    count: usize,
    length: usize,
    shape: Vec<usize>,
) -> Result<(), OpError> {
    let y = cx.output(node, 0)?;
    let column = |operand: Operand| Operand { shape: vec![operand.shape[0], 1], ..operand };
    let (scale, bias) = (column(cx.input(node, 1)?), column(cx.input(node, 2)?));
    Rows {
        x,
        y: y.arg,
        count,
        length,
        epsilon: node.attributes.float("epsilon", 1e-5)?,
        centred: true,
        shape,
        scale: Some(scale),
        bias: Some(bias),
        mean: None,
        inverse: None,
    }
    .lower(cx)
}
