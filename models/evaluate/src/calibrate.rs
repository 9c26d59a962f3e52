//! Calibration of one variant: the kind of score, its temperature or weights, and the threshold that the promise allows.
//!
//! A part of the examples chooses the score and the grid, the other part is walked. With few examples all are walked by the rule as it
//! is given, because each example counts for the bound.

use bundle::ScoreRule;
use bundle::manifest::{Calibration, CurvePoint};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use serde::Serialize;
use types::Tensor;

use crate::candidates::{self, Answers, Candidate};
use crate::reliability::{Reliability, reliability};
use crate::threshold::{self, Promise, Walk};
use crate::{binomial, narrow, share};

/// Share of the examples that choose the score, as one of so many.
const CHOOSING_ONE_OF: usize = 4;

/// Least number of examples that may choose: fewer tell kinds of scores apart by chance.
const CHOOSING_MIN: usize = 200;

/// Choice of the score.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// The score that separates best, where there are enough examples to choose.
    Best,
    /// The given rule.
    Given,
}

/// Options of a calibration.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Options {
    /// Promise that the threshold must keep.
    pub promise: Promise,
    /// Choice of the score.
    pub choice: Choice,
    /// Seed of the division of the examples.
    pub seed: u64,
}

/// Result of a calibration.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Calibrated {
    /// Rule of the score.
    pub rule: ScoreRule,
    /// Curve and threshold.
    pub walk: Walk,
    /// Examples that chose the score; 0 when the given rule was kept unseen.
    pub choosing: usize,
    /// Kinds of scores that were compared, the chosen one first.
    pub candidates: Vec<Candidate>,
    /// Number of walked examples from which the promise can be shown at all.
    pub examples_needed: usize,
    /// Reliability of the given rule on the walked examples: scores against agreement with the full model.
    pub before: Option<Reliability>,
    /// Reliability of the chosen rule on the same examples.
    pub after: Option<Reliability>,
}

impl Calibrated {
    /// Returns the curve in the form of the manifest.
    #[must_use]
    pub fn calibration(&self, promise: Promise) -> Calibration {
        let n = self.walk.examples;
        let point = |point: &threshold::Point| CurvePoint {
            threshold: point.threshold.clamp(0.0, 1.0),
            coverage: narrow(share(point.kept, n)),
            differing: narrow(share(point.differing, n)),
            bound: narrow(point.bound),
        };
        Calibration {
            examples: u32::try_from(n).unwrap_or(u32::MAX),
            confidence: narrow(1.0 - promise.delta),
            curve: self.walk.curve.iter().map(point).collect(),
        }
    }
}

/// Calibrates one variant from its answers to all examples.
#[must_use]
pub fn calibrate(answers: Answers<'_>, base: &ScoreRule, options: Options) -> Calibrated {
    let n = answers.outputs.len().min(answers.differs.len());
    let mut order: Vec<usize> = (0..n).collect();
    // Files are often sorted by class.
    order.shuffle(&mut StdRng::seed_from_u64(options.seed));
    let needed = binomial::examples_needed(options.promise.alpha, options.promise.delta);
    let choosing = n / CHOOSING_ONE_OF;
    let is_choosing = options.choice == Choice::Best && choosing >= CHOOSING_MIN && n - choosing >= needed;
    let (first, rest) = order.split_at(if is_choosing { choosing } else { 0 });
    let chooses = Part::of(answers, first);
    let walked = Part::of(answers, rest);

    let ranked =
        if is_choosing { candidates::rank(chooses.answers(), base, options.promise.alpha) } else { Vec::new() };
    let rule = ranked.first().map_or_else(|| base.clone(), |chosen| chosen.rule.clone());
    let grid = if is_choosing {
        let scores: Vec<f32> =
            candidates::scored(chooses.answers(), &rule).iter().filter_map(|one| one.score).collect();
        threshold::grid_of_quantiles(&scores)
    } else {
        threshold::grid_of_log_odds()
    };
    let scored = candidates::scored(walked.answers(), &rule);
    let of = |scored: &[threshold::Scored]| {
        let pairs: Vec<(f32, bool)> = scored.iter().filter_map(|one| Some((one.score?, !one.differs))).collect();
        reliability(&pairs)
    };
    Calibrated {
        walk: threshold::walk(&scored, &grid, options.promise),
        choosing: first.len(),
        candidates: ranked,
        examples_needed: needed,
        before: of(&candidates::scored(walked.answers(), base)),
        after: of(&scored),
        rule,
    }
}

/// Some of the answers, in their own order. Outputs share their bytes.
struct Part {
    outputs: Vec<Tensor>,
    differs: Vec<bool>,
    classes: Vec<usize>,
}

impl Part {
    fn of(answers: Answers<'_>, positions: &[usize]) -> Self {
        Self {
            outputs: positions.iter().filter_map(|&at| answers.outputs.get(at).cloned()).collect(),
            differs: positions.iter().filter_map(|&at| answers.differs.get(at).copied()).collect(),
            classes: positions.iter().filter_map(|&at| answers.classes.get(at).copied()).collect(),
        }
    }

    fn answers(&self) -> Answers<'_> {
        Answers { outputs: &self.outputs, differs: &self.differs, classes: &self.classes }
    }
}
