//! Tests of trust metadata on a device, against a hub that is honest, faulty or stolen.

#![expect(clippy::unwrap_used, clippy::panic, reason = "the helpers of a test stop it as its own lines do")]

mod support;

use std::sync::Arc;

use async_trait::async_trait;
use bundle::trust::{MetadataSource, SourceError, Trust, TrustError};
use bytes::Bytes;
use jiff::SignedDuration;
use model_tools::sign::{self, Authority, KeyPair, Roles};
use support::{Device, World, digits, later, now, rollback_of, version};

#[tokio::test]
async fn what_was_signed_is_listed_after_a_refresh_and_after_a_restart() {
    let mut world = World::new();
    world.add("digits/1/manifest.json", b"one", now());
    world.add("digits/10/manifest.json", b"ten", now());
    world.add("README", b"of no use", now());
    let mut device = world.device();
    assert!(device.trust.current().is_none());
    let trusted = device.refresh(&world.shelf, now()).await.unwrap();
    assert_eq!(trusted.latest_version(&digits()), Some(version(10)), "versions are numbers, not texts");
    let ten = trusted.manifest(&digits(), version(10)).unwrap();
    assert_eq!((ten.length, ten.digest), (3, types::Digest::of(b"ten")));
    assert!(matches!(trusted.manifest(&digits(), version(2)), Err(TrustError::NotListed { .. })));
    assert_eq!(trusted.models().count(), 1);

    device.reopen();
    let kept = device.trust.current().unwrap();
    assert_eq!(kept.targets_version(), trusted.targets_version());
    assert_eq!(kept.versions(&digits()).collect::<Vec<_>>(), [version(1), version(10)]);
    let reopened = Trust::reopen(&device.path()).unwrap();
    assert_eq!(reopened.current().unwrap().timestamp_version(), trusted.timestamp_version());
}

#[tokio::test]
async fn nothing_new_costs_one_small_file() {
    let world = World::new();
    let device = world.device();
    device.refresh(&world.shelf, now()).await.unwrap();
    world.shelf.asked();
    device.refresh(&world.shelf, now()).await.unwrap();
    assert_eq!(world.shelf.asked(), ["2.root.json", "timestamp.json"]);
}

#[tokio::test]
async fn every_flipped_byte_of_the_metadata_is_refused() {
    let mut world = World::new();
    let device = world.device();
    let roles = world.roles();
    let root_key = sign::KeyPair::generate().unwrap();
    let moved = Roles { root: Authority::of(root_key.public()), ..roles };
    let next = sign::next_root(&world.root.bytes, &moved, &[&world.keys.root, &root_key], now()).unwrap();
    world.root = next;
    world.shelf.publish(&world.root);
    world.add("digits/1/manifest.json", b"one", now());
    let (targets, snapshot) = (world.targets.file_name(), world.snapshot.file_name());
    for name in ["2.root.json", targets.as_str(), snapshot.as_str(), "timestamp.json"] {
        let good = world.shelf.get(name);
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            world.shelf.put(name, &bad);
            let refused = device.refresh(&world.shelf, now()).await;
            assert!(refused.is_err(), "byte {at} of {name} was flipped and taken");
        }
        world.shelf.put(name, &good);
    }
    assert!(device.trust.current().is_none());
    device.refresh(&world.shelf, now()).await.unwrap();
}

#[tokio::test]
async fn a_hub_that_offers_older_files_is_refused() {
    let mut world = World::new();
    let (first_timestamp, first_targets) = (world.timestamp.clone(), world.targets.clone());
    world.add("digits/1/manifest.json", b"one", now());
    let mut device = world.device();
    device.refresh(&world.shelf, now()).await.unwrap();

    let newest = world.timestamp.clone();
    world.shelf.publish(&first_timestamp);
    assert_eq!(rollback_of(&device.refresh(&world.shelf, now()).await.unwrap_err()), "timestamp");

    // The online keys are stolen: a new timestamp, a new snapshot, old targets.
    let (snapshot, timestamp) = world.online(&first_targets.bytes, now());
    for signed in [&snapshot, &timestamp] {
        world.shelf.publish(signed);
    }
    for _restart in 0..2 {
        let refused = device.refresh(&world.shelf, now()).await.unwrap_err();
        assert!(rollback_of(&refused).starts_with("targets"), "{refused:?}");
        device.reopen();
    }
    // The honest hub is back.
    world.shelf.publish(&world.snapshot);
    world.shelf.publish(&newest);
    assert_eq!(device.refresh(&world.shelf, now()).await.unwrap().targets_version(), world.targets.version);
    assert_eq!(device.trust.current().unwrap().latest_version(&digits()), Some(version(1)));
}

