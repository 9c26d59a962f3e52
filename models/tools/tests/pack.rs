//! What the packer promises to an author: the whole folder is checked, and a mistake is named by its place.

#![expect(clippy::unwrap_used, reason = "the helpers of a test stop it as its own lines do")]

use std::path::Path;

use bundle::Manifest;
use model_tools::pack::{PackError, pack};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use tempfile::TempDir;

const FORM: &str = r#"schema = 1
model = "digits"
version = 3
task = "classification"
description = "A test."
licence = "MIT"
labels = ["no", "yes"]

[[input]]
name = "x"
datatype = "FP32"
shape = ["batch", 2, "?"]

[[output]]
name = "y"
datatype = "FP32"

[score]
kind = "top1-probability"
output = "y"
from = "logits"

[[variant]]
name = "small"
runs_on = "device"
engines = ["ort"]
precision = "int8"
file = "files/small.onnx"
threshold = 0.9
calibration = "curve.json"

[variant.golden]
file = "small.safetensors"
max_abs = 0.5
top1 = 1

[[variant]]
name = "full"
runs_on = "hub"
engines = ["ort"]
precision = "fp32"
file = "full.onnx"
"#;

fn golden(folder: &Path, name: &str) {
    let values = [1.0_f32, 2.0].map(f32::to_le_bytes).concat();
    let view = |shape: &[usize]| TensorView::new(Dtype::F32, shape.to_vec(), &values).unwrap();
    let tensors = [("input.x", view(&[1, 2, 1])), (name, view(&[1, 2]))];
    std::fs::write(folder.join("small.safetensors"), safetensors::serialize(tensors, None).unwrap()).unwrap();
}

fn author() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    std::fs::create_dir(path.join("files")).unwrap();
    std::fs::write(path.join("model.toml"), FORM).unwrap();
    std::fs::write(path.join("files/small.onnx"), b"small").unwrap();
    std::fs::write(path.join("full.onnx"), vec![7; 3 * 1024 * 1024]).unwrap();
    let curve = r#"{"examples": 10, "confidence": 0.95, "curve": []}"#;
    std::fs::write(path.join("curve.json"), curve).unwrap();
    golden(path, "output.y");
    folder
}

/// Returns what an author reads when the form says `new` in the place of `old`.
fn mistake(old: &str, new: &str) -> String {
    let folder = author();
    let form = FORM.replacen(old, new, 1);
    assert_ne!(form, FORM);
    std::fs::write(folder.path().join("model.toml"), form).unwrap();
    let error = pack(folder.path()).unwrap_err();
    error.to_string().replace(&folder.path().join("model.toml").display().to_string(), "model.toml")
}

#[test]
fn a_folder_becomes_a_manifest_with_digests_of_every_file() {
    let folder = author();
    let packed = pack(folder.path()).unwrap();
    assert_eq!(Manifest::parse(&packed.manifest_bytes).unwrap(), packed.manifest);
    let names: Vec<&str> = packed.files.iter().map(|file| file.reference.name.as_str()).collect();
    assert_eq!(names, ["small.onnx", "small.safetensors", "full.onnx"]);
    assert_eq!(packed.files[2].reference.chunks.len(), 3);
    assert_eq!(packed.files[0].reference.digest, types::Digest::of(b"small"));
    assert_eq!(packed.manifest.variants[0].calibration.as_ref().unwrap().examples, 10);
    assert_eq!(pack(folder.path()).unwrap().manifest_bytes, packed.manifest_bytes, "packing twice gives one text");
}

#[test]
fn a_mistake_in_the_form_is_named_by_line_or_field() {
    let cases = [
        ("schema = 1", "schema = 2", "model.toml: schema (line 1): schema must be 1, not 2"),
        ("licence", "license", "model.toml: license (line 6): unknown field, did you mean `licence`?"),
        ("version = 3", "version = 0", "model.toml: version (line 3): "),
        ("\"digits\"", "\"Digits\"", "model.toml: model (line 2): model name \"Digits\" is not valid"),
        (
            "datatype = \"FP32\"",
            "datatype = \"float\"",
            "model.toml: input[0].datatype (line 11): unknown datatype \"float\"",
        ),
        ("\"batch\", 2", "\"batch\", 2.5", "model.toml: input[0].shape[1] (line 12): "),
        ("max_abs = 0.5\ntop1 = 1", "", "model.toml: variant[0].golden ("),
        ("threshold = 0.9", "threshold = 9.0", "model.toml: variant[0].threshold ("),
        ("output = \"y\"", "output = \"z\"", "model.toml: score.output ("),
        ("name = \"full\"", "name = \"small\"", "model.toml: variant[1].name ("),
        ("name = \"x\"", "name = \"\"", "model.toml: input[0].name ("),
    ];
    for (old, new, expected) in cases {
        let told = mistake(old, new);
        assert!(told.starts_with(expected), "{told}\nshould begin with {expected}");
    }
}

