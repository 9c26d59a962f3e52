//! Engines of this device in child processes: how the agent starts them, and what a child opens.
//!
//! [`open_ort`] and [`open_wgpu`] run in the agent, [`serve`] in the child, behind the hidden verb `engine-host`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use engine::host::Keeper;
use engine::{Engine, HostOptions, Keepsake, ProcessEngine, Provider};
use serde::{Deserialize, Serialize};
use service::engine_host;
use types::EngineName;

use crate::config::{EngineTable, WgpuTable};
#[cfg(feature = "wgpu")]
use crate::state::Folder;

/// Order of the agent to a child: the engine to open.
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
    let library = engine_host::library(table.onnxruntime.as_deref());
    let library = library.map_err(|error| telemetry::chain(error.as_ref()))?;
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
    let options = engine_host::options(name, hosted).map_err(|error| telemetry::chain(error.as_ref()))?;
    #[cfg_attr(not(all(debug_assertions, feature = "wgpu")), expect(unused_mut, reason = "tests lose devices"))]
    let mut options =
        HostOptions { needs_files, keeper, memory_max: table.memory_max_bytes, run_limit: table.run_limit, ..options };
    #[cfg(all(debug_assertions, feature = "wgpu"))]
    if let Some(runs) = (name == EngineName::Wgpu).then(super::wgpu::lost_after).flatten() {
        options.environment.push((super::LOST_AFTER_VARIABLE.into(), runs));
    }
    match ProcessEngine::open(options) {
        Ok(engine) => Ok(Arc::new(engine)),
        Err(error) => Err(telemetry::chain(&error)),
    }
}

/// Runs a child until the agent is gone.
#[must_use]
pub fn serve() -> ExitCode {
    engine_host::serve(open_here)
}

fn open_here(hosted: Hosted, keepsake: Option<Keepsake>) -> Result<Arc<dyn Engine>, String> {
    match hosted {
        Hosted::Ort { library } => engine_host::open_library(library),
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
