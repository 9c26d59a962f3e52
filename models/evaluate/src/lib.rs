//! Judges models by examples: thresholds with a guarantee, metrics with intervals, comparisons of two models.
//!
//! Every function is pure: answers come in, figures go out, and a seed makes what is drawn repeatable. Running the models is the
//! caller's task (`cloud-hub model calibrate | evaluate | compare`).
//!
//! | module | result | source |
//! |---|---|---|
//! | [`threshold`] | threshold of a deferral whose risk is bounded | fixed-sequence testing, Learn then Test (arXiv 2110.01052) |
//! | [`candidates`] | the kind of score that separates best | coverage at the wanted risk, on examples of their own |
//! | [`temperature`] | temperature of class probabilities | least negative log-likelihood (Guo and others 2017) |
//! | [`learned`] | weights of a learned score | logistic regression with a ridge |
//! | [`calibrate`] | all of these, for one variant | design §5 |
//! | [`metrics`] | accuracy, top-k, F1, agreement | Clopper-Pearson, or percentile bootstrap |
//! | [`reliability`] | calibration error, Brier score | 15 bins of equal mass |
//! | [`deferral`] | accuracy of a cascade over the share deferred | every threshold that the scores allow |
//! | [`compare`] | McNemar's exact test, agreement matrix | McNemar 1947 |
//! | [`binomial`] | exact tails and intervals | Clopper and Pearson 1934 |
//! | [`bootstrap`] | intervals of any statistic | percentile bootstrap |
//! | [`boxes`] | boxes of detectors, mean average precision | every point of the precision-recall curve |
//! | [`symbols`] | texts of models with a symbol in each step, edit distance | Graves and others 2006; Levenshtein 1966 |
//! | [`similarity`] | mean cosine of two models' outputs | percentile bootstrap |
//! | [`labels`], [`arithmetic`] | labels, and numbers in tensors | |
//! | [`document`], [`chart`], [`picture`] | a page of tables, plots and pictures | HTML, SVG and PNG |

pub mod arithmetic;
pub mod binomial;
pub mod bootstrap;
pub mod boxes;
pub mod calibrate;
pub mod candidates;
pub mod chart;
pub mod compare;
pub mod deferral;
pub mod document;
pub mod labels;
pub mod learned;
pub mod metrics;
pub mod picture;
pub mod reliability;
pub mod similarity;
pub mod symbols;
pub mod temperature;
pub mod threshold;

/// An interval of plausible values.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Interval {
    /// Lower bound.
    pub low: f64,
    /// Upper bound.
    pub high: f64,
}

/// Returns a count as a floating-point number; counts of examples stay far below 2^53.
#[must_use]
pub(crate) fn real(count: usize) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "counts of examples stay far below 2^53")]
    let real = count as f64;
    real
}

/// Rounds a number to the precision of scores and thresholds.
#[must_use]
pub(crate) fn narrow(value: f64) -> f32 {
    #[expect(clippy::cast_possible_truncation, reason = "rounding a number within the range of f32 is meant")]
    let narrowed = value as f32;
    narrowed
}

/// Returns a share of a total; 0 for an empty total.
#[must_use]
pub(crate) fn share(part: usize, total: usize) -> f64 {
    if total == 0 { 0.0 } else { real(part) / real(total) }
}
