//! Plain files that are complete or absent, whatever interrupts the write.
//!
//! For files that other programs read or that must exist before the store: models, keys, trust metadata, slot pointers,
//! listening addresses. Every write takes the same steps: write a temporary file in the same folder, fsync, rename over
//! the target, fsync the folder.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::owner;

/// Suffix of the name of every unfinished file.
const UNFINISHED: &str = ".unfinished";

/// Access rights of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// 0600: keys, tokens and data that only the daemon needs.
    Private,
    /// 0644: data that other users of the machine may read.
    Shared,
}

impl Mode {
    const fn bits(self) -> u32 {
        match self {
            Self::Private => 0o600,
            Self::Shared => 0o644,
        }
    }
}

/// Error: a file could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The disk is full. The previous content is still there.
    #[error("{attempt} {}: the disk is full, free some space there", path.display())]
    DiskFull {
        /// Operation that failed, like `write file`.
        attempt: &'static str,
        /// Path of the file.
        path: PathBuf,
    },
    /// The operating system refused the operation.
    #[error("{attempt} {}", path.display())]
    Io {
        /// Operation that failed, like `write file`.
        attempt: &'static str,
        /// Path of the file.
        path: PathBuf,
        /// Error of the operating system.
        #[source]
        source: io::Error,
    },
    /// A key that other users of the machine can read or write, or that belongs to one of them.
    #[error("read file {}: {problem}; run: chown {user} {path} && chmod 600 {path}", path.display(), path = path.display())]
    Exposed {
        /// Path of the file.
        path: PathBuf,
        /// Description of its mode or owner.
        problem: String,
        /// Numeric id of this process's user.
        user: u32,
    },
    /// The file exceeds the reader's limit.
    #[error("read file {}: it is larger than the {max} bytes allowed", path.display())]
    TooLarge {
        /// Path of the file.
        path: PathBuf,
        /// Maximum size in bytes.
        max: u64,
    },
}

impl FileError {
    fn new(attempt: &'static str, path: &Path, source: io::Error) -> Self {
        if is_disk_full(&source) {
            return Self::DiskFull { attempt, path: path.to_owned() };
        }
        Self::Io { attempt, path: path.to_owned(), source }
    }

    /// Returns the error of the operating system; creates one from the text if there is none.
    pub(crate) fn into_io(self) -> io::Error {
        match self {
            Self::Io { source, .. } => source,
            Self::DiskFull { .. } => io::ErrorKind::StorageFull.into(),
            Self::Exposed { .. } | Self::TooLarge { .. } => io::Error::other(self),
        }
    }

    /// Whether other users can read or write a key.
    #[must_use]
    pub const fn is_exposed(&self) -> bool {
        matches!(self, Self::Exposed { .. })
    }

    /// Whether the disk is full.
    #[must_use]
    pub const fn is_disk_full(&self) -> bool {
        matches!(self, Self::DiskFull { .. })
    }

    /// Whether the file does not exist.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }

    /// Whether the operating system denies this user the access.
    #[must_use]
    pub fn is_permission_denied(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied)
    }
}

/// Whether the disk is full, the quota exceeded, or the process's file size limit reached.
pub(crate) fn is_disk_full(error: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}

/// Replaces or creates a file: a reader, also after a power cut, finds the old content or the new.
///
/// # Errors
/// Returns [`FileError`]; the old content then remains.
pub fn write_atomic(path: &Path, content: &[u8], mode: Mode) -> Result<(), FileError> {
    let mut file = AtomicFile::create(path, mode)?;
    file.write_all(content).map_err(|source| FileError::new("write file", path, source))?;
    file.commit()
}

/// A file that is written in pieces and appears only when committed; dropping it before leaves nothing.
#[derive(Debug)]
pub struct AtomicFile {
    file: File,
    unfinished: PathBuf,
    path: PathBuf,
    is_committed: bool,
}

