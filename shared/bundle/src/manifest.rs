//! What a bundle says about itself: the model, its inputs and outputs, its variants and their files.
//!
//! Written once by the packer, signed as a whole by its digest, then read by hub and devices. The text on disk is a
//! treaty: JSON in the order of the fields below, without white space, every field known. There is exactly one text
//! for a manifest ([`Manifest::to_bytes`]); [`Manifest::parse`] takes no other.

mod check;
pub mod regress;
pub mod score;
mod spec;

use serde::{Deserialize, Serialize};
use types::{EngineName, ModelName, Place, Signature, TensorSpec, VariantName, Version};

use crate::file::FileRef;
pub use spec::{TensorEntry, write_dimensions};

/// The schema this code writes and reads.
pub const SCHEMA: u32 = 1;

/// Longest manifest in bytes.
///
/// A file of 2 GiB takes 150 kB of chunk digests; a dozen such variants and their goldens fit.
pub const MANIFEST_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Most variants of one version; a handful is usual: three precisions, two engines, two places.
pub const VARIANTS_MAX: usize = 32;

/// Most class names; ImageNet-21k has 21,841.
pub const LABELS_MAX: usize = 32_768;

/// Longest description in bytes; a paragraph, the model card holds more.
pub const TEXT_BYTES_MAX: usize = 4096;

/// Most points of a calibration curve; more than can be told apart on a plot.
pub const CURVE_POINTS_MAX: usize = 1024;

/// A version of a model, as its author released it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Layout of this text; always [`SCHEMA`].
    pub schema: u32,
    /// The model.
    pub model: ModelName,
    /// The version.
    pub version: Version,
    /// What the model does, in one word (`classification`, `detection`, …).
    pub task: String,
    /// What it is, in a sentence or two.
    pub description: String,
    /// SPDX expression of its licence.
    pub licence: String,
    /// Names of the classes, in the order of the scored output; empty when there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<String>,
    /// What a request must bring, in the order of the model file.
    #[serde(with = "spec")]
    pub inputs: Vec<TensorSpec>,
    /// What an answer may hold, in the order of the model file.
    #[serde(with = "spec")]
    pub outputs: Vec<TensorSpec>,
    /// How sure an answer is; `None` when the model's answers cannot be scored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<ScoreRule>,
    /// The forms this version comes in, at least one.
    pub variants: Vec<Variant>,
}

/// The rule that computes the score of an answer from one of its outputs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScoreRule {
    /// Figure that is computed.
    pub kind: ScoreKind,
    /// Name of the output it is computed from.
    pub output: String,
    /// Content of that output.
    pub from: ScoreFrom,
    /// Number of the dimension that holds the classes, from 0; a negative number counts from the end.
    ///
    /// Only for [`ScoreKind::Top1Probability`]; `None` is the last dimension.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub axis: Option<i64>,
}

/// The figures an answer can be scored by. Append only: an agent that does not know one refuses the version and keeps
/// the one it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ScoreKind {
    /// The largest class probability, of answers with one class out of several.
    Top1Probability,
    /// The certainty of independent yes/no answers: each is `max(p, 1 - p)`, and the least certain one counts.
    Sigmoid,
    /// The largest probability of any box of an image, of detections. An image without a likely object has a low score.
    BoxMaximum,
}

impl ScoreKind {
    /// The name in manifests and in `model.toml`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Top1Probability => "top1-probability",
            Self::Sigmoid => "sigmoid",
            Self::BoxMaximum => "box-maximum",
        }
    }
}

/// The content of the scored output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ScoreFrom {
    /// Unnormalised scores: softmax over the classes, or sigmoid for the other kinds, makes them probabilities.
    Logits,
    /// Probabilities.
    Probabilities,
}

/// Width of a variant's weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Precision {
    /// IEEE 754 single.
    Fp32,
    /// IEEE 754 half.
    Fp16,
    /// The upper half of an IEEE 754 single.
    Bf16,
    /// 8-bit integers.
    Int8,
    /// 4-bit integers.
    Int4,
    /// Several of them.
    Mixed,
}

