//! Types and shapes of values, as far as they follow from the graph without running it.
//!
//! A dimension is a number, a name that the model gives its inputs, or unknown. What is not known here stays unknown; what
//! is told is never wrong for a model that runs. Small tensors of whole numbers are followed too (`Shape`, `Gather`,
//! `Concat`, `Reshape`), because the shapes of transformers are computed by them.

mod broadcast;
mod content;
mod layout;
mod linear;
mod normal;
mod windows;

use std::collections::HashMap;
use std::fmt;

use serde::{Serialize, Serializer};

use crate::attribute::Attributes;
use crate::graph::Graph;
use crate::model::Model;
use crate::proto::tensor_shape_proto::dimension;
use crate::proto::{NodeProto, TensorProto, ValueInfoProto, type_proto};
use crate::tensor::{ElementType, Values, bytes_of};

pub use broadcast::broadcast;

/// Most dimensions that are followed.
const RANK_MAX: usize = 16;

/// Most numbers of a tensor whose contents are followed; shapes have up to 8.
const CONTENT_MAX: usize = 64;

/// One dimension.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Dim {
    /// A number.
    Known(i64),
    /// A name that the model gives to a dimension of its inputs; the same name is the same number.
    Named(String),
    /// Any number.
    Unknown,
}

impl Dim {
    /// The number, if it is one.
    #[must_use]
    pub const fn known(&self) -> Option<i64> {
        match self {
            Self::Known(size) => Some(*size),
            Self::Named(_) | Self::Unknown => None,
        }
    }
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Known(size) => write!(f, "{size}"),
            Self::Named(name) => f.write_str(name),
            Self::Unknown => f.write_str("?"),
        }
    }
}

impl Serialize for Dim {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Known(size) => serializer.serialize_i64(*size),
            Self::Named(name) => serializer.serialize_str(name),
            Self::Unknown => serializer.serialize_none(),
        }
    }
}

/// Type of a tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorType {
    /// Element type; `Undefined` is unknown.
    pub element: ElementType,
    /// Dimensions; `None` is an unknown number of them.
    pub shape: Option<Vec<Dim>>,
}

impl TensorType {
    /// Nothing is known.
    pub const UNKNOWN: Self = Self { element: ElementType::Undefined, shape: None };

    fn new(element: ElementType, shape: Vec<Dim>) -> Self {
        if shape.len() > RANK_MAX {
            return Self { element, shape: None };
        }
        Self { element, shape: Some(shape) }
    }

    pub(crate) fn of(info: &ValueInfoProto) -> Option<Self> {
        let Some(type_proto::Value::TensorType(tensor)) = info.r#type.as_ref()?.value.as_ref() else { return None };
        let element = ElementType::try_from(tensor.elem_type()).unwrap_or(ElementType::Undefined);
        let dim = |dim: &crate::proto::tensor_shape_proto::Dimension| match &dim.value {
            Some(dimension::Value::DimValue(size)) if *size >= 0 => Dim::Known(*size),
            // A question mark is how some exporters write "any", twice in one shape.
            Some(dimension::Value::DimParam(name)) if !name.is_empty() && name != "?" => Dim::Named(name.clone()),
            _ => Dim::Unknown,
        };
        let Some(shape) = &tensor.shape else { return Some(Self { element, shape: None }) };
        Some(Self::new(element, shape.dim.iter().map(dim).collect()))
    }

    fn of_tensor(tensor: &TensorProto) -> Self {
        let shape = tensor.shape().ok();
        let dims = shape
            .map(|shape| shape.into_iter().map(|dim| i64::try_from(dim).map_or(Dim::Unknown, Dim::Known)).collect());
        match dims {
            Some(dims) => Self::new(tensor.element_type(), dims),
            None => Self::UNKNOWN,
        }
    }

    /// The dimensions as numbers, if all are.
    #[must_use]
    pub fn sizes(&self) -> Option<Vec<usize>> {
        self.shape.as_ref()?.iter().map(|dim| usize::try_from(dim.known()?).ok()).collect()
    }

    /// Bytes of the elements, if all dimensions are known.
    #[must_use]
    pub fn bytes(&self) -> Option<usize> {
        bytes_of(self.element, &self.sizes()?)
    }

    /// Returns what both know together; where they contradict each other, the first.
    fn and(mut self, other: Self) -> Self {
        if self.element == ElementType::Undefined {
            self.element = other.element;
        }
        match (&mut self.shape, other.shape) {
            (Some(own), Some(others)) if own.len() == others.len() => {
                for (own, other) in own.iter_mut().zip(others) {
                    let is_better = match (&own, &other) {
                        (Dim::Unknown, _) | (Dim::Named(_), Dim::Known(_)) => true,
                        (Dim::Named(_) | Dim::Known(_), _) => false,
                    };
                    if is_better {
                        *own = other;
                    }
                }
            }
            (Some(_), _) => {}
            (own @ None, others) => *own = others,
        }
        self
    }
}

