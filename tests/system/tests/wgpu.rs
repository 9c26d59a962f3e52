//! Tests of models on a GPU: outputs equal to those of ONNX Runtime, updates, and no request lost with the GPU.
//!
//! Runs on any adapter that `edge-agent doctor` finds, including a software one (Debian: mesa-vulkan-drivers), and
//! prints `skipped:` without one. A variable that only debug builds read simulates the loss of a GPU.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use testkit::author::ModelFolder;
use testkit::binaries::ONNXRUNTIME_ENV;
use testkit::digits::{catalog, top1};
use testkit::load::{Load, Summary};
use testkit::{Agent, Digits, Hub, InferOptions, Site, skip, story, wait};

/// Number of digits that both engines process.
const COUNT: usize = 200;

/// Forms of digits that name wgpu in their manifest.
const FORMS: [&str; 2] = ["fp32", "int8-qdq"];

/// Number of runs until the GPU is lost: those of the golden inputs, and some of the load.
const RUNS: &str = "60";

#[test]
fn a_gpu_gives_the_answers_of_onnx_runtime_and_does_without_it() {
    story(|site| {
        let Some(hub) = hub_for_gpus(site)? else { return Ok(()) };
        let digits = Digits::load()?;
        for form in FORMS {
            if !runs_on_wgpu(&site.agent("asking")?, "v1", form)? {
                continue;
            }
            let mut ort = site.agent(&format!("ort-{form}"))?;
            ort.config().set("models.digits.variant", form)?;
            let mut gpu = gpu_agent(site, &format!("gpu-{form}"), form, &["wgpu"])?;
            // No model on the GPU needs the library.
            gpu.env(ONNXRUNTIME_ENV, "/nowhere/libonnxruntime.so");
            for agent in [&mut ort, &mut gpu] {
                agent.enrol(&hub)?;
                agent.start()?;
                agent.wait_version("digits", 1)?;
            }
            let adapter = gpu.status()?["engines"][0]["description"]["providers"][0].to_string();
            let mut same = 0;
            for index in 0..COUNT {
                let ask = |agent: &Agent| {
                    agent.client()?.infer("digits", &[digits.input(index)], &InferOptions::policy("only-device"))?.ok()
                };
                let (theirs, ours) = (ask(&ort)?, ask(&gpu)?);
                ensure!(theirs.parameter("engine") == "ort" && ours.parameter("engine") == "wgpu", "{}", ours.json);
                ensure!(adapter.contains(&ours.parameter("provider")), "{adapter} against {}", ours.json);
                same += usize::from(top1(&theirs.output) == top1(&ours.output));
            }
            ensure!(same * 100 >= COUNT * 99, "{form}: only {same} of {COUNT} digits have the same top class");
            for mut agent in [ort, gpu] {
                agent.stop()?;
            }
        }
        Ok(())
    });
}

#[test]
fn a_pushed_update_is_taken_on_the_gpu_and_compiled_kernels_outlive_a_restart() {
    story(|site| {
        let Some(hub) = hub_for_gpus(site)? else { return Ok(()) };
        let digits = std::sync::Arc::new(Digits::load()?);
        let mut agent = gpu_agent(site, "kitchen", "fp32", &["wgpu", "ort"])?;
        agent.enrol(&hub)?;
        agent.start()?;
        agent.wait_version("digits", 1)?;
        let load =
            Load::start(&agent.client()?, &digits, &InferOptions::policy("only-device"), 2, Duration::from_millis(5));
        wait::until_true("the load runs", || Ok(load.sent() > 20))?;
        hub.push(&catalog().join("v2"), &[])?.ok()?;
        agent.wait_version("digits", 2)?;
        let after = load.sent();
        wait::until_true("the load goes on", || Ok(load.sent() > after + 20))?;
        let summary = Summary::of(&load.finish()?);
        ensure!(summary.failed == 0, "{} failed: {:?}", summary.failed, summary.first_failure);
        expect_engine(&agent, "wgpu")?;
        let kept = testkit::agent::files_below(&agent.state_dir().join("pipelines"))?;
        ensure!(kept.len() == 1, "kept kernels are {kept:?}");
        agent.stop()?;
        agent.start()?;
        agent.wait_version("digits", 2)?;
        expect_engine(&agent, "wgpu")?;
        let again = testkit::agent::files_below(&agent.state_dir().join("pipelines"))?;
        ensure!(again == kept, "kept kernels are {again:?}");
        Ok(())
    });
}

