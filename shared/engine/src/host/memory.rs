//! Memory that two processes share: a sealed file in memory and its mapping.
//!
//! Used by both ends of a session. The file can grow and never shrink, so neither end can take mapped pages away from
//! the other. What is read from it may change while it is read: the parent copies first and checks the copy.
#![expect(unsafe_code, reason = "mappings of shared memory; nothing else is in this module")]

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;

use bytes::Bytes;
use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags};
use rustix::mm::{MapFlags, ProtFlags};

/// Alignment of each tensor in a region, in bytes: a cache line, and the widest vector load of today's processors.
pub(super) const ALIGNMENT: usize = 64;

/// Unit in which regions grow, in bytes: small regions take one page run, large ones grow in few steps.
const GROWTH: usize = 64 * 1024;

/// Rounds an offset up to the next multiple of [`ALIGNMENT`]; `None` when it overflows.
pub(super) fn aligned(offset: usize) -> Option<usize> {
    offset.checked_next_multiple_of(ALIGNMENT)
}

/// One mapping of a file in memory. Unmapped when the last user of it is dropped.
struct Mapping {
    start: NonNull<u8>,
    length: usize,
}

// SAFETY: a mapping is plain memory of this process that no thread owns; all access is by raw copies or by views that
// keep the mapping alive.
unsafe impl Send for Mapping {}
// SAFETY: as above; writes go through `Region`, which one thread at a time holds exclusively.
unsafe impl Sync for Mapping {}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: `start` and `length` are those of a successful `mmap`, and nothing refers to it any more.
        if let Err(error) = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.length) } {
            tracing::error!(%error, "shared memory was not unmapped");
        }
    }
}

/// A view of a part of a mapping that keeps it mapped.
struct View {
    mapping: Arc<Mapping>,
    offset: usize,
    length: usize,
}

impl AsRef<[u8]> for View {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: `Region::view` has checked that the part is inside of the mapping, which lives as long as this view.
        // The other process writes to it only between two runs, by the protocol; a view ends with its run.
        unsafe { std::slice::from_raw_parts(self.mapping.start.as_ptr().add(self.offset), self.length) }
    }
}

/// Shared memory of one session: tensors of the request, then tensors of the response.
pub(super) struct Region {
    file: OwnedFd,
    mapping: Option<Arc<Mapping>>,
}

impl std::fmt::Debug for Region {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Region").field("length", &self.length()).finish_non_exhaustive()
    }
}

impl Region {
    /// Creates an empty region that can grow and never shrink.
    ///
    /// # Errors
    /// When the system has no memory or no file descriptor left.
    pub(super) fn create() -> io::Result<Self> {
        let file = rustix::fs::memfd_create("sanderling-tensors", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        rustix::fs::fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::SEAL)?;
        Ok(Self { file, mapping: None })
    }

    /// Uses a region that the other process created.
    pub(super) fn adopt(file: OwnedFd) -> Self {
        Self { file, mapping: None }
    }

    /// Returns the file, to be passed to the other process.
    pub(super) fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Returns the number of bytes that are mapped.
    pub(super) fn length(&self) -> usize {
        self.mapping.as_ref().map_or(0, |mapping| mapping.length)
    }

