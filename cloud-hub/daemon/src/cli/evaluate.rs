//! `cloud-hub model evaluate`: measures the variants of a folder, its full model, and the cascade of both.

mod report;

use std::path::PathBuf;

use bundle::{ScoreKind, ScoreRule, confidence};
use clap::Args;
use console::{CliError, Output};
use evaluate::metrics::{Figure, agreement, macro_f1, proportion, top_k};
use evaluate::reliability::{Reliability, reliability};
use evaluate::similarity::mean_cosine;
use serde::Serialize;
use types::Tensor;

use super::examined::{Answered, Examined, ExaminedArgs, Whole};
use super::words::{escaped, percent};

/// Examples of the verb.
pub(super) const HELP: &str = "\
Examples:
  cloud-hub model evaluate digits --data test.npz
  cloud-hub model evaluate digits --data test.npz --json | jq '.models[] | {name, accuracy}'
  cloud-hub model evaluate digits --data test.csv --html digits.html

Intervals are at 95 %. With labels (array `labels`, class numbers) accuracy and F1 are measured; without them only the agreement with the
full model. The cascade keeps an answer whose score reaches the threshold of model.toml, and takes the full model's otherwise.";

/// Rank up to which a label counts for the top-k figure.
const TOP_K: usize = 5;

#[derive(Debug, Args)]
pub(super) struct EvaluateArgs {
    #[command(flatten)]
    examined: ExaminedArgs,
    /// Write a page with tables, plots and the worst examples to this file; it needs no other file and no network.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
}

/// Result of an evaluation, as it is printed.
#[derive(Debug, Serialize)]
struct Evaluation {
    examples: usize,
    labelled: bool,
    models: Vec<ModelFigures>,
    notes: Vec<String>,
    /// Page that was written.
    #[serde(skip_serializing_if = "Option::is_none")]
    html: Option<PathBuf>,
}

/// Figures of one variant, of the full model, or of a cascade.
#[derive(Debug, Serialize)]
struct ModelFigures {
    name: String,
    bytes: Option<u64>,
    accuracy: Option<Figure>,
    top_5: Option<Figure>,
    macro_f1: Option<Figure>,
    /// Mean average precision at an overlap of 0.5, for boxes: against labels, or against the full model's boxes.
    mean_precision: Option<Figure>,
    /// Edits for each symbol, for texts: against labels, or against the full model's texts.
    edit_distance: Option<Figure>,
    /// Mean cosine of the scored output and the full model's.
    cosine: Option<Figure>,
    agreement: Option<Figure>,
    /// Share of answers that the cascade takes from the full model.
    deferred: Option<Figure>,
    /// Share of all answers that the cascade keeps and that differ from the full model's.
    kept_and_differing: Option<Figure>,
    calibration_error: Option<f64>,
    brier: Option<f64>,
}

pub(super) fn run(args: &EvaluateArgs) -> Result<(), CliError> {
    let examined = Examined::run(&args.examined)?;
    let mut notes = Vec::new();
    let mut models = vec![of_model(&examined.full, &examined, true)];
    for answered in &examined.device {
        models.push(of_model(answered, &examined, false));
        match (examined.rule_of(answered), examined.threshold_of(answered)) {
            (Some(rule), Some(threshold)) => models.push(cascade(answered, &examined, rule, threshold)),
            (Some(_), None) => notes.push(format!(
                "variant {} has no threshold, so `cascade` asks the full model each time: cloud-hub model calibrate",
                answered.name
            )),
            (None, _) => notes.push(format!(
                "model.toml has no [score], so `cascade` asks the full model each time, and variant {} has no scores",
                answered.name
            )),
        }
    }
    let labelled = examined.labels.is_some() || examined.truth.is_some();
    if !labelled {
        notes.push("the examples have no labels: only agreement with the full model was measured".to_owned());
    }
    let evaluation =
        Evaluation { examples: examined.full.says.len(), labelled, models, notes, html: args.html.clone() };
    if let Some(file) = &args.html {
        report::write(file, &examined, &evaluation)?;
    }
    Ok(Output::from_json_flag(args.json).print(&evaluation, page)?)
}

