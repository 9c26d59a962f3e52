//! Models that hand out what others keep inside.

use std::collections::HashSet;

use onnx_graph::proto::tensor_proto::DataType;
use onnx_graph::proto::tensor_shape_proto::dimension::Value as Dimension;
use onnx_graph::proto::{AttributeProto, NodeProto, TensorProto, ValueInfoProto, type_proto};
use onnx_graph::{Model, Names, Uses, Values};

/// The output that holds the least and greatest values, one after the other.
pub(super) const EXTREMES: &str = "sanderling_extremes";

/// The model that computes only these values, and hands them out. Values that nothing makes are left out.
pub(super) fn values(model: &Model, wanted: &[String]) -> Model {
    let mut exposed = model.clone();
    let made = made(model);
    // The engine finds the types: a value without one is whatever its node makes.
    exposed.graph.outputs = wanted
        .iter()
        .filter(|name| made.contains(name.as_str()))
        .map(|name| ValueInfoProto { name: Some(name.clone()), ..ValueInfoProto::default() })
        .collect();
    prune(&mut exposed);
    exposed
}

/// Part of a value that is too large for one answer: a range of one axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Slab {
    axis: usize,
    begin: usize,
    /// Excluded; `None` for the rest of the axis, which may be longer in other examples.
    end: Option<usize>,
}

impl Slab {
    /// Returns the whole of a value of this shape, along the axis to divide: rows of images and of matrices, so that
    /// channels stay together, or the longest axis where there is one row.
    pub(super) fn along(shape: &[usize]) -> Self {
        let rows = match shape.len() {
            4.. => 2,
            3 => 1,
            _ => 0,
        };
        let longest = (0..shape.len()).max_by_key(|&axis| shape.get(axis));
        let axis = Some(rows).filter(|&axis| shape.get(axis).is_some_and(|&length| length > 1)).or(longest);
        Self { axis: axis.unwrap_or_default(), begin: 0, end: None }
    }

    /// Returns both halves of a part that has this shape; `None` where it cannot be divided.
    pub(super) fn halves(self, shape: &[usize]) -> Option<[Self; 2]> {
        let half = shape.get(self.axis).map(|&length| length / 2).filter(|&half| half > 0)?;
        let middle = self.begin.checked_add(half)?;
        Some([Self { end: Some(middle), ..self }, Self { begin: middle, ..self }])
    }
}

/// Creates the model that computes only a part of this value, and hands it out.
pub(super) fn slab(model: &Model, value: &str, slab: Slab) -> Model {
    let mut exposed = model.clone();
    let mut names = Names::of(&exposed.graph);
    let number = |at: Option<usize>| at.and_then(|at| i64::try_from(at).ok()).unwrap_or(i64::MAX);
    let part = names.fresh("sanderling_part");
    let mut inputs = vec![value.to_owned()];
    let lists = [("starts", number(Some(slab.begin))), ("ends", number(slab.end)), ("axes", number(Some(slab.axis)))];
    for (name, at) in lists {
        let constant = names.fresh(name);
        exposed.graph.add_initializer(TensorProto::of_int64(&constant, &[1], &[at]));
        inputs.push(constant);
    }
    let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
    let slice = NodeProto::new("Slice", &names.fresh("sanderling_slice"), &inputs, &[&part]);
    exposed.graph.nodes.push(slice);
    values(&exposed, &[part])
}

/// Names that a node of the top graph makes.
fn made(model: &Model) -> HashSet<&str> {
    model.graph.nodes.iter().flat_map(|node| &node.output).map(String::as_str).filter(|name| !name.is_empty()).collect()
}

