//! State of both stores: an ordered map in memory, with its conditions, scans and limits.
//!
//! Does no I/O. [`crate::MemoryStore`] is only this map; [`crate::SledStore`] adds a log that makes it durable and
//! changes the map only after the log is on disk.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;

use crate::{Batch, SCAN_ENTRIES_MAX, STORE_BYTES_MAX, Scan, StoreError};

/// Changes of a batch: the last value of each key, `None` for removed.
pub(crate) type Changes = BTreeMap<Bytes, Option<Bytes>>;

/// An ordered map that knows its size.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Map {
    entries: BTreeMap<Bytes, Bytes>,
    bytes: u64,
    /// Number of entries of each table, by the key up to its first slash; a table without entries is not listed.
    tables: BTreeMap<Bytes, usize>,
}

impl Map {
    pub(crate) fn get(&self, key: &[u8]) -> Option<Bytes> {
        self.entries.get(key).cloned()
    }

    pub(crate) fn scan(&self, scan: &Scan) -> Vec<(Bytes, Bytes)> {
        let from = match &scan.after {
            Some(after) if *after >= scan.prefix => Bound::Excluded(after.clone()),
            Some(_) | None => Bound::Included(scan.prefix.clone()),
        };
        let entries = self.entries.range((from, Bound::Unbounded));
        let entries = entries.take_while(|(key, _)| key.starts_with(&scan.prefix));
        entries.take(scan.limit.min(SCAN_ENTRIES_MAX)).map(|(key, value)| (key.clone(), value.clone())).collect()
    }

    /// Returns the number of entries whose keys begin with `<table>/`, without looking at them.
    pub(crate) fn count(&self, table: &str) -> usize {
        self.tables.get(table.as_bytes()).copied().unwrap_or(0)
    }

    /// Returns the size of keys and values in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn entries(&self) -> impl Iterator<Item = (&Bytes, &Bytes)> {
        self.entries.iter()
    }

    /// Sets or removes each key.
    pub(crate) fn change(&mut self, changes: Changes) {
        for (key, value) in changes {
            self.bytes -= self.entries.get(&key).map_or(0, |old| size(&key, old));
            match value {
                Some(value) => {
                    self.bytes += size(&key, &value);
                    if self.entries.insert(key.clone(), value).is_none() {
                        self.added(&key);
                    }
                }
                None => {
                    if self.entries.remove(&key).is_some() {
                        self.removed(&key);
                    }
                }
            }
        }
    }

    fn added(&mut self, key: &Bytes) {
        let Some(table) = table_of(key) else { return };
        match self.tables.get_mut(table) {
            Some(count) => *count += 1,
            None => {
                self.tables.insert(Bytes::copy_from_slice(table), 1);
            }
        }
    }

    fn removed(&mut self, key: &Bytes) {
        let Some(table) = table_of(key) else { return };
        if let Some(count) = self.tables.get_mut(table) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.tables.remove(table);
            }
        }
    }
}

/// Returns the table of a key: the part before its first slash.
fn table_of(key: &[u8]) -> Option<&[u8]> {
    key.iter().position(|byte| *byte == b'/').and_then(|slash| key.get(..slash))
}

/// Checks a batch against the map with the changes of the batches before it in the same group, and adds its changes.
///
/// # Errors
/// Returns [`StoreError::Conflict`] or [`StoreError::Full`]; `pending` is then unchanged.
pub(crate) fn stage(map: &Map, pending: &mut Changes, batch: Batch) -> Result<(), StoreError> {
    for (key, wanted) in &batch.conditions {
        let found = pending.get(key).cloned().unwrap_or_else(|| map.get(key));
        if found != *wanted {
            return Err(StoreError::Conflict { key: key.clone() });
        }
    }
    // Ordered: the last operation on a key wins.
    let changes: Changes = batch.operations.into_iter().collect();
    let bytes = size_after(map, pending, &changes);
    // A batch that does not enlarge a full store may free space, so it is never refused.
    if bytes > STORE_BYTES_MAX && bytes > size_after(map, pending, &Changes::new()) {
        return Err(StoreError::Full { bytes, max: STORE_BYTES_MAX });
    }
    pending.extend(changes);
    Ok(())
}

