//! What `cloud-hub model compress` can be told.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use compress::Selection;
use compress::auto::{Calibration, Form, GPTQ, Recipe};
use compress::half_precision::Format;
use compress::prune::magnitude::Pattern;
use compress::quality::{Measure, Task};
use compress::static_int8::Activations;
use compress::weight_only::{self, Bits};
use types::{ModelName, Version};

/// Greatest loss of a form that is recommended, unless said otherwise: one in a hundred.
const LOSS_MAX: f64 = 0.01;

/// Examples that calibrate, unless said otherwise; more than a few hundred move no range.
const CALIBRATION_EXAMPLES: usize = 200;

/// Seconds that one form is timed for on one engine at most, unless said otherwise.
const FORM_SECONDS: u64 = compress::latency::FORM_BUDGET.as_secs();

/// Part of the weights or channels that pruning takes out, unless said otherwise.
const SPARSITY: f32 = 0.5;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cloud-hub model compress model.onnx --examples inputs.npz --out v2 --auto
  cloud-hub model compress model.onnx --examples inputs.npz --out v2 --to int8-qdq --calibration entropy --per-channel
  cloud-hub model compress model.onnx --examples inputs.npz --out v2 --auto --json | jq '.recommendations'
  cloud-hub model push v2 --keys offline-keys

inputs.npz holds one array for each input of the model, an example in each row, and if you have them an array `labels`
of class numbers or quantities; a few hundred real inputs are enough. For inputs of varying shape give a folder of .npz
files, one example each. In Python: numpy.savez('inputs.npz', image=images, labels=labels)

DIR gets model.toml, the model files, their golden answers, compress.json with every figure, and front.svg. Where MODEL
lies beside a model.toml that names it, that is taken over, with the next version. docs/compress.md says what the
figures mean.")]
pub(in crate::cli) struct CompressArgs {
    /// The model file, in fp32.
    pub(super) model: PathBuf,
    /// Real inputs: a .npz file, or a folder of them.
    #[arg(long, value_name = "FILE")]
    pub(super) examples: PathBuf,
    /// Folder to write; it must be absent or empty.
    #[arg(long, value_name = "DIR")]
    pub(super) out: PathBuf,
    /// Try every form and keep what is worth it.
    #[arg(long, required_unless_present = "to", conflicts_with = "to")]
    pub(super) auto: bool,
    /// Make this form; may be given several times.
    #[arg(long, value_enum, value_name = "FORM")]
    pub(super) to: Vec<WantedForm>,
    /// Greatest loss of a form that is kept, as a share: 0.01 is one in a hundred.
    #[arg(long, value_name = "SHARE", default_value_t = LOSS_MAX, value_parser = share)]
    pub(super) max_loss: f64,
    /// Measure of loss [default: by the labels and the kind of the answers]: accuracy, auc, f1, r2, mae (with labels);
    /// agreement, cosine, error, each, map, edit-distance; or a command of yours that judges a file of answers, like
    /// 'python3 score.py'.
    #[arg(long, value_name = "MEASURE", value_parser = measure)]
    pub(super) measure: Option<WantedMeasure>,
    /// Task of the model, which says how labels and answers are read [default: as model.toml or the labels say].
    #[arg(long, value_enum, value_name = "TASK")]
    pub(super) task: Option<WantedTask>,
    /// Longest time in seconds that one form is timed for on one engine.
    #[arg(long, value_name = "SECONDS", default_value_t = FORM_SECONDS, value_parser = clap::value_parser!(u64).range(1..=600))]
    pub(super) timing_seconds: u64,
    /// Time forms on this engine; may be given twice [default: ort, and wgpu where a GPU is there].
    #[arg(long, value_enum, value_name = "ENGINE")]
    pub(super) engine: Vec<WantedEngine>,
    /// Let wgpu run on a software adapter; its times then say nothing about GPUs.
    #[arg(long)]
    pub(super) software_gpu: bool,
    /// Replace what an earlier run wrote to DIR.
    #[arg(long)]
    pub(super) force: bool,
    /// Print JSON instead of a table.
    #[arg(long)]
    pub(super) json: bool,
    // Last: their headings would be those of whatever follows.
    #[command(flatten)]
    pub(super) passes: PassArgs,
    #[command(flatten)]
    pub(super) about: AboutArgs,
}

