//! Answers to queued requests that devices have not stored yet, so that no request is run twice for one id.
//!
//! Used by the device server: it claims a request before the run, keeps the answer before it is sent, and forgets it when the
//! device says that it has it. Each answer is a file, written before it is sent, so that a hub that ends meanwhile has it after
//! its restart. Two requests with one id at once share one run.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use store::files::{self, FileError, Mode};
use tokio::sync::watch;
use types::{DeviceId, Digest, RequestId};

/// Maximum age of an answer that its device has not fetched: a device sends no request that waited longer than 30 days, and
/// asks for the answer within a day of being online again.
pub const KEPT: Duration = Duration::from_secs(31 * 24 * 3600);

/// Maximum bytes of all answers. Devices have a few answers each that are not settled, for the time of a round trip.
pub const BYTES_MAX: u64 = 1024 * 1024 * 1024;

/// Maximum size of one file: the largest response with its message.
const FILE_BYTES_MAX: u64 = types::limits::TENSOR_BYTES_MAX as u64 + 1024 * 1024;

/// Request of a device.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct QueuedKey {
    /// Device, by its certificate.
    pub device: DeviceId,
    /// Id that the device gave the request.
    pub id: RequestId,
}

impl QueuedKey {
    /// Returns the name of the file; an id may have characters that no file name has.
    fn name(&self) -> String {
        Digest::of(format!("{}\n{}", self.device, self.id).as_bytes()).to_hex()
    }
}

/// Claim on a request.
#[derive(Debug)]
pub enum Claim {
    /// The answer is known already.
    Known(Vec<u8>),
    /// The request is to be run; others with its key wait until the guard is dropped.
    Fresh(Running),
}

/// Size and time of a stored answer.
#[derive(Debug, Clone, Copy)]
struct Stored {
    bytes: u64,
    at: SystemTime,
}

#[derive(Debug, Default)]
struct Known {
    /// Requests that are being run, with the notice of their end.
    running: BTreeMap<QueuedKey, watch::Receiver<()>>,
    stored: BTreeMap<String, Stored>,
    bytes: u64,
}

/// Answers to queued requests.
#[derive(Debug)]
pub struct QueuedAnswers {
    folder: PathBuf,
    known: Mutex<Known>,
}

/// Guard of a request that is being run.
#[derive(Debug)]
pub struct Running {
    answers: Arc<QueuedAnswers>,
    key: QueuedKey,
    /// Dropped with the guard, which wakes those that wait.
    _ended: watch::Sender<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.answers.lock().running.remove(&self.key);
    }
}

impl QueuedAnswers {
    /// Opens the folder and removes what is too old. A folder that cannot be read has no answers.
    #[must_use]
    pub fn open(folder: &Path, now: SystemTime) -> Self {
        let prepared = files::create_dir(folder).and_then(|()| files::remove_unfinished(folder));
        if let Err(error) = prepared {
            tracing::warn!(error = telemetry::chain(&error), "answers to queued requests are not kept");
        }
        let answers = Self { folder: folder.to_owned(), known: Mutex::default() };
        let entries = fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
        for entry in entries {
            let Some((name, metadata)) = entry.file_name().into_string().ok().zip(entry.metadata().ok()) else {
                continue;
            };
            let at = metadata.modified().unwrap_or(now).min(now);
            answers.lock().insert(name, Stored { bytes: metadata.len(), at });
        }
        let old = answers.lock().old(now);
        old.iter().for_each(|name| answers.remove(name));
        answers
    }

