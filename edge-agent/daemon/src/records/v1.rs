//! Records of schema 1.

use edge_core::outbox::{Entry, EntryId};
use edge_core::slots;
use edge_core::update::{self, Failure, FailureKind, Report, Stage};
use serde::{Deserialize, Serialize};
use store::Record;
use types::{Digest, ModelName, VariantName, Version};

use crate::updater::Attempt;

mod budget;
mod counters;
mod form;
mod moment;
mod outbox;
mod receipt;
mod rollout;
mod thresholds;

pub use budget::BudgetUsage;
pub use counters::CounterPeriod;
pub use form::ChosenForm;
pub use moment::{AskedRecord, LeftRecord, MomentRecord};
pub use outbox::{CLOCK_KEY, OutboxClock, OutboxRequest};
pub use receipt::{
    AmendmentRecord, AuditRecord, CalibrationRecord, ContentRecord, DeviceRecord, EndRecord, FormRecord, HubRecord,
    LogEvent, LogRecord, PolicyRecord, RequestRecord, StartedRecord, Word,
};
pub use rollout::{AssignedModels, OnProbation, StandingOrders};
pub use thresholds::HubThresholds;

/// A report that the hub has not acknowledged, under its number.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct WaitingReport {
    id: u64,
    subject: String,
    report: VersionReport,
}

/// The state of a version, as the hub is told.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct VersionReport {
    model: ModelName,
    version: Version,
    stage: String,
    outcome: Outcome,
}

/// The outcome of an update.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Outcome {
    Started,
    Active(Installed),
    Delayed(FailedVersion),
    Failed(FailedVersion),
    Older { active: Version },
    RolledBack(FailedVersion),
}

/// Returns the name of a stage in records, which is older than the common words.
const fn stage_name(stage: Stage) -> &'static str {
    match stage {
        Stage::Offered => "offer",
        Stage::Refreshing => "trust",
        Stage::Fetching => "fetch",
        Stage::Verifying => "verify",
        Stage::Loading => "load",
        Stage::Checking => "golden",
        Stage::Measuring => "measure",
        Stage::Shadowing => "shadow",
        Stage::Switching => "switch",
        Stage::Active => "restart",
    }
}

/// A version on this device.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Installed {
    version: Version,
    variant: VariantName,
    digest: Digest,
}

/// The reason why a version was given up, under `<model>/<version>`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FailedVersion {
    kind: String,
    detail: String,
}

/// Loads of one version on one engine, under `<model>/<version>/<engine>`; its shadows under the same key with `/shadow`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LoadAttempt {
    digest: Digest,
    #[serde(default)]
    host_deaths: u32,
    #[serde(default)]
    agent_ends: u32,
    #[serde(default)]
    machine_ends: u32,
    #[serde(default)]
    under_way: bool,
    #[serde(default)]
    boot: String,
    #[serde(default)]
    cause: Option<String>,
    #[serde(default)]
    at_unix_ms: u64,
}

/// The versions of a model that serve: the file `slots/<model>.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Slots {
    active: Option<Installed>,
    previous: Option<Installed>,
    /// Versions before the previous one, the latest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    earlier: Vec<Installed>,
}

impl Record for WaitingReport {
    type Value = Entry<Report>;
    const TABLE: &'static str = "reports";

    fn from_value(value: &Self::Value) -> Self {
        Self { id: value.id.0, subject: value.subject.clone(), report: VersionReport::from(&value.report) }
    }

    fn into_value(self) -> Result<Self::Value, String> {
        Ok(Entry { id: EntryId(self.id), subject: self.subject, report: self.report.try_into()? })
    }
}

impl Record for FailedVersion {
    type Value = Failure;
    const TABLE: &'static str = "failed-versions";

    fn from_value(value: &Self::Value) -> Self {
        Self { kind: value.kind.as_str().to_owned(), detail: value.detail.clone() }
    }

    fn into_value(self) -> Result<Self::Value, String> {
        self.try_into()
    }
}

