//! The engines that forms are judged and timed on.

use console::{CliError, ExitKind, OrExit};
use engine::{Engine, LibrarySearch, OrtEngine};
use types::EngineName;

/// The engines of one run. ONNX Runtime is always there: it calibrates and judges.
#[derive(Debug)]
pub(super) struct Engines {
    ort: OrtEngine,
    #[cfg(feature = "wgpu")]
    wgpu: Option<engine_wgpu::WgpuEngine>,
    /// Whether wgpu runs on a processor.
    is_software: bool,
    notes: Vec<String>,
}

impl Engines {
    /// Opens ONNX Runtime, and wgpu if it is wanted or a GPU is there.
    pub(super) fn open(wanted: &[EngineName], software: bool) -> Result<Self, CliError> {
        let hint = "install the package that ships ONNX Runtime, or set SANDERLING_ONNXRUNTIME";
        let ort = OrtEngine::open(&LibrarySearch::default()).or_exit_try(ExitKind::Runtime, hint)?;
        let engines = Self {
            ort,
            #[cfg(feature = "wgpu")]
            wgpu: None,
            is_software: false,
            notes: Vec::new(),
        };
        let named = wanted.contains(&EngineName::Wgpu) || software;
        if wanted.is_empty() || named { engines.with_wgpu(named, software) } else { Ok(engines) }
    }

    #[cfg(feature = "wgpu")]
    fn with_wgpu(mut self, named: bool, software: bool) -> Result<Self, CliError> {
        use engine_wgpu::gpu::AdapterChoice;

        let choice = AdapterChoice { allow_software: software, ..AdapterChoice::default() };
        match engine_wgpu::WgpuEngine::open(&choice, engine_wgpu::BUDGET_BYTES, None) {
            Ok(wgpu) => {
                self.is_software = wgpu.gpu().report().software;
                if self.is_software {
                    let name = &wgpu.gpu().report().name;
                    self.notes.push(format!("wgpu ran on {name}, on the processor: its times say nothing about GPUs"));
                }
                self.wgpu = Some(wgpu);
            }
            Err(error) if named => {
                let hint = "install a Vulkan driver, give --software-gpu, or leave --engine wgpu out";
                return Err(CliError::new(ExitKind::Failed, error).hint(hint));
            }
            Err(error) => self.notes.push(format!("wgpu was not timed: {}", telemetry::chain(&error))),
        }
        Ok(self)
    }

    #[cfg(not(feature = "wgpu"))]
    fn with_wgpu(self, named: bool, _software: bool) -> Result<Self, CliError> {
        match named {
            true => Err(CliError::new(ExitKind::Failed, "this build is without the wgpu engine")
                .hint("leave --engine wgpu and --software-gpu out")),
            false => Ok(self),
        }
    }

    /// The engine that calibrates and judges.
    pub(super) fn judge(&self) -> &dyn Engine {
        &self.ort
    }

    /// All of them, the judging one first.
    pub(super) fn all(&self) -> Vec<&dyn Engine> {
        #[cfg_attr(not(feature = "wgpu"), expect(unused_mut, reason = "only wgpu is added"))]
        let mut all: Vec<&dyn Engine> = vec![&self.ort];
        #[cfg(feature = "wgpu")]
        all.extend(self.wgpu.iter().map(|wgpu| wgpu as &dyn Engine));
        all
    }

    /// Returns whether times on this engine stand for those of the devices it is made for.
    pub(super) fn is_representative(&self, engine: EngineName) -> bool {
        engine != EngineName::Wgpu || !self.is_software
    }

    /// Returns whether wgpu has every operator of a model, as the hub asks before it publishes.
    #[cfg(feature = "wgpu")]
    pub(super) fn wgpu_could_run(model: &[u8]) -> bool {
        engine_wgpu::check::check(model).is_ok_and(|report| report.can_run())
    }

    #[cfg(not(feature = "wgpu"))]
    pub(super) fn wgpu_could_run(_model: &[u8]) -> bool {
        false
    }

    /// Returns what the reader of the figures should know about the engines.
    pub(super) fn notes(&self) -> &[String] {
        &self.notes
    }
}
