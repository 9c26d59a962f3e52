//! Tests of stopping: work in progress is finished within the grace period, and the exit code reports it.

use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use testkit::load::{Load, Summary};
use testkit::{Fleet, InferOptions, story, wait};

#[test]
fn an_idle_agent_and_an_idle_hub_stop_cleanly() {
    story(|site| {
        let mut fleet = Fleet::serving_v1(site)?;
        fleet.agent.wait_hub(true)?;
        let agent = fleet.agent.stop()?;
        ensure!(agent.success(), "the agent ended with {agent}");
        let hub = fleet.hub.stop()?;
        ensure!(hub.success(), "the hub ended with {hub}");
        Ok(())
    });
}

#[test]
fn an_agent_under_load_answers_what_it_took_and_refuses_the_rest() {
    story(|site| {
        let mut fleet = Fleet::serving_v1(site)?;
        let load =
            Load::start(&fleet.client()?, &fleet.digits, &InferOptions::policy("only-device"), 3, Duration::ZERO);
        wait::until_true("the load runs", || Ok(load.sent() > 50))?;
        let ended = fleet.agent.stop()?;
        ensure!(ended.success(), "the agent ended with {ended}");
        let samples = load.finish()?;
        let failures = samples.iter().filter_map(|sample| sample.outcome.as_ref().err());
        for failure in failures {
            // Refused before it was accepted: the server is closed, or reports that it is closing.
            let refused = ["refused", "503", "reset", "closed", "disconnect", "peer"];
            ensure!(refused.iter().any(|word| failure.to_lowercase().contains(word)), "a request was lost: {failure}");
            ensure!(!failure.contains("malformed") && !failure.contains("longer than"), "half an answer: {failure}");
        }
        ensure!(Summary::of(&samples).requests > 50, "the load ran");
        Ok(())
    });
}

#[test]
fn a_device_goes_on_when_the_hub_stops_under_load() {
    story(|site| {
        let mut fleet = Fleet::serving_v1(site)?;
        fleet.agent.wait_hub(true)?;
        let load = Load::start(&fleet.client()?, &fleet.digits, &InferOptions::policy("prefer-hub"), 3, Duration::ZERO);
        wait::until_true("the load runs", || Ok(load.sent() > 50))?;
        let ended = fleet.hub.stop()?;
        ensure!(ended.success(), "the hub ended with {ended}");
        let after = load.sent();
        wait::until_true("the load goes on", || Ok(load.sent() > after + 50))?;
        let summary = Summary::of(&load.finish()?);
        ensure!(summary.failed == 0, "{} of {} failed: {:?}", summary.failed, summary.requests, summary.first_failure);
        Ok(())
    });
}

#[test]
fn a_hangup_under_load_reloads_the_log_filter_and_costs_no_request() {
    story(|site| {
        let mut fleet = Fleet::serving_v1(site)?;
        fleet.agent.wait_hub(true)?;
        let load = Load::start(&fleet.client()?, &fleet.digits, &InferOptions::policy("prefer-hub"), 3, Duration::ZERO);
        wait::until_true("the load runs", || Ok(load.sent() > 50))?;
        for (agent_filter, hub_filter, expected) in [
            ("info,edge_agent=debug", "info,cloud_hub=debug", "log filter reloaded"),
            ("edge_agent=loud", "cloud_hub=loud", "the configuration was not reloaded"),
            ("info", "info", "log filter reloaded filter=\"info,ort=warn\""),
        ] {
            fleet.agent.config().set("log.filter", agent_filter)?;
            fleet.hub.config().set("log.filter", hub_filter)?;
            for daemon in [fleet.hub.daemon()?, fleet.agent.daemon()?] {
                daemon.signal(testkit::Signal::HUP)?;
                wait::until_true(expected, || Ok(daemon.log()?.contains(expected)))?;
                ensure!(daemon.ended()?.is_none(), "SIGHUP ended a daemon");
            }
        }
        let log = fleet.agent.daemon()?.log()?;
        ensure!(log.contains("DEBUG"), "the reloaded filter was not used:\n{log}");
        let summary = Summary::of(&load.finish()?);
        ensure!(summary.failed == 0, "{} of {} failed: {:?}", summary.failed, summary.requests, summary.first_failure);
        ensure!(fleet.agent.stop()?.success() && fleet.hub.stop()?.success(), "SIGTERM was lost");
        Ok(())
    });
}

#[test]
fn a_second_signal_ends_the_agent_at_once() {
    story(|site| {
        let mut fleet = Fleet::serving_v1(site)?;
        let daemon = fleet.agent.daemon()?;
        daemon.signal(testkit::Signal::TERM)?;
        // It may already have ended: an idle agent stops at once.
        if daemon.ended()?.is_none() && daemon.signal(testkit::Signal::TERM).is_err() {
            return Ok(());
        }
        daemon.wait_ended(Duration::from_secs(30)).map(drop)
    });
}

#[test]
fn the_service_manager_hears_of_start_life_and_stop() {
    story(|site| {
        let mut hub = site.hub()?;
        let (hub_socket, hub_heard) = listen(&site.folder().join("hub-notify"))?;
        hub.env("NOTIFY_SOCKET", &hub_socket);
        hub.env("WATCHDOG_USEC", "4000000");
        hub.start()?;
        let mut fleet = Fleet::with_hub(site, hub)?;
        fleet.agent.stop()?;
        let (agent_socket, agent_heard) = listen(&site.folder().join("agent-notify"))?;
        fleet.agent.env("NOTIFY_SOCKET", &agent_socket);
        fleet.agent.env("WATCHDOG_USEC", "4000000");
        fleet.agent.start()?;
        for (who, heard) in [("hub", &hub_heard), ("agent", &agent_heard)] {
            expect(who, heard, "READY=1")?;
            expect(who, heard, "WATCHDOG=1")?;
            expect(who, heard, "WATCHDOG=1")?;
        }
        fleet.agent.stop()?;
        expect("agent", &agent_heard, "STOPPING=1")?;
        fleet.hub.stop()?;
        expect("hub", &hub_heard, "STOPPING=1")
    });
}

/// Creates a socket that receives the notifications of a service in place of systemd.
fn listen(path: &Path) -> Result<(String, UnixDatagram)> {
    let socket = UnixDatagram::bind(path).context("bind a notify socket")?;
    socket.set_read_timeout(Some(wait::PATIENCE))?;
    Ok((path.display().to_string(), socket))
}

/// Reads until a message contains this line.
fn expect(who: &str, heard: &UnixDatagram, line: &str) -> Result<()> {
    let mut buffer = [0_u8; 4096];
    loop {
        let length = heard.recv(&mut buffer).with_context(|| format!("the {who} never said {line}"))?;
        let message = String::from_utf8_lossy(buffer.get(..length).unwrap_or_default()).into_owned();
        if message.lines().any(|said| said == line) {
            return Ok(());
        }
    }
}
