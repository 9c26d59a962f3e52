//! Tests of a version that served well and crashes its engine host at every later load, as after an upgrade of the
//! runtime: after two attempts the previous version serves, on the device and on the hub, also over restarts.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use testkit::author::ModelFolder;
use testkit::binaries::ONNXRUNTIME_ENV;
use testkit::runtime::{self, Fault};
use testkit::{Agent, Digits, Fleet, Hub, Site, story, wait};

/// Name of the metric that counts ended engine hosts.
const DEATHS: &str = "sanderling_engine_host_deaths_total";

/// Builds a runtime that ends its process when it loads a model file of `version`, by the C statement `end`.
fn fatal_runtime(site: &Site, version: u64, end: &str) -> Result<PathBuf> {
    runtime::with_fault(site, &Fault { version, end, hang: None })
}

fn path_of(library: &Path) -> Result<&str> {
    library.to_str().context("a path in UTF-8")
}

fn deaths(agent: &Agent) -> Result<f64> {
    Ok(agent.metrics()?.sum(DEATHS, &[]))
}

/// Returns a hub and an agent that serves version 2 of digits, with version 1 as the previous one.
fn serving_v2(site: &Site) -> Result<Fleet> {
    let mut hub = site.hub()?;
    hub.start()?;
    serving_v2_of(site, hub)
}

fn serving_v2_of(site: &Site, hub: Hub) -> Result<Fleet> {
    let mut agent = site.agent("kitchen")?;
    for version in [1, 2] {
        let base = if version == 1 { "v1" } else { "v2" };
        hub.push(ModelFolder::copy(site, base, version)?.path(), &[])?.ok()?;
        if version == 1 {
            agent.enrol(&hub)?;
            agent.start()?;
        }
        agent.wait_version("digits", version)?;
    }
    Ok(Fleet { hub, agent, digits: std::sync::Arc::new(Digits::load()?) })
}

/// Returns the entry of a rejected version in `edge-agent status`.
fn given_up(agent: &Agent, version: u64) -> Result<Option<Value>> {
    let status = agent.status()?;
    let models = status["models"].as_array().cloned().unwrap_or_default();
    let failed = models.into_iter().flat_map(|model| model["failed"].as_array().cloned().unwrap_or_default());
    Ok(failed.into_iter().find(|entry| entry["version"] == version))
}

#[test]
fn a_serving_version_that_an_upgrade_of_the_runtime_makes_fatal_gives_way_to_the_one_before_it() {
    story(|site| {
        let mut fleet = serving_v2(site)?;
        fleet.agent.stop()?;
        let runtime = fatal_runtime(site, 2, "abort()")?;
        fleet.agent.env(ONNXRUNTIME_ENV, path_of(&runtime)?);
        fleet.agent.start()?;
        fleet.agent.wait_version("digits", 1)?;
        fleet.expect_local(1)?;
        ensure!(deaths(&fleet.agent)? == 2.0, "{} attempts", deaths(&fleet.agent)?);
        let told = given_up(&fleet.agent, 2)?.context("status names the version that is given up")?;
        ensure!(told.to_string().contains("SIGABRT"), "{told}");
        let report = fleet.hub.refusal("kitchen", "digits", 2)?;
        ensure!(report.to_string().contains("SIGABRT"), "{report}");
        let doctor = fleet.agent.run(["doctor"])?;
        ensure!(doctor.stdout.contains("SIGABRT"), "doctor does not tell of it: {doctor:?}");
        // Neither a regular stop nor a crash makes it retry.
        for is_killed in [false, true] {
            if is_killed {
                fleet.agent.kill()?
            } else {
                fleet.agent.stop().map(drop)?
            }
            fleet.agent.start()?;
            fleet.agent.wait_version("digits", 1)?;
            fleet.agent.wait_hub(true)?;
            fleet.expect_local(1)?;
            ensure!(deaths(&fleet.agent)? == 0.0, "it was tried again after a restart");
            ensure!(given_up(&fleet.agent, 2)?.is_some(), "it is forgotten");
        }
        // Once the runtime is repaired, one command brings the version back.
        fleet.agent.stop()?;
        fleet.agent.env(ONNXRUNTIME_ENV, path_of(&site.binaries().onnxruntime)?);
        fleet.agent.start()?;
        fleet.agent.wait_hub(true)?;
        fleet.hub.offer("digits", 2)?.ok()?;
        fleet.agent.wait_version("digits", 2)
    });
}