/// Figures of a variant or of the full model.
fn of_model(answered: &Answered, examined: &Examined, is_full: bool) -> ModelFigures {
    let differs = answered.differs(&examined.full);
    let agreeing = differs.iter().filter(|differs| !**differs).count();
    let reliability = if is_full { None } else { reliability_of(answered, examined) };
    let ranked = ranked(&answered.outputs, examined);
    ModelFigures {
        name: answered.name.clone(),
        bytes: Some(answered.bytes),
        cosine: if is_full { None } else { mean_cosine(&answered.outputs, &examined.full.outputs) },
        agreement: (!is_full && examined.can_agree()).then(|| proportion(agreeing, differs.len())),
        top_5: ranked.zip(examined.labels.as_ref()).map(|(ranked, labels)| top_k(&ranked, labels, TOP_K)),
        deferred: None,
        kept_and_differing: None,
        calibration_error: reliability.as_ref().map(|one| one.ece),
        brier: reliability.as_ref().map(|one| one.brier),
        ..labelled(answered.classes(), answered.whole.as_ref(), examined, is_full)
    }
}

/// Reliability of a variant's scores against agreement with the full model; `None` for scores that are no probabilities of being right.
fn reliability_of(answered: &Answered, examined: &Examined) -> Option<Reliability> {
    let rule = examined.rule_of(answered)?;
    if !matches!(rule.kind, ScoreKind::Top1Probability | ScoreKind::Learned) {
        return None;
    }
    let differs = answered.differs(&examined.full);
    let pairs = answered.outputs.iter().zip(&differs);
    let scored: Vec<(f32, bool)> =
        pairs.filter_map(|(output, differs)| Some((confidence::score(output, rule).ok()?, !differs))).collect();
    reliability(&scored)
}

/// Figures of the cascade of a variant and the full model at a threshold.
fn cascade(answered: &Answered, examined: &Examined, rule: &ScoreRule, threshold: f32) -> ModelFigures {
    let is_kept = |output: &Tensor| confidence::score(output, rule).is_ok_and(|score| score >= threshold);
    let kept: Vec<bool> = answered.outputs.iter().map(is_kept).collect();
    let classes = answered.classes().zip(examined.full.classes()).map(|(device, full)| {
        let both = device.into_iter().zip(full).zip(&kept);
        both.map(|((device, full), kept)| if *kept { device } else { full }).collect()
    });
    let whole = answered.whole.as_ref().zip(examined.full.whole.as_ref()).map(|(ours, full)| ours.cascade(full, &kept));
    let differing =
        answered.differs(&examined.full).iter().zip(&kept).filter(|(differs, kept)| **differs && **kept).count();
    ModelFigures {
        name: format!("cascade {} at {threshold}", answered.name),
        deferred: Some(proportion(kept.iter().filter(|kept| !**kept).count(), kept.len())),
        kept_and_differing: Some(proportion(differing, kept.len())),
        agreement: Some(proportion(kept.len() - differing, kept.len())),
        ..labelled(classes, whole.as_ref(), examined, false)
    }
}

/// Figures against the labels, where there are some, and of boxes and texts else against the full model; everything else is empty.
fn labelled(classes: Option<Vec<usize>>, whole: Option<&Whole>, examined: &Examined, is_full: bool) -> ModelFigures {
    let truth = examined.truth.as_ref();
    let full = examined.full.whole.as_ref().filter(|_| !is_full);
    let both = classes.as_ref().zip(examined.labels.as_ref());
    ModelFigures {
        name: String::new(),
        bytes: None,
        accuracy: both.map(|(classes, labels)| agreement(classes, labels)),
        top_5: None,
        macro_f1: both.and_then(|(classes, labels)| macro_f1(classes, labels)),
        mean_precision: whole.and_then(|whole| whole.mean_precision(truth, full)),
        edit_distance: whole.and_then(|whole| whole.edit_distance(truth, full)),
        cosine: None,
        agreement: None,
        deferred: None,
        kept_and_differing: None,
        calibration_error: None,
        brier: None,
    }
}

