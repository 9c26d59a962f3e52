//! The outbox: requests that wait on the device for the hub, and the hub's later answers.
//!
//! Shell around `edge_core::request_outbox`, which decides. Fed by [`crate::answer`] with requests; [`drain`] sends them when the
//! hub is there; [`http`] and [`callback`] deliver the answers. An entry is a record of the store; inputs and answers are files
//! beside it ([`files`]), encrypted where the input is personal. A request is durable before its client is told, and an answer
//! before its request is forgotten.

pub mod callback;
mod detail;
pub mod drain;
mod files;
pub mod http;
mod payload;
mod push;
mod seal;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use edge_core::request_outbox::{AgeClock, Back, End, Event, Figures, Limits, RequestOutbox, State};
use service::clock;
use store::{Batch, Store, StoreError, Table};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use types::{InferenceResponse, NamedTensor, RequestId};

pub use detail::{Detail, StoredEntry, View};
pub use payload::LaterAnswer;
pub use push::PushError;
pub use seal::SealError;

use crate::receipts::InputKey;
use crate::records::v1::{CLOCK_KEY, OutboxClock, OutboxRequest};
use files::PayloadFiles;
use seal::{OutboxKey, Purpose};

/// Maximum number of records that are written in one batch.
const BATCH_RECORDS: usize = 256;

/// Places and limits of the outbox.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Limits of requests and answers.
    pub limits: Limits,
    /// Time after which a request, or its answer, is given up.
    pub expire_after: Duration,
    /// Folder of the files.
    pub folder: PathBuf,
    /// File of the key.
    pub key: PathBuf,
}