/// The form with every mistake of an unlucky author.
fn unlucky() -> String {
    [
        ("schema = 1", "schema = 2"),
        ("\"digits\"", "\"Digits\""),
        ("version = 3", "version = \"three\""),
        ("task = \"classification\"", "task = \"\""),
        ("licence", "license"),
        ("datatype = \"FP32\"", "datatype = \"float\""),
        ("output = \"y\"", "output = \"z\""),
        ("engines = [\"ort\"]", "engines = [\"tpu\"]"),
        ("precision = \"int8\"", "precision = \"tiny\""),
        ("threshold = 0.9", "threshold = 9.0"),
        ("max_abs = 0.5", "max_abs = -1.0"),
        ("top1 = 1", "top1 = 7"),
        ("runs_on = \"hub\"", "runs_on = \"moon\""),
        ("name = \"full\"", "name = \"small\"\ncolour = \"red\""),
    ]
    .iter()
    .fold(FORM.to_owned(), |form, (old, new)| {
        assert!(form.contains(old), "{old}");
        form.replacen(old, new, 1)
    })
}

#[test]
fn every_mistake_of_the_form_is_told_at_once_with_its_line() {
    let folder = author();
    std::fs::write(folder.path().join("model.toml"), unlucky()).unwrap();
    let told = pack(folder.path()).unwrap_err().to_string();
    for field in [
        "schema (line 1)",
        "model (line 2)",
        "version (line 3)",
        "task (line 4)",
        "license (line 6)",
        "licence",
        "input[0].datatype (line 11)",
        "score.output (line 20)",
        "variant[0].engines[0] (line 26)",
        "variant[0].precision (line 27)",
        "variant[0].threshold (line 29)",
        "variant[0].golden.max_abs (line 34)",
        "variant[0].golden.top1 (line 35)",
        "variant[1].name (line 38)",
        "variant[1].colour (line 39)",
        "variant[1].runs_on (line 40)",
    ] {
        assert!(told.contains(field), "no {field} in:\n{told}");
    }
    assert!(told.lines().all(|line| line.contains("model.toml: ")), "{told}");
}

#[test]
fn every_file_that_is_not_what_it_should_be_is_told_at_once() {
    let folder = author();
    let path = folder.path();
    std::fs::remove_file(path.join("files/small.onnx")).unwrap();
    std::fs::write(path.join("curve.json"), "{}").unwrap();
    std::fs::remove_file(path.join("full.onnx")).unwrap();
    std::fs::create_dir(path.join("full.onnx")).unwrap();
    let told = pack(path).unwrap_err().to_string();
    for file in ["files/small.onnx", "curve.json", "full.onnx"] {
        assert!(told.lines().any(|line| line.contains(file)), "no {file} in:\n{told}");
    }
}

#[test]
fn a_path_that_leaves_the_folder_is_refused() {
    for path in ["../full.onnx", "/etc/passwd", "files/../../x", "./full.onnx", "", "files"] {
        let told = mistake("\"full.onnx\"", &format!("{path:?}"));
        assert!(told.starts_with("model.toml: variant[1].file: "), "{told}");
    }
}

#[test]
fn a_link_is_refused_wherever_it_stands() {
    let folder = author();
    let (full, elsewhere) = (folder.path().join("full.onnx"), folder.path().join("elsewhere.onnx"));
    std::fs::rename(&full, &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &full).unwrap();
    assert!(pack(folder.path()).unwrap_err().to_string().contains("link"));
    let folder = author();
    std::fs::rename(folder.path().join("files"), folder.path().join("real")).unwrap();
    std::os::unix::fs::symlink(folder.path().join("real"), folder.path().join("files")).unwrap();
    assert!(pack(folder.path()).unwrap_err().to_string().contains("link"));
}

#[test]
fn a_missing_file_and_an_endless_form_are_named() {
    let folder = author();
    std::fs::remove_file(folder.path().join("full.onnx")).unwrap();
    let Err(PackError::Read { path, .. }) = pack(folder.path()) else { panic!("a missing file was packed") };
    assert!(path.ends_with("full.onnx"));
    std::fs::write(folder.path().join("model.toml"), vec![b'#'; 2 * 1024 * 1024]).unwrap();
    let Err(PackError::Read { path, .. }) = pack(folder.path()) else { panic!("an endless form was read") };
    assert!(path.ends_with("model.toml"));
}

#[test]
fn two_files_of_one_name_are_refused() {
    let folder = author();
    std::fs::write(folder.path().join("files/full.onnx"), b"another").unwrap();
    let form = FORM.replacen("files/small.onnx", "files/full.onnx", 1);
    std::fs::write(folder.path().join("model.toml"), form).unwrap();
    assert!(pack(folder.path()).unwrap_err().to_string().contains("another file is called full.onnx too"));
}

#[test]
fn an_empty_model_file_is_refused() {
    let folder = author();
    std::fs::write(folder.path().join("full.onnx"), b"").unwrap();
    assert!(pack(folder.path()).unwrap_err().to_string().contains("variant[1].file: size 0"));
}

#[test]
fn a_golden_file_that_does_not_fit_the_model_is_refused() {
    let folder = author();
    golden(folder.path(), "output.z");
    assert!(matches!(pack(folder.path()), Err(PackError::Golden { variant, .. }) if variant == "small"));
    std::fs::write(folder.path().join("small.safetensors"), b"nonsense").unwrap();
    assert!(matches!(pack(folder.path()), Err(PackError::Golden { .. })));
}

#[test]
fn the_catalogue_packs() {
    let catalogue = Path::new(env!("CARGO_MANIFEST_DIR")).join("../catalog/digits");
    for (folder, number) in [("v1", 1), ("v2", 2)] {
        let packed = pack(&catalogue.join(folder)).unwrap();
        assert_eq!(packed.manifest.version.number(), number);
        assert_eq!(packed.manifest.model.as_str(), "digits");
    }
}
