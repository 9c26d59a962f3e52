//! The word in which the kernels of a plan report faults: where it is, and how a run zeroes and reads it.

use super::{Layout, Plan};
use crate::fault::Fault;
use crate::lower::Arg;

/// Bytes of the word.
const FLAG_BYTES: u64 = 4;

/// Offsets of the word in bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Flag {
    arena: u64,
    /// In the upload buffer, where it is zero for ever.
    upload: u64,
    readback: u64,
}

impl Flag {
    /// Returns the flag behind the inputs and outputs of a plan; `None` where no kernel reports faults.
    pub(super) fn of(layout: &Layout, upload: u64, readback: u64) -> Option<Self> {
        let &(arena, _bytes) = layout.ranges.get(&Arg::Fault)?;
        Some(Self { arena, upload, readback })
    }
}

impl Plan {
    /// Records that the flag is zeroed.
    pub(super) fn clear_flag(&self, encoder: &mut wgpu::CommandEncoder) {
        if let Some(flag) = self.flag {
            encoder.copy_buffer_to_buffer(&self.upload, flag.upload, &self.arena, flag.arena, FLAG_BYTES);
        }
    }

    /// Records that the flag is copied to the host.
    pub(super) fn read_flag(&self, encoder: &mut wgpu::CommandEncoder) {
        if let Some(flag) = self.flag {
            encoder.copy_buffer_to_buffer(&self.arena, flag.arena, &self.readback, flag.readback, FLAG_BYTES);
        }
    }

    /// Returns the earliest of `nodes` nodes that reported a fault in the run whose readback is mapped, and the fault.
    pub(crate) fn fault(&self, nodes: usize) -> Option<(usize, Fault)> {
        let flag = self.flag?;
        let view = self.readback.get_mapped_range(flag.readback..flag.readback + FLAG_BYTES).ok()?;
        let word = view.first_chunk::<4>().map(|word| u32::from_le_bytes(*word))?;
        Fault::of_flag(word, nodes)
    }
}