    /// Makes at least `length` bytes usable: grows the file where `grow` allows it, and maps it again.
    ///
    /// # Errors
    /// When the file is shorter and may not grow, or the system refuses.
    pub(super) fn reserve(&mut self, length: usize, grow: bool) -> io::Result<()> {
        if length <= self.length() {
            return Ok(());
        }
        let too_large = || io::Error::new(io::ErrorKind::FileTooLarge, "a shared region would be too large");
        let size = usize::try_from(rustix::fs::fstat(&self.file)?.st_size).map_err(|_over| too_large())?;
        let wanted = if size >= length {
            size
        } else if grow {
            let wanted = length.checked_next_multiple_of(GROWTH).ok_or_else(too_large)?;
            rustix::fs::ftruncate(&self.file, u64::try_from(wanted).map_err(|_over| too_large())?)?;
            wanted
        } else {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "a shared region is shorter than promised"));
        };
        // Only what was asked for: the other process may have made the file larger than anybody needs.
        let mapped = wanted.min(length.checked_next_multiple_of(GROWTH).ok_or_else(too_large)?);
        self.mapping = Some(Arc::new(map(&self.file, mapped)?));
        Ok(())
    }

    /// Copies bytes into the region.
    ///
    /// # Errors
    /// When they do not fit into what [`Region::reserve`] made usable.
    pub(super) fn write(&mut self, offset: usize, bytes: &[u8]) -> io::Result<()> {
        let outside = || io::Error::new(io::ErrorKind::InvalidInput, "a write outside of a shared region");
        if bytes.is_empty() {
            return Ok(());
        }
        let mapping = self.mapping.as_ref().ok_or_else(outside)?;
        if offset.checked_add(bytes.len()).is_none_or(|end| end > mapping.length) {
            return Err(outside());
        }
        // SAFETY: the target is inside of the mapping by the check above, and cannot overlap a slice of this process's own
        // memory: views of the same bytes exist only in the other process.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), mapping.start.as_ptr().add(offset), bytes.len()) };
        Ok(())
    }

    /// Copies bytes out of the region; `None` when they are outside of it. The copy cannot change any more.
    pub(super) fn read(&self, offset: usize, length: usize) -> Option<Bytes> {
        if length == 0 {
            return Some(Bytes::new());
        }
        let mapping = self.mapping.as_ref()?;
        offset.checked_add(length).filter(|&end| end <= mapping.length)?;
        let mut copy: Vec<u8> = Vec::with_capacity(length);
        // SAFETY: the source is inside of the mapping by the check above, the target has room for `length` bytes, and all of
        // them are written before the length is set. A hostile process may write meanwhile: any byte is a valid `u8`.
        unsafe {
            std::ptr::copy_nonoverlapping(mapping.start.as_ptr().add(offset), copy.as_mut_ptr(), length);
            copy.set_len(length);
        }
        Some(copy.into())
    }

    /// Shows bytes of the region without copying them; `None` when they are outside of it. Only for the host, which
    /// trusts its parent not to write during a run.
    pub(super) fn view(&self, offset: usize, length: usize) -> Option<Bytes> {
        if length == 0 {
            return Some(Bytes::new());
        }
        let mapping = Arc::clone(self.mapping.as_ref()?);
        offset.checked_add(length).filter(|&end| end <= mapping.length)?;
        Some(Bytes::from_owner(View { mapping, offset, length }))
    }

    /// Gives the memory of everything behind `keep` bytes back to the system; the bytes read as zero afterwards.
    pub(super) fn release_behind(&self, keep: usize) {
        let length = self.length();
        let Some(behind) = length.checked_sub(keep).filter(|&behind| behind > 0) else { return };
        let (Ok(offset), Ok(behind)) = (u64::try_from(keep), u64::try_from(behind)) else { return };
        let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        if let Err(error) = rustix::fs::fallocate(&self.file, mode, offset, behind) {
            tracing::debug!(%error, "memory of a shared region was not given back");
        }
    }
}

fn map(file: &OwnedFd, length: usize) -> io::Result<Mapping> {
    let protection = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a new shared mapping at an address that the kernel chooses; the file is at least `length` bytes long and
    // sealed against shrinking, so that no access can raise SIGBUS.
    let start = unsafe { rustix::mm::mmap(std::ptr::null_mut(), length, protection, MapFlags::SHARED, file, 0) }?;
    let start = NonNull::new(start.cast()).ok_or_else(|| io::Error::other("a mapping at address zero"))?;
    Ok(Mapping { start, length })
}

