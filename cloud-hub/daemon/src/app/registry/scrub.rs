//! Background check of every published file: reads each one at a low rate and compares it with its digest.
//!
//! Fed by the hub's clockwork. Without it, a file that nobody fetches could be damaged for months, and be missed on the
//! day on which it is needed. Findings are those of [`super::health`].

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use types::{Digest, ModelName, Version};

use super::Registry;
use crate::storage::blobs::BlobError;

/// Bytes read at once.
const PIECE_BYTES: u64 = 1024 * 1024;

/// Maximum rate in bytes a second: a tenth of what a slow disk (an SD card) reads, so that requests and transfers do not
/// notice. 100 GB of models take three and a half hours.
const BYTES_PER_S: u64 = 8 * 1024 * 1024;

/// Pause after each piece that keeps to [`BYTES_PER_S`].
const PAUSE: Duration = Duration::from_millis(1000 * PIECE_BYTES / BYTES_PER_S);

impl Registry {
    /// Checks every file of every published version, one after the other. Returns the versions of which files are whole
    /// that were damaged before: their devices must be told.
    ///
    /// # Cancel safety
    /// What was found so far is noted.
    pub async fn scrub(&self) -> Vec<(ModelName, Version)> {
        let mut mended = BTreeSet::new();
        for (digest, users) in self.published_blobs() {
            let found = self.check_slowly(&digest).await;
            // It may have been withdrawn or uploaded again while it was read.
            if !self.published_blobs().contains_key(&digest) {
                continue;
            }
            match found {
                Ok(true) if self.note_whole(&digest) => {
                    self.take_manifest(digest, &users).await;
                    mended.extend(users);
                }
                Ok(true) => {}
                Ok(false) => self.note_damaged(digest, "it is missing"),
                Err(error) => self.note_damaged(digest, &telemetry::chain(&error)),
            }
        }
        let published = self.published_blobs();
        self.forget_unpublished(|digest| published.contains_key(digest));
        mended.into_iter().collect()
    }

    /// Returns every blob of every published version, with the versions that use it. Of a version whose manifest is not
    /// whole only the manifest is known.
    pub(super) fn published_blobs(&self) -> BTreeMap<Digest, BTreeSet<(ModelName, Version)>> {
        let mut blobs: BTreeMap<Digest, BTreeSet<(ModelName, Version)>> = BTreeMap::new();
        for (name, model) in self.snapshot().models() {
            for (record, _standing) in model.versions() {
                blobs.entry(record.manifest).or_default().insert((name.clone(), record.version));
            }
        }
        for (user, (_digest, manifest)) in &self.known().manifests {
            for file in manifest.files() {
                blobs.entry(file.digest).or_default().insert(user.clone());
            }
        }
        blobs
    }

    /// Takes the manifest of a version that was not whole at the start and is now.
    async fn take_manifest(&self, digest: Digest, users: &BTreeSet<(ModelName, Version)>) {
        let lost: Vec<_> = users.iter().filter(|(model, version)| self.manifest(model, *version).is_none()).collect();
        if lost.is_empty() {
            return;
        }
        let _one_at_a_time = self.signing.lock().await;
        let Ok(trusted) = self.metadata.current().and_then(|set| set.listed()) else { return };
        for (model, version) in lost {
            self.restore_manifest(&trusted, model, *version, digest).await;
        }
        self.take(self.snapshot());
    }

    /// Hashes a blob piece by piece, with pauses; `false` when it is not there.
    async fn check_slowly(&self, digest: &Digest) -> Result<bool, BlobError> {
        let mut hasher = Sha256::new();
        let mut offset = 0;
        while let Some((piece, total)) = self.blobs().read_range(digest, offset, PIECE_BYTES).await? {
            offset = offset.saturating_add(u64::try_from(piece.len()).unwrap_or(u64::MAX));
            hasher.update(&piece);
            if offset >= total || piece.is_empty() {
                let given = Digest::from_bytes(hasher.finalize().into());
                return if given == *digest { Ok(true) } else { Err(BlobError::Digest { expected: *digest, given }) };
            }
            tokio::time::sleep(PAUSE).await;
        }
        Ok(false)
    }
}

/// Returns whether a file hashes to this digest.
///
/// # Errors
/// When it cannot be read.
pub fn is_whole(path: &Path, digest: &Digest) -> io::Result<bool> {
    let mut file = File::open(path)?;
    let mut hasher = Sha256::new();
    let mut piece = vec![0; usize::try_from(PIECE_BYTES).unwrap_or(4096)];
    loop {
        let count = file.read(&mut piece)?;
        if count == 0 {
            return Ok(Digest::from_bytes(hasher.finalize().into()) == *digest);
        }
        hasher.update(piece.get(..count).unwrap_or_default());
    }
}
