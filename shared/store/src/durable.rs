//! The store on disk: reads from memory, writes through one thread that makes them durable in groups.
//!
//! The daemons use it through [`Store`]. The writer takes all waiting batches, checks their conditions, writes them to
//! the log ([`crate::sled_log`]) with one fsync, changes the map and only then acknowledges. So
//! one fsync serves many callers, and no reader ever sees data that a power cut could still remove.
//!
//! A log that fails is closed, reopened at the next write, and brought to the state of the map; if it is damaged it is
//! set aside and rewritten from the map. A full disk therefore fails the writes that do not fit and nothing else.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use crate::crash::{Crash, Side};
use crate::files;
use crate::folder::Folder;
use crate::health::{Health, Pulse, hang_if_asked, operation_limit};
use crate::lock::StateLock;
use crate::map::{Changes, Map, stage};
use crate::sled_log::SledLog;
use crate::{BATCH_BYTES_MAX, Batch, Scan, Store, StoreError};

/// Maximum number of batches that wait for the writer; further callers wait in [`Store::apply`]. A busy hub produces as
/// many during a few fsyncs.
const QUEUE_BATCHES_MAX: usize = 256;

/// Space in bytes that must remain on the disk after a write: sled's next segments and its snapshot, and some for other
/// processes that must write in order to free space.
const DISK_RESERVE_BYTES: u64 = 4 * 1024 * 1024;

/// State of a store when it was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Opened {
    /// The store existed.
    Existing,
    /// The store did not exist; it is empty.
    Created,
    /// The store could not be opened, was set aside and is now empty: fill it again from files and the hub, and report
    /// it.
    Rebuilt {
        /// Path of the old store, for a later analysis.
        set_aside: PathBuf,
        /// Cause for which it could not be opened.
        cause: String,
    },
}

/// A store on disk.
///
/// Dropping it waits for the accepted writes, unless one has already exceeded its deadline.
#[derive(Debug)]
pub struct SledStore {
    folder: PathBuf,
    limit: Duration,
    shared: Arc<Shared>,
    /// Queue of the writer; `None` only while dropping.
    jobs: Option<mpsc::Sender<Job>>,
    writer: Option<JoinHandle<()>>,
    _lock: StateLock,
}

/// State that the readers and the writer share.
#[derive(Debug, Default)]
struct Shared {
    map: RwLock<Map>,
    pulse: Pulse,
}

/// A batch in the queue of the writer.
#[derive(Debug)]
struct Job {
    batch: Batch,
    done: oneshot::Sender<Result<(), StoreError>>,
}

impl SledStore {
    /// Opens the store in a folder or creates it; a damaged one is set aside and replaced with an empty one.
    ///
    /// Blocks: it reads the whole store. Call it at start, before the daemon serves.
    ///
    /// # Errors
    /// Returns [`StoreError::Locked`] if another process has it open, [`StoreError::DiskFull`], or the error of the
    /// operating system.
    pub fn open(folder: &Path) -> Result<(Self, Opened), StoreError> {
        Self::open_with_reserve(folder, DISK_RESERVE_BYTES)
    }

    /// Opens a store that leaves `reserve` bytes free on the disk.
    fn open_with_reserve(folder: &Path, reserve: u64) -> Result<(Self, Opened), StoreError> {
        let folder = Folder::new(folder);
        let lock = folder.lock()?;
        let (log, map, opened) = folder.open()?;
        let shared = Arc::new(Shared { map: RwLock::new(map), ..Shared::default() });
        let path = folder.path().to_owned();
        let (sender, jobs) = mpsc::channel(QUEUE_BATCHES_MAX);
        let writer = Writer {
            folder: folder.clone(),
            log: Some(log),
            shared: Arc::clone(&shared),
            jobs,
            reserve,
            crash: Crash::from_environment(),
        };
        let thread = std::thread::Builder::new().name("store".into()).spawn(move || writer.run());
        let thread = thread.map_err(|error| folder.error("start the writer of the store", error))?;
        let limit = operation_limit();
        let store = Self { folder: path, limit, shared, jobs: Some(sender), writer: Some(thread), _lock: lock };
        Ok((store, opened))
    }
}

