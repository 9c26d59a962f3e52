//! Tests that a power cut during writes loses no acknowledged write.
//!
//! A real file system on a loop device: the writer is stopped, the raw image is copied (only the data that the device
//! has received by then, without the page cache), the copy is mounted, which replays its journal, and the store in it
//! is opened. Needs root and loop devices; without them it prints the reason of the skip.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::writer::{Work, Writer, check};

/// Number of power cuts to simulate.
const CUTS: usize = 24;

/// Size of the image in bytes: space for the store, ext4 and its journal; small enough to be copied often.
const IMAGE_BYTES: u64 = 64 * 1024 * 1024;

/// Number of attempts to unmount a busy file system, and the pause between two: 10 s, far longer than any `exec`.
const UNMOUNT_TRIES: u32 = 200;
const UNMOUNT_PAUSE: Duration = Duration::from_millis(50);

#[test]
fn a_power_cut_loses_no_acknowledged_batch() {
    cut_power_under(Work::Store);
}

#[test]
fn a_power_cut_loses_no_acknowledged_file() {
    cut_power_under(Work::Files);
}

fn cut_power_under(work: Work) {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("disk.img");
    let disk = match make_disk(&image).and_then(|()| Mounted::mount(&image, folder.path().join("disk"))) {
        Ok(disk) => disk,
        Err(why) => {
            eprintln!("skipped: a file system on a loop device cannot be had here: {why}");
            return;
        }
    };
    let copy = folder.path().join("copy.img");
    let mut writer = Writer::start(&disk.at, 0, work);
    for cut in 0..CUTS {
        // Different intervals, so that power cuts occur at different times within a group.
        writer.wait_for(3 + cut * 13 % 50);
        let acknowledged = writer.frozen(|acknowledged| {
            copy_at_rest(&image, &copy);
            acknowledged.clone()
        });
        let after = Mounted::mount(&copy, folder.path().join("after")).unwrap();
        check(&after.at, &acknowledged, work);
    }
    drop(writer);
}

fn make_disk(image: &Path) -> Result<(), String> {
    let file = fs::File::create(image).map_err(|error| error.to_string())?;
    file.set_len(IMAGE_BYTES).map_err(|error| error.to_string())?;
    run(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(image))
}

/// Copies the image; repeats the copy if the kernel's own threads wrote to it during the copy, because a power cut has
/// one moment.
fn copy_at_rest(image: &Path, copy: &Path) {
    let mut before = fs::read(image).unwrap();
    loop {
        let now = fs::read(image).unwrap();
        if now == before {
            fs::write(copy, now).unwrap();
            return;
        }
        before = now;
    }
}

/// A mounted image, unmounted when dropped.
struct Mounted {
    at: PathBuf,
}

impl Mounted {
    fn mount(image: &Path, at: PathBuf) -> Result<Self, String> {
        fs::create_dir_all(&at).map_err(|error| error.to_string())?;
        run(Command::new("mount").args(["-o", "loop"]).arg(image).arg(&at))?;
        Ok(Self { at })
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Busy for a moment: a process that another test starts holds this one's open files until its `exec`.
        let mut left = UNMOUNT_TRIES;
        while let Err(error) = run(Command::new("umount").arg(&self.at)) {
            left -= 1;
            if left == 0 {
                eprintln!("could not unmount {}: {error}", self.at.display());
                return;
            }
            std::thread::sleep(UNMOUNT_PAUSE);
        }
    }
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}
