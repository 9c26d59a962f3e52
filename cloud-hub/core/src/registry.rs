//! Which versions of a model there are, and which one is current.
//!
//! Fed by the admin API; asked by the gateway and by [`crate::fleet`]. The shell stores each [`VersionRecord`] and the
//! current version durably, and builds the registry from them when it starts. Numbers only rise: devices refuse to go
//! back, so a bad version is followed by a higher one.

use std::collections::BTreeMap;

use types::{Digest, ModelName, Version};

/// Record of one published version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionRecord {
    /// Number of the version.
    pub version: Version,
    /// Digest of its signed manifest.
    pub manifest: Digest,
    /// Time of its publication in seconds of the Unix clock.
    pub published_unix_s: u64,
    /// Whether it was published with [`Publish::Hold`] and never offered since. Devices cannot fetch such a version.
    pub held: bool,
    /// Whether a rollout brings or brought it to devices, which may fetch it although it is not current.
    pub released: bool,
}

/// Choice to offer a published version at once or later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Publish {
    /// It becomes current and every follower is offered it.
    Offer,
    /// It waits for [`Registry::offer`].
    Hold,
}

/// Standing of a version among those of its model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Standing {
    /// Published above the current one, not offered yet.
    Held,
    /// Offered to every follower and served to those who name no version.
    Current,
    /// Under the current one.
    Superseded,
}

/// Change of the registry by a publish or an offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Nothing: it was so already.
    None,
    /// A version was added, and held.
    Held(Version),
    /// A version became current: tell [`crate::fleet::Fleet::publish`].
    Current(Version),
}

/// Refusal of the registry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// No model has the name.
    #[error("no model is called {0}: `cloud-hub model list` shows them")]
    UnknownModel(ModelName),
    /// The model has no version of the number.
    #[error("{model} has no version {version}: `cloud-hub model status {model}` shows them")]
    UnknownVersion {
        /// Name of the model.
        model: ModelName,
        /// The version that was asked for.
        version: Version,
    },
    /// The number is taken by other content.
    #[error("{model} {version} is published already with other content: publish this under a higher number")]
    Taken {
        /// Name of the model.
        model: ModelName,
        /// Number of the version.
        version: Version,
    },
    /// The number is under one that exists.
    #[error("{model} {version} is older than version {newest}, and devices refuse to go back: use a higher number")]
    NotNewer {
        /// Name of the model.
        model: ModelName,
        /// Number of the version.
        version: Version,
        /// The highest number there is (for a publish) or the current one (for an offer).
        newest: Version,
    },
    /// The version to delete is the one that devices are offered.
    #[error("{model} {version} cannot be deleted: devices are offered it")]
    Current {
        /// Name of the model.
        model: ModelName,
        /// Number of the version.
        version: Version,
    },
}

/// The versions of one model.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Model {
    versions: BTreeMap<Version, VersionRecord>,
    current: Option<Version>,
}

impl Model {
    /// The current version.
    #[must_use]
    pub fn current(&self) -> Option<Version> {
        self.current
    }

    /// Every version with its standing, lowest first.
    pub fn versions(&self) -> impl Iterator<Item = (&VersionRecord, Standing)> {
        self.versions.values().map(|record| (record, self.standing(record.version)))
    }

    fn standing(&self, version: Version) -> Standing {
        match self.current {
            Some(current) if version == current => Standing::Current,
            Some(current) if version < current => Standing::Superseded,
            Some(_) | None => Standing::Held,
        }
    }

    /// Returns whether devices may fetch a version: it is, or was, offered to them.
    #[must_use]
    pub fn is_offered(&self, version: Version) -> bool {
        let reached = self.current.is_some_and(|current| version <= current);
        self.versions.get(&version).is_some_and(|record| !record.held && (reached || record.released))
    }

    fn newest(&self) -> Option<Version> {
        self.versions.last_key_value().map(|(version, _)| *version)
    }
}

/// All models of the hub.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Registry {
    models: BTreeMap<ModelName, Model>,
}

impl Registry {
    /// Puts back what was stored, without checks of order: the store is the truth. A current version without a
    /// record is dropped.
    pub fn restore(&mut self, model: ModelName, versions: Vec<VersionRecord>, current: Option<Version>) {
        let versions: BTreeMap<_, _> = versions.into_iter().map(|record| (record.version, record)).collect();
        let current = current.filter(|current| versions.contains_key(current));
        self.models.insert(model, Model { versions, current });
    }

