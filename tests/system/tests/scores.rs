//! Tests of scores: rules that cannot be right are refused at the push, scores by sigmoid and by a class axis defer
//! uncertain results, and a version without a threshold reports where its requests go.

mod cases;

use anyhow::{Context, Result, ensure};
use cases::{Case, ask, dense, names, value};
use onnx_graph::proto::NodeProto;
use serde_json::{Value, json};
use testkit::author::ModelFolder;
use testkit::digits::catalog;
use testkit::{Agent, Hub, Site, story, wait};

/// Returns the model `logits = x @ [[1,0,0],[0,1,0]]`, with two dimensions of size 1 after the classes.
fn class_axis_second(score: &str) -> Case {
    let weights = dense("w", &[2, 3], &[1.0, 0.0, 0.0, 0.0, 1.0, 0.0]);
    let axes = cases::longs("axes", &[2, 3]);
    let nodes = vec![
        NodeProto::new("Gemm", "g", &["x", "w"], &["g"]),
        NodeProto::new("Unsqueeze", "u", &["g", "axes"], &["logits"]),
    ];
    Case::new("class-axis", nodes, vec![value("x", "n,2")], vec![value("logits", "n,3,1,1")], vec![weights, axes])
        .scored(score, 0.9)
}

/// Returns the model `logits = x @ [[1],[0]]`: one logit.
fn single_logit(score: &str) -> Case {
    let nodes = vec![NodeProto::new("Gemm", "g", &["x", "w"], &["logits"])];
    let weights = dense("w", &[2, 1], &[1.0, 0.0]);
    Case::new("single-logit", nodes, vec![value("x", "n,2")], vec![value("logits", "n,1")], vec![weights])
        .scored(score, 0.9)
}

const LAST_AXIS: &str = "kind = \"top1-probability\"\noutput = \"logits\"\nfrom = \"logits\"\n";

#[test]
fn a_rule_that_cannot_be_right_is_refused_at_the_push() {
    story(|site| {
        let mut hub = site.hub()?;
        hub.start()?;
        for (case, word) in [
            (class_axis_second(LAST_AXIS), "axis = 1"),
            (class_axis_second(&format!("{LAST_AXIS}axis = 9\n")), "does not exist"),
            (single_logit(LAST_AXIS), "sigmoid"),
            (single_logit("kind = \"sigmoid\"\noutput = \"logits\"\nfrom = \"logits\"\naxis = 1\n"), "axis"),
            (class_axis_second(&format!("{LAST_AXIS}axis = 1\n")).labels(&["a", "b"]), "`labels` names 2"),
        ] {
            let refused = hub.push(&case.write(site)?, &["--force"])?;
            ensure!(refused.code != Some(0) && refused.stderr.contains(word), "{word}: {}", refused.stderr);
        }
        // The values of a golden file provide what the shape does not.
        let catalog = catalog().join("v1");
        ensure!(catalog.is_dir(), "{}", catalog.display());
        let folder = ModelFolder::copy(site, "v1", 1)?;
        folder.edit(|text| text.replace("from = \"logits\"", "from = \"probabilities\""))?;
        let refused = hub.push(folder.path(), &[])?;
        ensure!(refused.code != Some(0) && refused.stderr.contains("is not a probability"), "{}", refused.stderr);
        Ok(())
    });
}

