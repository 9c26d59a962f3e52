//! The page of `cloud-hub model evaluate --html`: figures, plots, and the worst examples.
//!
//! Fed by [`super`] with answers and figures; [`evaluate::document`] and [`evaluate::chart`] write the HTML.

use std::path::Path;

use bundle::confidence;
use console::{CliError, ExitKind, OrExit};
use evaluate::chart::{Chart, Mark, Series};
use evaluate::deferral::{self, Scored};
use evaluate::document::{Cell, Document};
use evaluate::{binomial, metrics, picture};
use store::files::{self, Mode};

use super::{Evaluation, reliability_of, table};
use crate::cli::examined::{Answered, Examined};

/// Number of worst examples of a variant.
const WORST_SHOWN: usize = 12;

/// Largest number of rows of an answer that are written out, as classes or yes/no.
const ROWS_SHOWN: usize = 8;

/// Answers of one variant, held against the labels, or against the full model where there are none.
struct Judged<'a> {
    answered: &'a Answered,
    /// Score of each answer; `None` where it has none.
    scores: Vec<Option<f32>>,
    is_right: Vec<bool>,
    is_full_right: Vec<bool>,
    threshold: Option<f32>,
}

impl<'a> Judged<'a> {
    /// Returns `None` without scores.
    fn new(answered: &'a Answered, examined: &Examined) -> Option<Self> {
        let rule = examined.rule_of(answered)?;
        let scores = answered.outputs.iter().map(|output| confidence::score(output, rule).ok()).collect();
        let both = answered.classes().zip(examined.full.classes()).zip(examined.labels.as_ref());
        let (is_right, is_full_right) = match both {
            Some(((device, full), labels)) => {
                let right =
                    |classes: Vec<usize>| classes.iter().zip(labels).map(|(class, label)| class == label).collect();
                (right(device), right(full))
            }
            None => {
                let differs = answered.differs(&examined.full);
                (differs.iter().map(|differs| !differs).collect(), vec![true; differs.len()])
            }
        };
        Some(Self { answered, scores, is_right, is_full_right, threshold: examined.threshold_of(answered) })
    }

    /// Accuracy over the share deferred, with the threshold of model.toml marked.
    fn curve(&self) -> Series {
        let answers = self.scores.iter().zip(&self.is_right).zip(&self.is_full_right);
        let answers: Vec<Scored> =
            answers.map(|((&score, &is_right), &is_full_right)| Scored { score, is_right, is_full_right }).collect();
        let mark = |point: &deferral::Point| Mark {
            x: point.deferred,
            y: point.right.value,
            interval: Some((point.right.interval.low, point.right.interval.high)),
        };
        let highlight = self.threshold.map(|threshold| {
            let is_kept = |one: &Scored| one.score.is_some_and(|score| score >= threshold);
            let deferred = answers.iter().filter(|one| !is_kept(one)).count();
            let right =
                answers.iter().filter(|one| if is_kept(one) { one.is_right } else { one.is_full_right }).count();
            let (x, y) = (metrics::proportion(deferred, answers.len()), metrics::proportion(right, answers.len()));
            (Mark { x: x.value, y: y.value, interval: None }, format!("threshold {threshold}"))
        });
        let marks = deferral::curve(&answers).iter().map(mark).collect();
        Series { name: self.answered.name.clone(), marks, is_line: true, highlight }
    }

    /// Positions of the answers that are wrong, the most confident first.
    fn worst(&self) -> Vec<usize> {
        let score = |at: &usize| self.scores.get(*at).copied().flatten().unwrap_or(f32::NEG_INFINITY);
        let mut wrong: Vec<usize> =
            self.is_right.iter().enumerate().filter(|(_at, right)| !**right).map(|(at, _right)| at).collect();
        wrong.sort_by(|a, b| score(b).total_cmp(&score(a)));
        wrong.truncate(WORST_SHOWN);
        wrong
    }
}

/// Writes the page.
pub(super) fn write(file: &Path, examined: &Examined, evaluation: &Evaluation) -> Result<(), CliError> {
    let html = page(examined, evaluation)?;
    files::write_atomic(file, html.as_bytes(), Mode::Shared)
        .or_exit_try(ExitKind::Storage, "name a file in a folder that exists and is writable")
}

fn page(examined: &Examined, evaluation: &Evaluation) -> Result<String, CliError> {
    let manifest = &examined.manifest;
    let mut page = Document::new(&format!("{} version {}: evaluation", manifest.model, manifest.version));
    let against =
        if evaluation.labelled { "with labels" } else { "without labels: judged by agreement with the full model" };
    page.paragraph(&format!("{} examples {against}, one at a time. Intervals are at 95 %.", evaluation.examples));
    let (headers, rows) = table(&evaluation.models);
    let rows: Vec<Vec<Cell>> = rows.into_iter().map(|row| row.into_iter().map(figure).collect()).collect();
    page.table("Variants, full model, and cascades at the thresholds of model.toml", &headers, &rows);
    for note in &evaluation.notes {
        page.paragraph(note);
    }
    let judged: Vec<Judged<'_>> =
        examined.device.iter().filter_map(|answered| Judged::new(answered, examined)).collect();
    if !judged.is_empty() {
        page.heading("Accuracy and confidence");
        page.charts(&charts(&judged, examined));
    }
    for one in &judged {
        worst(&mut page, one, examined)?;
    }
    Ok(page.html())
}

