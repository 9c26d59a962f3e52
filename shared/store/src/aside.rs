//! Moves unreadable records aside, so that they stop nothing and are not lost.
//!
//! A daemon calls [`tidy`] once, before it uses its tables. The bytes of an unreadable record move unchanged from
//! `<table>/<key>` to `unreadable/<table>/<key>`. A record that this version can read (because a later version, which
//! wrote it, is installed again) moves back, unless its key has a new record by then.

use bytes::Bytes;

use crate::record::{self, Record};
use crate::{Batch, KEY_BYTES_MAX, SCAN_ENTRIES_MAX, Scan, Store, StoreError, Unreadable};

/// Name of the table of records that were set aside.
const TABLE: &str = "unreadable";

/// Maximum number of records that are set aside under one key; the last of them is overwritten.
const PER_KEY_MAX: u32 = 9;

/// Reads the records of one table to find those that are not readable.
#[derive(Debug, Clone, Copy)]
pub struct Check {
    table: &'static str,
    read: fn(&[u8]) -> Result<(), Unreadable>,
}

impl Check {
    /// Returns the check of a kind of record.
    #[must_use]
    pub const fn of<R: Record>() -> Self {
        Self { table: R::TABLE, read: |bytes| record::decode::<R>(bytes).map(drop) }
    }
}

/// A record that was set aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetAside {
    /// Table that the record was in.
    pub table: String,
    /// Key of the record in that table.
    pub key: String,
    /// Reason for which it is not readable.
    pub reason: String,
}

/// Sets the unreadable records of these tables aside, and returns all that are set aside, also by earlier calls.
///
/// # Errors
/// Fails if the store cannot be read. A record that cannot be moved, because the disk is full, remains in its table.
pub async fn tidy(store: &dyn Store, checks: &[Check]) -> Result<Vec<SetAside>, StoreError> {
    let mut stuck = Vec::new();
    for check in checks {
        for (key, raw) in entries(store, &format!("{}/", check.table)).await? {
            let Err(reason) = (check.read)(&raw) else { continue };
            let reason = telemetry::chain(&reason);
            tracing::error!(key = %key.escape_ascii(), reason, "set aside an unreadable record");
            if let Err(error) = set_aside(store, &key, raw).await {
                tracing::warn!(key = %key.escape_ascii(), error = telemetry::chain(&error), "an unreadable record remains in its table");
                stuck.push(one(&key, reason));
            }
        }
    }
    let mut found = stuck;
    for (key, raw) in entries(store, &format!("{TABLE}/")).await? {
        let (home, verdict) = judge(&key, &raw, checks);
        match verdict {
            Some(one) => found.push(one),
            None if give_back(store, &key, &home, raw).await? => {}
            None => found.push(one(&home, "its key has a new record".to_owned())),
        }
    }
    Ok(found)
}

/// Returns the unreadable records of these tables, and those that are set aside. Changes nothing.
///
/// # Errors
/// Fails when the store cannot be read.
pub async fn find(store: &dyn Store, checks: &[Check]) -> Result<Vec<SetAside>, StoreError> {
    let mut found = Vec::new();
    for check in checks {
        for (key, raw) in entries(store, &format!("{}/", check.table)).await? {
            found.extend((check.read)(&raw).err().map(|reason| one(&key, telemetry::chain(&reason))));
        }
    }
    for (key, raw) in entries(store, &format!("{TABLE}/")).await? {
        found.extend(judge(&key, &raw, checks).1);
    }
    Ok(found)
}

/// Returns the key that a record had before it was set aside, and its fault; `None` instead of the fault if it is
/// readable.
fn judge(key: &Bytes, raw: &Bytes, checks: &[Check]) -> (Bytes, Option<SetAside>) {
    let home = key.slice(TABLE.len() + 1..);
    let reason = match checks.iter().find(|check| home.starts_with(format!("{}/", check.table).as_bytes())) {
        Some(check) => (check.read)(raw).err().map(|reason| telemetry::chain(&reason)),
        None => Some("this version has no table of that name".to_owned()),
    };
    let wrong = reason.map(|reason| one(&home, reason));
    (home, wrong)
}

async fn set_aside(store: &dyn Store, key: &Bytes, raw: Bytes) -> Result<(), StoreError> {
    let place = |number: u32| {
        let name = String::from_utf8_lossy(key);
        Bytes::from(if number == 0 { format!("{TABLE}/{name}") } else { format!("{TABLE}/{name}~{number}") })
    };
    let mut number = 0;
    while number < PER_KEY_MAX && store.get(&place(number)).await?.is_some() {
        number += 1;
    }
    let to = place(number);
    if to.len() > KEY_BYTES_MAX {
        return Err(StoreError::TooLarge { what: "bytes of a key", size: to.len(), max: KEY_BYTES_MAX });
    }
    store.apply(Batch::new().expect(key.clone(), Some(raw.clone())).put(to, raw).delete(key.clone())).await
}

