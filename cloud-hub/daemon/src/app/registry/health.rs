//! Blobs that the disk has lost or changed: found when a device fetches them, shown to the operator, mended by a push.
//!
//! Used by the gateway ([`Registry::read_for_device`]), by the background check ([`super::scrub`]) and by uploads ([`Registry::blob_is_whole`],
//! [`Registry::blob_stored`]). A damaged file is never sent: devices would take it for tampering.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bundle::{CHUNK_BYTES, FileRef};
use bytes::Bytes;
use types::{Digest, ModelName, Version};

use super::{Fetchable, Registry, manifest_bytes_max};
use crate::storage::blobs::BlobError;

/// Blobs that are damaged or missing.
#[derive(Debug, Default)]
pub(super) struct Health(Mutex<Findings>);

#[derive(Debug, Default)]
struct Findings {
    /// Damaged or missing, with what was found.
    damaged: BTreeMap<Digest, String>,
    /// Uploaded again since; devices have not been told yet.
    mended: BTreeSet<Digest>,
}

impl Health {
    fn findings(&self) -> MutexGuard<'_, Findings> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, digest: Digest, problem: &str) {
        let mut findings = self.findings();
        findings.mended.remove(&digest);
        if findings.damaged.insert(digest, problem.to_owned()).is_none() {
            tracing::error!(%digest, problem, "a published file is damaged on this disk: push its version again");
        }
        telemetry::metrics::blobs_damaged(findings.damaged.len());
    }
}

/// Reason for which a blob is not sent to a device.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// No device may have it, or there is no such blob.
    #[error("the hub publishes no such file")]
    Unknown,
    /// The disk has changed or lost it.
    #[error("the file is damaged on the hub's disk: its operator must push the version again")]
    Damaged,
}

impl Registry {
    /// Reads a part of a blob for a device, and says how long the whole is. Every byte is held against its digest.
    ///
    /// # Errors
    /// [`SendError`].
    pub async fn read_for_device(&self, digest: &Digest, offset: u64, length: u64) -> Result<(Bytes, u64), SendError> {
        let fetchable = self.known().fetchable.get(digest).cloned().ok_or(SendError::Unknown)?;
        let read = match &fetchable {
            Fetchable::Manifest(..) => self.read_whole(digest, offset, length).await,
            Fetchable::File(file) => self.read_chunks(file, offset, length).await,
        };
        match read {
            Ok(Some(read)) => Ok(read),
            Ok(None) => {
                self.health.note(*digest, "it is missing");
                Err(SendError::Damaged)
            }
            Err(error) => {
                self.health.note(*digest, &telemetry::chain(&error));
                Err(SendError::Damaged)
            }
        }
    }

    async fn read_whole(&self, digest: &Digest, offset: u64, length: u64) -> Result<Option<(Bytes, u64)>, BlobError> {
        let Some(bytes) = self.blobs.read(digest, manifest_bytes_max()).await? else { return Ok(None) };
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
        let end = start.saturating_add(usize::try_from(length).unwrap_or(usize::MAX)).min(bytes.len());
        let total = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        Ok(Some((bytes.slice(start..end), total)))
    }

    /// Reads whole chunks around the range: a device may have stopped inside one.
    async fn read_chunks(&self, file: &FileRef, offset: u64, length: u64) -> Result<Option<(Bytes, u64)>, BlobError> {
        let offset = offset.min(file.size);
        let end = offset.saturating_add(length).min(file.size);
        let start = offset / CHUNK_BYTES * CHUNK_BYTES;
        let whole_end = end.div_ceil(CHUNK_BYTES).saturating_mul(CHUNK_BYTES).min(file.size);
        let read = self.blobs.read_range(&file.digest, start, whole_end.saturating_sub(start)).await?;
        let Some((bytes, total)) = read else { return Ok(None) };
        let (file, digest) = (file.clone(), file.digest);
        let checked = tokio::task::spawn_blocking(move || {
            let index = usize::try_from(start / CHUNK_BYTES).unwrap_or(usize::MAX);
            let chunk = usize::try_from(CHUNK_BYTES).unwrap_or(usize::MAX);
            let complete =
                u64::try_from(bytes.len()).ok() == Some(whole_end.saturating_sub(start)) && total == file.size;
            let expected = file.chunks.get(index..).unwrap_or_default();
            let wrong = bytes.chunks(chunk).zip(expected).find(|(found, expected)| Digest::of(found) != **expected);
            match wrong {
                Some((found, expected)) => Err(BlobError::Digest { expected: *expected, given: Digest::of(found) }),
                None if !complete => Err(BlobError::Length { expected: file.size, given: total }),
                None => Ok(bytes),
            }
        });
        let bytes = checked.await.unwrap_or_else(|lost| Err(BlobError::lost(digest, lost)))?;
        let skip = usize::try_from(offset - start).unwrap_or(usize::MAX).min(bytes.len());
        let take = usize::try_from(end - start).unwrap_or(usize::MAX).min(bytes.len()).max(skip);
        Ok(Some((bytes.slice(skip..take), total)))
    }

