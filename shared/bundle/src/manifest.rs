//! The manifest of a bundle: the model, its inputs and outputs, its variants and their files.
//!
//! Written once by the packer, signed as a whole by its digest, then read by hub and devices. The text on disk is a
//! stable format: JSON in the order of the fields below, without white space, with no unknown field. There is exactly
//! one text for a manifest ([`Manifest::to_bytes`]); [`Manifest::parse`] accepts no other.

mod check;
mod guarantee;
pub mod regress;
pub mod score;
mod spec;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use types::policy::PolicyLayer;
use types::preprocess::InputRule;
use types::{EngineName, ModelName, Place, Signature, TensorSpec, VariantName, Version};

use crate::confidence::FEATURES;
use crate::file::FileRef;
pub use spec::{TensorEntry, write_dimensions};

/// Version of the schema that this code writes and reads.
pub const SCHEMA: u32 = 1;

/// Maximum size of a manifest in bytes.
///
/// A file of 2 GiB takes 150 kB of chunk digests; a dozen such variants and their goldens fit.
pub const MANIFEST_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Maximum number of variants of one version; a handful is usual: three precisions, two engines, two hosts.
pub const VARIANTS_MAX: usize = 32;

/// Maximum number of class names; ImageNet-21k has 21,841.
pub const LABELS_MAX: usize = 32_768;

/// Maximum length of a description in bytes; a paragraph, the model card contains more.
pub const TEXT_BYTES_MAX: usize = 4096;

/// Smallest temperature of a score: below it every answer is sure.
pub const TEMPERATURE_MIN: f32 = 0.01;

/// Largest temperature of a score: above it no answer is sure.
pub const TEMPERATURE_MAX: f32 = 100.0;

/// Maximum number of points of a calibration curve; more than a plot can show.
pub const CURVE_POINTS_MAX: usize = 1024;

/// Description of a version of a model, as its author released it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Version of the schema; always [`SCHEMA`].
    pub schema: u32,
    /// Name of the model.
    pub model: ModelName,
    /// Version of the model.
    pub version: Version,
    /// Task of the model, in one word (`classification`, `detection`, …).
    pub task: String,
    /// Description of the model in a sentence or two.
    pub description: String,
    /// Licence of the model as an SPDX expression.
    pub licence: String,
    /// Names of the classes, in the order of the scored output; empty if there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<String>,
    /// Inputs that a request must contain, in the order of the model file.
    #[serde(with = "spec")]
    pub inputs: Vec<TensorSpec>,
    /// Outputs that a response may contain, in the order of the model file.
    #[serde(with = "spec")]
    pub outputs: Vec<TensorSpec>,
    /// Rule for the score of a response; `None` if the model's responses cannot be scored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<ScoreRule>,
    /// The author's layer of the policy; `None` leaves it to the owner. Agents of 0.1.0 refuse a version that has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<PolicyLayer>,
    /// Preprocessing of inputs, by their names. Agents of 0.1.0 refuse a version that has any.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub preprocess: BTreeMap<String, InputRule>,
    /// Variants of this version, at least one.
    pub variants: Vec<Variant>,
}

/// Rule that computes the score of a response from one of its outputs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScoreRule {
    /// Kind of score that is computed.
    pub kind: ScoreKind,
    /// Name of the output that the score is computed from.
    pub output: String,
    /// Content of that output.
    pub from: ScoreFrom,
    /// Number of the dimension of the classes, from 0; a negative number counts from the end.
    ///
    /// Only for kinds of classes ([`ScoreKind::is_of_classes`]); `None` is the last dimension.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub axis: Option<i64>,
    /// Number, above 0, by which logits (or logarithms of probabilities) are divided before anything else; `None` is 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f32>,
    /// Bias and weights of the features of [`crate::confidence::features`]; present exactly for [`ScoreKind::Learned`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights: Option<[f32; FEATURES + 1]>,
}

impl ScoreRule {
    /// Creates the rule of a kind over an output, along its last dimension, at temperature 1 and without weights.
    #[must_use]
    pub fn new(kind: ScoreKind, output: &str, from: ScoreFrom) -> Self {
        Self { kind, output: output.to_owned(), from, axis: None, temperature: None, weights: None }
    }
}

