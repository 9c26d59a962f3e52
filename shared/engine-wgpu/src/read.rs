//! Reads an ONNX file into a [`Graph`].
//!
//! Fed with bytes that [`engine::precheck`] has already bounded (size, nodes, depth, no external data); inlines the model's own
//! functions with `onnx-functions`, parses the result with `rten-onnx` and checks everything the rest of this crate relies on: nodes in an order that can run, each value defined
//! once, tensors whose bytes match their shapes.

mod scan;
mod wire;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::RangeInclusive;
use std::panic::catch_unwind;

use bytes::Bytes;
use rten_onnx::onnx::{AttributeProto, AttributeType, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto};
use rten_onnx::protobuf::DecodeMessage;
use types::Dim;
use types::limits::RANK_MAX;

use crate::error::ModelError;
use crate::ir::{Attribute, Attributes, ElementType, Graph, Literal, Node, Value, ValueId};
use wire::Wire;

/// Deepest nesting of subgraphs (`If` inside `Loop` inside …). Exporters write one or two.
const DEPTH_MAX: usize = 8;

/// IR versions that this engine knows: the first with operator sets of their own, to that of ONNX 1.23.
const IR_VERSIONS: RangeInclusive<i64> = 3..=14;

/// Reads a model.
///
/// # Errors
/// [`ModelError::Malformed`] with the first thing that is wrong.
pub fn read(model: &[u8]) -> Result<Graph, ModelError> {
    let inlined = onnx_functions::inlined(model, &onnx_functions::Limits::default());
    let inlined = inlined.map_err(|error| malformed(error.to_string()))?;
    let model = inlined.as_deref().unwrap_or(model);
    // Where overflow is checked, the parser panics at a length near 2^64.
    let parsed = catch_unwind(|| ModelProto::decode(Wire::of(model)));
    let parsed = parsed.map_err(|_panic| malformed("a message is longer than a file can be"))?;
    let model = parsed.map_err(|error| malformed(error.to_string()))?;
    let mut opsets = HashMap::new();
    let ir = model.ir_version.unwrap_or_default();
    if !IR_VERSIONS.contains(&ir) {
        let (first, last) = (IR_VERSIONS.start(), IR_VERSIONS.end());
        return Err(malformed(format!("its IR version is {ir}, and this engine knows {first} to {last}")));
    }
    for import in &model.opset_import {
        let domain = domain_of(import.domain.as_deref());
        let version = import.version.unwrap_or_default();
        // ONNX Runtime does not load such a file either.
        if version < 1 {
            return Err(malformed(format!("it imports operator set {version} of the domain {:?}", shown(&domain))));
        }
        opsets.insert(domain, version);
    }
    let graph = model.graph.as_ref().ok_or_else(|| malformed("it holds no graph"))?;
    Ok(Reader { opsets: &opsets, depth: 0 }.graph(graph, None)?.0)
}

fn malformed(clause: impl Into<String>) -> ModelError {
    ModelError::Malformed(clause.into())
}

/// The default domain has two spellings.
fn domain_of(domain: Option<&str>) -> String {
    domain.filter(|&domain| domain != "ai.onnx").unwrap_or_default().to_owned()
}

/// A domain as its owners write it.
fn shown(domain: &str) -> &str {
    if domain.is_empty() { "ai.onnx" } else { domain }
}

struct Reader<'a> {
    opsets: &'a HashMap<String, i64>,
    depth: usize,
}

/// The graph around a subgraph as far as it is read, and the name of each of its values.
type Outer<'a> = Option<(&'a Graph, &'a HashMap<String, ValueId>)>;

/// A value's element type and shape, as far as the file declares them.
type Declared = Option<(ElementType, Option<Vec<Dim>>)>;

