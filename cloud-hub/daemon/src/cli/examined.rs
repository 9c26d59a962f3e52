//! A folder with a model version, run on examples: what `calibrate`, `evaluate` and `compare` begin with.

use std::path::{Path, PathBuf};

use bundle::confidence;
use bundle::manifest::score::{self, Verdict};
use bundle::{Manifest, ScoreFrom, ScoreKind, ScoreRule, Variant};
use clap::Args;
use compress::Examples;
use console::{CliError, ExitKind, OrExit, progress_count};
use engine::{Engine, LibrarySearch, LoadOptions, ModelBytes, ModelLimits, OrtEngine, RunControl, Session};
use model_tools::pack::{Packed, pack};
use store::files;
use types::{NamedTensor, Place, Tensor, TensorSpec};

/// Most bytes of one model's answers that are kept, so that a version with ten variants stays below 6 GB: 130,000 examples of a thousand
/// classes, or all of ImageNet's 50,000.
const ANSWERS_BYTES_MAX: usize = 512 * 1024 * 1024;

/// Arguments that name a folder and examples.
#[derive(Debug, Args)]
pub(super) struct ExaminedArgs {
    /// Folder with model.toml and the files that it names.
    pub(super) folder: PathBuf,
    /// Examples: an .npz file with an array for each input and an example in each row, and optionally the array `labels`; or a
    /// folder of .npz files with one example each.
    #[arg(long, value_name = "FILE")]
    pub(super) data: PathBuf,
    /// ONNX file of the full model [default: that of the variant that runs on the hub]; `calibrate` makes it that of the folder.
    #[arg(long, value_name = "FILE")]
    pub(super) full: Option<PathBuf>,
}

/// A folder whose variants have answered examples.
#[derive(Debug)]
pub(super) struct Examined {
    /// Manifest of the folder.
    pub(super) manifest: Manifest,
    /// Rule for scores: that of the manifest, or the one that fits the outputs.
    pub(super) rule: ScoreRule,
    /// Whether the rule was found here, because model.toml has none.
    pub(super) is_found: bool,
    /// Answers of the full model.
    pub(super) full: Answered,
    /// Answers of each device variant, in the order of model.toml.
    pub(super) device: Vec<Answered>,
    /// Label of each example; `None` where the examples have none.
    pub(super) labels: Option<Vec<usize>>,
}

/// Answers of one model to all examples.
#[derive(Debug)]
pub(super) struct Answered {
    /// Name of the variant; `full` for a file beside the folder.
    pub(super) name: String,
    /// Size of the model file in bytes.
    pub(super) bytes: u64,
    /// Scored output of each answer.
    pub(super) outputs: Vec<Tensor>,
    /// What each answer says: the class of each of its rows, or yes (1) and no (0) for each element.
    pub(super) says: Vec<Vec<usize>>,
}

impl Answered {
    /// Returns the class of each answer; `None` when answers have several rows.
    pub(super) fn classes(&self) -> Option<Vec<usize>> {
        self.says.iter().map(|says| if let [one] = says.as_slice() { Some(*one) } else { None }).collect()
    }

    /// Returns whether each answer differs from that of another model.
    pub(super) fn differs(&self, other: &Self) -> Vec<bool> {
        self.says.iter().zip(&other.says).map(|(a, b)| a != b).collect()
    }
}

/// Opens the examples for a model that is loaded.
pub(super) type OpenExamples<'a> = &'a dyn Fn(&dyn Session) -> Result<Examples, CliError>;

impl Examined {
    /// Returns the rule for the score of a variant: its own in model.toml, or that of the model.
    pub(super) fn rule_of(&self, variant: &Answered) -> &ScoreRule {
        let found = self.manifest.variants_for(Place::Device).find(|one| one.name.as_str() == variant.name);
        found.and_then(|variant| self.manifest.score_of(variant)).unwrap_or(&self.rule)
    }

    /// Packs the folder and runs its variants on all examples, the full model first.
    pub(super) fn run(args: &ExaminedArgs) -> Result<Self, CliError> {
        let examples = |session: &dyn Session| open_examples(&args.data, session);
        Self::of(&args.folder, args.full.as_deref(), &examples)
    }

