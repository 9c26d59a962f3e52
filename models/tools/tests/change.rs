//! A change of trust travels from holder to holder, and only the holders' keys make it whole.

#![expect(clippy::unwrap_used, reason = "the helpers of a test stop it as its own lines do")]

use jiff::Timestamp;
use model_tools::sign::{self, Authority, Change, InitialKeys, KeyPair, Repository, Role, Roles, SignError};

fn now() -> Timestamp {
    "2026-11-01T12:00:00Z".parse().unwrap()
}

fn begun() -> (InitialKeys, Repository) {
    let keys = InitialKeys::generate().unwrap();
    let repository = sign::init_repository(&keys, now()).unwrap();
    (keys, repository)
}

/// Returns what a holder gets: the text of the file, read on another machine.
fn travelled(change: &Change) -> Change {
    Change::read(change.to_text().unwrap().as_bytes()).unwrap()
}

#[test]
fn each_holder_adds_a_signature_and_the_last_makes_it_whole() {
    let (keys, old) = begun();
    let (alice, bob) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let mut roles = Roles::read(&old.root.bytes).unwrap();
    roles.targets = Authority { keys: vec![keys.targets.public(), alice.public(), bob.public()], threshold: 2 };
    let mut change = Change::of_roles(&old.root.bytes, &old.targets.bytes, &roles, false, now()).unwrap();
    assert_eq!(change.sign(&keys.root).unwrap(), [Role::Root]);
    let summary = change.summary().unwrap().join("\n");
    assert!(summary.contains(&alice.public().to_string()) && summary.contains("threshold 2 instead of 1"), "{summary}");

    let mut at_alice = travelled(&change);
    assert_eq!(at_alice.sign(&alice).unwrap(), [Role::Targets]);
    assert_eq!(at_alice.sign(&alice).unwrap(), [Role::Targets], "twice is once");
    let missing = at_alice.missing().unwrap();
    assert_eq!((missing.len(), missing[0].given, missing[0].needed), (1, 1, 2));

    // Bob signed his copy at the same time.
    let mut at_bob = travelled(&change);
    at_bob.sign(&bob).unwrap();
    at_alice.merge(&at_bob).unwrap();
    assert_eq!(at_alice.missing().unwrap(), []);
    at_alice.check().unwrap();
    let stranger = KeyPair::generate().unwrap();
    assert_eq!(travelled(&at_alice).sign(&stranger).unwrap(), []);
}

#[test]
fn a_forged_or_changed_file_is_found() {
    let (keys, old) = begun();
    let mut change = Change::of_targets(&old.root.bytes, &old.targets.bytes, now()).unwrap();
    change.sign(&keys.targets).unwrap();
    let text = change.to_text().unwrap();
    // A signature that is not over this content does not count.
    let version = change.targets.as_ref().unwrap().version;
    let forged = text.replace(&format!("version\\\":{version}"), &format!("version\\\":{}", version + 7));
    assert_ne!(forged, text);
    let read = Change::read(forged.as_bytes()).unwrap();
    assert_eq!(read.missing().unwrap().len(), 1);
    // Another list under the same name is another change.
    let (_, other) = begun();
    let other = Change::of_targets(&other.root.bytes, &other.targets.bytes, now()).unwrap();
    assert!(matches!(change.merge(&other), Err(SignError::OtherContent(_))));
    for broken in ["", "{}", "[]", &text[..text.len() / 2], &text.replace("change-1", "change-9")] {
        assert!(matches!(Change::read(broken.as_bytes()), Err(SignError::NotAChange(_))), "{broken:.40}");
    }
    // What is in force must itself be signed.
    let (_, foreign) = begun();
    let mixed = Change { previous_targets: foreign.targets.bytes, ..change };
    assert!(matches!(Change::read(mixed.to_text().unwrap().as_bytes()), Err(SignError::Refused { .. })));
}

#[test]
fn an_expired_root_is_renewed_and_its_successor_needs_the_old_keys() {
    let (keys, old) = begun();
    let later = now() + jiff::SignedDuration::from_hours(3 * 365 * 24);
    let roles = Roles::read(&old.root.bytes).unwrap();
    let mut change = Change::of_roles(&old.root.bytes, &old.targets.bytes, &roles, true, later).unwrap();
    change.sign(&KeyPair::generate().unwrap()).unwrap();
    assert_eq!(change.missing().unwrap().len(), 2);
    change.sign(&keys.root).unwrap();
    change.sign(&keys.targets).unwrap();
    change.check().unwrap();
    let root = change.root.unwrap().to_signed().unwrap();
    assert!(root.version == 2 && root.expires > later);
}

#[test]
fn run_away_numbers_begin_anew_under_other_keys_and_only_then() {
    let (keys, old) = begun();
    let roles = Roles::read(&old.root.bytes).unwrap();
    // A list far ahead, as a thief of the targets key signs it.
    let mut value: serde_json::Value = serde_json::from_slice(&old.targets.bytes).unwrap();
    value["signed"]["version"] = (1u64 << 62).into();
    let mut draft = sign::Draft::read(Role::Targets, &serde_json::to_vec(&value).unwrap()).unwrap();
    draft.sign(&keys.targets).unwrap();
    let far = draft.to_signed().unwrap().bytes;
    let same = Change::of_targets(&old.root.bytes, &far, now()).unwrap();
    assert_eq!(same.targets.unwrap().version, (1 << 62) + 1);
    let fresh = KeyPair::generate().unwrap();
    let rotated = Roles { targets: Authority::of(fresh.public()), ..roles };
    let change = Change::of_roles(&old.root.bytes, &far, &rotated, false, now()).unwrap();
    assert_eq!(change.targets.unwrap().version, 1);
}
