//! Rollouts, pins and assigned models: what is stored of them, and what devices are offered because of them.
//!
//! [`hub_core::rollout`] decides. Everything is changed by one writer at a time: operators through [`act`](Rollouts::act) and its
//! neighbours, the job [`crate::jobs::rollouts`] through [`Rollouts::evaluate`]. Each change is in the store before anything
//! follows from it, so a hub that was killed goes on where it was. The gateway asks [`Rollouts::offers`] at each greeting.

mod assign;
mod evaluate;
pub mod gate_file;
mod gates;
mod greeting;
mod orders;
mod pins;
mod steps;
mod view;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hub_core::rollout::{Refused, Rollout, RolloutId, SpecError};
use hub_core::{filter, rollout};
use store::{Store, StoreError, Table};
use tokio_util::task::TaskTracker;
use types::{DeviceId, ModelName, Version};

use crate::app::counters::Counters;
use crate::app::deltas::Deltas;
use crate::app::fleet::Fleet;
use crate::app::registry::Registry;
use crate::app::registry::publish::PublishError;
use crate::records::v1;
use crate::storage::audit::AuditLog;
use crate::storage::values::{AssignmentRecord, PinRecord};

/// Maximum number of rollouts that are kept; the oldest that have ended are removed with their members.
pub const ROLLOUTS_MAX: usize = 50;

/// Maximum number of rollouts that have not ended: each is looked at on every change of the fleet.
pub const ACTIVE_MAX: usize = 20;

/// Maximum number of models with an assignment: a device is sent the names of all of its models in one message.
pub const ASSIGNMENTS_MAX: usize = protocol::v1::rollout::ASSIGNED_MAX;

/// Maximum length of a gate as TOML in bytes: it is stored with its rollout.
pub const GATE_BYTES_MAX: usize = 8 * 1024;

/// Maximum length of the reason of an operator in bytes: one line.
pub const REASON_BYTES_MAX: usize = 200;

