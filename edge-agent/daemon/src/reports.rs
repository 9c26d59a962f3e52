//! Reports to the hub: kept on the disk until the hub has acknowledged them.
//!
//! Shell around `edge_core::outbox`, which decides order and drops. Fed by the updaters; emptied by the uplink. A report
//! that cannot be stored (full disk) is still sent, as long as the agent runs.

use std::sync::Arc;
use std::sync::{Mutex, MutexGuard, PoisonError};

use edge_core::outbox::{ENTRIES_MAX, Entry, EntryId, Gone, Outbox};
use edge_core::update::Report;
use store::{Batch, Store, StoreError, Table};
use tokio::sync::Notify;

use crate::records::v1::WaitingReport;

/// The outbox and its storage.
#[derive(Debug)]
pub struct Reports {
    outbox: Mutex<Outbox<Report>>,
    table: Table<WaitingReport>,
    more: Notify,
}

impl Reports {
    /// Takes up the reports that an earlier run left.
    ///
    /// # Errors
    /// When the store does not read or write.
    pub async fn restore(store: Arc<dyn Store>) -> Result<Self, StoreError> {
        let table: Table<WaitingReport> = Table::new(store);
        let stored = table.list().await?.records.into_iter().map(|(_key, entry)| entry).collect();
        let (outbox, dropped) = Outbox::restore(ENTRIES_MAX, stored);
        for id in dropped {
            table.delete(&key(id)).await?;
        }
        Ok(Self { outbox: Mutex::new(outbox), table, more: Notify::new() })
    }

    /// Adds a report; durable when this returns, unless the disk refuses, which is logged.
    pub async fn push(&self, report: Report) {
        let subject = format!("{}/{}", report.model, report.version);
        let pushed = self.lock().push(subject.clone(), report.clone());
        let entry = Entry { id: pushed.id, subject, report };
        let batch = self.table.put_in(Batch::new(), &key(pushed.id), &entry);
        let batch = batch.and_then(|batch| match pushed.gone {
            Some((id, why)) => {
                if why == Gone::Dropped {
                    tracing::warn!("the oldest report was dropped: the outbox is full");
                }
                self.table.delete_in(batch, &key(id))
            }
            None => Ok(batch),
        });
        let written = match batch {
            Ok(batch) => self.table.store().apply(batch).await,
            Err(error) => Err(error),
        };
        if let Err(error) = written {
            tracing::warn!(error = telemetry::chain(&error), "a report is kept in memory only");
        }
        self.more.notify_one();
    }

    /// Takes the oldest report out to be sent; waits until there is one. Only one may be out at a time.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn next(&self) -> Entry<Report> {
        loop {
            let more = self.more.notified();
            if let Some(entry) = self.lock().send().cloned() {
                return entry;
            }
            more.await;
        }
    }

    /// The hub has it: it is forgotten here.
    pub async fn acknowledged(&self, id: EntryId) {
        self.lock().acknowledged(id);
        if let Err(error) = self.table.delete(&key(id)).await {
            // It is sent once more after a restart, which does no harm.
            tracing::warn!(error = telemetry::chain(&error), "an acknowledged report stays in the store");
        }
    }

    /// The one that is out did not arrive, or nobody knows.
    pub fn not_delivered(&self) {
        self.lock().not_delivered();
        self.more.notify_one();
    }

    /// Returns the number of reports that the hub has not acknowledged.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, Outbox<Report>> {
        self.outbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sorts like the number.
fn key(id: EntryId) -> String {
    format!("{:020}", id.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use edge_core::update::{Outcome, Stage};
    use store::MemoryStore;
    use types::Version;

    fn report(version: u64) -> Report {
        Report {
            model: "digits".parse().unwrap(),
            version: Version::new(version).unwrap(),
            stage: Stage::Offered,
            outcome: Outcome::Started,
        }
    }

    #[tokio::test]
    async fn a_report_survives_a_restart_until_it_is_acknowledged() {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
        let reports = Reports::restore(Arc::clone(&store)).await.unwrap();
        reports.push(report(1)).await;
        reports.push(report(2)).await;
        drop(reports.next().await);

        let again = Reports::restore(Arc::clone(&store)).await.unwrap();
        assert_eq!(again.waiting(), 2);
        let first = again.next().await;
        assert_eq!(first.report, report(1));
        again.acknowledged(first.id).await;
        assert_eq!(again.next().await.report, report(2));
        assert_eq!(Reports::restore(store).await.unwrap().waiting(), 1);
    }
}
