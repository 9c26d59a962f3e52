//! Promises of a replay over made-up logs: nothing changes under the same policy, and no policy is violated in any state.

use std::time::Instant;

use proptest::prelude::*;
use serde_json::{Value, json};
use types::policy::{BudgetLimits, HubConditions, PolicyLayer, PrivacyClass};
use types::{PolicyMode, Reason};

use crate::{Entry, NewPolicy, Replaces, Replay, Report, Samples, read};

const NOON_MS: u64 = 1_800_000_000_000;

fn owner(layer: PolicyLayer) -> NewPolicy {
    NewPolicy { layer, replaces: Replaces::Owner, consent: None, device_only: None }
}

fn mode(mode: PolicyMode) -> PolicyLayer {
    PolicyLayer::of_mode(mode)
}

fn replayed(log: &[Value], new: NewPolicy) -> Report {
    let entries: Vec<Entry> = log.iter().map(|record| read(record.to_string().as_bytes()).unwrap()).collect();
    let mut samples = Samples::default();
    entries.iter().for_each(|entry| samples.add(entry));
    let mut replay = Replay::new("m".parse().unwrap(), new, &mut samples, Instant::now());
    entries.iter().for_each(|entry| replay.add(entry));
    replay.finish()
}

/// Returns a request that was decided in the mode `cascade`, with a score and a threshold of 0.8.
fn cascaded(number: u64, score: f64) -> Value {
    let is_kept = score >= 0.8;
    let (place, reason) = if is_kept { ("device", "confident") } else { ("hub", "low-confidence") };
    let mut request = json!({
        "request": format!("r-{number}"), "model": "m", "input": {"bytes": 100},
        "policy": {"mode": "cascade", "class": "public"},
        "link_us": 500, "form": {"digest": "d"},
        "calibration": {"state": "certified", "threshold": 0.8, "alpha": 0.02, "confidence": 0.95},
        "device": {"outcome": "answered", "score": score, "differs": (1.0 - score) / 2.0, "took_us": 1000},
        "end": {"answered": {"place": place, "reason": reason}}, "total_us": 1100,
        "moment": {"owner": {"mode": "cascade"}, "metered": false, "local_s": 43_200},
    });
    if !is_kept {
        request["hub"] =
            json!({"reason": "low-confidence", "outcome": "answered", "wait_us": 30_000_000, "took_us": 9000});
        request["hub_bytes"] = 100.into();
        request["total_us"] = 10_100.into();
    }
    json!({"at_unix_ms": NOON_MS + number * 1000, "event": {"request": request}})
}

/// Returns 100 requests with scores from 0 to 0.99, one a second: 80 are deferred.
fn log() -> Vec<Value> {
    (0..100).map(|number| cascaded(number, number as f64 / 100.0)).collect()
}

#[test]
fn the_same_policy_changes_nothing_and_the_figures_are_the_recorded_ones() {
    let report = replayed(&log(), owner(mode(PolicyMode::Cascade)));
    assert_eq!((report.requests, report.reproduced, report.changed, report.open), (100, 100, 0, 0));
    assert_eq!(report.recorded, report.new);
    assert!(report.changes.is_empty());
    let figures = report.new;
    assert_eq!(
        (figures.device, figures.hub, figures.sent, figures.deferred, figures.hub_bytes),
        (20, 80, 80, 80, 8000)
    );
    assert_eq!(figures.p95_us, Some(10_100));
    let expected = (80..100).map(|score| (1.0 - f64::from(score) / 100.0) / 2.0).sum::<f64>() / 100.0;
    assert!((figures.wrong.expected_share.unwrap() - expected).abs() < 1e-6, "{:?}", figures.wrong);
    let bound = figures.wrong.bound.unwrap();
    assert_eq!((bound.alpha, bound.confidence, figures.wrong.uncovered), (0.02, 0.95, 0));
}

