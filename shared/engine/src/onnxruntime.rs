//! ONNX Runtime as an [`Engine`].
//!
//! Loads the library that [`crate::library`] finds, once for the process, and turns models into sessions. Telemetry and
//! spinning threads are off; the provider that is reported is the one that the nodes were really given to.

mod raw;
mod refusal;
mod session;
mod signature;
mod value;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ort::environment::Environment;
use ort::ep::{self, ExecutionProvider, ExecutionProviderDispatch};
use ort::logging::LogLevel;
use ort::session::builder::SessionBuilder;
use tracing::subscriber::NoSubscriber;
use types::EngineName;

use crate::library::{LibraryNotFound, LibrarySearch};
use crate::precheck;
use crate::session::{Engine, EngineDescription, LoadError, LoadOptions, ModelBytes, Provider, Session};
use crate::watchdog::Watchdog;

use session::OrtSession;

/// Longest time a model may take to load.
///
/// A model of 2 GiB loads in some ten seconds from memory; a minute is for slow devices. A crafted one would go on.
const LOAD_TIME_MAX: Duration = Duration::from_secs(60);

/// Largest constant that may be computed while loading, in bytes.
///
/// Nodes with constant inputs are computed once at load; without a limit a file of 200 bytes asks for any amount.
const CONSTANT_BYTES_MAX: usize = 64 * 1024 * 1024;

/// ONNX Runtime allows one environment in a process, and nothing may outlive it: it is made once and never dropped.
static OPENED: Mutex<Option<Opened>> = Mutex::new(None);

#[derive(Clone)]
struct Opened {
    environment: Environment,
    library: PathBuf,
    watchdog: Arc<Watchdog>,
}

/// Reason why ONNX Runtime could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It is in none of the places.
    #[error(transparent)]
    NotFound(#[from] LibraryNotFound),
    /// The file is no ONNX Runtime, of another architecture, or older than 1.24.
    #[error("load {} as ONNX Runtime 1.24 or newer", .library.display())]
    Library {
        /// Path of the file.
        library: PathBuf,
        /// Error with which loading failed.
        #[source]
        cause: crate::Cause,
    },
    /// The library was loaded and refused to start.
    #[error("start ONNX Runtime from {}", .library.display())]
    Start {
        /// Path of the file.
        library: PathBuf,
        /// Error with which the start failed.
        #[source]
        cause: crate::Cause,
    },
}

/// Engine that runs models with ONNX Runtime. Clones share it.
#[derive(Clone)]
pub struct OrtEngine(Opened);

impl std::fmt::Debug for OrtEngine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OrtEngine").field("library", &self.0.library).finish_non_exhaustive()
    }
}

impl OrtEngine {
    /// Finds and loads the library. The second call in a process gives the library of the first.
    ///
    /// Takes about 70 ms and 20 MiB of memory the first time. It also sets `ORT_DISABLE_TELEMETRY=1` in the environment
    /// of this process, unless that was done from outside: call it early.
    ///
    /// # Errors
    /// When the library is not found or is not usable.
    pub fn open(search: &LibrarySearch) -> Result<Self, OpenError> {
        let mut opened = OPENED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(opened) = opened.as_ref() {
            return Ok(Self(opened.clone()));
        }
        let library = search.find()?;
        // ort panics where a library has the right symbol and yet not the interface that it promises.
        let opening = || telemetry::without_noise(|| open_library(library.clone()));
        let made = catch_unwind(opening).unwrap_or_else(|_panic| {
            Err(OpenError::Start { library, cause: "it does not have the interface of its version".into() })
        })?;
        *opened = Some(made.clone());
        Ok(Self(made))
    }
}

fn open_library(library: PathBuf) -> Result<Opened, OpenError> {
    raw::refuse_telemetry();
    // ort logs at every start that a runtime newer than itself "may have compatibility issues"; the pinned pair is tested.
    let quietly = || tracing::subscriber::with_default(NoSubscriber::new(), || ort::init_from(&library));
    let builder =
        quietly().map_err(|cause| OpenError::Library { library: library.clone(), cause: cause.to_string().into() })?;
    let start = |cause: crate::Cause| OpenError::Start { library: library.clone(), cause };
    let environment = builder.with_name("sanderling").with_telemetry(false).build();
    let environment = environment.map_err(|error| start(error.into()))?;
    // Verbose messages would be formatted for every node of every run, to be thrown away.
    environment.set_log_level(LogLevel::Warning);
    let watchdog = Watchdog::start().map_err(|error| start(error.into()))?;
    Ok(Opened { environment, library, watchdog: Arc::new(watchdog) })
}

impl Engine for OrtEngine {
    fn name(&self) -> EngineName {
        EngineName::Ort
    }

    fn describe(&self) -> EngineDescription {
        EngineDescription {
            engine: EngineName::Ort,
            version: version(&self.0.library, ort::info()),
            library: Some(self.0.library.display().to_string()),
            providers: Provider::ALL
                .into_iter()
                .filter(|&one| is_built_in(one))
                .map(|one| full_name(one).to_owned())
                .collect(),
        }
    }