impl Drop for SledStore {
    fn drop(&mut self) {
        // The writer ends when the last sender is gone and the queue is empty.
        drop(self.jobs.take());
        if self.shared.pulse.has_missed() {
            // The writer may never return; it ends with the process.
            tracing::error!(folder = %self.folder.display(), "the store was not closed: its disk does not respond");
            return;
        }
        let ended = self.writer.take().map(JoinHandle::join);
        if let Some(Err(_panic)) = ended {
            tracing::error!("the writer of the store panicked");
        }
    }
}

#[async_trait]
impl Store for SledStore {
    async fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        Ok(self.shared.map.read().unwrap_or_else(PoisonError::into_inner).get(key))
    }

    async fn scan(&self, scan: Scan) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        Ok(self.shared.map.read().unwrap_or_else(PoisonError::into_inner).scan(&scan))
    }

    async fn count(&self, table: &str) -> Result<usize, StoreError> {
        Ok(self.shared.map.read().unwrap_or_else(PoisonError::into_inner).count(table))
    }

    async fn apply(&self, batch: Batch) -> Result<(), StoreError> {
        batch.check_limits()?;
        let jobs = self.jobs.as_ref().ok_or(StoreError::Closed)?;
        let (done, result) = oneshot::channel();
        let applied = async {
            jobs.send(Job { batch, done }).await.map_err(|_closed| StoreError::Closed)?;
            result.await.unwrap_or(Err(StoreError::Closed))
        };
        tokio::time::timeout(self.limit, applied).await.unwrap_or_else(|_elapsed| {
            self.shared.pulse.miss();
            Err(StoreError::Stalled { folder: self.folder.clone(), after: self.limit })
        })
    }

    fn health(&self) -> Health {
        self.shared.pulse.health()
    }
}

/// State of the only thread that writes.
struct Writer {
    folder: Folder,
    /// Log on disk; `None` after a failure, until it is reopened.
    log: Option<SledLog>,
    shared: Arc<Shared>,
    jobs: mpsc::Receiver<Job>,
    reserve: u64,
    crash: Crash,
}

impl Writer {
    fn run(mut self) {
        while let Some(first) = self.jobs.blocking_recv() {
            let group = self.group(first);
            self.commit(group);
        }
    }

    /// Returns the first batch and those that wait behind it, as many as one write may contain.
    fn group(&mut self, first: Job) -> Vec<Job> {
        let mut bytes = first.batch.bytes();
        let mut group = vec![first];
        while bytes < BATCH_BYTES_MAX && group.len() < QUEUE_BATCHES_MAX {
            let Ok(job) = self.jobs.try_recv() else { break };
            bytes += job.batch.bytes();
            group.push(job);
        }
        group
    }

    fn commit(&mut self, group: Vec<Job>) {
        let mut changes = Changes::new();
        let mut answers = Vec::with_capacity(group.len());
        {
            let map = self.shared.map.read().unwrap_or_else(PoisonError::into_inner);
            for job in group {
                answers.push((job.done, stage(&map, &mut changes, job.batch)));
            }
        }
        self.crash.at(Side::Before, &changes);
        let written = self.write(&changes);
        if written.is_ok() {
            self.crash.at(Side::After, &changes);
            self.shared.map.write().unwrap_or_else(PoisonError::into_inner).change(changes);
        }
        for (done, staged) in answers {
            // A conflict may depend on a write of the same group, so it is only true if that was written. A caller that
            // has gone needs no result.
            drop(done.send(written.clone().and(staged)));
        }
    }

