//! Writes the log: appends records, makes them durable, begins new files and removes the oldest ones.
//!
//! Owned by [`super::task`]. Blocks on the disk, so never called by a request.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use store::files::{self, FileError, Mode};
use types::chain::Link;

use super::ends::Ends;
use super::frame::{self, FORMAT, FrameError, HEADER_BYTES, Header, PAYLOAD_BYTES_MAX};
use super::reader::{self, ReadError, file_name};
use crate::records::v1::{LogEvent, LogRecord, StartedRecord};

/// Number of files that a full log has: removing the oldest one removes an eighth of the log.
const FILES: u64 = 8;

/// Minimum size of a file in bytes, for logs with a small limit.
const FILE_BYTES_MIN: u64 = 16 * 1024;

/// Minimum time after which a new file begins, for logs that are kept for hours.
const FILE_AGE_MIN: Duration = Duration::from_secs(3600);

/// Limits of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Maximum size of all files in bytes.
    pub bytes_max: u64,
    /// Time for which records are kept.
    pub keep: Duration,
}

impl Limits {
    fn file_bytes(&self) -> u64 {
        (self.bytes_max / FILES).max(FILE_BYTES_MIN)
    }

    fn file_age_ms(&self) -> u64 {
        let age = (self.keep / u32::try_from(FILES).unwrap_or(1)).max(FILE_AGE_MIN);
        u64::try_from(age.as_millis()).unwrap_or(u64::MAX)
    }

    fn keep_ms(&self) -> u64 {
        u64::try_from(self.keep.as_millis()).unwrap_or(u64::MAX)
    }
}

/// Error of the log's disk.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// A whole file could not be written or removed.
    #[error(transparent)]
    File(#[from] FileError),
    /// The log could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Records could not be appended.
    #[error("append to the log of receipts {}", path.display())]
    Append {
        /// Path of the file.
        path: PathBuf,
        /// Error of the operating system.
        #[source]
        source: io::Error,
    },
    /// A record is longer than the format allows.
    #[error("a record of {0} bytes is longer than the log takes")]
    TooLong(usize),
}

/// File of the log, oldest first.
#[derive(Debug)]
struct Segment {
    header: Header,
    path: PathBuf,
    bytes: u64,
    /// Time of its newest record in milliseconds since 1970.
    newest_ms: u64,
}

/// Log that is open for writing.
#[derive(Debug)]
pub struct Writer {
    folder: PathBuf,
    limits: Limits,
    place: Link,
    durable: Link,
    removed: Link,
    segments: VecDeque<Segment>,
    file: File,
}

/// State of the newest file at a start.
struct Tail {
    place: Link,
    good: u64,
    length: u64,
    last: Option<LogEvent>,
    is_torn: bool,
    /// Whether the record that was durable last is another one now.
    is_replaced: bool,
}

impl Writer {
    /// Opens or creates the log in a folder and records the start. An incomplete record at the end is cut off.
    ///
    /// # Errors
    /// When the folder cannot be read or written.
    pub fn open(folder: &Path, limits: Limits, now_ms: u64) -> Result<Self, WriteError> {
        files::create_dir(folder)?;
        files::remove_unfinished(folder)?;
        let (ends, mut damage) = match Ends::read(folder) {
            Ok(ends) => (ends, None),
            Err(problem) => (None, Some(problem)),
        };
        let mut segments = Self::read_segments(folder, &mut damage)?;
        let anchor = segments.front().map_or_else(|| Link::start(FORMAT), |segment| segment.header.before);
        let ends = ends.unwrap_or(Ends { newest: anchor, removed: anchor });
        // Files that an interrupted rotation left.
        while segments.get(1).is_some_and(|next| next.header.before.number <= ends.removed.number) {
            if let Some(oldest) = segments.pop_front() {
                files::remove_file(&oldest.path)?;
            }
        }
        let mut cut_bytes = 0;
        let mut clean = segments.is_empty();
        let mut place = ends.newest;
        let mut reopened = None;
        if let Some(segment) = segments.back_mut() {
            let tail = tail_of(segment, ends.newest)?;
            clean = matches!(tail.last, Some(LogEvent::Stopped)) && !tail.is_torn;
            if tail.place.number >= ends.newest.number {
                let file = open_to_append(&segment.path, tail.good)?;
                cut_bytes = tail.length.saturating_sub(tail.good);
                segment.bytes = tail.good;
                place = tail.place;
                if tail.is_replaced {
                    damage.get_or_insert_with(|| format!("record {} was replaced", ends.newest.number));
                }
                reopened = Some(file);
            } else {
                let lost = tail.place.next_number();
                damage.get_or_insert_with(|| format!("record {lost} is missing or damaged"));
            }
        } else if ends.newest.number > ends.removed.number {
            damage.get_or_insert_with(|| format!("record {} is missing", ends.removed.next_number()));
        }
        let file = match reopened {
            Some(file) => file,
            None => {
                let (segment, file) = create(folder, Header { before: place, created_unix_ms: now_ms })?;
                segments.push_back(segment);
                file
            }
        };
        let removed = ends.removed;
        let mut writer = Self { folder: folder.to_owned(), limits, place, durable: place, removed, segments, file };
        let agent = env!("CARGO_PKG_VERSION").to_owned();
        let started = LogEvent::Started(StartedRecord { agent, clean, cut_bytes, damage: damage.clone() });
        writer.append(&[LogRecord { at_unix_ms: now_ms, missing: 0, event: started }], now_ms)?;
        writer.sync()?;
        let newest = writer.place;
        tracing::info!(number = newest.number, hash = %newest.hash, clean, cut_bytes, damage, "log of receipts opened");
        Ok(writer)
    }

