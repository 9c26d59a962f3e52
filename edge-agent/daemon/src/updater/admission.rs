//! Memory admission: a version is not loaded, and not even fetched, where its session cannot fit into the memory.
//!
//! Used by [`super::forms`] before a variant is chosen and by [`super::jobs`] before a session is loaded. The kernel would
//! otherwise end the process that takes the most, which may be the agent or an application.

use std::sync::{Arc, Mutex, PoisonError};

use bundle::Variant;
use edge_core::update::{Failure, FailureKind};

use super::task::UpdaterParts;
use super::trouble;
use crate::memory::{self, Limit, Room};

/// Bytes of an engine process before it has a model: ONNX Runtime's library, stacks and buffers.
const PROCESS_BYTES: u64 = 64 * 1024 * 1024;

/// Multiple of the model's file, in quarters, that a session takes while it is loaded: the parsed file and the packed weights.
///
/// Measured with ONNX Runtime 1.32 and files of 50 and 268 MB: all processes of the agent together took 4.0 times the file and
/// 112 MB, of which the agent had about half before.
const SESSION_QUARTERS: u64 = 9;

/// Multiple of the model's file, in quarters, that is in memory while sessions are loaded from it: the agent's copy and the one
/// that it passes to the engine process.
const SOURCE_QUARTERS: u64 = 8;

/// Memory that loading a model file takes at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Need {
    /// Bytes of all processes together.
    whole: u64,
    /// Bytes of one engine process.
    process: u64,
}

impl Need {
    fn of(file_bytes: u64, sessions: usize) -> Self {
        let sessions = u64::try_from(sessions).unwrap_or(u64::MAX).max(1);
        let quarters = |count: u64| (file_bytes / 4).saturating_add(1).saturating_mul(count);
        let process = PROCESS_BYTES.saturating_add(quarters(SESSION_QUARTERS));
        Self { whole: process.saturating_mul(sessions).saturating_add(quarters(SOURCE_QUARTERS)), process }
    }

    /// Returns the bytes that count to a limit.
    fn under(self, limit: Limit) -> u64 {
        match limit {
            Limit::Machine | Limit::Group => self.whole,
            Limit::Process => self.process,
        }
    }
}

/// Returns whether the session of a variant may be loaded a second time while it goes on answering. A session that stays where
/// it is costs the memory of a process; one that is moved without room ends.
pub(super) fn has_room_to_move(variant: Option<&Variant>) -> bool {
    let Some(variant) = variant else { return false };
    now(&memory::rooms(), Need::of(variant.file.size, 1), 0).is_ok()
}

/// Checks that a variant could be loaded on this device if nothing else ran.
///
/// # Errors
/// With [`FailureKind::Unfit`], because no wait helps.
pub(super) fn can_ever_fit(parts: &UpdaterParts, variant: &Variant) -> Result<(), Failure> {
    ever(&memory::rooms(), Need::of(variant.file.size, parts.shared.load.sessions))
}

/// Memory of loads under way, which the kernel does not count yet.
#[derive(Debug, Default)]
pub struct LoadMemory(Mutex<u64>);

/// Memory that is reserved for one load, until it is dropped.
#[derive(Debug)]
pub(super) struct Reserved {
    of: Arc<LoadMemory>,
    bytes: u64,
}

impl Drop for Reserved {
    fn drop(&mut self) {
        let mut reserved = self.of.0.lock().unwrap_or_else(PoisonError::into_inner);
        *reserved = reserved.saturating_sub(self.bytes);
    }
}

impl LoadMemory {
    /// Reserves bytes, if they fit into what is available beside other loads under way.
    fn reserve(self: &Arc<Self>, rooms: &[Room], need: Need, keep: u64) -> Result<Reserved, Failure> {
        let mut reserved = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        now(rooms, need, reserved.saturating_add(keep))?;
        *reserved = reserved.saturating_add(need.whole);
        Ok(Reserved { of: Arc::clone(self), bytes: need.whole })
    }
}

