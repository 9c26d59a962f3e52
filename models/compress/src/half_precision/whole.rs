//! The computation in f16.
//!
//! A value keeps its name in f32 and has another in f16; each is made from the other by at most one `Cast`, and only when
//! somebody needs it, so there are no pairs of casts to take out again. Subgraphs see outer values under their names and
//! so stay f32 as they are.

use std::collections::HashMap;

use half::f16;
use onnx_graph::infer::{Types, infer};
use onnx_graph::proto::tensor_proto::DataType;
use onnx_graph::proto::{AttributeProto, NodeProto, ValueInfoProto, type_proto};
use onnx_graph::rewrite::remove_dead;
use onnx_graph::{Attributes, ElementType, Graph, Model, Names, Uses, Values, subgraphs};

use super::weights::{Losses, of_floats, overflows};
use super::{Options, tiny};
use crate::calibrate::Ranges;
use crate::{CompressError, Report};

/// First operator set whose common operators all take f16.
const OPSET: i64 = 7;

/// Operators of the default domain that take f16 and give it, by the type constraints of ONNX. `Celu` takes f32 alone.
const TAKING: [&str; 90] = [
    "Abs",
    "Add",
    "Attention",
    "AveragePool",
    "BatchNormalization",
    "Cast",
    "Ceil",
    "Clip",
    "Compress",
    "Concat",
    "Constant",
    "ConstantOfShape",
    "Conv",
    "ConvTranspose",
    "Cos",
    "CumSum",
    "DepthToSpace",
    "Div",
    "Dropout",
    "Einsum",
    "Elu",
    "Erf",
    "Exp",
    "Expand",
    "Flatten",
    "Floor",
    "Gather",
    "GatherElements",
    "GatherND",
    "Gelu",
    "Gemm",
    "GlobalAveragePool",
    "GlobalMaxPool",
    "GridSample",
    "GroupNormalization",
    "HardSigmoid",
    "HardSwish",
    "Identity",
    "InstanceNormalization",
    "LRN",
    "LayerNormalization",
    "LeakyRelu",
    "Log",
    "LogSoftmax",
    "LpNormalization",
    "MatMul",
    "Max",
    "MaxPool",
    "Mean",
    "MeanVarianceNormalization",
    "Min",
    "Mish",
    "Mod",
    "Mul",
    "Neg",
    "PRelu",
    "Pad",
    "Pow",
    "RMSNormalization",
    "Reciprocal",
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSumExp",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "ReduceProd",
    "ReduceSum",
    "ReduceSumSquare",
    "Relu",
    "Reshape",
    "Resize",
    "Round",
    "Selu",
    "Shape",
    "Sigmoid",
    "Sign",
    "Sin",
    "Slice",
    "Softmax",
    "Softplus",
    "SpaceToDepth",
    "Split",
    "Sqrt",
    "Squeeze",
    "Sub",
    "Tanh",
    "Tile",
    "Transpose",
    "Unsqueeze",
];

