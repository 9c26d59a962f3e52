//! Tests of `cloud-hub model inspect`, which describes a model file without a hub.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use testkit::binaries::{ONNXRUNTIME_ENV, workspace};
use testkit::{Finished, story};

fn inspect(site: &testkit::Site, model: &Path, arguments: &[&str]) -> Result<Finished> {
    let binaries = site.binaries();
    let mut command = Command::new(&binaries.hub);
    command.args(["model", "inspect"]).arg(model).args(arguments).env(ONNXRUNTIME_ENV, &binaries.onnxruntime);
    Finished::run(&mut command)
}

fn digits() -> std::path::PathBuf {
    workspace().join("models/catalog/digits/v1/int8-qdq.onnx")
}

#[test]
fn a_model_is_told_as_table_json_and_page() {
    story(|site| {
        let folder = tempfile::tempdir()?;
        let page = folder.path().join("digits.html");
        let table = inspect(site, &digits(), &["--html", page.to_str().context("a path of text")?])?.ok()?.stdout;
        ensure!(table.contains("QuantizeLinear") && table.contains("MAC"), "{table}");
        let page = fs::read_to_string(page)?;
        ensure!(page.starts_with("<!doctype html>") && page.contains("<svg"), "{page}");

        let one: Value = serde_json::from_str(&inspect(site, &digits(), &["--json"])?.ok()?.stdout)?;
        ensure!(one["engines"][1]["engine"] == "ort" && one["engines"][1]["can_run"] == true, "{}", one["engines"]);
        let batch = one["dims"].as_object().and_then(|dims| dims.keys().next()).context("the batch is open")?;
        let ten = inspect(site, &digits(), &["--json", "--dim", &format!("{batch}=10")])?.ok()?.stdout;
        let ten: Value = serde_json::from_str(&ten)?;
        ensure!(one["macs"].as_u64().map(|macs| macs * 10) == ten["macs"].as_u64(), "{} {}", one["macs"], ten["macs"]);
        Ok(())
    });
}

#[test]
fn what_is_no_model_or_no_dimension_is_refused_with_a_number() {
    story(|site| {
        let folder = tempfile::tempdir()?;
        let broken = folder.path().join("broken.onnx");
        fs::write(&broken, [0xff; 100])?;
        ensure!(inspect(site, &broken, &[])?.code == Some(3));
        ensure!(inspect(site, &folder.path().join("absent.onnx"), &[])?.code == Some(4));
        let refused = inspect(site, &digits(), &["--dim", "nonsense=3"])?;
        ensure!(refused.code == Some(2) && refused.stderr.contains("no open dimension"), "{}", refused.stderr);
        Ok(())
    });
}
