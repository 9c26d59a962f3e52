//! What is in a model: inputs, outputs, operators, weights, and what running it costs.

mod macs;
mod page;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::Serialize;

use crate::infer::{Dim, TensorType, infer};
use crate::model::{Model, plain};
use crate::proto::tensor_shape_proto::dimension;
use crate::proto::{NodeProto, TensorProto, ValueInfoProto, type_proto};
use crate::rewrite::constants_to_initializers;
use crate::tensor::{ElementType, Values, bytes_of};
use crate::uses::{Uses, subgraphs};
use crate::visit;

pub use page::page;

/// How many of the largest weights are told.
const LARGEST_MAX: usize = 20;

/// Content of a model.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Inspection {
    /// Version of the format.
    pub ir_version: i64,
    /// Producer of the file, as it says.
    pub producer: String,
    /// Versions of operator sets, by domain; the default domain is `ai.onnx`.
    pub opsets: BTreeMap<String, i64>,
    /// Inputs of a request.
    pub inputs: Vec<Value>,
    /// Outputs of an answer.
    pub outputs: Vec<Value>,
    /// Nodes, with those of subgraphs.
    pub nodes: u64,
    /// Operators, those with the most bytes of weights first.
    pub operators: Vec<Operator>,
    /// Elements of all constants.
    pub parameters: u64,
    /// Bytes of all constants.
    pub bytes: u64,
    /// The constants by element type, the largest first.
    pub dtypes: Vec<Dtype>,
    /// Multiplications with addition of one run, estimated; `macs_unknown` nodes are not counted.
    pub macs: u64,
    /// Nodes that multiply matrices of unknown shapes.
    pub macs_unknown: u64,
    /// The number taken for each dimension that the model leaves open.
    pub dims: BTreeMap<String, i64>,
    /// Largest constants of the model.
    pub largest: Vec<Weight>,
    /// What engines say of it, as the caller asked them.
    pub engines: Vec<EngineSupport>,
}

/// An input or output.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Value {
    /// Name in the model.
    pub name: String,
    /// Element type, like `float`; `undefined` for what is no tensor.
    pub dtype: String,
    /// Dimensions: a number, a name, or null for unknown; null when their number is unknown.
    pub shape: Option<Vec<Dim>>,
}

/// One operator.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Operator {
    /// Its name, with the domain unless that is the default one.
    pub operator: String,
    /// Number of nodes in the graph.
    pub count: u64,
    /// Elements of the constants that it is the first to take.
    pub parameters: u64,
    /// Bytes of those.
    pub bytes: u64,
    /// Estimated multiplications with addition.
    pub macs: u64,
}

/// The constants of one element type.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Dtype {
    /// Element type, like `float16`.
    pub dtype: String,
    /// Number of tensors of this type.
    pub tensors: u64,
    /// Number of their elements.
    pub elements: u64,
    /// Number of their bytes.
    pub bytes: u64,
}

/// One constant.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Weight {
    /// Name in the model.
    pub name: String,
    /// Type of the elements.
    pub dtype: String,
    /// Dimensions of the constant.
    pub shape: Vec<i64>,
    /// Bytes of the constant.
    pub bytes: u64,
    /// The operator that is the first to take it.
    pub operator: String,
}

/// Judgement of an engine on a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EngineSupport {
    /// Name of the engine.
    pub engine: String,
    /// Whether it runs the model; `None` when it could not be asked.
    pub can_run: Option<bool>,
    /// Obstacles, one sentence each.
    pub problems: Vec<String>,
}

/// Looks through the model. `sizes` are numbers for open dimensions: by the name that the model gives, or `input.axis` for a
/// nameless one; what is not given counts as 1.
#[must_use]
pub fn inspect(model: &Model, sizes: &HashMap<String, i64>, engines: Vec<EngineSupport>) -> Inspection {
    let mut model = model.clone();
    let mut operators = BTreeMap::new();
    model.graph.nodes.iter().for_each(|node| count(node, &mut operators));
    let values = |infos: &[ValueInfoProto]| infos.iter().map(value).collect();
    let (inputs, outputs) = (values(&model.graph.inputs), values(&model.graph.outputs));
    constants_to_initializers(&mut model.graph);

    let dims = open_dims(&mut model, sizes);
    let types = infer(&model, &dims.iter().map(|(name, &size)| (name.clone(), size)).collect());
    let mut macs_unknown = 0;
    for node in &model.graph.nodes {
        match macs::of(node, &types) {
            Some(macs) => {
                let told = operators.entry(operator_of(node)).or_default();
                told.macs = told.macs.saturating_add(macs);
            }
            None => macs_unknown += 1,
        }
        macs_unknown += subgraphs(node).map(macs::in_subgraph).sum::<u64>();
    }
    let weights = weights(&model, &mut operators);
    Inspection {
        ir_version: model.rest.ir_version(),
        producer: format!("{} {}", model.rest.producer_name(), model.rest.producer_version()).trim().to_owned(),
        opsets: opsets(&model),
        inputs,
        outputs,
        nodes: operators.values().map(|told| told.count).sum(),
        parameters: weights.iter().map(|weight| weight.elements).sum(),
        bytes: weights.iter().map(|weight| weight.told.bytes).sum(),
        dtypes: dtypes(&weights),
        macs: operators.values().fold(0, |sum, told| sum.saturating_add(told.macs)),
        macs_unknown,
        dims,
        largest: largest(weights),
        operators: sorted(operators),
        engines,
    }
}

