//! `cloud-hub model calibrate`: finds the threshold of each device variant, and writes it into model.toml.

use std::path::Path;

use bundle::{ScoreKind, ScoreRule};
use clap::Args;
use console::{CliError, ExitKind, OrExit, Output};
use evaluate::Interval;
use evaluate::calibrate::{Calibrated, Choice, Options, calibrate};
use evaluate::candidates::Answers;
use evaluate::threshold::Promise;
use model_tools::pack::edit::{self, FormEdit};
use serde::Serialize;
use store::files::{self, Mode};
use types::Place;

use super::examined::{Answered, Examined, ExaminedArgs, OpenExamples, packed};
use super::words::{escaped, percent, share};

/// Examples of the verb.
pub(super) const HELP: &str = "\
Examples:
  cloud-hub model calibrate digits --data examples.npz
  cloud-hub model calibrate digits --data examples.npz --alpha 1% --full big.onnx
  cloud-hub model calibrate digits --data examples.npz --dry-run --json

With the confidence that is asked for, at most the share --alpha of all requests is kept on the device and answered otherwise than
by the full model, over requests like the examples. Use examples that neither trained the model nor calibrated its quantization.
Each variant has a promise of its own. At least 299 examples are needed for 1 %, 149 for 2 %, 59 for 5 % (with 95 %). docs/evaluate.md
explains the method. The exit code is 1 when no threshold could be shown for any variant.";

/// Probability with which a promise may be broken by the draw of the examples, unless said otherwise.
const DELTA: f64 = 0.05;

/// Seed of the division of the examples, unless said otherwise.
const SEED: u64 = 1;

#[derive(Debug, Args)]
pub(super) struct CalibrateArgs {
    #[command(flatten)]
    examined: ExaminedArgs,
    /// Largest share of all requests that may be kept and differ from the full model's answer, like 2% or 0.02.
    #[arg(long, value_name = "SHARE", default_value = "2%", value_parser = share)]
    alpha: f64,
    /// Confidence of the promise, like 95% or 0.95.
    #[arg(long, value_name = "SHARE", default_value = "95%", value_parser = share)]
    confidence: f64,
    /// Keep the score of each variant as model.toml has it, instead of the one that separates best, and use all examples for
    /// the threshold. They must be others than those that chose that score.
    #[arg(long)]
    keep_score: bool,
    /// Seed of the division of the examples into those that choose the score and those that show the threshold.
    #[arg(long, value_name = "N", default_value_t = SEED)]
    seed: u64,
    /// Print the result and change no file.
    #[arg(long)]
    dry_run: bool,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
}

/// Result of a calibration, as it is printed.
#[derive(Debug, Serialize)]
pub(super) struct Calibration {
    folder: String,
    alpha: f64,
    confidence: f64,
    examples: usize,
    written: bool,
    variants: Vec<VariantCalibration>,
    notes: Vec<String>,
}

/// Result for one variant.
#[derive(Debug, Serialize)]
struct VariantCalibration {
    name: String,
    agreement: f64,
    threshold: Option<f32>,
    coverage: f64,
    coverage_interval: Interval,
    bound: Option<f64>,
    #[serde(flatten)]
    calibrated: Calibrated,
}

pub(super) fn run(args: &CalibrateArgs) -> Result<(), CliError> {
    let examined = Examined::run(&args.examined)?;
    let promise = Promise { alpha: args.alpha, delta: 1.0 - args.confidence };
    let choice = if args.keep_score { Choice::Given } else { Choice::Best };
    let options = Options { promise, choice, seed: args.seed };
    let ExaminedArgs { folder, full, .. } = &args.examined;
    let calibration = calibrated(folder, full.as_deref(), &examined, options, !args.dry_run)?;
    Output::from_json_flag(args.json).print(&calibration, page)?;
    if calibration.variants.iter().any(|variant| variant.threshold.is_some()) {
        return Ok(());
    }
    let needed = calibration.variants.first().map_or(0, |variant| variant.calibrated.examples_needed);
    let problem = format!("no threshold keeps at most {} differing answers with this confidence", percent(args.alpha));
    let hint = if calibration.examples < needed {
        let missing = needed - calibration.examples;
        format!("give {missing} more examples (at least {needed} are needed), or a larger --alpha")
    } else {
        "give a larger --alpha, or a device variant that agrees more often with the full model".to_owned()
    };
    Err(CliError::new(ExitKind::Failed, problem).hint(hint))
}

