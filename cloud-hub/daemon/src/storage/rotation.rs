//! New roots and new online keys: checked as a device would, then carried out as a whole.
//!
//! A change of the root touches several files, and with a rotation the hub's own keys. It is written to `trust/change.new`,
//! decided by one rename to `trust/change`, then carried out file by file; a hub that is killed in between finishes it at
//! its next start ([`finish`]). Fed by the admin API and by `cloud-hub trust --config` on a stopped hub.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bundle::trust;
use jiff::Timestamp;
use model_tools::sign::{KeyPair, OnlineKeys, PublicKey, Role, Roles, SignError, Signed};
use store::files::{self, FileError, Mode};

use super::metadata::{Current, Metadata, MetadataError, SNAPSHOT_KEY, TIMESTAMP_KEY};
use crate::storage::folder::Folder;

/// Largest file of a change in bytes: the largest metadata file.
const FILE_BYTES_MAX: u64 = trust::TARGETS_BYTES_MAX;

/// Public halves of the online keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OnlinePublic {
    /// Of the key that signs snapshots.
    pub snapshot: PublicKey,
    /// Of the key that signs timestamps.
    pub timestamp: PublicKey,
}

impl OnlinePublic {
    fn of(keys: &OnlineKeys) -> Self {
        Self { snapshot: keys.snapshot.public(), timestamp: keys.timestamp.public() }
    }

    /// Returns whether these keys alone sign snapshot and timestamp under these roles.
    fn are_of(&self, roles: &Roles) -> bool {
        let alone = |role: Role, key: PublicKey| roles.of(role).keys == [key] && roles.of(role).threshold == 1;
        alone(Role::Snapshot, self.snapshot) && alone(Role::Timestamp, self.timestamp)
    }
}

/// Versions in force after a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Changed {
    /// Version of the root in force.
    pub root: u64,
    /// Version of the targets in force.
    pub targets: u64,
    /// Whether all of it was in force already.
    pub unchanged: bool,
}

impl Metadata {
    /// Makes the online keys for a rotation, or returns those that were made before and are in no root yet.
    ///
    /// # Errors
    /// When a key cannot be made, read or stored.
    pub fn next_online_keys(&self) -> Result<OnlinePublic, MetadataError> {
        let folder = self.folder.next_online_keys();
        files::create_dir(&folder)?;
        // Each on its own: a cut between the two leaves the first, which is as good as new.
        let key = |name: &str| -> Result<KeyPair, MetadataError> {
            let path = folder.join(name);
            if path.exists() {
                return Ok(KeyPair::load(&path)?);
            }
            let key = KeyPair::generate()?;
            key.save(&path)?;
            Ok(key)
        };
        Ok(OnlinePublic { snapshot: key(SNAPSHOT_KEY)?.public(), timestamp: key(TIMESTAMP_KEY)?.public() })
    }

    /// Keys that were made for a rotation and are in no root yet.
    #[must_use]
    pub fn waiting_online_keys(&self) -> Option<OnlinePublic> {
        self.load_next_keys().ok().map(|keys| OnlinePublic::of(&keys))
    }

    fn load_next_keys(&self) -> Result<OnlineKeys, SignError> {
        let key = |name: &str| KeyPair::load(&self.folder.next_online_keys().join(name));
        Ok(OnlineKeys { snapshot: key(SNAPSHOT_KEY)?, timestamp: key(TIMESTAMP_KEY)? })
    }

    /// Publishes a new root, a newly signed list with the same versions, or both.
    ///
    /// # Errors
    /// When they do not follow what is in force, a device would refuse them, or the disk does. Nothing is changed then.
    ///
    /// # Cancel safety
    /// Before the change is decided nothing is changed; afterwards it is carried out now or at the next start.
    pub async fn change(
        &self,
        root: Option<&[u8]>,
        targets: Option<&[u8]>,
        now: Timestamp,
    ) -> Result<Changed, MetadataError> {
        let before = self.current()?;
        let in_force = Signed::read(Role::Root, &before.root)?;
        let is_known = |new: Option<&[u8]>, old: &[u8]| new.is_none_or(|new| new == old);
        if is_known(root, &before.root) && is_known(targets, &before.targets.bytes) {
            let (root, targets) = (in_force.version, before.targets.version);
            return Ok(Changed { root, targets, unchanged: true });
        }
        let new_root = root.filter(|root| *root != before.root.as_slice());
        let new_targets = match targets {
            Some(bytes) => Signed::read(Role::Targets, bytes)?,
            None => before.targets.clone(),
        };
        let root = new_root.unwrap_or(&before.root).to_vec();
        check_follows(&before, new_root, &new_targets)?;
        let (keys, rotates) = self.keys_of(&Roles::read(&root)?)?;
        let set = self.sign_with(&before, root, new_targets, &keys, now)?;
        self.prove(&set, now).await?;
        if new_root.is_some() {
            decide(&self.folder, &set, rotates)?;
            finish(&self.folder)?;
            self.reload_keys();
        } else {
            self.publish(&set)?;
        }
        let root = Signed::read(Role::Root, &set.root)?.version;
        Ok(Changed { root, targets: set.targets.version, unchanged: false })
    }

