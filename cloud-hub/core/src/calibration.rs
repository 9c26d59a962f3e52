//! Keeps the promise of a threshold valid in the field: finds from audits that it is broken, and refits the threshold.
//!
//! Fed with the audits of one variant on one group of devices ([`Watch::observe`]); says when the threshold in force changes.
//! An audit is a request that was drawn before its answer was known: its score, and whether the device's answer agrees with the
//! full model's. The promise is that at most the share `alpha` of all requests is kept and answered otherwise.
//!
//! *Broken*: for each of the starting points, [`betting::log_capital_above`] bets that more than `alpha` of the audits since then are
//! kept and differ. The capitals are added with the weights `1 / (j (j + 1))`, which sum to 1, so that the sum is a nonnegative
//! supermartingale that starts at 1 or below (Ville's inequality; Shin, Ramdas and Rinaldo, arXiv 2203.03532, for sums over starting
//! points). It may be looked at after each audit, and a change late in a stream is found with few audits more than an early one.
//!
//! *Refitted*: when the promise is broken, the device keeps nothing, and only audits from then on count: those that broke the promise
//! never show another threshold, and neither does the calibration of the author, which was made for other inputs. The thresholds of the
//! author's curve, fixed before all audits, are walked from the strictest on, and left before the first one for which the bets
//! on a share below `alpha` ([`betting::log_capital_below`]) have not won (fixed-sequence testing, Learn then Test, arXiv 2110.01052).
//! The author's threshold is the loosest one.
//!
//! Error probabilities: watch number `w` errs with a probability of at most `delta / (w (w + 1))` and refit number `r` with
//! `delta / (r (r + 1))`, so all watches together, and all refits together, err with `delta` at most.

use crate::stats::betting::{self, Sample};
use crate::stats::{Interval, log_sum_exp, threshold};

/// Audits from one starting point to the next.
///
/// A change between two points is found as if it had come at the later one.
pub const START_EVERY: u64 = 25;

/// Maximum number of starting points that are kept; the one with the least capital goes first, which never helps to break the
/// promise.
pub const STARTS_MAX: usize = 32;

/// Minimum rise of the share that is kept for a looser threshold to be sent: each change has a part of the error probability.
pub const LOOSEN_MIN: f64 = 0.05;

/// Maximum number of thresholds that a refit chooses among.
pub const GRID_MAX: usize = 64;

/// Promise about the answers that are kept.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Promise {
    /// Largest share of all requests that may be kept and answered otherwise than by the full model, above 0 and below 1.
    pub alpha: f64,
    /// Error probability, above 0 and below 1.
    pub delta: f64,
}

/// Audits whose scores are between two thresholds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Bin {
    /// Answers that agree with the full model's.
    pub agreed: u64,
    /// Answers that differ.
    pub differing: u64,
}

/// Threshold in force.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Force {
    /// The author's.
    #[default]
    Author,
    /// None: no answer of a device counts as sure.
    Nothing,
    /// A stricter one than the author's, shown by audits.
    At(f32),
}

/// Starting point of bets against the promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Start {
    /// Number of the point in its watch, from 1.
    pub number: u64,
    /// Audits since then.
    pub audits: u64,
    /// Of these, answers at or above the threshold that differ.
    pub wrong: u64,
}

/// Change of the threshold in force.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Change {
    /// The promise is broken: nothing is kept from now on.
    Broken {
        /// Audits of the watch that has ended.
        audits: u64,
        /// Of these, answers that were above the threshold and differ.
        wrong: u64,
    },
    /// Audits have shown a threshold.
    Shown {
        /// The new threshold.
        force: Force,
        /// Audits since the promise was broken.
        audits: u64,
        /// Of these, answers that the new threshold keeps.
        kept: u64,
        /// Of the kept ones, answers that differ.
        wrong: u64,
    },
}

/// Watch over one variant on one group of devices.
#[derive(Debug, Clone, PartialEq)]
pub struct Watch {
    promise: Promise,
    /// Thresholds, the strictest first; the last one is the author's.
    grid: Vec<f32>,
    parts: Parts,
}

/// State of a watch, as it is stored.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Parts {
    /// Threshold in force.
    pub force: Force,
    /// Times that the promise was broken.
    pub refits: u32,
    /// Number of thresholds that were watched, the present one included; 0 stands for 1.
    pub watches: u32,
    /// Audits since the present threshold is in force.
    pub audits: u64,
    /// Of these, answers at or above the threshold that differ.
    pub wrong: u64,
    /// Starting points of the present watch that are kept.
    pub starts: Vec<Start>,
    /// Number of starting points of the present watch, with those that are not kept.
    pub started: u64,
    /// Audits since the last break by their scores: from each threshold up to the one before; those below the last one at the end.
    pub bins: Vec<Bin>,
}

