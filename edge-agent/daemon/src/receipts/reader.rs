//! Reads and checks the log in a folder: that of a running agent, or a copy elsewhere.
//!
//! Fed by the verbs `edge-agent log` and `edge-agent policy explain`, and by the writer at a start of the agent.

use std::fs::{self, File};
use std::io::{self, BufReader};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use serde::Serialize;
use types::chain::{Broken, Check, Fault, Link};

use super::ends::{ENDS_FILE, Ends};
use super::frame::{FORMAT, Frame, FrameError, Header};

/// Noun for a record in messages about the chain.
pub const NOUN: &str = "record";

/// End of the name of a file of the log.
const SUFFIX: &str = ".log";

/// Number of attempts to read a log whose oldest files are removed meanwhile.
const ATTEMPTS: usize = 3;

/// File of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogFile {
    /// Number of its first record, by its name.
    pub first: u64,
    /// Path of the file.
    pub path: PathBuf,
}

/// Error: the log cannot be read at all.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The folder holds no log.
    #[error("there is no log of receipts in {}", .0.display())]
    NoLog(PathBuf),
    /// A file or the folder cannot be read.
    #[error("read {}", path.display())]
    Io {
        /// Path of the file.
        path: PathBuf,
        /// Error of the operating system.
        #[source]
        source: io::Error,
    },
}

/// Result of reading a whole log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Number of records that were checked.
    pub records: u64,
    /// Number of the first record in the log; 0 in an empty one.
    pub first: u64,
    /// Number of the newest record in the log.
    pub last: u64,
    /// Hash of the newest record.
    pub hash: types::Digest,
    /// Number of files in the folder.
    pub files: usize,
    /// Size of all files in bytes.
    pub bytes: u64,
    /// Number of the newest record that rotation removed; 0 while all are there.
    pub removed: u64,
    /// Bytes of an incomplete record at the end: it is being written, or the agent was killed while it wrote.
    pub incomplete_bytes: u64,
    /// First place at which the log is not the one that was written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// Restrictions of the check.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// Returns the name of the file whose first record has this number.
#[must_use]
pub fn file_name(first: u64) -> String {
    format!("{first:020}{SUFFIX}")
}

/// Lists the files of a log, oldest first.
///
/// # Errors
/// When the folder cannot be listed.
pub fn files(folder: &Path) -> Result<Vec<LogFile>, ReadError> {
    let failed = |source| ReadError::Io { path: folder.to_owned(), source };
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let name = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(SUFFIX));
        let first = name.filter(|name| name.len() == 20).and_then(|name| name.parse().ok());
        found.extend(first.map(|first| LogFile { first, path }));
    }
    found.sort_by_key(|file| file.first);
    Ok(found)
}

/// Reads the whole log, oldest record first, checks its chain and shows each record to `visit`, also behind a broken place.
///
/// # Errors
/// When there is no log, or a file cannot be read.
pub fn read(folder: &Path, visit: &mut dyn FnMut(&Frame) -> ControlFlow<()>) -> Result<Summary, ReadError> {
    let mut shown = 0;
    let mut once = |frame: &Frame| {
        // After another attempt, what was shown is not shown again.
        if frame.stated.number <= shown {
            return ControlFlow::Continue(());
        }
        shown = frame.stated.number;
        visit(frame)
    };
    for _ in 1..ATTEMPTS {
        match read_once(folder, &mut once) {
            // Rotation has removed it since the folder was listed.
            Err(ReadError::Io { source, path }) if source.kind() == io::ErrorKind::NotFound && path != folder => {}
            result => return result,
        }
    }
    read_once(folder, &mut once)
}

fn read_once(folder: &Path, visit: &mut dyn FnMut(&Frame) -> ControlFlow<()>) -> Result<Summary, ReadError> {
    if !folder.is_dir() {
        return Err(ReadError::NoLog(folder.to_owned()));
    }
    // Before the files: records that are written meanwhile come behind the newest end.
    let ends = Ends::read(folder);
    let mut all = files(folder)?;
    if all.is_empty() && !matches!(ends, Ok(Some(_))) {
        return Err(ReadError::NoLog(folder.to_owned()));
    }
    let mut walk = Walk::new(ends);
    all.drain(..walk.removed_files(&all));
    let last = all.len().saturating_sub(1);
    walk.files = all.len();
    for (at, file) in all.iter().enumerate() {
        if walk.file(file, at == last, visit)?.is_break() {
            break;
        }
    }
    Ok(walk.finish())
}

/// Check of a log, file by file.
struct Walk {
    check: Option<Check>,
    ends: Option<Ends>,
    records: u64,
    first: u64,
    files: usize,
    bytes: u64,
    incomplete_bytes: u64,
    problem: Option<String>,
    notes: Vec<String>,
    is_whole: bool,
}