/// The types of a graph's values.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Types(HashMap<String, TensorType>);

impl Types {
    /// The type of a value; `None` when nothing is known, also for sequences and maps.
    #[must_use]
    pub fn of(&self, value: &str) -> Option<&TensorType> {
        self.0.get(value)
    }

    /// The element type; `Undefined` when unknown.
    #[must_use]
    pub fn element(&self, value: &str) -> ElementType {
        self.of(value).map_or(ElementType::Undefined, |found| found.element)
    }

    /// The dimensions; `None` when their number is unknown.
    #[must_use]
    pub fn shape(&self, value: &str) -> Option<&[Dim]> {
        self.of(value)?.shape.as_deref()
    }

    /// Returns how many values are known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns whether nothing is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All values and their types, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &TensorType)> {
        self.0.iter().map(|(name, found)| (name.as_str(), found))
    }
}

/// Infers the types of the top graph's values. `sizes` are numbers for named dimensions.
///
/// The nodes must be in order. What the file says of values in between is used where nothing can be inferred.
#[must_use]
pub fn infer(model: &Model, sizes: &HashMap<String, i64>) -> Types {
    let mut inference = Inference {
        graph: &model.graph,
        opset: model.opset("").unwrap_or(1),
        types: HashMap::new(),
        contents: HashMap::new(),
        sizes,
    };
    inference.inputs();
    for node in &model.graph.nodes {
        inference.node(node);
    }
    Types(inference.types)
}

struct Inference<'model> {
    graph: &'model Graph,
    opset: i64,
    types: HashMap<String, TensorType>,
    /// Numbers in small tensors of whole numbers, where known.
    contents: HashMap<String, Vec<Dim>>,
    sizes: &'model HashMap<String, i64>,
}

impl Inference<'_> {
    fn inputs(&mut self) {
        for input in &self.graph.inputs {
            if let Some(found) = TensorType::of(input) {
                let found = self.sized(found);
                self.types.insert(input.name().to_owned(), found);
            }
        }
        for (name, tensor) in &self.graph.initializers {
            self.constant(name, tensor);
        }
    }

    fn constant(&mut self, name: &str, tensor: &TensorProto) {
        self.types.insert(name.to_owned(), TensorType::of_tensor(tensor));
        let is_small = tensor.dims.len() <= 1 && tensor.dims.iter().all(|&dim| dim <= CONTENT_MAX as i64);
        if is_small && let Ok(values) = tensor.integers() {
            self.contents.insert(name.to_owned(), values.into_iter().map(Dim::Known).collect());
        }
    }

    /// Puts numbers in the place of names.
    fn sized(&self, mut found: TensorType) -> TensorType {
        for dim in found.shape.iter_mut().flatten() {
            if let Dim::Named(name) = dim
                && let Some(&size) = self.sizes.get(name.as_str())
            {
                *dim = Dim::Known(size);
            }
        }
        found
    }

    fn node(&mut self, node: &NodeProto) {
        if node.is("Constant") {
            if let (Some(tensor), Some(output)) = (crate::rewrite::constant(node), node.output.first()) {
                self.constant(output, &tensor);
            }
            return;
        }
        let step = Step { node, opset: self.opset, inference: self };
        let made = step.outputs();
        let content = content::of(&step);
        for (place, output) in node.output.iter().enumerate().filter(|(_, name)| !name.is_empty()) {
            let told = self.graph.value_info.get(output).and_then(TensorType::of).map(|told| self.sized(told));
            let made = made.get(place).cloned().unwrap_or(TensorType::UNKNOWN);
            let known = match told {
                Some(told) => made.and(told),
                None => made,
            };
            if known != TensorType::UNKNOWN {
                self.types.insert(output.clone(), known);
            }
        }
        if let (Some(content), Some(output)) = (content, node.output.first())
            && content.len() <= CONTENT_MAX
        {
            self.contents.insert(output.clone(), content);
        }
    }
}

/// A node and what is known of its inputs.
struct Step<'step> {
    node: &'step NodeProto,
    opset: i64,
    inference: &'step Inference<'step>,
}

