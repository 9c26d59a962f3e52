//! Where an update stands, and what that is called.

use std::time::Instant;

use types::Version;
use types::update::Stage;

use crate::slots::Installed;

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
    /// Writing the pointers and leading the traffic over.
    Switching {
        /// The version that will serve.
        candidate: Installed,
    },
}

impl State {
    /// The name in errors, logs and `edge-agent status`.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Paused { .. } => "paused",
            Self::Waiting { .. } => "waiting",
            Self::Refreshing { .. } => "refreshing trust",
            Self::Fetching { .. } => "fetching",
            Self::Verifying { .. } => "verifying",
            Self::Loading { .. } => "loading",
            Self::Checking { .. } => "checking golden inputs",
            Self::Switching { .. } => "switching",
        }
    }

    /// The version under way.
    #[must_use]
    pub const fn target(&self) -> Option<Version> {
        match self {
            Self::Idle => None,
            Self::Paused { target }
            | Self::Waiting { target, .. }
            | Self::Refreshing { target }
            | Self::Fetching { target }
            | Self::Verifying { target } => Some(*target),
            Self::Loading { candidate } | Self::Checking { candidate } | Self::Switching { candidate } => {
                Some(candidate.version)
            }
        }
    }

    pub(super) const fn stage(&self) -> Stage {
        match self {
            Self::Idle | Self::Paused { .. } | Self::Waiting { .. } => Stage::Offered,
            Self::Refreshing { .. } => Stage::Refreshing,
            Self::Fetching { .. } => Stage::Fetching,
            Self::Verifying { .. } => Stage::Verifying,
            Self::Loading { .. } => Stage::Loading,
            Self::Checking { .. } => Stage::Checking,
            Self::Switching { .. } => Stage::Switching,
        }
    }
}