#[derive(Default)]
struct Told {
    count: u64,
    parameters: u64,
    bytes: u64,
    macs: u64,
}

struct Found {
    told: Weight,
    elements: u64,
}

fn count(node: &NodeProto, operators: &mut BTreeMap<String, Told>) {
    operators.entry(operator_of(node)).or_default().count += 1;
    subgraphs(node).flat_map(|graph| &graph.node).for_each(|inner| count(inner, operators));
}

fn operator_of(node: &NodeProto) -> String {
    match plain(node.domain()) {
        "" => node.op_type().to_owned(),
        domain => format!("{domain}.{}", node.op_type()),
    }
}

fn dtype(element: ElementType) -> String {
    element.as_str_name().to_lowercase()
}

fn value(info: &ValueInfoProto) -> Value {
    let found = TensorType::of(info).unwrap_or(TensorType::UNKNOWN);
    Value { name: info.name().to_owned(), dtype: dtype(found.element), shape: found.shape }
}

fn opsets(model: &Model) -> BTreeMap<String, i64> {
    let named = |domain: &str| if plain(domain).is_empty() { "ai.onnx".to_owned() } else { domain.to_owned() };
    model.rest.opset_import.iter().map(|id| (named(id.domain()), id.version())).collect()
}

/// Names every nameless dimension of the inputs, and gives each name a number.
fn open_dims(model: &mut Model, sizes: &HashMap<String, i64>) -> BTreeMap<String, i64> {
    let mut names = BTreeSet::new();
    for input in &mut model.graph.inputs {
        let name = input.name().to_owned();
        let Some(type_proto::Value::TensorType(tensor)) = input.r#type.as_mut().and_then(|kind| kind.value.as_mut())
        else {
            continue;
        };
        for (axis, dim) in tensor.shape.iter_mut().flat_map(|shape| &mut shape.dim).enumerate() {
            match &dim.value {
                Some(dimension::Value::DimValue(size)) if *size >= 0 => {}
                Some(dimension::Value::DimParam(name)) if !name.is_empty() && name != "?" => {
                    names.insert(name.clone());
                }
                _ => {
                    let made = format!("{name}.{axis}");
                    dim.value = Some(dimension::Value::DimParam(made.clone()));
                    names.insert(made);
                }
            }
        }
    }
    names
        .into_iter()
        .map(|name| (sizes.get(&name).copied().unwrap_or(1), name))
        .map(|(size, name)| (name, size))
        .collect()
}

/// Every constant, told to the operator that takes it first.
fn weights(model: &Model, operators: &mut BTreeMap<String, Told>) -> Vec<Found> {
    let uses = Uses::of(&model.graph);
    let mut found = Vec::new();
    let mut tell = |name: &str, tensor: &TensorProto, operator: String| {
        let shape = tensor.shape().unwrap_or_default();
        let elements: u64 = shape.iter().product::<usize>().try_into().unwrap_or(u64::MAX);
        let text: usize = tensor.string_data.iter().map(Vec::len).sum();
        let bytes = bytes_of(tensor.element_type(), &shape).unwrap_or(text).try_into().unwrap_or(u64::MAX);
        let told = operators.entry(operator.clone()).or_default();
        told.parameters = told.parameters.saturating_add(elements);
        told.bytes = told.bytes.saturating_add(bytes);
        let dtype = dtype(tensor.element_type());
        found.push(Found {
            told: Weight { name: name.to_owned(), dtype, shape: tensor.dims.clone(), bytes, operator },
            elements,
        });
    };
    for (name, tensor) in &model.graph.initializers {
        let taker = uses.consumers(name).first().and_then(|&place| model.graph.nodes.get(place));
        tell(name, tensor, taker.map_or_else(|| "(unused)".to_owned(), operator_of));
    }
    for node in &model.graph.nodes {
        visit::node_tensors(node, &mut |tensor| tell(tensor.name(), tensor, operator_of(node)));
    }
    found
}

fn dtypes(weights: &[Found]) -> Vec<Dtype> {
    let mut by_name: BTreeMap<&str, Dtype> = BTreeMap::new();
    for Found { told, elements } in weights {
        let sum = by_name.entry(&told.dtype).or_insert_with(|| Dtype {
            dtype: told.dtype.clone(),
            tensors: 0,
            elements: 0,
            bytes: 0,
        });
        sum.tensors += 1;
        sum.elements = sum.elements.saturating_add(*elements);
        sum.bytes = sum.bytes.saturating_add(told.bytes);
    }
    let mut dtypes: Vec<Dtype> = by_name.into_values().collect();
    dtypes.sort_by_key(|sum| std::cmp::Reverse(sum.bytes));
    dtypes
}

fn largest(weights: Vec<Found>) -> Vec<Weight> {
    let mut largest: Vec<Weight> = weights.into_iter().map(|weight| weight.told).collect();
    largest.sort_by_key(|weight| std::cmp::Reverse(weight.bytes));
    largest.truncate(LARGEST_MAX);
    largest
}

fn sorted(operators: BTreeMap<String, Told>) -> Vec<Operator> {
    let told =
        |(operator, Told { count, parameters, bytes, macs })| Operator { operator, count, parameters, bytes, macs };
    let mut sorted: Vec<Operator> = operators.into_iter().map(told).collect();
    sorted.sort_by_key(|told| std::cmp::Reverse((told.bytes, told.macs, told.count)));
    sorted
}