    /// Adds a version whose manifest is signed and whose blobs are all there.
    ///
    /// The same version with the same manifest may be published twice: the second time does what the first did not
    /// (an upload that was cut off, a hold that is lifted).
    ///
    /// # Errors
    /// [`RegistryError::Taken`] and [`RegistryError::NotNewer`]; nothing has changed.
    pub fn publish(
        &mut self,
        model: &ModelName,
        record: VersionRecord,
        publish: Publish,
    ) -> Result<Change, RegistryError> {
        let entry = self.models.get(model);
        let version = record.version;
        let stored = entry.and_then(|entry| entry.versions.get(&version));
        let added = match (stored, entry.and_then(Model::newest)) {
            (Some(stored), _) if stored.manifest == record.manifest => false,
            (Some(_), _) => return Err(RegistryError::Taken { model: model.clone(), version }),
            (None, Some(newest)) if newest > version => {
                return Err(RegistryError::NotNewer { model: model.clone(), version, newest });
            }
            (None, _) => true,
        };
        if added {
            let record = VersionRecord { held: publish == Publish::Hold, ..record };
            self.models.entry(model.clone()).or_default().versions.insert(version, record);
        }
        match publish {
            Publish::Offer => self.offer(model, version),
            Publish::Hold if added => Ok(Change::Held(version)),
            Publish::Hold => Ok(Change::None),
        }
    }

    /// Makes a version current.
    ///
    /// # Errors
    /// When there is no such version, and [`RegistryError::NotNewer`] for one under the current one.
    pub fn offer(&mut self, model: &ModelName, version: Version) -> Result<Change, RegistryError> {
        let unknown = || RegistryError::UnknownModel(model.clone());
        let entry = self.models.get_mut(model).ok_or_else(unknown)?;
        if !entry.versions.contains_key(&version) {
            return Err(RegistryError::UnknownVersion { model: model.clone(), version });
        }
        match entry.current {
            Some(current) if current == version => return Ok(Change::None),
            Some(newest) if newest > version => {
                return Err(RegistryError::NotNewer { model: model.clone(), version, newest });
            }
            Some(_) | None => entry.current = Some(version),
        }
        if let Some(record) = entry.versions.get_mut(&version) {
            record.held = false;
        }
        Ok(Change::Current(version))
    }

    /// Lets devices fetch a version that is not current: a rollout or a pin brings it to some of them.
    ///
    /// # Errors
    /// When there is no such version; nothing has changed.
    pub fn release(&mut self, model: &ModelName, version: Version) -> Result<&VersionRecord, RegistryError> {
        let entry = self.models.get_mut(model).ok_or_else(|| RegistryError::UnknownModel(model.clone()))?;
        let missing = || RegistryError::UnknownVersion { model: model.clone(), version };
        let record = entry.versions.get_mut(&version).ok_or_else(missing)?;
        (record.held, record.released) = (false, true);
        Ok(record)
    }

    /// Makes an earlier version current again in place of `from`, which stays published. Returns whether it did: `from` may
    /// not be the current one any more.
    ///
    /// # Errors
    /// When there is no such version; nothing has changed.
    pub fn revert(&mut self, model: &ModelName, from: Version, to: Version) -> Result<bool, RegistryError> {
        let entry = self.models.get_mut(model).ok_or_else(|| RegistryError::UnknownModel(model.clone()))?;
        if !entry.versions.contains_key(&to) {
            return Err(RegistryError::UnknownVersion { model: model.clone(), version: to });
        }
        let is_current = entry.current == Some(from) && to < from;
        if is_current {
            entry.current = Some(to);
            // Devices that are still to return, and those that fetch it now, must not find it gone.
            if let Some(record) = entry.versions.get_mut(&from) {
                record.released = true;
            }
        }
        Ok(is_current)
    }

    /// Takes a version back that no device has; its number may be published again with other content.
    ///
    /// Where it was current, `before` becomes current again if it is still there; else the model has none until one is
    /// offered. The shell has made sure that no device took the version: the registry does not know devices.
    ///
    /// # Errors
    /// When there is no such version; nothing has changed.
    pub fn withdraw(
        &mut self,
        model: &ModelName,
        version: Version,
        before: Option<Version>,
    ) -> Result<VersionRecord, RegistryError> {
        let unknown = || RegistryError::UnknownModel(model.clone());
        let entry = self.models.get_mut(model).ok_or_else(unknown)?;
        let missing = || RegistryError::UnknownVersion { model: model.clone(), version };
        let record = entry.versions.remove(&version).ok_or_else(missing)?;
        if entry.current == Some(version) {
            let may_serve = |before: &Version| entry.versions.get(before).is_some_and(|record| !record.held);
            entry.current = before.filter(may_serve);
        }
        if entry.versions.is_empty() {
            self.models.remove(model);
        }
        Ok(record)
    }