    /// The online keys that a root names: those in use, or those made for a rotation.
    fn keys_of(&self, roles: &Roles) -> Result<(Arc<OnlineKeys>, bool), MetadataError> {
        if let Ok(keys) = self.keys()
            && OnlinePublic::of(&keys).are_of(roles)
        {
            return Ok((keys, false));
        }
        match self.load_next_keys() {
            Ok(next) if OnlinePublic::of(&next).are_of(roles) => Ok((Arc::new(next), true)),
            Ok(_) | Err(_) => Err(MetadataError::ForeignOnlineKeys),
        }
    }
}

/// Holds a change against what is in force: the next root, and a list that names the same versions.
fn check_follows(before: &Current, root: Option<&[u8]>, targets: &Signed) -> Result<(), MetadataError> {
    if let Some(root) = root {
        let (old, new) = (Signed::read(Role::Root, &before.root)?, Signed::read(Role::Root, root)?);
        if old.version.checked_add(1) != Some(new.version) {
            return Err(MetadataError::NotNext("it was made from another root"));
        }
        trust::check_next_root(&before.root, root)?;
    }
    let old = trust::inspect_targets(&before.root, &before.targets.bytes)?;
    let new = trust::inspect_targets(root.unwrap_or(&before.root), &targets.bytes)?;
    if old.manifests != new.manifests {
        return Err(MetadataError::NotNext("it was made from another list of versions"));
    }
    let is_same = before.targets.bytes == targets.bytes;
    // Under other keys the numbering may begin anew.
    if !is_same && root.is_none() && new.version <= old.version {
        return Err(MetadataError::NotNext("its list of versions is not the one after the hub's own"));
    }
    Ok(())
}

/// Writes all files of a change and decides it by one rename.
fn decide(folder: &Folder, set: &Current, rotates: bool) -> Result<(), MetadataError> {
    let (staged, decided) = (staged(folder), folder.trust_change());
    remove_dir(&staged)?;
    files::create_dir(&staged)?;
    let root = Signed::read(Role::Root, &set.root)?;
    for file in [&root, &set.targets, &set.snapshot, &set.timestamp] {
        files::write_atomic(&staged.join(file.file_name()), &file.bytes, Mode::Shared)?;
    }
    if rotates {
        for name in [SNAPSHOT_KEY, TIMESTAMP_KEY] {
            let key = files::read_bounded(&folder.next_online_keys().join(name), FILE_BYTES_MAX)?;
            files::write_atomic(&staged.join(name), &key, Mode::Private)?;
        }
    }
    files::sync_dir(&staged)?;
    std::fs::rename(&staged, &decided).map_err(MetadataError::List)?;
    files::sync_dir(parent(&decided))?;
    Ok(())
}

/// Carries out a change that was decided; does nothing when there is none.
///
/// # Errors
/// When the disk refuses: the next start tries again.
pub(crate) fn finish(folder: &Folder) -> Result<(), MetadataError> {
    remove_dir(&staged(folder))?;
    plan(folder)?.iter().try_for_each(|step| step.run())
}

/// One thing that carrying out a change does; a kill may come before and after each, and each may be done twice.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Copy { from: PathBuf, to: PathBuf, mode: Mode },
    Remove(PathBuf),
}