impl AtomicFile {
    /// Creates a temporary file in the folder of the target.
    ///
    /// # Errors
    /// Fails when it cannot be created.
    pub fn create(path: &Path, mode: Mode) -> Result<Self, FileError> {
        let unfinished = beside(path);
        let options = OpenOptions::new().write(true).create_new(true).mode(mode.bits()).open(&unfinished);
        let file = options.map_err(|source| FileError::new("create file", path, source))?;
        let made = Self { file, unfinished, path: path.to_owned(), is_committed: false };
        let adopted = owner::adopt(&made.file, folder_of(path));
        adopted.map_err(|source| FileError::new("give to the folder's owner the file", path, source))?;
        Ok(made)
    }

    /// Makes the file durable and renames it to the target.
    ///
    /// # Errors
    /// Returns [`FileError`]; the previous file then remains, unless only the last step failed (the fsync of the
    /// folder): then the new content is in place, but may be lost in a power cut.
    pub fn commit(self) -> Result<(), FileError> {
        self.commit_watched(&mut |_| Ok(()))
    }

    /// Executes the steps of a commit; calls `before` before each, so that a test can fail any of them.
    fn commit_watched(mut self, before: &mut dyn FnMut(Step) -> io::Result<()>) -> Result<(), FileError> {
        let failed = |source| FileError::new("write file", &self.path, source);
        before(Step::SyncFile).and_then(|()| self.file.sync_all()).map_err(failed)?;
        before(Step::Rename).and_then(|()| fs::rename(&self.unfinished, &self.path)).map_err(failed)?;
        self.is_committed = true;
        before(Step::SyncFolder).map_err(|source| FileError::new("write file", &self.path, source))?;
        sync_dir(folder_of(&self.path))
    }
}

/// Steps of a commit, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    SyncFile,
    Rename,
    SyncFolder,
}

impl Write for AtomicFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for AtomicFile {
    fn drop(&mut self) {
        if !self.is_committed {
            // Best effort: `remove_unfinished` finds it at the next start.
            drop(fs::remove_file(&self.unfinished));
        }
    }
}

/// Returns a name in the same folder that no other writer of this machine uses.
fn beside(path: &Path) -> PathBuf {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}.{number}{UNFINISHED}", std::process::id()));
    path.with_file_name(name)
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        Some(_) | None => Path::new("."),
    }
}

/// Tries every step of a write in a folder, and leaves nothing behind; used by `doctor`.
///
/// # Errors
/// Returns the step that failed.
pub fn try_folder(folder: &Path) -> Result<(), FileError> {
    let trial = folder.join(".doctor.trial");
    write_atomic(&trial, b"trial", Mode::Private)?;
    read_bounded(&trial, 16)?;
    remove_file(&trial)
}

/// Makes the entries of a folder durable: files created in it, renamed into it or removed from it.
///
/// # Errors
/// Fails when the folder cannot be opened or the disk fails.
pub fn sync_dir(folder: &Path) -> Result<(), FileError> {
    let synced = File::open(folder).and_then(|folder| folder.sync_all());
    synced.map_err(|source| FileError::new("sync folder", folder, source))
}

/// Creates a folder and its missing parents, durably; new ones have mode 0700. An existing folder is not an error.
///
/// # Errors
/// Fails if one cannot be created, or if a file has its name.
pub fn create_dir(folder: &Path) -> Result<(), FileError> {
    if folder.is_dir() {
        return Ok(());
    }
    let above = folder_of(folder);
    if above != folder && above != Path::new(".") {
        create_dir(above)?;
    }
    match fs::DirBuilder::new().mode(0o700).create(folder) {
        // Another process created it in between.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && folder.is_dir() => Ok(()),
        result => result.and_then(|()| owner::adopt_folder(folder, above)),
    }
    .map_err(|source| FileError::new("create folder", folder, source))?;
    sync_dir(above)
}

/// Removes temporary files of interrupted writers from a folder. Only for a folder without active writers.
///
/// # Errors
/// Fails when the folder cannot be listed or a file in it cannot be removed.
pub fn remove_unfinished(folder: &Path) -> Result<(), FileError> {
    let failed = |source| FileError::new("clean folder", folder, source);
    for entry in fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with('.') && name.ends_with(UNFINISHED) {
            fs::remove_file(entry.path()).map_err(failed)?;
        }
    }
    Ok(())
}

