//! From a proven bundle to a version that can serve.

use std::sync::Arc;

use bundle::{Bundle, Verified};
use edge_core::update::{Failure, FailureKind};
use engine::{Engine, LoadOptions, ModelBytes, ModelLimits, SessionWorker, WorkerOptions};
use types::{Signature, TensorSpec};

use super::{disk, trouble};
use crate::config::EngineTable;
use crate::models::Serving;

/// How models are loaded on this device.
#[derive(Debug, Clone)]
pub struct LoadTable {
    /// Sessions of each model.
    pub sessions: usize,
    /// Requests that may wait.
    pub queue: usize,
    /// What each session gets.
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
            },
        }
    }
}

/// Loads a proven bundle. Blocks for as long as the engine takes.
///
/// # Errors
/// When the model is refused, or is not what its manifest says.
pub fn load(engine: &Arc<dyn Engine>, table: &LoadTable, bundle: &Bundle<Verified>) -> Result<Arc<Serving>, Failure> {
    let bytes = ModelBytes::from(bundle.model_bytes().map_err(|error| trouble::of_verify(&error))?);
    let one = |_number| engine.load(bytes.clone(), &table.options).map_err(|error| trouble::of_load(&error));
    let sessions = (0..table.sessions).map(one).collect::<Result<Vec<_>, _>>()?;
    let manifest = bundle.manifest().clone();
    if let Some(session) = sessions.first() {
        check_signature(&manifest.signature(), session.signature())?;
    }
    let name = format!("{}-{}", manifest.model, manifest.version);
    let started = SessionWorker::start_pool(sessions, &WorkerOptions { queue: table.queue, name });
    let session = started.map_err(|error| trouble::failure(FailureKind::NoRoom, &error))?;
    Ok(Arc::new(Serving { installed: disk::installed(bundle), manifest, engine: engine.name(), session }))
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
