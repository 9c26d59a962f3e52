//! Engines in child processes: how a daemon starts them, and what a child opens.
//!
//! [`options`] is for the daemon, [`serve`] runs in the child, behind the hidden verb `engine-host`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use engine::host::HOST_VERB;
use engine::{Cause, Engine, HostEvent, HostOptions, Keepsake, LibrarySearch, OrtEngine};
use serde::Serialize;
use serde::de::DeserializeOwned;
use types::EngineName;

use crate::logs::LOG_VARIABLE;

/// Log filter of a child.
const CHILD_FILTER: &str = "warn";

/// Finds the library of ONNX Runtime for a child, which works in another folder: the path is absolute.
///
/// # Errors
/// When there is none.
pub fn library(configured: Option<&Path>) -> Result<PathBuf, Cause> {
    let search = LibrarySearch { configured: configured.map(Path::to_owned) };
    Ok(std::path::absolute(search.find()?)?)
}

/// Opens ONNX Runtime in a child.
///
/// # Errors
/// When the library is none, as a text for the daemon.
pub fn open_library(library: PathBuf) -> Result<Arc<dyn Engine>, String> {
    match OrtEngine::open(&LibrarySearch { configured: Some(library) }) {
        Ok(engine) => Ok(Arc::new(engine)),
        Err(error) => Err(telemetry::chain(&error)),
    }
}

/// Returns the options of a child that opens `hosted`; its events are counted in the metrics.
///
/// # Errors
/// When `hosted` does not serialize.
pub fn options(engine: EngineName, hosted: &impl Serialize) -> Result<HostOptions, Cause> {
    let mut options = HostOptions::new(engine, serde_json::to_value(hosted)?);
    options.observer = Some(Arc::new(count));
    options.environment.push((LOG_VARIABLE.into(), CHILD_FILTER.into()));
    Ok(options)
}

fn count(event: &HostEvent) {
    match event {
        HostEvent::Restarted { engine } => telemetry::metrics::host_restarted(engine.as_str()),
        HostEvent::Died { engine, cause } => telemetry::metrics::host_died(engine.as_str(), cause.as_str()),
        HostEvent::RequestRefused { model } => telemetry::metrics::request_quarantined(model_of(model)),
        HostEvent::Condemned { model, why: _ } => telemetry::metrics::model_condemned(model_of(model)),
    }
}

/// Returns the model in the name of a session: `digits` of `digits/3`.
fn model_of(session: &str) -> &str {
    session.split_once('/').map_or(session, |(model, _)| model)
}

/// Runs a child until the daemon is gone; `open` opens the engine that the daemon ordered.
#[must_use]
pub fn serve<T: DeserializeOwned>(
    open: impl FnOnce(T, Option<Keepsake>) -> Result<Arc<dyn Engine>, String>,
) -> ExitCode {
    let filter = std::env::var(LOG_VARIABLE).unwrap_or_else(|_unset| CHILD_FILTER.to_owned());
    let _log = telemetry::init(telemetry::LogConfig { format: telemetry::LogFormat::Text, filter });
    engine::host::serve(|hosted, keepsake| {
        let hosted = T::deserialize(hosted).map_err(|error| format!("read the order of {HOST_VERB}: {error}"))?;
        open(hosted, keepsake)
    })
}
