//! `cloud-hub model compress`: from one ONNX file and real inputs to variants that can be pushed.
//!
//! Asks no hub. Everything is made and measured first; the folder appears whole at the end, or not at all.

mod choice;
mod engines;
mod folder;
mod form;
mod golden;
mod interrupt;
mod show;

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use compress::auto::{self, Calibration, Outcome, Recipe, Request, Stage};
use compress::quality::Measure;
use compress::half_precision::Format;
use compress::weight_only::Bits;
use compress::{CompressError, Examples, Selection};
use console::{CliError, ExitKind, OrExit, Output, Progress};
use engine::{LoadError, LoadOptions, ModelBytes, ModelLimits, Refusal, precheck};
use onnx_graph::Model;
use store::files;
use types::{ModelName, Signature, Version};

use engines::Engines;
use folder::Target;
use interrupt::Interrupt;

/// Greatest loss of a form that is recommended, unless said otherwise: one in a hundred.
const LOSS_MAX: f64 = 0.01;

/// Examples that calibrate, unless said otherwise; more than a few hundred move no range.
const CALIBRATION_EXAMPLES: usize = 200;

/// Most share of the examples that calibrate when there are few: the rest must judge.
const CALIBRATION_SHARE: usize = 2;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cloud-hub model compress model.onnx --examples inputs.npz --out v2 --auto
  cloud-hub model compress model.onnx --examples inputs.npz --out v2 --to int8-qdq --calibration entropy --per-channel
  cloud-hub model compress model.onnx --examples inputs.npz --out v2 --auto --json | jq '.recommendations'
  cloud-hub model push v2 --keys offline-keys

inputs.npz holds one array for each input of the model, an example in each row, and if you have them an array `labels`
of class numbers; a few hundred real inputs are enough. For inputs of varying shape give a folder of .npz files, one
example each. In Python: numpy.savez('inputs.npz', image=images, labels=labels)

DIR gets model.toml, the model files, their golden answers, compress.json with every figure, and front.svg. Where MODEL
lies beside a model.toml that names it, that is taken over, with the next version. docs/compress.md says what the
figures mean.")]
pub(super) struct CompressArgs {
    /// The model file, in fp32.
    model: PathBuf,
    /// Real inputs: a .npz file, or a folder of them.
    #[arg(long, value_name = "FILE")]
    examples: PathBuf,
    /// Folder to write; it must be absent or empty.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Try every form and keep what is worth it.
    #[arg(long, required_unless_present = "to", conflicts_with = "to")]
    auto: bool,
    /// Make this form; may be given several times.
    #[arg(long, value_enum, value_name = "FORM")]
    to: Vec<WantedForm>,
    /// Greatest loss of a form that is kept, as a share: 0.01 is one in a hundred.
    #[arg(long, value_name = "SHARE", default_value_t = LOSS_MAX, value_parser = share)]
    max_loss: f64,
    /// What loss is counted in [default: accuracy with labels, agreement for classes, else cosine].
    #[arg(long, value_enum)]
    measure: Option<WantedMeasure>,
    #[command(flatten)]
    passes: PassArgs,
    #[command(flatten)]
    about: AboutArgs,
    /// Time forms on this engine; may be given twice [default: ort, and wgpu where a GPU is there].
    #[arg(long, value_enum, value_name = "ENGINE")]
    engine: Vec<WantedEngine>,
    /// Let wgpu run on a software adapter; its times then say nothing about GPUs.
    #[arg(long)]
    software_gpu: bool,
    /// Replace what an earlier run wrote to DIR.
    #[arg(long)]
    force: bool,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
}