/// Calibrates a folder that was just written, on the examples that judged its variants, and writes the thresholds into it.
pub(super) fn of_folder(
    folder: &Path,
    full: &Path,
    alpha: f64,
    examples: OpenExamples<'_>,
) -> Result<Calibration, CliError> {
    let examined = Examined::of(folder, Some(full), examples)?;
    let options = Options { promise: Promise { alpha, delta: DELTA }, choice: Choice::Best, seed: SEED };
    calibrated(folder, Some(full), &examined, options, true)
}

fn calibrated(
    folder: &Path,
    full: Option<&Path>,
    examined: &Examined,
    options: Options,
    written: bool,
) -> Result<Calibration, CliError> {
    let model_rule = examined.rule()?;
    let variants: Vec<_> = examined.device.iter().map(|variant| of(variant, examined, model_rule, options)).collect();
    let mut notes = Vec::new();
    if examined.is_found {
        notes.push(format!("model.toml had no [score]: output {:?} has the classes", model_rule.output));
    }
    if variants.iter().all(|variant| variant.calibrated.choosing == 0) && options.choice == Choice::Best {
        notes.push("the score of model.toml was kept: 800 examples or more allow a choice".to_owned());
    }
    if written {
        write(folder, full, examined, &variants, options.promise)?;
    }
    Ok(Calibration {
        folder: folder.display().to_string(),
        alpha: options.promise.alpha,
        confidence: 1.0 - options.promise.delta,
        examples: examined.full.says.len(),
        written,
        variants,
        notes,
    })
}

fn of(variant: &Answered, examined: &Examined, model_rule: &ScoreRule, options: Options) -> VariantCalibration {
    let differs = variant.differs(&examined.full);
    let classes = examined.full.classes().unwrap_or_default();
    let answers = Answers { outputs: &variant.outputs, differs: &differs, classes: &classes };
    // A choice begins with the rule of the model: one that an earlier choice has fitted may know these examples.
    let rule = match options.choice {
        Choice::Given => examined.rule_of(variant).unwrap_or(model_rule),
        Choice::Best => model_rule,
    };
    let calibrated = calibrate(answers, rule, options);
    let agreeing = differs.iter().filter(|differs| !**differs).count();
    VariantCalibration {
        name: variant.name.clone(),
        agreement: evaluate::metrics::proportion(agreeing, differs.len()).value,
        threshold: calibrated.walk.point().map(|point| point.threshold),
        coverage: calibrated.walk.coverage(),
        coverage_interval: calibrated.walk.coverage_interval(1.0 - options.promise.delta),
        bound: calibrated.walk.point().map(|point| point.bound),
        calibrated,
    }
}

