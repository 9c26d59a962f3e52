//! `model.toml` of the folder: taken over from the one beside the model, or begun from the command line.

use std::collections::BTreeMap;
use std::path::Path;

use bundle::manifest::score::{self, Verdict};
use bundle::manifest::{Precision, ScoreFrom, ScoreKind, ScoreRule, TensorEntry, write_dimensions};
use compress::ExampleRules;
use compress::auto::{Form, Outcome, scored_output};
use compress::quality::Task;
use console::{CliError, ExitKind};
use model_tools::pack::AUTHOR_FILE;
use serde::{Deserialize, Serialize};
use store::files;
use types::preprocess::InputRule;
use types::{EngineName, ModelName, Place, Signature, TensorSpec, Version};

use super::choice::Chosen;
use super::golden::Golden;
use super::options::AboutArgs;

/// Longest form that is read; as the packer takes it.
const FORM_BYTES_MAX: u64 = 1024 * 1024;

/// SPDX expression for a licence that is not stated.
const LICENCE_UNKNOWN: &str = "NOASSERTION";

const COMMENT: &str = "\
# Written by `cloud-hub model compress`; compress.json beside it holds every figure behind it.
# Read it through, then: cloud-hub model push THIS_FOLDER --keys DIR
";

/// The part of the form that is about the model and not about its variants.
#[derive(Debug)]
pub(super) struct Head {
    model: ModelName,
    version: Version,
    task: Option<String>,
    description: String,
    licence: String,
    labels: Vec<String>,
    score: Option<ScoreRule>,
    preprocess: BTreeMap<String, InputRule>,
}

/// Fields that are read from an existing model.toml.
#[derive(Debug, Deserialize)]
struct Existing {
    model: ModelName,
    version: Version,
    task: String,
    description: String,
    licence: String,
    #[serde(default)]
    labels: Vec<String>,
    score: Option<ScoreRule>,
    #[serde(default)]
    preprocess: BTreeMap<String, InputRule>,
    #[serde(rename = "variant")]
    variants: Vec<ExistingVariant>,
}

#[derive(Debug, Deserialize)]
struct ExistingVariant {
    file: String,
    #[serde(default)]
    preprocess: BTreeMap<String, InputRule>,
}

/// The form as it is written; the packer reads it.
#[derive(Debug, Serialize)]
pub(super) struct AuthorForm {
    schema: u32,
    model: ModelName,
    version: Version,
    task: String,
    description: String,
    licence: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    labels: Vec<String>,
    #[serde(rename = "input")]
    inputs: Vec<TensorEntry>,
    #[serde(rename = "output")]
    outputs: Vec<TensorEntry>,
    #[serde(skip_serializing_if = "Option::is_none")]
    score: Option<ScoreRule>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    preprocess: BTreeMap<String, InputRule>,
    #[serde(rename = "variant")]
    variants: Vec<AuthorVariant>,
}

#[derive(Debug, Serialize)]
struct AuthorVariant {
    name: String,
    runs_on: Place,
    engines: Vec<EngineName>,
    precision: Precision,
    file: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    golden: Option<AuthorGolden>,
}

#[derive(Debug, Serialize)]
struct AuthorGolden {
    file: String,
    max_abs: f32,
}

impl Head {
    /// Reads the form beside the model if it names that file; what the command line says comes first.
    pub(super) fn find(model: &Path, about: &AboutArgs) -> Result<Self, CliError> {
        let existing = existing(model);
        let given = |text: &Option<String>| text.clone();
        let (name, version) = match &existing {
            Some(existing) => (Some(existing.model.clone()), existing.version.number().checked_add(1)),
            None => (named_like(model), Some(1)),
        };
        let Some(name) = about.name.clone().or(name) else {
            return Err(
                CliError::new(ExitKind::Usage, "the file's name makes no name of a model").hint("give --name NAME")
            );
        };
        let version = about.version.or_else(|| version.and_then(Version::new));
        let Some(version) = version else {
            return Err(CliError::new(ExitKind::Usage, "there is no next version").hint("give --version NUMBER"));
        };
        let of = existing.as_ref();
        Ok(Self {
            model: name,
            version,
            task: of.map(|existing| existing.task.clone()),
            description: given(&about.description)
                .or_else(|| of.map(|one| one.description.clone()))
                .unwrap_or_default(),
            licence: given(&about.licence)
                .or_else(|| of.map(|one| one.licence.clone()))
                .unwrap_or_else(|| LICENCE_UNKNOWN.to_owned()),
            labels: of.map(|one| one.labels.clone()).unwrap_or_default(),
            score: of.and_then(|one| one.score.clone()),
            preprocess: existing.map(|one| one.preprocess).unwrap_or_default(),
        })
    }

