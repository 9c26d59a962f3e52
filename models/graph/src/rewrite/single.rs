//! Brings models in half or double precision to single precision, which quantizing passes read.
//!
//! Inputs and outputs keep their types: a `Cast` stands between them and the graph. Weights that are stored in 16 bits
//! and widened by a `Cast` become plain weights.

use std::collections::HashMap;

use crate::graph::Graph;
use crate::model::Model;
use crate::names::Names;
use crate::proto::tensor_proto::DataType;
use crate::proto::{AttributeProto, GraphProto, NodeProto, TensorProto, ValueInfoProto, type_proto};
use crate::rewrite::replace::{Inner, replace_uses};
use crate::tensor::{ElementType, Values};
use crate::uses::subgraphs;

/// Attributes that name an element type.
const TYPE_ATTRIBUTES: [&str; 4] = ["to", "dtype", "output_datatype", "output_dtype"];

/// Element types that become single precision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sources {
    half: bool,
    double: bool,
}

impl Sources {
    fn has(self, element: i32) -> bool {
        let is = |kind: DataType| i32::from(kind) == element;
        (self.half && (is(DataType::Float16) || is(DataType::Bfloat16))) || (self.double && is(DataType::Double))
    }
}

/// Rewrites every value of f16 and bf16 to f32, and every value of f64 in a model whose weights are mostly f64; gives how
/// many weights changed, or `None` when there was nothing to change. A model with functions of its own is left alone.
///
/// Numbers get no other value, but for f64, which is rounded; the computation is in f32 from then on.
pub fn to_single(model: &mut Model) -> Option<usize> {
    let sources = sources(&model.graph);
    if !(sources.half || sources.double) || !model.rest.functions.is_empty() {
        return None;
    }
    let inner = Inner::of(&model.graph);
    let graph = &mut model.graph;
    let ends = graph.inputs.iter().chain(&graph.outputs);
    // Within a subgraph such a name would mean another value.
    if ends.clone().any(|end| sources.has(element(end)) && inner.has(end.name())) {
        return None;
    }
    let mut changed = 0;
    for tensor in graph.initializers.values_mut() {
        changed += usize::from(narrow(tensor, sources));
    }
    // A weight that the graph hands out, and an input that it hands on, keep their type at the end.
    graph.nodes.iter_mut().for_each(|node| rewrite_node(node, sources));
    graph.value_info.values_mut().for_each(|info| retype(info, sources));
    let mut names = Names::of(graph);
    cast_outputs(graph, &mut names, sources);
    cast_inputs(graph, &mut names, sources);
    Some(changed)
}

/// Returns which types must become f32: f16 if there is any, f64 if most weights are f64.
fn sources(graph: &Graph) -> Sources {
    let mut bytes: HashMap<i32, usize> = HashMap::new();
    let mut add = |tensor: &TensorProto| {
        let elements = tensor.dims.iter().map(|&dim| usize::try_from(dim).unwrap_or(0)).fold(1, usize::saturating_mul);
        *bytes.entry(tensor.data_type()).or_default() += elements;
    };
    graph.initializers.values().for_each(&mut add);
    graph.nodes.iter().for_each(|node| crate::visit::node_tensors(node, &mut add));
    let held = |kind: DataType| bytes.get(&i32::from(kind)).copied().unwrap_or(0);
    let takes = |kind: DataType| graph.inputs.iter().any(|input| element(input) == i32::from(kind));
    let is_half = |kind: DataType| held(kind) > 0 || takes(kind);
    Sources {
        half: is_half(DataType::Float16) || is_half(DataType::Bfloat16),
        double: held(DataType::Double) > held(DataType::Float) + held(DataType::Float16),
    }
}

fn element(info: &ValueInfoProto) -> i32 {
    match info.r#type.as_ref().and_then(|kind| kind.value.as_ref()) {
        Some(type_proto::Value::TensorType(tensor)) => tensor.elem_type(),
        _ => 0,
    }
}

