//! What the hub knows of one device: presence, what it follows, how each version fares there.

use std::collections::BTreeMap;

use types::update::Stage;
use types::{Digest, EngineName, ModelName, VariantName, Version};

use super::clones::Cloned;

/// Most models whose status is kept for one device. A device with more names is broken or hostile.
pub const MODELS_MAX: usize = 256;

/// Most versions of one model whose progress is kept for one device; the lowest numbers go first.
pub const VERSIONS_MAX: usize = 16;

/// Longest cause in bytes that is kept of a report; it is stored and shown in a table.
pub const CAUSE_BYTES_MAX: usize = 1024;

/// Maximum length in bytes of a provider that is kept; names of providers are short, and it is stored and shown in a table.
const PROVIDER_BYTES_MAX: usize = 256;

/// A version on a device, as the device says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installed {
    /// Number of the version.
    pub version: Version,
    /// The form of it.
    pub variant: VariantName,
    /// Digest of its model file.
    pub digest: Digest,
}

/// A model that a device follows, as it greets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Follows {
    /// Name of the model.
    pub model: ModelName,
    /// Version and variant that serve on the device.
    pub active: Option<Installed>,
    /// Version and variant that the device can roll back to.
    pub previous: Option<Installed>,
}

/// Greeting of a device on a new connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Greeting {
    /// Version of the agent.
    pub agent_version: String,
    /// System and engines, as the device says.
    pub machine: Machine,
    /// Models that the device follows.
    pub models: Vec<Follows>,
}

/// Engine of a device, as it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineOfDevice {
    /// Name, like `ort`.
    pub name: String,
    /// Version of its runtime.
    pub version: String,
    /// Execution providers or adapters that it can use, best first.
    pub providers: Vec<String>,
}

/// System and engines of a device, as it says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Machine {
    /// Operating system; `None` for agents of 0.1.0.
    pub os: Option<String>,
    /// Processor architecture; `None` for agents of 0.1.0.
    pub arch: Option<String>,
    /// Engines, best first.
    pub engines: Vec<EngineOfDevice>,
}

/// State of an update, with the reason of a failure for the operator.
pub type Outcome = types::update::Outcome<(), String>;

/// A device's report on one version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Name of the model.
    pub model: ModelName,
    /// Number of the version.
    pub version: Version,
    /// Variant of the version, once the device has chosen one.
    pub variant: Option<VariantName>,
    /// Stage that the update has reached.
    pub stage: Stage,
    /// Outcome of the update so far.
    pub outcome: Outcome,
    /// With [`Outcome::Active`]: what serves, where the report says so.
    pub installed: Option<Installed>,
}

/// Session that serves a model on a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    /// Version that serves.
    pub version: Version,
    /// Engine of its session.
    pub engine: EngineName,
    /// Execution provider that runs it, as the engine names it.
    pub provider: String,
}

/// Alarm of a device: the scores of a version have left the distribution of its calibration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DriftAlarm {
    /// Version whose scores have changed.
    pub version: Version,
    /// Whether scores are lower than in the calibration; otherwise they are higher.
    pub is_less_sure: bool,
    /// Time at which the alarm was raised, in seconds of the device's Unix clock.
    pub since_unix_s: u64,
}

/// The last that was heard of a version on a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// Variant of the version, once the device has chosen one.
    pub variant: Option<VariantName>,
    /// Stage that the update has reached.
    pub stage: Stage,
    /// Outcome of the update so far.
    pub outcome: Outcome,
    /// Time in seconds of the hub's Unix clock.
    pub at_unix_s: u64,
}

/// Presence of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// Never heard of since it was enrolled.
    Never,
    /// The device is not connected.
    Away {
        /// Since when, in seconds of the hub's Unix clock.
        since_unix_s: u64,
    },
    /// Connected. After a restart of the hub: was connected.
    Online {
        /// Since when, in seconds of the hub's Unix clock.
        since_unix_s: u64,
    },
}

impl Presence {
    /// Returns the time of the last connection or disconnection in seconds of the hub's Unix clock; 0 if there was none.
    #[must_use]
    pub fn since_unix_s(self) -> u64 {
        match self {
            Self::Never => 0,
            Self::Away { since_unix_s } | Self::Online { since_unix_s } => since_unix_s,
        }
    }
}

