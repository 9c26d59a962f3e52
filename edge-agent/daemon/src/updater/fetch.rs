//! The job that brings the files of a version onto the disk.
//!
//! Each version has files and parts of its own, so that no update touches what another one is writing. A file that lies
//! on the disk already, in another model or version, is copied and not fetched; when several updates need the same file
//! at once, the first fetches it and the others wait for that copy. What is still missing is made from a delta where the hub has
//! one ([`delta`]), and fetched otherwise. Room for what is still missing is reserved before the
//! first byte is asked for.

mod delta;

use std::collections::HashMap;
use std::fs::File;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use bundle::fetch::Download;
use bundle::{FileRef, Variant};
use edge_core::update::{Failure, FailureKind};
use store::files;
use tokio_util::sync::CancellationToken;
use types::Digest;

use super::jobs::{ASK_BYTES, Candidate, Done, blocking, unless_abandoned};
use super::task::UpdaterParts;
use super::{disk, trouble};
use crate::crash::{CrashPoint, crash_at};

/// Bytes of a local copy that are read at once.
const COPY_BYTES: usize = 256 * 1024;

/// The downloads of all models of this device.
#[derive(Debug, Default)]
pub struct Transfers {
    /// One lock for each file that is being fetched.
    files: Mutex<HashMap<Digest, Weak<tokio::sync::Mutex<()>>>>,
    /// Bytes that downloads under way have still to write.
    reserved: Mutex<u64>,
}

impl Transfers {
    /// The lock of a file: who holds it is the only one to fetch that content.
    fn lock_of(&self, digest: &Digest) -> Arc<tokio::sync::Mutex<()>> {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lock) = files.get(digest).and_then(Weak::upgrade) {
            return lock;
        }
        files.retain(|_digest, lock| lock.strong_count() > 0);
        let lock = Arc::default();
        files.insert(*digest, Arc::downgrade(&lock));
        lock
    }

    /// Reserves bytes of a disk with `free` bytes, `keep` of which must stay free. `None` when there are too few.
    fn reserve(self: &Arc<Self>, needed: u64, free: u64, keep: u64) -> Option<Room> {
        let mut reserved = self.reserved.lock().unwrap_or_else(PoisonError::into_inner);
        let after = reserved.saturating_add(needed);
        if free < after.saturating_add(keep) {
            return None;
        }
        *reserved = after;
        Some(Room { transfers: Arc::clone(self), bytes: needed })
    }
}

/// Disk space that is reserved for one download; given back when dropped.
#[derive(Debug)]
struct Room {
    transfers: Arc<Transfers>,
    bytes: u64,
}

impl Room {
    /// Gives back what was written: the disk counts it from now on.
    fn used(&mut self, bytes: u64) {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        let mut reserved = self.transfers.reserved.lock().unwrap_or_else(PoisonError::into_inner);
        *reserved = reserved.saturating_sub(bytes);
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.used(self.bytes);
    }
}

/// One version that is being fetched.
struct Fetching {
    parts: Arc<UpdaterParts>,
    abandoned: CancellationToken,
    room: Room,
    /// Bytes of the files before the one that is fetched now.
    before: u64,
    /// Bytes of all files.
    total: u64,
    /// Variant that the files belong to.
    variant: Variant,
}

/// Fetches what is missing of the files.
pub(super) async fn fetch(
    parts: Arc<UpdaterParts>,
    candidate: Candidate,
    abandoned: CancellationToken,
) -> Result<Done, Failure> {
    if is_whole(&parts, &candidate).await? {
        return Ok(Done::Fetched);
    }
    let (version, variant) = (candidate.manifest.version, &candidate.variant);
    let staging = parts.shared.folder.staging(&parts.model.name, version);
    let total: u64 = variant.files().map(|file| file.size).sum();
    let there = disk::bytes_there(&staging, variant);
    parts.note_bytes(there, total);
    let room = require_room(&parts, total.saturating_sub(there))?;
    let mut fetching = Fetching { parts, abandoned, room, before: 0, total, variant: variant.clone() };
    for file in variant.files() {
        let destination = staging.join(&file.name);
        let is_there = std::fs::metadata(&destination).is_ok_and(|found| found.len() == file.size);
        if !is_there {
            fetching.file(file, &staging).await?;
        }
        fetching.before += file.size;
        fetching.parts.note_bytes(fetching.before, total);
    }
    for other in &candidate.others {
        fetching.other(other, &staging).await?;
    }
    crash_at(CrashPoint::FilesStored);
    Ok(Done::Fetched)
}

