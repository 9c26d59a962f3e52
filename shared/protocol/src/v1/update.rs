//! How a version reaches a device: offers, files in parts, and reports of how it goes.

use serde::{Deserialize, Serialize};
use types::limits::FILE_BYTES_MAX;
use types::update::{Outcome, Stage};
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
    /// Stage that the update has reached.
    #[serde(with = "wire::stage")]
    pub stage: Stage,
    /// State of the update at this stage. [`Outcome::Active`] at a stage before [`Stage::Active`] means that the stage is passed.
    #[serde(with = "wire::outcome")]
    pub outcome: UpdateOutcome,
}

/// State of an update, with the reason of a failure for the operator.
pub type UpdateOutcome = Outcome<(), String>;

impl UpdateReport {
    pub(super) fn check(&self) -> Result<(), String> {
        self.outcome.reason().map_or(Ok(()), |reason| text("cause", reason))
    }
}
