//! Tests with a power cut between any two steps of a write, in which the disk loses all writes without an fsync.

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use model_tools::sign::{self, InitialKeys, Repository};

use super::super::floor::Floor;
use super::super::{MetadataSource, SourceError, Trust, admit, verify_set};
use super::{Folder, SetFiles, Step, run};

fn now() -> Timestamp {
    "2026-11-01T12:00:00Z".parse().unwrap()
}

/// Fate of the writes without an fsync in a power cut.
#[derive(Debug, Clone, Copy)]
enum Loss {
    /// All of them reached the disk.
    None,
    /// Half of each file reached the disk; renames and new names did not.
    Late,
    /// Files contain zeros; renames reached the disk.
    Torn,
}

/// Brings the disk to its state after a power cut before `plan[cut]`.
fn cut_power(plan: &[Step], cut: usize, loss: Loss) {
    let done = &plan[..cut];
    for (at, step) in done.iter().enumerate() {
        let after = &done[at + 1..];
        let survivor = match (loss, step) {
            (Loss::Late, Step::Rename(_, to)) if !after.contains(&Step::SyncFolder(to.parent().unwrap().into())) => {
                None
            }
            (Loss::Late, Step::Write(path, bytes)) if !after.contains(&Step::SyncFile(path.clone())) => {
                Some(Step::Write(path.clone(), bytes[..bytes.len() / 2].to_vec()))
            }
            (Loss::Torn, Step::Write(path, bytes)) if !after.contains(&Step::SyncFile(path.clone())) => {
                Some(Step::Write(path.clone(), vec![0; bytes.len()]))
            }
            (Loss::None | Loss::Late | Loss::Torn, step) => Some(step.clone()),
        };
        if let Some(step) = survivor {
            step.run().unwrap();
        }
    }
}

/// Returns a description of a step without the bytes that it writes.
fn label(step: &Step) -> String {
    format!("{step:?}").split('[').next().unwrap().to_owned()
}

struct Shelf(Vec<(String, Vec<u8>)>);

#[async_trait]
impl MetadataSource for Shelf {
    async fn fetch(&self, name: &str, _bytes_max: u64) -> Result<Option<Bytes>, SourceError> {
        Ok(self.0.iter().rfind(|(known, _)| known == name).map(|(_, bytes)| bytes.clone().into()))
    }
}

fn set_of(repository: &Repository) -> SetFiles {
    SetFiles {
        timestamp: repository.timestamp.bytes.clone(),
        snapshot: repository.snapshot.bytes.clone(),
        targets: repository.targets.bytes.clone(),
    }
}

/// Returns a repository, and the same with one more target and one more root.
fn two_states() -> (Repository, Repository) {
    let keys = InitialKeys::generate().unwrap();
    let first = sign::init_repository(&keys, now()).unwrap();
    let signers = [&keys.targets];
    let root = &first.root.bytes;
    let targets =
        sign::add_target(root, &first.targets.bytes, "digits/1/manifest.json", b"one", &signers, now()).unwrap();
    let previous = Some((first.snapshot.bytes.as_slice(), first.timestamp.bytes.as_slice()));
    let (snapshot, timestamp) =
        sign::snapshot_and_timestamp(root, previous, &targets.bytes, &keys.online, now()).unwrap();
    let roles = sign::Roles {
        root: sign::Authority::of(keys.root.public()),
        targets: sign::Authority::of(keys.targets.public()),
        snapshot: sign::Authority::of(keys.online.snapshot.public()),
        timestamp: sign::Authority::of(keys.online.timestamp.public()),
    };
    let root = sign::next_root(root, &roles, &[&keys.root], now()).unwrap();
    (first, Repository { root, targets, snapshot, timestamp })
}

fn floor_of(repository: &Repository, before: &Floor) -> Floor {
    let metadata = verify_set(&repository.root.bytes, &set_of(repository)).unwrap();
    admit(&metadata, before).unwrap().1
}

