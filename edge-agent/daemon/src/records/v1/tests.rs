//! Golden samples: what earlier versions wrote reads as it did then, and what is written now is spelt out here.
//!
//! A sample is never changed. A field that is added later gets a sample of its own.

use std::time::Duration;

use bundle::manifest::Precision;
use edge_core::refit::Order;
use edge_core::update::orders::{Leaving, Orders};
use edge_core::update::probation::Probation;
use store::{Batch, MemoryStore, Store, Table};
use types::EngineName;

use super::*;
use crate::updater::{Choice, StoredProbation};

const DIGEST: &str = "sha256:9372c470eeadd5ecd9c3c74c2b3cb633f8e2f2fad799250a0f70d652b6b825e4";

fn installed() -> slots::Installed {
    let version = Version::new(3).unwrap();
    slots::Installed { version, variant: "int8".parse().unwrap(), digest: DIGEST.parse().unwrap() }
}

fn failure() -> Failure {
    Failure { kind: FailureKind::GoldenMismatch, detail: "output y differs".into() }
}

fn report(outcome: update::Outcome) -> Entry<Report> {
    let version = Version::new(3).unwrap();
    let report = Report { model: "digits".parse().unwrap(), version, stage: Stage::Checking, outcome };
    Entry { id: EntryId(7), subject: "digits/3".into(), report }
}

/// Reads bytes as a record of a table, and returns what is written for a value.
async fn through_the_store<R: Record>(bytes: &str, value: &R::Value) -> (R::Value, String) {
    let store = std::sync::Arc::new(MemoryStore::new());
    let table: Table<R> = Table::new(store.clone());
    let key = format!("{}/read", R::TABLE);
    store.apply(Batch::new().put(key, bytes.to_owned())).await.unwrap();
    let read = table.get("read").await.unwrap().unwrap();
    table.put("written", value).await.unwrap();
    let written = store.get(format!("{}/written", R::TABLE).as_bytes()).await.unwrap().unwrap();
    (read, String::from_utf8(written.to_vec()).unwrap())
}

