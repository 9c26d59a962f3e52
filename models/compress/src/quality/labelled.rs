//! Two models held against labels: accuracy, AUC, F1, R² and mean absolute error, each with an interval for what is lost.
//!
//! Fed by [`super::Judge`] with one answer of each model per labelled example. Intervals are percentile bootstraps over
//! whole examples, the same resamples for both models, so that what both share cancels out.

use serde::{Deserialize, Serialize};

use super::Measure;
use super::arithmetic::{number, top1};
use super::paired::{Accuracy, Paired};
use super::task::Choice;
use super::{CONFIDENCE, Task};
use evaluate::labels::Label;

/// Resamples of a bootstrap; what `shared/notes/statistics.md` asks for at least.
const RESAMPLES_MAX: usize = 2_000;

/// Elements looked at by all resamples of one figure: bounds a bootstrap over 100,000 examples to a second.
const RESAMPLED_MAX: usize = 40_000_000;

/// Fewest resamples; an interval of fewer is not worth showing.
const RESAMPLES_LEAST: usize = 200;

/// One figure of two models on the same labelled examples.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// Measure that this is about.
    pub measure: Measure,
    /// Figure of the reference, in the measure's own unit.
    pub reference: f64,
    /// Figure of the variant.
    pub variant: f64,
    /// Loss: 0 when equal, negative when the variant is better.
    pub lost: f64,
    /// Both ends of the 95 % interval of `lost`; `None` where none is computed.
    pub interval: Option<[f64; 2]>,
}

/// Two models on the same labelled examples.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Labelled {
    /// Task by which answers and labels are read.
    pub task: Task,
    /// Output that the labels are about.
    pub output: String,
    /// Examples with a label.
    pub examples: u64,
    /// Accuracies, for classes and for yes or no.
    pub accuracy: Option<Accuracy>,
    /// Further figures that these labels allow.
    pub figures: Vec<Figure>,
    /// Measure that fits the task and the labels best.
    pub natural: Measure,
}

impl Labelled {
    /// Figure in a measure.
    #[must_use]
    pub fn figure(&self, measure: Measure) -> Option<&Figure> {
        self.figures.iter().find(|figure| figure.measure == measure)
    }

    /// Loss in a measure; `None` when these labels do not allow it.
    #[must_use]
    pub fn loss(&self, measure: Measure) -> Option<f64> {
        match measure {
            Measure::Accuracy => self.accuracy.map(|accuracy| accuracy.lost),
            _ => self.figure(measure).map(|figure| figure.lost),
        }
    }
}

/// Rows of all labelled examples.
#[derive(Debug)]
pub(super) struct Rows {
    choice: Choice,
    rows: Vec<Row>,
}

/// One element of one labelled example: a label and what the two models answer.
#[derive(Debug, Clone, Copy)]
struct Row {
    example: usize,
    column: usize,
    label: f64,
    reference: f64,
    variant: f64,
    /// Score of class 1 by both, for two classes.
    scores: Option<(f64, f64)>,
}

impl Rows {
    pub(super) fn new(choice: Choice) -> Self {
        Self { choice, rows: Vec::new() }
    }

    pub(super) fn choice(&self) -> &Choice {
        &self.choice
    }

    /// Adds an example: its label and both answers, as numbers.
    pub(super) fn add(&mut self, example: usize, label: &Label, reference: &[f64], variant: &[f64]) {
        match self.choice.task {
            Task::Classification => {
                let Some(label) = label.number() else { return };
                let class = |row: &[f64]| match row {
                    [number] => *number,
                    row => top1(row).and_then(|at| u32::try_from(at).ok()).map_or(f64::NAN, f64::from),
                };
                let score = |row: &[f64]| match row {
                    [no, yes] => Some(yes - no),
                    _ => None,
                };
                let scores = score(reference).zip(score(variant));
                let (reference, variant) = (class(reference), class(variant));
                self.rows.push(Row { example, column: 0, label, reference, variant, scores });
            }
            Task::Binary | Task::Regression => {
                let rows = label.0.iter().zip(reference).zip(variant).enumerate();
                self.rows.extend(rows.map(|(column, ((&label, &reference), &variant))| Row {
                    example,
                    column,
                    label,
                    reference,
                    variant,
                    scores: Some((reference, variant)),
                }));
            }
            Task::Detection | Task::Ctc => {}
        }
    }

