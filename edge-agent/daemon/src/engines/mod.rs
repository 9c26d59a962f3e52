//! The engines of this device, in order of preference, and what becomes of them.
//!
//! Opened by [`crate::agent`] from the configuration; asked by the updaters for who may run a version. An engine whose
//! device is lost is not asked again until the agent restarts: a GPU that was lost once is likely to be lost again, and
//! the next engine serves meanwhile.

pub mod host;
#[cfg(feature = "wgpu")]
mod pipelines;
#[cfg(feature = "wgpu")]
mod wgpu;

use std::fmt;
use std::sync::Arc;

use engine::{Engine, EngineDescription, HostStatus, Isolation, LibrarySearch, OrtEngine};
use serde::{Deserialize, Serialize};
use types::EngineName;

use crate::config::AgentConfig;
use crate::state::Folder;

#[cfg(feature = "wgpu")]
pub use wgpu::{LOST_AFTER_VARIABLE, adapter_choice, adapters};

/// How an engine of this device stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineStatus {
    /// Which engine.
    pub engine: EngineName,
    /// `ready`, `lost` (its device is gone) or `missing` (it did not open).
    pub state: String,
    /// Why it is lost or missing.
    pub problem: Option<String>,
    /// What it is made of; `None` when it did not open.
    pub description: Option<EngineDescription>,
    /// Its child processes; empty when it runs inside the agent.
    #[serde(default)]
    pub hosts: Vec<HostStatus>,
}

impl EngineStatus {
    /// Whether it can load models.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.state == "ready"
    }
}

/// No engine could be opened for a model.
#[derive(Debug, Clone, thiserror::Error)]
#[error("no engine can run models here: {problems}")]
pub struct NoEngine {
    problems: String,
}

impl NoEngine {
    /// A driver broke off while it was opened.
    pub(crate) fn interrupted() -> Self {
        Self { problems: "a driver broke off while it was opened".to_owned() }
    }
}

/// ONNX Runtime, opened or not; `None` when nobody wants it.
///
/// Opened apart from the others, because that changes the environment of the process and must happen before there are
/// threads.
#[derive(Debug)]
pub struct Runtime(Option<Result<Arc<dyn Engine>, String>>);

impl Runtime {
    /// Opens ONNX Runtime if the configuration wants it. Call it before the process has threads.
    #[must_use]
    pub fn open(config: &AgentConfig) -> Self {
        Self(config.engines_wanted().contains(&EngineName::Ort).then(|| open_ort(config)))
    }
}

/// Opens ONNX Runtime where the configuration wants it: in a child process, or here.
///
/// # Errors
/// What the library or the child process said.
pub(crate) fn open_ort(config: &AgentConfig) -> Result<Arc<dyn Engine>, String> {
    if config.engine.isolation == Isolation::Process {
        return host::open_ort(&config.engine);
    }
    let search = LibrarySearch { configured: config.engine.onnxruntime.clone() };
    match OrtEngine::open(&search) {
        Ok(engine) => Ok(Arc::new(engine)),
        Err(error) => Err(telemetry::chain(&error)),
    }
}

/// One engine of the configuration.
struct Slot {
    name: EngineName,
    opened: Result<Arc<dyn Engine>, String>,
}

impl Slot {
    /// The engine, while it can load models.
    fn usable(&self) -> Option<&Arc<dyn Engine>> {
        self.opened.as_ref().ok().filter(|engine| engine.lost().is_none())
    }

    fn status(&self) -> EngineStatus {
        let (state, problem) = match &self.opened {
            Err(problem) => ("missing", Some(problem.clone())),
            Ok(engine) => match engine.lost() {
                Some(why) => ("lost", Some(why)),
                None => ("ready", None),
            },
        };
        let description = self.opened.as_ref().ok().map(|engine| engine.describe());
        let hosts = self.opened.as_ref().map(|engine| engine.hosts()).unwrap_or_default();
        EngineStatus { engine: self.name, state: state.to_owned(), problem, description, hosts }
    }
}

