//! A file of a bundle that is being downloaded: resumable, and wrong bytes are detected within one chunk.
//!
//! The updater passes bytes in order to [`Download::push`] and asks [`Download::next_range`] for the missing range. The
//! received bytes are stored in a `.part` file that survives a restart: it is hashed again when it is opened, and the
//! bytes after the last good chunk are kept only as far as they may still be right.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};
use types::Digest;

use crate::file::{self, CHUNK_BYTES, FileRef};

/// Size of the buffer in bytes for hashing an earlier part again.
const READ_BYTES: usize = 64 * 1024;

/// Access rights of a part: readable by the agent only; models can be secrets of their owner.
const PART_MODE: u32 = 0o600;

/// The next bytes that a download needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// Offset of the first byte, from the start of the file.
    pub offset: u64,
    /// Number of bytes, at least 1 and never across the end of a chunk.
    pub length: u64,
}

/// Error: bytes were refused, or the file could not be written.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// A chunk differs from the signed one. It was removed; the download continues from its start.
    #[error("chunk {chunk} of \"{file}\" differs from the signed one")]
    WrongChunk {
        /// Name of the file.
        file: String,
        /// Number of the chunk, from 0.
        chunk: usize,
    },
    /// More bytes were received than the file has.
    #[error("received more than the {size} bytes of \"{file}\"")]
    TooLong {
        /// Name of the file.
        file: String,
        /// Size of the file in bytes.
        size: u64,
    },
    /// The download was finished before all bytes arrived.
    #[error("received only {arrived} of {size} bytes of \"{file}\"")]
    Incomplete {
        /// Name of the file.
        file: String,
        /// Number of received bytes.
        arrived: u64,
        /// Size of the file in bytes.
        size: u64,
    },
    /// Each chunk was right but the whole file is not: the manifest contradicts itself.
    #[error("\"{0}\" differs from the signed file although its chunks match: the manifest contradicts itself")]
    WrongFile(String),
    /// A chunk was right when it arrived but reads differently now: the disk has changed it.
    #[error("\"{0}\" was damaged on this machine's disk after the download")]
    Damaged(String),
    /// The part could not be read or written; a full disk is [`io::ErrorKind::StorageFull`].
    #[error("{action} {path:?}")]
    Io {
        /// Operation that failed.
        action: &'static str,
        /// Path of the file.
        path: PathBuf,
        /// Error of the operating system.
        #[source]
        source: io::Error,
    },
}

impl FetchError {
    /// Whether the sender is at fault, not this machine.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::WrongChunk { .. } | Self::TooLong { .. } | Self::WrongFile(_) => true,
            Self::Incomplete { .. } | Self::Damaged(_) | Self::Io { .. } => false,
        }
    }
}

/// Download of one file.
#[derive(Debug)]
pub struct Download {
    expected: FileRef,
    path: PathBuf,
    part: File,
    /// Number of bytes in the part; all of them are hashed into `chunk` or verified.
    arrived: u64,
    /// Hash of the bytes since the last end of a chunk.
    chunk: Sha256,
}

impl Download {
    /// Starts a download, or resumes an earlier one at the byte where it stopped.
    ///
    /// # Errors
    /// Fails if the part cannot be opened or read.
    pub fn open(expected: FileRef, part: &Path) -> Result<Self, FetchError> {
        let fail = failed("open part", part);
        if std::fs::symlink_metadata(part).is_ok_and(|found| !found.is_file()) {
            return Err(fail(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")));
        }
        let options = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(PART_MODE).open(part);
        let file = options.map_err(fail)?;
        let mut download = Self { expected, path: part.to_owned(), part: file, arrived: 0, chunk: Sha256::new() };
        download.resume()?;
        Ok(download)
    }

    /// Returns the next range to request: at most the rest of the current chunk. `None` when all bytes have arrived.
    #[must_use]
    pub fn next_range(&self) -> Option<Range> {
        let left = self.expected.size.checked_sub(self.arrived).filter(|&left| left > 0)?;
        let in_chunk = CHUNK_BYTES - self.arrived % CHUNK_BYTES;
        Some(Range { offset: self.arrived, length: left.min(in_chunk) })
    }

    /// Returns the number of received bytes.
    #[must_use]
    pub fn arrived(&self) -> u64 {
        self.arrived
    }

    /// Returns the size of the whole file in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.expected.size
    }

    /// Adds the bytes that follow the received ones; any number of them, also across chunks.
    ///
    /// # Errors
    /// Fails if a chunk is wrong (it is removed and requested again), if there are too many bytes, or if writing fails.
    /// After a write error the part contains its last complete write: open it again.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), FetchError> {
        let total = u64::try_from(bytes.len()).ok().and_then(|length| self.arrived.checked_add(length));
        if total.is_none_or(|total| total > self.expected.size) {
            return Err(FetchError::TooLong { file: self.expected.name.to_string(), size: self.expected.size });
        }
        let mut rest = bytes;
        while let Some(range) = self.next_range().filter(|_| !rest.is_empty()) {
            let take = usize::try_from(range.length).map_or(rest.len(), |length| length.min(rest.len()));
            let (now, later) = rest.split_at(take);
            self.part.write_all(now).map_err(failed("write part", &self.path))?;
            self.count(now)?;
            rest = later;
        }
        Ok(())
    }