/// Classes of each answer by decreasing value; `None` where there are too few for a top-k figure, or no classes.
fn ranked(outputs: &[Tensor], examined: &Examined) -> Option<Vec<Vec<usize>>> {
    let is_of_classes = examined.rule().is_ok_and(|rule| rule.kind.is_of_classes());
    if !is_of_classes || examined.labels.is_none() {
        return None;
    }
    outputs
        .iter()
        .map(|output| {
            let values = output.to_f32().ok()?;
            let is_row = output.shape().iter().copied().max() == Some(values.len());
            let mut order: Vec<usize> = (0..values.len()).collect();
            order.sort_by(|&a, &b| values.get(b).unwrap_or(&0.0).total_cmp(values.get(a).unwrap_or(&0.0)));
            order.truncate(TOP_K);
            (is_row && values.len() > TOP_K).then_some(order)
        })
        .collect()
}

/// Columns of the table of figures.
const HEADERS: [&str; 12] = [
    "model",
    "bytes",
    "accuracy",
    "top 5",
    "F1",
    "mAP",
    "edits per symbol",
    "agrees with full",
    "cosine",
    "deferred",
    "kept and differing",
    "calibration error",
];

/// Cell of a figure that a model does not have.
const NONE: &str = "-";

/// Returns the headers and rows of the table of figures, without columns that no model fills.
fn table(models: &[ModelFigures]) -> (Vec<&'static str>, Vec<Vec<String>>) {
    let rows: Vec<[String; HEADERS.len()]> = models.iter().map(row).collect();
    let shown: Vec<usize> =
        (0..HEADERS.len()).filter(|&at| rows.iter().any(|row| row.get(at).is_some_and(|cell| cell != NONE))).collect();
    let headers = shown.iter().filter_map(|&at| HEADERS.get(at).copied()).collect();
    let rows = rows.iter().map(|row| shown.iter().filter_map(|&at| row.get(at).cloned()).collect()).collect();
    (headers, rows)
}

fn row(model: &ModelFigures) -> [String; HEADERS.len()] {
    let figure = |figure: &Option<Figure>| match figure {
        Some(one) => {
            format!("{} ({} to {})", percent(one.value), percent(one.interval.low), percent(one.interval.high))
        }
        None => NONE.to_owned(),
    };
    let plain = |figure: &Option<Figure>| match figure {
        Some(one) => format!("{:.4} ({:.4} to {:.4})", one.value, one.interval.low, one.interval.high),
        None => NONE.to_owned(),
    };
    [
        model.name.clone(),
        model.bytes.map_or_else(|| NONE.to_owned(), |bytes| bytes.to_string()),
        figure(&model.accuracy),
        figure(&model.top_5),
        figure(&model.macro_f1),
        figure(&model.mean_precision),
        plain(&model.edit_distance),
        figure(&model.agreement),
        plain(&model.cosine),
        figure(&model.deferred),
        figure(&model.kept_and_differing),
        model.calibration_error.map_or_else(|| NONE.to_owned(), percent),
    ]
}

fn page(evaluation: &Evaluation) -> String {
    let (headers, rows) = table(&evaluation.models);
    let mut lines = vec![console::render_table(headers, rows), String::new()];
    lines.extend(evaluation.notes.iter().map(|note| format!("note: {note}")));
    lines.push(format!("{} examples, one at a time; intervals at 95 %", evaluation.examples));
    if let Some(file) = &evaluation.html {
        lines.push(format!("written: {}", file.display()));
    }
    escaped(&lines)
}
