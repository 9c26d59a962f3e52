//! Chooses the delta for a device that asks, and waits a moment for one that is being made.

use std::sync::Arc;
use std::time::Duration;

use protocol::v1::{DeltaFile, DeltaRequest};
use tokio::time::Instant;
use types::{DeviceId, Digest};

use super::{Deltas, Entry, FILE_BYTES_MIN, Pair};

/// Longest wait of a request for a delta that is being made, when the device has a base. It asks again then, so a request is
/// answered well within the 30 s after which a device gives it up.
const WAIT_FOR_DELTA: Duration = Duration::from_secs(10);

/// Longest wait of a device without a base: it may have nothing that serves, and the whole file comes at once.
const WAIT_FOR_COMPRESSED: Duration = Duration::from_secs(1);

/// Answer to a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    /// The device may not fetch the new file, or there is none.
    Unknown,
    /// The whole file is the best that there is.
    Whole,
    /// A delta is being made: ask again.
    Making,
    /// File to fetch.
    File(DeltaFile),
}

/// State of the candidates at one moment.
enum Look {
    Best(Entry),
    Waiting,
    Nothing,
}

impl Deltas {
    /// Chooses a file for a device. Bases that devices may not fetch are left out: they are none of its business.
    pub async fn choose(self: &Arc<Self>, device: &DeviceId, request: &DeltaRequest) -> Choice {
        let Some(target) = self.registry.fetchable_file(&request.target) else { return Choice::Unknown };
        if !self.is_on() || target.size < FILE_BYTES_MIN {
            return Choice::Whole;
        }
        let bases = request.bases.iter().filter(|base| **base != request.target);
        let bases: Vec<Digest> = bases.filter(|base| self.registry.fetchable_file(base).is_some()).copied().collect();
        let patience = if bases.is_empty() { WAIT_FOR_COMPRESSED } else { WAIT_FOR_DELTA };
        let until = Instant::now() + patience;
        let mut finished = self.finished.subscribe();
        loop {
            finished.mark_unchanged();
            match self.look(device, &bases, request.target) {
                Look::Best(entry) => return Choice::File(DeltaFile { digest: entry.digest, bytes: entry.bytes }),
                Look::Nothing => return Choice::Whole,
                Look::Waiting => {}
            }
            match tokio::time::timeout_at(until, finished.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_closed)) => return Choice::Whole,
                Err(_elapsed) if bases.is_empty() => return Choice::Whole,
                Err(_elapsed) => return Choice::Making,
            }
        }
    }

    /// Looks for the smallest file that makes the target; has the delta from the device's best base made if there is none.
    fn look(&self, device: &DeviceId, bases: &[Digest], target: Digest) -> Look {
        let deltas = bases.iter().filter_map(|base| self.cache.find(&Pair { base: Some(*base), target }));
        let smallest = deltas.min_by_key(|entry| entry.bytes);
        let whole = Pair { base: None, target };
        if let Some(delta) = smallest {
            let compressed = self.cache.find(&whole).filter(|compressed| compressed.bytes < delta.bytes);
            return Look::Best(compressed.unwrap_or(delta));
        }
        let wants = |pair: Pair| self.want(pair, Some(device));
        if bases.iter().any(|base| wants(Pair { base: Some(*base), target })) {
            return Look::Waiting;
        }
        match self.cache.find(&whole) {
            Some(compressed) => Look::Best(compressed),
            None if wants(whole) => Look::Waiting,
            None => Look::Nothing,
        }
    }
}