impl CompressArgs {
    /// What to make.
    pub(super) fn recipes(&self) -> Vec<Recipe> {
        if self.auto {
            return Recipe::all();
        }
        let passes = &self.passes;
        let (calibration, per_channel) = (passes.calibration.into(), passes.per_channel);
        let reduce_range = passes.reduce_range;
        let recipe = |wanted: &WantedForm| match wanted {
            // The mixed form is searched for when the plain one, made first, loses too much.
            WantedForm::Int8Qdq | WantedForm::Int8Mixed => {
                let (equalize, correct_bias) = (passes.equalize, passes.correct_bias);
                Recipe::StaticInt8 {
                    per_channel,
                    calibration,
                    activations: passes.activations.into(),
                    symmetric: passes.symmetric,
                    reduce_range,
                    equalize,
                    correct_bias,
                }
            }
            WantedForm::Int8Dynamic => Recipe::DynamicInt8 { per_channel, convolutions: true, reduce_range },
            WantedForm::Int8Weights => passes.weights(Bits::Eight, weight_only::Method::Rtn),
            WantedForm::Int4Weights | WantedForm::Int4Mixed => passes.weights(Bits::Four, GPTQ),
            WantedForm::Fp16 => Recipe::Half { format: Format::Float16 },
            WantedForm::Bf16 => Recipe::Half { format: Format::Bfloat16Weights },
            WantedForm::Prune => {
                Recipe::PruneWeights { pattern: passes.pattern.unwrap_or(Pattern::PerLayer(passes.sparsity)) }
            }
            WantedForm::PruneChannels => Recipe::PruneChannels { share: passes.sparsity },
        };
        let mut recipes: Vec<Recipe> = Vec::new();
        for recipe in self.to.iter().map(recipe) {
            if !recipes.contains(&recipe) {
                recipes.push(recipe);
            }
        }
        recipes
    }

    /// The forms of which a mixed one is wanted where they lose too much.
    pub(super) fn search_mixed(&self) -> Vec<Form> {
        let wanted = |form| self.auto || self.to.contains(&form);
        let both = [(WantedForm::Int8Mixed, Form::Int8Qdq), (WantedForm::Int4Mixed, Form::Int4Weights)];
        both.into_iter().filter(|&(mixed, _)| wanted(mixed)).map(|(_, plain)| plain).collect()
    }

