//! What this crate's tests share: small models written on the spot, a device that is opened once.
#![allow(dead_code, unreachable_pub, clippy::allow_attributes, reason = "each test binary uses a part of it")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "helpers of tests may do what tests may")]

use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use engine::{RunControl, Session};
use engine_wgpu::gpu::AdapterChoice;
use engine_wgpu::{BUDGET_BYTES, WgpuEngine};
use rten_onnx::onnx::{
    AttributeProto, AttributeType, DataType, Dimension, GraphProto, ModelProto, NodeProto, OperatorSetIdProto,
    TensorProto, TensorShapeProto, TypeProto, TypeProtoTensor, ValueInfoProto,
};
use types::{NamedTensor, Tensor};

static ENGINE: LazyLock<Option<Mutex<WgpuEngine>>> = LazyLock::new(|| {
    let choice = AdapterChoice::for_tests();
    match WgpuEngine::open(&choice, BUDGET_BYTES, None) {
        Ok(engine) => Some(Mutex::new(engine)),
        Err(error) => {
            println!("skipped: {error}");
            None
        }
    }
});

/// The device of this test process; `None` (after saying why) on a machine without any adapter.
pub fn engine() -> Option<MutexGuard<'static, WgpuEngine>> {
    ENGINE.as_ref().map(|engine| engine.lock().unwrap_or_else(PoisonError::into_inner))
}

/// A model under construction.
pub struct Model {
    graph: GraphProto,
    opset: i64,
}

impl Model {
    pub fn new(opset: i64) -> Self {
        Self { graph: GraphProto::default(), opset }
    }

    pub fn input(mut self, name: &str, dtype: DataType, shape: &[i64]) -> Self {
        self.graph.input.push(info(name, dtype, shape));
        self
    }

    pub fn output(mut self, name: &str, dtype: DataType, shape: &[i64]) -> Self {
        self.graph.output.push(info(name, dtype, shape));
        self
    }

    pub fn constant(mut self, name: &str, dtype: DataType, shape: &[i64], bytes: &[u8]) -> Self {
        self.graph.initializer.push(TensorProto {
            dims: shape.to_vec(),
            data_type: Some(dtype),
            raw_data: Some(bytes.to_vec().into()),
            name: Some(name.to_owned()),
            ..TensorProto::default()
        });
        self
    }

    pub fn node(self, op: &str, inputs: &[&str], outputs: &[&str]) -> Self {
        self.node_with(op, inputs, outputs, Vec::new())
    }

    pub fn node_with(mut self, op: &str, inputs: &[&str], outputs: &[&str], attribute: Vec<AttributeProto>) -> Self {
        self.graph.node.push(NodeProto {
            op_type: Some(op.to_owned()),
            name: Some(format!("{op}_{}", self.graph.node.len())),
            input: inputs.iter().map(ToString::to_string).collect(),
            output: outputs.iter().map(ToString::to_string).collect(),
            attribute,
            ..NodeProto::default()
        });
        self
    }

    /// The graph alone, as an attribute of a node of another.
    pub fn subgraph(self, name: &str) -> AttributeProto {
        AttributeProto {
            name: Some(name.into()),
            g: Some(self.graph),
            r#type: Some(AttributeType::GRAPH),
            ..AttributeProto::default()
        }
    }

    /// The graph, to be spoilt.
    pub fn graph_mut(&mut self) -> &mut GraphProto {
        &mut self.graph
    }

    pub fn set_opset(&mut self, opset: i64) {
        self.opset = opset;
    }

    pub fn bytes(self) -> Vec<u8> {
        let model = ModelProto {
            ir_version: Some(8),
            graph: Some(self.graph),
            opset_import: vec![OperatorSetIdProto { domain: None, version: Some(self.opset) }],
            ..ModelProto::default()
        };
        model.write_buf().unwrap()
    }
}

pub fn int(name: &str, value: i64) -> AttributeProto {
    AttributeProto {
        name: Some(name.into()),
        i: Some(value),
        r#type: Some(AttributeType::INT),
        ..AttributeProto::default()
    }
}

pub fn text(name: &str, value: &str) -> AttributeProto {
    AttributeProto {
        name: Some(name.into()),
        s: Some(value.into()),
        r#type: Some(AttributeType::STRING),
        ..AttributeProto::default()
    }
}

pub fn float(name: &str, value: f32) -> AttributeProto {
    AttributeProto {
        name: Some(name.into()),
        f: Some(value),
        r#type: Some(AttributeType::FLOAT),
        ..AttributeProto::default()
    }
}

pub fn ints(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto {
        name: Some(name.into()),
        ints: values.to_vec(),
        r#type: Some(AttributeType::INTS),
        ..AttributeProto::default()
    }
}

fn info(name: &str, dtype: DataType, shape: &[i64]) -> ValueInfoProto {
    let dim = |&size: &i64| Dimension {
        dim_value: (size >= 0).then_some(size),
        dim_param: (size < 0).then(|| format!("n{size}")),
    };
    let tensor = TypeProtoTensor {
        elem_type: Some(dtype),
        shape: Some(TensorShapeProto { dim: shape.iter().map(dim).collect() }),
    };
    ValueInfoProto {
        name: Some(name.into()),
        r#type: Some(TypeProto { tensor_type: Some(tensor), ..TypeProto::default() }),
    }
}

pub fn f32s(name: &str, shape: &[usize], values: &[f32]) -> NamedTensor {
    NamedTensor { name: name.into(), tensor: Tensor::from_f32(shape.to_vec(), values).unwrap() }
}

/// Runs a model once and gives all outputs.
pub fn run(engine: &WgpuEngine, model: &[u8], inputs: &[NamedTensor]) -> Vec<NamedTensor> {
    let mut session = engine.load_checked(model).unwrap();
    session.run(inputs, &[], &RunControl::default()).unwrap()
}
