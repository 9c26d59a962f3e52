//! Durable state of a model's orders and probation: what the update machine wants kept, with what only the shell knows.

use std::sync::Arc;

use edge_core::slots::Slots;
use edge_core::update::orders::Orders;
use edge_core::update::probation::Probation;
use edge_core::update::{Failure, LastEnd, Report};
use store::StoreError;
use types::Version;

use super::disk;
use super::task::UpdaterParts;
use crate::crash::{CrashPoint, crash_at};

/// Probation of the version that serves, with the run of the agent that saw it last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredProbation {
    /// The probation.
    pub probation: Probation,
    /// Whether an agent served the version when this was written and has not stopped in good order since.
    pub running: bool,
    /// Boot of the machine in which this was written.
    pub boot: String,
}

impl StoredProbation {
    /// Returns how the run that wrote this ended, by the boot of the machine now.
    pub(super) fn last_end(&self, boot: &str) -> LastEnd {
        match (self.running, self.boot == boot) {
            (false, _) => LastEnd::Orderly,
            (true, true) => LastEnd::Agent,
            (true, false) => LastEnd::Machine,
        }
    }
}

/// Returns the boot of the machine; empty where the kernel does not tell.
pub(super) fn boot() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// Reads the orders of a model.
pub(super) async fn orders(parts: &UpdaterParts) -> Result<Orders, StoreError> {
    Ok(parts.orders.get(parts.model.name.as_str()).await?.unwrap_or_default())
}

/// Stores the orders of a model.
pub(super) async fn keep_orders(parts: &UpdaterParts, orders: &Orders) {
    let key = parts.model.name.as_str();
    let kept = match *orders == Orders::default() {
        true => parts.orders.delete(key).await,
        false => parts.orders.put(key, orders).await,
    };
    if let Err(error) = kept {
        tracing::error!(model = key, error = telemetry::chain(&error), "orders are obeyed and not stored");
    }
}

/// Stores the probation of the version that serves, or removes it.
pub(super) async fn keep_probation(parts: &UpdaterParts, probation: Option<Probation>, running: bool) {
    let key = parts.model.name.as_str();
    let kept = match probation {
        Some(probation) => {
            let stored = StoredProbation { probation, running, boot: boot() };
            parts.probations.put(key, &stored).await
        }
        None => parts.probations.delete(key).await,
    };
    if let Err(error) = kept {
        tracing::warn!(model = key, error = telemetry::chain(&error), "a probation is not stored");
    }
}

/// Writes repaired pointers.
pub(super) async fn repair(parts: &Arc<UpdaterParts>, slots: Slots) {
    tracing::warn!(model = %parts.model.name, ?slots, "the pointers are repaired");
    let writer = Arc::clone(parts);
    let written =
        tokio::task::spawn_blocking(move || disk::write_slots(&writer.shared.folder, &writer.model.name, &slots)).await;
    if let Ok(Err(failure)) = written {
        tracing::error!(%failure, "repaired pointers were not written: they are repaired again at the next start");
    }
}

/// Puts a report into the outbox.
pub(super) async fn send_report(parts: &UpdaterParts, report: Report) {
    if report.outcome.is_final() {
        telemetry::metrics::update_ended(parts.model.name.as_str(), report.outcome.as_str());
    }
    tracing::info!(
        model = %report.model,
        version = %report.version,
        stage = %report.stage,
        outcome = report.outcome.as_str(),
        "update"
    );
    parts.shared.reports.push(report).await;
    crash_at(CrashPoint::ReportStored);
}

/// Stores the reason for which a version is left alone.
pub(super) async fn remember(parts: &UpdaterParts, version: Version, failure: &Failure) {
    say_if_not_kept(parts.failed.put(&parts.key(version), failure).await);
}

pub(super) fn say_if_not_kept(kept: Result<(), StoreError>) {
    if let Err(error) = kept {
        tracing::warn!(error = telemetry::chain(&error), "a failure is remembered in memory only");
    }
}

#[cfg(test)]
mod tests {
    use edge_core::update::probation::ProbationLimits;

    use super::*;

    #[test]
    fn the_end_of_the_last_run_is_told_by_the_stop_and_the_boot() {
        let probation = Probation::new(Version::new(2).unwrap(), &ProbationLimits::default(), None);
        let stored = |running| StoredProbation { probation: probation.clone(), running, boot: "a".to_owned() };
        assert_eq!(stored(false).last_end("b"), LastEnd::Orderly);
        assert_eq!(stored(true).last_end("a"), LastEnd::Agent);
        assert_eq!(stored(true).last_end("b"), LastEnd::Machine);
    }
}