#[test]
fn a_lost_gpu_costs_no_request_and_onnx_runtime_takes_over() {
    story(|site| {
        let Some(hub) = hub_for_gpus(site)? else { return Ok(()) };
        let digits = std::sync::Arc::new(Digits::load()?);
        for (policy, version) in [("prefer-device", 1), ("cascade", 2)] {
            let mut agent = gpu_agent(site, policy, "fp32", &["wgpu", "ort"])?;
            agent.env("SANDERLING_GPU_LOST_AFTER", RUNS);
            // It stays lost for the length of this test.
            agent.env(REOPEN_MS, "3600000");
            agent.enrol(&hub)?;
            agent.start()?;
            agent.wait_version("digits", version)?;
            agent.wait_hub(true)?;
            expect_engine(&agent, "wgpu")?;
            let load = Load::start(&agent.client()?, &digits, &InferOptions::policy(policy), 3, Duration::ZERO);
            wait::until_true("ONNX Runtime serves", || Ok(agent.status()?["models"][0]["engine"] == "ort"))?;
            let after = load.sent();
            wait::until_true("the load goes on", || Ok(load.sent() > after + 100))?;
            let summary = Summary::of(&load.finish()?);
            ensure!(summary.failed == 0, "{policy}: {} failed: {:?}", summary.failed, summary.first_failure);
            expect_engine(&agent, "ort")?;
            expect_told(&agent, &hub, policy)?;
            // Later models are not loaded on a lost GPU.
            hub.push(ModelFolder::copy(site, "v2", version + 1)?.path(), &[])?.ok()?;
            agent.wait_version("digits", version + 1)?;
            expect_engine(&agent, "ort")?;
            agent.stop()?;
        }
        Ok(())
    });
}

/// Environment variable of the pause before a lost GPU is reopened, in builds with debug assertions.
const REOPEN_MS: &str = "SANDERLING_GPU_REOPEN_MS";

#[test]
fn a_gpu_that_comes_back_takes_its_models_back() {
    story(|site| {
        let Some(hub) = hub_for_gpus(site)? else { return Ok(()) };
        let digits = std::sync::Arc::new(Digits::load()?);
        // In child processes, inside the agent, and with no fallback but the hub.
        for (name, isolation, engines, policy) in [
            ("process", "process", &["wgpu", "ort"][..], "prefer-device"),
            ("inside", "none", &["wgpu", "ort"][..], "prefer-device"),
            ("alone", "process", &["wgpu"][..], "prefer-device"),
        ] {
            let mut agent = gpu_agent(site, name, "fp32", engines)?;
            agent.config().set("engine.isolation", isolation)?;
            agent.env("SANDERLING_GPU_LOST_AFTER", RUNS);
            agent.env(REOPEN_MS, "1500");
            agent.enrol(&hub)?;
            agent.start()?;
            agent.wait_version("digits", 1)?;
            agent.wait_hub(true)?;
            let load =
                Load::start(&agent.client()?, &digits, &InferOptions::policy(policy), 2, Duration::from_millis(1));
            let counted =
                |metric: &str| -> Result<bool> { Ok(agent.metrics()?.sum(metric, &[("engine", "wgpu")]) >= 1.0) };
            wait::until_true("the GPU is lost", || counted("sanderling_engine_failovers_total"))?;
            wait::until_true("the model is back on the GPU", || counted("sanderling_engine_returns_total"))?;
            let after = load.sent();
            wait::until_true("the load goes on", || Ok(load.sent() > after + 50))?;
            let summary = Summary::of(&load.finish()?);
            ensure!(summary.failed == 0, "{name}: {} failed: {:?}", summary.failed, summary.first_failure);
            expect_engine(&agent, "wgpu")?;
            let status = agent.status()?;
            let wgpu = &status["engines"][0];
            ensure!(wgpu["state"] == "ready" && wgpu["reopened"] == 1, "{wgpu}");
            ensure!(status["models"][0]["failover"]["to"] == "wgpu", "{status}");
            ensure!(counted("sanderling_engine_reopened_total")?, "the attempt is counted");
            wait::until_true("the hub hears that the version serves", || {
                Ok(hub.device(name)?["models"][0]["report"]["outcome"] == "active")
            })?;
            agent.stop()?;
        }
        Ok(())
    });
}

