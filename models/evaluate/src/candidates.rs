//! Kinds of scores for one variant, ordered by what they would keep at the wanted risk.
//!
//! The examples that choose must not be those of the walk ([`crate::threshold::walk`]): a choice by the same examples would flatter.

use bundle::confidence::{self, FEATURES};
use bundle::{ScoreFrom, ScoreKind, ScoreRule};
use serde::Serialize;
use types::Tensor;

use crate::threshold::{self, Scored};
use crate::{learned, real, temperature};

/// Folds of the cross-fitting of a learned score.
const FOLDS: usize = 5;

/// Share of answers by which another kind must keep more than the one of the manifest before it replaces it: less is chance on a few
/// hundred examples, and the plainer rule is easier to understand.
const GAIN_MIN: f64 = 0.01;

/// Answers of one variant, and how they compare with the full model's.
#[derive(Debug, Clone, Copy)]
pub struct Answers<'a> {
    /// Scored output of each answer.
    pub outputs: &'a [Tensor],
    /// Whether each answer differs from the full model's.
    pub differs: &'a [bool],
    /// Class that the full model gives, for answers with one row of classes; empty for other tasks.
    pub classes: &'a [usize],
}

/// A kind of score and how well it separates, on the examples that choose.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Candidate {
    /// Rule of the score.
    pub rule: ScoreRule,
    /// Share of answers kept at the wanted risk, in hindsight.
    pub coverage: f64,
    /// Area under the ROC curve: probability that an answer that agrees has a higher score than one that differs.
    pub auroc: Option<f64>,
}

/// Returns the candidates for a rule, the chosen one first: the given rule, unless another one keeps clearly more.
#[must_use]
pub fn rank(answers: Answers<'_>, base: &ScoreRule, alpha: f64) -> Vec<Candidate> {
    let mut found = vec![judge(&scored(answers, base), base.clone(), alpha)];
    if base.kind.is_of_classes() {
        for rule in rules(answers, base) {
            if rule != *base {
                found.push(judge(&scored(answers, &rule), rule, alpha));
            }
        }
        found.extend(cross_fitted(answers, base, alpha));
    }
    let least = found.first().map_or(0.0, |base| base.coverage) + GAIN_MIN;
    let best = found.iter().map(|one| one.coverage).fold(0.0, f64::max);
    found.sort_by(|a, b| b.coverage.total_cmp(&a.coverage));
    if best < least
        && let Some(at) = found.iter().position(|one| one.rule == *base)
    {
        let kept = found.remove(at);
        found.insert(0, kept);
    }
    found
}

/// Scores answers by a rule.
#[must_use]
pub fn scored(answers: Answers<'_>, rule: &ScoreRule) -> Vec<Scored> {
    let of = |output: &Tensor| confidence::score(output, rule).ok();
    answers
        .outputs
        .iter()
        .zip(answers.differs)
        .map(|(output, &differs)| Scored { score: of(output), differs })
        .collect()
}

/// Returns the area under the ROC curve of scores; `None` when all answers agree, or all differ.
#[must_use]
pub fn auroc(scored: &[Scored]) -> Option<f64> {
    let mut sorted: Vec<(f32, bool)> = scored.iter().map(|one| (one.score.unwrap_or(0.0), one.differs)).collect();
    sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
    let wrong = sorted.iter().filter(|one| one.1).count();
    let right = sorted.len() - wrong;
    // Sum of the ranks of the answers that agree; ties share their mean rank (Mann and Whitney).
    let (mut at, mut ranks) = (0, 0.0);
    while at < sorted.len() {
        let ties = sorted[at..].iter().take_while(|one| one.0 == sorted[at].0).count();
        let mean = real(2 * at + ties + 1) / 2.0;
        ranks += mean * real(sorted[at..at + ties].iter().filter(|one| !one.1).count());
        at += ties;
    }
    let pairs = real(right) * real(wrong);
    (pairs > 0.0).then(|| (ranks - real(right) * (real(right) + 1.0) / 2.0) / pairs)
}

/// The rules without a fit, and the one with a fitted temperature.
fn rules(answers: Answers<'_>, base: &ScoreRule) -> Vec<ScoreRule> {
    let plain = |kind| ScoreRule { kind, temperature: None, weights: None, ..base.clone() };
    let mut rules = vec![plain(ScoreKind::Top1Probability), plain(ScoreKind::Margin), plain(ScoreKind::Entropy)];
    if base.from == ScoreFrom::Logits {
        rules.push(plain(ScoreKind::Energy));
    }
    // Answers with several rows have no single class.
    if answers.classes.len() == answers.outputs.len()
        && let Some(temperature) = temperature::fit(answers.outputs, answers.classes, base)
    {
        for kind in [ScoreKind::Top1Probability, ScoreKind::Entropy] {
            rules.push(ScoreRule { temperature: Some(temperature), ..plain(kind) });
        }
    }
    rules
}

fn judge(scored: &[Scored], rule: ScoreRule, alpha: f64) -> Candidate {
    Candidate { rule, coverage: threshold::hindsight(scored, alpha), auroc: auroc(scored) }
}

/// The learned score: judged by scores of examples that its weights have not seen, then fitted to all.
fn cross_fitted(answers: Answers<'_>, base: &ScoreRule, alpha: f64) -> Option<Candidate> {
    let rule = ScoreRule { kind: ScoreKind::Learned, temperature: None, weights: None, ..base.clone() };
    let features: Vec<[f64; FEATURES]> =
        answers.outputs.iter().map(|output| features(output, &rule)).collect::<Option<_>>()?;
    let agrees: Vec<bool> = answers.differs.iter().map(|differs| !differs).collect();
    let mut out_of_fold = vec![Scored { score: None, differs: false }; features.len()];
    for fold in 0..FOLDS {
        let others = |at: &usize| at % FOLDS != fold;
        let of = |keep: &dyn Fn(&usize) -> bool| -> (Vec<_>, Vec<_>) {
            (0..features.len()).filter(|at| keep(at)).map(|at| (features[at], agrees[at])).unzip()
        };
        let (inputs, targets) = of(&others);
        let fitted = ScoreRule { weights: Some(learned::fit(&inputs, &targets)?), ..rule.clone() };
        for at in (0..features.len()).filter(|at| !others(at)) {
            let score = confidence::score(&answers.outputs[at], &fitted).ok();
            out_of_fold[at] = Scored { score, differs: answers.differs[at] };
        }
    }
    let fitted = ScoreRule { weights: Some(learned::fit(&features, &agrees)?), ..rule };
    Some(judge(&out_of_fold, fitted, alpha))
}

/// Features of the least sure row of an answer.
fn features(output: &Tensor, rule: &ScoreRule) -> Option<[f64; FEATURES]> {
    let rows = confidence::rows(output, rule).ok()?;
    let least = rows.iter().min_by(|a, b| a.first.total_cmp(&b.first))?;
    Some(confidence::features(least))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_area_counts_pairs_in_the_right_order() {
        let one = |score, differs| Scored { score: Some(score), differs };
        assert_eq!(auroc(&[one(0.9, false), one(0.1, true)]), Some(1.0));
        assert_eq!(auroc(&[one(0.1, false), one(0.9, true)]), Some(0.0));
        assert_eq!(auroc(&[one(0.5, false), one(0.5, true)]), Some(0.5));
        // Pairs: .8>.5 yes, .8>.7 yes, .6>.5 yes, .6>.7 no.
        let four = [one(0.8, false), one(0.6, false), one(0.5, true), one(0.7, true)];
        assert_eq!(auroc(&four), Some(0.75));
        assert_eq!(auroc(&[one(0.5, false)]), None);
    }
}
