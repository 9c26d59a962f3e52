//! Tests of a GPU engine in a child process that is killed or hangs: its models return to it, and no other engine waits
//! for it.
//!
//! Runs on any adapter that `edge-agent doctor` finds, including a software one (Debian: mesa-vulkan-drivers), and
//! prints `skipped:` without one.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use testkit::binaries::workspace;
use testkit::digits::catalog;
use testkit::load::{Load, Summary};
use testkit::{Agent, Digits, Hub, InferOptions, Input, Reply, Site, skip, story, wait};

/// Number of times that the process is killed under load.
const KILLS: usize = 3;

/// Writes a folder of the model `relu`, `y = max(x, 0)`, under a given name, for wgpu and ONNX Runtime.
fn folder(site: &Site, model: &str) -> Result<PathBuf> {
    let path = site.folder().join(model);
    fs::create_dir_all(&path)?;
    fs::copy(workspace().join("tests/system/fixtures/isolation/harmless.onnx"), path.join("m.onnx"))?;
    let tensor = |kind: &str, name: &str| format!("[[{kind}]]\nname = {name:?}\ndatatype = \"FP32\"\nshape = [1, 4]\n");
    let variant = |place: &str, engines: &str| {
        format!(
            "[[variant]]\nname = \"{place}\"\nruns_on = \"{place}\"\nengines = [{engines}]\nprecision = \"fp32\"\nfile = \"m.onnx\"\n"
        )
    };
    let text = format!(
        "schema = 1\nmodel = \"{model}\"\nversion = 1\ntask = \"test\"\ndescription = \"A test.\"\nlicence = \"MIT\"\n{}{}{}{}",
        tensor("input", "x"),
        tensor("output", "y"),
        variant("device", "\"wgpu\", \"ort\""),
        variant("hub", "\"ort\"")
    );
    fs::write(path.join("model.toml"), text)?;
    Ok(path)
}

/// Returns a hub with digits and two small models, and an agent that runs all but `on-ort` on its GPU; `None` without a
/// GPU.
fn fleet(site: &Site, run_limit: &str) -> Result<Option<(Hub, Agent)>> {
    let mut agent = site.agent("kitchen")?;
    agent.config().set("engine.engines", vec!["wgpu", "ort"])?;
    agent.config().set("engine.wgpu.allow_software", true)?;
    agent.config().set("engine.run_limit", run_limit)?;
    agent.config().set("models.digits.variant", "fp32")?;
    agent.config().set("models.second.policy", "only-device")?;
    agent.config().set("models.on-ort.policy", "only-device")?;
    agent.config().set("models.on-ort.engine", "ort")?;
    let checks: Value = serde_json::from_str(&agent.run(["doctor", "--json"])?.stdout)?;
    let gpu = checks.as_array().into_iter().flatten().find(|check| check["check"] == "wgpu");
    let gpu = gpu.context("doctor looks for a GPU")?;
    if gpu["result"] != "ok" {
        skip(&format!("no GPU adapter here: {}", gpu["found"]));
        return Ok(None);
    }
    let mut hub = site.hub()?;
    hub.start()?;
    hub.push(&catalog().join("v1"), &[])?.ok()?;
    for model in ["second", "on-ort"] {
        hub.push(&folder(site, model)?, &[])?.ok()?;
    }
    agent.enrol(&hub)?;
    agent.start()?;
    for model in ["digits", "second", "on-ort"] {
        agent.wait_version(model, 1)?;
    }
    // Once proven, the models of an engine share one process.
    wait::until_true("two models share the process of the GPU", || {
        let of = ["digits", "second"].map(|model| host(&agent, model));
        Ok(matches!(of, [Ok(Some(one)), Ok(Some(other))] if one == other))
    })?;
    Ok(Some((hub, agent)))
}

