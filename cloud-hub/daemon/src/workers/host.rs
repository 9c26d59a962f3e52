//! The hub's engine in child processes: how the hub starts them, and what a child opens.
//!
//! [`open`] runs in the hub, [`serve`] in the child, behind the hidden verb `engine-host`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use engine::{Cause, Engine, HostEvent, HostOptions, LibrarySearch, OrtEngine, ProcessEngine};
use serde::{Deserialize, Serialize};
use types::EngineName;

use crate::config::InferenceTable;

/// Environment variable that tells a child what to log.
const LOG_VARIABLE: &str = "SANDERLING_LOG";

/// What a child opens.
#[derive(Debug, Serialize, Deserialize)]
struct Hosted {
    /// File of ONNX Runtime.
    library: PathBuf,
}

/// Starts a child with ONNX Runtime.
///
/// # Errors
/// When the library is not found, or the child does not start.
pub fn open(inference: &InferenceTable) -> Result<Arc<dyn Engine>, Cause> {
    let library = LibrarySearch { configured: inference.onnxruntime.clone() }.find()?;
    // The child works in another folder.
    let config = serde_json::to_value(Hosted { library: std::path::absolute(library)? })?;
    let mut options = HostOptions {
        memory_max: inference.memory_max_bytes,
        run_limit: inference.run_limit,
        observer: Some(Arc::new(count)),
        ..HostOptions::new(EngineName::Ort, config)
    };
    options.environment.push((LOG_VARIABLE.into(), "warn".into()));
    Ok(Arc::new(ProcessEngine::open(options)?))
}

/// Counts what happens to children.
fn count(event: &HostEvent) {
    match event {
        HostEvent::Restarted { engine } => telemetry::metrics::host_restarted(engine.as_str()),
        HostEvent::Died { engine, cause } => telemetry::metrics::host_died(engine.as_str(), cause.as_str()),
        HostEvent::RequestRefused { model } => telemetry::metrics::request_quarantined(model_of(model)),
        HostEvent::Condemned { model, why: _ } => telemetry::metrics::model_condemned(model_of(model)),
    }
}

/// Name of the model in the name of a session, like `digits` in `digits/3`.
fn model_of(session: &str) -> &str {
    session.split_once('/').map_or(session, |(model, _)| model)
}

/// Runs a child until the hub is gone.
#[must_use]
pub fn serve() -> ExitCode {
    let filter = std::env::var(LOG_VARIABLE).unwrap_or_else(|_unset| "warn".to_owned());
    let config = telemetry::LogConfig { format: telemetry::LogFormat::Text, filter };
    let _log = telemetry::init(config);
    engine::host::serve(|config, _keepsake| {
        let hosted = Hosted::deserialize(config).map_err(|error| telemetry::chain(&error))?;
        match OrtEngine::open(&LibrarySearch { configured: Some(hosted.library) }) {
            Ok(engine) => Ok(Arc::new(engine)),
            Err(error) => Err(telemetry::chain(&error)),
        }
    })
}
