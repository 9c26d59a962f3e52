//! A real `cloud-hub` in a folder of its own.

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
    /// When that fails.
    pub fn init(site: &Site, name: &str) -> Result<Self> {
        let folder = site.folder().join(name);
        let keys = site.folder().join(format!("{name}-keys"));
        let mut init = site.command(&site.binaries().hub);
        init.arg("init").arg("--dir").arg(&folder).arg("--keys").arg(&keys).args(["--name", "localhost"]);
        for door in ["--listen", "--admin", "--metrics"] {
            init.args([door, "127.0.0.1:0"]);
        }
        Finished::run(&mut init)?.ok()?;
        Self::open(site, name)
    }

    /// Takes a hub that is already in `<site>/<name>`, with the offline keys in `<site>/<name>-keys`.
    ///
    /// # Errors
    /// When its `hub.toml` cannot be read or written.
    pub fn open(site: &Site, name: &str) -> Result<Self> {
        let folder = site.folder().join(name);
        let keys = site.folder().join(format!("{name}-keys"));
        let mut config = ConfigFile::read(&folder.join("hub.toml"))?;
        // An IPv4 address: `localhost` may mean ::1 first, where nobody listens.
        config.set("gateway.public", vec!["127.0.0.1:0"])?;
        config.set("log.format", "text")?;
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

    /// The state folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The offline keys.
    #[must_use]
    pub fn keys(&self) -> &Path {
        &self.keys
    }

    /// The configuration file; changes hold from the next start.
    pub fn config(&mut self) -> &mut ConfigFile {
        &mut self.config
    }

    /// Sets an environment variable for the next starts.
    pub fn env(&mut self, name: &str, value: &str) {
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    /// Takes other programs for the next starts and verbs, as an upgrade does.
    pub fn replace_programs(&mut self, binaries: &Binaries) {
        self.binaries = binaries.clone();
    }

    /// Starts it and waits until it listens. From the second start on it takes the same port for devices.
    ///
    /// # Errors
    /// When it ends instead, or takes too long.
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

    /// Starts it without waiting: for starts that are meant to fail.
    ///
    /// # Errors
    /// When the program does not start at all.
    pub fn spawn(&self) -> Result<Daemon> {
        let mut command = self.command();
        command.arg("serve").arg("--config").arg(self.config.path());
        if self.detached {
            command.process_group(0);
        }
        Daemon::spawn(&self.name, &mut command, &self.log)
    }

    /// The running process.
    ///
    /// # Errors
    /// When it was not started.
    pub fn daemon(&mut self) -> Result<&mut Daemon> {
        self.daemon.as_mut().context("the hub is not started")
    }

    /// Kills it without warning.
    ///
    /// # Errors
    /// When it was not started.
    pub fn kill(&mut self) -> Result<()> {
        self.daemon()?.kill()
    }

    /// Stops it and waits until it ended.
    ///
    /// # Errors
    /// When it does not stop in time.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        self.daemon()?.stop_within(Duration::from_secs(90))
    }

    /// An address it listens on: `quic`, `admin` or `metrics`.
    ///
    /// # Errors
    /// When it was not started.
    pub fn address(&self, door: &str) -> Result<String> {
        let address = self.addresses.get(door).and_then(Value::as_str);
        address.map(str::to_owned).with_context(|| format!("the hub told no {door} address"))
    }

    /// The operator's command line, with this hub as its context.
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
    /// When the program does not start.
    pub fn run<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Result<Finished> {
        Finished::run(self.command().args(args))
    }

    /// Runs an operator's verb with `--json` and reads its answer.
    ///
    /// # Errors
    /// When the verb fails.
    pub fn json(&self, args: &[&str]) -> Result<Value> {
        self.run(args.iter().chain(&["--json"]))?.ok()?.json()
    }

    /// Makes a join token for a device.
    ///
    /// # Errors
    /// When the hub refuses.
    pub fn token(&self, device: &str) -> Result<String> {
        let created = self.json(&["token", "create", "--name", device])?;
        created.get("token").and_then(Value::as_str).map(str::to_owned).context("a token in the answer")
    }

    /// Publishes a model version from an author's folder; `extra` are further arguments, like `--hold`.
    ///
    /// # Errors
    /// When the program does not start; whether the hub took it is in the result.
    pub fn push(&self, folder: &Path, extra: &[&str]) -> Result<Finished> {
        let mut command = self.command();
        command.args(["model", "push"]).arg(folder).arg("--keys").arg(&self.keys).args(extra);
        Finished::run(&mut command)
    }

    /// Tells devices to follow a version.
    ///
    /// # Errors
    /// When the program does not start; whether the hub did is in the result.
    pub fn offer(&self, model: &str, version: u64) -> Result<Finished> {
        self.run(["model", "offer", model, &version.to_string()])
    }

    /// What the hub knows about a device.
    ///
    /// # Errors
    /// When it knows none.
    pub fn device(&self, device: &str) -> Result<Value> {
        self.json(&["device", "show", device])
    }

    /// What the hub knows about a model.
    ///
    /// # Errors
    /// When it knows none.
    pub fn model(&self, model: &str) -> Result<Value> {
        self.json(&["model", "status", model])
    }

    /// A device's last word on a version, once it is that the version was not taken.
    ///
    /// # Errors
    /// When no such report comes.
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
    /// When that does not come.
    pub fn wait_connected(&self, device: &str, connected: bool) -> Result<()> {
        let what = format!("{device} is {}connected", if connected { "" } else { "not " });
        wait::until_true(&what, || Ok(self.device(device)?["connected"] == connected))
    }

    /// Reads its metrics.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn metrics(&self) -> Result<Readings> {
        Readings::scrape(&self.address("metrics")?)
    }
}

fn is_refusal(report: &Value) -> bool {
    report["outcome"] == "rejected" || report["outcome"] == "retrying"
}