/// How forms are made.
#[derive(Debug, Args)]
#[command(next_help_heading = "How forms are made")]
pub(super) struct PassArgs {
    /// How ranges are read from the examples, for int8-qdq.
    #[arg(long, value_enum, default_value = "minmax")]
    calibration: WantedCalibration,
    /// Examples that calibrate; the others judge.
    #[arg(long, value_name = "COUNT", default_value_t = CALIBRATION_EXAMPLES)]
    calibration_examples: usize,
    /// Give each channel of a weight a scale of its own, for int8-qdq and int8-dynamic.
    #[arg(long)]
    per_channel: bool,
    /// Use 7 bits of each weight, for int8: x86 processors without VNNI saturate with 8.
    #[arg(long)]
    reduce_range: bool,
    /// Share of the weights (or channels) that are taken out, for prune and prune-channels.
    #[arg(long, value_name = "SHARE", default_value_t = 0.5, value_parser = share)]
    sparsity: f64,
    /// What the sensitivity of layers is counted in, for int8-mixed [default: kl for classes, else mse].
    #[arg(long, value_enum)]
    rank_by: Option<RankedBy>,
    /// Leave this node alone; may be given several times.
    #[arg(long, value_name = "NODE")]
    exclude_node: Vec<String>,
    /// Leave all nodes of this operator alone, like Softmax; may be given several times.
    #[arg(long, value_name = "OPERATOR")]
    exclude_operator: Vec<String>,
}

