//! When to ask for the next certificate.
//!
//! Fed by the uplink task; asks for a new certificate (with a new key) over the live connection from two thirds of
//! the lifetime on, again and again until it has one. Times are whole seconds of the Unix clock *as the hub keeps it*:
//! the device's own clock may be wrong, so the shell corrects it by the difference it learnt from the hub's
//! greeting ([`ClockSkew`]). A jump of the clock makes a renewal early or late by that jump and nothing else.

use crate::Refused;
use crate::backoff::full_jitter;
use std::time::Duration;

/// Shortest wait between two tries in seconds; also what a certificate of a few seconds (in tests) can bear.
pub const RETRY_S_MIN: u64 = 1;

/// Longest wait between two tries in seconds: two days are left of a week's certificate when the tries begin.
pub const RETRY_S_MAX: u64 = 3600;

/// Seconds by which a certificate may begin after the hub's clock before it counts as issued by a clock that was wrong.
///
/// Such a certificate would be renewed years too late. It is renewed at once; a day, because clocks are set by less.
pub const FUTURE_S_MAX: u64 = 86_400;

/// Share of the lifetime over which a fleet that was enrolled at one moment spreads its renewals: one part in this many.
pub const SPREAD_PARTS: u64 = 20;

/// Seconds to add to the device's clock to have the hub's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ClockSkew(i64);

/// Skew in seconds from which people should be told: certificates and tokens are judged by the minute.
pub const SKEW_S_TOLD: u64 = 60;

impl ClockSkew {
    /// The difference at one moment, from both clocks in milliseconds.
    #[must_use]
    pub fn measured(device_unix_ms: u64, hub_unix_ms: u64) -> Self {
        let seconds = i128::from(hub_unix_ms / 1000) - i128::from(device_unix_ms / 1000);
        Self(i64::try_from(seconds).unwrap_or(0))
    }

    /// The hub's clock when the device's says `device_unix_s`.
    #[must_use]
    pub fn to_hub_time(self, device_unix_s: u64) -> u64 {
        device_unix_s.saturating_add_signed(self.0)
    }

    /// Seconds that the device is behind the hub; negative when it is ahead.
    #[must_use]
    pub fn seconds(self) -> i64 {
        self.0
    }

    /// Returns whether the difference is worth a warning.
    #[must_use]
    pub fn is_notable(self) -> bool {
        self.0.unsigned_abs() >= SKEW_S_TOLD
    }
}

/// The validity of a certificate, in seconds of the Unix clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// First second of the validity.
    pub not_before: u64,
    /// Last second of the validity.
    pub not_after: u64,
}

impl Validity {
    /// Its length in seconds.
    #[must_use]
    pub fn lifetime(self) -> u64 {
        self.not_after.saturating_sub(self.not_before)
    }

    /// Returns whether it was issued by a clock that was ahead by more than [`FUTURE_S_MAX`].
    #[must_use]
    pub fn is_from_the_future(self, now: u64) -> bool {
        self.not_before > now.saturating_add(FUTURE_S_MAX)
    }

    /// Returns the second of the first request for the next one: at two thirds, and up to [`SPREAD_PARTS`] later.
    #[must_use]
    pub fn renew_at(self, random: u64) -> u64 {
        let lifetime = self.lifetime();
        let two_thirds = lifetime - lifetime / 3;
        let spread = full_jitter(Duration::from_secs(lifetime / SPREAD_PARTS), random).as_secs();
        self.not_before.saturating_add(two_thirds).saturating_add(spread)
    }
}

/// State of the renewal of a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// The certificate is good until then.
    Holding {
        /// Second at which the next one is requested.
        due: u64,
    },
    /// A request is under way.
    Asking,
    /// A request failed; it is retried.
    Waiting {
        /// Second of the next request.
        until: u64,
    },
}

impl State {
    const fn name(self) -> &'static str {
        match self {
            Self::Holding { .. } => "holding",
            Self::Asking => "asking",
            Self::Waiting { .. } => "waiting",
        }
    }
}

