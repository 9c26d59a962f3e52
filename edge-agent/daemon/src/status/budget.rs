//! Budgets of a model in the agent's status.

use serde::{Deserialize, Serialize};
use types::ModelName;
use types::policy::Budget;

use crate::permits::Permits;

/// Budgets of a model's policy, and what is left of them. A limit that is not set is left out.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct BudgetStatus {
    /// Maximum bytes a day over a metered link, and what is left of it today.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metered_bytes: Option<Remaining>,
    /// Maximum bytes a day over a link that is not metered, and what is left of it today.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unmetered_bytes: Option<Remaining>,
    /// Maximum requests a day, and what is left of it today.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calls: Option<Remaining>,
    /// Maximum deferred answers a minute, and what is left of it now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub escalations: Option<Remaining>,
}

/// A limit and what is left of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remaining {
    /// The limit.
    pub limit: u64,
    /// Part of the limit that is not used.
    pub left: u64,
}

impl BudgetStatus {
    pub(super) fn of(permits: &Permits, model: &ModelName, budget: &Budget) -> Option<Self> {
        if !budget.is_counted() {
            return None;
        }
        let [free, metered] = [false, true].map(|is_metered| permits.left(model, budget, is_metered));
        let of = |limit: Option<u64>, left: Option<u64>| limit.zip(left).map(|(limit, left)| Remaining { limit, left });
        Some(Self {
            metered_bytes: of(budget.metered_bytes_per_day, metered.bytes),
            unmetered_bytes: of(budget.unmetered_bytes_per_day, free.bytes),
            calls: of(budget.hub_calls_per_day, free.calls),
            escalations: of(budget.escalations_per_minute, free.escalations),
        })
    }

    /// Returns one line for people.
    #[must_use]
    pub fn line(&self) -> String {
        let part = |what: &str, remaining: Option<Remaining>| {
            remaining.map(|Remaining { limit, left }| format!("{left} of {limit} {what}"))
        };
        let parts = [
            part("requests today", self.calls),
            part("bytes today over a metered link", self.metered_bytes),
            part("bytes today over other links", self.unmetered_bytes),
            part("deferred answers this minute", self.escalations),
        ];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        format!("hub budget left: {}", parts.join(", "))
    }
}
