//! Counters of this device: counts runs and answers, stores closed periods, and has them for the uplink.
//!
//! Shell around `edge_core::counters`. Fed by [`crate::answer`], [`crate::audits`] and the updaters; emptied by the uplink
//! where the hub takes counters. A device on which nothing happens writes nothing.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use edge_core::counters::{Changes, Counters, PERIOD, Period, Tally};
use service::clock;
use store::{Batch, Store, StoreError, Table};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use types::{ModelName, VariantName, Version};

use crate::engines::Engines;
use crate::records::v1::CounterPeriod;

/// Counters of all models of this device.
#[derive(Debug, Default)]
pub struct DeviceCounters {
    counters: Mutex<Counters>,
    table: Mutex<Option<Table<CounterPeriod>>>,
    more: Notify,
}

impl DeviceCounters {
    /// Takes up the periods that an earlier run stored, and stores further ones there.
    ///
    /// # Errors
    /// When the store does not read.
    pub async fn restore(&self, store: Arc<dyn Store>) -> Result<(), StoreError> {
        let table: Table<CounterPeriod> = Table::new(store);
        let stored = table.list().await?.records.into_iter().map(|(_key, period)| period).collect();
        *self.lock() = Counters::restore(stored);
        *self.table.lock().unwrap_or_else(PoisonError::into_inner) = Some(table);
        Ok(())
    }

    /// Changes the counts of a version.
    pub fn count(&self, model: &ModelName, version: Version, change: impl FnOnce(&mut Tally)) {
        self.lock().count(model, version, change);
    }

    /// Counts an audit of a variant: `reached` is the highest threshold of its curve that the score reaches.
    pub fn count_score(&self, of: (&ModelName, Version, &VariantName), reached: Option<f32>, agrees: bool) {
        let (model, version, variant) = of;
        self.lock().count_score(model, version, variant, reached, agrees);
    }

    /// Closes a period each minute until `stop` is cancelled, and the last one then.
    pub async fn run(self: Arc<Self>, engines: Arc<Engines>, stop: CancellationToken) {
        // The first period begins with the agent.
        drop(self.lock().close(clock::unix_s()));
        while stop.run_until_cancelled(tokio::time::sleep(period())).await.is_some() {
            self.close(&engines).await;
        }
        self.close(&engines).await;
    }

    async fn close(&self, engines: &Engines) {
        let counted: Vec<(ModelName, Version)> = self.lock().counted().cloned().collect();
        for (model, version) in counted {
            if let Some(bytes) = engines.memory_of_version(&model, version) {
                self.count(&model, version, |tally| tally.memory_bytes = tally.memory_bytes.max(Some(bytes)));
            }
        }
        let changes = self.lock().close(clock::unix_s());
        if changes == Changes::default() {
            return;
        }
        if let Err(error) = self.store(&changes).await {
            tracing::warn!(error = telemetry::chain(&error), "counters are kept in memory only");
        }
        self.more.notify_one();
    }

    async fn store(&self, changes: &Changes) -> Result<(), StoreError> {
        let Some(table) = self.table() else { return Ok(()) };
        let mut batch = Batch::new();
        for sequence in &changes.deleted {
            batch = table.delete_in(batch, &key(*sequence))?;
        }
        for period in &changes.written {
            batch = table.put_in(batch, &key(period.sequence), period)?;
        }
        table.store().apply(batch).await
    }

    /// Returns the oldest period that waits; waits until there is one.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn next(&self) -> Period {
        loop {
            let more = self.more.notified();
            if let Some(period) = self.lock().send() {
                return period;
            }
            more.await;
        }
    }

    /// Forgets a period that the hub has counted, or will never take.
    pub async fn acknowledged(&self, sequence: u64) {
        self.lock().acknowledged(sequence);
        let Some(table) = self.table() else { return };
        if let Err(error) = table.delete(&key(sequence)).await {
            // Sent once more after a restart; the hub drops a repeat.
            tracing::warn!(error = telemetry::chain(&error), "acknowledged counters stay in the store");
        }
    }

    fn table(&self) -> Option<Table<CounterPeriod>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn lock(&self) -> MutexGuard<'_, Counters> {
        self.counters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Length of a period: [`PERIOD`], unless a test shortens it in a build for tests.
fn period() -> Duration {
    #[cfg(debug_assertions)]
    if let Some(ms) = std::env::var(PERIOD_VARIABLE).ok().and_then(|text| text.parse().ok()) {
        return Duration::from_millis(ms);
    }
    PERIOD
}

/// Environment variable with the length of a period in milliseconds, read in builds for tests only.
#[cfg(debug_assertions)]
const PERIOD_VARIABLE: &str = "SANDERLING_COUNTER_PERIOD_MS";

/// Sorts like the number.
fn key(sequence: u64) -> String {
    format!("{sequence:020}")
}

#[cfg(test)]
mod tests {
    use store::MemoryStore;

    use super::*;

    #[tokio::test]
    async fn a_period_survives_a_restart_until_it_is_acknowledged() {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
        let engines = Engines::only(Arc::new(engine::FakeEngine::new(1)));
        let (model, version) = ("digits".parse().unwrap(), Version::new(3).unwrap());
        let counters = DeviceCounters::default();
        counters.restore(Arc::clone(&store)).await.unwrap();
        counters.count(&model, version, |tally| tally.kept += 5);
        counters.close(&engines).await;
        let sent = counters.next().await;

        let again = DeviceCounters::default();
        again.restore(Arc::clone(&store)).await.unwrap();
        assert_eq!(again.next().await, sent);
        assert_eq!(sent.tallies[&(model, version)].kept, 5);
        again.acknowledged(sent.sequence).await;
        let last = DeviceCounters::default();
        last.restore(store).await.unwrap();
        assert_eq!(last.lock().waiting(), 0);
    }
}
