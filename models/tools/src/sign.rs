//! Writes TUF metadata: who may sign ([`Roles`]), which manifests are signed, and that this is the latest.
//!
//! The operator's offline keys sign the root (who may sign what) and the targets (which manifests devices may
//! trust). The hub's online keys sign the snapshot (which targets are the latest) and the timestamp (that the hub is
//! alive). Fed by `cloud-hub`; everything that is written here was read back by `bundle::trust` before it is handed
//! out, so that nothing is published that devices would refuse.

mod canonical;
mod change;
mod draft;
mod key;
mod key_file;
mod metadata;
mod repository;

use std::path::PathBuf;

use jiff::{SignedDuration, Timestamp};

pub use change::{CHANGE_BYTES_MAX, Change, Missing, Push};
pub use draft::Draft;
pub use key::{KeyPair, PublicKey};
pub use key_file::{EncryptedKey, KeyFile, Passphrase};
pub use metadata::Signed;
pub use repository::{
    Authority, InitialKeys, OnlineKeys, Repository, Roles, VERSION_PLAUSIBLE_MAX, add_target, draft_addition,
    draft_removal, draft_root, draft_targets, first_root, first_targets, fresh_snapshot_and_timestamp, init_repository,
    next_root, remove_target, renew_targets, snapshot_and_timestamp,
};

/// The four files of a TUF repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Roles, and the keys that may sign them.
    Root,
    /// Which manifests devices may trust.
    Targets,
    /// Which targets are the latest.
    Snapshot,
    /// That this is the latest snapshot.
    Timestamp,
}

impl Role {
    /// All roles of the repository.
    pub const ALL: [Self; 4] = [Self::Root, Self::Targets, Self::Snapshot, Self::Timestamp];

    /// The name in metadata.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Targets => "targets",
            Self::Snapshot => "snapshot",
            Self::Timestamp => "timestamp",
        }
    }

    /// The file's name in the hub's folder of metadata.
    #[must_use]
    pub fn file_name(self, version: u64) -> String {
        match self {
            Self::Root | Self::Targets | Self::Snapshot => format!("{version}.{}.json", self.as_str()),
            Self::Timestamp => "timestamp.json".to_owned(),
        }
    }

    /// Returns how long a signature is good for.
    ///
    /// Root and targets, one year: their keys lie in a drawer, and taking them out once a year shows that they still
    /// can be. Snapshot, 30 days: it changes with the targets alone. Timestamp, 7 days: the longest that a hub in
    /// wrong hands, or a network that blocks it, can keep a fleet from news without the devices noticing; long enough
    /// for a hub that is down over a holiday weekend.
    #[must_use]
    pub const fn lifetime(self) -> SignedDuration {
        let days = match self {
            Self::Root | Self::Targets => 365,
            Self::Snapshot => 30,
            Self::Timestamp => 7,
        };
        SignedDuration::from_hours(days * 24)
    }

    /// Returns whether it is time to sign anew: half of the lifetime is over, so that as much is left for trouble.
    #[must_use]
    pub fn renewal_due(self, expires: Timestamp, now: Timestamp) -> bool {
        expires.duration_since(now) < self.lifetime() / 2
    }

    /// Returns whether a signature is good for far longer than any that is made here: the clock was ahead when it was made.
    ///
    /// Devices could be kept from news for as long, so it is made anew. Twice the lifetime, because a clock that is a few
    /// days behind now looks the same and must not shorten what stands.
    #[must_use]
    pub fn is_too_long(self, expires: Timestamp, now: Timestamp) -> bool {
        expires.duration_since(now) > self.lifetime() * 2
    }
}

