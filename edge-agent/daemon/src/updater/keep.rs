//! Durable state of a model's orders and probation: what the update machine wants kept, with what only the shell knows.

use edge_core::update::LastEnd;
use edge_core::update::orders::Orders;
use edge_core::update::probation::Probation;
use store::StoreError;
use types::Version;

use super::task::UpdaterParts;

/// Orders on one model, with the audit that the hub asks for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StoredOrders {
    /// Pins, holds and returns.
    pub orders: Orders,
    /// Version whose answers the hub wants audited.
    pub audit_version: Option<Version>,
    /// Share of its answers in thousandths.
    pub audit_per_mille: u16,
}

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
pub(super) async fn orders(parts: &UpdaterParts) -> Result<StoredOrders, StoreError> {
    Ok(parts.orders.get(parts.model.name.as_str()).await?.unwrap_or_default())
}

/// Stores the orders of a model.
pub(super) async fn keep_orders(parts: &UpdaterParts, orders: &StoredOrders) {
    let key = parts.model.name.as_str();
    let kept = match *orders == StoredOrders::default() {
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
