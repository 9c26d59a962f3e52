//! The engines of this device, in order of preference, and what becomes of them.
//!
//! Opened by [`crate::agent`] from the configuration; asked by the updaters for who may run a version. An engine whose
//! device is lost is not asked until [`reopen`] has opened it again; the next engine serves meanwhile.

pub mod host;
#[cfg(feature = "wgpu")]
mod pipelines;
pub mod reopen;
#[cfg(feature = "wgpu")]
mod wgpu;

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use engine::{Engine, EngineDescription, HostStatus, Isolation, LibrarySearch, OrtEngine};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use types::{EngineName, ModelName, Version};

use crate::config::AgentConfig;
use crate::state::Folder;

#[cfg(feature = "wgpu")]
pub use wgpu::{LOST_AFTER_VARIABLE, adapter_choice, adapters};

/// State of an engine of this device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineStatus {
    /// Name of the engine.
    pub engine: EngineName,
    /// `ready`, `lost` (its device is gone) or `missing` (it did not open).
    pub state: String,
    /// Reason if it is lost or missing.
    pub problem: Option<String>,
    /// Description of the engine; `None` when it did not open.
    pub description: Option<EngineDescription>,
    /// Its child processes; empty when it runs inside the agent.
    #[serde(default)]
    pub hosts: Vec<HostStatus>,
    /// Number of times it was opened again after its device was lost.
    #[serde(default)]
    pub reopened: u64,
}

impl EngineStatus {
    /// Returns whether it can load models.
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
    opened: RwLock<Opened>,
}

/// An engine as it was opened last.
#[derive(Clone)]
struct Opened {
    engine: Result<Arc<dyn Engine>, String>,
    /// Number of times it was opened again.
    reopened: u64,
}

impl Slot {
    fn new(name: EngineName, engine: Result<Arc<dyn Engine>, String>) -> Self {
        Self { name, opened: RwLock::new(Opened { engine, reopened: 0 }) }
    }

