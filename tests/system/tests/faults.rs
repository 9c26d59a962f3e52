//! Tests of bad input and a broken environment: each causes a clear error with advice, no loss, no panic.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use testkit::author::{ModelFolder, flip_byte};
use testkit::{Agent, Fleet, Hub, InferOptions, Input, skip, story, tools, wait};

/// Exit codes of `console::ExitKind`.
const CONFIG: i32 = 3;
const CONFLICT: i32 = 7;
const RUNTIME: i32 = 9;

/// Starts an agent that is meant to fail and returns its exit code and log.
fn failed_start(agent: &Agent) -> Result<(Option<i32>, String)> {
    let mut daemon = agent.spawn()?;
    let status = daemon.wait_ended(wait::PATIENCE)?;
    Ok((status.code(), daemon.log()?))
}

fn failed_hub_start(hub: &Hub) -> Result<(Option<i32>, String)> {
    let mut daemon = hub.spawn()?;
    let status = daemon.wait_ended(wait::PATIENCE)?;
    Ok((status.code(), daemon.log()?))
}

/// Checks for an exit code, a word of the cause and an advice, and no panic.
fn expect_failure(ended: &(Option<i32>, String), code: i32, words: &[&str]) -> Result<()> {
    let (given, log) = ended;
    ensure!(*given == Some(code), "exit code {given:?} instead of {code}:\n{log}");
    for word in words.iter().chain(&["error:", "try:"]) {
        ensure!(log.contains(word), "{word:?} is not told:\n{log}");
    }
    ensure!(!log.contains("panicked"), "it panicked:\n{log}");
    Ok(())
}

#[test]
fn a_wrong_tensor_is_refused_with_what_was_expected_and_what_was_given() {
    story(|site| {
        let fleet = Fleet::serving_v1(site)?;
        let ask = |input: Input, policy: &str| fleet.client()?.infer("digits", &[input], &InferOptions::policy(policy));
        for policy in ["only-device", "only-hub", "cascade"] {
            let shape = ask(Input::fp32("image", &[1, 1, 2, 2], &[0.0; 4]), policy)?;
            ensure!(shape.status == 400, "{policy}, shape: {} {}", shape.status, shape.json);
            ensure!(shape.error().contains("28") && shape.error().contains('2'), "{}", shape.error());
            let name = ask(Input::fp32("picture", &[1, 1, 28, 28], &[0.0; 784]), policy)?;
            ensure!(name.status == 400 && name.error().contains("image"), "{policy}, name: {}", name.json);
            let mut typed = fleet.digits.input(0);
            "INT32".clone_into(&mut typed.datatype);
            let dtype = ask(typed, policy)?;
            ensure!(dtype.status == 400 && dtype.error().contains("FP32"), "{policy}, type: {}", dtype.json);
        }
        let mut short = fleet.digits.input(0);
        short.bytes.truncate(100);
        let length = ask(short, "only-device")?;
        ensure!(length.status == 400, "length: {} {}", length.status, length.json);
        fleet.expect_local(1)
    });
}

#[test]
fn bad_requests_are_told_apart() {
    story(|site| {
        let mut fleet = Fleet::serving_v1(site)?;
        fleet.agent.stop()?;
        fleet.agent.config().set("inference.body_bytes_max", 8192)?;
        fleet.agent.start()?;
        fleet.agent.wait_version("digits", 1)?;
        let client = fleet.client()?;
        let unknown = client.infer("letters", &[fleet.digits.input(0)], &InferOptions::default())?;
        ensure!(unknown.status == 404 && unknown.error().contains("letters"), "{} {}", unknown.status, unknown.json);
        let (status, body) = client.get("/v2/models/digits/versions/99")?;
        ensure!(status == 404 && body["error"].is_string(), "an unknown version: {status} {body}");
        let large = client.post("/v2/models/digits/infer", &[], &[b' '; 20_000])?;
        ensure!(large.status == 413 || large.status == 400, "a large body: {} {}", large.status, large.json);
        ensure!(large.error().contains("8192"), "the limit is not told: {}", large.json);
        let garbage = client.post("/v2/models/digits/infer", &[], b"{\"inputs\": [")?;
        ensure!(garbage.status == 400 && !garbage.error().is_empty(), "{} {}", garbage.status, garbage.json);
        let policy = fleet.infer(0, "sometimes")?;
        ensure!(policy.status == 400 && policy.error().contains("cascade"), "{} {}", policy.status, policy.json);
        let split = [("Inference-Header-Content-Length", "99999".to_owned())];
        let split = client.post("/v2/models/digits/infer", &split, b"{}")?;
        ensure!(split.status == 400, "a head longer than the body: {} {}", split.status, split.json);
        fleet.expect_local(1)
    });
}