impl Step<'_> {
    fn input(&self, place: usize) -> Option<&TensorType> {
        self.inference.types.get(self.node.input_at(place)?)
    }

    fn element(&self, place: usize) -> ElementType {
        self.input(place).map_or(ElementType::Undefined, |found| found.element)
    }

    fn shape(&self, place: usize) -> Option<&[Dim]> {
        self.input(place)?.shape.as_deref()
    }

    fn content(&self, place: usize) -> Option<&[Dim]> {
        self.inference.contents.get(self.node.input_at(place)?).map(Vec::as_slice)
    }

    /// Contents that are all numbers.
    fn numbers(&self, place: usize) -> Option<Vec<i64>> {
        self.content(place)?.iter().map(Dim::known).collect()
    }

    fn int(&self, name: &str) -> Option<i64> {
        self.node.attr_int(name)
    }

    /// A list that is an attribute in versions before `since`, and the input at `place` from then on. `Some(None)` is a
    /// list left out, `None` one that is not known.
    #[expect(clippy::option_option, reason = "left out and unknown are two things")]
    fn list(&self, name: &str, place: usize, since: i64) -> Option<Option<Vec<i64>>> {
        if self.opset < since {
            return Some(self.node.attr_ints(name).map(<[i64]>::to_vec));
        }
        match self.node.input_at(place) {
            Some(_) => self.numbers(place).map(Some),
            None => Some(None),
        }
    }

    /// The axis that an attribute names, counted from the front.
    fn axis(&self, default: i64, rank: usize) -> Option<usize> {
        axis_of(self.int("axis").unwrap_or(default), rank)
    }

    /// Types of the outputs, as many as are known.
    fn outputs(&self) -> Vec<TensorType> {
        match self.node.domain() {
            "" | "ai.onnx" => self.standard(),
            "com.microsoft" => self.microsoft(),
            _ => Vec::new(),
        }
    }

    fn standard(&self) -> Vec<TensorType> {
        let operator = self.node.op_type();
        broadcast::elementwise(self)
            .or_else(|| linear::infer(self))
            .or_else(|| windows::infer(self))
            .or_else(|| normal::infer(self))
            .or_else(|| layout::infer(self))
            .unwrap_or_else(|| match operator {
                "Cast" => vec![self.cast()],
                _ => Vec::new(),
            })
    }

    fn cast(&self) -> TensorType {
        let to = self.int("to").and_then(|to| i32::try_from(to).ok()).and_then(|to| ElementType::try_from(to).ok());
        TensorType { element: to.unwrap_or(ElementType::Undefined), shape: self.shape(0).map(<[Dim]>::to_vec) }
    }

    fn microsoft(&self) -> Vec<TensorType> {
        linear::microsoft(self).unwrap_or_default()
    }

    /// The first input's type.
    fn like_first(&self) -> TensorType {
        self.input(0).cloned().unwrap_or(TensorType::UNKNOWN)
    }

    /// The first input's shape with another element type.
    fn shaped_like_first(&self, element: ElementType) -> TensorType {
        TensorType { element, shape: self.shape(0).map(<[Dim]>::to_vec) }
    }

    /// The first input's element type in another shape.
    fn typed_like_first(&self, shape: Option<Vec<Dim>>) -> TensorType {
        match shape {
            Some(shape) => TensorType::new(self.element(0), shape),
            None => TensorType { element: self.element(0), shape: None },
        }
    }
}

/// An axis counted from the front; `None` beyond the rank.
fn axis_of(axis: i64, rank: usize) -> Option<usize> {
    let rank = i64::try_from(rank).ok()?;
    let axis = if axis < 0 { axis.checked_add(rank)? } else { axis };
    (axis < rank).then(|| usize::try_from(axis).ok()).flatten()
}

/// The sum, where both are known.
fn plus(one: &Dim, other: &Dim) -> Dim {
    match (one, other) {
        (Dim::Known(one), Dim::Known(other)) => one.checked_add(*other).map_or(Dim::Unknown, Dim::Known),
        (Dim::Known(0), dim) | (dim, Dim::Known(0)) => dim.clone(),
        _ => Dim::Unknown,
    }
}

/// The product, where both are known.
fn times(one: &Dim, other: &Dim) -> Dim {
    match (one, other) {
        (Dim::Known(one), Dim::Known(other)) => one.checked_mul(*other).map_or(Dim::Unknown, Dim::Known),
        (Dim::Known(1), dim) | (dim, Dim::Known(1)) => dim.clone(),
        (Dim::Known(0), _) | (_, Dim::Known(0)) => Dim::Known(0),
        _ => Dim::Unknown,
    }
}

/// The product of all.
fn product(dims: &[Dim]) -> Dim {
    dims.iter().fold(Dim::Known(1), |product, dim| times(&product, dim))
}
