//! Tests of the guarantees of a store, for both implementations: after any sequence of operations the results equal
//! those of a plain `BTreeMap`, and for the store on disk also after it was closed and reopened.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use proptest::prelude::*;
use store::{Batch, MemoryStore, Opened, Scan, SledStore, Store};

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

#[derive(Debug, Clone)]
enum Action {
    Apply { conditions: Vec<(Vec<u8>, Condition)>, operations: Vec<(Vec<u8>, Option<Vec<u8>>)> },
    Get(Vec<u8>),
    Scan { prefix: Vec<u8>, after: Option<Vec<u8>>, limit: usize },
    Reopen,
}

/// Condition of a batch on a key: usually true, so that most batches are applied.
#[derive(Debug, Clone)]
enum Condition {
    AsItIs,
    Absent,
    Value(Vec<u8>),
}

/// Generates few keys, so that actions collide; with prefixes of each other, the empty key and bytes at both ends.
fn key() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(prop::sample::select(vec![0_u8, b'a', b'/', 0xff]), 0..4)
}

/// Generates values with sizes around the pieces that values are split into.
fn value() -> impl Strategy<Value = Vec<u8>> {
    let size = prop_oneof![8 => 0_usize..40, 1 => 4085_usize..4100, 1 => 20_000_usize..20_010];
    (any::<u8>(), size).prop_map(|(byte, size)| vec![byte; size])
}

fn action() -> impl Strategy<Value = Action> {
    let condition = prop_oneof![
        4 => Just(Condition::AsItIs),
        1 => Just(Condition::Absent),
        1 => value().prop_map(Condition::Value),
    ];
    let conditions = prop::collection::vec((key(), condition), 0..3);
    let operations = prop::collection::vec((key(), prop::option::weighted(0.7, value())), 0..6);
    prop_oneof![
        6 => (conditions, operations).prop_map(|(conditions, operations)| Action::Apply { conditions, operations }),
        2 => key().prop_map(Action::Get),
        2 => (key(), prop::option::of(key()), 0_usize..6)
            .prop_map(|(prefix, after, limit)| Action::Scan { prefix, after, limit }),
        1 => Just(Action::Reopen),
    ]
}

/// The store under test and its method of reopening.
enum Subject {
    Memory(MemoryStore),
    Sled { store: Option<SledStore>, folder: PathBuf },
}

impl Subject {
    fn sled(folder: &Path) -> Self {
        let folder = folder.join("store");
        let (store, opened) = SledStore::open(&folder).unwrap();
        assert_eq!(opened, Opened::Created);
        Self::Sled { store: Some(store), folder }
    }

    fn store(&self) -> &dyn Store {
        match self {
            Self::Memory(store) => store,
            Self::Sled { store, .. } => store.as_ref().unwrap(),
        }
    }

    fn reopen(&mut self) {
        match self {
            Self::Memory(_) => {}
            Self::Sled { store, folder } => {
                drop(store.take());
                let (reopened, opened) = SledStore::open(folder).unwrap();
                assert_eq!(opened, Opened::Existing);
                *store = Some(reopened);
            }
        }
    }
}

async fn keeps_the_law(mut subject: Subject, actions: Vec<Action>) {
    let mut model = Model::new();
    for action in actions {
        match action {
            Action::Apply { conditions, operations } => {
                apply(subject.store(), &mut model, conditions, operations).await
            }
            Action::Get(key) => {
                assert_eq!(subject.store().get(&key).await.unwrap().as_deref(), model.get(&key).map(Vec::as_slice));
            }
            Action::Scan { prefix, after, limit } => {
                let wanted = model
                    .iter()
                    .filter(|(key, _)| key.starts_with(&prefix) && after.as_ref().is_none_or(|after| *key > after));
                let scan = Scan { prefix: prefix.clone().into(), after: after.clone().map(Bytes::from), limit };
                let found = subject.store().scan(scan).await.unwrap();
                let wanted: Vec<_> =
                    wanted.take(limit).map(|(key, value)| (key.as_slice(), value.as_slice())).collect();
                assert_eq!(found.iter().map(|(key, value)| (&key[..], &value[..])).collect::<Vec<_>>(), wanted);
            }
            Action::Reopen => {
                subject.reopen();
                same_content(subject.store(), &model).await;
            }
        }
    }
    same_content(subject.store(), &model).await;
}

async fn apply(
    store: &dyn Store,
    model: &mut Model,
    conditions: Vec<(Vec<u8>, Condition)>,
    operations: Vec<(Vec<u8>, Option<Vec<u8>>)>,
) {
    let mut batch = Batch::new();
    let mut holds = true;
    for (key, condition) in conditions {
        let wanted = match condition {
            Condition::AsItIs => model.get(&key).cloned(),
            Condition::Absent => None,
            Condition::Value(value) => Some(value),
        };
        holds &= model.get(&key) == wanted.as_ref();
        batch = batch.expect(key, wanted.map(Bytes::from));
    }
    for (key, value) in &operations {
        batch = match value {
            Some(value) => batch.put(key.clone(), value.clone()),
            None => batch.delete(key.clone()),
        };
    }
    match store.apply(batch).await {
        Ok(()) => assert!(holds, "a batch went through against its condition"),
        Err(error) => assert!(!holds && error.is_conflict(), "{error}"),
    }
    for (key, value) in operations.into_iter().filter(|_| holds) {
        match value {
            Some(value) => model.insert(key, value),
            None => model.remove(&key),
        };
    }
}

async fn same_content(store: &dyn Store, model: &Model) {
    let all = store.scan(Scan::prefix("")).await.unwrap();
    assert!(all.iter().map(|(key, value)| (&key[..], &value[..])).eq(model.iter().map(|(k, v)| (&k[..], &v[..]))));
}

fn run(subject: Subject, actions: Vec<Action>) {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(keeps_the_law(subject, actions));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]
    #[test]
    fn the_memory_store_keeps_the_law(actions in prop::collection::vec(action(), 0..60)) {
        run(Subject::Memory(MemoryStore::new()), actions);
    }
}

proptest! {
    // Each apply costs an fsync.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(24) })]
    #[test]
    fn the_store_on_disk_keeps_the_law(actions in prop::collection::vec(action(), 0..40)) {
        let folder = tempfile::tempdir().unwrap();
        run(Subject::sled(folder.path()), actions);
    }
}
