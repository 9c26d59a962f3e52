//! What the agent says of itself: the state of the link, of each model's update, of the engine.
//!
//! Fed by the uplink and the updaters, each with its own part; read by `GET /sanderling/v1/status`, and so by
//! `edge-agent status`. The form of the JSON is a treaty with scripts: fields are added, never changed.

mod budget;
mod outbox;
mod trust;
mod unreadable;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use edge_core::slots::Installed;
use edge_core::update::orders::{Leaving, Orders};
use edge_core::update::probation::Probation;
use engine::EngineDescription;
use serde::{Deserialize, Serialize};
use service::clock;
use types::policy::RequestRules;
use types::{DeviceId, Digest, EngineName, ModelName, Place, PolicyMode, Reason, VariantName, Version};

use crate::drift::DriftStatus;
use crate::engines::{EngineStatus, Engines};
use crate::outbox::Outbox;
use crate::permits::Permits;
use crate::state::Listening;
use crate::thresholds::RefitStatus;
pub use budget::{BudgetStatus, Remaining};
pub use outbox::OutboxStatus;
pub use trust::TrustStatus;
use trust::with_state;
pub use unreadable::UnreadableRecord;

/// The whole of `GET /sanderling/v1/status`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Version of the agent's software.
    pub agent_version: String,
    /// This device's name, once it is enrolled.
    pub device: Option<DeviceId>,
    /// Start of the agent, in milliseconds since 1970.
    pub started_unix_ms: u64,
    /// The addresses it bound.
    pub listening: Option<Listening>,
    /// Name of the preferred engine.
    pub engine: Option<EngineDescription>,
    /// Every engine of the configuration, in order of preference.
    #[serde(default)]
    pub engines: Vec<EngineStatus>,
    /// The way to the hub.
    pub hub: HubStatus,
    /// Whether the signatures that updates rest on are valid.
    #[serde(default)]
    pub trust: TrustStatus,
    /// The models, by name.
    pub models: Vec<ModelStatus>,
    /// Requests that wait for the hub; `None` if the outbox cannot be used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outbox: Option<OutboxStatus>,
    /// Records of the store that were set aside because they are not readable.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unreadable_records: Vec<UnreadableRecord>,
}

/// The way to the hub.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct HubStatus {
    /// `not-enrolled`, `dialing`, `greeting`, `online`, `backing off`, `rejected` or `stopped`.
    pub state: String,
    /// The address that was dialled last.
    pub address: Option<String>,
    /// Version of the hub's software, as it said in its last greeting.
    pub hub_version: Option<String>,
    /// Begin of the state, in milliseconds since 1970.
    pub since_unix_ms: u64,
    /// Failures to connect in a row.
    pub failures: u32,
    /// Reason of the last failed attempt, or of the end of the last connection.
    pub last_error: Option<String>,
    /// Advice for a person.
    pub advice: Option<String>,
    /// Last second of this device's certificate, since 1970.
    pub certificate_not_after_unix_s: Option<u64>,
    /// Certificates renewed since the agent started.
    pub renewals: u32,
    /// Seconds that this device's clock is behind the hub's; negative when it is ahead.
    pub clock_skew_s: i64,
    /// Reports that the hub has not acknowledged yet.
    pub reports_waiting: usize,
    /// Address of another machine that uses this device's identity, as the hub said in its last greeting.
    #[serde(default)]
    pub identity_also_at: Option<String>,
}

/// Advice for a device whose identity another machine uses.
pub const CLONE_ADVICE: &str = "a state folder was copied: on one of the two machines stop the agent, remove the folder \
                                `identity` from its state folder, and enrol it under another name";

