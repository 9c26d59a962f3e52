//! Difference of the means of two arms, canary and control, that are observed over the same time.
//!
//! Observations come in blocks: one of the canary and `r` of the control, all from different devices and the same time.
//! All are in `[0, 1]`. A block tests the hypothesis `canary mean - control mean <= limit` (or `>=`) with the e-variable of
//! Turner and Grünwald ("Exact anytime-valid confidence intervals for contingency tables and beyond", Statistics &
//! Probability Letters 2023, arXiv 2203.09785) for two Bernoulli streams. In the form of a bet it is linear in each
//! observation, so it holds for bounded observations too, as in Waudby-Smith and Ramdas:
//!
//! `S = (1 + (y - b0) (b1 - b0) / (b0 (1 - b0))) * prod over x of (1 + (x - a0) (a1 - a0) / (a0 (1 - a0)))`
//!
//! `(a1, b1)` are means that the bet is made for. `(a0, b0)` is the point of the hypothesis that is nearest to them:
//! it minimises `r KL(a1 | a0) + KL(b1 | b0)`. The logarithm of the expectation of `S` is concave in the true means, is 0 at
//! `(a0, b0)` and falls from there into the hypothesis, which is convex. Therefore the expectation is at most 1 wherever
//! the hypothesis holds, also when the means change from block to block, and the product over blocks is a test
//! supermartingale. [`Arms`] mixes fixed bets: the result does not depend on the order of the blocks.

use std::collections::BTreeMap;

use super::{Interval, last_that_holds, log_sum_exp, threshold};

/// Observations are rounded to this many parts of 1, which bounds the memory of [`Arms`].
pub const PARTS: u16 = 10_000;

/// Maximum number of control observations in a block.
pub const CONTROLS_MAX: u8 = 10;

/// Control means that bets are made for: rates of errors and disagreement between 1 in 1,000 and nearly all.
const BASES: [f64; 9] = [0.001, 0.004, 0.01, 0.025, 0.06, 0.14, 0.3, 0.55, 0.85];

/// Odds of the canary in relation to the odds at the limit that bets on harm are made for, with their shares of the
/// capital: small harm needs the most data, so it gets no less than large harm.
const HARMS: [(f64, f64); 3] = [(1.7, 0.4), (4.0, 0.4), (20.0, 0.2)];

/// Odds of the canary in relation to those of the control that bets on harmlessness are made for.
const BENEFITS: [(f64, f64); 2] = [(1.0, 0.75), (0.5, 0.25)];

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
    /// of the limit. The limit is in `(-1, 1)`.
    #[must_use]
    pub fn log_capital(&self, side: Side, limit: f64) -> f64 {
        let bets = bets(side, limit);
        let mut capital: Vec<f64> = bets.iter().map(|bet| bet.share.ln()).collect();
        for (controls, blocks) in &self.by_controls {
            for (bet, capital) in bets.iter().zip(&mut capital) {
                let (control, canary) = bet.against(side, limit, *controls);
                *capital += control.log_growth(&blocks.control) + canary.log_growth(&blocks.canary);
            }
        }
        log_sum_exp(capital.iter().copied())
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
        let (difference, edge) = (canary - control, 1.0 - 1e-6);
        let low = last_that_holds(-edge, difference, |limit| self.shows(Side::Above, limit, delta / 2.0));
        let high = last_that_holds(difference, edge, |limit| !self.shows(Side::Below, limit, delta / 2.0));
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

/// Means of both arms that a bet is made for, and its share of the capital.
#[derive(Debug, Clone, Copy)]
struct Bet {
    control: f64,
    canary: f64,
    share: f64,
}

/// Bet on the mean of one arm: an observation `x` multiplies the capital by `1 + (x - mean) stake`.
#[derive(Debug, Clone, Copy)]
struct Stake {
    mean: f64,
    stake: f64,
}

impl Stake {
    const NONE: Self = Self { mean: 0.5, stake: 0.0 };

    /// Returns the bet that turns into the likelihood ratio of `aimed` and `mean` for observations that are 0 or 1.
    fn new(aimed: f64, mean: f64) -> Self {
        Self { mean, stake: (aimed - mean) / (mean * (1.0 - mean)) }
    }

    fn log_growth(self, values: &Values) -> f64 {
        let growth = |(value, times): (&u16, &u64)| *times as f64 * (self.stake * (whole(*value) - self.mean)).ln_1p();
        values.iter().map(growth).sum()
    }
}

fn bets(side: Side, limit: f64) -> Vec<Bet> {
    let odds: &[(f64, f64)] = match side {
        Side::Above => &HARMS,
        Side::Below => &BENEFITS,
    };
    let inside = |value: f64| value.clamp(1e-4, 1.0 - 1e-4);
    let mut bets = Vec::with_capacity(BASES.len() * odds.len());
    for control in BASES {
        for (factor, share) in odds {
            let at = match side {
                Side::Above => inside(control + limit),
                Side::Below => control,
            };
            let canary = inside(factor * at / (1.0 - at + factor * at));
            bets.push(Bet { control, canary, share: share / BASES.len() as f64 });
        }
    }
    bets
}

impl Bet {
    /// Returns the stakes of control and canary against the nearest point `(a, a + limit)` of the hypothesis. Nothing is
    /// staked if the means of the bet fulfil the hypothesis themselves.
    fn against(self, side: Side, limit: f64, controls: u8) -> (Stake, Stake) {
        let is_alternative = match side {
            Side::Above => self.canary - self.control > limit,
            Side::Below => self.canary - self.control < limit,
        };
        if !is_alternative {
            return (Stake::NONE, Stake::NONE);
        }
        // Derivative of the Kullback-Leibler divergence from `aimed` to `point`.
        let slope = |aimed: f64, point: f64| (point - aimed) / (point * (1.0 - point));
        let falls = |a: f64| f64::from(controls) * slope(self.control, a) + slope(self.canary, a + limit) < 0.0;
        let nearest = last_that_holds((-limit).max(0.0) + 1e-9, (1.0 - limit).min(1.0) - 1e-9, falls);
        (Stake::new(self.control, nearest), Stake::new(self.canary, nearest + limit))
    }
}
