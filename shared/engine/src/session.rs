//! Interface of every engine: load a model, run it, stop it.
//!
//! The traits are blocking; [`crate::worker`] puts a session on its own thread for asynchronous callers.

mod cancel;
mod provider;

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{fmt, io};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use types::{DType, Dim, EngineName, Mismatch, NamedTensor, Signature, Tensor, TensorError, TensorSpec};

use crate::host::HostDeath;
use crate::precheck::{ModelLimits, Refusal};

pub use cancel::CancelFlag;
pub use provider::{Provider, UnknownProvider};
pub use types::process::{HostStatus, Isolation};

/// Error of an engine, kept as the source of our own error.
pub type Cause = Box<dyn Error + Send + Sync>;

/// Turns model bytes into sessions.
pub trait Engine: Send + Sync + fmt::Debug {
    /// Which engine this is, as receipts name it.
    fn name(&self) -> EngineName;

    /// Describes the engine for `doctor`, `status` and the hello to the hub.
    fn describe(&self) -> EngineDescription;

    /// Checks the model against the limits, then loads it.
    ///
    /// Takes as long as the model is large (about 10 ms for a small CNN, seconds for hundreds of megabytes): call it
    /// on a blocking thread.
    ///
    /// # Errors
    /// When the model is refused, is broken, or needs a provider that cannot be had.
    fn load(&self, model: ModelBytes, options: &LoadOptions) -> Result<Box<dyn Session>, LoadError>;

    /// Returns the reason if this engine's device is permanently lost; `None` while usable.
    ///
    /// Every run then fails with [`RunError::Lost`]. Default: `None`, because ONNX Runtime on a processor cannot be lost.
    fn lost(&self) -> Option<String> {
        None
    }

    /// Returns what the engine wants to find again at its next start, like compiled kernels; `None` for nothing.
    fn keepsake(&self) -> Option<Keepsake> {
        None
    }

    /// Returns the host processes of this engine; empty for an engine inside this process.
    fn hosts(&self) -> Vec<HostStatus> {
        Vec::new()
    }
}

/// A loaded model that runs requests. One thread at a time: `run` takes `&mut self`, as ONNX Runtime demands.
pub trait Session: Send + fmt::Debug {
    /// Returns the inputs and outputs of the model.
    fn signature(&self) -> &Signature;

    /// The execution provider that runs the model's nodes, like `CPUExecutionProvider`; when several do, their names
    /// joined by `+`, the one with the most nodes first.
    fn provider(&self) -> &str;

    /// Runs the model once. `outputs` names the wanted outputs in the wanted order; empty means all, in the model's
    /// order.
    ///
    /// The deadline and the cancel flag take effect between two nodes of the graph: one long kernel is not cut short.
    ///
    /// # Errors
    /// [`RunError::Mismatch`] before anything runs when the request does not fit the signature; otherwise when the
    /// deadline passed, the flag was raised or the engine failed.
    fn run(
        &mut self,
        inputs: &[NamedTensor],
        outputs: &[String],
        control: &RunControl,
    ) -> Result<Vec<NamedTensor>, RunError>;

    /// Returns the controls of a session in a host process; `None` for one inside this process.
    fn hosted(&self) -> Option<Arc<dyn Hosted>> {
        None
    }
}

/// Bytes that an engine wants to find again at its next start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keepsake {
    /// Name by which the engine knows its own bytes, like one for each adapter.
    pub name: String,
    /// The bytes; they may be lost or damaged, and the engine must not trust them.
    pub bytes: Vec<u8>,
}

/// Controls of a session that lives in a host process; see [`crate::host`].
pub trait Hosted: Send + Sync + fmt::Debug {
    /// Moves a session on trial to the host that all proven sessions share. Does nothing to one that is there already.
    /// Blocks for as long as loading takes; requests are answered meanwhile.
    ///
    /// # Errors
    /// When the model does not load there; the session stays where it is.
    fn promote(&self) -> Result<(), LoadError>;

