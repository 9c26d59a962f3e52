//! Budgets of one model: bytes and requests to the hub in a day, and deferred answers in a minute.
//!
//! Fed by the shell before each request to the hub; returns whether it may go, and what must be stored first. The stored
//! usage runs ahead of the real one by a part of the budget, so that a power cut never gives back what was spent, and not
//! every request waits for the disk.

use std::time::{Duration, Instant};

use types::Reason;
use types::policy::Budget;

/// Length of a day in seconds. Days are those of UTC.
pub const DAY: u64 = 24 * 3600;

/// Time for which [`Budget::escalations_per_minute`] counts. The first deferral after it begins the next one.
const MINUTE: Duration = Duration::from_secs(60);

/// Part of a daily budget by which the stored usage runs ahead: a power cut costs at most this part of the budget.
const AHEAD_PARTS: u64 = 64;

/// Usage of one day; the stored part of a ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Day that is counted, in days since 1970.
    pub day: u64,
    /// Seconds that the agent ran since this day began to be counted.
    pub ran_s: u64,
    /// Bytes of inputs that were sent over a metered link.
    pub metered_bytes: u64,
    /// Bytes of inputs that were sent over a link that is not metered.
    pub unmetered_bytes: u64,
    /// Requests that were sent.
    pub calls: u64,
}

/// What is left of the budgets; `None` where there is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Left {
    /// Bytes that may be sent today over the link of this moment.
    pub bytes: Option<u64>,
    /// Requests that may be sent today.
    pub calls: Option<u64>,
    /// Deferred answers of this minute.
    pub escalations: Option<u64>,
}

/// Cost of one request to the hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cost {
    /// Bytes of the input.
    pub bytes: u64,
    /// Whether the link is metered.
    pub is_metered: bool,
    /// Whether the device's own answer was not sure.
    pub is_escalation: bool,
}

/// Budgets of one model. No field ever exceeds its limit.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    usage: Usage,
    /// Usage that is stored, at least as much as `usage`.
    stored: Usage,
    /// Last time at which the running time was counted, with the rest below a second.
    seen: Option<Instant>,
    minute: Option<(Instant, u64)>,
}

impl Ledger {
    /// Continues with the usage that an earlier run stored.
    #[must_use]
    pub fn restore(usage: Usage) -> Self {
        Self { usage, stored: usage, ..Self::default() }
    }

    /// Returns the usage to store at the end of a run.
    #[must_use]
    pub fn usage(&self) -> Usage {
        self.usage
    }

    /// Returns the usage that must be on the disk by now; it runs ahead of [`Ledger::usage`].
    #[must_use]
    pub fn stored(&self) -> Usage {
        self.stored
    }

    /// Returns what is left at this moment.
    pub fn left(&mut self, budget: &Budget, is_metered: bool, unix_s: u64, now: Instant) -> Left {
        self.advance(unix_s, now);
        let used = if is_metered { self.usage.metered_bytes } else { self.usage.unmetered_bytes };
        let limit = if is_metered { budget.metered_bytes_per_day } else { budget.unmetered_bytes_per_day };
        let escalations = self.escalations(now);
        Left {
            bytes: limit.map(|limit| limit.saturating_sub(used)),
            calls: budget.hub_calls_per_day.map(|limit| limit.saturating_sub(self.usage.calls)),
            escalations: budget.escalations_per_minute.map(|limit| limit.saturating_sub(escalations)),
        }
    }

    /// Takes the cost of a request from the budgets. Returns the usage that must be stored before the request is sent, if any.
    ///
    /// # Errors
    /// Returns the reason for which the request may not be sent; nothing is taken then.
    pub fn take(&mut self, budget: &Budget, cost: Cost, unix_s: u64, now: Instant) -> Result<Option<Usage>, Reason> {
        let left = self.left(budget, cost.is_metered, unix_s, now);
        if left.bytes.is_some_and(|bytes| bytes < cost.bytes) {
            return Err(Reason::BytesSpent);
        }
        if left.calls == Some(0) {
            return Err(Reason::CallsSpent);
        }
        if cost.is_escalation && left.escalations == Some(0) {
            return Err(Reason::EscalationsSpent);
        }
        let bytes = if cost.is_metered { &mut self.usage.metered_bytes } else { &mut self.usage.unmetered_bytes };
        *bytes = bytes.saturating_add(cost.bytes);
        self.usage.calls = self.usage.calls.saturating_add(1);
        if cost.is_escalation {
            let count = self.escalations(now).saturating_add(1);
            let begun = self.minute.map_or(now, |(begun, _count)| begun);
            self.minute = Some((begun, count));
        }
        Ok(self.reserve(budget))
    }

