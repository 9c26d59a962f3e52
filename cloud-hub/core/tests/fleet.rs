//! Promises of the fleet's bookkeeping.
#![expect(clippy::unwrap_used, reason = "a test ends at its first surprise")]

use hub_core::fleet::{
    ConnectionId, Device, Fleet, Follows, Greeting, Installed, Machine, Offer, Outcome, Presence, Replaced, Report,
    Spread,
};
use types::update::Stage;
use types::{DeviceId, Digest, ModelName, Version};

fn id(name: &str) -> DeviceId {
    name.parse().unwrap()
}

fn digits() -> ModelName {
    "digits".parse().unwrap()
}

fn version(number: u64) -> Version {
    Version::new(number).unwrap()
}

fn installed(number: u64) -> Installed {
    Installed { version: version(number), variant: "int8".parse().unwrap(), digest: Digest::of(&[]) }
}

fn greeting(active: Option<u64>) -> Greeting {
    let follows = Follows { model: digits(), active: active.map(installed), previous: None };
    Greeting { agent_version: "0.1.0".into(), machine: Machine::default(), models: vec![follows] }
}

fn report(number: u64, stage: Stage, outcome: Outcome) -> Report {
    let serves = (outcome == Outcome::Active(())).then(|| installed(number));
    Report { model: digits(), version: version(number), variant: None, stage, outcome, installed: serves }
}

fn offer(number: u64) -> Offer {
    Offer { model: digits(), version: version(number) }
}

const FIRST: ConnectionId = ConnectionId(1);
const SECOND: ConnectionId = ConnectionId(2);

#[test]
fn a_device_is_offered_what_is_above_its_own_at_its_greeting() {
    let mut fleet = Fleet::default();
    let a = id("a");
    fleet.connected(&a, FIRST, 10);
    let mut greet =
        |active, current: Option<u64>| fleet.greeted(&a, FIRST, greeting(active), |_| current.map(version)).unwrap();
    assert_eq!(greet(None, Some(1)), [offer(1)]);
    assert_eq!(greet(Some(1), Some(2)), [offer(2)]);
    assert_eq!(greet(Some(2), Some(2)), []);
    assert_eq!(greet(Some(3), Some(2)), [], "never back");
    assert_eq!(greet(None, None), []);
}

#[test]
fn a_published_version_is_told_to_followers_that_are_online() {
    let mut fleet = Fleet::default();
    for (number, name) in [(1, "a"), (2, "b"), (3, "c")] {
        fleet.connected(&id(name), ConnectionId(number), 10);
    }
    fleet.greeted(&id("a"), ConnectionId(1), greeting(Some(1)), |_| None).unwrap();
    fleet.greeted(&id("b"), ConnectionId(2), greeting(Some(1)), |_| None).unwrap();
    fleet.greeted(&id("c"), ConnectionId(3), Greeting { models: vec![], ..greeting(None) }, |_| None).unwrap();
    fleet.disconnected(&id("b"), ConnectionId(2), 20);
    let told = fleet.publish(&digits(), version(2));
    assert_eq!(told.len(), 1, "b is away, c does not follow digits");
    assert_eq!((&told[0].device, told[0].connection, &told[0].offer), (&id("a"), ConnectionId(1), &offer(2)));
}

#[test]
fn a_version_that_was_given_up_is_not_offered_again_before_an_operator_says_so() {
    let mut fleet = Fleet::default();
    let a = id("a");
    fleet.connected(&a, FIRST, 10);
    fleet.greeted(&a, FIRST, greeting(Some(1)), |_| None).unwrap();
    let refused = Outcome::Rejected("x".repeat(5000));
    fleet.reported(&a, FIRST, report(2, Stage::Verifying, refused), 11).unwrap();
    assert_eq!(fleet.publish(&digits(), version(2)), []);
    assert_eq!(fleet.greeted(&a, FIRST, greeting(Some(1)), |_| Some(version(2))), Ok(vec![]));
    assert_eq!(fleet.publish(&digits(), version(3)).len(), 1, "a higher one is");
    assert_eq!(fleet.spread(&digits(), version(2)), Spread { followers: 1, rejected: 1, ..Spread::default() });
    assert_eq!(fleet.retry(&digits(), version(2)).len(), 1);
    assert_eq!(fleet.greeted(&a, FIRST, greeting(Some(1)), |_| Some(version(2))), Ok(vec![offer(2)]));
}

