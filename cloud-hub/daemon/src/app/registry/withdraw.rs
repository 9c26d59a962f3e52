//! Withdraws a version that no device took, so that its number can be used for other content, and deletes a version that no
//! device holds any more, so that its files make room.
//!
//! Both publish a list without the version, which the operator has signed; they differ in which devices stand against it.
//!
//! The operator signs a list without the version; the hub publishes it if no device has the version or may have it. A
//! device that read the earlier list only learns that the version is not signed any more: it installs nothing without
//! the newest list. Withdrawal is no protection against a stolen hub, which can show the earlier list to devices that
//! have not seen the newer one; content that is dangerous is followed by a higher version instead.

use std::sync::PoisonError;

use hub_core::registry as core;
use jiff::Timestamp;
use types::{Digest, ModelName, Version};

use super::publish::{PublishError, check_only_addition, inspect};
use super::{Registry, version_key};
use crate::api::{DeleteRequest, FilesView, WithdrawRequest};
use crate::app::fleet::Fleet;

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
        let unwanted = Unwanted { model, version, targets: &request.targets, removal: Removal::Withdraw };
        self.remove_version(fleet, &after, unwanted).await?;
        Ok(after.current(model))
    }

    /// Deletes one version of a model that no device holds and that devices are not offered. Returns the files that it had
    /// for itself.
    ///
    /// # Errors
    /// When there is no such version, it is the current one, a device holds it or is installing it, it is the newest and a
    /// device had it, the list is not the hub's own without this version, or disk or store fail; then it is there as before.
    ///
    /// # Cancel safety
    /// As [`Registry::withdraw`].
    pub async fn delete(
        &self,
        fleet: &Fleet,
        model: &ModelName,
        request: &DeleteRequest,
    ) -> Result<FilesView, PublishError> {
        let _one_at_a_time = self.signing.lock().await;
        let mut after = self.snapshot();
        let is_newest = after.is_newest(model, request.version);
        after.delete(model, request.version)?;
        let removal = if is_newest { Removal::DeleteNewest } else { Removal::Delete };
        let unwanted = Unwanted { model, version: request.version, targets: &request.targets, removal };
        self.remove_version(fleet, &after, unwanted).await
    }

    /// Publishes the list without a version, forgets the version, and deletes the files that no other version names.
    async fn remove_version(
        &self,
        fleet: &Fleet,
        after: &core::Registry,
        unwanted: Unwanted<'_>,
    ) -> Result<FilesView, PublishError> {
        let Unwanted { model, version, .. } = unwanted;
        // Nobody may begin to fetch it while its holders are counted.
        self.known.write().unwrap_or_else(PoisonError::into_inner).offer(after);
        let published = self.publish_removal(fleet, unwanted).await;
        if let Err(error) = published {
            let core = self.snapshot();
            self.take(core);
            return Err(error);
        }
        let gone =
            self.known.write().unwrap_or_else(PoisonError::into_inner).manifests.remove(&(model.clone(), version));
        let current = after.current(model);
        self.take(after.clone());
        self.versions.delete(&version_key(model, version)).await?;
        match current {
            Some(current) => self.keep_fallback(model, current).await?,
            None => self.currents.delete(model.as_str()).await?,
        }
        fleet.withdrawn(model, version).await;
        let Some((digest, manifest)) = gone else { return Ok(FilesView::default()) };
        let files = manifest.files().into_iter().map(|file| file.digest);
        Ok(self.remove_unused(files.chain([digest]).collect()).await)
    }

    async fn publish_removal(&self, fleet: &Fleet, unwanted: Unwanted<'_>) -> Result<(), PublishError> {
        let Unwanted { model, version, targets, removal } = unwanted;
        removal.check(fleet, model, version)?;
        let now = Timestamp::now();
        let before = self.metadata.current()?;
        let old = inspect(&before.root, &before.targets.bytes)?;
        let new = inspect(&before.root, targets.as_bytes())?;
        if new.manifests.get(model).is_some_and(|versions| versions.contains_key(&version)) {
            return Err(PublishError::Mismatch("the signed list still names the version that is to be removed"));
        }
        if new.version <= old.version {
            return Err(PublishError::Moved);
        }
        check_only_addition(model, version, &new, &old)?;
        let set = self.metadata.sign(Some(targets.as_bytes()), now)?;
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

    /// Deletes files that no published version names any more, and returns them. What cannot be deleted takes room and does no
    /// harm.
    async fn remove_unused(&self, digests: Vec<Digest>) -> FilesView {
        let mut removed = FilesView::default();
        for digest in digests {
            let is_used = self.known().manifests.values().any(|(manifest_digest, manifest)| {
                *manifest_digest == digest || manifest.files().into_iter().any(|file| file.digest == digest)
            });
            if is_used {
                continue;
            }
            let bytes = self.blobs.length(&digest).await.ok().flatten();
            match self.blobs.remove(&digest).await {
                Ok(()) => {
                    removed.files += u64::from(bytes.is_some());
                    removed.bytes = removed.bytes.saturating_add(bytes.unwrap_or(0));
                }
                Err(error) => {
                    tracing::warn!(error = telemetry::chain(&error), "a file of a removed version stays on the disk");
                }
            }
        }
        removed
    }
}

/// Version to remove from the list.
#[derive(Debug, Clone, Copy)]
struct Unwanted<'a> {
    model: &'a ModelName,
    version: Version,
    /// The signed list without it.
    targets: &'a str,
    removal: Removal,
}

/// Rule for the devices that stand against a removal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Removal {
    /// No device may know the version: its number can mean other content from then on.
    Withdraw,
    /// No device may hold the version; a higher number exists, so this one is never used again.
    Delete,
    /// As both: the number would be free.
    DeleteNewest,
}

impl Removal {
    fn check(self, fleet: &Fleet, model: &ModelName, version: Version) -> Result<(), PublishError> {
        let model_name = || model.clone();
        if self != Self::Withdraw {
            let devices = fleet.keepers(model, version);
            if !devices.is_empty() {
                return Err(PublishError::Kept { model: model_name(), version, devices });
            }
        }
        if self != Self::Delete {
            let devices = fleet.holders(model, version);
            if !devices.is_empty() {
                let model = model_name();
                return Err(match self {
                    Self::Withdraw => PublishError::Taken { model, version, devices },
                    Self::Delete | Self::DeleteNewest => PublishError::Newest { model, version, devices },
                });
            }
        }
        Ok(())
    }
}