/// State of one device as the hub knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Whether it is connected.
    pub presence: Presence,
    /// Version of its agent, once greeted.
    pub agent_version: Option<String>,
    /// System and engines, once greeted.
    pub machine: Machine,
    /// The last time that two machines were seen to share its identity.
    pub cloned: Option<Cloned>,
    /// Boxed: a node of the map has room for eleven entries, and most devices follow one model.
    models: BTreeMap<ModelName, Box<Model>>,
}

/// A model on one device.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Model {
    /// Version and variant that serve on the device.
    pub active: Option<Installed>,
    /// Version and variant that the device can roll back to.
    pub previous: Option<Installed>,
    /// Engine and provider that run the active version, where the device said so.
    pub running: Option<Running>,
    /// Alarm of drift that the device has reported and not ended.
    pub drift: Option<DriftAlarm>,
    progress: BTreeMap<Version, Progress>,
}

impl Default for Device {
    fn default() -> Self {
        Self {
            presence: Presence::Never,
            agent_version: None,
            machine: Machine::default(),
            cloned: None,
            models: BTreeMap::new(),
        }
    }
}

impl Device {
    /// Puts back what was stored of a device.
    #[must_use]
    pub fn restored(
        presence: Presence,
        agent_version: Option<String>,
        machine: Machine,
        cloned: Option<Cloned>,
        models: BTreeMap<ModelName, Model>,
    ) -> Self {
        let models = models.into_iter().map(|(name, model)| (name, Box::new(model))).collect();
        Self { presence, agent_version, machine, cloned, models }
    }

    /// Returns the models that it follows, by name.
    pub fn models(&self) -> impl Iterator<Item = (&ModelName, &Model)> {
        self.models.iter().map(|(name, model)| (name, model.as_ref()))
    }

    /// One model it follows.
    #[must_use]
    pub fn model(&self, model: &ModelName) -> Option<&Model> {
        self.models.get(model).map(Box::as_ref)
    }

    /// Takes the greeting as the truth: what it does not name is not followed any more.
    pub(super) fn greet(&mut self, greeting: Greeting) {
        self.agent_version = Some(greeting.agent_version);
        self.machine = greeting.machine;
        let mut known = std::mem::take(&mut self.models);
        for follows in greeting.models.into_iter().take(MODELS_MAX) {
            let Model { progress, running, drift, .. } =
                known.remove(&follows.model).map_or_else(Model::default, |model| *model);
            let model = Model { active: follows.active, previous: follows.previous, running, drift, progress };
            self.models.insert(follows.model, Box::new(model));
        }
    }

    pub(super) fn report(&mut self, report: Report, now_unix_s: u64) {
        // Reports are only about what the greeting named; anything else would grow without bound.
        let Some(model) = self.models.get_mut(&report.model) else { return };
        match &report.outcome {
            Outcome::Active(()) => model.now_serves(report.version, report.installed),
            Outcome::RolledBack(_) => model.went_back(report.version),
            Outcome::Started | Outcome::Retrying(_) | Outcome::Rejected(_) | Outcome::Superseded { .. } => {}
        }
        let progress = Progress {
            variant: report.variant,
            stage: report.stage,
            outcome: bounded(report.outcome),
            at_unix_s: now_unix_s,
        };
        model.progress.insert(report.version, progress);
        while model.progress.len() > VERSIONS_MAX {
            model.progress.pop_first();
        }
    }

    /// Takes what runs on the device; models that the greeting did not name are ignored.
    pub(super) fn runs(&mut self, running: Vec<(ModelName, Running)>) {
        self.models.values_mut().for_each(|model| model.running = None);
        for (name, mut running) in running {
            running.provider.truncate(running.provider.floor_char_boundary(PROVIDER_BYTES_MAX));
            if let Some(model) = self.models.get_mut(&name) {
                model.running = Some(running);
            }
        }
    }

    /// Takes the alarms of drift that stand; models that the greeting did not name are ignored.
    pub(super) fn drifts(&mut self, alarms: Vec<(ModelName, DriftAlarm)>) {
        self.models.values_mut().for_each(|model| model.drift = None);
        for (name, alarm) in alarms {
            if let Some(model) = self.models.get_mut(&name) {
                model.drift = Some(alarm);
            }
        }
    }

    /// Notes that the device fetches a version, where the device itself has not said so.
    pub(super) fn takes(&mut self, model: &ModelName, version: Version, now_unix_s: u64) {
        let known = self.models.get(model).and_then(|model| model.progress(version));
        if known.is_some_and(|progress| !progress.has_ended_without_it()) {
            return;
        }
        let (stage, outcome) = (Stage::Fetching, Outcome::Started);
        let report = Report { model: model.clone(), version, variant: None, stage, outcome, installed: None };
        self.report(report, now_unix_s);
    }

