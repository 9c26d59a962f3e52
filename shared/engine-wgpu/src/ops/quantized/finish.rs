//! What happens to a finished integer sum before it is stored: nothing, scaling to a float, or requantising.

use super::Points;
use crate::error::OpError;
use crate::ir::{Node, ValueId};
use crate::lower::{Arg, KernelBuilder, Lowering, Operand, Params, Repr, element_groups};
use crate::ops::epilogue::{Epilogue, activation, helpers};

/// Conversion of a finished sum.
#[derive(Debug)]
pub(super) enum Finish {
    /// It is the answer.
    Integer,
    /// `sum * scale[channel] (+ bias[channel])`, then the node's epilogue.
    Float {
        /// Product of the operands' scales; one, or one a channel.
        scale: Operand,
        /// A second scale to multiply it with.
        second: Option<Operand>,
        /// Bias that is added after scaling.
        bias: Option<Operand>,
        /// Activation and residual of the node.
        epilogue: Epilogue,
    },
    /// `round((sum + bias[channel]) * multiplier[channel])` put into the output's type.
    Quantized {
        /// Operands' scales over the output's; one, or one a channel.
        multiplier: Operand,
        /// Added before, as an integer.
        bias: Option<Operand>,
        /// The output's zero point.
        point: Points,
        /// Smallest and largest value.
        limits: (i32, i32),
        /// Operation before the rounding; see [`Between`].
        between: Between,
    },
}

/// Operation on a value before it is requantised.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Between {
    /// No operation in between.
    Nothing,
    /// Negative values become zero, which needs no other scale.
    Relu,
    /// This expression of `x` in real numbers, with its two numbers; the multiplier leaves the output's scale out.
    Real {
        /// WGSL expression of `x`, `alpha` and `beta`.
        expression: &'static str,
        /// Values of `alpha` and `beta`.
        numbers: [f32; 2],
        /// Scale of the output values.
        scale: f32,
    },
}

impl Finish {
    /// Adds `fn finish(sum: i32, channel: u32, at: u32)`, its bindings and params.
    pub(super) fn add_to(
        &self,
        kernel: KernelBuilder,
        args: &mut Vec<Arg>,
        params: &mut Params,
    ) -> Result<KernelBuilder, OpError> {
        match self {
            Self::Integer => Ok(kernel.text("fn finish(sum: i32, channel: u32, at: u32) -> i32 { return sum; }")),
            Self::Float { scale, second, bias, epilogue } => {
                params.extend(epilogue.params().word("scale_step", step(scale)));
                let mut kernel = kernel.read("scale", scale.repr);
                args.push(scale.arg);
                let mut factor = "load_scale(channel * param.scale_step)".to_owned();
                if let Some(second) = second {
                    kernel = kernel.read("second", second.repr);
                    args.push(second.arg);
                    params.extend(Params::new().word("second_step", step(second)));
                    factor = format!("({factor} * load_second(channel * param.second_step))");
                }
                let mut sum = format!("f32(sum) * {factor}");
                if let Some(bias) = bias {
                    kernel = kernel.read("bias", bias.repr);
                    args.push(bias.arg);
                    params.extend(Params::new().word("bias_step", step(bias)));
                    sum = format!("{sum} + load_bias(channel * param.bias_step)");
                }
                let kernel = epilogue.add_to(kernel, args);
                Ok(kernel.text(&format!(
                    "fn finish(sum: i32, channel: u32, at: u32) -> f32 {{ return epilogue({sum}, at); }}"
                )))
            }
            Self::Quantized { multiplier, bias, point, limits, between } => {
                let mut kernel = kernel.read("multiplier", multiplier.repr);
                args.push(multiplier.arg);
                let (low, high) = *limits;
                let numbers = Params::new().word("multiplier_step", step(multiplier));
                params.extend(numbers.signed("low", low).signed("high", high));
                let mut total = "sum".to_owned();
                if let Some(bias) = bias {
                    kernel = kernel.read("bias", bias.repr);
                    args.push(bias.arg);
                    total = "(sum + load_bias(channel))".to_owned();
                }
                let point = match point {
                    Points::Uniform(value) => {
                        params.extend(Params::new().signed("out_point", *value));
                        "f32(bitcast<i32>(param.out_point))".to_owned()
                    }
                    Points::Bound(operand) => {
                        kernel = kernel.read("out_point", operand.repr);
                        args.push(operand.arg);
                        "f32(load_out_point(0u))".to_owned()
                    }
                };
                let between = between_text(*between, params);
                let helpers = helpers(&between);
                Ok(kernel.text(&format!(
                    "{helpers}fn finish(sum: i32, channel: u32, at: u32) -> i32 {{
    var x = f32({total}) * load_multiplier(channel * param.multiplier_step);
    {between}
    let low = f32(bitcast<i32>(param.low)); let high = f32(bitcast<i32>(param.high));
    return i32(clamp(round(x) + {point}, low, high));
}}"
                )))
            }
        }
    }
}