#[tokio::test]
async fn a_waiting_report_of_every_outcome_reads_back_for_ever() {
    let installed_json = format!(r#"{{"version":3,"variant":"int8","digest":"{DIGEST}"}}"#);
    let failure_json = r#"{"kind":"golden_mismatch","detail":"output y differs"}"#;
    for (outcome, json) in [
        (update::Outcome::Started, r#""started""#.to_owned()),
        (update::Outcome::Active(installed()), format!(r#"{{"active":{installed_json}}}"#)),
        (update::Outcome::Retrying(failure()), format!(r#"{{"delayed":{failure_json}}}"#)),
        (update::Outcome::Rejected(failure()), format!(r#"{{"failed":{failure_json}}}"#)),
        (update::Outcome::Superseded { by: Version::new(4).unwrap() }, r#"{"older":{"active":4}}"#.to_owned()),
        (update::Outcome::RolledBack(failure()), format!(r#"{{"rolled_back":{failure_json}}}"#)),
    ] {
        let body = format!(
            r#""id":7,"subject":"digits/3","report":{{"model":"digits","version":3,"stage":"golden","outcome":{json}}}}}"#
        );
        let (written, before_schemas) = (format!(r#"{{"schema":1,{body}"#), format!("{{{body}"));
        for stored in [&written, &before_schemas] {
            let found = through_the_store::<WaitingReport>(stored, &report(outcome.clone())).await;
            assert_eq!(found, (report(outcome.clone()), written.clone()));
        }
    }
}

#[tokio::test]
async fn a_failed_version_reads_back_for_ever() {
    let golden = r#"{"schema":1,"kind":"golden_mismatch","detail":"output y differs"}"#;
    assert_eq!(through_the_store::<FailedVersion>(golden, &failure()).await, (failure(), golden.to_owned()));
    for kind in FailureKind::ALL {
        let value = Failure { kind, detail: String::new() };
        let bytes = format!(r#"{{"kind":"{kind}","detail":""}}"#);
        assert_eq!(through_the_store::<FailedVersion>(&bytes, &value).await.0, value);
    }
}

#[tokio::test]
async fn a_load_attempt_reads_back_for_ever() {
    let attempt = Attempt {
        digest: DIGEST.parse().unwrap(),
        host_deaths: 1,
        agent_ends: 2,
        machine_ends: 3,
        under_way: true,
        boot: "b".into(),
        cause: Some("signal 11".into()),
        at_unix_ms: 1_800_000_000_000,
    };
    let golden = format!(
        r#"{{"schema":1,"digest":"{DIGEST}","host_deaths":1,"agent_ends":2,"machine_ends":3,"under_way":true,"boot":"b","cause":"signal 11","at_unix_ms":1800000000000}}"#
    );
    assert_eq!(through_the_store::<LoadAttempt>(&golden, &attempt).await, (attempt.clone(), golden.clone()));
    let first_form = format!(r#"{{"digest":"{DIGEST}"}}"#);
    let (read, _written) = through_the_store::<LoadAttempt>(&first_form, &attempt).await;
    assert_eq!((read.host_deaths, read.under_way), (0, false));
}

#[test]
fn slots_read_back_for_ever() {
    let golden = format!(
        "{{\n  \"active\": {{\n    \"version\": 3,\n    \"variant\": \"int8\",\n    \"digest\": \"{DIGEST}\"\n  }},\n  \"previous\": null\n}}"
    );
    let slots = slots::Slots { active: Some(installed()), previous: Vec::new() };
    assert_eq!(serde_json::to_string_pretty(&Slots::from(&slots)).unwrap(), golden);
    assert_eq!(slots::Slots::from(serde_json::from_str::<Slots>(&golden).unwrap()), slots);
}

#[test]
fn slots_with_earlier_versions_read_back_and_an_older_agent_reads_the_first_of_them() {
    let installed_json = format!(r#"{{"version":3,"variant":"int8","digest":"{DIGEST}"}}"#);
    let golden = format!(
        r#"{{"active":{installed_json},"previous":{installed_json},"earlier":[{installed_json},{installed_json}]}}"#
    );
    let slots = slots::Slots { active: Some(installed()), previous: vec![installed(); 3] };
    assert_eq!(serde_json::to_string(&Slots::from(&slots)).unwrap(), golden);
    assert_eq!(slots::Slots::from(serde_json::from_str::<Slots>(&golden).unwrap()), slots);
}

#[tokio::test]
async fn a_chosen_form_reads_back_for_ever() {
    let among = vec![("int8".parse().unwrap(), Precision::Int8), ("fp32".parse().unwrap(), Precision::Fp32)];
    let engines = vec![EngineName::Ort, EngineName::Wgpu];
    let choice = Choice { among, engines, variant: "fp32".parse().unwrap(), engine: Some(EngineName::Wgpu) };
    let golden = r#"{"schema":1,"among":[{"variant":"int8","precision":"int8"},{"variant":"fp32","precision":"fp32"}],"engines":["ort","wgpu"],"variant":"fp32","engine":"wgpu"}"#;
    assert_eq!(through_the_store::<ChosenForm>(golden, &choice).await, (choice.clone(), golden.to_owned()));
    let (read, _written) = through_the_store::<ChosenForm>(&golden.replace(r#","engine":"wgpu""#, ""), &choice).await;
    assert_eq!(read, Choice { engine: None, ..choice });
}

#[tokio::test]
async fn standing_orders_read_back_for_ever() {
    let version = |number| Version::new(number).unwrap();
    let leaving = Leaving { from: version(5), to: version(4), failure: failure() };
    let orders = Orders { owner_pin: Some(version(1)), hold: true, hub_pin: Some(version(2)), leaving: Some(leaving) };
    let golden = r#"{"schema":1,"owner_pin":1,"hold":true,"hub_pin":2,"leaving":{"from":5,"to":4,"failure":{"kind":"golden_mismatch","detail":"output y differs"}}}"#;
    assert_eq!(through_the_store::<StandingOrders>(golden, &orders).await, (orders.clone(), golden.to_owned()));
    let (read, _written) = through_the_store::<StandingOrders>(r#"{"schema":1}"#, &orders).await;
    assert_eq!(read, Orders::default());
}

#[tokio::test]
async fn a_probation_reads_back_for_ever() {
    let probation = Probation {
        version: Version::new(3).unwrap(),
        left: Duration::from_millis(4),
        answers: 5,
        failures: 6,
        deaths: 7,
        agent_ends: 8,
        machine_ends: 9,
        baseline: Some(Duration::from_micros(10)),
    };
    let value = StoredProbation { probation, running: true, boot: "b".into() };
    let golden = r#"{"schema":1,"version":3,"left_ms":4,"answers":5,"failures":6,"deaths":7,"agent_ends":8,"machine_ends":9,"baseline_us":10,"running":true,"boot":"b"}"#;
    assert_eq!(through_the_store::<OnProbation>(golden, &value).await, (value.clone(), golden.to_owned()));
    let (read, _written) = through_the_store::<OnProbation>(r#"{"version":3,"left_ms":4}"#, &value).await;
    assert!(!read.running && read.probation.agent_ends == 0);
}

#[tokio::test]
async fn assigned_models_read_back_for_ever() {
    let golden = r#"{"schema":1,"models":["digits","vowels"]}"#;
    let value = vec!["digits".parse().unwrap(), "vowels".parse().unwrap()];
    assert_eq!(through_the_store::<AssignedModels>(golden, &value).await, (value.clone(), golden.to_owned()));
}

#[tokio::test]
async fn a_period_of_counters_reads_back_for_ever() {
    let tally = edge_core::counters::Tally {
        kept: 1,
        deferred: 2,
        failed: 3,
        crashed: 4,
        audited: 6,
        agreed: 5,
        shadowed: 8,
        shadow_agreed: 7,
        latency: edge_core::counters::Histogram::of(&[0, 9]),
        memory_bytes: Some(10),
    };
    let tallies = [(("digits".parse().unwrap(), Version::new(3).unwrap()), tally)].into();
    let scores = std::collections::BTreeMap::new();
    let mut value = edge_core::counters::Period { sequence: 11, from_unix_s: 12, seconds: 60, tallies, scores };
    let golden = r#"{"schema":1,"sequence":11,"from_unix_s":12,"seconds":60,"tallies":[{"model":"digits","version":3,"kept":1,"deferred":2,"failed":3,"crashed":4,"audited":6,"agreed":5,"shadowed":8,"shadow_agreed":7,"latency":[0,9],"memory_bytes":10}]}"#;
    assert_eq!(through_the_store::<CounterPeriod>(golden, &value).await, (value.clone(), golden.to_owned()));
    // With scores of audits, since 0.2.0.
    let mut scores = edge_core::counters::AuditScores::default();
    scores.count(None, false);
    scores.count(Some(0.875), true);
    value.scores = [(("digits".parse().unwrap(), Version::new(3).unwrap(), "int8".parse().unwrap()), scores)].into();
    let golden = golden.replace(
        "\"memory_bytes\":10}]}",
        r#""memory_bytes":10}],"scores":[{"model":"digits","version":3,"variant":"int8","places":[[null,0,1],[1063256064,1,0]]}]}"#,
    );
    assert_eq!(through_the_store::<CounterPeriod>(&golden, &value).await, (value.clone(), golden.clone()));
}

#[tokio::test]
async fn thresholds_of_the_hub_read_back_for_ever() {
    let threshold = |order| crate::thresholds::HubThreshold {
        model: "digits".parse().unwrap(),
        version: Version::new(3).unwrap(),
        variant: "int8".parse().unwrap(),
        digest: Digest::from_bytes([1; 32]),
        share_per_mille: 10,
        changes: 2,
        order,
    };
    let value = vec![threshold(Order::Author), threshold(Order::Nothing), threshold(Order::AtLeast(0.875))];
    let one = |threshold: &str| {
        let digest = Digest::from_bytes([1; 32]);
        format!(
            r#"{{"model":"digits","version":3,"variant":"int8","digest":"{digest}","share_per_mille":10,"changes":2,"threshold":{threshold}}}"#
        )
    };
    let all = [one(r#""author""#), one(r#""nothing""#), one(r#"{"at_least":0.875}"#)].join(",");
    let golden = format!(r#"{{"schema":1,"variants":[{all}]}}"#);
    assert_eq!(through_the_store::<HubThresholds>(&golden, &value).await, (value.clone(), golden.clone()));
}

#[tokio::test]
async fn the_usage_of_budgets_reads_back_for_ever() {
    let value = edge_core::policy::Usage { day: 20_787, ran_s: 1, metered_bytes: 2, unmetered_bytes: 3, calls: 4 };
    let golden = r#"{"schema":1,"day":20787,"ran_s":1,"metered_bytes":2,"unmetered_bytes":3,"calls":4}"#;
    assert_eq!(through_the_store::<BudgetUsage>(golden, &value).await, (value, golden.to_owned()));
}

#[test]
fn the_names_of_stages_in_records_stay_as_they_are() {
    let names = ["offer", "trust", "fetch", "verify", "load", "golden", "measure", "shadow", "switch", "restart"];
    assert_eq!(Stage::ALL.map(stage_name), names);
}
