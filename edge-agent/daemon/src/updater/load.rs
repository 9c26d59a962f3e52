//! From a proven bundle to a version that can serve.

use std::sync::Arc;

use bundle::{Bundle, Verified};
use edge_core::update::{Failure, FailureKind};
use engine::{Engine, HostDeath, LoadError, LoadOptions, ModelBytes, ModelLimits, SessionWorker, WorkerOptions};
use types::{EngineName, Signature, TensorSpec};

use super::attempts::Purpose;
use super::{Attempts, disk, trouble};
use crate::config::EngineTable;
use crate::drift::DriftWatch;
use crate::engines::Engines;
use crate::models::Serving;
use crate::thresholds::ScoreGrid;
use crate::vitals::Vitals;

/// Configuration of loads on this device.
#[derive(Debug, Clone)]
pub struct LoadTable {
    /// Sessions of each model.
    pub sessions: usize,
    /// Requests that may wait.
    pub queue: usize,
    /// Resources of each session.
    pub options: LoadOptions,
}

impl From<&EngineTable> for LoadTable {
    fn from(table: &EngineTable) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let shared_out = (cores / table.sessions.max(1)).max(1);
        Self {
            sessions: table.sessions,
            queue: table.queue,
            options: LoadOptions {
                intra_threads: if table.threads == 0 { shared_out } else { table.threads },
                providers: table.providers.clone(),
                limits: ModelLimits::default(),
                run_limit: Some(table.run_limit),
                ..LoadOptions::default()
            },
        }
    }
}

/// Novelty of a version on this device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trial {
    /// It has not answered its golden inputs on this device: it gets a child process of its own.
    New,
    /// It is measured against another variant of the same version: as [`Self::New`], and its loads are counted apart.
    Compared,
    /// It served here before: it goes to the child process that proven versions share.
    Proven,
}

impl Trial {
    /// Returns the purpose under which its loads are counted.
    pub(super) const fn purpose(self) -> Purpose {
        match self {
            Self::New | Self::Proven => Purpose::Load,
            Self::Compared => Purpose::Form,
        }
    }
}

/// Engines of this device to try.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wanted {
    /// The one to try first; `None` goes by the configured order.
    pub preferred: Option<EngineName>,
    /// Only those behind this one.
    pub after: Option<EngineName>,
    /// Only this one.
    pub only: Option<EngineName>,
}

impl Wanted {
    /// The engines to try for a form that allows `allowed`, in order.
    pub(super) fn among<'a>(
        self,
        engines: &'a Engines,
        allowed: &'a [EngineName],
    ) -> impl Iterator<Item = Arc<dyn Engine>> {
        let is_wanted = move |name| allowed.contains(&name) && self.only.is_none_or(|only| only == name);
        engines.usable(self.preferred, self.after).filter(move |engine| is_wanted(engine.name()))
    }
}

/// Loads a proven bundle on the first engine that its manifest allows and that takes it. Blocks for as long as that takes.
///
/// # Errors
/// What each engine said, when all refuse the model or it is not what its manifest says.
pub fn load(
    engines: &Engines,
    table: &LoadTable,
    attempts: &Attempts,
    bundle: &Bundle<Verified>,
    wanted: Wanted,
    trial: Trial,
) -> Result<Arc<Serving>, Failure> {
    let bytes = bundle.model_bytes().map_err(|error| trouble::of_verify(&error))?;
    // Read and hashed again when a child process starts again, so that nobody keeps the bytes for that.
    let again = bundle.clone();
    let source = Arc::new(move || again.model_bytes().map_err(std::io::Error::other));
    let bytes = ModelBytes::with_source(bytes, source);
    let mut refused: Option<Failure> = None;
    for engine in wanted.among(engines, &bundle.variant().engines) {
        match survive(&engine, table, attempts, bundle, &bytes, trial) {
            Ok(serving) => return Ok(serving),
            Err(failure) => {
                let model = &bundle.manifest().model;
                tracing::warn!(%model, engine = %engine.name(), %failure, "an engine does not load it");
                let told = format!("{}: {}", engine.name(), failure.detail);
                let detail = refused.map_or_else(|| told.clone(), |before| format!("{}; {told}", before.detail));
                refused = Some(Failure { detail, ..failure });
            }
        }
    }
    let none = || {
        let variant = &bundle.variant().name;
        trouble::because(FailureKind::EngineLost, format!("no engine that may run {variant} is left on this device"))
    };
    Err(refused.unwrap_or_else(none))
}

