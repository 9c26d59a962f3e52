//! A temporary folder in which a hub and agents live, and the frame of a system test around it.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::binaries::{Binaries, ONNXRUNTIME_ENV};
use crate::{Agent, Hub};

/// Last lines of each log that a failed story prints: the end is where it broke.
const LOG_LINES_SHOWN: usize = 60;

/// A folder of its own and the programs to run in it.
#[derive(Debug)]
pub struct Site {
    folder: PathBuf,
    temporary: Option<TempDir>,
    binaries: Binaries,
    detached: bool,
}

impl Site {
    /// Makes a temporary folder for the programs of this build.
    ///
    /// # Errors
    /// When the programs do not build or the folder cannot be made.
    pub fn new() -> Result<Self> {
        Self::with(Binaries::of_this_build()?)
    }

    /// Makes a temporary folder for given programs.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn with(binaries: Binaries) -> Result<Self> {
        let temporary = tempfile::Builder::new().prefix("sanderling-").tempdir().context("make a temporary folder")?;
        let folder = temporary.path().to_owned();
        Ok(Self { folder, temporary: Some(temporary), binaries, detached: false })
    }

    /// The folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The programs.
    #[must_use]
    pub fn binaries(&self) -> &Binaries {
        &self.binaries
    }

    /// Lets daemons that are started from now on outlive the terminal: neither its Ctrl-C nor its end reaches them.
    pub fn detach(&mut self) {
        self.detached = true;
    }

    /// Whether daemons are started apart from the terminal.
    #[must_use]
    pub fn is_detached(&self) -> bool {
        self.detached
    }

    /// Leaves the folder behind when this value goes.
    pub fn keep(&mut self) {
        if let Some(temporary) = self.temporary.take() {
            self.folder = temporary.keep();
        }
    }

    /// A command with the environment that both programs get here: nothing of the user's own configuration.
    #[must_use]
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command
            .env(ONNXRUNTIME_ENV, &self.binaries.onnxruntime)
            .env("XDG_CONFIG_HOME", self.folder.join("config"))
            .env("RUST_BACKTRACE", "1")
            .env_remove("SANDERLING_OPERATOR")
            .env_remove("SANDERLING_LOG")
            .env_remove("NOTIFY_SOCKET")
            .current_dir(&self.folder);
        command
    }

    /// Makes a hub with free ports; it is not started yet.
    ///
    /// # Errors
    /// When `cloud-hub init` fails.
    pub fn hub(&self) -> Result<Hub> {
        Hub::init(self, "hub")
    }

    /// Makes the folder and configuration of an agent; it is neither enrolled nor started.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn agent(&self, name: &str) -> Result<Agent> {
        Agent::new(self, name)
    }

    /// Makes an agent, enrols it and starts it.
    ///
    /// # Errors
    /// When one of these fails.
    pub fn enrolled_agent(&self, hub: &Hub, name: &str) -> Result<Agent> {
        let mut agent = self.agent(name)?;
        agent.enrol(hub)?;
        agent.start()?;
        Ok(agent)
    }

    /// The last lines of every log in the folder.
    #[must_use]
    pub fn logs(&self) -> String {
        let mut text = String::new();
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let mut logs: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
        logs.retain(|path| path.extension() == Some(OsStr::new("log")));
        logs.sort();
        for path in logs {
            let bytes = fs::read(&path).unwrap_or_default();
            let log = String::from_utf8_lossy(&bytes);
            let skipped = log.lines().count().saturating_sub(LOG_LINES_SHOWN);
            text.push_str(&format!("--- {} ({skipped} earlier lines left out)\n", path.display()));
            log.lines().skip(skipped).for_each(|line| text.extend([line, "\n"]));
        }
        text
    }
}

/// Runs a test on a fresh [`Site`]. When it fails, the logs are printed and the folder is kept.
///
/// # Panics
/// When the story fails: this is the test's verdict.
#[expect(clippy::panic, reason = "the verdict of a test")]
pub fn story(told: impl FnOnce(&Site) -> Result<()>) {
    let mut site = match Site::new() {
        Ok(site) => site,
        Err(error) => panic!("no site for this test: {error:#}"),
    };
    if let Err(error) = told(&site) {
        site.keep();
        panic!("{error:#}\n\n{}\nthe folder is kept: {}", site.logs(), site.folder().display());
    }
}

/// Says that a test, or a part of it, could not run here and why; `cargo xtask test` counts these lines.
#[expect(clippy::print_stdout, reason = "the line is for whoever reads the test's output")]
pub fn skip(why: &str) {
    println!("skipped: {why}");
}

/// A configuration file that tests change field by field.
#[derive(Debug, Clone)]
pub struct ConfigFile {
    path: PathBuf,
    root: toml::Table,
}

impl ConfigFile {
    /// Reads the file.
    ///
    /// # Errors
    /// When it is missing or not TOML.
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        let root = text.parse().with_context(|| format!("read {} as TOML", path.display()))?;
        Ok(Self { path: path.to_owned(), root })
    }

    /// Starts an empty file.
    #[must_use]
    pub fn empty(path: &Path) -> Self {
        Self { path: path.to_owned(), root: toml::Table::new() }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Sets `table.field` (any depth) and writes the file.
    ///
    /// # Errors
    /// When something on the way is no table, or the file cannot be written.
    pub fn set(&mut self, field: &str, value: impl Into<toml::Value>) -> Result<()> {
        let (tables, name) = field.rsplit_once('.').unwrap_or(("", field));
        let mut table = &mut self.root;
        for step in tables.split('.').filter(|step| !step.is_empty()) {
            let next = table.entry(step).or_insert_with(|| toml::Value::Table(toml::Table::new()));
            table = next.as_table_mut().with_context(|| format!("{step} of {field} is no table"))?;
        }
        table.insert(name.to_owned(), value.into());
        self.write()
    }

    fn write(&self) -> Result<()> {
        fs::write(&self.path, self.root.to_string()).with_context(|| format!("write {}", self.path.display()))
    }
}

/// Reads `listening.json` once the daemon with this process id wrote it.
///
/// # Errors
/// When the file is there but not JSON.
pub(crate) fn listening(folder: &Path, pid: u32) -> Result<Option<serde_json::Value>> {
    let Ok(text) = fs::read_to_string(folder.join("listening.json")) else { return Ok(None) };
    let value: serde_json::Value = serde_json::from_str(&text).context("read listening.json")?;
    // A file of an earlier start names another process.
    Ok((value.get("pid").and_then(serde_json::Value::as_u64) == Some(u64::from(pid))).then_some(value))
}
