//! Random ONNX models with example inputs, from a seed, for comparing engines and for judging compression.
//!
//! A seed always produces the same bytes. Every model is valid ONNX that ONNX Runtime runs on its CPU. Values are kept
//! in a range where two correct engines agree: no discontinuous operator (`Floor`, `ArgMax`, a comparison) reads values
//! with rounding errors, except a quantization, for which [`RandomGraph::tolerance`] allows a step. Used by tests;
//! knows no engine.

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

/// Lowest operator set version that a model imports.
const OPSET_MIN: usize = 7;

/// Highest operator set version that a model imports.
const OPSET_MAX: usize = 23;

/// Number of example requests of each model.
const EXAMPLES: usize = 3;

/// Family of models that a seed selects from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Layers with float32 weights over a batch of independent rows: the models that are compressed.
    Layers,
    /// Any operator and element type: integers, quantized chains, branches, operators that mix rows.
    Any,
}

/// A random model and requests for it.
#[derive(Debug, Clone)]
pub struct RandomGraph {
    /// Seed of the model.
    pub seed: u64,
    /// Bytes of the model file.
    pub model: Vec<u8>,
    /// Example requests with all inputs each; a symbolic first dimension differs between them.
    pub examples: Vec<Vec<NamedTensor>>,
    /// Maximum difference of float outputs between two correct engines, relative to the largest value of the tensor.
    pub tolerance: f32,
    /// Share of the elements that may differ more, because a value between two quantization steps was rounded to the
    /// other one.
    pub outliers: f32,
    /// Operator set version and operators in order, for messages of tests.
    pub listing: String,
}

/// Generates the model of a seed.
#[must_use]
pub fn random(family: Family, seed: u64) -> RandomGraph {
    let mut random = Random::new(seed ^ family_salt(family));
    let opset = random.between(OPSET_MIN, OPSET_MAX);
    let mut builder = Builder::new(family, opset, random);
    builder.add_inputs();
    builder.add_operators();
    builder.finish(seed, EXAMPLES)
}

/// Returns bits that make the models of two families differ for the same seed.
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
