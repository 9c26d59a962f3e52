//! Withdraws a version that no device took, so that its number can be used for other content.
//!
//! The operator signs a list without the version; the hub publishes it if no device has the version or may have it. A
//! device that read the earlier list only learns that the version is not signed any more: it installs nothing without
//! the newest list. Withdrawal is no protection against a stolen hub, which can show the earlier list to devices that
//! have not seen the newer one; content that is dangerous is followed by a higher version instead.

use jiff::Timestamp;
use std::sync::PoisonError;
use types::{Digest, ModelName, Version};

use super::publish::{PublishError, check_only_addition, inspect};
use super::{Registry, version_key};
use crate::api::WithdrawRequest;
use crate::fleet::Fleet;

impl Registry {
    /// Withdraws one version of a model. Returns the version that devices follow from now on.
    ///
    /// # Errors
    /// When there is no such version, a device has it or may have it, the list is not the hub's own without this
    /// version, or disk or store fail; then the version is published as before.
    ///
    /// # Cancel safety
    /// The version is withdrawn or not; records that a cut leaves behind are put right at the next start.
    pub async fn withdraw(
        &self,
        fleet: &Fleet,
        model: &ModelName,
        request: &WithdrawRequest,
    ) -> Result<Option<Version>, PublishError> {
        let _one_at_a_time = self.signing.lock().await;
        let version = request.version;
        let mut after = self.snapshot();
        let before = self.currents.get(model.as_str()).await?.and_then(|record| record.before);
        after.withdraw(model, version, before)?;
        // Nobody may begin to fetch it while its holders are counted.
        self.known.write().unwrap_or_else(PoisonError::into_inner).offer(&after);
        let published = self.publish_withdrawal(fleet, model, request).await;
        if let Err(error) = published {
            let core = self.snapshot();
            self.take(core);
            return Err(error);
        }
        let gone =
            self.known.write().unwrap_or_else(PoisonError::into_inner).manifests.remove(&(model.clone(), version));
        let current = after.current(model);
        self.take(after);
        self.versions.delete(&version_key(model, version)).await?;
        match current {
            Some(current) => self.keep_fallback(model, current).await?,
            None => self.currents.delete(model.as_str()).await?,
        }
        fleet.withdrawn(model, version).await;
        if let Some((digest, manifest)) = gone {
            let files = manifest.files().into_iter().map(|file| file.digest);
            self.remove_unused(files.chain([digest]).collect()).await;
        }
        Ok(current)
    }

    async fn publish_withdrawal(
        &self,
        fleet: &Fleet,
        model: &ModelName,
        request: &WithdrawRequest,
    ) -> Result<(), PublishError> {
        let version = request.version;
        let devices = fleet.holders(model, version);
        if !devices.is_empty() {
            return Err(PublishError::Taken { model: model.clone(), version, devices });
        }
        let now = Timestamp::now();
        let before = self.metadata.current()?;
        let old = inspect(&before.root, &before.targets.bytes)?;
        let new = inspect(&before.root, request.targets.as_bytes())?;
        if new.manifests.get(model).is_some_and(|versions| versions.contains_key(&version)) {
            return Err(PublishError::Mismatch("the signed list still names the version that is to be withdrawn"));
        }
        if new.version <= old.version {
            return Err(PublishError::Moved);
        }
        check_only_addition(model, version, &new, &old)?;
        let set = self.metadata.sign(Some(request.targets.as_bytes()), now)?;
        self.metadata.prove(&set, now).await?;
        self.metadata.publish(&set)?;
        Ok(self.note_standing(None)?)
    }

    /// Writes down the version that is current again. The one before it is not known.
    async fn keep_fallback(&self, model: &ModelName, current: Version) -> Result<(), PublishError> {
        let kept = self.currents.get(model.as_str()).await?;
        if kept.is_some_and(|kept| kept.version == current) {
            return Ok(());
        }
        let record = super::CurrentRecord { version: current, before: None };
        Ok(self.currents.put(model.as_str(), &record).await?)
    }

    /// Deletes files that no published version names any more. What cannot be deleted takes room and does no harm.
    async fn remove_unused(&self, digests: Vec<Digest>) {
        for digest in digests {
            let is_used = self.known().manifests.values().any(|(manifest_digest, manifest)| {
                *manifest_digest == digest || manifest.files().into_iter().any(|file| file.digest == digest)
            });
            if is_used {
                continue;
            }
            if let Err(error) = self.blobs.remove(&digest).await {
                tracing::warn!(error = telemetry::chain(&error), "a file of a withdrawn version stays on the disk");
            }
        }
    }
}
