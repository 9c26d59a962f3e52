//! States of a rollout, and which verbs each of them allows.

use std::fmt;

/// State of a rollout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// It begins at a time.
    Scheduled {
        /// Time of the start in seconds of the Unix clock.
        start_unix_s: u64,
    },
    /// A wave is under way.
    Running(Running),
    /// A wave has passed, and the next one waits for an operator.
    Approval {
        /// Number of the wave that has passed, from 0.
        wave: usize,
        /// Time at which it passed.
        since_unix_s: u64,
    },
    /// No further device takes part until an operator decides.
    Paused(Paused),
    /// Every wave has passed, and the version is about to become the current one.
    Promoting {
        /// Time at which the last wave passed.
        since_unix_s: u64,
    },
    /// The cohort has the version.
    Completed {
        /// Time of the end.
        at_unix_s: u64,
    },
    /// An operator ended it; devices keep what they have.
    Aborted {
        /// Time of the end.
        at_unix_s: u64,
        /// Reason in words.
        reason: String,
    },
    /// Devices return to their earlier version.
    RollingBack {
        /// Time at which it began.
        since_unix_s: u64,
        /// Reason in words.
        reason: String,
    },
    /// Every device that could be reached has returned.
    RolledBack {
        /// Time of the end.
        at_unix_s: u64,
        /// Reason in words.
        reason: String,
    },
}

/// State of a wave that is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Running {
    /// Number of the wave, from 0.
    pub wave: usize,
    /// Time at which the wave began; later by the time for which it was paused.
    pub since_unix_s: u64,
    /// Time at which all of its devices that are awake had installed the version or failed. The soak begins here.
    pub settled_unix_s: Option<u64>,
}

/// State of a rollout that was paused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paused {
    /// Wave that was under way.
    pub running: Running,
    /// Time of the pause.
    pub at_unix_s: u64,
    /// Reason in words.
    pub reason: String,
    /// Cause of the pause.
    pub cause: Cause,
}

/// Cause of a pause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// An operator asked for it.
    Operator,
    /// Evidence broke the gate.
    Breach,
    /// There was not enough evidence in time.
    Patience,
}

/// Verb of an operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// Admit no further device for now.
    Pause,
    /// Continue after a pause.
    Resume,
    /// End the rollout; devices keep what they have.
    Abort,
    /// Begin the next wave after the one that has passed.
    Approve,
    /// Begin the next wave without waiting for the evidence of this one.
    Skip,
    /// Offer the version again to devices where it failed.
    Retry,
    /// Return the devices to their earlier version.
    RollBack,
}

impl Verb {
    /// All verbs, in the order of the command line.
    pub const ALL: [Self; 7] =
        [Self::Pause, Self::Resume, Self::Abort, Self::Approve, Self::Skip, Self::Retry, Self::RollBack];

    /// Returns the name on the command line and in the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Abort => "abort",
            Self::Approve => "approve",
            Self::Skip => "skip",
            Self::Retry => "retry",
            Self::RollBack => "rollback",
        }
    }

    /// Returns the verb of a name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|verb| verb.as_str() == name)
    }
}

impl Cause {
    /// All causes.
    pub const ALL: [Self; 3] = [Self::Operator, Self::Breach, Self::Patience];

    /// Returns the name in records.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::Breach => "breach",
            Self::Patience => "patience",
        }
    }

    /// Returns the cause of a name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|cause| cause.as_str() == name)
    }
}

impl State {
    /// Returns the name in the API, in records, tables and metrics.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Scheduled { .. } => "scheduled",
            Self::Running(_) => "running",
            Self::Approval { .. } => "waiting-for-approval",
            Self::Paused(_) => "paused",
            Self::Promoting { .. } => "promoting",
            Self::Completed { .. } => "completed",
            Self::Aborted { .. } => "aborted",
            Self::RollingBack { .. } => "rolling-back",
            Self::RolledBack { .. } => "rolled-back",
        }
    }

    /// Every name of a state, for metrics.
    pub const NAMES: [&'static str; 9] = [
        "scheduled",
        "running",
        "waiting-for-approval",
        "paused",
        "promoting",
        "completed",
        "aborted",
        "rolling-back",
        "rolled-back",
    ];

    /// Returns whether the rollout decides over its cohort: no other rollout may have the same devices meanwhile.
    #[must_use]
    pub const fn is_active(&self) -> bool {
        match self {
            Self::Scheduled { .. }
            | Self::Running(_)
            | Self::Approval { .. }
            | Self::Paused(_)
            | Self::Promoting { .. }
            | Self::RollingBack { .. } => true,
            Self::Completed { .. } | Self::Aborted { .. } | Self::RolledBack { .. } => false,
        }
    }

    /// Returns the wave that is under way or was last, from 0.
    #[must_use]
    pub const fn wave(&self) -> Option<usize> {
        match self {
            Self::Running(running) => Some(running.wave),
            Self::Approval { wave, .. } => Some(*wave),
            Self::Paused(paused) => Some(paused.running.wave),
            Self::Scheduled { .. }
            | Self::Promoting { .. }
            | Self::Completed { .. }
            | Self::Aborted { .. }
            | Self::RollingBack { .. }
            | Self::RolledBack { .. } => None,
        }
    }

    /// Returns the reason that the state has, in words.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Paused(paused) => Some(&paused.reason),
            Self::Aborted { reason, .. } | Self::RollingBack { reason, .. } | Self::RolledBack { reason, .. } => {
                Some(reason)
            }
            Self::Scheduled { .. }
            | Self::Running(_)
            | Self::Approval { .. }
            | Self::Promoting { .. }
            | Self::Completed { .. } => None,
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
