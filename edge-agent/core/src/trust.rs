//! When to refresh the trust metadata without an offer, and whether it has expired.
//!
//! A hub that is silent, or that is kept from news, makes no offers: only a device that asks by itself notices. Fed by the
//! agent's trust task with the state of the link and the end of each refresh; times are monotonic but for [`standing`],
//! which compares dates. An expired trust stops updates and nothing else: the device goes on answering.

use std::time::{Duration, Instant};

use crate::Refused;
use crate::backoff::{Backoff, full_jitter};

/// Default time between two refreshes: a day.
///
/// The hub signs its timestamp for seven days and anew after half of them, so that a day is soon enough to see that it stopped.
pub const REFRESH_PERIOD: Duration = Duration::from_secs(24 * 3600);

/// Part of the period within which the first refresh comes after a start or after the hub was away: one hour of a day.
///
/// Each device draws its own moment, so that a fleet that finds its hub again does not ask at once.
pub const FIRST_PARTS: u32 = 24;

/// Part of the period by which each later refresh comes earlier at random.
pub const SPREAD_PARTS: u32 = 10;

/// Waits between tries of a refresh that failed; never longer than the period.
pub const RETRY: Backoff = Backoff { base: Duration::from_secs(60), max: Duration::from_secs(3600) };

/// Seconds before its end from which an offline signature (root, targets) is reported: 60 days.
pub const OPERATOR_NOTICE_S: i64 = 60 * 24 * 3600;

/// Input of the watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The hub greeted this device.
    Online,
    /// The hub is away.
    Away,
    /// Time has passed; bring it at the time of [`Watch::poll_timeout`].
    Tick,
    /// A refresh ended well, also one that was made for an update.
    Refreshed,
    /// The refresh in flight failed.
    Failed,
}

/// Instruction for the shell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Refresh the trust; ends with [`Event::Refreshed`] or [`Event::Failed`].
    Refresh,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The hub is away: nothing is asked.
    Away,
    /// Nothing is asked before `due`.
    Waiting { due: Instant },
    /// A refresh is under way.
    Refreshing,
}

impl State {
    const fn name(self) -> &'static str {
        match self {
            Self::Away => "away",
            Self::Waiting { .. } => "waiting",
            Self::Refreshing => "refreshing",
        }
    }
}

/// The refreshes of one device.
#[derive(Debug, Clone)]
pub struct Watch {
    period: Duration,
    state: State,
    /// Time of the next refresh, kept while the hub is away; `None` before the first.
    due: Option<Instant>,
    failures: u32,
}

impl Watch {
    /// Begins with the hub away. `period` is the time between two refreshes.
    #[must_use]
    pub fn new(period: Duration) -> Self {
        Self { period, state: State::Away, due: None, failures: 0 }
    }

    /// Returns the time at which the shell must send [`Event::Tick`], and the reason; `None` while the hub is away or a
    /// refresh is in flight.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        match self.state {
            State::Waiting { due } => Some((due, "refresh the trust metadata")),
            State::Away | State::Refreshing => None,
        }
    }

    /// Decides what follows from `event`. `random` is uniform over all of `u64`.
    ///
    /// # Errors
    /// [`Refused`] for the failure of a refresh that was not asked for; nothing has changed.
    pub fn handle(&mut self, event: Event, now: Instant, random: u64) -> Result<Vec<Step>, Refused> {
        match (self.state, event) {
            (State::Away, Event::Online) => {
                let soon = now.checked_add(full_jitter(self.period / FIRST_PARTS, random)).unwrap_or(now);
                // A refresh that is not due yet stays where it was; one that was missed comes soon, not at once.
                let due = self.due.filter(|due| *due > soon).unwrap_or(soon);
                self.wait(due);
            }
            (State::Waiting { due }, Event::Tick) if now >= due => {
                self.state = State::Refreshing;
                return Ok(vec![Step::Refresh]);
            }
            (State::Waiting { .. } | State::Refreshing, Event::Away) => {
                // A refresh under way fails by itself; the next greeting begins anew.
                self.state = State::Away;
            }
            (State::Waiting { .. } | State::Refreshing, Event::Refreshed) => {
                self.failures = 0;
                let early = full_jitter(self.period / SPREAD_PARTS, random);
                let due = now.checked_add(self.period.saturating_sub(early)).unwrap_or(now);
                self.wait(due);
            }
            (State::Away, Event::Refreshed) => {
                self.failures = 0;
                self.due = now.checked_add(self.period);
            }
            (State::Refreshing, Event::Failed) => {
                self.failures = self.failures.saturating_add(1);
                let least = (RETRY.base / 2).min(self.period);
                let delay = RETRY.delay(self.failures, random).max(least).min(self.period);
                self.wait(now.checked_add(delay).unwrap_or(now));
            }
            // The refresh that was under way when the hub went away.
            (State::Away, Event::Failed | Event::Away | Event::Tick)
            | (State::Waiting { .. }, Event::Online | Event::Tick)
            | (State::Refreshing, Event::Online | Event::Tick) => {}
            (State::Waiting { .. }, Event::Failed) => {
                return Err(Refused { machine: "trust", state: self.state.name(), event: "failed" });
            }
        }
        Ok(Vec::new())
    }

    fn wait(&mut self, due: Instant) {
        self.due = Some(due);
        self.state = State::Waiting { due };
    }
}

/// Validity of the trust metadata of this device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Nothing was ever refreshed.
    Unknown,
    /// Every role is valid; the named one expires first.
    Valid {
        /// The role that expires first.
        role: &'static str,
        /// Its last second, since 1970.
        until: i64,
    },
    /// A role has expired: the hub is silent or kept from news, or a clock is wrong.
    Expired {
        /// The role that expired first.
        role: &'static str,
        /// Its last second, since 1970.
        since: i64,
    },
}