    /// Claims a request: returns its answer, or the right to run it. Waits while it is being run.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn claim(self: &Arc<Self>, key: QueuedKey) -> Claim {
        loop {
            match self.begin(&key) {
                Ok(guard) => return self.known_or(guard).await,
                // An error: the sender is gone, which is the end of the run.
                Err(mut running) => while running.changed().await.is_ok() {},
            }
        }
    }

    /// Takes the right to run a request; returns the notice of its end if another one runs it.
    fn begin(self: &Arc<Self>, key: &QueuedKey) -> Result<Running, watch::Receiver<()>> {
        let mut known = self.lock();
        if let Some(running) = known.running.get(key) {
            return Err(running.clone());
        }
        let (ended, notice) = watch::channel(());
        known.running.insert(key.clone(), notice);
        Ok(Running { answers: Arc::clone(self), key: key.clone(), _ended: ended })
    }

    /// Returns the stored answer to a claimed request, or the claim.
    async fn known_or(self: &Arc<Self>, guard: Running) -> Claim {
        let path = self.folder.join(guard.key.name());
        if !self.lock().stored.contains_key(&guard.key.name()) {
            return Claim::Fresh(guard);
        }
        let read = tokio::task::spawn_blocking(move || files::read_bounded(&path, FILE_BYTES_MAX)).await;
        match read {
            Ok(Ok(bytes)) => Claim::Known(bytes),
            Ok(Err(error)) => {
                tracing::warn!(
                    error = telemetry::chain(&error),
                    "the answer to a queued request is lost: it runs again"
                );
                Claim::Fresh(guard)
            }
            Err(_stopped) => Claim::Fresh(guard),
        }
    }

    /// Keeps the answer to a claimed request; durable when this returns.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub async fn keep(&self, running: &Running, answer: Vec<u8>) -> Result<(), FileError> {
        let name = running.key.name();
        let (path, bytes) = (self.folder.join(&name), u64::try_from(answer.len()).unwrap_or(u64::MAX));
        let written = tokio::task::spawn_blocking(move || files::write_atomic(&path, &answer, Mode::Private)).await;
        written.unwrap_or(Ok(()))?;
        let over = {
            let mut known = self.lock();
            known.insert(name, Stored { bytes, at: SystemTime::now() });
            known.over()
        };
        if !over.is_empty() {
            tracing::warn!(answers = over.len(), "answers to queued requests are removed: their quota is full");
        }
        over.iter().for_each(|name| self.remove(name));
        Ok(())
    }

    /// Forgets answers that their device has stored.
    pub async fn settle(self: &Arc<Self>, keys: Vec<QueuedKey>) {
        let answers = Arc::clone(self);
        let removing = move || keys.iter().for_each(|key| answers.remove(&key.name()));
        if tokio::task::spawn_blocking(removing).await.is_err() {
            tracing::warn!("settled answers stay until they are too old");
        }
    }

    /// Removes answers that are too old.
    pub async fn sweep(self: &Arc<Self>, now: SystemTime) {
        let answers = Arc::clone(self);
        let sweeping = move || {
            let old = answers.lock().old(now);
            old.iter().for_each(|name| answers.remove(name));
        };
        if tokio::task::spawn_blocking(sweeping).await.is_err() {
            tracing::warn!("old answers to queued requests were not removed");
        }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remove(&self, name: &str) {
        if self.lock().forget(name).is_none() {
            return;
        }
        // Not synced: a file that a power cut brings back is removed when it is too old.
        if let Err(error) = fs::remove_file(self.folder.join(name)) {
            tracing::debug!(%error, "the file of a settled answer was not removed");
        }
    }
}

impl Known {
    fn insert(&mut self, name: String, stored: Stored) {
        self.bytes = self.bytes.saturating_add(stored.bytes);
        if let Some(before) = self.stored.insert(name, stored) {
            self.bytes = self.bytes.saturating_sub(before.bytes);
        }
    }

    fn forget(&mut self, name: &str) -> Option<Stored> {
        let stored = self.stored.remove(name)?;
        self.bytes = self.bytes.saturating_sub(stored.bytes);
        Some(stored)
    }

    fn old(&self, now: SystemTime) -> Vec<String> {
        let is_old = |stored: &Stored| now.duration_since(stored.at).is_ok_and(|age| age > KEPT);
        self.stored.iter().filter(|(_name, stored)| is_old(stored)).map(|(name, _stored)| name.clone()).collect()
    }

