//! Files of pushes that failed: uploaded, and never named by a published version.
//!
//! Removed when the hub starts and daily once they are old, and at once when an upload finds the disk full. A push that is
//! under way then says that a file is missing, and is repeated by its operator.

use std::collections::HashSet;
use std::time::{Duration, SystemTime};

use types::Digest;

use super::Registry;
use crate::storage::blobs::BlobError;

/// Age from which a file that no version names is removed: a push of gigabytes over a slow link takes hours.
pub const ORPHAN_AGE: Duration = Duration::from_secs(24 * 3600);

impl Registry {
    /// Removes files that no published version names and that are at least `age` old; returns how many. Removes nothing
    /// while the manifest of any published version cannot be read, because its files would be among them.
    ///
    /// # Errors
    /// When the folder cannot be listed or a file cannot be removed.
    ///
    /// # Cancel safety
    /// Files that were removed are gone; the others are found the next time.
    pub async fn remove_orphans(&self, age: Duration) -> Result<usize, BlobError> {
        // Nothing is published meanwhile.
        let _one_at_a_time = self.signing.lock().await;
        let Some(named) = self.named_blobs() else {
            tracing::warn!("files of failed pushes are kept: the manifest of a published version cannot be read");
            return Ok(0);
        };
        let removed = self.blobs.retain(named, SystemTime::now().checked_sub(age)).await?;
        if removed > 0 {
            tracing::info!(removed, "removed files of pushes that failed");
        }
        Ok(removed)
    }

    /// Returns every blob that a published version names; `None` when that cannot be told of one of them.
    fn named_blobs(&self) -> Option<HashSet<Digest>> {
        let core = self.snapshot();
        let known = self.known();
        let published = core.models().flat_map(|(name, model)| model.versions().map(move |(record, _)| (name, record)));
        let mut named = HashSet::new();
        for (name, record) in published {
            let (digest, manifest) = known.manifests.get(&(name.clone(), record.version))?;
            named.insert(*digest);
            named.extend(manifest.files().into_iter().map(|file| file.digest));
        }
        Some(named)
    }
}
