//! A folder with a model version, run on examples: what `calibrate`, `evaluate` and `compare` begin with.

mod whole;

use std::path::{Path, PathBuf};

use bundle::confidence;
use bundle::manifest::score::{self, Verdict};
use bundle::{Manifest, ScoreFrom, ScoreKind, ScoreRule, Variant};
use clap::Args;
use compress::{ExampleRules, Examples, Label};
use console::{CliError, ExitKind, OrExit, progress_count};
use engine::{Engine, LibrarySearch, LoadOptions, ModelBytes, ModelLimits, OrtEngine, RunControl, Session};
use model_tools::pack::{Packed, pack};
use store::files;
use types::{NamedTensor, Place, Tensor, TensorSpec};

pub(super) use whole::{Whole, WholeReader, WholeTask};

/// Most bytes of one model's answers that are kept, so that a version with ten variants stays below 6 GB: 130,000 examples of a thousand
/// classes, or all of ImageNet's 50,000.
const ANSWERS_BYTES_MAX: usize = 512 * 1024 * 1024;

/// Arguments that name a folder and examples.
#[derive(Debug, Args)]
pub(super) struct ExaminedArgs {
    /// Folder with model.toml and the files that it names.
    pub(super) folder: PathBuf,
    /// Examples: an .npz file with an array for each input and an example in each row, and optionally the array `labels`; a folder of
    /// such arrays as .npy files; a .csv, .tsv or .parquet file with a column for each element, and optionally `label`; or a folder of
    /// .npz files with one example each.
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
    /// Rule for scores: that of the manifest, or the one that fits the outputs; `None` for boxes and texts without one.
    rule: Option<ScoreRule>,
    /// Whether the rule was found here, because model.toml has none.
    pub(super) is_found: bool,
    /// Examples, as the full model takes them.
    pub(super) examples: Examples,
    /// Answers of the full model.
    pub(super) full: Answered,
    /// Answers of each device variant, in the order of model.toml.
    pub(super) device: Vec<Answered>,
    /// Class of each example; `None` where the examples have none.
    pub(super) labels: Option<Vec<usize>>,
    /// True boxes or texts of each example; `None` for other tasks, and where the examples have no labels.
    pub(super) truth: Option<Whole>,
}