/// Returns how the trust stands at `now`, from the expiry of each role in seconds since 1970.
#[must_use]
pub fn standing(roles: &[(&'static str, i64)], now: i64) -> Standing {
    match roles.iter().min_by_key(|(_, expires)| *expires) {
        None => Standing::Unknown,
        Some(&(role, since)) if since < now => Standing::Expired { role, since },
        Some(&(role, until)) => Standing::Valid { role, until },
    }
}

/// Returns the roles that only the operator can renew and that expire within [`OPERATOR_NOTICE_S`], with their expiry.
#[must_use]
pub fn due_for_operator(roles: &[(&'static str, i64)], now: i64) -> Vec<(&'static str, i64)> {
    let is_due = |(role, expires): &(&'static str, i64)| {
        matches!(*role, "root" | "targets") && expires.saturating_sub(now) < OPERATOR_NOTICE_S
    };
    roles.iter().copied().filter(is_due).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = REFRESH_PERIOD;
    const DAY_S: i64 = 24 * 3600;

    fn due(watch: &Watch) -> Option<Instant> {
        watch.poll_timeout().map(|(at, _reason)| at)
    }

    fn online(now: Instant, random: u64) -> (Watch, Instant) {
        let mut watch = Watch::new(DAY);
        assert_eq!(watch.handle(Event::Online, now, random), Ok(Vec::new()));
        let due = due(&watch).unwrap();
        (watch, due)
    }

    #[test]
    fn a_device_refreshes_within_an_hour_of_its_start_and_then_daily() {
        let start = Instant::now();
        for random in [0, 1 << 62, u64::MAX] {
            let (mut watch, mut at) = online(start, random);
            assert!(at <= start + Duration::from_secs(3600), "{random}");
            for _ in 0..5 {
                assert_eq!(watch.handle(Event::Tick, at, random), Ok(vec![Step::Refresh]));
                assert_eq!(watch.handle(Event::Tick, at, random), Ok(Vec::new()), "one at a time");
                assert_eq!(watch.handle(Event::Refreshed, at, random), Ok(Vec::new()));
                let next = due(&watch).unwrap();
                assert!((DAY * 9 / 10..=DAY).contains(&(next - at)), "{random}");
                at = next;
            }
        }
    }

    #[test]
    fn a_fleet_that_finds_its_hub_again_spreads_over_an_hour() {
        let start = Instant::now();
        let dues: Vec<Instant> = (0..100u64).map(|at| online(start, at.wrapping_mul(u64::MAX / 100)).1).collect();
        let spread = *dues.iter().max().unwrap() - *dues.iter().min().unwrap();
        assert!(spread > Duration::from_secs(3000), "{spread:?}");
    }

    #[test]
    fn a_failed_refresh_is_tried_again_with_pauses_of_at_most_an_hour() {
        let (mut watch, mut now) = online(Instant::now(), 0);
        for _ in 0..20 {
            assert_eq!(watch.handle(Event::Tick, now, 0), Ok(vec![Step::Refresh]));
            assert_eq!(watch.handle(Event::Failed, now, u64::MAX), Ok(Vec::new()));
            let next = due(&watch).unwrap();
            assert!((Duration::from_secs(30)..=RETRY.max).contains(&(next - now)));
            now = next;
        }
        assert!(watch.handle(Event::Failed, now, 0).is_err());
    }

    #[test]
    fn nothing_is_asked_while_the_hub_is_away_and_what_was_missed_is_made_up() {
        let (mut watch, first) = online(Instant::now(), u64::MAX);
        assert_eq!(watch.handle(Event::Away, first, 0), Ok(Vec::new()));
        assert_eq!(watch.poll_timeout(), None);
        let back = first + DAY * 3;
        assert_eq!(watch.handle(Event::Online, back, 0), Ok(Vec::new()));
        assert_eq!(due(&watch), Some(back));
        // A short break does not bring a refresh forward.
        assert_eq!(watch.handle(Event::Tick, back, 0), Ok(vec![Step::Refresh]));
        assert_eq!(watch.handle(Event::Refreshed, back, 0), Ok(Vec::new()));
        let next = due(&watch);
        watch.handle(Event::Away, back, 0).unwrap();
        watch.handle(Event::Online, back + Duration::from_secs(60), 0).unwrap();
        assert_eq!(due(&watch), next);
        // Cut off in the middle of a refresh.
        watch.handle(Event::Tick, next.unwrap(), 0).unwrap();
        watch.handle(Event::Away, next.unwrap(), 0).unwrap();
        assert_eq!(watch.handle(Event::Failed, next.unwrap(), 0), Ok(Vec::new()));
    }

    #[test]
    fn the_role_that_ends_first_says_how_the_trust_stands() {
        let roles =
            [("root", 100 * DAY_S), ("targets", 90 * DAY_S), ("snapshot", 20 * DAY_S), ("timestamp", 7 * DAY_S)];
        assert_eq!(standing(&[], 0), Standing::Unknown);
        assert_eq!(standing(&roles, DAY_S), Standing::Valid { role: "timestamp", until: 7 * DAY_S });
        assert_eq!(standing(&roles, 8 * DAY_S), Standing::Expired { role: "timestamp", since: 7 * DAY_S });
        assert_eq!(due_for_operator(&roles, DAY_S), []);
        assert_eq!(due_for_operator(&roles, 31 * DAY_S), [("targets", 90 * DAY_S)]);
        assert_eq!(due_for_operator(&roles, 200 * DAY_S).len(), 2);
        assert_eq!(due_for_operator(&[("root", i64::MIN)], i64::MAX), [("root", i64::MIN)], "no overflow");
    }
}
