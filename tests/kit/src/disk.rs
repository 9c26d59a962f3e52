//! A small file system that a test can fill.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::Finished;

/// Number of bytes written at once while a disk is filled.
const FILL_BYTES: usize = 4096;

/// Overhead of a fresh ext4 in megabytes, mostly its journal.
const EXT4_OVERHEAD_MEGABYTES: u32 = 8;

/// Kinds of file systems that a test can make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileSystem {
    /// In memory; a full one fails each write at once.
    Tmpfs,
    /// In a file, through a loop device: the usual kind of devices and servers, with a journal and delayed allocation.
    Ext4,
}

impl FileSystem {
    /// All kinds of file systems.
    pub const ALL: [Self; 2] = [Self::Tmpfs, Self::Ext4];
}

/// A small file system at a folder, unmounted when dropped.
#[derive(Debug)]
pub struct SmallDisk<'a>(&'a Path);

impl<'a> SmallDisk<'a> {
    /// Mounts an empty tmpfs of this many megabytes at a folder.
    ///
    /// # Errors
    /// Fails if the system does not permit it. Tests then print `skipped:` with the reason.
    pub fn mount(folder: &'a Path, megabytes: u32) -> Result<Self> {
        Self::mount_kind(FileSystem::Tmpfs, folder, megabytes)
    }

    /// Mounts an empty file system with this many megabytes of space at a folder.
    ///
    /// # Errors
    /// As [`SmallDisk::mount`].
    pub fn mount_kind(kind: FileSystem, folder: &'a Path, megabytes: u32) -> Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("make folder {}", folder.display()))?;
        match kind {
            FileSystem::Tmpfs => {
                let size = format!("size={megabytes}m,mode=0700");
                let mut mount = Command::new("mount");
                mount.args(["-t", "tmpfs", "-o", &size, "sanderling-test"]).arg(folder);
                Finished::run(&mut mount)?.ok()?;
                Ok(Self(folder))
            }
            FileSystem::Ext4 => Self::mount_ext4(folder, megabytes),
        }
    }

    fn mount_ext4(folder: &'a Path, megabytes: u32) -> Result<Self> {
        let image = folder.with_extension("ext4.img");
        let bytes = u64::from(megabytes + EXT4_OVERHEAD_MEGABYTES) * 1024 * 1024;
        let made = File::create(&image).and_then(|file| file.set_len(bytes));
        made.with_context(|| format!("make {}", image.display()))?;
        // Nothing is reserved for root, who runs the tests.
        Finished::run(Command::new("mkfs.ext4").args(["-q", "-m", "0"]).arg(&image))?.ok()?;
        Finished::run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(folder))?.ok()?;
        let mounted = Self(folder);
        // A state folder must be empty and private at first.
        fs::remove_dir(folder.join("lost+found")).context("remove lost+found")?;
        fs::set_permissions(folder, fs::Permissions::from_mode(0o700)).context("make the folder private")?;
        Ok(mounted)
    }

    /// Fills the file system to its last byte with a file of this name.
    ///
    /// # Errors
    /// Fails on any error other than a full disk.
    pub fn fill(&self, name: &str) -> Result<()> {
        let path = self.0.join(name);
        let mut file = File::create(&path).with_context(|| format!("make {}", path.display()))?;
        loop {
            match file.write_all(&[0xba; FILL_BYTES]) {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::StorageFull => break,
                Err(error) => return Err(error).with_context(|| format!("fill {}", path.display())),
            }
        }
        let more = fs::write(self.0.join(format!("{name}-more")), [1; FILL_BYTES]);
        drop(fs::remove_file(self.0.join(format!("{name}-more"))));
        ensure!(more.is_err(), "{} still has room", self.0.display());
        Ok(())
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        if let Err(error) = Finished::run(Command::new("umount").arg("--lazy").arg(self.0)) {
            eprintln!("cannot unmount {}: {error:#}", self.0.display());
        }
    }
}
