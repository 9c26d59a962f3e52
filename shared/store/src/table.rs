//! Typed values in a store, each stored as its [`Record`] under a key of one table.
//!
//! Used by the daemons; each table has one owner in the code.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use bytes::Bytes;

use crate::aside::entries;
use crate::record::{self, Record};
use crate::{Batch, KEY_BYTES_MAX, SCAN_ENTRIES_MAX, Scan, Store, StoreError, Unreadable};

/// The values of one kind of record, each under `<table>/<key>` with a text key.
pub struct Table<R> {
    store: Arc<dyn Store>,
    records: PhantomData<fn() -> R>,
}

/// The records of a table.
#[derive(Debug)]
pub struct Listing<T> {
    /// Readable records with their keys, in the order of the keys.
    pub records: Vec<(String, T)>,
    /// Keys of the unreadable records, with the reason. [`crate::aside`] moves them away before a daemon uses a table.
    pub unreadable: Vec<(String, Unreadable)>,
}

/// A part of the records of a table.
#[derive(Debug)]
pub struct Page<T> {
    /// Records of the part.
    pub listing: Listing<T>,
    /// Key after which the next part begins; `None` at the end of the table.
    pub next: Option<String>,
}

/// A value with its stored form, so that a write can require that it is unchanged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry<T> {
    /// Value at the time of the read.
    pub value: T,
    raw: Bytes,
}

impl<R> Clone for Table<R> {
    fn clone(&self) -> Self {
        Self { store: Arc::clone(&self.store), records: PhantomData }
    }
}

impl<R: Record> fmt::Debug for Table<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table").field("name", &R::TABLE).finish_non_exhaustive()
    }
}

impl<R: Record> Table<R> {
    /// Returns the table of a kind of record.
    #[must_use]
    pub fn new(store: Arc<dyn Store>) -> Self {
        debug_assert!(!R::TABLE.is_empty() && !R::TABLE.contains('/'), "table name {:?}", R::TABLE);
        Self { store, records: PhantomData }
    }

    /// Returns the record of a key.
    ///
    /// # Errors
    /// Returns [`StoreError::Unreadable`] if it is not of this kind, and the store's errors.
    pub async fn get(&self, key: &str) -> Result<Option<R::Value>, StoreError> {
        Ok(self.entry(key).await?.map(|entry| entry.value))
    }

    /// Returns the record of a key, for a change with [`Table::put_if`].
    ///
    /// # Errors
    /// As for [`Table::get`].
    pub async fn entry(&self, key: &str) -> Result<Option<Entry<R::Value>>, StoreError> {
        let key = self.key(key)?;
        let Some(raw) = self.store.get(&key).await? else { return Ok(None) };
        Ok(Some(Entry { value: decode::<R>(&key, &raw)?, raw }))
    }

    /// Sets the record of a key, whatever its previous value.
    ///
    /// # Errors
    /// Returns [`StoreError::Encode`] and the errors of [`Store::apply`].
    pub async fn put(&self, key: &str, value: &R::Value) -> Result<(), StoreError> {
        self.store.apply(self.put_in(Batch::new(), key, value)?).await
    }

    /// Sets the record of a key if it is unchanged since `before` was read; with `None`, if there is no record.
    ///
    /// # Errors
    /// Returns [`StoreError::Conflict`] if it has changed, and the errors of [`Table::put`].
    pub async fn put_if(
        &self,
        key: &str,
        before: Option<&Entry<R::Value>>,
        value: &R::Value,
    ) -> Result<(), StoreError> {
        let batch = self.expect_in(Batch::new(), key, before)?;
        self.store.apply(self.put_in(batch, key, value)?).await
    }

    /// Creates a record under a key that must have none.
    ///
    /// # Errors
    /// Returns [`StoreError::Conflict`] if there is one, and the errors of [`Table::put`].
    pub async fn insert(&self, key: &str, value: &R::Value) -> Result<(), StoreError> {
        self.put_if(key, None, value).await
    }