#[test]
fn a_fatal_version_with_none_before_it_leaves_its_model_to_the_hub() {
    story(|site| {
        let mut hub = site.hub()?;
        hub.start()?;
        hub.push(ModelFolder::copy(site, "v1", 1)?.path(), &[])?.ok()?;
        let mut agent = site.enrolled_agent(&hub, "kitchen")?;
        agent.wait_version("digits", 1)?;
        agent.stop()?;
        let runtime = fatal_runtime(site, 1, "*(volatile int *)8 = 1")?;
        agent.env(ONNXRUNTIME_ENV, path_of(&runtime)?);
        let mut fleet = Fleet { hub, agent, digits: std::sync::Arc::new(Digits::load()?) };
        for attempts in [2.0, 0.0] {
            fleet.agent.start()?;
            fleet.agent.wait_hub(true)?;
            let answer = fleet.infer(0, "prefer-device")?.ok()?;
            ensure!(answer.parameter("place") == "hub", "{answer:?}");
            let refused = fleet.infer(0, "only-device")?;
            ensure!(refused.status == 503, "{refused:?}");
            ensure!(deaths(&fleet.agent)? == attempts, "{} attempts", deaths(&fleet.agent)?);
            ensure!(given_up(&fleet.agent, 1)?.is_some_and(|told| told.to_string().contains("SIGSEGV")), "not told");
            fleet.agent.stop()?;
        }
        Ok(())
    });
}

#[test]
fn without_isolation_a_serving_version_that_ends_the_agent_gives_way_at_the_third_start() {
    story(|site| {
        let mut fleet = serving_v2(site)?;
        fleet.agent.stop()?;
        fleet.agent.config().set("engine.isolation", "none")?;
        let runtime = fatal_runtime(site, 2, "_exit(7)")?;
        fleet.agent.env(ONNXRUNTIME_ENV, path_of(&runtime)?);
        for _attempt in 0..2 {
            fleet.agent.launch()?;
            let status = fleet.agent.daemon()?.wait_ended(wait::PATIENCE)?;
            ensure!(status.code() == Some(7), "{status}");
        }
        for _restart in 0..2 {
            fleet.agent.start()?;
            fleet.agent.wait_version("digits", 1)?;
            fleet.expect_local(1)?;
            fleet.agent.wait_hub(true)?;
            ensure!(given_up(&fleet.agent, 2)?.is_some(), "it is forgotten");
            fleet.agent.stop()?;
        }
        Ok(())
    });
}

/// Checks that the hub serves version 1, reports that version 2 does not load, and keeps running.
fn expect_hub_without_v2(fleet: &mut Fleet, said: &str) -> Result<()> {
    fleet.agent.wait_hub(true)?;
    let answer = fleet.infer(0, "only-hub")?.ok()?;
    ensure!(answer.version() == 1, "{answer:?}");
    let status: Value = fleet.hub.json(&["status"])?;
    ensure!(status["loaded"] == serde_json::json!(["digits/1"]), "{status}");
    let warnings = status["warnings"].to_string();
    ensure!(warnings.contains("digits/2") && warnings.contains(said), "status does not tell: {warnings}");
    let doctor =
        fleet.hub.run(["doctor", "--config"].map(Path::new).into_iter().chain([fleet_config(&fleet.hub).as_path()]))?;
    ensure!(doctor.stdout.contains("digits/2") && doctor.stdout.contains(said), "doctor does not tell: {doctor:?}");
    let log = fleet.hub.daemon()?.log()?;
    ensure!(log.contains("digits/2") && log.contains(said), "the log does not tell");
    Ok(())
}

fn fleet_config(hub: &Hub) -> PathBuf {
    hub.folder().join("hub.toml")
}

#[test]
fn a_hub_starts_without_a_version_that_ends_its_engine_host_and_answers_with_the_one_before_it() {
    story(|site| {
        let mut fleet = serving_v2(site)?;
        fleet.hub.stop()?;
        let runtime = fatal_runtime(site, 2, "abort()")?;
        fleet.hub.env(ONNXRUNTIME_ENV, path_of(&runtime)?);
        for _restart in 0..2 {
            fleet.hub.start()?;
            expect_hub_without_v2(&mut fleet, "SIGABRT")?;
            ensure!(fleet.agent.active_version("digits")? == Some(2), "the device moved");
            fleet.hub.stop()?;
        }
        fleet.hub.env(ONNXRUNTIME_ENV, path_of(&site.binaries().onnxruntime)?);
        fleet.hub.start()?;
        fleet.agent.wait_hub(true)?;
        ensure!(fleet.infer(0, "only-hub")?.ok()?.version() == 2, "the mended hub");
        Ok(())
    });
}

#[test]
fn without_isolation_a_hub_leaves_a_version_out_that_ended_it_twice() {
    story(|site| {
        let mut hub = site.hub()?;
        hub.config().set("inference.isolation", "none")?;
        hub.start()?;
        let mut fleet = serving_v2_of(site, hub)?;
        fleet.hub.stop()?;
        let runtime = fatal_runtime(site, 2, "_exit(7)")?;
        fleet.hub.env(ONNXRUNTIME_ENV, path_of(&runtime)?);
        for _attempt in 0..2 {
            let status = fleet.hub.spawn()?.wait_ended(Duration::from_secs(120))?;
            ensure!(status.code() == Some(7), "{status}");
        }
        for _restart in 0..2 {
            fleet.hub.start()?;
            expect_hub_without_v2(&mut fleet, "the hub ended")?;
            fleet.hub.stop()?;
        }
        Ok(())
    });
}