    /// Parts of the form that say how examples are read.
    pub(super) fn example_rules(&self) -> ExampleRules<'_> {
        ExampleRules { classes: &self.labels, preprocess: &self.preprocess }
    }

    /// Task that the form beside the model declares, where it is one that judging knows.
    pub(super) fn declared_task(&self) -> Option<Task> {
        self.task.as_deref().and_then(Task::declared)
    }

    /// Makes the whole form.
    pub(super) fn form(
        self,
        signature: &Signature,
        outcome: &Outcome,
        chosen: &[Chosen<'_>],
        goldens: &[Golden],
    ) -> AuthorForm {
        let quality = outcome.candidates.first().and_then(|reference| reference.quality.as_ref());
        let scored = quality.and_then(scored_output);
        let rule = |(output, is_probabilities): (&str, bool)| {
            let from = if is_probabilities { ScoreFrom::Probabilities } else { ScoreFrom::Logits };
            ScoreRule::new(ScoreKind::Top1Probability, output, from)
        };
        let task = quality.and_then(|quality| quality.labelled.as_ref()).map(|labelled| labelled.task.as_str());
        let guessed = task.unwrap_or(if scored.is_some() { "classification" } else { "inference" });
        // Exporters' names of dimensions can be longer than a manifest may hold.
        let entries = |specs: &[TensorSpec]| {
            let mut specs = specs.to_vec();
            write_dimensions(&mut specs);
            specs.iter().map(TensorEntry::from).collect()
        };
        AuthorForm {
            schema: bundle::manifest::SCHEMA,
            model: self.model,
            version: self.version,
            task: self.task.unwrap_or_else(|| guessed.to_owned()),
            description: self.description,
            licence: self.licence,
            labels: self.labels,
            inputs: entries(&signature.inputs),
            outputs: entries(&signature.outputs),
            score: self.score.or_else(|| scored.map(rule).filter(|rule| fits(rule, signature))),
            preprocess: self.preprocess,
            variants: chosen.iter().map(|variant| entry(variant, goldens)).collect(),
        }
    }
}

/// Returns whether a guessed rule can be right: one that cannot be pushed is better left out.
fn fits(rule: &ScoreRule, signature: &Signature) -> bool {
    match score::of_spec(rule, &[], &signature.outputs) {
        Verdict::Fits | Verdict::Unknown(_) => true,
        Verdict::Wrong(_) => false,
    }
}

impl AuthorForm {
    /// The text of the file.
    pub(super) fn to_text(&self) -> Result<String, toml::ser::Error> {
        Ok(format!("{COMMENT}{}", toml::to_string(self)?))
    }
}

fn entry(variant: &Chosen<'_>, goldens: &[Golden]) -> AuthorVariant {
    let golden = goldens.iter().find(|golden| golden.file == variant.golden_file());
    AuthorVariant {
        name: variant.name.clone(),
        runs_on: variant.runs_on,
        engines: variant.engines.clone(),
        precision: precision(variant.candidate.form),
        file: variant.file(),
        golden: golden.map(|golden| AuthorGolden { file: golden.file.clone(), max_abs: golden.max_abs }),
    }
}

const fn precision(form: Form) -> Precision {
    match form {
        Form::Fp32 | Form::Pruned => Precision::Fp32,
        Form::Fp16 => Precision::Fp16,
        Form::Bf16 => Precision::Bf16,
        Form::Int8Qdq | Form::Int8Dynamic | Form::Int8Weights => Precision::Int8,
        Form::Int4Weights => Precision::Int4,
        Form::Int8Mixed | Form::Int4Mixed => Precision::Mixed,
    }
}

/// The form beside the model, if it is one and names the model's file. Any other file of that name is none of ours.
fn existing(model: &Path) -> Option<Existing> {
    let bytes = files::read_bounded(&model.with_file_name(AUTHOR_FILE), FORM_BYTES_MAX).ok()?;
    let mut existing: Existing = toml::from_str(std::str::from_utf8(&bytes).ok()?).ok()?;
    let file = model.file_name()?.to_str()?;
    let variant = existing.variants.iter().find(|variant| variant.file == file)?;
    existing.preprocess.extend(variant.preprocess.clone());
    Some(existing)
}

/// Class names and preprocessing in the form beside a model, if it names that file.
pub(in crate::cli) fn beside(model: &Path) -> (Vec<String>, BTreeMap<String, InputRule>) {
    existing(model).map(|existing| (existing.labels, existing.preprocess)).unwrap_or_default()
}

/// A model's name made of its file's: `Mobile Net.onnx` is `mobile-net`.
pub(in crate::cli) fn named_like(model: &Path) -> Option<ModelName> {
    let stem = model.file_stem()?.to_str()?.to_lowercase();
    let plain = |letter: char| if letter.is_ascii_alphanumeric() || "-_.".contains(letter) { letter } else { '-' };
    let name: String = stem.chars().map(plain).take(types::limits::NAME_BYTES_MAX).collect();
    name.trim_matches(|letter: char| !letter.is_ascii_alphanumeric()).parse().ok()
}
