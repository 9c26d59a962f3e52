//! Engines in child processes: native code that raises a signal, or takes all memory, ends a child and not the daemon.
//!
//! The daemon's side is [`ProcessEngine`], an [`crate::Engine`] whose sessions live in host processes. A host is the same
//! binary, started with a hidden verb that calls [`serve`]. Models on trial have a host of their own, proven ones share one
//! ([`crate::LoadOptions::trial`], [`crate::Hosted::promote`]).
//!
//! `frame` has the messages, `memory` what both processes share, `confine` what a host gives up before it sees a model.
//! `process` is one host process, `supervisor` starts it again and moves models, `slot` is one session, `record` remembers
//! which requests and models end hosts. A host is taken for hostile: nothing that it says is used unchecked.

mod budget;
mod confine;
mod death;
mod engine;
mod frame;
mod link;
mod memory;
mod privileges;
mod process;
mod record;
mod serve;
mod slot;
mod supervisor;

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use types::EngineName;

use crate::session::Keepsake;

pub use death::{DeathCause, HostDeath};
pub use engine::ProcessEngine;
pub use record::{MODEL_DEATHS_MAX, MODEL_DEATHS_WITHIN, REQUEST_DEATHS_MAX, REQUEST_QUARANTINE};
pub use serve::serve;

/// Path of the running program for the kernel: right also when its file was replaced by an upgrade.
const THIS_PROGRAM: &str = "/proc/self/exe";

/// Hidden verb of the daemons that runs a host.
pub const HOST_VERB: &str = "engine-host";

/// Longest wait for a host to start and open its engine, in which a driver may compile.
pub const START_TIME_MAX: Duration = Duration::from_secs(60);

/// Longest wait for a host to load a model: what ONNX Runtime may take, and some.
const LOAD_TIME_MAX: Duration = Duration::from_secs(90);

/// Time that a host has for an answer after the deadline of a run, or after [`HostOptions::run_limit`], whichever is
/// later; then it is killed. An engine stops between two operators, so one long operator needs some time.
pub const ANSWER_GRACE: Duration = Duration::from_secs(5);

/// Longest wait for the system to report the end of a process whose sockets are closed.
const DEATH_WAIT: Duration = Duration::from_secs(5);

/// Program, engine and limits of the hosts of one engine.
#[derive(Clone)]
pub struct HostOptions {
    /// Path of the program to start. Default: this one.
    pub program: PathBuf,
    /// Arguments of the program. Default: [`HOST_VERB`].
    pub arguments: Vec<OsString>,
    /// Variables of its environment, beside those that libraries of engines read.
    pub environment: Vec<(OsString, OsString)>,
    /// Engine that the hosts open.
    pub engine: EngineName,
    /// Configuration for the opener that was given to [`serve`].
    pub config: serde_json::Value,
    /// Whether the engine needs files and devices once it is open, as drivers of GPUs do.
    pub needs_files: bool,
    /// Maximum bytes of memory for one model; `None` derives it from the size of the model.
    pub memory_max: Option<u64>,
    /// Longest run that the configuration allows.
    pub run_limit: Duration,
    /// Hears of what happens to hosts; for metrics.
    pub observer: Option<Observer>,
    /// Keeps what the engine wants to find again, because a host reaches no files.
    pub keeper: Option<Arc<dyn Keeper>>,
}

/// Keeps what an engine wants to find again at its next start.
pub trait Keeper: Send + Sync {
    /// Takes what was kept, for a host that starts.
    fn take(&self) -> Option<Keepsake>;

    /// Keeps what a host has; it may be anything.
    fn keep(&self, keepsake: &Keepsake);
}

/// Hears of what happens to hosts. Must not block.
pub type Observer = Arc<dyn Fn(&HostEvent) + Send + Sync>;

impl HostOptions {
    /// Creates the options of an engine with a configuration; everything else is the default.
    #[must_use]
    pub fn new(engine: EngineName, config: serde_json::Value) -> Self {
        Self {
            program: PathBuf::from(THIS_PROGRAM),
            arguments: vec![OsString::from(HOST_VERB)],
            environment: Vec::new(),
            engine,
            config,
            needs_files: false,
            memory_max: None,
            run_limit: Duration::from_secs(30),
            observer: None,
            keeper: None,
        }
    }

    fn observe(&self, event: &HostEvent) {
        if let Some(observer) = &self.observer {
            observer(event);
        }
    }
}

impl fmt::Debug for HostOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostOptions")
            .field("engine", &self.engine)
            .field("program", &self.program)
            .finish_non_exhaustive()
    }
}

/// Event in the life of a host, for metrics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostEvent {
    /// It was started again after its end.
    Restarted {
        /// Engine of the host.
        engine: EngineName,
    },
    /// The host process ended.
    Died {
        /// Engine of the host.
        engine: EngineName,
        /// Cause of the end of the process.
        cause: DeathCause,
    },
    /// A request was refused because it had ended hosts before.
    RequestRefused {
        /// Name of the model.
        model: String,
    },
    /// A model is not run any more.
    Condemned {
        /// Name of the model.
        model: String,
        /// Reason, as one clause for the operator.
        why: String,
    },
}
