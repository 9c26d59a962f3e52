//! A real `edge-agent` in a temporary folder.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::binaries::{Binaries, ONNXRUNTIME_ENV};
use crate::metrics::Readings;
use crate::site::{ConfigFile, Site, listening};
use crate::{Client, Daemon, Finished, Hub, wait};

/// An agent: its folder, its configuration, and its process while it runs.
#[derive(Debug)]
pub struct Agent {
    name: String,
    folder: PathBuf,
    log: PathBuf,
    binaries: Binaries,
    config: ConfigFile,
    environment: Vec<(String, String)>,
    addresses: Value,
    daemon: Option<Daemon>,
    detached: bool,
}

impl Agent {
    /// Creates `<site>/<name>` with an `agent.toml` that lets the servers use free ports and follows `digits`.
    ///
    /// # Errors
    /// Fails when the folder cannot be written.
    pub fn new(site: &Site, name: &str) -> Result<Self> {
        let folder = site.folder().join(name);
        fs::create_dir_all(&folder).with_context(|| format!("make folder {}", folder.display()))?;
        let mut config = ConfigFile::empty(&folder.join("agent.toml"));
        config.set("agent.state_dir", folder.join("state").display().to_string())?;
        config.set("inference.http", "127.0.0.1:0")?;
        if !site.binaries().is_without_grpc {
            config.set("inference.grpc", "127.0.0.1:0")?;
        }
        config.set("metrics.listen", "127.0.0.1:0")?;
        config.set("log.format", "text")?;
        config.set("models.digits.policy", "cascade")?;
        let log = site.folder().join(format!("{name}.log"));
        let binaries = site.binaries().clone();
        Ok(Self {
            name: name.to_owned(),
            folder,
            log,
            binaries,
            config,
            environment: Vec::new(),
            addresses: Value::Null,
            daemon: None,
            detached: site.is_detached(),
        })
    }

    /// Returns the name of the device.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the path of the state folder.
    #[must_use]
    pub fn state_dir(&self) -> PathBuf {
        self.folder.join("state")
    }

    /// Returns the configuration file; changes take effect at the next start.
    pub fn config(&mut self) -> &mut ConfigFile {
        &mut self.config
    }

    /// Sets an environment variable for the next starts; an empty value removes it.
    pub fn env(&mut self, name: &str, value: &str) {
        self.environment.retain(|(known, _)| known != name);
        if !value.is_empty() {
            self.environment.push((name.to_owned(), value.to_owned()));
        }
    }

    /// Enrols the agent with the hub under its name.
    ///
    /// # Errors
    /// Fails when either side refuses.
    pub fn enrol(&self, hub: &Hub) -> Result<()> {
        self.enrol_with(&hub.token(&self.name)?)?.ok().map(drop)
    }

    /// Tries to enrol with a join token.
    ///
    /// # Errors
    /// Fails if the program does not start; its output is in the result.
    pub fn enrol_with(&self, token: &str) -> Result<Finished> {
        self.run(["enroll", token])
    }

    /// Replaces the programs for the next starts and verbs, as an upgrade does.
    pub fn replace_programs(&mut self, binaries: &Binaries) {
        self.binaries = binaries.clone();
    }

    /// Starts the agent and waits until its HTTP server listens.
    ///
    /// # Errors
    /// Fails when it ends instead, or takes too long.
    pub fn start(&mut self) -> Result<()> {
        let mut daemon = self.spawn()?;
        let addresses = wait::until(&format!("agent {} listens", self.name), || {
            if let Some(status) = daemon.ended()? {
                bail!("agent {} ended with {status} instead of listening", self.name);
            }
            listening(&self.state_dir(), daemon.id())
        })?;
        self.daemon = Some(daemon);
        self.addresses = addresses;
        Ok(())
    }

    /// Starts the agent without waiting, for starts that are meant to fail.
    ///
    /// # Errors
    /// Fails when the program does not start at all.
    pub fn spawn(&self) -> Result<Daemon> {
        let mut command = self.command("run");
        command.arg("--config").arg(self.config.path());
        if self.detached {
            command.process_group(0);
        }
        Daemon::spawn(&self.name, &mut command, &self.log)
    }

    /// Starts the agent and keeps the process, without waiting for its HTTP server: it may end before that.
    ///
    /// # Errors
    /// Fails when the program does not start at all.
    pub fn launch(&mut self) -> Result<()> {
        self.daemon = Some(self.spawn()?);
        Ok(())
    }

    /// Returns the running process.
    ///
    /// # Errors
    /// Fails when it was not started.
    pub fn daemon(&mut self) -> Result<&mut Daemon> {
        self.daemon.as_mut().context("the agent is not started")
    }

    /// Kills the agent without warning.
    ///
    /// # Errors
    /// Fails when it was not started.
    pub fn kill(&mut self) -> Result<()> {
        self.daemon()?.kill()
    }

