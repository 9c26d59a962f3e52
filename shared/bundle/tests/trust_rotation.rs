//! Tests of stolen keys on a device: only new keys replace run-away versions.

#![expect(clippy::unwrap_used, clippy::panic, reason = "the helpers of a test stop it as its own lines do")]

mod support;

use std::sync::Mutex;

use async_trait::async_trait;
use bundle::trust::{MetadataSource, SourceError, TrustError, inspect_set};
use bytes::Bytes;
use model_tools::sign::{self, Authority, Draft, KeyPair, OnlineKeys, Role, Roles, Signed};
use support::{Device, World, digits, later, now, rollback_of, version};

/// Signs the same content under another version, as anyone with the key can.
fn at_version(file: &Signed, version: u64, key: &KeyPair) -> Signed {
    edited(file, key, |signed| signed["version"] = version.into())
}

fn edited(file: &Signed, key: &KeyPair, edit: impl FnOnce(&mut serde_json::Value)) -> Signed {
    let mut value: serde_json::Value = serde_json::from_slice(&file.bytes).unwrap();
    edit(&mut value["signed"]);
    value["signatures"] = serde_json::json!([]);
    let mut draft = Draft::read(file.role, &serde_json::to_vec(&value).unwrap()).unwrap();
    draft.sign(key).unwrap();
    draft.to_signed().unwrap()
}

/// Signs `from` so that it names `to`.
fn pointing(from: &Signed, name: &str, to: &Signed, key: &KeyPair) -> Signed {
    edited(from, key, |signed| {
        signed["meta"][name] = serde_json::json!({
            "version": to.version,
            "length": to.bytes.len(),
            "hashes": {"sha256": types::Digest::of(&to.bytes).to_hex()},
        });
    })
}

/// Publishes snapshot and timestamp with this version, as a thief of the online keys does.
fn run_away(world: &mut World, version: u64) {
    let keys = &world.keys.online;
    let snapshot = pointing(&world.snapshot, "targets.json", &world.targets, &keys.snapshot);
    let snapshot = at_version(&snapshot, version, &keys.snapshot);
    let timestamp = pointing(&world.timestamp, "snapshot.json", &snapshot, &keys.timestamp);
    let timestamp = at_version(&timestamp, version, &keys.timestamp);
    world.shelf.publish(&snapshot);
    world.shelf.publish(&timestamp);
}

fn new_online() -> OnlineKeys {
    OnlineKeys { snapshot: KeyPair::generate().unwrap(), timestamp: KeyPair::generate().unwrap() }
}

/// Publishes a root with these roles and the metadata that the hub signs under it.
fn rotate(world: &mut World, roles: &Roles, online: OnlineKeys) {
    let root_key = std::mem::replace(&mut world.keys.root, KeyPair::generate().unwrap());
    world.rotate(roles, &[&root_key]);
    world.keys.root = root_key;
    world.keys.online = online;
    world.beat(now());
}

/// Returns a device that received run-away versions.
async fn fooled(world: &mut World, version: u64) -> Device {
    world.add("digits/1/manifest.json", b"one", now());
    let device = world.device();
    device.refresh(&world.shelf, now()).await.unwrap();
    run_away(world, version);
    assert_eq!(device.refresh(&world.shelf, now()).await.unwrap().timestamp_version(), version);
    // The honest hub knows nothing of it.
    world.beat(now());
    assert!(matches!(device.refresh(&world.shelf, now()).await, Err(TrustError::Rollback { .. })));
    device
}

