//! Small models with random values, answered by ONNX Runtime and by this engine, and the two compared.
#![allow(dead_code, unreachable_pub, clippy::allow_attributes, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "helpers of tests may do what tests may")]

use std::path::PathBuf;
use std::sync::LazyLock;

use engine::{Engine, LibrarySearch, LoadOptions, ModelBytes, OrtEngine, RunControl, Session};
use engine_wgpu::WgpuEngine;
use rten_onnx::onnx::{
    AttributeProto, AttributeType, DataType, Dimension, GraphProto, ModelProto, NodeProto, OperatorSetIdProto,
    TensorProto, TensorShapeProto, TypeProto, TypeProtoTensor, ValueInfoProto,
};
use types::{DType, NamedTensor, Tensor};

static RUNTIME: LazyLock<Option<OrtEngine>> = LazyLock::new(|| {
    let developer = engine::library::developer_library().filter(|library| library.is_file());
    let named = std::env::var_os(engine::library::LIBRARY_VARIABLE).map(PathBuf::from);
    match OrtEngine::open(&LibrarySearch { configured: named.or(developer) }) {
        Ok(engine) => Some(engine),
        Err(error) => {
            println!("skipped: {error}");
            None
        }
    }
});

/// ONNX Runtime; `None` (after saying why) where it is not installed.
pub fn runtime() -> Option<&'static OrtEngine> {
    RUNTIME.as_ref()
}

/// Repeatable random numbers.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let mixed = self.0 ^ (self.0 >> 33);
        mixed.wrapping_mul(0xff51_afd7_ed55_8ccd) >> 24
    }

    pub fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(bound).unwrap()).unwrap()
    }

    pub fn between(&mut self, low: usize, high: usize) -> usize {
        low + self.below(high - low + 1)
    }

    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    /// In -1..1.
    pub fn float(&mut self) -> f32 {
        let [low, high, ..] = self.next().to_le_bytes();
        f32::from(u16::from_le_bytes([low, high])) / 32_768.0 - 1.0
    }

    pub fn floats(&mut self, count: usize, scale: f32) -> Vec<f32> {
        (0..count).map(|_| self.float() * scale).collect()
    }

    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.next().to_le_bytes()[0]).collect()
    }
}

/// A model and a request in the making.
#[derive(Default)]
pub struct Case {
    graph: GraphProto,
    inputs: Vec<NamedTensor>,
    opset: i64,
}

impl Case {
    pub fn new(opset: i64) -> Self {
        Self { opset, ..Self::default() }
    }

    /// An input of the model with its value.
    pub fn input(mut self, name: &str, dtype: DataType, shape: &[usize], bytes: &[u8]) -> Self {
        self.graph.input.push(info(name, dtype, Some(shape)));
        let tensor = Tensor::new(request(dtype), shape.to_vec(), bytes.to_vec().into()).unwrap();
        self.inputs.push(NamedTensor { name: name.into(), tensor });
        self
    }

    pub fn constant(mut self, name: &str, dtype: DataType, shape: &[usize], bytes: &[u8]) -> Self {
        self.graph.initializer.push(TensorProto {
            dims: shape.iter().map(|&size| i64::try_from(size).unwrap()).collect(),
            data_type: Some(dtype),
            raw_data: Some(bytes.to_vec().into()),
            name: Some(name.to_owned()),
            ..TensorProto::default()
        });
        self
    }

    /// A constant or an input.
    pub fn tensor(self, constant: bool, name: &str, dtype: DataType, shape: &[usize], bytes: &[u8]) -> Self {
        if constant { self.constant(name, dtype, shape, bytes) } else { self.input(name, dtype, shape, bytes) }
    }

    pub fn floats(self, constant: bool, name: &str, shape: &[usize], values: &[f32]) -> Self {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.tensor(constant, name, DataType::FLOAT, shape, &bytes)
    }

    pub fn node(self, op: &str, inputs: &[&str], outputs: &[&str], attributes: Vec<AttributeProto>) -> Self {
        self.node_in("", op, inputs, outputs, attributes)
    }

