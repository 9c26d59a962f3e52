//! [`engine::Engine`] over this crate: checks a model, rewrites it, puts it on the device.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use engine::{Cause, EngineDescription, LoadError, LoadOptions, ModelBytes, Session, precheck};
use types::EngineName;

use crate::check::unsupported;
use crate::error::{GpuError, ModelError};
use crate::gpu::{AdapterChoice, AdapterReport, Gpu};
use crate::passes::rewrite;
use crate::read::read;
use crate::session::WgpuSession;

/// Device memory that one model may take unless configured otherwise.
///
/// Half of what a Raspberry Pi 4 with 2 GiB can give its GPU without starving the system.
pub const BUDGET_BYTES: u64 = 512 * 1024 * 1024;

/// The wgpu engine on one adapter.
pub struct WgpuEngine {
    gpu: Arc<Gpu>,
    budget: u64,
}

impl fmt::Debug for WgpuEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WgpuEngine").field("gpu", &self.gpu).field("budget", &self.budget).finish()
    }
}

impl WgpuEngine {
    /// Opens the adapter that the configuration names; see [`Gpu::open`].
    ///
    /// # Errors
    /// When there is none or it gives no device.
    pub fn open(choice: &AdapterChoice, budget: u64, cache: Option<&[u8]>) -> Result<Self, GpuError> {
        Ok(Self { gpu: Gpu::open(choice, cache)?, budget })
    }

    /// As [`WgpuEngine::open`]; see [`Gpu::open_with`].
    ///
    /// # Errors
    /// When there is no such adapter or it gives no device.
    pub fn open_with(
        choice: &AdapterChoice,
        budget: u64,
        cache: impl FnOnce(&AdapterReport) -> Option<Vec<u8>>,
    ) -> Result<Self, GpuError> {
        Ok(Self { gpu: Gpu::open_with(choice, cache)?, budget })
    }

    /// The device that sessions run on.
    #[must_use]
    pub fn gpu(&self) -> &Arc<Gpu> {
        &self.gpu
    }

    /// Loads a model that was pre-checked already.
    ///
    /// # Errors
    /// See [`ModelError`].
    pub fn load_checked(&self, model: &[u8]) -> Result<WgpuSession, ModelError> {
        self.load_within(model, None)
    }

    /// As [`WgpuEngine::load_checked`], and refuses a model that cannot answer within `run_limit` at its declared shapes.
    ///
    /// # Errors
    /// See [`ModelError`].
    pub fn load_within(&self, model: &[u8], run_limit: Option<Duration>) -> Result<WgpuSession, ModelError> {
        let mut graph = read(model)?;
        rewrite(&mut graph);
        // What `check` says of the file is what loading it says.
        let unsupported = unsupported(&graph);
        if !unsupported.is_empty() {
            return Err(ModelError::Unsupported(unsupported));
        }
        let session = WgpuSession::new(Arc::clone(&self.gpu), &graph, self.budget, run_limit)?;
        Ok(session.sharing(self.gpu.turns_of(model)))
    }
}

impl engine::Engine for WgpuEngine {
    fn name(&self) -> EngineName {
        EngineName::Wgpu
    }

    fn describe(&self) -> EngineDescription {
        EngineDescription {
            engine: EngineName::Wgpu,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            library: None,
            providers: vec![format!("{} ({})", self.gpu.report().name, self.gpu.report().back_end)],
        }
    }

    fn load(&self, model: ModelBytes, options: &LoadOptions) -> Result<Box<dyn Session>, LoadError> {
        precheck::check(model.as_slice(), &options.limits)?;
        let session = self.load_within(model.as_slice(), options.run_limit);
        let session = session.map_err(|error| LoadError::Failed(Cause::from(error)))?;
        Ok(Box::new(session))
    }

    fn lost(&self) -> Option<String> {
        self.gpu.lost().map(str::to_owned)
    }
}
