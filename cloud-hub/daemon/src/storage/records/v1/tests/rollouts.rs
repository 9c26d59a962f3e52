//! Golden samples of rollouts, their members, pins and assigned models.

use std::collections::BTreeMap;

use hub_core::rollout::{
    Cause, Cohort, Decision, Member, OnBreach, Parts, Paused, RolloutId, Running, SiteLimit, Spec, State, wave,
};

use super::{check, version};
use crate::records::v1::{Assignment, Pin, Rollout, RolloutMember};
use crate::storage::values::{AssignmentRecord, PinRecord};

fn parts(state: State) -> Parts {
    let decision = Decision {
        at_unix_s: 1_800_000_000,
        what: "created".into(),
        reason: "me".into(),
        evidence: vec!["1 of 1".into()],
    };
    Parts {
        id: RolloutId(3),
        spec: Spec {
            model: "digits".parse().unwrap(),
            version: version(7),
            cohort: Cohort::parse("site=berlin").unwrap(),
            waves: wave::parse("1@2h,5%,label:tier=canary,10/min*2").unwrap(),
            gate: None,
            approve: true,
            start_unix_s: None,
            max_per_site: None,
            on_breach: OnBreach::Pause,
            patience_s: 86_400,
            silent_s: 3_600,
        },
        state,
        created_unix_s: 1_800_000_000,
        created_by: "me".into(),
        base: Some(version(6)),
        evidence_unix_s: 1_800_000_001,
        retried_unix_s: None,
        members: BTreeMap::new(),
        decisions: [decision].into(),
    }
}

#[tokio::test]
async fn a_rollout_in_every_state_reads_back_for_ever() {
    let running = Running { wave: 1, since_unix_s: 5, settled_unix_s: Some(6) };
    let wave = r#""wave":1,"since_unix_s":5,"settled_unix_s":6"#;
    let reason = || "slow".to_owned();
    let paused = |cause| State::Paused(Paused { running, at_unix_s: 7, reason: reason(), cause });
    let paused_json = |cause: &str| {
        format!(r#"{{"paused":{{"running":{{{wave}}},"at_unix_s":7,"reason":"slow","cause":"{cause}"}}}}"#)
    };
    for (state, json) in [
        (State::Scheduled { start_unix_s: 9 }, r#"{"scheduled":{"start_unix_s":9}}"#.to_owned()),
        (State::Running(running), format!(r#"{{"running":{{{wave}}}}}"#)),
        (State::Approval { wave: 1, since_unix_s: 5 }, r#"{"approval":{"wave":1,"since_unix_s":5}}"#.to_owned()),
        (paused(Cause::Operator), paused_json("operator")),
        (paused(Cause::Breach), paused_json("breach")),
        (paused(Cause::Patience), paused_json("patience")),
        (State::Promoting { since_unix_s: 5 }, r#"{"promoting":{"since_unix_s":5}}"#.to_owned()),
        (State::Completed { at_unix_s: 5 }, r#"{"completed":{"at_unix_s":5}}"#.to_owned()),
        (
            State::Aborted { at_unix_s: 5, reason: reason() },
            r#"{"aborted":{"at_unix_s":5,"reason":"slow"}}"#.to_owned(),
        ),
        (
            State::RollingBack { since_unix_s: 5, reason: reason() },
            r#"{"rolling_back":{"since_unix_s":5,"reason":"slow"}}"#.to_owned(),
        ),
        (
            State::RolledBack { at_unix_s: 5, reason: reason() },
            r#"{"rolled_back":{"at_unix_s":5,"reason":"slow"}}"#.to_owned(),
        ),
    ] {
        let fields = format!(
            r#""id":3,"model":"digits","version":7,"cohort":"site=berlin","waves":"1@2h,5%,label:tier=canary,10/min*2","approve":true,"on_breach":"pause","patience_s":86400,"silent_s":3600,"state":{json},"created_unix_s":1800000000,"created_by":"me","base":6,"evidence_unix_s":1800000001,"decisions":[{{"at_unix_s":1800000000,"what":"created","reason":"me","evidence":["1 of 1"]}}]"#
        );
        check::<Rollout>(&fields, parts(state)).await;
    }
    let mut full = parts(State::Completed { at_unix_s: 5 });
    full.spec.gate = Some("x = 1".into());
    full.spec.start_unix_s = Some(4);
    full.spec.max_per_site = Some(SiteLimit { label: "site".into(), devices: 2 });
    full.spec.on_breach = OnBreach::RollBack;
    full.spec.approve = false;
    full.retried_unix_s = Some(8);
    full.base = None;
    full.decisions.clear();
    let fields = r#""id":3,"model":"digits","version":7,"cohort":"site=berlin","waves":"1@2h,5%,label:tier=canary,10/min*2","gate":"x = 1","approve":false,"start_unix_s":4,"max_per_site":{"label":"site","devices":2},"on_breach":"rollback","patience_s":86400,"silent_s":3600,"state":{"completed":{"at_unix_s":5}},"created_unix_s":1800000000,"created_by":"me","base":null,"evidence_unix_s":1800000001,"retried_unix_s":8,"decisions":[]"#;
    check::<Rollout>(fields, full).await;
}

#[tokio::test]
async fn members_pins_and_assignments_read_back_for_ever() {
    let member = Member { wave: 1, admitted_unix_s: 5, before: Some(version(6)) };
    check::<RolloutMember>(r#""wave":1,"admitted_unix_s":5,"before":6"#, member).await;
    let pin = PinRecord { version: Some(version(6)), at_unix_s: 5, by: "me".into() };
    check::<Pin>(r#""version":6,"at_unix_s":5,"by":"me""#, pin.clone()).await;
    check::<Pin>(r#""version":null,"at_unix_s":5,"by":"me""#, PinRecord { version: None, ..pin }).await;
    let assignment =
        AssignmentRecord { cohort: Some(Cohort::parse("site=berlin").unwrap()), at_unix_s: 5, by: "me".into() };
    check::<Assignment>(r#""filter":"site=berlin","at_unix_s":5,"by":"me""#, assignment.clone()).await;
    let ended = AssignmentRecord { cohort: None, ..assignment };
    check::<Assignment>(r#""filter":"","at_unix_s":5,"by":"me""#, ended).await;
}

#[tokio::test]
async fn a_rollout_that_cannot_be_is_not_read() {
    use std::sync::Arc;

    use store::{Batch, MemoryStore, Store, Table};

    let store = Arc::new(MemoryStore::new());
    let table: Table<Rollout> = Table::new(store.clone());
    table.put("good", &parts(State::Completed { at_unix_s: 5 })).await.unwrap();
    let good = store.get(b"rollout/good").await.unwrap().unwrap();
    let good = String::from_utf8(good.to_vec()).unwrap();
    for (from, to) in [
        (r#"{"completed":{"at_unix_s":5}}"#, r#"{"running":{"wave":4,"since_unix_s":5}}"#),
        (r#"{"completed":{"at_unix_s":5}}"#, r#"{"approval":{"wave":3,"since_unix_s":5}}"#),
        (r#"{"completed":{"at_unix_s":5}}"#, r#""elsewhere""#),
        ("1@2h,5%", "5%,1%"),
        ("site=berlin", "site="),
        (r#""pause""#, r#""explode""#),
        (":86400", ":0"),
    ] {
        assert!(good.contains(from), "{from}");
        store.apply(Batch::new().put("rollout/bad", good.replacen(from, to, 1))).await.unwrap();
        assert!(table.get("bad").await.is_err(), "{to}");
    }
}
