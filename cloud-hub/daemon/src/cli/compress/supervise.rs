//! Second process in which the work is done: a model that aborts ONNX Runtime ends that one, and this one reports it.
//!
//! The command starts itself again with [`WORKER_VARIABLE`] set, hands signals on and waits. The worker writes what it is doing
//! into the file that the variable names; where a signal ends it, that is what the report says.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::{env, fs, thread};

use console::{CliError, ExitKind, OrExit};
use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};
use tokio::signal::unix::{SignalKind, signal};

/// Environment variable that makes a process the worker, and names the file for its current activity.
const WORKER_VARIABLE: &str = "SANDERLING_COMPRESS_WORKER";

/// Path of the running program for the kernel: right also when its file was replaced by an upgrade.
const THIS_PROGRAM: &str = "/proc/self/exe";

/// Maximum bytes of the activity that are read back.
const ACTIVITY_BYTES_MAX: u64 = 1024;

/// Names of the signals that end a process by its own fault, or for its memory.
const NAMES: [(i32, &str); 6] =
    [(4, "SIGILL"), (6, "SIGABRT"), (7, "SIGBUS"), (8, "SIGFPE"), (9, "SIGKILL"), (11, "SIGSEGV")];

/// File in which the worker writes what it is doing.
#[derive(Debug)]
pub(super) struct Activity {
    file: PathBuf,
    last: String,
}

impl Activity {
    /// Returns the worker's activity; `None` in the process that the operator started.
    pub(super) fn of_worker() -> Option<Self> {
        let file = env::var_os(WORKER_VARIABLE)?;
        // Without it the worker would go on when this process is killed; where it cannot be had, that is all that is lost.
        let _set = set_parent_process_death_signal(Some(Signal::TERM));
        Some(Self { file: file.into(), last: String::new() })
    }

    /// Notes what is done from now on, unless it is the same as before.
    pub(super) fn note(&mut self, doing: &str) {
        if doing != self.last {
            doing.clone_into(&mut self.last);
            // It serves one sentence of a report; the work goes on without.
            let _written = fs::write(&self.file, doing);
        }
    }
}

/// Runs this command again as the worker and ends with its exit code.
///
/// # Errors
/// When the worker cannot be started, or a signal ended it.
pub(super) fn run() -> Result<(), CliError> {
    let file = env::temp_dir().join(format!("sanderling-compress-{}", uuid::Uuid::new_v4()));
    let arguments: Vec<OsString> = env::args_os().skip(1).collect();
    let worker = Command::new(THIS_PROGRAM).args(arguments).env(WORKER_VARIABLE, &file).spawn();
    let mut worker = worker.or_exit(ExitKind::Failed)?;
    hand_signals_on(&worker)?;
    let status = worker.wait().or_exit(ExitKind::Failed);
    let doing = activity(&file);
    // It may never have been written.
    let _removed = fs::remove_file(&file);
    let status = status?;
    match (status.code(), status.signal()) {
        (Some(0), _) => Ok(()),
        // The worker has printed its error already.
        (Some(code), _) => std::process::exit(code),
        (None, signal) => Err(ended(signal, &status, &doing)),
    }
}

fn ended(signal: Option<i32>, status: &ExitStatus, doing: &str) -> CliError {
    let name = NAMES.iter().find(|(number, _)| Some(*number) == signal).map(|(_, name)| *name);
    let by = name.map_or_else(|| status.to_string(), |name| format!("signal {name}"));
    let during = if doing.is_empty() { String::new() } else { format!(" during \"{doing}\"") };
    let hint = match name {
        Some("SIGKILL") => "free memory: the system ends processes that take too much",
        _ => {
            "leave that form out with --to, or its operators with --exclude-operator: a model must not end ONNX Runtime"
        }
    };
    CliError::new(ExitKind::Failed, format!("the work was ended by {by}{during}; nothing was written")).hint(hint)
}

fn activity(file: &Path) -> String {
    let bytes = store::files::read_bounded(file, ACTIVITY_BYTES_MAX).unwrap_or_default();
    telemetry::escape_control(&String::from_utf8_lossy(&bytes)).into_owned()
}

/// Hands Ctrl-C and SIGTERM on to the worker, which ends as it should.
fn hand_signals_on(worker: &Child) -> Result<(), CliError> {
    let worker = i32::try_from(worker.id()).ok().and_then(Pid::from_raw);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().or_exit(ExitKind::Failed)?;
    let (mut interrupt, mut terminate) = {
        let _guard = runtime.enter();
        let interrupt = signal(SignalKind::interrupt()).or_exit(ExitKind::Failed)?;
        (interrupt, signal(SignalKind::terminate()).or_exit(ExitKind::Failed)?)
    };
    let hand_on = move || {
        runtime.block_on(async {
            loop {
                let signal = tokio::select! {
                    _ = interrupt.recv() => Signal::INT,
                    _ = terminate.recv() => Signal::TERM,
                };
                if let Some(worker) = worker {
                    // It may have ended meanwhile.
                    let _sent = kill_process(worker, signal);
                }
            }
        });
    };
    thread::Builder::new().name("signals".to_owned()).spawn(hand_on).or_exit(ExitKind::Failed)?;
    Ok(())
}
