//! A real `cloud-hub` in a temporary folder.

use std::ffi::OsStr;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::binaries::{Binaries, ONNXRUNTIME_ENV};
use crate::metrics::Readings;
use crate::site::{ConfigFile, Site, listening};
use crate::{Daemon, Finished, wait};

/// A hub: its folder, its configuration, and its process while it runs.
#[derive(Debug)]
pub struct Hub {
    name: String,
    folder: PathBuf,
    keys: PathBuf,
    log: PathBuf,
    binaries: Binaries,
    config: ConfigFile,
    environment: Vec<(String, String)>,
    addresses: Value,
    daemon: Option<Daemon>,
    detached: bool,
}

impl Hub {
    /// Runs `cloud-hub init` in `<site>/<name>`, with the offline keys in `<site>/<name>-keys`.
    ///
    /// # Errors
    /// Fails when that fails.
    pub fn init(site: &Site, name: &str) -> Result<Self> {
        let folder = site.folder().join(name);
        let keys = site.folder().join(format!("{name}-keys"));
        let mut init = site.command(&site.binaries().hub);
        init.arg("init").arg("--dir").arg(&folder).arg("--keys").arg(&keys).args(["--name", "localhost"]);
        for option in ["--listen", "--admin", "--metrics"] {
            init.args([option, "127.0.0.1:0"]);
        }
        Finished::run(&mut init)?.ok()?;
        Self::open(site, name)
    }

    /// Opens a hub that is already in `<site>/<name>`, with the offline keys in `<site>/<name>-keys`.
    ///
    /// # Errors
    /// Fails when its `hub.toml` cannot be read or written.
    pub fn open(site: &Site, name: &str) -> Result<Self> {
        let folder = site.folder().join(name);
        let keys = site.folder().join(format!("{name}-keys"));
        let mut config = ConfigFile::read(&folder.join("hub.toml"))?;
        // An IPv4 address: `localhost` may mean ::1 first, where no server listens.
        config.set("gateway.public", vec!["127.0.0.1:0"])?;
        config.set("log.format", "text")?;
        // Audits are drawn at random: they would count in tests of budgets and receipts. Tests of audits set a share.
        config.set("calibration.audit_share", 0.0)?;
        let log = site.folder().join(format!("{name}.log"));
        let binaries = site.binaries().clone();
        Ok(Self {
            name: name.to_owned(),
            folder,
            keys,
            log,
            binaries,
            config,
            environment: Vec::new(),
            addresses: Value::Null,
            daemon: None,
            detached: site.is_detached(),
        })
    }

    /// Returns the path of the state folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Returns the folder of the offline keys.
    #[must_use]
    pub fn keys(&self) -> &Path {
        &self.keys
    }

    /// Returns the configuration file; changes take effect at the next start.
    pub fn config(&mut self) -> &mut ConfigFile {
        &mut self.config
    }

    /// Sets an environment variable for the next starts.
    pub fn env(&mut self, name: &str, value: &str) {
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    /// Replaces the programs for the next starts and verbs, as an upgrade does.
    pub fn replace_programs(&mut self, binaries: &Binaries) {
        self.binaries = binaries.clone();
    }

    /// Starts the hub and waits until it listens. From the second start on it uses the same port for devices.
    ///
    /// # Errors
    /// Fails when it ends instead, or takes too long.
    pub fn start(&mut self) -> Result<()> {
        let mut daemon = self.spawn()?;
        let addresses = wait::until("the hub listens", || {
            if let Some(status) = daemon.ended()? {
                bail!("the hub ended with {status} instead of listening");
            }
            listening(&self.folder, daemon.id())
        })?;
        self.daemon = Some(daemon);
        self.addresses = addresses;
        let gateway = self.address("quic")?;
        self.config.set("gateway.listen", gateway)
    }

    /// Starts the hub without waiting, for starts that are meant to fail.
    ///
    /// # Errors
    /// Fails when the program does not start at all.
    pub fn spawn(&self) -> Result<Daemon> {
        let mut command = self.command();
        command.arg("serve").arg("--config").arg(self.config.path());
        if self.detached {
            command.process_group(0);
        }
        Daemon::spawn(&self.name, &mut command, &self.log)
    }

    /// Returns the running process.
    ///
    /// # Errors
    /// Fails when it was not started.
    pub fn daemon(&mut self) -> Result<&mut Daemon> {
        self.daemon.as_mut().context("the hub is not started")
    }

    /// Kills the hub without warning.
    ///
    /// # Errors
    /// Fails when it was not started.
    pub fn kill(&mut self) -> Result<()> {
        self.daemon()?.kill()
    }

    /// Stops the hub and waits until it has ended.
    ///
    /// # Errors
    /// Fails when it does not stop in time.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        self.daemon()?.stop_within(Duration::from_secs(90))
    }