impl Record for LoadAttempt {
    type Value = Attempt;
    const TABLE: &'static str = "load-attempts";

    fn from_value(value: &Self::Value) -> Self {
        let Attempt { digest, host_deaths, agent_ends, machine_ends, under_way, boot, cause, at_unix_ms } =
            value.clone();
        Self { digest, host_deaths, agent_ends, machine_ends, under_way, boot, cause, at_unix_ms }
    }

    fn into_value(self) -> Result<Self::Value, String> {
        let Self { digest, host_deaths, agent_ends, machine_ends, under_way, boot, cause, at_unix_ms } = self;
        Ok(Attempt { digest, host_deaths, agent_ends, machine_ends, under_way, boot, cause, at_unix_ms })
    }
}

impl From<&Report> for VersionReport {
    fn from(report: &Report) -> Self {
        let Report { model, version, stage, outcome } = report;
        let stage = stage_name(*stage).to_owned();
        Self { model: model.clone(), version: *version, stage, outcome: Outcome::from(outcome) }
    }
}

impl TryFrom<VersionReport> for Report {
    type Error = String;

    fn try_from(record: VersionReport) -> Result<Self, String> {
        let named = Stage::ALL.into_iter().find(|stage| stage_name(*stage) == record.stage);
        let stage = named.ok_or_else(|| format!("no stage is called {:?}", record.stage))?;
        Ok(Self { model: record.model, version: record.version, stage, outcome: record.outcome.try_into()? })
    }
}

impl From<&update::Outcome> for Outcome {
    fn from(outcome: &update::Outcome) -> Self {
        match outcome {
            update::Outcome::Started => Self::Started,
            update::Outcome::Active(installed) => Self::Active(Installed::from(installed)),
            update::Outcome::Retrying(failure) => Self::Delayed(FailedVersion::from_value(failure)),
            update::Outcome::Rejected(failure) => Self::Failed(FailedVersion::from_value(failure)),
            update::Outcome::Superseded { by } => Self::Older { active: *by },
            update::Outcome::RolledBack(failure) => Self::RolledBack(FailedVersion::from_value(failure)),
        }
    }
}

impl TryFrom<Outcome> for update::Outcome {
    type Error = String;

    fn try_from(record: Outcome) -> Result<Self, String> {
        Ok(match record {
            Outcome::Started => Self::Started,
            Outcome::Active(installed) => Self::Active(installed.into()),
            Outcome::Delayed(failure) => Self::Retrying(failure.try_into()?),
            Outcome::Failed(failure) => Self::Rejected(failure.try_into()?),
            Outcome::Older { active } => Self::Superseded { by: active },
            Outcome::RolledBack(failure) => Self::RolledBack(failure.try_into()?),
        })
    }
}

impl TryFrom<FailedVersion> for Failure {
    type Error = String;

    fn try_from(record: FailedVersion) -> Result<Self, String> {
        let kind = FailureKind::named(&record.kind);
        let kind = kind.ok_or_else(|| format!("no kind of failure is called {:?}", record.kind))?;
        Ok(Self { kind, detail: record.detail })
    }
}

impl From<&slots::Installed> for Installed {
    fn from(installed: &slots::Installed) -> Self {
        let slots::Installed { version, variant, digest } = installed.clone();
        Self { version, variant, digest }
    }
}

impl From<Installed> for slots::Installed {
    fn from(Installed { version, variant, digest }: Installed) -> Self {
        Self { version, variant, digest }
    }
}

impl From<&slots::Slots> for Slots {
    fn from(slots: &slots::Slots) -> Self {
        let mut previous = slots.previous.iter().map(Installed::from);
        let active = slots.active.as_ref().map(Installed::from);
        Self { active, previous: previous.next(), earlier: previous.collect() }
    }
}

impl From<Slots> for slots::Slots {
    fn from(Slots { active, previous, earlier }: Slots) -> Self {
        let previous = previous.into_iter().chain(earlier).map(Into::into).collect();
        Self { active: active.map(Into::into), previous }
    }
}

#[cfg(test)]
mod tests;
