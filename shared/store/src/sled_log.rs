//! The durable part of a store: a sled database with the same entries as the map in memory.
//!
//! Used by the writer thread of [`crate::durable`]. No other module uses sled, and this one trusts sled little: every
//! panic is caught, everything is read once at open (so that damage is detected there and not later), and a write
//! counts only after sled's flush **and** an fsync of its file, which sled itself omits on Linux.
//!
//! Sled takes damage in its log for the torn end of a power cut and opens with the entries before it. To detect this,
//! every write has a number, and [`Seal`] stores the last one beside the database: a database that is behind its seal
//! has lost acknowledged writes.
//!
//! Values are split into pieces ([`PIECE_BYTES`]) so that no page of sled outgrows its log: larger pages are stored in
//! separate files whose removal is not ordered with the log, which a power cut can turn into a hole.

use std::any::Any;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use crate::files::{self, is_disk_full};
use crate::map::{Changes, Map};

/// Maximum length of a piece of a value in one sled entry, in bytes. A sled leaf has up to 17 entries, and its page
/// stays in the log up to 128 KiB (a quarter of a segment): 17 × (4 KiB + the longest key) is 78 KiB.
const PIECE_BYTES: usize = 4096;

/// Sled key of the number of the last write: too short to be the key of a piece.
const NUMBER_KEY: &[u8] = &[0xff];

/// Size of sled's page cache in bytes. Reads are served from the map, so it only serves writes.
const CACHE_BYTES: u64 = 8 * 1024 * 1024;

/// Number of attempts, and their interval, to open a database whose file an ending thread still has open: one second in
/// all.
const RELEASE_ATTEMPTS: u32 = 50;
const RELEASE_WAIT: Duration = Duration::from_millis(20);

/// Maximum number of bytes written between two flushes while a whole database is rewritten.
const REWRITE_BYTES: usize = 1024 * 1024;

/// Error: the database could not be opened or written.
#[derive(Debug)]
pub(crate) enum LogError {
    /// The content is damaged, or sled panicked on it: the database should be set aside.
    Broken(String),
    /// The operating system refused: setting the database aside would not help.
    Io(io::Error),
}

impl LogError {
    pub(crate) fn into_io(self) -> io::Error {
        match self {
            Self::Broken(cause) => io::Error::new(io::ErrorKind::InvalidData, cause),
            Self::Io(error) => error,
        }
    }
}

/// An open database.
#[derive(Debug)]
pub(crate) struct SledLog {
    folder: PathBuf,
    /// Sled's database; `Some` until dropped: sled may panic while it closes, and that must be caught.
    db: Option<sled::Db>,
    /// A second handle on sled's log file, for the fsync.
    log: File,
    /// Number of the last write.
    number: u64,
    seal: Seal,
}

impl SledLog {
    /// Opens or creates the database and reads all of it.
    pub(crate) fn open(folder: &Path) -> Result<(Self, Map), LogError> {
        // Sled creates its folder and files according to the umask: the folder is created here, and old files are
        // corrected.
        files::create_dir(folder).map_err(|error| LogError::Io(error.into_io()))?;
        files::restrict(folder).map_err(|error| LogError::Io(error.into_io()))?;
        let db = open_released(folder)?;
        files::restrict(folder).map_err(|error| LogError::Io(error.into_io()))?;
        let log = File::open(folder.join("db")).map_err(LogError::Io)?;
        let seal = Seal::open(folder).map_err(LogError::Io)?;
        let mut opened = Self { folder: folder.to_owned(), db: Some(db), log, number: 0, seal };
        let map = opened.load()?;
        opened.sync_everything()?;
        Ok((opened, map))
    }

    /// Writes a new database with these entries; the folder must not exist. The database is durable and closed on
    /// return.
    pub(crate) fn write_new(folder: &Path, map: &Map) -> Result<(), LogError> {
        let (mut log, nothing) = Self::open(folder)?;
        let mut changes = Changes::new();
        let mut bytes = 0;
        for (key, value) in map.entries() {
            bytes += key.len() + value.len();
            changes.insert(key.clone(), Some(value.clone()));
            if bytes > REWRITE_BYTES {
                log.write(&nothing, &std::mem::take(&mut changes))?;
                bytes = 0;
            }
        }
        log.write(&nothing, &changes)?;
        log.sync_everything()
    }

