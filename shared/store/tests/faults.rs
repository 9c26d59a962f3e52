//! Tests of a store whose files are damaged, whose disk is full or whose folder is in use.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;
use std::process::Command;

use bytes::Bytes;
use store::{Batch, Opened, Scan, SledStore, Store, VALUE_BYTES_MAX};

/// Number of bits to flip, spread over the log.
const FLIPS: usize = 80;

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn put(store: &SledStore, key: &str, value: impl Into<Bytes>) -> Result<(), store::StoreError> {
    runtime().block_on(store.apply(Batch::new().put(key.to_owned(), value)))
}

fn value(store: &SledStore, key: &str) -> Option<Bytes> {
    runtime().block_on(store.get(key.as_bytes())).unwrap()
}

/// Creates and closes a store with some records.
fn filled(folder: &Path) {
    let (store, _) = SledStore::open(folder).unwrap();
    for number in 0..40_u8 {
        put(&store, &format!("device/{number}"), vec![number; 700]).unwrap();
    }
}

/// Overwrites the log in the way that sled takes for an empty one.
fn overwrite(folder: &Path) {
    let length = fs::metadata(folder.join("db")).unwrap().len();
    fs::write(folder.join("db"), vec![0x5a; usize::try_from(length).unwrap()]).unwrap();
}

#[test]
fn a_damaged_store_is_set_aside_and_an_empty_one_takes_its_place() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("store");
    filled(&folder);
    overwrite(&folder);
    let (store, opened) = SledStore::open(&folder).unwrap();
    let Opened::Rebuilt { set_aside, cause } = opened else { panic!("{opened:?}") };
    assert!(set_aside.join("db").exists() && !cause.is_empty());
    assert_eq!(value(&store, "device/1"), None);
    put(&store, "device/1", "enrolled again").unwrap();
    drop(store);
    let (store, opened) = SledStore::open(&folder).unwrap();
    assert_eq!(opened, Opened::Existing);
    assert_eq!(value(&store, "device/1").as_deref(), Some(&b"enrolled again"[..]));
}

#[test]
fn only_the_last_few_damaged_stores_are_kept() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("store");
    for _ in 0..6 {
        filled(&folder);
        overwrite(&folder);
        assert!(matches!(SledStore::open(&folder).unwrap().1, Opened::Rebuilt { .. }));
    }
    let entries = fs::read_dir(parent.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert_eq!(entries.filter(|name| name.contains("broken")).count(), 3);
}

#[test]
fn a_half_written_snapshot_does_not_cost_the_store() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("store");
    filled(&folder);
    fs::write(folder.join("snap.00000000000A0000.generating"), [7; 100]).unwrap();
    let (store, opened) = SledStore::open(&folder).unwrap();
    assert_eq!(opened, Opened::Existing);
    assert_eq!(value(&store, "device/39"), Some(Bytes::from(vec![39; 700])));
}

#[test]
fn a_flipped_bit_is_repaired_or_noticed_and_never_becomes_a_value() {
    let parent = tempfile::tempdir().unwrap();
    let clean = parent.path().join("clean");
    filled(&clean);
    let db = fs::read(clean.join("db")).unwrap();
    let used = db.iter().rposition(|byte| *byte != 0).unwrap();
    let mut noticed = 0;
    for round in 0..FLIPS {
        let folder = parent.path().join(format!("flipped-{round}"));
        copy_folder(&clean, &folder);
        let mut damaged = db.clone();
        damaged[used * round / FLIPS] ^= 1 << (round % 8);
        fs::write(folder.join("db"), damaged).unwrap();
        let (store, opened) = SledStore::open(&folder).unwrap();
        let found = runtime().block_on(store.scan(Scan::prefix(""))).unwrap();
        match opened {
            Opened::Rebuilt { .. } => noticed += 1,
            Opened::Existing | Opened::Created => assert_eq!(found.len(), 40, "records are lost and nobody was told"),
        }
        for (key, value) in found {
            let number: u8 = std::str::from_utf8(&key).unwrap().strip_prefix("device/").unwrap().parse().unwrap();
            assert_eq!(value, vec![number; 700]);
        }
        put(&store, "device/0", vec![0; 700]).unwrap();
    }
    assert!(noticed > 0, "no flip hit anything that matters");
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[test]
fn a_second_opening_is_refused_and_the_first_goes_on() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("store");
    let (store, _) = SledStore::open(&folder).unwrap();
    assert!(SledStore::open(&folder).unwrap_err().is_locked());
    put(&store, "a", "1").unwrap();
    drop(store);
    assert_eq!(SledStore::open(&folder).unwrap().1, Opened::Existing);
}

#[test]
fn a_value_over_the_limit_is_refused_and_one_at_the_limit_survives() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("store");
    let (store, _) = SledStore::open(&folder).unwrap();
    let error = put(&store, "a", vec![1; VALUE_BYTES_MAX + 1]).unwrap_err();
    assert!(error.to_string().contains("bytes of a value"), "{error}");
    put(&store, "a", vec![2; VALUE_BYTES_MAX]).unwrap();
    drop(store);
    let (store, _) = SledStore::open(&folder).unwrap();
    assert_eq!(value(&store, "a"), Some(Bytes::from(vec![2; VALUE_BYTES_MAX])));
}

#[test]
fn a_full_disk_refuses_writes_with_advice_and_takes_them_again_when_there_is_room() {
    let parent = tempfile::tempdir().unwrap();
    let disk = parent.path().join("disk");
    fs::create_dir(&disk).unwrap();
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=16m", "tmpfs"]).arg(&disk).status();
    if !mounted.as_ref().is_ok_and(std::process::ExitStatus::success) {
        eprintln!("skipped: a small file system cannot be mounted here: {mounted:?}");
        return;
    }
    let outcome = std::panic::catch_unwind(|| fill_and_recover(&disk));
    // Lazily: a process that another test starts holds the files of this one until its `exec`.
    assert!(Command::new("umount").arg("--lazy").arg(&disk).status().unwrap().success());
    outcome.unwrap();
}

fn fill_and_recover(disk: &Path) {
    let (store, _) = SledStore::open(&disk.join("store")).unwrap();
    put(&store, "kept", "yes").unwrap();
    fs::write(disk.join("ballast"), vec![1; 10 << 20]).unwrap();
    let error = (0..200).find_map(|n| put(&store, &format!("record/{n}"), vec![n; 60_000]).err()).unwrap();
    assert!(error.is_disk_full() && error.to_string().contains("free some space"), "{error}");
    assert_eq!(value(&store, "kept").as_deref(), Some(&b"yes"[..]));
    fs::remove_file(disk.join("ballast")).unwrap();
    put(&store, "after", "room").unwrap();
    drop(store);
    let (store, opened) = SledStore::open(&disk.join("store")).unwrap();
    assert_eq!(opened, Opened::Existing);
    assert_eq!(value(&store, "kept").as_deref(), Some(&b"yes"[..]));
    assert_eq!(value(&store, "after").as_deref(), Some(&b"room"[..]));
}
