//! Ctrl-C and SIGTERM while a folder is made: nothing half-written stays behind.
//!
//! Work that has written nothing yet is simply ended. While files are written they lie in a hidden folder beside the
//! target, which is removed first; the one moment that must not be cut, the renaming, holds the lock.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::{fs, thread};

use console::{CliError, ExitKind, OrExit};
use tokio::signal::unix::{SignalKind, signal};

/// Exit code that shells expect of an interrupted program: 128 and the number of SIGINT.
const EXIT_INTERRUPTED: i32 = 130;

/// Maximum attempts to remove the hidden folder: the writer may put one more file into it during an attempt.
const REMOVALS: u8 = 5;

/// Watches for signals until the program ends.
#[derive(Debug, Clone)]
pub(super) struct Interrupt {
    /// The hidden folder that is being filled.
    filling: Arc<Mutex<Option<PathBuf>>>,
}

impl Interrupt {
    /// Starts to watch for SIGINT and SIGTERM.
    pub(super) fn watch() -> Result<Self, CliError> {
        let watch = Self { filling: Arc::new(Mutex::new(None)) };
        let filling = Arc::clone(&watch.filling);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().or_exit(ExitKind::Failed)?;
        // Registered before the thread starts: a signal from here on is not lost.
        let (mut interrupt, mut terminate) = {
            let _guard = runtime.enter();
            let interrupt = signal(SignalKind::interrupt()).or_exit(ExitKind::Failed)?;
            (interrupt, signal(SignalKind::terminate()).or_exit(ExitKind::Failed)?)
        };
        let end = move || {
            runtime.block_on(async {
                tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
            });
            end(&filling);
        };
        thread::Builder::new().name("interrupt".to_owned()).spawn(end).or_exit(ExitKind::Failed)?;
        Ok(watch)
    }

    /// Notes the hidden folder that is filled from now on.
    pub(super) fn fills(&self, folder: &Path) {
        *self.filling.lock().unwrap_or_else(PoisonError::into_inner) = Some(folder.to_owned());
    }

    /// Does the one step that must not be cut; afterwards there is nothing to remove.
    pub(super) fn whole<T>(&self, step: impl FnOnce() -> T) -> T {
        let mut filling = self.filling.lock().unwrap_or_else(PoisonError::into_inner);
        let done = step();
        *filling = None;
        done
    }
}

/// Removes what was begun and ends the program; the lock keeps the writer from finishing meanwhile.
fn end(filling: &Mutex<Option<PathBuf>>) {
    let filling = filling.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(folder) = filling.as_ref() {
        for _ in 0..REMOVALS {
            if fs::remove_dir_all(folder).is_ok() || !folder.exists() {
                break;
            }
        }
    }
    let told = CliError::new(ExitKind::Failed, "interrupted: nothing was written");
    // While an engine is opened, what is printed goes to the log.
    let _code = telemetry::with_real_stderr(|| console::report(&told));
    // Not `std::process::exit`: it takes ONNX Runtime's memory down while a worker still runs a model in it.
    signal_hook::low_level::exit(EXIT_INTERRUPTED);
}
