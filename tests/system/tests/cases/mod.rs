//! Small generated models as folders for `model push`, and simple inference requests.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use onnx_graph::proto::tensor_shape_proto::{Dimension, dimension};
use onnx_graph::proto::{
    GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, TensorShapeProto, TypeProto, ValueInfoProto,
    type_proto,
};
use prost::Message;
use serde_json::{Value, json};
use testkit::{Agent, Site};

/// An input or output of a model.
#[derive(Clone)]
pub(crate) struct Io {
    info: ValueInfoProto,
    kind: String,
    /// Shape in `model.toml`; `None` omits it.
    declared: Option<String>,
}

/// Returns a tensor of `FP32` with dimensions like `n,3` (`?` is one without a name).
pub(crate) fn value(name: &str, dims: &str) -> Io {
    typed(name, "FP32", dims)
}

/// Returns a tensor of any datatype.
pub(crate) fn typed(name: &str, kind: &str, dims: &str) -> Io {
    Io { kind: kind.to_owned(), ..ranked(name, Some(dims)) }.with_element(kind)
}

/// Returns a tensor of `FP32`, of unknown rank if `dims` is `None`.
pub(crate) fn ranked(name: &str, dims: Option<&str>) -> Io {
    let dim = |text: &str| Dimension {
        value: match text.parse() {
            Ok(size) => Some(dimension::Value::DimValue(size)),
            Err(_name) if text == "?" => None,
            Err(_name) => Some(dimension::Value::DimParam(text.to_owned())),
        },
        ..Dimension::default()
    };
    let shape = dims.map(|dims| TensorShapeProto { dim: dims.split(',').map(dim).collect() });
    let tensor = type_proto::Tensor { elem_type: Some(1), shape };
    let kind = TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..TypeProto::default() };
    let info = ValueInfoProto { name: Some(name.to_owned()), r#type: Some(kind), ..ValueInfoProto::default() };
    Io { info, kind: "FP32".to_owned(), declared: dims.map(str::to_owned) }
}

/// Numbers of the datatypes in an ONNX file (`TensorProto.DataType`).
pub(crate) const ELEMENTS: [(&str, i32); 14] = [
    ("FP32", 1),
    ("UINT8", 2),
    ("INT8", 3),
    ("UINT16", 4),
    ("INT16", 5),
    ("INT32", 6),
    ("INT64", 7),
    ("BYTES", 8),
    ("BOOL", 9),
    ("FP16", 10),
    ("FP64", 11),
    ("UINT32", 12),
    ("UINT64", 13),
    ("BF16", 16),
];

impl Io {
    fn with_element(mut self, kind: &str) -> Self {
        if let Some(type_proto::Value::TensorType(tensor)) =
            self.info.r#type.as_mut().and_then(|kind| kind.value.as_mut())
        {
            tensor.elem_type = ELEMENTS.iter().find(|(name, _number)| *name == kind).map(|(_name, number)| *number);
        }
        self
    }

    fn name(&self) -> &str {
        self.info.name.as_deref().unwrap_or_default()
    }

    fn toml(&self, table: &str) -> String {
        let dim = |text: &str| if text.parse::<u32>().is_ok() { text.to_owned() } else { format!("{text:?}") };
        let shape = self.declared.as_ref().map_or_else(String::new, |dims| {
            format!("shape = [{}]\n", dims.split(',').map(dim).collect::<Vec<_>>().join(", "))
        });
        format!("[[{table}]]\nname = {:?}\ndatatype = {:?}\n{shape}", self.name(), self.kind)
    }
}

/// Returns a constant of `FP32`.
pub(crate) fn dense(name: &str, dims: &[i64], values: &[f32]) -> TensorProto {
    TensorProto {
        name: Some(name.to_owned()),
        data_type: Some(1),
        dims: dims.to_vec(),
        float_data: values.to_vec(),
        ..TensorProto::default()
    }
}

/// Returns a list of `INT64`.
pub(crate) fn longs(name: &str, values: &[i64]) -> TensorProto {
    let dims = vec![i64::try_from(values.len()).unwrap_or(0)];
    TensorProto {
        name: Some(name.to_owned()),
        data_type: Some(7),
        dims,
        int64_data: values.to_vec(),
        ..TensorProto::default()
    }
}

/// A version of a model in an author's folder.
pub(crate) struct Case {
    name: String,
    graph: GraphProto,
    inputs: Vec<Io>,
    outputs: Vec<Io>,
    head: String,
    threshold: String,
    score: String,
}

