//! The runtime, example files and small models, for the tests of this crate.
#![allow(dead_code, clippy::allow_attributes, reason = "each test binary uses a part of it")]
#![expect(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "helpers of tests may do what tests may")]

use std::io::Write;
use std::path::{Path, PathBuf};

use engine::{Engine, LibrarySearch, LoadOptions, OrtEngine, RunControl};
use onnx_graph::proto::tensor_shape_proto::{Dimension, dimension::Value as Dim};
use onnx_graph::proto::{NodeProto, TensorProto, TensorShapeProto, TypeProto, ValueInfoProto, type_proto};
use onnx_graph::{Model, Values};
use types::{NamedTensor, Signature, Tensor};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

/// Opens ONNX Runtime, or says why the test is skipped. `cargo xtask test` sees to it that it is there.
pub(crate) fn runtime() -> Option<OrtEngine> {
    let developer = engine::library::developer_library().filter(|library| library.is_file());
    let named = std::env::var_os(engine::library::LIBRARY_VARIABLE).map(PathBuf::from);
    match OrtEngine::open(&LibrarySearch { configured: named.or(developer) }) {
        Ok(engine) => Some(engine),
        Err(engine::OpenError::NotFound(reason)) => {
            println!("skipped: {reason}");
            None
        }
        Err(error) => panic!("ONNX Runtime is there and does not open: {error:?}"),
    }
}

/// Returns what `numpy.save` writes (format 1.0) for these fields.
pub(crate) fn npy(descr: &str, shape: &str, data: &[u8]) -> Vec<u8> {
    let header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}");
    let mut bytes = b"\x93NUMPY\x01\x00\x76\x00".to_vec();
    bytes.extend_from_slice(format!("{header:<117}\n").as_bytes());
    bytes.extend_from_slice(data);
    bytes
}

/// An array of f32 as `numpy.save` writes it.
pub(crate) fn floats(shape: &[usize], values: &[f32]) -> Vec<u8> {
    let dims: Vec<String> = shape.iter().map(|dim| format!("{dim},")).collect();
    npy(
        "<f4",
        &format!("({})", dims.concat()),
        &values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>(),
    )
}

/// Writes a `.npz` file.
pub(crate) fn npz(path: &Path, method: CompressionMethod, arrays: &[(&str, Vec<u8>)]) {
    let mut archive = ZipWriter::new(std::fs::File::create(path).unwrap());
    for (name, bytes) in arrays {
        archive.start_file(format!("{name}.npy"), SimpleFileOptions::default().compression_method(method)).unwrap();
        archive.write_all(bytes).unwrap();
    }
    archive.finish().unwrap();
}

/// The 2,000 test digits of the catalogue: pixels from 0 to 1, and labels.
pub(crate) struct Digits {
    pub(crate) images: Vec<f32>,
    pub(crate) labels: Vec<u8>,
}

/// Pixels of one digit.
pub(crate) const PIXELS: usize = 784;

impl Digits {
    pub(crate) fn load() -> Self {
        let file = std::fs::File::open(catalog().join("test/digits.npz")).unwrap();
        let mut archive = zip::ZipArchive::new(file).unwrap();
        let mut array = |name: &str| {
            let mut bytes = Vec::new();
            std::io::Read::read_to_end(&mut archive.by_name(name).unwrap(), &mut bytes).unwrap();
            bytes.split_off(128)
        };
        let images = array("images.npy").into_iter().map(|pixel| f32::from(pixel) / 255.0).collect();
        Self { images, labels: array("labels.npy") }
    }

    /// Writes some of them as examples of the digits models.
    pub(crate) fn write(&self, path: &Path, range: std::ops::Range<usize>) {
        let images = floats(&[range.len(), 1, 28, 28], &self.images[range.start * PIXELS..range.end * PIXELS]);
        let labels = npy("|u1", &format!("({},)", range.len()), &self.labels[range]);
        npz(path, CompressionMethod::Stored, &[("image", images), ("labels", labels)]);
    }