    /// Writes changes relative to the content of `before`; durable on return.
    pub(crate) fn write(&mut self, before: &Map, changes: &Changes) -> Result<(), LogError> {
        let number = self.number + 1;
        let mut batch = pieces_of(before, changes);
        batch.insert(NUMBER_KEY, &number.to_be_bytes());
        let db = self.db()?;
        guarded(|| {
            db.apply_batch(batch)?;
            db.flush()
        })?;
        self.log.sync_all().map_err(LogError::Io)?;
        self.number = number;
        self.seal.set(number);
        Ok(())
    }

    /// Makes the content of the database equal to `wanted`; durable on return.
    pub(crate) fn reconcile(&mut self, found: &Map, wanted: &Map) -> Result<(), LogError> {
        let mut changes: Changes = found.entries().map(|(key, _)| (key.clone(), None)).collect();
        changes.extend(wanted.entries().map(|(key, value)| (key.clone(), Some(value.clone()))));
        changes.retain(|key, value| found.get(key) != *value);
        if changes.is_empty() { Ok(()) } else { self.write(found, &changes) }
    }

    /// Returns the size on disk in bytes.
    pub(crate) fn bytes_on_disk(&self) -> u64 {
        self.log.metadata().map_or(0, |metadata| metadata.len())
    }

    fn db(&self) -> Result<&sled::Db, LogError> {
        self.db.as_ref().ok_or_else(|| LogError::Broken("the database was closed".into()))
    }

    fn load(&mut self) -> Result<Map, LogError> {
        let db = self.db()?;
        let entries = guarded(|| db.iter().collect::<sled::Result<Vec<_>>>())?;
        let (numbers, pieces): (Vec<_>, Vec<_>) = entries.iter().partition(|(key, _)| key == NUMBER_KEY);
        let number = numbers.first().and_then(|(_, number)| number.first_chunk());
        self.number = number.map_or(0, |number| u64::from_be_bytes(*number));
        let sealed = self.seal.read();
        if self.number < sealed {
            return Err(LogError::Broken(format!("it ends with write {} of {sealed}", self.number)));
        }
        assemble(pieces.into_iter().map(|(key, value)| (&key[..], &value[..]))).map_err(LogError::Broken)
    }

    /// Makes the folder and its content durable: sled creates files without an fsync of their folder.
    fn sync_everything(&mut self) -> Result<(), LogError> {
        let db = self.db()?;
        guarded(|| db.flush())?;
        sync_tree(&self.folder).map_err(LogError::Io)
    }
}

impl Drop for SledLog {
    fn drop(&mut self) {
        let db = self.db.take();
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| drop(db))) {
            tracing::error!(folder = %self.folder.display(), cause = text_of(panic.as_ref()), "sled panicked on closing");
        }
    }
}

/// Opens sled, after waiting for the threads of a database that this process has just closed to release its file.
///
/// No other process can have it open: the caller has the store's lock.
fn open_released(folder: &Path) -> Result<sled::Db, LogError> {
    let config = sled::Config::new().path(folder).mode(sled::Mode::LowSpace);
    let config = config.cache_capacity(CACHE_BYTES).flush_every_ms(None);
    for _ in 0..RELEASE_ATTEMPTS {
        match guarded(|| config.open()) {
            Err(LogError::Io(error)) if is_lock_failure(&error) => std::thread::sleep(RELEASE_WAIT),
            result => return result,
        }
    }
    guarded(|| config.open())
}

/// The number of the last durable write, in a separate file in the database's folder.
///
/// Written after each write without waiting for the disk: a power cut may leave an older number, which only detects
/// less, but never a newer one.
#[derive(Debug)]
struct Seal {
    file: File,
}

impl Seal {
    fn open(folder: &Path) -> io::Result<Self> {
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(files::NO_FOLLOW);
        let file = options.open(folder.join("seal"))?;
        Ok(Self { file })
    }

    /// Writes the number, followed by its complement, so that a torn write is detected.
    fn set(&self, number: u64) {
        let content = [number.to_be_bytes(), (!number).to_be_bytes()].concat();
        if let Err(error) = self.file.write_all_at(&content, 0) {
            tracing::debug!(%error, "could not renew the seal of the store");
        }
    }

    /// Reads the number; zero if there is no complete one.
    fn read(&self) -> u64 {
        let mut number = [0; 8];
        let mut complement = [0; 8];
        let read = self.file.read_exact_at(&mut number, 0).and_then(|()| self.file.read_exact_at(&mut complement, 8));
        let (number, complement) = (u64::from_be_bytes(number), u64::from_be_bytes(complement));
        if read.is_ok() && number == !complement { number } else { 0 }
    }
}