/// One model that this device follows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelStatus {
    /// Name of the model.
    pub model: ModelName,
    /// Mode of requests that name none.
    pub policy: PolicyMode,
    /// Reason for which no input goes to the hub, whatever the surroundings are and unless a request says more; like
    /// `never-leaves` or `no-consent`. `None` if inputs may go there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub withheld: Option<Reason>,
    /// Budgets of the policy; `None` if it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<BudgetStatus>,
    /// Version that serves now.
    pub active: Option<InstalledVersion>,
    /// Version that served before, kept for a rollback.
    pub previous: Option<InstalledVersion>,
    /// Versions before the previous one that stay on the disk, the latest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub earlier: Vec<InstalledVersion>,
    /// Pins, holds and returns in force; `None` if offers decide on the version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub orders: Option<OrdersStatus>,
    /// Probation of the active version; `None` if it has proven itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probation: Option<ProbationStatus>,
    /// The engine that runs it.
    #[serde(default)]
    pub engine: Option<EngineName>,
    /// The execution provider that runs it; of the wgpu engine the adapter.
    pub provider: Option<String>,
    /// The last time that it left an engine because its device was lost.
    #[serde(default)]
    pub failover: Option<Failover>,
    /// Least score at which the device keeps its answer.
    pub threshold: Option<f32>,
    /// Alarm that stands because the scores have left the distribution of the calibration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drift: Option<DriftStatus>,
    /// Threshold of the hub in place of the author's; `None` while the author's is in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refit: Option<RefitStatus>,
    /// Progress of its update.
    pub update: UpdateStatus,
    /// Versions that were given up; an operator's retry or a newer version goes past them.
    pub failed: Vec<FailedVersion>,
    /// Reason for getting no version from the hub, like a name that the hub does not know; `None` while one may come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hub_problem: Option<String>,
    /// Requests answered, by this device or the hub, since the agent started.
    pub answered: u64,
    /// Of those, by the hub.
    pub answered_by_hub: u64,
    /// Requests that got no answer.
    pub not_answered: u64,
    /// Answers by place and reason, since the agent started.
    #[serde(default)]
    pub reasons: Vec<ReasonCount>,
}

/// A version on this device, in the form that was chosen for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstalledVersion {
    /// Number of the version.
    pub version: Version,
    /// The variant of it.
    pub variant: VariantName,
    /// Digest of its model file.
    pub digest: Digest,
}

impl From<Installed> for InstalledVersion {
    fn from(Installed { version, variant, digest }: Installed) -> Self {
        Self { version, variant, digest }
    }
}

/// Pins, holds and returns in force on one model.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct OrdersStatus {
    /// Version that the owner keeps the model at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner_pin: Option<Version>,
    /// Whether the owner keeps the model at the version that serves.
    #[serde(default)]
    pub hold: bool,
    /// Version that the hub keeps the model at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hub_pin: Option<Version>,
    /// Return to an earlier version that is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub returning: Option<ReturningStatus>,
}

/// Return to an earlier version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReturningStatus {
    /// Version that is left.
    pub from: Version,
    /// Version that will serve.
    pub to: Version,
    /// Reason of the return.
    pub reason: String,
}

impl OrdersStatus {
    /// Returns the state of orders; `None` if offers decide.
    #[must_use]
    pub fn of(orders: &Orders) -> Option<Self> {
        if *orders == Orders::default() {
            return None;
        }
        let Orders { owner_pin, hold, hub_pin, leaving } = orders.clone();
        let returning =
            leaving.map(|Leaving { from, to, failure }| ReturningStatus { from, to, reason: failure.to_string() });
        Some(Self { owner_pin, hold, hub_pin, returning })
    }
}

impl std::fmt::Display for OrdersStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let returning = self.returning.as_ref().map(|ReturningStatus { from, to, reason }| {
            format!("returns from version {from} to version {to}: {reason}")
        });
        let owner = self.owner_pin.map(|version| format!("pinned to version {version} by the owner"));
        let hold = self.hold.then(|| "held by the owner".to_owned());
        let hub = self.hub_pin.map(|version| format!("pinned to version {version} by the hub"));
        let all: Vec<String> = returning.into_iter().chain(owner).chain(hold).chain(hub).collect();
        f.write_str(&all.join("; "))
    }
}

/// Probation of the active version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbationStatus {
    /// Version on probation.
    pub version: Version,
    /// Seconds that are left of it.
    pub left_s: u64,
    /// Answers so far.
    pub answers: u64,
    /// Failed runs so far.
    pub failures: u64,
}