    /// Returns whether a blob is there and hashes to its name. A damaged one counts as absent, so that it is uploaded again.
    ///
    /// # Errors
    /// When the disk cannot say whether it is there.
    pub async fn blob_is_whole(&self, digest: &Digest) -> Result<bool, BlobError> {
        if self.blobs.length(digest).await?.is_none() {
            return Ok(false);
        }
        match self.blobs.verify(digest).await {
            Ok(is_whole) => Ok(is_whole),
            Err(error) => {
                tracing::warn!(%digest, error = telemetry::chain(&error), "a stored file is damaged: it is taken anew");
                self.health.note(*digest, &telemetry::chain(&error));
                Ok(false)
            }
        }
    }

    /// Notes that a blob was uploaded and is whole now.
    pub fn blob_stored(&self, digest: &Digest) {
        let mut findings = self.health.findings();
        if findings.damaged.remove(digest).is_some() {
            findings.mended.insert(*digest);
            telemetry::metrics::blobs_damaged(findings.damaged.len());
        }
    }

    /// Notes that a blob was read and is not what it must be.
    pub(super) fn note_damaged(&self, digest: Digest, problem: &str) {
        self.health.note(digest, problem);
    }

    /// Notes that a blob was read and is whole. Returns whether it was damaged before: a disk may fail for a while, and a
    /// person may put a file back by hand.
    pub(super) fn note_whole(&self, digest: &Digest) -> bool {
        let mut findings = self.health.findings();
        let was_damaged = findings.damaged.remove(digest).is_some();
        if was_damaged {
            tracing::info!(%digest, "a file that was damaged is whole again");
            telemetry::metrics::blobs_damaged(findings.damaged.len());
        }
        was_damaged
    }

    /// Forgets what was found of blobs that no published version names any more.
    pub(super) fn forget_unpublished(&self, is_published: impl Fn(&Digest) -> bool) {
        let mut findings = self.health.findings();
        findings.damaged.retain(|digest, _problem| is_published(digest));
        telemetry::metrics::blobs_damaged(findings.damaged.len());
    }

    /// Returns whether files of a version were mended since devices were told of it; asked once.
    pub(super) fn take_mended(&self, model: &ModelName, version: Version) -> bool {
        let files: Vec<Digest> = match self.known().manifests.get(&(model.clone(), version)) {
            Some((digest, manifest)) => manifest.files().into_iter().map(|file| file.digest).chain([*digest]).collect(),
            None => return false,
        };
        let mut findings = self.health.findings();
        // Every one is asked, not only up to the first.
        files.iter().filter(|digest| findings.mended.remove(*digest)).count() > 0
    }

    /// Returns one line for each damaged blob that the operator must push again.
    #[must_use]
    pub fn damage(&self) -> Vec<String> {
        let damaged: Vec<(Digest, String)> =
            self.health.findings().damaged.iter().map(|(digest, problem)| (*digest, problem.clone())).collect();
        let published = self.published_blobs();
        let users = |digest: &Digest| {
            let users = published.get(digest).into_iter().flatten();
            users.map(|(model, version)| format!("{model}/{version}")).collect::<Vec<_>>().join(", ")
        };
        damaged
            .iter()
            .map(|(digest, problem)| {
                format!(
                    "file {digest} of {} is damaged on this disk ({problem}): push that version again with cloud-hub model push",
                    users(digest)
                )
            })
            .collect()
    }
}
