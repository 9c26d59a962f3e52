//! Tests of one client against all others, at the agent's HTTP server: an honest client is served all the time, and the
//! agent's memory stays within its configuration.

// This file uses only one of the models in that module.
#[expect(dead_code, reason = "written for the engine's tests")]
#[path = "../../../shared/engine/tests/support/model.rs"]
mod onnx;

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use testkit::{Client, Fleet, InferOptions, Raw, story, tools};

const HEAD: &str = "POST /v2/models/digits/infer HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n";

/// Restarts the agent with this configuration.
fn configured(fleet: &mut Fleet, fields: &[(&str, toml::Value)]) -> Result<String> {
    fleet.agent.stop()?;
    for (field, value) in fields {
        fleet.agent.config().set(field, value.clone())?;
    }
    fleet.agent.start()?;
    fleet.agent.wait_version("digits", 1)?;
    fleet.agent.address("http")
}

/// Checks that the agent serves on a new connection and on one that was open before.
fn expect_service(fleet: &Fleet, before: &Client, what: &str) -> Result<()> {
    for client in [before, &fleet.client()?] {
        let ask = InferOptions::policy("only-device");
        let reply = client.infer("digits", &[fleet.digits.input(0)], &ask)?;
        ensure!(reply.status == 200, "{what}: an honest client got {} {}", reply.status, reply.json);
    }
    Ok(())
}

/// Returns a value of `/proc/PID/status` in MiB, like `VmHWM`, the peak of the process's resident memory.
fn memory_mib(fleet: &mut Fleet, figure: &str) -> Result<u64> {
    let path = format!("/proc/{}/status", fleet.agent.daemon()?.id());
    let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(figure)).context("a figure of the process")?;
    let kib: u64 = line.trim_matches([':', ' ', '\t']).trim_end_matches(" kB").parse().context("read it")?;
    Ok(kib / 1024)
}

#[test]
fn half_a_body_keeps_nobody_from_the_models() {
    story(|site| {
        let mut fleet = Fleet::serving_v1(site)?;
        let address = configured(&mut fleet, &[("inference.requests_max", 2.into())])?;
        let honest = fleet.client()?;
        expect_service(&fleet, &honest, "before")?;
        let mut halves = Vec::new();
        for _ in 0..64 {
            let mut half = Raw::connect(&address)?;
            half.send(format!("{HEAD}Content-Length: 60000000\r\n\r\n{{\"inputs\": ["));
            halves.push(half);
        }
        for _ in 0..10 {
            expect_service(&fleet, &honest, "64 half bodies")?;
        }
        // An incomplete request head does not occupy a permit.
        for _ in 0..64 {
            let mut half = Raw::connect(&address)?;
            half.send(HEAD);
            halves.push(half);
        }
        expect_service(&fleet, &honest, "64 half heads")
    });
}

#[test]
fn silent_connections_make_place_for_a_new_client_on_both_ports() {
    story(|site| {
        let mut fleet = Fleet::serving_v1(site)?;
        let address = configured(&mut fleet, &[("inference.connections_max", 32.into())])?;
        let honest = fleet.client()?;
        let mut silent = Vec::new();
        for at in 0..200 {
            let mut one = Raw::connect(&address)?;
            if at % 2 == 0 {
                one.send("GET /v2 HTTP/1.1\r\nHo");
            }
            silent.push(one);
            if at % 10 == 0 {
                expect_service(&fleet, &honest, "silent connections")?;
            }
        }
        let metrics = fleet.agent.address("metrics")?;
        for _ in 0..40 {
            silent.push(Raw::connect(&metrics)?);
            fleet.agent.metrics()?;
        }
        // The oldest ones were closed for the newer ones.
        let first = silent.swap_remove(0).read_to_end()?;
        ensure!(first.is_empty(), "a silent connection was answered: {first:?}");
        Ok(())
    });
}

