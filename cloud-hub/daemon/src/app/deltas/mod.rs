//! Deltas between the files of versions: made in the background, kept in a cache, served to devices.
//!
//! Fed by publications ([`Deltas::prepare`]) and by devices that ask ([`Deltas::choose`]); [`Deltas::run`] makes one delta at
//! a time in a child process ([`maker`]) and keeps it in a folder with a quota ([`cache`]). A delta is served only while its new
//! file is one that devices may fetch. Deliberately absent: trust. A device checks every result against its signed digest.

mod cache;
mod choose;
mod maker;
mod plan;
mod queue;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use service::stop::Stop;
use store::files::{self, FileError};
use tokio::sync::{Notify, watch};
use types::{DeviceId, Digest, ModelName, Version};

use crate::api::FilesView;
use crate::app::fleet::Fleet;
use crate::app::registry::Registry;
use crate::app::registry::health::SendError;
use crate::config::DeltasTable;
use crate::storage::folder::Folder;

use cache::Cache;
use maker::{Made, MakeError, Order};
use queue::{Job, Queue};

pub use cache::{Entry, Pair};
pub use choose::Choice;
pub use maker::{VERB, Work, WorkError, work};

/// Minimum length in bytes of a file for which deltas are made: below it a round trip costs more than the bytes.
pub const FILE_BYTES_MIN: u64 = 1024;

/// Maximum size of a delta in per cent of what would be sent without it: the compressed file, or the file.
///
/// What saves less is not worth the place in the cache and the work of the devices.
const WORTH_PERCENT: u64 = 95;

/// Maximum number of pairs that are remembered as not worth a delta; when there are more, all are forgotten and tried again.
const SETTLED_MAX: usize = 4096;

/// Time after which a delta that was not made, for example on a full disk, is tried again when a device asks.
const TRY_AGAIN_AFTER: Duration = Duration::from_secs(600);

/// Reason for which a pair has no delta.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Settled {
    /// It would save too little.
    Useless,
    /// Making it would take more memory than the config allows.
    TooLarge,
    /// Making it failed; the log has the reason.
    Failed,
}

impl Settled {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Useless => "useless",
            Self::TooLarge => "too-large",
            Self::Failed => "failed",
        }
    }
}

/// Maker, cache and server of deltas.
#[derive(Debug)]
pub struct Deltas {
    registry: Arc<Registry>,
    fleet: Arc<Fleet>,
    folder: Folder,
    config: DeltasTable,
    cache: Cache,
    state: Mutex<State>,
    /// Wakes the job when there is something to make.
    work: Notify,
    /// Counts the deltas that were made or given up; requests wait for it.
    finished: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    queue: Queue,
    /// Delta that is being made.
    making: Option<Pair>,
    settled: HashMap<Pair, (Settled, Instant)>,
}

impl Deltas {
    /// Opens the cache in the state folder. A quota of zero removes every delta and makes none.
    ///
    /// # Errors
    /// When the folder cannot be used.
    pub fn open(
        folder: &Folder,
        config: &DeltasTable,
        registry: &Arc<Registry>,
        fleet: &Arc<Fleet>,
    ) -> Result<Self, FileError> {
        let cache = Cache::open(&folder.deltas(), config.cache_bytes_max)?;
        let (registry, fleet, folder) = (Arc::clone(registry), Arc::clone(fleet), folder.clone());
        let (state, work, finished) = (Mutex::default(), Notify::new(), watch::Sender::new(0));
        Ok(Self { registry, fleet, folder, config: config.clone(), cache, state, work, finished })
    }

