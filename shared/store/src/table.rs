//! Typed values in a store, each stored as its [`Record`] under a key of one table.
//!
//! Used by the daemons; each table has one owner in the code.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use bytes::Bytes;

use crate::aside::entries;
use crate::record::{self, Record};
use crate::{Batch, KEY_BYTES_MAX, Store, StoreError, Unreadable};

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

    /// Returns the records whose keys begin with `prefix`; an unreadable one does not hide the others.
    ///
    /// # Errors
    /// Returns the store's errors.
    pub async fn list_under(&self, prefix: &str) -> Result<Listing<R::Value>, StoreError> {
        let mut listing = Listing { records: Vec::new(), unreadable: Vec::new() };
        for (key, raw) in entries(self.store.as_ref(), &format!("{}/{prefix}", R::TABLE)).await? {
            let name = String::from_utf8_lossy(&key[R::TABLE.len() + 1..]).into_owned();
            match record::decode::<R>(&raw) {
                Ok(value) => listing.records.push((name, value)),
                Err(reason) => listing.unreadable.push((name, reason)),
            }
        }
        Ok(listing)
    }

    /// Adds a write of this table to a batch, so that several tables change together.
    ///
    /// # Errors
    /// Returns [`StoreError::Encode`] or [`StoreError::BadKey`].
    pub fn put_in(&self, batch: Batch, key: &str, value: &R::Value) -> Result<Batch, StoreError> {
        let key = self.key(key)?;
        let raw = record::encode::<R>(value)
            .map_err(|source| StoreError::Encode { key: key.clone(), source: Arc::new(source) })?;
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
