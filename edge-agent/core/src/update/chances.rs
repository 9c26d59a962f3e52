//! Second chances of versions that were given up although another try may find them good.
//!
//! A file that was damaged on the hub looks like tampering, and a list of versions that was restored from a backup
//! looks like a missing signature. Both can be mended at the hub, so the device tries again by itself, seldom enough
//! that a hub in wrong hands gains nothing. Used by [`super::Updater`].

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use types::Version;

use super::Failure;
use crate::backoff::Backoff;

/// Waits before a version with [`super::FailureKind::has_second_chance`] is tried again.
///
/// The first is one hour, in which an operator who was called can mend a file; the cap is one day, because each try
/// costs a refresh of the trust metadata and up to one chunk of a file.
pub const SECOND_CHANCE: Backoff = Backoff { base: Duration::from_secs(3600), max: Duration::from_secs(24 * 3600) };

/// Tries of one version so far, and the time of the next one.
#[derive(Debug, Clone, Default)]
struct Chance {
    failures: u32,
    /// `None` while the version is under way, and after a restart until the first event brings the time.
    at: Option<Instant>,
}

/// The second chances of one model's versions.
#[derive(Debug, Clone, Default)]
pub(super) struct Chances(BTreeMap<Version, Chance>);

impl Chances {
    /// Sets the time of the next try for every given-up version that has none, and forgets versions that are past.
    pub(super) fn schedule(
        &mut self,
        failed: &BTreeMap<Version, Failure>,
        under_way: Option<Version>,
        now: Instant,
        random: u64,
    ) {
        self.0.retain(|version, _chance| failed.contains_key(version) || under_way == Some(*version));
        for (version, _failure) in failed.iter().filter(|(_version, failure)| failure.kind.has_second_chance()) {
            let chance = self.0.entry(*version).or_default();
            if chance.at.is_none() {
                chance.failures = chance.failures.saturating_add(1);
                chance.at = Some(now + SECOND_CHANCE.delay(chance.failures, random));
            }
        }
    }

    /// Time of the next try of a version above the active one.
    pub(super) fn next(&self, active: Option<Version>) -> Option<Instant> {
        self.above(active).map(|(_version, at)| at).min()
    }

    /// The highest version above the active one whose time has come.
    pub(super) fn due(&self, active: Option<Version>, now: Instant) -> Option<Version> {
        self.above(active).filter(|(_version, at)| *at <= now).map(|(version, _at)| version).max()
    }

    /// Notes that a version is tried now; its failures stay counted.
    pub(super) fn begun(&mut self, version: Version) {
        if let Some(chance) = self.0.get_mut(&version) {
            chance.at = None;
        }
    }

    fn above(&self, active: Option<Version>) -> impl Iterator<Item = (Version, Instant)> {
        let above = self.0.iter().filter(move |(version, _chance)| Some(**version) > active);
        above.filter_map(|(version, chance)| Some((*version, chance.at?)))
    }
}