    /// Returns the reason if this session will never run again, because its model keeps killing its host.
    fn condemned(&self) -> Option<String>;
}

/// Version, library and providers of an engine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineDescription {
    /// Name of the engine, as in receipts.
    pub engine: EngineName,
    /// Version of the runtime behind it, like `1.32.0`.
    pub version: String,
    /// Path of its library; `None` when it has none.
    pub library: Option<String>,
    /// Execution providers that were compiled into it, by their full names.
    pub providers: Vec<String>,
}

/// The bytes of a model file, shared and never copied.
#[derive(Clone)]
pub struct ModelBytes {
    bytes: Bytes,
    source: Option<ModelSource>,
}

/// Reads a model's bytes again and checks them against their digest. Called when a host process starts again.
pub type ModelSource = Arc<dyn Fn() -> io::Result<Bytes> + Send + Sync>;

impl ModelBytes {
    /// Creates bytes that can be read again from `source`, so that nobody keeps them in memory for that.
    #[must_use]
    pub fn with_source(bytes: Bytes, source: ModelSource) -> Self {
        Self { bytes, source: Some(source) }
    }

    /// Returns the bytes of the file.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes
    }

    /// Returns what reads the bytes again: their source, or else the bytes themselves.
    pub(crate) fn into_source(self) -> ModelSource {
        let Self { bytes, source } = self;
        source.unwrap_or_else(|| Arc::new(move || Ok(bytes.clone())))
    }
}

impl From<Bytes> for ModelBytes {
    fn from(bytes: Bytes) -> Self {
        Self { bytes, source: None }
    }
}

impl From<Vec<u8>> for ModelBytes {
    fn from(bytes: Vec<u8>) -> Self {
        Self::from(Bytes::from(bytes))
    }
}

impl fmt::Debug for ModelBytes {
    /// Prints the length only: weights do not belong in logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ModelBytes({})", self.bytes.len())
    }
}

/// Threads, providers and limits for loading a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadOptions {
    /// Threads that share the work inside one operator; 0 lets the engine take one for each core.
    ///
    /// Times the number of sessions it should not exceed the cores: more make every request slower.
    pub intra_threads: usize,
    /// Providers in order of preference; each one named must be there or the load fails. Empty means the processor.
    pub providers: Vec<Provider>,
    /// Maximum size of a model.
    pub limits: ModelLimits,
    /// Name of the model and version in logs, `status` and errors, like `digits/3`. Sessions of one name share the record of
    /// the requests and deaths that they caused.
    pub name: String,
    /// Whether the model is on trial: in a host process of its own, so that it can harm no other model.
    pub trial: bool,
    /// Longest time that a request may take. An engine that measures its speed refuses a model that needs longer; `None`
    /// refuses none.
    pub run_limit: Option<Duration>,
}

impl Default for LoadOptions {
    /// One thread, the processor, the limits of [`ModelLimits::default`], no name, not on trial.
    fn default() -> Self {
        Self {
            intra_threads: 1,
            providers: Vec::new(),
            limits: ModelLimits::default(),
            name: String::new(),
            trial: false,
            run_limit: None,
        }
    }
}