/// Loads a bundle on an engine that it may kill: once more after its first time, and never after its second.
fn survive(
    engine: &Arc<dyn Engine>,
    table: &LoadTable,
    attempts: &Attempts,
    bundle: &Bundle<Verified>,
    bytes: &ModelBytes,
    trial: Trial,
) -> Result<Arc<Serving>, Failure> {
    let purpose = trial.purpose();
    loop {
        attempts.begin(bundle, engine.name(), purpose)?;
        match (load_on(engine, table, bundle, bytes, trial), trial) {
            // It goes on being tried; whoever has it answer its golden inputs says when it is over.
            (Ok(serving), Trial::New | Trial::Compared) => return Ok(serving),
            (Ok(serving), Trial::Proven) => {
                attempts.survived(bundle, engine.name(), purpose);
                return Ok(serving);
            }
            (Err(Refused::Died(death)), _) => {
                tracing::error!(model = %bundle.manifest().model, version = %bundle.manifest().version, %death, "loading it");
                attempts.died(bundle, engine.name(), purpose, death)?;
            }
            (Err(Refused::Failed(failure)), _) => {
                attempts.survived(bundle, engine.name(), purpose);
                return Err(failure);
            }
        }
    }
}

/// Reason of an engine for not loading a bundle.
enum Refused {
    /// Its child process ended.
    Died(HostDeath),
    /// Any other failure.
    Failed(Failure),
}

impl From<Failure> for Refused {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

fn load_on(
    engine: &Arc<dyn Engine>,
    table: &LoadTable,
    bundle: &Bundle<Verified>,
    bytes: &ModelBytes,
    trial: Trial,
) -> Result<Arc<Serving>, Refused> {
    let name = format!("{}/{}", bundle.manifest().model, bundle.manifest().version);
    let options = LoadOptions {
        name: match trial {
            Trial::New | Trial::Proven => name,
            Trial::Compared => format!("{name}/{}", bundle.variant().name),
        },
        trial: trial != Trial::Proven,
        ..table.options.clone()
    };
    let one = |_number| {
        let refused = |error| match (error, engine.lost()) {
            (LoadError::Died(death), _) => Refused::Died(death),
            (error, None) => Refused::Failed(trouble::of_load(&error)),
            (error, Some(_why)) => Refused::Failed(trouble::failure(FailureKind::EngineLost, &error)),
        };
        engine.load(bytes.clone(), &options).map_err(refused)
    };
    let sessions = (0..table.sessions).map(one).collect::<Result<Vec<_>, _>>()?;
    let manifest = bundle.manifest().clone();
    if let Some(session) = sessions.first() {
        check_signature(&manifest.signature(), session.signature())?;
    }
    let name = format!("{}-{}", manifest.model, manifest.version);
    let started = SessionWorker::start_pool(sessions, &WorkerOptions { queue: table.queue, name });
    let session = started.map_err(|error| trouble::failure(FailureKind::NoRoom, &error))?;
    let drift = DriftWatch::of(Some(bundle.variant()));
    let grid = ScoreGrid::of(Some(bundle.variant()));
    Ok(Arc::new(Serving {
        installed: disk::installed(bundle),
        loaded_as: options.name,
        manifest,
        engine: engine.name(),
        on: Arc::clone(engine),
        session,
        vitals: Vitals::default(),
        drift,
        grid,
    }))
}

/// A manifest that promises other inputs or outputs than the model has would mislead every client.
fn check_signature(promised: &Signature, real: &Signature) -> Result<(), Failure> {
    let missing = |promised: &[TensorSpec], real: &[TensorSpec]| {
        let fits = |spec: &&TensorSpec| real.iter().any(|found| found.name == spec.name && found.dtype == spec.dtype);
        promised.iter().find(|spec| !fits(spec)).cloned()
    };
    let wrong = missing(&promised.inputs, &real.inputs)
        .or_else(|| missing(&real.inputs, &promised.inputs))
        .or_else(|| missing(&promised.outputs, &real.outputs));
    match wrong {
        None => Ok(()),
        Some(spec) => {
            let detail = format!("manifest and model file disagree about {spec}");
            Err(trouble::because(FailureKind::ModelRefused, detail))
        }
    }
}