#[tokio::test]
async fn a_timestamp_without_its_snapshot_does_not_make_a_device_forget() {
    let mut world = World::new();
    let first_targets = world.targets.clone();
    world.add("digits/1/manifest.json", b"one", now());
    let mut device = world.device();
    device.refresh(&world.shelf, now()).await.unwrap();

    // The thief of the online keys publishes a timestamp and withholds its snapshot …
    let (snapshot, timestamp) = world.online(&first_targets.bytes, now());
    world.shelf.publish(&timestamp);
    assert!(device.refresh(&world.shelf, now()).await.is_err());
    device.reopen();
    assert!(device.refresh(&world.shelf, now()).await.is_err());
    // … then publishes it, with the previous targets.
    world.shelf.publish(&snapshot);
    world.shelf.publish(&first_targets);
    device.reopen();
    let refused = device.refresh(&world.shelf, now()).await.unwrap_err();
    assert!(rollback_of(&refused).starts_with("targets"), "{refused:?}");
    assert_eq!(device.trust.current().unwrap().targets_version(), world.targets.version);
}

#[tokio::test]
async fn the_floor_holds_when_the_stored_set_was_lost() {
    let mut world = World::new();
    let old = [world.targets.clone(), world.snapshot.clone(), world.timestamp.clone()];
    world.add("digits/1/manifest.json", b"one", now());
    let mut device = world.device();
    device.refresh(&world.shelf, now()).await.unwrap();
    std::fs::remove_dir_all(device.path().join("sets")).unwrap();
    device.reopen();
    assert!(device.trust.current().is_none());
    old.iter().for_each(|signed| world.shelf.publish(signed));
    assert_eq!(rollback_of(&device.refresh(&world.shelf, now()).await.unwrap_err()), "timestamp");
    world.beat(now());
    assert_eq!(device.refresh(&world.shelf, now()).await.unwrap().targets_version(), world.targets.version);
}

#[tokio::test]
async fn files_of_two_times_do_not_mix() {
    let mut world = World::new();
    let first = (world.targets.clone(), world.snapshot.clone());
    world.add("digits/1/manifest.json", b"one", now());
    let device = world.device();
    let (snapshot, targets) = (world.snapshot.file_name(), world.targets.file_name());
    world.shelf.put(&snapshot, &first.1.bytes);
    assert!(matches!(device.refresh(&world.shelf, now()).await, Err(TrustError::Refused(_))));
    world.shelf.put(&snapshot, &world.snapshot.bytes);
    world.shelf.put(&targets, &first.0.bytes);
    assert!(matches!(device.refresh(&world.shelf, now()).await, Err(TrustError::Refused(_))));

    // The whole repository of another hub.
    let mut other = World::new();
    other.add("digits/1/manifest.json", b"theirs", now());
    for name in [&snapshot, &targets, &world.timestamp.file_name()] {
        world.shelf.put(name, &other.shelf.get(name));
    }
    assert!(matches!(device.refresh(&world.shelf, now()).await, Err(TrustError::Signatures { .. })));
    assert!(device.trust.current().is_none());
}

#[tokio::test]
async fn what_has_expired_is_refused_and_what_was_proven_in_time_stays() {
    let mut world = World::new();
    world.add("digits/1/manifest.json", b"one", now());
    let mut device = world.device();
    device.refresh(&world.shelf, later(6)).await.unwrap();
    let frozen = device.refresh(&world.shelf, later(8)).await.unwrap_err();
    assert!(matches!(&frozen, TrustError::Expired { role, .. } if role == "timestamp"), "{frozen:?}");
    assert!(frozen.is_refusal());
    device.reopen();
    let kept = device.trust.current().unwrap();
    assert!(kept.expires() < later(8));
    assert_eq!(kept.latest_version(&digits()), Some(version(1)));

    // A root that was not renewed in time stops everything, whatever the online keys sign.
    world.beat(later(366));
    let late = device.refresh(&world.shelf, later(366)).await.unwrap_err();
    assert!(matches!(&late, TrustError::Expired { role, .. } if role == "root"), "{late:?}");
}

#[tokio::test]
async fn missing_signatures_and_missing_files_are_refused() {
    let world = World::new();
    let device = world.device();
    for name in ["timestamp.json", "1.snapshot.json", "1.targets.json"] {
        let good = world.shelf.get(name);
        let mut value: serde_json::Value = serde_json::from_slice(&good).unwrap();
        value["signatures"] = serde_json::json!([]);
        let bare = serde_json::to_vec(&value).unwrap();
        world.shelf.put(name, &bare);
        assert!(device.refresh(&world.shelf, now()).await.unwrap_err().is_refusal(), "{name} went unsigned");
        world.shelf.take(name);
        assert!(device.refresh(&world.shelf, now()).await.is_err(), "{name} is not there");
        world.shelf.put(name, &good);
    }
    device.refresh(&world.shelf, now()).await.unwrap();
}