/// Error of a call about rollouts, pins or assigned models.
#[derive(Debug, thiserror::Error)]
pub enum RolloutError {
    /// There is no such rollout.
    #[error("there is no rollout {0}")]
    Unknown(String),
    /// The order cannot be carried out.
    #[error("the order of the rollout has mistakes: {}", join(.0))]
    Spec(Vec<SpecError>),
    /// The cohort is no filter.
    #[error("the cohort is neither `all` nor a filter: {0}")]
    Cohort(#[from] filter::FilterError),
    /// The waves cannot be used.
    #[error(transparent)]
    Waves(#[from] rollout::WaveError),
    /// The gate cannot be used.
    #[error("{0}")]
    Gate(config::ConfigErrors),
    /// A text has no meaning.
    #[error("{0}")]
    Text(String),
    /// Another rollout of the model may have the same devices.
    #[error(
        "rollout {other} of {model} to {cohort} is {state}, and both may have the same devices: wait for it, abort it, or choose \
         cohorts that exclude each other, like site=berlin and site=paris"
    )]
    Overlap {
        /// Number of the other rollout.
        other: RolloutId,
        /// Name of the model.
        model: ModelName,
        /// Cohort of the other rollout.
        cohort: String,
        /// State of the other rollout.
        state: &'static str,
    },
    /// The version is not above the current one.
    #[error(
        "{model} {version} is not newer than the current version {current}: roll out a higher one, or pin devices to it"
    )]
    NotNewer {
        /// Name of the model.
        model: ModelName,
        /// Version of the order.
        version: Version,
        /// Version that is current now.
        current: Version,
    },
    /// A later rollout of the model follows.
    #[error("rollout {later} of the model is later: act on that one")]
    NotNewest {
        /// Number of the later rollout.
        later: RolloutId,
    },
    /// There is no version to return to.
    #[error("{0} had no current version before this rollout: there is nothing to return to")]
    NoWayBack(ModelName),
    /// Too many rollouts have not ended.
    #[error("{ACTIVE_MAX} rollouts have not ended: abort one first")]
    TooMany,
    /// The state does not allow the verb.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// No device has the name.
    #[error("no device is called {0}")]
    UnknownDevice(DeviceId),
    /// There is no such model or version, or nothing can be published.
    #[error(transparent)]
    Version(#[from] PublishError),
    /// The store cannot be used.
    #[error("store the rollout")]
    Store(#[from] StoreError),
}

fn join(mistakes: &[SpecError]) -> String {
    mistakes.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// Rollouts, pins and assigned models.
#[derive(Debug)]
pub struct Rollouts {
    fleet: Arc<Fleet>,
    registry: Arc<Registry>,
    counters: Arc<Counters>,
    deltas: Arc<Deltas>,
    audit: AuditLog,
    rollouts: Table<v1::Rollout>,
    members: Table<v1::RolloutMember>,
    pins: Table<v1::Pin>,
    assignments: Table<v1::Assignment>,
    state: Mutex<State>,
    /// Held by whoever changes anything: orders, verbs, pins and the job.
    writing: tokio::sync::Mutex<()>,
    /// Tracker of the messages in progress.
    notices: TaskTracker,
}

/// Parts that rollouts work with.
#[derive(Debug)]
pub struct Parts {
    /// Devices and their connections.
    pub fleet: Arc<Fleet>,
    /// Registry of models and versions.
    pub registry: Arc<Registry>,
    /// Counters of devices, for gates.
    pub counters: Arc<Counters>,
    /// Deltas, which are made when a rollout begins.
    pub deltas: Arc<Deltas>,
    /// Tracker of the messages in progress.
    pub notices: TaskTracker,
}

/// Everything that is stored, in memory.
#[derive(Debug, Default)]
struct State {
    rollouts: BTreeMap<RolloutId, Rollout>,
    /// Highest number that was ever given to a rollout, as far as the store knows.
    last: u64,
    pins: BTreeMap<(DeviceId, ModelName), PinRecord>,
    assignments: BTreeMap<ModelName, AssignmentRecord>,
    /// Devices that are to be told their pins and assigned models.
    untold: BTreeSet<DeviceId>,
}

impl State {
    fn pinned(&self, device: &DeviceId, model: &ModelName) -> Option<Version> {
        self.pins.get(&(device.clone(), model.clone())).and_then(|pin| pin.version)
    }

    /// Returns the pins of one model, by device.
    fn pins_of(&self, model: &ModelName) -> BTreeMap<DeviceId, Version> {
        let of_model = self.pins.iter().filter(|((_device, pinned), _pin)| pinned == model);
        of_model.filter_map(|((device, _model), pin)| Some((device.clone(), pin.version?))).collect()
    }
}

impl Rollouts {
    /// Reads what is stored.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn open(store: Arc<dyn Store>, parts: Parts) -> Result<Self, StoreError> {
        let Parts { fleet, registry, counters, deltas, notices } = parts;
        let rollouts = Self {
            fleet,
            registry,
            counters,
            deltas,
            audit: AuditLog::new(Arc::clone(&store)),
            rollouts: Table::new(Arc::clone(&store)),
            members: Table::new(Arc::clone(&store)),
            pins: Table::new(Arc::clone(&store)),
            assignments: Table::new(store),
            state: Mutex::default(),
            writing: tokio::sync::Mutex::new(()),
            notices,
        };
        rollouts.restore().await?;
        Ok(rollouts)
    }

    async fn restore(&self) -> Result<(), StoreError> {
        let mut last = 0;
        let mut members: BTreeMap<u64, BTreeMap<DeviceId, rollout::Member>> = BTreeMap::new();
        for (key, member) in self.members.list().await?.records {
            let Some((number, device)) = key.split_once('/') else { continue };
            if let (Ok(number), Ok(device)) = (number.parse(), device.parse()) {
                last = last.max(number);
                members.entry(number).or_default().insert(device, member);
            }
        }
        let mut state = State::default();
        // Members whose rollout is not readable must not take part in a later one of the same number.
        for (_key, mut parts) in self.rollouts.list().await?.records {
            last = last.max(parts.id.0);
            parts.members = members.remove(&parts.id.0).unwrap_or_default();
            state.rollouts.insert(parts.id, Rollout::restored(parts));
        }
        state.last = last;
        for (key, pin) in self.pins.list().await?.records {
            let Some((device, model)) = key.split_once('/') else { continue };
            if let (Ok(device), Ok(model)) = (device.parse(), model.parse()) {
                state.pins.insert((device, model), pin);
            }
        }
        for (model, assignment) in self.assignments.list().await?.records {
            if let Ok(model) = model.parse() {
                state.assignments.insert(model, assignment);
            }
        }
        *self.state() = state;
        self.show_pins();
        self.count();
        Ok(())
    }

    /// Returns the active rollout of a version, or of any version of the model.
    #[must_use]
    pub fn active(&self, model: &ModelName, version: Option<Version>) -> Option<RolloutId> {
        let state = self.state();
        let mut of_model = state.rollouts.values().filter(|rollout| rollout.spec().model == *model);
        let active = of_model.find(|rollout| {
            rollout.state().is_active() && version.is_none_or(|version| rollout.spec().version == version)
        });
        active.map(Rollout::id)
    }

    /// Returns the devices on which an operator keeps a version of a model.
    #[must_use]
    pub fn pinned_to(&self, model: &ModelName, version: Version) -> Vec<DeviceId> {
        let pins = self.state().pins_of(model);
        pins.into_iter().filter(|(_device, pinned)| *pinned == version).map(|(device, _pinned)| device).collect()
    }

    /// Returns whether an operator keeps a version of a model on a device.
    #[must_use]
    pub fn is_pinned(&self, device: &DeviceId, model: &ModelName) -> bool {
        self.state().pinned(device, model).is_some()
    }

    /// Returns the newest rollout of a model that is active, or was the last one.
    fn find(&self, name: &str) -> Option<RolloutId> {
        let state = self.state();
        if let Ok(id) = name.parse::<RolloutId>() {
            return state.rollouts.contains_key(&id).then_some(id);
        }
        let mut of_model = state.rollouts.values().rev().filter(|rollout| rollout.spec().model.as_str() == name);
        of_model.next().map(Rollout::id)
    }

    /// Passes the pins to the fleet, which shows them.
    fn show_pins(&self) {
        let pins = {
            let state = self.state();
            let pins = state.pins.iter().filter_map(|(of, pin)| Some((of.clone(), pin.version?)));
            pins.collect()
        };
        self.fleet.note_pins(pins);
    }

    /// Counts the rollouts by state for the metrics.
    fn count(&self) {
        let state = self.state();
        for name in rollout::State::NAMES {
            let count = state.rollouts.values().filter(|rollout| rollout.state().as_str() == name).count();
            telemetry::metrics::rollouts(name, u32::try_from(count).unwrap_or(u32::MAX));
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the key of a rollout: ordered by number, also as text.
fn key(id: RolloutId) -> String {
    format!("{:020}", id.0)
}

fn member_key(id: RolloutId, device: &DeviceId) -> String {
    format!("{:020}/{device}", id.0)
}