    fn reserve(&mut self, budget: &Budget) -> Option<Usage> {
        let Usage { day, metered_bytes, unmetered_bytes, calls, .. } = self.usage;
        let is_counted = budget.metered_bytes_per_day.is_some()
            || budget.unmetered_bytes_per_day.is_some()
            || budget.hub_calls_per_day.is_some();
        let is_ahead = self.stored.day == day
            && metered_bytes <= self.stored.metered_bytes
            && unmetered_bytes <= self.stored.unmetered_bytes
            && calls <= self.stored.calls;
        if !is_counted || is_ahead {
            return None;
        }
        let ahead = |used: u64, limit: Option<u64>| match limit {
            Some(limit) => used.saturating_add(limit / AHEAD_PARTS).min(limit),
            // Without a limit of today the owner may set one tomorrow: the count stays a lower bound then.
            None => used,
        };
        self.stored = Usage {
            metered_bytes: ahead(metered_bytes, budget.metered_bytes_per_day),
            unmetered_bytes: ahead(unmetered_bytes, budget.unmetered_bytes_per_day),
            calls: ahead(calls, budget.hub_calls_per_day),
            ..self.usage
        };
        Some(self.stored)
    }

    fn escalations(&mut self, now: Instant) -> u64 {
        self.minute = self.minute.filter(|(begun, _count)| now.saturating_duration_since(*begun) < MINUTE);
        self.minute.map_or(0, |(_begun, count)| count)
    }