/// More of them, that only compare or choose.
const COMPARING: [&str; 9] =
    ["Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "IsNaN", "ScatterElements", "ScatterND", "Where"];

pub(super) fn convert(model: &Model, options: &Options, seen: &Ranges) -> Result<(Model, Report), CompressError> {
    let opset = model.opset("").unwrap_or(0);
    if opset < OPSET {
        let reason = format!("f16 needs operator set {OPSET}: convert the model first");
        return Err(CompressError::Option { option: "model", value: format!("of operator set {opset}"), reason });
    }
    let mut report = Report::of("f16");
    report.tell_of_subgraphs(&model.graph);
    let types = infer(model, &HashMap::new());
    let choice = Choice { graph: &model.graph, types: &types, options, seen };
    let halved: Vec<bool> = model
        .graph
        .nodes
        .iter()
        .zip(tiny::protected(&model.graph)?)
        .map(|(node, is_protected)| choice.takes(node, is_protected, &mut report))
        .collect::<Result<_, _>>()?;
    let mut made = model.clone();
    let mut pass = Pass {
        graph: &model.graph,
        types: &types,
        uses: Uses::of(&model.graph),
        names: Names::of(&model.graph),
        halves: HashMap::new(),
        losses: Losses::default(),
        halved: &halved,
        made: &mut made.graph,
        nodes: Vec::with_capacity(model.graph.nodes.len()),
    };
    for (node, &halved) in model.graph.nodes.iter().zip(&halved) {
        if halved {
            report.changed.push(node.name().to_owned());
            pass.halve(node)?;
        } else {
            pass.nodes.push(node.clone());
        }
    }
    let (nodes, losses) = (pass.nodes, pass.losses);
    if report.changed.is_empty() {
        let reason = "no operator in it may compute in f16; name fewer that are kept".to_owned();
        return Err(CompressError::Nothing { pass: "half-precision", reason });
    }
    losses.tell(&mut report);
    made.graph.nodes = nodes;
    remove_dead(&mut made.graph);
    Ok((made, report))
}

/// Which inputs of an operator follow its type: all, but for sizes and ratios that are always f32.
fn follows(node: &NodeProto, place: usize) -> bool {
    place == 0 || !matches!(node.op_type(), "Resize" | "Dropout")
}

fn is_float(types: &Types, value: &str) -> bool {
    types.element(value) == ElementType::Float
}

/// A value that is left out is as good as known.
fn is_known(types: &Types, value: &str) -> bool {
    value.is_empty() || types.element(value) != ElementType::Undefined
}

struct Choice<'a> {
    graph: &'a Graph,
    types: &'a Types,
    options: &'a Options,
    seen: &'a Ranges,
}

