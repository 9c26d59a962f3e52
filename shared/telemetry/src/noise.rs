//! Redirects the output of foreign code from standard error to the log.
//!
//! Graphics drivers and other native libraries print to standard error, for example Mesa: `error: XDG_RUNTIME_DIR is
//! invalid or not set in the environment`. The standard error of a daemon contains log lines only, and that of a
//! command line only its own messages, so the output of such a library while it is opened is logged at debug level.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError, TryLockError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::stdio::dup2_stderr;

/// Maximum size of foreign output that is logged, in bytes; a driver that dumps its state must not flood the log.
const LOGGED_BYTES_MAX: u64 = 16 * 1024;

/// Maximum wait for the end of a redirection before a last message is printed; opening a driver takes less.
const REDIRECTION_MAX: Duration = Duration::from_secs(2);

/// Interval between checks whether a redirection has ended.
const REDIRECTION_CHECK: Duration = Duration::from_millis(10);

/// Lock that allows one redirection at a time: a second one would take the first one's file for the real standard
/// error.
static REDIRECTED: Mutex<()> = Mutex::new(());

/// Runs `work` while everything that is printed to standard error is logged at debug level, one event per line.
///
/// Affects the whole process: use it for short operations that run foreign code, like opening a driver. The log itself
/// is not affected. If standard error cannot be redirected, `work` runs without redirection.
pub fn without_noise<T>(work: impl FnOnce() -> T) -> T {
    let _one_at_a_time = REDIRECTED.lock().unwrap_or_else(PoisonError::into_inner);
    let redirected = Redirected::start();
    let made = work();
    if let Ok(redirected) = redirected {
        redirected.log();
    }
    made
}

/// Runs `work`, which prints the last message of this process, once standard error is no longer redirected.
///
/// Waits at most two seconds for a redirection of another thread: a driver that hangs must not keep the process.
pub fn with_real_stderr<T>(work: impl FnOnce() -> T) -> T {
    let until = Instant::now() + REDIRECTION_MAX;
    let _none_starts = loop {
        match REDIRECTED.try_lock() {
            Ok(guard) => break Some(guard),
            Err(TryLockError::Poisoned(poisoned)) => break Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) if Instant::now() >= until => break None,
            Err(TryLockError::WouldBlock) => thread::sleep(REDIRECTION_CHECK),
        }
    };
    work()
}

/// Redirection of standard error to a file in memory, until this value is dropped.
struct Redirected {
    before: OwnedFd,
    file: File,
}

impl Redirected {
    fn start() -> io::Result<Self> {
        let before = rustix::io::fcntl_dupfd_cloexec(io::stderr(), 3)?;
        let file = File::from(memfd_create("stderr", MemfdFlags::CLOEXEC)?);
        dup2_stderr(&file)?;
        Ok(Self { before, file })
    }

    fn log(mut self) {
        let mut bytes = Vec::new();
        let start = self.file.seek(SeekFrom::Start(0));
        let read = start.and_then(|_start| (&self.file).take(LOGGED_BYTES_MAX).read_to_end(&mut bytes));
        if read.is_ok() {
            for line in String::from_utf8_lossy(&bytes).lines().filter(|line| !line.trim().is_empty()) {
                tracing::debug!(target: "foreign", line, "a library printed");
            }
        }
    }
}

impl Drop for Redirected {
    fn drop(&mut self) {
        if let Err(error) = dup2_stderr(&self.before) {
            tracing::warn!(%error, "standard error stays redirected");
        }
    }
}
