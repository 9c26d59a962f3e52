//! Causes of the end of a host process.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Cause of the end of a host process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum DeathCause {
    /// A signal that native code raised or that somebody sent.
    Signal(i32),
    /// It exited by itself with this code.
    Exit(i32),
    /// It did not answer in time and was killed.
    Silent,
    /// It sent something that is no answer and was killed.
    Garbage,
    /// The system did not say.
    Unknown,
}

impl DeathCause {
    /// Returns the cause as a label of metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Signal(_) => "signal",
            Self::Exit(_) => "exit",
            Self::Silent => "silent",
            Self::Garbage => "garbage",
            Self::Unknown => "unknown",
        }
    }

    /// Whether the model that ran is not to blame as far as anybody can tell: somebody else sent the signal.
    pub(super) const fn is_from_outside(self) -> bool {
        matches!(self, Self::Signal(libc::SIGKILL | libc::SIGTERM | libc::SIGINT | libc::SIGHUP | libc::SIGQUIT))
    }
}

/// Names of the signals that native code raises, with their meaning.
const SIGNALS: [(i32, &str); 12] = [
    (libc::SIGFPE, "SIGFPE, an arithmetic error"),
    (libc::SIGSEGV, "SIGSEGV, an invalid memory access"),
    (libc::SIGBUS, "SIGBUS, an invalid memory access"),
    (libc::SIGILL, "SIGILL, an invalid instruction"),
    (libc::SIGABRT, "SIGABRT, given up by itself"),
    (libc::SIGTRAP, "SIGTRAP, given up by itself"),
    (libc::SIGSYS, "SIGSYS, a refused system call"),
    (libc::SIGKILL, "SIGKILL, sent from outside or for lack of memory"),
    (libc::SIGTERM, "SIGTERM, sent from outside"),
    (libc::SIGXFSZ, "SIGXFSZ, a file that is too large"),
    (libc::SIGXCPU, "SIGXCPU, too much processor time"),
    (libc::SIGPIPE, "SIGPIPE, a closed pipe"),
];

impl fmt::Display for DeathCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Signal(number) => match SIGNALS.iter().find(|(known, _)| known == number) {
                Some((_, name)) => write!(f, "was ended by {name}"),
                None => write!(f, "was ended by signal {number}"),
            },
            Self::Exit(code) => write!(f, "exited with code {code}"),
            Self::Silent => f.write_str("gave no answer in time and was killed"),
            Self::Garbage => f.write_str("sent an invalid message and was killed"),
            Self::Unknown => f.write_str("ended for an unknown reason"),
        }
    }
}

/// The end of a host process, as an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the engine host {cause}")]
pub struct HostDeath {
    /// Cause of the end of the process.
    pub cause: DeathCause,
}
