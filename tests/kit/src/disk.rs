//! A file system so small that a test can fill it.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::Finished;

/// Bytes written at once while a disk is filled.
const FILL_BYTES: usize = 4096;

/// A small file system at a folder, unmounted when dropped.
#[derive(Debug)]
pub struct SmallDisk<'a>(&'a Path);

impl<'a> SmallDisk<'a> {
    /// Mounts an empty file system of this many megabytes at a folder.
    ///
    /// # Errors
    /// When the system does not permit it. Tests then print `skipped:` and why.
    pub fn mount(folder: &'a Path, megabytes: u32) -> Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("make folder {}", folder.display()))?;
        let size = format!("size={megabytes}m,mode=0700");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &size, "sanderling-test"]).arg(folder);
        Finished::run(&mut mount)?.ok()?;
        Ok(Self(folder))
    }

    /// Fills the file system to its last byte with a file of this name.
    ///
    /// # Errors
    /// When something else than a full disk ends it.
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