    /// Makes changes durable; reopens the log first if it failed before.
    fn write(&mut self, changes: &Changes) -> Result<(), StoreError> {
        if changes.is_empty() {
            return Ok(());
        }
        hang_if_asked();
        self.check_room(changes)?;
        let map = self.shared.map.read().unwrap_or_else(PoisonError::into_inner);
        let mut log = match self.log.take() {
            Some(log) => log,
            None => self.folder.mend(&map)?,
        };
        match log.write(&map, changes) {
            Ok(()) => {
                self.log = Some(log);
                Ok(())
            }
            // Whether sled kept the changes is unknown: it is closed here, and repaired before the next write.
            Err(error) => {
                let error = error.into_io();
                tracing::error!(%error, folder = %self.folder.path().display(), "store write failed");
                Err(self.folder.error("write to the store", error))
            }
        }
    }

    /// Checks for free space before sled reaches the end of a full disk: sled survives that, but has to be reopened. A
    /// write with deletions only is always tried: it frees space, and usually fits into space that the log has already
    /// allocated.
    fn check_room(&self, changes: &Changes) -> Result<(), StoreError> {
        let bytes: usize = changes.iter().map(|(key, value)| key.len() + value.as_ref().map_or(0, Bytes::len)).sum();
        // If a file system does not report its free space, the write itself decides.
        let free = files::free_bytes(self.folder.path()).unwrap_or(u64::MAX);
        let only_deletes = changes.values().all(Option::is_none);
        if !only_deletes && free < self.reserve.saturating_add(bytes as u64) {
            return Err(StoreError::DiskFull { folder: self.folder.path().to_owned() });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// A disk so small that sled itself reaches its end.
    struct SmallDisk(tempfile::TempDir);

    impl SmallDisk {
        fn mount() -> Option<Self> {
            let folder = tempfile::tempdir().unwrap();
            let mount =
                Command::new("mount").args(["-t", "tmpfs", "-o", "size=4m", "tmpfs"]).arg(folder.path()).status();
            if !mount.as_ref().is_ok_and(std::process::ExitStatus::success) {
                eprintln!("skipped: a small file system cannot be mounted here: {mount:?}");
                return None;
            }
            Some(Self(folder))
        }
    }

    impl Drop for SmallDisk {
        fn drop(&mut self) {
            // Lazily: a process that another test starts holds the files of this one until its `exec`.
            drop(Command::new("umount").arg("--lazy").arg(self.0.path()).status());
        }
    }

    #[tokio::test]
    async fn a_disk_that_fills_up_inside_sled_costs_only_the_refused_writes() {
        let Some(disk) = SmallDisk::mount() else { return };
        let folder = disk.0.path().join("store");
        let (store, _) = SledStore::open_with_reserve(&folder, 0).unwrap();
        let ballast = disk.0.path().join("ballast");
        std::fs::write(&ballast, vec![1; 2 << 20]).unwrap();
        let mut acknowledged = Vec::new();
        let mut refused = 0;
        for number in 0..80_u32 {
            let key = format!("{number:03}");
            match store.apply(Batch::new().put(key.clone(), vec![7; 60_000])).await {
                Ok(()) => acknowledged.push(key),
                Err(error) => {
                    assert!(error.is_disk_full(), "{error:?}");
                    refused += 1;
                }
            }
        }
        assert!(refused > 0 && !acknowledged.is_empty());
        assert_eq!(store.scan(Scan::prefix("")).await.unwrap().len(), acknowledged.len());
        std::fs::remove_file(&ballast).unwrap();
        store.apply(Batch::new().put("room", "again")).await.unwrap();
        acknowledged.push("room".into());
        drop(store);
        let (store, opened) = SledStore::open_with_reserve(&folder, 0).unwrap();
        assert_eq!(opened, Opened::Existing);
        let found = store.scan(Scan::prefix("")).await.unwrap();
        assert_eq!(found.into_iter().map(|(key, _)| key).collect::<Vec<_>>(), acknowledged);
    }
}
