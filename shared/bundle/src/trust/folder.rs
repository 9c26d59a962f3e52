//! Trust metadata on disk, written so that a power cut at any moment leaves the complete old or the complete new data.
//!
//! ```text
//! root.json                    the root from the enrolment, written once
//! roots/<n>.root.json          every later root, written once after its verification
//! sets/<generation>/           timestamp.json, snapshot.json, targets.json; the highest number counts
//! sets/staged/                 the next set until it is complete
//! floor.json                   lowest acceptable versions and last trusted time
//! ```
//! Every write is a plan, a list of [`Step`]s, so that a test can simulate a power cut between any two of them.
//! A set becomes valid by one rename of its folder, after all its files were fsynced.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::TrustError;
use super::floor::Floor;
use super::source::{ROOT_BYTES_MAX, SNAPSHOT_BYTES_MAX, TARGETS_BYTES_MAX, TIMESTAMP_BYTES_MAX};

/// Maximum size of `floor.json` in bytes; it takes about 400.
const FLOOR_BYTES_MAX: u64 = 4096;

/// Number of digits in a generation's folder name, so that names sort like numbers.
const GENERATION_DIGITS: usize = 20;

/// Bytes of one consistent set of metadata below the root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SetFiles {
    pub(super) timestamp: Vec<u8>,
    pub(super) snapshot: Vec<u8>,
    pub(super) targets: Vec<u8>,
}

impl SetFiles {
    pub(super) fn file(&self, name: &str) -> Option<&Vec<u8>> {
        match name {
            "timestamp.json" => Some(&self.timestamp),
            "snapshot.json" => Some(&self.snapshot),
            "targets.json" => Some(&self.targets),
            _ => None,
        }
    }
}

/// One operation on the disk; a power cut can occur before and after each.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    MakeFolder(PathBuf),
    Write(PathBuf, Vec<u8>),
    SyncFile(PathBuf),
    SyncFolder(PathBuf),
    Rename(PathBuf, PathBuf),
    RemoveFolder(PathBuf),
}

impl Step {
    fn run(&self) -> Result<(), TrustError> {
        match self {
            Self::MakeFolder(path) => make_folder(path).map_err(TrustError::storage("make folder", path)),
            Self::Write(path, bytes) => {
                let written = create_file(path).and_then(|mut file| file.write_all(bytes));
                written.map_err(TrustError::storage("write", path))
            }
            Self::SyncFile(path) | Self::SyncFolder(path) => {
                let synced = File::open(path).and_then(|file| file.sync_all());
                synced.map_err(TrustError::storage("fsync", path))
            }
            Self::Rename(from, to) => fs::rename(from, to).map_err(TrustError::storage("rename to", to)),
            Self::RemoveFolder(path) => match fs::remove_dir_all(path) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    Err(TrustError::storage("remove folder", path)(source))
                }
                Ok(()) | Err(_) => Ok(()),
            },
        }
    }
}

fn run(plan: &[Step]) -> Result<(), TrustError> {
    plan.iter().try_for_each(Step::run)
}

/// Folder of one [`super::Trust`].
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
}

impl Folder {
    /// Creates the folder if it is missing; refuses one that was created with another root.
    pub(super) fn begin(path: &Path, pinned_root: &[u8]) -> Result<Self, TrustError> {
        let folder = Self { path: path.to_owned() };
        match read(&folder.pinned(), ROOT_BYTES_MAX)? {
            Some(earlier) if earlier != pinned_root => Err(TrustError::OtherRoot(folder.path)),
            Some(_) => Ok(folder),
            None => {
                run(&folder.plan_begin(pinned_root))?;
                Ok(folder)
            }
        }
    }

    /// Returns the folder and the root that it was created with.
    pub(super) fn existing(path: &Path) -> Result<(Self, Vec<u8>), TrustError> {
        let folder = Self { path: path.to_owned() };
        let root = read(&folder.pinned(), ROOT_BYTES_MAX)?.ok_or_else(|| TrustError::NoRoot(path.to_owned()))?;
        Ok((folder, root))
    }

    pub(super) fn read_root(&self, version: u64) -> Result<Option<Vec<u8>>, TrustError> {
        read(&self.root(version), ROOT_BYTES_MAX)
    }

    pub(super) fn write_root(&self, version: u64, bytes: &[u8]) -> Result<(), TrustError> {
        run(&write_whole(&self.root(version), bytes))
    }

    /// Returns the newest set; `None` if there is none or one of its files is missing.
    pub(super) fn read_set(&self) -> Result<Option<SetFiles>, TrustError> {
        let Some(newest) = self.generations()?.last().copied() else { return Ok(None) };
        let folder = self.generation(newest);
        let file = |name: &str, bytes_max| read(&folder.join(name), bytes_max);
        let timestamp = file("timestamp.json", TIMESTAMP_BYTES_MAX)?;
        let snapshot = file("snapshot.json", SNAPSHOT_BYTES_MAX)?;
        let targets = file("targets.json", TARGETS_BYTES_MAX)?;
        let (Some(timestamp), Some(snapshot), Some(targets)) = (timestamp, snapshot, targets) else { return Ok(None) };
        Ok(Some(SetFiles { timestamp, snapshot, targets }))
    }

