//! Version pointers of a model: the version that serves, and the earlier ones that stay on the disk.
//!
//! [`crate::update`] decides the transitions; the shell writes [`Slots`] to `slots/<model>.json` in one atomic step
//! and never keeps two versions of them. A version may be named here only when its files are complete and verified.

use types::{Digest, VariantName, Version};

/// One version on this device, in the form that was chosen for it: complete and verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installed {
    /// Version that is installed.
    pub version: Version,
    /// Variant that was chosen for this device.
    pub variant: VariantName,
    /// Digest of its model file.
    pub digest: Digest,
}

/// Default number of earlier versions that stay on the disk beside the active one.
///
/// Two, so that a version that was bad from the start and noticed only after the next one can be left as well.
pub const KEEP_DEFAULT: usize = 2;

/// Version pointers of one model.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Slots {
    /// Version that serves.
    pub active: Option<Installed>,
    /// Versions that served before it and stay on the disk, the latest first. Empty without an active one.
    pub previous: Vec<Installed>,
}

impl Slots {
    /// Returns the number of the version that serves.
    #[must_use]
    pub fn active_version(&self) -> Option<Version> {
        self.active.as_ref().map(|installed| installed.version)
    }

    /// Returns every version that a slot names: the active one first, then the earlier ones.
    pub fn all(&self) -> impl Iterator<Item = &Installed> {
        self.active.iter().chain(&self.previous)
    }

    /// Returns the slot of a version.
    #[must_use]
    pub fn find(&self, version: Version) -> Option<&Installed> {
        self.all().find(|installed| installed.version == version)
    }

    /// Returns whether a slot names this version.
    #[must_use]
    pub fn names(&self, version: Version) -> bool {
        self.find(version).is_some()
    }

    /// Returns the pointers after a switch to `new`, with at most `keep` earlier versions.
    ///
    /// Switching to the active version keeps the earlier ones as they are.
    #[must_use]
    pub fn switched_to(&self, new: Installed, keep: usize) -> Self {
        let previous = self.all().filter(|installed| installed.version != new.version).take(keep).cloned().collect();
        Self { active: Some(new), previous }
    }

    /// Returns the pointers after a return to `to`: the version that is left is no way back, so no slot names it.
    #[must_use]
    pub fn returned_to(&self, to: Installed, left: Version, keep: usize) -> Self {
        let mut slots = self.switched_to(to, keep.saturating_add(1));
        slots.previous.retain(|installed| installed.version != left);
        slots.previous.truncate(keep);
        slots
    }

    /// Returns the pointers without the versions that are not `complete` on the disk.
    ///
    /// A damaged active version gives way to the latest earlier one.
    #[must_use]
    pub fn repaired(&self, complete: impl Fn(&Installed) -> bool) -> Self {
        let mut whole = self.all().filter(|slot| complete(slot)).cloned();
        Self { active: whole.next(), previous: whole.collect() }
    }

    /// Returns the versions on the disk that nothing needs: all but those in slots and `under_way`.
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

    fn slots(active: u64, previous: &[u64]) -> Slots {
        Slots { active: Some(installed(active)), previous: previous.iter().copied().map(installed).collect() }
    }

    #[test]
    fn a_switch_keeps_as_many_earlier_versions_as_are_wanted() {
        let one = Slots::default().switched_to(installed(1), 2);
        let three = one.switched_to(installed(2), 2).switched_to(installed(3), 2);
        assert_eq!(three, slots(3, &[2, 1]));
        assert_eq!(three.switched_to(installed(3), 2), three, "switching twice loses nothing");
        assert_eq!(three.switched_to(installed(4), 2), slots(4, &[3, 2]));
        assert_eq!(three.switched_to(installed(4), 1), slots(4, &[3]));
        assert_eq!(three.switched_to(installed(4), 0), slots(4, &[]));
        assert_eq!(three.switched_to(installed(1), 2), slots(1, &[3, 2]), "a pin may go to an earlier version");
    }

    #[test]
    fn a_version_that_was_left_is_no_way_back() {
        let three = slots(3, &[2, 1]);
        assert_eq!(three.returned_to(installed(2), version(3), 2), slots(2, &[1]));
        assert_eq!(three.returned_to(installed(1), version(3), 2), slots(1, &[2]), "a version between may stay");
        assert_eq!(three.returned_to(installed(9), version(3), 2), slots(9, &[2, 1]), "fetched again");
        assert_eq!(slots(3, &[]).returned_to(installed(2), version(3), 2), slots(2, &[]));
    }

    #[test]
    fn a_damaged_active_version_gives_way_to_an_earlier_one() {
        let three = slots(3, &[2, 1]);
        let without = |bad: &[u64]| three.repaired(|slot| !bad.contains(&slot.version.number()));
        assert_eq!(without(&[3]), slots(2, &[1]));
        assert_eq!(without(&[2]), slots(3, &[1]));
        assert_eq!(without(&[3, 2]), slots(1, &[]));
        assert_eq!(without(&[9]), three);
        assert_eq!(three.repaired(|_| false), Slots::default());
    }

    #[test]
    fn what_a_slot_names_is_never_garbage() {
        let on_disk: Vec<Version> = (1..=5).map(version).collect();
        assert_eq!(slots(3, &[2]).garbage(&on_disk, Some(version(4))), [version(1), version(5)]);
    }
}
