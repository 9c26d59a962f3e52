//! Ownership of files that root writes: they are given to the owner of their folder.
//!
//! A daemon runs as its own user, and an operator may run a verb with `sudo`. Without this, the daemon could not read
//! the files of that verb. Nothing here has an effect unless the process is root and the folder belongs to another
//! user.
//!
//! The owner of the folder may be hostile: entries are reached relative to open folders and never through links, and a
//! file with a second name is left alone, because that name may be outside of the folder.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Gid, Mode, OFlags, Uid, chownat, fchown, open, openat, statat};
use rustix::process::geteuid;

/// Maximum depth of folders below a state folder that is visited; real ones are four deep.
const DEPTH_MAX: usize = 32;

/// Returns the owner and group that a folder's new entries must get; `None` if they are already right.
fn other_owner(folder: &Path) -> Option<(Uid, Gid)> {
    if !geteuid().is_root() {
        return None;
    }
    let found = std::fs::metadata(folder).ok().filter(|found| found.uid() != 0)?;
    Some((Uid::from_raw(found.uid()), Gid::from_raw(found.gid())))
}

/// Returns owner and group of a state folder if it belongs to a user other than root and this process is root: the user
/// of a daemon on that folder.
#[must_use]
pub fn owner_of(root: &Path) -> Option<(u32, u32)> {
    other_owner(root).map(|(owner, group)| (owner.as_raw(), group.as_raw()))
}

/// Returns the id of the user that this process runs as.
#[must_use]
pub fn this_user() -> u32 {
    geteuid().as_raw()
}

/// Returns the name of a user, or its number if the machine has no name for it.
#[must_use]
pub fn user_name(number: u32) -> String {
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = |line: &str| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(number)).then(|| name.to_owned())
    };
    users.lines().find_map(name).unwrap_or_else(|| number.to_string())
}

/// Gives a new file to the owner of its folder, if this process is root.
///
/// # Errors
/// Fails when the system refuses.
pub(crate) fn adopt(file: &File, folder: &Path) -> io::Result<()> {
    let Some((owner, group)) = other_owner(folder) else { return Ok(()) };
    let found = file.metadata()?;
    if found.uid() == 0 && found.nlink() == 1 {
        fchown(file, Some(owner), Some(group))?;
    }
    Ok(())
}

/// Gives a new folder to the owner of its parent folder, if this process is root.
///
/// # Errors
/// Fails when the system refuses.
pub(crate) fn adopt_folder(made: &Path, above: &Path) -> io::Result<()> {
    let Some((owner, group)) = other_owner(above) else { return Ok(()) };
    let opened = open(made, FOLDER, Mode::empty())?;
    Ok(fchown(&opened, Some(owner), Some(group))?)
}

/// Flags that open a folder and refuse a link in its place.
const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Gives every file and folder of root below a state folder to the owner of that folder, if this process is root.
/// Returns their number.
///
/// Call it under the lock of the folder, at the end of a verb.
///
/// # Errors
/// Fails when a folder cannot be read or the system refuses.
pub fn give_to_owner(root: &Path) -> io::Result<usize> {
    let Some(owner) = other_owner(root) else { return Ok(0) };
    let mut given = 0;
    give_below(&open(root, FOLDER, Mode::empty())?, owner, 0, &mut given)?;
    Ok(given)
}

fn give_below(folder: &OwnedFd, owner: (Uid, Gid), depth: usize, given: &mut usize) -> io::Result<()> {
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let found = match statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) => found,
            // Removed in between.
            Err(rustix::io::Errno::NOENT) => continue,
            Err(error) => return Err(error.into()),
        };
        let is_folder = FileType::from_raw_mode(found.st_mode) == FileType::Directory;
        if found.st_uid == 0 && (is_folder || found.st_nlink == 1) {
            chownat(folder, name, Some(owner.0), Some(owner.1), AtFlags::SYMLINK_NOFOLLOW)?;
            *given += 1;
        }
        if is_folder && depth < DEPTH_MAX {
            give_below(&openat(folder, name, FOLDER, Mode::empty())?, owner, depth + 1, given)?;
        }
    }
    Ok(())
}

/// Finds an entry of a state folder that does not belong to the folder's owner, so that a daemon that runs as that
/// owner may be unable to use it. `None` if there is none, or it cannot be inspected.
#[must_use]
pub fn foreign_entry(root: &Path) -> Option<std::path::PathBuf> {
    let owner = std::fs::metadata(root).ok()?.uid();
    let mut folders = vec![(root.to_owned(), 0)];
    while let Some((folder, depth)) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let Ok(found) = entry.path().symlink_metadata() else { continue };
            if found.uid() != owner {
                return Some(entry.path());
            }
            if found.is_dir() && depth < DEPTH_MAX {
                folders.push((entry.path(), depth + 1));
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Id of a user other than root; the user need not exist.
    const OTHER: u32 = 12_345;

    fn owner(path: &Path) -> u32 {
        std::fs::symlink_metadata(path).unwrap().uid()
    }

    /// Returns a state folder of another user; `None` if this test is not root.
    fn folder_of_another() -> Option<tempfile::TempDir> {
        let folder = tempfile::tempdir().unwrap();
        std::os::unix::fs::chown(folder.path(), Some(OTHER), Some(OTHER)).ok()?;
        Some(folder)
    }

    #[test]
    fn what_root_writes_through_this_crate_belongs_to_the_owner_of_the_folder() {
        let Some(folder) = folder_of_another() else { return };
        let deep = folder.path().join("a").join("b");
        crate::files::create_dir(&deep).unwrap();
        crate::files::write_atomic(&deep.join("key"), b"x", crate::files::Mode::Private).unwrap();
        let lock = crate::StateLock::acquire(folder.path(), crate::StateSchema { known: 1, version: "0.1.0" }).unwrap();
        for made in [folder.path().join("a"), deep.clone(), deep.join("key"), lock.path().to_owned()] {
            assert_eq!(owner(&made), OTHER, "{}", made.display());
        }
        assert_eq!(foreign_entry(folder.path()), None);
    }

    #[test]
    fn what_others_wrote_as_root_is_given_to_the_owner_and_nothing_outside_is_touched() {
        let Some(folder) = folder_of_another() else { return };
        let outside = tempfile::tempdir().unwrap();
        let (secret, linked) = (outside.path().join("secret"), outside.path().join("linked"));
        std::fs::write(&secret, "x").unwrap();
        std::fs::write(&linked, "x").unwrap();
        let store = folder.path().join("store");
        std::fs::create_dir(&store).unwrap();
        std::fs::write(store.join("db"), "x").unwrap();
        std::os::unix::fs::symlink(&secret, store.join("link")).unwrap();
        std::os::unix::fs::symlink(outside.path(), folder.path().join("folder-link")).unwrap();
        std::fs::hard_link(&linked, store.join("second-name")).unwrap();
        assert!(foreign_entry(folder.path()).is_some());
        // The folder, the file and the two links themselves.
        assert_eq!(give_to_owner(folder.path()).unwrap(), 4);
        assert_eq!((owner(&store), owner(&store.join("db"))), (OTHER, OTHER));
        assert_eq!((owner(&secret), owner(&linked)), (0, 0), "a file outside changed hands");
        assert_eq!(foreign_entry(folder.path()), Some(store.join("second-name")));
    }
}
