//! Prints the result of the verb: one table, then in sentences which form to take and the reason.

use std::path::{Path, PathBuf};

use compress::auto::{Candidate, EXAMPLES_FEW, Outcome, Verdict};
use compress::quality::{Accuracy, Measure, Quality};
use serde::Serialize;
use types::EngineName;

use super::choice::Chosen;
use crate::cli::calibrate::{self, Calibration};
use crate::cli::words::{self, escaped};

/// Result of a run, as it is printed.
#[derive(Debug, Serialize)]
pub(super) struct Made<'a> {
    folder: PathBuf,
    variants: Vec<MadeVariant>,
    #[serde(flatten)]
    outcome: &'a Outcome,
    engine_notes: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    calibration: Option<Calibration>,
}

/// A variant that was written.
#[derive(Debug, Serialize)]
struct MadeVariant {
    name: String,
    file: String,
    engines: Vec<EngineName>,
    made_by: String,
    bytes: u64,
}

impl<'a> Made<'a> {
    pub(super) fn new(
        folder: &Path,
        outcome: &'a Outcome,
        chosen: &[Chosen<'_>],
        engine_notes: &'a [String],
        calibration: Option<Calibration>,
    ) -> Self {
        let variant = |chosen: &Chosen<'_>| MadeVariant {
            name: chosen.name.clone(),
            file: chosen.file(),
            engines: chosen.engines.clone(),
            made_by: chosen.candidate.name.clone(),
            bytes: chosen.candidate.bytes,
        };
        Self {
            folder: folder.to_owned(),
            variants: chosen.iter().map(variant).collect(),
            outcome,
            engine_notes,
            calibration,
        }
    }
}

/// The text for people.
pub(super) fn told(made: &Made<'_>) -> String {
    let outcome = made.outcome;
    let mut lines = vec![table(outcome), String::new()];
    for one in &outcome.recommendations {
        lines.push(format!("for {}: {}, {}", one.class.as_str(), one.candidate, one.reason));
    }
    let nothing = outcome.recommendations.iter().all(|one| one.is_reference);
    if nothing && let Some(reference) = outcome.candidates.first() {
        lines.push(format!("nothing beats {}: ship it as it is", reference.name));
    }
    lines.push(String::new());
    for variant in &made.variants {
        let engines: Vec<&str> = variant.engines.iter().map(|engine| engine.as_str()).collect();
        lines.push(format!(
            "variant {} ({}) in {}, by {}",
            variant.name,
            engines.join(", "),
            variant.file,
            variant.made_by
        ));
    }
    lines.extend(outcome.notes.iter().chain(made.engine_notes).map(|note| format!("note: {note}")));
    lines.push(format!(
        "calibrated on {} examples, judged on {} others, one at a time, by {}{}",
        outcome.calibrated_on,
        outcome.judged_on,
        judged_by(outcome),
        if outcome.judged_on < EXAMPLES_FEW { " (few)" } else { "" }
    ));
    let folder = made.folder.display();
    match &made.calibration {
        Some(calibration) => lines.extend([String::new(), calibrate::page(calibration), String::new()]),
        None => lines.push(format!(
            "no thresholds: `cascade` asks the full model each time, until cloud-hub model calibrate {folder} --data FILE --full FILE"
        )),
    }
    lines
        .push(format!("written to {folder}; read {folder}/model.toml, then: cloud-hub model push {folder} --keys DIR"));
    escaped(&lines)
}

/// The measure; where each output has its own, all of them.
fn judged_by(outcome: &Outcome) -> String {
    let quality = outcome.candidates.first().and_then(|reference| reference.quality.as_ref());
    match (outcome.measure, quality) {
        (Measure::Each, Some(quality)) => {
            let each = quality.outputs.iter().map(|output| format!("{} of {:?}", output.natural.as_str(), output.name));
            each.collect::<Vec<_>>().join(", ")
        }
        (measure, _) => measure.as_str().to_owned(),
    }
}

fn table(outcome: &Outcome) -> String {
    let Some(reference) = outcome.candidates.first() else { return String::new() };
    let engines: Vec<EngineName> = reference.runs.iter().map(|run| run.engine).collect();
    let interval = if outcome.measure.needs_labels() { " (95 %)" } else { "" };
    let loss = format!("{} lost{interval}", outcome.measure.as_str());
    let mut headers = vec!["form".to_owned(), "bytes".to_owned(), "zstd".to_owned(), loss, "off by".to_owned()];
    headers.extend(engines.iter().map(|engine| format!("time {engine}")));
    headers.push("verdict".to_owned());
    let rows = outcome.candidates.iter().map(|candidate| row(candidate, reference, &engines, outcome.measure));
    console::render_table(headers, rows)
}

