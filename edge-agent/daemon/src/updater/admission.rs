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
const PROCESS_BYTES: u64 = 32 * 1024 * 1024;

/// Multiple of the model's file, in quarters, that a session takes while it is loaded: the parsed file and the packed weights.
/// Measured with ONNX Runtime 1.32 and files of 17 to 268 MB, fp32 and int8: 2.2 to 2.6 times the file in all, with the copy
/// from which it is loaded.
const SESSION_QUARTERS: u64 = 8;

/// Multiple of the model's file, in quarters, that is in memory while sessions are loaded from it, however many: the agent's copy.
const SOURCE_QUARTERS: u64 = 4;

/// Returns the bytes of memory that loading a model file takes at most, in a number of sessions.
fn needed(file_bytes: u64, sessions: usize) -> u64 {
    let sessions = u64::try_from(sessions).unwrap_or(u64::MAX).max(1);
    let quarters = SESSION_QUARTERS.saturating_mul(sessions).saturating_add(SOURCE_QUARTERS);
    let weights = (file_bytes / 4).saturating_add(1).saturating_mul(quarters);
    PROCESS_BYTES.saturating_mul(sessions).saturating_add(weights)
}

/// Checks that a variant could be loaded on this device if nothing else ran.
///
/// # Errors
/// With [`FailureKind::Unfit`], because no wait helps.
pub(super) fn can_ever_fit(parts: &UpdaterParts, variant: &Variant) -> Result<(), Failure> {
    ever(&memory::rooms(), needed(variant.file.size, parts.shared.load.sessions), parts.shared.load.sessions)
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
    fn reserve(self: &Arc<Self>, rooms: &[Room], needed: u64, keep: u64) -> Result<Reserved, Failure> {
        let mut reserved = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        now(rooms, needed, reserved.saturating_add(keep))?;
        *reserved = reserved.saturating_add(needed);
        Ok(Reserved { of: Arc::clone(self), bytes: needed })
    }
}

/// Reserves the memory to load a variant beside everything that runs, until the load has ended.
///
/// # Errors
/// With [`FailureKind::NoRoom`], which passes when memory is free again; as [`can_ever_fit`] where that cannot be.
pub(super) fn reserve(parts: &UpdaterParts, variant: &Variant) -> Result<Reserved, Failure> {
    let (sessions, keep) = (parts.shared.load.sessions, parts.shared.updates.memory_free_min_bytes);
    let (rooms, needed) = (memory::rooms(), needed(variant.file.size, sessions));
    ever(&rooms, needed, sessions)?;
    parts.shared.load_memory.reserve(&rooms, needed, keep)
}

fn ever(rooms: &[Room], needed: u64, sessions: usize) -> Result<(), Failure> {
    let Some(room) =
        rooms.iter().filter(|room| room.total < of_one(room, needed, sessions)).min_by_key(|room| room.total)
    else {
        return Ok(());
    };
    let Room { total, limit, .. } = room;
    let detail =
        format!("loading it takes about {needed} bytes of memory, and {limit} is {total} bytes: use a smaller variant");
    Err(trouble::because(FailureKind::Unfit, detail))
}

fn now(rooms: &[Room], needed: u64, keep: u64) -> Result<(), Failure> {
    let scarcest = rooms.iter().filter(|room| room.limit != Limit::Process).min_by_key(|room| room.available);
    let Some(room) = scarcest.filter(|room| room.available < needed.saturating_add(keep)) else { return Ok(()) };
    let Room { available, limit, .. } = room;
    let detail = format!(
        "loading it takes about {needed} bytes of memory; {available} bytes are available by {limit}, and {keep} must stay \
         free or are reserved: stop other programs, raise the limit, or lower updates.memory_free_min_bytes"
    );
    Err(trouble::because(FailureKind::NoRoom, detail))
}

/// Returns the bytes that count to a limit: those of one process, where each has a limit of its own.
fn of_one(room: &Room, needed: u64, sessions: usize) -> u64 {
    match room.limit {
        Limit::Machine | Limit::Group => needed,
        Limit::Process => needed / u64::try_from(sessions).unwrap_or(u64::MAX).max(1),
    }
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
            let needed = needed(file * MIB, 1);
            ever(rooms, needed, 1).and_then(|()| now(rooms, needed, 100 * MIB)).map_err(|failure| failure.kind)
        };
        assert_eq!(check(&[machine], 100), Ok(()));
        assert_eq!(check(&[machine], 130), Err(FailureKind::NoRoom));
        assert_eq!(check(&[machine], 700), Err(FailureKind::Unfit));
        assert_eq!(check(&[machine, room(300, 400, Limit::Group)], 100), Err(FailureKind::NoRoom));
        assert_eq!(check(&[machine, room(300, 300, Limit::Group)], 100), Err(FailureKind::Unfit));
        assert_eq!(check(&[machine, room(300, 300, Limit::Process)], 100), Err(FailureKind::Unfit));
        assert_eq!(check(&[machine, room(350, 350, Limit::Process)], 100), Ok(()), "each process has its own");
        assert_eq!(check(&[], 100), Ok(()), "what is not known is no reason");
        assert_eq!(check(&[machine], u64::MAX / MIB), Err(FailureKind::Unfit));
    }

    #[test]
    fn memory_that_one_load_reserved_is_not_given_to_another() {
        let (memory, machine) = (Arc::new(LoadMemory::default()), [room(500, 2000, Limit::Machine)]);
        let first = memory.reserve(&machine, 300 * MIB, 100 * MIB).unwrap();
        assert!(memory.reserve(&machine, 101 * MIB, 100 * MIB).is_err());
        let second = memory.reserve(&machine, 100 * MIB, 100 * MIB).unwrap();
        drop((first, second));
        assert_eq!(*memory.0.lock().unwrap(), 0);
    }

    #[test]
    fn each_session_has_weights_of_its_own() {
        assert_eq!(needed(0, 1) / MIB, 32);
        assert_eq!(needed(100 * MIB, 1) / MIB, 332);
        assert_eq!(needed(100 * MIB, 3) / MIB, 796);
    }
}
