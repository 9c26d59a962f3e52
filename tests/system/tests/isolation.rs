//! Tests of native code that crashes, exhausts memory or never returns: it costs a request or a version, but no daemon.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use testkit::author::fixture;
use testkit::{Agent, Hub, InferOptions, Input, Reply, Site, story, wait};

/// Input with the smallest 64-bit integer, whose quotient by -1 overflows.
const POISON: [f32; 4] = [-9.3e18, 1.0, 2.0, 3.0];
const FINE: [f32; 4] = [4.0, 3.0, 2.0, 1.0];

fn ask(agent: &Agent, model: &str, policy: &str, values: &[f32; 4]) -> Result<Reply> {
    agent.client()?.infer(model, &[Input::fp32("x", &[1, 4], values)], &InferOptions::policy(policy))
}

fn expect(agent: &Agent, model: &str, policy: &str, values: &[f32; 4]) -> Result<Reply> {
    ask(agent, model, policy, values)?.ok().with_context(|| format!("{model} by {policy}"))
}

/// Returns a hub that serves `models` of one device and one full file each, and an agent that follows them.
fn fleet(site: &Site, models: &[(&str, &str, &str)]) -> Result<(Hub, Agent)> {
    let mut hub = site.hub()?;
    hub.start()?;
    for (model, device, full) in models {
        hub.push(&fixture(site, model, 1, device, full)?, &[])?.ok()?;
    }
    let mut agent = site.agent("kitchen")?;
    for (model, _, _) in models {
        agent.config().set(&format!("models.{model}.policy"), "prefer-device")?;
    }
    agent.enrol(&hub)?;
    agent.start()?;
    for (model, _, _) in models {
        agent.wait_version(model, 1)?;
    }
    Ok((hub, agent))
}

/// Returns the child processes with engines of a daemon.
fn children(daemon: u32) -> Result<Vec<u32>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let status = fs::read_to_string(entry.path().join("status")).unwrap_or_default();
        let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")).map(str::trim);
        if parent == Some(daemon.to_string().as_str()) && command_of(pid).contains("engine-host") {
            found.push(pid);
        }
    }
    Ok(found)
}