impl From<&Probation> for ProbationStatus {
    fn from(probation: &Probation) -> Self {
        let Probation { version, left, answers, failures, .. } = probation;
        Self { version: *version, left_s: left.as_secs(), answers: *answers, failures: *failures }
    }
}

/// Answers of one place for one reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReasonCount {
    /// Place of these answers.
    pub place: Place,
    /// Reason for the place, as in receipts.
    pub reason: String,
    /// Number of answers since the agent started.
    pub answers: u64,
}

impl ModelStatus {
    /// Says what share of the answers came from the hub and why; `None` before the first answer.
    #[must_use]
    pub fn share(&self) -> Option<String> {
        let percent = self.answered_by_hub.saturating_mul(100).checked_div(self.answered)?;
        let of_hub = self.reasons.iter().filter(|count| count.place == Place::Hub);
        let why: Vec<String> = of_hub.map(|count| format!("{} {}", count.answers, count.reason)).collect();
        let why = if why.is_empty() { String::new() } else { format!(": {}", why.join(", ")) };
        Some(format!("{} of {} answers came from the hub ({percent} %){why}", self.answered_by_hub, self.answered))
    }

    /// Says that the policy cascade has no threshold to compare with; `None` where that is not so.
    #[must_use]
    pub fn without_threshold(&self) -> Option<&'static str> {
        let is_deferred = self.policy == PolicyMode::Cascade && self.withheld.is_none();
        let without = is_deferred && self.active.is_some() && self.threshold.is_none() && self.refit.is_none();
        without.then_some("no threshold: every request goes to the hub")
    }
}

/// Change of the engine of a model after its device was lost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failover {
    /// The engine it was on.
    pub from: EngineName,
    /// The engine that runs it now; `None` while there is none, and only the hub answers.
    pub to: Option<EngineName>,
    /// Cause of the loss, and the reason if no other engine took over.
    pub cause: String,
    /// Time of the change, in milliseconds since 1970.
    pub at_unix_ms: u64,
}

/// Progress of an update.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct UpdateStatus {
    /// The state of the update machine, like `idle` or `fetching`.
    pub state: String,
    /// The version under way.
    pub version: Option<Version>,
    /// Bytes of its files that are on the disk.
    pub bytes_done: u64,
    /// Bytes of its files in all; 0 until the manifest is there.
    pub bytes_total: u64,
    /// Last failure of the update.
    pub last_error: Option<String>,
    /// Bytes since the agent started that were not received because deltas made them.
    #[serde(default)]
    pub bytes_saved: u64,
    /// Deltas since the agent started that could not be used; the whole files were fetched.
    #[serde(default)]
    pub delta_failures: u64,
    /// Reason of the last of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delta_error: Option<String>,
}

/// A version that was given up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedVersion {
    /// Version that failed.
    pub version: Version,
    /// The kind of failure, like `tampered`.
    pub kind: String,
    /// Error with its causes.
    pub detail: String,
}

/// The part of one model that its updater writes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UpdaterPart {
    /// Versions that served before, the latest first.
    pub previous: Vec<Installed>,
    /// Pins, holds and returns in force.
    pub orders: Option<OrdersStatus>,
    /// Probation of the active version.
    pub probation: Option<ProbationStatus>,
    /// Progress of the update.
    pub update: UpdateStatus,
    /// Versions that were given up.
    pub failed: Vec<FailedVersion>,
    /// The last loss of an engine.
    pub failover: Option<Failover>,
    /// Reason for getting no version from the hub.
    pub hub_problem: Option<String>,
}

/// Latest state of every part of the agent.
#[derive(Debug)]
pub struct SharedStatus {
    started_unix_ms: u64,
    parts: Mutex<Parts>,
}

#[derive(Debug, Default)]
struct Parts {
    device: Option<DeviceId>,
    listening: Option<Listening>,
    engines: Option<Arc<Engines>>,
    permits: Permits,
    outbox: Option<Outbox>,
    hub: HubStatus,
    trust: TrustStatus,
    updaters: BTreeMap<ModelName, UpdaterPart>,
    unreadable_records: Vec<UnreadableRecord>,
}

impl Default for SharedStatus {
    fn default() -> Self {
        Self { started_unix_ms: clock::unix_ms(), parts: Mutex::default() }
    }
}

