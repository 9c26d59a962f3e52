//! One real daemon as a child process, with its log kept in a file.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};

use crate::wait;

/// A running (or ended) daemon. Dropping it kills it.
#[derive(Debug)]
pub struct Daemon {
    name: String,
    child: Child,
    log: PathBuf,
    left_running: bool,
}

impl Daemon {
    /// Starts `command`; what it prints is appended to `log`.
    ///
    /// # Errors
    /// When the log cannot be opened or the program not started.
    pub fn spawn(name: &str, command: &mut Command, log: &Path) -> Result<Self> {
        let out = File::options().create(true).append(true).open(log);
        let out = out.with_context(|| format!("open log {}", log.display()))?;
        let err = out.try_clone().context("share the log file")?;
        let child = command.stdin(Stdio::null()).stdout(out).stderr(err).spawn();
        let child = child.with_context(|| format!("start {name}: {command:?}"))?;
        Ok(Self { name: name.to_owned(), child, log: log.to_owned(), left_running: false })
    }

    /// The process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, or `None` while it runs.
    ///
    /// # Errors
    /// When the operating system does not say.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().with_context(|| format!("ask how {} is", self.name))
    }

    /// Kills it without warning, as a power cut or the kernel's memory killer would.
    ///
    /// # Errors
    /// When it cannot be killed.
    pub fn kill(&mut self) -> Result<()> {
        if self.ended()?.is_none() {
            self.child.kill().with_context(|| format!("kill {}", self.name))?;
        }
        self.child.wait().map(drop).with_context(|| format!("reap {}", self.name))
    }

    /// Sends a signal: `Signal::TERM` asks it to stop, `Signal::STOP` freezes it.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).context("a process id of this system")?;
        kill_process(pid, signal).with_context(|| format!("signal {}", self.name))
    }

    /// Asks it to stop and waits until it did.
    ///
    /// # Errors
    /// When it has not ended within `limit`.
    pub fn stop_within(&mut self, limit: Duration) -> Result<ExitStatus> {
        if let Some(status) = self.ended()? {
            return Ok(status);
        }
        self.signal(Signal::TERM)?;
        self.wait_ended(limit)
    }

    /// Waits until it ended by itself.
    ///
    /// # Errors
    /// When it has not ended within `limit`.
    pub fn wait_ended(&mut self, limit: Duration) -> Result<ExitStatus> {
        let what = format!("{} ends", self.name);
        wait::until_within(&what, limit, || self.ended())
    }

    /// Lets it run on when this value is dropped.
    pub fn leave_running(&mut self) {
        self.left_running = true;
    }

    /// Everything it printed so far, earlier starts included.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn log(&self) -> Result<String> {
        let bytes = fs::read(&self.log).with_context(|| format!("read log {}", self.log.display()))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Memory it holds now, in bytes (resident set, from the kernel).
    ///
    /// # Errors
    /// When the process is gone.
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

/// What a command line tool answered.
#[derive(Debug, Clone)]
pub struct Finished {
    /// The command as it was run, for messages.
    pub command: String,
    /// Exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Finished {
    /// Runs a command to its end.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn run(command: &mut Command) -> Result<Self> {
        let output = command.stdin(Stdio::null()).output().with_context(|| format!("run {command:?}"))?;
        Ok(Self {
            command: format!("{command:?}"),
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// Gives itself back when the command succeeded.
    ///
    /// # Errors
    /// When it did not; the text holds what it printed.
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

    /// The standard output as JSON.
    ///
    /// # Errors
    /// When it is none.
    pub fn json(&self) -> Result<serde_json::Value> {
        serde_json::from_str(&self.stdout).with_context(|| format!("{} printed no JSON: {}", self.command, self.stdout))
    }
}
