//! One process per folder: a lock that the operating system releases when its process ends, for any reason.
//!
//! Used by each daemon on its state folder, and by [`crate::SledStore`] on its own.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::schema::{NewerFolder, StateSchema};

/// Maximum length of a process id as text, in bytes.
const PID_BYTES_MAX: u64 = 32;

/// Error: a folder could not be locked.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process has the lock.
    #[error(
        "lock {}: it is in use by {}; stop that one first, or use another folder",
        path.display(),
        pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
    )]
    Held {
        /// Path of the lock file.
        path: PathBuf,
        /// Process id of the other process, if it wrote one.
        pid: Option<u32>,
    },
    /// The lock file cannot be created or locked.
    #[error("lock {}", path.display())]
    Io {
        /// Path of the lock file.
        path: PathBuf,
        /// Error of the operating system.
        #[source]
        source: io::Error,
    },
    /// A later version of the program has changed the folder.
    #[error(transparent)]
    Newer(#[from] NewerFolder),
}

impl LockError {
    /// Whether another process has the lock.
    #[must_use]
    pub const fn is_held(&self) -> bool {
        matches!(self, Self::Held { .. })
    }
}

/// Lock of a folder for this process, until dropped.
///
/// An `flock` on the file `lock` in it: it cannot outlive its process, so no stale lock ever needs removing.
#[derive(Debug)]
pub struct StateLock {
    _file: File,
    path: PathBuf,
}

impl StateLock {
    /// Locks a folder, which must exist and have a schema that the program knows.
    ///
    /// # Errors
    /// Returns [`LockError::Held`] if another process (or this one) has it, [`LockError::Newer`] if a later version has
    /// changed it, else the error of the operating system.
    pub fn acquire(folder: &Path, schema: StateSchema) -> Result<Self, LockError> {
        let lock = Self::acquire_file(&folder.join("lock"))?;
        schema.claim(folder)?;
        Ok(lock)
    }

    /// Returns the process that has locked a folder, as far as that is known without touching the lock; `None` if there
    /// is none.
    #[must_use]
    pub fn holder(folder: &Path) -> Option<u32> {
        let pid = holder(&mut File::open(folder.join("lock")).ok()?)?;
        // A process that has ended leaves its number in the file, and another one may have that number now.
        let name = |process: &str| std::fs::read(Path::new("/proc").join(process).join("comm")).ok();
        name(&pid.to_string()).filter(|held_by| Some(held_by) == name("self").as_ref()).map(|_same_program| pid)
    }

    /// Locks a given lock file.
    ///
    /// # Errors
    /// As for [`StateLock::acquire`].
    pub(crate) fn acquire_file(path: &Path) -> Result<Self, LockError> {
        let failed = |source| LockError::Io { path: path.to_owned(), source };
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        // A link in its place would cause another file to be truncated.
        let mut file = options.custom_flags(crate::files::NO_FOLLOW).open(path).map_err(failed)?;
        crate::owner::adopt(&file, path.parent().unwrap_or(Path::new("."))).map_err(failed)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(LockError::Held { path: path.to_owned(), pid: holder(&mut file) }),
            Err(error) => return Err(failed(error.into())),
        }
        // The number only improves a message; on a full disk the lock works without it.
        if let Err(error) = note_holder(&mut file) {
            tracing::debug!(%error, path = %path.display(), "could not write the process id to the lock file");
        }
        Ok(Self { _file: file, path: path.to_owned() })
    }

    /// Returns the path of the lock file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn note_holder(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.seek(SeekFrom::Start(0))?;
    writeln!(file, "{}", std::process::id())
}

fn holder(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.take(PID_BYTES_MAX).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCHEMA: StateSchema = StateSchema { known: 1, version: "0.1.0" };

    #[test]
    fn a_second_holder_is_refused_and_told_who_has_it() {
        let folder = tempfile::tempdir().unwrap();
        let first = StateLock::acquire(folder.path(), SCHEMA).unwrap();
        let error = StateLock::acquire(folder.path(), SCHEMA).unwrap_err();
        assert!(error.is_held());
        assert!(error.to_string().contains(&format!("in use by process {}", std::process::id())), "{error}");
        assert_eq!(StateLock::holder(folder.path()), Some(std::process::id()));
        drop(first);
        StateLock::acquire(folder.path(), SCHEMA).unwrap();
    }

    #[test]
    fn a_folder_that_is_not_there_is_no_conflict() {
        let folder = tempfile::tempdir().unwrap();
        assert!(!StateLock::acquire(&folder.path().join("absent"), SCHEMA).unwrap_err().is_held());
    }
}
