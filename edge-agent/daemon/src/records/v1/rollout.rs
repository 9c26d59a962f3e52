//! Records of rollouts: standing orders, probations and assigned models.

use std::time::Duration;

use edge_core::update::orders::{Leaving, Orders};
use edge_core::update::probation::Probation;
use serde::{Deserialize, Serialize};
use store::Record;
use types::{ModelName, Version};

use super::FailedVersion;
use crate::updater::StoredProbation;

/// Orders of owner and hub on one model, under its name.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StandingOrders {
    #[serde(default)]
    owner_pin: Option<Version>,
    #[serde(default)]
    hold: bool,
    #[serde(default)]
    hub_pin: Option<Version>,
    #[serde(default)]
    leaving: Option<LeavingVersion>,
}

/// A return that has begun and not ended.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct LeavingVersion {
    from: Version,
    to: Version,
    failure: FailedVersion,
}

/// The probation of the version of a model that serves, under the name of the model.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct OnProbation {
    version: Version,
    left_ms: u64,
    #[serde(default)]
    answers: u64,
    #[serde(default)]
    failures: u64,
    #[serde(default)]
    deaths: u64,
    #[serde(default)]
    agent_ends: u32,
    #[serde(default)]
    machine_ends: u32,
    #[serde(default)]
    baseline_us: Option<u64>,
    #[serde(default)]
    running: bool,
    #[serde(default)]
    boot: String,
}

/// Models that the hub assigns to the device, under one key.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AssignedModels {
    models: Vec<ModelName>,
}

impl Record for StandingOrders {
    type Value = Orders;
    const TABLE: &'static str = "standing-orders";

    fn from_value(value: &Self::Value) -> Self {
        let Orders { owner_pin, hold, hub_pin, leaving } = value.clone();
        let leaving = leaving.map(|Leaving { from, to, failure }| LeavingVersion {
            from,
            to,
            failure: FailedVersion::from_value(&failure),
        });
        Self { owner_pin, hold, hub_pin, leaving }
    }

    fn into_value(self) -> Result<Self::Value, String> {
        let Self { owner_pin, hold, hub_pin, leaving } = self;
        let leaving = match leaving {
            Some(LeavingVersion { from, to, failure }) => Some(Leaving { from, to, failure: failure.into_value()? }),
            None => None,
        };
        Ok(Orders { owner_pin, hold, hub_pin, leaving })
    }
}

impl Record for OnProbation {
    type Value = StoredProbation;
    const TABLE: &'static str = "probations";

    fn from_value(value: &Self::Value) -> Self {
        let StoredProbation { probation, running, boot } = value.clone();
        let Probation { version, left, answers, failures, deaths, agent_ends, machine_ends, baseline } = probation;
        let (left_ms, baseline_us) = (millis(left), baseline.map(micros));
        Self { version, left_ms, answers, failures, deaths, agent_ends, machine_ends, baseline_us, running, boot }
    }

    fn into_value(self) -> Result<Self::Value, String> {
        let Self { version, left_ms, answers, failures, deaths, agent_ends, machine_ends, baseline_us, running, boot } =
            self;
        let (left, baseline) = (Duration::from_millis(left_ms), baseline_us.map(Duration::from_micros));
        let probation = Probation { version, left, answers, failures, deaths, agent_ends, machine_ends, baseline };
        Ok(StoredProbation { probation, running, boot })
    }
}

impl Record for AssignedModels {
    type Value = Vec<ModelName>;
    const TABLE: &'static str = "assigned-models";

    fn from_value(value: &Self::Value) -> Self {
        Self { models: value.clone() }
    }

    fn into_value(self) -> Result<Self::Value, String> {
        Ok(self.models)
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
