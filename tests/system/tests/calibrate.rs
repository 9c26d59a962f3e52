//! Tests of `cloud-hub model calibrate | evaluate | compare`: from a folder and labelled examples to a cascade that a device runs.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};
use serde_json::Value;
use testkit::author::ModelFolder;
use testkit::binaries::ONNXRUNTIME_ENV;
use testkit::digits::catalog;
use testkit::{Digits, Finished, InferOptions, Site, story};

/// Exit code for a result that is not what was asked for.
const FAILED: i32 = 1;

/// Exit code for a file that is there already.
const CONFLICT: i32 = 7;

/// Exit code for a folder or examples that are wrong.
const INPUT: i32 = 3;

fn model(site: &Site, arguments: &[&str]) -> Result<Finished> {
    let mut command = Command::new(&site.binaries().hub);
    command.arg("model").args(arguments).env(ONNXRUNTIME_ENV, &site.binaries().onnxruntime);
    Finished::run(&mut command)
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap_or_default()
}

/// Returns the thresholds of a folder's device variants.
fn thresholds(folder: &Path) -> Result<Vec<String>> {
    let form = fs::read_to_string(folder.join("model.toml"))?;
    Ok(form.lines().filter_map(|line| line.strip_prefix("threshold = ").map(str::to_owned)).collect())
}

#[test]
fn a_calibration_finds_the_thresholds_of_the_catalog_and_keeps_the_rest_of_the_form() {
    story(|site| {
        let folder = ModelFolder::copy(site, "v1", 1)?;
        let form = folder.path().join("model.toml");
        let before = fs::read_to_string(&form)?;
        let examples = site.folder().join("calibration.npz");
        Digits::load()?.write_examples(&examples, 1000)?;
        let arguments = ["calibrate", text(folder.path()), "--data", text(&examples), "--alpha", "1%", "--keep-score"];
        model(site, &[&arguments[..], &["--dry-run"]].concat())?.ok()?;
        ensure!(fs::read_to_string(&form)? == before, "a dry run changed the form");
        model(site, &arguments)?.ok()?;
        // A run that is cut off before it writes the form leaves what that form names.
        let curve = "int8-qdq.calibration.json";
        ensure!(
            fs::read(folder.path().join(curve))? == fs::read(catalog().join("v1").join(curve))?,
            "the old curve is gone"
        );
        // The recipe of the catalog computes them in Python.
        ensure!(thresholds(folder.path())? == thresholds(&catalog().join("v1"))?, "{:?}", thresholds(folder.path())?);
        let after = fs::read_to_string(&form)?;
        ensure!(after.lines().next() == before.lines().next() && !after.contains("score = {"), "{after}");

        // A variant's own score is kept when that is asked for.
        folder.edit(|form| {
            let own = "score = { kind = \"margin\", output = \"logits\", from = \"logits\" }\nthreshold = ";
            form.replacen("threshold = ", own, 1)
        })?;
        model(site, &arguments)?.ok()?;
        let margin = fs::read_to_string(&form)?;
        ensure!(margin.matches("kind = \"margin\"").count() == 1, "{margin}");
        let (before, after) = (thresholds(&catalog().join("v1"))?, thresholds(folder.path())?);
        ensure!(before[0] != after[0] && before[1] == after[1], "{before:?} {after:?}");
        Ok(())
    });
}

#[test]
fn too_few_examples_show_nothing_and_the_error_says_how_many_are_missing() {
    story(|site| {
        let folder = ModelFolder::copy(site, "v1", 1)?;
        let examples = site.folder().join("few.npz");
        Digits::load()?.write_examples(&examples, 120)?;
        let ended = model(site, &["calibrate", text(folder.path()), "--data", text(&examples), "--alpha", "1%"])?;
        ensure!(ended.code == Some(FAILED) && ended.stderr.contains("179 more examples"), "{ended:?}");
        ensure!(thresholds(folder.path())?.is_empty(), "a threshold that is not shown stays");
        let wrong = model(site, &["calibrate", text(folder.path()), "--data", text(&examples), "--alpha", "2"])?;
        ensure!(wrong.stderr.contains("like 2% or 0.02"), "{wrong:?}");
        let missing = model(site, &["evaluate", text(site.folder()), "--data", text(&examples)])?;
        ensure!(missing.code == Some(INPUT), "{missing:?}");
        Ok(())
    });
}