impl SharedStatus {
    /// Sets who this device is.
    pub fn set_device(&self, device: DeviceId) {
        self.parts().device = Some(device);
    }

    /// Sets the addresses that were bound.
    pub fn set_listening(&self, listening: Listening) {
        self.parts().listening = Some(listening);
    }

    /// Sets what can run models here.
    pub fn set_engines(&self, engines: Arc<Engines>) {
        self.parts().engines = Some(engines);
    }

    /// Sets the budgets of the models.
    pub fn set_permits(&self, permits: Permits) {
        self.parts().permits = permits;
    }

    /// Sets the outbox.
    pub fn set_outbox(&self, outbox: Outbox) {
        self.parts().outbox = Some(outbox);
    }

    /// Sets which records of the store were set aside.
    pub fn set_unreadable_records(&self, records: Vec<UnreadableRecord>) {
        self.parts().unreadable_records = records;
    }

    /// Changes the part of the link.
    pub fn hub(&self, change: impl FnOnce(&mut HubStatus)) {
        change(&mut self.parts().hub);
    }

    /// Changes the part of the trust.
    pub fn trust(&self, change: impl FnOnce(&mut TrustStatus)) {
        change(&mut self.parts().trust);
    }

    /// Changes the part of one model's updater.
    pub fn updater(&self, model: &ModelName, change: impl FnOnce(&mut UpdaterPart)) {
        change(self.parts().updaters.entry(model.clone()).or_default());
    }

    /// Forgets a model that is not followed any more.
    pub fn forget(&self, model: &ModelName) {
        self.parts().updaters.remove(model);
    }

    /// Returns the status of this moment.
    #[must_use]
    pub fn status(&self, models: &crate::models::Models) -> Status {
        let parts = self.parts();
        let engines = parts.engines.as_ref().map(|engines| engines.status()).unwrap_or_default();
        let status = |model: Arc<crate::models::Model>| {
            let part = parts.updaters.get(&model.name).cloned().unwrap_or_default();
            model_status(&model, &parts.permits, part)
        };
        Status {
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            device: parts.device.clone(),
            started_unix_ms: self.started_unix_ms,
            listening: parts.listening.clone(),
            engine: engines.iter().find(|engine| engine.is_ready()).and_then(|engine| engine.description.clone()),
            engines,
            hub: parts.hub.clone(),
            trust: with_state(parts.trust.clone()),
            models: models.iter().map(status).collect(),
            outbox: parts.outbox.as_ref().map(OutboxStatus::of),
            unreadable_records: parts.unreadable_records.clone(),
        }
    }

    fn parts(&self) -> MutexGuard<'_, Parts> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn model_status(model: &crate::models::Model, permits: &Permits, part: UpdaterPart) -> ModelStatus {
    let serving = model.serving();
    let policy = model.policy(None, &RequestRules::default());
    let serving = serving.as_deref();
    ModelStatus {
        model: model.name.clone(),
        policy: policy.mode,
        withheld: policy.withheld,
        budget: BudgetStatus::of(permits, &model.name, &policy.budget),
        active: serving.map(|serving| serving.installed.clone().into()),
        previous: part.previous.first().cloned().map(Into::into),
        earlier: part.previous.into_iter().skip(1).map(Into::into).collect(),
        orders: part.orders,
        probation: part.probation,
        engine: serving.map(|serving| serving.engine),
        provider: serving.map(|serving| serving.session.provider().to_owned()),
        failover: part.failover,
        threshold: serving.and_then(|serving| model.in_force(serving).threshold),
        refit: serving.and_then(|serving| model.refit_status(serving)),
        drift: serving.and_then(|serving| serving.drift.alarm()),
        update: part.update,
        failed: part.failed,
        hub_problem: part.hub_problem,
        answered: model.statistics.success.count(),
        answered_by_hub: model.statistics.by_hub.load(std::sync::atomic::Ordering::Relaxed),
        not_answered: model.statistics.fail.count(),
        reasons: model
            .statistics
            .by_reason()
            .map(|(place, reason, answers)| ReasonCount { place, reason: reason.to_string(), answers })
            .collect(),
    }
}