impl Choice<'_> {
    /// Returns whether a node computes in f16; why not is reported when it could be expected to.
    fn takes(&self, node: &NodeProto, is_protected: bool, report: &mut Report) -> Result<bool, CompressError> {
        let operator = node.op_type();
        let floats = || node.input.iter().chain(&node.output).filter(|name| is_float(self.types, name));
        let known =
            matches!(node.domain(), "" | "ai.onnx") && (TAKING.contains(&operator) || COMPARING.contains(&operator));
        if floats().next().is_none() {
            return Ok(false);
        }
        let reason = if !known || subgraphs(node).next().is_some() {
            "it is not known to take f16"
        } else if self.options.kept.contains(operator) {
            "its operator is kept in f32"
        } else if !self.options.selection.takes(node) {
            "it is not selected"
        } else if node.input.iter().chain(&node.output).any(|name| !is_known(self.types, name)) {
            "the type of one of its values is unknown"
        } else if operator == "Constant" && node.attr_tensor("value").is_none() {
            return Ok(false);
        } else if is_protected {
            "it computes with numbers that are too small for f16"
        } else if self.beyond_f16(node)? {
            "one of its weights is beyond f16"
        } else if floats().any(|name| self.went_beyond(name)) {
            "one of its values went beyond f16 on the examples"
        } else {
            return Ok(true);
        };
        report.skip(node, reason);
        Ok(false)
    }

    /// Returns whether a value went beyond f16 on the examples.
    fn went_beyond(&self, name: &str) -> bool {
        let most = self.seen.found.get(name).map(|range| range.low.abs().max(range.high.abs()));
        self.seen.unbounded.contains(name) || most.is_some_and(|most| most > f16::MAX.to_f32())
    }

    fn beyond_f16(&self, node: &NodeProto) -> Result<bool, CompressError> {
        let held = node.attr_tensor("value").into_iter();
        let taken = node.input.iter().filter_map(|name| self.graph.initializer(name));
        for tensor in held.chain(taken).filter(|tensor| tensor.element_type() == ElementType::Float) {
            if overflows(&tensor.floats()?) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

struct Pass<'a> {
    graph: &'a Graph,
    types: &'a Types,
    uses: Uses,
    names: Names,
    /// Values in f16 by the names that they have in f32.
    halves: HashMap<String, String>,
    losses: Losses,
    halved: &'a [bool],
    made: &'a mut Graph,
    nodes: Vec<NodeProto>,
}

impl Pass<'_> {
    fn halve(&mut self, node: &NodeProto) -> Result<(), CompressError> {
        let mut narrow = node.clone();
        for (place, name) in node.input.iter().enumerate() {
            if follows(node, place) && is_float(self.types, name) {
                narrow.input[place] = self.half(name)?;
            }
        }
        let mut widened = Vec::new();
        for (place, name) in node.output.iter().enumerate().filter(|(_place, name)| is_float(self.types, name)) {
            let short = self.names.fresh(&format!("{name}_half"));
            narrow.output[place].clone_from(&short);
            self.declare(name, &short);
            if self.is_needed_in_full(name) {
                widened.push(self.cast(&short, name, DataType::Float));
            }
            self.halves.insert(name.clone(), short);
        }
        self.retype(&mut narrow)?;
        self.nodes.push(narrow);
        self.nodes.extend(widened);
        Ok(())
    }

    /// Returns what an operator says of its own type.
    fn retype(&mut self, node: &mut NodeProto) -> Result<(), CompressError> {
        if node.is("Cast") && node.attr_int("to") == Some(DataType::Float as i64) {
            node.set(AttributeProto::int("to", DataType::Float16 as i64));
        }
        if !node.is("Constant") && !node.is("ConstantOfShape") {
            return Ok(());
        }
        let (shape, values) = match node.attr_tensor("value") {
            Some(tensor) if tensor.element_type() == ElementType::Float => (tensor.shape()?, tensor.floats()?),
            Some(_other) => return Ok(()),
            None => (vec![1], vec![0.0]),
        };
        let tensor = of_floats("", &shape, &values, ElementType::Float16, &mut self.losses);
        node.set(AttributeProto::tensor("value", tensor));
        Ok(())
    }

    /// The value in f16: a weight rounded, a value cast, or what its node makes already.
    fn half(&mut self, name: &str) -> Result<String, CompressError> {
        if let Some(short) = self.halves.get(name) {
            return Ok(short.clone());
        }
        let short = self.names.fresh(&format!("{name}_half"));
        match self.graph.initializer(name) {
            Some(tensor) => {
                let (shape, values) = (tensor.shape()?, tensor.floats()?);
                self.made.add_initializer(of_floats(&short, &shape, &values, ElementType::Float16, &mut self.losses));
            }
            None => {
                let cast = self.cast(name, &short, DataType::Float16);
                self.nodes.push(cast);
            }
        }
        self.halves.insert(name.to_owned(), short.clone());
        Ok(short)
    }

    fn cast(&mut self, from: &str, into: &str, to: DataType) -> NodeProto {
        let name = self.names.fresh(&format!("{into}_cast"));
        NodeProto::new("Cast", &name, &[from], &[into]).with(AttributeProto::int("to", to as i64))
    }

    /// Returns whether somebody takes the value in f32.
    fn is_needed_in_full(&self, name: &str) -> bool {
        let takes = |&at: &usize| {
            let (Some(node), Some(&halved)) = (self.graph.nodes.get(at), self.halved.get(at)) else { return true };
            let elsewhere = !node.input.iter().any(|input| input == name);
            let as_size = node.input.iter().enumerate().any(|(place, input)| input == name && !follows(node, place));
            !halved || elsewhere || as_size
        };
        self.graph.is_output(name) || self.uses.consumers(name).iter().any(takes)
    }

    /// Keeps what the file tells of a value's shape, under the new name and type.
    fn declare(&mut self, name: &str, short: &str) {
        let Some(info) = self.graph.value_info.get(name) else { return };
        let mut info = ValueInfoProto { name: Some(short.to_owned()), ..info.clone() };
        if let Some(type_proto::Value::TensorType(tensor)) = info.r#type.as_mut().and_then(|kind| kind.value.as_mut()) {
            tensor.elem_type = Some(ElementType::Float16.into());
        }
        self.made.value_info.insert(short.to_owned(), info);
    }
}