impl Step {
    fn run(&self) -> Result<(), MetadataError> {
        match self {
            Self::Copy { from, to, mode } => {
                let content = files::read_bounded(from, FILE_BYTES_MAX)?;
                // What was copied by the run that was cut off is not written again.
                if files::read_bounded(to, FILE_BYTES_MAX).is_ok_and(|there| there == content) {
                    return Ok(());
                }
                if let Some(parent) = to.parent() {
                    files::create_dir(parent)?;
                }
                Ok(files::write_atomic(to, &content, *mode)?)
            }
            Self::Remove(path) => {
                remove_dir(path)?;
                Ok(files::sync_dir(parent(path))?)
            }
        }
    }
}

/// The steps that carry out the decided change: keys, then metadata with the timestamp last.
fn plan(folder: &Folder) -> Result<Vec<Step>, MetadataError> {
    let decided = folder.trust_change();
    let entries = match std::fs::read_dir(&decided) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(MetadataError::List)?,
    };
    let mut names = Vec::new();
    for entry in entries {
        names.extend(entry.map_err(MetadataError::List)?.file_name().into_string());
    }
    names.sort_by_key(|name| (name == "timestamp.json", name.ends_with(".root.json"), name.clone()));
    let is_key = |name: &str| name == SNAPSHOT_KEY || name == TIMESTAMP_KEY;
    let copy =
        |name: &String, place: PathBuf, mode| Step::Copy { from: decided.join(name), to: place.join(name), mode };
    let keys = names.iter().filter(|name| is_key(name)).map(|name| copy(name, folder.online_keys(), Mode::Private));
    let metadata = names.iter().filter(|name| trust::is_metadata_name(name));
    let metadata = metadata.map(|name| copy(name, folder.metadata(), Mode::Shared));
    let mut steps: Vec<Step> = keys.chain(metadata).collect();
    if names.iter().any(|name| is_key(name)) {
        steps.push(Step::Remove(folder.next_online_keys()));
    }
    steps.push(Step::Remove(decided));
    Ok(steps)
}

fn staged(folder: &Folder) -> PathBuf {
    folder.trust_change().with_extension("new")
}

fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("."))
}

