//! The wgpu engine as this device is configured: its adapter, its compiled kernels on the disk, and a way for tests to
//! lose the GPU.

use engine::{Engine, EngineDescription, Keepsake, LoadError, LoadOptions, ModelBytes, Session};
use engine_wgpu::gpu::{AdapterChoice, AdapterReport};
use engine_wgpu::{GpuError, WgpuEngine};
use types::EngineName;

use super::pipelines::{PipelineFile, key_of};
use crate::config::WgpuTable;
use crate::state::Folder;

/// The variable by which a test has the GPU be lost after so many runs. Not even read in builds without debug
/// assertions (what is shipped).
pub const LOST_AFTER_VARIABLE: &str = "SANDERLING_GPU_LOST_AFTER";

/// Every adapter that this machine and build offer.
#[must_use]
pub fn adapters() -> Vec<AdapterReport> {
    engine_wgpu::gpu::adapters()
}

/// Returns the engine's options for the adapter in the configuration.
#[must_use]
pub fn adapter_choice(table: &WgpuTable) -> AdapterChoice {
    AdapterChoice {
        back_end: table.back_end,
        name: table.adapter.clone(),
        power: table.power,
        allow_software: table.allow_software,
        ..AdapterChoice::default()
    }
}

/// The wgpu engine of this device.
#[derive(Debug)]
pub(super) struct DeviceEngine {
    engine: WgpuEngine,
    pipelines: Option<PipelineFile>,
    /// Name of the compiled kernels of the adapter.
    key: String,
    #[cfg(debug_assertions)]
    fault: Option<fault::LostAfter>,
}

/// Returns the number of runs after which a test wants the GPU to be lost, to the first caller of this process: an engine that
/// is opened again lasts.
#[cfg(debug_assertions)]
pub(super) fn lost_after() -> Option<std::ffi::OsString> {
    static TAKEN: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);
    if TAKEN.swap(true, std::sync::atomic::Ordering::Relaxed) {
        return None;
    }
    std::env::var_os(LOST_AFTER_VARIABLE)
}

impl DeviceEngine {
    /// Opens the adapter that the configuration names, with the kernels that an earlier start compiled for it: out of the
    /// state folder, or as the agent gave them to this child process.
    pub(super) fn open(table: &WgpuTable, folder: Option<&Folder>, given: Option<Keepsake>) -> Result<Self, GpuError> {
        let mut pipelines = None;
        let engine = WgpuEngine::open_with(&adapter_choice(table), table.memory_bytes, |adapter| {
            let file = folder.filter(|_folder| table.pipeline_cache).map(|folder| PipelineFile::of(folder, adapter));
            let given = given.filter(|given| given.name == key_of(adapter)).map(|given| given.bytes);
            file.map_or(given, |file| pipelines.insert(file).take())
        })?;
        let key = key_of(engine.gpu().report());
        Ok(Self {
            engine,
            pipelines,
            key,
            #[cfg(debug_assertions)]
            fault: fault::LostAfter::asked_for(),
        })
    }

    fn keep_pipelines(&self) {
        if let Some(file) = &self.pipelines
            && let Some(data) = self.engine.gpu().pipeline_cache()
        {
            file.keep(&data);
        }
    }
}

impl Engine for DeviceEngine {
    fn name(&self) -> EngineName {
        self.engine.name()
    }

    fn describe(&self) -> EngineDescription {
        self.engine.describe()
    }

    fn load(&self, model: ModelBytes, options: &LoadOptions) -> Result<Box<dyn Session>, LoadError> {
        let session = self.engine.load(model, options)?;
        // Loading ran the model once, so its kernels are compiled now.
        self.keep_pipelines();
        #[cfg(debug_assertions)]
        if let Some(fault) = &self.fault {
            return Ok(fault.wrap(session, self.engine.gpu()));
        }
        Ok(session)
    }

    fn lost(&self) -> Option<String> {
        self.engine.lost()
    }

    fn keepsake(&self) -> Option<Keepsake> {
        let bytes = self.engine.gpu().pipeline_cache()?;
        Some(Keepsake { name: self.key.clone(), bytes })
    }
}

/// A GPU that is lost when a test wants it.
#[cfg(debug_assertions)]
mod fault {
    use std::fmt;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use engine::{RunControl, RunError, Session};
    use engine_wgpu::gpu::Gpu;
    use types::{NamedTensor, Signature};

    /// Counts the runs of all sessions down.
    #[derive(Debug, Clone)]
    pub(super) struct LostAfter(Arc<AtomicU64>);

    impl LostAfter {
        /// Returns the override in the environment.
        pub(super) fn asked_for() -> Option<Self> {
            let runs = super::lost_after()?.to_str()?.parse().ok()?;
            Some(Self(Arc::new(AtomicU64::new(runs))))
        }

        pub(super) fn wrap(&self, session: Box<dyn Session>, gpu: &Arc<Gpu>) -> Box<dyn Session> {
            Box::new(Doomed { session, gpu: Arc::clone(gpu), left: self.clone() })
        }
    }

    /// A session whose GPU may be lost.
    struct Doomed {
        session: Box<dyn Session>,
        gpu: Arc<Gpu>,
        left: LostAfter,
    }

    impl fmt::Debug for Doomed {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.debug_struct("Doomed").field("session", &self.session).finish_non_exhaustive()
        }
    }

    impl Session for Doomed {
        fn signature(&self) -> &Signature {
            self.session.signature()
        }

        fn provider(&self) -> &str {
            self.session.provider()
        }

        fn run(
            &mut self,
            inputs: &[NamedTensor],
            outputs: &[String],
            control: &RunControl,
        ) -> Result<Vec<NamedTensor>, RunError> {
            let one_less = |left: u64| left.checked_sub(1);
            if self.left.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_err() {
                self.gpu.give_up("a test wanted it to be lost");
            }
            self.session.run(inputs, outputs, control)
        }
    }
}
