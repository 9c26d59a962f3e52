//! Removes cells that are too old or too many.

use std::collections::HashMap;
use std::sync::atomic::Ordering;

use store::{BATCH_OPERATIONS_MAX, Batch, StoreError};
use types::DeviceId;

use super::{CELLS_MAX, Counters, RETENTION_S, owner};

/// Share of [`CELLS_MAX`] that a sweep leaves, in percent: the next one is not needed at once.
const LEFT_PERCENT: usize = 90;

impl Counters {
    /// Removes cells that are older than [`RETENTION_S`], then the oldest ones until 90 % of [`CELLS_MAX`] are left.
    /// Called every hour, and when a period arrives at the limit.
    ///
    /// # Errors
    /// When the store fails; cells that were removed until then stay removed.
    pub async fn sweep(&self, now_unix_s: u64) -> Result<(), StoreError> {
        // One sweep at a time; whoever waited for another one sees what it left.
        let _sweeping = self.sweeping.lock().await;
        let mut cells: Vec<(u64, String)> =
            self.cells.list().await?.records.into_iter().map(|(key, stored)| (stored.cell.from_unix_s, key)).collect();
        cells.sort_unstable();
        let too_old = cells.partition_point(|(from, _key)| from.saturating_add(RETENTION_S) < now_unix_s);
        let too_many = match cells.len() >= CELLS_MAX {
            true => cells.len().saturating_sub(CELLS_MAX * LEFT_PERCENT / 100),
            false => 0,
        };
        let removed = cells.drain(..too_old.max(too_many)).map(|(_from, key)| key).collect::<Vec<_>>();
        for keys in removed.chunks(BATCH_OPERATIONS_MAX) {
            let batch = keys.iter().try_fold(Batch::new(), |batch, key| self.cells.delete_in(batch, key))?;
            self.cells.store().apply(batch).await?;
            self.forget(keys).await;
        }
        if !removed.is_empty() {
            tracing::debug!(removed = removed.len(), left = cells.len(), "old counters of devices removed");
        }
        Ok(())
    }

    async fn forget(&self, keys: &[String]) {
        let mut by_device: HashMap<DeviceId, usize> = HashMap::new();
        for (_model, device) in keys.iter().filter_map(|key| owner(key)) {
            *by_device.entry(device).or_default() += 1;
        }
        for (device, removed) in by_device {
            let mut shard = self.shard(&device).lock().await;
            let left = shard.cells.get(&device).copied().unwrap_or_default().saturating_sub(removed);
            if left == 0 {
                shard.cells.remove(&device);
                shard.counted.retain(|(other, _model, _version), _counted| *other != device);
            } else {
                shard.cells.insert(device, left);
            }
        }
        let left = self.stored.load(Ordering::Relaxed).saturating_sub(keys.len());
        self.stored.store(left, Ordering::Relaxed);
        telemetry::metrics::counter_cells(left);
    }
}