    /// Stops the agent and waits until it has ended.
    ///
    /// # Errors
    /// Fails when it does not stop in time.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        self.daemon()?.stop_within(Duration::from_secs(90))
    }

    /// Returns a command of the agent's program with this agent's environment.
    #[must_use]
    pub fn command(&self, verb: &str) -> Command {
        let mut command = Command::new(&self.binaries.agent);
        command
            .arg(verb)
            .env(ONNXRUNTIME_ENV, &self.binaries.onnxruntime)
            .env("RUST_BACKTRACE", "1")
            .env_remove("NOTIFY_SOCKET")
            .envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Runs a verb with this agent's configuration to its end.
    ///
    /// # Errors
    /// Fails when the program does not start.
    pub fn run<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Result<Finished> {
        let mut args = args.into_iter();
        let verb = args.next().context("a verb")?;
        let mut command = self.command(&verb.as_ref().to_string_lossy());
        Finished::run(command.arg("--config").arg(self.config.path()).args(args))
    }

    /// Returns an address that the agent listens on: `http`, `grpc`, `socket` or `metrics`.
    ///
    /// # Errors
    /// Fails when it was not started.
    pub fn address(&self, server: &str) -> Result<String> {
        let address = self.addresses.get(server).and_then(Value::as_str);
        address.map(str::to_owned).with_context(|| format!("agent {} reported no {server} address", self.name))
    }

    /// Returns a client of the agent's HTTP server.
    ///
    /// # Errors
    /// Fails when it was not started.
    pub fn client(&self) -> Result<Client> {
        Ok(Client::new(&self.address("http")?))
    }

    /// Returns the output of `edge-agent status` as JSON.
    ///
    /// # Errors
    /// Fails when it does not answer.
    pub fn status(&self) -> Result<Value> {
        let (status, value) = self.client()?.get("/sanderling/v1/status")?;
        anyhow::ensure!(status == 200, "the agent's status request returned {status}: {value}");
        Ok(value)
    }

    /// Returns the version that serves now, or `None` while the model is not ready.
    ///
    /// # Errors
    /// Fails when the agent does not answer.
    pub fn active_version(&self, model: &str) -> Result<Option<u64>> {
        let (status, value) = self.client()?.get(&format!("/v2/models/{model}"))?;
        let newest = value["versions"].as_array().and_then(|versions| versions.iter().filter_map(as_version).max());
        Ok(newest.filter(|_| status == 200))
    }

    /// Waits until this version serves.
    ///
    /// # Errors
    /// Fails when it does not come to that.
    pub fn wait_version(&self, model: &str, version: u64) -> Result<()> {
        let what = format!("agent {} serves {model}/{version}", self.name);
        wait::until_true(&what, || Ok(self.active_version(model)? == Some(version)))
    }

    /// Waits until `only-hub` requests are (or are no longer) possible.
    ///
    /// # Errors
    /// Fails when that does not come.
    pub fn wait_hub(&self, online: bool) -> Result<()> {
        let what = format!("agent {} is {}with its hub", self.name, if online { "" } else { "not " });
        wait::until_true(&what, || Ok((self.status()?["hub"]["state"] == "online") == online))
    }

    /// Returns the agent's current problem with its hub and the advice; empty without a problem.
    ///
    /// # Errors
    /// Fails when the agent does not answer.
    pub fn hub_trouble(&self) -> Result<String> {
        let hub = self.status()?["hub"].clone();
        let told = ["last_error", "advice"].map(|field| hub[field].as_str().unwrap_or_default().to_owned());
        Ok(told.join(" ").trim().to_owned())
    }

    /// Waits until [`Agent::hub_trouble`] contains one of these words.
    ///
    /// # Errors
    /// Fails if it does not, with the actual text.
    pub fn wait_trouble(&self, words: &[&str]) -> Result<()> {
        let mut told = String::new();
        let waited = wait::until(&format!("agent {} says one of {words:?}", self.name), || {
            told = self.hub_trouble()?;
            Ok(words.iter().any(|word| told.contains(word)).then_some(()))
        });
        waited.with_context(|| format!("it says {told:?}"))
    }

    /// Reads the agent's metrics.
    ///
    /// # Errors
    /// Fails when it does not answer.
    pub fn metrics(&self) -> Result<Readings> {
        Readings::scrape(&self.address("metrics")?)
    }
}

fn as_version(value: &Value) -> Option<u64> {
    value.as_str()?.parse().ok()
}

/// Returns every file below a folder, for tests that compare before and after.
///
/// # Errors
/// Fails when a folder cannot be read.
pub fn files_below(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("read folder {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() { found.extend(files_below(&path)?) } else { found.push(path) }
    }
    found.sort();
    Ok(found)
}
