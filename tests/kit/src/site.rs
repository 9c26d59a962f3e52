//! A temporary folder with a hub and agents, and the frame of a system test around it.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::binaries::{Binaries, ONNXRUNTIME_ENV};
use crate::{Agent, Hub};

/// Number of last lines of each log that a failed test prints.
const LOG_LINES_SHOWN: usize = 60;

/// A temporary folder and the programs to run in it.
#[derive(Debug)]
pub struct Site {
    folder: PathBuf,
    temporary: Option<TempDir>,
    binaries: Binaries,
    detached: bool,
}

impl Site {
    /// Creates a temporary folder for the programs of this build.
    ///
    /// # Errors
    /// Fails when the programs do not build or the folder cannot be made.
    pub fn new() -> Result<Self> {
        Self::with(Binaries::of_this_build()?)
    }

    /// Creates a temporary folder for given programs.
    ///
    /// # Errors
    /// Fails when the folder cannot be made.
    pub fn with(binaries: Binaries) -> Result<Self> {
        let temporary = tempfile::Builder::new().prefix("sanderling-").tempdir().context("make a temporary folder")?;
        let folder = temporary.path().to_owned();
        Ok(Self { folder, temporary: Some(temporary), binaries, detached: false })
    }

    /// Returns the path of the folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Returns the programs under test.
    #[must_use]
    pub fn binaries(&self) -> &Binaries {
        &self.binaries
    }

    /// Lets daemons that are started from now on outlive the terminal: they receive neither its Ctrl-C nor its hang-up.
    pub fn detach(&mut self) {
        self.detached = true;
    }

    /// Whether daemons are started separately from the terminal.
    #[must_use]
    pub fn is_detached(&self) -> bool {
        self.detached
    }

    /// Keeps the folder when this value is dropped.
    pub fn keep(&mut self) {
        if let Some(temporary) = self.temporary.take() {
            self.folder = temporary.keep();
        }
    }

    /// Returns a command with the environment of both programs here: none of the user's own configuration.
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

    /// Creates a hub with free ports; does not start it.
    ///
    /// # Errors
    /// Fails when `cloud-hub init` fails.
    pub fn hub(&self) -> Result<Hub> {
        Hub::init(self, "hub")
    }

    /// Creates a hub that sends whole files only, for tests of what happens to those.
    ///
    /// # Errors
    /// Fails when `cloud-hub init` fails.
    pub fn hub_of_whole_files(&self) -> Result<Hub> {
        let mut hub = self.hub()?;
        hub.config().set("deltas.cache_bytes_max", 0)?;
        Ok(hub)
    }

    /// Creates the folder and configuration of an agent; neither enrols nor starts it.
    ///
    /// # Errors
    /// Fails when the folder cannot be written.
    pub fn agent(&self, name: &str) -> Result<Agent> {
        Agent::new(self, name)
    }

    /// Creates an agent, enrols it and starts it.
    ///
    /// # Errors
    /// Fails when one of these fails.
    pub fn enrolled_agent(&self, hub: &Hub, name: &str) -> Result<Agent> {
        let mut agent = self.agent(name)?;
        agent.enrol(hub)?;
        agent.start()?;
        Ok(agent)
    }

    /// Returns the last lines of every log in the folder.
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

/// Runs a test on a new [`Site`]. If it fails, prints the logs and keeps the folder.
///
/// # Panics
/// Panics if the test returns an error.
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

/// Prints that a test, or a part of it, was skipped, with the reason; `cargo xtask test` counts these lines.
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
    /// Reads the configuration file.
    ///
    /// # Errors
    /// Fails when it is missing or not TOML.
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        let root = text.parse().with_context(|| format!("read {} as TOML", path.display()))?;
        Ok(Self { path: path.to_owned(), root })
    }

    /// Creates an empty file.
    #[must_use]
    pub fn empty(path: &Path) -> Self {
        Self { path: path.to_owned(), root: toml::Table::new() }
    }

    /// Returns the path of the file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Sets `table.field` (any depth) and writes the file.
    ///
    /// # Errors
    /// Fails if a part of the path is not a table, or the file cannot be written.
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

/// Reads `listening.json` once the daemon with this process id has written it.
///
/// # Errors
/// Fails if the file exists but is not JSON.
pub(crate) fn listening(folder: &Path, pid: u32) -> Result<Option<serde_json::Value>> {
    let Ok(text) = fs::read_to_string(folder.join("listening.json")) else { return Ok(None) };
    let value: serde_json::Value = serde_json::from_str(&text).context("read listening.json")?;
    // A file of an earlier start names another process.
    Ok((value.get("pid").and_then(serde_json::Value::as_u64) == Some(u64::from(pid))).then_some(value))
}
