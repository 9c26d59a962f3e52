//! Weights on the device: read-only buffers, filled once, shared by every plan of a session.

use crate::error::ModelError;
use crate::gpu::{Gpu, WEIGHT_BUFFER_BYTES};
use crate::lower::{WeightId, WeightPool};

/// Where one weight lies.
#[derive(Debug, Clone, Copy)]
struct Slot {
    buffer: usize,
    offset: u64,
    bytes: u64,
}

/// The weights of a session.
#[derive(Debug, Default)]
pub(crate) struct Weights {
    /// What kernels asked for; its words are dropped once they are on the device.
    pub(crate) pool: WeightPool,
    slots: Vec<Slot>,
    buffers: Vec<wgpu::Buffer>,
    /// Bytes on the device.
    pub(crate) bytes: u64,
}

impl Weights {
    /// Weights that wait to be uploaded.
    pub(crate) fn of(pool: WeightPool) -> Self {
        Self { pool, ..Self::default() }
    }

    /// Bytes on the device once everything asked for is uploaded.
    pub(crate) fn pending_bytes(&self) -> u64 {
        let words: usize = self.pool.words.iter().map(Vec::len).sum();
        self.bytes + u64::try_from(words).unwrap_or(u64::MAX).saturating_mul(4)
    }

    /// Puts weights that are new into buffers of their own.
    ///
    /// # Errors
    /// When one weight is larger than a binding may be, or the driver refuses.
    pub(crate) fn upload(&mut self, gpu: &Gpu) -> Result<(), ModelError> {
        let alignment = u64::from(gpu.limits().min_storage_buffer_offset_alignment).max(4);
        let limit = gpu.limits().max_storage_buffer_binding_size.min(WEIGHT_BUFFER_BYTES);
        let mut start = self.slots.len();
        while start < self.pool.words.len() {
            let buffer = self.buffers.len();
            let mut size = 0;
            let mut next = start;
            while let Some(words) = self.pool.words.get(next) {
                let bytes = u64::try_from(words.len()).unwrap_or(u64::MAX).saturating_mul(4).max(4);
                if bytes > limit {
                    return Err(ModelError::OverBudget { needed: bytes, budget: limit });
                }
                if size + bytes > limit {
                    break;
                }
                self.slots.push(Slot { buffer, offset: size, bytes });
                size = (size + bytes).next_multiple_of(alignment);
                next += 1;
            }
            let filled = self.fill(gpu, start..next, size)?;
            self.buffers.push(filled);
            self.bytes += size;
            start = next;
        }
        Ok(())
    }

    fn fill(&mut self, gpu: &Gpu, ids: std::ops::Range<usize>, size: u64) -> Result<wgpu::Buffer, ModelError> {
        let descriptor = wgpu::BufferDescriptor {
            label: Some("weights"),
            size: size.next_multiple_of(4),
            usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        };
        let buffer = gpu.scoped(|| gpu.device.create_buffer(&descriptor))?;
        for id in ids {
            let words = std::mem::take(&mut self.pool.words[id]);
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            gpu.queue.write_buffer(&buffer, self.slots[id].offset, &bytes);
        }
        Ok(buffer)
    }

    /// Buffer, offset and bytes of a weight that was uploaded.
    pub(crate) fn range(&self, id: WeightId) -> (&wgpu::Buffer, u64, u64) {
        let slot = self.slots[id.0];
        (&self.buffers[slot.buffer], slot.offset, slot.bytes)
    }
}