/// The model that hands out nothing but the least and greatest element of each value, in [`EXTREMES`]: f32\[2 n\].
/// Only for values of f32 that are made by nodes; `floors` are known to reach no lower than 0 and are asked once.
pub(super) fn extremes(model: &Model, wanted: &[String], floors: &HashSet<&str>) -> Model {
    let mut exposed = model.clone();
    let mut names = Names::of(&exposed.graph);
    let one = names.fresh("sanderling_one");
    exposed.graph.add_initializer(TensorProto::of_int64(&one, &[1], &[1]));
    let mut parts = Vec::with_capacity(wanted.len() * 2);
    for value in wanted {
        for operator in ["ReduceMin", "ReduceMax"] {
            if operator == "ReduceMin" && floors.contains(value.as_str()) {
                continue;
            }
            let (scalar, part) = (names.fresh("sanderling_scalar"), names.fresh("sanderling_part"));
            let reduce = NodeProto::new(operator, &names.fresh("sanderling_reduce"), &[value], &[&scalar]);
            exposed.graph.nodes.push(reduce.with(AttributeProto::int("keepdims", 0)));
            let reshape = NodeProto::new("Reshape", &names.fresh("sanderling_reshape"), &[&scalar, &one], &[&part]);
            exposed.graph.nodes.push(reshape);
            parts.push(part);
        }
    }
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    let join = NodeProto::new("Concat", &names.fresh("sanderling_join"), &parts, &[EXTREMES]);
    exposed.graph.nodes.push(join.with(AttributeProto::int("axis", 0)));
    exposed.graph.outputs = vec![ValueInfoProto { name: Some(EXTREMES.to_owned()), ..ValueInfoProto::default() }];
    prune(&mut exposed);
    exposed
}

/// Values that an operator keeps at or above 0, by its definition.
pub(super) fn floors(model: &Model) -> HashSet<&str> {
    let never_below =
        |node: &&NodeProto| ["Relu", "Sigmoid", "Softmax", "HardSigmoid"].iter().any(|name| node.is(name));
    model.graph.nodes.iter().filter(never_below).filter_map(|node| node.output.first()).map(String::as_str).collect()
}

/// Returns whether a value of the top graph is a tensor of f32; `None` when the file does not say.
pub(crate) fn is_float(model: &Model, name: &str) -> Option<bool> {
    let info = model.graph.value_info.get(name);
    let info = info.or_else(|| model.graph.outputs.iter().chain(&model.graph.inputs).find(|info| info.name() == name));
    let tensor = info?.r#type.as_ref()?.value.as_ref()?;
    match tensor {
        type_proto::Value::TensorType(tensor) => Some(tensor.elem_type() == i32::from(DataType::Float)),
        _ => Some(false),
    }
}

/// Forgets the names of dimensions. Some exporters call all unknown ones `?`, which would make them equal.
fn forget_symbols(model: &mut Model) {
    for input in &mut model.graph.inputs {
        let kind = input.r#type.as_mut().and_then(|kind| kind.value.as_mut());
        let Some(type_proto::Value::TensorType(tensor)) = kind else { continue };
        for dim in tensor.shape.iter_mut().flat_map(|shape| &mut shape.dim) {
            if matches!(dim.value, Some(Dimension::DimParam(_))) {
                dim.value = None;
            }
        }
    }
}

/// Removes every node and constant that no output needs.
fn prune(model: &mut Model) {
    forget_symbols(model);
    let graph = &mut model.graph;
    let uses = Uses::of(graph);
    let mut needed = vec![false; graph.nodes.len()];
    let mut pending: Vec<usize> = graph.outputs.iter().filter_map(|output| uses.producer(output.name())).collect();
    let mut kept: HashSet<String> = graph.outputs.iter().map(|output| output.name().to_owned()).collect();
    // Uses knows consumers, subgraphs with theirs; turned round it tells what each node takes.
    let mut taken: Vec<Vec<&str>> = vec![Vec::new(); graph.nodes.len()];
    for name in graph.nodes.iter().flat_map(|node| &node.output).chain(graph.initializers.keys()) {
        for &consumer in uses.consumers(name) {
            if let Some(list) = taken.get_mut(consumer) {
                list.push(name);
            }
        }
    }
    while let Some(place) = pending.pop() {
        let Some(seen) = needed.get_mut(place).filter(|seen| !**seen) else { continue };
        *seen = true;
        for &name in taken.get(place).into_iter().flatten() {
            kept.insert(name.to_owned());
            pending.extend(uses.producer(name));
        }
    }
    drop(taken);
    let mut needed = needed.into_iter();
    graph.nodes.retain(|_| needed.next().unwrap_or(true));
    graph.initializers.retain(|name, _| kept.contains(name));
    graph.value_info.clear();
}
