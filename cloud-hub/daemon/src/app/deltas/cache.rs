//! Deltas on disk: a folder with a quota, and the index of what is in it.
//!
//! Used by [`super::Deltas`]. The name of a file says what it is: the digest of the file that it makes, the digest of its base
//! (`whole` without one) and its own. The index is read from the names at the start, so no record can contradict the folder. A
//! device checks every delta that it fetches, so a damaged one costs bytes and nothing else.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use bytes::Bytes;
use store::files::{self, FileError};
use types::Digest;

/// Word in a name that stands for no base.
const NO_BASE: &str = "whole";

/// Ending of a delta that is being made; removed when the hub starts.
const UNFINISHED: &str = "making";

/// Files between which a delta is made, ordered by the new file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pair {
    /// Digest of the new file.
    pub target: Digest,
    /// Digest of the file that a device has; `None` for the compressed new file.
    pub base: Option<Digest>,
}

/// Delta in the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Files that it is between.
    pub pair: Pair,
    /// Digest of the delta.
    pub digest: Digest,
    /// Length of the delta in bytes.
    pub bytes: u64,
}

#[derive(Debug, Default)]
struct Index {
    entries: BTreeMap<Pair, (Entry, u64)>,
    by_digest: HashMap<Digest, Pair>,
    bytes: u64,
    /// Counts the uses; the entry with the lowest count was not used for the longest time.
    uses: u64,
}

/// Folder of deltas.
#[derive(Debug)]
pub(super) struct Cache {
    folder: PathBuf,
    bytes_max: u64,
    index: Mutex<Index>,
}

