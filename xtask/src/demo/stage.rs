//! Hub and devices of the demo, and the instructions to continue with them by hand.

#![expect(clippy::print_stdout, reason = "the demo is what it prints")]

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use testkit::{Agent, Binaries, Digits, Hub, InferOptions, Reply, Site};

/// Names of the two devices.
pub(super) const DEVICES: [&str; 2] = ["kitchen", "attic"];

/// Names of the devices that join before the first rollout.
pub(super) const MORE_DEVICES: [&str; 4] = ["cellar", "garage", "garden", "porch"];

/// A temporary folder with a hub, its devices, and the digits to send.
pub(super) struct Stage {
    site: Site,
    pub(super) hub: Hub,
    pub(super) agents: Vec<Agent>,
    pub(super) digits: Arc<Digits>,
}

impl Stage {
    /// Creates the folder and the hub's keys; starts nothing.
    pub(super) fn set(binaries: Binaries, keep: bool) -> Result<Self> {
        let mut site = Site::with(binaries)?;
        if keep {
            site.detach();
        }
        let hub = site.hub()?;
        Ok(Self { site, hub, agents: Vec::new(), digits: Arc::new(Digits::load()?) })
    }

    pub(super) fn site(&self) -> &Site {
        &self.site
    }

    /// Starts the hub and returns the fingerprint of its CA.
    pub(super) fn start_hub(&mut self) -> Result<String> {
        self.hub.start()?;
        let status = self.hub.json(&["status"])?;
        status["ca"].as_str().map(str::to_owned).context("the CA's fingerprint in the hub's status")
    }

    /// Publishes a version; the command line displays its own progress on a terminal.
    pub(super) fn push(&self, folder: &Path) -> Result<()> {
        let mut push = self.hub.command();
        push.args(["model", "push"]).arg(folder).arg("--keys").arg(self.hub.keys());
        let done = push.stdout(Stdio::null()).status().context("run cloud-hub model push")?;
        ensure!(done.success(), "cloud-hub model push {} failed", folder.display());
        Ok(())
    }

    /// Enrols and starts a device; returns the time until it serves version 1.
    pub(super) fn raise_device(&mut self, name: &str) -> Result<Duration> {
        let begun = Instant::now();
        let mut agent = self.site.agent(name)?;
        // The owner lets a rollout compare each answer with the hub's: the demo sends too few requests for a small share.
        agent.config().set("updates.audit_share_max", 1.0)?;
        // The owner wants no answer of the device while its inputs do not fit the calibration.
        agent.config().set("models.digits.on_drift", "defer")?;
        agent.enrol(&self.hub)?;
        agent.start()?;
        agent.wait_version("digits", 1)?;
        agent.wait_hub(true)?;
        self.agents.push(agent);
        Ok(begun.elapsed())
    }

    /// Sends the first digit to the first device.
    pub(super) fn infer(&self, policy: &str) -> Result<Reply> {
        let agent = self.agents.first().context("a device")?;
        agent.client()?.infer("digits", &[self.digits.input(0)], &InferOptions::policy(policy))
    }

    /// Returns the sum of a counter over all devices.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a counter of bytes, far below 2^53")]
    pub(super) fn sum(&self, metric: &str) -> Result<u64> {
        let read = |agent: &Agent| Ok(agent.metrics()?.sum(metric, &[]));
        Ok(self.agents.iter().map(read).sum::<Result<f64>>()? as u64)
    }

    /// Prints the commands to inspect the running processes.
    pub(super) fn say_how_to_keep(&self) {
        println!("\nTo try it by hand, leave it running: cargo xtask demo --keep\n");
    }

    /// Leaves all processes running and prints how to use and stop them.
    pub(super) fn leave_running(&mut self) -> Result<()> {
        self.site.keep();
        let agent = self.agents.first().context("a device")?;
        let (http, metrics) = (agent.address("http")?, agent.address("metrics")?);
        let folder = self.site.folder().display().to_string();
        let image = self.site.folder().join("digit.npy");
        fs::write(&image, self.digits.npy(0)).with_context(|| format!("write {}", image.display()))?;
        let programs = self.site.binaries().hub.parent().unwrap_or(Path::new(".")).display().to_string();
        println!("\nThe processes keep running. To try them by hand:\n");
        println!("   export PATH={programs}:$PATH");
        println!("   export SANDERLING_ONNXRUNTIME={}", self.site.binaries().onnxruntime.display());
        println!("   export SANDERLING_OPERATOR={folder}/hub/operator.toml");
        println!("   cloud-hub status");
        println!("   cloud-hub device list");
        println!("   cloud-hub model status digits");
        println!("   edge-agent status --config {folder}/kitchen/agent.toml");
        println!("   edge-agent infer digits --npy {} --config {folder}/kitchen/agent.toml", image.display());
        println!("   curl http://{http}/v2/models/digits");
        println!("   curl http://{metrics}/metrics");
        println!("\nThe digit is a {}. To stop them:\n", self.digits.label(0));
        let mut pids = vec![leave(self.hub.daemon()?)];
        for agent in &mut self.agents {
            pids.push(leave(agent.daemon()?));
        }
        println!("   kill {} && rm -r {folder}\n", pids.join(" "));
        Ok(())
    }
}

fn leave(daemon: &mut testkit::Daemon) -> String {
    daemon.leave_running();
    daemon.id().to_string()
}
