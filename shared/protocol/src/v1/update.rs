//! Messages of an update: offers, parts of files, and reports of progress.

use serde::{Deserialize, Serialize};
use types::limits::FILE_BYTES_MAX;
use types::update::{Outcome, Stage};
use types::{Digest, ModelName, VariantName, Version};

use super::{at_most, count, text};
use crate::wire;

/// Maximum length of one [`BlobRange`] in bytes.
///
/// 16 chunks of a bundle (1 MiB each): at 1 MB/s about 16 s of transfer, after which the progress is stored on disk.
pub const BLOB_RANGE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// A version of a model that is available to the device. Only a hint: signed metadata alone decides what is installed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// Name of the model.
    pub model: ModelName,
    /// Version of the model.
    pub version: Version,
}

/// A part of a file, which is named by the digest of the whole file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobRange {
    /// Digest of the whole file.
    #[serde(with = "wire::digest")]
    pub digest: Digest,
    /// Offset of the first byte.
    pub offset: u64,
    /// Number of bytes, at most [`BLOB_RANGE_BYTES_MAX`]; the hub sends fewer at the end of the file.
    pub length: u64,
}

impl BlobRange {
    pub(super) fn check(&self) -> Result<(), String> {
        at_most("offset", self.offset, FILE_BYTES_MAX)?;
        at_most("length", self.length, BLOB_RANGE_BYTES_MAX)
    }
}

/// Lengths of a part that follows as body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobSlice {
    /// Length of the whole file in bytes.
    pub total: u64,
    /// Number of bytes that follow.
    pub length: u64,
}

impl BlobSlice {
    pub(super) fn check(&self) -> Result<(), String> {
        at_most("total", self.total, FILE_BYTES_MAX)?;
        at_most("length", self.length, BLOB_RANGE_BYTES_MAX)
    }
}

/// Request for a delta between two files of bundles.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeltaRequest {
    /// Digests of files that the device has, best first; the hub chooses one. Empty asks for the compressed file.
    #[serde(with = "wire::digests")]
    pub bases: Vec<Digest>,
    /// Digest of the file to make.
    #[serde(with = "wire::digest")]
    pub target: Digest,
}

/// Maximum number of files in [`DeltaRequest::bases`]: the slots of a model, and a few versions that are kept.
pub const DELTA_BASES_MAX: usize = 16;

impl DeltaRequest {
    pub(super) fn check(&self) -> Result<(), String> {
        count("bases", self.bases.len(), DELTA_BASES_MAX)
    }
}

/// File that makes the requested one; fetched with [`BlobRange`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeltaFile {
    /// Digest of the delta.
    #[serde(with = "wire::digest")]
    pub digest: Digest,
    /// Length of the delta in bytes.
    pub bytes: u64,
}

impl DeltaFile {
    pub(super) fn check(&self) -> Result<(), String> {
        at_most("bytes", self.bytes, FILE_BYTES_MAX)
    }
}

/// Progress of an update of one model on one device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpdateReport {
    /// Name of the model.
    pub model: ModelName,
    /// Version that is being installed.
    pub version: Version,
    /// Variant of the version, once the device has chosen one.
    pub variant: Option<VariantName>,
    /// Stage that the update has reached.
    #[serde(with = "wire::stage")]
    pub stage: Stage,
    /// State of the update at this stage. [`Outcome::Active`] at a stage before [`Stage::Active`] means that the stage
    /// is complete.
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