fn command_of(pid: u32) -> String {
    let bytes = fs::read(Path::new("/proc").join(pid.to_string()).join("cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Whether a process runs; a zombie does not.
fn is_running(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    !status.is_empty() && !status.contains("State:\tZ")
}

fn signal(pid: u32, signal: rustix::process::Signal) -> Result<()> {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid)?).context("a process number")?;
    Ok(rustix::process::kill_process(pid, signal)?)
}

#[test]
fn a_request_that_kills_native_code_is_an_error_of_its_own_and_nothing_else_fails() {
    story(|site| {
        let (mut hub, mut agent) = fleet(site, &[("divide", "divide", "divide"), ("good", "harmless", "harmless")])?;
        let daemons = (hub.daemon()?.id(), agent.daemon()?.id());
        for policy in ["only-device", "only-hub"] {
            for _time in 0..2 {
                let refused = ask(&agent, "divide", policy, &POISON)?;
                ensure!(matches!(refused.status, 500..=599), "{policy}: {refused:?}");
                expect(&agent, "good", policy, &FINE)?;
                let answer = expect(&agent, "divide", policy, &FINE)?;
                ensure!(answer.output == [-4.0, -3.0, -2.0, -1.0], "{answer:?}");
            }
        }
        let died = |readings: testkit::metrics::Readings| readings.sum("sanderling_engine_host_deaths_total", &[]);
        // A death is counted when its host has been waited for, which may be after the response.
        let before = (2.0, 2.0);
        wait::until_true("two deaths are counted on each side", || {
            Ok((died(agent.metrics()?), died(hub.metrics()?)) == before)
        })?;
        // The third time it is not run at all.
        for policy in ["only-device", "only-hub"] {
            let refused = ask(&agent, "divide", policy, &POISON)?;
            ensure!(matches!(refused.status, 500..=599), "{policy}: {refused:?}");
        }
        ensure!((died(agent.metrics()?), died(hub.metrics()?)) == before, "it was run again");
        ensure!(agent.metrics()?.sum("sanderling_requests_quarantined_total", &[("model", "divide")]) >= 1.0, "agent");
        ensure!(hub.metrics()?.sum("sanderling_requests_quarantined_total", &[("model", "divide")]) >= 1.0, "hub");
        expect(&agent, "divide", "only-device", &FINE)?;
        ensure!((hub.daemon()?.id(), agent.daemon()?.id()) == daemons && hub.daemon()?.ended()?.is_none(), "restarted");
        Ok(())
    });
}

#[test]
fn a_version_that_kills_the_engine_is_refused_at_push() {
    story(|site| {
        let mut hub = site.hub()?;
        hub.start()?;
        for (device, full) in [("divide-always", "harmless"), ("harmless", "divide-always")] {
            let refused = hub.push(&fixture(site, "always", 1, device, full)?, &[])?;
            ensure!(refused.code != Some(0) && refused.stderr.contains("SIGFPE"), "{refused:?}");
        }
        ensure!(hub.daemon()?.ended()?.is_none(), "the hub ended");
        // While it is held, it can be inspected.
        let held = hub.push(&fixture(site, "always", 1, "divide-always", "harmless")?, &["--hold"])?.ok()?;
        ensure!(held.stdout.contains("SIGFPE") || held.stderr.contains("SIGFPE"), "{held:?}");
        Ok(())
    });
}

#[test]
fn a_version_that_kills_the_engine_is_rejected_by_the_device_also_over_restarts() {
    story(|site| {
        let (hub, mut agent) = fleet(site, &[("always", "harmless", "harmless")])?;
        hub.push(&fixture(site, "always", 2, "divide-always", "harmless")?, &["--hold"])?.ok()?;
        hub.offer("always", 2)?.ok()?;
        let refused = wait::until("the hub hears of the refusal", || {
            let device = hub.device("kitchen")?;
            let told = device.to_string();
            Ok((told.contains("engine_crashed") || told.contains("SIGFPE")).then_some(told))
        })?;
        ensure!(refused.contains("SIGFPE"), "{refused}");
        let answer = expect(&agent, "always", "only-device", &FINE)?;
        ensure!(answer.version() == 1 && answer.output == FINE, "{answer:?}");
        let deaths = agent.metrics()?.sum("sanderling_engine_host_deaths_total", &[]);
        ensure!(deaths <= 2.0, "{deaths} attempts");
        for _restart in 0..2 {
            agent.stop()?;
            agent.start()?;
            agent.wait_version("always", 1)?;
            agent.wait_hub(true)?;
            expect(&agent, "always", "only-device", &FINE)?;
            ensure!(agent.metrics()?.sum("sanderling_engine_host_deaths_total", &[]) == 0.0, "it was tried again");
        }
        Ok(())
    });
}

#[test]
fn without_isolation_a_version_that_ends_the_agent_is_given_up_at_its_third_start() {
    story(|site| {
        let mut hub = site.hub()?;
        hub.config().set("inference.isolation", "none")?;
        hub.start()?;
        hub.push(&fixture(site, "always", 1, "harmless", "harmless")?, &[])?.ok()?;
        let mut agent = site.agent("kitchen")?;
        agent.config().set("models.always.policy", "only-device")?;
        agent.config().set("engine.isolation", "none")?;
        agent.enrol(&hub)?;
        agent.start()?;
        agent.wait_version("always", 1)?;
        hub.push(&fixture(site, "always", 2, "divide-always", "harmless")?, &[])?.ok()?;
        for _attempt in 0..2 {
            agent.daemon()?.wait_ended(std::time::Duration::from_secs(120))?;
            agent.launch()?;
        }
        wait::until("the hub hears of the refusal", || {
            let told = hub.device("kitchen")?.to_string();
            Ok(told.contains("engine_crashed").then_some(()))
        })?;
        agent.kill()?;
        agent.start()?;
        agent.wait_version("always", 1)?;
        expect(&agent, "always", "only-device", &FINE).map(drop)
    });
}

#[test]
fn memory_that_a_model_takes_is_limited_and_not_the_daemons() {
    story(|site| {
        let mut hub = site.hub()?;
        hub.config().set("inference.memory_max_bytes", 512 * 1024 * 1024)?;
        hub.start()?;
        // Both results are right: refused at the push, or stopped at the limit of the run.
        let pushed = hub.push(&fixture(site, "memory", 1, "memory", "memory")?, &[])?;
        ensure!(hub.daemon()?.ended()?.is_none(), "the hub ended: {pushed:?}");
        hub.push(&fixture(site, "request", 1, "memory-on-request", "memory-on-request")?, &[])?.ok()?;
        let mut agent = site.agent("kitchen")?;
        agent.config().set("models.request.policy", "only-device")?;
        agent.config().set("engine.memory_max_bytes", 512 * 1024 * 1024)?;
        agent.enrol(&hub)?;
        agent.start()?;
        agent.wait_version("request", 1)?;
        for policy in ["only-device", "only-hub"] {
            let small = expect(&agent, "request", policy, &[1.0, 0.0, 0.0, 0.0])?;
            ensure!(small.output == [1.0, 0.0, 0.0, 0.0], "{small:?}");
            let refused = ask(&agent, "request", policy, &[2048.0, 0.0, 0.0, 0.0])?;
            ensure!(matches!(refused.status, 500..=599), "{policy}: {refused:?}");
            expect(&agent, "request", policy, &[1.0, 0.0, 0.0, 0.0])?;
        }
        for (name, bytes) in [("agent", agent.daemon()?.resident_bytes()?), ("hub", hub.daemon()?.resident_bytes()?)] {
            ensure!(bytes < 400 * 1024 * 1024, "the {name} has {bytes} bytes");
        }
        Ok(())
    });
}

#[test]
fn a_child_process_that_is_killed_is_started_again_and_ends_with_its_daemon() {
    story(|site| {
        let (mut hub, mut agent) = fleet(site, &[("good", "harmless", "harmless")])?;
        for (daemon, policy) in [(agent.daemon()?.id(), "only-device"), (hub.daemon()?.id(), "only-hub")] {
            for _time in 0..2 {
                let child = *children(daemon)?.first().context("a child process")?;
                signal(child, rustix::process::Signal::KILL)?;
                expect(&agent, "good", policy, &FINE)?;
            }
        }
        let orphans = [children(agent.daemon()?.id())?, children(hub.daemon()?.id())?].concat();
        ensure!(!orphans.is_empty(), "no child processes");
        // Only the kernel can end one that does not run.
        signal(orphans[0], rustix::process::Signal::STOP)?;
        agent.kill()?;
        hub.kill()?;
        wait::until_true("no child is left", || Ok(!orphans.iter().any(|pid| is_running(*pid))))
    });
}

#[test]
fn status_and_doctor_tell_where_engines_run() {
    story(|site| {
        let (hub, agent) = fleet(site, &[("good", "harmless", "harmless")])?;
        // Its trial host ends once the model has moved to the host that proven versions share.
        wait::until_true("one child process with the model", || {
            let hosts = agent.status()?["engines"][0]["hosts"].as_array().cloned().unwrap_or_default();
            Ok(hosts.len() == 1 && hosts[0]["sessions"] == serde_json::json!(["good/1"]))
        })?;
        let told: Value = hub.json(&["status"])?;
        ensure!(told["isolation"] == "process" && told["hosts"][0]["shared"] == true, "{told}");
        let doctor = agent.run(["doctor"])?;
        ensure!(doctor.stdout.contains("in a child process"), "{doctor:?}");
        Ok(())
    });
}

/// Number of crashes after which a model is disabled (`engine::host::MODEL_DEATHS_MAX`).
const MODEL_DEATHS_MAX: u8 = 8;

/// Sends requests that crash the engine host, each one different so that none is quarantined, until the model is
/// disabled.
fn condemn(agent: &Agent, model: &str, policy: &str) -> Result<()> {
    for number in 0..MODEL_DEATHS_MAX {
        let refused = ask(agent, model, policy, &[POISON[0], f32::from(number), 0.0, 0.0])?;
        ensure!(matches!(refused.status, 500..=599), "request {number} of {policy}: {refused:?}");
    }
    Ok(())
}

#[test]
fn a_model_that_is_not_run_any_more_on_the_device_leaves_its_requests_to_the_hub() {
    story(|site| {
        let (hub, mut agent) = fleet(site, &[("divide", "divide", "harmless"), ("good", "harmless", "harmless")])?;
        condemn(&agent, "divide", "only-device")?;
        wait::until_true("the device gives the model up", || {
            Ok(ask(&agent, "divide", "only-device", &FINE)?.status == 503)
        })?;
        let refused = ask(&agent, "divide", "only-device", &FINE)?;
        let told = refused.json.to_string();
        ensure!(told.contains("SIGFPE") && told.contains("prefer-device"), "no reason, no advice: {told}");
        for _time in 0..3 {
            let answer = expect(&agent, "divide", "prefer-device", &FINE)?;
            ensure!(answer.parameter("place") == "hub" && answer.output == FINE, "{answer:?}");
            expect(&agent, "good", "only-device", &FINE)?;
        }
        let doctor = agent.run(["doctor"])?;
        ensure!(doctor.stdout.contains("SIGFPE"), "doctor does not tell: {doctor:?}");
        let told = wait::until("the hub hears of it", || {
            let told = hub.device("kitchen")?.to_string();
            Ok(told.contains("SIGFPE").then_some(told))
        })?;
        ensure!(told.contains("engine_crashed"), "{told}");
        // The record of runs is not kept over a restart: the device retries.
        agent.stop()?;
        agent.start()?;
        agent.wait_version("divide", 1)?;
        expect(&agent, "divide", "only-device", &FINE).map(drop)
    });
}

#[test]
fn the_version_before_one_that_is_not_run_any_more_answers_on_device_and_hub() {
    story(|site| {
        let (hub, mut agent) = fleet(site, &[("divide", "harmless", "harmless")])?;
        // On probation it would be left for good; here it has proven itself before it crashes.
        agent.config().set("updates.probation", "0s")?;
        agent.stop()?;
        agent.start()?;
        hub.push(&fixture(site, "divide", 2, "divide", "divide")?, &[])?.ok()?;
        agent.wait_version("divide", 2)?;
        for policy in ["only-device", "only-hub"] {
            let answer = expect(&agent, "divide", policy, &FINE)?;
            ensure!(answer.version() == 2, "{policy}: {answer:?}");
            condemn(&agent, "divide", policy)?;
            wait::until_true("version 1 answers", || {
                let answer = ask(&agent, "divide", policy, &FINE)?;
                Ok(answer.status == 200 && answer.version() == 1)
            })?;
            // The crashes of version 2 do not affect version 1.
            let answer = expect(&agent, "divide", policy, &POISON)?;
            ensure!(answer.output == [0.0, 1.0, 2.0, 3.0], "{policy}: {answer:?}");
        }
        let doctor = agent.run(["doctor"])?;
        ensure!(doctor.stdout.contains("an older version of divide serves"), "doctor does not tell: {doctor:?}");
        let told: Value = hub.json(&["status"])?;
        ensure!(told["warnings"].to_string().contains("divide/2 is not run any more"), "{told}");
        Ok(())
    });
}

fn model(agent: &Agent, name: &str) -> Result<Value> {
    let status = agent.status()?;
    let models = status["models"].as_array().context("models")?;
    models.iter().find(|entry| entry["model"] == name).cloned().context("the model is not followed")
}

#[test]
fn a_version_that_kills_its_engine_on_probation_is_left_for_the_one_before_also_without_the_hub() {
    story(|site| {
        let (mut hub, agent) = fleet(site, &[("divide", "harmless", "harmless")])?;
        hub.push(&fixture(site, "divide", 2, "divide", "harmless")?, &[])?.ok()?;
        agent.wait_version("divide", 2)?;
        hub.kill()?;
        let mut number = 0.0;
        wait::until_true("version 1 serves again", || {
            // An input that has killed the engine once is not run again, so each one is new.
            number += 1.0;
            ask(&agent, "divide", "only-device", &[POISON[0], number, 0.0, 0.0])?;
            Ok(agent.active_version("divide")? == Some(1))
        })?;
        expect(&agent, "divide", "only-device", &POISON)?;
        let model = model(&agent, "divide")?;
        ensure!(model["failed"][0]["version"] == 2 && model["failed"][0]["kind"] == "engine_crashed", "{model}");
        hub.start()?;
        agent.wait_hub(true)?;
        wait::until_true("the hub hears of the return", || {
            let device = hub.device("kitchen")?;
            let models = device["models"].as_array().context("models")?;
            Ok(models.iter().any(|entry| entry["model"] == "divide" && entry["active"]["version"] == 1))
        })?;
        ensure!(agent.active_version("divide")? == Some(1), "the greeting brought version 2 back");
        Ok(())
    });
}

#[test]
fn a_version_under_which_the_agent_ends_three_times_is_left_at_the_third_start() {
    story(|site| {
        let (hub, mut agent) = fleet(site, &[("divide", "harmless", "harmless")])?;
        hub.push(&fixture(site, "divide", 2, "harmless", "harmless")?, &[])?.ok()?;
        agent.wait_version("divide", 2)?;
        for end in 1..=3 {
            wait::until_true(
                "version 2 is on probation",
                || Ok(model(&agent, "divide")?["probation"]["version"] == 2),
            )?;
            agent.kill()?;
            agent.start()?;
            ensure!(agent.active_version("divide")? == Some(if end < 3 { 2 } else { 1 }), "after {end} ends");
        }
        let failed = model(&agent, "divide")?["failed"][0].clone();
        ensure!(failed["detail"].to_string().contains("the agent ended 3 times"), "{failed}");
        Ok(())
    });
}