#[test]
fn a_cascade_defers_what_scores_by_axis_and_sigmoid_are_unsure_of() {
    story(|site| {
        let mut hub = site.hub()?;
        hub.start()?;
        hub.push(&class_axis_second(&format!("{LAST_AXIS}axis = 1\n")).write(site)?, &[])?.ok()?;
        hub.push(&single_logit("kind = \"sigmoid\"\noutput = \"logits\"\nfrom = \"logits\"\n").write(site)?, &[])?
            .ok()?;
        let agent = following(site, &hub, &["class-axis", "single-logit"])?;
        let score = |model: &str, x: [f32; 2]| -> Result<(f64, String)> {
            let answer = ask(&agent, model, "x", "FP32", &[1, 2], json!(x), &json!({"policy": "cascade"}))?;
            let score = answer["parameters"]["score"].as_f64().with_context(|| format!("no score in {answer}"))?;
            Ok((score, answer["parameters"]["reason"].as_str().unwrap_or_default().to_owned()))
        };
        let (even, reason) = score("class-axis", [0.0, 0.0])?;
        ensure!((even - 1.0 / 3.0).abs() < 1e-6 && reason == "low-confidence", "{even} {reason}");
        let (sure, reason) = score("class-axis", [9.0, 0.0])?;
        ensure!(sure > 0.99 && reason == "confident", "{sure} {reason}");
        let (even, reason) = score("single-logit", [0.0, 0.0])?;
        ensure!((even - 0.5).abs() < 1e-6 && reason == "low-confidence", "{even} {reason}");
        for sure in [9.0, -9.0] {
            let (score, reason) = score("single-logit", [sure, 0.0])?;
            ensure!(score > 0.99 && reason == "confident", "{sure}: {score} {reason}");
        }
        // A NaN has no score, and is never confident.
        let nan = cases::ask_raw(&agent, "single-logit", "x", "FP32", &[1, 2], &f32::NAN.to_le_bytes().repeat(2))?;
        ensure!(nan["parameters"]["reason"] == "no-score" && nan["parameters"]["place"] == "hub", "{nan}");
        let counts = hub.model("single-logit")?["answered"].clone();
        ensure!(counts.as_array().is_some_and(|counts| !counts.is_empty()), "the hub counts why: {counts}");
        Ok(())
    });
}

#[test]
fn a_version_without_a_threshold_needs_force_and_says_where_its_requests_go() {
    story(|site| {
        let mut hub = site.hub()?;
        hub.start()?;
        let first = hub.push(&catalog().join("v2"), &[])?.ok()?;
        ensure!(!first.stderr.contains("no threshold"), "{}", first.stderr);
        let mut agent = site.agent("kitchen")?;
        agent.config().set("models.digits.policy", "cascade")?;
        agent.enrol(&hub)?;
        agent.start()?;
        agent.wait_version("digits", 2)?;
        let folder = ModelFolder::copy(site, "v2", 3)?;
        folder.edit(|text| {
            let kept = text.lines().filter(|line| !line.starts_with("threshold") && !line.starts_with("calibration"));
            kept.collect::<Vec<_>>().join("\n") + "\n"
        })?;
        let refused = hub.push(folder.path(), &[])?;
        for word in ["no threshold", "worse than version 2", "--force"] {
            ensure!(refused.code != Some(0) && refused.stderr.contains(word), "{word}: {}", refused.stderr);
        }
        let forced = hub.push(folder.path(), &["--force"])?.ok()?;
        ensure!(forced.stderr.contains("every request goes to the hub"), "{}", forced.stderr);
        agent.wait_version("digits", 3)?;
        agent.wait_hub(true)?;
        let digits = testkit::Digits::load()?;
        agent.client()?.infer("digits", &[digits.input(0)], &testkit::InferOptions::policy("cascade"))?.ok()?;
        let reasons = agent.status()?["models"][0]["reasons"].clone();
        let why = json!({"place": "hub", "reason": "not-calibrated", "answers": 1});
        ensure!(reasons.as_array().is_some_and(|reasons| reasons.contains(&why)), "{reasons}");
        for verb in ["status", "doctor"] {
            let said = agent.run([verb])?.stdout;
            ensure!(said.contains("no threshold: every request goes to the hub"), "{verb}: {said}");
        }
        let said = hub.run(["model", "status", "digits"])?.ok()?.stdout;
        ensure!(said.contains("no threshold") && said.contains("not-calibrated"), "{said}");
        Ok(())
    });
}