/// Error: the outbox cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OutboxError {
    /// Its records cannot be read or written.
    #[error("read the records of the outbox")]
    Store(#[from] StoreError),
    /// Its key or its files cannot be read.
    #[error("open the files of the outbox")]
    Files(#[from] SealError),
}

/// Entries with everything that is known of them.
#[derive(Debug)]
struct Entries {
    core: RequestOutbox,
    details: BTreeMap<u64, Detail>,
}

#[derive(Debug)]
struct Inner {
    entries: Mutex<Entries>,
    clock: AgeClock,
    expire_after: Duration,
    table: Table<OutboxRequest>,
    clock_table: Table<OutboxClock>,
    files: PayloadFiles,
    input_key: InputKey,
    /// Taken to write an entry that others may change meanwhile, so that the last write has the last state.
    writing: tokio::sync::Mutex<()>,
    /// Wakes those that wait for a state, with each change.
    changes: watch::Sender<u64>,
    /// Wakes the task that sends.
    wake: Notify,
    /// Cancelled when the agent stops: streams of events end.
    closing: CancellationToken,
    /// Work that must not end with the client that caused it.
    tasks: TaskTracker,
}

/// The outbox. Clones share it.
#[derive(Debug, Clone)]
pub struct Outbox(Arc<Inner>);

impl Outbox {
    /// Opens the outbox; `None` where it cannot be used, which is logged: the agent serves all the same, and no request waits.
    pub async fn open(store: &Arc<dyn Store>, settings: Settings) -> Option<Self> {
        let opened = Self::restore(Arc::clone(store), settings).await;
        let told =
            |error: &OutboxError| tracing::error!(error = telemetry::chain(error), "no request can wait for the hub");
        opened.inspect_err(told).ok()
    }

    /// Takes up what an earlier run left.
    ///
    /// # Errors
    /// When records, key or folder cannot be read.
    pub async fn restore(store: Arc<dyn Store>, settings: Settings) -> Result<Self, OutboxError> {
        let table: Table<OutboxRequest> = Table::new(Arc::clone(&store));
        let clock_table: Table<OutboxClock> = Table::new(store);
        let key = OutboxKey::open(&settings.key)?;
        let input_key = InputKey::of(*key.bytes());
        let stored: Vec<StoredEntry> = table.list().await?.records.into_iter().map(|(_key, entry)| entry).collect();
        let clock = AgeClock::start(clock_table.get(CLOCK_KEY).await?, clock::unix_s(), Instant::now());
        let core = RequestOutbox::restore(settings.limits, stored.iter().map(|stored| stored.entry.clone()).collect());
        let details: BTreeMap<u64, Detail> =
            stored.into_iter().map(|stored| (stored.entry.number, stored.detail)).collect();
        let details = details.into_iter().filter(|(number, _detail)| core.entry(*number).is_some()).collect();
        let files = PayloadFiles::open(settings.folder, key)?;
        files.collect(|number, purpose| match core.entry(number).map(|entry| entry.state) {
            Some(State::Waiting | State::Storing | State::InFlight) => purpose == Purpose::Request,
            Some(State::Answered { .. }) => purpose == Purpose::Answer,
            Some(State::Ended(_)) | None => false,
        });
        let inner = Inner {
            entries: Mutex::new(Entries { core, details }),
            clock,
            expire_after: settings.expire_after,
            table,
            clock_table,
            files,
            input_key,
            writing: tokio::sync::Mutex::default(),
            changes: watch::Sender::new(0),
            wake: Notify::new(),
            closing: CancellationToken::new(),
            tasks: TaskTracker::new(),
        };
        let outbox = Self(Arc::new(inner));
        outbox.store_clock().await;
        outbox.measure();
        Ok(outbox)
    }

    /// Returns the entry of a request; `None` if the outbox does not know the id.
    #[must_use]
    pub fn find(&self, id: &RequestId) -> Option<View> {
        let entries = self.lock();
        let entry = entries.core.find(id)?;
        Some(View { entry: entry.clone(), detail: entries.details.get(&entry.number)?.clone() })
    }

    /// Returns the entry of an earlier request with the same id and the same inputs that is not over.
    #[must_use]
    pub fn find_same(&self, id: &RequestId, inputs: &[NamedTensor]) -> Option<View> {
        let view = self.find(id).filter(|view| !matches!(view.entry.state, State::Ended(_)))?;
        (view.detail.input == self.0.input_key.digest(inputs)).then_some(view)
    }

    /// Returns every entry in the order of arrival.
    #[must_use]
    pub fn list(&self) -> Vec<View> {
        let entries = self.lock();
        let view = |entry: &edge_core::request_outbox::Entry| {
            Some(View { entry: entry.clone(), detail: entries.details.get(&entry.number)?.clone() })
        };
        entries.core.entries().filter_map(view).collect()
    }

    /// Returns the entries that are over, or answered, whose callback has not been told.
    fn due_callbacks(&self) -> Vec<View> {
        let entries = self.lock();
        let waiting = entries.details.iter().filter(|(_number, detail)| detail.has_callback() && !detail.notified);
        let view = |(number, detail): (&u64, &Detail)| {
            let entry = entries.core.entry(*number).filter(|entry| drain::is_settled(entry.state))?;
            Some(View { entry: entry.clone(), detail: detail.clone() })
        };
        waiting.filter_map(view).collect()
    }

    /// Returns the figures of this moment, and the age of the oldest request in seconds.
    #[must_use]
    pub fn figures(&self) -> (Figures, Option<u64>) {
        let entries = self.lock();
        let oldest = entries.core.oldest().map(|entry| entry.request.expires_s);
        let age = oldest
            .map(|expires_s| self.now_s().saturating_add(self.0.expire_after.as_secs()).saturating_sub(expires_s));
        (entries.core.figures(), age)
    }

    /// Reads the stored answer of an entry.
    ///
    /// # Errors
    /// When its file cannot be read; the entry is over then.
    pub async fn answer(&self, view: &View) -> Result<InferenceResponse, SealError> {
        let read = self.read(view.entry.number, Purpose::Answer).await;
        let read = read.and_then(|content| payload::read_answer(content).ok_or(SealError::Form));
        match read {
            Ok(answer) => {
                let receipt = answer.receipt(&view.detail);
                Ok(InferenceResponse { outputs: answer.outputs, receipt })
            }
            Err(error) => {
                let is_still_there = self.find(&view.detail.id).is_some_and(|now| now.entry == view.entry);
                if is_still_there {
                    tracing::warn!(id = %view.detail.id, error = telemetry::chain(&error), "a stored answer is lost");
                    self.failed(view.entry.number, &telemetry::chain(&error)).await;
                }
                Err(error)
            }
        }
    }

    /// Returns a receiver that sees each change of an entry.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }

    /// Returns the token that is cancelled when the agent stops.
    #[must_use]
    pub fn closing(&self) -> &CancellationToken {
        &self.0.closing
    }

    /// Ends streams of events; writes that are under way are finished.
    pub async fn close(&self) {
        self.0.closing.cancel();
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }

    /// Removes an entry by order of the owner. Returns false if there is none, or it is over.
    pub async fn remove(&self, id: &RequestId) -> bool {
        let Some(view) = self.find(id) else { return false };
        self.change(view.entry.number, Event::Dropped, None).await
    }

    /// Removes every entry that is not over by order of the owner. Returns their number.
    pub async fn clear(&self) -> usize {
        let mut removed = 0;
        for view in self.list() {
            if !matches!(view.entry.state, State::Ended(_))
                && self.change(view.entry.number, Event::Dropped, None).await
            {
                removed += 1;
            }
        }
        removed
    }

    /// Ends an entry for good, with the fault for its client.
    async fn failed(&self, number: u64, fault: &str) {
        self.change(number, Event::Failed, Some(fault)).await;
    }

    /// Takes the next request to send.
    fn next(&self) -> Option<(u64, Detail)> {
        let mut entries = self.lock();
        let number = entries.core.send(Instant::now())?;
        Some((number, entries.details.get(&number)?.clone()))
    }

    /// Lets a request wait again.
    fn back(&self, number: u64, why: Back) {
        // An entry that was dropped meanwhile needs nothing.
        let _dropped = self.lock().core.back(number, why, Instant::now(), rand::random());
        self.0.wake.notify_one();
    }

    /// Notes a failure of the hub on a request; returns the number of them since the start.
    fn note_failure(&self, number: u64) -> u32 {
        let mut entries = self.lock();
        let Some(detail) = entries.details.get_mut(&number) else { return 0 };
        detail.failures = detail.failures.saturating_add(1);
        detail.failures
    }

    /// Counts bytes that were sent for a request.
    fn note_sent(&self, number: u64, bytes: u64) {
        if let Some(detail) = self.lock().details.get_mut(&number) {
            detail.hub_bytes = detail.hub_bytes.saturating_add(bytes);
        }
    }

    /// Stores an answer; durable when this returns true. False if the request is over meanwhile or nothing can be stored: then
    /// it is sent again.
    async fn answered(&self, number: u64, detail: &Detail, answer: &LaterAnswer) -> bool {
        let Ok(content) = payload::write_answer(answer) else { return false };
        let bytes = match self.0.files.write(number, Purpose::Answer, content, detail.is_sealed()).await {
            Ok(bytes) => bytes,
            Err(error) => {
                tracing::warn!(error = telemetry::chain(&error), "the answer of the hub is not stored");
                self.back(number, Back::Busy { retry_after: None });
                return false;
            }
        };
        let displaced = self.lock().core.handle(number, Event::Answered { bytes }, self.now_s());
        let Ok(displaced) = displaced else {
            self.0.files.remove(number);
            return false;
        };
        self.ended_all(&displaced).await;
        let is_stored = self.write(&[number]).await;
        if is_stored {
            // Not before: after a restart the request would be sent again, and the hub would give the answer it keeps.
            self.0.files.remove_one(number, Purpose::Request);
        }
        telemetry::metrics::outbox_outcome("answered");
        self.changed();
        is_stored
    }

    /// Notes that the client of an entry was told.
    async fn notified(&self, number: u64) {
        if let Some(detail) = self.lock().details.get_mut(&number) {
            detail.notified = true;
        }
        self.write(&[number]).await;
    }

    /// Gives up what is too old.
    async fn expire(&self) {
        let (expired, gone) = {
            let mut entries = self.lock();
            let expired = entries.core.expire(self.now_s());
            let Entries { core, details } = &mut *entries;
            let gone: Vec<u64> = details.keys().filter(|number| core.entry(**number).is_none()).copied().collect();
            gone.iter().for_each(|number| drop(details.remove(number)));
            (expired, gone)
        };
        if !expired.is_empty() {
            tracing::warn!(requests = expired.len(), "requests or answers of the outbox are too old and are given up");
        }
        self.ended_all(&expired).await;
        self.write(&gone).await;
    }

    /// Reads the inputs of a request.
    async fn inputs(&self, number: u64) -> Result<Vec<NamedTensor>, SealError> {
        payload::read_request(self.read(number, Purpose::Request).await?).ok_or(SealError::Form)
    }

    async fn read(&self, number: u64, purpose: Purpose) -> Result<Vec<u8>, SealError> {
        self.0.files.read(number, purpose).await
    }

    /// Applies an event to an entry, stores it, and removes the files of one that is over.
    async fn change(&self, number: u64, event: Event, fault: Option<&str>) -> bool {
        {
            let mut entries = self.lock();
            if entries.core.handle(number, event, self.now_s()).is_err() {
                return false;
            }
            if let (Some(fault), Some(detail)) = (fault, entries.details.get_mut(&number)) {
                detail.fault = Some(fault.to_owned());
            }
        }
        self.ended_all(&[number]).await;
        true
    }

    /// Counts, stores and cleans up entries that have ended.
    async fn ended_all(&self, numbers: &[u64]) {
        if numbers.is_empty() {
            return;
        }
        for number in numbers {
            let state = self.lock().core.entry(*number).map(|entry| entry.state);
            if let Some(State::Ended(end)) = state {
                telemetry::metrics::outbox_outcome(end.as_str());
                if end == End::Displaced {
                    tracing::warn!(number, "a request or answer was displaced: the outbox is full");
                }
            }
        }
        self.write(numbers).await;
        numbers.iter().for_each(|number| self.0.files.remove(*number));
        self.changed();
    }

    /// Writes entries as they are now; those that are gone are deleted. Returns whether all are durable.
    async fn write(&self, numbers: &[u64]) -> bool {
        let mut is_durable = true;
        for numbers in numbers.chunks(BATCH_RECORDS) {
            let _last = self.0.writing.lock().await;
            let batch = numbers.iter().try_fold(Batch::new(), |batch, number| self.write_in(batch, *number));
            let written = match batch {
                Ok(batch) => self.0.table.store().apply(batch).await,
                Err(error) => Err(error),
            };
            if let Err(error) = written {
                tracing::warn!(error = telemetry::chain(&error), "a change of the outbox is kept in memory only");
                is_durable = false;
            }
        }
        is_durable
    }

    fn write_in(&self, batch: Batch, number: u64) -> Result<Batch, StoreError> {
        let stored = {
            let entries = self.lock();
            let entry = entries.core.entry(number).cloned();
            entry.zip(entries.details.get(&number).cloned()).map(|(entry, detail)| StoredEntry { entry, detail })
        };
        match stored {
            Some(stored) => self.0.table.put_in(batch, &key(number), &stored),
            None => self.0.table.delete_in(batch, &key(number)),
        }
    }

    /// Stores the age clock, so that the next start goes on from here.
    async fn store_clock(&self) {
        let reading = self.0.clock.reading(clock::unix_s(), Instant::now());
        if let Err(error) = self.0.clock_table.put(CLOCK_KEY, &reading).await {
            tracing::warn!(error = telemetry::chain(&error), "the clock of the outbox was not stored");
        }
    }

    fn now_s(&self) -> u64 {
        self.0.clock.now_s(Instant::now())
    }

    fn changed(&self) {
        self.0.changes.send_modify(|count| *count = count.wrapping_add(1));
        self.0.wake.notify_one();
        self.measure();
    }

    fn measure(&self) {
        let (figures, oldest) = self.figures();
        let Figures { requests, request_bytes, answers, .. } = figures;
        telemetry::metrics::outbox(requests, request_bytes, oldest.unwrap_or_default(), answers);
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.0.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sorts like the number.
fn key(number: u64) -> String {
    format!("{number:020}")
}