    fn read_segments(folder: &Path, damage: &mut Option<String>) -> Result<VecDeque<Segment>, WriteError> {
        let mut segments = VecDeque::new();
        for file in reader::files(folder)? {
            let failed = |source| WriteError::Append { path: file.path.clone(), source };
            let mut opened = File::open(&file.path).map_err(failed)?;
            let metadata = opened.metadata().map_err(failed)?;
            let written =
                metadata.modified().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
            let newest_ms = u64::try_from(written.as_millis()).unwrap_or(u64::MAX);
            match Header::read(&mut opened) {
                Ok(header) if header.before.next_number() == file.first => {
                    segments.push_back(Segment { header, path: file.path, bytes: metadata.len(), newest_ms });
                }
                Err(FrameError::Io(source)) => return Err(failed(source)),
                Ok(_) | Err(FrameError::Torn | FrameError::NotALog) => {
                    // Kept for whoever looks into it, under a name that no new file takes.
                    let aside = file.path.with_extension("damaged");
                    fs::rename(&file.path, &aside).map_err(failed)?;
                    damage.get_or_insert_with(|| format!("file {} is damaged", aside.display()));
                }
            }
        }
        Ok(segments)
    }

    /// Returns the newest record.
    #[must_use]
    pub fn place(&self) -> Link {
        self.place
    }

    /// Appends records; all or none of them are in the log afterwards.
    ///
    /// # Errors
    /// When the disk is full or fails; the log is then as it was.
    pub fn append(&mut self, records: &[LogRecord], now_ms: u64) -> Result<(), WriteError> {
        let mut bytes = Vec::new();
        let mut place = self.place;
        for record in records {
            let payload = serde_json::to_vec(record).unwrap_or_default();
            if payload.is_empty() || payload.len() > PAYLOAD_BYTES_MAX {
                return Err(WriteError::TooLong(payload.len()));
            }
            place = frame::append(place, &payload, &mut bytes);
        }
        if self.must_rotate(u64::try_from(bytes.len()).unwrap_or(u64::MAX), now_ms) {
            self.rotate(now_ms)?;
        }
        let Some(segment) = self.segments.back_mut() else { return Ok(()) };
        if let Err(source) = self.file.write_all(&bytes) {
            // A part of the bytes may be in the file; taking them back needs no space.
            if let Err(error) = self.file.set_len(segment.bytes) {
                tracing::error!(error = telemetry::chain(&error), "an incomplete record stays in the log of receipts");
            }
            return Err(WriteError::Append { path: segment.path.clone(), source });
        }
        segment.bytes = segment.bytes.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        segment.newest_ms = now_ms;
        self.place = place;
        Ok(())
    }