    /// Returns whether this hub makes deltas.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.config.cache_bytes_max > 0
    }

    /// Makes deltas to a published version from the versions that devices hold, in the background.
    pub fn prepare(&self, model: &ModelName, version: Version) {
        if !self.is_on() {
            return;
        }
        let held = self.fleet.held(model);
        for pair in plan::pairs(&self.registry, model, version, &held) {
            self.want(pair, None);
        }
    }

    /// Returns the deltas to a file, smallest first.
    #[must_use]
    pub fn to_file(&self, target: &Digest) -> Vec<Entry> {
        let mut found = self.cache.to_file(target);
        found.sort_by_key(|entry| (entry.bytes, entry.digest));
        found
    }

    /// Reads a part of a delta for a device, with its whole length.
    ///
    /// # Errors
    /// When there is no such delta, no device may fetch its new file any more, or the disk fails.
    pub async fn read_for_device(
        self: &Arc<Self>,
        digest: &Digest,
        offset: u64,
        length: u64,
    ) -> Result<(Bytes, u64), SendError> {
        let entry = self.cache.by_digest(digest).ok_or(SendError::Unknown)?;
        let target = self.registry.fetchable_file(&entry.pair.target).ok_or(SendError::Unknown)?;
        let deltas = Arc::clone(self);
        let read = tokio::task::spawn_blocking(move || deltas.cache.read(&entry, offset, length)).await;
        let read = read.unwrap_or_else(|lost| Err(std::io::Error::other(lost)));
        let bytes = read.map_err(|error| {
            tracing::warn!(%error, digest = %entry.digest, "a delta cannot be read: it is made again when asked for");
            self.cache.remove(&entry);
            SendError::Unknown
        })?;
        let sent = offset.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        if sent >= entry.bytes && !bytes.is_empty() {
            telemetry::metrics::delta_bytes_saved(target.size.saturating_sub(entry.bytes));
        }
        Ok((bytes, entry.bytes))
    }

    /// Makes deltas until the hub stops.
    ///
    /// # Cancel safety
    /// A delta that is being made is lost, and its child process is killed.
    pub async fn run(self: Arc<Self>, stop: Stop) {
        if !self.is_on() {
            return stop.now.cancelled().await;
        }
        loop {
            let job = self.next();
            let done = match job {
                Some(job) => stop.now.run_until_cancelled(self.make(job.pair)).await,
                None => stop.now.run_until_cancelled(self.work.notified()).await,
            };
            if done.is_none() {
                return;
            }
        }
    }

    /// Removes deltas that no device can use any more: those to files that are not published, and those from files that no
    /// device holds. Returns what was removed; with `dry_run` what would be.
    pub fn collect(&self, dry_run: bool) -> FilesView {
        let held = self.held_files();
        let mut view = FilesView::default();
        for entry in self.cache.all() {
            let is_held = entry.pair.base.is_none_or(|base| held.contains(&base));
            if is_held && self.registry.published_file(&entry.pair.target).is_some() {
                continue;
            }
            view.files += 1;
            view.bytes = view.bytes.saturating_add(entry.bytes);
            if !dry_run {
                self.cache.remove(&entry);
            }
        }
        view
    }

    /// Returns the files of every variant that a device holds.
    fn held_files(&self) -> HashSet<Digest> {
        let mut files = HashSet::new();
        for (model, _versions) in self.registry.snapshot().models() {
            for (version, name) in self.fleet.held(model).into_keys() {
                let manifest = self.registry.manifest(model, version);
                let variant = manifest.as_ref().and_then(|manifest| manifest.variant(&name));
                files.extend(variant.into_iter().flat_map(bundle::Variant::files).map(|file| file.digest));
            }
        }
        files
    }

    /// Puts a pair into the queue, unless it is made, given up or waiting already. Returns whether a delta may come of it, now or
    /// once there is room in the queue.
    fn want(&self, pair: Pair, by: Option<&DeviceId>) -> bool {
        if self.cache.find(&pair).is_some() {
            return true;
        }
        let mut state = self.state();
        if let Some((settled, at)) = state.settled.get(&pair) {
            if *settled != Settled::Failed || at.elapsed() < TRY_AGAIN_AFTER {
                return false;
            }
            state.settled.remove(&pair);
        }
        if state.making == Some(pair) {
            return true;
        }
        state.queue.add(Job { pair, by: by.cloned() });
        drop(state);
        self.work.notify_one();
        true
    }

    fn next(&self) -> Option<Job> {
        let mut state = self.state();
        let job = state.queue.take();
        state.making = job.as_ref().map(|job| job.pair);
        job
    }

    async fn make(&self, pair: Pair) {
        let outcome = match self.attempt(pair).await {
            Ok(None) => "made",
            Ok(Some(settled)) => {
                self.settle(pair, settled);
                settled.as_str()
            }
            Err(error) => {
                tracing::warn!(target = %pair.target, error = telemetry::chain(&error), "a delta was not made");
                self.settle(pair, Settled::Failed);
                Settled::Failed.as_str()
            }
        };
        telemetry::metrics::delta_made(outcome);
        self.state().making = None;
        self.finished.send_modify(|count| *count += 1);
    }

    /// Makes a delta and keeps it if it is worth it; else returns the reason.
    async fn attempt(&self, pair: Pair) -> Result<Option<Settled>, AttemptError> {
        let Some(target) = self.registry.published_file(&pair.target) else { return Ok(Some(Settled::Useless)) };
        let base = match pair.base.map(|base| self.registry.published_file(&base)) {
            Some(None) => return Ok(Some(Settled::Useless)),
            Some(found) => found,
            None => None,
        };
        let base_bytes = base.as_ref().map_or(0, |base| base.size);
        if maker::memory_bytes(base_bytes, target.size) > self.config.memory_max_bytes {
            tracing::info!(file = %target.name, bytes = target.size, "no delta: it would take over deltas.memory_max_bytes");
            return Ok(Some(Settled::TooLarge));
        }
        let at = |file: &bundle::FileRef| (self.folder.blob(&file.digest), file.digest);
        let out = self.cache.unfinished();
        let memory_max_bytes = self.config.memory_max_bytes;
        let (bytes, base) = (base_bytes.saturating_add(target.size), base.as_ref().map(at));
        let order = Order { base, target: at(&target), out: out.clone(), memory_max_bytes, bytes };
        let made = match maker::make(&order).await {
            Ok(made) => made,
            Err(error) => {
                remove_unfinished(&out);
                return Err(error.into());
            }
        };
        Ok(self.judge(pair, made, target.size, &out)?)
    }

    /// Keeps a delta that saves enough.
    fn judge(
        &self,
        pair: Pair,
        made: Made,
        target_bytes: u64,
        out: &std::path::Path,
    ) -> Result<Option<Settled>, FileError> {
        let whole = Pair { base: None, target: pair.target };
        let compressed = pair.base.and_then(|_base| self.cache.find(&whole)).map(|entry| entry.bytes);
        if !is_worth(made.bytes, compressed.unwrap_or(target_bytes)) {
            remove_unfinished(out);
            return Ok(Some(Settled::Useless));
        }
        let entry = Entry { pair, digest: made.digest, bytes: made.bytes };
        self.cache.insert(entry, out)?;
        tracing::info!(target = %pair.target, base = ?pair.base, bytes = made.bytes, of = target_bytes, "made a delta");
        if pair.base.is_none() {
            // Now it is known what is sent without a delta.
            for other in self.to_file(&pair.target) {
                if other.pair.base.is_some() && !is_worth(other.bytes, made.bytes) {
                    self.cache.remove(&other);
                    self.settle(other.pair, Settled::Useless);
                }
            }
        }
        Ok(None)
    }

    fn settle(&self, pair: Pair, settled: Settled) {
        let mut state = self.state();
        if state.settled.len() >= SETTLED_MAX {
            state.settled.clear();
        }
        state.settled.insert(pair, (settled, Instant::now()));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Error of an attempt to make a delta.
#[derive(Debug, thiserror::Error)]
enum AttemptError {
    #[error(transparent)]
    Make(#[from] MakeError),
    #[error("keep a delta")]
    File(#[from] FileError),
}

/// Returns whether a delta saves enough against what would be sent without it.
fn is_worth(delta: u64, without: u64) -> bool {
    u128::from(delta) * 100 <= u128::from(without) * u128::from(WORTH_PERCENT)
}

fn remove_unfinished(path: &std::path::Path) {
    if let Err(error) = files::remove_file(path) {
        tracing::warn!(error = telemetry::chain(&error), "an unfinished delta stays until the next start");
    }
}