    /// Figures of all rows; `None` without rows.
    pub(super) fn finish(self) -> Option<Labelled> {
        let Self { choice, rows } = self;
        let examples = rows.iter().map(|row| row.example).collect::<std::collections::BTreeSet<_>>().len();
        if rows.is_empty() {
            return None;
        }
        let (task, output) = (choice.task, choice.output);
        let examples = u64::try_from(examples).unwrap_or(u64::MAX);
        let (accuracy, figures, natural) = match task {
            Task::Regression => {
                let figures = vec![figure(Measure::R2, &rows, r2), figure(Measure::Mae, &rows, mae)];
                (None, figures, Measure::R2)
            }
            Task::Binary => yes_or_no(&rows),
            Task::Classification | Task::Detection | Task::Ctc => classes(&rows),
        };
        let figures: Vec<Figure> = figures.into_iter().flatten().collect();
        let is_there = natural == Measure::Accuracy || figures.iter().any(|figure| figure.measure == natural);
        let natural = if is_there { natural } else { figures.first().map_or(Measure::Accuracy, |one| one.measure) };
        Some(Labelled { task, output, examples, accuracy, figures, natural })
    }
}

type Figures = (Option<Accuracy>, Vec<Option<Figure>>, Measure);

fn classes(rows: &[Row]) -> Figures {
    let mut paired = Paired::default();
    for row in rows {
        paired.add(is_same(row.label, row.reference), is_same(row.label, row.variant));
    }
    let mut figures = vec![figure(Measure::F1, rows, f1_of_classes)];
    if rows.iter().all(|row| row.scores.is_some()) {
        let scored: Vec<Row> = rows
            .iter()
            .map(|row| {
                let (reference, variant) = row.scores.unwrap_or_default();
                Row { reference, variant, ..*row }
            })
            .collect();
        figures.push(auc_figure(&scored));
    }
    (paired.accuracy(), figures, Measure::Accuracy)
}

/// F1 where the reference decides both ways at its threshold; else AUC, which needs none: an anomaly score has a
/// threshold that only its user knows.
fn yes_or_no(rows: &[Row]) -> Figures {
    let threshold = threshold(rows);
    let decided: Vec<Row> = rows
        .iter()
        .map(|row| Row {
            label: f64::from(u8::from(row.label > 0.0)),
            reference: f64::from(u8::from(row.reference > threshold)),
            variant: f64::from(u8::from(row.variant > threshold)),
            ..*row
        })
        .collect();
    let mut paired = Paired::default();
    for row in &decided {
        paired.add(is_same(row.label, row.reference), is_same(row.label, row.variant));
    }
    let decides = |yes: f64| decided.iter().any(|row| is_same(row.reference, yes));
    let hits = decided.iter().any(|row| row.label > 0.0 && row.reference > 0.0);
    let natural = if decides(0.0) && decides(1.0) && hits { Measure::F1 } else { Measure::Auc };
    let labelled: Vec<Row> =
        rows.iter().map(|row| Row { label: f64::from(u8::from(row.label > 0.0)), ..*row }).collect();
    (paired.accuracy(), vec![figure(Measure::F1, &decided, f1_of_yes), auc_figure(&labelled)], natural)
}

/// Threshold between no and yes: 0.5 for probabilities, 0 for everything else.
fn threshold(rows: &[Row]) -> f64 {
    let is_probability = rows.iter().all(|row| (0.0..=1.0).contains(&row.reference));
    if is_probability { 0.5 } else { 0.0 }
}

/// Class numbers are whole and small: they are equal or at least 1 apart.
fn is_same(label: f64, class: f64) -> bool {
    (label - class).abs() < 0.5
}

/// Selects one of the two answers of a row.
type Answer = fn(&Row) -> f64;

/// A figure of one model over rows with weights, and whether higher is better; `None` when it is not defined.
type Compute = fn(&[Row], &[f64], Answer) -> Option<f64>;