#[tokio::test]
async fn run_away_online_versions_are_shaken_off_by_new_online_keys() {
    for far in [1 << 62, u64::MAX] {
        let mut world = World::new();
        let mut device = fooled(&mut world, far).await;
        let online = new_online();
        let roles = Roles {
            snapshot: Authority::of(online.snapshot.public()),
            timestamp: Authority::of(online.timestamp.public()),
            ..world.roles()
        };
        rotate(&mut world, &roles, online);
        world.add("digits/2/manifest.json", b"two", now());
        let trusted = device.refresh(&world.shelf, now()).await.unwrap();
        assert_eq!(trusted.latest_version(&digits()), Some(version(2)));
        assert!(trusted.timestamp_version() < sign::VERSION_PLAUSIBLE_MAX);
        // Also after a restart, and from here on nothing goes back.
        device.reopen();
        device.refresh(&world.shelf, now()).await.unwrap();
        let (old_snapshot, old_timestamp) = (world.snapshot.clone(), world.timestamp.clone());
        world.beat(later(1));
        device.refresh(&world.shelf, later(1)).await.unwrap();
        world.shelf.publish(&old_snapshot);
        world.shelf.publish(&old_timestamp);
        assert_eq!(rollback_of(&device.refresh(&world.shelf, later(1)).await.unwrap_err()), "timestamp");
    }
}

#[tokio::test]
async fn one_new_online_key_is_enough_and_other_new_keys_are_not() {
    let with = |world: &World, role: Role, key: &KeyPair| {
        let mut roles = world.roles();
        match role {
            Role::Root => roles.root = Authority::of(key.public()),
            Role::Targets => roles.targets = Authority::of(key.public()),
            Role::Snapshot => roles.snapshot = Authority::of(key.public()),
            Role::Timestamp => roles.timestamp = Authority::of(key.public()),
        }
        roles
    };
    // TUF 5.3.11: the keys of the snapshot or of the timestamp.
    for role in [Role::Snapshot, Role::Timestamp] {
        let mut world = World::new();
        let device = fooled(&mut world, 1 << 62).await;
        let key = KeyPair::generate().unwrap();
        let roles = with(&world, role, &key);
        let old = std::mem::replace(&mut world.keys.online, new_online());
        let online = match role {
            Role::Snapshot => OnlineKeys { snapshot: key, ..old },
            _ => OnlineKeys { timestamp: key, ..old },
        };
        rotate(&mut world, &roles, online);
        assert!(
            device.refresh(&world.shelf, now()).await.unwrap().timestamp_version() < sign::VERSION_PLAUSIBLE_MAX,
            "{role:?}"
        );
    }
    // A new root key, or a root without changes, does not help a thief of the online keys.
    let mut world = World::new();
    let device = fooled(&mut world, 1 << 62).await;
    let fresh = KeyPair::generate().unwrap();
    let roles = with(&world, Role::Root, &fresh);
    let root_key = std::mem::replace(&mut world.keys.root, fresh);
    world.root = sign::next_root(&world.root.bytes, &roles, &[&root_key, &world.keys.root], now()).unwrap();
    world.shelf.publish(&world.root);
    world.beat(now());
    assert!(matches!(device.refresh(&world.shelf, now()).await, Err(TrustError::Rollback { .. })));
}

#[tokio::test]
async fn a_run_away_list_is_shaken_off_by_new_targets_and_online_keys() {
    let mut world = World::new();
    world.add("digits/1/manifest.json", b"one", now());
    let device = world.device();
    device.refresh(&world.shelf, now()).await.unwrap();
    let honest = world.targets.clone();
    world.publish(at_version(&honest, 1 << 62, &world.keys.targets), now());
    assert_eq!(device.refresh(&world.shelf, now()).await.unwrap().targets_version(), 1 << 62);
    // New targets keys only: the snapshot that the device keeps still names the run-away version.
    let targets_key = KeyPair::generate().unwrap();
    let online = new_online();
    let roles = Roles {
        targets: Authority::of(targets_key.public()),
        snapshot: Authority::of(online.snapshot.public()),
        timestamp: Authority::of(online.timestamp.public()),
        ..world.roles()
    };
    let old_root = world.root.bytes.clone();
    let root_key = std::mem::replace(&mut world.keys.root, KeyPair::generate().unwrap());
    world.rotate(&roles, &[&root_key]);
    world.keys.online = online;
    let renewed = sign::renew_targets(&world.root.bytes, &old_root, &honest.bytes, &[&targets_key], now()).unwrap();
    world.publish(renewed, now());
    let trusted = device.refresh(&world.shelf, now()).await.unwrap();
    assert!(trusted.targets_version() < sign::VERSION_PLAUSIBLE_MAX);
    assert_eq!(trusted.latest_version(&digits()), Some(version(1)));
}

