//! The thread that owns the log: takes notes from the queue, makes records and writes them in groups.
//!
//! A disk that is full or stalled never holds up a request: notes are counted as lost, and the next record says how many.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use service::clock;
use tokio::sync::oneshot;

use super::input::InputKey;
use super::note::Note;
use super::writer::{Limits, WriteError, Writer};
use super::{Recorder, Shared, WAITING_MAX};
use crate::records::v1::{LogEvent, LogRecord};

/// Maximum number of records in one write.
const GROUP_MAX: usize = 256;

/// Time after which written records are made durable: a power cut costs at most the records of so long.
///
/// A kill of the agent costs none of them. Each time is two writes to the flash of the device.
const SYNC_EVERY: Duration = Duration::from_secs(5);

/// Interval of looking after the age of files and of records that are not durable yet.
const TICK: Duration = Duration::from_secs(1);

/// Time before a log that could not be opened is tried again.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// Time for the thread to write what waits when the agent stops.
const STOP_WITHIN: Duration = Duration::from_secs(3);

/// Message to the thread.
#[derive(Debug)]
pub(super) enum Message {
    /// Adds a record to the log.
    Note {
        /// Time of the event in milliseconds since 1970.
        at_unix_ms: u64,
        /// Event to record.
        note: Note,
        /// Bytes of tensors that it holds.
        bytes: u64,
    },
    /// Writes what waits, and ends the thread.
    Stop,
}

/// Places and limits of the log.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Folder of the log.
    pub folder: PathBuf,
    /// File with the key for digests.
    pub key: PathBuf,
    /// Limits of the log.
    pub limits: Limits,
    /// Whether digests of answers are recorded.
    pub records_answers: bool,
}

/// Owner of the thread.
#[derive(Debug)]
pub struct Recording {
    recorder: Recorder,
    ended: oneshot::Receiver<()>,
}

/// Opens the log and starts its thread. A log that cannot be opened is tried again with later records.
///
/// # Errors
/// When the system starts no thread.
pub fn start(settings: Settings) -> std::io::Result<Recording> {
    let (queue, notes) = mpsc::sync_channel(WAITING_MAX);
    let shared = Arc::new(Shared {
        queue,
        waiting_bytes: AtomicU64::new(0),
        lost: AtomicU64::new(0),
        records_answers: settings.records_answers,
    });
    let (end, ended) = oneshot::channel::<()>();
    let mut task = Task {
        notes,
        shared: Arc::clone(&shared),
        settings,
        key: None,
        writer: None,
        opened_last: None,
        synced: Instant::now(),
        missing: 0,
        is_failing: false,
    };
    thread::Builder::new().name("receipts".to_owned()).spawn(move || {
        task.run();
        // Dropped behind the last write: that ends the wait of `stop`.
        drop(end);
    })?;
    Ok(Recording { recorder: Recorder(Some(shared)), ended })
}

impl Recording {
    /// Returns a recorder for this log.
    #[must_use]
    pub fn recorder(&self) -> Recorder {
        self.recorder.clone()
    }

    /// Ends the thread once it has written what waits.
    pub async fn stop(self) {
        let Self { recorder, ended } = self;
        let Some(shared) = recorder.0 else { return };
        let deadline = Instant::now() + STOP_WITHIN;
        // Full only while the disk is slow: then there is something to wait for.
        while shared.queue.try_send(Message::Stop).is_err() && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        if tokio::time::timeout_at(deadline.into(), ended).await.is_err() {
            tracing::warn!("the log of receipts was not closed in time: its disk is slow");
        }
    }
}

/// State of the thread.
struct Task {
    notes: Receiver<Message>,
    shared: Arc<Shared>,
    settings: Settings,
    key: Option<InputKey>,
    writer: Option<Writer>,
    /// Time of the last attempt to open the log.
    opened_last: Option<Instant>,
    /// Time of the last sync.
    synced: Instant,
    /// Records that were lost since the last one in the log.
    missing: u64,
    is_failing: bool,
}

impl Task {
    fn run(&mut self) {
        self.open();
        loop {
            let mut group = Vec::new();
            let mut is_over = false;
            match self.notes.recv_timeout(TICK) {
                Ok(first) => {
                    let rest = self.notes.try_iter().take(GROUP_MAX);
                    for message in std::iter::once(first).chain(rest) {
                        match message {
                            Message::Note { at_unix_ms, note, bytes } => group.push((at_unix_ms, note, bytes)),
                            Message::Stop => is_over = true,
                        }
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => is_over = true,
            }
            let mut records: Vec<LogRecord> = group.into_iter().map(|waiting| self.record(waiting)).collect();
            if is_over {
                records.push(LogRecord { at_unix_ms: clock::unix_ms(), missing: 0, event: LogEvent::Stopped });
            }
            self.write(records);
            if is_over || self.synced.elapsed() >= SYNC_EVERY {
                self.sync();
            }
            if is_over {
                return;
            }
        }
    }

    fn record(&mut self, (at_unix_ms, note, bytes): (u64, Note, u64)) -> LogRecord {
        let event = note.into_event(at_unix_ms, self.key.as_ref());
        self.shared.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
        LogRecord { at_unix_ms, missing: 0, event }
    }

    fn open(&mut self) {
        self.opened_last = Some(Instant::now());
        if self.key.is_none() {
            match InputKey::open(&self.settings.key) {
                Ok(key) => self.key = Some(key),
                Err(error) => {
                    tracing::warn!(error = telemetry::chain(&error), "receipts are recorded without digests of inputs");
                }
            }
        }
        match Writer::open(&self.settings.folder, self.settings.limits, clock::unix_ms()) {
            Ok(writer) => self.writer = Some(writer),
            Err(error) => self.failed(&error, 0),
        }
    }

    fn write(&mut self, mut records: Vec<LogRecord>) {
        self.missing = self.missing.saturating_add(self.shared.lost.swap(0, Ordering::Relaxed));
        let Some(first) = records.first_mut() else { return };
        first.missing = self.missing;
        let count = u64::try_from(records.len()).unwrap_or(u64::MAX);
        if self.writer.is_none() && self.opened_last.is_none_or(|last| last.elapsed() >= RETRY_AFTER) {
            self.open();
        }
        let Some(writer) = self.writer.as_mut() else {
            self.missing = self.missing.saturating_add(count);
            telemetry::metrics::receipts_lost(count);
            return;
        };
        match writer.append(&records, clock::unix_ms()) {
            Ok(()) => {
                self.missing = 0;
                telemetry::metrics::receipts_written(count);
                if std::mem::take(&mut self.is_failing) {
                    tracing::info!("the log of receipts is written again");
                }
            }
            Err(error) => self.failed(&error, count),
        }
    }

    fn sync(&mut self) {
        self.synced = Instant::now();
        let Some(writer) = self.writer.as_mut() else { return };
        if let Err(error) = writer.sync().and_then(|()| writer.tick(clock::unix_ms())) {
            self.failed(&error, 0);
        }
    }

    /// Counts records that are lost, and logs the first failure of an outage.
    fn failed(&mut self, error: &WriteError, lost: u64) {
        self.missing = self.missing.saturating_add(lost);
        telemetry::metrics::receipts_lost(lost);
        if !std::mem::replace(&mut self.is_failing, true) {
            let error = telemetry::chain(error);
            tracing::error!(error, "receipts are not recorded until the disk takes them: the next record counts them");
        }
    }
}