#[test]
fn a_calibrated_folder_cascades_on_a_device_as_it_was_evaluated() {
    story(|site| {
        let digits = Digits::load()?;
        let folder = ModelFolder::copy(site, "v1", 1)?;
        let examples = site.folder().join("calibration.npz");
        digits.write_examples(&examples, 1000)?;
        // Without [score] and thresholds, as a new folder is.
        folder.edit(|form| {
            let (head, rest) = form.split_once("[score]").unwrap_or((form, ""));
            let rest = rest.find("[[variant]]").map_or("", |at| &rest[at..]);
            let kept = rest.lines().filter(|line| !line.starts_with("threshold") && !line.starts_with("calibration"));
            format!("{head}{}\n", kept.collect::<Vec<_>>().join("\n"))
        })?;
        let data = ["--data", text(&examples)];
        model(site, &[&["calibrate", text(folder.path())][..], &data, &["--alpha", "5%"]].concat())?.ok()?;
        let evaluated = model(site, &[&["evaluate", text(folder.path())][..], &data, &["--json"]].concat())?.ok()?;
        let evaluated: Value = serde_json::from_str(&evaluated.stdout)?;
        let models = evaluated["models"].as_array().cloned().unwrap_or_default();
        let cascade =
            models.iter().find(|one| one["name"].as_str().is_some_and(|name| name.starts_with("cascade int8")));
        let deferred = cascade.and_then(|one| one["deferred"]["value"].as_f64()).unwrap_or(-1.0);
        ensure!((0.01..0.5).contains(&deferred), "{evaluated}");

        let mut hub = site.hub()?;
        hub.start()?;
        hub.publish(folder.path(), &[])?.ok()?;
        let mut agent = site.agent("device")?;
        agent.enrol(&hub)?;
        agent.start()?;
        agent.wait_version("digits", 1)?;
        let client = agent.client()?;
        let (mut at_the_hub, asked) = (0, 300);
        for index in 0..asked {
            let reply = client.infer("digits", &[digits.input(index)], &InferOptions::policy("cascade"))?;
            ensure!(reply.status == 200, "{reply:?}");
            at_the_hub += usize::from(reply.parameter("place") == "hub");
        }
        let share = at_the_hub as f64 / asked as f64;
        ensure!((share - deferred).abs() < 0.1, "{share} deferred, {deferred} by the evaluation");
        Ok(())
    });
}

#[test]
fn a_form_begun_by_init_is_calibrated_and_pushed() {
    story(|site| {
        let folder = site.folder().join("letters");
        fs::create_dir(&folder)?;
        for file in ["int8-qdq.onnx", "full.onnx"] {
            fs::copy(catalog().join("v1").join(file), folder.join(file))?;
        }
        let (small, full) = (folder.join("int8-qdq.onnx"), folder.join("full.onnx"));
        let outside = model(site, &["init", text(&small), "--full", text(&catalog().join("v1/full.onnx"))])?;
        ensure!(outside.code == Some(INPUT) && outside.stderr.contains("into one folder"), "{outside:?}");
        let init = ["init", text(&small), "--full", text(&full), "--name", "letters"];
        model(site, &init)?.ok()?;
        let again = model(site, &init)?;
        ensure!(again.code == Some(CONFLICT), "{again:?}");
        let form = fs::read_to_string(folder.join("model.toml"))?;
        ensure!(form.contains("output = \"logits\"\nfrom = \"logits\""), "{form}");

        let examples = site.folder().join("calibration.npz");
        Digits::load()?.write_examples(&examples, 600)?;
        model(site, &["calibrate", text(&folder), "--data", text(&examples), "--alpha", "5%"])?.ok()?;
        ensure!(thresholds(&folder)?.len() == 1, "{}", fs::read_to_string(folder.join("model.toml"))?);
        let mut hub = site.hub()?;
        hub.start()?;
        hub.publish(&folder, &[])?.ok()?;
        Ok(())
    });
}

#[test]
fn a_folder_compressed_with_a_full_model_cascades_as_it_stands() {
    story(|site| {
        let (out, examples) = (site.folder().join("small"), site.folder().join("inputs.npz"));
        Digits::load()?.write_examples(&examples, 500)?;
        let (base, full) = (catalog().join("v1/fp32.onnx"), catalog().join("v1/full.onnx"));
        let files = ["compress", text(&base), "--examples", text(&examples), "--out", text(&out), "--name", "digits"];
        let form = ["--to", "int8-qdq", "--engine", "ort", "--timing-seconds", "1", "--max-loss", "0.1"];
        let full = ["--full", text(&full), "--alpha", "5%", "--json"];
        let made = model(site, &[&files[..], &form, &full].concat())?.ok()?;
        let made: Value = serde_json::from_str(&made.stdout)?;
        // Only examples that did not calibrate the quantization show the threshold.
        let judged = made["judged_on"].as_u64();
        ensure!(judged.is_some() && made["calibration"]["examples"].as_u64() == judged, "judged on {judged:?}");
        // The form given is a variant for devices too.
        ensure!(thresholds(&out)?.len() == 2, "{:?}", thresholds(&out)?);
        ensure!(fs::read(out.join("full.onnx"))? == fs::read(catalog().join("v1/full.onnx"))?, "another full model");
        let evaluated = model(site, &["evaluate", text(&out), "--data", text(&examples)])?.ok()?;
        ensure!(evaluated.stdout.contains("cascade int8-qdq at"), "{}", evaluated.stdout);
        Ok(())
    });
}

#[test]
fn a_comparison_says_which_model_is_better() {
    story(|site| {
        let examples = site.folder().join("examples.npz");
        Digits::load()?.write_examples(&examples, 500)?;
        let (small, full) = (catalog().join("v1/int8-qdq.onnx"), catalog().join("v1/full.onnx"));
        let compared =
            model(site, &["compare", text(&small), text(&full), "--data", text(&examples), "--json"])?.ok()?;
        let compared: Value = serde_json::from_str(&compared.stdout)?;
        ensure!(compared["mcnemar"]["p"].as_f64().is_some_and(|p| p < 0.01), "{compared}");
        let shown = model(site, &["compare", text(&small), text(&full), "--data", text(&examples)])?.ok()?;
        ensure!(shown.stdout.contains("the second model is better"), "{}", shown.stdout);
        let same = model(site, &["compare", text(&full), text(&full), "--data", text(&examples)])?.ok()?;
        ensure!(same.stdout.contains("neither is shown to be better"), "{}", same.stdout);
        Ok(())
    });
}