    /// What passes may touch.
    pub(super) fn selection(&self) -> Selection {
        Selection {
            nodes: self.passes.only_node.iter().cloned().collect(),
            operators: self.passes.only_operator.iter().cloned().collect(),
            nodes_excluded: self.passes.exclude_node.iter().cloned().collect(),
            operators_excluded: self.passes.exclude_operator.iter().cloned().collect(),
        }
    }
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
    pub(super) calibration_examples: usize,
    /// Integers of activations, for int8-qdq: u8 is what x86 multiplies fastest, s8 what many accelerators want.
    #[arg(long, value_enum, default_value = "u8")]
    activations: WantedActivations,
    /// Keep ranges even around zero: of activations for int8-qdq, of weights (no zero points) for int8- and int4-weights.
    #[arg(long)]
    symmetric: bool,
    /// How codes are chosen, for int8- and int4-weights [default: gptq for int4-weights, else rtn].
    #[arg(long, value_enum)]
    rounding: Option<WantedRounding>,
    /// Weights that share a scale, for int8- and int4-weights: 16, 32, 64, 128 or 256.
    #[arg(long, value_name = "COUNT", default_value_t = weight_only::BLOCK, value_parser = block_size)]
    block_size: usize,
    /// Write DequantizeLinear before a plain product instead of MatMulNBits, for int8- and int4-weights: for engines that
    /// do not know ONNX Runtime's own operators.
    #[arg(long)]
    weights_as_qdq: bool,
    /// Give each channel of a weight a scale of its own, for int8-qdq and int8-dynamic.
    #[arg(long)]
    per_channel: bool,
    /// Use 7 bits of each weight, for int8: x86 processors without VNNI saturate with 8.
    #[arg(long)]
    reduce_range: bool,
    /// Move scale from large channels to neighbours that bear it before rounding, for int8-qdq (cross-layer
    /// equalization of convolutions, SmoothQuant behind layer normalizations).
    #[arg(long)]
    equalize: bool,
    /// Take out of biases what rounding adds in the mean, for int8-qdq.
    #[arg(long)]
    correct_bias: bool,
    /// Set so many of every so many weights along a layer's inputs to zero, like 2:4, for prune.
    #[arg(long, value_name = "ZEROS:GROUP", value_parser = pattern, conflicts_with = "sparsity")]
    pattern: Option<Pattern>,
    /// Share of the weights (or channels) that are taken out, for prune and prune-channels.
    #[arg(long, value_name = "SHARE", default_value_t = SPARSITY, value_parser = part)]
    sparsity: f32,
    /// What the sensitivity of layers is counted in, for int8- and int4-mixed [default: kl for classes, else mse].
    #[arg(long, value_enum)]
    pub(super) rank_by: Option<RankedBy>,
    /// Touch this node only; may be given several times.
    #[arg(long, value_name = "NODE")]
    only_node: Vec<String>,
    /// Touch nodes of this operator only, like MatMul; may be given several times.
    #[arg(long, value_name = "OPERATOR")]
    only_operator: Vec<String>,
    /// Leave this node alone; may be given several times.
    #[arg(long, value_name = "NODE")]
    exclude_node: Vec<String>,
    /// Leave all nodes of this operator alone, like Softmax; may be given several times.
    #[arg(long, value_name = "OPERATOR")]
    exclude_operator: Vec<String>,
}

impl PassArgs {
    /// Weights alone, as the options say; by `method` unless they name another.
    fn weights(&self, bits: Bits, method: weight_only::Method) -> Recipe {
        let method = self.rounding.map_or(method, weight_only::Method::from);
        Recipe::WeightOnly { bits, method, block: self.block_size, symmetric: self.symmetric, qdq: self.weights_as_qdq }
    }
}