    /// Drops the bytes since the last end of a chunk, which no digest has confirmed yet.
    ///
    /// # Errors
    /// Fails if the part cannot be shortened.
    pub fn drop_unverified(&mut self) -> Result<(), FetchError> {
        if self.arrived == self.expected.size {
            return Ok(());
        }
        let start = self.arrived / CHUNK_BYTES * CHUNK_BYTES;
        self.part.set_len(start).map_err(failed("shorten part", &self.path))?;
        self.part.seek(SeekFrom::Start(start)).map_err(failed("shorten part", &self.path))?;
        self.arrived = start;
        self.chunk = Sha256::new();
        Ok(())
    }

    /// Verifies the whole file, makes it durable and renames it to its final path.
    ///
    /// # Errors
    /// Fails if bytes are missing, if the whole file is wrong or was damaged on the disk (the part is removed), or if
    /// writing fails.
    pub fn finish(mut self, destination: &Path) -> Result<(), FetchError> {
        let (file, size) = (self.expected.name.to_string(), self.expected.size);
        if self.arrived != size {
            return Err(FetchError::Incomplete { file, arrived: self.arrived, size });
        }
        self.part.seek(SeekFrom::Start(0)).map_err(failed("read part", &self.path))?;
        match file::digest(&self.part, size) {
            Ok(found) if found == self.expected.digest => {}
            Ok(_other) => return Err(self.wrong_file()),
            // Another process has appended to the part.
            Err(error) if error.kind() == io::ErrorKind::FileTooLarge => return Err(self.discard(FetchError::Damaged)),
            Err(source) => return Err(failed("read part", &self.path)(source)),
        }
        self.part.sync_all().map_err(failed("fsync part", &self.path))?;
        std::fs::rename(&self.path, destination).map_err(failed("rename part to", destination))?;
        let folder = destination.parent().unwrap_or(Path::new("."));
        let synced = File::open(folder).and_then(|folder| folder.sync_all());
        synced.map_err(failed("fsync folder", folder))
    }

    /// Removes a part whose digest is wrong, and returns whether the manifest contradicts itself or the disk damaged
    /// the file: the bytes of every chunk were right when they arrived.
    fn wrong_file(mut self) -> FetchError {
        let read = self.part.seek(SeekFrom::Start(0));
        let read = read.and_then(|_start| file::describe(self.expected.name.clone(), &self.part, self.expected.size));
        match read {
            Ok(found) if found.chunks == self.expected.chunks => self.discard(FetchError::WrongFile),
            Ok(_) => self.discard(FetchError::Damaged),
            Err(source) => failed("read part", &self.path)(source),
        }
    }

    /// Removes the part and returns an error with the given reason.
    fn discard(self, reason: fn(String) -> FetchError) -> FetchError {
        match std::fs::remove_file(&self.path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => failed("remove part", &self.path)(source),
            Ok(()) | Err(_) => reason(self.expected.name.to_string()),
        }
    }