#[test]
fn a_taken_port_is_named() {
    story(|site| {
        let taken = TcpListener::bind("127.0.0.1:0")?;
        let address = taken.local_addr()?.to_string();
        let mut agent = site.agent("kitchen")?;
        agent.config().set("inference.http", address.as_str())?;
        expect_failure(&failed_start(&agent)?, CONFLICT, &[&address])?;
        let mut hub = site.hub()?;
        hub.config().set("admin.listen", address.as_str())?;
        expect_failure(&failed_hub_start(&hub)?, CONFLICT, &[&address])
    });
}

#[test]
fn a_second_daemon_on_the_same_folder_is_refused() {
    story(|site| {
        let mut fleet = Fleet::serving_v1(site)?;
        let folder = fleet.agent.state_dir().display().to_string();
        expect_failure(&failed_start(&fleet.agent)?, CONFLICT, &[&folder])?;
        let pid = fleet.hub.daemon()?.id().to_string();
        expect_failure(&failed_hub_start(&fleet.hub)?, CONFLICT, &[&pid])?;
        fleet.agent.wait_hub(true)?;
        fleet.infer(0, "only-hub")?.ok()?;
        fleet.expect_local(1)
    });
}

#[test]
fn a_missing_onnx_runtime_is_told_with_the_places_that_were_tried() {
    story(|site| {
        let mut agent = site.agent("kitchen")?;
        agent.env("SANDERLING_ONNXRUNTIME", "/nowhere/libonnxruntime.so");
        expect_failure(&failed_start(&agent)?, RUNTIME, &["/nowhere/libonnxruntime.so"])?;
        let mut hub = site.hub()?;
        hub.env("SANDERLING_ONNXRUNTIME", "/nowhere/libonnxruntime.so");
        expect_failure(&failed_hub_start(&hub)?, RUNTIME, &["/nowhere/libonnxruntime.so"])
    });
}

#[test]
fn a_library_that_is_no_onnx_runtime_is_refused() {
    story(|site| {
        let fake = site.folder().join("libonnxruntime.so");
        fs::write(&fake, "not a library")?;
        let mut agent = site.agent("kitchen")?;
        agent.env("SANDERLING_ONNXRUNTIME", &fake.display().to_string());
        expect_failure(&failed_start(&agent)?, RUNTIME, &["libonnxruntime.so"])
    });
}

#[test]
fn every_mistake_of_a_config_file_is_told_at_once() {
    story(|site| {
        let mut agent = site.agent("kitchen")?;
        agent.config().set("inference.requests_max", 0)?;
        agent.config().set("inference.colour", "blue")?;
        agent.config().set("engine.run_limit", 7)?;
        let ended = failed_start(&agent)?;
        expect_failure(&ended, CONFIG, &["inference.requests_max", "inference.colour", "engine.run_limit"])?;
        let mut hub = site.hub()?;
        hub.config().set("inference.sessions", 0)?;
        hub.config().set("gateway.lifetime", "7d")?;
        expect_failure(&failed_hub_start(&hub)?, CONFIG, &["inference.sessions", "gateway.lifetime"])
    });
}

#[test]
fn a_hub_with_another_ca_is_not_believed() {
    story(|site| {
        let mut fleet = Fleet::serving_v1(site)?;
        let address = fleet.hub.address("quic")?;
        fleet.hub.stop()?;
        let mut impostor = Hub::init(site, "impostor")?;
        impostor.config().set("gateway.listen", address.as_str())?;
        impostor.start()?;
        fleet.agent.wait_trouble(&["CA", "certificate authority"])?;
        let refused = fleet.infer(0, "only-hub")?;
        ensure!(refused.status == 503, "only-hub answered {}: {}", refused.status, refused.json);
        fleet.expect_local(1)?;
        // The real hub is trusted again.
        impostor.stop()?;
        fleet.hub.start()?;
        fleet.agent.wait_hub(true)
    });
}

