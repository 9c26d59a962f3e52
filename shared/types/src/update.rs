//! The words for an update of a model: used by devices, the hub, the wire, metrics, the command lines and the documents.

use std::fmt;

use crate::Version;

/// A part of an update, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// The device decides whether to take the version.
    Offered,
    /// The trust metadata is refreshed and the signed manifest read.
    Refreshing,
    /// The files are fetched.
    Fetching,
    /// The files are hashed and compared with the manifest.
    Verifying,
    /// The version is loaded beside the active one.
    Loading,
    /// The version answers its golden inputs.
    Checking,
    /// The pointer to the active version is moved, and the requests with it.
    Switching,
    /// The version serves, or did until its files were found damaged.
    Active,
}

impl Stage {
    /// All stages, in order.
    pub const ALL: [Self; 8] = [
        Self::Offered,
        Self::Refreshing,
        Self::Fetching,
        Self::Verifying,
        Self::Loading,
        Self::Checking,
        Self::Switching,
        Self::Active,
    ];

    /// Returns the name in reports, tables, the APIs and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Offered => "offered",
            Self::Refreshing => "refreshing",
            Self::Fetching => "fetching",
            Self::Verifying => "verifying",
            Self::Loading => "loading",
            Self::Checking => "checking",
            Self::Switching => "switching",
            Self::Active => "active",
        }
    }

    /// Returns the stage of a name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|stage| stage.as_str() == name)
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The state of an update, with what serves (`S`) and the reason of a failure (`R`) as the place has them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome<S, R> {
    /// The device has taken it up.
    Started,
    /// The version serves.
    Active(S),
    /// It has failed, and the device tries it again by itself.
    Retrying(R),
    /// It has failed for good: the active version goes on serving, and the device tries this one again only when it is told to.
    Rejected(R),
    /// It was not taken, because the device serves a newer version.
    Superseded {
        /// The version that serves.
        by: Version,
    },
    /// It has served, and the device went back to the version before.
    RolledBack(R),
}

/// The label of every outcome, in metrics, tables, the APIs and logs.
pub const OUTCOME_LABELS: [&str; 6] = ["started", "active", "retrying", "rejected", "superseded", "rolled-back"];

impl<S, R> Outcome<S, R> {
    /// Returns the label, one of [`OUTCOME_LABELS`].
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Started => "started",
            Self::Active(_) => "active",
            Self::Retrying(_) => "retrying",
            Self::Rejected(_) => "rejected",
            Self::Superseded { .. } => "superseded",
            Self::RolledBack(_) => "rolled-back",
        }
    }

    /// Whether the update has ended.
    #[must_use]
    pub const fn is_final(&self) -> bool {
        match self {
            Self::Started | Self::Retrying(_) => false,
            Self::Active(_) | Self::Rejected(_) | Self::Superseded { .. } | Self::RolledBack(_) => true,
        }
    }

    /// Returns the outcome in the types of another place.
    #[must_use]
    pub fn map<T, Q>(self, serves: impl FnOnce(S) -> T, reason: impl FnOnce(R) -> Q) -> Outcome<T, Q> {
        match self {
            Self::Started => Outcome::Started,
            Self::Active(what) => Outcome::Active(serves(what)),
            Self::Retrying(why) => Outcome::Retrying(reason(why)),
            Self::Rejected(why) => Outcome::Rejected(reason(why)),
            Self::Superseded { by } => Outcome::Superseded { by },
            Self::RolledBack(why) => Outcome::RolledBack(reason(why)),
        }
    }

    /// Returns the reason of a failure.
    #[must_use]
    pub const fn reason(&self) -> Option<&R> {
        match self {
            Self::Retrying(reason) | Self::Rejected(reason) | Self::RolledBack(reason) => Some(reason),
            Self::Started | Self::Active(_) | Self::Superseded { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_outcome_has_its_label_and_every_stage_a_name_that_leads_back() {
        let by = Version::new(2).unwrap();
        let all: [Outcome<(), ()>; 6] = [
            Outcome::Started,
            Outcome::Active(()),
            Outcome::Retrying(()),
            Outcome::Rejected(()),
            Outcome::Superseded { by },
            Outcome::RolledBack(()),
        ];
        assert_eq!(all.map(|outcome| outcome.as_str()), OUTCOME_LABELS);
        for stage in Stage::ALL {
            assert_eq!(Stage::named(stage.as_str()), Some(stage));
        }
        assert_eq!(Stage::named("teleport"), None);
    }
}