    /// Hashes the bytes of an earlier run and truncates those that cannot become right.
    fn resume(&mut self) -> Result<(), FetchError> {
        let length = self.part.metadata().map_err(failed("read part", &self.path))?.len();
        let keep = length.min(self.expected.size);
        self.part.set_len(keep).map_err(failed("shorten part", &self.path))?;
        let mut buffer = vec![0; READ_BYTES];
        while self.arrived < keep {
            let in_chunk = self.next_range().map_or(0, |range| range.length).min(keep - self.arrived);
            let want = usize::try_from(in_chunk).map_or(READ_BYTES, |want| want.min(READ_BYTES));
            let piece = buffer.get_mut(..want).unwrap_or_default();
            self.part.read_exact(piece).map_err(failed("read part", &self.path))?;
            let piece = buffer.get(..want).unwrap_or_default();
            match self.count(piece) {
                Ok(()) => {}
                // Damaged, or unfinished after a power cut: already truncated, the rest is fetched again.
                Err(FetchError::WrongChunk { .. }) => return Ok(()),
                Err(other) => return Err(other),
            }
        }
        Ok(())
    }

    /// Counts bytes that are already in the part; at the end of a chunk they are verified or truncated.
    fn count(&mut self, bytes: &[u8]) -> Result<(), FetchError> {
        self.chunk.update(bytes);
        self.arrived += u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        let at_end = self.arrived == self.expected.size || self.arrived.is_multiple_of(CHUNK_BYTES);
        if !at_end {
            return Ok(());
        }
        let start = (self.arrived - 1) / CHUNK_BYTES * CHUNK_BYTES;
        let index = usize::try_from(start / CHUNK_BYTES).unwrap_or(usize::MAX);
        let digest = Digest::from_bytes(self.chunk.finalize_reset().into());
        if self.expected.chunks.get(index) == Some(&digest) {
            return Ok(());
        }
        self.part.set_len(start).map_err(failed("shorten part", &self.path))?;
        self.part.seek(SeekFrom::Start(start)).map_err(failed("shorten part", &self.path))?;
        self.arrived = start;
        Err(FetchError::WrongChunk { file: self.expected.name.to_string(), chunk: index })
    }
}

