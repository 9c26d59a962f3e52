//! Estimates the memory that one inference takes for the tensors between its nodes.
//!
//! Fed by the hub with a model and the shapes of its golden inputs, before the model is published. The nodes are followed
//! in the order of the file: what a node makes is held until the last node that takes it. Engines reuse more than that,
//! for example in place; the estimate is at most about twice what they need.

use std::collections::{HashMap, HashSet};

use crate::infer::{Types, infer};
use crate::model::Model;
use crate::proto::tensor_shape_proto::{Dimension, dimension};
use crate::proto::{NodeProto, TensorShapeProto, type_proto};
use crate::rewrite::constants_to_initializers;

/// Operators whose output is their first input in another shape: engines share the memory.
const SHARING: [&str; 6] = ["Identity", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Dropout"];

/// The estimate of one inference.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Peak {
    /// Bytes of all tensors that live at once, weights left out.
    pub bytes: u64,
    /// Name and bytes of the largest tensor.
    pub largest: Option<(String, u64)>,
    /// Number of tensors whose size does not follow from the shapes of the inputs; they are counted as nothing.
    pub unknown: usize,
}

/// Estimates one inference with inputs of these shapes, by input name. A dimension that is given nowhere counts as 1.
#[must_use]
pub fn peak(model: Model, shapes: &HashMap<String, Vec<usize>>) -> Peak {
    let mut model = match model.rest.functions.is_empty() {
        true => model,
        // A function that cannot be inlined counts as an operator of unknown results.
        false => model.clone().without_functions().unwrap_or(model),
    };
    constants_to_initializers(&mut model.graph);
    for input in &mut model.graph.inputs {
        let given = shapes.get(input.name.as_deref().unwrap_or_default());
        let Some(type_proto::Value::TensorType(tensor)) = input.r#type.as_mut().and_then(|kind| kind.value.as_mut())
        else {
            continue;
        };
        if let Some(given) = given {
            let dims = given.iter().map(|&size| known(i64::try_from(size).unwrap_or(i64::MAX))).collect();
            tensor.shape = Some(TensorShapeProto { dim: dims });
        } else if let Some(shape) = &mut tensor.shape {
            for dim in &mut shape.dim {
                if !matches!(dim.value, Some(dimension::Value::DimValue(size)) if size >= 0) {
                    *dim = known(1);
                }
            }
        }
    }
    let types = infer(&model, &HashMap::new());
    Walk::new(&model, &types).run(&model)
}

fn known(size: i64) -> Dimension {
    Dimension { value: Some(dimension::Value::DimValue(size)), ..Dimension::default() }
}

struct Walk<'m> {
    types: &'m Types,
    /// Number of the last node that takes a value; graph outputs are never freed.
    last: HashMap<&'m str, usize>,
    weights: HashSet<&'m str>,
    /// Value whose memory a value shares.
    shares: HashMap<&'m str, &'m str>,
    alive: HashMap<&'m str, u64>,
    sum: u64,
    peak: Peak,
}

impl<'m> Walk<'m> {
    fn new(model: &'m Model, types: &'m Types) -> Self {
        let mut walk = Self {
            types,
            last: HashMap::new(),
            weights: model.graph.initializers.iter().map(|(name, _)| name.as_str()).collect(),
            shares: HashMap::new(),
            alive: HashMap::new(),
            sum: 0,
            peak: Peak::default(),
        };
        for node in &model.graph.nodes {
            if let (true, Some(from), Some(to)) = (shares(node), node.input.first(), node.output.first()) {
                let root = walk.root(from);
                walk.shares.insert(to, root);
            }
        }
        for (at, node) in model.graph.nodes.iter().enumerate() {
            for name in node.input.iter().filter(|name| !name.is_empty()) {
                let root = walk.root(name);
                walk.last.insert(root, at);
            }
        }
        // A graph inside a node reads values of this one without listing them: then all are held to the end.
        if model.graph.nodes.iter().any(|node| crate::subgraphs(node).next().is_some()) {
            walk.last.clear();
        }
        for output in &model.graph.outputs {
            let root = walk.root(output.name.as_deref().unwrap_or_default());
            walk.last.remove(root);
        }
        walk
    }

    fn root(&self, name: &'m str) -> &'m str {
        self.shares.get(name).copied().unwrap_or(name)
    }

    fn run(mut self, model: &'m Model) -> Peak {
        for input in &model.graph.inputs {
            self.make(input.name.as_deref().unwrap_or_default());
        }
        for (at, node) in model.graph.nodes.iter().enumerate() {
            if !shares(node) {
                node.output.iter().filter(|name| !name.is_empty()).for_each(|name| self.make(name));
            }
            self.peak.bytes = self.peak.bytes.max(self.sum);
            let done: Vec<&str> = node.input.iter().map(|name| self.root(name)).collect();
            for name in done.into_iter().filter(|name| self.last.get(name) == Some(&at)).collect::<Vec<_>>() {
                self.sum = self.sum.saturating_sub(self.alive.remove(name).unwrap_or(0));
            }
        }
        self.peak.bytes = self.peak.bytes.max(self.sum);
        self.peak
    }

    fn make(&mut self, name: &'m str) {
        if self.weights.contains(name) || self.alive.contains_key(name) {
            return;
        }
        let Some(bytes) = self.types.of(name).and_then(crate::infer::TensorType::bytes) else {
            self.peak.unknown += 1;
            return;
        };
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.alive.insert(name, bytes);
        self.sum = self.sum.saturating_add(bytes);
        if self.peak.largest.as_ref().is_none_or(|(_, largest)| *largest < bytes) {
            self.peak.largest = Some((name.to_owned(), bytes));
        }
    }
}

fn shares(node: &NodeProto) -> bool {
    SHARING.iter().any(|operator| node.is(operator))
}