#[test]
fn a_push_that_takes_something_away_is_refused_with_the_list() {
    story(|site| {
        let mut hub = site.hub()?;
        hub.start()?;
        hub.push(&catalog().join("v1"), &[])?.ok()?;
        type Edit = fn(&str) -> String;
        let edits: [(&str, Edit); 3] = [
            ("class 0 is called", |text| text.replacen("labels = [\"0\"", "labels = [\"zero\"", 1)),
            ("no golden inputs", |text| {
                text.split("[variant.golden]").next().unwrap_or_default().to_owned() + &hub_variant()
            }),
            ("no score rule", |text| without_table(text, "[score]")),
        ];
        for (at, (word, edit)) in (2_u64..).zip(edits) {
            let folder = ModelFolder::copy(site, "v1", at)?;
            folder.edit(edit)?;
            let refused = hub.push(folder.path(), &[])?;
            ensure!(refused.code != Some(0) && refused.stderr.contains(word), "{word}: {}", refused.stderr);
        }
        Ok(())
    });
}

/// Returns a variant for the hub without golden inputs.
fn hub_variant() -> String {
    "\n[[variant]]\nname = \"full\"\nruns_on = \"hub\"\nengines = [\"ort\"]\nprecision = \"fp32\"\nfile = \"full.onnx\"\n".to_owned()
}

/// Removes one table from a `model.toml`.
fn without_table(text: &str, table: &str) -> String {
    let (before, rest) = text.split_once(table).unwrap_or((text, ""));
    let after = rest.find("\n[").map_or("", |at| &rest[at..]);
    format!("{before}{after}")
}

fn following(site: &Site, hub: &Hub, models: &[&str]) -> Result<Agent> {
    let mut agent = site.agent("kitchen")?;
    for model in models {
        agent.config().set(&format!("models.{model}.policy"), "cascade")?;
    }
    agent.enrol(hub)?;
    agent.start()?;
    for model in models {
        agent.wait_version(model, 1)?;
    }
    agent.wait_hub(true)?;
    Ok(agent)
}

#[test]
fn outputs_that_are_inputs_come_back_unchanged_from_device_and_hub() {
    story(|site| {
        let mut hub = site.hub()?;
        hub.start()?;
        let case = |name: &str, kind: &str, operator: &str| {
            let nodes = vec![NodeProto::new(operator, "o", &["x"], &["y"])];
            let io = |name: &str| cases::typed(name, kind, "n,3");
            Case::new(name, nodes, vec![io("x")], vec![io("x"), io("y")], vec![])
        };
        for (name, kind, operator) in [("pass-f32", "FP32", "Relu"), ("pass-i64", "INT64", "Neg")] {
            hub.push(&case(name, kind, operator).write(site)?, &[])?.ok()?;
        }
        let agent = following(site, &hub, &["pass-f32", "pass-i64"])?;
        for (model, kind) in [("pass-f32", "FP32"), ("pass-i64", "INT64")] {
            for policy in ["only-device", "only-hub"] {
                for batch in 1..=8_usize {
                    for outputs in [None, Some(vec!["x"]), Some(vec!["y", "x"])] {
                        let data: Vec<u64> = (0..batch as u64 * 3).map(|at| at + 5).collect();
                        let mut more = json!({"policy": policy});
                        if let Some(outputs) = outputs {
                            more["outputs"] = names(&outputs);
                        }
                        let answer = ask(&agent, model, "x", kind, &[batch, 3], json!(data), &more)?;
                        let outputs = answer["outputs"].as_array().cloned().unwrap_or_default();
                        let x = outputs.iter().find(|output| output["name"] == "x").context("output x")?;
                        let given: Vec<f64> = numbers(&x["data"]);
                        let asked: Vec<f64> =
                            data.iter().map(|&number| f64::from(u32::try_from(number).unwrap_or(0))).collect();
                        ensure!(given == asked, "{model} {policy} batch {batch}: {given:?}");
                    }
                }
            }
        }
        Ok(())
    });
}