/// Kinds of scores. Append only: an agent that does not know a kind refuses the version and keeps its present one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ScoreKind {
    /// Largest class probability, for responses with one class out of several.
    Top1Probability,
    /// Certainty of independent yes/no responses: each is `max(p, 1 - p)`, and the least certain one counts.
    Sigmoid,
    /// Largest probability of any detected box of an image. An image without a likely object has a low score: nothing in an
    /// output tells a sure "nothing here" from an object that was missed.
    BoxMaximum,
    /// Difference of the two largest class probabilities.
    Margin,
    /// One minus the entropy of the class probabilities over that of equal ones.
    Entropy,
    /// Logarithm of the sum of the exponentials of the logits, `e`, as `(1 + e / (1 + |e|)) / 2`.
    Energy,
    /// Logistic regression over features of the class probabilities; see [`crate::confidence::features`].
    Learned,
}

impl ScoreKind {
    /// Returns the name used in manifests and in `model.toml`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Top1Probability => "top1-probability",
            Self::Sigmoid => "sigmoid",
            Self::BoxMaximum => "box-maximum",
            Self::Margin => "margin",
            Self::Entropy => "entropy",
            Self::Energy => "energy",
            Self::Learned => "learned",
        }
    }

    /// Returns whether it is computed from one class out of several, along a dimension of classes.
    #[must_use]
    pub const fn is_of_classes(self) -> bool {
        match self {
            Self::Top1Probability | Self::Margin | Self::Entropy | Self::Energy | Self::Learned => true,
            Self::Sigmoid | Self::BoxMaximum => false,
        }
    }
}

/// Content of the scored output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ScoreFrom {
    /// Unnormalised scores, converted to probabilities by softmax over the classes, or by sigmoid for the other kinds.
    Logits,
    /// Probabilities that are used as they are.
    Probabilities,
}

/// Width of a variant's weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Precision {
    /// IEEE 754 single precision (32 bits).
    Fp32,
    /// IEEE 754 half precision (16 bits).
    Fp16,
    /// Upper 16 bits of an IEEE 754 single.
    Bf16,
    /// 8-bit integers, quantised.
    Int8,
    /// 4-bit integers, quantised.
    Int4,
    /// Several widths in one file.
    Mixed,
}

/// One form of a version: a model file and its properties.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Variant {
    /// Name of the variant, unique in the manifest.
    pub name: VariantName,
    /// Host on which the variant is meant to run.
    pub runs_on: Place,
    /// Engines that can run the variant, best first.
    pub engines: Vec<EngineName>,
    /// Width of the variant's weights.
    pub precision: Precision,
    /// Model file of the variant.
    pub file: FileRef,
    /// Golden file with inputs and expected outputs (safetensors); `None` if the author provided none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub golden: Option<FileRef>,
    /// Tolerance for differences from the golden outputs; present exactly if `golden` is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub golden_tolerance: Option<GoldenTolerance>,
    /// Rule for the score of this variant's responses, instead of that of the manifest: same output and content.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<ScoreRule>,
    /// Minimum score, 0 to 1, at which the device keeps its response; `None` without calibration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threshold: Option<f32>,
    /// Calibration that determined the threshold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calibration: Option<Calibration>,
    /// Preprocessing for this variant, by the names of inputs, instead of that of the manifest.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub preprocess: BTreeMap<String, InputRule>,
}

/// Tolerance for differences from the golden outputs; at least one of the two is set.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GoldenTolerance {
    /// Maximum absolute difference of any element of a floating-point output.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_abs: Option<f32>,
    /// Minimum share, 0 to 1, of rows whose largest element is at the same position.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top1: Option<f32>,
}

/// Curve from which a threshold was chosen (design §5).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Calibration {
    /// Number of examples that both models processed.
    pub examples: u32,
    /// Confidence of the bounds, 0 to 1.
    pub confidence: f32,
    /// Points of the curve, strictest threshold first.
    pub curve: Vec<CurvePoint>,
}

/// One threshold of a curve, with its effect.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CurvePoint {
    /// Minimum score at which a response is kept.
    pub threshold: f32,
    /// Share of responses that are kept.
    pub coverage: f32,
    /// Share of all responses that are kept and differ from the full model's.
    pub differing: f32,
    /// Upper bound of that share at the stated confidence.
    pub bound: f32,
}

