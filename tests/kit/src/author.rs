//! Model folders of authors, changed for a test: another version number, another golden file.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use onnx_graph::proto::{AttributeProto, ModelProto, NodeProto, TensorProto};
use prost::Message as _;
use serde_json::Value;

use crate::binaries::workspace;
use crate::digits::catalog;
use crate::{Hub, Site};

/// A copy of a catalog folder that a test may change.
#[derive(Debug, Clone)]
pub struct ModelFolder {
    path: PathBuf,
}

impl ModelFolder {
    /// Copies `models/catalog/digits/<base>` under the version number `version`.
    ///
    /// The model files are stamped with that number: they produce the same outputs, and no two versions share a file.
    ///
    /// # Errors
    /// Fails when a file cannot be copied or the folder's `model.toml` names no version.
    pub fn copy(site: &Site, base: &str, version: u64) -> Result<Self> {
        let (from, path) = (catalog().join(base), site.folder().join(format!("model-{base}-as-{version}")));
        fs::create_dir_all(&path).with_context(|| format!("make folder {}", path.display()))?;
        for entry in fs::read_dir(&from).with_context(|| format!("read folder {}", from.display()))? {
            let file = entry?.path();
            let name = file.file_name().context("a file name")?;
            if file.is_file() {
                let mut bytes = fs::read(&file).with_context(|| format!("read {}", file.display()))?;
                if file.extension() == Some(OsStr::new("onnx")) {
                    bytes.extend(stamp(version));
                }
                fs::write(path.join(name), bytes).with_context(|| format!("copy {}", file.display()))?;
            }
        }
        let folder = Self { path };
        folder.edit(|text| {
            let lines = text.lines().map(|line| {
                if line.starts_with("version =") { format!("version = {version}") } else { line.to_owned() }
            });
            lines.collect::<Vec<_>>().join("\n") + "\n"
        })?;
        Ok(folder)
    }

    /// Returns the path of the folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Rewrites `model.toml`.
    ///
    /// # Errors
    /// Fails when nothing changes, or the file cannot be read or written.
    pub fn edit(&self, change: impl Fn(&str) -> String) -> Result<()> {
        let path = self.path.join("model.toml");
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        let changed = change(&text);
        fs::write(&path, changed).with_context(|| format!("write {}", path.display()))
    }

    /// Adds an unused initializer of eight-bit numbers without a pattern to a model file: the outputs stay the same.
    ///
    /// # Errors
    /// Fails when the file is no ONNX model, or cannot be read or written.
    pub fn add_weights(&self, file: &str, name: &str, bytes: usize, seed: u64) -> Result<()> {
        let path = self.path.join(file);
        let read = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        let mut model = ModelProto::decode(read.as_slice()).with_context(|| format!("decode {}", path.display()))?;
        let mut state = seed;
        let numbers = std::iter::repeat_with(|| {
            // Constants of Knuth's MMIX generator; the high bits are the random ones.
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            state.to_be_bytes()[0]
        });
        let tensor = TensorProto {
            name: Some(name.to_owned()),
            data_type: Some(3),
            dims: vec![i64::try_from(bytes).context("a length")?],
            raw_data: Some(numbers.take(bytes).collect::<Vec<u8>>().into()),
            ..TensorProto::default()
        };
        model.graph.get_or_insert_default().initializer.push(tensor);
        fs::write(&path, model.encode_to_vec()).with_context(|| format!("write {}", path.display()))
    }

