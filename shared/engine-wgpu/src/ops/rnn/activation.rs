//! The activations that recurrent cells name in their attributes.

use crate::error::OpError;
use crate::ir::{Attribute, Node};

/// One activation with its two numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Activation {
    /// WGSL expression of `x`, `alpha` and `beta`.
    pub(super) expression: &'static str,
    pub(super) alpha: f32,
    pub(super) beta: f32,
}

impl Activation {
    /// The activations of all directions in order: the attribute's, else the cell's defaults for each direction.
    ///
    /// # Errors
    /// When there are too few or one has no such name.
    pub(super) fn all(node: &Node, defaults: &[&str], directions: usize) -> Result<Vec<Self>, OpError> {
        let named: Vec<String> = match node.attributes.find("activations") {
            Some(Attribute::Texts(names)) => names.clone(),
            Some(_other) => return Err(OpError::invalid("activations should be a list of texts")),
            None => defaults.iter().cycle().take(defaults.len() * directions).map(ToString::to_string).collect(),
        };
        if named.len() != defaults.len() * directions {
            return Err(OpError::invalid(format!("it names {} activations", named.len())));
        }
        let mut alphas = node.attributes.floats("activation_alpha")?.unwrap_or_default().iter();
        let mut betas = node.attributes.floats("activation_beta")?.unwrap_or_default().iter();
        let mut one = |name: &String| {
            let (expression, alpha, beta) = known(name)?;
            // Only activations that have numbers take one from the lists.
            let alpha = alpha.map_or(0.0, |default| alphas.next().copied().unwrap_or(default));
            let beta = beta.map_or(0.0, |default| betas.next().copied().unwrap_or(default));
            Ok(Self { expression, alpha, beta })
        };
        named.iter().map(&mut one).collect()
    }
}

type Known = (&'static str, Option<f32>, Option<f32>);

/// Expression and default numbers, where it has any.
fn known(name: &str) -> Result<Known, OpError> {
    Ok(match name.to_ascii_lowercase().as_str() {
        "relu" => ("select(x, 0.0, x < 0.0)", None, None),
        "tanh" => ("tanh(clamp(x, -15.0, 15.0))", None, None),
        "sigmoid" => ("1.0 / (1.0 + exp(-x))", None, None),
        "affine" => ("alpha * x + beta", Some(1.0), Some(0.0)),
        "leakyrelu" => ("select(x, alpha * x, x < 0.0)", Some(0.01), None),
        "thresholdedrelu" => ("select(0.0, x, x > alpha)", Some(1.0), None),
        "scaledtanh" => ("alpha * tanh(clamp(beta * x, -15.0, 15.0))", Some(1.0), Some(1.0)),
        "hardsigmoid" => ("clamp(alpha * x + beta, 0.0, 1.0)", Some(0.2), Some(0.5)),
        "elu" => ("select(x, alpha * (exp(x) - 1.0), x < 0.0)", Some(1.0), None),
        "softsign" => ("x / (1.0 + abs(x))", None, None),
        "softplus" => ("max(x, 0.0) + log(1.0 + exp(-abs(x)))", None, None),
        _ => return Err(OpError::unsupported(format!("the activation {name:?}"))),
    })
}
