//! Files by digest: model files, golden files and manifests. The trait [`BlobStore`], and a folder that implements it.
//!
//! Fed by uploads ([`crate::servers::admin`]), read by the gateway for devices and by [`crate::workers`] for the hub itself. A
//! file is hashed while it is written and gets its name only when the hash is right, so a file with a name is whole.

use std::collections::HashSet;
use std::fmt;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use store::files::{self, AtomicFile, Mode};
use types::Digest;

use crate::api::FilesView;
use crate::storage::folder::Folder;

/// Bytes gathered before they are written: one system call for many small pieces of an upload.
const WRITE_BYTES: usize = 1024 * 1024;

/// Storage of files by digest: a folder now; an object store is to come.
#[async_trait]
pub trait BlobStore: fmt::Debug + Send + Sync {
    /// Returns the length of a blob in bytes; `None` when it is not there.
    ///
    /// # Errors
    /// When the storage fails.
    async fn length(&self, digest: &Digest) -> Result<Option<u64>, BlobError>;

    /// Begins an upload of at most `limit` bytes.
    ///
    /// # Errors
    /// When the storage fails.
    async fn begin(&self, digest: Digest, limit: u64) -> Result<Box<dyn BlobUpload>, BlobError>;

    /// Reads up to `length` bytes from `offset`, with the length of the whole blob; `None` when it is not there.
    ///
    /// # Errors
    /// When the storage fails.
    async fn read_range(&self, digest: &Digest, offset: u64, length: u64) -> Result<Option<(Bytes, u64)>, BlobError>;

    /// Hashes a whole blob without holding it in memory; `false` when it is not there.
    ///
    /// # Errors
    /// When its hash is another, or the storage fails.
    async fn verify(&self, digest: &Digest) -> Result<bool, BlobError>;

    /// Deletes a blob; one that is not there is deleted already.
    ///
    /// # Errors
    /// When the storage fails.
    async fn remove(&self, digest: &Digest) -> Result<(), BlobError>;

    /// Removes every blob that is not named and was last written before `before`, and returns them; with `dry_run` only returns
    /// them.
    ///
    /// # Errors
    /// When the storage fails.
    async fn retain(
        &self,
        named: HashSet<Digest>,
        before: Option<SystemTime>,
        dry_run: bool,
    ) -> Result<FilesView, BlobError>;

    /// Reads a whole blob of at most `limit` bytes and checks its hash; `None` when it is not there.
    ///
    /// # Errors
    /// When it is larger, its hash is another, or the storage fails.
    async fn read(&self, digest: &Digest, limit: u64) -> Result<Option<Bytes>, BlobError> {
        let Some(length) = self.length(digest).await? else { return Ok(None) };
        if length > limit {
            return Err(BlobError::TooLarge { limit });
        }
        let Some((bytes, _total)) = self.read_range(digest, 0, length).await? else { return Ok(None) };
        let expected = *digest;
        on_disk("hash", expected, move || {
            let given = Digest::of(&bytes);
            Ok(if given == expected { Ok(Some(bytes)) } else { Err(BlobError::Digest { expected, given }) })
        })
        .await?
    }
}

/// Blob that is being written; dropped without [`BlobUpload::commit`] it leaves nothing behind.
#[async_trait]
pub trait BlobUpload: fmt::Debug + Send {
    /// Writes the next piece of the blob.
    ///
    /// # Errors
    /// When the blob is over its limit, or the storage fails; the upload is lost then.
    async fn write(&mut self, piece: Bytes) -> Result<(), BlobError>;

    /// Makes the blob readable if its bytes have the digest. Returns their number.
    ///
    /// # Errors
    /// When they have not, or the storage fails.
    async fn commit(self: Box<Self>) -> Result<u64, BlobError>;
}

/// Files in the state folder of the hub.
#[derive(Debug, Clone)]
pub struct FolderBlobs {
    folder: Folder,
}

/// Error for a blob that was not stored or read.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// There is more of it than there may be.
    #[error("a blob is over the limit of {limit} bytes")]
    TooLarge {
        /// Maximum length of a blob in bytes.
        limit: u64,
    },
    /// The bytes are not what they were said to be.
    #[error("the bytes hash to {given}, not to {expected}")]
    Digest {
        /// The name it was to have.
        expected: Digest,
        /// Digest of the bytes.
        given: Digest,
    },
    /// It is shorter or longer than it was signed.
    #[error("the blob has {given} bytes, {expected} were signed")]
    Length {
        /// Bytes that were signed.
        expected: u64,
        /// Bytes on the disk.
        given: u64,
    },
    /// The disk cannot be used.
    #[error("{what} blob {digest}")]
    Io {
        /// Failed action, like `write` or `hash`.
        what: &'static str,
        /// Digest of the blob.
        digest: Digest,
        /// Error of the system.
        #[source]
        source: io::Error,
    },
}