#[test]
fn unfinished_large_bodies_take_bounded_memory_and_give_way() {
    story(|site| {
        let mut fleet = Fleet::serving_v1(site)?;
        let address = configured(&mut fleet, &[("inference.memory_bytes_max", (136 << 20).into())])?;
        let honest = fleet.client()?;
        expect_service(&fleet, &honest, "before")?;
        let before = memory_mib(&mut fleet, "VmHWM")?;
        let body = vec![b' '; 40 << 20];
        std::thread::scope(|scope| -> Result<()> {
            let flood = |_| {
                scope.spawn(|| -> Result<Raw> {
                    let mut one = Raw::connect(&address)?;
                    one.send(format!("{HEAD}Content-Length: 60000000\r\n\r\n"));
                    one.send_what_is_taken(&body, Duration::from_secs(5))?;
                    Ok(one)
                })
            };
            let floods: Vec<_> = (0..16).map(flood).collect();
            // While they send, and while they are stalled.
            for _ in 0..10 {
                expect_service(&fleet, &honest, "16 large bodies arrive")?;
            }
            let stalled: Vec<Raw> = floods.into_iter().filter_map(|flood| flood.join().ok()?.ok()).collect();
            ensure!(stalled.len() == 16, "only {} connections were made", stalled.len());
            for _ in 0..10 {
                expect_service(&fleet, &honest, "16 large bodies stall")?;
            }
            Ok(())
        })?;
        let peak = memory_mib(&mut fleet, "VmHWM")?;
        // 640 MiB were sent; the budget, the data that was leaving it, and the buffers of the connections remain.
        ensure!(peak < before + 136 + 120, "the agent grew from {before} to {peak} MiB");
        Ok(())
    });
}

#[test]
fn a_transfer_without_progress_is_ended_with_a_reason() {
    story(|site| {
        let mut fleet = Fleet::serving_v1(site)?;
        let fields = [
            ("inference.header_timeout", "300ms".into()),
            ("inference.idle_timeout", "400ms".into()),
            ("inference.body_timeout", "500ms".into()),
        ];
        let address = configured(&mut fleet, &fields)?;
        let mut half = Raw::connect(&address)?;
        half.send(format!("{HEAD}Content-Length: 100\r\n\r\n{{"));
        let reply = half.reply()?;
        ensure!(reply.status == 408 && reply.body.contains("inference.body_timeout"), "{reply:?}");
        for beginning in ["", "POST /v2 HTTP/1.1\r\nHost: local"] {
            let mut silent = Raw::connect(&address)?;
            silent.send(beginning);
            let end = silent.read_to_end()?;
            ensure!(end.is_empty(), "{beginning:?} was answered {:?}", String::from_utf8_lossy(&end));
        }
        // A slow body: within its time, but below the minimum rate.
        let fields = [("inference.body_timeout", "120s".into()), ("inference.rate_min_bytes", 1024.into())];
        let address = configured(&mut fleet, &fields)?;
        let mut trickle = Raw::connect(&address)?;
        trickle.send(format!("{HEAD}Content-Length: 100000\r\n\r\n"));
        while trickle.send(" ") && trickle.is_silent(Duration::from_millis(200))? {}
        let reply = trickle.reply()?;
        ensure!(reply.status == 408 && reply.body.contains("1024 bytes per second"), "{reply:?}");
        fleet.expect_local(1)
    });
}