fn plan_floor(folder: &Folder, floor: &Floor) -> Vec<Step> {
    super::write_whole(&folder.floor(), &floor.to_bytes().unwrap())
}

/// Returns the folder of a device after a refresh to the first state.
fn begun(path: &Path, first: &Repository) -> Folder {
    let folder = Folder::begin(path, &first.root.bytes).unwrap();
    folder.write_set(&set_of(first)).unwrap();
    folder.write_floor(&floor_of(first, &Floor::default())).unwrap();
    folder
}

/// Returns all writes of a refresh from the first state to the second, in the order of `commit`.
fn whole_commit(folder: &Folder, first: &Repository, second: &Repository) -> Vec<Step> {
    let mut plan = super::write_whole(&folder.root(2), &second.root.bytes);
    plan.extend(folder.plan_set(&folder.generations().unwrap(), &set_of(second)));
    plan.extend(plan_floor(folder, &floor_of(second, &floor_of(first, &Floor::default()))));
    plan
}

#[tokio::test]
async fn a_power_cut_at_any_step_of_a_refresh_leaves_a_set_that_verifies() {
    let (first, second) = two_states();
    let files = [&second.root, &second.targets, &second.snapshot, &second.timestamp];
    let shelf = Arc::new(Shelf(files.map(|file| (file.file_name(), file.bytes.clone())).to_vec()));
    let mut cuts = 0;
    let mut seen = [0_u32; 2];
    let newest = (2, second.targets.version);
    for loss in [Loss::None, Loss::Late, Loss::Torn] {
        for cut in 0.. {
            let home = tempfile::tempdir().unwrap();
            let path = home.path().join("trust");
            let plan = whole_commit(&begun(&path, &first), &first, &second);
            if cut > plan.len() {
                break;
            }
            cut_power(&plan, cut, loss);
            let trust = Trust::open(&path, &first.root.bytes).unwrap();
            let current = trust.current();
            let version = current.as_ref().map(|trusted| trusted.targets_version());
            let next = plan.get(cut).map(label);
            let state =
                [first.targets.version, second.targets.version].iter().position(|known| Some(*known) == version);
            assert!(state.is_some(), "cut before step {cut} {next:?} with {loss:?} left {version:?}");
            seen[state.unwrap()] += 1;
            // The device can continue from there.
            let shelf = Arc::clone(&shelf) as Arc<dyn MetadataSource>;
            let trusted = trust.refresh(shelf, now()).await.unwrap();
            assert_eq!((trusted.root_version(), trusted.targets_version()), newest);
            let again = Trust::open(&path, &first.root.bytes).unwrap().current().unwrap();
            assert_eq!((again.root_version(), again.targets_version()), newest);
            cuts += 1;
        }
    }
    assert!(cuts > 60 && seen[0] > 20 && seen[1] > 10, "{cuts} cuts, {seen:?}");
}

#[test]
fn a_power_cut_while_a_folder_is_begun_leaves_none_or_a_good_one() {
    let (first, _) = two_states();
    for loss in [Loss::None, Loss::Late, Loss::Torn] {
        for cut in 0.. {
            let home = tempfile::tempdir().unwrap();
            let folder = Folder { path: home.path().join("trust") };
            let plan = folder.plan_begin(&first.root.bytes);
            if cut > plan.len() {
                break;
            }
            cut_power(&plan, cut, loss);
            let trust = Trust::open(&folder.path, &first.root.bytes).unwrap();
            assert_eq!(trust.root_version(), 1, "cut before step {cut} with {loss:?}");
        }
    }
}

#[test]
fn a_commit_leaves_one_set_and_no_staging() {
    let (first, second) = two_states();
    let home = tempfile::tempdir().unwrap();
    let folder = begun(home.path(), &first);
    run(&whole_commit(&folder, &first, &second)).unwrap();
    let names: Vec<_> = std::fs::read_dir(folder.sets()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["00000000000000000002"]);
}
