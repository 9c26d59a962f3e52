//! How a version reaches a device: offers, files in parts, and reports of how it goes.

use std::fmt;

use serde::{Deserialize, Serialize};
use types::limits::FILE_BYTES_MAX;
use types::{Digest, ModelName, VariantName, Version};

use super::{at_most, text};
use crate::wire;

/// Most bytes that one [`BlobRange`] may ask for.
///
/// 16 chunks of a bundle (1 MiB each): at 1 MB/s a quarter of a minute of transfer, after which progress is safe on disk.
pub const BLOB_RANGE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// A version of a model to be fetched. It is a hint: what is installed is decided by signed metadata alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// Which model.
    pub model: ModelName,
    /// Which version of it.
    pub version: Version,
}

/// A part of a file, named by what the whole file hashes to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobRange {
    /// Digest of the whole file.
    #[serde(with = "wire::digest")]
    pub digest: Digest,
    /// First byte wanted.
    pub offset: u64,
    /// Bytes wanted, at most [`BLOB_RANGE_BYTES_MAX`]; the hub gives fewer at the end of the file.
    pub length: u64,
}

impl BlobRange {
    pub(super) fn check(&self) -> Result<(), String> {
        at_most("offset", self.offset, FILE_BYTES_MAX)?;
        at_most("length", self.length, BLOB_RANGE_BYTES_MAX)
    }
}

/// The part that follows as body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobSlice {
    /// Length of the whole file in bytes.
    pub total: u64,
    /// Bytes that follow.
    pub length: u64,
}

impl BlobSlice {
    pub(super) fn check(&self) -> Result<(), String> {
        at_most("total", self.total, FILE_BYTES_MAX)?;
        at_most("length", self.length, BLOB_RANGE_BYTES_MAX)
    }
}

/// How an update of one model goes on one device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpdateReport {
    /// Which model.
    pub model: ModelName,
    /// The version being installed.
    pub version: Version,
    /// Which form of it, once the device has chosen one.
    pub variant: Option<VariantName>,
    /// How far it is.
    pub stage: UpdateStage,
    /// How it stands there.
    pub outcome: UpdateOutcome,
}

/// How far an update is. Append only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum UpdateStage {
    /// The offer was weighed.
    Offered,
    /// Signed metadata is being refreshed and the manifest read.
    Refreshing,
    /// Files are being fetched.
    Fetching,
    /// Files are being held against the signed digests.
    Verifying,
    /// The new session is being loaded beside the active one.
    Loading,
    /// The new session answers the golden inputs.
    Checking,
    /// The pointer to the active version is being moved.
    Switching,
    /// The version is what answers.
    Active,
}

impl UpdateStage {
    /// Every stage in order.
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

    /// The name in logs, tables and metrics.
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
}

impl fmt::Display for UpdateStage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How an update stands at its stage. Append only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum UpdateOutcome {
    /// Under way.
    Running {
        /// Bytes safe on the device.
        bytes_done: u64,
        /// Bytes in all.
        bytes_total: u64,
    },
    /// The stage is passed.
    Succeeded,
    /// The version itself was found wanting (older, unsigned, altered, wrong golden answers). It is not tried again by itself.
    Refused {
        /// Why, for the operator.
        cause: String,
    },
    /// The device had trouble (disk full, engine, hub away too long). The version may be tried again.
    Failed {
        /// Why, for the operator.
        cause: String,
    },
}

impl UpdateReport {
    pub(super) fn check(&self) -> Result<(), String> {
        match &self.outcome {
            UpdateOutcome::Refused { cause } | UpdateOutcome::Failed { cause } => text("cause", cause),
            UpdateOutcome::Running { .. } | UpdateOutcome::Succeeded => Ok(()),
        }
    }
}
