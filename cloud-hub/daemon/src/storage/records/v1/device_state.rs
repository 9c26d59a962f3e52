//! The record of what a device said of itself.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use hub_core::fleet::{self, Cloned, EngineOfDevice, Machine, Presence};
use serde::{Deserialize, Serialize};
use store::Record;
use types::update::Stage;
use types::{Digest, EngineName, ModelName, VariantName, Version};

use crate::storage::values::StoredState;

/// State of a device as it last reported it, under its name. It decides nothing about the rights of the device.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DeviceState {
    device: Device,
    #[serde(default)]
    certificate_until_unix_s: Option<u64>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Device {
    presence: DevicePresence,
    agent_version: Option<String>,
    #[serde(default)]
    cloned: Option<CloneNotice>,
    /// Operating system; agents of 0.1.0 do not send it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    os: Option<String>,
    /// Processor architecture; agents of 0.1.0 do not send it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    arch: Option<String>,
    /// Engines; hubs of 0.1.0 did not store them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    engines: Vec<Engine>,
    models: BTreeMap<ModelName, Model>,
}

/// An engine of a device.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Engine {
    name: String,
    version: String,
    #[serde(default)]
    providers: Vec<String>,
}

/// Connection state of a device.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum DevicePresence {
    Never,
    Away { since_unix_s: u64 },
    Online { since_unix_s: u64 },
}

/// Two machines with the identity of one device.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct CloneNotice {
    addresses: [SocketAddr; 2],
    first_unix_s: u64,
    last_unix_s: u64,
}

/// A model on a device.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Model {
    active: Option<Installed>,
    previous: Option<Installed>,
    progress: BTreeMap<Version, Progress>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    running: Option<Running>,
    /// Alarm of drift; devices before 0.2.0 do not report it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    drift: Option<Drift>,
}

/// Alarm of drift.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Drift {
    version: Version,
    is_less_sure: bool,
    since_unix_s: u64,
}

/// Session that serves a model.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Running {
    version: Version,
    engine: EngineName,
    provider: String,
}

/// A version on a device.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Installed {
    version: Version,
    variant: VariantName,
    digest: Digest,
}

/// The last that was heard of a version.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Progress {
    variant: Option<VariantName>,
    stage: String,
    outcome: Outcome,
    at_unix_s: u64,
    /// With [`Outcome::Refused`]: the version that serves, where it was not taken because it is older.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    superseded_by: Option<Version>,
    /// With [`Outcome::Refused`]: whether it has served before.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    rolled_back: bool,
}

/// State of an update at its stage, in the words of the first release.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Outcome {
    Running,
    Active,
    Delayed { cause: String },
    Refused { cause: String },
}

impl Record for DeviceState {
    type Value = StoredState;
    const TABLE: &'static str = "device-state";

    fn from_value(value: &StoredState) -> Self {
        let StoredState { device, certificate_until_unix_s } = value;
        let models = device.models().map(|(name, model)| (name.clone(), Model::from(model))).collect();
        let presence = match device.presence {
            Presence::Never => DevicePresence::Never,
            Presence::Away { since_unix_s } => DevicePresence::Away { since_unix_s },
            Presence::Online { since_unix_s } => DevicePresence::Online { since_unix_s },
        };
        let cloned = device.cloned.clone().map(|Cloned { addresses, first_unix_s, last_unix_s }| CloneNotice {
            addresses,
            first_unix_s,
            last_unix_s,
        });
        let Machine { os, arch, engines } = device.machine.clone();
        let engines =
            engines.into_iter().map(|EngineOfDevice { name, version, providers }| Engine { name, version, providers });
        let engines = engines.collect();
        let device =
            Device { presence, agent_version: device.agent_version.clone(), cloned, os, arch, engines, models };
        Self { device, certificate_until_unix_s: *certificate_until_unix_s }
    }