    /// Packs a folder and runs its variants on examples, the full model first.
    pub(super) fn of(folder: &Path, full: Option<&Path>, open: OpenExamples<'_>) -> Result<Self, CliError> {
        let packed = packed(folder)?;
        let manifest = packed.manifest.clone();
        let engine = open_engine()?;
        let (full_name, full_file) = full_model(full, &packed)?;
        let mut full = Loaded::open(&engine, full_name, &full_file)?;
        let examples = open(full.session.as_ref())?;
        let (rule, is_found) = match &manifest.score {
            Some(rule) => (rule.clone(), false),
            None => (find_rule(&manifest, full.session.as_mut(), &examples)?, true),
        };
        let (full, labels) = full.answer(&examples, &rule)?;
        let mut device = Vec::new();
        for variant in manifest.variants_for(Place::Device) {
            let mut loaded = Loaded::open(&engine, variant.name.to_string(), &path_of(&packed, variant)?)?;
            let examples = open(loaded.session.as_ref())?;
            device.push(loaded.answer(&examples, &rule)?.0);
        }
        if device.is_empty() {
            let hint = "make variants for devices: cloud-hub model compress MODEL --examples FILE --out DIR";
            return Err(
                CliError::new(ExitKind::Config, "model.toml has no variant with runs_on = \"device\"").hint(hint)
            );
        }
        Ok(Self { manifest, rule, is_found, full, device, labels })
    }
}

/// Packs a folder.
pub(super) fn packed(folder: &Path) -> Result<Packed, CliError> {
    pack(folder).or_exit_try(ExitKind::Config, "correct model.toml: docs/reference/model.md has every field")
}

/// Opens ONNX Runtime, which calibrates and judges.
pub(super) fn open_engine() -> Result<OrtEngine, CliError> {
    let hint = "install the package that ships ONNX Runtime, or set SANDERLING_ONNXRUNTIME";
    OrtEngine::open(&LibrarySearch::default()).or_exit_try(ExitKind::Runtime, hint)
}

fn full_model(full: Option<&Path>, packed: &Packed) -> Result<(String, PathBuf), CliError> {
    if let Some(file) = full {
        return Ok(("full".to_owned(), file.to_owned()));
    }
    match packed.manifest.variants_for(Place::Hub).next() {
        Some(variant) => Ok((variant.name.to_string(), path_of(packed, variant)?)),
        None => {
            let problem = "model.toml has no variant with runs_on = \"hub\", so there is no full model to agree with";
            Err(CliError::new(ExitKind::Config, problem).hint("name its ONNX file: --full FILE"))
        }
    }
}

fn path_of(packed: &Packed, variant: &Variant) -> Result<PathBuf, CliError> {
    let file = packed.files.iter().find(|file| file.reference.name == variant.file.name);
    file.map(|file| file.path.clone())
        .ok_or_else(|| CliError::new(ExitKind::Failed, format!("the file of variant {} is missing", variant.name)))
}

/// Opens a file or folder of examples for a model.
pub(super) fn open_examples(data: &Path, session: &dyn Session) -> Result<Examples, CliError> {
    let hint = format!("correct {}: one array for each input, an example in each row", data.display());
    Examples::open(data, session.signature()).or_exit_try(ExitKind::Config, &hint)
}

/// A model that is ready to answer.
pub(super) struct Loaded {
    name: String,
    bytes: u64,
    pub(super) session: Box<dyn Session>,
}

impl Loaded {
    /// Loads a model file, checked as the daemons check it.
    pub(super) fn open(engine: &dyn Engine, name: String, file: &Path) -> Result<Self, CliError> {
        let limits = ModelLimits::default();
        let content = files::read_bounded(file, limits.file_bytes).map_err(|error| {
            let kind = if error.is_not_found() { ExitKind::NotFound } else { ExitKind::Storage };
            CliError::new(kind, error).hint("name an ONNX file")
        })?;
        let bytes = u64::try_from(content.len()).unwrap_or(u64::MAX);
        let hint = format!("see what is wrong with it: cloud-hub model check {}", file.display());
        engine::precheck::check(&content, &limits).or_exit_try(ExitKind::Config, &hint)?;
        let session =
            engine.load(ModelBytes::from(content), &LoadOptions::default()).or_exit_try(ExitKind::Failed, &hint)?;
        Ok(Self { name, bytes, session })
    }

