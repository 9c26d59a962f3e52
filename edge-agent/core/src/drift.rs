//! Decides whether the scores of a model have left the distribution of its calibration: then its threshold promises nothing.
//!
//! Fed with the score of each answer of the device; says when an alarm begins and when it ends. A two-sample test that may be
//! looked at after each answer: the calibration's scores are the first sample, the answers since the start of a segment
//! the second. If both come from one distribution in any order, the smoothed rank of each score among all before it is uniform
//! (conformal p-value: Vovk, Gammerman, Shafer, "Algorithmic Learning in a Random World", 2005). Bets against that are summed
//! over all starting points (Shiryaev-Roberts e-detector: Shin, Ramdas, Rinaldo, arXiv 2203.03532, theorem 2.4), so that a change
//! late in a stream is found as soon as an early one. While nothing changes, an alarm comes once in [`REQUESTS_PER_ALARM`]
//! answers on average, or more seldom, however many examples the calibration had.

/// Minimum of the average number of answers between two false alarms.
pub const REQUESTS_PER_ALARM: f64 = 100_000.0;

/// Answers after which a segment ends and the next one begins with the calibration's scores alone, so that a change that comes
/// slowly is seen against the calibration and not against the weeks before.
pub const SEGMENT: u64 = 10_000;

/// Answers without a new alarm after which an alarm ends.
pub const QUIET: u64 = 1_000;

/// Minimum number of calibration examples: with fewer no change is found in useful time.
pub const EXAMPLES_MIN: u32 = 50;

/// Share of the evidence that changes its bet before each answer.
const CHANGE: f64 = 0.01;

/// Weight of the last rank in their mean, from which the direction of a change is read.
const LAST: f64 = 0.02;

/// Direction of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shift {
    /// Scores are lower than in the calibration.
    LessSure,
    /// Scores are higher than in the calibration.
    MoreSure,
}

/// Bet against a uniform rank in 0 to 1, with its stake. A rank near 1 is a low score.
#[derive(Debug, Clone, Copy)]
enum Bet {
    /// Low scores, with a negative stake high ones.
    Low(f64),
    /// Scores at both ends, with a negative stake those in the middle.
    Ends(f64),
}

const BETS: [Bet; 8] = [
    Bet::Low(1.8),
    Bet::Low(0.8),
    Bet::Low(-0.8),
    Bet::Low(-1.8),
    Bet::Ends(0.9),
    Bet::Ends(0.4),
    Bet::Ends(-0.4),
    Bet::Ends(-0.9),
];

impl Bet {
    /// Returns the factor that the bet wins by a rank: 1 on average over uniform ranks, and never below 0.
    fn factor(self, rank: f64) -> f64 {
        let tilt = rank - 0.5;
        match self {
            Self::Low(stake) => 1.0 + stake * tilt,
            // From -0.5 in the middle to 1 at both ends.
            Self::Ends(stake) => 1.0 + stake * (6.0 * tilt * tilt - 0.5),
        }
    }
}

/// Scores of a calibration, counted between the thresholds of its curve.
#[derive(Debug, Clone, PartialEq)]
pub struct Reference {
    /// Thresholds from the strictest on.
    thresholds: Vec<f32>,
    /// Scores from each threshold up to the one before; those below the last one at the end.
    counts: Vec<u64>,
}

impl Reference {
    /// Reads the scores off a curve: pairs of a threshold and the share of the `examples` with at least that score, strictest first.
    ///
    /// Returns `None` where the curve says too little: fewer than [`EXAMPLES_MIN`] examples, no two counts, or no order.
    #[must_use]
    pub fn of_curve(examples: u32, curve: impl IntoIterator<Item = (f32, f32)>) -> Option<Self> {
        if examples < EXAMPLES_MIN {
            return None;
        }
        let (mut thresholds, mut counts): (Vec<f32>, Vec<u64>) = (Vec::new(), Vec::new());
        let mut above = 0_u64;
        for (threshold, coverage) in curve {
            let is_ordered = thresholds.last().is_none_or(|last| threshold < *last);
            let kept = whole(f64::from(coverage) * f64::from(examples));
            if !threshold.is_finite() || !is_ordered || kept < above || kept > u64::from(examples) {
                return None;
            }
            thresholds.push(threshold);
            counts.push(kept - above);
            above = kept;
        }
        counts.push(u64::from(examples) - above);
        (counts.iter().filter(|count| **count > 0).count() > 1).then_some(Self { thresholds, counts })
    }

