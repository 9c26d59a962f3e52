//! Tests that models which ONNX Runtime runs are published and served: unknown ranks, one name for two sizes, long
//! names of dimensions, and a `model.toml` that omits shapes.

// This file uses only a few of the models in that module.
#[expect(dead_code, reason = "written for the engine's tests")]
#[path = "../../../shared/engine/tests/support/model.rs"]
mod onnx;

use std::fs;
use std::path::PathBuf;

use anyhow::{Result, ensure};
use onnx::{FLOAT, Graph, Message, Size, node, tensor_type, unranked, value};
use testkit::{Client, Site, story};

/// Name of a dimension as PyTorch's exporter writes it, of 440 bytes.
const LONG: &str = "floor(height/2 - 1/2) + floor(height/3 - 1/2) + floor(height/4 - 1/2) + floor(height/5 - 1/2) + \
                    floor(height/6 - 1/2) + floor(height/7 - 1/2) + floor(height/8 - 1/2) + floor(height/9 - 1/2) + \
                    floor(height/10 - 1/2) + floor(height/11 - 1/2) + floor(height/12 - 1/2) + floor(height/13 - 1/2) + \
                    floor(height/14 - 1/2) + floor(height/15 - 1/2) + floor(height/16 - 1/2) + floor(height/17 - 1/2)";

/// A model, the declarations of `x` and `y` in its `model.toml`, and requests: shapes of its inputs and of its output.
struct Case {
    name: &'static str,
    model: Vec<u8>,
    inputs: &'static [&'static str],
    shapes: [String; 2],
    requests: Vec<(Vec<Vec<usize>>, Vec<usize>)>,
}

fn relu(input: &Message, output: &Message) -> Vec<u8> {
    Graph {
        nodes: vec![node("Relu", &["x"], &["y"])],
        inputs: vec![value("x", input)],
        outputs: vec![value("y", output)],
        initializers: vec![],
    }
    .model()
}

fn add(kind: &Message) -> Vec<u8> {
    Graph {
        nodes: vec![node("Add", &["x", "z"], &["y"])],
        inputs: vec![value("x", kind), value("z", kind)],
        outputs: vec![value("y", kind)],
        initializers: vec![],
    }
    .model()
}

/// Returns a line of `model.toml`; empty if the shape is omitted.
fn shape(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!("shape = {text}\n") }
}

fn cases() -> Vec<Case> {
    let dims = |dims: &[Size]| tensor_type(FLOAT, dims);
    let matrix = |first, second| dims(&[Size::Named(first), Size::Named(second)]);
    let same = |text: &str| [shape(text), shape(text)];
    let of = |shapes: &[&[usize]]| shapes.iter().map(|shape| (vec![shape.to_vec()], shape.to_vec())).collect();
    let case = |name, model, shapes, requests| Case { name, model, inputs: &["x"], shapes, requests };
    let any_rank: [&[usize]; 4] = [&[3], &[2, 2], &[1, 1, 2], &[]];
    vec![
        case("unranked", relu(&unranked(FLOAT), &unranked(FLOAT)), same(""), of(&any_rank)),
        // `model.toml` may declare what the file leaves open; the file is checked.
        case("said-rank", relu(&unranked(FLOAT), &unranked(FLOAT)), same("[\"n\"]"), of(&any_rank)),
        case(
            "unranked-output",
            relu(&matrix("n", "m"), &unranked(FLOAT)),
            [shape("[\"?\", \"?\"]"), shape("")],
            of(&[&[2, 3]]),
        ),
        case(
            "all-n",
            relu(&matrix("N", "N"), &matrix("N", "N")),
            same("[\"N\", \"N\"]"),
            of(&[&[2, 3], &[1, 1], &[3, 0]]),
        ),
        case(
            "all-question",
            relu(&matrix("?", "?"), &matrix("?", "?")),
            same("[\"?\", \"?\"]"),
            of(&[&[2, 3], &[3, 2]]),
        ),
        case("nameless", relu(&matrix("", ""), &matrix("", "")), same(""), of(&[&[2, 3]])),
        case(
            "long",
            relu(&matrix(LONG, "n"), &matrix(LONG, LONG)),
            [shape(&format!("[{LONG:?}, \"n\"]")), shape("")],
            of(&[&[2, 3]]),
        ),
        case("long-open", relu(&matrix(LONG, "n"), &matrix(LONG, LONG)), same("[\"?\", \"?\"]"), of(&[&[2, 3]])),
        case(
            "fixed",
            relu(&dims(&[Size::Fixed(2), Size::Named("n")]), &dims(&[Size::Fixed(2), Size::Named("n")])),
            same("[\"?\", \"?\"]"),
            of(&[&[2, 3]]),
        ),
        Case {
            name: "two-inputs",
            model: add(&dims(&[Size::Named("N")])),
            inputs: &["x", "z"],
            shapes: same("[\"N\"]"),
            requests: vec![(vec![vec![1], vec![3]], vec![3]), (vec![vec![2], vec![2]], vec![2])],
        },
    ]
}