/// Whether the version is installed already and every byte of it is still what was signed: a pin alone does not notice rot.
async fn is_whole(parts: &Arc<UpdaterParts>, candidate: &Candidate) -> Result<bool, Failure> {
    let (parts, version) = (Arc::clone(parts), candidate.manifest.version);
    let (manifest, variant) = (candidate.manifest_digest, candidate.variant.name.clone());
    blocking(move || {
        let (folder, model) = (&parts.shared.folder, &parts.model.name);
        let pinned = disk::is_installed(folder, model, version, manifest, &variant);
        Ok(pinned && disk::installed_bundle(folder, model, version).is_ok())
    })
    .await
}

/// A full disk is found before the first byte is asked for, and leaves room for everybody else.
fn require_room(parts: &UpdaterParts, needed: u64) -> Result<Room, Failure> {
    let free = files::free_bytes(parts.shared.folder.root()).map_err(|error| trouble::of_file(&error))?;
    let keep = parts.shared.updates.disk_free_min_bytes;
    parts.shared.transfers.reserve(needed, free, keep).ok_or_else(|| {
        let detail = format!(
            "the disk of {} has {free} bytes free, the update needs {needed} beside other updates under way and must \
             leave {keep}: free some space, or lower updates.disk_free_min_bytes",
            parts.shared.folder.root().display(),
        );
        trouble::because(FailureKind::DiskFull, detail)
    })
}

impl Fetching {
    /// Fetches a variant that the chosen one is measured against. What fails is not measured: only the end of the job does.
    async fn other(&mut self, variant: &Variant, staging: &Path) -> Result<(), Failure> {
        self.variant = variant.clone();
        let size = variant.files().fold(0_u64, |sum, file| sum.saturating_add(file.size));
        let missing = size.saturating_sub(disk::bytes_there(staging, variant));
        self.room = match require_room(&self.parts, missing) {
            Ok(room) => room,
            Err(failure) => {
                tracing::info!(variant = %variant.name, %failure, "a variant is not fetched to be measured");
                return Ok(());
            }
        };
        self.total = self.total.saturating_add(size);
        for file in variant.files() {
            let is_there = std::fs::metadata(staging.join(&file.name)).is_ok_and(|found| found.len() == file.size);
            match if is_there { Ok(()) } else { self.file(file, staging).await } {
                Ok(()) => {}
                Err(failure) if failure.kind == FailureKind::Superseded => return Err(failure),
                Err(failure) => {
                    tracing::info!(variant = %variant.name, %failure, "a variant is not fetched to be measured");
                    return Ok(());
                }
            }
            self.before = self.before.saturating_add(file.size);
            self.parts.note_bytes(self.before, self.total);
        }
        Ok(())
    }

    /// Brings one file to its place: from a copy on this disk where there is one, else from the hub.
    async fn file(&mut self, file: &FileRef, staging: &Path) -> Result<(), Failure> {
        let (expected, part) = (file.clone(), disk::part(staging, file));
        let open = move || Download::open(expected, &part).map_err(|error| trouble::of_fetch(&error));
        let mut download = blocking(open).await?;
        // Whoever comes second waits here, and then finds the copy of the first.
        let lock = self.parts.shared.transfers.lock_of(&file.digest);
        let waited = async { Ok(lock.lock().await) };
        let _only_one = unless_abandoned(&self.abandoned, waited).await?;
        let destination = staging.join(&file.name);
        download = self.copy(download, file, &destination).await?;
        download = self.by_delta(download, file, staging).await?;
        while let Some(range) = download.next_range() {
            // Up to the end of this chunk and some whole ones more.
            let length = (download.size() - range.offset).min(range.length + ASK_BYTES - bundle::CHUNK_BYTES);
            let asked = async {
                let answer = self.parts.shared.link.blob(file.digest, range.offset, length).await;
                answer.map_err(|error| trouble::of_link(&error))
            };
            let bytes = unless_abandoned(&self.abandoned, asked).await?;
            if bytes.is_empty() {
                return Err(trouble::because(FailureKind::Tampered, format!("the hub's \"{}\" ends early", file.name)));
            }
            let count = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
            telemetry::metrics::update_bytes(self.parts.model.name.as_str(), count);
            download = blocking(move || {
                download.push(&bytes).map_err(|error| trouble::of_fetch(&error))?;
                Ok(download)
            })
            .await?;
            crash_at(CrashPoint::ChunkStored);
            self.room.used(count);
            self.parts.note_bytes(self.before + download.arrived(), self.total);
        }
        blocking(move || download.finish(&destination).map_err(|error| trouble::of_fetch(&error))).await
    }