/// Writes the curves and the full model under names that the form does not use, then the form with these names. A run that is cut off
/// leaves the form and all that it names as they were.
fn write(
    folder: &Path,
    full: Option<&Path>,
    examined: &Examined,
    variants: &[VariantCalibration],
    promise: Promise,
) -> Result<(), CliError> {
    let mut form = FormEdit::open(folder).or_exit(ExitKind::Config)?;
    let model_rule = examined.rule()?;
    if examined.is_found {
        form.set_score(model_rule);
    }
    for variant in variants {
        let text = serde_json::to_vec_pretty(&variant.calibrated.calibration(promise))?;
        let file = put(folder, &form, &format!("{}.calibration", variant.name), "json", &text)?;
        let rule = &variant.calibrated.rule;
        let score = (rule != model_rule).then_some(rule);
        let calibrated = edit::Calibrated { score, threshold: variant.threshold, calibration: &file };
        form.set_calibrated(&variant.name, calibrated).or_exit(ExitKind::Config)?;
    }
    if let Some(full) = full.filter(|full| !is_full_model(folder, full, examined)) {
        let limit = engine::ModelLimits::default().file_bytes;
        let content = files::read_bounded(full, limit).or_exit(ExitKind::Storage)?;
        form.set_full(&put(folder, &form, "full", "onnx", &content)?);
    }
    files::write_atomic(form.path(), form.text().as_bytes(), Mode::Shared).map_err(storage)?;
    // The form must be one that can be pushed.
    packed(folder).map(drop)
}

/// Writes a file of the folder under the first name, like `full.onnx` or `full-2.onnx`, that the form does not use, and returns the name.
fn put(folder: &Path, form: &FormEdit, stem: &str, extension: &str, content: &[u8]) -> Result<String, CliError> {
    let names = std::iter::once(format!("{stem}.{extension}"))
        .chain((2_u32..).map(|number| format!("{stem}-{number}.{extension}")));
    let name = names.into_iter().find(|name| !form.uses(name)).unwrap_or_default();
    files::write_atomic(&folder.join(&name), content, Mode::Shared).map_err(storage)?;
    Ok(name)
}

/// Returns whether a file is the full model of the folder already.
fn is_full_model(folder: &Path, full: &Path, examined: &Examined) -> bool {
    let hub = examined.manifest.variants_for(Place::Hub).next();
    let same = hub.and_then(|variant| folder.join(variant.file.name.as_str()).canonicalize().ok());
    same.is_some() && same == full.canonicalize().ok()
}

fn storage(error: files::FileError) -> CliError {
    CliError::new(ExitKind::Storage, error).hint("make the folder writable, or free some space there")
}

/// Returns the text for people.
pub(super) fn page(calibration: &Calibration) -> String {
    let rows = calibration.variants.iter().map(|variant| {
        let interval = variant.coverage_interval;
        [
            variant.name.clone(),
            percent(variant.agreement),
            variant.calibrated.rule.kind.as_str().to_owned(),
            variant.threshold.map_or_else(|| "none".to_owned(), |threshold| threshold.to_string()),
            format!("{} ({} to {})", percent(variant.coverage), percent(interval.low), percent(interval.high)),
            variant.bound.map_or_else(|| "-".to_owned(), |bound| format!("at most {}", percent(bound))),
        ]
    });
    let headers = ["variant", "agrees", "score", "threshold", "kept on the device", "kept and differing"];
    let mut lines = vec![console::render_table(headers, rows), String::new()];
    for variant in &calibration.variants {
        // Other kinds are no probabilities of being right, so their distance from the share that is right says nothing.
        let is_probability = matches!(variant.calibrated.rule.kind, ScoreKind::Top1Probability | ScoreKind::Learned);
        if let (true, Some(before), Some(after)) =
            (is_probability, &variant.calibrated.before, &variant.calibrated.after)
        {
            let (before, after) = (before.ece, after.ece);
            lines.push(format!(
                "{}: calibration error {} with the score of model.toml, {} with the one chosen",
                variant.name,
                percent(before),
                percent(after)
            ));
        }
    }
    lines.extend(calibration.notes.iter().map(|note| format!("note: {note}")));
    lines.push(format!(
        "{} examples; with {} confidence at most {} of all requests are kept and differ from the full model, for each variant",
        calibration.examples,
        percent(calibration.confidence),
        percent(calibration.alpha)
    ));
    if calibration.written {
        lines.push(format!("written to {}/model.toml", calibration.folder));
    }
    escaped(&lines)
}
