//! The memory that all requests of this server may take together.
//!
//! Fed by both protocols with bytes as they arrive, by the parser with tensor bytes as they are made, and by
//! [`crate::server`] with the bytes of responses. Nothing is reserved for what a client only announces. When the budget is
//! used up, a transfer that is stalled, or one much larger than the request that needs memory, is cancelled: a client that
//! sends large bodies and never finishes them cannot keep a small request out.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use types::InferenceError;

use crate::limits::Limits;
use crate::refusal;

/// Bytes that a transfer must move to count as active again.
///
/// Larger than what one packet or one socket buffer update brings, so that a client cannot keep a stalled transfer alive
/// with single bytes.
const PROGRESS_BYTES: usize = 64 * 1024;

/// Time without [`PROGRESS_BYTES`] after which a transfer may be cancelled for another request.
///
/// A local client moves 64 KiB in microseconds, a client on a 1 Mbit/s link in half a second.
const STALLED_AFTER: Duration = Duration::from_secs(1);

/// Largest request that may use the whole budget; a larger one leaves [`SMALL_SHARE`] of it unused.
///
/// A picture of 512 x 512 x 3 in u8, or a feature vector: what most requests are.
const SMALL_BYTES: usize = 1024 * 1024;

/// The part of the budget that only small requests may use, as a divisor: one eighth.
const SMALL_SHARE: usize = 8;

/// Bytes that all requests together may take, and who takes them.
#[derive(Debug)]
pub struct Budget {
    total: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    used: usize,
    next: u64,
    holds: BTreeMap<u64, Entry>,
}

#[derive(Debug)]
struct Entry {
    bytes: usize,
    /// Present while bytes still move between client and server; such a hold can be cancelled.
    transfer: Option<Transfer>,
}

#[derive(Debug)]
struct Transfer {
    /// Moment at which the last [`PROGRESS_BYTES`] were complete.
    mark: Instant,
    /// Bytes moved since `mark`.
    since_mark: usize,
    cancel: CancellationToken,
}

/// Reason why a hold does not grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// Other requests use the memory; the same request may succeed a little later.
    Now,
    /// The request takes more than the budget ever gives to one request.
    Always,
}

impl Full {
    /// Returns the error for a request that the budget has no memory for.
    pub(crate) fn refusal(self, limits: &Limits) -> InferenceError {
        match self {
            Self::Now => refusal::memory_full(limits),
            Self::Always => refusal::memory_never(limits),
        }
    }
}

/// Bytes of one request or one response; gives them back when dropped.
#[derive(Debug)]
pub struct Hold {
    budget: Arc<Budget>,
    id: u64,
}

impl Budget {
    /// Creates a budget of `total` bytes.
    #[must_use]
    pub fn new(total: usize) -> Arc<Self> {
        Arc::new(Self { total, state: Mutex::default() })
    }

    /// Returns the bytes in use.
    #[must_use]
    pub fn used(&self) -> usize {
        self.lock().used
    }

    /// Opens an empty hold for a transfer; `cancel` is cancelled when other requests need its memory.
    #[must_use]
    pub fn transfer(self: &Arc<Self>, cancel: CancellationToken, now: Instant) -> Hold {
        self.open(0, cancel, now)
    }

    /// Opens a hold for a response that was already made: its bytes exist, so they are counted even over the limit.
    #[must_use]
    pub fn response(self: &Arc<Self>, bytes: usize, cancel: CancellationToken, now: Instant) -> Hold {
        self.open(bytes, cancel, now)
    }

