//! State of an update of one model.

use std::time::Instant;

use types::Version;
use types::update::Stage;

use super::probation::Probation;
use crate::slots::{Installed, Slots};

/// State of an update of one model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Nothing is under way.
    Idle,
    /// Waiting for the hub.
    Paused {
        /// The version to begin with when it is back.
        target: Version,
    },
    /// Waiting before the next try.
    Waiting {
        /// The version to try.
        target: Version,
        /// Time of the next attempt.
        until: Instant,
    },
    /// Proving a version that is kept on the disk.
    Recalling {
        /// The version under way.
        target: Version,
    },
    /// Refreshing the trust metadata.
    Refreshing {
        /// The version under way.
        target: Version,
    },
    /// Fetching the files of the version.
    Fetching {
        /// The version under way.
        target: Version,
    },
    /// Comparing the files with their digests.
    Verifying {
        /// The version under way.
        target: Version,
    },
    /// Loading beside the active version.
    Loading {
        /// The verified version under way.
        candidate: Installed,
    },
    /// Running the golden inputs.
    Checking {
        /// The loaded version under way.
        candidate: Installed,
    },
    /// Measuring the candidate beside the active version.
    Measuring {
        /// The loaded version under way.
        candidate: Installed,
    },
    /// Answering a share of the live requests in the shadow of the active version.
    Shadowing {
        /// The loaded version under way.
        candidate: Installed,
    },
    /// Writing the pointers and routing requests to the candidate.
    Switching {
        /// The version that will serve.
        candidate: Installed,
        /// Pointers that are being written.
        slots: Slots,
        /// Probation that is being written with them.
        probation: Option<Probation>,
    },
}

impl State {
    /// Returns the name in errors, logs and `edge-agent status`.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Paused { .. } => "paused",
            Self::Waiting { .. } => "waiting",
            Self::Recalling { .. } => "recalling",
            Self::Refreshing { .. } => "refreshing trust",
            Self::Fetching { .. } => "fetching",
            Self::Verifying { .. } => "verifying",
            Self::Loading { .. } => "loading",
            Self::Checking { .. } => "checking golden inputs",
            Self::Measuring { .. } => "measuring",
            Self::Shadowing { .. } => "shadowing",
            Self::Switching { .. } => "switching",
        }
    }

    /// Returns the version under way.
    #[must_use]
    pub const fn target(&self) -> Option<Version> {
        match self {
            Self::Idle => None,
            Self::Paused { target }
            | Self::Waiting { target, .. }
            | Self::Recalling { target }
            | Self::Refreshing { target }
            | Self::Fetching { target }
            | Self::Verifying { target } => Some(*target),
            Self::Loading { candidate }
            | Self::Checking { candidate }
            | Self::Measuring { candidate }
            | Self::Shadowing { candidate }
            | Self::Switching { candidate, .. } => Some(candidate.version),
        }
    }

    pub(super) const fn stage(&self) -> Stage {
        match self {
            Self::Idle | Self::Paused { .. } | Self::Waiting { .. } => Stage::Offered,
            Self::Refreshing { .. } => Stage::Refreshing,
            Self::Fetching { .. } => Stage::Fetching,
            Self::Recalling { .. } | Self::Verifying { .. } => Stage::Verifying,
            Self::Loading { .. } => Stage::Loading,
            Self::Checking { .. } => Stage::Checking,
            Self::Measuring { .. } => Stage::Measuring,
            Self::Shadowing { .. } => Stage::Shadowing,
            Self::Switching { .. } => Stage::Switching,
        }
    }

    /// Returns whether a job is under way.
    pub(super) const fn has_job(&self) -> bool {
        !matches!(self, Self::Idle | Self::Paused { .. } | Self::Waiting { .. })
    }

    /// Returns whether a session of the candidate may be loaded beside the active one.
    pub(super) const fn is_loaded(&self) -> bool {
        matches!(self, Self::Checking { .. } | Self::Measuring { .. } | Self::Shadowing { .. } | Self::Switching { .. })
    }
}
