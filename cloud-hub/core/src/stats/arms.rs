//! Difference of the means of two arms, canary and control, that are observed over the same time.
//!
//! Observations come in blocks: one of the canary (`y`) and `r` of the control (`x`), all from different devices and the
//! same time. All are in `[0, 1]`. A block tests the hypothesis `canary mean - control mean <= d` with the bet
//!
//! `S = (1 + s (y - a - d)) * prod over x of (1 - s/r (x - a))`
//!
//! for a stake `s > 0` and an anchor `a`, both fixed, with `s` so small that no factor can be negative. `S` is an e-variable: the
//! logarithm of its expectation is concave in the means of the block, is 0 at `(a + d, a)`, and its slope there is
//! `s (canary mean - control mean - d)`, which is at most 0 under the hypothesis. So the expectation is at most 1 wherever
//! the hypothesis holds, also when the means change from block to block, and the product over blocks is a test
//! supermartingale. The hypothesis `>= d` is tested by a negative stake.
//!
//! With `s = (b1 - b0) / (b0 (1 - b0))` and observations that are 0 or 1 this is the e-variable of Turner and Grünwald
//! ("Exact anytime-valid confidence intervals for contingency tables and beyond", Statistics & Probability Letters 2023,
//! arXiv 2203.09785); as a bet on bounded observations it is in the manner of Waudby-Smith and Ramdas (arXiv 2010.09686).
//! The bet can use the small variance of rates that are means of several answers. [`Arms`] mixes fixed bets over a
//! grid of anchors and stakes: the result does not depend on the order of the blocks.

use std::collections::BTreeMap;

use super::{Interval, last_that_holds, log_sum_exp, threshold};

/// Observations are rounded to this many parts of 1, which bounds the memory of [`Arms`].
pub const PARTS: u16 = 10_000;

/// Maximum number of control observations in a block. With 20, the control costs a tenth of the data that a known control mean
/// would save; more controls hardly help.
pub const CONTROLS_MAX: u8 = 20;

/// Anchors and stakes of the bets on one side of the limit.
#[derive(Debug)]
struct Grid {
    /// Control means: rates of errors and disagreement between 3 in 1,000 and most.
    anchors: &'static [f64],
    /// Shares of the largest stake that cannot lose everything.
    stakes: &'static [f64],
}

/// Bets on harm: the best stake depends on the control mean and on the size of the harm.
const ABOVE: Grid = Grid { anchors: &[0.003, 0.02, 0.1, 0.3, 0.7], stakes: &[0.9, 0.5, 0.28, 0.15, 0.08] };

/// Bets on harmlessness: the largest stake is about 1 at every anchor, because an observation can be 1.
const BELOW: Grid = Grid { anchors: &[0.02, 0.3], stakes: &[0.9, 0.5, 0.2] };

/// Observations of one arm in parts of [`PARTS`], with the number of times that each occurred.
pub type Values = BTreeMap<u16, u64>;

/// Blocks with the same number of control observations.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Blocks {
    canary: Values,
    control: Values,
}

/// Observations of both arms in blocks.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Arms {
    by_controls: BTreeMap<u8, Blocks>,
}

/// Side of the limit on which the difference is shown to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The canary's mean is larger than the control's by more than the limit.
    Above,
    /// The canary's mean is larger than the control's by less than the limit.
    Below,
}

impl Arms {
    /// Adds a block: one observation of the canary and those of its controls, 1 to [`CONTROLS_MAX`]. A block without
    /// controls is ignored, as are controls beyond the maximum. Values outside `[0, 1]` are moved to the nearer end.
    pub fn add(&mut self, canary: f64, controls: &[f64]) {
        let controls = controls.get(..controls.len().min(usize::from(CONTROLS_MAX))).unwrap_or_default();
        let Some(count) = u8::try_from(controls.len()).ok().filter(|count| *count > 0) else { return };
        let blocks = self.by_controls.entry(count).or_default();
        *blocks.canary.entry(parts(canary)).or_default() += 1;
        for control in controls {
            *blocks.control.entry(parts(*control)).or_default() += 1;
        }
    }

    /// Returns the number of blocks, which is the number of observations of the canary.
    #[must_use]
    pub fn blocks(&self) -> u64 {
        self.by_controls.values().flat_map(|blocks| blocks.canary.values()).sum()
    }