fn charts(judged: &[Judged<'_>], examined: &Examined) -> Vec<(Chart, &'static str)> {
    let right = if examined.labels.is_some() { "accuracy" } else { "agreement with the full model" };
    let mut charts = Vec::new();
    if !judged.is_empty() {
        let curve = Chart {
            title: format!("{right} over the share deferred"),
            across: "share of requests deferred to the full model".to_owned(),
            upwards: right.to_owned(),
            series: judged.iter().map(Judged::curve).collect(),
            has_diagonal: false,
        };
        charts.push((
            curve,
            "The least sure answers are deferred first. Left: the variant alone; right: the full model alone. A steep start means that the \
             score finds the wrong answers.",
        ));
    }
    let bins: Vec<Series> = judged
        .iter()
        .filter_map(|one| {
            let found = reliability_of(one.answered, examined)?;
            let mark = |bin: &evaluate::reliability::Bin| Mark {
                x: bin.score,
                y: bin.right,
                interval: Some(bin_interval(bin)),
            };
            let name = one.answered.name.clone();
            Some(Series { name, marks: found.bins.iter().map(mark).collect(), is_line: false, highlight: None })
        })
        .collect();
    if !bins.is_empty() {
        let diagram = Chart {
            title: "reliability diagram".to_owned(),
            across: "mean score".to_owned(),
            upwards: "share that agrees with the full model".to_owned(),
            series: bins,
            has_diagonal: true,
        };
        charts.push((
            diagram,
            "Fifteen bins with equal numbers of answers. On the dashed line the score is the probability of the full model's answer; \
             below it the variant is overconfident.",
        ));
    }
    charts
}

/// Returns the cell of a figure: `99.2 % (98.0 % to 99.8 %)` is shown in two lines.
fn figure(text: String) -> Cell {
    let parts =
        text.split_once(" (").and_then(|(value, rest)| Some((value.to_owned(), rest.strip_suffix(')')?.to_owned())));
    match parts {
        Some((value, interval)) => Cell::Interval(value, interval),
        None => Cell::Text(text),
    }
}

/// Returns the Clopper-Pearson interval of the share that is right in a bin.
fn bin_interval(bin: &evaluate::reliability::Bin) -> (f64, f64) {
    let interval = binomial::interval(bin.right_examples(), bin.examples, metrics::CONFIDENCE);
    (interval.low, interval.high)
}

/// Adds the table of the answers that are wrong with the highest scores.
fn worst(page: &mut Document, judged: &Judged<'_>, examined: &Examined) -> Result<(), CliError> {
    let name = &judged.answered.name;
    page.heading(&format!("{name}: confident and wrong"));
    let worst = judged.worst();
    if worst.is_empty() {
        page.paragraph("Every answer is right.");
        return Ok(());
    }
    let total = judged.is_right.iter().filter(|right| !**right).count();
    let pictures = pictures(&worst, examined)?;
    let has_pictures = pictures.iter().any(|(_at, picture)| picture.is_some());
    let mut headers = vec!["example", "label", "answer", "full model", "score", "in the cascade"];
    if has_pictures {
        headers.insert(0, "input");
    }
    let rows: Vec<Vec<Cell>> = worst
        .iter()
        .map(|&at| {
            let score = judged.scores.get(at).copied().flatten();
            let place = match (judged.threshold, score) {
                (Some(threshold), Some(score)) if score >= threshold => "kept on the device",
                (Some(_), _) => "deferred",
                (None, _) => "no threshold",
            };
            let label = examined.labels.as_ref().and_then(|labels| labels.get(at));
            let mut row: Vec<Cell> = [
                examined.examples.place(at),
                label.map_or_else(|| "-".to_owned(), |label| class(*label, examined)),
                said(judged.answered, at, examined),
                said(&examined.full, at, examined),
                score.map_or_else(|| "none".to_owned(), |score| format!("{score:.4}")),
                place.to_owned(),
            ]
            .map(Cell::from)
            .into();
            if has_pictures {
                let found = pictures.iter().find(|(other, _)| *other == at).and_then(|(_, picture)| picture.clone());
                row.insert(0, found.map_or_else(|| Cell::Text("-".to_owned()), Cell::Picture));
            }
            row
        })
        .collect();
    page.table(&format!("{} of {total} wrong answers, the most confident first", worst.len()), &headers, &rows);
    Ok(())
}

/// Reads the inputs at some positions, and returns the first picture of each.
fn pictures(positions: &[usize], examined: &Examined) -> Result<Vec<(usize, Option<String>)>, CliError> {
    let mut sorted = positions.to_vec();
    sorted.sort_unstable();
    let selected = examined.examples.select(&sorted);
    sorted
        .into_iter()
        .zip(selected.iter())
        .map(|(at, example)| {
            let example = example.or_exit(ExitKind::Config)?;
            Ok((at, example.inputs.iter().find_map(|input| picture::data_uri(&input.tensor))))
        })
        .collect()
}

/// Returns the answer to an example as text.
fn said(answered: &Answered, at: usize, examined: &Examined) -> String {
    let says = answered.says.get(at).map_or(&[][..], Vec::as_slice);
    let shown: Vec<String> = says.iter().take(ROWS_SHOWN).map(|&one| class(one, examined)).collect();
    format!("{}{}", shown.join(", "), if says.len() > ROWS_SHOWN { ", …" } else { "" })
}

/// Returns the name of a class with its number, or the number alone.
fn class(class: usize, examined: &Examined) -> String {
    let is_of_classes = examined.rule().is_ok_and(|rule| rule.kind.is_of_classes());
    match examined.manifest.labels.get(class).filter(|_| is_of_classes) {
        Some(name) if *name != class.to_string() => format!("{name} ({class})"),
        Some(_) | None => class.to_string(),
    }
}