    /// Forgets a version that was withdrawn.
    pub(super) fn forget(&mut self, model: &ModelName, version: Version) -> bool {
        self.models.get_mut(model).is_some_and(|model| model.progress.remove(&version).is_some())
    }

    pub(super) fn forget_refusal(&mut self, model: &ModelName, version: Version) {
        if let Some(model) = self.models.get_mut(model)
            && model.progress(version).is_some_and(Progress::is_given_up)
        {
            model.progress.remove(&version);
        }
    }
}

impl Model {
    /// Puts back what was stored of a model.
    #[must_use]
    pub fn restored(
        active: Option<Installed>,
        previous: Option<Installed>,
        progress: BTreeMap<Version, Progress>,
    ) -> Self {
        Self { active, previous, running: None, drift: None, progress }
    }

    /// Returns what runs the active version, where the device said so.
    #[must_use]
    pub fn running_active(&self) -> Option<&Running> {
        let active = self.active.as_ref()?.version;
        self.running.as_ref().filter(|running| running.version == active)
    }

    /// Returns the alarm of drift about the version that serves.
    #[must_use]
    pub fn drift_of_active(&self) -> Option<DriftAlarm> {
        let active = self.active.as_ref()?.version;
        self.drift.filter(|alarm| alarm.version == active)
    }

    /// The last that was heard of a version.
    #[must_use]
    pub fn progress(&self, version: Version) -> Option<&Progress> {
        self.progress.get(&version)
    }

    /// Every version of which something was heard, lowest first.
    pub fn history(&self) -> impl Iterator<Item = (Version, &Progress)> {
        self.progress.iter().map(|(version, progress)| (*version, progress))
    }

    /// Returns whether offering this version makes sense: it is above what serves, and was not given up.
    #[must_use]
    pub fn wants(&self, version: Version) -> bool {
        let above = self.active.as_ref().is_none_or(|active| active.version < version);
        above && !self.progress(version).is_some_and(Progress::is_given_up)
    }

    /// Returns whether the device has this version, or may have it: it fetched the manifest and did not say that it gave up.
    #[must_use]
    pub fn may_have(&self, version: Version) -> bool {
        let named = |installed: &Option<Installed>| installed.as_ref().is_some_and(|known| known.version == version);
        let fetched = self.progress(version).is_some_and(|progress| !progress.has_ended_without_it());
        named(&self.active) || named(&self.previous) || fetched
    }

    /// Returns whether the device holds this version, or is installing it and has not said how that ended.
    #[must_use]
    pub fn keeps(&self, version: Version) -> bool {
        let named = |installed: &Option<Installed>| installed.as_ref().is_some_and(|known| known.version == version);
        named(&self.active) || named(&self.previous) || self.progress(version).is_some_and(Progress::is_under_way)
    }

    /// A late report on a version that was replaced since changes nothing.
    fn now_serves(&mut self, version: Version, installed: Option<Installed>) {
        let newer = self.active.as_ref().is_none_or(|active| active.version < version);
        let Some(installed) = installed.filter(|installed| newer && installed.version == version) else { return };
        self.previous = self.active.replace(installed);
    }

    /// The device has left a version that served: the previous one serves again, as far as the hub knows. The next greeting
    /// says it exactly.
    fn went_back(&mut self, version: Version) {
        if self.active.as_ref().is_some_and(|active| active.version == version) {
            self.active = self.previous.take();
        }
    }
}

impl Progress {
    /// Returns whether the device takes the version again only when an operator asks for it.
    fn is_given_up(&self) -> bool {
        matches!(self.outcome, Outcome::Rejected(_) | Outcome::RolledBack(_))
    }

    /// Returns whether the device has not said how its update ended.
    fn is_under_way(&self) -> bool {
        matches!(self.outcome, Outcome::Started | Outcome::Retrying(_))
    }

    /// Returns whether the device has said that it does not have the version.
    fn has_ended_without_it(&self) -> bool {
        matches!(self.outcome, Outcome::Rejected(_) | Outcome::Superseded { .. })
    }
}

/// Cuts a reason that is too long at a character.
fn bounded(outcome: Outcome) -> Outcome {
    outcome.map(
        |()| (),
        |mut reason| {
            reason.truncate(reason.floor_char_boundary(CAUSE_BYTES_MAX));
            reason
        },
    )
}