/// The engines of this device.
pub struct Engines {
    slots: Vec<Slot>,
    /// What `engine.engines` says; other slots are for the models that name them.
    order: Vec<EngineName>,
}

impl fmt::Debug for Engines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.slots.iter().map(Slot::status)).finish()
    }
}

impl Engines {
    /// Opens the engines that the configuration wants. Blocks for as long as the drivers take.
    ///
    /// # Errors
    /// When for some model not one of its engines opens. One that does not open beside another that does is logged.
    pub fn open(config: &AgentConfig, runtime: Runtime, folder: &Folder) -> Result<Self, NoEngine> {
        let mut runtime = runtime.0;
        let mut open = |name| match name {
            EngineName::Ort => runtime.take().unwrap_or_else(|| Err("it was not opened".to_owned())),
            EngineName::Wgpu => open_wgpu(config, folder),
            // The configuration refuses it.
            EngineName::Fake => Err("is for tests alone".to_owned()),
        };
        let slots = config.engines_wanted().into_iter().map(|name| Slot { name, opened: open(name) }).collect();
        let engines = Self { slots, order: config.engine.engines.clone() };
        engines.demand(config)?;
        for slot in &engines.slots {
            match &slot.opened {
                Ok(engine) => tracing::info!(engine = %slot.name, providers = ?engine.describe().providers, "engine"),
                Err(error) => tracing::warn!(engine = %slot.name, error, "an engine cannot be had: others do its work"),
            }
        }
        Ok(engines)
    }

    /// One engine and no other.
    #[must_use]
    pub fn only(engine: Arc<dyn Engine>) -> Self {
        let name = engine.name();
        Self { slots: vec![Slot { name, opened: Ok(engine) }], order: vec![name] }
    }

    /// Each model must have somebody to run it, and without models at least the order must.
    fn demand(&self, config: &AgentConfig) -> Result<(), NoEngine> {
        let without = |preferred| self.usable(preferred, None).next().is_none();
        let is_short = match config.models.is_empty() {
            true => without(None),
            false => config.models.values().any(|model| without(model.engine)),
        };
        if !is_short {
            return Ok(());
        }
        let problem = |slot: &Slot| Some(format!("{}: {}", slot.name, slot.opened.as_ref().err()?));
        let problems: Vec<String> = self.slots.iter().filter_map(problem).collect();
        Err(NoEngine { problems: problems.join("; ") })
    }

    /// The engines that can load a model now, the model's `preferred` one first, then in the configured order; with
    /// `after` only those that come behind that one.
    pub fn usable(
        &self,
        preferred: Option<EngineName>,
        after: Option<EngineName>,
    ) -> impl Iterator<Item = &Arc<dyn Engine>> {
        let rest = self.order.iter().copied().filter(move |name| Some(*name) != preferred);
        let names: Vec<EngineName> = preferred.into_iter().chain(rest).collect();
        let passed = after.and_then(|after| names.iter().position(|name| *name == after)).map_or(0, |at| at + 1);
        let slot = |name| self.slots.iter().find(|slot| slot.name == name);
        names.into_iter().skip(passed).filter_map(slot).filter_map(Slot::usable)
    }

    /// Whether the device under this engine is gone.
    #[must_use]
    pub fn lost(&self, name: EngineName) -> Option<String> {
        self.slots.iter().find(|slot| slot.name == name)?.opened.as_ref().ok()?.lost()
    }

    /// What can run models now, for the greeting.
    #[must_use]
    pub fn describe(&self) -> Vec<EngineDescription> {
        self.slots.iter().filter_map(Slot::usable).map(|engine| engine.describe()).collect()
    }

    /// How every engine stands.
    #[must_use]
    pub fn status(&self) -> Vec<EngineStatus> {
        self.slots.iter().map(Slot::status).collect()
    }
}