fn between_text(between: Between, params: &mut Params) -> String {
    match between {
        Between::Nothing => String::new(),
        Between::Relu => "x = max(x, 0.0);".to_owned(),
        Between::Real { expression, numbers, scale } => {
            let [alpha, beta] = numbers;
            params.extend(Params::new().float("alpha", alpha).float("beta", beta).float("out_scale", scale));
            format!(
                "let alpha = bitcast<f32>(param.alpha); let beta = bitcast<f32>(param.beta);
    x = {expression};
    x = x / bitcast<f32>(param.out_scale);"
            )
        }
    }
}

fn step(operand: &Operand) -> u32 {
    u32::from(operand.elements() > 1)
}

/// Reads how a node requantises: scales of both operands and of the output, its zero point, an `int32` bias.
///
/// # Errors
/// When one is missing or of the wrong size.
pub(super) fn requantise(
    cx: &mut Lowering<'_>,
    node: &Node,
    places: &Places,
    channels: usize,
) -> Result<Finish, OpError> {
    let dtype = node.output(0).map(|id| cx.info(id).dtype).ok_or_else(|| OpError::invalid("output 0 is missing"))?;
    let limits = super::limits(dtype)?;
    let attributes = &node.attributes;
    let between = match attributes.text("activation", "")? {
        "" => Between::Nothing,
        "Relu" => Between::Relu,
        name => {
            let expression =
                activation(name).ok_or_else(|| OpError::unsupported(format!("the activation {name:?}")))?;
            let numbers = [attributes.float("activation_alpha", 0.0)?, attributes.float("activation_beta", 0.0)?];
            let scale = node.input(places.y_scale).and_then(|id| constant(cx, id));
            let scale = scale.and_then(|values| values.first().copied());
            Between::Real { expression, numbers, scale: scale.ok_or(OpError::DataDependent(places.y_scale))? }
        }
    };
    let over = match between {
        Between::Real { .. } => None,
        Between::Nothing | Between::Relu => Some(places.y_scale),
    };
    let multiplier = multiplier(cx, node, places.a_scale, places.b_scale, over)?;
    super::check_channels(&multiplier.shape, channels)?;
    let bias = cx.optional_input(node, places.bias)?;
    if let Some(bias) = &bias
        && (bias.repr != Repr::I32 || bias.elements() != channels)
    {
        return Err(OpError::invalid("its bias is not one int32 a channel"));
    }
    let point = Points::of(node, cx, places.y_point)?;
    point.check(1)?;
    Ok(Finish::Quantized { multiplier, bias, point, limits, between })
}

/// Reads the scaling of `MatMulIntegerToFloat` and its kin: scales are inputs 2 and 3, the bias input 6, a residual input
/// 7.
///
/// # Errors
/// When one is of the wrong size.
pub(super) fn to_float(node: &Node, cx: &mut Lowering<'_>, channels: usize) -> Result<Finish, OpError> {
    let (a_scale, b_scale) = (cx.input(node, 2)?, cx.optional_input(node, 3)?);
    let bias = cx.optional_input(node, 6)?;
    let epilogue = Epilogue::of(node, cx, 7)?;
    floating(a_scale, b_scale, bias, epilogue, channels)
}

