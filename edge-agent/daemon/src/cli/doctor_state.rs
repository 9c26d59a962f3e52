//! The part of `edge-agent doctor` that tries the state folder: whose it is, whether the agent can write there, how much
//! room is left, and whether the clock agrees with what was written.

use std::ffi::OsStr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use console::ExitKind;
use console::doctor::{Check, try_in_child};
use engine::Isolation;
use store::{files, owner};

use super::show;
use crate::config::{AgentConfig, EngineTable};
use crate::state::Folder;

/// Time by which a file may be newer than the clock: file systems of other machines have clocks of their own.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(120);

/// Tries the state folder as the user that owns it.
pub(super) fn checks(folder: &Folder, config: &AgentConfig) -> Vec<Check> {
    let root = folder.root();
    let Ok(found) = std::fs::metadata(root) else { return vec![absent(root)] };
    let mut checks = vec![ownership(root, found.uid())];
    if checks.iter().all(Check::is_ok) {
        checks.push(writing(root));
        checks.push(room(root, config));
    }
    checks.push(clock(folder));
    checks
}

fn absent(root: &Path) -> Check {
    const NAME: &str = "state folder";
    match std::fs::symlink_metadata(root) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let advice = "`edge-agent enroll` makes it; it needs a folder that this user may write";
            Check::warning(NAME, format!("{} does not exist yet", root.display()), advice)
        }
        Err(error) => {
            let advice = "run this as the user that the agent runs as, or as root: sudo edge-agent doctor";
            Check::failed(NAME, ExitKind::Storage, format!("look at {}: {error}", root.display()), advice)
        }
        Ok(_link) => {
            let found = format!("{} is a link to nothing", root.display());
            Check::failed(NAME, ExitKind::Storage, found, "correct agent.state_dir, or make the folder")
        }
    }
}

fn ownership(root: &Path, owner_number: u32) -> Check {
    const NAME: &str = "state folder";
    let (this_user, owner_name) = (owner::this_user(), owner::user_name(owner_number));
    if this_user != 0 && this_user != owner_number {
        let found = format!("{} belongs to {owner_name}, and this is {}", root.display(), owner::user_name(this_user));
        let advice = format!("run the agent, and this, as that user: sudo -u {owner_name} edge-agent doctor");
        return Check::failed(NAME, ExitKind::Storage, found, advice);
    }
    if let Some(entry) = owner::foreign_entry(root) {
        let found = format!("{} does not belong to {owner_name}, who owns the folder", entry.display());
        let advice = format!("give it back: sudo chown -R {owner_name}: {}", root.display());
        return Check::failed(NAME, ExitKind::Storage, found, advice);
    }
    Check::ok(NAME, format!("{}, of user {owner_name}", root.display()))
}

/// Writes a file as the owner of the folder, as the agent will.
fn writing(root: &Path) -> Check {
    const NAME: &str = "writing";
    match try_in_child(owner::owner_of(root), &["trial".as_ref(), "folder".as_ref(), root.as_os_str()]) {
        Ok(_written) => Check::ok(NAME, "a file was written, made durable, renamed and removed"),
        Err(problem) => {
            let advice =
                "make the folder writable for its owner (chmod u+rwx), mount its disk writable, or free some space";
            Check::failed(NAME, ExitKind::Storage, problem, advice)
        }
    }
}

fn room(root: &Path, config: &AgentConfig) -> Check {
    const NAME: &str = "disk space";
    match files::free_bytes(root) {
        Err(error) => Check::failed(NAME, ExitKind::Storage, telemetry::chain(&error), "check the disk"),
        Ok(free) if free < config.updates.disk_free_min_bytes => {
            let least = show::bytes(config.updates.disk_free_min_bytes);
            let found = format!("{} free, updates must leave {least} (updates.disk_free_min_bytes)", show::bytes(free));
            let advice = "free some space: until then requests are answered and updates are refused";
            Check::failed(NAME, ExitKind::Storage, found, advice)
        }
        Ok(free) => Check::ok(NAME, format!("{} free", show::bytes(free))),
    }
}

/// A clock that is behind what this machine has written itself is wrong; certificates and metadata then look invalid.
fn clock(folder: &Folder) -> Check {
    const NAME: &str = "clock";
    let program = std::env::current_exe().ok();
    let written = [Some(folder.slots()), Some(folder.identity()), Some(folder.trust()), program];
    let changed = |path: &Path| std::fs::metadata(path).and_then(|found| found.modified()).ok();
    let newest = written.iter().flatten().filter_map(|path| changed(path)).max();
    let ahead = newest.and_then(|newest| newest.duration_since(SystemTime::now()).ok());
    let now = show::unix_time(i64::try_from(crate::clock::unix_ms() / 1000).unwrap_or(i64::MAX));
    match ahead.filter(|ahead| *ahead > CLOCK_TOLERANCE) {
        Some(ahead) => {
            let found = format!("it says {now}, and files of this machine are {} s newer", ahead.as_secs());
            Check::failed(NAME, ExitKind::Failed, found, "set the clock, for example with NTP")
        }
        None => Check::ok(NAME, now),
    }
}

/// Opens ONNX Runtime in a child process, as the user that the agent runs as: a library that is none, or for another
/// machine, may end the process that loads it.
pub(super) fn library(folder: &Folder, engine: &EngineTable) -> Check {
    const NAME: &str = "ONNX Runtime";
    let configured = engine.onnxruntime.as_deref();
    let place = match engine.isolation {
        Isolation::Process => "in a child process",
        Isolation::None => "inside the agent: a model whose native code fails ends the agent",
    };
    let mut arguments: Vec<&OsStr> = vec!["trial".as_ref(), "library".as_ref()];
    arguments.extend(configured.map(Path::as_os_str));
    match try_in_child(owner::owner_of(folder.root()), &arguments) {
        Ok(found) => Check::ok(NAME, format!("{found}; {place}")),
        Err(problem) => {
            let search = engine::LibrarySearch { configured: configured.map(Path::to_owned) };
            let file = search.find().ok();
            let found = console::doctor::unusable_library(file.as_deref(), problem);
            let advice = "install the package that ships it for this machine, or set engine.onnxruntime to a file that this \
                          user may read";
            Check::failed(NAME, ExitKind::Runtime, found, advice)
        }
    }
}
