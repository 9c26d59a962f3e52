//! Uploads of files for versions.

use std::sync::Arc;
use std::time::Duration;

use types::Digest;

use crate::app::registry::Registry;
use crate::storage::blobs::{BlobError, BlobUpload};

/// Use cases of uploads of files.
#[derive(Debug)]
pub struct Uploads {
    /// Registry with the files.
    pub registry: Arc<Registry>,
    /// Maximum length of a file in bytes.
    pub blob_bytes_max: u64,
}

impl Uploads {
    /// Returns whether a file is there and whole.
    ///
    /// # Errors
    /// When the disk fails.
    pub async fn is_whole(&self, digest: &Digest) -> Result<bool, BlobError> {
        self.registry.blob_is_whole(digest).await
    }

    /// Begins the upload of one file.
    ///
    /// # Errors
    /// When the disk fails.
    pub async fn begin(&self, digest: Digest) -> Result<Box<dyn BlobUpload>, BlobError> {
        self.registry.blobs().begin(digest, self.blob_bytes_max).await
    }

    /// Records that an upload is complete: a damaged file may be whole again.
    pub fn finished(&self, digest: &Digest) {
        self.registry.blob_stored(digest);
    }

    /// Removes the files of failed pushes at once, for a disk that is full.
    pub async fn make_room(&self) {
        if let Err(error) = self.registry.remove_orphans(Duration::ZERO).await {
            tracing::warn!(error = telemetry::chain(&error), "files of failed pushes were not removed");
        }
    }
}