    /// Deletes a version that devices are not offered. The shell has made sure that no device holds it.
    ///
    /// # Errors
    /// When there is no such version, and [`RegistryError::Current`]; nothing has changed.
    pub fn delete(&mut self, model: &ModelName, version: Version) -> Result<VersionRecord, RegistryError> {
        if self.current(model) == Some(version) {
            return Err(RegistryError::Current { model: model.clone(), version });
        }
        self.withdraw(model, version, None)
    }

    /// Returns whether no version of the model has a higher number: the number is free once this version is gone.
    #[must_use]
    pub fn is_newest(&self, model: &ModelName, version: Version) -> bool {
        self.models.get(model).and_then(Model::newest) == Some(version)
    }

    /// The version that is offered and served, where there is one.
    #[must_use]
    pub fn current(&self, model: &ModelName) -> Option<Version> {
        self.models.get(model).and_then(Model::current)
    }

    /// Returns the version that answers a request: the named one, else the current one.
    ///
    /// # Errors
    /// When there is no such model or version; a held version answers only to its number.
    pub fn resolve(&self, model: &ModelName, version: Option<Version>) -> Result<&VersionRecord, RegistryError> {
        let unknown = || RegistryError::UnknownModel(model.clone());
        let entry = self.models.get(model).ok_or_else(unknown)?;
        let version = version.or(entry.current).ok_or_else(unknown)?;
        let missing = || RegistryError::UnknownVersion { model: model.clone(), version };
        entry.versions.get(&version).ok_or_else(missing)
    }

    /// Returns one model by its name.
    #[must_use]
    pub fn model(&self, model: &ModelName) -> Option<&Model> {
        self.models.get(model)
    }

