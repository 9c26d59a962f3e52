//! The hub's engine in child processes: how the hub starts them, and what a child opens.
//!
//! [`open`] runs in the hub, [`serve`] in the child, behind the hidden verb `engine-host`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use engine::{Cause, Engine, HostOptions, ProcessEngine};
use serde::{Deserialize, Serialize};
use service::engine_host;
use types::EngineName;

use crate::config::InferenceTable;

/// Order of the hub to a child: the engine to open.
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
    let hosted = Hosted { library: engine_host::library(inference.onnxruntime.as_deref())? };
    let options = HostOptions {
        memory_max: inference.memory_max_bytes,
        run_limit: inference.run_limit,
        ..engine_host::options(EngineName::Ort, &hosted)?
    };
    Ok(Arc::new(ProcessEngine::open(options)?))
}

/// Runs a child until the hub is gone.
#[must_use]
pub fn serve() -> ExitCode {
    engine_host::serve(|hosted: Hosted, _keepsake| engine_host::open_library(hosted.library))
}
