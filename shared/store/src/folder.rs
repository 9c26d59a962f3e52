//! The folder of a store on disk and the files beside it: its lock, an unfinished successor, and databases that were
//! set aside.
//!
//! Used by [`crate::durable`] to open, to repair after a failure, and to rewrite a database that has grown. The names
//! beside `<folder>`: `<folder>.lock`, `<folder>.reserve`, `<folder>.new` (complete once `<folder>` was moved away),
//! `<folder>.broken-<n>`.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::StoreError;
use crate::durable::Opened;
use crate::files::{self, FileError, is_disk_full};
use crate::lock::{LockError, StateLock};
use crate::map::Map;
use crate::sled_log::{LogError, SledLog, remove_half_snapshots};

/// Maximum number of broken databases that are kept for analysis; the oldest is removed first.
const SET_ASIDE_MAX: u32 = 3;

/// Minimum size in bytes of a database that is rewritten: sled's own overhead is of that order.
const COMPACT_BYTES_MIN: u64 = 64 * 1024 * 1024;

/// Ratio of size on disk to content from which a database is rewritten at open; sled levels off at about eight.
const COMPACT_FACTOR: u64 = 16;

/// Size in bytes of the file that reserves space on the disk for opening the store: after a crash sled writes some
/// segments of 512 KiB.
const RESERVE_BYTES: u64 = 4 * 1024 * 1024;

/// Ratio of free space to the reserve that is required to create the reserve: a tiny disk needs the space otherwise.
const RESERVE_FREE_FACTOR: u64 = 4;

/// Paths of a store.
#[derive(Debug, Clone)]
pub(crate) struct Folder {
    path: PathBuf,
}