fn figure(measure: Measure, rows: &[Row], compute: Compute) -> Option<Figure> {
    let loss = |weights: &[f64]| -> Option<(f64, f64, f64)> {
        let reference = compute(rows, weights, |row| row.reference)?;
        let variant = compute(rows, weights, |row| row.variant);
        // A figure that is not defined for the variant alone is the worst there is.
        let variant = variant.unwrap_or(if measure == Measure::Mae { f64::MAX } else { 0.0 });
        let lost = match measure {
            Measure::Mae => (variant - reference) / deviation(rows, weights)?,
            _ => reference - variant,
        };
        Some((reference, variant, lost))
    };
    let (reference, variant, lost) = loss(&vec![1.0; rows.len()])?;
    let interval = bootstrap(rows, |weights| loss(weights).map(|(_, _, lost)| lost));
    Some(Figure { measure, reference, variant, lost, interval })
}

/// Percentile interval of what is lost; `None` when no resample defines it.
fn bootstrap(rows: &[Row], loss: impl Fn(&[f64]) -> Option<f64>) -> Option<[f64; 2]> {
    let examples = rows.iter().map(|row| row.example).max()?.checked_add(1)?;
    let resamples = (RESAMPLED_MAX / rows.len().max(1)).clamp(RESAMPLES_LEAST, RESAMPLES_MAX);
    let mut random = SplitMix(0x5EED);
    let mut losses = Vec::with_capacity(resamples);
    let mut counts = vec![0.0_f64; examples];
    let mut weights = vec![0.0_f64; rows.len()];
    for _ in 0..resamples {
        counts.fill(0.0);
        for _ in 0..examples {
            if let Some(count) = counts.get_mut(random.below(examples)) {
                *count += 1.0;
            }
        }
        for (weight, row) in weights.iter_mut().zip(rows) {
            *weight = counts.get(row.example).copied().unwrap_or(0.0);
        }
        losses.extend(loss(&weights));
    }
    losses.sort_unstable_by(f64::total_cmp);
    let last = number(u64::try_from(losses.len().checked_sub(1)?).ok()?);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and the last index")]
    let at = |share: f64| losses.get((share * last).round() as usize).copied();
    Some([at((1.0 - CONFIDENCE) / 2.0)?, at((1.0 + CONFIDENCE) / 2.0)?])
}

/// Pseudorandom numbers of a fixed seed (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014):
/// the same examples give the same interval.
struct SplitMix(u64);

impl SplitMix {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^= mixed >> 31;
        let bound = u64::try_from(bound.max(1)).unwrap_or(1);
        usize::try_from(mixed % bound).unwrap_or(0)
    }
}

/// F1 score of yes (1).
fn f1_of_yes(rows: &[Row], weights: &[f64], answer: Answer) -> Option<f64> {
    f1(rows, weights, answer, 1.0)
}

/// Mean of the F1 scores of all classes that have a label.
fn f1_of_classes(rows: &[Row], weights: &[f64], answer: Answer) -> Option<f64> {
    // True positives, answers and labels of each class, in one pass.
    let mut classes: std::collections::BTreeMap<i64, (f64, f64, f64)> = std::collections::BTreeMap::new();
    #[expect(clippy::cast_possible_truncation, reason = "class numbers are whole and small")]
    let class = |number: f64| number.round() as i64;
    for (row, &weight) in rows.iter().zip(weights) {
        let (label, found) = (class(row.label), class(answer(row)));
        let same = if is_same(row.label, answer(row)) { weight } else { 0.0 };
        let entry = classes.entry(label).or_default();
        (entry.0, entry.2) = (entry.0 + same, entry.2 + weight);
        classes.entry(found).or_default().1 += weight;
    }
    let scores: Vec<f64> = classes
        .values()
        .filter(|(_, _, labels)| *labels > 0.0)
        .map(|(hits, answers, labels)| 2.0 * hits / (answers + labels))
        .collect();
    let count = number(u64::try_from(scores.len()).ok()?);
    (count > 0.0).then(|| scores.iter().sum::<f64>() / count)
}

fn f1(rows: &[Row], weights: &[f64], answer: Answer, class: f64) -> Option<f64> {
    let (mut hits, mut answers, mut labels) = (0.0, 0.0, 0.0);
    for (row, &weight) in rows.iter().zip(weights) {
        let (is_label, is_answer) = (is_same(row.label, class), is_same(answer(row), class));
        labels += if is_label { weight } else { 0.0 };
        answers += if is_answer { weight } else { 0.0 };
        hits += if is_label && is_answer { weight } else { 0.0 };
    }
    (labels > 0.0).then(|| 2.0 * hits / (answers + labels))
}