/// What model.toml says where MODEL does not lie beside one.
#[derive(Debug, Args)]
#[command(next_help_heading = "What model.toml says")]
pub(super) struct AboutArgs {
    /// Name of the model [default: that of the file].
    #[arg(long)]
    name: Option<ModelName>,
    /// Version of the model [default: 1, or the one after that of MODEL's own model.toml].
    #[arg(long)]
    version: Option<Version>,
    /// SPDX expression of its licence.
    #[arg(long)]
    licence: Option<String>,
    /// What it is, in a sentence.
    #[arg(long)]
    description: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum WantedForm {
    /// Weights and activations in 8 bits, with calibrated ranges.
    Int8Qdq,
    /// As int8-qdq, with the layers in float that lose most by it.
    Int8Mixed,
    /// Weights in 8 bits, activations quantized while it runs.
    Int8Dynamic,
    /// Weights alone in 8 bits.
    Int8Weights,
    /// Weights alone in 4 bits.
    Int4Weights,
    /// Weights and computation in half precision.
    Fp16,
    /// Weights kept in the upper half of single precision, computed with in fp32.
    Bf16,
    /// The smallest weights set to zero.
    Prune,
    /// The weakest channels taken out.
    PruneChannels,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum WantedMeasure {
    /// Accuracy lost on labelled examples.
    Accuracy,
    /// Share of answers with another top class.
    Agreement,
    /// One minus the cosine between the answers.
    Cosine,
    /// Squared error over the square of the answers.
    Error,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum RankedBy {
    /// Mean squared error of the answers.
    Mse,
    /// Kullback-Leibler divergence of the class probabilities.
    Kl,
    /// Accuracy lost on labelled examples.
    Accuracy,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum WantedCalibration {
    /// From the least to the greatest value seen.
    Minmax,
    /// Least and greatest of each batch, averaged.
    MovingAverage,
    /// What holds nearly all values.
    Percentile,
    /// The cut that keeps most of the distribution.
    Entropy,
    /// The cut with the least squared error.
    Mse,
}

impl From<WantedMeasure> for Measure {
    fn from(wanted: WantedMeasure) -> Self {
        match wanted {
            WantedMeasure::Accuracy => Self::Accuracy,
            WantedMeasure::Agreement => Self::Agreement,
            WantedMeasure::Cosine => Self::Cosine,
            WantedMeasure::Error => Self::Error,
        }
    }
}

impl From<RankedBy> for Measure {
    fn from(ranked: RankedBy) -> Self {
        match ranked {
            RankedBy::Mse => Self::Error,
            RankedBy::Kl => Self::Divergence,
            RankedBy::Accuracy => Self::Accuracy,
        }
    }
}

impl From<WantedCalibration> for Calibration {
    fn from(wanted: WantedCalibration) -> Self {
        match wanted {
            WantedCalibration::Minmax => Self::Minmax,
            WantedCalibration::MovingAverage => Self::MovingAverage,
            WantedCalibration::Percentile => Self::Percentile,
            WantedCalibration::Entropy => Self::Entropy,
            WantedCalibration::Mse => Self::Mse,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum WantedEngine {
    /// ONNX Runtime.
    Ort,
    /// Our own engine for GPUs.
    Wgpu,
}

/// Reads a share between 0 and 1.
fn share(text: &str) -> Result<f64, String> {
    let share: f64 = text.parse().map_err(|_not| format!("{text:?} is no number"))?;
    if (0.0..=1.0).contains(&share) { Ok(share) } else { Err(format!("{text} is not between 0 and 1; 1 % is 0.01")) }
}

pub(super) fn run(args: &CompressArgs) -> Result<(), CliError> {
    let target = Target::check(&args.out, args.force)?;
    let interrupt = Interrupt::watch()?;
    let (file, model) = read(&args.model)?;
    let head = form::Head::find(&args.model, &args.about)?;
    let engines = Engines::open(&args.engine, args.software_gpu)?;
    let signature = signature(&engines, &file)?;
    let examples = Examples::open(&args.examples, &signature).map_err(|error| explained(error, args))?;
    let outcome = measure(args, &file, model, &examples, &engines)?;
    let chosen = choice::choose(&outcome, args.auto, &engines)?;
    let goldens = golden::make(&chosen, &outcome, &examples, &engines)?;
    let form = head.form(&signature, &outcome, &chosen, &goldens);
    let files = folder::Files::new(&args.model, &form, &outcome, &chosen, goldens)?;
    target.write(&files, &interrupt)?;
    let made = show::Made::new(&args.out, &outcome, &chosen, engines.notes());
    Ok(Output::from_json_flag(args.json).print(&made, show::told)?)
}

/// Reads the model, with the data that lies beside it, and holds it against the limits.
fn read(path: &Path) -> Result<(ModelBytes, Model), CliError> {
    let limits = ModelLimits::default();
    let bytes = files::read_bounded(path, limits.file_bytes).map_err(|error| {
        let kind = if error.is_not_found() { ExitKind::NotFound } else { ExitKind::Storage };
        CliError::new(kind, error).hint("name an ONNX file")
    })?;
    let no_model = |error: Refusal| {
        CliError::new(ExitKind::Config, error).hint("give a model in the ONNX format: torch.onnx.export, tf2onnx, …")
    };
    let wrong = "see what is wrong with it: cloud-hub model inspect MODEL";
    match precheck::check(&bytes, &limits) {
        Ok(_facts) => {
            let model = Model::from_bytes(bytes.clone().into()).or_exit_try(ExitKind::Config, wrong)?;
            Ok((ModelBytes::from(bytes), model))
        }
        Err(Refusal::ExternalData { .. }) => {
            let model = Model::open(path).or_exit_try(ExitKind::Config, wrong)?;
            let whole = model.to_bytes().or_exit_try(ExitKind::Config, wrong)?;
            precheck::check(&whole, &limits).map_err(no_model)?;
            Ok((ModelBytes::from(whole), model))
        }
        Err(refusal) => Err(no_model(refusal)),
    }
}

/// What the model takes and gives, by the engine that judges.
fn signature(engines: &Engines, file: &ModelBytes) -> Result<Signature, CliError> {
    let session = engines.judge().load(file.clone(), &LoadOptions::default()).map_err(|error| {
        let kind = match &error {
            LoadError::Refused(_) | LoadError::Unsupported { .. } => ExitKind::Config,
            LoadError::Provider { .. } | LoadError::Failed(_) => ExitKind::Failed,
        };
        CliError::new(kind, error).hint("the model itself must run first: cloud-hub model check MODEL")
    })?;
    Ok(session.signature().clone())
}

fn measure(
    args: &CompressArgs,
    file: &ModelBytes,
    model: Model,
    examples: &Examples,
    engines: &Engines,
) -> Result<Outcome, CliError> {
    let passes = &args.passes;
    let calibration = passes.calibration_examples.min(examples.len() / CALIBRATION_SHARE).max(1);
    let request = Request {
        file: file.clone(),
        model,
        examples: examples.clone(),
        calibration,
        engines: engines.all(),
        recipes: recipes(args),
        search_mixed: args.auto || args.to.contains(&WantedForm::Int8Mixed),
        rank_by: args.passes.rank_by.map(Measure::from),
        selection: selection(passes),
        measure: args.measure.map(Measure::from),
        loss_max: args.max_loss,
        race_budget: compress::latency::BUDGET,
    };
    let progress = console::spinner("reading");
    auto::run(request, &mut |stage| told(&progress, stage)).map_err(|error| explained(error, args))
}

fn recipes(args: &CompressArgs) -> Vec<Recipe> {
    if args.auto {
        return Recipe::all();
    }
    let passes = &args.passes;
    let (calibration, per_channel) = (passes.calibration.into(), passes.per_channel);
    let reduce_range = passes.reduce_range;
    let recipe = |wanted: &WantedForm| match wanted {
        // The mixed form is searched for when the plain one, made first, loses too much.
        WantedForm::Int8Qdq | WantedForm::Int8Mixed => Recipe::StaticInt8 { per_channel, calibration, reduce_range },
        WantedForm::Int8Dynamic => Recipe::DynamicInt8 { per_channel, convolutions: true, reduce_range },
        WantedForm::Int8Weights => Recipe::WeightOnly { bits: Bits::Eight, compensated: false },
        WantedForm::Int4Weights => Recipe::WeightOnly { bits: Bits::Four, compensated: true },
        WantedForm::Fp16 => Recipe::Half { format: Format::Float16 },
        WantedForm::Bf16 => Recipe::Half { format: Format::Bfloat16Weights },
        WantedForm::Prune => Recipe::PruneWeights { share: passes.sparsity },
        WantedForm::PruneChannels => Recipe::PruneChannels { share: passes.sparsity },
    };
    let mut recipes: Vec<Recipe> = Vec::new();
    for recipe in args.to.iter().map(recipe) {
        if !recipes.contains(&recipe) {
            recipes.push(recipe);
        }
    }
    recipes
}

fn selection(passes: &PassArgs) -> Selection {
    Selection {
        nodes_excluded: passes.exclude_node.iter().cloned().collect(),
        operators_excluded: passes.exclude_operator.iter().cloned().collect(),
        ..Selection::default()
    }
}

/// An error of the measuring, with the exit code and the advice that belong to it.
fn explained(error: CompressError, args: &CompressArgs) -> CliError {
    let examples = args.examples.display();
    match &error {
        CompressError::Examples { .. } => CliError::new(ExitKind::Config, error)
            .hint(format!("correct {examples}: one array for each input, an example in each row")),
        CompressError::Option { .. } => CliError::new(ExitKind::Usage, error),
        CompressError::Run { .. } => CliError::new(ExitKind::Failed, error)
            .hint(format!("the model itself must answer the examples of {examples}: cloud-hub model check MODEL")),
        _ => CliError::new(ExitKind::Failed, error),
    }
}

/// One line of progress.
fn told(progress: &Progress, stage: Stage<'_>) {
    let line = match stage {
        Stage::Reference => "the model answers the examples".to_owned(),
        Stage::Make(name) => format!("making {name}"),
        Stage::Judge(name, done, of) => format!("judging {name}: {done} of {of} examples"),
        Stage::Rank(done, of) => format!("ranking layers: {done} of {of}"),
        Stage::Search(probe) => format!("searching a mixed form: probe {probe}"),
        Stage::Race(engine, round) => format!("timing on {engine}: round {round}"),
    };
    progress.label(line);
}