/// One form of a version.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Variant {
    /// Its name, unique in the manifest.
    pub name: VariantName,
    /// Where it is meant to run.
    pub runs_on: Place,
    /// What can run it, best first.
    pub engines: Vec<EngineName>,
    /// Width of its weights.
    pub precision: Precision,
    /// The model file.
    pub file: FileRef,
    /// Inputs with the answers they must give (safetensors); `None` when the author gave none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub golden: Option<FileRef>,
    /// How far an answer may be from the golden one; there exactly when `golden` is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub golden_tolerance: Option<GoldenTolerance>,
    /// Least score, 0 to 1, at which the device keeps its answer; `None` when it was never calibrated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threshold: Option<f32>,
    /// Where the threshold comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calibration: Option<Calibration>,
}

/// How far an answer may be from the golden one; at least one of the two is set.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GoldenTolerance {
    /// Largest absolute difference of any element of a floating-point output.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_abs: Option<f32>,
    /// Least share, 0 to 1, of rows whose largest element stands at the same place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top1: Option<f32>,
}

/// The curve a threshold was read from (design §5).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Calibration {
    /// Examples that were answered by both models.
    pub examples: u32,
    /// Confidence of the bounds, 0 to 1.
    pub confidence: f32,
    /// The curve, strictest threshold first.
    pub curve: Vec<CurvePoint>,
}

/// One threshold and what it would do.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CurvePoint {
    /// Least score at which an answer is kept.
    pub threshold: f32,
    /// Share of answers that are kept.
    pub coverage: f32,
    /// Share of all answers that are kept and differ from the full model's.
    pub differing: f32,
    /// Upper bound of that share at the stated confidence.
    pub bound: f32,
}

/// Why bytes are not a manifest.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Longer than any manifest may be.
    #[error("a manifest of {0} bytes is over the limit of {MANIFEST_BYTES_MAX}")]
    TooLarge(usize),
    /// No JSON, a field that is unknown, missing or of the wrong type.
    #[error("read manifest")]
    Json(#[source] serde_json::Error),
    /// The right content in another text than the one that is agreed on.
    #[error("manifest is not in canonical form: have `cloud-hub model push` write it")]
    NotCanonical,
    /// A field holds what it must not.
    #[error("{path}: {problem}")]
    Field {
        /// Where, like `variants[1].file.size`.
        path: String,
        /// What is wrong there.
        problem: String,
    },
}

impl Manifest {
    /// Reads and checks a manifest.
    ///
    /// # Errors
    /// When it is too long, not JSON of this schema, not in canonical form, or when [`Manifest::validate`] objects.
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

    /// The one text of this manifest.
    ///
    /// # Errors
    /// When [`Manifest::validate`] objects, or when the text would be too long.
    pub fn to_bytes(&self) -> Result<Vec<u8>, ManifestError> {
        self.validate()?;
        let bytes = serde_json::to_vec(self).map_err(ManifestError::Json)?;
        if bytes.len() > MANIFEST_BYTES_MAX {
            return Err(ManifestError::TooLarge(bytes.len()));
        }
        Ok(bytes)
    }

    /// Checks everything that the types do not say.
    ///
    /// # Errors
    /// The first [`ManifestError::Field`], in the order of the fields.
    pub fn validate(&self) -> Result<(), ManifestError> {
        self.mistakes().into_iter().next().map_or(Ok(()), Err)
    }

    /// Returns everything that [`Manifest::validate`] objects to, in the order of the fields: for the author of a version,
    /// who wants to correct it all at once.
    #[must_use]
    pub fn mistakes(&self) -> Vec<ManifestError> {
        check::manifest(self)
    }

    /// Inputs and outputs together.
    #[must_use]
    pub fn signature(&self) -> Signature {
        Signature { inputs: self.inputs.clone(), outputs: self.outputs.clone() }
    }

    /// The variant of that name.
    #[must_use]
    pub fn variant(&self, name: &VariantName) -> Option<&Variant> {
        self.variants.iter().find(|variant| variant.name == *name)
    }

    /// The variants meant for a place, in the author's order.
    pub fn variants_for(&self, place: Place) -> impl Iterator<Item = &Variant> {
        self.variants.iter().filter(move |variant| variant.runs_on == place)
    }

    /// Every file of every variant, each name once.
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

    /// Where the trust metadata lists the manifest of a version.
    #[must_use]
    pub fn target_path(model: &ModelName, version: Version) -> String {
        format!("{model}/{version}/{}", crate::file::MANIFEST_FILE)
    }
}

impl Variant {
    /// The files this variant needs: the model, then the golden file if there is one.
    pub fn files(&self) -> impl Iterator<Item = &FileRef> {
        std::iter::once(&self.file).chain(&self.golden)
    }
}