/// Coefficient of determination, each column against its own mean.
fn r2(rows: &[Row], weights: &[f64], answer: Answer) -> Option<f64> {
    let means = column_means(rows, weights);
    let (mut residual, mut total) = (0.0, 0.0);
    for (row, &weight) in rows.iter().zip(weights) {
        residual += weight * (row.label - answer(row)).powi(2);
        total += weight * (row.label - means.get(row.column).copied().unwrap_or(0.0)).powi(2);
    }
    (total > 0.0).then(|| 1.0 - residual / total)
}

fn mae(rows: &[Row], weights: &[f64], answer: Answer) -> Option<f64> {
    let total: f64 = weights.iter().sum();
    let sum: f64 = rows.iter().zip(weights).map(|(row, weight)| weight * (row.label - answer(row)).abs()).sum();
    (total > 0.0).then(|| sum / total)
}

/// Mean absolute deviation of the labels from their mean.
fn deviation(rows: &[Row], weights: &[f64]) -> Option<f64> {
    let means = column_means(rows, weights);
    let total: f64 = weights.iter().sum();
    let far = |row: &Row| (row.label - means.get(row.column).copied().unwrap_or(0.0)).abs();
    let sum: f64 = rows.iter().zip(weights).map(|(row, weight)| weight * far(row)).sum();
    (sum > 0.0).then(|| sum / total)
}

fn column_means(rows: &[Row], weights: &[f64]) -> Vec<f64> {
    let columns = rows.iter().map(|row| row.column + 1).max().unwrap_or(0);
    let mut sums = vec![(0.0_f64, 0.0_f64); columns];
    for (row, &weight) in rows.iter().zip(weights) {
        if let Some((sum, count)) = sums.get_mut(row.column) {
            *sum += weight * row.label;
            *count += weight;
        }
    }
    sums.into_iter().map(|(sum, count)| if count > 0.0 { sum / count } else { 0.0 }).collect()
}

/// The AUC of both models. A score that is lower for yes (an anomaly's) is turned round, for both alike.
fn auc_figure(rows: &[Row]) -> Option<Figure> {
    let order = |answer: Answer| {
        let mut order: Vec<usize> = (0..rows.len()).collect();
        order.sort_by(|&a, &b| {
            let of = |at: usize| rows.get(at).map_or(0.0, answer);
            of(a).total_cmp(&of(b))
        });
        order
    };
    let (by_reference, by_variant) = (order(|row| row.reference), order(|row| row.variant));
    let ones = vec![1.0; rows.len()];
    let plain = auc(rows, &ones, &by_reference, |row| row.reference)?;
    let turned = |area: f64| if plain < 0.5 { 1.0 - area } else { area };
    let both = |weights: &[f64]| {
        let reference = turned(auc(rows, weights, &by_reference, |row| row.reference)?);
        let variant = turned(auc(rows, weights, &by_variant, |row| row.variant)?);
        Some((reference, variant))
    };
    let (reference, variant) = both(&ones)?;
    let lost = reference - variant;
    let interval = bootstrap(rows, |weights| both(weights).map(|(reference, variant)| reference - variant));
    Some(Figure { measure: Measure::Auc, reference, variant, lost, interval })
}

