//! Which version of a model serves, and which is the way back.
//!
//! [`crate::update`] decides the transitions; the shell writes [`Slots`] to `slots/<model>.json` in one atomic step
//! and never keeps two versions of them. A version may be named here only when its files are complete and verified.

use types::{Digest, VariantName, Version};

/// One version on this device, in the form that was chosen for it: complete and verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installed {
    /// Version that is installed.
    pub version: Version,
    /// The form of it.
    pub variant: VariantName,
    /// Digest of its model file.
    pub digest: Digest,
}

/// The pointers of one model.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Slots {
    /// Version that serves.
    pub active: Option<Installed>,
    /// Version that served before it, kept for a rollback. Never set without an active one.
    pub previous: Option<Installed>,
}

impl Slots {
    /// The version that serves.
    #[must_use]
    pub fn active_version(&self) -> Option<Version> {
        self.active.as_ref().map(|installed| installed.version)
    }

    /// Returns whether a slot names this version.
    #[must_use]
    pub fn names(&self, version: Version) -> bool {
        [&self.active, &self.previous].into_iter().flatten().any(|installed| installed.version == version)
    }

    /// The pointers after a switch: the new one serves, the one that served is the way back.
    ///
    /// Switching to what already serves keeps the way back as it is.
    #[must_use]
    pub fn switched_to(&self, new: Installed) -> Self {
        let previous = if self.active_version() == Some(new.version) { &self.previous } else { &self.active };
        Self { active: Some(new), previous: previous.clone() }
    }

    /// The pointers after going back, or `None` where there is no way back.
    #[must_use]
    pub fn rolled_back(&self) -> Option<Self> {
        self.previous.clone().map(|previous| Self { active: Some(previous), previous: None })
    }

    /// The pointers with every version left out that is not `complete` on disk.
    ///
    /// A damaged active version gives way to the previous one.
    #[must_use]
    pub fn repaired(&self, complete: impl Fn(&Installed) -> bool) -> Self {
        let mut whole = [&self.active, &self.previous].into_iter().flatten().filter(|slot| complete(slot)).cloned();
        Self { active: whole.next(), previous: whole.next() }
    }

    /// Returns the versions on disk that nothing needs: all but those in slots and `under_way`.
    #[must_use]
    pub fn garbage(&self, on_disk: &[Version], under_way: Option<Version>) -> Vec<Version> {
        let needed = |version: &&Version| !self.names(**version) && under_way != Some(**version);
        on_disk.iter().filter(needed).copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn installed(version: u64) -> Installed {
        Installed {
            version: Version::new(version).unwrap(),
            variant: "int8".parse().unwrap(),
            digest: Digest::of(&version.to_le_bytes()),
        }
    }

    fn version(number: u64) -> Version {
        Version::new(number).unwrap()
    }

    #[test]
    fn a_switch_keeps_the_way_back() {
        let slots = Slots::default().switched_to(installed(1)).switched_to(installed(2));
        assert_eq!(slots, Slots { active: Some(installed(2)), previous: Some(installed(1)) });
        assert_eq!(slots.switched_to(installed(2)), slots, "switching twice loses nothing");
        assert_eq!(slots.rolled_back(), Some(Slots { active: Some(installed(1)), previous: None }));
        assert_eq!(Slots::default().switched_to(installed(1)).rolled_back(), None);
    }

    #[test]
    fn a_damaged_active_version_gives_way_to_the_previous_one() {
        let slots = Slots { active: Some(installed(2)), previous: Some(installed(1)) };
        let without = |bad: u64| slots.repaired(|slot| slot.version != version(bad));
        assert_eq!(without(2), Slots { active: Some(installed(1)), previous: None });
        assert_eq!(without(1), Slots { active: Some(installed(2)), previous: None });
        assert_eq!(without(9), slots);
        assert_eq!(slots.repaired(|_| false), Slots::default());
    }

    #[test]
    fn what_serves_or_is_the_way_back_is_never_garbage() {
        let slots = Slots { active: Some(installed(3)), previous: Some(installed(2)) };
        let on_disk: Vec<Version> = (1..=5).map(version).collect();
        assert_eq!(slots.garbage(&on_disk, Some(version(4))), [version(1), version(5)]);
    }
}