#[test]
fn keeping_all_answers_sends_nothing_and_shows_what_is_wrong_then() {
    for layer in [
        mode(PolicyMode::OnlyDevice),
        mode(PolicyMode::PreferDevice),
        PolicyLayer { privacy: Some(PrivacyClass::NeverLeaves), ..mode(PolicyMode::Cascade) },
        PolicyLayer { privacy: Some(PrivacyClass::Personal), ..mode(PolicyMode::Cascade) },
    ] {
        let report = replayed(&log(), owner(layer.clone()));
        let figures = &report.new;
        assert_eq!(
            (figures.device, figures.sent, figures.hub_bytes, figures.share_deferred),
            (100, 0, 0, 0.0),
            "{layer:?}"
        );
        assert_eq!((report.changed, figures.wrong.bound), (80, None), "{layer:?}");
        assert_eq!(figures.wrong.uncovered, 80, "answers below the threshold have no bound");
        let share = figures.wrong.expected_share.unwrap();
        assert!((share - 0.2525).abs() < 1e-3, "{share}");
        // The device's own time is known for all of them.
        assert!(figures.p95_us.unwrap() <= 1100 && figures.unknown_times == 0, "{layer:?} {figures:?}");
        let largest = &report.changes[0];
        assert_eq!((largest.count, largest.from.place.as_str(), largest.to.place.as_str()), (80, "hub", "device"));
        assert_eq!(largest.examples.len(), crate::EXAMPLES_MAX);
    }
}

#[test]
fn a_budget_is_counted_over_the_whole_log_and_days_refill_it() {
    let budget = BudgetLimits { hub_calls_per_day: Some(30), ..BudgetLimits::default() };
    let limited = PolicyLayer { budget, ..mode(PolicyMode::Cascade) };
    let mut log = log();
    let report = replayed(&log, owner(limited.clone()));
    assert_eq!((report.new.sent, report.changed), (30, 50));
    assert_eq!(report.changes[0].to.reason, Reason::CallsSpent.as_str());
    // The same requests on the next day: its budget is full again.
    let next: Vec<Value> = (0..100)
        .map(|number| {
            let mut record = cascaded(number, number as f64 / 100.0);
            record["at_unix_ms"] = (NOON_MS + 24 * 3_600_000 + number * 1000).into();
            record
        })
        .collect();
    log.extend(next);
    assert_eq!(replayed(&log, owner(limited)).new.sent, 60);
    // Four of them a minute: 80 deferrals within 80 seconds need two minutes.
    let budget = BudgetLimits { escalations_per_minute: Some(4), ..BudgetLimits::default() };
    let report = replayed(&self::log(), owner(PolicyLayer { budget, ..mode(PolicyMode::Cascade) }));
    assert_eq!(report.new.deferred, 8);
}

#[test]
fn what_no_record_knows_is_said_and_not_guessed() {
    // The hub answered all of them: there is no score of the device.
    let asked: Vec<Value> = (0..50)
        .map(|number| {
            let mut record = cascaded(number, 0.0);
            let request = &mut record["event"]["request"];
            request["device"] = Value::Null;
            request["moment"]["owner"] = json!({"mode": "only-hub"});
            request["policy"]["mode"] = "only-hub".into();
            request["hub"]["reason"] = "policy".into();
            request["end"]["answered"]["reason"] = "policy".into();
            record
        })
        .collect();
    let report = replayed(&asked, owner(mode(PolicyMode::Cascade)));
    assert_eq!((report.open, report.requests), (50, 0), "the place depends on scores that no record has");
    let report = replayed(&asked, owner(mode(PolicyMode::PreferDevice)));
    assert_eq!((report.open, report.new.device, report.reproduced), (0, 50, 50));
    assert_eq!((report.new.wrong.expected_share, report.new.wrong.unknown), (None, 50));
    assert_eq!((report.new.p95_us, report.new.unknown_times), (None, 50), "no run on the device was measured");
    // Records of an earlier agent replay with what they have.
    let mut early = log();
    for record in &mut early {
        record["event"]["request"].as_object_mut().unwrap().remove("moment");
    }
    let report = replayed(&early, owner(mode(PolicyMode::Cascade)));
    assert_eq!((report.lacking.moment, report.changed, report.reproduced), (100, 0, 100));
    let unmetered = HubConditions { unmetered: true, ..HubConditions::default() };
    let report = replayed(&early, owner(PolicyLayer { hub_when: unmetered, ..mode(PolicyMode::Cascade) }));
    assert_eq!((report.lacking.link_cost, report.new.sent), (100, 0), "an unknown link counts as metered");
}

