//! Files of inputs and answers, one each for an entry.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use store::files::{self, Mode};
use types::limits::TENSOR_BYTES_MAX;

use super::seal::{OVERHEAD_BYTES, OutboxKey, Purpose, SealError};

/// Maximum size of one file: all tensors of a request, and their forms.
const FILE_BYTES_MAX: u64 = TENSOR_BYTES_MAX as u64 + 4 * 1024 * 1024;

/// Files of the outbox.
#[derive(Debug, Clone)]
pub(super) struct PayloadFiles {
    folder: PathBuf,
    key: Arc<OutboxKey>,
}

impl PayloadFiles {
    /// Opens the folder, and makes it where it is missing.
    pub(super) fn open(folder: PathBuf, key: OutboxKey) -> Result<Self, SealError> {
        files::create_dir(&folder)?;
        files::remove_unfinished(&folder)?;
        Ok(Self { folder, key: Arc::new(key) })
    }

    /// Removes files that belong to no entry: those of a request whose record was never written.
    pub(super) fn collect(&self, is_needed: impl Fn(u64, Purpose) -> bool) {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().filter_map(Result::ok);
        for entry in entries {
            let name = entry.file_name();
            let Some((number, suffix)) = name.to_str().and_then(|name| name.split_once('.')) else { continue };
            let purpose = [Purpose::Request, Purpose::Answer].into_iter().find(|known| known.suffix() == suffix);
            let Some((number, purpose)) = number.parse().ok().zip(purpose) else { continue };
            if !is_needed(number, purpose) {
                self.remove_one(number, purpose);
            }
        }
    }

    /// Returns the size of a file with so many bytes of content.
    pub(super) fn size(content: usize) -> u64 {
        u64::try_from(content).unwrap_or(u64::MAX).saturating_add(OVERHEAD_BYTES)
    }

    /// Writes a file; durable when this returns its size.
    pub(super) async fn write(
        &self,
        number: u64,
        purpose: Purpose,
        content: Vec<u8>,
        is_sealed: bool,
    ) -> Result<u64, SealError> {
        let (files, path) = (self.clone(), self.path(number, purpose));
        let writing = move || {
            let framed = files.key.frame(number, purpose, content, is_sealed)?;
            files::write_atomic(&path, &framed, Mode::Private)?;
            Ok(u64::try_from(framed.len()).unwrap_or(u64::MAX))
        };
        tokio::task::spawn_blocking(writing).await.unwrap_or(Err(SealError::Form))
    }

    /// Reads the content of a file.
    pub(super) async fn read(&self, number: u64, purpose: Purpose) -> Result<Vec<u8>, SealError> {
        let (files, path) = (self.clone(), self.path(number, purpose));
        let reading = move || {
            let framed = files::read_bounded(&path, FILE_BYTES_MAX)?;
            files.key.unframe(number, purpose, &framed)
        };
        tokio::task::spawn_blocking(reading).await.unwrap_or(Err(SealError::Form))
    }

    /// Removes both files of an entry.
    pub(super) fn remove(&self, number: u64) {
        [Purpose::Request, Purpose::Answer].into_iter().for_each(|purpose| self.remove_one(number, purpose));
    }

    /// Removes a file. Not synced: a file that a power cut brings back is removed at the next start.
    pub(super) fn remove_one(&self, number: u64, purpose: Purpose) {
        match fs::remove_file(self.path(number, purpose)) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => tracing::warn!(%error, number, "a file of the outbox was not removed"),
        }
    }

    fn path(&self, number: u64, purpose: Purpose) -> PathBuf {
        self.folder.join(format!("{number:020}.{}", purpose.suffix()))
    }
}