#[test]
fn a_damaged_model_file_on_the_device_is_found_and_fetched_again() {
    story(|site| {
        let mut fleet = Fleet::serving_v1(site)?;
        fleet.agent.stop()?;
        flip_byte(&installed_model(&fleet.agent)?, 3000)?;
        fleet.agent.start()?;
        let reply = fleet.infer(0, "prefer-device")?;
        ensure!(reply.status == 200 || reply.status == 503, "{} {}", reply.status, reply.json);
        fleet.agent.wait_version("digits", 1)?;
        fleet.expect_local(1)
    });
}

fn installed_model(agent: &Agent) -> Result<PathBuf> {
    let files = testkit::agent::files_below(&agent.state_dir().join("models/digits"))?;
    let found = files.into_iter().find(|path| path.extension().is_some_and(|end| end == "onnx"));
    found.context("an installed model file")
}

#[test]
fn an_unreadable_model_is_refused_at_the_push() {
    story(|site| {
        let fleet = Fleet::serving_v1(site)?;
        let garbage = ModelFolder::copy(site, "v2", 2)?;
        for file in ["int8-qdq.onnx", "full.onnx"] {
            fs::write(garbage.path().join(file), "not a model")?;
        }
        let pushed = fleet.hub.push(garbage.path(), &[])?;
        if pushed.code == Some(0) {
            fleet.hub.refusal("kitchen", "digits", 2)?;
        } else {
            ensure!(pushed.stderr.contains("error:") && pushed.stderr.contains(".onnx"), "{}", pushed.stderr);
        }
        fleet.expect_local(1)?;
        fleet.infer(0, "only-hub")?.ok().map(drop)
    });
}

#[test]
fn a_wrong_clock_never_stops_local_answers_and_is_named() {
    let Some(library) = tools::faketime(Path::new("/")) else {
        skip("libfaketime is not installed (apt install faketime)");
        return;
    };
    story(|site| {
        let mut fleet = Fleet::serving_v1(site)?;
        for shift in ["-3650d", "+3650d"] {
            fleet.agent.stop()?;
            fleet.agent.env("LD_PRELOAD", &library.display().to_string());
            fleet.agent.env("FAKETIME", shift);
            fleet.agent.env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
            fleet.agent.start()?;
            fleet.agent.wait_version("digits", 1)?;
            fleet.expect_local(1)?;
            // A clock that is far behind may still connect; if it does not, it must be named as the cause.
            wait::until_true(&format!("the agent is online or names its clock ({shift})"), || {
                let online = fleet.agent.status()?["hub"]["state"] == "online";
                Ok(online || fleet.agent.hub_trouble()?.contains("clock"))
            })?;
        }
        for name in ["LD_PRELOAD", "FAKETIME", "FAKETIME_DONT_FAKE_MONOTONIC"] {
            fleet.agent.env(name, "");
        }
        // With the right time everything is as before: no trusted time of the year 2036 was kept.
        fleet.agent.stop()?;
        fleet.agent.start()?;
        fleet.agent.wait_hub(true)?;
        fleet.hub.push(&testkit::digits::catalog().join("v2"), &[])?.ok()?;
        fleet.agent.wait_version("digits", 2)
    });
}

#[test]
fn a_deadline_that_cannot_be_kept_is_answered_in_time() {
    story(|site| {
        let mut fleet = Fleet::serving_v1(site)?;
        fleet.agent.wait_hub(true)?;
        // A suspended hub: connected, but silent.
        fleet.hub.daemon()?.signal(testkit::Signal::STOP)?;
        let ask = |policy: &str| {
            let ask = InferOptions::policy(policy).within(Duration::from_millis(500));
            fleet.client()?.infer("digits", &[fleet.digits.input(0)], &ask)
        };
        let (alone, cascade) = (ask("only-hub"), ask("prefer-hub"));
        fleet.hub.daemon()?.signal(testkit::Signal::CONT)?;
        let (alone, cascade) = (alone?, cascade?);
        ensure!(alone.status == 503 || alone.status == 504, "only-hub: {} {}", alone.status, alone.json);
        ensure!(cascade.status == 200, "prefer-hub: {} {}", cascade.status, cascade.json);
        ensure!(cascade.parameter("place") == "device", "{}", json!(cascade.json));
        Ok(())
    });
}