impl Case {
    pub(crate) fn new(
        name: &str,
        node: Vec<NodeProto>,
        inputs: Vec<Io>,
        outputs: Vec<Io>,
        initializer: Vec<TensorProto>,
    ) -> Self {
        let infos = |list: &[Io]| list.iter().map(|one| one.info.clone()).collect();
        let (input, output) = (infos(&inputs), infos(&outputs));
        let graph = GraphProto { name: Some("g".into()), node, input, output, initializer, ..GraphProto::default() };
        let (head, threshold, score) = (String::new(), String::new(), String::new());
        Self { name: name.to_owned(), graph, inputs, outputs, head, threshold, score }
    }

    /// Adds a `[score]` of these lines and a threshold.
    pub(crate) fn scored(mut self, rule: &str, threshold: f32) -> Self {
        self.score = format!("[score]\n{rule}");
        self.threshold = format!("threshold = {threshold}\n");
        self
    }

    pub(crate) fn labels(mut self, labels: &[&str]) -> Self {
        self.head = format!("labels = {labels:?}\n");
        self
    }

    /// Declares another shape in `model.toml` than in the file; `None` omits it.
    pub(crate) fn declared(mut self, name: &str, dims: Option<&str>) -> Self {
        for one in self.inputs.iter_mut().chain(&mut self.outputs).filter(|one| one.info.name.as_deref() == Some(name))
        {
            one.declared = dims.map(str::to_owned);
        }
        self
    }

    /// Writes the folder; the same file runs on device and hub.
    pub(crate) fn write(&self, site: &Site) -> Result<PathBuf> {
        let folder = site.folder().join(format!("case-{}", self.name));
        fs::create_dir_all(&folder).context("make the folder of a case")?;
        let opset_import = vec![OperatorSetIdProto { version: Some(17), ..OperatorSetIdProto::default() }];
        let proto =
            ModelProto { ir_version: Some(8), opset_import, graph: Some(self.graph.clone()), ..ModelProto::default() };
        fs::write(folder.join("model.onnx"), proto.encode_to_vec()).context("write the model")?;
        let name = &self.name;
        let mut text = format!(
            "schema = 1\nmodel = {name:?}\nversion = 1\ntask = \"test\"\ndescription = \"A test.\"\nlicence = \"MIT\"\n{}",
            self.head
        );
        self.inputs.iter().for_each(|one| text += &one.toml("input"));
        self.outputs.iter().for_each(|one| text += &one.toml("output"));
        text += &self.score;
        for (name, place, more) in [("small", "device", self.threshold.as_str()), ("full", "hub", "")] {
            text += &format!(
                "[[variant]]\nname = {name:?}\nruns_on = {place:?}\nengines = [\"ort\"]\nprecision = \"fp32\"\nfile = \"model.onnx\"\n{more}"
            );
        }
        fs::write(folder.join("model.toml"), text).context("write model.toml")?;
        Ok(folder)
    }
}

/// Returns the `outputs` of a request.
pub(crate) fn names(outputs: &[&str]) -> Value {
    outputs.iter().map(|name| json!({"name": name})).collect()
}

/// Sends an inference request in plain JSON; `more` may contain `policy` and `outputs`.
pub(crate) fn ask(
    agent: &Agent,
    model: &str,
    input: &str,
    kind: &str,
    shape: &[usize],
    data: Value,
    more: &Value,
) -> Result<Value> {
    let mut request = json!({
        "inputs": [{"name": input, "datatype": kind, "shape": shape, "data": data}],
        "parameters": {"policy": more["policy"]},
    });
    if let Some(outputs) = more.get("outputs") {
        request["outputs"] = outputs.clone();
    }
    let headers = [("Content-Type", "application/json".to_owned())];
    let path = format!("/v2/models/{model}/infer");
    let reply = agent.client()?.post(&path, &headers, request.to_string().as_bytes())?;
    ensure!(reply.status == 200, "{model}: {} {}", reply.status, reply.json);
    Ok(reply.json)
}

/// Sends an inference request with raw bytes, under `cascade`.
pub(crate) fn ask_raw(
    agent: &Agent,
    model: &str,
    input: &str,
    kind: &str,
    shape: &[usize],
    bytes: &[u8],
) -> Result<Value> {
    let input = testkit::oip::Input {
        name: input.to_owned(),
        datatype: kind.to_owned(),
        shape: shape.to_vec(),
        bytes: bytes.to_vec(),
    };
    Ok(agent.client()?.infer(model, &[input], &testkit::InferOptions::policy("cascade"))?.ok()?.json)
}
