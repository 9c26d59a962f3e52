//! Stages and outcomes of a model update, shared by devices, the hub, the wire, metrics, the command lines and the
//! documents.

use std::fmt;

use crate::Version;

/// Stage of an update, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// The device decides whether to install the version.
    Offered,
    /// The trust metadata is refreshed and the signed manifest read.
    Refreshing,
    /// The device downloads the files.
    Fetching,
    /// The files are hashed and compared with the manifest.
    Verifying,
    /// The device loads the version beside the active one.
    Loading,
    /// The device runs the version on its golden inputs.
    Checking,
    /// The device measures the version beside the active one.
    Measuring,
    /// The version answers a share of the live requests in the shadow of the active one.
    Shadowing,
    /// The device moves the pointer to the active version, and routes requests to the new one.
    Switching,
    /// The version serves, or served until its files were found damaged.
    Active,
}

impl Stage {
    /// All stages, in order.
    pub const ALL: [Self; 10] = [
        Self::Offered,
        Self::Refreshing,
        Self::Fetching,
        Self::Verifying,
        Self::Loading,
        Self::Checking,
        Self::Measuring,
        Self::Shadowing,
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
            Self::Measuring => "measuring",
            Self::Shadowing => "shadowing",
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

/// State of an update, with data of a serving version (`S`) and the reason of a failure (`R`) in the types of the user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome<S, R> {
    /// The device has started the update.
    Started,
    /// The version serves.
    Active(S),
    /// The update failed, and the device retries it automatically.
    Retrying(R),
    /// The update failed permanently: the active version continues to serve, and the device retries this version only
    /// on request.
    Rejected(R),
    /// The update was skipped, because the device serves a newer version.
    Superseded {
        /// Version that serves instead.
        by: Version,
    },
    /// The version served, and the device returned to the previous version.
    RolledBack(R),
}

/// Label of every outcome in metrics, tables, the APIs and logs.
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

    /// Converts the data of the outcome to other types.
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

    /// Returns the reason of a failure or of a return to the previous version.
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
