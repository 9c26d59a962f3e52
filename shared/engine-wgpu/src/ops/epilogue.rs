//! What a heavy kernel does with a finished sum before it stores it: bias, residual, activation.
//!
//! Fusion passes put these on own-domain nodes (`sanderling::Conv`, `sanderling::MatMul`); the plain ONNX operators have none.
//!
//! | attribute | meaning |
//! |---|---|
//! | `activation` | one of the names in [`activation`]; left out: none |
//! | `activation_alpha`, `activation_beta` | its two numbers (`Clip`: lower and upper bound) |
//! | `residual_last` | 1: `activation(sum + bias) + residual`; 0, the default: `activation(sum + bias + residual)` |

use crate::error::OpError;
use crate::ir::Node;
use crate::lower::{Arg, KernelBuilder, Lowering, Operand, Params, Repr};

/// The WGSL expression of `x`, `alpha` and `beta` for an activation's ONNX name; `None` for names that are not fused.
///
/// Comparisons are written so that NaN stays NaN (`max(NaN, 0.0)` is 0 on some drivers).
#[must_use]
pub(crate) fn activation(name: &str) -> Option<&'static str> {
    Some(match name {
        "Relu" => "select(x, 0.0, x < 0.0)",
        "LeakyRelu" => "select(x, alpha * x, x < 0.0)",
        "Clip" => "select(select(x, alpha, x < alpha), beta, x > beta)",
        "Sigmoid" => "1.0 / (1.0 + exp(-x))",
        // tanh overflows on some drivers; beyond 15 it is 1 in f32.
        "Tanh" => "tanh(clamp(x, -15.0, 15.0))",
        "HardSigmoid" => "clamp(alpha * x + beta, 0.0, 1.0)",
        "HardSwish" => "x * clamp(x / 6.0 + 0.5, 0.0, 1.0)",
        "Silu" => "x / (1.0 + exp(-x))",
        "Elu" => "select(x, alpha * (exp(x) - 1.0), x < 0.0)",
        "Softplus" => "max(x, 0.0) + log(1.0 + exp(-abs(x)))",
        "Mish" => "x * tanh(min(max(x, 0.0) + log(1.0 + exp(-abs(x))), 15.0))",
        "Gelu" => "0.5 * x * (1.0 + erf_of(x * 0.70710678118))",
        "GeluTanh" => "0.5 * x * (1.0 + tanh(clamp(0.7978845608 * (x + 0.044715 * x * x * x), -15.0, 15.0)))",
        _ => return None,
    })
}

/// Returns the functions that expressions of [`activation`] call, as WGSL: every kernel with such an expression needs them.
#[must_use]
pub(crate) fn helpers(expressions: &str) -> &'static str {
    if expressions.contains("erf_of(") { ERF } else { "" }
}

/// Abramowitz and Stegun 7.1.26: absolute error below 1.5e-7.
const ERF: &str = "fn erf_of(x: f32) -> f32 {
    let t = 1.0 / (1.0 + 0.3275911 * abs(x));
    let p = ((((1.061405429 * t - 1.453152027) * t + 1.421413741) * t - 0.284496736) * t + 0.254829592) * t;
    return sign(x) * (1.0 - p * exp(-x * x));
}
";

/// The epilogue of one node.
#[derive(Debug, Clone)]
pub(crate) struct Epilogue {
    activation: Option<&'static str>,
    alpha: f32,
    beta: f32,
    residual: Option<Operand>,
    residual_last: bool,
}

impl Epilogue {
    /// Leaves each sum as it is.
    pub(crate) const NONE: Self =
        Self { activation: None, alpha: 0.0, beta: 0.0, residual: None, residual_last: false };

    /// Reads a node's attributes; the residual is the input at `residual_at`, if given.
    ///
    /// # Errors
    /// When the activation has no such name, or the residual is not shaped like the output.
    pub(crate) fn of(node: &Node, cx: &mut Lowering<'_>, residual_at: usize) -> Result<Self, OpError> {
        let attributes = &node.attributes;
        let activation = match attributes.text("activation", "")? {
            "" => None,
            name => Some(
                activation(name)
                    .ok_or_else(|| OpError::unsupported(format!("the activation {name:?} is not fused")))?,
            ),
        };
        let residual = cx.optional_input(node, residual_at)?;
        if let Some(residual) = &residual
            && (residual.repr != Repr::F32 || residual.shape != cx.output(node, 0)?.shape)
        {
            return Err(OpError::invalid("its residual is not shaped like its output"));
        }
        Ok(Self {
            activation,
            alpha: attributes.float("activation_alpha", 0.0)?,
            beta: attributes.float("activation_beta", 0.0)?,
            residual,
            residual_last: attributes.flag("residual_last", false)?,
        })
    }

    /// Returns the numbers that the text reads.
    pub(crate) fn params(&self) -> Params {
        Params::new().float("activation_alpha", self.alpha).float("activation_beta", self.beta)
    }

    /// Adds `fn epilogue(value: f32, at: u32) -> f32` to a kernel, `at` being the flat index in the output, and the
    /// residual's binding.
    pub(crate) fn add_to(&self, kernel: KernelBuilder, args: &mut Vec<Arg>) -> KernelBuilder {
        let mut kernel = kernel;
        let mut body = String::from("    var x = value;\n");
        let add = "    x = x + load_residual(at);\n";
        if let Some(residual) = &self.residual {
            kernel = kernel.read("residual", residual.repr);
            args.push(residual.arg);
            if !self.residual_last {
                body.push_str(add);
            }
        }
        if let Some(expression) = self.activation {
            body.push_str(&format!(
                "    let alpha = bitcast<f32>(param.activation_alpha);
    let beta = bitcast<f32>(param.activation_beta);\n    x = {expression};\n"
            ));
        }
        if self.residual.is_some() && self.residual_last {
            body.push_str(add);
        }
        let helpers = self.activation.map_or("", helpers);
        kernel.text(&format!("{helpers}fn epilogue(value: f32, at: u32) -> f32 {{\n{body}    return x;\n}}"))
    }
}