impl Reader<'_> {
    /// Reads a graph, and the outer values that it captures: they become its last inputs, and its node's last inputs, so
    /// that nothing but the order of inputs tells a subgraph from a function.
    fn graph(&self, proto: &GraphProto, outer: Outer<'_>) -> Result<(Graph, Vec<ValueId>), ModelError> {
        if self.depth > DEPTH_MAX {
            return Err(malformed(format!("subgraphs are nested deeper than {DEPTH_MAX}")));
        }
        let mut graph = Graph::default();
        let mut names: HashMap<String, ValueId> = HashMap::new();
        let mut declared = HashMap::new();
        for info in proto.value_info.iter().chain(&proto.output) {
            declared.insert(info.name.clone().unwrap_or_default(), declaration(info)?);
        }
        for tensor in &proto.initializer {
            let name = tensor.name.clone().unwrap_or_default();
            let literal = literal(tensor)?;
            define(&mut names, &name, |name| graph.add_constant(name, literal))?;
        }
        for info in &proto.input {
            let name = info.name.clone().unwrap_or_default();
            // Before IR version 4 every initializer is listed as an input too; it is a default nobody overrides.
            if names.contains_key(&name) {
                continue;
            }
            let declared = declaration(info)?;
            let id = define(&mut names, &name, |name| graph.add_value(Value { name: name.to_owned(), declared }))?;
            graph.inputs.push(id);
        }
        let mut captures = Vec::new();
        if let Some((around, visible)) = outer {
            for name in free_names(proto, DEPTH_MAX)? {
                let from = visible.get(name).ok_or_else(|| malformed(format!("nothing defines the value {name:?}")))?;
                let declared = around.value(*from).declared.clone();
                let id = define(&mut names, name, |name| graph.add_value(Value { name: name.to_owned(), declared }))?;
                graph.inputs.push(id);
                captures.push(*from);
            }
            graph.captured = captures.len();
        }
        for proto in in_order(&proto.node, &names)? {
            let node = self.node(proto, &mut graph, &mut names, &declared)?;
            graph.nodes.push(node);
        }
        for info in &proto.output {
            let name = info.name.as_deref().unwrap_or_default();
            let id = names.get(name).ok_or_else(|| malformed(format!("nothing computes the output {name:?}")))?;
            graph.outputs.push(*id);
        }
        Ok((graph, captures))
    }

    fn node(
        &self,
        proto: &NodeProto,
        graph: &mut Graph,
        names: &mut HashMap<String, ValueId>,
        declared: &HashMap<String, Declared>,
    ) -> Result<Node, ModelError> {
        let domain = domain_of(proto.domain.as_deref());
        let opset = self.opsets.get(&domain).copied().ok_or_else(|| {
            let (op, domain) = (proto.op_type.as_deref().unwrap_or_default(), shown(&domain));
            malformed(format!("it uses {op} of the domain {domain:?} and imports no operator set of that domain"))
        })?;
        // `in_order` has seen every name.
        let mut inputs: Vec<Option<ValueId>> = proto.input.iter().map(|name| names.get(name).copied()).collect();
        let (attributes, captures) = self.attributes(proto, graph, names)?;
        inputs.extend(captures.into_iter().map(Some));
        let mut outputs = Vec::with_capacity(proto.output.len());
        for name in &proto.output {
            if name.is_empty() {
                outputs.push(None);
                continue;
            }
            let declared = declared.get(name).cloned().flatten();
            let id = define(names, name, |name| graph.add_value(Value { name: name.to_owned(), declared }))?;
            outputs.push(Some(id));
        }
        let name = proto.name.clone().unwrap_or_default();
        let op = proto.op_type.clone().unwrap_or_default();
        Ok(scan::without_batch(Node { name, domain, op, opset, inputs, outputs, attributes }))
    }

    /// The attributes of a node, and what its subgraphs capture: attribute by attribute in the order of their names.
    fn attributes(
        &self,
        proto: &NodeProto,
        graph: &Graph,
        names: &HashMap<String, ValueId>,
    ) -> Result<(Attributes, Vec<ValueId>), ModelError> {
        let mut attributes = Attributes::default();
        let mut captured = BTreeMap::new();
        for attribute in &proto.attribute {
            let name = attribute.name.as_deref().unwrap_or_default();
            if let Some(inner) = attribute.g.as_ref().filter(|_graph| attribute.r#type == Some(AttributeType::GRAPH)) {
                let reader = Reader { depth: self.depth + 1, ..*self };
                let (inner, captures) = reader.graph(inner, Some((graph, names)))?;
                attributes.insert(name, Attribute::Graph(Box::new(inner)));
                captured.insert(name, captures);
            } else if let Some(value) = plain_attribute(attribute)? {
                attributes.insert(name, value);
            }
        }
        Ok((attributes, captured.into_values().flatten().collect()))
    }
}