/// What model.toml says where MODEL does not lie beside one.
#[derive(Debug, Args)]
#[command(next_help_heading = "What model.toml says")]
pub(super) struct AboutArgs {
    /// Name of the model [default: that of the file].
    #[arg(long)]
    pub(super) name: Option<ModelName>,
    /// Version of the model [default: 1, or the one after that of MODEL's own model.toml].
    #[arg(long)]
    pub(super) version: Option<Version>,
    /// SPDX expression of its licence.
    #[arg(long)]
    pub(super) licence: Option<String>,
    /// What it is, in a sentence.
    #[arg(long)]
    pub(super) description: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum WantedForm {
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
    /// As int4-weights, with the layers in float that lose most by it.
    Int4Mixed,
    /// Weights and computation in half precision.
    Fp16,
    /// Weights kept in the upper half of single precision, computed with in fp32.
    Bf16,
    /// The smallest weights set to zero.
    Prune,
    /// The weakest channels taken out.
    PruneChannels,
}

/// Measure of loss: one of ours by its name, or the operator's own command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum WantedMeasure {
    Known(Measure),
    Command(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum WantedTask {
    /// One of several classes per example; labels are class numbers.
    Classification,
    /// Yes or no per example or element: wake words, anomalies, tags; labels are 0 and 1 (or -1 and 1).
    Binary,
    /// One or several quantities per example.
    Regression,
    /// Boxes; labels are rows of x1 y1 x2 y2 class, padded with class -1.
    Detection,
    /// Texts with blanks between symbols; labels are symbols, padded with -1.
    Ctc,
}

impl From<WantedTask> for Task {
    fn from(wanted: WantedTask) -> Self {
        match wanted {
            WantedTask::Classification => Self::Classification,
            WantedTask::Binary => Self::Binary,
            WantedTask::Regression => Self::Regression,
            WantedTask::Detection => Self::Detection,
            WantedTask::Ctc => Self::Ctc,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum RankedBy {
    /// Mean squared error of the answers.
    Mse,
    /// Kullback-Leibler divergence of the class probabilities.
    Kl,
    /// Accuracy lost on labelled examples.
    Accuracy,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum WantedActivations {
    /// 0 to 255.
    U8,
    /// -128 to 127.
    S8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum WantedRounding {
    /// To the nearest level of the best scale.
    Rtn,
    /// Half-quadratic: zero points that forgive outliers.
    Hqq,
    /// Errors make up for each other on the calibration examples.
    Gptq,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum WantedCalibration {
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

impl From<WantedActivations> for Activations {
    fn from(wanted: WantedActivations) -> Self {
        match wanted {
            WantedActivations::U8 => Self::U8,
            WantedActivations::S8 => Self::S8,
        }
    }
}

impl From<WantedRounding> for weight_only::Method {
    fn from(wanted: WantedRounding) -> Self {
        match wanted {
            WantedRounding::Rtn => Self::Rtn,
            WantedRounding::Hqq => Self::Hqq,
            WantedRounding::Gptq => GPTQ,
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
pub(super) enum WantedEngine {
    /// ONNX Runtime.
    Ort,
    /// Our own engine for GPUs.
    Wgpu,
}

/// Reads the name of a measure, or a command: two words, or a path.
fn measure(text: &str) -> Result<WantedMeasure, String> {
    let known = |measure: &Measure| !matches!(measure, Measure::Command | Measure::Divergence);
    let found = Measure::ALL.into_iter().filter(known).find(|measure| measure.as_str() == text);
    match found {
        Some(measure) => Ok(WantedMeasure::Known(measure)),
        None if text.trim().contains([' ', '/']) => Ok(WantedMeasure::Command(text.to_owned())),
        None => {
            let names: Vec<&str> = Measure::ALL.iter().filter(|one| known(one)).map(|one| one.as_str()).collect();
            Err(format!("use {}, or a command with its path or arguments, like 'python3 score.py'", names.join(", ")))
        }
    }
}

/// Reads a part of weights between 0 and 1.
fn part(text: &str) -> Result<f32, String> {
    share(text)?;
    text.parse().map_err(|_not| format!("{text:?} is no number"))
}

/// Reads how many of how many weights become zero, like `2:4`.
fn pattern(text: &str) -> Result<Pattern, String> {
    let read = || {
        let (zeros, group) = text.split_once(':')?;
        let (zeros, group) = (zeros.parse().ok()?, group.parse().ok()?);
        (0 < zeros && zeros < group).then_some(Pattern::Groups { zeros, group })
    };
    read().ok_or_else(|| format!("{text:?} is no pattern: 2:4 sets two of every four weights to zero"))
}

/// Reads how many weights share a scale.
fn block_size(text: &str) -> Result<usize, String> {
    let known = |size: &usize| weight_only::BLOCKS.contains(size);
    text.parse().ok().filter(known).ok_or_else(|| format!("{text:?} is not 16, 32, 64, 128 or 256"))
}

/// Reads a share between 0 and 1.
fn share(text: &str) -> Result<f64, String> {
    let share: f64 = text.parse().map_err(|_not| format!("{text:?} is no number"))?;
    if (0.0..=1.0).contains(&share) { Ok(share) } else { Err(format!("{text} is not between 0 and 1; 1 % is 0.01")) }
}
