//! `cloud-hub model evaluate`: measures the variants of a folder, its full model, and the cascade of both.

use bundle::{ScoreKind, ScoreRule, confidence};
use clap::Args;
use console::{CliError, Output};
use evaluate::metrics::{Figure, agreement, macro_f1, proportion, top_k};
use evaluate::reliability::reliability;
use serde::Serialize;
use types::{Place, Tensor};

use super::examined::{Answered, Examined, ExaminedArgs};
use super::words::{escaped, percent};

/// Examples of the verb.
pub(super) const HELP: &str = "\
Examples:
  cloud-hub model evaluate digits --data test.npz
  cloud-hub model evaluate digits --data test.npz --json | jq '.models[] | {name, accuracy}'

Intervals are at 95 %. With labels (array `labels`, class numbers) accuracy and F1 are measured; without them only the agreement with the
full model. The cascade keeps an answer whose score reaches the threshold of model.toml, and takes the full model's otherwise.";

/// Rank up to which a label counts for the top-k figure.
const TOP_K: usize = 5;

#[derive(Debug, Args)]
pub(super) struct EvaluateArgs {
    #[command(flatten)]
    examined: ExaminedArgs,
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
}

/// Figures of one variant, of the full model, or of a cascade.
#[derive(Debug, Serialize)]
struct ModelFigures {
    name: String,
    bytes: Option<u64>,
    accuracy: Option<Figure>,
    top_5: Option<Figure>,
    macro_f1: Option<Figure>,
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
    let mut models = vec![of_model(&examined.full, &examined, None)];
    for answered in &examined.device {
        let variant = examined.manifest.variants_for(Place::Device).find(|one| one.name.as_str() == answered.name);
        let rule = examined.rule_of(answered);
        models.push(of_model(answered, &examined, Some(rule)));
        match variant.and_then(|variant| variant.threshold) {
            Some(threshold) => models.push(cascade(answered, &examined, rule, threshold)),
            None => notes.push(format!(
                "variant {} has no threshold, so `cascade` asks the full model each time: cloud-hub model calibrate",
                answered.name
            )),
        }
    }
    if examined.labels.is_none() {
        notes.push("the examples have no labels: only agreement with the full model was measured".to_owned());
    }
    let evaluation =
        Evaluation { examples: examined.full.outputs.len(), labelled: examined.labels.is_some(), models, notes };
    Ok(Output::from_json_flag(args.json).print(&evaluation, page)?)
}

/// Figures of a model; with a rule also the reliability of its scores.
fn of_model(answered: &Answered, examined: &Examined, rule: Option<&ScoreRule>) -> ModelFigures {
    let differs = answered.differs(&examined.full);
    let agreeing = || differs.iter().filter(|differs| !**differs).count();
    let scored = rule.map(|rule| {
        let pairs = answered.outputs.iter().zip(&differs);
        pairs
            .filter_map(|(output, differs)| Some((confidence::score(output, rule).ok()?, !differs)))
            .collect::<Vec<_>>()
    });
    // Only these are probabilities of being right.
    let is_probability = rule.is_some_and(|rule| matches!(rule.kind, ScoreKind::Top1Probability | ScoreKind::Learned));
    let reliability = scored.filter(|_scored| is_probability).and_then(|scored| reliability(&scored));
    let ranked = ranked(&answered.outputs, examined);
    ModelFigures {
        name: answered.name.clone(),
        bytes: Some(answered.bytes),
        agreement: rule.map(|_rule| proportion(agreeing(), differs.len())),
        top_5: ranked.zip(examined.labels.as_ref()).map(|(ranked, labels)| top_k(&ranked, labels, TOP_K)),
        deferred: None,
        kept_and_differing: None,
        calibration_error: reliability.as_ref().map(|one| one.ece),
        brier: reliability.as_ref().map(|one| one.brier),
        ..labelled(answered.classes(), examined)
    }
}

/// Figures of the cascade of a variant and the full model at a threshold.
fn cascade(answered: &Answered, examined: &Examined, rule: &ScoreRule, threshold: f32) -> ModelFigures {
    let is_kept = |output: &Tensor| confidence::score(output, rule).is_ok_and(|score| score >= threshold);
    let kept: Vec<bool> = answered.outputs.iter().map(is_kept).collect();
    let classes = answered.classes().zip(examined.full.classes()).map(|(device, full)| {
        let both = device.into_iter().zip(full).zip(&kept);
        both.map(|((device, full), kept)| if *kept { device } else { full }).collect()
    });
    let differing =
        answered.differs(&examined.full).iter().zip(&kept).filter(|(differs, kept)| **differs && **kept).count();
    ModelFigures {
        name: format!("cascade {} at {threshold}", answered.name),
        deferred: Some(proportion(kept.iter().filter(|kept| !**kept).count(), kept.len())),
        kept_and_differing: Some(proportion(differing, kept.len())),
        agreement: Some(proportion(kept.len() - differing, kept.len())),
        ..labelled(classes, examined)
    }
}

/// Accuracy and F1 of classes against the labels, where there are some; everything else is empty.
fn labelled(classes: Option<Vec<usize>>, examined: &Examined) -> ModelFigures {
    let both = classes.as_ref().zip(examined.labels.as_ref());
    ModelFigures {
        name: String::new(),
        bytes: None,
        accuracy: both.map(|(classes, labels)| agreement(classes, labels)),
        top_5: None,
        macro_f1: both.and_then(|(classes, labels)| macro_f1(classes, labels)),
        agreement: None,
        deferred: None,
        kept_and_differing: None,
        calibration_error: None,
        brier: None,
    }
}

/// Classes of each answer by decreasing value; `None` where there are too few for a top-k figure, or no classes.
fn ranked(outputs: &[Tensor], examined: &Examined) -> Option<Vec<Vec<usize>>> {
    if !examined.rule.kind.is_of_classes() || examined.labels.is_none() {
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

fn page(evaluation: &Evaluation) -> String {
    let figure = |figure: &Option<Figure>| match figure {
        Some(one) => {
            format!("{} ({} to {})", percent(one.value), percent(one.interval.low), percent(one.interval.high))
        }
        None => "-".to_owned(),
    };
    let rows = evaluation.models.iter().map(|model| {
        [
            model.name.clone(),
            model.bytes.map_or_else(|| "-".to_owned(), |bytes| bytes.to_string()),
            figure(&model.accuracy),
            figure(&model.macro_f1),
            figure(&model.agreement),
            figure(&model.deferred),
            figure(&model.kept_and_differing),
            model.calibration_error.map_or_else(|| "-".to_owned(), percent),
        ]
    });
    let headers =
        ["model", "bytes", "accuracy", "F1", "agrees with full", "deferred", "kept and differing", "calibration error"];
    let mut lines = vec![console::render_table(headers, rows), String::new()];
    lines.extend(evaluation.notes.iter().map(|note| format!("note: {note}")));
    lines.push(format!("{} examples, one at a time; intervals at 95 %", evaluation.examples));
    escaped(&lines)
}