    /// Returns an address that the hub listens on: `quic`, `admin` or `metrics`.
    ///
    /// # Errors
    /// Fails when it was not started.
    pub fn address(&self, server: &str) -> Result<String> {
        let address = self.addresses.get(server).and_then(Value::as_str);
        address.map(str::to_owned).with_context(|| format!("the hub reported no {server} address"))
    }

    /// Returns the operator's command line, with this hub as its context.
    #[must_use]
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.binaries.hub);
        command
            .env("SANDERLING_OPERATOR", self.folder.join("operator.toml"))
            .env(ONNXRUNTIME_ENV, &self.binaries.onnxruntime)
            .env("RUST_BACKTRACE", "1")
            .env_remove("NOTIFY_SOCKET")
            .envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Runs an operator's verb to its end.
    ///
    /// # Errors
    /// Fails when the program does not start.
    pub fn run<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Result<Finished> {
        Finished::run(self.command().args(args))
    }

    /// Runs an operator's verb with `--json` and parses its output.
    ///
    /// # Errors
    /// Fails when the verb fails.
    pub fn json(&self, args: &[&str]) -> Result<Value> {
        self.run(args.iter().chain(&["--json"]))?.ok()?.json()
    }

    /// Creates a join token for a device.
    ///
    /// # Errors
    /// Fails when the hub refuses.
    pub fn token(&self, device: &str) -> Result<String> {
        let created = self.json(&["token", "create", "--name", device])?;
        created.get("token").and_then(Value::as_str).map(str::to_owned).context("a token in the answer")
    }

    /// Publishes a model version from an author's folder and offers it to every device at once, unless `extra`, further
    /// arguments like `--hold`, says otherwise.
    ///
    /// # Errors
    /// Fails if the program does not start; the result contains the hub's response.
    pub fn push(&self, folder: &Path, extra: &[&str]) -> Result<Finished> {
        let decides = ["--hold", "--prepare", "--to", "--offer"];
        let is_decided = extra.iter().any(|argument| decides.contains(argument));
        let offer: &[&str] = if is_decided { &[] } else { &["--offer"] };
        self.publish(folder, &[extra, offer].concat())
    }

    /// Publishes a model version as `cloud-hub model push` does without further arguments than `extra`.
    ///
    /// # Errors
    /// Fails if the program does not start; the result contains the hub's response.
    pub fn publish(&self, folder: &Path, extra: &[&str]) -> Result<Finished> {
        let mut command = self.command();
        command.args(["model", "push"]).arg(folder).arg("--keys").arg(&self.keys).args(extra);
        Finished::run(&mut command)
    }

    /// Makes devices follow a version.
    ///
    /// # Errors
    /// Fails if the program does not start; the result contains the hub's response.
    pub fn offer(&self, model: &str, version: u64) -> Result<Finished> {
        self.run(["model", "offer", model, &version.to_string()])
    }

    /// Waits until a version is the one that every device is offered: the end of its rollout, or an offer.
    ///
    /// # Errors
    /// Fails when that does not come.
    pub fn wait_offered(&self, model: &str, version: u64) -> Result<()> {
        wait::until_true(&format!("{model}/{version} is offered to every device"), || {
            Ok(self.model(model)?["offered"] == version)
        })
    }

    /// Returns the hub's data about a device.
    ///
    /// # Errors
    /// Fails if the hub has none.
    pub fn device(&self, device: &str) -> Result<Value> {
        self.json(&["device", "show", device])
    }

    /// Returns the hub's data about a model.
    ///
    /// # Errors
    /// Fails if the hub has none.
    pub fn model(&self, model: &str) -> Result<Value> {
        self.json(&["model", "status", model])
    }

    /// Waits until a device's last report on a version is a rejection; returns the report.
    ///
    /// # Errors
    /// Fails when no such report comes.
    pub fn refusal(&self, device: &str, model: &str, version: u64) -> Result<Value> {
        wait::until(&format!("{device} reports that it does not take {model}/{version}"), || {
            let models = self.device(device)?.get("models").and_then(Value::as_array).cloned().unwrap_or_default();
            let mut reports =
                models.into_iter().filter(|entry| entry["model"] == model).map(|entry| entry["report"].clone());
            Ok(reports.find(|report| report["version"] == version && is_refusal(report)))
        })
    }

    /// Waits until the device is (or is no longer) connected.
    ///
    /// # Errors
    /// Fails when that does not come.
    pub fn wait_connected(&self, device: &str, connected: bool) -> Result<()> {
        let what = format!("{device} is {}connected", if connected { "" } else { "not " });
        wait::until_true(&what, || Ok(self.device(device)?["connected"] == connected))
    }

    /// Reads the hub's metrics.
    ///
    /// # Errors
    /// Fails when it does not answer.
    pub fn metrics(&self) -> Result<Readings> {
        Readings::scrape(&self.address("metrics")?)
    }
}

fn is_refusal(report: &Value) -> bool {
    report["outcome"] == "rejected" || report["outcome"] == "retrying"
}
