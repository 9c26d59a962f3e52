//! The log of receipts: an append-only chain of hashed records, one for each request and each audit.
//!
//! Fed by [`crate::answer`] and [`crate::audits`] through a [`Recorder`], which never waits. A thread of its own
//! ([`task`]) computes the digests of inputs, makes [`records`](crate::records::v1) and appends them in groups with a
//! [`writer::Writer`]. [`reader`] reads and checks the log for the command line. Content of requests is never recorded.

pub mod ends;
pub mod explain;
pub mod frame;
mod input;
pub mod note;
pub mod reader;
mod task;
pub mod writer;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError};

pub use input::InputKey;
pub use note::Note;
pub use task::{Recording, Settings, start};

use task::Message;

/// Maximum number of notes that wait for the disk: half a second of a busy device.
const WAITING_MAX: usize = 1024;

/// Maximum bytes of tensors that wait for their digest. Beyond it a record has no digest.
const WAITING_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Takes notes for the log. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Recorder(Option<Arc<Shared>>);

#[derive(Debug)]
struct Shared {
    queue: SyncSender<Message>,
    waiting_bytes: AtomicU64,
    /// Notes that did not fit into the queue and that no record has counted yet.
    lost: AtomicU64,
    records_answers: bool,
}

impl Recorder {
    /// Returns a recorder that keeps nothing, where the log is off.
    #[must_use]
    pub fn none() -> Self {
        Self(None)
    }

    /// Returns whether notes are kept.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Returns whether digests of answers are recorded.
    #[must_use]
    pub fn records_answers(&self) -> bool {
        self.0.as_ref().is_some_and(|shared| shared.records_answers)
    }

    /// Queues a note. If the queue is full, the note is dropped and the next record counts it. Never waits.
    pub fn add(&self, mut note: Note) {
        let Some(shared) = &self.0 else { return };
        let mut bytes = note.held_bytes();
        let waiting = shared.waiting_bytes.fetch_add(bytes, Ordering::Relaxed);
        // One large input alone is always taken.
        if waiting > 0 && waiting.saturating_add(bytes) > WAITING_BYTES_MAX {
            shared.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
            note.release();
            bytes = 0;
        }
        match shared.queue.try_send(Message::Note { at_unix_ms: service::clock::unix_ms(), note, bytes }) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                shared.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
                shared.lost.fetch_add(1, Ordering::Relaxed);
                telemetry::metrics::receipts_lost(1);
            }
        }
    }
}
