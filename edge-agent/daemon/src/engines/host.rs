//! Engines of this device in child processes: how the agent starts them, and what a child opens.
//!
//! [`open_ort`] and [`open_wgpu`] run in the agent, [`serve`] in the child, behind the hidden verb `engine-host`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use engine::host::{HOST_VERB, Keeper};
use engine::{Engine, HostEvent, HostOptions, Keepsake, LibrarySearch, OrtEngine, ProcessEngine, Provider};
use serde::{Deserialize, Serialize};
use types::EngineName;

use crate::config::{EngineTable, WgpuTable};
#[cfg(feature = "wgpu")]
use crate::state::Folder;

/// Environment variable that tells a child what to log.
const LOG_VARIABLE: &str = "SANDERLING_LOG";

/// What a child opens.
#[derive(Debug, Serialize, Deserialize)]
enum Hosted {
    /// ONNX Runtime from this file.
    Ort { library: PathBuf },
    /// The wgpu engine on the adapter of this configuration.
    Wgpu { table: WgpuTable },
}

/// Starts a child with ONNX Runtime.
///
/// # Errors
/// When the library is not found, or the child does not start.
pub(super) fn open_ort(table: &EngineTable) -> Result<Arc<dyn Engine>, String> {
    let search = LibrarySearch { configured: table.onnxruntime.clone() };
    let library = search.find().map_err(|error| telemetry::chain(&error))?;
    // The child works in another folder.
    let library = std::path::absolute(library).map_err(|error| telemetry::chain(&error))?;
    let needs_files = table.providers.iter().any(|provider| match provider {
        Provider::Cpu | Provider::Xnnpack => false,
        Provider::Cuda | Provider::OpenVino | Provider::TensorRt => true,
    });
    open(table, EngineName::Ort, &Hosted::Ort { library }, needs_files, None)
}

/// Starts a child with the wgpu engine.
///
/// # Errors
/// When there is no such adapter, or the child does not start.
#[cfg(feature = "wgpu")]
pub(super) fn open_wgpu(table: &EngineTable, folder: &Folder) -> Result<Arc<dyn Engine>, String> {
    let keeper = table.wgpu.pipeline_cache.then(|| Arc::new(super::pipelines::PipelineKeeper::new(folder)) as _);
    open(table, EngineName::Wgpu, &Hosted::Wgpu { table: table.wgpu.clone() }, true, keeper)
}

fn open(
    table: &EngineTable,
    name: EngineName,
    hosted: &Hosted,
    needs_files: bool,
    keeper: Option<Arc<dyn Keeper>>,
) -> Result<Arc<dyn Engine>, String> {
    let config = serde_json::to_value(hosted).map_err(|error| telemetry::chain(&error))?;
    let mut options = HostOptions {
        needs_files,
        keeper,
        memory_max: table.memory_max_bytes,
        run_limit: table.run_limit,
        observer: Some(Arc::new(count)),
        ..HostOptions::new(name, config)
    };
    options.environment.push((LOG_VARIABLE.into(), "warn".into()));
    #[cfg(all(debug_assertions, feature = "wgpu"))]
    if let Some(runs) = (name == EngineName::Wgpu).then(super::wgpu::lost_after).flatten() {
        options.environment.push((super::LOST_AFTER_VARIABLE.into(), runs));
    }
    match ProcessEngine::open(options) {
        Ok(engine) => Ok(Arc::new(engine)),
        Err(error) => Err(telemetry::chain(&error)),
    }
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

/// Runs a child until the agent is gone.
#[must_use]
pub fn serve() -> ExitCode {
    let filter = std::env::var(LOG_VARIABLE).unwrap_or_else(|_unset| "warn".to_owned());
    let config = telemetry::LogConfig { format: telemetry::LogFormat::Text, filter };
    let _log = telemetry::init(config);
    engine::host::serve(|config, keepsake| {
        let hosted = Hosted::deserialize(config).map_err(|error| format!("read the order of {HOST_VERB}: {error}"))?;
        open_here(hosted, keepsake)
    })
}

fn open_here(hosted: Hosted, keepsake: Option<Keepsake>) -> Result<Arc<dyn Engine>, String> {
    match hosted {
        Hosted::Ort { library } => match OrtEngine::open(&LibrarySearch { configured: Some(library) }) {
            Ok(engine) => Ok(Arc::new(engine)),
            Err(error) => Err(telemetry::chain(&error)),
        },
        #[cfg(feature = "wgpu")]
        Hosted::Wgpu { table } => match super::wgpu::DeviceEngine::open(&table, None, keepsake) {
            Ok(engine) => Ok(Arc::new(engine)),
            Err(error) => Err(telemetry::chain(&error)),
        },
        #[cfg(not(feature = "wgpu"))]
        Hosted::Wgpu { table: _ } if keepsake.is_none() => Err("this build is without it".to_owned()),
        #[cfg(not(feature = "wgpu"))]
        Hosted::Wgpu { table: _ } => Err("this build is without it".to_owned()),
    }
}
