//! Random ONNX models with example inputs, from a seed: for comparing engines and for judging compression forms.
//!
//! A seed always gives the same bytes. Every model is valid ONNX that ONNX Runtime runs on its CPU. Values are kept in a range where
//! two correct engines agree: no operator with a jump (`Floor`, `ArgMax`, a comparison) reads what rounding errors reach,
//! unless it is a quantization, for which [`RandomGraph::tolerance`] allows a step. Fed by tests; knows no engine.

mod branches;
mod builder;
mod floats;
mod integers;
mod layers;
mod movement;
mod quantized;
mod random;
mod rare;
mod write;

use types::NamedTensor;

use builder::Builder;
pub use random::Random;
pub use write::with_named_subgraphs;

/// Lowest operator set that a model imports.
const OPSET_MIN: usize = 7;

/// Highest operator set that a model imports.
const OPSET_MAX: usize = 23;

/// Requests that each model comes with.
const EXAMPLES: usize = 3;

/// The family of models that a seed is taken from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Layers with float32 weights over a batch of rows, each row answered by itself: the models that are compressed.
    Layers,
    /// Any operator and element type: integers, quantized chains, branches, operators that mix rows.
    Any,
}

/// A random model and requests for it.
#[derive(Debug, Clone)]
pub struct RandomGraph {
    /// The seed that it was made from.
    pub seed: u64,
    /// The model file.
    pub model: Vec<u8>,
    /// Requests with all inputs each; the first dimension of an input that is symbolic differs between them.
    pub examples: Vec<Vec<NamedTensor>>,
    /// Relative error of float outputs that two correct engines may differ by, of the largest value of the tensor.
    pub tolerance: f32,
    /// Share of the elements that may differ more, because a value between two steps of a quantization was rounded to the other one.
    pub outliers: f32,
    /// Operator set and operators in order, for messages of tests.
    pub listing: String,
}

/// Makes the model of a seed.
#[must_use]
pub fn random(family: Family, seed: u64) -> RandomGraph {
    let mut random = Random::new(seed ^ family_salt(family));
    let opset = random.between(OPSET_MIN, OPSET_MAX);
    let mut builder = Builder::new(family, opset, random);
    builder.add_inputs();
    builder.add_operators();
    builder.finish(seed, EXAMPLES)
}

/// Bits that make the models of two families differ at the same seed.
const fn family_salt(family: Family) -> u64 {
    match family {
        Family::Layers => 0x6c61_7965_7273,
        Family::Any => 0x616e_7900,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_always_gives_the_same_model() {
        for family in [Family::Layers, Family::Any] {
            for seed in 0..50 {
                let (a, b) = (random(family, seed), random(family, seed));
                assert_eq!((&a.model, &a.examples), (&b.model, &b.examples), "{family:?} {seed}");
                assert_eq!(a.examples.len(), EXAMPLES);
            }
        }
    }

    #[test]
    fn seeds_reach_every_operator_set_and_many_operators() {
        let listings: Vec<String> = (0..400).map(|seed| random(Family::Any, seed).listing).collect();
        for opset in OPSET_MIN..=OPSET_MAX {
            let prefix = format!("opset {opset}:");
            assert!(listings.iter().any(|listing| listing.starts_with(&prefix)), "no model of operator set {opset}");
        }
        for operator in
            ["Conv", "MatMul", "If", "QuantizeLinear", "Gather", "CumSum", "Reshape", "Where", "MatMulInteger"]
        {
            assert!(listings.iter().any(|listing| listing.contains(operator)), "no model with {operator}");
        }
    }
}