    /// Answers all examples, one at a time, as devices ask. Returns the labels too, if every example has one class.
    pub(super) fn answer(
        &mut self,
        examples: &Examples,
        rule: &ScoreRule,
    ) -> Result<(Answered, Option<Vec<usize>>), CliError> {
        let total = u64::try_from(examples.len()).unwrap_or(u64::MAX);
        let progress = progress_count(format!("{} answers the examples", self.name), total);
        let (mut outputs, mut says, mut labels, mut kept) = (Vec::new(), Vec::new(), Some(Vec::new()), 0_usize);
        for (at, example) in examples.iter().enumerate() {
            let example = example.or_exit(ExitKind::Config)?;
            let output = self.run(&example.inputs, &rule.output, at)?;
            let said = saying(&output, rule).map_err(|error| {
                CliError::new(ExitKind::Config, format!("example {at}: {}", telemetry::chain(&error)))
                    .hint("correct [score] in model.toml: output, from and axis must fit the model")
            })?;
            kept = kept.saturating_add(output.data().len()).saturating_add(size_of_val(said.as_slice()));
            if kept > ANSWERS_BYTES_MAX {
                let problem = format!("the answers of {} are over {ANSWERS_BYTES_MAX} bytes", self.name);
                return Err(CliError::new(ExitKind::Config, problem).hint("give fewer examples"));
            }
            outputs.push(output);
            says.push(said);
            let label = example.label.as_ref().and_then(compress::Label::number).and_then(class);
            labels = labels.zip(label).map(|(mut labels, label)| {
                labels.push(label);
                labels
            });
            progress.add(1);
        }
        Ok((Answered { name: self.name.clone(), bytes: self.bytes, outputs, says }, labels))
    }

    fn run(&mut self, inputs: &[NamedTensor], output: &str, at: usize) -> Result<Tensor, CliError> {
        let wanted = [output.to_owned()];
        let answers = self.session.run(inputs, &wanted, &RunControl::default());
        let answers = answers.map_err(|error| {
            let hint = "the model must answer every example; try it: cloud-hub model check MODEL";
            let problem = format!("{} on example {at}: {}", self.name, telemetry::chain(&error));
            CliError::new(ExitKind::Failed, problem).hint(hint)
        })?;
        let found = answers.into_iter().find(|answer| answer.name == *output).map(|answer| answer.tensor);
        found.ok_or_else(|| CliError::new(ExitKind::Failed, format!("{} has no output {output:?}", self.name)))
    }
}

/// A class number of a label.
fn class(number: f64) -> Option<usize> {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a whole number of at most 2^32 was checked"
    )]
    let class = number as usize;
    (number.fract() == 0.0 && (0.0..=4_294_967_295.0).contains(&number)).then_some(class)
}

/// Returns what an answer says, by which two answers are equal or differ.
fn saying(output: &Tensor, rule: &ScoreRule) -> Result<Vec<usize>, confidence::ScoreError> {
    if rule.kind.is_of_classes() {
        return Ok(confidence::rows(output, rule)?.iter().map(|row| row.top).collect());
    }
    // The score itself refuses what is no number.
    confidence::score(output, rule)?;
    let yes = match rule.from {
        ScoreFrom::Logits => 0.0,
        ScoreFrom::Probabilities => 0.5,
    };
    let values = output.to_f32().map_err(confidence::ScoreError::NotFloat)?;
    Ok(values.iter().map(|&value| usize::from(value > yes)).collect())
}

/// Returns the rule for an output with a value for each class, of a file without a manifest.
pub(super) fn rule_of_file(output: &str) -> ScoreRule {
    ScoreRule::new(ScoreKind::Top1Probability, output, ScoreFrom::Logits)
}

/// Finds the rule for a model whose form has none: the first output whose values are those of classes.
fn find_rule(manifest: &Manifest, session: &mut dyn Session, examples: &Examples) -> Result<ScoreRule, CliError> {
    let first = examples.iter().next().ok_or_else(|| CliError::new(ExitKind::Config, "there is no example"))?;
    let inputs = first.or_exit(ExitKind::Config)?.inputs;
    let answers = session.run(&inputs, &[], &RunControl::default()).or_exit(ExitKind::Failed)?;
    rule_of(&manifest.outputs, &manifest.labels, &answers).ok_or_else(|| {
        let problem = "model.toml has no [score], and no output looks like classes";
        CliError::new(ExitKind::Config, problem).hint("write [score] into model.toml: docs/reference/model.md")
    })
}

/// Returns the rule that fits the answers: the first output whose values are those of classes.
pub(super) fn rule_of(outputs: &[TensorSpec], labels: &[String], answers: &[NamedTensor]) -> Option<ScoreRule> {
    let rules = outputs.iter().flat_map(|output| {
        let of = |from| ScoreRule { from, ..rule_of_file(&output.name) };
        [of(ScoreFrom::Probabilities), of(ScoreFrom::Logits)]
    });
    rules.into_iter().find(|rule| score::of_answers(rule, labels, answers) == Some(Verdict::Fits))
}
