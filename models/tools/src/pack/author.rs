//! `model.toml` as the author writes it; see the module above for its fields.

use std::collections::BTreeMap;

use bundle::manifest::score::{self, Verdict};
use bundle::manifest::{Precision, SCHEMA, TensorEntry, write_dimensions};
use bundle::{FileRef, GoldenTolerance, Manifest, ManifestError, ScoreRule, Variant};
use config::{Mistakes, Validate};
use serde::Deserialize;
use types::policy::PolicyLayer;
use types::preprocess::InputRule;
use types::{EngineName, ModelName, Place, TensorSpec, VariantName, Version};

/// Content of the form.
#[derive(Debug, Clone, Deserialize)]
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
    policy: Option<PolicyLayer>,
    #[serde(default)]
    preprocess: BTreeMap<String, InputRule>,
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

/// One `[[variant]]` of the form.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AuthorVariant {
    pub(super) name: VariantName,
    pub(super) runs_on: Place,
    pub(super) engines: Vec<EngineName>,
    pub(super) precision: Precision,
    pub(super) file: String,
    pub(super) score: Option<ScoreRule>,
    pub(super) threshold: Option<f32>,
    pub(super) calibration: Option<String>,
    pub(super) golden: Option<AuthorGolden>,
    #[serde(default)]
    pub(super) preprocess: BTreeMap<String, InputRule>,
}

/// The `[variant.golden]` of a variant.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AuthorGolden {
    pub(super) file: String,
    pub(super) max_abs: Option<f32>,
    pub(super) top1: Option<f32>,
}

impl AuthorModel {
    /// The manifest as far as the form says it, with `file` in the place of every file: for finding mistakes only.
    fn draft(&self, file: &FileRef) -> Manifest {
        let variant = |variant: &AuthorVariant| Variant {
            name: variant.name.clone(),
            runs_on: variant.runs_on,
            engines: variant.engines.clone(),
            precision: variant.precision,
            file: file.clone(),
            golden: variant.golden.as_ref().map(|_given| file.clone()),
            golden_tolerance: variant.golden.as_ref().map(AuthorGolden::tolerance),
            score: variant.score.clone(),
            threshold: variant.threshold,
            calibration: None,
            preprocess: variant.preprocess.clone(),
        };
        self.clone().into_manifest(SCHEMA, self.variants.iter().map(variant).collect())
    }

    /// The manifest, once its variants are packed.
    pub(super) fn into_manifest(self, schema: u32, variants: Vec<Variant>) -> Manifest {
        let Self {
            schema: Schema,
            model,
            version,
            task,
            description,
            licence,
            labels,
            inputs,
            outputs,
            score,
            policy,
            preprocess,
            ..
        } = self;
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
            policy,
            preprocess,
            variants,
        }
    }
}

impl AuthorGolden {
    /// Largest difference of an answer from the golden one.
    pub(super) fn tolerance(&self) -> GoldenTolerance {
        GoldenTolerance { max_abs: self.max_abs, top1: self.top1 }
    }
}

impl Validate for AuthorModel {
    fn placeholders() -> &'static [&'static str] {
        &["\"FP32\"", "\"ort\"", "\"device\"", "\"fp32\"", "\"top1-probability\"", "\"logits\""]
    }

    /// Adds what the manifest of this form would be refused for, in the words of the form.
    fn validate(&self, mistakes: &mut Mistakes) {
        let name = "model.onnx".parse();
        let Some(file) = name.ok().and_then(|name| bundle::file::describe(name, &b"draft"[..], u64::MAX).ok()) else {
            return;
        };
        let draft = self.draft(&file);
        let found = draft.mistakes();
        let is_of_score =
            |one: &ManifestError| matches!(one, ManifestError::Field { path, .. } if path.starts_with("score"));
        if let (Verdict::Wrong(problem), false) = (score::of_manifest(&draft), found.iter().any(is_of_score)) {
            mistakes.add("score", problem);
        }
        for mistake in found {
            match mistake {
                ManifestError::Field { path, problem } => mistakes.add(in_the_form(&path), problem),
                other @ (ManifestError::TooLarge(_) | ManifestError::Json(_) | ManifestError::NotCanonical) => {
                    mistakes.add("", other.to_string());
                }
            }
        }
    }
}

/// The name in the form of a field of the manifest.
pub(super) fn in_the_form(path: &str) -> String {
    let (table, rest) = path.find(['[', '.']).map_or((path, ""), |at| path.split_at(at));
    let table = match table {
        "variants" => "variant",
        "inputs" => "input",
        "outputs" => "output",
        same => same,
    };
    format!("{table}{rest}").replace(".golden_tolerance", ".golden")
}