/// Removes unfinished snapshots of sled after a crash: sled refuses to open with such a file.
///
/// Returns whether there was any.
pub(crate) fn remove_half_snapshots(folder: &Path) -> bool {
    let Ok(entries) = fs::read_dir(folder) else { return false };
    let half = entries.flatten().filter(|entry| {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        name.starts_with("snap.") && name.ends_with(".generating")
    });
    half.filter(|entry| fs::remove_file(entry.path()).is_ok()).count() > 0
}

/// Runs sled code; separates its panics and errors by whether the content or the operating system is at fault.
fn guarded<T>(work: impl FnOnce() -> sled::Result<T>) -> Result<T, LogError> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => result.map_err(sort),
        Err(panic) => Err(LogError::Broken(format!("sled panicked: {}", text_of(panic.as_ref())))),
    }
}

fn sort(error: sled::Error) -> LogError {
    match error {
        sled::Error::Io(error) if is_of_the_system(&error) => LogError::Io(error),
        broken => LogError::Broken(broken.to_string()),
    }
}

/// Returns whether a new database in the same place would meet the same error.
fn is_of_the_system(error: &io::Error) -> bool {
    use io::ErrorKind::{OutOfMemory, PermissionDenied, ReadOnlyFilesystem, ResourceBusy};
    let refused = matches!(error.kind(), OutOfMemory | PermissionDenied | ReadOnlyFilesystem | ResourceBusy);
    // The process's or the system's table of open files is full; std has no kind for it.
    let exhausted = matches!(
        error.raw_os_error().map(rustix::io::Errno::from_raw_os_error),
        Some(rustix::io::Errno::MFILE | rustix::io::Errno::NFILE)
    );
    refused || exhausted || is_disk_full(error) || is_lock_failure(error)
}

/// Returns whether the error is a failure to lock, which sled reports by its text only.
fn is_lock_failure(error: &io::Error) -> bool {
    error.to_string().contains("could not acquire lock")
}

fn text_of(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message")
}

fn sync_tree(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_tree(&entry.path())?;
        } else {
            File::open(entry.path())?.sync_all()?;
        }
    }
    File::open(folder)?.sync_all()?;
    files::sync_dir(folder.parent().unwrap_or(folder)).map_err(io::Error::other)
}

// An entry `key → value` is stored in sled as its pieces. Key of a piece: u16 length of the key, the key, u16 number of
// the piece, all big-endian, so that the pieces of one value are adjacent and in order. The first piece begins with the
// u32 length of the whole value.

fn pieces_of(before: &Map, changes: &Changes) -> sled::Batch {
    let mut batch = sled::Batch::default();
    for (key, value) in changes {
        let old = before.get(key).map_or(0, |value| piece_count(value.len()));
        let new = value.as_ref().map_or(0, |value| piece_count(value.len()));
        if let Some(value) = value {
            let whole = [&length_of(value)[..], value].concat();
            for (number, piece) in whole.chunks(PIECE_BYTES).enumerate() {
                batch.insert(piece_key(key, number), piece);
            }
        }
        for number in new..old {
            batch.remove(piece_key(key, number));
        }
    }
    batch
}

fn piece_count(value_length: usize) -> usize {
    (value_length + size_of::<u32>()).div_ceil(PIECE_BYTES)
}

/// Returns the encoded length; values are at most [`crate::VALUE_BYTES_MAX`], so it never saturates.
fn length_of(value: &Bytes) -> [u8; 4] {
    u32::try_from(value.len()).unwrap_or(u32::MAX).to_be_bytes()
}

/// Returns the key of a piece; keys are at most [`crate::KEY_BYTES_MAX`] and values have at most 65 pieces, so nothing
/// saturates.
fn piece_key(key: &[u8], number: usize) -> Vec<u8> {
    let length = u16::try_from(key.len()).unwrap_or(u16::MAX);
    let number = u16::try_from(number).unwrap_or(u16::MAX);
    [&length.to_be_bytes()[..], key, &number.to_be_bytes()].concat()
}

/// Assembles values from pieces in the order of their keys; checks every field, because the pieces may be damaged.
fn assemble<'a>(pieces: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Result<Map, String> {
    let mut changes = Changes::new();
    // The current value: its key, the number of its next piece, and its bytes so far with the length before them.
    let mut open: Option<(Bytes, usize, BytesMut)> = None;
    for (piece_key, piece) in pieces {
        let (key, number) = read_piece_key(piece_key).ok_or("an entry has a malformed key")?;
        open = match open.take() {
            Some((current, next, mut whole)) if current == key && number == next => {
                whole.extend_from_slice(piece);
                Some((current, next + 1, whole))
            }
            finished if number == 0 => {
                close(&mut changes, finished)?;
                Some((Bytes::copy_from_slice(key), 1, BytesMut::from(piece)))
            }
            Some(_) | None => return Err(format!("a piece of key {:?} is missing", key.escape_ascii().to_string())),
        };
    }
    close(&mut changes, open)?;
    let mut map = Map::default();
    map.change(changes);
    Ok(map)
}

