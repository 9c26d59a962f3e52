//! Golden samples: what earlier versions wrote reads as it did then, and what is written now is spelt out here.
//!
//! A sample is never changed. A field that is added later gets a sample of its own.

use hub_core::audit::{Change, Event, Link};
use hub_core::fleet::{self, Cloned, EngineOfDevice, Machine, Presence};
use hub_core::labels::Labels;
use store::{Batch, MemoryStore, Store, Table};
use types::update::Stage;

mod rollouts;

use super::*;
use crate::storage::values::StoredState;

const DIGEST: &str = "sha256:9372c470eeadd5ecd9c3c74c2b3cb633f8e2f2fad799250a0f70d652b6b825e4";

fn digest() -> Digest {
    DIGEST.parse().unwrap()
}

fn version(number: u64) -> Version {
    Version::new(number).unwrap()
}

/// Reads a sample with and without its schema, and compares what is written for the value with the sample.
async fn check<R: Record>(fields: &str, value: R::Value)
where
    R::Value: PartialEq + std::fmt::Debug,
{
    let store = std::sync::Arc::new(MemoryStore::new());
    let table: Table<R> = Table::new(store.clone());
    let golden = format!(r#"{{"schema":1,{fields}}}"#);
    for bytes in [golden.clone(), format!("{{{fields}}}")] {
        store.apply(Batch::new().put(format!("{}/read", R::TABLE), bytes)).await.unwrap();
        assert_eq!(table.get("read").await.unwrap().as_ref(), Some(&value));
    }
    table.put("written", &value).await.unwrap();
    let written = store.get(format!("{}/written", R::TABLE).as_bytes()).await.unwrap().unwrap();
    assert_eq!(String::from_utf8(written.to_vec()).unwrap(), golden);
}

#[tokio::test]
async fn a_device_reads_back_for_ever() {
    let device = |next_key, standing| DeviceRecord {
        id: "cam-1".parse().unwrap(),
        key: digest(),
        next_key,
        enrolled_unix_s: 1_800_000_000,
        standing,
        labels: Labels::default(),
    };
    check::<Device>(
        &format!(r#""id":"cam-1","key":"{DIGEST}","next_key":null,"enrolled_unix_s":1800000000,"standing":"good""#),
        device(None, Standing::Good),
    )
    .await;
    check::<Device>(
        &format!(
            r#""id":"cam-1","key":"{DIGEST}","next_key":"{DIGEST}","enrolled_unix_s":1800000000,"standing":{{"revoked":{{"at_unix_s":1800000001,"why":"lost"}}}}"#
        ),
        device(Some(digest()), Standing::Revoked { at_unix_s: 1_800_000_001, why: "lost".into() }),
    )
    .await;
    let labels = Labels::restored([("site".to_owned(), "berlin".to_owned())].into());
    check::<Device>(
        &format!(
            r#""id":"cam-1","key":"{DIGEST}","next_key":null,"enrolled_unix_s":1800000000,"standing":"good","labels":{{"site":"berlin"}}"#
        ),
        device(None, Standing::Good).labelled(labels),
    )
    .await;
}

#[tokio::test]
async fn a_join_token_in_every_state_reads_back_for_ever() {
    let used = tokens::TokenState::Used { device: "cam-1".parse().unwrap(), key: digest(), at_unix_s: 1_800_000_001 };
    let used_json = format!(r#"{{"used":{{"device":"cam-1","key":"{DIGEST}","at_unix_s":1800000001}}}}"#);
    for (state, json) in [
        (tokens::TokenState::Open, r#""open""#.to_owned()),
        (used, used_json),
        (tokens::TokenState::Withdrawn, r#""withdrawn""#.to_owned()),
    ] {
        let record = TokenRecord {
            secret: digest(),
            minted_unix_s: 1_800_000_000,
            expires_unix_s: 1_800_003_600,
            device: Some("cam-1".parse().unwrap()),
            state,
        };
        let fields = format!(
            r#""record":{{"secret":"{DIGEST}","minted_unix_s":1800000000,"expires_unix_s":1800003600,"device":"cam-1","state":{json}}},"device":"cam-1","replace":false"#
        );
        check::<JoinToken>(&fields, StoredToken { record, device: "cam-1".parse().unwrap(), replace: false }).await;
    }
}

#[tokio::test]
async fn an_operator_reads_back_for_ever() {
    let operator = OperatorRecord {
        name: "me".into(),
        created_unix_ms: 1_800_000_000_000,
        expires_unix_ms: 1_800_000_000_001,
        last_used_unix_ms: Some(5),
        role: Role::Admin,
    };
    let fields = r#""name":"me","created_unix_ms":1800000000000,"expires_unix_ms":1800000000001,"last_used_unix_ms":5"#;
    check::<Operator>(fields, operator.clone()).await;
    // A record without a role is one of 0.1.0, whose operators could do everything.
    let with_role = format!(r#"{fields},"role":"viewer""#);
    check::<Operator>(&with_role, OperatorRecord { role: Role::Viewer, ..operator }).await;
    let store = std::sync::Arc::new(MemoryStore::new());
    let first_form = r#"{"name":"me","created_unix_ms":1,"expires_unix_ms":2}"#;
    store.apply(Batch::new().put("operator/a", first_form)).await.unwrap();
    let read = Table::<Operator>::new(store.clone()).get("a").await.unwrap().unwrap();
    assert_eq!((read.expires_unix_ms, read.last_used_unix_ms, read.role), (2, None, Role::Admin));
    let later = r#"{"name":"me","created_unix_ms":1,"expires_unix_ms":2,"role":"owner"}"#;
    store.apply(Batch::new().put("operator/b", later)).await.unwrap();
    assert!(Table::<Operator>::new(store).get("b").await.is_err(), "an unknown role opens nothing");
}

#[tokio::test]
async fn versions_read_back_for_ever() {
    let published = VersionRecord {
        version: version(2),
        manifest: digest(),
        published_unix_s: 1_800_000_000,
        held: true,
        released: false,
    };
    let fields = format!(r#""version":2,"manifest":"{DIGEST}","published_unix_s":1800000000,"held":true"#);
    check::<ModelVersion>(&fields, published.clone()).await;
    let fields =
        format!(r#""version":2,"manifest":"{DIGEST}","published_unix_s":1800000000,"held":false,"released":true"#);
    check::<ModelVersion>(&fields, VersionRecord { held: false, released: true, ..published.clone() }).await;
    check::<CurrentVersion>(
        r#""version":2,"before":1"#,
        CurrentRecord { version: version(2), before: Some(version(1)) },
    )
    .await;
    let store = std::sync::Arc::new(MemoryStore::new());
    let first_forms = Batch::new()
        .put("version/a", format!(r#"{{"version":2,"manifest":"{DIGEST}","published_unix_s":1}}"#))
        .put("current/a", r#"{"version":2}"#);
    store.apply(first_forms).await.unwrap();
    assert!(!Table::<ModelVersion>::new(store.clone()).get("a").await.unwrap().unwrap().held);
    assert_eq!(Table::<CurrentVersion>::new(store).get("a").await.unwrap().unwrap().before, None);
}

#[tokio::test]
async fn what_a_device_said_reads_back_for_ever() {
    let installed =
        |number| fleet::Installed { version: version(number), variant: "int8".parse().unwrap(), digest: digest() };
    let progress = |stage, outcome| fleet::Progress {
        variant: Some("int8".parse().unwrap()),
        stage,
        outcome,
        at_unix_s: 1_800_000_000,
    };
    let history = [
        (version(1), progress(Stage::Active, fleet::Outcome::Active(()))),
        (version(2), progress(Stage::Fetching, fleet::Outcome::Started)),
        (version(3), progress(Stage::Checking, fleet::Outcome::Retrying("busy".into()))),
        (version(5), progress(Stage::Offered, fleet::Outcome::Superseded { by: version(7) })),
        (version(6), progress(Stage::Active, fleet::Outcome::RolledBack("slow".into()))),
        (version(4), progress(Stage::Loading, fleet::Outcome::Rejected("bad".into()))),
    ];
    let mut model = fleet::Model::restored(Some(installed(1)), Some(installed(2)), history.into());
    let without = model.clone();
    let (engine, provider) = (types::EngineName::Wgpu, "vulkan".to_owned());
    model.running = Some(fleet::Running { version: version(1), engine, provider });
    let cloned = Cloned {
        addresses: ["10.0.0.1:1".parse().unwrap(), "[::1]:2".parse().unwrap()],
        first_unix_s: 3,
        last_unix_s: 4,
    };
    let presence = Presence::Online { since_unix_s: 1_800_000_000 };
    let device = |model: fleet::Model| {
        let name: types::ModelName = "digits".parse().unwrap();
        let (agent_version, machine) = (Some("0.1.0".to_owned()), Machine::default());
        fleet::Device::restored(presence, agent_version, machine, Some(cloned.clone()), [(name, model)].into())
    };
    let model_value = model;
    let one = |number: u64| format!(r#"{{"version":{number},"variant":"int8","digest":"{DIGEST}"}}"#);
    let step_with = |stage: &str, outcome: &str, more: &str| {
        format!(r#"{{"variant":"int8","stage":"{stage}","outcome":{outcome},"at_unix_s":1800000000{more}}}"#)
    };
    let step = |stage: &str, outcome: &str| step_with(stage, outcome, "");
    let history = format!(
        r#"{{"1":{},"2":{},"3":{},"4":{},"5":{},"6":{}}}"#,
        step("active", r#""active""#),
        step("fetching", r#""running""#),
        step("checking", r#"{"delayed":{"cause":"busy"}}"#),
        step("loading", r#"{"refused":{"cause":"bad"}}"#),
        step_with("offered", r#"{"refused":{"cause":"version 7 serves"}}"#, r#","superseded_by":7"#),
        step_with("active", r#"{"refused":{"cause":"slow"}}"#, r#","rolled_back":true"#)
    );
    let model = format!(r#"{{"active":{},"previous":{},"progress":{history}"#, one(1), one(2));
    let running = r#","running":{"version":1,"engine":"wgpu","provider":"vulkan"}"#;
    let fields = |running: &str| {
        format!(
            r#""device":{{"presence":{{"online":{{"since_unix_s":1800000000}}}},"agent_version":"0.1.0","cloned":{{"addresses":["10.0.0.1:1","[::1]:2"],"first_unix_s":3,"last_unix_s":4}},"models":{{"digits":{model}{running}}}}}}},"certificate_until_unix_s":1800000009"#
        )
    };
    let stored = |device| StoredState { device, certificate_until_unix_s: Some(1_800_000_009) };
    check::<DeviceState>(&fields(running), stored(device(model_value))).await;
    // As it was written before devices said what runs their models.
    check::<DeviceState>(&fields(""), stored(device(without))).await;
    let first_form = r#""device":{"presence":"never","agent_version":null,"cloned":null,"models":{}},"certificate_until_unix_s":null"#;
    check::<DeviceState>(first_form, StoredState::default()).await;
    let engine = EngineOfDevice { name: "ort".into(), version: "1.32.0".into(), providers: vec!["cpu".into()] };
    let machine = Machine { os: Some("linux".into()), arch: Some("aarch64".into()), engines: vec![engine] };
    let device = fleet::Device::restored(Presence::Never, None, machine, None, std::collections::BTreeMap::new());
    let fields = r#""device":{"presence":"never","agent_version":null,"cloned":null,"os":"linux","arch":"aarch64","engines":[{"name":"ort","version":"1.32.0","providers":["cpu"]}],"models":{}},"certificate_until_unix_s":null"#;
    check::<DeviceState>(fields, StoredState { device, certificate_until_unix_s: None }).await;
}

#[tokio::test]
async fn an_audit_event_reads_back_for_ever() {
    let change = Change::new(1_800_000_000_000, "me", "device.revoke", "cam-1");
    let change = change.states(Some("enrolled".into()), Some("revoked: lost".into()));
    let event = Event { number: 7, change, previous: digest(), hash: digest() };
    let fields = format!(
        r#""number":7,"at_unix_ms":1800000000000,"actor":"me","action":"device.revoke","object":"cam-1","before":"enrolled","after":"revoked: lost","previous":"{DIGEST}","hash":"{DIGEST}""#
    );
    check::<AuditEvent>(&fields, event).await;
    check::<AuditLink>(&format!(r#""number":7,"hash":"{DIGEST}""#), Link { number: 7, hash: digest() }).await;
}

#[tokio::test]
async fn counters_of_a_device_read_back_for_ever() {
    use crate::storage::values::{MeasuredVariant, StoredCell, StoredMeasurement};
    use hub_core::evidence::{Cell, Counted, Tally};

    let tally = Tally {
        kept: 10,
        deferred: 2,
        failed: 1,
        crashed: 1,
        audited: 4,
        agreed: 3,
        shadowed: 8,
        shadow_agreed: 7,
        latency: types::histogram::Histogram::of(&[0, 0, 5, 6]),
        memory_bytes: Some(1_000_000),
    };
    let cell = |tally| StoredCell {
        cell: Cell { version: version(7), from_unix_s: 1_800_000_000, tally },
        last: Counted { from_unix_s: 1_800_000_060, sequence: 9 },
    };
    let head = r#""version":7,"from_unix_s":1800000000,"last_from_unix_s":1800000060,"last_sequence":9"#;
    check::<CounterCell>(head, cell(Tally::default())).await;
    let fields = format!(
        r#"{head},"kept":10,"deferred":2,"failed":1,"crashed":1,"audited":4,"agreed":3,"shadowed":8,"shadow_agreed":7,"latency":[[2,5],[3,6]],"memory_bytes":1000000"#
    );
    check::<CounterCell>(&fields, cell(tally)).await;
    let store = std::sync::Arc::new(MemoryStore::new());
    for damaged in [r#""latency":[[65,1]]"#, r#""audited":1,"agreed":2"#] {
        store.apply(Batch::new().put("counters/a", format!("{{{head},{damaged}}}"))).await.unwrap();
        assert!(Table::<CounterCell>::new(store.clone()).get("a").await.is_err(), "{damaged}");
    }

    let variant = |number, refused| MeasuredVariant {
        version: version(number),
        variant: "int8".parse().unwrap(),
        engine: types::EngineName::Ort,
        p50_us: 900,
        p95_us: 1_100,
        memory_bytes: None,
        compared: 20,
        agreed: 19,
        refused,
    };
    let measured = StoredMeasurement {
        version: version(7),
        at_unix_s: 1_800_000_000,
        variants: vec![variant(7, Some("slow".into()))],
        active: Some(variant(6, None)),
    };
    let one = |number: u64, refused: &str| {
        format!(
            r#"{{"version":{number},"variant":"int8","engine":"ort","p50_us":900,"p95_us":1100,"memory_bytes":null,"compared":20,"agreed":19,"refused":{refused}}}"#
        )
    };
    let fields = format!(
        r#""version":7,"at_unix_s":1800000000,"variants":[{}],"active":{}"#,
        one(7, r#""slow""#),
        one(6, "null")
    );
    check::<Measurement>(&fields, measured).await;
}

#[tokio::test]
async fn a_watch_over_a_threshold_reads_back_for_ever() {
    use hub_core::calibration::{Bin, Force, Parts, Promise, Start, Watch};

    use crate::storage::values::{CalibrationChange, CalibrationRecord};

    for (force, json) in
        [(Force::Author, r#""author""#), (Force::Nothing, r#""nothing""#), (Force::At(0.875), r#"{"at_least":0.875}"#)]
    {
        let parts = Parts {
            force,
            refits: 1,
            watches: 2,
            audits: 30,
            wrong: 3,
            starts: vec![Start { number: 1, audits: 30, wrong: 3 }, Start { number: 2, audits: 5, wrong: 0 }],
            started: 2,
            bins: vec![
                Bin { agreed: 4, differing: 5 },
                Bin { agreed: 6, differing: 7 },
                Bin { agreed: 8, differing: 9 },
            ],
        };
        let watch = Watch::restored(Promise { alpha: 0.0078125, delta: 0.0625 }, vec![0.875, 0.75], parts).unwrap();
        let value = CalibrationRecord {
            model: "digits".parse().unwrap(),
            version: version(3),
            variant: "int8".parse().unwrap(),
            digest: digest(),
            group: "site=berlin".to_owned(),
            watch,
            changes: 1,
            last_change: Some(CalibrationChange { at_unix_s: 1_800_000_000, what: "broken".to_owned() }),
        };
        let golden = [
            r#""model":"digits","version":3,"variant":"int8","digest":"DIGEST","group":"site=berlin","alpha":0.0078125,"#,
            r#""delta":0.0625,"grid":[0.875,0.75],"threshold":FORCE,"refits":1,"watches":2,"audits":30,"wrong":3,"#,
            r#""starts":[[1,30,3],[2,5,0]],"started":2,"bins":[[4,5],[6,7],[8,9]],"changes":1,"#,
            r#""last_change":{"at_unix_s":1800000000,"what":"broken"}"#,
        ];
        let golden = golden.concat().replace("DIGEST", DIGEST).replace("FORCE", json);
        check::<Calibration>(&golden, value).await;
    }
}