/// Returns the process of a model on the GPU. A model whose process ended, even by a signal from outside, gets its own.
fn host(agent: &Agent, model: &str) -> Result<Option<u32>> {
    let (engine, session) = (agent.status()?["engines"][0].clone(), format!("{model}/1"));
    ensure!(engine["engine"] == "wgpu", "{engine}");
    let hosts = engine["hosts"].as_array().cloned().unwrap_or_default();
    let has = |host: &&Value| host["sessions"].as_array().is_some_and(|all| all.iter().any(|one| *one == session));
    Ok(hosts.iter().find(has).and_then(|host| host["pid"].as_u64()).and_then(|pid| u32::try_from(pid).ok()))
}

fn send(pid: u32, signal: Signal) -> Result<()> {
    let pid = Pid::from_raw(i32::try_from(pid)?).context("a process number")?;
    Ok(kill_process(pid, signal)?)
}

fn relu(agent: &Agent, model: &str) -> Result<Reply> {
    agent.client()?.infer(
        model,
        &[Input::fp32("x", &[1, 4], &[-1.0, 0.0, 1.0, 2.0])],
        &InferOptions::policy("only-device"),
    )
}

fn expect(agent: &Agent, model: &str, engine: &str) -> Result<()> {
    let reply = relu(agent, model)?.ok().with_context(|| format!("{model} on {engine}"))?;
    ensure!(reply.output == [0.0, 0.0, 1.0, 2.0] && reply.parameter("engine") == engine, "{model}: {}", reply.json);
    Ok(())
}

#[test]
fn a_gpu_process_that_is_killed_under_load_costs_no_request() {
    story(|site| {
        let Some((_hub, agent)) = fleet(site, "30s")? else { return Ok(()) };
        let digits = Arc::new(Digits::load()?);
        let load =
            Load::start(&agent.client()?, &digits, &InferOptions::policy("only-device"), 2, Duration::from_millis(2));
        for _kill in 0..KILLS {
            let before = load.sent();
            wait::until_true("the load runs", || Ok(load.sent() > before + 20))?;
            let killed = wait::until("the process runs", || host(&agent, "digits"))?;
            send(killed, Signal::KILL)?;
            expect(&agent, "on-ort", "ort")?;
            expect(&agent, "second", "wgpu")?;
            wait::until_true("another process runs", || Ok(host(&agent, "digits")?.is_some_and(|pid| pid != killed)))?;
        }
        let after = load.sent();
        wait::until_true("the load goes on", || Ok(load.sent() > after + 50))?;
        let summary = Summary::of(&load.finish()?);
        ensure!(summary.failed == 0, "{} failed: {:?}", summary.failed, summary.first_failure);
        let status = agent.status()?;
        ensure!(status["models"][0]["engine"] == "wgpu", "the model left the GPU: {status}");
        Ok(())
    });
}

#[test]
fn a_gpu_process_that_hangs_is_replaced_and_no_other_engine_waits_for_it() {
    story(|site| {
        let Some((_hub, agent)) = fleet(site, "2s")? else { return Ok(()) };
        let digits = Arc::new(Digits::load()?);
        let ask = || agent.client()?.infer("digits", &[digits.input(0)], &InferOptions::policy("only-device"));
        let frozen = wait::until("the process runs", || host(&agent, "digits"))?;
        send(frozen, Signal::STOP)?;
        let refused = ask()?;
        ensure!(matches!(refused.status, 500..=599), "{refused:?}");
        for _time in 0..5 {
            expect(&agent, "on-ort", "ort")?;
        }
        // Killed after the longest run and its grace; both models return to the GPU.
        wait::until_true("digits is answered", || Ok(ask()?.status == 200))?;
        wait::until_true("another process runs", || Ok(host(&agent, "digits")?.is_some_and(|pid| pid != frozen)))?;
        expect(&agent, "second", "wgpu")?;
        ensure!(ask()?.ok()?.parameter("engine") == "wgpu", "the model left the GPU");
        let died =
            agent.metrics()?.sum("sanderling_engine_host_deaths_total", &[("engine", "wgpu"), ("cause", "silent")]);
        ensure!((died - 1.0).abs() < f64::EPSILON, "{died} processes were killed for their silence");
        Ok(())
    });
}