#[tokio::test]
async fn numbers_that_are_no_integers_are_refused() {
    let world = World::new();
    let device = world.device();
    let text = String::from_utf8(world.shelf.get("timestamp.json")).unwrap();
    for number in ["1.0", "1e0", "-0", "01", "99999999999999999999"] {
        let bad = text.replace("\"version\":1}", &format!("\"version\":{number}}}"));
        assert_ne!(bad, text);
        world.shelf.put("timestamp.json", bad.as_bytes());
        assert!(device.refresh(&world.shelf, now()).await.is_err(), "{number} was taken");
    }
}

/// A hub that sends more bytes than requested.
struct Endless;

#[async_trait]
impl MetadataSource for Endless {
    async fn fetch(&self, name: &str, bytes_max: u64) -> Result<Option<Bytes>, SourceError> {
        assert!(bytes_max <= 5 * 1024 * 1024, "every file has a limit");
        if name.ends_with("root.json") {
            return Ok(None);
        }
        Ok(Some(vec![b' '; usize::try_from(bytes_max).unwrap() + 1].into()))
    }
}

/// A hub that is unreachable, so that every fetch fails.
struct Away;

#[async_trait]
impl MetadataSource for Away {
    async fn fetch(&self, _name: &str, _bytes_max: u64) -> Result<Option<Bytes>, SourceError> {
        Err(SourceError::new("no route to host"))
    }
}

#[tokio::test]
async fn endless_metadata_and_a_hub_that_is_away_are_told_apart() {
    let world = World::new();
    let device = world.device();
    let endless = device.trust.refresh(Arc::new(Endless), now()).await.unwrap_err();
    assert!(matches!(&endless, TrustError::TooLarge { name, .. } if name == "timestamp.json"), "{endless:?}");
    assert!(endless.is_refusal());
    let away = device.trust.refresh(Arc::new(Away), now()).await.unwrap_err();
    assert!(matches!(away, TrustError::Source { .. }));
    assert!(!away.is_refusal());
}

#[tokio::test]
async fn a_clock_that_steps_back_ten_years_changes_nothing() {
    let mut world = World::new();
    let mut device = world.device();
    let fresh = device.refresh(&world.shelf, later(1)).await.unwrap();
    assert_eq!(fresh.clock_behind(), None);
    let back = later(-3650);
    world.add("digits/1/manifest.json", b"one", later(1));
    device.reopen();
    let trusted = device.refresh(&world.shelf, back).await.unwrap();
    assert_eq!(trusted.latest_version(&digits()), Some(version(1)));
    assert!(trusted.clock_behind().unwrap() > SignedDuration::from_hours(3650 * 24));
    assert_eq!(device.trust.clock_floor(), later(1));

    // Metadata that had expired by the last trusted time stays expired.
    world.beat(later(20));
    device.refresh(&world.shelf, later(20)).await.unwrap();
    world.beat(later(2));
    device.reopen();
    assert!(matches!(device.refresh(&world.shelf, back).await, Err(TrustError::Expired { .. })));
}

#[tokio::test]
async fn a_folder_of_another_hub_is_not_taken_over() {
    let (ours, theirs) = (World::new(), World::new());
    let device = ours.device();
    assert!(matches!(Trust::open(&device.path(), &theirs.root.bytes), Err(TrustError::OtherRoot(_))));
    let empty = tempfile::tempdir().unwrap();
    assert!(matches!(Trust::reopen(empty.path()), Err(TrustError::NoRoot(_))));
    assert!(Trust::open(empty.path(), b"{}").unwrap_err().is_refusal());
    assert!(Trust::open(empty.path(), &theirs.timestamp.bytes).unwrap_err().is_refusal());
}

#[tokio::test]
async fn rotten_files_cost_a_refresh_and_nothing_else() {
    let mut world = World::new();
    world.add("digits/1/manifest.json", b"one", now());
    let first_root = world.root.bytes.clone();
    let roles = world.roles();
    let root_key = std::mem::replace(&mut world.keys.root, KeyPair::generate().unwrap());
    world.rotate(&roles, &[&root_key]);
    let set = "sets/00000000000000000001";
    let files = ["timestamp.json", "snapshot.json", "targets.json"].map(|name| format!("{set}/{name}"));
    for file in files.iter().map(String::as_str).chain(["roots/2.root.json", "floor.json"]) {
        for keep in [0, 1, 40] {
            let mut device = Device::new(&first_root);
            device.refresh(&world.shelf, now()).await.unwrap();
            let path = device.path().join(file);
            let rotten = std::fs::read(&path).unwrap()[..keep].to_vec();
            std::fs::write(&path, rotten).unwrap();
            for _restart in 0..2 {
                device.reopen();
                let healed = device.refresh(&world.shelf, now()).await.unwrap();
                let versions = (healed.root_version(), healed.targets_version());
                assert_eq!(versions, (2, world.targets.version), "{file} cut to {keep} bytes");
            }
            device.reopen();
            assert_eq!(
                device.trust.current().map(|kept| kept.targets_version()),
                Some(world.targets.version),
                "{file}"
            );
        }
    }
}
