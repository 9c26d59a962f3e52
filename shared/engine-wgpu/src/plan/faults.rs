//! Faults of a run: its word is zeroed before the kernels, and read with the outputs.

use super::Plan;
use super::flag::FLAG_BYTES;
use crate::fault::Fault;

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