fn close(changes: &mut Changes, open: Option<(Bytes, usize, BytesMut)>) -> Result<(), String> {
    let Some((key, _, whole)) = open else { return Ok(()) };
    let whole = whole.freeze();
    let length = whole.first_chunk().map(|length| u32::from_be_bytes(*length));
    let value = whole.slice(size_of::<u32>().min(whole.len())..);
    if length.and_then(|length| usize::try_from(length).ok()) != Some(value.len()) {
        return Err(format!("the value of key {:?} is cut short", key.escape_ascii().to_string()));
    }
    changes.insert(key, Some(value));
    Ok(())
}

fn read_piece_key(piece_key: &[u8]) -> Option<(&[u8], usize)> {
    let (length, rest) = piece_key.split_first_chunk()?;
    let (key, number) = rest.split_last_chunk()?;
    (key.len() == usize::from(u16::from_be_bytes(*length))).then_some((key, usize::from(u16::from_be_bytes(*number))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::VALUE_BYTES_MAX;

    fn map_of(entries: &[(&str, usize)]) -> Map {
        let mut map = Map::default();
        let entry = |(key, size): &(&str, usize)| {
            (Bytes::copy_from_slice(key.as_bytes()), Some(Bytes::from(vec![key.bytes().last().unwrap_or(1); *size])))
        };
        map.change(entries.iter().map(entry).collect());
        map
    }

    fn pieces(map: &Map) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut pieces = Vec::new();
        for (key, value) in map.entries() {
            let whole = [&length_of(value)[..], value].concat();
            pieces.extend(whole.chunks(PIECE_BYTES).enumerate().map(|(n, piece)| (piece_key(key, n), piece.to_vec())));
        }
        pieces.sort();
        pieces
    }

    fn assembled(pieces: &[(Vec<u8>, Vec<u8>)]) -> Result<Map, String> {
        assemble(pieces.iter().map(|(key, piece)| (&key[..], &piece[..])))
    }

    #[test]
    fn values_of_every_size_come_back_from_their_pieces() {
        let sizes = [0, 1, PIECE_BYTES - 5, PIECE_BYTES - 4, PIECE_BYTES - 3, PIECE_BYTES * 2, VALUE_BYTES_MAX];
        let names = ["", "a", "aa", "b", "a\0\0", "long/key", "z"];
        let map = map_of(&names.into_iter().zip(sizes).collect::<Vec<_>>());
        assert_eq!(assembled(&pieces(&map)), Ok(map));
    }

    #[test]
    fn a_lost_or_cut_piece_is_noticed() {
        let map = map_of(&[("a", PIECE_BYTES * 3), ("b", 10)]);
        let whole = pieces(&map);
        for lost in 0..whole.len() - 1 {
            let mut damaged = whole.clone();
            damaged.remove(lost);
            assert!(assembled(&damaged).is_err(), "piece {lost}");
        }
        let mut cut = whole.clone();
        cut[0].1.pop();
        assert!(assembled(&cut).is_err());
        let mut alien = whole;
        alien.push((vec![0xff], vec![]));
        assert!(assembled(&alien).is_err());
    }

    #[test]
    fn a_shorter_value_leaves_no_pieces_of_the_longer_one() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("store");
        let (mut log, mut map) = SledLog::open(&folder).unwrap();
        for size in [Some(20_000), Some(5_000), Some(0), None] {
            let changes: Changes = [(Bytes::from("key"), size.map(|size| Bytes::from(vec![7; size])))].into();
            log.write(&map, &changes).unwrap();
            map.change(changes);
            assert_eq!(log.load().unwrap(), map);
        }
        assert_eq!(log.db().unwrap().len(), 1, "the number of the last write is all that is left");
    }

    #[test]
    fn large_values_never_leave_the_log() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("store");
        let (mut log, map) = SledLog::open(&folder).unwrap();
        for round in 0..4_u8 {
            let entry = |n: u8| (Bytes::from(vec![n; 500]), Some(Bytes::from(vec![round; VALUE_BYTES_MAX])));
            log.write(&map, &(0..8).map(entry).collect()).unwrap();
        }
        assert_eq!(fs::read_dir(folder.join("blobs")).unwrap().count(), 0);
    }
}