/// Share of pairs of a yes and a no in which the yes has the higher score; ties count half. `order` sorts by the score.
fn auc(rows: &[Row], weights: &[f64], order: &[usize], answer: Answer) -> Option<f64> {
    let (mut below, mut pairs, mut yes, mut no) = (0.0, 0.0, 0.0, 0.0);
    let (mut tied_yes, mut tied_no, mut last) = (0.0, 0.0, f64::NAN);
    for &at in order {
        let (row, weight) = (rows.get(at)?, *weights.get(at)?);
        let score = answer(row);
        if score.to_bits() != last.to_bits() {
            pairs += tied_yes * (below + tied_no / 2.0);
            below += tied_no;
            (tied_yes, tied_no, last) = (0.0, 0.0, score);
        }
        if row.label > 0.5 {
            (tied_yes, yes) = (tied_yes + weight, yes + weight);
        } else {
            (tied_no, no) = (tied_no + weight, no + weight);
        }
    }
    pairs += tied_yes * (below + tied_no / 2.0);
    (yes > 0.0 && no > 0.0).then(|| pairs / (yes * no))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(task: Task, data: &[(f64, f64, f64)]) -> Labelled {
        let mut rows = Rows::new(Choice { task, output: "y".to_owned() });
        for (example, &(label, reference, variant)) in data.iter().enumerate() {
            rows.add(example, &Label(vec![label]), &[reference], &[variant]);
        }
        rows.finish().unwrap()
    }

    #[test]
    fn a_wake_word_that_no_longer_fires_loses_its_hits_though_its_ranking_stays() {
        // Scores shrink to a tenth: the order is the same, nothing passes 0.5 any more.
        let data: Vec<(f64, f64, f64)> = (0..100)
            .map(|at| {
                let label = f64::from(u8::from(at % 4 == 0));
                let score = if label > 0.0 { 0.9 } else { 0.1 } + f64::from(at) / 1e4;
                (label, score, score / 10.0)
            })
            .collect();
        let found = rows(Task::Binary, &data);
        assert_eq!(found.natural, Measure::F1);
        assert_eq!((found.loss(Measure::F1), found.loss(Measure::Auc)), (Some(1.0), Some(0.0)));
        let figure = found.figure(Measure::F1).unwrap();
        assert_eq!(figure.interval, Some([1.0, 1.0]));
    }

    #[test]
    fn an_anomaly_score_is_judged_by_its_ranking_whichever_way_it_points() {
        let data: Vec<(f64, f64, f64)> = (0..50)
            .map(|at| {
                let label = f64::from(u8::from(at % 5 == 0));
                (label, 3.0 - label + f64::from(at) / 1e3, 3.0 + f64::from(at % 7))
            })
            .collect();
        let found = rows(Task::Binary, &data);
        assert_eq!(found.natural, Measure::Auc, "every answer is above 0: nobody knows its threshold");
        let figure = found.figure(Measure::Auc).unwrap();
        assert!(figure.reference == 1.0 && figure.variant < 0.8 && figure.lost > 0.2, "{figure:?}");
        let [low, high] = figure.interval.unwrap();
        assert!(low > 0.0 && high < 1.0 && low < figure.lost && figure.lost < high, "{figure:?}");
    }

    #[test]
    fn a_regressor_loses_its_determination() {
        let data: Vec<(f64, f64, f64)> = (0..60)
            .map(|at| {
                let label = f64::from(at % 10);
                (label, label + 0.1, 4.5)
            })
            .collect();
        let found = rows(Task::Regression, &data);
        assert_eq!(found.natural, Measure::R2);
        let r2 = found.figure(Measure::R2).unwrap();
        assert!(r2.reference > 0.99 && r2.variant.abs() < 1e-9 && r2.lost > 0.98, "{r2:?}");
        // The mean absolute error grows from 0.1 to 2.5, which is the deviation of the labels.
        let mae = found.figure(Measure::Mae).unwrap();
        assert!((mae.reference - 0.1).abs() < 1e-9 && (mae.variant - 2.5).abs() < 1e-9, "{mae:?}");
        assert!((mae.lost - 0.96).abs() < 1e-9, "{mae:?}");
    }

    #[test]
    fn f1_over_classes_is_the_mean_of_each() {
        let found = rows(Task::Classification, &[(0.0, 0.0, 0.0), (1.0, 1.0, 0.0), (2.0, 2.0, 2.0), (2.0, 2.0, 2.0)]);
        let f1 = found.figure(Measure::F1).unwrap();
        assert!(f1.reference == 1.0 && (f1.variant - (2.0 / 3.0 + 0.0 + 1.0) / 3.0).abs() < 1e-9, "{f1:?}");
        assert_eq!(found.accuracy.unwrap().lost, 0.25);
    }

    #[test]
    fn an_interval_covers_what_is_really_lost() {
        // The variant answers a tenth of all examples wrongly, in each of many sets of 100.
        let mut covered = 0;
        let mut random = SplitMix(7);
        for _ in 0..60 {
            let data: Vec<(f64, f64, f64)> = (0..100)
                .map(|at| {
                    let label = f64::from(at % 2);
                    let variant = if random.below(10) == 0 { 1.0 - label } else { label };
                    (label, 0.2 + 0.6 * label, 0.2 + 0.6 * variant)
                })
                .collect();
            let figure = *rows(Task::Binary, &data).figure(Measure::F1).unwrap();
            let [low, high] = figure.interval.unwrap();
            covered += u32::from((low..=high).contains(&0.1));
        }
        assert!(covered >= 51, "{covered} of 60 intervals hold the truth");
    }
}