#[test]
fn reports_that_come_twice_or_late_do_no_harm() {
    let mut fleet = Fleet::default();
    let a = id("a");
    fleet.connected(&a, FIRST, 10);
    fleet.greeted(&a, FIRST, greeting(Some(1)), |_| None).unwrap();
    for number in [2, 3, 3, 2] {
        fleet.reported(&a, FIRST, report(number, Stage::Active, Outcome::Active(())), 11).unwrap();
    }
    let model = fleet.device(&a).and_then(|device| device.model(&digits())).unwrap();
    assert_eq!((model.active.clone(), model.previous.clone()), (Some(installed(3)), Some(installed(2))));
    assert_eq!(fleet.spread(&digits(), version(3)), Spread { followers: 1, active: 1, ..Spread::default() });
}

#[test]
fn reports_on_what_is_not_followed_and_endless_versions_take_no_memory() {
    let mut fleet = Fleet::default();
    let a = id("a");
    fleet.connected(&a, FIRST, 10);
    fleet.greeted(&a, FIRST, greeting(None), |_| None).unwrap();
    for number in 1..1000 {
        let mut report = report(number, Stage::Offered, Outcome::Started);
        fleet.reported(&a, FIRST, report.clone(), 11).unwrap();
        report.model = format!("model-{number}").parse().unwrap();
        fleet.reported(&a, FIRST, report, 11).unwrap();
    }
    let device = fleet.device(&a).unwrap();
    assert_eq!(device.models().count(), 1);
    assert_eq!(device.model(&digits()).unwrap().history().count(), 16);
}

#[test]
fn whoever_fetched_a_version_may_have_it_until_it_says_that_it_gave_it_up() {
    let mut fleet = Fleet::default();
    let (a, b) = (id("a"), id("b"));
    for (device, active) in [(&a, Some(1)), (&b, None)] {
        fleet.connected(device, FIRST, 10);
        fleet.greeted(device, FIRST, greeting(active), |_| None).unwrap();
    }
    assert_eq!(fleet.holders(&digits(), version(1)), std::slice::from_ref(&a));
    assert_eq!(fleet.holders(&digits(), version(2)), []);
    fleet.takes(&b, FIRST, &digits(), version(2), 11).unwrap();
    assert_eq!(fleet.holders(&digits(), version(2)), std::slice::from_ref(&b));
    let cause = "no".to_owned();
    fleet.reported(&b, FIRST, report(2, Stage::Loading, Outcome::Retrying(cause.clone())), 12).unwrap();
    assert_eq!(fleet.holders(&digits(), version(2)), std::slice::from_ref(&b), "it will try again");
    fleet.reported(&b, FIRST, report(2, Stage::Loading, Outcome::Rejected(cause)), 13).unwrap();
    assert_eq!(fleet.holders(&digits(), version(2)), []);
    fleet.takes(&b, FIRST, &digits(), version(2), 14).unwrap();
    assert_eq!(fleet.holders(&digits(), version(2)), std::slice::from_ref(&b), "a second try counts again");
    assert_eq!(fleet.withdrawn(&digits(), version(2)), [b]);
    assert_eq!(fleet.takes(&a, SECOND, &digits(), version(2), 15), Err(Replaced(a)));
}

#[test]
fn a_device_has_one_connection_and_the_newest_is_it() {
    let mut fleet = Fleet::default();
    let a = id("a");
    assert_eq!(fleet.connected(&a, FIRST, 10), None);
    assert_eq!(fleet.connected(&a, SECOND, 11), Some(FIRST));
    assert_eq!(fleet.greeted(&a, FIRST, greeting(None), |_| None), Err(Replaced(a.clone())));
    fleet.disconnected(&a, FIRST, 12);
    assert_eq!(fleet.connection(&a), Some(SECOND), "the end of the old one is not the end of the new one");
    assert_eq!(fleet.revoked(&a, 13), Some(SECOND));
    assert_eq!(fleet.revoked(&a, 14), None);
    assert_eq!(fleet.device(&a).map(|device| device.presence), Some(Presence::Away { since_unix_s: 13 }));
    assert_eq!(fleet.online(), 0);
}

#[test]
fn what_was_stored_comes_back() {
    let mut fleet = Fleet::default();
    let a = id("a");
    fleet.connected(&a, FIRST, 10);
    fleet.greeted(&a, FIRST, greeting(Some(1)), |_| None).unwrap();
    let stored: Device = fleet.device(&a).unwrap().clone();
    let mut restarted = Fleet::default();
    restarted.restore(a.clone(), stored.clone());
    assert_eq!(restarted.device(&a), Some(&stored));
    assert_eq!(restarted.connection(&a), None, "a record is not a connection");
}