    fn opened(&self) -> Opened {
        self.opened.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The engine, while it can load models.
    fn usable(&self) -> Option<Arc<dyn Engine>> {
        self.opened().engine.ok().filter(|engine| engine.lost().is_none())
    }

    fn status(&self) -> EngineStatus {
        let Opened { engine: opened, reopened } = self.opened();
        let (state, problem) = match &opened {
            Err(problem) => ("missing", Some(problem.clone())),
            Ok(engine) => match engine.lost() {
                Some(why) => ("lost", Some(why)),
                None => ("ready", None),
            },
        };
        let description = opened.as_ref().ok().map(|engine| engine.describe());
        let hosts = opened.as_ref().map(|engine| engine.hosts()).unwrap_or_default();
        EngineStatus { engine: self.name, state: state.to_owned(), problem, description, hosts, reopened }
    }
}

/// Opens an engine by its name, once more.
type Opener = Box<dyn Fn(EngineName) -> Result<Arc<dyn Engine>, String> + Send + Sync>;

/// The engines of this device.
pub struct Engines {
    slots: Vec<Slot>,
    /// Engines of `engine.engines`; other slots are for the models that name them.
    order: Vec<EngineName>,
    opener: Opener,
    /// Counts the engines that were opened again.
    returns: watch::Sender<u64>,
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
        let slots = config.engines_wanted().into_iter().map(|name| Slot::new(name, open(name))).collect();
        let (again, folder) = (config.clone(), folder.clone());
        let opener: Opener = Box::new(move |name| match name {
            EngineName::Ort => open_ort(&again),
            EngineName::Wgpu => open_wgpu(&again, &folder),
            EngineName::Fake => Err("is for tests alone".to_owned()),
        });
        let engines = Self::of(slots, config.engine.engines.clone(), opener);
        engines.demand(config)?;
        for slot in &engines.slots {
            match &slot.opened().engine {
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
        let opener: Opener = Box::new(|_name| Err("it is the only one there is".to_owned()));
        Self::of(vec![Slot::new(name, Ok(engine))], vec![name], opener)
    }

    fn of(slots: Vec<Slot>, order: Vec<EngineName>, opener: Opener) -> Self {
        let (returns, _nobody_yet) = watch::channel(0);
        Self { slots, order, opener, returns }
    }

    /// Notifies of every engine that is opened again from now on.
    #[must_use]
    pub fn returns(&self) -> watch::Receiver<u64> {
        self.returns.subscribe()
    }

    /// The engines of the configuration.
    fn names(&self) -> Vec<EngineName> {
        self.slots.iter().map(|slot| slot.name).collect()
    }

    /// Opens an engine once more in the place of one whose device was lost. Blocks for as long as its driver takes.
    fn open_again(&self, name: EngineName) -> Result<(), String> {
        let slot = self.slots.iter().find(|slot| slot.name == name).ok_or("it is not configured")?;
        let engine = (self.opener)(name)?;
        {
            let mut opened = slot.opened.write().unwrap_or_else(PoisonError::into_inner);
            let reopened = opened.reopened.saturating_add(1);
            *opened = Opened { engine: Ok(engine), reopened };
        }
        self.returns.send_modify(|count| *count = count.wrapping_add(1));
        Ok(())
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
        let problem = |slot: &Slot| Some(format!("{}: {}", slot.name, slot.opened().engine.err()?));
        let problems: Vec<String> = self.slots.iter().filter_map(problem).collect();
        Err(NoEngine { problems: problems.join("; ") })
    }

    /// The engines that can load a model now, the model's `preferred` one first, then in the configured order; with
    /// `after` only those that come behind that one.
    pub fn usable(
        &self,
        preferred: Option<EngineName>,
        after: Option<EngineName>,
    ) -> impl Iterator<Item = Arc<dyn Engine>> {
        let rest = self.order.iter().copied().filter(move |name| Some(*name) != preferred);
        let names: Vec<EngineName> = preferred.into_iter().chain(rest).collect();
        let passed = after.and_then(|after| names.iter().position(|name| *name == after)).map_or(0, |at| at + 1);
        let slot = |name| self.slots.iter().find(|slot| slot.name == name);
        names.into_iter().skip(passed).filter_map(slot).filter_map(Slot::usable)
    }

    /// Returns the memory in bytes of the child process that runs the sessions of one load on an engine alone; `None` if
    /// they run elsewhere or beside others.
    #[must_use]
    pub fn memory_of_load(&self, load: &str, engine: EngineName) -> Option<u64> {
        self.memory_of(|slot| slot.name == engine, |name| name == load)
    }

    /// Returns the memory in bytes of a child process that runs sessions of one version, in any variant, alone.
    #[must_use]
    pub fn memory_of_version(&self, model: &ModelName, version: Version) -> Option<u64> {
        let load = format!("{model}/{version}");
        let is_of = |name: &str| name.strip_prefix(&load).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        self.memory_of(|_any_engine| true, is_of)
    }

    fn memory_of(&self, is_on: impl Fn(&Slot) -> bool, is_of: impl Fn(&str) -> bool) -> Option<u64> {
        let engines = self.slots.iter().filter(|slot| is_on(slot)).filter_map(|slot| slot.opened().engine.ok());
        let mut alone = engines.flat_map(|engine| engine.hosts()).filter(|host| {
            let is_alone = host.sessions.iter().all(|name| is_of(name));
            is_alone && !host.sessions.is_empty()
        });
        crate::memory::resident(alone.next()?.pid?)
    }

    /// Whether the device under this engine is gone.
    #[must_use]
    pub fn lost(&self, name: EngineName) -> Option<String> {
        self.slots.iter().find(|slot| slot.name == name)?.opened().engine.ok()?.lost()
    }

    /// Returns the engines that can run models now, for the greeting.
    #[must_use]
    pub fn describe(&self) -> Vec<EngineDescription> {
        self.slots.iter().filter_map(Slot::usable).map(|engine| engine.describe()).collect()
    }

    /// Returns the state of every engine.
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
            Slot::new(name, opened.map(engine).map_err(str::to_owned))
        };
        let opener: Opener = Box::new(|name| Ok(Arc::new(Named(name, None))));
        Engines::of(slots.into_iter().map(slot).collect(), order.to_vec(), opener)
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
        // Opened again, it goes first as before, and whoever waits for it is told.
        let mut returns = lost.returns();
        lost.open_again(Wgpu).unwrap();
        assert_eq!(names(&lost, None, None), [Wgpu, Ort]);
        assert_eq!(lost.status()[0].reopened, 1);
        assert!(returns.has_changed().unwrap());
        returns.mark_unchanged();
        assert!(lost.open_again(EngineName::Fake).is_err());
        assert!(!returns.has_changed().unwrap());
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