/// Makes a constant f32; a constant whose bytes are broken stays, and whoever reads it says so.
fn narrow(tensor: &mut TensorProto, sources: Sources) -> bool {
    if !sources.has(tensor.data_type()) {
        return false;
    }
    let (Ok(shape), Ok(values)) = (tensor.shape(), tensor.floats()) else { return false };
    *tensor = TensorProto::of_floats(tensor.name(), &shape, &values);
    true
}

fn retype(info: &mut ValueInfoProto, sources: Sources) {
    if let Some(type_proto::Value::TensorType(tensor)) = info.r#type.as_mut().and_then(|kind| kind.value.as_mut())
        && sources.has(tensor.elem_type())
    {
        tensor.elem_type = Some(ElementType::Float.into());
    }
}

fn rewrite_node(node: &mut NodeProto, sources: Sources) {
    for attribute in &mut node.attribute {
        let names_type = TYPE_ATTRIBUTES.contains(&attribute.name());
        if names_type && attribute.i.and_then(|to| i32::try_from(to).ok()).is_some_and(|to| sources.has(to)) {
            attribute.i = Some(i64::from(i32::from(DataType::Float)));
        }
        for tensor in attribute.t.iter_mut() {
            narrow(tensor, sources);
        }
        for tensor in &mut attribute.tensors {
            narrow(tensor, sources);
        }
        for graph in attribute.g.iter_mut().chain(&mut attribute.graphs) {
            rewrite_graph(graph, sources);
        }
    }
}

fn rewrite_graph(graph: &mut GraphProto, sources: Sources) {
    for tensor in &mut graph.initializer {
        narrow(tensor, sources);
    }
    let infos = graph.input.iter_mut().chain(&mut graph.output).chain(&mut graph.value_info);
    infos.for_each(|info| retype(info, sources));
    graph.node.iter_mut().for_each(|node| rewrite_node(node, sources));
}

fn cast(names: &mut Names, from: &str, into: &str, to: i32) -> NodeProto {
    let name = names.fresh(&format!("{into}_cast"));
    NodeProto::new("Cast", &name, &[from], &[into]).with(AttributeProto::int("to", i64::from(to)))
}

/// Lets the graph compute each narrow output under another name, and casts it at the end.
fn cast_outputs(graph: &mut Graph, names: &mut Names, sources: Sources) {
    let mut done: HashMap<String, String> = HashMap::new();
    let mut casts = Vec::new();
    for output in graph.outputs.iter().filter(|output| sources.has(element(output))) {
        let name = output.name();
        let is_made = graph.nodes.iter().any(|node| node.output.iter().any(|made| made == name));
        let is_weight = graph.initializers.contains_key(name);
        if done.contains_key(name) || !(is_made || is_weight) {
            continue;
        }
        let wide = names.fresh(&format!("{name}_single"));
        casts.push(cast(names, &wide, name, element(output)));
        done.insert(name.to_owned(), wide);
    }
    for made in graph.nodes.iter_mut().flat_map(|node| &mut node.output) {
        if let Some(wide) = done.get(made.as_str()) {
            made.clone_from(wide);
        }
    }
    for (name, wide) in &done {
        if let Some(mut tensor) = graph.initializers.shift_remove(name) {
            tensor.name = Some(wide.clone());
            graph.add_initializer(tensor);
        }
        graph.value_info.shift_remove(name);
    }
    replace_uses(graph, &done);
    graph.nodes.extend(casts);
}

/// Casts each narrow input at the start; whoever took it takes the f32.
fn cast_inputs(graph: &mut Graph, names: &mut Names, sources: Sources) {
    let mut done: HashMap<String, String> = HashMap::new();
    let mut casts = Vec::new();
    for input in graph.inputs.iter().filter(|input| sources.has(element(input))) {
        let taken =
            |node: &NodeProto| node.input.iter().any(|name| name == input.name()) || subgraphs(node).next().is_some();
        if graph.nodes.iter().any(taken) {
            let wide = names.fresh(&format!("{}_single", input.name()));
            casts.push(cast(names, input.name(), &wide, i32::from(DataType::Float)));
            done.insert(input.name().to_owned(), wide);
        }
    }
    replace_uses(graph, &done);
    graph.nodes.splice(0..0, casts);
}
