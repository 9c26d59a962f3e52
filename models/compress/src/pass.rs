//! Table of the forms that can be asked for, and of the options that change how they are made.
//!
//! A pass describes itself here, once: its name, its form, what it is good for, the options that apply to it, its recipe, and the
//! recipes that a full trial (`--auto`) makes of it. The command line, `docs/compress.md` and [`crate::auto`] derive from this table.

mod knobs;
mod page;

use crate::auto::{Calibration, Form, GPTQ, Recipe};
use crate::half_precision::Format;
use crate::prune::magnitude::Pattern;
use crate::quality::Measure;
use crate::static_int8::Activations;
use crate::weight_only::{self, Bits};

pub use knobs::{Choice, KNOBS, Knob, Values};
pub use page::{options_table, passes_table};

/// Share of the weights or channels that pruning takes out by default.
pub const SPARSITY: f32 = 0.5;

/// Form that can be asked for by name.
#[derive(Debug)]
pub struct Pass {
    /// Name on the command line.
    pub name: &'static str,
    /// Form that it makes.
    pub form: Form,
    /// Form itself, in a sentence.
    pub about: &'static str,
    /// Kind of model and machine that gains by it.
    pub pays: &'static str,
    /// Names of the options that apply to it, among [`KNOBS`].
    pub options: &'static [&'static str],
    /// Makes its recipe of the options.
    pub recipe: fn(&Settings) -> Recipe,
    /// Recipes of it that a full trial makes.
    pub tried: fn() -> Vec<Recipe>,
    /// Plain form that a mixed one is searched from; `None` for other passes.
    pub searched_from: Option<Form>,
}

/// Values of all options.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Method that reads ranges of activations from the examples.
    pub calibration: Calibration,
    /// Integers that hold the activations.
    pub activations: Activations,
    /// Whether ranges are even around zero.
    pub symmetric: bool,
    /// Method that chooses codes; `None` takes the pass's own.
    pub rounding: Option<weight_only::Method>,
    /// Number of weights that share a scale.
    pub block: usize,
    /// Whether weights are written in standard operators instead of `MatMulNBits`.
    pub qdq: bool,
    /// Whether each output channel of a weight has its own scale.
    pub per_channel: bool,
    /// Whether weights use 7 bits.
    pub reduce_range: bool,
    /// Whether scale is moved between layers before rounding.
    pub equalize: bool,
    /// Whether biases are corrected by the mean error of rounding.
    pub correct_bias: bool,
    /// Pattern of zeros; `None` takes the smallest weights of each layer.
    pub pattern: Option<Pattern>,
    /// Share of the weights or channels that are taken out.
    pub sparsity: f32,
    /// Measure in which the sensitivity of layers is counted; `None` takes the finest that the answers allow.
    pub rank_by: Option<Measure>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            calibration: Calibration::Minmax,
            activations: Activations::U8,
            symmetric: false,
            rounding: None,
            block: weight_only::BLOCK,
            qdq: false,
            per_channel: true,
            reduce_range: false,
            equalize: false,
            correct_bias: false,
            pattern: None,
            sparsity: SPARSITY,
            rank_by: None,
        }
    }
}

impl Settings {
    fn static_int8(&self) -> Recipe {
        Recipe::StaticInt8 {
            per_channel: self.per_channel,
            calibration: self.calibration,
            activations: self.activations,
            symmetric: self.symmetric,
            reduce_range: self.reduce_range,
            equalize: self.equalize,
            correct_bias: self.correct_bias,
        }
    }

    /// Weights alone; by `method` unless an option names another.
    fn weights(&self, bits: Bits, method: weight_only::Method) -> Recipe {
        Recipe::WeightOnly {
            bits,
            method: self.rounding.unwrap_or(method),
            block: self.block,
            symmetric: self.symmetric,
            qdq: self.qdq,
        }
    }
}

const STATIC_OPTIONS: &[&str] = &[
    "calibration",
    "activations",
    "symmetric",
    "per-channel",
    "per-tensor",
    "reduce-range",
    "equalize",
    "correct-bias",
];
const WEIGHT_OPTIONS: &[&str] = &["symmetric", "rounding", "block-size", "weights-as-qdq"];