#[test]
fn layers_of_then_stay_in_force_unless_they_are_replaced() {
    let mut log = log();
    for record in &mut log {
        let moment = &mut record["event"]["request"]["moment"];
        moment["author"] = json!({"privacy": "never-leaves"});
        let request = &mut record["event"]["request"];
        request["hub"] = Value::Null;
        request["hub_bytes"] = 0.into();
        request["end"]["answered"] = json!({"place": "device", "reason": "never-leaves"});
    }
    // The author's class cannot be loosened by the owner.
    let report = replayed(&log, owner(mode(PolicyMode::PreferHub)));
    assert_eq!((report.new.sent, report.new.device), (0, 100));
    let author = NewPolicy { replaces: Replaces::Author, ..owner(mode(PolicyMode::PreferHub)) };
    // The owner's mode of then holds over the author's new one.
    assert_eq!(replayed(&log, author).new.deferred, 80);
    let hidden = NewPolicy { device_only: Some(true), ..owner(mode(PolicyMode::PreferHub)) };
    assert_eq!(replayed(&self::log(), hidden).new.sent, 0);
}

#[test]
fn audits_follow_the_kept_answers() {
    let mut log = log();
    for number in 80..100 {
        let audit = json!({"request": format!("r-{number}"), "model": "m", "class": "public", "input": {"bytes": 100},
            "hub_bytes": 100, "agrees": true});
        log.push(json!({"at_unix_ms": NOON_MS + 200_000, "event": {"audit": audit}}));
    }
    let figures = |layer| {
        let report = replayed(&log, owner(layer));
        assert_eq!((report.recorded.audits, report.recorded.hub_bytes), (20, 10_000));
        (report.new.audits, report.new.hub_bytes)
    };
    assert_eq!(figures(mode(PolicyMode::Cascade)), (20, 10_000));
    assert_eq!(figures(PolicyLayer { privacy: Some(PrivacyClass::NeverLeaves), ..mode(PolicyMode::Cascade) }), (0, 0));
    let none = PolicyLayer { audit_share_max: types::share::Share::of(0.0), ..mode(PolicyMode::Cascade) };
    assert_eq!(figures(none), (0, 8000));
    assert_eq!(figures(mode(PolicyMode::OnlyHub)), (0, 10_000), "an answer of the hub is not audited");
}

#[test]
fn a_shorter_deadline_changes_what_is_too_late() {
    let late = PolicyLayer { deadline_ms: Some(5), ..mode(PolicyMode::Cascade) };
    let report = replayed(&log(), owner(late));
    // 9 ms of the hub are over what is left of 5 ms: the device's answer is given although it is not sure.
    assert_eq!((report.new.hub, report.new.device), (0, 100));
    assert!(report.changes.iter().any(|change| change.to.reason == "hub-too-late"), "{:?}", report.changes);
}

#[test]
fn hostile_records_are_read_without_harm() {
    for text in ["", "{}", "[]", r#"{"at_unix_ms":1,"event":"later"}"#, r#"{"at_unix_ms":-1,"event":"stopped"}"#] {
        assert!(read(text.as_bytes()).is_err(), "{text}");
    }
    assert!(read(&vec![b' '; 200_000]).is_err(), "a record has a limit");
    let mut record = cascaded(1, 0.5);
    record["at_unix_ms"] = u64::MAX.into();
    for field in ["total_us", "link_us", "expected_us"] {
        record["event"]["request"][field] = u64::MAX.into();
    }
    record["event"]["request"]["device"]["took_us"] = u64::MAX.into();
    record["event"]["request"]["hub"]["took_us"] = u64::MAX.into();
    record["event"]["request"]["policy"]["deadline_us"] = u64::MAX.into();
    record["event"]["request"]["moment"]["device_us"] = json!([u64::MAX, 0, u64::MAX]);
    record["event"]["request"]["moment"]["asked"] = json!({"mode": "later", "privacy": "later", "deadline": true});
    for mode in PolicyMode::ALL {
        let report = replayed(&[record.clone(), cascaded(2, 0.9)], owner(self::mode(mode)));
        assert_eq!(report.requests + report.open, 2, "{mode}");
        assert_eq!(
            report.new.sent,
            u64::from(mode == PolicyMode::PreferHub || mode == PolicyMode::OnlyHub),
            "a class of later is strict"
        );
    }
}