/// Input of the renewal's state machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Time has passed; bring it at least once a minute, and at the time of [`Renewal::poll_timeout`], while online.
    Tick,
    /// The hub has greeted the device: what is due is asked for now.
    Online,
    /// The next certificate is there, stored durably with its key.
    Renewed(Validity),
    /// The request failed, was refused, or the connection broke.
    Failed,
}

impl Event {
    const fn name(self) -> &'static str {
        match self {
            Self::Tick => "tick",
            Self::Online => "online",
            Self::Renewed(_) => "renewed",
            Self::Failed => "failed",
        }
    }
}

/// Order to the shell of the renewal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Make a new key and ask for a certificate; ends with [`Event::Renewed`] or [`Event::Failed`].
    RequestCertificate,
}

/// The renewals of one device.
#[derive(Debug, Clone)]
pub struct Renewal {
    held: Validity,
    state: State,
}

impl Renewal {
    /// Holds a certificate. `random` is uniform over all of `u64`.
    #[must_use]
    pub fn new(held: Validity, random: u64) -> Self {
        Self { held, state: State::Holding { due: held.renew_at(random) } }
    }

    /// Returns the validity of the certificate in use.
    #[must_use]
    pub fn held(&self) -> Validity {
        self.held
    }

    /// Returns the state of the renewal.
    #[must_use]
    pub fn state(&self) -> State {
        self.state
    }

