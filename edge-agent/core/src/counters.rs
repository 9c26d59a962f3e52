//! Counters of what each version did on this device, in periods that wait for the hub.
//!
//! Fed by the shell with each run and answer. A period is closed once a minute; closed periods wait until the hub has
//! acknowledged them. While there is no hub, neighbouring periods are merged, so that a year offline takes no more room
//! than an hour. The shell stores closed periods under their sequence numbers.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use types::{ModelName, VariantName, Version};

pub use types::counters::{AuditScores, Compared, Tally};
pub use types::histogram::{BUCKETS, Histogram};

/// Length of a period: short enough that a bad version is noticed within minutes, long enough that a device writes little.
pub const PERIOD: Duration = Duration::from_secs(60);

/// Maximum number of closed periods that wait; beyond it the two neighbours that are shortest together are merged.
///
/// One hour in full detail, and more and more of the past in less and less.
pub const PERIODS_MAX: usize = 60;

/// Maximum number of versions that are counted in one period: two of each model that a device may follow.
pub const VERSIONS_MAX: usize = 256;

/// Maximum number of variants whose audits are counted by score in one period: with 65 places each they fit into a stored record.
pub const SCORED_MAX: usize = 64;

/// Counts of one period.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Period {
    /// Number of the period on this device; rises from period to period.
    pub sequence: u64,
    /// Start in seconds since 1970, by the device's clock.
    pub from_unix_s: u64,
    /// Length in seconds.
    pub seconds: u32,
    /// Counts of each version that did something.
    pub tallies: BTreeMap<(ModelName, Version), Tally>,
    /// Audits of each variant by score.
    pub scores: BTreeMap<(ModelName, Version, VariantName), AuditScores>,
}

impl Period {
    /// Appends a later period. The number becomes that of the later one.
    fn merge(&mut self, later: Self) {
        let end = later.from_unix_s.saturating_add(later.seconds.into());
        // A clock that was set back makes the time span meaningless; the lengths still add up.
        let span = u32::try_from(end.saturating_sub(self.from_unix_s)).unwrap_or(u32::MAX);
        self.seconds = span.max(self.seconds.saturating_add(later.seconds));
        self.sequence = later.sequence;
        for (key, tally) in later.tallies {
            if self.tallies.len() < VERSIONS_MAX || self.tallies.contains_key(&key) {
                self.tallies.entry(key).or_default().add(&tally);
            }
        }
        for (key, scores) in later.scores {
            if self.scores.len() < SCORED_MAX || self.scores.contains_key(&key) {
                self.scores.entry(key).or_default().add(&scores);
            }
        }
    }
}

/// Changes of the stored periods.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Changes {
    /// Periods to write under their numbers.
    pub written: Vec<Period>,
    /// Numbers of the periods to delete.
    pub deleted: Vec<u64>,
}

/// Counters of all versions on this device.
#[derive(Debug, Clone, Default)]
pub struct Counters {
    current: BTreeMap<(ModelName, Version), Tally>,
    scores: BTreeMap<(ModelName, Version, VariantName), AuditScores>,
    since_unix_s: Option<u64>,
    waiting: VecDeque<Period>,
    /// Highest number that was given to a message: the hub may have counted it, so it is not merged any more.
    sent: u64,
    last: u64,
}

impl Counters {
    /// Takes up the periods that an earlier run has stored.
    #[must_use]
    pub fn restore(mut stored: Vec<Period>) -> Self {
        stored.sort_by_key(|period| period.sequence);
        let last = stored.last().map_or(0, |period| period.sequence);
        Self { waiting: stored.into(), last, ..Self::default() }
    }

    /// Changes the counts of a version in the period under way.
    pub fn count(&mut self, model: &ModelName, version: Version, change: impl FnOnce(&mut Tally)) {
        let key = (model.clone(), version);
        if self.current.len() < VERSIONS_MAX || self.current.contains_key(&key) {
            change(self.current.entry(key).or_default());
        }
    }

    /// Counts an audit of a variant by its score, as [`AuditScores::count`].
    pub fn count_score(
        &mut self,
        model: &ModelName,
        version: Version,
        variant: &VariantName,
        threshold: Option<f32>,
        agrees: bool,
    ) {
        // The hub takes scores with the counts of their version only.
        self.count(model, version, |_tally| ());
        let key = (model.clone(), version, variant.clone());
        if self.scores.len() < SCORED_MAX || self.scores.contains_key(&key) {
            self.scores.entry(key).or_default().count(threshold, agrees);
        }
    }

    /// Returns the versions that did something in the period under way.
    pub fn counted(&self) -> impl Iterator<Item = &(ModelName, Version)> {
        self.current.keys()
    }

    /// Ends the period under way; one in which nothing happened leaves nothing.
    pub fn close(&mut self, now_unix_s: u64) -> Changes {
        let from_unix_s = self.since_unix_s.replace(now_unix_s).unwrap_or(now_unix_s).min(now_unix_s);
        let (tallies, scores) = (std::mem::take(&mut self.current), std::mem::take(&mut self.scores));
        if tallies.is_empty() {
            return Changes::default();
        }
        let seconds = u32::try_from(now_unix_s.saturating_sub(from_unix_s)).unwrap_or(u32::MAX);
        // Not below the clock: numbers go on rising also when the stored ones are lost.
        self.last = self.last.saturating_add(1).max(now_unix_s);
        self.waiting.push_back(Period { sequence: self.last, from_unix_s, seconds, tallies, scores });
        let mut dirty = vec![self.last];
        let mut changes = Changes::default();
        while self.waiting.len() > PERIODS_MAX {
            let Some((freed, kept)) = self.merge_shortest() else { break };
            dirty.push(kept);
            // A period that is merged before it was written needs no deleting.
            if freed != self.last {
                changes.deleted.push(freed);
            }
        }
        changes.written = self.waiting.iter().filter(|period| dirty.contains(&period.sequence)).cloned().collect();
        changes
    }

    /// Merges the two neighbours that are shortest together; returns the number that is free now, and the one that is kept.
    fn merge_shortest(&mut self) -> Option<(u64, u64)> {
        let length = |at: &usize| {
            let seconds = |at: usize| self.waiting.get(at).map_or(0, |period| u64::from(period.seconds));
            seconds(*at).saturating_add(seconds(at + 1))
        };
        let is_free = |at: &usize| self.waiting.get(*at).is_some_and(|period| period.sequence > self.sent);
        let at = (0..self.waiting.len().saturating_sub(1)).filter(is_free).min_by_key(length)?;
        let later = self.waiting.remove(at + 1)?;
        let earlier = self.waiting.get_mut(at)?;
        let freed = earlier.sequence;
        earlier.merge(later);
        Some((freed, earlier.sequence))
    }

    /// Returns the oldest period that waits, to be sent now.
    pub fn send(&mut self) -> Option<Period> {
        let period = self.waiting.front()?.clone();
        self.sent = self.sent.max(period.sequence);
        Some(period)
    }

    /// Forgets a period that the hub has counted.
    pub fn acknowledged(&mut self, sequence: u64) {
        self.waiting.retain(|period| period.sequence != sequence);
    }

    /// Returns the number of periods that wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }
}

#[cfg(test)]
mod tests;