/// Reason why a model did not become a session.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The pre-check refused it; no engine saw it.
    #[error("the model is refused")]
    Refused(#[from] Refusal),
    /// An input or output is something that a request cannot carry.
    #[error("{kind} {name:?} of the model is {what}: only tensors of {} can be served", dtypes())]
    Unsupported {
        /// Side of the signature: `input` or `output`.
        kind: &'static str,
        /// Name of the input or output.
        name: String,
        /// Type that the model declares for it.
        what: String,
    },
    /// A provider that was asked for cannot be had.
    #[error(
        "execution provider {provider} cannot be used on this machine: install it or take it out of the configuration"
    )]
    Provider {
        /// The one asked for.
        provider: Provider,
        /// Error of the engine.
        #[source]
        cause: Cause,
    },
    /// The engine could not load it.
    #[error("load the model")]
    Failed(#[source] Cause),
    /// The host process of the engine ended while it loaded the model.
    #[error("loading the model ended its engine host")]
    Died(#[source] HostDeath),
    /// The host process of the engine cannot be started or reached; the model is not the reason.
    #[error("use an engine host")]
    Host(#[source] Cause),
}

fn dtypes() -> String {
    DType::ALL.map(DType::as_str).join(", ")
}

/// Reason why a run returned no outputs.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The request does not fit the model; nothing was run.
    #[error(transparent)]
    Mismatch(#[from] Mismatch),
    /// A string that ONNX Runtime cannot take.
    #[error("element {element} of input {input:?} is not UTF-8 text without NUL bytes")]
    NotText {
        /// Name of the input.
        input: String,
        /// Which element of it, from 0.
        element: usize,
    },
    /// The deadline of the run passed.
    #[error("the deadline passed before the model returned its outputs")]
    Deadline,
    /// Whoever asked no longer wants the answer.
    #[error("the request was cancelled")]
    Cancelled,
    /// The model gave something that an answer cannot carry.
    #[error("output {output:?} cannot be sent")]
    Output {
        /// Name of the output.
        output: String,
        /// Fault of the tensor.
        #[source]
        cause: TensorError,
    },
    /// The operators of the model cannot compute this input: it fits the signature, but its values or sizes do not fit each
    /// other (an index out of range, sizes that do not broadcast). The text is fit for the client.
    #[error("{0}")]
    Refused(String),
    /// The engine failed to run the model.
    #[error("run the model")]
    Failed(#[source] Cause),
    /// The device under the engine is gone: neither this session nor any other on it will answer again. Load the model
    /// on another engine.
    #[error("run the model on a device that is gone")]
    Lost(#[source] Cause),
    /// The host process of the engine ended during the run; it is started again.
    #[error("running the model ended its engine host")]
    Died(#[source] HostDeath),
    /// This very request ended the host process before, and is not run again for a while.
    #[error("this request is not run: it ended the engine host {deaths} times ({cause})")]
    Quarantined {
        /// Number of times that the request ended the host.
        deaths: u32,
        /// Cause of the last end.
        cause: HostDeath,
    },
    /// The model ended its host process so often that it is not run again.
    #[error("the model is not run any more: {0}")]
    Condemned(String),
}

/// Elements of a tensor of zeros at most: a larger one says no more about a model.
const ZEROS_MAX: usize = 16 * 1024 * 1024;

/// Creates inputs of zeros (empty strings) for a model, with 1 for each open dimension; `None` when one would be too large.
#[must_use]
pub fn zeros(signature: &Signature) -> Option<Vec<NamedTensor>> {
    let zero = |spec: &TensorSpec| {
        let size = |dim: &Dim| match dim {
            Dim::Fixed(size) => *size,
            Dim::Symbol(_) | Dim::Any => 1,
        };
        let shape: Vec<usize> = spec.shape.as_deref().unwrap_or_default().iter().map(size).collect();
        let elements = shape.iter().try_fold(1_usize, |product, &size| product.checked_mul(size))?;
        // An empty string is a length of zero, in four bytes.
        let bytes = elements.checked_mul(spec.dtype.size().unwrap_or(4)).filter(|&bytes| bytes <= ZEROS_MAX)?;
        let tensor = Tensor::new(spec.dtype, shape, vec![0; bytes].into()).ok()?;
        Some(NamedTensor { name: spec.name.clone(), tensor })
    };
    signature.inputs.iter().map(zero).collect()
}

/// Deadline and cancel flag of a run.
#[derive(Debug, Clone, Default)]
pub struct RunControl {
    /// Stop at this instant.
    pub deadline: Option<Instant>,
    /// Stop when this is raised.
    pub cancel: CancelFlag,
}