impl BlobError {
    /// Work on a blob that was broken off.
    pub(crate) fn lost(digest: Digest, lost: tokio::task::JoinError) -> Self {
        Self::Io { what: "hash", digest, source: io::Error::other(lost) }
    }
}

impl BlobError {
    /// Returns whether there is no room on the disk.
    #[must_use]
    pub fn is_disk_full(&self) -> bool {
        let Self::Io { source, .. } = self else { return false };
        let file = source.get_ref().and_then(|inner| inner.downcast_ref::<store::files::FileError>());
        let full = [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded, io::ErrorKind::FileTooLarge];
        file.is_some_and(store::files::FileError::is_disk_full) || full.contains(&source.kind())
    }
}

impl FolderBlobs {
    /// Returns the blobs in a state folder.
    #[must_use]
    pub fn new(folder: Folder) -> Self {
        Self { folder }
    }
}

#[async_trait]
impl BlobStore for FolderBlobs {
    async fn length(&self, digest: &Digest) -> Result<Option<u64>, BlobError> {
        match tokio::fs::metadata(self.folder.blob(digest)).await {
            Ok(metadata) => Ok(Some(metadata.len())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(BlobError::Io { what: "look for", digest: *digest, source }),
        }
    }

    async fn begin(&self, digest: Digest, limit: u64) -> Result<Box<dyn BlobUpload>, BlobError> {
        let path = self.folder.blob(&digest);
        let file =
            on_disk("begin", digest, move || AtomicFile::create(&path, Mode::Shared).map_err(io::Error::other)).await?;
        let written = Some(Written { file, hash: Sha256::new() });
        Ok(Box::new(FolderUpload { digest, limit, length: 0, gathered: Vec::new(), written }))
    }

    async fn read_range(&self, digest: &Digest, offset: u64, length: u64) -> Result<Option<(Bytes, u64)>, BlobError> {
        let path = self.folder.blob(digest);
        on_disk("read", *digest, move || read_range(path, offset, length)).await
    }

    async fn verify(&self, digest: &Digest) -> Result<bool, BlobError> {
        let path = self.folder.blob(digest);
        let Some(given) = on_disk("hash", *digest, move || hash(path)).await? else { return Ok(false) };
        if given == *digest { Ok(true) } else { Err(BlobError::Digest { expected: *digest, given }) }
    }

    async fn remove(&self, digest: &Digest) -> Result<(), BlobError> {
        let path = self.folder.blob(digest);
        on_disk("delete", *digest, move || files::remove_file(&path).map_err(io::Error::other)).await
    }

    async fn retain(
        &self,
        named: HashSet<Digest>,
        before: Option<SystemTime>,
        dry_run: bool,
    ) -> Result<FilesView, BlobError> {
        let folder = self.folder.blobs();
        let digest = Digest::of(b"");
        on_disk("remove", digest, move || {
            let mut removed = FilesView::default();
            for entry in std::fs::read_dir(folder)? {
                let entry = entry?;
                // Unfinished uploads have other names; those that nobody goes on with are removed at start.
                let name = entry.file_name().into_string().unwrap_or_default();
                let Ok(digest) = format!("sha256:{name}").parse::<Digest>() else { continue };
                let Ok(metadata) = entry.metadata() else { continue };
                let is_old = before.is_some_and(|before| metadata.modified().is_ok_and(|written| written <= before));
                if is_old && !named.contains(&digest) {
                    if !dry_run {
                        std::fs::remove_file(entry.path())?;
                    }
                    removed.files += 1;
                    removed.bytes = removed.bytes.saturating_add(metadata.len());
                }
            }
            Ok(removed)
        })
        .await
    }
}

/// File that is being written under a temporary name.
#[derive(Debug)]
struct FolderUpload {
    digest: Digest,
    limit: u64,
    length: u64,
    gathered: Vec<u8>,
    /// Away on a blocking thread while a piece is written.
    written: Option<Written>,
}

#[derive(Debug)]
struct Written {
    file: AtomicFile,
    hash: Sha256,
}

#[async_trait]
impl BlobUpload for FolderUpload {
    async fn write(&mut self, piece: Bytes) -> Result<(), BlobError> {
        self.length = self.length.saturating_add(u64::try_from(piece.len()).unwrap_or(u64::MAX));
        if self.length > self.limit {
            return Err(BlobError::TooLarge { limit: self.limit });
        }
        self.gathered.extend_from_slice(&piece);
        if self.gathered.len() < WRITE_BYTES { Ok(()) } else { self.flush().await }
    }