    /// Makes the appended records durable, and removes the oldest files beyond the limits.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn sync(&mut self) -> Result<(), WriteError> {
        if self.durable != self.place {
            let path = self.segments.back().map(|segment| segment.path.clone()).unwrap_or_default();
            self.file.sync_data().map_err(|source| WriteError::Append { path, source })?;
            Ends { newest: self.place, removed: self.removed }.write(&self.folder)?;
            self.durable = self.place;
        }
        Ok(())
    }

    /// Removes the oldest files beyond the limits.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn remove_oldest(&mut self, now_ms: u64) -> Result<(), WriteError> {
        while let (Some(oldest), Some(next)) = (self.segments.front(), self.segments.get(1)) {
            let earlier = self.segments.iter().rev().skip(1).map(|segment| segment.bytes).sum::<u64>();
            // The newest file may grow to its limit before the next time.
            let is_full = earlier.saturating_add(self.limits.file_bytes()) > self.limits.bytes_max;
            let is_old = oldest.newest_ms.saturating_add(self.limits.keep_ms()) <= now_ms;
            if !is_full && !is_old {
                break;
            }
            self.removed = next.header.before;
            Ends { newest: self.durable, removed: self.removed }.write(&self.folder)?;
            if let Some(oldest) = self.segments.pop_front() {
                files::remove_file(&oldest.path)?;
            }
        }
        Ok(())
    }

    /// Begins a new file where the present one is old, also while no request comes.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn tick(&mut self, now_ms: u64) -> Result<(), WriteError> {
        if self.must_rotate(0, now_ms) {
            self.rotate(now_ms)?;
        }
        self.remove_oldest(now_ms)
    }

    fn must_rotate(&self, more: u64, now_ms: u64) -> bool {
        let Some(segment) = self.segments.back() else { return false };
        let has_records = segment.bytes > u64::try_from(HEADER_BYTES).unwrap_or(0);
        let is_full = segment.bytes.saturating_add(more) > self.limits.file_bytes();
        let is_old = segment.header.created_unix_ms.saturating_add(self.limits.file_age_ms()) <= now_ms;
        has_records && (is_full || is_old)
    }

    fn rotate(&mut self, now_ms: u64) -> Result<(), WriteError> {
        self.sync()?;
        let (segment, file) = create(&self.folder, Header { before: self.place, created_unix_ms: now_ms })?;
        self.segments.push_back(segment);
        self.file = file;
        self.remove_oldest(now_ms)
    }
}

fn create(folder: &Path, header: Header) -> Result<(Segment, File), WriteError> {
    let path = folder.join(file_name(header.before.next_number()));
    if path.exists() {
        // A damaged file from which nothing can be continued is kept for whoever looks into it.
        let failed = |source| WriteError::Append { path: path.clone(), source };
        fs::rename(&path, path.with_extension("damaged")).map_err(failed)?;
    }
    let bytes = header.to_bytes();
    files::write_atomic(&path, &bytes, Mode::Private)?;
    let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    let file = open_to_append(&path, length)?;
    Ok((Segment { header, path, bytes: length, newest_ms: header.created_unix_ms }, file))
}

/// Opens a file to append to it, and cuts off what is behind `length`.
fn open_to_append(path: &Path, length: u64) -> Result<File, WriteError> {
    let failed = |source| WriteError::Append { path: path.to_owned(), source };
    let file = OpenOptions::new().append(true).open(path).map_err(failed)?;
    file.set_len(length).map_err(failed)?;
    Ok(file)
}

/// Reads the newest file up to its last whole record that follows the one before.
fn tail_of(segment: &Segment, durable: Link) -> Result<Tail, WriteError> {
    let failed = |source| WriteError::Append { path: segment.path.clone(), source };
    let mut from = io::BufReader::new(File::open(&segment.path).map_err(failed)?);
    let good = u64::try_from(HEADER_BYTES).unwrap_or(u64::MAX);
    let before = segment.header.before;
    let mut tail = Tail { place: before, good, length: segment.bytes, last: None, is_torn: false, is_replaced: false };
    if Header::read(&mut from).is_err() {
        return Ok(Tail { is_torn: true, ..tail });
    }
    loop {
        let frame = match frame::Frame::read(&mut from) {
            Ok(Some(frame)) => frame,
            Ok(None) => return Ok(tail),
            Err(FrameError::Io(source)) => return Err(failed(source)),
            Err(FrameError::Torn | FrameError::NotALog) => return Ok(Tail { is_torn: true, ..tail }),
        };
        let follows = frame.stated.number == tail.place.next_number() && frame.stated.previous == tail.place.hash;
        if !follows || frame.stated.hash != frame.computed {
            return Ok(Tail { is_torn: true, ..tail });
        }
        tail.good = tail.good.saturating_add(frame.bytes());
        tail.place = Link { number: frame.stated.number, hash: frame.stated.hash };
        tail.is_replaced |= tail.place.number == durable.number && tail.place.hash != durable.hash;
        tail.last = serde_json::from_slice::<LogRecord>(&frame.payload).ok().map(|record| record.event);
    }
}

#[cfg(test)]
mod tests;
