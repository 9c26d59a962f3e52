//! The part of `edge-agent doctor` that tries the state folder: whose it is, whether the agent can write there, how much
//! room is left, and whether the clock agrees with what was written.

use std::path::Path;
use std::time::{Duration, SystemTime};

use console::ExitKind;
use console::doctor::Check;
use engine::Isolation;
use service::doctor::{self, Names};
use service::{clock, units};

use crate::config::{AgentConfig, EngineTable};
use crate::state::Folder;

/// Time by which a file may be newer than the clock: file systems of other machines have clocks of their own.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(120);

/// Names of the agent in advice.
const NAMES: Names = Names { daemon: "agent", program: "edge-agent" };

/// Checks the state folder as the user that owns it.
pub(super) fn checks(folder: &Folder, config: &AgentConfig) -> Vec<Check> {
    let root = folder.root();
    let Ok(ownership) = doctor::ownership(root, NAMES) else { return vec![absent(root)] };
    let mut checks = vec![ownership];
    if checks.iter().all(Check::is_ok) {
        checks.push(doctor::writing(root));
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

/// Updates are refused with less than the configured space, so less is a failure.
fn room(root: &Path, config: &AgentConfig) -> Check {
    let least = config.updates.disk_free_min_bytes;
    doctor::disk_space(root, least, |name, free| {
        let least = units::bytes(least);
        let found = format!("{free} free, updates must leave {least} (updates.disk_free_min_bytes)");
        let advice = "free some space: until then requests are answered and updates are refused";
        Check::failed(name, ExitKind::Storage, found, advice)
    })
}

/// A clock that is behind what this machine has written itself is wrong; certificates and metadata then look invalid.
fn clock(folder: &Folder) -> Check {
    const NAME: &str = "clock";
    let program = std::env::current_exe().ok();
    let written = [Some(folder.slots()), Some(folder.identity()), Some(folder.trust()), program];
    let changed = |path: &Path| std::fs::metadata(path).and_then(|found| found.modified()).ok();
    let newest = written.iter().flatten().filter_map(|path| changed(path)).max();
    let ahead = newest.and_then(|newest| newest.duration_since(SystemTime::now()).ok());
    let now = clock::rfc3339(clock::signed_unix_s());
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
    let place = match engine.isolation {
        Isolation::Process => "; in a child process",
        Isolation::None => "; inside the agent: a model whose native code fails ends the agent",
    };
    doctor::library(folder.root(), engine.onnxruntime.as_deref(), "engine.onnxruntime", place)
}