/// Passes in the order in which a full trial makes their forms.
pub const PASSES: &[Pass] = &[
    Pass {
        name: "int8-qdq",
        form: Form::Int8Qdq,
        about: "Weights and activations in 8 bits, with calibrated ranges",
        pays: "processors: the fastest form of a CNN. The default choice",
        options: STATIC_OPTIONS,
        recipe: Settings::static_int8,
        tried: || {
            let of = |per_channel, calibration| Settings { per_channel, calibration, ..Settings::default() };
            let by = |calibration| of(true, calibration);
            let seven_bits = Settings { reduce_range: true, ..Settings::default() };
            let refined = Settings { equalize: true, correct_bias: true, ..Settings::default() };
            let all = [of(false, Calibration::Minmax), by(Calibration::Minmax), by(Calibration::Percentile)];
            let others = [by(Calibration::Entropy), by(Calibration::Mse), seven_bits, refined];
            all.iter().chain(&others).map(Settings::static_int8).collect()
        },
        searched_from: None,
    },
    Pass {
        name: "int8-mixed",
        form: Form::Int8Mixed,
        about: "As int8-qdq, with the layers in float that lose most by it",
        pays: "where `int8-qdq` loses too much",
        options: &[
            "calibration",
            "activations",
            "symmetric",
            "per-channel",
            "per-tensor",
            "reduce-range",
            "equalize",
            "correct-bias",
            "rank-by",
        ],
        // The mixed form is searched when the plain one, made first, loses too much.
        recipe: Settings::static_int8,
        tried: Vec::new,
        searched_from: Some(Form::Int8Qdq),
    },
    Pass {
        name: "int8-dynamic",
        form: Form::Int8Dynamic,
        about: "Weights in 8 bits, activations quantized at run time",
        pays: "transformers on processors; CNNs are often *slower* with it than in fp32",
        options: &["per-channel", "per-tensor", "reduce-range"],
        recipe: |settings| Recipe::DynamicInt8 {
            per_channel: settings.per_channel,
            convolutions: true,
            reduce_range: settings.reduce_range,
        },
        tried: || {
            let with = |convolutions| Recipe::DynamicInt8 { per_channel: true, convolutions, reduce_range: false };
            vec![with(false), with(true)]
        },
        searched_from: None,
    },
    Pass {
        name: "int8-weights",
        form: Form::Int8Weights,
        about: "Weights alone in 8 bits; computed with in float",
        pays: "large matrices: language models, embeddings; slow links and small disks",
        options: WEIGHT_OPTIONS,
        recipe: |settings| settings.weights(Bits::Eight, weight_only::Method::Rtn),
        tried: || vec![Settings::default().weights(Bits::Eight, weight_only::Method::Rtn)],
        searched_from: None,
    },
    Pass {
        name: "int4-weights",
        form: Form::Int4Weights,
        about: "Weights alone in 4 bits; computed with in float",
        pays: "as `int8-weights`, at half the size",
        options: WEIGHT_OPTIONS,
        recipe: |settings| settings.weights(Bits::Four, GPTQ),
        tried: || [weight_only::Method::Rtn, GPTQ].map(|way| Settings::default().weights(Bits::Four, way)).to_vec(),
        searched_from: None,
    },
    Pass {
        name: "int4-mixed",
        form: Form::Int4Mixed,
        about: "As int4-weights, with the layers in float that lose most by it",
        pays: "where `int4-weights` loses too much",
        options: &["symmetric", "rounding", "block-size", "weights-as-qdq", "rank-by"],
        recipe: |settings| settings.weights(Bits::Four, GPTQ),
        tried: Vec::new,
        searched_from: Some(Form::Int4Weights),
    },
    Pass {
        name: "fp16",
        form: Form::Fp16,
        about: "Weights and computation in half precision",
        pays: "GPUs. On processors it saves bytes, not time",
        options: &[],
        recipe: |_settings| Recipe::Half { format: Format::Float16 },
        tried: || [Format::Float16, Format::Float16Weights].map(|format| Recipe::Half { format }).to_vec(),
        searched_from: None,
    },
    Pass {
        name: "bf16",
        form: Form::Bf16,
        about: "Weights stored in bf16, computed with in fp32",
        pays: "half the bytes with the range of fp32",
        options: &[],
        recipe: |_settings| Recipe::Half { format: Format::Bfloat16Weights },
        tried: Vec::new,
        searched_from: None,
    },
    Pass {
        name: "prune",
        form: Form::Pruned,
        about: "The smallest weights set to zero",
        pays: "never tried by `--auto`: it changes what the model computes far more, and wants retraining",
        options: &["pattern", "sparsity"],
        recipe: |settings| Recipe::PruneWeights {
            pattern: settings.pattern.unwrap_or(Pattern::PerLayer(settings.sparsity)),
        },
        tried: Vec::new,
        searched_from: None,
    },
    Pass {
        name: "prune-channels",
        form: Form::Pruned,
        about: "The weakest channels removed",
        pays: "never tried by `--auto`, as `prune`",
        options: &["sparsity"],
        recipe: |settings| Recipe::PruneChannels { share: settings.sparsity },
        tried: Vec::new,
        searched_from: None,
    },
];

/// Returns the pass of this name.
#[must_use]
pub fn named(name: &str) -> Option<&'static Pass> {
    PASSES.iter().find(|pass| pass.name == name)
}

/// Returns the recipes of a full trial. Pruning changes what a model computes far more, and is never tried unasked.
#[must_use]
pub fn all_recipes() -> Vec<Recipe> {
    PASSES.iter().flat_map(|pass| (pass.tried)()).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_recipe_has_a_name_of_its_own_that_begins_with_its_form() {
        let recipes = all_recipes();
        let names: BTreeSet<String> = recipes.iter().map(Recipe::name).collect();
        assert_eq!(names.len(), recipes.len());
        assert!(recipes.iter().all(|recipe| recipe.name().starts_with(recipe.form().as_str())));
    }

    #[test]
    fn every_pass_makes_its_form_and_every_option_applies_to_a_pass() {
        let applied: BTreeSet<&str> = PASSES.iter().flat_map(|pass| pass.options).copied().collect();
        let known: BTreeSet<&str> = KNOBS.iter().map(|knob| knob.name).collect();
        assert_eq!(applied, known);
        for pass in PASSES {
            assert!(named(pass.name).is_some_and(|found| std::ptr::eq(found, pass)));
            let made = (pass.recipe)(&Settings::default()).form();
            assert_eq!(made, pass.searched_from.unwrap_or(pass.form), "{}", pass.name);
            assert_eq!(pass.searched_from.and_then(Form::mixed).unwrap_or(pass.form), pass.form, "{}", pass.name);
            assert!((pass.tried)().iter().all(|recipe| recipe.form() == pass.form), "{}", pass.name);
        }
    }
}