    fn place(&self, score: f32) -> usize {
        self.thresholds.partition_point(|threshold| score < *threshold)
    }
}

/// Rounds a number that is not negative.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a share of a u32, rounded: checked by the caller"
)]
fn whole(value: f64) -> u64 {
    value.round() as u64
}

/// An alarm that stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Alarm {
    /// Direction of the change.
    pub shift: Shift,
    /// Answers since the alarm was raised for the last time.
    pub quiet: u64,
}

/// Beginning or end of an alarm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// An alarm begins.
    Begins(Shift),
    /// The alarm ends: [`QUIET`] answers fitted the calibration.
    Ends,
}

/// Watch over the scores of one calibrated variant.
#[derive(Debug, Clone, PartialEq)]
pub struct Drift {
    reference: Reference,
    /// The calibration's scores and those of the segment.
    pool: Vec<u64>,
    /// Answers in the segment.
    seen: u64,
    /// Evidence of each bet, summed over all starting points in the segment.
    evidence: [f64; BETS.len()],
    /// Mean of the ranks, the last ones with the most weight.
    mean: f64,
    alarm: Option<Alarm>,
}

impl Drift {
    /// Begins a watch.
    #[must_use]
    pub fn new(reference: Reference) -> Self {
        let pool = reference.counts.clone();
        Self { reference, pool, seen: 0, evidence: [0.0; BETS.len()], mean: 0.5, alarm: None }
    }

    /// The alarm that stands.
    #[must_use]
    pub const fn alarm(&self) -> Option<Alarm> {
        self.alarm
    }

    /// Takes the score of one answer. `random`, from 0 to 1, orders equal scores.
    pub fn observe(&mut self, score: f32, random: f64) -> Option<Change> {
        let rank = self.rank(score, random)?;
        if self.bet(rank) >= REQUESTS_PER_ALARM {
            let shift = if self.mean > 0.5 { Shift::LessSure } else { Shift::MoreSure };
            self.begin_segment();
            let was_quiet = self.alarm.replace(Alarm { shift, quiet: 0 }).is_none();
            return was_quiet.then_some(Change::Begins(shift));
        }
        if self.seen >= SEGMENT {
            self.begin_segment();
        }
        let alarm = self.alarm.as_mut()?;
        alarm.quiet = alarm.quiet.saturating_add(1);
        if alarm.quiet < QUIET {
            return None;
        }
        self.alarm = None;
        Some(Change::Ends)
    }

    /// Returns the smoothed rank of a score among all in the pool and itself, and adds it to the pool.
    fn rank(&mut self, score: f32, random: f64) -> Option<f64> {
        if score.is_nan() {
            return None;
        }
        let place = self.reference.place(score);
        let higher: u64 = self.pool.iter().take(place).sum();
        let all: u64 = self.pool.iter().sum();
        let equal = self.pool.get_mut(place)?;
        *equal = equal.saturating_add(1);
        self.seen = self.seen.saturating_add(1);
        Some((float(higher) + random.clamp(0.0, 1.0) * float(*equal)) / float(all.saturating_add(1)))
    }

    /// Multiplies the evidence of each bet by what it wins; returns the sum.
    fn bet(&mut self, rank: f64) -> f64 {
        let share = 1.0 / float(u64::try_from(BETS.len()).unwrap_or(u64::MAX));
        let all: f64 = self.evidence.iter().sum();
        for (evidence, bet) in self.evidence.iter_mut().zip(BETS) {
            let moved = (1.0 - CHANGE) * *evidence + CHANGE * share * all;
            *evidence = (moved + share) * bet.factor(rank);
        }
        self.mean += LAST * (rank - self.mean);
        self.evidence.iter().sum()
    }

    fn begin_segment(&mut self) {
        self.pool.clone_from(&self.reference.counts);
        self.seen = 0;
        self.evidence = [0.0; BETS.len()];
    }
}

/// A count as a number to compute with; counts are far below 2^53.
#[expect(clippy::cast_precision_loss, reason = "counts of answers are far below 2^53")]
const fn float(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests;
