//! A real daemon as a child process, with its log in a file.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};

use crate::wait;

/// A running or ended daemon. Dropping it kills the process.
#[derive(Debug)]
pub struct Daemon {
    name: String,
    child: Child,
    log: PathBuf,
    left_running: bool,
}

impl Daemon {
    /// Starts `command` and appends its output to `log`.
    ///
    /// # Errors
    /// Fails if the log cannot be opened or the program cannot be started.
    pub fn spawn(name: &str, command: &mut Command, log: &Path) -> Result<Self> {
        let out = File::options().create(true).append(true).open(log);
        let out = out.with_context(|| format!("open log {}", log.display()))?;
        let err = out.try_clone().context("share the log file")?;
        let child = command.stdin(Stdio::null()).stdout(out).stderr(err).spawn();
        let child = child.with_context(|| format!("start {name}: {command:?}"))?;
        Ok(Self { name: name.to_owned(), child, log: log.to_owned(), left_running: false })
    }

    /// Returns the process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Returns its exit status, or `None` while it runs.
    ///
    /// # Errors
    /// Fails if the operating system does not report it.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().with_context(|| format!("ask how {} is", self.name))
    }

    /// Kills the process without warning, as a power cut or the kernel's OOM killer would.
    ///
    /// # Errors
    /// Fails if it cannot be killed.
    pub fn kill(&mut self) -> Result<()> {
        if self.ended()?.is_none() {
            self.child.kill().with_context(|| format!("kill {}", self.name))?;
        }
        self.child.wait().map(drop).with_context(|| format!("reap {}", self.name))
    }

    /// Sends a signal: `Signal::TERM` requests a stop, `Signal::STOP` suspends the process.
    ///
    /// # Errors
    /// Fails if the process has ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).context("a process id of this system")?;
        kill_process(pid, signal).with_context(|| format!("signal {}", self.name))
    }

    /// Requests a stop and waits until the process has ended.
    ///
    /// # Errors
    /// Fails when it has not ended within `limit`.
    pub fn stop_within(&mut self, limit: Duration) -> Result<ExitStatus> {
        if let Some(status) = self.ended()? {
            return Ok(status);
        }
        self.signal(Signal::TERM)?;
        self.wait_ended(limit)
    }

    /// Waits until the process ends without a signal.
    ///
    /// # Errors
    /// Fails when it has not ended within `limit`.
    pub fn wait_ended(&mut self, limit: Duration) -> Result<ExitStatus> {
        let what = format!("{} ends", self.name);
        wait::until_within(&what, limit, || self.ended())
    }

    /// Lets the process continue to run when this value is dropped.
    pub fn leave_running(&mut self) {
        self.left_running = true;
    }

    /// Returns the whole log so far, including that of earlier starts.
    ///
    /// # Errors
    /// Fails when the log cannot be read.
    pub fn log(&self) -> Result<String> {
        let bytes = fs::read(&self.log).with_context(|| format!("read log {}", self.log.display()))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Returns its current memory in bytes (resident set, from the kernel).
    ///
    /// # Errors
    /// Fails when the process is gone.
    pub fn resident_bytes(&self) -> Result<u64> {
        let path = format!("/proc/{}/status", self.id());
        let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("a VmRSS line")?;
        let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().context("read VmRSS")?;
        Ok(kib * 1024)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.left_running {
            return;
        }
        if let Err(error) = self.kill() {
            eprintln!("testkit: {error:#}");
        }
    }
}

/// Result of a command line program.
#[derive(Debug, Clone)]
pub struct Finished {
    /// Command line, for messages.
    pub command: String,
    /// Exit code; `None` if a signal ended the program.
    pub code: Option<i32>,
    /// Text on standard output.
    pub stdout: String,
    /// Text on standard error.
    pub stderr: String,
}

impl Finished {
    /// Runs a command to its end.
    ///
    /// # Errors
    /// Fails when it cannot be started.
    pub fn run(command: &mut Command) -> Result<Self> {
        let output = command.stdin(Stdio::null()).output().with_context(|| format!("run {command:?}"))?;
        Ok(Self {
            command: format!("{command:?}"),
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// Returns the result if the command succeeded.
    ///
    /// # Errors
    /// Fails if it did not; the error contains its output.
    pub fn ok(self) -> Result<Self> {
        anyhow::ensure!(
            self.code == Some(0),
            "{} ended with {:?}\nstdout: {}\nstderr: {}",
            self.command,
            self.code,
            self.stdout,
            self.stderr
        );
        Ok(self)
    }

    /// Parses standard output as JSON.
    ///
    /// # Errors
    /// Fails if it is not JSON.
    pub fn json(&self) -> Result<serde_json::Value> {
        serde_json::from_str(&self.stdout).with_context(|| format!("{} printed no JSON: {}", self.command, self.stdout))
    }
}
