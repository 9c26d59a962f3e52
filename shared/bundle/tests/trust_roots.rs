//! Tests of roots and keys on a device: each key counts once, and the chain of roots is followed.

#![expect(clippy::unwrap_used, clippy::panic, reason = "the helpers of a test stop it as its own lines do")]

mod support;

use bundle::trust::{Trust, TrustError};
use model_tools::sign::{self, Authority, KeyPair, Roles, SignError, Signed};
use support::{World, digits, now, rollback_of, version};

#[tokio::test]
async fn two_of_three_needs_two_different_keys() {
    let mut world = World::new();
    let keys: Vec<KeyPair> = (0..3).map(|_| KeyPair::generate().unwrap()).collect();
    let trio = Authority { keys: keys.iter().map(KeyPair::public).collect(), threshold: 2 };
    let roles = Roles { targets: trio, ..world.roles() };
    let root = sign::first_root(&roles, &[&world.keys.root], now()).unwrap();
    world.root = root;
    world.shelf.publish(&world.root);

    let alone = sign::first_targets(&world.root.bytes, &[&keys[0], &keys[0]], now()).unwrap_err();
    assert!(matches!(alone, SignError::NotEnoughSigners { given: 1, needed: 2, .. }));
    let targets = sign::first_targets(&world.root.bytes, &[&keys[0], &keys[2]], now()).unwrap();
    let good = sign::snapshot_and_timestamp(&world.root.bytes, None, &targets.bytes, &world.keys.online, now());
    let good = good.unwrap();

    // One signature twice, pinned by a stolen hub's own snapshot.
    let mut value: serde_json::Value = serde_json::from_slice(&targets.bytes).unwrap();
    value["signatures"][1] = value["signatures"][0].clone();
    let twice = serde_json::to_vec(&value).unwrap();
    let device = world.device();
    assert!(matches!(bundle::trust::inspect_targets(&world.root.bytes, &twice), Err(TrustError::Signatures { .. })));
    assert!(
        sign::snapshot_and_timestamp(&world.root.bytes, None, &twice, &world.keys.online, now()).is_err(),
        "an honest hub does not publish it"
    );
    world.shelf.put("1.targets.json", &twice);
    world.shelf.publish(&good.0);
    world.shelf.publish(&good.1);
    assert!(device.refresh(&world.shelf, now()).await.is_err());
    world.shelf.publish(&targets);
    device.refresh(&world.shelf, now()).await.unwrap();
}

/// Signs a root by hand, without the checks of the signer.
fn sign_root_by_hand(signed: &serde_json::Value, signers: &[(&str, &KeyPair)]) -> Vec<u8> {
    let covered = sigstore_tuf::canonical_json::to_canonical_bytes(signed).unwrap();
    let signatures: Vec<_> = signers
        .iter()
        .map(|(id, key)| serde_json::json!({"keyid": id, "sig": hex::encode(key.sign(&covered).unwrap())}))
        .collect();
    serde_json::to_vec(&serde_json::json!({"signed": signed, "signatures": signatures})).unwrap()
}

#[tokio::test]
async fn one_key_under_two_ids_counts_once() {
    let world = World::new();
    let twice = Authority { keys: vec![world.keys.root.public(); 2], threshold: 2 };
    let refused = sign::first_root(&Roles { root: twice, ..world.roles() }, &[&world.keys.root], now());
    assert!(matches!(refused, Err(SignError::DuplicateKey { role: "root", .. })));

    let mut value: serde_json::Value = serde_json::from_slice(&world.root.bytes).unwrap();
    let mut signed = value["signed"].take();
    let id = world.keys.root.public().key_id().unwrap();
    signed["keys"]["other"] = signed["keys"][&id].clone();
    signed["roles"]["root"] = serde_json::json!({"keyids": [id, "other"], "threshold": 2});
    let forged = sign_root_by_hand(&signed, &[(&id, &world.keys.root), ("other", &world.keys.root)]);
    let folder = tempfile::tempdir().unwrap();
    let refused = Trust::open(folder.path(), &forged).unwrap_err();
    assert!(refused.to_string().contains("under two ids"), "{refused}");

    // The same as a later root, received from the hub.
    signed["version"] = 2.into();
    let forged = sign_root_by_hand(&signed, &[(&id, &world.keys.root), ("other", &world.keys.root)]);
    world.shelf.put("2.root.json", &forged);
    let device = world.device();
    assert!(matches!(device.refresh(&world.shelf, now()).await, Err(TrustError::BadRoot(_))));
    assert_eq!(device.trust.root_version(), 1);

    // A threshold that one key cannot reach by other spellings of itself.
    for spelling in [world.keys.root.public().to_string().to_uppercase(), format!(" {}", world.keys.root.public())] {
        signed["keys"]["other"]["keyval"]["public"] = spelling.into();
        let forged = sign_root_by_hand(&signed, &[(&id, &world.keys.root), ("other", &world.keys.root)]);
        world.shelf.put("2.root.json", &forged);
        assert!(matches!(device.refresh(&world.shelf, now()).await, Err(TrustError::BadRoot(_))));
    }
}