    /// Returns the means of canary and control. Each block has the same weight in both.
    #[must_use]
    pub fn means(&self) -> Option<(f64, f64)> {
        let count = self.blocks();
        if count == 0 {
            return None;
        }
        let sum = |values: &Values| values.iter().map(|(value, times)| whole(*value) * *times as f64).sum::<f64>();
        let canary: f64 = self.by_controls.values().map(|blocks| sum(&blocks.canary)).sum();
        let control: f64 =
            self.by_controls.iter().map(|(count, blocks)| sum(&blocks.control) / f64::from(*count)).sum();
        Some((canary / count as f64, control / count as f64))
    }

    /// Returns the logarithm of the capital of the test against the hypothesis that the difference is not on this side
    /// of the limit. A limit beyond [`LIMIT_MAX`] counts as that one.
    #[must_use]
    pub fn log_capital(&self, side: Side, limit: f64) -> f64 {
        let limit = if limit.is_nan() { 0.0 } else { limit.clamp(-LIMIT_MAX, LIMIT_MAX) };
        let grid = side.grid();
        let bets = grid.anchors.len() * grid.stakes.len();
        let mut capital = vec![-(bets as f64).ln(); bets];
        for (controls, blocks) in &self.by_controls {
            for (capital, bet) in capital.iter_mut().zip(grid.bets(side, limit, f64::from(*controls))) {
                *capital += bet.log_growth(blocks);
            }
        }
        log_sum_exp(capital.into_iter())
    }

    /// Returns whether the difference is shown to be on this side of the limit, with an error probability of at most
    /// `delta` over all looks together.
    #[must_use]
    pub fn shows(&self, side: Side, limit: f64, delta: f64) -> bool {
        self.log_capital(side, limit) >= threshold(delta)
    }

    /// Returns the confidence sequence for the difference of the means, canary minus control, at `1 - delta`.
    #[must_use]
    pub fn interval(&self, delta: f64) -> Interval {
        let Some((canary, control)) = self.means() else { return Interval { low: -1.0, high: 1.0 } };
        let difference = canary - control;
        let low = last_that_holds(-1.0, difference, |limit| self.shows(Side::Above, limit, delta / 2.0));
        let high = last_that_holds(difference, 1.0, |limit| !self.shows(Side::Below, limit, delta / 2.0));
        Interval { low, high }
    }
}

/// Returns a rate as parts of [`PARTS`].
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the value is in 0..=PARTS")]
fn parts(value: f64) -> u16 {
    (value.clamp(0.0, 1.0) * f64::from(PARTS)).round() as u16
}

fn whole(parts: u16) -> f64 {
    f64::from(parts) / f64::from(PARTS)
}

/// Bet on a block, in the terms of the module's formula.
#[derive(Debug, Clone, Copy)]
struct Bet {
    canary_mean: f64,
    canary_stake: f64,
    control_mean: f64,
    control_stake: f64,
}

impl Side {
    fn grid(self) -> &'static Grid {
        match self {
            Self::Above => &ABOVE,
            Self::Below => &BELOW,
        }
    }
}

impl Grid {
    fn bets(&self, side: Side, limit: f64, controls: f64) -> impl Iterator<Item = Bet> {
        self.anchors.iter().flat_map(move |anchor| {
            // Both means of the anchor are inside (0, 1).
            let control_mean = anchor.clamp((-limit).max(0.0) + MEAN_MIN, (1.0 - limit).min(1.0) - MEAN_MIN);
            let canary_mean = control_mean + limit;
            let largest = match side {
                Side::Above => (1.0 / canary_mean).min(controls / (1.0 - control_mean)),
                Side::Below => -(1.0 / (1.0 - canary_mean)).min(controls / control_mean),
            };
            self.stakes.iter().map(move |share| {
                let canary_stake = share * largest;
                Bet { canary_mean, canary_stake, control_mean, control_stake: -canary_stake / controls }
            })
        })
    }
}

/// Largest limit of a difference of means, in both directions.
pub const LIMIT_MAX: f64 = 0.999;

/// Distance of the means of an anchor from 0 and 1; less than half of what [`LIMIT_MAX`] leaves.
const MEAN_MIN: f64 = 1e-4;

impl Bet {
    fn log_growth(self, blocks: &Blocks) -> f64 {
        let growth = |values: &Values, mean: f64, stake: f64| -> f64 {
            values.iter().map(|(value, times)| *times as f64 * (stake * (whole(*value) - mean)).ln_1p()).sum()
        };
        growth(&blocks.canary, self.canary_mean, self.canary_stake)
            + growth(&blocks.control, self.control_mean, self.control_stake)
    }
}