fn any_layer() -> impl Strategy<Value = PolicyLayer> {
    let modes = prop::sample::select(PolicyMode::ALL.to_vec());
    let privacy = prop::option::of(prop::sample::select(PrivacyClass::ALL.to_vec()));
    let limit = || prop::option::of(0_u64..2000);
    (modes, privacy, prop::option::of(1_u64..50), any::<[bool; 2]>(), limit(), limit(), limit()).prop_map(
        |(mode, privacy, deadline_ms, [consent, unmetered], bytes, calls, escalations)| PolicyLayer {
            privacy,
            deadline_ms,
            hub_when: HubConditions { consent, unmetered, ..HubConditions::default() },
            budget: BudgetLimits {
                unmetered_bytes_per_day: bytes,
                hub_calls_per_day: calls,
                escalations_per_minute: escalations,
                ..BudgetLimits::default()
            },
            ..PolicyLayer::of_mode(mode)
        },
    )
}

proptest! {
    #[test]
    fn no_replay_violates_the_new_policy(
        layer in any_layer(),
        scores in prop::collection::vec(0.0_f64..1.0, 1..60),
        states in prop::collection::vec(0_u8..16, 60),
    ) {
        let log: Vec<Value> = scores.iter().zip(&states).enumerate().map(|(number, (score, state))| {
            let mut record = cascaded(u64::try_from(number).unwrap(), *score);
            let request = &mut record["event"]["request"];
            // Only such states as the recorded decision can have been made in.
            if is(*state, 1) && *score >= 0.8 {
                request["link_us"] = Value::Null;
            }
            if is(*state, 2) {
                request["moment"]["metered"] = Value::Null;
            }
            if is(*state, 4) && *score < 0.8 {
                request["device"] = Value::Null;
            }
            request["moment"]["consent"] = is(*state, 8).into();
            record
        }).collect();
        let report = replayed(&log, owner(layer.clone()));
        let count = |has: &dyn Fn(f64, u8) -> bool| {
            let found = scores.iter().zip(&states).filter(|(score, state)| has(**score, **state)).count();
            u64::try_from(found).unwrap()
        };
        let figures = &report.new;
        prop_assert_eq!(report.requests + report.open, count(&|_, _| true));
        prop_assert_eq!(figures.device + figures.hub + figures.failed, report.requests);
        prop_assert!(figures.deferred <= figures.sent && figures.hub <= figures.sent);
        prop_assert_eq!(figures.hub_bytes, figures.sent * 100);
        prop_assert!(figures.sent <= count(&|score, state| !(is(state, 1) && score >= 0.8)), "the hub was away");
        if layer.privacy == Some(PrivacyClass::NeverLeaves) || layer.mode == Some(PolicyMode::OnlyDevice) {
            prop_assert_eq!((figures.sent, figures.hub_bytes), (0, 0));
        }
        if layer.hub_when.consent || layer.privacy == Some(PrivacyClass::Personal) {
            prop_assert!(figures.sent <= count(&|_, state| is(state, 8)), "sent without consent");
        }
        if layer.hub_when.unmetered {
            prop_assert!(figures.sent <= count(&|_, state| !is(state, 2)), "sent over a link that may be metered");
        }
        let budget = &layer.budget;
        prop_assert!(budget.hub_calls_per_day.is_none_or(|most| figures.sent <= most));
        prop_assert!(budget.escalations_per_minute.is_none_or(|most| figures.deferred <= most));
        let metered = count(&|_, state| is(state, 2));
        prop_assert!(budget.unmetered_bytes_per_day.is_none_or(|most| figures.sent <= metered + most / 100));
    }
}

fn is(state: u8, bit: u8) -> bool {
    state & bit > 0
}
