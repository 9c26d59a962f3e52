//! Versions that rollouts bring to devices: released before they are current, and current no more after a rollback.

use jiff::Timestamp;
use types::{ModelName, Version};

use super::publish::PublishError;
use super::{Registry, version_key};

impl Registry {
    /// Lets devices fetch a version that is not current, because a rollout or a pin brings it to some of them.
    ///
    /// # Errors
    /// When there is no such version, or the store fails.
    pub async fn release(&self, model: &ModelName, version: Version) -> Result<(), PublishError> {
        if self.snapshot().model(model).is_some_and(|known| known.is_offered(version)) {
            return Ok(());
        }
        let _one_at_a_time = self.signing.lock().await;
        let mut after = self.snapshot();
        let record = after.release(model, version)?.clone();
        self.versions.put(&version_key(model, version), &record).await?;
        self.take(after);
        Ok(())
    }

    /// Makes an earlier version current again in place of `from`, after a rollback.
    ///
    /// # Errors
    /// When there is no such version, or the store fails.
    pub async fn revert(&self, model: &ModelName, from: Version, to: Version) -> Result<(), PublishError> {
        let _one_at_a_time = self.signing.lock().await;
        let mut after = self.snapshot();
        if !after.revert(model, from, to)? {
            return Ok(());
        }
        if let Ok(record) = after.resolve(model, Some(from)) {
            self.versions.put(&version_key(model, from), record).await?;
        }
        self.keep_current(&after, model, to).await?;
        self.take(after);
        Ok(())
    }

    /// Checks that devices would accept what is signed: otherwise nothing new reaches them.
    ///
    /// # Errors
    /// When a signature has expired.
    pub fn require_fresh(&self) -> Result<(), PublishError> {
        Ok(self.metadata.current()?.require_fresh(Timestamp::now())?)
    }
}