/// Removes a file durably; a missing file is not an error.
///
/// # Errors
/// Fails when the system refuses.
pub fn remove_file(path: &Path) -> Result<(), FileError> {
    match fs::remove_file(path) {
        Ok(()) => sync_dir(folder_of(path)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(FileError::new("remove file", path, error)),
    }
}

/// Reads a whole file of at most `max` bytes; allocates only for its actual size.
///
/// # Errors
/// Returns [`FileError::TooLarge`] if it is larger, else the error of the operating system.
pub fn read_bounded(path: &Path, max: u64) -> Result<Vec<u8>, FileError> {
    let failed = |source| FileError::new("read file", path, source);
    let file = File::open(path).map_err(failed)?;
    let mut content = Vec::new();
    // The length is not used: a growing file, a pipe or a device would report a wrong one.
    let read = file.take(max.saturating_add(1)).read_to_end(&mut content).map_err(failed)?;
    if read as u64 > max {
        return Err(FileError::TooLarge { path: path.to_owned(), max });
    }
    Ok(content)
}

/// Flag of `open` that refuses a symlink as the last component of the path.
pub(crate) const NO_FOLLOW: i32 = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();

/// Reads a key like [`read_bounded`], if only this user (and root) can read or write it. For a symlink, the target is
/// checked.
///
/// # Errors
/// Returns [`FileError::Exposed`] if others can; else as [`read_bounded`].
pub fn read_secret(path: &Path, max: u64) -> Result<Vec<u8>, FileError> {
    let failed = |source| FileError::new("read file", path, source);
    let file = File::open(path).map_err(failed)?;
    // Checked on the open file: the name may refer to another file a moment later.
    let metadata = file.metadata().map_err(failed)?;
    let user = rustix::process::geteuid().as_raw();
    let mode = metadata.mode() & 0o7777;
    // Root works on the folder of a daemon's user, who owns the key.
    let is_of_the_folder =
        || user == 0 && fs::metadata(folder_of(path)).is_ok_and(|folder| folder.uid() == metadata.uid());
    let problem = if metadata.uid() != user && metadata.uid() != 0 && !is_of_the_folder() {
        Some(format!("it belongs to user {}, who can replace it", metadata.uid()))
    } else if mode & 0o077 != 0 {
        Some(format!("its mode is {mode:04o}, so that other users can read or write it"))
    } else {
        None
    };
    if let Some(problem) = problem {
        return Err(FileError::Exposed { path: path.to_owned(), problem, user });
    }
    let mut content = Vec::new();
    let read = file.take(max.saturating_add(1)).read_to_end(&mut content).map_err(failed)?;
    if read as u64 > max {
        return Err(FileError::TooLarge { path: path.to_owned(), max });
    }
    Ok(content)
}

/// Returns a warning if other users can read or write a folder, or replace its content; `None` for a missing folder.
#[must_use]
pub fn exposed_folder(folder: &Path) -> Option<String> {
    let metadata = fs::metadata(folder).ok()?;
    let mode = metadata.mode() & 0o7777;
    let user = rustix::process::geteuid().as_raw();
    let shown = folder.display();
    if metadata.uid() != user && metadata.uid() != 0 {
        return Some(format!("folder {shown} belongs to user {}, who can replace its content", metadata.uid()));
    }
    let what = match mode & 0o077 {
        0 => return None,
        others if others & 0o022 != 0 => "write to it and replace its content",
        _ => "read it",
    };
    Some(format!("folder {shown} has mode {mode:04o}, so that other users can {what}; run: chmod 700 {shown}"))
}

/// Removes all rights of other users from a folder of this user and its content. Symlinks are left alone.
///
/// # Errors
/// Fails when a mode cannot be changed.
pub fn restrict(folder: &Path) -> Result<(), FileError> {
    let failed = |source| FileError::new("restrict folder", folder, source);
    let limit = |path: &Path, metadata: &fs::Metadata| {
        let mode = metadata.mode() & 0o7777;
        if mode & 0o077 == 0 {
            return Ok(());
        }
        fs::set_permissions(path, fs::Permissions::from_mode(mode & 0o700))
    };
    limit(folder, &fs::metadata(folder).map_err(failed)?).map_err(failed)?;
    for entry in fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        // Of the entry itself, not of a symlink's target. A file that sled removes in between needs nothing.
        let Ok(metadata) = entry.metadata() else { continue };
        if metadata.is_dir() {
            restrict(&entry.path())?;
        } else if metadata.is_file() {
            limit(&entry.path(), &metadata).map_err(failed)?;
        }
    }
    Ok(())
}

