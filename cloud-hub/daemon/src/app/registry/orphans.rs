//! Files of pushes that failed: uploaded, and never named by a published version.
//!
//! Removed when the hub starts and daily once they are old, and at once when an upload finds the disk full. A push that is
//! under way then says that a file is missing, and is repeated by its operator.

use std::collections::HashSet;
use std::time::{Duration, SystemTime};

use hub_core::registry::Standing;
use types::Digest;

use super::Registry;
use crate::api::{FilesView, UnheldView};
use crate::app::fleet::Fleet;
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
    pub async fn remove_orphans(&self, age: Duration) -> Result<u64, BlobError> {
        // Nothing is published meanwhile.
        let _one_at_a_time = self.signing.lock().await;
        let Some(named) = self.named_blobs() else {
            tracing::warn!("files of failed pushes are kept: the manifest of a published version cannot be read");
            return Ok(0);
        };
        let removed = self.blobs.retain(named, SystemTime::now().checked_sub(age), false).await?.files;
        if removed > 0 {
            tracing::info!(removed, "removed files of pushes that failed");
        }
        Ok(removed)
    }

    /// Removes or, with `dry_run`, only counts the files that no published version names and that are at least `age` old.
    ///
    /// # Errors
    /// As [`Registry::remove_orphans`].
    pub async fn collect_orphans(&self, age: Duration, dry_run: bool) -> Result<FilesView, BlobError> {
        let _one_at_a_time = self.signing.lock().await;
        let Some(named) = self.named_blobs() else { return Ok(FilesView::default()) };
        self.blobs.retain(named, SystemTime::now().checked_sub(age), dry_run).await
    }

    /// Returns the versions that could be deleted: devices are not offered them, and none holds them. With each its files that
    /// no other version names.
    #[must_use]
    pub fn unheld(&self, fleet: &Fleet) -> Vec<UnheldView> {
        let users = self.published_blobs();
        let core = self.snapshot();
        let known = self.known();
        let mut unheld = Vec::new();
        for (model, versions) in core.models() {
            for (record, standing) in versions.versions() {
                let version = record.version;
                let is_past = standing == Standing::Superseded;
                if !is_past || !fleet.keepers(model, version).is_empty() {
                    continue;
                }
                let own = |digest: &Digest| users.get(digest).is_none_or(|users| users.len() <= 1);
                let files = known.manifests.get(&(model.clone(), version)).into_iter();
                let files = files.flat_map(|(_digest, manifest)| manifest.files()).filter(|file| own(&file.digest));
                let sizes: Vec<u64> = files.map(|file| file.size).collect();
                let files = u64::try_from(sizes.len()).unwrap_or(u64::MAX);
                let files = FilesView { files, bytes: sizes.iter().fold(0, |sum, size| sum.saturating_add(*size)) };
                unheld.push(UnheldView { model: model.clone(), version, files });
            }
        }
        unheld
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