impl Walk {
    fn new(ends: Result<Option<Ends>, String>) -> Self {
        let mut notes = Vec::new();
        let ends = ends.unwrap_or_else(|problem| {
            notes.push(problem);
            None
        });
        if ends.is_none() {
            notes.push(format!("without {ENDS_FILE}, removed records at both ends of the log are not found"));
        }
        let check = ends.map(|ends| Check::after(NOUN, ends.removed));
        let (records, first, files, bytes, incomplete_bytes) = (0, 0, 0, 0, 0);
        Self { check, ends, records, first, files, bytes, incomplete_bytes, problem: None, notes, is_whole: true }
    }

    /// Returns the number of files, oldest first, that rotation was about to remove.
    fn removed_files(&self, all: &[LogFile]) -> usize {
        let removed = self.ends.map_or(0, |ends| ends.removed.number);
        all.iter().skip(1).take_while(|next| next.first <= removed.saturating_add(1)).count()
    }

    fn found(&mut self, problem: impl FnOnce() -> String) {
        if self.problem.is_none() {
            self.problem = Some(problem());
        }
    }

    fn file(
        &mut self,
        file: &LogFile,
        is_last: bool,
        visit: &mut dyn FnMut(&Frame) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, ReadError> {
        let failed = |source| ReadError::Io { path: file.path.clone(), source };
        let opened = File::open(&file.path).map_err(failed)?;
        let length = opened.metadata().map_err(failed)?.len();
        self.bytes = self.bytes.saturating_add(length);
        let name = file.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut from = BufReader::new(opened);
        let header = match Header::read(&mut from) {
            Ok(header) if header.before.next_number() == file.first => header,
            Err(FrameError::Io(source)) => return Err(failed(source)),
            Ok(_) | Err(FrameError::Torn | FrameError::NotALog) => {
                self.found(|| {
                    format!("the header of file {name} was changed: records from {} on are unreadable", file.first)
                });
                return Ok(ControlFlow::Continue(()));
            }
        };
        let check = self.check.get_or_insert_with(|| Check::after(NOUN, header.before));
        if header.before.number == check.place().number && header.before.hash != check.place().hash {
            let broken = check.broken(Fault::Unlinked(file.first));
            self.found(|| broken.to_string());
        }
        let mut good = u64::try_from(super::frame::HEADER_BYTES).unwrap_or(u64::MAX);
        loop {
            match Frame::read(&mut from) {
                Ok(None) => return Ok(ControlFlow::Continue(())),
                Ok(Some(frame)) => {
                    good = good.saturating_add(frame.bytes());
                    self.record(&frame);
                    if visit(&frame).is_break() {
                        self.is_whole = false;
                        return Ok(ControlFlow::Break(()));
                    }
                }
                Err(FrameError::Io(source)) => return Err(failed(source)),
                Err(FrameError::Torn | FrameError::NotALog) => {
                    self.torn(&name, is_last, length.saturating_sub(good));
                    return Ok(ControlFlow::Continue(()));
                }
            }
        }
    }

    fn record(&mut self, frame: &Frame) {
        let Some(check) = self.check.as_mut() else { return };
        self.records = self.records.saturating_add(1);
        if self.first == 0 {
            self.first = frame.stated.number;
        }
        if let Err(broken) = check.entry(frame.stated, frame.computed) {
            // What follows is shown, and checked against this record.
            *check = Check::after(NOUN, Link { number: frame.stated.number, hash: frame.stated.hash });
            self.found(|| broken.to_string());
        }
        let newest = self.ends.map(|ends| ends.newest).filter(|newest| newest.number == frame.stated.number);
        if newest.is_some_and(|newest| newest.hash != frame.stated.hash) {
            let number = frame.stated.number;
            self.found(|| format!("{NOUN} {number} was replaced: {ENDS_FILE} has another hash for it"));
        }
    }

    fn torn(&mut self, name: &str, is_last: bool, bytes: u64) {
        let place = self.check.as_ref().map_or(0, |check| check.place().number);
        let durable = self.ends.map_or(0, |ends| ends.newest.number);
        if is_last && place >= durable {
            self.incomplete_bytes = bytes;
        } else {
            let next = place.saturating_add(1);
            self.found(|| format!("{NOUN} {next} was changed or cut: file {name} has no whole record there"));
        }
    }

    fn finish(mut self) -> Summary {
        let start = Link::start(FORMAT);
        let place = self.check.as_ref().map_or(start, Check::place);
        if let Some(ends) = self.ends.filter(|ends| self.is_whole && place.number < ends.newest.number) {
            let broken = Broken { noun: NOUN, fault: Fault::Missing(place.next_number()) };
            self.found(|| format!("{broken}: {NOUN} {} was written last", ends.newest.number));
        }
        Summary {
            records: self.records,
            first: self.first,
            last: place.number,
            hash: place.hash,
            files: self.files,
            bytes: self.bytes,
            removed: self.ends.map_or_else(|| self.first.saturating_sub(1), |ends| ends.removed.number),
            incomplete_bytes: self.incomplete_bytes,
            problem: self.problem,
            notes: self.notes,
        }
    }
}