    fn open(self: &Arc<Self>, bytes: usize, cancel: CancellationToken, now: Instant) -> Hold {
        let mut state = self.lock();
        let id = state.next;
        state.next += 1;
        state.used += bytes;
        let transfer = Some(Transfer { mark: now, since_mark: 0, cancel });
        state.holds.insert(id, Entry { bytes, transfer });
        Hold { budget: Arc::clone(self), id }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Hold {
    /// Takes `bytes` more, at the cost of a stalled or much larger transfer where nothing else is left.
    ///
    /// # Errors
    /// [`Full`] when there is nothing to take, or this hold was cancelled for another request.
    pub fn grow(&self, bytes: usize, now: Instant) -> Result<(), Full> {
        let mut state = self.budget.lock();
        let held = state.holds.get(&self.id).map(|entry| entry.bytes).ok_or(Full::Now)?;
        let wanted = held.saturating_add(bytes);
        let total = self.budget.total;
        let limit = if wanted <= SMALL_BYTES { total } else { total - total / SMALL_SHARE };
        if wanted > limit {
            return Err(Full::Always);
        }
        while state.used.saturating_add(bytes) > limit {
            let victim = state.victim(self.id, wanted, now).ok_or(Full::Now)?;
            state.cancel(victim);
        }
        state.used += bytes;
        if let Some(entry) = state.holds.get_mut(&self.id) {
            entry.bytes = wanted;
            entry.moved(bytes, now);
        }
        Ok(())
    }

    /// Gives `bytes` back before the hold ends.
    pub fn shrink(&self, bytes: usize) {
        let mut state = self.budget.lock();
        let Some(entry) = state.holds.get_mut(&self.id) else { return };
        let bytes = bytes.min(entry.bytes);
        entry.bytes -= bytes;
        state.used -= bytes;
    }

    /// Notes that `bytes` of a response have left.
    pub fn moved(&self, bytes: usize, now: Instant) {
        if let Some(entry) = self.budget.lock().holds.get_mut(&self.id) {
            entry.moved(bytes, now);
        }
    }

    /// Marks the transfer as complete: from now on this hold is not cancelled for another request. Returns false when it
    /// was cancelled before.
    #[must_use]
    pub fn complete(&self) -> bool {
        let mut state = self.budget.lock();
        let entry = state.holds.get_mut(&self.id);
        entry.map(|entry| entry.transfer = None).is_some()
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut state = self.budget.lock();
        if let Some(entry) = state.holds.remove(&self.id) {
            state.used -= entry.bytes;
        }
    }
}

impl Entry {
    fn moved(&mut self, bytes: usize, now: Instant) {
        let Some(transfer) = &mut self.transfer else { return };
        transfer.since_mark = transfer.since_mark.saturating_add(bytes);
        if transfer.since_mark >= PROGRESS_BYTES {
            transfer.mark = now;
            transfer.since_mark = 0;
        }
    }
}

impl State {
    /// Chooses the transfer to cancel: the largest stalled one, else the largest that is larger than `wanted`.
    fn victim(&self, asker: u64, wanted: usize, now: Instant) -> Option<u64> {
        let transfers = self.holds.iter().filter(|(id, entry)| **id != asker && entry.bytes > 0);
        let transfers: Vec<(u64, usize, bool)> = transfers
            .filter_map(|(id, entry)| {
                let transfer = entry.transfer.as_ref()?;
                Some((*id, entry.bytes, now.saturating_duration_since(transfer.mark) > STALLED_AFTER))
            })
            .collect();
        let largest = |stalled_only: bool| {
            let chosen = transfers.iter().filter(|(_, _, stalled)| *stalled || !stalled_only);
            chosen.max_by_key(|(_, bytes, _)| *bytes).copied()
        };
        let victim = largest(true).or_else(|| largest(false).filter(|(_, bytes, _)| *bytes > wanted));
        victim.map(|(id, _, _)| id)
    }

    /// Cancels a transfer and counts its memory as free at once: its task drops the bytes as soon as it runs.
    fn cancel(&mut self, id: u64) {
        let Some(entry) = self.holds.remove(&id) else { return };
        self.used -= entry.bytes;
        if let Some(transfer) = entry.transfer {
            transfer.cancel.cancel();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1024 * 1024;

    fn hold(budget: &Arc<Budget>, now: Instant) -> (Hold, CancellationToken) {
        let cancel = CancellationToken::new();
        (budget.transfer(cancel.clone(), now), cancel)
    }

    #[test]
    fn what_is_dropped_is_given_back() {
        let (budget, now) = (Budget::new(64 * MIB), Instant::now());
        let (first, _cancel) = hold(&budget, now);
        first.grow(10 * MIB, now).unwrap();
        first.shrink(4 * MIB);
        let response = budget.response(3 * MIB, CancellationToken::new(), now);
        assert_eq!(budget.used(), 9 * MIB);
        drop((first, response));
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn a_small_request_takes_its_memory_from_the_largest_unfinished_transfer() {
        let (budget, now) = (Budget::new(64 * MIB), Instant::now());
        let (large, large_cancel) = hold(&budget, now);
        let (larger, larger_cancel) = hold(&budget, now);
        large.grow(20 * MIB, now).unwrap();
        larger.grow(36 * MIB, now).unwrap();
        // A large one leaves an eighth, takes nothing from an active one that is smaller, and takes from a larger one.
        let (third, _cancel) = hold(&budget, now);
        assert_eq!(third.grow(40 * MIB, now), Err(Full::Now));
        let small: Vec<_> = (0..8).map(|_| hold(&budget, now)).collect();
        small.iter().for_each(|(small, _)| small.grow(MIB, now).unwrap());
        assert!(!larger_cancel.is_cancelled());
        let (one_more, _cancel) = hold(&budget, now);
        one_more.grow(MIB, now).unwrap();
        assert!(larger_cancel.is_cancelled() && !large_cancel.is_cancelled());
        assert_eq!(larger.grow(1, now), Err(Full::Now), "a cancelled transfer takes nothing more");
        drop(larger);
        assert_eq!(budget.used(), 29 * MIB);
    }

    #[test]
    fn a_stalled_transfer_goes_before_an_active_one_and_a_complete_one_never_goes() {
        let (budget, start) = (Budget::new(64 * MIB), Instant::now());
        let (complete, complete_cancel) = hold(&budget, start);
        complete.grow(30 * MIB, start).unwrap();
        assert!(complete.complete());
        let (active, active_cancel) = hold(&budget, start);
        active.grow(15 * MIB, start).unwrap();
        let (stalled, stalled_cancel) = hold(&budget, start);
        stalled.grow(10 * MIB, start).unwrap();
        let later = start + STALLED_AFTER * 2;
        active.grow(PROGRESS_BYTES, later).unwrap();
        // Single bytes do not count as progress.
        stalled.grow(1, later).unwrap();
        let (asker, _cancel) = hold(&budget, later);
        asker.grow(10 * MIB, later).unwrap();
        assert!(stalled_cancel.is_cancelled() && !active_cancel.is_cancelled() && !complete_cancel.is_cancelled());
    }

    #[test]
    fn a_request_that_never_fits_is_told_so() {
        let (budget, now) = (Budget::new(64 * MIB), Instant::now());
        assert_eq!(hold(&budget, now).0.grow(60 * MIB, now), Err(Full::Always));
        assert_eq!(budget.used(), 0);
    }

    proptest::proptest! {
        /// Holds come, grow, complete and go in any order: the sum never goes over the limit and ends at zero.
        #[test]
        fn the_sum_of_all_holds_stays_within_the_budget(
            steps in proptest::collection::vec((0_usize..6, 0_usize..20, 0_usize..5, 0_u64..3), 1..200),
        ) {
            let (budget, start) = (Budget::new(40 * MIB), Instant::now());
            let mut holds: Vec<Option<Hold>> = (0..6).map(|_| None).collect();
            let mut now = start;
            for (slot, mib, step, seconds) in steps {
                now += Duration::from_secs(seconds);
                match (step, &holds[slot]) {
                    (0, _) => holds[slot] = Some(hold(&budget, now).0),
                    (1 | 2, Some(hold)) => drop(hold.grow(mib * MIB / 2, now)),
                    (3, Some(hold)) => drop(hold.complete()),
                    _ => holds[slot] = None,
                }
                proptest::prop_assert!(budget.used() <= 40 * MIB);
                let counted: usize = budget.lock().holds.values().map(|entry| entry.bytes).sum();
                proptest::prop_assert_eq!(counted, budget.used());
            }
            holds.clear();
            proptest::prop_assert_eq!(budget.used(), 0);
        }
    }
}