    /// Turns each answer of a classifier into the next class, with the same confidence: a valid model with wrong answers.
    ///
    /// # Errors
    /// Fails when the file is no ONNX model with an output of `classes` scores, or cannot be read or written.
    pub fn answer_wrongly(&self, file: &str, output: &str, classes: u64) -> Result<()> {
        let path = self.path.join(file);
        let read = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        let mut model = ModelProto::decode(read.as_slice()).with_context(|| format!("decode {}", path.display()))?;
        let graph = model.graph.get_or_insert_default();
        let right = format!("{output}_right");
        let made = graph.node.iter_mut().flat_map(|node| &mut node.output).find(|made| *made == output);
        right.clone_into(made.with_context(|| format!("{} has no output {output}", path.display()))?);
        let turned: Vec<u8> = (0..classes).flat_map(|class| ((class + 1) % classes).to_le_bytes()).collect();
        graph.initializer.push(TensorProto {
            name: Some("turned_classes".to_owned()),
            data_type: Some(7),
            dims: vec![i64::try_from(classes).context("a number of classes")?],
            raw_data: Some(turned.into()),
            ..TensorProto::default()
        });
        let axis =
            AttributeProto { name: Some("axis".to_owned()), r#type: Some(2), i: Some(-1), ..AttributeProto::default() };
        graph.node.push(NodeProto {
            op_type: Some("Gather".to_owned()),
            name: Some("turn_classes".to_owned()),
            input: vec![right, "turned_classes".to_owned()],
            output: vec![output.to_owned()],
            attribute: vec![axis],
            ..NodeProto::default()
        });
        fs::write(&path, model.encode_to_vec()).with_context(|| format!("write {}", path.display()))
    }

    /// Adds products of zeros to the answer of a digits classifier: the same answers, some ten times more slowly for each
    /// `layers`, and hardly a larger file.
    ///
    /// # Errors
    /// Fails when the file is no ONNX model with an output `logits`, or cannot be read or written.
    pub fn slow_down(&self, file: &str, layers: usize) -> Result<()> {
        const WIDTH: i64 = 1024;
        let path = self.path.join(file);
        let read = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        let mut model = ModelProto::decode(read.as_slice()).with_context(|| format!("decode {}", path.display()))?;
        let graph = model.graph.get_or_insert_default();
        let made = graph.node.iter_mut().flat_map(|node| &mut node.output).find(|made| *made == "logits");
        "logits_quick".clone_into(made.with_context(|| format!("{} has no output logits", path.display()))?);
        let node = |kind: &str, inputs: &[&str], output: &str| NodeProto {
            op_type: Some(kind.to_owned()),
            name: Some(format!("slow_{output}")),
            input: inputs.iter().map(|input| (*input).to_owned()).collect(),
            output: vec![output.to_owned()],
            ..NodeProto::default()
        };
        let mut sizes = vec![784];
        sizes.extend(std::iter::repeat_n(WIDTH, layers));
        sizes.push(10);
        graph.node.push(node("Flatten", &["image"], "slow_0"));
        for (at, size) in sizes.windows(2).enumerate() {
            let (shape, zeros) = (format!("slow_shape_{at}"), format!("slow_zeros_{at}"));
            graph.initializer.push(TensorProto {
                name: Some(shape.clone()),
                data_type: Some(7),
                dims: vec![2],
                raw_data: Some(size.iter().flat_map(|size| size.to_le_bytes()).collect::<Vec<u8>>().into()),
                ..TensorProto::default()
            });
            graph.node.push(node("ConstantOfShape", &[&shape], &zeros));
            graph.node.push(node("MatMul", &[&format!("slow_{at}"), &zeros], &format!("slow_{}", at + 1)));
        }
        graph.node.push(node("Add", &["logits_quick", &format!("slow_{}", sizes.len() - 1)], "logits"));
        fs::write(&path, model.encode_to_vec()).with_context(|| format!("write {}", path.display()))
    }

    /// Changes one byte of a file at `offset` from its end.
    ///
    /// # Errors
    /// As [`flip_byte`].
    pub fn flip(&self, file: &str, offset_from_end: usize) -> Result<()> {
        flip_byte(&self.path.join(file), offset_from_end)
    }
}

/// Returns one more entry of `ModelProto.metadata_props` (field 14 of the ONNX format), which may be appended to a
/// protobuf message.
fn stamp(version: u64) -> Vec<u8> {
    let (key, value) = (b"stamp", format!("{version:020}"));
    let mut entry = vec![0x0a, 5];
    entry.extend_from_slice(key);
    entry.extend_from_slice(&[0x12, 20]);
    entry.extend_from_slice(value.as_bytes());
    // Tag of field 14, length-delimited, and the entry's length: 2 + 5 + 2 + 20.
    [vec![0x72, 29], entry].concat()
}

/// Writes a folder for `cloud-hub model push` of two model files of `tests/system/fixtures/isolation`, one for devices and one
/// for the hub: each takes and returns four numbers.
///
/// # Errors
/// Fails when a file cannot be copied or written.
pub fn fixture(site: &Site, model: &str, version: u64, device: &str, full: &str) -> Result<PathBuf> {
    let path = site.folder().join(format!("{model}-{version}"));
    fs::create_dir_all(&path)?;
    let fixtures = workspace().join("tests/system/fixtures/isolation");
    for (from, to) in [(device, "device.onnx"), (full, "full.onnx")] {
        let from = fixtures.join(from).with_extension("onnx");
        fs::copy(&from, path.join(to)).with_context(|| format!("copy {}", from.display()))?;
    }
    let tensor =
        |kind: &str, name: &str| format!("[[{kind}]]\nname = \"{name}\"\ndatatype = \"FP32\"\nshape = [1, 4]\n");
    let variant = |name: &str, runs_on: &str| {
        format!(
            "[[variant]]\nname = \"{name}\"\nruns_on = \"{runs_on}\"\nengines = [\"ort\"]\nprecision = \"fp32\"\nfile = \"{name}.onnx\"\n"
        )
    };
    let text = format!(
        "schema = 1\nmodel = \"{model}\"\nversion = {version}\ntask = \"test\"\ndescription = \"A test.\"\nlicence = \"MIT\"\n{}{}{}{}",
        tensor("input", "x"),
        tensor("output", "y"),
        variant("device", "device"),
        variant("full", "hub")
    );
    fs::write(path.join("model.toml"), text)?;
    Ok(path)
}

/// Flips one bit of the byte that is `offset_from_end` before a file's end.
///
/// # Errors
/// Fails when the file is shorter, or cannot be read or written.
pub fn flip_byte(path: &Path, offset_from_end: usize) -> Result<()> {
    let mut bytes = fs::read(path).with_context(|| format!("read {}", path.display()))?;
    ensure!(bytes.len() > offset_from_end, "{} has only {} bytes", path.display(), bytes.len());
    let at = bytes.len() - 1 - offset_from_end;
    if let Some(byte) = bytes.get_mut(at) {
        *byte ^= 1;
    }
    fs::write(path, bytes).with_context(|| format!("write {}", path.display()))
}

/// Returns the file in the hub's blob folder with the model of a version's first variant that runs on `place`.
///
/// # Errors
/// Fails when the hub has no such version.
pub fn blob_of(hub: &Hub, model: &str, version: u64, place: &str) -> Result<PathBuf> {
    let status = hub.model(model)?;
    let versions = status["versions"].as_array().cloned().unwrap_or_default();
    let found = versions.into_iter().find(|entry| entry["version"] == version);
    let found = found.with_context(|| format!("the hub knows no {model}/{version}"))?;
    let manifest = blob_path(hub, found["manifest"].as_str().context("the manifest's digest")?)?;
    let text = fs::read(&manifest).with_context(|| format!("read {}", manifest.display()))?;
    let manifest: Value = serde_json::from_slice(&text).context("read the manifest")?;
    let variants = manifest["variants"].as_array().cloned().unwrap_or_default();
    let variant = variants.into_iter().find(|variant| variant["runs_on"] == place);
    let variant = variant.with_context(|| format!("{model}/{version} has no variant for the {place}"))?;
    blob_path(hub, variant["file"]["digest"].as_str().context("the model file's digest")?)
}

fn blob_path(hub: &Hub, digest: &str) -> Result<PathBuf> {
    let hex = digest.strip_prefix("sha256:").context("a sha256 digest")?;
    Ok(hub.folder().join("blobs/sha256").join(hex))
}
