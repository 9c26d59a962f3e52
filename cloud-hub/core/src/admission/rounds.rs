//! Fair turns: which round a caller's next job belongs to.
//!
//! Start-time fair queueing with whole jobs as the unit (Goyal, Vin and Cheng, 1996): a job joins the round that is
//! being run, or the one after the caller's last where the caller has used its share of that.

use std::collections::BTreeMap;

use types::Caller;

use super::Priority;

/// A caller's place in the rounds of each priority.
///
/// Kept until its rounds have passed, also while it has nothing waiting: whoever sends the next job only when the last
/// one runs would otherwise begin its share anew each time and keep its round open for ever.
#[derive(Debug, Default)]
struct Turns {
    waiting: usize,
    /// The round of its latest job and how many of its jobs are in that, by priority.
    latest: BTreeMap<Priority, (u64, u32)>,
}

#[derive(Debug)]
pub(super) struct Rounds {
    share: u32,
    /// The highest round of which a job has run.
    reached: BTreeMap<Priority, u64>,
    callers: BTreeMap<Caller, Turns>,
}

impl Rounds {
    pub(super) fn new(share: u32) -> Self {
        Self { share: share.max(1), reached: BTreeMap::new(), callers: BTreeMap::new() }
    }

    /// The round of a new job that is going to wait.
    pub(super) fn join(&mut self, caller: &Caller, priority: Priority) -> u64 {
        let reached = self.reached.get(&priority).copied().unwrap_or(0);
        let turns = self.callers.entry(caller.clone()).or_default();
        turns.waiting += 1;
        let (round, used) = turns.latest.get(&priority).copied().unwrap_or((reached, 0));
        let (round, used) = match used {
            _ if round < reached => (reached, 1),
            used if used < self.share => (round, used + 1),
            _ => (round + 1, 1),
        };
        turns.latest.insert(priority, (round, used));
        round
    }

    /// A waiting job of the caller runs, expired or was cancelled.
    pub(super) fn leave(&mut self, caller: &Caller) {
        if let Some(turns) = self.callers.get_mut(caller) {
            turns.waiting = turns.waiting.saturating_sub(1);
        }
    }

    /// A job of this round runs.
    pub(super) fn reached(&mut self, priority: Priority, round: u64) {
        let reached = self.reached.entry(priority).or_default();
        if round > *reached {
            *reached = round;
            self.drop_passed();
        }
    }

    /// Drops the callers that have nothing waiting and whose shares are of rounds that have passed.
    fn drop_passed(&mut self) {
        let reached = &self.reached;
        let open = |(priority, (round, _)): (&Priority, &(u64, u32))| reached.get(priority).unwrap_or(&0) <= round;
        self.callers.retain(|_, turns| turns.waiting > 0 || turns.latest.iter().any(open));
    }

    pub(super) fn waiting_of(&self, caller: &Caller) -> usize {
        self.callers.get(caller).map_or(0, |turns| turns.waiting)
    }
}