impl Watch {
    /// Begins a watch; `None` for a promise that promises nothing, or thresholds that do not fall.
    #[must_use]
    pub fn new(promise: Promise, grid: Vec<f32>) -> Option<Self> {
        Self::restored(promise, grid, Parts::default())
    }

    /// Puts a watch back that was stored; `None` as in [`Watch::new`], or for parts that do not fit.
    #[must_use]
    pub fn restored(promise: Promise, grid: Vec<f32>, mut parts: Parts) -> Option<Self> {
        let is_share = |share: f64| share > 0.0 && share < 1.0;
        let is_falling = grid.windows(2).all(|pair| matches!(pair, [first, second] if second < first));
        let is_grid = (1..=GRID_MAX).contains(&grid.len()) && grid.iter().all(|one| one.is_finite()) && is_falling;
        if parts.bins.is_empty() {
            parts.bins = vec![Bin::default(); grid.len() + 1];
        }
        parts.watches = parts.watches.max(1);
        let is_on_grid = match parts.force {
            Force::Author | Force::Nothing => true,
            Force::At(at) => grid.contains(&at),
        };
        let fits = parts.bins.len() == grid.len() + 1 && parts.starts.len() <= STARTS_MAX && is_on_grid;
        (is_share(promise.alpha) && is_share(promise.delta) && is_grid && fits).then_some(Self { promise, grid, parts })
    }

    /// Returns the promise.
    #[must_use]
    pub const fn promise(&self) -> Promise {
        self.promise
    }

    /// Returns the thresholds that a refit chooses among, the strictest first; the last one is the author's.
    #[must_use]
    pub fn grid(&self) -> &[f32] {
        &self.grid
    }

    /// Returns the state, to be stored.
    #[must_use]
    pub const fn parts(&self) -> &Parts {
        &self.parts
    }

    /// Returns the threshold in force; `None` while nothing is kept.
    #[must_use]
    pub fn threshold(&self) -> Option<f32> {
        match self.parts.force {
            Force::Author => self.grid.last().copied(),
            Force::Nothing => None,
            Force::At(at) => Some(at),
        }
    }

    /// Returns the place in a block of audits for answers from `least` up to the next threshold; `None` stands for no threshold.
    /// A number that is not a threshold counts as the score of its answers.
    #[must_use]
    pub fn place(&self, least: Option<f32>) -> usize {
        least.map_or(self.grid.len(), |least| self.grid.partition_point(|threshold| least < *threshold))
    }

    /// Returns an empty block of audits.
    #[must_use]
    pub fn block(&self) -> Vec<Bin> {
        vec![Bin::default(); self.grid.len() + 1]
    }

    /// Returns the audits since the last break, or since the begin.
    #[must_use]
    pub fn recorded(&self) -> u64 {
        total(&self.parts.bins)
    }

    /// Returns the confidence sequence of the share that is kept and differs, since the present threshold is in force; `None` while
    /// nothing is kept or no audit has come.
    #[must_use]
    pub fn interval(&self) -> Option<Interval> {
        let Parts { audits, wrong, .. } = self.parts;
        (self.threshold().is_some() && audits > 0).then(|| {
            let counts = counts(wrong, audits);
            betting::interval(Sample(&counts), self.promise.delta)
        })
    }

    /// Takes a block of audits, by the places of [`Watch::place`]; returns what changed. A block is one observation in time: the
    /// order within it does not matter.
    pub fn observe(&mut self, block: &[Bin]) -> Option<Change> {
        let audits = total(block);
        if audits == 0 {
            return None;
        }
        for (sum, more) in self.parts.bins.iter_mut().zip(block) {
            sum.agreed = sum.agreed.saturating_add(more.agreed);
            sum.differing = sum.differing.saturating_add(more.differing);
        }
        if let Some(at) = self.in_force() {
            self.bet(audits, wrong(block, at));
            if self.is_broken() {
                return Some(self.give_up());
            }
        }
        self.refit()
    }

    /// Returns the position of the threshold in force.
    fn in_force(&self) -> Option<usize> {
        self.threshold().map(|threshold| self.place(Some(threshold)))
    }

    fn bet(&mut self, audits: u64, wrong: u64) {
        let parts = &mut self.parts;
        if parts.audits / START_EVERY >= parts.started || parts.started == 0 {
            parts.started = parts.started.saturating_add(1);
            parts.starts.push(Start { number: parts.started, audits: 0, wrong: 0 });
        }
        parts.audits = parts.audits.saturating_add(audits);
        parts.wrong = parts.wrong.saturating_add(wrong);
        for start in &mut parts.starts {
            start.audits = start.audits.saturating_add(audits);
            start.wrong = start.wrong.saturating_add(wrong);
        }
        if parts.starts.len() > STARTS_MAX {
            // The newest one has not had its chance yet.
            let older = parts.starts.len() - 1;
            let alpha = self.promise.alpha;
            let least = parts
                .starts
                .iter()
                .take(older)
                .enumerate()
                .min_by(|(_, left), (_, right)| left.log_capital(alpha).total_cmp(&right.log_capital(alpha)));
            if let Some(at) = least.map(|(at, _)| at) {
                parts.starts.remove(at);
            }
        }
    }