#[cfg(feature = "wgpu")]
fn open_wgpu(config: &AgentConfig, folder: &Folder) -> Result<Arc<dyn Engine>, String> {
    if config.engine.isolation == Isolation::Process {
        return host::open_wgpu(&config.engine, folder);
    }
    match wgpu::DeviceEngine::open(&config.engine.wgpu, Some(folder), None) {
        Ok(engine) => Ok(Arc::new(engine)),
        Err(error) => Err(telemetry::chain(&error)),
    }
}

#[cfg(not(feature = "wgpu"))]
fn open_wgpu(_config: &AgentConfig, _folder: &Folder) -> Result<Arc<dyn Engine>, String> {
    Err("this build is without it".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::{FakeEngine, LoadError, LoadOptions, ModelBytes, Session};

    /// An engine under another name, whose device may be gone.
    #[derive(Debug)]
    struct Named(EngineName, Option<String>);

    impl Engine for Named {
        fn name(&self) -> EngineName {
            self.0
        }

        fn describe(&self) -> EngineDescription {
            EngineDescription { engine: self.0, ..FakeEngine::new(1).describe() }
        }

        fn load(&self, model: ModelBytes, options: &LoadOptions) -> Result<Box<dyn Session>, LoadError> {
            FakeEngine::new(1).load(model, options)
        }

        fn lost(&self) -> Option<String> {
            self.1.clone()
        }
    }

    fn engines(slots: Vec<(EngineName, Result<Option<&str>, &str>)>, order: &[EngineName]) -> Engines {
        let slot = |(name, opened): (EngineName, Result<Option<&str>, &str>)| {
            let engine = |lost: Option<&str>| Arc::new(Named(name, lost.map(str::to_owned))) as Arc<dyn Engine>;
            Slot { name, opened: opened.map(engine).map_err(str::to_owned) }
        };
        Engines { slots: slots.into_iter().map(slot).collect(), order: order.to_vec() }
    }

    fn names(engines: &Engines, preferred: Option<EngineName>, after: Option<EngineName>) -> Vec<EngineName> {
        engines.usable(preferred, after).map(|engine| engine.name()).collect()
    }

    use EngineName::{Ort, Wgpu};

    #[test]
    fn a_models_own_choice_goes_first_and_the_others_stand_by() {
        let both = engines(vec![(Ort, Ok(None)), (Wgpu, Ok(None))], &[Ort, Wgpu]);
        assert_eq!(names(&both, None, None), [Ort, Wgpu]);
        assert_eq!(names(&both, Some(Wgpu), None), [Wgpu, Ort]);
        assert_eq!(names(&both, Some(Wgpu), Some(Wgpu)), [Ort]);
        assert_eq!(names(&both, None, Some(Wgpu)), []);
    }

    #[test]
    fn what_is_lost_or_missing_is_passed_over_and_told() {
        let lost = engines(vec![(Wgpu, Ok(Some("unplugged"))), (Ort, Ok(None))], &[Wgpu, Ort]);
        assert_eq!(names(&lost, None, None), [Ort]);
        assert_eq!(lost.lost(Wgpu).as_deref(), Some("unplugged"));
        let states: Vec<String> = lost.status().into_iter().map(|status| status.state).collect();
        assert_eq!(states, ["lost", "ready"]);
        assert_eq!(lost.describe().len(), 1);
    }

    #[test]
    fn an_engine_that_is_missing_matters_only_to_models_that_have_no_other() {
        let no_ort = engines(vec![(Wgpu, Ok(None)), (Ort, Err("no library"))], &[Wgpu, Ort]);
        let mut config = AgentConfig::default();
        config.engine.engines = vec![Wgpu, Ort];
        assert!(no_ort.demand(&config).is_ok());
        let none = engines(vec![(Ort, Err("no library"))], &[Ort]);
        assert_eq!(none.demand(&config).unwrap_err().to_string(), "no engine can run models here: ort: no library");
    }
}
