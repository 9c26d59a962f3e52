//! Compiled kernels between two starts: one file in the state folder, for one adapter with one driver.
//!
//! Fed by [`super::wgpu`] with what the driver gave. The file begins with the digest of the rest, and is taken away
//! before the driver sees it: one that brings the driver down is tried once, and a good one is written again as soon as
//! a model was loaded.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use engine::Keepsake;
use engine_wgpu::gpu::AdapterReport;
use store::files::{self, FileError, Mode};
use types::Digest;

use crate::state::Folder;

/// Largest cache that is kept or read, in bytes. A model has tens of kernels of some 10 kB each; a driver that says more
/// than this has gone wrong, and reading it would cost more than compiling.
pub(super) const CACHE_BYTES_MAX: u64 = 32 * 1024 * 1024;

/// Ending of the file's name.
const EXTENSION: &str = "bin";

/// Digits of the digest in the file's name.
const KEY_DIGITS: usize = 16;

/// Name of the compiled kernels of an adapter with its driver.
pub(super) fn key_of(adapter: &AdapterReport) -> String {
    let AdapterReport { name, back_end, driver, .. } = adapter;
    let mut key = Digest::of(format!("{name}\n{back_end}\n{driver}").as_bytes()).to_hex();
    key.truncate(KEY_DIGITS);
    key
}

/// Keeps compiled kernels for a child process, which reaches no files.
#[derive(Debug)]
pub(super) struct PipelineKeeper {
    folder: PathBuf,
    /// The file that was written last, by its key.
    file: Mutex<Option<(String, PipelineFile)>>,
}

impl PipelineKeeper {
    /// A keeper for the state folder.
    pub(super) fn new(folder: &Folder) -> Self {
        Self { folder: folder.pipelines(), file: Mutex::default() }
    }
}

impl engine::host::Keeper for PipelineKeeper {
    fn take(&self) -> Option<Keepsake> {
        let entries = std::fs::read_dir(&self.folder).ok()?;
        let path = entries.filter_map(|entry| Some(entry.ok()?.path()));
        let mut path = path.filter(|path| path.extension().is_some_and(|ending| ending == EXTENSION));
        let name = path.next()?.file_stem()?.to_str()?.to_owned();
        let bytes = PipelineFile::named(self.folder.clone(), &name).take()?;
        Some(Keepsake { name, bytes })
    }

    fn keep(&self, keepsake: &Keepsake) {
        // A child may say anything, and this becomes a path.
        if keepsake.name.len() != KEY_DIGITS || !keepsake.name.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            tracing::warn!("a child process names its compiled kernels as nobody does: they are not kept");
            return;
        }
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let is_other = file.as_ref().is_none_or(|(name, file)| *name != keepsake.name || !file.path.exists());
        if is_other {
            *file = Some((keepsake.name.clone(), PipelineFile::named(self.folder.clone(), &keepsake.name)));
        }
        if let Some((_name, file)) = file.as_ref() {
            file.keep(&keepsake.bytes);
        }
    }
}

/// The file that holds the compiled kernels of one adapter.
#[derive(Debug)]
pub(super) struct PipelineFile {
    folder: PathBuf,
    path: PathBuf,
    /// Kernels that were read or written last.
    known: Mutex<Option<Digest>>,
}

impl PipelineFile {
    /// The file of this adapter; touches nothing.
    pub(super) fn of(folder: &Folder, adapter: &AdapterReport) -> Self {
        Self::named(folder.pipelines(), &key_of(adapter))
    }

    fn named(folder: PathBuf, key: &str) -> Self {
        let path = folder.join(format!("{key}.{EXTENSION}"));
        Self { folder, path, known: Mutex::default() }
    }

