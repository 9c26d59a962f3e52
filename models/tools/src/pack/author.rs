//! `model.toml` as the author writes it; see the module above for its fields.

use bundle::manifest::{Precision, TensorEntry, write_dimensions};
use bundle::{Manifest, ScoreRule, Variant};
use serde::Deserialize;
use types::{EngineName, ModelName, Place, TensorSpec, VariantName, Version};

/// The form.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AuthorModel {
    schema: Schema,
    model: ModelName,
    version: Version,
    task: String,
    description: String,
    licence: String,
    #[serde(default)]
    labels: Vec<String>,
    #[serde(rename = "input")]
    inputs: Vec<TensorEntry>,
    #[serde(rename = "output")]
    outputs: Vec<TensorEntry>,
    score: Option<ScoreRule>,
    #[serde(rename = "variant")]
    pub(super) variants: Vec<AuthorVariant>,
}

/// The layout of the form, of which there is one.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(try_from = "u32")]
struct Schema;

impl TryFrom<u32> for Schema {
    type Error = String;
    fn try_from(number: u32) -> Result<Self, String> {
        if number == 1 { Ok(Self) } else { Err(format!("schema must be 1, not {number}")) }
    }
}

/// A `[[variant]]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AuthorVariant {
    pub(super) name: VariantName,
    pub(super) runs_on: Place,
    pub(super) engines: Vec<EngineName>,
    pub(super) precision: Precision,
    pub(super) file: String,
    pub(super) threshold: Option<f32>,
    pub(super) calibration: Option<String>,
    pub(super) golden: Option<AuthorGolden>,
}

/// A `[variant.golden]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AuthorGolden {
    pub(super) file: String,
    pub(super) max_abs: Option<f32>,
    pub(super) top1: Option<f32>,
}

impl AuthorModel {
    /// The manifest, once its variants are packed.
    pub(super) fn into_manifest(self, schema: u32, variants: Vec<Variant>) -> Manifest {
        let Self { schema: Schema, model, version, task, description, licence, labels, inputs, outputs, score, .. } =
            self;
        let specs = |entries: Vec<TensorEntry>| {
            let mut specs: Vec<TensorSpec> = entries.into_iter().map(TensorSpec::from).collect();
            write_dimensions(&mut specs);
            specs
        };
        Manifest {
            schema,
            model,
            version,
            task,
            description,
            licence,
            labels,
            inputs: specs(inputs),
            outputs: specs(outputs),
            score,
            variants,
        }
    }
}
