//! Real models with inputs (from `cargo xtask setup`'s cache), the real ONNX Runtime, and Python's onnx as judge.
#![allow(dead_code, unreachable_pub, clippy::allow_attributes, reason = "each test file uses its part")]
#![expect(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "helpers of tests may do what tests may")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use bytes::Bytes;
use engine::{Engine, LibrarySearch, LoadOptions, OrtEngine, RunControl};
use onnx_graph::Model;
use onnx_graph::proto::tensor_shape_proto::Dimension;
use onnx_graph::proto::tensor_shape_proto::dimension::Value as Dim;
use onnx_graph::proto::type_proto::Value;
use onnx_graph::proto::{ModelProto, TensorShapeProto, TypeProto, ValueInfoProto, type_proto};
use prost::Message;
use types::{DType, NamedTensor, Tensor};

/// A model with the inputs of one request.
pub struct Case {
    pub name: String,
    pub model: Bytes,
    /// `None` when one of them is no tensor.
    pub inputs: Option<Vec<NamedTensor>>,
}

/// The cache of `cargo xtask setup`.
pub fn cache() -> PathBuf {
    let variable = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    variable("SANDERLING_CACHE")
        .or_else(|| variable("XDG_CACHE_HOME").map(|cache| cache.join("sanderling")))
        .or_else(|| variable("HOME").map(|home| home.join(".cache/sanderling")))
        .unwrap_or_default()
}

/// Whole models whose name begins with one of these.
pub fn models(prefixes: &[&str]) -> Vec<Case> {
    let all = folders("model-cases/onnx-1.23.2-ort-1.32.0");
    all.iter()
        .filter(|path| prefixes.iter().any(|prefix| name(path).starts_with(prefix)))
        .map(|path| case(path))
        .collect()
}

/// The models that the passes are for.
pub fn real_models() -> Vec<Case> {
    let mut models = models(&["digits", "magika", "rapidocr", "minilm_2x33", "light_", "silero"]);
    // The whole catalogue quantized would take minutes; the digits have every form.
    let is_made = |name: &str| ["_int8", "_int4_weights", "_dynamic", "_static"].iter().any(|form| name.contains(form));
    models.retain(|case| case.name.starts_with("digits") || !is_made(&case.name));
    models
}

/// Every node test of the ONNX project.
pub fn node_cases() -> Vec<Case> {
    folders("onnx-node/1.23.2").iter().map(|path| case(path)).collect()
}

fn folders(below: &str) -> Vec<PathBuf> {
    let folder = cache().join(below);
    if !folder.join(".complete").is_file() {
        println!("skipped: no cases in {below}: run `cargo xtask test`, which makes them");
        return Vec::new();
    }
    let mut folders: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.retain(|path| path.join("case.tsv").is_file());
    folders.sort();
    folders
}

fn name(path: &Path) -> String {
    path.file_name().unwrap().to_string_lossy().into_owned()
}

fn case(folder: &Path) -> Case {
    let index = fs::read_to_string(folder.join("case.tsv")).unwrap();
    let data = Bytes::from(fs::read(folder.join("data.bin")).unwrap());
    let inputs = index.lines().filter_map(|line| line.strip_prefix("input\t")).map(|line| input(line, &data)).collect();
    Case { name: name(folder), model: fs::read(folder.join("model.onnx")).unwrap().into(), inputs }
}

fn input(line: &str, data: &Bytes) -> Option<NamedTensor> {
    let fields: Vec<&str> = line.split('\t').collect();
    let &[name, number, dims, offset, length] = fields.as_slice() else { panic!("{line:?}") };
    let dims = dims.split(',').filter(|size| !size.is_empty()).map(|size| size.parse().unwrap()).collect();
    let (offset, length): (usize, usize) = (offset.parse().unwrap(), length.parse().unwrap());
    let tensor = Tensor::new(dtype(number.parse().unwrap())?, dims, data.slice(offset..offset + length)).ok()?;
    Some(NamedTensor { name: name.to_owned(), tensor })
}

fn dtype(number: i32) -> Option<DType> {
    Some(match number {
        1 => DType::F32,
        2 => DType::U8,
        3 => DType::I8,
        4 => DType::U16,
        5 => DType::I16,
        6 => DType::I32,
        7 => DType::I64,
        9 => DType::Bool,
        10 => DType::F16,
        11 => DType::F64,
        12 => DType::U32,
        13 => DType::U64,
        16 => DType::Bf16,
        _ => return None,
    })
}

/// ONNX Runtime, if it is here.
pub fn ort() -> Option<OrtEngine> {
    let named = env::var_os("SANDERLING_ONNXRUNTIME").map(PathBuf::from);
    match OrtEngine::open(&LibrarySearch { configured: named.or_else(engine::library::developer_library) }) {
        Ok(engine) => Some(engine),
        Err(error) => {
            println!("skipped: {error}: run `cargo xtask setup`");
            None
        }
    }
}

/// All outputs of the model for these inputs.
pub fn run(ort: &OrtEngine, model: impl Into<Bytes>, inputs: &[NamedTensor]) -> Result<Vec<NamedTensor>, String> {
    let model = model.into();
    let answer = run_as_it_is(ort, model.clone(), inputs);
    match &answer {
        // A rapidocr model calls both height and width `?`, and a request is held to names.
        Err(error) if error.contains("in one request") => run_as_it_is(ort, with_nameless_dims(model), inputs),
        _ => answer,
    }
}

