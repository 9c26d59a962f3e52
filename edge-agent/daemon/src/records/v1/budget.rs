//! Usage of a model's budgets.

use edge_core::policy::Usage;
use serde::{Deserialize, Serialize};
use store::Record;

/// What was sent to the hub in one day, under the model's name.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BudgetUsage {
    /// Days since 1970.
    day: u64,
    /// Seconds that the agent ran since the day began to be counted.
    ran_s: u64,
    metered_bytes: u64,
    unmetered_bytes: u64,
    calls: u64,
}

impl Record for BudgetUsage {
    type Value = Usage;
    const TABLE: &'static str = "policy-budgets";

    fn from_value(value: &Usage) -> Self {
        let Usage { day, ran_s, metered_bytes, unmetered_bytes, calls } = *value;
        Self { day, ran_s, metered_bytes, unmetered_bytes, calls }
    }

    fn into_value(self) -> Result<Usage, String> {
        let Self { day, ran_s, metered_bytes, unmetered_bytes, calls } = self;
        Ok(Usage { day, ran_s, metered_bytes, unmetered_bytes, calls })
    }
}