    fn into_value(self) -> Result<StoredState, String> {
        let Device { presence, agent_version, cloned, os, arch, engines, models } = self.device;
        let engines =
            engines.into_iter().map(|Engine { name, version, providers }| EngineOfDevice { name, version, providers });
        let machine = Machine { os, arch, engines: engines.collect() };
        let presence = match presence {
            DevicePresence::Never => Presence::Never,
            DevicePresence::Away { since_unix_s } => Presence::Away { since_unix_s },
            DevicePresence::Online { since_unix_s } => Presence::Online { since_unix_s },
        };
        let cloned = cloned.map(|CloneNotice { addresses, first_unix_s, last_unix_s }| Cloned {
            addresses,
            first_unix_s,
            last_unix_s,
        });
        let models = models.into_iter().map(|(name, model)| Ok((name, model.try_into()?)));
        let models = models.collect::<Result<_, String>>()?;
        let device = fleet::Device::restored(presence, agent_version, machine, cloned, models);
        Ok(StoredState { device, certificate_until_unix_s: self.certificate_until_unix_s })
    }
}

impl From<&fleet::Model> for Model {
    fn from(model: &fleet::Model) -> Self {
        let installed = |slot: &Option<fleet::Installed>| slot.as_ref().map(Installed::from);
        let progress = model.history().map(|(version, progress)| (version, Progress::from(progress)));
        let running = model.running.clone();
        Self {
            active: installed(&model.active),
            previous: installed(&model.previous),
            progress: progress.collect(),
            running: running.map(|fleet::Running { version, engine, provider }| Running { version, engine, provider }),
            drift: model.drift.map(|fleet::DriftAlarm { version, is_less_sure, since_unix_s }| Drift {
                version,
                is_less_sure,
                since_unix_s,
            }),
        }
    }
}

impl TryFrom<Model> for fleet::Model {
    type Error = String;

    fn try_from(Model { active, previous, progress, running, drift }: Model) -> Result<Self, String> {
        let progress = progress.into_iter().map(|(version, progress)| Ok((version, progress.try_into()?)));
        let progress = progress.collect::<Result<_, String>>()?;
        let mut model = Self::restored(active.map(Into::into), previous.map(Into::into), progress);
        model.running =
            running.map(|Running { version, engine, provider }| fleet::Running { version, engine, provider });
        model.drift = drift.map(|Drift { version, is_less_sure, since_unix_s }| fleet::DriftAlarm {
            version,
            is_less_sure,
            since_unix_s,
        });
        Ok(model)
    }
}

impl From<&fleet::Installed> for Installed {
    fn from(installed: &fleet::Installed) -> Self {
        let fleet::Installed { version, variant, digest } = installed.clone();
        Self { version, variant, digest }
    }
}

impl From<Installed> for fleet::Installed {
    fn from(Installed { version, variant, digest }: Installed) -> Self {
        Self { version, variant, digest }
    }
}

impl From<&fleet::Progress> for Progress {
    fn from(progress: &fleet::Progress) -> Self {
        let fleet::Progress { variant, stage, outcome, at_unix_s } = progress.clone();
        let (mut superseded_by, mut rolled_back) = (None, false);
        let outcome = match outcome {
            fleet::Outcome::Started => Outcome::Running,
            fleet::Outcome::Active(()) => Outcome::Active,
            fleet::Outcome::Retrying(cause) => Outcome::Delayed { cause },
            fleet::Outcome::Rejected(cause) => Outcome::Refused { cause },
            fleet::Outcome::Superseded { by } => {
                superseded_by = Some(by);
                Outcome::Refused { cause: format!("version {by} serves") }
            }
            fleet::Outcome::RolledBack(cause) => {
                rolled_back = true;
                Outcome::Refused { cause }
            }
        };
        Self { variant, stage: stage.as_str().to_owned(), outcome, at_unix_s, superseded_by, rolled_back }
    }
}

impl TryFrom<Progress> for fleet::Progress {
    type Error = String;

    fn try_from(record: Progress) -> Result<Self, String> {
        let Progress { variant, stage, outcome, at_unix_s, superseded_by, rolled_back } = record;
        let stage = Stage::named(&stage).ok_or_else(|| format!("no stage is called {stage:?}"))?;
        let outcome = match (outcome, superseded_by) {
            (Outcome::Running, _) => fleet::Outcome::Started,
            (Outcome::Active, _) => fleet::Outcome::Active(()),
            (Outcome::Delayed { cause }, _) => fleet::Outcome::Retrying(cause),
            (Outcome::Refused { .. }, Some(by)) => fleet::Outcome::Superseded { by },
            (Outcome::Refused { cause }, None) if rolled_back => fleet::Outcome::RolledBack(cause),
            (Outcome::Refused { cause }, None) => fleet::Outcome::Rejected(cause),
        };
        Ok(Self { variant, stage, outcome, at_unix_s })
    }
}