fn run_as_it_is(ort: &OrtEngine, model: Bytes, inputs: &[NamedTensor]) -> Result<Vec<NamedTensor>, String> {
    let told = |error: &dyn std::error::Error| {
        let chain = std::iter::successors(Some(error), |&error| error.source());
        chain.map(ToString::to_string).collect::<Vec<_>>().join(": ")
    };
    let mut session = ort.load(model.into(), &LoadOptions::default()).map_err(|error| told(&error))?;
    session.run(inputs, &[], &RunControl::default()).map_err(|error| told(&error))
}

fn with_nameless_dims(model: Bytes) -> Bytes {
    let mut model = ModelProto::decode(model).unwrap();
    let graph = model.graph.as_mut().unwrap();
    for value in graph.input.iter_mut().chain(&mut graph.output) {
        if let Some(Value::TensorType(tensor)) = value.r#type.as_mut().and_then(|kind| kind.value.as_mut()) {
            for dim in tensor.shape.iter_mut().flat_map(|shape| &mut shape.dim) {
                if matches!(dim.value, Some(Dim::DimParam(_))) {
                    dim.value = None;
                }
            }
        }
    }
    model.encode_to_vec().into()
}

/// Asserts that two models answer alike: to the bit for `tolerance` 0, else within it, times the largest answer's size.
pub fn assert_alike(name: &str, before: &[NamedTensor], after: &[NamedTensor], tolerance: f32) {
    assert_eq!(before.len(), after.len(), "{name}");
    for (before, after) in before.iter().zip(after) {
        assert_eq!(before.name, after.name, "{name}");
        assert_eq!(before.tensor.shape(), after.tensor.shape(), "{name}: {}", before.name);
        assert_eq!(before.tensor.dtype(), after.tensor.dtype(), "{name}: {}", before.name);
        if tolerance == 0.0 || before.tensor.to_f32().is_err() {
            assert_eq!(before.tensor.data(), after.tensor.data(), "{name}: {}", before.name);
            continue;
        }
        let (before, after) = (before.tensor.to_f32().unwrap(), after.tensor.to_f32().unwrap());
        let scale = before.iter().filter(|value| value.is_finite()).fold(1.0_f32, |most, value| most.max(value.abs()));
        for (before, after) in before.iter().zip(&after) {
            let alike =
                before.to_bits() == after.to_bits() || (before - after).abs() <= tolerance * scale || before == after;
            assert!(alike || (before.is_nan() && after.is_nan()), "{name}: {before} became {after}, scale {scale}");
        }
    }
}

/// Returns what `tests/judge.py VERB` says of each model: one line each, `ok` or why not.
pub fn judged(verb: &str, models: &[(String, Vec<u8>)]) -> Option<Vec<String>> {
    let folder = tempfile::tempdir().unwrap();
    let mut paths = Vec::new();
    for (at, (_name, bytes)) in models.iter().enumerate() {
        let path = folder.path().join(format!("{at}.onnx"));
        fs::write(&path, bytes).unwrap();
        paths.push(path);
    }
    judged_files(verb, &paths)
}

/// As [`judged`], of files.
pub fn judged_files(verb: &str, paths: &[PathBuf]) -> Option<Vec<String>> {
    let python = python()?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/judge.py");
    let output = Command::new(python).arg(script).arg(verb).args(paths).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines: Vec<String> = String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect();
    assert_eq!(lines.len(), paths.len());
    Some(lines)
}

/// The Python that wrote the cases: it has onnx and ONNX Runtime.
fn python() -> Option<PathBuf> {
    let environments = fs::read_dir(cache().join("python")).into_iter().flatten();
    let found = environments
        .map(|entry| entry.unwrap().path())
        .filter(|path| name(path).starts_with("onnx-") && path.join(".complete").is_file())
        .map(|path| path.join("bin/python"))
        .next();
    if found.is_none() {
        println!("skipped: no Python with onnx: run `cargo xtask test`, which makes one");
    }
    found
}

/// Reads a case's model; every one of them is readable.
pub fn read(case: &Case) -> Model {
    Model::from_bytes(case.model.clone()).unwrap_or_else(|error| panic!("{}: {error}", case.name))
}

/// A declaration of an f32 value.
pub fn float_value(name: &str, shape: &[usize]) -> ValueInfoProto {
    declared(name, 1, shape.iter().map(|&dim| Some(Dim::DimValue(dim.try_into().unwrap()))).collect())
}

/// A declaration of an f32 value of unknown dimensions.
pub fn float_value_of_rank(name: &str, rank: usize) -> ValueInfoProto {
    declared(name, 1, vec![None; rank])
}

/// A declaration of a value; the element type by its number in `onnx.proto`.
pub fn declared(name: &str, element: i32, dims: Vec<Option<Dim>>) -> ValueInfoProto {
    let dim = dims.into_iter().map(|value| Dimension { value, ..Dimension::default() }).collect();
    let tensor = type_proto::Tensor { elem_type: Some(element), shape: Some(TensorShapeProto { dim }) };
    let kind = TypeProto { value: Some(Value::TensorType(tensor)), ..TypeProto::default() };
    ValueInfoProto { name: Some(name.to_owned()), r#type: Some(kind), ..ValueInfoProto::default() }
}

/// An f32 input of a request.
pub fn float_input(name: &str, shape: &[usize], values: &[f32]) -> NamedTensor {
    NamedTensor { name: name.to_owned(), tensor: Tensor::from_f32(shape.to_vec(), values).unwrap() }
}

/// A declaration of a value of any shape; the element type by the number in `onnx.proto`.
pub fn value_of_any_rank(name: &str, element: i32) -> ValueInfoProto {
    let tensor = type_proto::Tensor { elem_type: Some(element), shape: None };
    let kind = TypeProto { value: Some(Value::TensorType(tensor)), ..TypeProto::default() };
    ValueInfoProto { name: Some(name.to_owned()), r#type: Some(kind), ..ValueInfoProto::default() }
}
