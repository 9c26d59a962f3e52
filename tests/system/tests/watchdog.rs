//! Tests that the service manager's watchdog detects engines that make no progress, and no others.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use testkit::author::ModelFolder;
use testkit::binaries::ONNXRUNTIME_ENV;
use testkit::runtime::{self, Fault};
use testkit::tools::runs_long;
use testkit::{Daemon, Digits, Fleet, Hub, Site, story, wait};

/// Message of a healthy daemon to its service manager.
const ALIVE: &str = "WATCHDOG=1";

/// Log line of a daemon that stops sending it.
const UNFED: &str = "the watchdog is not fed";

/// A service manager that reads its notifications.
struct Manager {
    path: String,
    socket: UnixDatagram,
}

impl Manager {
    fn new(site: &Site, name: &str) -> Result<Self> {
        let path = site.folder().join(name);
        let socket = UnixDatagram::bind(&path).context("bind a notify socket")?;
        socket.set_nonblocking(true)?;
        Ok(Self { path: path.display().to_string(), socket })
    }

    /// Reads all notifications so far, and counts the messages of a healthy daemon.
    fn heard(&self) -> usize {
        let mut buffer = [0; 4096];
        let mut alive = 0;
        while let Ok(length) = self.socket.recv(&mut buffer) {
            let told = String::from_utf8_lossy(buffer.get(..length).unwrap_or_default()).into_owned();
            alive += usize::from(told.lines().any(|line| line == ALIVE));
        }
        alive
    }

    fn wait_alive(&self, what: &str) -> Result<()> {
        self.heard();
        wait::until_true(&format!("the watchdog is fed while {what}"), || Ok(self.heard() > 0))
    }
}

/// Starts a hub and an agent with digits/1, both under a service manager, with this additional environment.
fn watched(site: &Site, isolation: &str, period_us: u64, library: Option<&Path>) -> Result<(Fleet, [Manager; 2])> {
    let managers = [Manager::new(site, "hub-notify")?, Manager::new(site, "agent-notify")?];
    let period = period_us.to_string();
    let mut hub = site.hub()?;
    hub.config().set("inference.isolation", isolation)?;
    hub.config().set("inference.run_limit", "1s")?;
    let mut agent = site.agent("kitchen")?;
    agent.config().set("engine.isolation", isolation)?;
    agent.config().set("engine.run_limit", "1s")?;
    for (name, of_hub, of_agent) in [
        ("NOTIFY_SOCKET", managers[0].path.as_str(), managers[1].path.as_str()),
        ("WATCHDOG_USEC", period.as_str(), period.as_str()),
    ] {
        hub.env(name, of_hub);
        agent.env(name, of_agent);
    }
    if let Some(library) = library.and_then(Path::to_str) {
        hub.env(ONNXRUNTIME_ENV, library);
        agent.env(ONNXRUNTIME_ENV, library);
    }
    hub.start()?;
    publish(site, &hub)?;
    agent.enrol(&hub)?;
    agent.start()?;
    agent.wait_version("digits", 1)?;
    agent.wait_hub(true)?;
    Ok((Fleet { hub, agent, digits: std::sync::Arc::new(Digits::load()?) }, managers))
}

fn publish(site: &Site, hub: &Hub) -> Result<()> {
    hub.push(ModelFolder::copy(site, "v1", 1)?.path(), &[])?.ok().map(drop)
}

/// Returns the child process with the engine of a daemon.
fn engine_host(daemon: &Daemon) -> Result<u32> {
    let daemon = daemon.id().to_string();
    for entry in fs::read_dir("/proc")?.flatten() {
        let status = fs::read_to_string(entry.path().join("status")).unwrap_or_default();
        let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")).map(str::trim);
        let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if parent == Some(daemon.as_str()) && String::from_utf8_lossy(&command).contains("engine-host") {
            return entry.file_name().to_str().and_then(|name| name.parse().ok()).context("a process number");
        }
    }
    anyhow::bail!("no engine host")
}

fn freeze(pid: u32) -> Result<()> {
    let pid = Pid::from_raw(i32::try_from(pid)?).context("a process number")?;
    Ok(kill_process(pid, Signal::STOP)?)
}

#[test]
fn an_engine_host_that_is_frozen_is_replaced_and_the_daemons_stay_alive() {
    story(|site| {
        let (mut fleet, [hub_manager, agent_manager]) = watched(site, "process", 200_000, None)?;
        let daemons = [fleet.hub.daemon()?.id(), fleet.agent.daemon()?.id()];
        for policy in ["only-device", "only-hub"] {
            let is_hub = policy == "only-hub";
            let manager = if is_hub { &hub_manager } else { &agent_manager };
            let daemon = if is_hub { fleet.hub.daemon()? } else { fleet.agent.daemon()? };
            let frozen = engine_host(daemon)?;
            freeze(frozen)?;
            manager.wait_alive("its engine host is frozen")?;
            let refused = fleet.infer(0, policy)?;
            ensure!(matches!(refused.status, 500..=599), "{policy}: {refused:?}");
            manager.wait_alive("a run in it does not come back")?;
            // Killed after the run limit and the grace; restarted at once.
            wait::until_true("another host answers", || Ok(fleet.infer(0, policy)?.status == 200))?;
            let daemon = if is_hub { fleet.hub.daemon()? } else { fleet.agent.daemon()? };
            ensure!(engine_host(daemon)? != frozen, "{policy}: the same process");
            let log = daemon.log()?;
            ensure!(log.contains("gave no answer in time") && !log.contains(UNFED), "{policy}: {log}");
            manager.wait_alive("it has another engine host")?;
        }
        ensure!([fleet.hub.daemon()?.id(), fleet.agent.daemon()?.id()] == daemons, "a daemon was restarted");
        Ok(())
    });
}

#[test]
fn a_daemon_whose_engine_hangs_inside_of_it_does_not_feed_its_watchdog() {
    if !runs_long("an engine that hangs inside of the daemons") {
        return;
    }
    story(|site| {
        let hang = site.folder().join("hang");
        let library = runtime::with_fault(site, &Fault { version: 99, end: "abort()", hang: Some(&hang) })?;
        let (mut fleet, managers) = watched(site, "none", 2_000_000, Some(&library))?;
        for policy in ["only-device", "only-hub"] {
            fleet.infer(0, policy)?.ok()?;
        }
        fs::write(&hang, b"")?;
        // One request each, whose sender gives up: no request waits when the watchdog must act.
        for policy in ["only-device", "only-hub"] {
            let refused = fleet.infer(0, policy)?;
            ensure!(matches!(refused.status, 500..=599), "{policy}: {refused:?}");
        }
        let unfed = |daemon: &Daemon| Ok::<_, anyhow::Error>(daemon.log()?.matches(UNFED).count());
        // Read continuously: a full socket would deliver old notifications later.
        let until_unfed = |daemon: &Daemon, count: usize| {
            wait::until_within("the daemon says that it makes no progress", 3 * wait::PATIENCE, || {
                let _old: usize = managers.iter().map(Manager::heard).sum();
                Ok((unfed(daemon)? >= count).then_some(()))
            })
        };
        until_unfed(fleet.hub.daemon()?, 1)?;
        until_unfed(fleet.agent.daemon()?, 1)?;
        for (daemon, manager) in [fleet.hub.daemon()?, fleet.agent.daemon()?].into_iter().zip(&managers) {
            let before = unfed(daemon)?;
            wait::until_true("it looks twice more", || Ok(unfed(daemon)? >= before + 2))?;
            ensure!(manager.heard() == 0, "it tells that it is alive");
        }
        Ok(())
    });
}