/// Publishes a new root, and its metadata, in the middle of a refresh.
struct Midway {
    before: std::sync::Arc<support::Shelf>,
    after: std::sync::Arc<support::Shelf>,
    asked: Mutex<Vec<String>>,
}

#[async_trait]
impl MetadataSource for Midway {
    async fn fetch(&self, name: &str, bytes_max: u64) -> Result<Option<Bytes>, SourceError> {
        let is_first = {
            let mut asked = self.asked.lock().unwrap();
            asked.push(name.to_owned());
            asked.len() == 1
        };
        if is_first { self.before.fetch(name, bytes_max).await } else { self.after.fetch(name, bytes_max).await }
    }
}

#[tokio::test]
async fn a_root_that_is_published_during_a_refresh_is_followed() {
    let mut world = World::new();
    let device = world.device();
    device.refresh(&world.shelf, now()).await.unwrap();
    let before = World::new();
    let online = new_online();
    let roles = Roles {
        snapshot: Authority::of(online.snapshot.public()),
        timestamp: Authority::of(online.timestamp.public()),
        ..world.roles()
    };
    rotate(&mut world, &roles, online);
    // The first request, for the next root, gets the response from before the change.
    let midway = Midway { before: before.shelf, after: world.shelf.clone(), asked: Mutex::default() };
    let trusted = device.trust.refresh(std::sync::Arc::new(midway), now()).await.unwrap();
    assert_eq!(trusted.root_version(), 2);
}

#[tokio::test]
async fn a_device_that_slept_through_expired_roots_follows_them() {
    let mut world = World::new();
    let device = world.device();
    device.refresh(&world.shelf, now()).await.unwrap();
    let (roles, root_key) = (world.roles(), std::mem::replace(&mut world.keys.root, KeyPair::generate().unwrap()));
    for year in 1..=3 {
        // Renewed long after it had expired, each time.
        let at = later(year * 500);
        world.root = sign::next_root(&world.root.bytes, &roles, &[&root_key], at).unwrap();
        world.shelf.publish(&world.root);
    }
    let at = later(1501);
    let signers = [&world.keys.targets];
    let targets =
        sign::renew_targets(&world.root.bytes, &world.root.bytes, &world.targets.bytes, &signers, at).unwrap();
    world.publish(targets, at);
    let trusted = device.refresh(&world.shelf, at).await.unwrap();
    assert_eq!(trusted.root_version(), 4);
    assert_eq!(trusted.expiries().first().0, "timestamp");
}

#[tokio::test]
async fn what_has_expired_is_still_listed_for_the_hub_and_what_is_forged_is_not() {
    let mut world = World::new();
    world.add("digits/1/manifest.json", b"one", now());
    let set = |world: &World| {
        inspect_set(&world.root.bytes, &world.timestamp.bytes, &world.snapshot.bytes, &world.targets.bytes)
    };
    assert_eq!(set(&world).unwrap().latest_version(&digits()), Some(version(1)));
    world.timestamp = at_version(&world.timestamp, 9, &KeyPair::generate().unwrap());
    assert!(matches!(set(&world), Err(TrustError::Signatures { .. })));
}

#[tokio::test]
async fn the_highest_root_version_is_the_end_and_says_so() {
    let world = World::new();
    let last = edited(&world.root, &world.keys.root, |signed| signed["version"] = (1u64 << 53).into());
    assert_eq!(bundle::trust::inspect_root(&last.bytes).unwrap(), 1 << 53);
    let refused = sign::next_root(&last.bytes, &world.roles(), &[&world.keys.root], now()).unwrap_err();
    assert!(matches!(refused, sign::SignError::VersionsExhausted("root")), "{refused}");
    let beyond = edited(&world.root, &world.keys.root, |signed| signed["version"] = ((1u64 << 53) + 1).into());
    assert!(matches!(bundle::trust::inspect_root(&beyond.bytes), Err(TrustError::BadRoot(_))));
    // No client can reach it: each root is the next one, and one refresh accepts a limited number.
    world.shelf.publish(&last);
    assert_eq!(world.device().refresh(&world.shelf, now()).await.unwrap().root_version(), 1);
}