fn numbers(data: &Value) -> Vec<f64> {
    data.as_array().into_iter().flatten().filter_map(Value::as_f64).collect()
}

#[test]
fn names_of_dimensions_are_free_text_and_an_unknown_rank_takes_any_shape() {
    story(|site| {
        let mut hub = site.hub()?;
        hub.start()?;
        let long: Vec<String> = (2..20).map(|at| format!("floor(height/{at} - 1/2)")).collect();
        let long = long.join(" + ");
        let relu = || vec![NodeProto::new("Relu", "r", &["x"], &["y"])];
        let dims = format!("{long},3");
        let case = |name: &str| Case::new(name, relu(), vec![value("x", "n,3")], vec![value("y", &dims)], vec![]);
        hub.push(&case("long").write(site)?, &[])?.ok()?;
        hub.push(&case("question").declared("y", Some("?,3")).write(site)?, &[])?.ok()?;
        hub.push(&case("both").declared("y", Some("?,?")).declared("x", Some("?,?")).write(site)?, &[])?.ok()?;
        hub.push(&case("left-out").declared("y", None).declared("x", None).write(site)?, &[])?.ok()?;
        hub.push(&case("renamed").declared("x", Some("batch,3")).write(site)?, &[])?.ok()?;
        let wrong = hub.push(&case("wrong").declared("x", Some("n,4")).write(site)?, &[])?;
        ensure!(wrong.code != Some(0), "a size that is not the model's is refused: {}", wrong.stdout);
        let open = Case::new("open", relu(), vec![cases::ranked("x", None)], vec![cases::ranked("y", None)], vec![]);
        hub.push(&open.write(site)?, &[])?.ok()?;
        let agent = following(site, &hub, &["long", "open"])?;
        for policy in ["only-device", "only-hub"] {
            for shape in [&[3][..], &[2, 2], &[1, 2, 3]] {
                let count: usize = shape.iter().product();
                let data: Vec<f32> = (0..count).map(|at| f32::from(u8::try_from(at).unwrap_or(0))).collect();
                let answer = ask(&agent, "open", "x", "FP32", shape, json!(data), &json!({"policy": policy}))?;
                ensure!(numbers(&answer["outputs"][0]["data"]).len() == count, "{policy} {shape:?}: {answer}");
            }
            let answer =
                ask(&agent, "long", "x", "FP32", &[2, 3], json!([1, 2, 3, 4, 5, 6]), &json!({"policy": policy}))?;
            ensure!(answer["outputs"][0]["shape"] == json!([2, 3]), "{answer}");
        }
        wait::until_true("the device is still there", || Ok(agent.status()?["models"].is_array()))
    });
}

#[test]
fn a_run_that_takes_too_much_memory_is_refused_at_the_push() {
    story(|site| {
        let mut hub = site.hub()?;
        hub.start()?;
        let nodes = || {
            vec![
                NodeProto::new("ConstantOfShape", "c", &["s"], &["c"]),
                NodeProto::new("ReduceMax", "r", &["c"], &["r"]),
                NodeProto::new("Add", "a", &["x", "r"], &["y"]),
            ]
        };
        let case = |name: &str, rows: i64| {
            let shape = cases::longs("s", &[rows, 1024, 1024]);
            Case::new(name, nodes(), vec![value("x", "1,4")], vec![value("y", "?,?,?")], vec![shape])
        };
        let refused = hub.push(&case("much", 1536).write(site)?, &[])?;
        for word in ["over the limit of 2147483648", "\"c\"", "run_memory_max_bytes"] {
            ensure!(refused.code != Some(0) && refused.stderr.contains(word), "{word}: {}", refused.stderr);
        }
        hub.push(&case("little", 1).write(site)?, &[])?.ok().map(drop)
    });
}