    pub fn node_in(
        mut self,
        domain: &str,
        op: &str,
        inputs: &[&str],
        outputs: &[&str],
        attribute: Vec<AttributeProto>,
    ) -> Self {
        self.graph.node.push(NodeProto {
            op_type: Some(op.to_owned()),
            domain: (!domain.is_empty()).then(|| domain.to_owned()),
            name: Some(format!("{op}_{}", self.graph.node.len())),
            input: inputs.iter().map(ToString::to_string).collect(),
            output: outputs.iter().map(ToString::to_string).collect(),
            attribute,
        });
        self
    }

    /// An output of any shape.
    pub fn output(mut self, name: &str, dtype: DataType) -> Self {
        self.graph.output.push(info(name, dtype, None));
        self
    }

    pub fn model(&self) -> Vec<u8> {
        let opset = |domain: Option<&str>, version| OperatorSetIdProto {
            domain: domain.map(str::to_owned),
            version: Some(version),
        };
        let model = ModelProto {
            ir_version: Some(10),
            graph: Some(self.graph.clone()),
            opset_import: vec![opset(None, self.opset), opset(Some("com.microsoft"), 1), opset(Some("ai.onnx.ml"), 3)],
            ..ModelProto::default()
        };
        model.write_buf().unwrap()
    }

    pub fn inputs(&self) -> &[NamedTensor] {
        &self.inputs
    }

    /// The answers of ONNX Runtime and of this engine.
    pub fn both(&self, wgpu: &WgpuEngine, label: &str) -> Option<(Vec<NamedTensor>, Vec<NamedTensor>)> {
        let model = self.model();
        let mut session = runtime()?
            .load(ModelBytes::from(model.clone()), &LoadOptions::default())
            .unwrap_or_else(|error| panic!("{label}: ONNX Runtime refuses: {error:?}"));
        let expected = session.run(&self.inputs, &[], &RunControl::default()).unwrap();
        let mut session = wgpu.load_checked(&model).unwrap_or_else(|error| panic!("{label}: {error:?}"));
        let answer = session.run(&self.inputs, &[], &RunControl::default());
        Some((expected, answer.unwrap_or_else(|error| panic!("{label}: {error:?}"))))
    }

    /// Every output is the same to the bit.
    pub fn agrees_exactly(&self, wgpu: &WgpuEngine, label: &str) {
        let Some((expected, answer)) = self.both(wgpu, label) else { return };
        for (expected, answer) in expected.iter().zip(&answer) {
            assert_eq!(expected.tensor.shape(), answer.tensor.shape(), "{label}");
            assert_eq!(expected.tensor.dtype(), answer.tensor.dtype(), "{label}");
            if expected.tensor.data() != answer.tensor.data() {
                let (a, b) = (integers(&expected.tensor), integers(&answer.tensor));
                let wrong: Vec<_> = (0..a.len()).filter(|&at| a[at] != b[at]).map(|at| (at, a[at], b[at])).collect();
                panic!("{label}: {} of {} differ, like {:?}", wrong.len(), a.len(), &wrong[..wrong.len().min(8)]);
            }
        }
    }

    /// Integer outputs differ by at most one step, in at most one of a thousand elements (or one of few).
    pub fn agrees_within_a_step(&self, wgpu: &WgpuEngine, label: &str) -> (usize, usize) {
        let Some((expected, answer)) = self.both(wgpu, label) else { return (0, 1) };
        let (mut wrong, mut all) = (0, 0);
        for (expected, answer) in expected.iter().zip(&answer) {
            assert_eq!(expected.tensor.shape(), answer.tensor.shape(), "{label}");
            let (a, b) = (integers(&expected.tensor), integers(&answer.tensor));
            for (at, (x, y)) in a.iter().zip(&b).enumerate() {
                assert!((x - y).abs() <= 1, "{label}: element {at} is {y}, not {x}");
                wrong += usize::from(x != y);
            }
            all += a.len();
        }
        (wrong, all)
    }

