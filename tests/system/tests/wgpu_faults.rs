//! Tests that a request which the GPU cannot compute is a bad request that names the node: integers beyond 32 bits,
//! indices out of range.
//!
//! The cases int64-square, int64-cast and gather-range of `shared/cases`, through an agent and its HTTP interface.
//! Skipped without an adapter, including a software one.

// This file uses only a few of the models in that module.
#[expect(dead_code, reason = "written for the engine's tests")]
#[path = "../../../shared/engine/tests/support/model.rs"]
mod onnx;

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use onnx::{FLOAT, Graph, INT64, Message, Size, node, tensor, tensor_type, value};
use serde_json::Value;
use testkit::{Client, Site, skip, story};

/// Policies under which the device serves.
const POLICIES: [&str; 2] = ["only-device", "prefer-device"];

fn vector(element: u64) -> Message {
    tensor_type(element, &[Size::Named("n")])
}

/// Returns the models: name, file, type of the input, and the shape of its float or integer output.
fn models() -> Vec<(&'static str, Vec<u8>, &'static str, &'static str)> {
    let table: Vec<u8> = (0..10_u8).flat_map(|value| f32::from(value).to_le_bytes()).collect();
    let graph = |node: Message, input: Message, output: Message, initializers: Vec<Message>| {
        Graph { nodes: vec![node.bytes(3, "the_node")], inputs: vec![input], outputs: vec![output], initializers }
            .model()
    };
    let integers = value("y", &vector(INT64));
    let rows = value("y", &tensor_type(FLOAT, &[Size::Named("n"), Size::Fixed(2)]));
    vec![
        (
            "square",
            graph(node("Mul", &["k", "k"], &["y"]), value("k", &vector(INT64)), integers, Vec::new()),
            "INT64",
            "INT64",
        ),
        (
            "gather",
            graph(
                node("Gather", &["table", "k"], &["y"]),
                value("k", &vector(INT64)),
                rows,
                vec![tensor("table", FLOAT, &[5, 2], &table)],
            ),
            "INT64",
            "FP32",
        ),
    ]
}

fn folder(site: &Site, name: &str, model: &[u8], input: &str, output: &str) -> Result<PathBuf> {
    let path = site.folder().join(format!("model-{name}"));
    fs::create_dir_all(&path)?;
    fs::write(path.join("m.onnx"), model)?;
    let shape = if output == "FP32" { "[\"n\", 2]" } else { "[\"n\"]" };
    let variant = |place: &str, engine: &str| {
        format!(
            "[[variant]]\nname = \"{place}\"\nruns_on = \"{place}\"\nengines = [\"{engine}\"]\nprecision = \"fp32\"\nfile = \"m.onnx\"\n"
        )
    };
    let text = format!(
        "schema = 1\nmodel = \"{name}\"\nversion = 1\ntask = \"test\"\ndescription = \"A test.\"\nlicence = \"MIT\"\n\
         [[input]]\nname = \"k\"\ndatatype = \"{input}\"\nshape = [\"n\"]\n\
         [[output]]\nname = \"y\"\ndatatype = \"{output}\"\nshape = {shape}\n{}{}",
        variant("device", "wgpu"),
        variant("hub", "ort")
    );
    fs::write(path.join("model.toml"), text)?;
    Ok(path)
}

fn ask(client: &Client, model: &str, data: &str, policy: &str) -> Result<(u16, String)> {
    let body = format!(
        r#"{{"parameters":{{"policy":"{policy}"}},"inputs":[{{"name":"k","datatype":"INT64","shape":[1],"data":{data}}}]}}"#
    );
    let json = [("Content-Type", "application/json".to_owned())];
    let reply = client.post(&format!("/v2/models/{model}/infer"), &json, body.as_bytes())?;
    let said =
        if reply.status == 200 { reply.json["outputs"][0]["data"].to_string() } else { reply.error().to_owned() };
    Ok((reply.status, said))
}

#[test]
fn a_run_without_an_answer_is_a_bad_request_that_names_the_node() {
    story(|site| {
        let mut agent = site.agent("kitchen")?;
        agent.config().set("engine.engines", vec!["wgpu"])?;
        agent.config().set("engine.wgpu.allow_software", true)?;
        let found = agent.run(["doctor", "--json"])?;
        let checks: Vec<Value> = serde_json::from_str(&found.stdout).context("read what doctor found")?;
        if !checks.iter().any(|check| check["check"] == "wgpu" && check["result"] == "ok") {
            skip("no GPU adapter here");
            return Ok(());
        }
        let mut hub = site.hub()?;
        hub.start()?;
        for (name, model, input, output) in models() {
            hub.push(&folder(site, name, &model, input, output)?, &[])?.ok()?;
            agent.config().set(&format!("models.{name}.policy"), "prefer-device")?;
        }
        agent.enrol(&hub)?;
        agent.start()?;
        for (name, ..) in models() {
            agent.wait_version(name, 1)?;
        }
        agent.wait_hub(true)?;
        let client = agent.client()?;
        for policy in POLICIES {
            for (model, data, answer) in [
                ("square", "[46340]", "[2147395600]"),
                ("square", "[-7]", "[49]"),
                ("gather", "[4]", "[8.0,9.0]"),
                ("gather", "[-5]", "[0.0,1.0]"),
            ] {
                let (status, said) = ask(&client, model, data, policy)?;
                ensure!(status == 200 && said == answer, "{policy} {model} {data}: {status} {said}");
            }
            for (model, data, words) in [
                ("square", "[100000]", "32 bits"),
                ("square", "[3000000000]", "32 bits"),
                ("gather", "[5]", "out of range"),
                ("gather", "[-6]", "out of range"),
            ] {
                let (status, said) = ask(&client, model, data, policy)?;
                ensure!(status == 400 && said.contains(words), "{policy} {model} {data}: {status} {said}");
                let named = said.contains("the_node") || data.contains("3000000000");
                ensure!(named, "{policy} {model} {data}: the error names no node: {said}");
            }
        }
        Ok(())
    });
}