/// Scales by the product of two scales and adds a bias, each one or one a channel.
///
/// # Errors
/// When one is of the wrong size.
pub(super) fn floating(
    scale: Operand,
    second: Option<Operand>,
    bias: Option<Operand>,
    epilogue: Epilogue,
    channels: usize,
) -> Result<Finish, OpError> {
    for operand in [Some(&scale), second.as_ref(), bias.as_ref()].into_iter().flatten() {
        super::check_channels(&operand.shape, channels)?;
    }
    Ok(Finish::Float { scale, second, bias, epilogue })
}

/// Positions of the inputs that a requantisation reads.
#[derive(Debug, Clone, Copy)]
pub(super) struct Places {
    /// The left operand's scale.
    pub(super) a_scale: usize,
    /// The right operand's scale.
    pub(super) b_scale: usize,
    /// Scale of the output values.
    pub(super) y_scale: usize,
    /// The output's zero point.
    pub(super) y_point: usize,
    /// Position of the bias.
    pub(super) bias: usize,
}

/// `a[i] * b[i] / c`, each one value or one a channel: the multiplier of a requantisation.
///
/// Made once where all are constants, else by a small kernel in each run.
///
/// # Errors
/// When a scale does not fit the device.
pub(super) fn multiplier(
    cx: &mut Lowering<'_>,
    node: &Node,
    a: usize,
    b: usize,
    over: Option<usize>,
) -> Result<Operand, OpError> {
    let id = |at: usize| node.input(at).ok_or_else(|| OpError::invalid(format!("input {at} is missing")));
    let (first, second, third) = (id(a)?, id(b)?, over.map(id).transpose()?);
    let channels = cx.info(first).elements().max(cx.info(second).elements());
    let constants: Option<Vec<Vec<f32>>> =
        [Some(first), Some(second), third].into_iter().flatten().map(|id| constant(cx, id)).collect();
    if let Some(values) = constants {
        let at = |values: &[f32], i: usize| values.get(if values.len() == 1 { 0 } else { i }).copied().unwrap_or(0.0);
        let product = |i: usize| at(&values[0], i) * at(&values[1], i) / values.get(2).map_or(1.0, |over| at(over, 0));
        let words = (0..channels).map(|i| product(i).to_bits()).collect();
        let arg = cx.packed_weight(second, &format!("multiplier {first:?} {third:?}"), || Ok(words))?;
        return Ok(Operand { arg, repr: Repr::F32, shape: vec![channels] });
    }
    let (a, b, over) = (cx.operand(first)?, cx.operand(second)?, third.map(|id| cx.operand(id)).transpose()?);
    let out = cx.scratch(channels);
    let mut kernel = KernelBuilder::new("multiplier").read("a", a.repr).read("b", b.repr);
    let mut args = vec![a.arg, b.arg];
    let mut divide = "";
    if let Some(over) = &over {
        kernel = kernel.read("over", over.repr);
        args.push(over.arg);
        divide = " / load_over(0u)";
    }
    args.push(out);
    let text =
        format!("fn element(i: u32) -> f32 {{ return load_a(i * param.a_step) * load_b(i * param.b_step){divide}; }}");
    let params = Params::new().size("elements", channels)?.word("a_step", step(&a)).word("b_step", step(&b));
    let kernel = kernel.text(&text).element(Repr::F32);
    cx.dispatch(kernel, args, params, element_groups(channels, Repr::F32), channels as u64);
    Ok(Operand { arg: out, repr: Repr::F32, shape: vec![channels] })
}

fn constant(cx: &Lowering<'_>, id: ValueId) -> Option<Vec<f32>> {
    cx.constant(id).map(crate::ir::Literal::to_f32s)
}