/// Reserves the memory to load a variant beside everything that runs, until the load has ended.
///
/// # Errors
/// With [`FailureKind::NoRoom`], which passes when memory is free again; as [`can_ever_fit`] where that cannot be.
pub(super) fn reserve(parts: &UpdaterParts, variant: &Variant) -> Result<Reserved, Failure> {
    let (sessions, keep) = (parts.shared.load.sessions, parts.shared.updates.memory_free_min_bytes);
    let (rooms, need) = (memory::rooms(), Need::of(variant.file.size, sessions));
    ever(&rooms, need)?;
    parts.shared.load_memory.reserve(&rooms, need, keep)
}

fn ever(rooms: &[Room], need: Need) -> Result<(), Failure> {
    let too_small = rooms.iter().filter(|room| room.total < need.under(room.limit)).min_by_key(|room| room.total);
    let Some(Room { total, limit, .. }) = too_small else { return Ok(()) };
    let needed = need.under(*limit);
    let detail =
        format!("loading it takes about {needed} bytes of memory, and {limit} is {total} bytes: use a smaller variant");
    Err(trouble::because(FailureKind::Unfit, detail))
}

fn now(rooms: &[Room], need: Need, keep: u64) -> Result<(), Failure> {
    let scarcest = rooms.iter().filter(|room| room.limit != Limit::Process).min_by_key(|room| room.available);
    let Some(room) = scarcest.filter(|room| room.available < need.whole.saturating_add(keep)) else { return Ok(()) };
    let (Room { available, limit, .. }, needed) = (room, need.whole);
    let detail = format!(
        "loading it takes about {needed} bytes of memory; {available} bytes are available by {limit}, and {keep} must stay \
         free or are reserved: stop other programs, raise the limit, or lower updates.memory_free_min_bytes"
    );
    Err(trouble::because(FailureKind::NoRoom, detail))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;

    fn room(available: u64, total: u64, limit: Limit) -> Room {
        Room { available: available * MIB, total: total * MIB, limit }
    }

    #[test]
    fn what_fits_is_loaded_what_fits_later_waits_and_what_never_fits_is_refused() {
        let machine = room(500, 2000, Limit::Machine);
        let check = |rooms: &[Room], file: u64| {
            let need = Need::of(file * MIB, 1);
            ever(rooms, need).and_then(|()| now(rooms, need, 100 * MIB)).map_err(|failure| failure.kind)
        };
        assert_eq!(check(&[machine], 60), Ok(()));
        assert_eq!(check(&[machine], 90), Err(FailureKind::NoRoom));
        assert_eq!(check(&[machine], 500), Err(FailureKind::Unfit));
        assert_eq!(check(&[machine, room(300, 400, Limit::Group)], 60), Err(FailureKind::NoRoom));
        assert_eq!(check(&[machine, room(300, 300, Limit::Group)], 60), Err(FailureKind::Unfit));
        assert_eq!(check(&[machine, room(190, 190, Limit::Process)], 60), Err(FailureKind::Unfit));
        assert_eq!(check(&[machine, room(210, 210, Limit::Process)], 60), Ok(()), "each process has its own");
        assert_eq!(check(&[], 100), Ok(()), "what is not known is no reason");
        assert_eq!(check(&[machine], u64::MAX / MIB), Err(FailureKind::Unfit));
    }

    #[test]
    fn memory_that_one_load_reserved_is_not_given_to_another() {
        let (memory, machine) = (Arc::new(LoadMemory::default()), [room(500, 2000, Limit::Machine)]);
        let need = |mib: u64| Need { whole: mib * MIB, process: mib * MIB };
        let first = memory.reserve(&machine, need(300), 100 * MIB).unwrap();
        assert!(memory.reserve(&machine, need(101), 100 * MIB).is_err());
        let second = memory.reserve(&machine, need(100), 100 * MIB).unwrap();
        drop((first, second));
        assert_eq!(*memory.0.lock().unwrap(), 0);
    }

    #[test]
    fn each_session_has_weights_of_its_own() {
        let whole = |file, sessions| Need::of(file * MIB, sessions).whole / MIB;
        assert_eq!((whole(0, 1), whole(100, 1), whole(100, 3)), (64, 489, 1067));
        assert_eq!(Need::of(100 * MIB, 3).process / MIB, 289);
    }
}