/// Puts a model's bytes into a file in memory that nobody can change any more.
///
/// # Errors
/// When the system has no memory or no file descriptor left.
pub(super) fn sealed_file(bytes: &[u8]) -> io::Result<OwnedFd> {
    let file = rustix::fs::memfd_create("sanderling-model", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut left = bytes;
    while !left.is_empty() {
        let written = rustix::io::write(&file, left)?;
        left = left.get(written..).unwrap_or_default();
    }
    rustix::fs::fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL)?;
    Ok(file)
}

/// Maps a sealed file for reading, as bytes that keep it mapped.
///
/// # Errors
/// When the file is not sealed against changes, or the system refuses.
pub(super) fn sealed_bytes(file: &OwnedFd) -> io::Result<Bytes> {
    let seals = rustix::fs::fcntl_get_seals(file)?;
    if !seals.contains(SealFlags::SHRINK | SealFlags::WRITE) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a model file that is not sealed"));
    }
    let length = usize::try_from(rustix::fs::fstat(file)?.st_size).map_err(io::Error::other)?;
    if length == 0 {
        return Ok(Bytes::new());
    }
    // SAFETY: as in `map`; the file can neither shrink nor change, so the bytes are constant for as long as they are mapped.
    let start = unsafe { rustix::mm::mmap(std::ptr::null_mut(), length, ProtFlags::READ, MapFlags::PRIVATE, file, 0) }?;
    let start = NonNull::new(start.cast()).ok_or_else(|| io::Error::other("a mapping at address zero"))?;
    let mapping = Arc::new(Mapping { start, length });
    Ok(Bytes::from_owner(View { mapping, offset: 0, length }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ends_see_what_was_written_and_either_may_grow_the_region() {
        let mut ours = Region::create().unwrap();
        let mut theirs = Region::adopt(ours.file().try_clone_to_owned().unwrap());
        ours.reserve(10, true).unwrap();
        ours.write(0, b"request").unwrap();
        theirs.reserve(10, false).unwrap();
        assert_eq!(theirs.view(0, 7).unwrap(), "request");
        theirs.reserve(200_000, true).unwrap();
        theirs.write(199_990, b"answer").unwrap();
        ours.reserve(199_996, false).unwrap();
        assert_eq!(ours.read(199_990, 6).unwrap(), "answer");
    }

    #[test]
    fn nothing_outside_of_a_region_is_read_or_written() {
        let mut region = Region::create().unwrap();
        assert!(region.read(0, 1).is_none() && region.view(0, 1).is_none());
        region.reserve(1, true).unwrap();
        let length = region.length();
        assert!(region.read(length, 1).is_none());
        assert!(region.read(usize::MAX, 2).is_none());
        assert!(region.view(length - 1, 2).is_none());
        assert!(region.write(length - 1, b"ab").is_err());
        assert!(region.reserve(length + 1, false).is_err(), "the file is not that long");
    }

    #[test]
    fn a_region_cannot_be_shrunk_by_the_other_end() {
        let mut region = Region::create().unwrap();
        region.reserve(100_000, true).unwrap();
        let theirs = region.file().try_clone_to_owned().unwrap();
        assert!(rustix::fs::ftruncate(&theirs, 0).is_err());
    }

    #[test]
    fn released_memory_reads_as_zero_and_stays_mapped() {
        let mut region = Region::create().unwrap();
        region.reserve(300_000, true).unwrap();
        region.write(250_000, &[7; 100]).unwrap();
        region.release_behind(4096);
        assert_eq!(region.read(250_000, 100).unwrap(), vec![0; 100]);
    }

    #[test]
    fn a_sealed_model_cannot_be_changed() {
        let file = sealed_file(b"model").unwrap();
        assert_eq!(sealed_bytes(&file).unwrap(), "model");
        assert!(rustix::io::pwrite(&file, b"x", 0).is_err());
        let open = rustix::fs::memfd_create("open", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
        assert!(sealed_bytes(&open).is_err());
    }
}