    /// Takes what was kept, and removes the file. `None` when there is none, or it is not what was written.
    pub(super) fn take(&self) -> Option<Vec<u8>> {
        let read = files::read_bounded(&self.path, CACHE_BYTES_MAX);
        self.clear();
        let whole = match read {
            Ok(whole) => whole,
            Err(error) if error.is_not_found() => return None,
            Err(error) => {
                tracing::warn!(
                    error = telemetry::chain(&error),
                    "the compiled kernels do not read: they are made anew"
                );
                return None;
            }
        };
        let line = whole.iter().position(|byte| *byte == b'\n')?;
        let (head, data) = (whole.get(..line)?, whole.get(line + 1..)?);
        if head != Digest::of(data).to_string().as_bytes() {
            tracing::warn!(file = %self.path.display(), "the compiled kernels are damaged: they are made anew");
            return None;
        }
        Some(data.to_vec())
    }

    /// Removes every file of the folder: those of other adapters and drivers are of no use any more.
    fn clear(&self) {
        let entries = std::fs::read_dir(&self.folder).into_iter().flatten();
        for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
            if let Err(error) = files::remove_file(&path) {
                tracing::warn!(error = telemetry::chain(&error), "compiled kernels stay behind");
            }
        }
    }

    /// Keeps what the driver gave, unless that is what was kept last or too much.
    pub(super) fn keep(&self, data: &[u8]) {
        let length = u64::try_from(data.len()).unwrap_or(u64::MAX);
        let digest = Digest::of(data);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if data.is_empty() || length >= CACHE_BYTES_MAX || *known == Some(digest) {
            return;
        }
        match self.write(digest, data) {
            Ok(()) => *known = Some(digest),
            Err(error) => tracing::warn!(error = telemetry::chain(&error), "the compiled kernels were not kept"),
        }
    }

    fn write(&self, digest: Digest, data: &[u8]) -> Result<(), FileError> {
        let mut whole = format!("{digest}\n").into_bytes();
        whole.extend_from_slice(data);
        files::create_dir(&self.folder)?;
        files::remove_unfinished(&self.folder)?;
        files::write_atomic(&self.path, &whole, Mode::Private)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn adapter(driver: &str) -> AdapterReport {
        AdapterReport {
            name: "GPU".into(),
            back_end: "vulkan".into(),
            kind: "discrete",
            driver: driver.into(),
            software: false,
            binding_bytes_max: 0,
            buffer_bytes_max: 0,
            invocations_max: 0,
            workgroup_bytes_max: 0,
            storage_buffers_max: 0,
            features: Vec::new(),
            subgroup: None,
        }
    }

    #[test]
    fn kernels_are_given_back_once_and_to_the_same_driver_only() {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::new(root.path());
        PipelineFile::of(&folder, &adapter("1.0")).keep(b"kernels");
        assert_eq!(PipelineFile::of(&folder, &adapter("1.0")).take().as_deref(), Some(&b"kernels"[..]));
        assert_eq!(PipelineFile::of(&folder, &adapter("1.0")).take(), None, "it was taken");
        PipelineFile::of(&folder, &adapter("1.0")).keep(b"kernels");
        assert_eq!(PipelineFile::of(&folder, &adapter("1.1")).take(), None, "another driver");
        assert_eq!(std::fs::read_dir(folder.pipelines()).unwrap().count(), 0, "and what nobody can use is gone");
    }

    #[test]
    fn rot_in_kept_kernels_is_noticed_before_a_driver_sees_them() {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::new(root.path());
        let file = PipelineFile::of(&folder, &adapter("1.0"));
        for rot in [&b"kernelz"[..], b"", b"\n"] {
            file.keep(b"kernels");
            let whole = std::fs::read(&file.path).unwrap();
            let head = &whole[..whole.len() - b"kernels".len()];
            std::fs::write(&file.path, [head, rot].concat()).unwrap();
            assert_eq!(PipelineFile::of(&folder, &adapter("1.0")).take(), None, "{rot:?}");
            *file.known.lock().unwrap() = None;
        }
    }

    #[test]
    fn too_much_is_not_kept() {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::new(root.path());
        let file = PipelineFile::of(&folder, &adapter("1.0"));
        file.keep(&vec![0; usize::try_from(CACHE_BYTES_MAX).unwrap()]);
        assert_eq!(file.take(), None);
    }
}