/// Checks that status, metrics and, for the operator, the hub report the loss.
fn expect_told(agent: &Agent, hub: &Hub, device: &str) -> Result<()> {
    let status = agent.status()?;
    let failover = &status["models"][0]["failover"];
    ensure!(failover["from"] == "wgpu" && failover["to"] == "ort", "{failover}");
    ensure!(failover["cause"].as_str().is_some_and(|cause| cause.contains("a test wanted")), "{failover}");
    ensure!(status["engines"][0]["state"] == "lost" && status["engines"][1]["state"] == "ready", "{status}");
    let told = agent.metrics()?.sum("sanderling_engine_failovers_total", &[("engine", "wgpu")]);
    ensure!((told - 1.0).abs() < f64::EPSILON, "{told} failovers are counted");
    wait::until_true("the hub hears that the version serves again", || {
        Ok(hub.device(device)?["models"][0]["report"]["outcome"] == "active")
    })
}

#[test]
fn a_gpu_that_is_not_there_is_no_reason_not_to_serve() {
    story(|site| {
        let mut hub = site.hub()?;
        hub.start()?;
        hub.push(&catalog().join("v1"), &[])?.ok()?;
        let mut agent = gpu_agent(site, "kitchen", "fp32", &["wgpu", "ort"])?;
        agent.config().set("engine.wgpu.adapter", "no GPU has this name")?;
        agent.enrol(&hub)?;
        agent.start()?;
        agent.wait_version("digits", 1)?;
        expect_engine(&agent, "ort")?;
        let engine = agent.status()?["engines"][0].clone();
        ensure!(engine["engine"] == "wgpu" && engine["state"] == "missing", "{engine}");
        agent.stop()?;
        // Without another engine, it is.
        agent.config().set("engine.engines", vec!["wgpu"])?;
        let ended = agent.run(["run"])?;
        ensure!(ended.code == Some(9) && ended.stderr.contains("no GPU adapter fits"), "{ended:?}");
        Ok(())
    });
}

/// Returns a hub that published digits v1; `None` and a line with the reason if no adapter can be used.
fn hub_for_gpus(site: &Site) -> Result<Option<Hub>> {
    let finished = gpu_agent(site, "looking", "fp32", &["wgpu"])?.run(["doctor", "--json"])?;
    let checks: Vec<Value> = serde_json::from_str(&finished.stdout).context("read what doctor found")?;
    let gpu = checks.iter().find(|check| check["check"] == "wgpu").context("doctor looks for a GPU")?;
    if gpu["result"] != "ok" {
        skip(&format!("no GPU adapter here: {}", gpu["found"]));
        return Ok(None);
    }
    let mut hub = site.hub()?;
    hub.start()?;
    hub.push(&catalog().join("v1"), &[])?.ok()?;
    Ok(Some(hub))
}

/// Returns whether the engine supports every operator of a form; prints the missing ones otherwise.
fn runs_on_wgpu(agent: &Agent, version: &str, form: &str) -> Result<bool> {
    let file = catalog().join(version).join(format!("{form}.onnx"));
    let file = file.to_str().context("a path in UTF-8")?;
    let finished = agent.run(["check", file, "--engine", "wgpu", "--json"])?;
    let checked: Value = serde_json::from_str(&finished.stdout).context("read what check found")?;
    if checked["can_run"] != true {
        skip(&format!("the wgpu engine does not run {version}/{form}: {}", checked["unsupported"]));
    }
    Ok(checked["can_run"] == true)
}

/// Returns an agent that prefers a GPU, even a software one, for this form of digits.
fn gpu_agent(site: &Site, name: &str, form: &str, engines: &[&str]) -> Result<Agent> {
    let mut agent = site.agent(name)?;
    agent.config().set("engine.engines", engines.to_vec())?;
    agent.config().set("engine.wgpu.allow_software", true)?;
    agent.config().set("models.digits.variant", form)?;
    Ok(agent)
}

/// Checks that the agent serves locally, with this engine.
fn expect_engine(agent: &Agent, engine: &str) -> Result<()> {
    let digit = Digits::load()?.input(0);
    let reply = agent.client()?.infer("digits", &[digit], &InferOptions::policy("only-device"))?.ok()?;
    ensure!(reply.parameter("engine") == engine, "{engine} should answer: {}", reply.json);
    Ok(())
}