/// An attribute that is no subgraph; `None` for kinds that no operator of this engine has.
fn plain_attribute(proto: &AttributeProto) -> Result<Option<Attribute>, ModelError> {
    let kind = proto.r#type.unwrap_or(AttributeType::UNDEFINED);
    Ok(Some(match kind {
        AttributeType::FLOAT => Attribute::Float(proto.f.unwrap_or_default()),
        AttributeType::INT => Attribute::Int(proto.i.unwrap_or_default()),
        AttributeType::STRING => Attribute::Text(proto.s.clone().unwrap_or_default()),
        AttributeType::FLOATS => Attribute::Floats(proto.floats.clone()),
        AttributeType::INTS => Attribute::Ints(proto.ints.clone()),
        AttributeType::STRINGS => Attribute::Texts(proto.strings.clone()),
        AttributeType::TENSOR => {
            let tensor = proto.t.as_ref().ok_or_else(|| malformed("a tensor attribute holds no tensor"))?;
            Attribute::Tensor(literal(tensor)?)
        }
        // Sparse tensors, type protos, lists of graphs: their operators are refused by name later.
        _ => return Ok(None),
    }))
}

/// Names that a graph uses and does not define, its subgraphs' included.
fn free_names(graph: &GraphProto, depth: usize) -> Result<BTreeSet<&str>, ModelError> {
    let mut used: BTreeSet<&str> = graph.output.iter().filter_map(|info| info.name.as_deref()).collect();
    for node in &graph.node {
        used.extend(node_names(node, depth)?);
    }
    used.remove("");
    let named = graph.input.iter().map(|info| info.name.as_deref());
    let defined = named.chain(graph.initializer.iter().map(|tensor| tensor.name.as_deref())).flatten();
    for name in defined.chain(graph.node.iter().flat_map(|node| node.output.iter().map(String::as_str))) {
        used.remove(name);
    }
    Ok(used)
}

/// Names that a node needs before it can run: its inputs and what its subgraphs capture.
fn node_names(node: &NodeProto, depth: usize) -> Result<BTreeSet<&str>, ModelError> {
    let mut names: BTreeSet<&str> = node.input.iter().map(String::as_str).filter(|name| !name.is_empty()).collect();
    for inner in node.attribute.iter().filter_map(|attribute| attribute.g.as_ref()) {
        let depth = depth.checked_sub(1);
        let depth = depth.ok_or_else(|| malformed(format!("subgraphs are nested deeper than {DEPTH_MAX}")))?;
        names.extend(free_names(inner, depth)?);
    }
    Ok(names)
}

/// Gives a name its one value.
fn define(
    names: &mut HashMap<String, ValueId>,
    name: &str,
    make: impl FnOnce(&str) -> ValueId,
) -> Result<ValueId, ModelError> {
    if name.is_empty() || names.contains_key(name) {
        return Err(malformed(format!("the value {name:?} is defined twice or without a name")));
    }
    let id = make(name);
    names.insert(name.to_owned(), id);
    Ok(id)
}

/// Sorts nodes so that each comes after what it reads; ONNX demands it, exporters mostly obey.
fn in_order<'a>(nodes: &'a [NodeProto], known: &HashMap<String, ValueId>) -> Result<Vec<&'a NodeProto>, ModelError> {
    let mut producer: HashMap<&str, usize> = HashMap::new();
    for (at, node) in nodes.iter().enumerate() {
        for output in node.output.iter().filter(|name| !name.is_empty()) {
            producer.insert(output, at);
        }
    }
    let mut waiting = vec![0_usize; nodes.len()];
    let mut readers: Vec<Vec<usize>> = vec![Vec::new(); nodes.len()];
    for (at, node) in nodes.iter().enumerate() {
        for input in node_names(node, DEPTH_MAX)?.into_iter().filter(|&name| !known.contains_key(name)) {
            let from = producer.get(input);
            let from = *from.ok_or_else(|| malformed(format!("nothing defines the value {input:?}")))?;
            waiting[at] += 1;
            readers[from].push(at);
        }
    }
    // Smallest position first keeps a file that is already in order as it is.
    let mut ready: std::collections::BTreeSet<usize> = (0..nodes.len()).filter(|&at| waiting[at] == 0).collect();
    let mut ordered = Vec::with_capacity(nodes.len());
    while let Some(at) = ready.pop_first() {
        ordered.push(&nodes[at]);
        for &reader in &readers[at] {
            waiting[reader] -= 1;
            if waiting[reader] == 0 {
                ready.insert(reader);
            }
        }
    }
    if ordered.len() == nodes.len() { Ok(ordered) } else { Err(malformed("its nodes form a cycle")) }
}

