//! Weights on the device: read-only buffers, filled once, shared by every plan of a session.

use std::collections::BTreeSet;

use crate::error::ModelError;
use crate::gpu::Gpu;
use crate::lower::{WeightId, WeightPool};

/// A piece of a weight: the whole of it, unless it is larger than one binding may be.
#[derive(Debug, Clone, Copy)]
struct Piece {
    weight: usize,
    /// Words of the weight in front of it.
    from: usize,
    words: usize,
    buffer: usize,
    offset: u64,
}

impl Piece {
    fn bytes(&self) -> u64 {
        bytes_of(self.words)
    }
}

/// Bytes that so many words take in a buffer, which holds at least one.
fn bytes_of(words: usize) -> u64 {
    u64::try_from(words).unwrap_or(u64::MAX).saturating_mul(4).max(4)
}

/// The weights of a session.
#[derive(Debug, Default)]
pub(crate) struct Weights {
    /// Weights that kernels asked for; their words are dropped once they are on the device.
    pub(crate) pool: WeightPool,
    /// Of each weight on the device its pieces, in order.
    slots: Vec<Vec<Piece>>,
    buffers: Vec<wgpu::Buffer>,
    /// Bytes on the device.
    pub(crate) bytes: u64,
}

impl Weights {
    /// Weights that wait to be uploaded.
    pub(crate) fn of(pool: WeightPool) -> Self {
        Self { pool, ..Self::default() }
    }

    /// Those of these weights that are not on the device.
    fn missing<'a>(&'a self, used: &'a BTreeSet<WeightId>) -> impl Iterator<Item = usize> + 'a {
        used.iter().map(|id| id.0).filter(|&at| self.slots.get(at).is_none_or(Vec::is_empty))
    }

    /// Bytes on the device once these are uploaded.
    pub(crate) fn bytes_with(&self, used: &BTreeSet<WeightId>) -> u64 {
        self.missing(used).fold(self.bytes, |bytes, at| bytes.saturating_add(bytes_of(self.pool.word_count(at))))
    }

    /// Puts those of these weights that are new into buffers of their own.
    ///
    /// # Errors
    /// When the driver refuses.
    pub(crate) fn upload(&mut self, gpu: &Gpu, used: &BTreeSet<WeightId>) -> Result<(), ModelError> {
        let pieces = self.place(gpu, used);
        self.slots.resize(self.slots.len().max(self.pool.len()), Vec::new());
        let mut begin = 0;
        while let Some(first) = pieces.get(begin) {
            let buffer = pieces[begin..].iter().take_while(|piece| piece.buffer == first.buffer);
            let end = begin + buffer.count();
            let filled = self.fill(gpu, &pieces[begin..end])?;
            self.bytes += filled.size();
            self.buffers.push(filled);
            begin = end;
        }
        for piece in pieces {
            self.pool.drop_words(piece.weight);
            self.slots[piece.weight].push(piece);
        }
        Ok(())
    }

    /// Returns the place of each piece of each new weight, buffer by buffer.
    fn place(&self, gpu: &Gpu, used: &BTreeSet<WeightId>) -> Vec<Piece> {
        let alignment = u64::from(gpu.limits().min_storage_buffer_offset_alignment).max(4);
        let part = usize::try_from(gpu.tuning().part_words).unwrap_or(usize::MAX);
        let (mut buffer, mut end) = (self.buffers.len(), 0);
        let mut pieces = Vec::new();
        for weight in self.missing(used) {
            let count = self.pool.word_count(weight);
            // An empty weight has a place too.
            for from in (0..count.max(1)).step_by(part) {
                let words = (count - from).min(part);
                if end > 0 && end + bytes_of(words) > bytes_of(part) {
                    (buffer, end) = (buffer + 1, 0);
                }
                let piece = Piece { weight, from, words, buffer, offset: end };
                end = (end + piece.bytes()).next_multiple_of(alignment);
                pieces.push(piece);
            }
        }
        pieces
    }

    /// One buffer with these pieces.
    fn fill(&mut self, gpu: &Gpu, pieces: &[Piece]) -> Result<wgpu::Buffer, ModelError> {
        let size = pieces.last().map_or(4, |last| last.offset + last.bytes());
        let descriptor = wgpu::BufferDescriptor {
            label: Some("weights"),
            size,
            usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        };
        let buffer = gpu.scoped(|| gpu.device.create_buffer(&descriptor))?;
        for piece in pieces {
            let words = self.pool.words(piece.weight);
            let words = words.get(piece.from..piece.from + piece.words).unwrap_or_default();
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            gpu.queue.write_buffer(&buffer, piece.offset, &bytes);
        }
        // Lets go of the copies that wait for the next submission: they may be as large as the model.
        gpu.submit([]);
        Ok(buffer)
    }

    /// Buffer, offset and bytes of each piece of a weight that was uploaded.
    pub(crate) fn pieces(&self, id: WeightId) -> impl Iterator<Item = (&wgpu::Buffer, u64, u64)> {
        self.slots[id.0].iter().map(|piece| (&self.buffers[piece.buffer], piece.offset, piece.bytes()))
    }
}
