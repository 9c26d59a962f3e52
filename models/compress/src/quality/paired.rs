//! Two models on the same labelled examples: how much accuracy was lost, and how sure that is.

use evaluate::compare::mcnemar_p;
use serde::{Deserialize, Serialize};

/// Confidence of every interval here; the usual one, so that reports of different tools can be held together.
pub const CONFIDENCE: f64 = 0.95;

/// The standard normal quantile that belongs to [`CONFIDENCE`], two-sided.
const NORMAL_QUANTILE: f64 = 1.959_963_984_540_054;

/// How often two models were right on the same examples.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Paired {
    /// Examples that both got right.
    pub both: u64,
    /// Examples that only the reference got right.
    pub only_reference: u64,
    /// Examples that only the variant got right.
    pub only_variant: u64,
    /// Examples that both got wrong.
    pub neither: u64,
}

/// Statistics of a [`Paired`] table.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Accuracy {
    /// The table itself.
    pub paired: Paired,
    /// Share of examples that the reference gets right, 0 to 1.
    pub reference: f64,
    /// Share of examples that the variant gets right, 0 to 1.
    pub variant: f64,
    /// Reference minus variant: what was lost; negative when the variant is better.
    pub lost: f64,
    /// Lower end of the 95 % interval of `lost`.
    pub lost_low: f64,
    /// Upper end of it.
    pub lost_high: f64,
    /// Probability of a split at least as uneven if both were equally good (exact McNemar test, two-sided).
    pub p_value: f64,
}

impl Paired {
    /// Counts one example.
    pub fn add(&mut self, reference_is_right: bool, variant_is_right: bool) {
        let count = match (reference_is_right, variant_is_right) {
            (true, true) => &mut self.both,
            (true, false) => &mut self.only_reference,
            (false, true) => &mut self.only_variant,
            (false, false) => &mut self.neither,
        };
        *count = count.saturating_add(1);
    }

    /// Number of examples that count.
    #[must_use]
    pub fn examples(&self) -> u64 {
        self.both.saturating_add(self.only_reference).saturating_add(self.only_variant).saturating_add(self.neither)
    }

    /// The accuracies and what can be said of their difference; `None` without examples.
    ///
    /// The interval is the adjusted Wald interval for paired proportions of Bonett and Price, Journal of Educational and
    /// Behavioral Statistics 37(4), 2012: one is added to both discordant counts, which keeps its coverage near the
    /// nominal one for small samples and when nothing differs at all.
    #[must_use]
    pub fn accuracy(self) -> Option<Accuracy> {
        let examples = self.examples();
        if examples == 0 {
            return None;
        }
        let share = |count: u64| number(count) / number(examples);
        let (reference, variant) = (share(self.both + self.only_reference), share(self.both + self.only_variant));
        let adjusted = |count: u64| (number(count) + 1.0) / (number(examples) + 2.0);
        let (worse, better) = (adjusted(self.only_reference), adjusted(self.only_variant));
        let centre = worse - better;
        let spread = ((worse + better - centre * centre) / (number(examples) + 2.0)).max(0.0).sqrt();
        Some(Accuracy {
            paired: self,
            reference,
            variant,
            lost: reference - variant,
            lost_low: (centre - NORMAL_QUANTILE * spread).max(-1.0),
            lost_high: (centre + NORMAL_QUANTILE * spread).min(1.0),
            p_value: mcnemar_p(count(self.only_reference), count(self.only_variant)),
        })
    }
}

fn count(examples: u64) -> usize {
    usize::try_from(examples).unwrap_or(usize::MAX)
}

/// Counts of examples stay far below 2^53.
#[expect(clippy::cast_precision_loss, reason = "counts of examples are far below 2^53")]
fn number(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn close(found: f64, wanted: f64) -> bool {
        (found - wanted).abs() < 1e-3
    }

    #[test]
    fn the_interval_and_the_test_give_the_published_figures() {
        // Agresti, Categorical Data Analysis, table 10.1 (approval of the prime minister): 794, 150, 86, 570.
        let table = Paired { both: 794, only_reference: 150, only_variant: 86, neither: 570 };
        let accuracy = table.accuracy().unwrap();
        assert!(close(accuracy.lost, 0.04), "{accuracy:?}");
        assert!(close(accuracy.lost_low, 0.021) && close(accuracy.lost_high, 0.059), "{accuracy:?}");
        // scipy.stats.binomtest(86, 236).pvalue
        assert!((accuracy.p_value - 3.72e-5).abs() < 1e-5, "{}", accuracy.p_value);
    }

    #[test]
    fn no_difference_on_few_examples_is_not_called_certain() {
        let few = Paired { both: 20, ..Paired::default() }.accuracy().unwrap();
        assert!(few.lost_high > 0.05 && few.lost_low < -0.05 && few.p_value >= 1.0, "{few:?}");
        let many = Paired { both: 20_000, ..Paired::default() }.accuracy().unwrap();
        assert!(many.lost_high < 0.001, "{many:?}");
        assert!(Paired::default().accuracy().is_none());
    }

    proptest! {
        #[test]
        fn the_interval_holds_the_difference_and_swaps_with_the_models(
            both in 0_u64..5000, reference in 0_u64..500, variant in 0_u64..500, neither in 1_u64..500,
        ) {
            let table = Paired { both, only_reference: reference, only_variant: variant, neither };
            let there = table.accuracy().unwrap();
            let back = Paired { only_reference: variant, only_variant: reference, ..table }.accuracy().unwrap();
            prop_assert!(there.lost_low <= there.lost + 1e-2 && there.lost <= there.lost_high + 1e-2);
            prop_assert!((there.lost + back.lost).abs() < 1e-12);
            prop_assert!((there.lost_low + back.lost_high).abs() < 1e-12);
            prop_assert!((0.0..=1.0).contains(&there.p_value));
        }
    }
}