/// Writes the author's folder of a case, for device and hub.
fn folder(site: &Site, case: &Case) -> Result<PathBuf> {
    let path = site.folder().join(case.name);
    fs::create_dir_all(&path)?;
    fs::write(path.join("m.onnx"), &case.model)?;
    let spec =
        |kind: &str, name: &str, shape: &str| format!("[[{kind}]]\nname = {name:?}\ndatatype = \"FP32\"\n{shape}");
    let inputs: String = case.inputs.iter().map(|name| spec("input", name, &case.shapes[0])).collect();
    let variant = |place: &str| {
        format!(
            "[[variant]]\nname = \"{place}\"\nruns_on = \"{place}\"\nengines = [\"ort\"]\nprecision = \"fp32\"\nfile = \"m.onnx\"\n"
        )
    };
    let text = format!(
        "schema = 1\nmodel = \"{}\"\nversion = 1\ntask = \"test\"\ndescription = \"A test.\"\nlicence = \"MIT\"\n{inputs}{}{}{}",
        case.name,
        spec("output", "y", &case.shapes[1]),
        variant("device"),
        variant("hub")
    );
    fs::write(path.join("model.toml"), text)?;
    Ok(path)
}

fn ask(client: &Client, case: &Case, shapes: &[Vec<usize>], policy: &str) -> Result<(u16, String, Option<Vec<usize>>)> {
    let input = |(name, shape): (&&str, &Vec<usize>)| {
        let ones = vec!["1"; shape.iter().product()].join(",");
        format!(r#"{{"name":"{name}","datatype":"FP32","shape":{shape:?},"data":[{ones}]}}"#)
    };
    let inputs: Vec<String> = case.inputs.iter().zip(shapes).map(input).collect();
    let body = format!(r#"{{"parameters":{{"policy":"{policy}"}},"inputs":[{}]}}"#, inputs.join(","));
    let json = [("Content-Type", "application/json".to_owned())];
    let reply = client.post(&format!("/v2/models/{}/infer", case.name), &json, body.as_bytes())?;
    let shape = serde_json::from_value(reply.json["outputs"][0]["shape"].clone()).ok();
    Ok((reply.status, reply.json.to_string(), shape))
}

#[test]
fn every_shape_that_the_runtime_runs_is_published_and_served() {
    story(|site| {
        let mut hub = site.hub()?;
        hub.start()?;
        let mut agent = site.agent("kitchen")?;
        for case in cases() {
            hub.push(&folder(site, &case)?, &[])?.ok()?;
            agent.config().set(&format!("models.{}.policy", case.name), "prefer-device")?;
        }
        agent.enrol(&hub)?;
        agent.start()?;
        for case in cases() {
            agent.wait_version(case.name, 1)?;
        }
        agent.wait_hub(true)?;
        let client = agent.client()?;
        for case in cases() {
            for (inputs, output) in &case.requests {
                for policy in ["only-device", "only-hub"] {
                    let (status, said, shape) = ask(&client, &case, inputs, policy)?;
                    let told = format!("{} by {policy}, {inputs:?}: {status} {said}", case.name);
                    ensure!(status == 200 && shape.as_ref() == Some(output), "{told}");
                }
            }
        }
        // Sizes that do not match each other are the request's fault, reported by the operator, and the hub is not
        // tried.
        let cases = cases();
        let two = cases.iter().find(|case| case.name == "two-inputs").into_iter();
        for (case, policy) in
            two.flat_map(|case| ["only-device", "only-hub", "prefer-device", "prefer-hub"].map(|policy| (case, policy)))
        {
            let asked = || {
                let (read, of_model) = (hub.metrics()?, [("model", case.name)]);
                let names = ["sanderling_requests_total", "sanderling_request_failures_total"];
                Ok::<f64, anyhow::Error>(names.iter().map(|name| read.sum(name, &of_model)).sum())
            };
            let before = asked()?;
            let (status, said, _shape) = ask(&client, case, &[vec![2], vec![3]], policy)?;
            ensure!(status == 400 && said.contains("Add"), "{policy}: {status} {said}");
            if policy.ends_with("device") {
                ensure!(asked()? == before, "{policy}: the hub was asked as well");
            }
        }
        Ok(())
    });
}

#[test]
fn no_start_of_a_daemon_doubts_the_runtime_that_it_ships_with() {
    story(|site| {
        let mut hub = site.hub()?;
        let mut agent = site.agent("kitchen")?;
        for isolation in ["process", "none"] {
            hub.config().set("inference.isolation", isolation)?;
            agent.config().set("engine.isolation", isolation)?;
            agent.config().set("log.filter", "debug")?;
            hub.start()?;
            agent.start()?;
            for log in [hub.daemon()?.log()?, agent.daemon()?.log()?] {
                ensure!(!log.contains("compatibility issues"), "{isolation}: {log}");
            }
            // The shapes that really run are reported for each engine.
            let status = agent.status()?;
            ensure!(status["engines"][0].to_string().contains("CPUExecutionProvider"), "{status}");
            hub.stop()?;
            agent.stop()?;
        }
        Ok(())
    });
}
