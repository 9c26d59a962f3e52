//! Runs models, in this process or in child processes.
//!
//! An [`Engine`] turns model bytes into a [`Session`]; a [`SessionHandle`] gives a session its own thread and a bounded
//! queue. Fed by the daemons with bytes that were already proven genuine; knows no network, no files but the runtime's
//! library, and no routing. [`precheck`] refuses what no engine should see, before any engine sees it.
//!
//! `ort` is the only crate behind the feature of that name, and this is the only crate that knows it.

#[cfg(any(test, feature = "fake"))]
pub mod fake;
pub mod host;
pub mod library;
#[cfg(feature = "ort")]
mod onnxruntime;
pub mod precheck;
pub mod probe;
mod session;
#[cfg(any(test, feature = "ort"))]
mod watchdog;
pub mod worker;

#[cfg(any(test, feature = "fake"))]
pub use fake::FakeEngine;
pub use host::{HostDeath, HostEvent, HostOptions, ProcessEngine};
pub use library::{LibraryNotFound, LibrarySearch};
#[cfg(feature = "ort")]
pub use onnxruntime::{OpenError, OrtEngine};
pub use precheck::{ModelFacts, ModelLimits, Refusal};
pub use session::{
    CancelFlag, Cause, Engine, EngineDescription, HostStatus, Hosted, Isolation, Keepsake, LoadError, LoadOptions,
    ModelBytes, ModelSource, Provider, RunControl, RunError, Session, UnknownProvider, zeros,
};
pub use worker::{InferError, Outcome, SessionHandle, SessionWorker, WorkerOptions};