    /// Reads, changes and writes a record; starts again if another writer changed it in between.
    ///
    /// `change` receives the record or `None`, and returns the new value, `None` to remove it, or its own error to
    /// leave it unchanged.
    ///
    /// # Errors
    /// Returns the error of `change`, and the store's errors converted to `E`.
    ///
    /// # Cancel safety
    /// The change is made completely or not at all.
    pub async fn update<E: From<StoreError>>(
        &self,
        key: &str,
        mut change: impl FnMut(Option<R::Value>) -> Result<Option<R::Value>, E>,
    ) -> Result<(), E> {
        loop {
            let full_key = self.key(key)?;
            let raw = self.store.get(&full_key).await?;
            let before = raw.as_ref().map(|raw| decode::<R>(&full_key, raw)).transpose()?;
            let batch = Batch::new().expect(full_key.clone(), raw);
            let batch = match change(before)? {
                Some(value) => self.put_in(batch, key, &value)?,
                None => batch.delete(full_key),
            };
            match self.store.apply(batch).await {
                // Another writer was faster and made progress, so this loop ends.
                Err(error) if error.is_conflict() => {}
                result => return Ok(result?),
            }
        }
    }

    /// Removes the record of a key, if there is one.
    ///
    /// # Errors
    /// Returns the errors of [`Store::apply`].
    pub async fn delete(&self, key: &str) -> Result<(), StoreError> {
        self.store.apply(self.delete_in(Batch::new(), key)?).await
    }

    /// Returns all records; an unreadable one does not hide the others.
    ///
    /// # Errors
    /// Returns the store's errors.
    pub async fn list(&self) -> Result<Listing<R::Value>, StoreError> {
        self.list_under("").await
    }

    /// Returns the next records after a key, or the first ones without it: at most `limit` and [`SCAN_ENTRIES_MAX`]. Reads no
    /// others.
    ///
    /// # Errors
    /// Returns the store's errors.
    pub async fn page(&self, after: Option<&str>, limit: usize) -> Result<Page<R::Value>, StoreError> {
        let limit = limit.clamp(1, SCAN_ENTRIES_MAX);
        let mut scan = Scan::prefix(format!("{}/", R::TABLE)).limit(limit);
        if let Some(after) = after {
            scan = scan.after(format!("{}/{after}", R::TABLE));
        }
        let entries = self.store.scan(scan).await?;
        let is_last = entries.len() < limit;
        let next = entries.last().filter(|_last| !is_last).map(|(key, _raw)| name_of::<R>(key));
        Ok(Page { listing: listing::<R>(entries), next })
    }

    /// Returns the number of records, readable or not. Takes the same time for any number of records.
    ///
    /// # Errors
    /// Returns the store's errors.
    pub async fn count(&self) -> Result<usize, StoreError> {
        self.store.count(R::TABLE).await
    }

    /// Returns the entry that a write of a value leaves, for a condition on a write that is not done yet.
    ///
    /// # Errors
    /// Returns [`StoreError::Encode`].
    pub fn entry_of(&self, key: &str, value: R::Value) -> Result<Entry<R::Value>, StoreError> {
        let raw = encode::<R>(&self.key(key)?, &value)?;
        Ok(Entry { value, raw })
    }

    /// Returns the records whose keys begin with `prefix`; an unreadable one does not hide the others.
    ///
    /// # Errors
    /// Returns the store's errors.
    pub async fn list_under(&self, prefix: &str) -> Result<Listing<R::Value>, StoreError> {
        Ok(listing::<R>(entries(self.store.as_ref(), &format!("{}/{prefix}", R::TABLE)).await?))
    }

    /// Adds a write of this table to a batch, so that several tables change together.
    ///
    /// # Errors
    /// Returns [`StoreError::Encode`] or [`StoreError::BadKey`].
    pub fn put_in(&self, batch: Batch, key: &str, value: &R::Value) -> Result<Batch, StoreError> {
        let key = self.key(key)?;
        let raw = encode::<R>(&key, value)?;
        Ok(batch.put(key, raw))
    }

