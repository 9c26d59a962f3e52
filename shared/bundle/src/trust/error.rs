//! Why metadata was not trusted.

use std::io;
use std::path::PathBuf;

use jiff::Timestamp;
use types::{ModelName, Version};

use super::source::SourceError;

/// Why metadata was not trusted, or could not be fetched or kept.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// A root breaks our own rules.
    #[error("trust root is not acceptable: {0}")]
    BadRoot(String),
    /// The folder began with another root.
    #[error("trust folder {0:?} belongs to another hub: enrol with an empty state folder")]
    OtherRoot(PathBuf),
    /// The folder was never begun.
    #[error("trust folder {0:?} has no root: enrol this device first")]
    NoRoot(PathBuf),
    /// The disk refused.
    #[error("{action} {path:?}")]
    Storage {
        /// What was attempted.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The hub could not be asked.
    #[error("fetch trust metadata {name:?}")]
    Source {
        /// The file.
        name: String,
        /// The cause.
        #[source]
        source: SourceError,
    },
    /// Longer than any such file may be.
    #[error("trust metadata {name:?} is over the limit of {bytes_max} bytes")]
    TooLarge {
        /// The file.
        name: String,
        /// The limit.
        bytes_max: u64,
    },
    /// Out of date: the hub is silent or holds back news, or a clock is wrong.
    #[error("trust metadata \"{role}\" expired at {expires}: check the hub and this machine's clock")]
    Expired {
        /// The role.
        role: String,
        /// When it expired.
        expires: Timestamp,
    },
    /// Older than what was trusted before.
    #[error("trust metadata \"{role}\" went back from version {trusted} to {offered}")]
    Rollback {
        /// The role.
        role: String,
        /// The version that was trusted.
        trusted: u64,
        /// The version that came.
        offered: u64,
    },
    /// Not enough valid signatures.
    #[error("trust metadata \"{role}\" is not signed by enough of its keys")]
    Signatures {
        /// The role.
        role: String,
        /// The details.
        #[source]
        source: sigstore_tuf::Error,
    },
    /// Anything else that does not verify.
    #[error("verify trust metadata")]
    Refused(#[source] sigstore_tuf::Error),
    /// More new roots than are taken at once; those that came are kept.
    #[error("more than {max} new trust roots: refresh again", max = super::ROOT_ROTATIONS_MAX)]
    ManyRoots,
    /// The metadata verified and a part of it is missing.
    #[error("trust metadata is incomplete")]
    Incomplete,
    /// The process is stopping.
    #[error("writing trust metadata was interrupted")]
    Interrupted,
    /// The version is not signed.
    #[error("{model} version {version} is not listed in the signed targets")]
    NotListed {
        /// The model.
        model: ModelName,
        /// The version.
        version: Version,
    },
}

impl TrustError {
    /// Whether what was offered must not be trusted, so that the same offer will be refused again.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::BadRoot(_)
            | Self::TooLarge { .. }
            | Self::Expired { .. }
            | Self::Rollback { .. }
            | Self::Signatures { .. }
            | Self::Refused(_)
            | Self::NotListed { .. } => true,
            Self::OtherRoot(_)
            | Self::NoRoot(_)
            | Self::Storage { .. }
            | Self::Source { .. }
            | Self::ManyRoots
            | Self::Incomplete
            | Self::Interrupted => false,
        }
    }

    /// Whether a root that was published between two requests of one refresh can be the cause.
    pub(super) fn may_be_between_roots(&self) -> bool {
        match self {
            Self::Signatures { .. } | Self::Refused(_) | Self::Rollback { .. } => true,
            Self::BadRoot(_)
            | Self::TooLarge { .. }
            | Self::Expired { .. }
            | Self::NotListed { .. }
            | Self::OtherRoot(_)
            | Self::NoRoot(_)
            | Self::Storage { .. }
            | Self::Source { .. }
            | Self::ManyRoots
            | Self::Incomplete
            | Self::Interrupted => false,
        }
    }

    pub(super) fn storage(action: &'static str, path: &std::path::Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Storage { action, path, source }
    }
}

/// Sorts the errors of `sigstore-tuf` into ours. The wildcard stands for all its others.
pub(super) fn refused(error: sigstore_tuf::Error) -> TrustError {
    use sigstore_tuf::Error;
    match error {
        Error::Expired { role, expires } => TrustError::Expired { role, expires },
        Error::Rollback { role, trusted, new } => TrustError::Rollback { role, trusted, offered: new },
        Error::ThresholdNotMet { ref role, .. } | Error::DuplicateSignature { ref role, .. } => {
            TrustError::Signatures { role: role.clone(), source: error }
        }
        other => TrustError::Refused(other),
    }
}