/// Error: bytes are not a valid manifest.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// The manifest exceeds [`MANIFEST_BYTES_MAX`].
    #[error("a manifest of {0} bytes is over the limit of {MANIFEST_BYTES_MAX}")]
    TooLarge(usize),
    /// The text is not JSON, or a field is unknown, missing or of the wrong type.
    #[error("read manifest")]
    Json(#[source] serde_json::Error),
    /// The content is valid but not in the canonical form.
    #[error("manifest is not in canonical form: have `cloud-hub model push` write it")]
    NotCanonical,
    /// A field has an invalid value.
    #[error("{path}: {problem}")]
    Field {
        /// Path of the field, like `variants[1].file.size`.
        path: String,
        /// Fault of the field.
        problem: String,
    },
}

impl Manifest {
    /// Parses and checks a manifest.
    ///
    /// # Errors
    /// Fails if it is too long, not JSON of this schema, not in canonical form, or if [`Manifest::validate`] fails.
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        if bytes.len() > MANIFEST_BYTES_MAX {
            return Err(ManifestError::TooLarge(bytes.len()));
        }
        let manifest: Self = serde_json::from_slice(bytes).map_err(ManifestError::Json)?;
        if manifest.to_bytes()? != bytes {
            return Err(ManifestError::NotCanonical);
        }
        Ok(manifest)
    }

    /// Returns the canonical text of this manifest.
    ///
    /// # Errors
    /// Fails if [`Manifest::validate`] fails, or if the text would be too long.
    pub fn to_bytes(&self) -> Result<Vec<u8>, ManifestError> {
        self.validate()?;
        let bytes = serde_json::to_vec(self).map_err(ManifestError::Json)?;
        if bytes.len() > MANIFEST_BYTES_MAX {
            return Err(ManifestError::TooLarge(bytes.len()));
        }
        Ok(bytes)
    }

    /// Checks everything that the types do not express.
    ///
    /// # Errors
    /// Returns the first [`ManifestError::Field`], in the order of the fields.
    pub fn validate(&self) -> Result<(), ManifestError> {
        self.mistakes().into_iter().next().map_or(Ok(()), Err)
    }

    /// Returns all errors of [`Manifest::validate`], in the order of the fields, so that the author of a version can
    /// correct them all at once.
    #[must_use]
    pub fn mistakes(&self) -> Vec<ManifestError> {
        check::manifest(self)
    }

    /// Returns inputs and outputs together.
    #[must_use]
    pub fn signature(&self) -> Signature {
        Signature { inputs: self.inputs.clone(), outputs: self.outputs.clone() }
    }

    /// Returns the variant with this name.
    #[must_use]
    pub fn variant(&self, name: &VariantName) -> Option<&Variant> {
        self.variants.iter().find(|variant| variant.name == *name)
    }

    /// Returns the rule for the score of a variant's responses: its own, or that of the manifest.
    #[must_use]
    pub fn score_of<'a>(&'a self, variant: &'a Variant) -> Option<&'a ScoreRule> {
        variant.score.as_ref().or(self.score.as_ref())
    }

    /// Returns the preprocessing of a variant's inputs, by their names: its own, and that of the manifest for the others.
    #[must_use]
    pub fn preprocess_of(&self, variant: &Variant) -> BTreeMap<String, InputRule> {
        let mut rules = self.preprocess.clone();
        rules.extend(variant.preprocess.clone());
        rules
    }

    /// Returns the variants for a host, in the author's order.
    pub fn variants_for(&self, place: Place) -> impl Iterator<Item = &Variant> {
        self.variants.iter().filter(move |variant| variant.runs_on == place)
    }

    /// Returns every file of every variant, each name once.
    #[must_use]
    pub fn files(&self) -> Vec<&FileRef> {
        let mut files: Vec<&FileRef> = Vec::new();
        for file in self.variants.iter().flat_map(Variant::files) {
            if !files.iter().any(|known| known.name == file.name) {
                files.push(file);
            }
        }
        files
    }

    /// Returns the path under which the trust metadata lists the manifest of a version.
    #[must_use]
    pub fn target_path(model: &ModelName, version: Version) -> String {
        format!("{model}/{version}/{}", crate::file::MANIFEST_FILE)
    }
}

impl Variant {
    /// Returns the files that this variant needs: the model, then the golden file if there is one.
    pub fn files(&self) -> impl Iterator<Item = &FileRef> {
        std::iter::once(&self.file).chain(&self.golden)
    }
}