    /// Returns the second of the hub's clock at which the shell must send [`Event::Tick`], and the reason; `None` while a
    /// request is in flight.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(u64, &'static str)> {
        match self.state {
            State::Holding { due } => Some((due, "renew the certificate")),
            State::Waiting { until } => Some((until, "retry the renewal")),
            State::Asking => None,
        }
    }

    /// Decides what follows from `event` at `now` (hub time). `random` is uniform over all of `u64`.
    ///
    /// # Errors
    /// [`Refused`] for an end of a request that was not made; nothing has changed.
    pub fn handle(&mut self, event: Event, now: u64, random: u64) -> Result<Vec<Step>, Refused> {
        let state = match (self.state, event) {
            (State::Holding { due: at } | State::Waiting { until: at }, Event::Tick | Event::Online) if now >= at => {
                State::Asking
            }
            (State::Holding { .. }, Event::Tick | Event::Online) if self.held.is_from_the_future(now) => State::Asking,
            // The wait was for a hub that did not answer; a greeting is the news it waited for.
            (State::Waiting { .. }, Event::Online) => State::Asking,
            (State::Holding { .. } | State::Waiting { .. }, Event::Tick | Event::Online) => self.state,
            (State::Asking, Event::Tick | Event::Online) => return Ok(Vec::new()),
            (State::Asking, Event::Renewed(validity)) => {
                self.held = validity;
                let due = validity.renew_at(random);
                State::Holding { due }
            }
            (State::Asking, Event::Failed) => {
                State::Waiting { until: now.saturating_add(self.retry_after(now, random)) }
            }
            (State::Holding { .. } | State::Waiting { .. }, Event::Renewed(_) | Event::Failed) => {
                return Err(Refused { machine: "renewal", state: self.state.name(), event: event.name() });
            }
        };
        self.state = state;
        Ok(if state == State::Asking { vec![Step::RequestCertificate] } else { Vec::new() })
    }

    /// Ten tries or more in the time that is left, each at a random moment.
    fn retry_after(&self, now: u64, random: u64) -> u64 {
        let left = self.held.not_after.saturating_sub(now);
        let ceiling = (left / 10).clamp(RETRY_S_MIN, RETRY_S_MAX);
        RETRY_S_MIN.max(full_jitter(Duration::from_secs(ceiling), random).as_secs())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WEEK: Validity = Validity { not_before: 1_000_000, not_after: 1_000_000 + 7 * 86_400 };

    #[test]
    fn a_certificate_is_renewed_from_two_thirds_of_its_life() {
        let two_thirds = WEEK.not_before + 7 * 86_400 * 2 / 3;
        assert_eq!(WEEK.renew_at(0), two_thirds);
        assert!(WEEK.renew_at(u64::MAX) <= two_thirds + WEEK.lifetime() / SPREAD_PARTS);
        let mut renewal = Renewal::new(WEEK, 0);
        assert_eq!(renewal.handle(Event::Online, two_thirds - 1, 0), Ok(Vec::new()));
        assert_eq!(renewal.poll_timeout().map(|(at, _)| at), Some(two_thirds));
        assert_eq!(renewal.handle(Event::Tick, two_thirds, 0), Ok(vec![Step::RequestCertificate]));
        assert_eq!(renewal.handle(Event::Tick, two_thirds + 1, 0), Ok(Vec::new()), "asked once");
        let next = Validity { not_before: two_thirds, not_after: two_thirds + 7 * 86_400 };
        assert_eq!(renewal.poll_timeout(), None);
        assert_eq!(renewal.handle(Event::Renewed(next), two_thirds + 2, 0), Ok(Vec::new()));
        assert_eq!(renewal.poll_timeout().map(|(at, _)| at), Some(next.renew_at(0)));
        assert_eq!(renewal.held(), next);
        assert!(renewal.handle(Event::Renewed(next), two_thirds + 3, 0).is_err());
    }

    #[test]
    fn a_failed_renewal_is_tried_at_least_ten_times_before_the_end() {
        for lifetime in [30, 600, 7 * 86_400] {
            let held = Validity { not_before: 0, not_after: lifetime };
            let (mut renewal, mut now, mut tries) = (Renewal::new(held, u64::MAX), held.renew_at(u64::MAX), 0);
            while now < held.not_after {
                assert_eq!(renewal.handle(Event::Tick, now, 0), Ok(vec![Step::RequestCertificate]));
                assert_eq!(renewal.handle(Event::Failed, now, u64::MAX), Ok(Vec::new()));
                let (next, _reason) = renewal.poll_timeout().unwrap();
                assert!(next > now);
                (now, tries) = (next, tries + 1);
            }
            assert!(tries >= 8, "{tries} tries in {lifetime} s");
        }
    }

    #[test]
    fn a_certificate_that_a_wrong_clock_issued_is_renewed_at_once() {
        let mut renewal = Renewal::new(WEEK, 0);
        assert_eq!(renewal.handle(Event::Online, WEEK.not_before - FUTURE_S_MAX, 0), Ok(Vec::new()));
        assert_eq!(
            renewal.handle(Event::Tick, WEEK.not_before - FUTURE_S_MAX - 1, 0),
            Ok(vec![Step::RequestCertificate])
        );
    }

    #[test]
    fn a_certificate_that_expired_long_ago_is_due_when_the_hub_is_back() {
        let mut renewal = Renewal::new(WEEK, u64::MAX);
        assert_eq!(
            renewal.handle(Event::Online, WEEK.not_after + 80 * 86_400, u64::MAX),
            Ok(vec![Step::RequestCertificate])
        );
    }

    #[test]
    fn a_hub_that_comes_back_is_asked_at_once() {
        let mut renewal = Renewal::new(WEEK, 0);
        let now = WEEK.renew_at(0);
        assert_eq!(renewal.handle(Event::Online, now, 0), Ok(vec![Step::RequestCertificate]));
        assert_eq!(renewal.handle(Event::Failed, now, u64::MAX), Ok(Vec::new()));
        assert_eq!(renewal.handle(Event::Online, now + 1, 0), Ok(vec![Step::RequestCertificate]));
    }

    #[test]
    fn a_wrong_clock_is_corrected_by_what_the_hub_said() {
        let behind = ClockSkew::measured(1_000_000, 90_061_500);
        assert_eq!((behind.seconds(), behind.to_hub_time(1_000), behind.is_notable()), (89_061, 90_061, true));
        let ahead = ClockSkew::measured(90_061_000, 90_031_000);
        assert_eq!((ahead.to_hub_time(90_061), ahead.is_notable()), (90_031, false));
        assert_eq!(ClockSkew::measured(u64::MAX, 0).to_hub_time(5), 0, "no overflow");
    }
}
