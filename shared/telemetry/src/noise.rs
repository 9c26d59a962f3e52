//! Keeps what foreign code prints away from standard error.
//!
//! Graphics drivers and other native libraries print to standard error by themselves, for example Mesa: `error:
//! XDG_RUNTIME_DIR is invalid or not set in the environment`. The standard error of a daemon holds log lines only, and
//! that of a command line only its own words, so what such a library prints while it is opened becomes debug lines of
//! the log.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError, TryLockError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::stdio::dup2_stderr;

/// Most bytes of foreign output that are logged; a driver that dumps its state must not flood the log.
const LOGGED_BYTES_MAX: u64 = 16 * 1024;

/// Longest wait for a redirection to end before a last message is printed; opening a driver takes less.
const REDIRECTION_MAX: Duration = Duration::from_secs(2);

/// Interval between looks whether a redirection has ended.
const REDIRECTION_CHECK: Duration = Duration::from_millis(10);

/// One redirection at a time: the second would take the first one's file for the real standard error.
static REDIRECTED: Mutex<()> = Mutex::new(());

/// Runs `work` while everything that is printed to standard error goes to the log, at debug level, one event a line.
///
/// Covers the whole process: call it for short steps that run foreign code, like opening a driver. The log itself is not
/// affected. Where standard error cannot be redirected, `work` runs as it is.
pub fn without_noise<T>(work: impl FnOnce() -> T) -> T {
    let _one_at_a_time = REDIRECTED.lock().unwrap_or_else(PoisonError::into_inner);
    let redirected = Redirected::start();
    let made = work();
    if let Ok(redirected) = redirected {
        redirected.log();
    }
    made
}

/// Runs `work`, which prints the last words of this process, once standard error is the real one again.
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

/// Standard error leads into a file in memory until this value is dropped.
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