#[test]
fn a_client_that_does_not_take_its_response_is_cut_off() {
    story(|site| {
        let mut fleet = Fleet::serving_v1(site)?;
        let folder = site.folder().join("echo");
        fs::create_dir_all(&folder)?;
        fs::write(folder.join("m.onnx"), onnx::identity(onnx::FLOAT))?;
        let tensor = |kind: &str, name: &str| {
            format!("[[{kind}]]\nname = \"{name}\"\ndatatype = \"FP32\"\nshape = [\"batch\"]\n")
        };
        let variant = |place: &str| {
            format!(
                "[[variant]]\nname = \"{place}\"\nruns_on = \"{place}\"\nengines = [\"ort\"]\nprecision = \"fp32\"\nfile = \"m.onnx\"\n"
            )
        };
        let text = "schema = 1\nmodel = \"echo\"\nversion = 1\ntask = \"test\"\ndescription = \"A test.\"\nlicence = \"MIT\"\n";
        let text =
            [text.to_owned(), tensor("input", "x"), tensor("output", "y"), variant("device"), variant("hub")].concat();
        fs::write(folder.join("model.toml"), text)?;
        fleet.hub.push(&folder, &[])?.ok()?;
        let fields = [("inference.response_timeout", "1s".into()), ("models.echo.policy", "only-device".into())];
        let address = configured(&mut fleet, &fields)?;
        fleet.agent.wait_version("echo", 1)?;
        let bytes = 24 << 20;
        let json = format!(
            r#"{{"parameters":{{"binary_data_output":true}},"inputs":[{{"name":"x","shape":[{}],"datatype":"FP32","parameters":{{"binary_data_size":{bytes}}}}}]}}"#,
            bytes / 4
        );
        let mut slow = Raw::connect(&address)?;
        slow.send(format!(
            "POST /v2/models/echo/infer HTTP/1.1\r\nHost: localhost\r\nInference-Header-Content-Length: {}\r\nContent-Length: {}\r\n\r\n{json}",
            json.len(),
            json.len() + bytes
        ));
        slow.send(vec![0; bytes]);
        // Its response has begun; it reads none of it, and cannot send anything more.
        testkit::wait::until_true("a response begins", || Ok(!slow.is_silent(Duration::from_millis(50))?))?;
        testkit::wait::until_true("a slow reader is cut off", || Ok(!slow.send("G")))?;
        let received = slow.read_to_end()?;
        ensure!(received.starts_with(b"HTTP/1.1 200") || received.is_empty(), "{:?}", received.get(..80));
        ensure!(received.len() < bytes, "a whole response of {} bytes waited for its reader", received.len());
        fleet.expect_local(1)
    });
}

#[test]
fn a_string_as_long_as_a_body_makes_neither_memory_nor_a_long_error() {
    story(|site| {
        let mut fleet = Fleet::serving_v1(site)?;
        let before = memory_mib(&mut fleet, "VmHWM")?;
        let client = fleet.client()?;
        let json = [("Content-Type", "application/json".to_owned())];
        for (start, end) in [(r#"{"inputs":""#, r#""}"#), (r#"{"inputs":[],"outputs":[{"name":""#, r#""}]}"#)] {
            let body = format!("{start}{}{end}", "a".repeat(61 << 20));
            let reply = client.post("/v2/models/digits/infer", &json, body.as_bytes())?;
            ensure!(reply.status == 400 && reply.error().len() < 600, "{} {}", reply.status, reply.error().len());
        }
        let peak = memory_mib(&mut fleet, "VmHWM")?;
        ensure!(peak < before + 2 * 61 + 60, "the agent grew from {before} to {peak} MiB");
        Ok(())
    });
}

#[test]
fn numbers_as_json_take_no_more_than_the_body_and_the_tensor() {
    if !tools::runs_long("61 MiB of JSON") {
        return;
    }
    story(|site| {
        let mut fleet = Fleet::serving_v1(site)?;
        let before = memory_mib(&mut fleet, "VmHWM")?;
        let count = 15 << 20;
        let body = format!(
            r#"{{"inputs":[{{"name":"image","shape":[{count}],"datatype":"FP32","data":[0{}]}}]}}"#,
            ",0.5".repeat(count - 1)
        );
        let json = [("Content-Type", "application/json".to_owned())];
        let reply = fleet.client()?.post("/v2/models/digits/infer", &json, body.as_bytes())?;
        ensure!(reply.status == 400 && reply.error().contains("shape"), "{} {}", reply.status, reply.json);
        let peak = memory_mib(&mut fleet, "VmHWM")?;
        ensure!(peak < before + 61 + 61 + 30, "the agent grew from {before} to {peak} MiB");
        Ok(())
    });
}