    fn load(&self, model: ModelBytes, options: &LoadOptions) -> Result<Box<dyn Session>, LoadError> {
        precheck::check(model.as_slice(), &options.limits)?;
        let mut builder = self.builder(options)?;
        let (canceler, deadline) = (builder.canceler(), Instant::now() + LOAD_TIME_MAX);
        let armed = self.0.watchdog.arm(
            deadline,
            Arc::new(move || {
                if let Err(error) = canceler.cancel() {
                    tracing::error!(%error, "a model that loads too long could not be stopped");
                }
            }),
        );
        // ort panics on types that it does not know; the pre-check refuses the ones it can see.
        let committed = catch_unwind(AssertUnwindSafe(|| builder.commit_from_memory(model.as_slice())));
        drop(armed);
        let session = match committed {
            Ok(Ok(session)) => session,
            Ok(Err(_error)) if Instant::now() >= deadline => {
                let cause = format!("it was not loaded after {} s", LOAD_TIME_MAX.as_secs());
                return Err(LoadError::Failed(cause.into()));
            }
            Ok(Err(error)) => return Err(LoadError::Failed(error.into())),
            Err(_panic) => return Err(LoadError::Failed("its inputs or outputs are of an unknown type".into())),
        };
        let signature = signature::of(&session)?;
        let first = options.providers.first().copied().unwrap_or(Provider::Cpu);
        let provider = raw::assigned_providers(&session).unwrap_or_else(|| full_name(first).to_owned());
        tracing::debug!(provider, "model loaded");
        Ok(Box::new(OrtSession::new(session, signature, provider, Arc::clone(&self.0.watchdog))))
    }
}

impl OrtEngine {
    /// The options that every session gets, and the providers asked for.
    fn builder(&self, options: &LoadOptions) -> Result<SessionBuilder, LoadError> {
        let configured = (|| -> ort::Result<SessionBuilder> {
            Ok(ort::session::Session::builder(&self.0.environment)?
                .with_intra_threads(options.intra_threads)?
                .with_inter_threads(1)?
                // A device would burn its battery waiting for the next request.
                .with_intra_op_spinning(false)?
                .with_inter_op_spinning(false)?
                // The pre-check has read ONNX; nothing else may be read out of the same bytes.
                .with_config_entry("session.load_model_format", "ONNX")?
                .with_config_entry("session.record_ep_graph_assignment_info", "1")?
                .with_config_entry(
                    "optimization.constant_folding_max_output_size_in_bytes",
                    CONSTANT_BYTES_MAX.to_string(),
                )?)
        })();
        let mut builder = configured.map_err(|error| LoadError::Failed(error.into()))?;
        for &provider in &options.providers {
            let Some(dispatch) = dispatch(provider) else { continue };
            let with = builder.with_execution_providers([dispatch.error_on_failure()]);
            builder =
                with.map_err(|error| LoadError::Provider { provider, cause: ort::Error::<()>::from(error).into() })?;
        }
        Ok(builder)
    }
}

/// `None` for the processor, which is always there.
fn dispatch(provider: Provider) -> Option<ExecutionProviderDispatch> {
    match provider {
        Provider::Cpu => None,
        Provider::Cuda => Some(ep::CUDA::default().build()),
        Provider::OpenVino => Some(ep::OpenVINO::default().build()),
        Provider::TensorRt => Some(ep::TensorRT::default().build()),
        Provider::Xnnpack => Some(ep::XNNPACK::default().build()),
    }
}

/// Says whether the library was built with that provider; whether the machine has what it needs shows at load.
fn is_built_in(provider: Provider) -> bool {
    let available = match provider {
        Provider::Cpu => Ok(true),
        Provider::Cuda => ep::CUDA::is_available(),
        Provider::OpenVino => ep::OpenVINO::is_available(),
        Provider::TensorRt => ep::TensorRT::is_available(),
        Provider::Xnnpack => ep::XNNPACK::is_available(),
    };
    available.unwrap_or(false)
}

fn full_name(provider: Provider) -> &'static str {
    match provider {
        Provider::Cpu => ep::CPU::NAME,
        Provider::Cuda => ep::CUDA::NAME,
        Provider::OpenVino => ep::OpenVINO::NAME,
        Provider::TensorRt => ep::TensorRT::NAME,
        Provider::Xnnpack => ep::XNNPACK::NAME,
    }
}

/// The version in the name of the library's file, `libonnxruntime.so.1.32.0`; what it says of its build where the name
/// has none (its interface tells the version only before it is loaded).
fn version(library: &Path, build_info: &str) -> String {
    let real = library.canonicalize().unwrap_or_else(|_error| library.to_path_buf());
    let name = real.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let version = name.split_once(".so.").map(|(_, version)| version);
    version.filter(|version| version.contains('.')).unwrap_or(build_info).to_owned()
}