    async fn commit(mut self: Box<Self>) -> Result<u64, BlobError> {
        self.flush().await?;
        let Some(Written { file, hash }) = self.written.take() else { return Err(self.lost()) };
        let given = Digest::from_bytes(hash.finalize().into());
        if given != self.digest {
            return Err(BlobError::Digest { expected: self.digest, given });
        }
        on_disk("keep", self.digest, move || file.commit().map_err(io::Error::other)).await?;
        Ok(self.length)
    }
}

impl FolderUpload {
    async fn flush(&mut self) -> Result<(), BlobError> {
        let Some(mut written) = self.written.take() else { return Err(self.lost()) };
        let gathered = std::mem::take(&mut self.gathered);
        let written = on_disk("write", self.digest, move || {
            written.hash.update(&gathered);
            written.file.write_all(&gathered)?;
            Ok(written)
        })
        .await?;
        self.written = Some(written);
        Ok(())
    }

    fn lost(&self) -> BlobError {
        let source = io::Error::other("an earlier piece was not written");
        BlobError::Io { what: "write", digest: self.digest, source }
    }
}

/// Runs file work where it may block.
async fn on_disk<T: Send + 'static>(
    what: &'static str,
    digest: Digest,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, BlobError> {
    let done = tokio::task::spawn_blocking(work).await.unwrap_or_else(|panicked| Err(io::Error::other(panicked)));
    done.map_err(|source| BlobError::Io { what, digest, source })
}

fn hash(path: PathBuf) -> io::Result<Option<Digest>> {
    let mut file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut hasher = Sha256::new();
    io::copy(&mut file, &mut hasher)?;
    Ok(Some(Digest::from_bytes(hasher.finalize().into())))
}

fn read_range(path: PathBuf, offset: u64, length: u64) -> io::Result<Option<(Bytes, u64)>> {
    let mut file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let total = file.metadata()?.len();
    let offset = offset.min(total);
    let length = length.min(total - offset);
    file.seek(SeekFrom::Start(offset))?;
    let mut bytes = Vec::with_capacity(usize::try_from(length).map_err(io::Error::other)?);
    file.take(length).read_to_end(&mut bytes)?;
    Ok(Some((bytes.into(), total)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blobs() -> (tempfile::TempDir, FolderBlobs) {
        let folder = tempfile::tempdir().unwrap();
        let layout = Folder::new(folder.path());
        std::fs::create_dir_all(layout.blobs()).unwrap();
        (folder, FolderBlobs::new(layout))
    }

    async fn upload(blobs: &dyn BlobStore, digest: Digest, pieces: &[&'static [u8]]) -> Result<u64, BlobError> {
        let mut upload = blobs.begin(digest, 1000).await?;
        for piece in pieces {
            upload.write(Bytes::from_static(piece)).await?;
        }
        upload.commit().await
    }

    fn names(folder: &tempfile::TempDir) -> usize {
        std::fs::read_dir(Folder::new(folder.path()).blobs()).unwrap().count()
    }

    #[tokio::test]
    async fn what_was_uploaded_reads_back_from_any_offset() {
        let (_folder, blobs) = blobs();
        let digest = Digest::of(b"0123456789");
        assert_eq!(upload(&blobs, digest, &[b"01234", b"56789"]).await.unwrap(), 10);
        assert_eq!(blobs.length(&digest).await.unwrap(), Some(10));
        let range = |offset, length| blobs.read_range(&digest, offset, length);
        assert_eq!(range(7, 100).await.unwrap(), Some((Bytes::from_static(b"789"), 10)));
        assert_eq!(range(2, 3).await.unwrap(), Some((Bytes::from_static(b"234"), 10)));
        assert_eq!(range(u64::MAX, 3).await.unwrap(), Some((Bytes::new(), 10)));
        assert_eq!(blobs.read(&digest, 10).await.unwrap(), Some(Bytes::from_static(b"0123456789")));
        assert!(matches!(blobs.read(&digest, 9).await, Err(BlobError::TooLarge { limit: 9 })));
    }

    #[tokio::test]
    async fn bytes_that_are_not_their_digest_leave_nothing() {
        let (folder, blobs) = blobs();
        let digest = Digest::of(b"right");
        assert!(matches!(upload(&blobs, digest, &[b"wrong"]).await, Err(BlobError::Digest { .. })));
        assert_eq!(blobs.length(&digest).await.unwrap(), None);
        assert_eq!(names(&folder), 0, "a temporary file stayed behind");
    }

    #[tokio::test]
    async fn an_upload_over_its_limit_stops_there() {
        let (folder, blobs) = blobs();
        let piece: &'static [u8] = &[7; 600];
        assert!(matches!(upload(&blobs, Digest::of(piece), &[piece, piece]).await, Err(BlobError::TooLarge { .. })));
        assert_eq!(names(&folder), 0, "a temporary file stayed behind");
    }

    #[tokio::test]
    async fn a_blob_that_rotted_on_disk_is_not_read() {
        let (folder, blobs) = blobs();
        let digest = Digest::of(b"right");
        upload(&blobs, digest, &[b"right"]).await.unwrap();
        std::fs::write(Folder::new(folder.path()).blob(&digest), b"wrong").unwrap();
        assert!(matches!(blobs.read(&digest, 10).await, Err(BlobError::Digest { .. })));
    }
}