    /// Every model, by name.
    pub fn models(&self) -> impl Iterator<Item = (&ModelName, &Model)> {
        self.models.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(number: u64) -> Version {
        Version::new(number).unwrap()
    }

    fn record(number: u64, content: &str) -> VersionRecord {
        let manifest = Digest::of(content.as_bytes());
        VersionRecord { version: version(number), manifest, published_unix_s: 0, held: false, released: false }
    }

    fn digits() -> ModelName {
        "digits".parse().unwrap()
    }

    #[test]
    fn a_published_version_becomes_current_unless_it_is_held() {
        let mut registry = Registry::default();
        let digits = digits();
        assert_eq!(registry.publish(&digits, record(1, "a"), Publish::Offer), Ok(Change::Current(version(1))));
        assert_eq!(registry.publish(&digits, record(2, "b"), Publish::Hold), Ok(Change::Held(version(2))));
        assert_eq!(registry.current(&digits), Some(version(1)));
        let standings: Vec<_> = registry.model(&digits).unwrap().versions().map(|(_, standing)| standing).collect();
        assert_eq!(standings, [Standing::Current, Standing::Held]);
        assert_eq!(registry.offer(&digits, version(2)), Ok(Change::Current(version(2))));
        assert_eq!(registry.offer(&digits, version(2)), Ok(Change::None));
        assert_eq!(registry.resolve(&digits, None).unwrap().version, version(2));
        assert_eq!(registry.resolve(&digits, Some(version(1))).unwrap().version, version(1));
    }

    #[test]
    fn publishing_the_same_twice_is_the_same_as_once() {
        let mut registry = Registry::default();
        let digits = digits();
        assert_eq!(registry.publish(&digits, record(1, "a"), Publish::Hold), Ok(Change::Held(version(1))));
        assert_eq!(registry.publish(&digits, record(1, "a"), Publish::Hold), Ok(Change::None));
        assert_eq!(registry.publish(&digits, record(1, "a"), Publish::Offer), Ok(Change::Current(version(1))));
        assert_eq!(registry.publish(&digits, record(1, "a"), Publish::Offer), Ok(Change::None));
    }

    #[test]
    fn a_number_is_never_given_to_other_content_nor_to_an_older_version() {
        let mut registry = Registry::default();
        let digits = digits();
        registry.publish(&digits, record(3, "a"), Publish::Offer).unwrap();
        let before = registry.clone();
        assert!(matches!(registry.publish(&digits, record(3, "b"), Publish::Offer), Err(RegistryError::Taken { .. })));
        assert!(matches!(
            registry.publish(&digits, record(2, "a"), Publish::Hold),
            Err(RegistryError::NotNewer { .. })
        ));
        registry.publish(&digits, record(4, "c"), Publish::Offer).unwrap();
        assert!(matches!(registry.offer(&digits, version(3)), Err(RegistryError::NotNewer { .. })));
        assert!(matches!(registry.offer(&digits, version(9)), Err(RegistryError::UnknownVersion { .. })));
        assert_ne!(registry, before);
    }

    #[test]
    fn only_what_was_offered_may_be_fetched() {
        let mut registry = Registry::default();
        let digits = digits();
        let offered = |registry: &Registry| {
            let model = registry.model(&digits).unwrap();
            (1..5).filter(|number| model.is_offered(version(*number))).collect::<Vec<_>>()
        };
        registry.publish(&digits, record(1, "a"), Publish::Offer).unwrap();
        registry.publish(&digits, record(2, "b"), Publish::Hold).unwrap();
        assert_eq!(offered(&registry), [1]);
        registry.publish(&digits, record(3, "c"), Publish::Offer).unwrap();
        assert_eq!(offered(&registry), [1, 3], "a held version that was passed over stays held");
        registry.publish(&digits, record(4, "d"), Publish::Hold).unwrap();
        registry.offer(&digits, version(4)).unwrap();
        assert_eq!(offered(&registry), [1, 3, 4]);
    }

    #[test]
    fn a_version_under_rollout_may_be_fetched_and_an_earlier_one_can_be_current_again() {
        let mut registry = Registry::default();
        let digits = digits();
        registry.publish(&digits, record(1, "a"), Publish::Offer).unwrap();
        registry.publish(&digits, record(2, "b"), Publish::Hold).unwrap();
        assert!(!registry.model(&digits).unwrap().is_offered(version(2)));
        registry.release(&digits, version(2)).unwrap();
        assert!(registry.model(&digits).unwrap().is_offered(version(2)));
        assert_eq!(registry.current(&digits), Some(version(1)), "only some devices are offered it");
        registry.offer(&digits, version(2)).unwrap();
        assert_eq!(registry.revert(&digits, version(2), version(1)), Ok(true));
        assert_eq!(registry.current(&digits), Some(version(1)));
        assert!(registry.model(&digits).unwrap().is_offered(version(2)), "devices that return need not find it gone");
        assert_eq!(registry.revert(&digits, version(2), version(1)), Ok(false));
        assert_eq!(registry.offer(&digits, version(2)), Ok(Change::Current(version(2))));
        assert!(registry.revert(&digits, version(2), version(9)).is_err());
        assert!(registry.release(&digits, version(9)).is_err());
    }

    #[test]
    fn a_withdrawn_number_is_free_again_and_the_version_before_is_current() {
        let mut registry = Registry::default();
        let digits = digits();
        registry.publish(&digits, record(1, "a"), Publish::Offer).unwrap();
        registry.publish(&digits, record(2, "held"), Publish::Hold).unwrap();
        registry.publish(&digits, record(20, "typo"), Publish::Offer).unwrap();
        assert_eq!(registry.withdraw(&digits, version(20), Some(version(1))).unwrap().version, version(20));
        assert_eq!(registry.current(&digits), Some(version(1)));
        assert!(matches!(registry.withdraw(&digits, version(20), None), Err(RegistryError::UnknownVersion { .. })));
        registry.publish(&digits, record(20, "other"), Publish::Offer).unwrap();
        registry.withdraw(&digits, version(20), Some(version(2))).unwrap();
        assert_eq!(registry.current(&digits), None, "what was held is not offered by a withdrawal");
        registry.withdraw(&digits, version(2), None).unwrap();
        registry.withdraw(&digits, version(1), None).unwrap();
        assert!(registry.model(&digits).is_none());
    }

    #[test]
    fn a_past_version_is_deleted_and_the_current_one_is_not() {
        let mut registry = Registry::default();
        let digits = digits();
        for number in 1..=3 {
            registry.publish(&digits, record(number, &number.to_string()), Publish::Offer).unwrap();
        }
        registry.publish(&digits, record(4, "held"), Publish::Hold).unwrap();
        let before = registry.clone();
        assert!(matches!(registry.delete(&digits, version(3)), Err(RegistryError::Current { .. })));
        assert!(matches!(registry.delete(&digits, version(9)), Err(RegistryError::UnknownVersion { .. })));
        assert_eq!(registry, before);
        assert!(registry.is_newest(&digits, version(4)) && !registry.is_newest(&digits, version(3)));
        registry.delete(&digits, version(1)).unwrap();
        registry.delete(&digits, version(4)).unwrap();
        assert_eq!(registry.current(&digits), Some(version(3)), "what devices follow stays");
        assert!(registry.is_newest(&digits, version(3)));
    }

    #[test]
    fn what_is_not_there_is_named() {
        let registry = Registry::default();
        let error = registry.resolve(&digits(), None).unwrap_err();
        assert_eq!(error.to_string(), "no model is called digits: `cloud-hub model list` shows them");
    }
}
