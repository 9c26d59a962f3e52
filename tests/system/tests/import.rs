//! Tests of `cloud-hub model init` on folders of other programs: Hugging Face and Triton.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};
use testkit::binaries::ONNXRUNTIME_ENV;
use testkit::digits::catalog;
use testkit::{Digits, Finished, Site, story};

/// Exit code for a folder that is wrong.
const INPUT: i32 = 3;

fn model(site: &Site, verb: &str, folder: &Path, further: &[&str]) -> Result<Finished> {
    let mut command = Command::new(&site.binaries().hub);
    command.args(["model", verb]).arg(folder).args(further);
    Finished::run(command.env(ONNXRUNTIME_ENV, &site.binaries().onnxruntime))
}

/// Makes a folder of Hugging Face out of the digits.
fn hugging_face(site: &Site, name: &str, config: &str) -> Result<PathBuf> {
    let folder = site.folder().join(name);
    fs::create_dir_all(folder.join("onnx"))?;
    fs::copy(catalog().join("v1/int8-qdq.onnx"), folder.join("onnx/model_quantized.onnx"))?;
    fs::copy(catalog().join("v1/full.onnx"), folder.join("onnx/model.onnx"))?;
    fs::write(folder.join("config.json"), config)?;
    Ok(folder)
}

/// Makes a model of a Triton repository out of the digits.
fn triton(site: &Site, name: &str, config: &str) -> Result<PathBuf> {
    let folder = site.folder().join("repository").join(name);
    for version in ["1", "3", "10"] {
        fs::create_dir_all(folder.join(version))?;
        fs::copy(catalog().join("v1/full.onnx"), folder.join(version).join("model.onnx"))?;
    }
    fs::write(folder.join("labels.txt"), "zero\none\ntwo\nthree\nfour\nfive\nsix\nseven\neight\nnine\n")?;
    fs::write(folder.join("config.pbtxt"), config)?;
    Ok(folder)
}

const IDS: &str = r#"{"model_type": "resnet", "id2label": {"0": "zero", "1": "one \"1\"", "2": "2", "3": "3", "4": "4", "5": "5", "6": "6", "7": "7", "8": "8", "9": "n\u00edne"}}"#;

const CONFIG: &str = r#"
name: "numbers"
platform: "onnxruntime_onnx"
max_batch_size: 8
input [ { name: "image" data_type: TYPE_FP32 dims: [ 1, 28, 28 ] } ]
output [ { name: "logits" data_type: TYPE_FP32 dims: [ 10 ] label_filename: "labels.txt" } ]
"#;

#[test]
fn a_folder_of_hugging_face_becomes_a_version_that_is_calibrated_and_published() {
    story(|site| {
        let folder = hugging_face(site, "Digits", IDS)?;
        model(site, "init", &folder, &[])?.ok()?;
        let form: toml::Table = fs::read_to_string(folder.join("model.toml"))?.parse()?;
        ensure!(form["model"].as_str() == Some("digits"), "{form}");
        ensure!(
            form["labels"][1].as_str() == Some("one \"1\"") && form["labels"][9].as_str() == Some("níne"),
            "{form}"
        );
        ensure!(form["variant"][0]["file"].as_str() == Some("onnx/model_quantized.onnx"), "{form}");
        ensure!(form["variant"][1]["file"].as_str() == Some("onnx/model.onnx"), "{form}");
        let examples = site.folder().join("examples.npz");
        Digits::load()?.write_examples(&examples, 600)?;
        let data = ["--data", examples.to_str().unwrap_or_default(), "--alpha", "5%"];
        model(site, "calibrate", &folder, &data)?.ok()?;
        let mut hub = site.hub()?;
        hub.start()?;
        hub.publish(&folder, &[])?.ok().map(drop)
    });
}

