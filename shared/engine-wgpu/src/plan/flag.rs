//! Offsets of the word in which the kernels of a plan report faults.

/// Bytes of the word.
pub(super) const FLAG_BYTES: u64 = 4;

/// Offsets of the word in bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Flag {
    pub(super) arena: u64,
    /// In the upload buffer, where it is zero for ever.
    pub(super) upload: u64,
    pub(super) readback: u64,
}

impl Flag {
    /// Returns the flag behind the inputs and outputs of a plan; `None` without a place in the arena: no kernel reports faults.
    pub(super) fn of(arena: Option<u64>, upload: u64, readback: u64) -> Option<Self> {
        Some(Self { arena: arena?, upload, readback })
    }
}