/// Answers of one model to all examples.
#[derive(Debug)]
pub(super) struct Answered {
    /// Name of the variant; `full` for a file beside the folder.
    pub(super) name: String,
    /// Size of the model file in bytes.
    pub(super) bytes: u64,
    /// Scored output of each answer; none without a rule for scores.
    pub(super) outputs: Vec<Tensor>,
    /// Meaning of each answer: the class of each of its rows, or yes (1) and no (0) for each element. Without a rule for scores, the symbols of
    /// a text, and nothing for boxes.
    pub(super) says: Vec<Vec<usize>>,
    /// Boxes or texts of all answers, where model.toml declares such a task.
    pub(super) whole: Option<Whole>,
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

/// Opens the examples for a model that is loaded, as its model.toml says.
pub(super) type OpenExamples<'a> = &'a dyn Fn(&dyn Session, &ExampleRules<'_>) -> Result<Examples, CliError>;

impl Examined {
    /// Returns the rule for scores of the model.
    ///
    /// # Errors
    /// Fails for boxes and texts whose model.toml has none.
    pub(super) fn rule(&self) -> Result<&ScoreRule, CliError> {
        self.rule.as_ref().ok_or_else(no_rule)
    }

    /// Returns the rule for the score of a variant: its own in model.toml, or that of the model.
    pub(super) fn rule_of(&self, variant: &Answered) -> Option<&ScoreRule> {
        let found = self.manifest.variants_for(Place::Device).find(|one| one.name.as_str() == variant.name);
        found.and_then(|variant| self.manifest.score_of(variant)).or(self.rule.as_ref())
    }

    /// Returns whether answers can be told to be equal or to differ: by classes, by yes and no, or by texts.
    pub(super) fn can_agree(&self) -> bool {
        self.rule.is_some() || matches!(self.full.whole, Some(Whole::Texts(_)))
    }

    /// Returns the threshold of a variant in model.toml.
    pub(super) fn threshold_of(&self, variant: &Answered) -> Option<f32> {
        let found = self.manifest.variants_for(Place::Device).find(|one| one.name.as_str() == variant.name);
        found.and_then(|variant| variant.threshold)
    }

    /// Packs the folder and runs its variants on all examples, the full model first.
    pub(super) fn run(args: &ExaminedArgs) -> Result<Self, CliError> {
        let examples = |session: &dyn Session, rules: &ExampleRules<'_>| open_examples(&args.data, session, rules);
        Self::of(&args.folder, args.full.as_deref(), &examples)
    }

    /// Packs a folder and runs its variants on examples, the full model first.
    pub(super) fn of(folder: &Path, full: Option<&Path>, open: OpenExamples<'_>) -> Result<Self, CliError> {
        let packed = packed(folder)?;
        let manifest = packed.manifest.clone();
        let engine = open_engine()?;
        let (full_name, full_file) = full_model(full, &packed)?;
        let mut full = Loaded::open(&engine, full_name, &full_file)?;
        let rules = match manifest.variants_for(Place::Hub).next() {
            Some(variant) => manifest.preprocess_of(variant),
            None => manifest.preprocess.clone(),
        };
        let examples = open(full.session.as_ref(), &ExampleRules { classes: &manifest.labels, preprocess: &rules })?;
        let task = WholeTask::declared(&manifest.task);
        let (rule, is_found) = match (&manifest.score, task) {
            (Some(rule), _) => (Some(rule.clone()), false),
            (None, Some(_)) => (None, false),
            (None, None) => (Some(find_rule(&manifest, full.session.as_mut(), &examples)?), true),
        };
        let mut reading = Reading { rule: rule.as_ref(), whole: task.map(WholeReader::new) };
        let (full, labels) = full.answer(&examples, &mut reading)?;
        let truth = reading.whole.as_ref().and_then(|reader| reader.truth(&labels));
        let labels = labels.iter().map(|label| label.number().and_then(class)).collect::<Option<Vec<_>>>();
        let labels = labels.filter(|labels| labels.len() == full.says.len() && task.is_none());
        let kept = examples;
        let mut device = Vec::new();
        for variant in manifest.variants_for(Place::Device) {
            let mut loaded = Loaded::open(&engine, variant.name.to_string(), &path_of(&packed, variant)?)?;
            let rules = manifest.preprocess_of(variant);
            let examples =
                open(loaded.session.as_ref(), &ExampleRules { classes: &manifest.labels, preprocess: &rules })?;
            device.push(loaded.answer(&examples, &mut reading)?.0);
        }
        if device.is_empty() {
            let hint = "make variants for devices: cloud-hub model compress MODEL --examples FILE --out DIR";
            return Err(
                CliError::new(ExitKind::Config, "model.toml has no variant with runs_on = \"device\"").hint(hint)
            );
        }
        Ok(Self { manifest, rule, is_found, examples: kept, full, device, labels, truth })
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
pub(super) fn open_examples(
    data: &Path,
    session: &dyn Session,
    rules: &ExampleRules<'_>,
) -> Result<Examples, CliError> {
    let hint = format!("correct {}: an example in each row, for each input; see docs/evaluate.md", data.display());
    Examples::open_as(data, session.signature(), rules).or_exit_try(ExitKind::Config, &hint)
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

    /// Answers all examples, one at a time, as devices ask. Returns the labels too.
    pub(super) fn answer(
        &mut self,
        examples: &Examples,
        reading: &mut Reading<'_>,
    ) -> Result<(Answered, Vec<Label>), CliError> {
        let total = u64::try_from(examples.len()).unwrap_or(u64::MAX);
        let progress = progress_count(format!("{} answers the examples", self.name), total);
        let mut answered =
            Answered { name: self.name.clone(), bytes: self.bytes, outputs: Vec::new(), says: Vec::new(), whole: None };
        let (mut labels, mut kept) = (Vec::new(), 0_usize);
        let mut whole = reading.whole.as_ref().map(WholeReader::empty);
        for (at, example) in examples.iter().enumerate() {
            let example = example.or_exit(ExitKind::Config)?;
            let mut answers = self.run(&example.inputs, reading.wanted(), at)?;
            let mut said = Vec::new();
            if let (Some(reader), Some(whole)) = (&mut reading.whole, &mut whole) {
                let read = reader.read(&answers).map_err(|problem| {
                    CliError::new(ExitKind::Config, format!("{} on example {at}: {problem}", self.name))
                        .hint("correct `task` in model.toml: docs/reference/model.md")
                })?;
                said = whole.add(read);
                kept = kept.saturating_add(whole.last_bytes());
            }
            if let Some(rule) = reading.rule {
                let output = answers
                    .iter()
                    .position(|answer| answer.name == rule.output)
                    .map(|at| answers.swap_remove(at).tensor);
                let output = output.ok_or_else(|| {
                    CliError::new(ExitKind::Failed, format!("{} has no output {:?}", self.name, rule.output))
                })?;
                said = saying(&output, rule).map_err(|error| {
                    CliError::new(ExitKind::Config, format!("example {at}: {}", telemetry::chain(&error)))
                        .hint("correct [score] in model.toml: output, from and axis must fit the model")
                })?;
                kept = kept.saturating_add(output.data().len());
                answered.outputs.push(output);
            }
            kept = kept.saturating_add(size_of_val(said.as_slice()));
            if kept > ANSWERS_BYTES_MAX {
                let problem = format!("the answers of {} are over {ANSWERS_BYTES_MAX} bytes", self.name);
                return Err(CliError::new(ExitKind::Config, problem).hint("give fewer examples"));
            }
            answered.says.push(said);
            labels.extend(example.label);
            progress.add(1);
        }
        answered.whole = whole;
        Ok((answered, labels))
    }

    fn run(&mut self, inputs: &[NamedTensor], wanted: Vec<String>, at: usize) -> Result<Vec<NamedTensor>, CliError> {
        let answers = self.session.run(inputs, &wanted, &RunControl::default());
        answers.map_err(|error| {
            let hint = "the model must answer every example; try it: cloud-hub model check MODEL";
            let problem = format!("{} on example {at}: {}", self.name, telemetry::chain(&error));
            CliError::new(ExitKind::Failed, problem).hint(hint)
        })
    }
}

/// Parts of the answers that are kept.
pub(super) struct Reading<'a> {
    /// Rule that names the scored output.
    rule: Option<&'a ScoreRule>,
    /// Reader of boxes or texts.
    whole: Option<WholeReader>,
}

impl<'a> Reading<'a> {
    /// Returns the reading of the scored output alone.
    pub(super) fn scored(rule: &'a ScoreRule) -> Self {
        Self { rule: Some(rule), whole: None }
    }

    /// Returns the names of the outputs to ask for; none means all.
    fn wanted(&self) -> Vec<String> {
        match (self.rule, &self.whole) {
            (Some(rule), None) => vec![rule.output.clone()],
            (_, Some(_)) | (None, None) => Vec::new(),
        }
    }
}

/// Returns the class number of a label.
pub(super) fn class(number: f64) -> Option<usize> {
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
    rule_of(&manifest.outputs, &manifest.labels, &answers).ok_or_else(no_rule)
}

fn no_rule() -> CliError {
    let problem = "model.toml has no [score], and no output looks like classes";
    CliError::new(ExitKind::Config, problem).hint("write [score] into model.toml: docs/reference/model.md")
}

/// Returns the rule that fits the answers: the first output whose values are those of classes.
pub(super) fn rule_of(outputs: &[TensorSpec], labels: &[String], answers: &[NamedTensor]) -> Option<ScoreRule> {
    let rules = outputs.iter().flat_map(|output| {
        let of = |from| ScoreRule { from, ..rule_of_file(&output.name) };
        [of(ScoreFrom::Probabilities), of(ScoreFrom::Logits)]
    });
    rules.into_iter().find(|rule| score::of_answers(rule, labels, answers) == Some(Verdict::Fits))
}