/// Moves a record back to its table; returns false if the key has another record.
async fn give_back(store: &dyn Store, key: &Bytes, home: &Bytes, raw: Bytes) -> Result<bool, StoreError> {
    let batch = Batch::new().expect(home.clone(), None).put(home.clone(), raw).delete(key.clone());
    match store.apply(batch).await {
        Ok(()) => {
            tracing::info!(key = %home.escape_ascii(), "a record that was set aside is readable again");
            Ok(true)
        }
        Err(error) if error.is_conflict() || error.is_disk_full() => Ok(false),
        Err(error) => Err(error),
    }
}

fn one(key: &[u8], reason: String) -> SetAside {
    let key = String::from_utf8_lossy(key);
    let (table, key) = key.split_once('/').unwrap_or(("", &key));
    SetAside { table: table.to_owned(), key: key.to_owned(), reason }
}

/// Returns all entries under a prefix, page by page.
pub(crate) async fn entries(store: &dyn Store, prefix: &str) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
    let mut found = Vec::new();
    let mut scan = Scan::prefix(prefix.to_owned());
    loop {
        let page = store.scan(scan.clone()).await?;
        let last = page.last().map(|(key, _)| key.clone());
        let is_last_page = page.len() < SCAN_ENTRIES_MAX;
        found.extend(page);
        match last {
            Some(last) if !is_last_page => scan = scan.after(last),
            Some(_) | None => return Ok(found),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::record::tests::Digit;
    use crate::{MemoryStore, Table};

    const CHECKS: [Check; 1] = [Check::of::<Digit>()];

    async fn write(store: &Arc<dyn Store>, key: &'static str, value: &'static str) {
        store.apply(Batch::new().put(key, value)).await.unwrap();
    }

    #[tokio::test]
    async fn an_unreadable_record_is_kept_beside_and_the_others_are_served() {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
        let digits: Table<Digit> = Table::new(Arc::clone(&store));
        digits.put("good", &1).await.unwrap();
        write(&store, "digits/bad", "\0").await;
        write(&store, "digits/later", r#"{"schema":3,"value":1}"#).await;
        let found = tidy(store.as_ref(), &CHECKS).await.unwrap();
        let keys: Vec<_> = found.iter().map(|one| (one.table.as_str(), one.key.as_str())).collect();
        assert_eq!(keys, [("digits", "bad"), ("digits", "later")]);
        assert!(found[1].reason.starts_with("it has schema 3"), "{}", found[1].reason);
        assert_eq!(digits.get("bad").await.unwrap(), None, "its key is free");
        digits.put("bad", &2).await.unwrap();
        let listing = digits.list().await.unwrap();
        assert_eq!(listing.records, [("bad".to_owned(), 2), ("good".to_owned(), 1)]);
        assert!(listing.unreadable.is_empty());
        assert_eq!(store.get(b"unreadable/digits/bad").await.unwrap().unwrap(), "\0", "nothing is lost");
        assert_eq!(tidy(store.as_ref(), &CHECKS).await.unwrap(), found, "it is told again at the next start");
    }

    #[tokio::test]
    async fn a_second_unreadable_record_of_one_key_does_not_replace_the_first() {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
        for round in ["first", "second"] {
            write(&store, "digits/bad", round).await;
            tidy(store.as_ref(), &CHECKS).await.unwrap();
        }
        assert_eq!(store.get(b"unreadable/digits/bad").await.unwrap().unwrap(), "first");
        assert_eq!(store.get(b"unreadable/digits/bad~1").await.unwrap().unwrap(), "second");
    }

    #[tokio::test]
    async fn a_record_that_is_readable_again_returns_unless_its_key_is_in_use() {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
        write(&store, "unreadable/digits/a", r#"{"value":1}"#).await;
        write(&store, "unreadable/digits/b", r#"{"value":2}"#).await;
        write(&store, "digits/b", r#"{"value":3}"#).await;
        write(&store, "unreadable/gone/c", "{}").await;
        let found = tidy(store.as_ref(), &CHECKS).await.unwrap();
        let told: Vec<_> = found.iter().map(|one| (one.key.as_str(), one.reason.as_str())).collect();
        assert_eq!(told, [("b", "its key has a new record"), ("c", "this version has no table of that name")]);
        let digits: Table<Digit> = Table::new(store);
        assert_eq!(digits.list().await.unwrap().records, [("a".to_owned(), 1), ("b".to_owned(), 3)]);
    }
}
