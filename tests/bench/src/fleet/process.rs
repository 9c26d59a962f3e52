//! Memory and CPU time of another process, as the Linux kernel counts them.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result};

/// Clock ticks per second in `/proc/PID/stat`; fixed on every Linux that runs on these processors.
const TICKS_PER_S: u64 = 100;

/// Position of the user time in `/proc/PID/stat`, counted from the field after the name; the system time follows.
const USER_TIME: usize = 11;

/// A process of this machine.
#[derive(Debug, Clone, Copy)]
pub(super) struct Process(u32);

impl Process {
    pub(super) const fn of(id: u32) -> Self {
        Self(id)
    }

    /// Returns the memory that only this process uses, in bytes.
    pub(super) fn private_bytes(self) -> Result<u64> {
        let path = format!("/proc/{}/smaps_rollup", self.0);
        let clean = field(&path, "Private_Clean:")?;
        Ok(clean + field(&path, "Private_Dirty:")?)
    }

    /// Returns the largest resident memory so far, in bytes.
    pub(super) fn peak_bytes(self) -> Result<u64> {
        field(&format!("/proc/{}/status", self.0), "VmHWM:")
    }

    /// Returns the CPU time so far, of all threads.
    pub(super) fn cpu(self) -> Result<Duration> {
        let path = format!("/proc/{}/stat", self.0);
        let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        // The name may contain spaces; it ends with the last parenthesis.
        let (_name, fields) = text.rsplit_once(") ").with_context(|| format!("no name in {path}"))?;
        let ticks = fields.split_ascii_whitespace().skip(USER_TIME).take(2).map(str::parse::<u64>);
        let ticks = ticks.sum::<Result<u64, _>>().with_context(|| format!("read the times in {path}"))?;
        Ok(Duration::from_millis(ticks * 1000 / TICKS_PER_S))
    }
}

/// Returns a field in kilobytes, as bytes.
fn field(path: &str, name: &str) -> Result<u64> {
    let text = fs::read_to_string(path).with_context(|| format!("read {path}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let line = line.with_context(|| format!("{path} has no line {name}"))?;
    let kib: u64 =
        line.trim().trim_end_matches("kB").trim().parse().with_context(|| format!("read {name} of {path}"))?;
    Ok(kib * 1024)
}