#[test]
fn the_image_processor_of_hugging_face_becomes_preprocessing_and_pictures_calibrate_the_version() {
    story(|site| {
        let folder = hugging_face(site, "digits", IDS)?;
        let processor = r#"{"do_normalize": true, "do_resize": true, "image_mean": [0.0], "image_std": [1.0], "resample": 3, "size": 28}"#;
        fs::write(folder.join("preprocessor_config.json"), processor)?;
        model(site, "init", &folder, &[])?.ok()?;
        let text = fs::read_to_string(folder.join("model.toml"))?;
        let form: toml::Table = text.parse()?;
        let rule = &form["preprocess"]["image"];
        ensure!(rule["filter"].as_str() == Some("bicubic") && rule["kind"].as_str() == Some("picture"), "{text}");
        ensure!(rule.get("size").is_none(), "the size of the input is said again: {text}");
        let pictures = site.folder().join("pictures");
        Digits::load()?.write_pictures(&pictures, 0..600)?;
        let data = ["--data", pictures.to_str().unwrap_or_default(), "--alpha", "5%"];
        model(site, "calibrate", &folder, &data)?.ok()?;
        // Steps that no rule does: the rest is imported, and the reason is a warning.
        let other = hugging_face(site, "other", IDS)?;
        fs::write(other.join("preprocessor_config.json"), processor.replace("\"size\": 28", "\"crop_pct\": 0.9"))?;
        let warned = model(site, "init", &other, &[])?.ok()?;
        ensure!(warned.stderr.contains("it has crop_pct, which [preprocess] does not have"), "{}", warned.stderr);
        let broken = hugging_face(site, "broken", IDS)?;
        fs::write(broken.join("preprocessor_config.json"), processor.replace("28", "30"))?;
        let refused = model(site, "init", &broken, &[])?;
        ensure!(refused.code == Some(INPUT) && refused.stderr.contains("is not the size of the input"), "{refused:?}");
        Ok(())
    });
}

#[test]
fn a_model_of_a_triton_repository_keeps_its_version_and_labels() {
    story(|site| {
        let folder = triton(site, "numbers", CONFIG)?;
        model(site, "init", &folder, &[])?.ok()?;
        let form: toml::Table = fs::read_to_string(folder.join("model.toml"))?.parse()?;
        ensure!(form["version"].as_integer() == Some(10) && form["labels"][9].as_str() == Some("nine"), "{form}");
        ensure!(form["variant"][0]["file"].as_str() == Some("10/model.onnx"), "{form}");
        let repository = model(site, "init", &site.folder().join("repository"), &[])?;
        ensure!(repository.code == Some(INPUT) && repository.stderr.contains("the models numbers"), "{repository:?}");
        Ok(())
    });
}

#[test]
fn a_folder_that_contradicts_itself_is_refused_with_what_is_wrong() {
    story(|site| {
        let cases = [
            ("onnxruntime_onnx", "tensorrt_plan", "its platform is \"tensorrt_plan\""),
            ("\"logits\"", "\"scores\"", "names the output \"scores\", and 10/model.onnx has logits"),
            ("labels.txt", "../labels.txt", "no name of a file in the folder"),
            ("labels.txt", "/etc/passwd", "no name of a file in the folder"),
            ("labels.txt", "missing.txt", "missing.txt"),
            ("max_batch_size: 8", "max_batch_size: 8 }", "line 4"),
            ("max_batch_size: 8", "default_model_filename: \"other.onnx\"", "no version has a file \"other.onnx\""),
        ];
        for (at, (from, to, told)) in cases.into_iter().enumerate() {
            let folder = triton(site, &format!("wrong-{at}"), &CONFIG.replacen(from, to, 1))?;
            let refused = model(site, "init", &folder, &[])?;
            ensure!(refused.code == Some(INPUT) && refused.stderr.contains(told), "{to}: {refused:?}");
            ensure!(!folder.join("model.toml").exists(), "{to}: a form was written");
        }
        let cases = [
            ("{", "EOF"),
            (r#"{"id2label": ["a"]}"#, "id2label is no object"),
            (r#"{"id2label": {"0": "a", "2": "b"}}"#, "2 classes and no class 1"),
            (r#"{"id2label": {"0": 1}}"#, "no text for class 0"),
        ];
        for (at, (config, told)) in cases.into_iter().enumerate() {
            let refused = model(site, "init", &hugging_face(site, &format!("wrong-{at}"), config)?, &[])?;
            ensure!(refused.code == Some(INPUT) && refused.stderr.contains(told), "{config}: {refused:?}");
        }
        // Labels that fit no output are left out, and that is said.
        let few = hugging_face(site, "few", r#"{"id2label": {"0": "a", "1": "b"}}"#)?;
        let done = model(site, "init", &few, &[])?.ok()?;
        ensure!(done.stderr.contains("the 2 labels of the folder fit no output"), "{done:?}");
        let empty = site.folder().join("empty");
        fs::create_dir(&empty)?;
        let refused = model(site, "init", &empty, &[])?;
        ensure!(refused.code == Some(INPUT) && refused.stderr.contains("config.pbtxt (Triton)"), "{refused:?}");
        Ok(())
    });
}