impl Folder {
    pub(crate) fn new(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns an error of the operating system for this folder.
    pub(crate) fn error(&self, attempt: &'static str, source: io::Error) -> StoreError {
        if is_disk_full(&source) {
            return StoreError::DiskFull { folder: self.path.clone() };
        }
        StoreError::Io { attempt, folder: self.path.clone(), source: Arc::new(source) }
    }

    /// Locks the store for this process.
    pub(crate) fn lock(&self) -> Result<StateLock, StoreError> {
        let parent = self.path.parent().unwrap_or(Path::new("."));
        files::create_dir(parent).map_err(|error| self.file_error(error))?;
        StateLock::acquire_file(&self.beside(".lock")).map_err(|error| match error {
            LockError::Held { .. } => StoreError::Locked { folder: self.path.clone(), source: Arc::new(error) },
            LockError::Io { path: _, source } => self.error("lock the store", source),
            // A lock file of the store has no schema.
            LockError::Newer(newer) => self.error("lock the store", io::Error::other(newer)),
        })
    }

    /// Opens the database, creates it, or sets a damaged one aside and creates it. On a full disk it uses the reserve.
    pub(crate) fn open(&self) -> Result<(SledLog, Map, Opened), StoreError> {
        let opened = match self.open_with_room() {
            Err(StoreError::DiskFull { .. }) if self.release_reserve() => {
                tracing::warn!(folder = %self.path.display(), "the disk is full: opening the store with its reserved space");
                self.open_with_room()
            }
            opened => opened,
        };
        if opened.is_ok() {
            self.keep_reserve();
        }
        opened
    }

    /// Removes the reserve; returns whether there was one.
    fn release_reserve(&self) -> bool {
        fs::remove_file(self.beside(".reserve")).is_ok()
    }

    /// Creates the reserve if it is missing and fits. Without it a full disk prevents opening the store after a crash.
    fn keep_reserve(&self) {
        let (path, parent) = (self.beside(".reserve"), self.path.parent().unwrap_or(Path::new(".")));
        let has_room = files::free_bytes(parent).is_ok_and(|free| free / RESERVE_FREE_FACTOR >= RESERVE_BYTES);
        if path.exists() || !has_room {
            return;
        }
        let mut options = fs::File::options();
        options.write(true).create_new(true).mode(0o600);
        let made = options.open(&path).and_then(|file| {
            let flags = rustix::fs::FallocateFlags::empty();
            rustix::fs::fallocate(&file, flags, 0, RESERVE_BYTES).map_err(io::Error::from)
        });
        if let Err(error) = made {
            tracing::debug!(%error, "no space is reserved for opening the store on a full disk");
            drop(fs::remove_file(&path));
        }
    }

    fn open_with_room(&self) -> Result<(SledLog, Map, Opened), StoreError> {
        self.finish_replacement()?;
        let is_new = !self.path.join("db").exists();
        match self.open_or_retry() {
            Ok((log, map)) if self.is_overgrown(&log, &map) => {
                drop(log);
                let (log, outgrown) = self.replace(&map)?;
                remove_folder(&outgrown).map_err(|error| self.error("remove the outgrown store", error))?;
                Ok((log, map, Opened::Existing))
            }
            Ok((log, map)) => Ok((log, map, if is_new { Opened::Created } else { Opened::Existing })),
            Err(LogError::Io(error)) => Err(self.error("open the store", error)),
            Err(LogError::Broken(cause)) => {
                let set_aside = self.set_aside()?;
                tracing::error!(cause, set_aside = %set_aside.display(), "store did not open; replaced it with an empty one");
                let (log, map) =
                    SledLog::open(&self.path).map_err(|error| self.error("open the store", error.into_io()))?;
                Ok((log, map, Opened::Rebuilt { set_aside, cause }))
            }
        }
    }

    /// Reopens the database after a failure and brings it to the state of the map; a damaged one is rewritten.
    pub(crate) fn mend(&self, map: &Map) -> Result<SledLog, StoreError> {
        let mended = self.open_or_retry().and_then(|(mut log, found)| log.reconcile(&found, map).map(|()| log));
        match mended {
            Ok(log) => {
                tracing::info!(folder = %self.path.display(), "store opened again after a failure");
                Ok(log)
            }
            Err(LogError::Io(error)) => Err(self.error("open the store again", error)),
            Err(LogError::Broken(cause)) => {
                tracing::error!(cause, folder = %self.path.display(), "store is damaged; rewriting it from memory");
                let (log, _set_aside) = self.replace(map)?;
                Ok(log)
            }
        }
    }

    fn open_or_retry(&self) -> Result<(SledLog, Map), LogError> {
        match SledLog::open(&self.path) {
            Err(LogError::Broken(cause)) if remove_half_snapshots(&self.path) => {
                tracing::warn!(cause, "removed a half-written snapshot; opening the store again");
                SledLog::open(&self.path)
            }
            result => result,
        }
    }

    fn is_overgrown(&self, log: &SledLog, map: &Map) -> bool {
        let on_disk = log.bytes_on_disk();
        on_disk > COMPACT_BYTES_MIN && on_disk / COMPACT_FACTOR > map.bytes()
    }

    /// Writes a new database with these entries, sets the old one aside and opens the new one.
    ///
    /// A power cut leaves the old one, or the finished new one for [`Folder::finish_replacement`].
    fn replace(&self, map: &Map) -> Result<(SledLog, PathBuf), StoreError> {
        let successor = self.beside(".new");
        remove_folder(&successor).map_err(|error| self.error("replace the store", error))?;
        if let Err(error) = SledLog::write_new(&successor, map) {
            // Probably there is no space for both: remove the files of the attempt. Remaining ones are removed later.
            drop(remove_folder(&successor));
            return Err(self.error("replace the store", error.into_io()));
        }
        let set_aside = self.set_aside()?;
        self.finish_replacement()?;
        let (log, _) = SledLog::open(&self.path).map_err(|error| self.error("open the store", error.into_io()))?;
        Ok((log, set_aside))
    }

    /// Renames a finished successor to the name of a database that was moved away; removes an unfinished one.
    fn finish_replacement(&self) -> Result<(), StoreError> {
        let successor = self.beside(".new");
        let done = if self.path.exists() {
            remove_folder(&successor)
        } else {
            match fs::rename(&successor, &self.path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                result => result,
            }
        };
        done.map_err(|error| self.error("replace the store", error))?;
        self.sync_parent()
    }

    /// Moves the database away under the first free number, and keeps the newest few of those.
    fn set_aside(&self) -> Result<PathBuf, StoreError> {
        let failed = |error| self.error("set the store aside", error);
        let aside = |number: u32| self.beside(&format!(".broken-{number}"));
        if aside(SET_ASIDE_MAX).exists() {
            remove_folder(&aside(1)).map_err(failed)?;
            for number in (2..=SET_ASIDE_MAX).filter(|number| aside(*number).exists()) {
                fs::rename(aside(number), aside(number - 1)).map_err(failed)?;
            }
        }
        let free = (1..=SET_ASIDE_MAX).find(|number| !aside(*number).exists()).unwrap_or(SET_ASIDE_MAX);
        fs::rename(&self.path, aside(free)).map_err(failed)?;
        self.sync_parent()?;
        Ok(aside(free))
    }

    fn sync_parent(&self) -> Result<(), StoreError> {
        files::sync_dir(self.path.parent().unwrap_or(Path::new("."))).map_err(|error| self.file_error(error))
    }

    fn file_error(&self, error: FileError) -> StoreError {
        match error {
            FileError::DiskFull { .. } => StoreError::DiskFull { folder: self.path.clone() },
            FileError::Io { attempt, path: _, source } => self.error(attempt, source),
            FileError::Exposed { .. } | FileError::TooLarge { .. } => {
                self.error("open the store", io::Error::other(error))
            }
        }
    }

    fn beside(&self, suffix: &str) -> PathBuf {
        let mut name = OsString::from(self.path.file_name().unwrap_or_default());
        name.push(suffix);
        self.path.with_file_name(name)
    }
}

fn remove_folder(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::map::Changes;

    fn some_records() -> Map {
        let record = |n: u8| (Bytes::from(vec![b'r', n]), Some(Bytes::from(vec![n; 9000])));
        let mut map = Map::default();
        map.change((0..50).map(record).collect::<Changes>());
        map
    }

    fn folder_with(map: &Map) -> (tempfile::TempDir, Folder) {
        let parent = tempfile::tempdir().unwrap();
        let folder = Folder::new(&parent.path().join("store"));
        SledLog::write_new(folder.path(), map).unwrap();
        (parent, folder)
    }

    fn content(folder: &Folder) -> (Map, Opened) {
        let (_log, map, opened) = folder.open().unwrap();
        (map, opened)
    }

    #[test]
    fn a_log_that_is_damaged_while_running_is_written_anew_from_memory() {
        let map = some_records();
        let (_parent, folder) = folder_with(&map);
        fs::write(folder.path().join("db"), vec![0x5a; 1 << 20]).unwrap();
        drop(folder.mend(&map).unwrap());
        assert_eq!(content(&folder), (map, Opened::Existing));
        assert!(folder.beside(".broken-1").exists());
    }

    #[test]
    fn a_log_that_kept_a_refused_write_is_brought_back_to_what_was_acknowledged() {
        let map = some_records();
        let (_parent, folder) = folder_with(&map);
        let (mut log, found) = SledLog::open(folder.path()).unwrap();
        let refused = [(Bytes::from("refused"), Some(Bytes::from("x"))), (Bytes::from(vec![b'r', 1]), None)];
        log.write(&found, &refused.into()).unwrap();
        drop(log);
        drop(folder.mend(&map).unwrap());
        assert_eq!(content(&folder), (map, Opened::Existing));
    }

    #[test]
    fn a_replacement_that_was_cut_short_ends_with_the_old_records_or_the_new() {
        let map = some_records();
        let (_parent, folder) = folder_with(&map);
        // Interrupted while the successor was written.
        fs::create_dir(folder.beside(".new")).unwrap();
        fs::write(folder.beside(".new").join("db"), "half").unwrap();
        assert_eq!(content(&folder), (map.clone(), Opened::Existing));
        assert!(!folder.beside(".new").exists());
        // Interrupted between the two renames.
        SledLog::write_new(&folder.beside(".new"), &map).unwrap();
        folder.set_aside().unwrap();
        assert_eq!(content(&folder), (map, Opened::Existing));
    }

    #[test]
    fn replacing_an_outgrown_database_keeps_its_records() {
        let map = some_records();
        let (_parent, folder) = folder_with(&map);
        let (log, set_aside) = folder.replace(&map).unwrap();
        drop(log);
        assert!(set_aside.join("db").exists());
        assert_eq!(content(&folder), (map, Opened::Existing));
    }
}