    /// Adds a removal of this table to a batch.
    ///
    /// # Errors
    /// Returns [`StoreError::BadKey`] for an invalid key.
    pub fn delete_in(&self, batch: Batch, key: &str) -> Result<Batch, StoreError> {
        Ok(batch.delete(self.key(key)?))
    }

    /// Makes a batch conditional on a record being unchanged since it was read; with `None`, on its absence.
    ///
    /// # Errors
    /// Returns [`StoreError::BadKey`] for an invalid key.
    pub fn expect_in(&self, batch: Batch, key: &str, before: Option<&Entry<R::Value>>) -> Result<Batch, StoreError> {
        Ok(batch.expect(self.key(key)?, before.map(|entry| entry.raw.clone())))
    }

    /// Returns the store of the table, to apply a batch made with [`Table::put_in`].
    #[must_use]
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    fn key(&self, key: &str) -> Result<Bytes, StoreError> {
        let full = format!("{}/{key}", R::TABLE);
        if key.is_empty() || full.len() > KEY_BYTES_MAX {
            return Err(StoreError::BadKey { table: R::TABLE, key: key.chars().take(60).collect() });
        }
        Ok(full.into())
    }
}

fn encode<R: Record>(key: &Bytes, value: &R::Value) -> Result<Bytes, StoreError> {
    record::encode::<R>(value).map_err(|source| StoreError::Encode { key: key.clone(), source: Arc::new(source) })
}

/// Returns the key of an entry inside its table.
fn name_of<R: Record>(key: &Bytes) -> String {
    String::from_utf8_lossy(key.get(R::TABLE.len() + 1..).unwrap_or_default()).into_owned()
}

fn listing<R: Record>(entries: Vec<(Bytes, Bytes)>) -> Listing<R::Value> {
    let mut listing = Listing { records: Vec::new(), unreadable: Vec::new() };
    for (key, raw) in entries {
        let name = name_of::<R>(&key);
        match record::decode::<R>(&raw) {
            Ok(value) => listing.records.push((name, value)),
            Err(reason) => listing.unreadable.push((name, reason)),
        }
    }
    listing
}

