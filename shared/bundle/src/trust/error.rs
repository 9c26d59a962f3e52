//! Errors of trust metadata.

use std::io;
use std::path::PathBuf;

use jiff::Timestamp;
use types::{ModelName, Version};

use super::source::SourceError;

/// Error: metadata was not trusted, or could not be fetched or stored.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// A root violates the rules of this project.
    #[error("trust root is not acceptable: {0}")]
    BadRoot(String),
    /// The folder was created with another root.
    #[error("trust folder {0:?} belongs to another hub: enrol with an empty state folder")]
    OtherRoot(PathBuf),
    /// The folder was not created yet.
    #[error("trust folder {0:?} has no root: enrol this device first")]
    NoRoot(PathBuf),
    /// An access to the disk failed.
    #[error("{action} {path:?}")]
    Storage {
        /// Operation that failed.
        action: &'static str,
        /// Path of the operation.
        path: PathBuf,
        /// Error of the operating system.
        #[source]
        source: io::Error,
    },
    /// The metadata source failed.
    #[error("fetch trust metadata {name:?}")]
    Source {
        /// Name of the file.
        name: String,
        /// Error of the source.
        #[source]
        source: SourceError,
    },
    /// The file exceeds its limit.
    #[error("trust metadata {name:?} is over the limit of {bytes_max} bytes")]
    TooLarge {
        /// Name of the file.
        name: String,
        /// Maximum size in bytes.
        bytes_max: u64,
    },
    /// The metadata has expired: the hub is silent or withholds new metadata, or a clock is wrong.
    #[error("trust metadata \"{role}\" expired at {expires}: check the hub and this machine's clock")]
    Expired {
        /// Role of the metadata.
        role: String,
        /// Time of the expiry.
        expires: Timestamp,
    },
    /// The metadata is older than trusted metadata.
    #[error("trust metadata \"{role}\" went back from version {trusted} to {offered}")]
    Rollback {
        /// Role of the metadata.
        role: String,
        /// Version that is trusted.
        trusted: u64,
        /// Version that was received.
        offered: u64,
    },
    /// The file has too few valid signatures.
    #[error("trust metadata \"{role}\" is not signed by enough of its keys")]
    Signatures {
        /// Role of the metadata.
        role: String,
        /// Error of the verification.
        #[source]
        source: sigstore_tuf::Error,
    },
    /// The metadata fails verification for another reason.
    #[error("verify trust metadata")]
    Refused(#[source] sigstore_tuf::Error),
    /// The source has more new roots than one refresh accepts; the received ones are kept.
    #[error("more than {max} new trust roots: refresh again", max = super::ROOT_ROTATIONS_MAX)]
    ManyRoots,
    /// The metadata is verified but a part of it is missing.
    #[error("trust metadata is incomplete")]
    Incomplete,
    /// The process is shutting down.
    #[error("writing trust metadata was interrupted")]
    Interrupted,
    /// The version is not signed.
    #[error("{model} version {version} is not listed in the signed targets")]
    NotListed {
        /// Name of the model.
        model: ModelName,
        /// Version of the model.
        version: Version,
    },
}

impl TrustError {
    /// Whether the received data must not be trusted, so that the same data will be refused again.
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

/// Converts the errors of `sigstore-tuf`. The wildcard covers all errors without a variant of ours.
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