/// Reason why something was not signed, or a key could not be used.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// The key file could not be read or written.
    #[error("{action} key file {path:?}")]
    KeyFile {
        /// Action that failed, as a verb phrase.
        action: &'static str,
        /// Path of the file.
        path: PathBuf,
        /// Cause of the failure.
        #[source]
        source: std::io::Error,
    },
    /// Others on the machine can read the key.
    #[error(
        "key file {path:?} can be read by others (mode {mode:o}): run `chmod 600` on it, and think about who has it"
    )]
    KeyExposed {
        /// Path of the file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Not a key.
    #[error("key file {0:?} holds no ed25519 private key in PKCS#8 PEM")]
    NotAKey(PathBuf),
    /// The key is under a passphrase, and none was given.
    #[error("key file {0:?} is under a passphrase: give it with --passphrase-file or at the prompt")]
    KeyEncrypted(PathBuf),
    /// The passphrase does not open the key.
    #[error("the passphrase does not open key file {0:?}")]
    WrongPassphrase(PathBuf),
    /// The key is encrypted in a way that is not supported.
    #[error("key file {path:?} cannot be decrypted: {problem}")]
    KeyMethod {
        /// Path of the file.
        path: PathBuf,
        /// Description of the problem.
        problem: &'static str,
    },
    /// Not a public key.
    #[error("{0:?} is not an ed25519 public key: 64 lower-case hex digits are needed")]
    NotAPublicKey(String),
    /// The operating system gave no randomness, or the signature failed.
    #[error("{0} with an ed25519 key failed")]
    Crypto(&'static str),
    /// A threshold that cannot be met, or no key at all.
    #[error("role {role:?} has {keys} keys and needs {threshold} signatures")]
    Threshold {
        /// Name of the role.
        role: &'static str,
        /// Keys that the role has.
        keys: usize,
        /// Signatures it would need.
        threshold: usize,
    },
    /// One key would count twice.
    #[error("role {role:?} names the key {key} twice: one key must count once")]
    DuplicateKey {
        /// Name of the role.
        role: &'static str,
        /// The key in hex.
        key: String,
    },
    /// The signers at hand are not enough.
    #[error("{given} of the {needed} signatures that {role:?} needs are at hand: bring more of its keys")]
    NotEnoughSigners {
        /// Name of the role.
        role: &'static str,
        /// Lawful signers given.
        given: usize,
        /// Number of signatures that are needed.
        needed: usize,
    },
    /// A version is signed once and for ever.
    #[error("{path:?} is signed already{}: give the changed model a new version", if *.same { ", with the same content" } else { "" })]
    AlreadySigned {
        /// Name of the target.
        path: String,
        /// Whether it is signed with exactly this content.
        same: bool,
    },
    /// A target that is to be taken off the list is not on it.
    #[error("{path:?} is not on the signed list")]
    NotSigned {
        /// Name of the target.
        path: String,
    },
    /// Metadata to continue from is not what it should be.
    #[error("read {role} metadata")]
    Metadata {
        /// Name of the role.
        role: &'static str,
        /// Cause of the failure.
        #[source]
        source: serde_json::Error,
    },
    /// Metadata is of another kind than expected.
    #[error("metadata is of type {given:?} where {expected:?} is needed")]
    WrongRole {
        /// Name of what is needed.
        expected: &'static str,
        /// Text that was found.
        given: String,
    },
    /// More signatures than any metadata can need.
    #[error("{role} metadata carries more than {max} signatures")]
    ManySignatures {
        /// Name of the role.
        role: &'static str,
        /// Most signatures that are read.
        max: usize,
    },
    /// Two drafts of a file say different things.
    #[error("the two files of {0:?} do not have the same content: their signatures cannot be put together")]
    OtherContent(&'static str),
    /// A file is no prepared change.
    #[error("the file is no prepared change of trust: {0}")]
    NotAChange(String),
    /// A number that JSON readers elsewhere would lose.
    #[error("metadata holds a number that is no integer")]
    NotAnInteger,
    /// A version number has come to its end.
    #[error(
        "{0} metadata has the highest version there is: it can only start again under other keys (cloud-hub trust rotate)"
    )]
    VersionsExhausted(&'static str),
    /// Devices would refuse it.
    #[error("check {role} metadata as a device does")]
    Refused {
        /// Name of the role.
        role: &'static str,
        /// Reason, in one clause.
        #[source]
        source: bundle::trust::TrustError,
    },
}