fn remove_dir(path: &Path) -> Result<(), FileError> {
    match std::fs::remove_dir_all(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(FileError::Io { attempt: "remove folder", path: path.to_owned(), source })
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;
    use model_tools::sign::{Authority, Change, InitialKeys, init_repository};

    use super::*;

    /// A hub's folder as `cloud-hub init` makes it, and its offline keys.
    fn begun(root: &Path, now: Timestamp) -> (Folder, InitialKeys) {
        let folder = Folder::new(root);
        for made in [folder.online_keys(), folder.metadata()] {
            files::create_dir(&made).unwrap();
        }
        let keys = InitialKeys::generate().unwrap();
        for file in init_repository(&keys, now).unwrap().files() {
            files::write_atomic(&folder.metadata().join(file.file_name()), &file.bytes, Mode::Shared).unwrap();
        }
        keys.online.snapshot.save(&folder.online_keys().join(SNAPSHOT_KEY)).unwrap();
        keys.online.timestamp.save(&folder.online_keys().join(TIMESTAMP_KEY)).unwrap();
        (folder, keys)
    }

    /// A root that names new online keys, signed.
    fn rotation(metadata: &Metadata, keys: &InitialKeys, now: Timestamp) -> Vec<u8> {
        let next = metadata.next_online_keys().unwrap();
        let current = metadata.current().unwrap();
        let mut roles = metadata.roles().unwrap();
        roles.snapshot = Authority::of(next.snapshot);
        roles.timestamp = Authority::of(next.timestamp);
        let change = Change::of_roles(&current.root, &current.targets.bytes, &roles, false, now);
        let mut change = change.unwrap();
        change.sign(&keys.root).unwrap();
        change.root.unwrap().to_signed().unwrap().bytes
    }

    /// Demands that the folder is whole: its keys sign what its newest root says, and a device takes it.
    async fn is_whole(metadata: &Metadata, root: u64, now: Timestamp) {
        let set = metadata.sign(None, now).unwrap();
        let proven = metadata.prove(&set, now).await.unwrap();
        assert_eq!(proven.root_version(), root);
        assert!(!metadata.folder.trust_change().exists() && !staged(&metadata.folder).exists());
    }

    #[tokio::test]
    async fn a_rotation_that_is_killed_at_any_step_is_finished_or_never_was() {
        let now = Timestamp::now();
        let steps = 2 + 4 + 2;
        for cut in 0..=steps {
            let place = tempfile::tempdir().unwrap();
            let (folder, keys) = begun(place.path(), now);
            let metadata = Metadata::open(folder.clone()).unwrap();
            let root = rotation(&metadata, &keys, now);
            let (online, rotates) = metadata.keys_of(&Roles::read(&root).unwrap()).unwrap();
            assert!(rotates);
            let before = metadata.current().unwrap();
            let targets = before.targets.clone();
            let set = metadata.sign_with(&before, root, targets, &online, now).unwrap();
            decide(&folder, &set, rotates).unwrap();
            let plan = plan(&folder).unwrap();
            assert_eq!(plan.len(), steps);
            plan[..cut].iter().for_each(|step| step.run().unwrap());
            drop(metadata);
            is_whole(&Metadata::open(folder.clone()).unwrap(), 2, now).await;
            assert!(!folder.next_online_keys().exists(), "cut {cut}: the keys lie about");
        }
    }

    #[tokio::test]
    async fn a_change_that_was_not_decided_leaves_no_trace() {
        let now = Timestamp::now();
        let place = tempfile::tempdir().unwrap();
        let (folder, keys) = begun(place.path(), now);
        let metadata = Metadata::open(folder.clone()).unwrap();
        let root = rotation(&metadata, &keys, now);
        files::create_dir(&staged(&folder)).unwrap();
        std::fs::write(staged(&folder).join("2.root.json"), &root).unwrap();
        is_whole(&Metadata::open(folder.clone()).unwrap(), 1, now).await;
        // The keys that were made are used by the next try.
        let again = Metadata::open(folder).unwrap();
        let changed = again.change(Some(&root), None, now).await.unwrap();
        assert_eq!((changed.root, changed.unchanged), (2, false));
        assert!(again.change(Some(&root), None, now).await.unwrap().unchanged, "twice does no harm");
        is_whole(&again, 2, now).await;
    }

    #[tokio::test]
    async fn only_what_a_device_would_follow_is_published() {
        let now = Timestamp::now();
        let place = tempfile::tempdir().unwrap();
        let (folder, keys) = begun(place.path(), now);
        let metadata = Metadata::open(folder.clone()).unwrap();
        let good = rotation(&metadata, &keys, now);
        // Signed by somebody else, for another hub, or with a byte changed.
        let other = tempfile::tempdir().unwrap();
        let (foreign_folder, foreign) = begun(other.path(), now);
        let foreign_root = rotation(&Metadata::open(foreign_folder).unwrap(), &foreign, now);
        let unsigned = rotation(&metadata, &foreign, now);
        let text = String::from_utf8(good.clone()).unwrap();
        let changed = text.replacen("\"threshold\":1", "\"threshold\":2", 1).into_bytes();
        for bad in [foreign_root, unsigned, changed, b"{}".to_vec(), Vec::new()] {
            assert!(metadata.change(Some(&bad), None, now).await.is_err());
            is_whole(&metadata, 1, now).await;
        }
        // Online keys that this hub does not have.
        std::fs::remove_dir_all(folder.next_online_keys()).unwrap();
        let refused = metadata.change(Some(&good), None, now).await.unwrap_err();
        assert!(matches!(refused, MetadataError::ForeignOnlineKeys), "{refused}");
        // A change that expired on its way.
        let late = now + SignedDuration::from_hours(400 * 24);
        let good = rotation(&metadata, &keys, now);
        let refused = metadata.change(Some(&good), None, late).await.unwrap_err();
        assert!(matches!(refused, MetadataError::Expired { .. }), "{refused}");
        is_whole(&metadata, 1, now).await;
    }

    #[tokio::test]
    async fn lost_online_keys_are_replaced_by_a_rotation() {
        let now = Timestamp::now();
        let place = tempfile::tempdir().unwrap();
        let (folder, keys) = begun(place.path(), now);
        std::fs::remove_file(folder.online_keys().join(TIMESTAMP_KEY)).unwrap();
        let metadata = Metadata::open(folder).unwrap();
        let refused = metadata.sign(None, now).unwrap_err();
        assert!(refused.command().is_some_and(|command| command.contains("rotate online")), "{refused}");
        let root = rotation(&metadata, &keys, now);
        metadata.change(Some(&root), None, now).await.unwrap();
        is_whole(&metadata, 2, now).await;
    }
}