fn failed(action: &'static str, path: &Path) -> impl Fn(io::Error) -> FetchError + use<> {
    let path = path.to_owned();
    move |source| FetchError::Io { action, path: path.clone(), source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SIZE: usize = 2 * 1024 * 1024 + 4711;

    fn content() -> Vec<u8> {
        (0..SIZE).map(|n| n.to_le_bytes()[0] ^ n.to_le_bytes()[1] ^ n.to_le_bytes()[2]).collect()
    }

    fn expected(content: &[u8]) -> FileRef {
        file::describe("m.onnx".parse().unwrap(), content, u64::MAX).unwrap()
    }

    fn range(download: &Download, content: &[u8]) -> Option<Vec<u8>> {
        let range = download.next_range()?;
        let (offset, length) = (usize::try_from(range.offset).unwrap(), usize::try_from(range.length).unwrap());
        Some(content[offset..offset + length].to_vec())
    }

    #[test]
    fn a_file_arrives_by_ranges_and_gets_its_name() {
        let (folder, content) = (tempfile::tempdir().unwrap(), content());
        let part = folder.path().join("x.part");
        let mut download = Download::open(expected(&content), &part).unwrap();
        while let Some(bytes) = range(&download, &content) {
            download.push(&bytes).unwrap();
        }
        let path = folder.path().join("m.onnx");
        download.finish(&path).unwrap();
        assert_eq!(std::fs::read(path).unwrap(), content);
        assert!(!part.exists());
    }

    #[test]
    fn a_wrong_chunk_is_dropped_and_fetched_again() {
        let (folder, content) = (tempfile::tempdir().unwrap(), content());
        let mut download = Download::open(expected(&content), &folder.path().join("x.part")).unwrap();
        download.push(&content[..1024 * 1024]).unwrap();
        let mut wrong = range(&download, &content).unwrap();
        wrong[77] ^= 1;
        assert!(matches!(download.push(&wrong), Err(FetchError::WrongChunk { chunk: 1, .. })));
        assert_eq!(download.arrived(), CHUNK_BYTES);
        download.push(&content[1024 * 1024..]).unwrap();
        download.finish(&folder.path().join("m.onnx")).unwrap();
    }

    #[test]
    fn bytes_that_no_digest_confirmed_are_dropped_and_the_download_goes_on() {
        let (folder, content) = (tempfile::tempdir().unwrap(), content());
        let part = folder.path().join("x.part");
        let mut download = Download::open(expected(&content), &part).unwrap();
        download.push(&content[..1024 * 1024]).unwrap();
        download.push(b"bytes of another file").unwrap();
        download.drop_unverified().unwrap();
        assert_eq!(download.arrived(), CHUNK_BYTES);
        assert_eq!(std::fs::metadata(&part).unwrap().len(), CHUNK_BYTES);
        download.push(&content[1024 * 1024..]).unwrap();
        download.drop_unverified().unwrap();
        download.finish(&folder.path().join("m.onnx")).unwrap();
        assert_eq!(std::fs::read(folder.path().join("m.onnx")).unwrap(), content);
    }

    #[test]
    fn more_bytes_than_signed_and_an_early_end_are_refused() {
        let (folder, content) = (tempfile::tempdir().unwrap(), content());
        let mut download = Download::open(expected(&content), &folder.path().join("x.part")).unwrap();
        let mut long = content.clone();
        long.push(0);
        assert!(matches!(download.push(&long), Err(FetchError::TooLong { .. })));
        assert_eq!(download.arrived(), 0);
        download.push(&content[..9]).unwrap();
        assert!(matches!(download.finish(&folder.path().join("m")), Err(FetchError::Incomplete { arrived: 9, .. })));
    }

    #[test]
    fn what_rotted_between_two_runs_is_fetched_again() {
        let (folder, content) = (tempfile::tempdir().unwrap(), content());
        let part = folder.path().join("x.part");
        Download::open(expected(&content), &part).unwrap().push(&content[..SIZE - 1]).unwrap();
        let mut left = std::fs::read(&part).unwrap();
        left[1024 * 1024 + 5] ^= 0x80;
        std::fs::write(&part, &left).unwrap();
        let mut download = Download::open(expected(&content), &part).unwrap();
        assert_eq!(download.arrived(), CHUNK_BYTES);
        while let Some(bytes) = range(&download, &content) {
            download.push(&bytes).unwrap();
        }
        download.finish(&folder.path().join("m")).unwrap();
    }

    #[test]
    fn a_part_longer_than_the_file_is_cut() {
        let (folder, content) = (tempfile::tempdir().unwrap(), content());
        let part = folder.path().join("x.part");
        std::fs::write(&part, [content.as_slice(), b"more"].concat()).unwrap();
        let download = Download::open(expected(&content), &part).unwrap();
        assert_eq!(download.next_range(), None);
        download.finish(&folder.path().join("m")).unwrap();
    }

    #[test]
    fn a_disk_that_changes_or_loses_a_part_is_never_taken_for_a_wrong_sender() {
        let (folder, content) = (tempfile::tempdir().unwrap(), content());
        let part = folder.path().join("x.part");
        let arrived = || {
            let mut download = Download::open(expected(&content), &part).unwrap();
            let from = usize::try_from(download.arrived()).unwrap();
            download.push(&content[from..]).unwrap();
            download
        };
        for spoil in [
            |part: &Path| std::fs::write(part, b"short").unwrap(),
            |part: &Path| std::fs::write(part, vec![0; SIZE]).unwrap(),
            |part: &Path| std::fs::write(part, vec![0; SIZE + 1]).unwrap(),
            |part: &Path| std::fs::remove_file(part).unwrap(),
        ] {
            let download = arrived();
            spoil(&part);
            let error = download.finish(&folder.path().join("m")).unwrap_err();
            assert!(!error.is_refusal(), "{error}");
        }
        arrived().finish(&folder.path().join("m")).unwrap();
        assert_eq!(std::fs::read(folder.path().join("m")).unwrap(), content);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn a_download_cut_anywhere_goes_on_where_it_stopped(cuts in proptest::collection::vec(1_usize..900_000, 1..8)) {
            let (folder, content) = (tempfile::tempdir().unwrap(), content());
            let part = folder.path().join("x.part");
            let mut sent = 0;
            for cut in cuts {
                let mut download = Download::open(expected(&content), &part).unwrap();
                prop_assert_eq!(download.arrived(), u64::try_from(sent).unwrap());
                let next = (sent + cut).min(SIZE);
                download.push(&content[sent..next]).unwrap();
                sent = next;
            }
            let mut download = Download::open(expected(&content), &part).unwrap();
            download.push(&content[sent..]).unwrap();
            download.finish(&folder.path().join("m")).unwrap();
            prop_assert_eq!(std::fs::read(folder.path().join("m")).unwrap(), content);
        }
    }
}