fn row(candidate: &Candidate, reference: &Candidate, engines: &[EngineName], measure: Measure) -> Vec<String> {
    let none = || "-".to_owned();
    let has_file = candidate.bytes > 0;
    let quality = candidate.quality.as_ref();
    let loss = match (candidate.loss, quality) {
        (Some(loss), Some(quality)) => loss_told(loss, quality, measure, candidate.verdict == Verdict::Reference),
        (Some(_) | None, _) => none(),
    };
    let off = quality.and_then(|quality| quality.outputs.iter().map(|output| output.error).reduce(f64::max));
    let mut cells = vec![
        candidate.name.clone(),
        if has_file { candidate.bytes.to_string() } else { none() },
        if has_file { percent(ratio(candidate.bytes_zstd, reference.bytes_zstd)) } else { none() },
        loss,
        off.map_or_else(none, |error| percent(error.sqrt())),
    ];
    cells.extend(engines.iter().map(|&engine| time(candidate, engine)));
    cells.push(verdict(candidate));
    cells
}

/// The loss, with its interval where there is one: `0.20 % (-0.10 to 0.61)`; the reference's own figure in its row.
fn loss_told(loss: f64, quality: &Quality, measure: Measure, is_reference: bool) -> String {
    let name = measure.as_str();
    if let Some(accuracy) = quality.accuracy.filter(|_| measure == Measure::Accuracy) {
        return if is_reference { format!("{name} {}", percent(accuracy.reference)) } else { interval(&accuracy) };
    }
    let of_labels = quality.labelled.as_ref().and_then(|labelled| labelled.figure(measure));
    let figure = of_labels.or_else(|| quality.figures.iter().find(|figure| figure.measure == measure));
    match figure {
        // The operator's own unit is told as it is.
        Some(figure) if measure == Measure::Command && is_reference => format!("{:.4}", figure.reference),
        Some(figure) if measure == Measure::Command => format!("{:.4} ({:.4} less good)", figure.variant, figure.lost),
        Some(figure) if is_reference => format!("{name} {:.4}", figure.reference),
        Some(figure) => match figure.interval {
            Some([low, high]) => {
                format!("{} ({:.2} to {:.2})", percent(figure.lost), in_percent(low), in_percent(high))
            }
            None => percent(figure.lost),
        },
        None => percent(loss),
    }
}

/// A share in percent, without a sign where two digits show none.
fn in_percent(share: f64) -> f64 {
    let percent = 100.0 * share;
    if percent.abs() < 0.005 { 0.0 } else { percent }
}

/// The loss of accuracy and its interval: `0.20 % (-0.10 to 0.61)`.
fn interval(accuracy: &Accuracy) -> String {
    let (low, high) = (in_percent(accuracy.lost_low), in_percent(accuracy.lost_high));
    format!("{} ({low:.2} to {high:.2})", percent(accuracy.lost))
}

/// The time of the reference in milliseconds, of the others as a ratio.
fn time(candidate: &Candidate, engine: EngineName) -> String {
    let Some(run) = candidate.on(engine) else { return "-".to_owned() };
    match (run.timing, &run.problem) {
        (Some(timing), _) if candidate.verdict == Verdict::Reference => format!("{:.3} ms", timing.median_ms),
        (Some(timing), _) if !timing.is_enough() => format!("about {:.1}x ({} rounds)", timing.ratio, timing.rounds),
        (Some(timing), _) => format!("{:.2}x ({:.2} to {:.2})", timing.ratio, timing.ratio_low, timing.ratio_high),
        (None, Some(_)) => "does not run".to_owned(),
        (None, None) => "-".to_owned(),
    }
}

fn verdict(candidate: &Candidate) -> String {
    match &candidate.verdict {
        Verdict::Reference => "reference".to_owned(),
        Verdict::Good => "good".to_owned(),
        Verdict::Lossy => "loses too much".to_owned(),
        Verdict::Beaten { by, reason } => format!("refused, beaten by {by}; this form: {reason}"),
        Verdict::Invalid { reason } => format!("refused, invalid: {reason}"),
        Verdict::NotApplicable { reason } => format!("not made: {reason}"),
    }
}

/// Returns whether nothing beats it.
pub(super) fn is_on_pareto_front(candidate: &Candidate) -> bool {
    matches!(candidate.verdict, Verdict::Reference | Verdict::Good | Verdict::Lossy)
}

/// One size over another.
#[expect(clippy::cast_precision_loss, reason = "told with two digits")]
pub(super) fn ratio(bytes: u64, of: u64) -> f64 {
    bytes as f64 / of.max(1) as f64
}

/// A share in percent, or as a number where two digits of a percent show none of it.
pub(super) fn share(share: f64) -> String {
    if share != 0.0 && share.abs() < 5e-5 { format!("{share:.2e}") } else { percent(share) }
}

/// A share in percent.
pub(super) fn percent(share: f64) -> String {
    // A form that could not be measured at all.
    if share >= 1e6 {
        return "everything".to_owned();
    }
    words::percent(share)
}