    fn is_broken(&self) -> bool {
        let terms: Vec<f64> = self.parts.starts.iter().map(|start| start.log_capital(self.promise.alpha)).collect();
        log_sum_exp(terms.iter().copied()) >= threshold(spent(self.promise.delta, self.parts.watches))
    }

    /// Ends the watch: nothing is kept, and only audits from now on show a threshold.
    fn give_up(&mut self) -> Change {
        let Parts { audits, wrong, refits, .. } = self.parts;
        self.parts.refits = refits.saturating_add(1);
        self.parts.bins = self.block();
        self.begin(Force::Nothing);
        Change::Broken { audits, wrong }
    }

    fn begin(&mut self, force: Force) {
        let parts = &mut self.parts;
        parts.force = force;
        if force != Force::Nothing {
            parts.watches = parts.watches.saturating_add(1);
        }
        (parts.audits, parts.wrong, parts.started) = (0, 0, 0);
        parts.starts.clear();
    }

    /// Walks the thresholds and takes the loosest one that is shown, if it is looser than the one in force.
    fn refit(&mut self) -> Option<Change> {
        if self.parts.refits == 0 || self.parts.force == Force::Author {
            return None;
        }
        let shown = self.shown()?;
        let (audits, now) = (self.recorded(), self.in_force());
        let kept = |at: usize| self.parts.bins.iter().take(at + 1).map(Bin::all).sum::<u64>();
        let is_last = shown + 1 == self.grid.len();
        let is_worth_it = match now {
            None => kept(shown) > 0,
            Some(now) => {
                let gain = (kept(shown).saturating_sub(kept(now))) as f64 / audits as f64;
                shown > now && (is_last || gain >= LOOSEN_MIN)
            }
        };
        if !is_worth_it {
            return None;
        }
        let force = if is_last { Force::Author } else { Force::At(*self.grid.get(shown)?) };
        let change = Change::Shown { force, audits, kept: kept(shown), wrong: wrong(&self.parts.bins, shown) };
        self.begin(force);
        Some(change)
    }

    /// Returns the position of the loosest threshold that the walk reaches.
    fn shown(&self) -> Option<usize> {
        let (audits, alpha) = (self.recorded(), self.promise.alpha);
        let needed = threshold(spent(self.promise.delta, self.parts.refits));
        let is_shown = |at: usize| {
            let counts = counts(wrong(&self.parts.bins, at), audits);
            betting::log_capital_below(Sample(&counts), alpha) >= needed
        };
        (0..self.grid.len()).take_while(|at| is_shown(*at)).last()
    }

    /// Returns the least number of audits, all of them agreeing, after which the next refit can show a threshold.
    #[must_use]
    pub fn audits_needed(&self) -> u64 {
        let needed = threshold(spent(self.promise.delta, self.parts.refits.max(1)));
        let is_enough = |audits: u64| {
            let counts = counts(0, audits);
            betting::log_capital_below(Sample(&counts), self.promise.alpha) >= needed
        };
        let (mut low, mut high) = (0_u64, 1_u64);
        while !is_enough(high) && high < u64::MAX / 4 {
            (low, high) = (high, high * 2);
        }
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if is_enough(middle) {
                high = middle;
            } else {
                low = middle;
            }
        }
        high
    }
}

impl Bin {
    /// Returns the number of audits.
    #[must_use]
    pub const fn all(&self) -> u64 {
        self.agreed.saturating_add(self.differing)
    }
}

impl Start {
    /// Returns the logarithm of the weighted capital of its bets.
    fn log_capital(&self, alpha: f64) -> f64 {
        let number = self.number as f64;
        let counts = counts(self.wrong, self.audits);
        betting::log_capital_above(Sample(&counts), alpha) - (number * (number + 1.0)).ln()
    }
}

fn counts(wrong: u64, audits: u64) -> [(f64, u64); 2] {
    [(0.0, audits.saturating_sub(wrong)), (1.0, wrong)]
}

fn total(bins: &[Bin]) -> u64 {
    bins.iter().map(Bin::all).fold(0, u64::saturating_add)
}

/// Returns the audits that the threshold at a position keeps and that differ.
fn wrong(bins: &[Bin], at: usize) -> u64 {
    bins.iter().take(at + 1).map(|bin| bin.differing).fold(0, u64::saturating_add)
}

/// Returns the part of an error probability that test number `number`, from 1 on, may use.
fn spent(delta: f64, number: u32) -> f64 {
    let number = f64::from(number);
    delta / (number * (number + 1.0))
}