    /// Fills the download from whole copies on this disk. One that is damaged is left where it differs.
    async fn copy(&mut self, download: Download, file: &FileRef, destination: &Path) -> Result<Download, Failure> {
        let (parts, file, destination) = (Arc::clone(&self.parts), file.clone(), destination.to_owned());
        let before = download.arrived();
        let download = blocking(move || {
            let mut download = download;
            // Once more where a version was moved to its place between the look and the read.
            for _look in 0..2 {
                for path in disk::copies(&parts.shared.folder, &file, &destination) {
                    if download.next_range().is_some() {
                        copy_from(&mut download, &path)?;
                    }
                }
            }
            Ok(download)
        })
        .await?;
        self.room.used(download.arrived().saturating_sub(before));
        self.parts.note_bytes(self.before + download.arrived(), self.total);
        Ok(download)
    }
}

/// Reads on from a local file as long as its bytes are right. Only trouble with the part is an error.
fn copy_from(download: &mut Download, path: &Path) -> Result<(), Failure> {
    let read = |offset: u64, buffer: &mut [u8]| -> std::io::Result<usize> {
        use std::os::unix::fs::FileExt as _;
        File::open(path)?.read_at(buffer, offset)
    };
    let mut buffer = vec![0; COPY_BYTES];
    while let Some(range) = download.next_range() {
        let want = usize::try_from(range.length).map_or(COPY_BYTES, |length| length.min(COPY_BYTES));
        let count = match read(range.offset, buffer.get_mut(..want).unwrap_or_default()) {
            Ok(0) | Err(_) => return Ok(()),
            Ok(count) => count,
        };
        match download.push(buffer.get(..count).unwrap_or_default()) {
            Ok(()) => {}
            Err(error) if error.is_refusal() => {
                tracing::warn!(?path, error = telemetry::chain(&error), "a copy on this disk is damaged: not used");
                return Ok(());
            }
            Err(error) => return Err(trouble::of_fetch(&error)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_that_one_download_reserved_is_not_given_to_another() {
        let transfers = Arc::new(Transfers::default());
        let mut first = transfers.reserve(60, 100, 10).unwrap();
        assert!(transfers.reserve(31, 100, 10).is_none());
        let second = transfers.reserve(30, 100, 10).unwrap();
        // Half of the first is written: the disk says so itself.
        first.used(30);
        assert!(transfers.reserve(10, 70, 10).is_none());
        drop(second);
        assert!(transfers.reserve(30, 70, 10).is_some());
        drop(first);
        assert_eq!(*transfers.reserved.lock().unwrap(), 0);
    }

    #[test]
    fn one_lock_for_one_content_as_long_as_somebody_needs_it() {
        let transfers = Transfers::default();
        let (a, b) = (transfers.lock_of(&Digest::of(b"a")), transfers.lock_of(&Digest::of(b"b")));
        assert!(Arc::ptr_eq(&a, &transfers.lock_of(&Digest::of(b"a"))) && !Arc::ptr_eq(&a, &b));
        drop((a, b));
        let _c = transfers.lock_of(&Digest::of(b"c"));
        assert_eq!(transfers.files.lock().unwrap().len(), 1, "locks of finished downloads are kept");
    }
}