impl Cache {
    /// Opens the folder, removes what is no delta or over the quota, and reads the names.
    ///
    /// # Errors
    /// When the folder cannot be made or listed.
    pub(super) fn open(folder: &Path, bytes_max: u64) -> Result<Self, FileError> {
        files::create_dir(folder)?;
        let failed = |source| FileError::Io { attempt: "list folder", path: folder.to_owned(), source };
        let mut found: Vec<(SystemTime, Entry)> = Vec::new();
        for entry in fs::read_dir(folder).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().into_string().unwrap_or_default();
            match (parse(&name), entry.metadata()) {
                (Some((pair, digest)), Ok(metadata)) => {
                    let written = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                    found.push((written, Entry { pair, digest, bytes: metadata.len() }));
                }
                _ => files::remove_file(&entry.path())?,
            }
        }
        found.sort_by_key(|(written, entry)| (*written, entry.digest));
        let cache = Self { folder: folder.to_owned(), bytes_max, index: Mutex::default() };
        for (_written, entry) in found {
            cache.index().add(entry);
        }
        cache.keep_quota(None);
        Ok(cache)
    }

    /// Returns the path for a delta that is being made.
    pub(super) fn unfinished(&self) -> PathBuf {
        self.folder.join(format!("{}.{UNFINISHED}", uuid::Uuid::new_v4()))
    }

    /// Takes a finished delta in; those that were not used for the longest time make room.
    ///
    /// # Errors
    /// When it cannot be moved to its name.
    pub(super) fn insert(&self, entry: Entry, made: &Path) -> Result<(), FileError> {
        let path = self.path(&entry);
        fs::rename(made, &path).map_err(|source| FileError::Io { attempt: "move delta to", path, source })?;
        files::sync_dir(&self.folder)?;
        self.index().add(entry);
        self.keep_quota(Some(entry.pair));
        Ok(())
    }

    /// Returns a delta and counts its use.
    pub(super) fn find(&self, pair: &Pair) -> Option<Entry> {
        let mut index = self.index();
        index.uses += 1;
        let uses = index.uses;
        let (entry, used) = index.entries.get_mut(pair)?;
        *used = uses;
        Some(*entry)
    }

    /// Returns the delta with this digest.
    pub(super) fn by_digest(&self, digest: &Digest) -> Option<Entry> {
        let index = self.index();
        index.by_digest.get(digest).and_then(|pair| index.entries.get(pair)).map(|(entry, _used)| *entry)
    }

    /// Returns the deltas to a file.
    pub(super) fn to_file(&self, target: &Digest) -> Vec<Entry> {
        let index = self.index();
        let from = Pair { target: *target, base: None };
        let found = index.entries.range(from..).take_while(|(pair, _entry)| pair.target == *target);
        found.map(|(_pair, (entry, _used))| *entry).collect()
    }

    /// Returns every delta, ordered by the new file.
    pub(super) fn all(&self) -> Vec<Entry> {
        self.index().entries.values().map(|(entry, _used)| *entry).collect()
    }

    /// Removes a delta. A device that is fetching it fetches the whole file instead.
    pub(super) fn remove(&self, entry: &Entry) {
        self.index().remove(&entry.pair);
        if let Err(error) = files::remove_file(&self.path(entry)) {
            tracing::warn!(error = telemetry::chain(&error), "a delta stays on the disk until the next start");
        }
    }

    /// Reads a part of a delta; fewer bytes at its end.
    ///
    /// # Errors
    /// When the disk fails.
    pub(super) fn read(&self, entry: &Entry, offset: u64, length: u64) -> io::Result<Bytes> {
        let mut file = fs::File::open(self.path(entry))?;
        let offset = offset.min(entry.bytes);
        let length = length.min(entry.bytes - offset);
        file.seek(SeekFrom::Start(offset))?;
        let mut bytes = Vec::with_capacity(usize::try_from(length).map_err(io::Error::other)?);
        file.take(length).read_to_end(&mut bytes)?;
        Ok(bytes.into())
    }

    fn path(&self, entry: &Entry) -> PathBuf {
        let base = entry.pair.base.map_or_else(|| NO_BASE.to_owned(), |base| base.to_hex());
        self.folder.join(format!("{}-{base}-{}", entry.pair.target.to_hex(), entry.digest.to_hex()))
    }

    /// Removes what was not used for the longest time until the quota is kept; `keep` is left to the last.
    fn keep_quota(&self, keep: Option<Pair>) {
        loop {
            let oldest = {
                let index = self.index();
                telemetry::metrics::delta_cache_bytes(index.bytes);
                if index.bytes <= self.bytes_max {
                    return;
                }
                let oldest = index.entries.values().min_by_key(|(entry, used)| (Some(entry.pair) == keep, *used));
                oldest.map(|(entry, _used)| *entry)
            };
            let Some(oldest) = oldest else { return };
            self.remove(&oldest);
        }
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Index {
    fn add(&mut self, entry: Entry) {
        self.remove(&entry.pair);
        self.uses += 1;
        self.bytes = self.bytes.saturating_add(entry.bytes);
        self.by_digest.insert(entry.digest, entry.pair);
        self.entries.insert(entry.pair, (entry, self.uses));
    }

    fn remove(&mut self, pair: &Pair) {
        if let Some((entry, _used)) = self.entries.remove(pair) {
            self.bytes = self.bytes.saturating_sub(entry.bytes);
            self.by_digest.remove(&entry.digest);
        }
    }
}

/// Reads the name of a delta.
fn parse(name: &str) -> Option<(Pair, Digest)> {
    let digest = |hex: &str| format!("sha256:{hex}").parse::<Digest>().ok();
    let mut parts = name.split('-');
    let (target, base, own) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    let base = if base == NO_BASE { None } else { Some(digest(base)?) };
    Some((Pair { base, target: digest(target)? }, digest(own)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(cache: &Cache, base: Option<&str>, target: &str, content: &[u8]) -> Entry {
        let made = cache.unfinished();
        fs::write(&made, content).unwrap();
        let pair = Pair { base: base.map(|base| Digest::of(base.as_bytes())), target: Digest::of(target.as_bytes()) };
        let entry = Entry { pair, digest: Digest::of(content), bytes: content.len() as u64 };
        cache.insert(entry, &made).unwrap();
        entry
    }

    fn names(folder: &Path) -> usize {
        fs::read_dir(folder).unwrap().count()
    }

    #[test]
    fn deltas_are_found_again_after_a_restart_and_what_is_none_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(folder.path(), 1000).unwrap();
        let (a, b) = (entry(&cache, Some("1"), "2", b"delta"), entry(&cache, None, "2", b"compressed"));
        fs::write(cache.unfinished(), b"half").unwrap();
        fs::write(folder.path().join("notes.txt"), b"?").unwrap();
        fs::write(folder.path().join("whole-whole-whole"), b"?").unwrap();
        drop(cache);
        let cache = Cache::open(folder.path(), 1000).unwrap();
        assert_eq!((cache.find(&a.pair), cache.find(&b.pair)), (Some(a), Some(b)));
        assert_eq!(cache.by_digest(&a.digest), Some(a));
        assert_eq!((cache.to_file(&a.pair.target), cache.to_file(&Digest::of(b"1"))), (vec![b, a], Vec::new()));
        assert_eq!(cache.read(&b, 4, 100).unwrap(), Bytes::from_static(b"ressed"));
        assert_eq!(cache.read(&b, u64::MAX, 1).unwrap(), Bytes::new());
        assert_eq!(names(folder.path()), 2);
    }

    #[test]
    fn the_quota_is_kept_by_removing_what_was_not_used_for_the_longest_time() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(folder.path(), 30).unwrap();
        let first = entry(&cache, Some("1"), "2", &[1; 10]);
        let second = entry(&cache, Some("2"), "3", &[2; 10]);
        let third = entry(&cache, Some("3"), "4", &[3; 10]);
        assert!(cache.find(&first.pair).is_some());
        let fourth = entry(&cache, Some("4"), "5", &[4; 15]);
        assert_eq!(cache.find(&second.pair), None, "the oldest use");
        assert_eq!(cache.find(&third.pair), None, "the next one, until there is room");
        assert!(cache.find(&first.pair).is_some() && cache.find(&fourth.pair).is_some());
        // One that is over the quota by itself is not kept either.
        let large = entry(&cache, Some("5"), "6", &[5; 31]);
        assert_eq!((cache.find(&large.pair), names(folder.path())), (None, 0));
    }

    #[test]
    fn a_smaller_quota_holds_from_the_next_start() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(folder.path(), 100).unwrap();
        for number in 0..5 {
            entry(&cache, Some("1"), &number.to_string(), &[number; 10]);
        }
        drop(cache);
        let cache = Cache::open(folder.path(), 25).unwrap();
        assert_eq!((cache.all().len(), names(folder.path())), (2, 2));
    }

    #[test]
    fn the_same_delta_made_again_is_counted_once() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(folder.path(), 15).unwrap();
        let first = entry(&cache, Some("1"), "2", &[1; 10]);
        let again = entry(&cache, Some("1"), "2", &[1; 10]);
        assert_eq!(first, again);
        assert_eq!(cache.find(&first.pair), Some(first));
    }
}
