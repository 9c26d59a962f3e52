//! Tests that a replay reads what the agent records.

use std::time::Instant;

use edge_core::policy::{Left, Surroundings};
use edge_core::route::{LocalState, RequestInfo};
use types::policy::{Offline, RequestRules};
use types::{PolicyMode, Reason};

use super::*;
use crate::records::v1::LogRecord;

#[test]
fn failures_read_back_under_the_names_of_the_records() {
    for why in [
        LocalFailure::NoModel,
        LocalFailure::Busy,
        LocalFailure::Failed,
        LocalFailure::Crashed,
        LocalFailure::Quarantined,
        LocalFailure::TooLate,
        LocalFailure::BadInput,
        LocalFailure::Refused,
    ] {
        assert_eq!(replay::local_failure(local_failure(why)), why);
    }
    let of_hub = [
        HubFailure::Unreachable,
        HubFailure::TooLate,
        HubFailure::Busy,
        HubFailure::UnknownModel,
        HubFailure::BadInput,
        HubFailure::NotAuthorised,
        HubFailure::Failed,
        HubFailure::Forbidden,
        HubFailure::PredictedLate,
        HubFailure::Withheld(Reason::CallsSpent),
        HubFailure::Withheld(Reason::MeteredLink),
    ];
    for why in of_hub {
        assert_eq!(replay::hub_failure(hub_failure(why)), why);
    }
}

#[test]
fn a_replay_reads_every_field_that_is_recorded() {
    let info = RequestInfo {
        policy: Policy::from(PolicyMode::Hedge),
        deadline: None,
        local: LocalState::NoModel,
        input_bytes: 100,
    };
    let times =
        Quantiles { fast: Duration::from_micros(1), typical: Duration::from_micros(2), slow: Duration::from_micros(3) };
    let snapshot = Snapshot {
        device_times: Some(times),
        device_queue: 4,
        hub_times: Some(times),
        hub_queue: Some(Duration::from_micros(5)),
        surroundings: Surroundings { is_metered: true, battery_percent: Some(40), second_of_day: 0 },
        left: Left { bytes: Some(1), calls: Some(2), escalations: Some(3) },
        is_drifted: true,
        is_downloading: true,
        ..Snapshot::of(info, HubState::Away)
    };
    let rules = RequestRules {
        hedge_after: Some(Duration::from_millis(1)),
        privacy: Some(PrivacyClass::Personal),
        consent: Some(true),
        tags: vec!["a".to_owned()],
        offline: Some(Offline::Fail),
        ..RequestRules::default()
    };
    let layer = PolicyLayer::of_mode(PolicyMode::PreferHub);
    let note = RequestNote {
        request: "r-1".parse().unwrap(),
        model: "m".parse().unwrap(),
        version: None,
        input: Content { bytes: 100, tensors: Vec::new() },
        policy: info.policy,
        deadline: None,
        link: HubState::Away,
        form: None,
        expected: None,
        device: None,
        hub: None,
        hub_bytes: 0,
        end: End::Failed(Failure { code: types::ErrorCode::HubUnreachable, device: None, hub: None }),
        total: Duration::from_millis(1),
        moment: Moment {
            snapshot,
            asked: Asked { mode: Some(PolicyMode::Hedge), has_deadline: true, rules },
            author: Some(layer.clone()),
            owner: layer.clone(),
            consent: true,
            device_only: true,
            metered: Some(true),
        },
    };
    let event = Note::Request(Box::new(note)).into_event(1_800_000_000_000, None);
    let record = LogRecord { at_unix_ms: 1_800_000_000_000, missing: 0, event };
    let json = serde_json::to_vec(&record).unwrap();
    // Every field of the moment has a value that a default would not have.
    let value: serde_json::Value = serde_json::from_slice(&json).unwrap();
    let moment = value["event"]["request"]["moment"].as_object().unwrap();
    assert_eq!(moment.len(), 15, "a field that a replay may need is not recorded: {moment:?}");
    assert_eq!(moment["asked"].as_object().unwrap().len(), 7, "{moment:?}");
    let entry = replay::read(&json).unwrap();
    let debug = format!("{entry:?}");
    for read in [
        r#"mode: Some("hedge"), deadline: true, hedge_us: Some(1000), privacy: Some("personal"), consent: Some(true)"#,
        r#"tags: ["a"], offline: Some("fail")"#,
        r#"consent: true, device_only: true, metered: Some(true), battery: Some(40)"#,
        "device_us: Some([1, 2, 3]), device_queue: 4, hub_us: Some([1, 2, 3]), hub_queue_us: Some(5)",
        "left: Left { bytes: Some(1), calls: Some(2), escalations: Some(3) }, drifted: true, downloading: true",
    ] {
        assert!(debug.contains(read), "{read} is not in {debug}");
    }
    let new = replay::NewPolicy { layer, replaces: replay::Replaces::Owner, consent: None, device_only: None };
    let mut samples = replay::Samples::default();
    samples.add(&entry);
    let mut replayed = replay::Replay::new("m".parse().unwrap(), new, &mut samples, Instant::now());
    replayed.add(&entry);
    assert_eq!(replayed.finish().lacking, replay::Lacking::default());
}