    /// Float outputs differ by at most `relative` of the largest value.
    pub fn agrees_about(&self, wgpu: &WgpuEngine, relative: f32, label: &str) {
        let Some((expected, answer)) = self.both(wgpu, label) else { return };
        for (expected, answer) in expected.iter().zip(&answer) {
            assert_eq!(expected.tensor.shape(), answer.tensor.shape(), "{label}");
            let (a, b) = (expected.tensor.to_f32().unwrap(), answer.tensor.to_f32().unwrap());
            let largest = a.iter().fold(1e-6_f32, |largest, value| largest.max(value.abs()));
            for (at, (x, y)) in a.iter().zip(&b).enumerate() {
                assert!((x - y).abs() <= relative * largest, "{label}: element {at} is {y}, not {x}");
            }
        }
    }
}

/// Integer elements as `i64`, floats as their bits.
pub fn integers(tensor: &Tensor) -> Vec<i64> {
    let data = tensor.data();
    match tensor.dtype() {
        DType::U8 | DType::Bool => data.iter().map(|&byte| i64::from(byte)).collect(),
        DType::I8 => data.iter().map(|&byte| i64::from(byte.cast_signed())).collect(),
        DType::I16 => data.as_chunks::<2>().0.iter().map(|lane| i64::from(i16::from_le_bytes(*lane))).collect(),
        DType::U16 => data.as_chunks::<2>().0.iter().map(|lane| i64::from(u16::from_le_bytes(*lane))).collect(),
        _ => data.as_chunks::<4>().0.iter().map(|lane| i64::from(i32::from_le_bytes(*lane))).collect(),
    }
}

fn request(dtype: DataType) -> DType {
    match dtype {
        DataType::FLOAT => DType::F32,
        DataType::UINT8 => DType::U8,
        DataType::INT8 => DType::I8,
        DataType::UINT16 => DType::U16,
        DataType::INT16 => DType::I16,
        DataType::INT32 => DType::I32,
        DataType::INT64 => DType::I64,
        DataType::UINT32 => DType::U32,
        DataType::UINT64 => DType::U64,
        DataType::BOOL => DType::Bool,
        other => panic!("no tests with {other:?}"),
    }
}

fn info(name: &str, dtype: DataType, shape: Option<&[usize]>) -> ValueInfoProto {
    let dim = |&size: &usize| Dimension { dim_value: Some(i64::try_from(size).unwrap()), dim_param: None };
    let shape = shape.map(|shape| TensorShapeProto { dim: shape.iter().map(dim).collect() });
    let tensor = TypeProtoTensor { elem_type: Some(dtype), shape };
    ValueInfoProto {
        name: Some(name.into()),
        r#type: Some(TypeProto { tensor_type: Some(tensor), ..TypeProto::default() }),
    }
}

pub fn int(name: &str, value: i64) -> AttributeProto {
    attribute(name, AttributeType::INT, |attribute| attribute.i = Some(value))
}

pub fn float(name: &str, value: f32) -> AttributeProto {
    attribute(name, AttributeType::FLOAT, |attribute| attribute.f = Some(value))
}

pub fn text(name: &str, value: &str) -> AttributeProto {
    attribute(name, AttributeType::STRING, |attribute| attribute.s = Some(value.into()))
}

pub fn ints(name: &str, values: &[usize]) -> AttributeProto {
    let values = values.iter().map(|&value| i64::try_from(value).unwrap()).collect();
    attribute(name, AttributeType::INTS, |attribute| attribute.ints = values)
}

fn attribute(name: &str, kind: AttributeType, set: impl FnOnce(&mut AttributeProto)) -> AttributeProto {
    let mut attribute = AttributeProto { name: Some(name.into()), r#type: Some(kind), ..AttributeProto::default() };
    set(&mut attribute);
    attribute
}

pub fn ints_signed(name: &str, values: &[i64]) -> AttributeProto {
    attribute(name, AttributeType::INTS, |attribute| attribute.ints = values.to_vec())
}