fn decode<R: Record>(key: &Bytes, raw: &Bytes) -> Result<R::Value, StoreError> {
    record::decode::<R>(raw).map_err(|source| StoreError::Unreadable { key: key.clone(), source: Arc::new(source) })
}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Serialize};

    use super::*;
    use crate::MemoryStore;

    #[derive(Serialize, Deserialize)]
    struct Waves {
        heights: Vec<u32>,
    }

    #[derive(Serialize, Deserialize)]
    struct Wave {
        heights: Vec<u32>,
    }

    macro_rules! record {
        ($record:ident, $table:literal) => {
            impl Record for $record {
                type Value = Vec<u32>;
                const TABLE: &'static str = $table;

                fn from_value(value: &Vec<u32>) -> Self {
                    Self { heights: value.clone() }
                }

                fn into_value(self) -> Result<Vec<u32>, String> {
                    Ok(self.heights)
                }
            }
        };
    }
    record!(Waves, "waves");
    record!(Wave, "wave");

    fn table() -> Table<Waves> {
        Table::new(Arc::new(MemoryStore::new()))
    }

    #[tokio::test]
    async fn a_record_reads_back_and_tables_do_not_see_each_other() {
        let waves = table();
        let other: Table<Wave> = Table::new(Arc::clone(waves.store()));
        waves.put("first", &vec![1]).await.unwrap();
        other.put("s/first", &vec![2]).await.unwrap();
        assert_eq!(waves.get("first").await.unwrap(), Some(vec![1]));
        assert_eq!(waves.list().await.unwrap().records, [("first".to_owned(), vec![1])]);
        waves.delete("first").await.unwrap();
        assert_eq!(waves.get("first").await.unwrap(), None);
        assert_eq!(other.list().await.unwrap().records, [("s/first".to_owned(), vec![2])]);
    }

    #[tokio::test]
    async fn a_write_based_on_an_old_reading_is_refused() {
        let waves = table();
        waves.insert("a", &vec![1]).await.unwrap();
        assert!(waves.insert("a", &vec![9]).await.unwrap_err().is_conflict());
        let entry = waves.entry("a").await.unwrap();
        waves.put("a", &vec![2]).await.unwrap();
        assert!(waves.put_if("a", entry.as_ref(), &vec![3]).await.unwrap_err().is_conflict());
        assert_eq!(waves.get("a").await.unwrap(), Some(vec![2]));
    }

    #[tokio::test]
    async fn concurrent_updates_all_count() {
        let waves = table();
        let mut tasks = tokio::task::JoinSet::new();
        for n in 0..50 {
            let waves = waves.clone();
            tasks.spawn(async move {
                waves
                    .update::<StoreError>("sum", |value| {
                        let mut value = value.unwrap_or_default();
                        value.push(n);
                        Ok(Some(value))
                    })
                    .await
            });
        }
        for result in tasks.join_all().await {
            result.unwrap();
        }
        assert_eq!(waves.get("sum").await.unwrap().unwrap().len(), 50);
    }

    #[tokio::test]
    async fn pages_hold_every_record_once_and_read_no_others() {
        let store = Arc::new(MemoryStore::new());
        let waves: Table<Waves> = Table::new(store.clone());
        let other: Table<Wave> = Table::new(store.clone());
        for number in 0..10_u32 {
            waves.put(&format!("{number}"), &vec![number]).await.unwrap();
            other.put(&format!("{number}"), &vec![number]).await.unwrap();
        }
        store.apply(Batch::new().put("waves/4", "{}")).await.unwrap();
        assert_eq!((waves.count().await.unwrap(), other.count().await.unwrap()), (10, 10));
        for limit in [1, 3, 5, 10, 11] {
            let before = store.entries_read();
            let (mut found, mut after) = (Vec::new(), None::<String>);
            loop {
                let page = waves.page(after.as_deref(), limit).await.unwrap();
                found.extend(page.listing.records.into_iter().map(|(key, _value)| key));
                found.extend(page.listing.unreadable.into_iter().map(|(key, _reason)| key));
                assert!(found.len() as u64 <= store.entries_read() - before);
                match page.next {
                    Some(next) => after = Some(next),
                    None => break,
                }
            }
            found.sort();
            let all: Vec<String> = (0..10).map(|number| number.to_string()).collect();
            assert_eq!((found, store.entries_read() - before), (all, 10), "pages of {limit}");
        }
        let from_the_middle = waves.page(Some("7"), 2).await.unwrap();
        assert_eq!(from_the_middle.listing.records, [("8".to_owned(), vec![8]), ("9".to_owned(), vec![9])]);
    }

    #[tokio::test]
    async fn a_write_can_expect_one_that_is_not_done_yet() {
        let waves = table();
        let first = waves.put_in(Batch::new(), "a", &vec![1]).unwrap();
        let written = waves.entry_of("a", vec![1]).unwrap();
        let second = waves.expect_in(Batch::new(), "a", Some(&written)).unwrap();
        let second = waves.put_in(second, "a", &vec![2]).unwrap();
        assert!(waves.store().apply(second.clone()).await.unwrap_err().is_conflict());
        waves.store().apply(first).await.unwrap();
        waves.store().apply(second).await.unwrap();
        assert_eq!(waves.get("a").await.unwrap(), Some(vec![2]));
    }

    #[tokio::test]
    async fn a_record_of_another_shape_is_an_error_that_names_the_key_and_hides_no_other() {
        let waves = table();
        waves.put("b", &vec![2]).await.unwrap();
        waves.store().apply(Batch::new().put("waves/a", "{}")).await.unwrap();
        assert_eq!(waves.get("a").await.unwrap_err().to_string(), r#"read the record under key "waves/a""#);
        let listing = waves.list().await.unwrap();
        assert_eq!(listing.records, [("b".to_owned(), vec![2])]);
        assert_eq!(listing.unreadable.len(), 1);
        assert_eq!(listing.unreadable[0].0, "a");
        assert!(matches!(waves.get("").await, Err(StoreError::BadKey { .. })));
        assert!(matches!(waves.get(&"k".repeat(600)).await, Err(StoreError::BadKey { .. })));
    }
}
