//! Tests that every fault of a request gets status 400 and a sentence that says what to change, wherever the fault is
//! found: in the JSON, in the signature, or by an operator during a run, on the device or on the hub.

// This file uses only a few of the models in that module.
#[expect(dead_code, reason = "written for the engine's tests")]
#[path = "../../../shared/engine/tests/support/model.rs"]
mod onnx;

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use onnx::{FLOAT, Graph, INT64, Size, node, tensor, tensor_type, value};
use testkit::{Client, Site, story};

/// Number of the string type in `onnx.proto`.
const STRING: u64 = 8;

const POLICIES: [&str; 5] = ["only-device", "prefer-device", "cascade", "prefer-hub", "only-hub"];

/// Writes an author's folder of a model for device and hub.
fn folder(site: &Site, name: &str, model: &[u8], tensors: &str) -> Result<PathBuf> {
    let path = site.folder().join(format!("model-{name}"));
    fs::create_dir_all(&path)?;
    fs::write(path.join("m.onnx"), model)?;
    let variant = |place: &str| {
        format!(
            "[[variant]]\nname = \"{place}\"\nruns_on = \"{place}\"\nengines = [\"ort\"]\nprecision = \"fp32\"\nfile = \"m.onnx\"\n"
        )
    };
    let (device, hub) = (variant("device"), variant("hub"));
    let text = format!(
        "schema = 1\nmodel = \"{name}\"\nversion = 1\ntask = \"test\"\ndescription = \"A test.\"\nlicence = \"MIT\"\n{tensors}{device}{hub}"
    );
    fs::write(path.join("model.toml"), text)?;
    Ok(path)
}

fn spec(kind: &str, name: &str, dtype: &str, shape: &str) -> String {
    format!("[[{kind}]]\nname = \"{name}\"\ndatatype = \"{dtype}\"\nshape = {shape}\n")
}

fn vector(element: u64, size: &'static str) -> onnx::Message {
    tensor_type(element, &[Size::Named(size)])
}

/// Returns models whose operators refuse some inputs that match their signature: name, file, `model.toml`.
fn models() -> Vec<(&'static str, Vec<u8>, String)> {
    let table: Vec<u8> = (0..10_u8).flat_map(|value| f32::from(value).to_le_bytes()).collect();
    let lookup = Graph {
        nodes: vec![node("Gather", &["table", "k"], &["y"]).bytes(3, "pick")],
        inputs: vec![value("k", &vector(INT64, "n"))],
        outputs: vec![value("y", &tensor_type(FLOAT, &[Size::Named("n"), Size::Fixed(2)]))],
        initializers: vec![tensor("table", FLOAT, &[5, 2], &table)],
    };
    let sum = Graph {
        nodes: vec![node("Add", &["a", "b"], &["y"])],
        inputs: vec![value("a", &vector(FLOAT, "n")), value("b", &vector(FLOAT, "m"))],
        outputs: vec![value("y", &vector(FLOAT, "k"))],
        initializers: vec![],
    };
    let of_shape = |operator: &str| Graph {
        nodes: vec![node(operator, &["x", "s"], &["y"])],
        inputs: vec![value("x", &vector(FLOAT, "n")), value("s", &vector(INT64, "r"))],
        outputs: vec![value("y", &tensor_type(FLOAT, &[Size::Named("p"), Size::Named("q")]))],
        initializers: vec![],
    };
    let text = Graph {
        nodes: vec![node("Identity", &["t"], &["y"])],
        inputs: vec![value("t", &vector(STRING, "n"))],
        outputs: vec![value("y", &vector(STRING, "n"))],
        initializers: vec![],
    };
    let shaped = spec("input", "x", "FP32", "[\"n\"]")
        + &spec("input", "s", "INT64", "[\"r\"]")
        + &spec("output", "y", "FP32", "[\"p\", \"q\"]");
    vec![
        ("lookup", lookup.model(), spec("input", "k", "INT64", "[\"n\"]") + &spec("output", "y", "FP32", "[\"n\", 2]")),
        (
            "sum",
            sum.model(),
            spec("input", "a", "FP32", "[\"n\"]")
                + &spec("input", "b", "FP32", "[\"m\"]")
                + &spec("output", "y", "FP32", "[\"k\"]"),
        ),
        ("shape", of_shape("Reshape").model(), shaped.clone()),
        ("wide", of_shape("Expand").model(), shaped),
        ("text", text.model(), spec("input", "t", "BYTES", "[\"n\"]") + &spec("output", "y", "BYTES", "[\"n\"]")),
    ]
}