/// Returns the size of keys and values in bytes after the pending changes and these.
fn size_after(map: &Map, pending: &Changes, changes: &Changes) -> u64 {
    let mut bytes = map.bytes;
    for (key, value) in pending.iter().filter(|(key, _)| !changes.contains_key(*key)).chain(changes) {
        bytes -= map.entries.get(key).map_or(0, |old| size(key, old));
        bytes += value.as_ref().map_or(0, |value| size(key, value));
    }
    bytes
}

fn size(key: &Bytes, value: &Bytes) -> u64 {
    (key.len() + value.len()) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(map: &mut Map, batch: Batch) -> Result<(), StoreError> {
        let mut changes = Changes::new();
        stage(map, &mut changes, batch)?;
        map.change(changes);
        Ok(())
    }

    #[test]
    fn the_size_follows_every_change() {
        let mut map = Map::default();
        applied(&mut map, Batch::new().put("key", "value").put("key", "v")).unwrap();
        assert_eq!(map.bytes, 4);
        applied(&mut map, Batch::new().put("key", "val").put("k", "")).unwrap();
        assert_eq!(map.bytes, 7);
        applied(&mut map, Batch::new().delete("key").delete("absent").delete("k")).unwrap();
        assert_eq!(map, Map::default());
    }

    #[test]
    fn entries_are_counted_by_table_through_every_change() {
        let mut map = Map::default();
        applied(&mut map, Batch::new().put("a/1", "x").put("a/2/3", "x").put("ab/1", "x").put("none", "x")).unwrap();
        assert_eq!([map.count("a"), map.count("ab"), map.count("none"), map.count("")], [2, 1, 0, 0]);
        applied(&mut map, Batch::new().put("a/1", "y").delete("ab/1").delete("ab/2").delete("none")).unwrap();
        assert_eq!([map.count("a"), map.count("ab")], [2, 0]);
        applied(&mut map, Batch::new().delete("a/1").delete("a/2/3")).unwrap();
        assert_eq!(map, Map::default(), "a table without entries takes no memory");
    }

    #[test]
    fn a_condition_sees_the_batches_before_it_in_the_same_group() {
        let map = Map::default();
        let mut pending = Changes::new();
        let take = || Batch::new().expect("token", None).put("token", "used");
        stage(&map, &mut pending, take()).unwrap();
        assert!(stage(&map, &mut pending, take()).unwrap_err().is_conflict());
    }

    #[test]
    fn a_full_store_refuses_growth_but_lets_itself_be_emptied() {
        let mut map = Map::default();
        applied(&mut map, Batch::new().put("key", "value")).unwrap();
        map.bytes = STORE_BYTES_MAX + 8;
        assert!(matches!(applied(&mut map, Batch::new().put("more", "x")), Err(StoreError::Full { .. })));
        applied(&mut map, Batch::new().put("key", "val")).unwrap();
        applied(&mut map, Batch::new().delete("key")).unwrap();
        assert!(map.get(b"key").is_none());
    }

    #[test]
    fn a_scan_stays_under_its_prefix_wherever_it_continues() {
        let mut map = Map::default();
        applied(&mut map, Batch::new().put("a/1", "").put("b/1", "").put("b/2", "").put("c", "")).unwrap();
        let keys = |scan: Scan| map.scan(&scan).into_iter().map(|(key, _)| key).collect::<Vec<_>>();
        assert_eq!(keys(Scan::prefix("b/")), ["b/1", "b/2"]);
        assert_eq!(keys(Scan::prefix("b/").after("b/1")), ["b/2"]);
        assert_eq!(keys(Scan::prefix("b/").after("a/1")), ["b/1", "b/2"]);
        assert_eq!(keys(Scan::prefix("b/").after("z")), Vec::<Bytes>::new());
        assert_eq!(keys(Scan::prefix("").limit(1)), ["a/1"]);
    }
}
