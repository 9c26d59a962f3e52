//! Permits for requests to the hub: conditions of the surroundings, and budgets that survive a restart.
//!
//! Fed by [`crate::answer`] and [`crate::audits`] just before an input leaves the device. The ledger of each model is
//! `edge_core::policy::Ledger`; what it wants stored is stored before the request is sent.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use edge_core::policy::{Cost, Ledger, Left, Surroundings, Usage, is_escalation};
use service::clock;
use store::{Store, StoreError, Table};
use types::policy::{Budget, Policy};
use types::{ModelName, Reason};

use crate::records::v1::BudgetUsage;
use crate::surroundings::SurroundingsWatch;

/// Conditions and budgets of all models. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Permits {
    surroundings: Arc<SurroundingsWatch>,
    ledgers: Arc<Mutex<BTreeMap<ModelName, Ledger>>>,
    table: Option<Arc<tokio::sync::Mutex<Table<BudgetUsage>>>>,
}

impl Permits {
    /// Takes up the usage that an earlier run stored.
    ///
    /// # Errors
    /// When the store does not read.
    pub async fn restore(store: Arc<dyn Store>, surroundings: Arc<SurroundingsWatch>) -> Result<Self, StoreError> {
        let table: Table<BudgetUsage> = Table::new(store);
        let stored = table.list().await?.records;
        let named = stored.into_iter().filter_map(|(key, usage)| Some((key.parse().ok()?, Ledger::restore(usage))));
        let ledgers = Arc::new(Mutex::new(named.collect()));
        Ok(Self { surroundings, ledgers, table: Some(Arc::new(tokio::sync::Mutex::new(table))) })
    }

    /// Returns the surroundings of this moment and what is left of a model's budgets.
    #[must_use]
    pub fn look(&self, model: &ModelName, policy: &Policy) -> (Surroundings, Left) {
        let surroundings = self.surroundings.read(&policy.conditions);
        (surroundings, self.left(model, &policy.budget, surroundings.is_metered))
    }

    /// Returns whether the link is metered; `None` where nobody has asked for its cost, so that it counts as metered.
    #[must_use]
    pub fn link_cost(&self) -> Option<bool> {
        self.surroundings.knows_link().then(|| self.surroundings.is_metered())
    }

    /// Returns what is left of a budget over a metered link, or over another one.
    #[must_use]
    pub fn left(&self, model: &ModelName, budget: &Budget, is_metered: bool) -> Left {
        if !budget.is_counted() {
            return Left::default();
        }
        self.with(model, |ledger| ledger.left(budget, is_metered, clock::unix_s(), Instant::now()))
    }

    /// Takes a request of so many bytes from the budgets, and stores what must be stored before it is sent.
    ///
    /// # Errors
    /// Returns the reason for which it may not be sent.
    ///
    /// # Cancel safety
    /// A request whose future is dropped stays counted.
    pub async fn take(&self, model: &ModelName, policy: &Policy, bytes: u64, reason: Reason) -> Result<(), Reason> {
        if !policy.budget.is_counted() {
            return Ok(());
        }
        let is_metered = self.surroundings.is_metered();
        let cost = Cost { bytes, is_metered, is_escalation: is_escalation(reason) };
        let taken = self.with(model, |ledger| ledger.take(&policy.budget, cost, clock::unix_s(), Instant::now()))?;
        if taken.is_some() {
            self.store(model).await;
        }
        Ok(())
    }

    /// Stores the exact usage of every model, at the end of a run.
    pub async fn settle(&self) {
        let usages: Vec<(ModelName, Usage)> =
            self.lock().iter().map(|(model, ledger)| (model.clone(), ledger.usage())).collect();
        for (model, usage) in usages.into_iter().filter(|(_model, usage)| *usage != Usage::default()) {
            self.put(&model, &usage).await;
        }
    }

    /// Stores the usage of a model that runs ahead. Writers wait for each other, and the last one writes the latest usage.
    async fn store(&self, model: &ModelName) {
        let Some(table) = &self.table else { return };
        let table = table.lock().await;
        let usage = self.with(model, |ledger| ledger.stored());
        if let Err(error) = table.put(model.as_str(), &usage).await {
            tracing::warn!(model = %model, error = telemetry::chain(&error), "budgets are kept in memory only");
        }
    }

    async fn put(&self, model: &ModelName, usage: &Usage) {
        let Some(table) = &self.table else { return };
        if let Err(error) = table.lock().await.put(model.as_str(), usage).await {
            tracing::warn!(model = %model, error = telemetry::chain(&error), "the usage of budgets was not stored");
        }
    }

    fn with<T>(&self, model: &ModelName, act: impl FnOnce(&mut Ledger) -> T) -> T {
        let mut ledgers = self.lock();
        match ledgers.get_mut(model) {
            Some(ledger) => act(ledger),
            None => act(ledgers.entry(model.clone()).or_default()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ModelName, Ledger>> {
        self.ledgers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use store::MemoryStore;
    use types::PolicyMode;

    use super::*;

    async fn permits(store: &Arc<dyn Store>) -> Permits {
        Permits::restore(Arc::clone(store), Arc::default()).await.unwrap()
    }

    #[tokio::test]
    async fn what_was_spent_stays_spent_over_a_restart() {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
        let model: ModelName = "digits".parse().unwrap();
        let budget = Budget { hub_calls_per_day: Some(3), ..Budget::default() };
        let policy = Policy { budget, ..Policy::from(PolicyMode::Cascade) };
        let first = permits(&store).await;
        for _ in 0..2 {
            first.take(&model, &policy, 10, Reason::LowConfidence).await.unwrap();
        }
        // Without an orderly end.
        let second = permits(&store).await;
        assert_eq!(second.left(&model, &budget, false).calls, Some(1));
        second.take(&model, &policy, 10, Reason::Policy).await.unwrap();
        assert_eq!(second.take(&model, &policy, 10, Reason::Policy).await, Err(Reason::CallsSpent));
        second.settle().await;
        assert_eq!(permits(&store).await.left(&model, &budget, false).calls, Some(0));
        let other: ModelName = "other".parse().unwrap();
        assert_eq!(second.left(&other, &budget, false).calls, Some(3), "each model has its own");
    }

    #[tokio::test]
    async fn an_orderly_end_gives_back_what_was_only_reserved() {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
        let model: ModelName = "digits".parse().unwrap();
        let budget = Budget { hub_calls_per_day: Some(6400), ..Budget::default() };
        let policy = Policy { budget, ..Policy::from(PolicyMode::Cascade) };
        let first = permits(&store).await;
        first.take(&model, &policy, 10, Reason::Policy).await.unwrap();
        assert_eq!(permits(&store).await.left(&model, &budget, false).calls, Some(6299), "a power cut costs a 64th");
        first.settle().await;
        assert_eq!(permits(&store).await.left(&model, &budget, false).calls, Some(6399));
    }
}