    /// The share of some of them that the model tells rightly.
    pub(crate) fn accuracy(&self, engine: &dyn Engine, model: &Model, range: std::ops::Range<usize>) -> f64 {
        let count = range.len();
        let input = ("image", vec![count, 1, 28, 28], self.images[range.start * PIXELS..range.end * PIXELS].to_vec());
        let logits = run(engine, model, &[input]);
        let right = logits[0].chunks(10).zip(&self.labels[range]).filter(|(logits, label)| {
            let best = logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).unwrap().0;
            best == usize::from(**label)
        });
        right.count() as f64 / count as f64
    }
}

pub(crate) fn catalog() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../catalog/digits")
}

/// Returns what a model gives for inputs of f32: every output, flat.
pub(crate) fn run(engine: &dyn Engine, model: &Model, inputs: &[(&str, Vec<usize>, Vec<f32>)]) -> Vec<Vec<f32>> {
    let mut session = engine.load(model.to_bytes().unwrap().into(), &LoadOptions::default()).unwrap();
    let named = |(name, shape, values): &(&str, Vec<usize>, Vec<f32>)| NamedTensor {
        name: (*name).to_owned(),
        tensor: Tensor::from_f32(shape.clone(), values).unwrap(),
    };
    let inputs: Vec<NamedTensor> = inputs.iter().map(named).collect();
    let outputs = session.run(&inputs, &[], &RunControl::default()).unwrap();
    outputs.iter().map(|output| output.tensor.to_f32().unwrap()).collect()
}

/// Returns what the engine says a model takes and gives.
pub(crate) fn signature(engine: &dyn Engine, model: &Model) -> Signature {
    engine.load(model.to_bytes().unwrap().into(), &LoadOptions::default()).unwrap().signature().clone()
}

/// A value of f32; -1 is any size.
pub(crate) fn value(name: &str, dims: &[i64]) -> ValueInfoProto {
    let dim = |&size: &i64| Dimension { value: (size >= 0).then_some(Dim::DimValue(size)), ..Dimension::default() };
    let shape = Some(TensorShapeProto { dim: dims.iter().map(dim).collect() });
    let tensor = type_proto::Tensor { elem_type: Some(1), shape };
    ValueInfoProto {
        name: Some(name.to_owned()),
        r#type: Some(TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..TypeProto::default() }),
        ..ValueInfoProto::default()
    }
}

/// A model of operator set 13.
pub(crate) fn model(
    nodes: Vec<NodeProto>,
    constants: Vec<TensorProto>,
    inputs: Vec<ValueInfoProto>,
    outputs: Vec<ValueInfoProto>,
) -> Model {
    let mut model = Model { graph: onnx_graph::Graph::default(), rest: onnx_graph::proto::ModelProto::default() };
    model.rest.ir_version = Some(8);
    model.import("", 13);
    model.graph.rest.name = Some("test".to_owned());
    model.graph.nodes = nodes;
    constants.into_iter().for_each(|tensor| model.graph.add_initializer(tensor));
    model.graph.inputs = inputs;
    model.graph.outputs = outputs;
    model
}

/// Numbers between -1 and 1 that look random and are always the same.
pub(crate) fn noise(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed;
    let next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        f32::from(u16::try_from(state >> 48).unwrap()) / 32_768.0 - 1.0
    };
    std::iter::repeat_with(next).take(count).collect()
}

/// Noise as a constant.
pub(crate) fn noisy(name: &str, seed: u64, shape: &[usize]) -> TensorProto {
    TensorProto::of_floats(name, shape, &noise(seed, shape.iter().product()))
}

/// The cosine of the angle between two answers.
pub(crate) fn cosine(left: &[f32], right: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    dot(left, right) / (dot(left, left) * dot(right, right)).sqrt()
}