fn declaration(info: &ValueInfoProto) -> Result<Declared, ModelError> {
    let Some(tensor) = info.r#type.as_ref().and_then(|kind| kind.tensor_type.as_ref()) else { return Ok(None) };
    let Some(dtype) = tensor.elem_type.and_then(|kind| ElementType::from_onnx(kind.0)) else { return Ok(None) };
    let Some(shape) = &tensor.shape else { return Ok(Some((dtype, None))) };
    if shape.dim.len() > RANK_MAX {
        return Err(malformed(format!("a value has more than {RANK_MAX} dimensions")));
    }
    let dims = shape.dim.iter().map(|dim| match (dim.dim_value, &dim.dim_param) {
        (Some(size), _) => usize::try_from(size).map_or(Dim::Any, Dim::Fixed),
        // Paddle writes "?" for every size that it does not know.
        (None, Some(symbol)) if !symbol.is_empty() && symbol != "?" => Dim::Symbol(symbol.clone()),
        (None, _) => Dim::Any,
    });
    Ok(Some((dtype, Some(dims.collect()))))
}

/// Takes the bytes of a tensor out of whichever field holds them.
fn literal(tensor: &TensorProto) -> Result<Literal, ModelError> {
    let name = tensor.name.as_deref().unwrap_or_default();
    let bad = |why: &str| malformed(format!("the tensor {name:?} {why}"));
    if tensor.data_location.is_some_and(|location| location.0 != 0) || !tensor.external_data.is_empty() {
        return Err(bad("keeps its data in another file: save the model as one file"));
    }
    let number = tensor.data_type.map_or(0, |kind| kind.0);
    let dtype = ElementType::from_onnx(number)
        .ok_or_else(|| bad(&format!("has element type {number}, which this engine does not know")))?;
    let shape: Result<Vec<usize>, _> = tensor.dims.iter().map(|&size| usize::try_from(size)).collect();
    let shape = shape.map_err(|_negative| bad("has a negative dimension"))?;
    if shape.len() > RANK_MAX {
        return Err(bad(&format!("has more than {RANK_MAX} dimensions")));
    }
    // An empty tensor's other dimensions count too: their strides must not overflow.
    let bounded = shape.iter().try_fold(1_usize, |product, &size| product.checked_mul(size.max(1)));
    let elements = bounded.map(|_fits| shape.iter().product());
    let size = elements.and_then(|elements| dtype.bytes_of(elements)).ok_or_else(|| bad("is too large"))?;
    if let Some(raw) = &tensor.raw_data {
        let bytes = Bytes::from(raw.take());
        return Literal::new(dtype, shape, bytes)
            .ok_or_else(|| bad(&format!("does not hold the {size} bytes of its shape")));
    }
    // Field widths are those of onnx.proto: small integers, halves (as bits) and booleans travel as int32.
    let values: Vec<u8> = match dtype {
        ElementType::F32 => tensor.float_data.iter().flat_map(|value| value.to_le_bytes()).collect(),
        ElementType::F64 => tensor.double_data.iter().flat_map(|value| value.to_le_bytes()).collect(),
        ElementType::I64 => tensor.int64_data.iter().flat_map(|value| value.to_le_bytes()).collect(),
        ElementType::I32 => tensor.int32_data.iter().flat_map(|value| value.to_le_bytes()).collect(),
        ElementType::U16 | ElementType::I16 | ElementType::F16 | ElementType::Bf16 => tensor
            .int32_data
            .iter()
            .flat_map(|value| {
                let [a, b, ..] = value.to_le_bytes();
                [a, b]
            })
            .collect(),
        ElementType::Bool | ElementType::U8 | ElementType::I8 | ElementType::U4 | ElementType::I4 => {
            tensor.int32_data.iter().map(|value| value.to_le_bytes()[0]).collect()
        }
        ElementType::U32 | ElementType::U64 => {
            return Err(bad("keeps its values in uint64_data: save the model with raw data"));
        }
    };
    Literal::new(dtype, shape, values.into())
        .ok_or_else(|| bad(&format!("does not hold the {size} bytes of its shape")))
}