fn input(name: &str, dtype: &str, count: usize, data: &str) -> String {
    format!(r#"{{"name":"{name}","datatype":"{dtype}","shape":[{count}],"data":{data}}}"#)
}

fn ask(client: &Client, model: &str, inputs: &str, more: &str, policy: &str) -> Result<(u16, String)> {
    let body = format!(r#"{{"parameters":{{"policy":"{policy}"}},{more}"inputs":[{inputs}]}}"#);
    let json = [("Content-Type", "application/json".to_owned())];
    let reply = client.post(&format!("/v2/models/{model}/infer"), &json, body.as_bytes())?;
    let said =
        if reply.status == 200 { reply.json["outputs"][0]["data"].to_string() } else { reply.error().to_owned() };
    Ok((reply.status, said))
}

#[test]
fn an_input_that_an_operator_cannot_compute_is_a_bad_request_on_device_and_hub() {
    story(|site| {
        let mut hub = site.hub()?;
        hub.start()?;
        let mut agent = site.agent("kitchen")?;
        for (name, model, tensors) in models() {
            hub.push(&folder(site, name, &model, &tensors)?, &[])?.ok()?;
            agent.config().set(&format!("models.{name}.policy"), "cascade")?;
        }
        agent.enrol(&hub)?;
        agent.start()?;
        for (name, ..) in models() {
            agent.wait_version(name, 1)?;
        }
        agent.wait_hub(true)?;
        let client = agent.client()?;
        let one = input("x", "FP32", 1, "[1]");
        // Model, valid inputs with their output, then inputs that match the signature with words of the error.
        let cases = [
            ("lookup", input("k", "INT64", 1, "[4]"), "[8.0,9.0]", input("k", "INT64", 2, "[0, 5]"), "Gather"),
            ("lookup", input("k", "INT64", 1, "[-5]"), "[0.0,1.0]", input("k", "INT64", 1, "[-6]"), "Gather"),
            (
                "sum",
                input("a", "FP32", 1, "[1]") + "," + &input("b", "FP32", 2, "[1, 2]"),
                "[2.0,3.0]",
                input("a", "FP32", 3, "[1, 2, 3]") + "," + &input("b", "FP32", 2, "[1, 2]"),
                "Add",
            ),
            (
                "shape",
                input("x", "FP32", 2, "[1, 2]") + "," + &input("s", "INT64", 2, "[2, 1]"),
                "[1.0,2.0]",
                input("x", "FP32", 2, "[1, 2]") + "," + &input("s", "INT64", 2, "[3, 1]"),
                "Reshape",
            ),
            (
                "shape",
                one.clone() + "," + &input("s", "INT64", 2, "[-1, 1]"),
                "[1.0]",
                one.clone() + "," + &input("s", "INT64", 2, "[-2, 1]"),
                "Reshape",
            ),
            (
                "wide",
                one.clone() + "," + &input("s", "INT64", 2, "[1, 2]"),
                "[1.0,1.0]",
                one + "," + &input("s", "INT64", 2, "[5000, 5000]"),
                "fewer or smaller inputs",
            ),
            ("text", input("t", "BYTES", 1, "[\"é\"]"), "[\"é\"]", input("t", "BYTES", 1, "[\"a\\u0000b\"]"), "NUL"),
        ];
        for policy in POLICIES {
            for (model, right, answer, wrong, word) in &cases {
                let (status, said) = ask(&client, model, right, "", policy)?;
                ensure!(status == 200 && said == *answer, "{policy}, {model}, {right}: {status} {said}");
                let (status, said) = ask(&client, model, wrong, "", policy)?;
                ensure!(status == 400 && said.contains(word), "{policy}, {model}, {wrong}: {status} {said}");
                ensure!(!said.contains("failed") && !said.contains("onnxruntime_src"), "{policy}, {model}: {said}");
            }
        }
        // The fault is still the request's while the hub is unreachable.
        hub.stop()?;
        agent.wait_hub(false)?;
        let (status, said) = ask(&client, "lookup", &input("k", "INT64", 1, "[5]"), "", "cascade")?;
        ensure!(status == 400 && said.contains("Gather"), "without a hub: {status} {said}");
        let (status, said) = ask(&client, "lookup", &input("k", "INT64", 1, "[1]"), "", "cascade")?;
        ensure!(status == 200, "without a hub: {status} {said}");
        Ok(())
    });
}

#[test]
fn what_clients_send_for_nothing_is_taken_for_nothing() {
    story(|site| {
        let mut hub = site.hub()?;
        hub.start()?;
        let mut agent = site.agent("kitchen")?;
        let (name, model, tensors) = models().into_iter().next().context("a model")?;
        hub.push(&folder(site, name, &model, &tensors)?, &[])?.ok()?;
        agent.config().set(&format!("models.{name}.policy"), "only-device")?;
        agent.enrol(&hub)?;
        agent.start()?;
        agent.wait_version(name, 1)?;
        let client = agent.client()?;
        let json = [("Content-Type", "application/json".to_owned())];
        let post = |fields: &str, data: &str| {
            let body = format!(r#"{{{fields}"inputs":[{{"name":"k","datatype":"INT64","shape":[1],{data}}}]}}"#);
            client.post("/v2/models/lookup/infer", &json, body.as_bytes())
        };
        for fields in [
            r#""outputs":null,"#,
            r#""parameters":null,"id":null,"#,
            r#""id":"","outputs":[],"model_name":"lookup","model_version":null,"#,
            r#""parameters":{"sequence_id":0,"sequence_start":false,"sequence_end":false,"priority":0,"timeout":0},"#,
            r#""parameters":{"sequence_id":"","headers":{"a":["b"]},"unknown":1.5},"#,
            r#""parameters":{"policy":null,"deadline_ms":null,"timeout":null,"binary_data_output":null},"#,
            r#""outputs":[{"name":"y","parameters":null}],"#,
            r#""outputs":[{"name":"y","parameters":{"binary_data":false,"classification":0,"shared_memory_region":null}}],"#,
        ] {
            let reply = post(fields, r#""data":[1],"parameters":null"#)?;
            ensure!(reply.status == 200, "{fields}: {} {}", reply.status, reply.json);
        }
        for (fields, data, word) in [
            (r#""parameters":{"sequence_id":7,"sequence_start":true},"#, r#""data":[1]"#, "sequence_id"),
            (r#""parameters":{"sequence_id":"a"},"#, r#""data":[1]"#, "sequence_id"),
            (r#""parameters":{"deadline_ms":-1},"#, r#""data":[1]"#, "-1"),
            (r#""outputs":[{"name":"z"}],"#, r#""data":[1]"#, "\"z\""),
            (r#""id":"a b","#, r#""data":[1]"#, "id"),
            ("", r#""data":[1,2]"#, "16 were given"),
            ("", r#""data":[]"#, "0 were given"),
            ("", r#""data":[1.5]"#, "1.5 is not INT64"),
            ("", r#""data":[9223372036854775808]"#, "does not fit INT64"),
            ("", r#""data":[1e400]"#, "number out of range"),
            ("", r#""data":["1"]"#, "a string is not INT64"),
            ("", r#""data":null"#, "neither"),
            ("", r#""data":[1],"parameters":{"binary_data_size":8}"#, "both"),
            ("", r#""parameters":{"binary_data_size":8}"#, "0 are left"),
            ("", r#""data":[1],"shape":[1]"#, "duplicate field"),
        ] {
            let reply = post(fields, data)?;
            ensure!(
                reply.status == 400 && reply.error().contains(word),
                "{fields}{data}: {} {}",
                reply.status,
                reply.json
            );
        }
        let negative = br#"{"inputs":[{"name":"k","datatype":"INT64","shape":[-1],"data":[1]}]}"#;
        let reply = client.post("/v2/models/lookup/infer", &json, negative)?;
        ensure!(reply.status == 400 && reply.error().contains("real size"), "{} {}", reply.status, reply.json);
        Ok(())
    });
}
