//! Tests that a service manager that reads no notifications does not affect the daemons.

use std::os::unix::net::UnixDatagram;

use anyhow::{Context, Result, ensure};
use testkit::{Fleet, Site, story};

/// Watchdog period for a notification every 10 ms: the socket's queue (about ten messages) is full at once.
const WATCHDOG_USEC: &str = "20000";

#[test]
fn a_service_manager_that_hangs_hangs_nobody() {
    story(|site| {
        let (hub_socket, _unread_hub) = deaf(site, "hub-notify")?;
        let mut hub = site.hub()?;
        hub.env("NOTIFY_SOCKET", &hub_socket);
        hub.env("WATCHDOG_USEC", WATCHDOG_USEC);
        hub.start()?;
        let mut fleet = Fleet::with_hub(site, hub)?;
        fleet.agent.stop()?;
        let (agent_socket, _unread_agent) = deaf(site, "agent-notify")?;
        fleet.agent.env("NOTIFY_SOCKET", &agent_socket);
        fleet.agent.env("WATCHDOG_USEC", WATCHDOG_USEC);
        fleet.agent.start()?;
        fleet.agent.wait_hub(true)?;
        for index in 0..50 {
            fleet.infer(index, "only-hub")?.ok()?;
        }
        ensure!(fleet.agent.stop()?.success(), "the agent did not stop cleanly");
        ensure!(fleet.hub.stop()?.success(), "the hub did not stop cleanly");
        Ok(())
    });
}

/// Creates a notify socket that no process reads.
fn deaf(site: &Site, name: &str) -> Result<(String, UnixDatagram)> {
    let path = site.folder().join(name);
    let socket = UnixDatagram::bind(&path).context("bind a notify socket")?;
    Ok((path.display().to_string(), socket))
}