    pub(super) fn write_set(&self, set: &SetFiles) -> Result<(), TrustError> {
        run(&self.plan_set(&self.generations()?, set))
    }

    /// Returns the floor; a missing or damaged one is the lowest possible.
    pub(super) fn read_floor(&self) -> Result<Floor, TrustError> {
        let Some(bytes) = read(&self.floor(), FLOOR_BYTES_MAX)? else { return Ok(Floor::default()) };
        Ok(Floor::from_bytes(&bytes).unwrap_or_else(|| {
            tracing::warn!(path = ?self.floor(), "trust floor is damaged: it is computed again from the stored set");
            Floor::default()
        }))
    }

    pub(super) fn write_floor(&self, floor: &Floor) -> Result<(), TrustError> {
        let path = self.floor();
        let bytes = floor.to_bytes().map_err(|source| TrustError::storage("write", &path)(source.into()))?;
        run(&write_whole(&path, &bytes))
    }

    fn plan_begin(&self, pinned_root: &[u8]) -> Vec<Step> {
        let mut plan = vec![Step::MakeFolder(self.path.join("roots")), Step::MakeFolder(self.sets())];
        if let Some(parent) = self.path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            plan.push(Step::SyncFolder(parent.to_owned()));
        }
        // Last, because a folder with a root counts as created.
        plan.extend(write_whole(&self.pinned(), pinned_root));
        plan
    }

    fn plan_set(&self, generations: &[u64], set: &SetFiles) -> Vec<Step> {
        let staged = self.sets().join("staged");
        let next = generations.last().map_or(1, |newest| newest.saturating_add(1));
        let files =
            [("timestamp.json", &set.timestamp), ("snapshot.json", &set.snapshot), ("targets.json", &set.targets)];
        // Remains of an earlier power cut are removed.
        let mut plan = vec![Step::RemoveFolder(staged.clone()), Step::MakeFolder(staged.clone())];
        for (name, bytes) in files {
            plan.push(Step::Write(staged.join(name), bytes.clone()));
            plan.push(Step::SyncFile(staged.join(name)));
        }
        plan.push(Step::SyncFolder(staged.clone()));
        plan.push(Step::Rename(staged, self.generation(next)));
        // The previous set is removed only after the rename is on the disk.
        plan.push(Step::SyncFolder(self.sets()));
        plan.extend(generations.iter().map(|&old| Step::RemoveFolder(self.generation(old))));
        plan
    }

    /// Returns the numbers of the existing sets, lowest first.
    fn generations(&self) -> Result<Vec<u64>, TrustError> {
        let sets = self.sets();
        let fail = |source| TrustError::storage("list folder", &sets)(source);
        let mut found = Vec::new();
        let entries = match fs::read_dir(&sets) {
            Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(found),
            entries => entries.map_err(fail)?,
        };
        for entry in entries {
            let name = entry.map_err(fail)?.file_name();
            let number = name.to_str().filter(|name| name.len() == GENERATION_DIGITS);
            found.extend(number.and_then(|name| name.parse::<u64>().ok()));
        }
        found.sort_unstable();
        Ok(found)
    }

    fn pinned(&self) -> PathBuf {
        self.path.join("root.json")
    }

    fn root(&self, version: u64) -> PathBuf {
        self.path.join("roots").join(format!("{version}.root.json"))
    }

    fn sets(&self) -> PathBuf {
        self.path.join("sets")
    }

    fn generation(&self, number: u64) -> PathBuf {
        self.sets().join(format!("{number:0GENERATION_DIGITS$}"))
    }

    fn floor(&self) -> PathBuf {
        self.path.join("floor.json")
    }
}

/// Returns the steps of an atomic write: write a temporary file, fsync, rename, fsync the folder.
fn write_whole(path: &Path, bytes: &[u8]) -> Vec<Step> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    let mut plan = vec![
        Step::Write(beside.clone(), bytes.to_vec()),
        Step::SyncFile(beside.clone()),
        Step::Rename(beside, path.to_owned()),
    ];
    plan.extend(path.parent().map(|folder| Step::SyncFolder(folder.to_owned())));
    plan
}

/// Reads a file of at most `bytes_max` bytes; `None` if it does not exist or is longer.
fn read(path: &Path, bytes_max: u64) -> Result<Option<Vec<u8>>, TrustError> {
    let file = match File::open(path) {
        Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file.map_err(TrustError::storage("read", path))?,
    };
    let mut bytes = Vec::new();
    let read = file.take(bytes_max.saturating_add(1)).read_to_end(&mut bytes);
    let count = read.map_err(TrustError::storage("read", path))?;
    Ok(u64::try_from(count).is_ok_and(|count| count <= bytes_max).then_some(bytes))
}

/// Creates a folder that only its owner can use, whatever the umask: anyone who can write to it decides which metadata
/// a device trusts.
fn make_folder(path: &Path) -> std::io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Creates or truncates a file that only its owner can use.
fn create_file(path: &Path) -> std::io::Result<File> {
    File::options().write(true).create(true).truncate(true).mode(0o600).open(path)
}

#[cfg(test)]
#[path = "power_cut_tests.rs"]
mod power_cut_tests;