    /// Begins a new day where the clock shows a later one than ever before.
    ///
    /// A clock that went back does not: it would refill the budget once more when it comes to the present again. So that a
    /// clock that was far ahead once does not close the budget for years, a day of running time counts as a day too.
    fn advance(&mut self, unix_s: u64, now: Instant) {
        let seen = self.seen.get_or_insert(now);
        let ran = now.saturating_duration_since(*seen).as_secs();
        *seen += Duration::from_secs(ran);
        self.usage.ran_s = self.usage.ran_s.saturating_add(ran);
        let today = unix_s / DAY;
        if today > self.usage.day || (today < self.usage.day && self.usage.ran_s >= DAY) {
            self.usage = Usage { day: today, ..Usage::default() };
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOON: u64 = 20_000 * DAY + DAY / 2;

    fn daily(calls: u64) -> Budget {
        Budget { hub_calls_per_day: Some(calls), ..Budget::default() }
    }

    fn cost(bytes: u64) -> Cost {
        Cost { bytes, is_metered: false, is_escalation: true }
    }

    #[test]
    fn a_day_refills_and_a_clock_that_jumps_back_does_not() {
        let (budget, now) = (daily(2), Instant::now());
        let mut ledger = Ledger::default();
        assert!(ledger.take(&budget, cost(1), NOON, now).is_ok());
        assert!(ledger.take(&budget, cost(1), NOON, now).is_ok());
        for unix_s in [NOON, NOON - DAY, 0, NOON, NOON + DAY / 4] {
            assert_eq!(ledger.take(&budget, cost(1), unix_s, now), Err(Reason::CallsSpent), "{unix_s}");
        }
        assert!(ledger.take(&budget, cost(1), NOON + DAY, now).is_ok());
        assert!(ledger.take(&budget, cost(1), NOON, now).is_ok(), "of tomorrow's budget");
        assert_eq!(ledger.take(&budget, cost(1), NOON + DAY, now), Err(Reason::CallsSpent));
    }

    #[test]
    fn a_clock_that_was_ahead_once_closes_the_budget_for_a_day_of_running_at_most() {
        let (budget, now) = (daily(1), Instant::now());
        let mut ledger = Ledger::default();
        assert!(ledger.take(&budget, cost(1), NOON + 4000 * DAY, now).is_ok());
        let half = Duration::from_secs(DAY / 2);
        assert!(ledger.take(&budget, cost(1), NOON, now + half).is_err());
        // A restart keeps the running time.
        let mut ledger = Ledger::restore(ledger.usage());
        assert!(ledger.take(&budget, cost(1), NOON, now).is_err());
        assert!(ledger.take(&budget, cost(1), NOON, now + half).is_ok());
        assert!(ledger.take(&budget, cost(1), NOON, now + half).is_err());
    }

    #[test]
    fn metered_and_other_bytes_are_counted_apart() {
        let budget =
            Budget { metered_bytes_per_day: Some(100), unmetered_bytes_per_day: Some(1000), ..Budget::default() };
        let (mut ledger, now) = (Ledger::default(), Instant::now());
        let metered = Cost { is_metered: true, ..cost(60) };
        assert!(ledger.take(&budget, metered, NOON, now).is_ok());
        assert_eq!(ledger.take(&budget, metered, NOON, now), Err(Reason::BytesSpent));
        assert!(ledger.take(&budget, cost(900), NOON, now).is_ok());
        assert_eq!(ledger.left(&budget, true, NOON, now).bytes, Some(40));
        assert_eq!(ledger.left(&budget, false, NOON, now).bytes, Some(100));
    }

    #[test]
    fn deferrals_are_counted_by_the_minute() {
        let budget = Budget { escalations_per_minute: Some(2), ..Budget::default() };
        let (mut ledger, now) = (Ledger::default(), Instant::now());
        assert_eq!(ledger.take(&budget, cost(1), NOON, now), Ok(None), "nothing of it is stored");
        assert!(ledger.take(&budget, cost(1), NOON, now + MINUTE / 2).is_ok());
        assert_eq!(ledger.take(&budget, cost(1), NOON, now + MINUTE / 2), Err(Reason::EscalationsSpent));
        let other = Cost { is_escalation: false, ..cost(1) };
        assert!(ledger.take(&budget, other, NOON, now + MINUTE / 2).is_ok());
        assert!(ledger.take(&budget, cost(1), NOON, now + MINUTE).is_ok());
    }

    proptest! {
        #[test]
        fn no_budget_is_ever_exceeded_also_not_over_power_cuts(
            steps in prop::collection::vec((0_u64..40, any::<bool>(), any::<bool>(), 0_u8..10), 1..200),
            limits in (0_u64..200, 0_u64..200, 0_u64..50, 0_u64..5),
        ) {
            let budget = Budget {
                metered_bytes_per_day: Some(limits.0),
                unmetered_bytes_per_day: Some(limits.1),
                hub_calls_per_day: Some(limits.2),
                escalations_per_minute: Some(limits.3),
                ..Budget::default()
            };
            let now = Instant::now();
            let (mut ledger, mut disk) = (Ledger::default(), Usage::default());
            let mut spent = Usage::default();
            for (bytes, is_metered, is_escalation, cut) in steps {
                if cut == 0 {
                    ledger = Ledger::restore(disk);
                }
                let before = ledger.left(&budget, is_metered, NOON, now);
                let cost = Cost { bytes, is_metered, is_escalation };
                let taken = ledger.take(&budget, cost, NOON, now);
                if let Ok(stored) = taken {
                    disk = stored.unwrap_or(disk);
                    prop_assert!(before.bytes >= Some(bytes) && before.calls > Some(0));
                    spent.calls += 1;
                    if is_metered { spent.metered_bytes += bytes } else { spent.unmetered_bytes += bytes }
                }
                prop_assert!(spent.calls <= limits.2);
                prop_assert!(spent.metered_bytes <= limits.0 && spent.unmetered_bytes <= limits.1);
            }
        }
    }
}