#[tokio::test]
async fn a_device_that_slept_through_forty_roots_follows_them() {
    let mut world = World::new();
    let mut device = world.device();
    device.refresh(&world.shelf, now()).await.unwrap();
    let mut current = KeyPair::generate().unwrap();
    let roles = Roles { root: Authority::of(current.public()), ..world.roles() };
    let first = sign::next_root(&world.root.bytes, &roles, &[&world.keys.root, &current], now()).unwrap();
    world.root = first;
    world.shelf.publish(&world.root);
    for _ in 0..40 {
        let next = KeyPair::generate().unwrap();
        let roles = Roles { root: Authority::of(next.public()), ..world.roles() };
        world.rotate(&roles, &[&current, &next]);
        current = next;
    }
    world.add("digits/1/manifest.json", b"one", now());
    assert_eq!(device.refresh(&world.shelf, now()).await.unwrap().root_version(), 42);
    device.reopen();
    assert_eq!(device.trust.root_version(), 42);
    assert_eq!(device.trust.current().unwrap().latest_version(&digits()), Some(version(1)));
    // A root that skips a version is not a successor.
    let skipped = Signed { version: 43, ..world.root.clone() };
    world.shelf.publish(&skipped);
    assert!(device.refresh(&world.shelf, now()).await.unwrap_err().is_refusal());
}

#[tokio::test]
async fn a_root_is_kept_though_the_rest_of_the_refresh_failed() {
    let mut world = World::new();
    let mut device = world.device();
    device.refresh(&world.shelf, now()).await.unwrap();
    // The timestamp key was stolen: the new root removes it.
    let fresh = KeyPair::generate().unwrap();
    let roles = Roles { timestamp: Authority::of(fresh.public()), ..world.roles() };
    let root_key = std::mem::replace(&mut world.keys.root, KeyPair::generate().unwrap());
    world.rotate(&roles, &[&root_key]);
    assert!(matches!(device.refresh(&world.shelf, now()).await, Err(TrustError::Signatures { .. })));
    assert_eq!(device.trust.root_version(), 2);
    assert!(device.trust.current().is_none(), "the new root disowns what the old key vouched for");
    // The thief withholds the new root again; the device does not go back.
    world.shelf.take("2.root.json");
    device.reopen();
    assert_eq!(device.trust.root_version(), 2);
    assert!(device.refresh(&world.shelf, now()).await.is_err());
    world.keys.online.timestamp = fresh;
    world.beat(now());
    device.refresh(&world.shelf, now()).await.unwrap();
}

#[tokio::test]
async fn a_numbering_that_a_thief_ran_away_with_begins_anew_under_new_keys() {
    let mut world = World::new();
    world.add("digits/1/manifest.json", b"one", now());
    let device = world.device();
    let honest = (world.snapshot.clone(), world.timestamp.clone());
    for _ in 0..5 {
        world.beat(now());
    }
    device.refresh(&world.shelf, now()).await.unwrap();
    (world.snapshot, world.timestamp) = honest;
    world.beat(now());
    assert_eq!(rollback_of(&device.refresh(&world.shelf, now()).await.unwrap_err()), "timestamp");
    let online = sign::OnlineKeys { snapshot: KeyPair::generate().unwrap(), timestamp: KeyPair::generate().unwrap() };
    let roles = Roles {
        snapshot: Authority::of(online.snapshot.public()),
        timestamp: Authority::of(online.timestamp.public()),
        ..world.roles()
    };
    let root = sign::next_root(&world.root.bytes, &roles, &[&world.keys.root], now()).unwrap();
    world.root = root;
    world.shelf.publish(&world.root);
    world.keys.online = online;
    let first = sign::snapshot_and_timestamp(&world.root.bytes, None, &world.targets.bytes, &world.keys.online, now());
    let (snapshot, timestamp) = first.unwrap();
    world.shelf.publish(&snapshot);
    world.shelf.publish(&timestamp);
    assert_eq!(device.refresh(&world.shelf, now()).await.unwrap().timestamp_version(), 1);
}

#[tokio::test]
async fn a_list_that_somebody_forged_is_not_signed_again() {
    let mut world = World::new();
    world.add("digits/1/manifest.json", b"one", now());
    let (root, signers) = (&world.root.bytes, [&world.keys.targets]);
    let mut value: serde_json::Value = serde_json::from_slice(&world.targets.bytes).unwrap();
    value["signed"]["targets"]["digits/9/manifest.json"] = value["signed"]["targets"]["digits/1/manifest.json"].clone();
    let forged = serde_json::to_vec(&value).unwrap();
    let refused = sign::add_target(root, &forged, "digits/2/manifest.json", b"two", &signers, now());
    assert!(matches!(refused, Err(SignError::Refused { role: "targets", .. })));

    let old = &world.targets.bytes;
    let same = sign::add_target(root, old, "digits/1/manifest.json", b"one", &signers, now());
    assert!(matches!(same, Err(SignError::AlreadySigned { same: true, .. })));
    let other = sign::add_target(root, old, "digits/1/manifest.json", b"two", &signers, now());
    assert!(matches!(other, Err(SignError::AlreadySigned { same: false, .. })));
    let stranger = sign::add_target(root, old, "digits/2/manifest.json", b"two", &[&world.keys.root], now());
    assert!(matches!(stranger, Err(SignError::NotEnoughSigners { .. })));
}

#[tokio::test]
async fn more_roots_than_are_taken_at_once_are_followed_by_the_next_refresh() {
    let mut world = World::new();
    let device = world.device();
    let (roles, root_key) = (world.roles(), std::mem::replace(&mut world.keys.root, KeyPair::generate().unwrap()));
    for _ in 0..=bundle::trust::ROOT_ROTATIONS_MAX {
        world.rotate(&roles, &[&root_key]);
    }
    let first = device.refresh(&world.shelf, now()).await.unwrap_err();
    assert!(matches!(first, TrustError::ManyRoots), "{first:?}");
    assert!(!first.is_refusal());
    let trusted = device.refresh(&world.shelf, now()).await.unwrap();
    assert_eq!(trusted.root_version(), world.root.version);
}