    /// Returns the oldest answers beyond the quota.
    fn over(&self) -> Vec<String> {
        let mut bytes = self.bytes;
        if bytes <= BYTES_MAX {
            return Vec::new();
        }
        let mut by_age: Vec<_> = self.stored.iter().collect();
        by_age.sort_by_key(|(_name, stored)| stored.at);
        let mut over = Vec::new();
        for (name, stored) in by_age {
            if bytes <= BYTES_MAX {
                break;
            }
            bytes = bytes.saturating_sub(stored.bytes);
            over.push(name.clone());
        }
        over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(id: &str) -> QueuedKey {
        QueuedKey { device: "door-7".parse().unwrap(), id: id.parse().unwrap() }
    }

    async fn fresh(answers: &Arc<QueuedAnswers>, id: &str) -> Running {
        match answers.claim(key(id)).await {
            Claim::Fresh(running) => running,
            Claim::Known(_) => panic!("{id} is known"),
        }
    }

    async fn is_known(answers: &Arc<QueuedAnswers>, id: &str) -> bool {
        matches!(answers.claim(key(id)).await, Claim::Known(bytes) if bytes == b"answer")
    }

    #[tokio::test]
    async fn a_request_is_run_once_also_over_a_restart_until_it_is_settled() {
        let folder = tempfile::tempdir().unwrap();
        let open = || Arc::new(QueuedAnswers::open(folder.path(), SystemTime::now()));
        let answers = open();
        let running = fresh(&answers, "../a?b").await;
        answers.keep(&running, b"answer".to_vec()).await.unwrap();
        drop(running);
        assert!(is_known(&answers, "../a?b").await);
        let again = open();
        assert!(is_known(&again, "../a?b").await);
        let other = QueuedKey { device: "door-8".parse().unwrap(), id: "../a?b".parse().unwrap() };
        assert!(matches!(again.claim(other.clone()).await, Claim::Fresh(_)), "ids belong to their device");
        again.settle(vec![other]).await;
        assert!(is_known(&again, "../a?b").await);
        again.settle(vec![key("../a?b")]).await;
        drop(fresh(&again, "../a?b").await);
        drop(fresh(&open(), "../a?b").await);
    }

    #[tokio::test]
    async fn a_second_request_waits_for_the_run_of_the_first() {
        let folder = tempfile::tempdir().unwrap();
        let answers = Arc::new(QueuedAnswers::open(folder.path(), SystemTime::now()));
        let running = fresh(&answers, "a").await;
        let first = async {
            tokio::task::yield_now().await;
            answers.keep(&running, b"answer".to_vec()).await.unwrap();
            drop(running);
        };
        let (second, ()) = tokio::join!(is_known(&answers, "a"), first);
        assert!(second);
        // A run that failed leaves the next one to the second.
        let running = fresh(&answers, "b").await;
        let first = async {
            tokio::task::yield_now().await;
            drop(running);
        };
        let (second, ()) = tokio::join!(answers.claim(key("b")), first);
        assert!(matches!(second, Claim::Fresh(_)));
    }

    #[tokio::test]
    async fn an_answer_that_nobody_fetches_is_removed_when_it_is_too_old() {
        let folder = tempfile::tempdir().unwrap();
        let answers = Arc::new(QueuedAnswers::open(folder.path(), SystemTime::now()));
        let running = fresh(&answers, "a").await;
        answers.keep(&running, b"answer".to_vec()).await.unwrap();
        drop(running);
        let now = SystemTime::now();
        answers.sweep(now + KEPT / 2).await;
        assert!(is_known(&answers, "a").await);
        // A clock that went back removes nothing.
        answers.sweep(SystemTime::UNIX_EPOCH).await;
        assert!(is_known(&answers, "a").await);
        answers.sweep(now + KEPT + Duration::from_secs(60)).await;
        drop(fresh(&answers, "a").await);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