/// Makes every file and folder that this process creates from now on private, because libraries follow the umask.
pub fn make_private_by_default() {
    rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
}

/// Returns the number of bytes that this user can still write to the file system of a path.
///
/// # Errors
/// Fails if the path does not exist.
pub fn free_bytes(path: &Path) -> Result<u64, FileError> {
    let stat =
        rustix::fs::statvfs(path).map_err(|source| FileError::new("ask for free space at", path, source.into()))?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_write_that_fails_at_any_step_leaves_the_old_content_or_the_new_and_no_litter() {
        for (failing, expected) in [(Step::SyncFile, "old"), (Step::Rename, "old"), (Step::SyncFolder, "new")] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("slot.json");
            write_atomic(&path, b"old", Mode::Shared).unwrap();
            let mut file = AtomicFile::create(&path, Mode::Shared).unwrap();
            file.write_all(b"new").unwrap();
            let result = file.commit_watched(&mut |step| match step == failing {
                true => Err(io::Error::from(io::ErrorKind::StorageFull)),
                false => Ok(()),
            });
            assert!(result.unwrap_err().is_disk_full());
            assert_eq!(fs::read_to_string(&path).unwrap(), expected, "{failing:?}");
            assert_eq!(names(folder.path()), ["slot.json"], "{failing:?}");
        }
    }

    #[test]
    fn a_dropped_file_never_appears() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = AtomicFile::create(&folder.path().join("model.onnx"), Mode::Shared).unwrap();
        file.write_all(b"half").unwrap();
        assert_eq!(names(folder.path()).len(), 1);
        drop(file);
        assert!(names(folder.path()).is_empty());
    }

    #[test]
    fn what_a_killed_writer_left_is_removed_at_the_next_start() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("targets.json");
        write_atomic(&path, b"{}", Mode::Shared).unwrap();
        // The name of a writer that was interrupted.
        fs::write(beside(&path), "half").unwrap();
        assert_eq!(names(folder.path()).len(), 2);
        remove_unfinished(folder.path()).unwrap();
        assert_eq!(names(folder.path()), ["targets.json"]);
    }

    #[test]
    fn a_private_file_is_for_its_user_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("identity/device.key");
        create_dir(folder_of(&path)).unwrap();
        write_atomic(&path, b"key", Mode::Private).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(folder_of(&path)).unwrap().permissions().mode() & 0o777, 0o700);
        remove_file(&path).unwrap();
        remove_file(&path).unwrap();
        assert!(read_bounded(&path, 10).unwrap_err().is_not_found());
    }

    #[test]
    fn a_file_over_the_limit_is_refused_without_reading_it_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("manifest.json");
        write_atomic(&path, b"12345", Mode::Shared).unwrap();
        assert_eq!(read_bounded(&path, 5).unwrap(), b"12345");
        assert!(matches!(read_bounded(&path, 4), Err(FileError::TooLarge { max: 4, .. })));
        assert!(matches!(read_bounded(Path::new("/dev/zero"), 1 << 16), Err(FileError::TooLarge { .. })));
    }

    #[test]
    fn a_file_where_a_folder_should_be_is_an_error_that_names_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store");
        write_atomic(&path, b"", Mode::Shared).unwrap();
        let error = create_dir(&path.join("inner")).unwrap_err();
        assert!(error.to_string().contains("create folder"), "{error}");
    }
}
