//! Where an update stands, and what that is called.

use std::time::Instant;

use types::Version;
use types::update::Stage;

use crate::slots::Installed;

/// Where an update stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Nothing to do.
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
        /// When.
        until: Instant,
    },
    /// Refreshing trust.
    Refreshing {
        /// The version under way.
        target: Version,
    },
    /// Fetching files.
    Fetching {
        /// The version under way.
        target: Version,
    },
    /// Hashing files.
    Verifying {
        /// The version under way.
        target: Version,
    },
    /// Loading beside the active version.
    Loading {
        /// The verified version under way.
        candidate: Installed,
    },
    /// Answering golden inputs.
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
