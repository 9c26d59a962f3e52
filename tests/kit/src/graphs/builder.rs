//! Builder of a random model: its values so far, and the operations to add nodes.

use onnx_graph::proto::{AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto};
use prost::Message;
use types::{DType, NamedTensor, Tensor};

use super::random::Random;
use super::write::{info, int, ints, tensor};
use super::{Family, RandomGraph, branches, floats, integers, layers, movement, quantized, rare};

/// Maximum absolute value of a float.
const BOUND_MAX: f32 = 2000.0;

/// Maximum number of elements of a value.
const ELEMENTS_MAX: usize = 4096;

/// Kind of difference between two correct engines on a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Noise {
    /// No difference: the bits are equal.
    Exact,
    /// Differences in the last bits of floats.
    Rounded,
    /// Differences by a step of a quantization.
    Stepped,
}

/// A value that operators may read.
#[derive(Debug, Clone)]
pub(super) struct Held {
    pub(super) name: String,
    pub(super) dtype: DType,
    /// Shape in the first example.
    pub(super) shape: Vec<usize>,
    /// Maximum absolute value of the floats.
    pub(super) bound: f32,
    pub(super) noise: Noise,
}

impl Held {
    pub(super) fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    pub(super) fn rank(&self) -> usize {
        self.shape.len()
    }
}

/// Step that adds an operator to a model; `None` if no value is suitable.
pub(super) type Step = fn(&mut Builder) -> Option<()>;

/// An input of the model.
#[derive(Debug, Clone)]
struct Source {
    held: Held,
    /// Whether the first dimension is the symbol `n`.
    symbolic: bool,
}

/// State of a model that is being built.
#[derive(Debug)]
pub(super) struct Builder {
    pub(super) family: Family,
    pub(super) random: Random,
    pub(super) opset: usize,
    pub(super) graph: GraphProto,
    /// Values that operators may read, the newest last.
    pub(super) values: Vec<Held>,
    /// Weights by name and shape, for sharing.
    weights: Vec<(String, Vec<usize>)>,
    sources: Vec<Source>,
    next: usize,
    /// Current depth of nested branches.
    pub(super) depth: usize,
    /// Outputs of `DequantizeLinear`, and of operators that only move them.
    pub(super) dequantized: Vec<String>,
    /// Outputs whose shape depends on the data, so that no other operator reads them.
    pub(super) found: Vec<(String, DType)>,
    /// Whether the model may state a size as a number although it depends on the batch.
    pub(super) fixed_rows: bool,
}

impl Builder {
    pub(super) fn new(family: Family, opset: usize, random: Random) -> Self {
        Self {
            family,
            random,
            opset,
            graph: GraphProto { name: Some("random".into()), ..GraphProto::default() },
            values: Vec::new(),
            weights: Vec::new(),
            sources: Vec::new(),
            next: 0,
            depth: 0,
            dequantized: Vec::new(),
            found: Vec::new(),
            fixed_rows: false,
        }
    }

    /// Adds the inputs of the model.
    pub(super) fn add_inputs(&mut self) {
        let symbolic = self.family == Family::Layers || !self.random.once_in(3);
        self.fixed_rows = !symbolic;
        let rows = self.random.between(1, 4);
        let layout = self.random.below(4);
        let mut shape = vec![rows];
        match layout {
            0 => shape.extend([self.random.between(2, 24)]),
            1 => shape.extend([self.random.between(2, 8), self.random.between(2, 16)]),
            _ => {
                let channels = self.random.pick(&[1, 2, 3, 4, 8]);
                shape.extend([channels, self.random.between(3, 9), self.random.between(3, 9)]);
            }
        }
        self.source(DType::F32, shape.clone(), symbolic);
        if self.random.once_in(3) {
            self.source(DType::F32, shape.clone(), symbolic);
        }
        if self.family == Family::Any && self.random.once_in(2) {
            let dtype = self.random.pick(&[DType::I64, DType::I64, DType::I32, DType::U8, DType::I8, DType::Bool]);
            let shape = if self.random.once_in(2) { shape } else { vec![rows, self.random.between(1, 6)] };
            self.source(dtype, shape, symbolic);
        }
    }

    fn source(&mut self, dtype: DType, shape: Vec<usize>, symbolic: bool) {
        let name = format!("input_{}", self.sources.len());
        let dims: Vec<Option<usize>> =
            shape.iter().enumerate().map(|(at, &size)| (at > 0 || !symbolic).then_some(size)).collect();
        self.graph.input.push(info(&name, dtype, Some(&dims)));
        let held = Held { name, dtype, shape, bound: 2.0, noise: Noise::Exact };
        self.values.push(held.clone());
        self.sources.push(Source { held, symbolic });
    }

    /// Adds operators until the model is large enough.
    pub(super) fn add_operators(&mut self) {
        let wanted = self.random.between(2, 9);
        self.add_some(wanted);
    }

    /// Adds up to `wanted` operators.
    pub(super) fn add_some(&mut self, wanted: usize) {
        let layered: &[&[Step]] = &[layers::STEPS, layers::STEPS, floats::STEPS, movement::BY_ROW];
        let any: &[&[Step]] = &[
            layers::STEPS,
            floats::STEPS,
            floats::STEPS,
            movement::BY_ROW,
            movement::STEPS,
            integers::STEPS,
            quantized::STEPS,
            branches::STEPS,
            rare::STEPS,
        ];
        let families = if self.family == Family::Layers { layered } else { any };
        let mut added = 0;
        for _attempt in 0..wanted * 12 {
            if added == wanted {
                return;
            }
            let steps = self.random.pick(families);
            let step = self.random.pick(steps);
            added += usize::from(step(self).is_some());
        }
    }

    /// Returns a random value for which `fits` holds, new ones more often than old ones.
    pub(super) fn choose(&mut self, fits: impl Fn(&Held) -> bool) -> Option<Held> {
        let fitting: Vec<usize> = (0..self.values.len()).filter(|&at| fits(&self.values[at])).collect();
        if fitting.is_empty() {
            return None;
        }
        let newest = self.random.once_in(2);
        let at = if newest { fitting[fitting.len() - 1] } else { self.random.pick(&fitting) };
        Some(self.values[at].clone())
    }

    /// Returns a random float32 value of at least that rank.
    pub(super) fn choose_float(&mut self, rank: usize) -> Option<Held> {
        self.choose(|held| held.dtype == DType::F32 && held.rank() >= rank && held.elements() > 0)
    }

    /// Returns a new name.
    pub(super) fn name(&mut self, stem: &str) -> String {
        self.next += 1;
        // Names of subgraphs differ from those around them.
        format!("{stem}_{}", self.next)
    }

    /// Adds a node with one output and returns the output's name.
    pub(super) fn node(&mut self, op: &str, inputs: &[&str], attributes: Vec<AttributeProto>) -> String {
        let output = self.name("value");
        self.node_with(op, inputs, &[&output], attributes);
        output
    }

    /// Adds a node.
    pub(super) fn node_with(&mut self, op: &str, inputs: &[&str], outputs: &[&str], attribute: Vec<AttributeProto>) {
        let name = self.name(op);
        self.graph.node.push(NodeProto {
            op_type: Some(op.to_owned()),
            name: Some(name),
            input: inputs.iter().map(ToString::to_string).collect(),
            output: outputs.iter().map(ToString::to_string).collect(),
            attribute,
            ..NodeProto::default()
        });
    }

    /// Makes a value available to later operators; `None` if it is too large.
    pub(super) fn hold(&mut self, held: Held) -> Option<()> {
        if held.bound > BOUND_MAX || held.elements() > ELEMENTS_MAX || held.rank() > 6 {
            return None;
        }
        self.values.push(held);
        Some(())
    }

    /// Adds a node with one output that equals `like` except for shape and bound.
    pub(super) fn apply(
        &mut self,
        op: &str,
        inputs: &[&str],
        attributes: Vec<AttributeProto>,
        like: &Held,
        shape: Vec<usize>,
        bound: f32,
    ) -> Option<()> {
        if bound > BOUND_MAX || shape.iter().product::<usize>() > ELEMENTS_MAX {
            return None;
        }
        let name = self.node(op, inputs, attributes);
        if inputs.iter().any(|input| self.dequantized.iter().any(|known| known == input)) {
            self.dequantized.push(name.clone());
        }
        self.hold(Held { name, shape, bound, ..like.clone() })
    }

    /// Adds a float32 constant of random numbers up to `scale`; sometimes reuses an existing one of the same shape.
    pub(super) fn weight(&mut self, shape: &[usize], scale: f32) -> String {
        let same: Vec<String> =
            self.weights.iter().filter(|(_name, of)| of == shape).map(|(name, _shape)| name.clone()).collect();
        if !same.is_empty() && self.random.once_in(2) {
            let at = self.random.below(same.len());
            return same[at].clone();
        }
        let values = self.random.floats(shape.iter().product(), scale);
        let name = self.floats(shape, &values);
        // A constant of a branch is not visible outside it, and its scale must fit the next reader.
        if self.depth == 0 && scale <= 1.0 {
            self.weights.push((name.clone(), shape.to_vec()));
        }
        name
    }

    /// Adds a float32 constant.
    pub(super) fn floats(&mut self, shape: &[usize], values: &[f32]) -> String {
        self.constant(DType::F32, shape, values.iter().flat_map(|value| value.to_le_bytes()).collect())
    }

    /// Adds an int64 constant.
    pub(super) fn int64s(&mut self, shape: &[usize], values: &[i64]) -> String {
        self.constant(DType::I64, shape, values.iter().flat_map(|value| value.to_le_bytes()).collect())
    }

    /// Adds a constant, as an initializer or sometimes as a `Constant` node.
    pub(super) fn constant(&mut self, dtype: DType, shape: &[usize], bytes: Vec<u8>) -> String {
        let name = self.name("constant");
        self.graph.initializer.push(tensor(&name, dtype, shape, bytes));
        name
    }

    /// Returns the axes of an operator whose axes became an input at operator set version `since`: as attribute or
    /// second input.
    pub(super) fn axes(&mut self, axes: &[i64], since: usize) -> (Option<String>, Vec<AttributeProto>) {
        if self.opset >= since {
            (Some(self.int64s(&[axes.len()], axes)), Vec::new())
        } else {
            (None, vec![ints("axes", axes)])
        }
    }

    /// Returns the number of an axis of a value, sometimes negative, never the batch if rows must stay separate.
    pub(super) fn axis(&mut self, held: &Held) -> Option<usize> {
        let first = usize::from(self.family == Family::Layers);
        (held.rank() > first).then(|| self.random.between(first, held.rank() - 1))
    }

    /// Returns an attribute `axis`, sometimes counted from the end if `negative` allows it.
    pub(super) fn axis_attribute(&mut self, axis: usize, rank: usize, negative: bool) -> AttributeProto {
        let signed = |value: usize| i64::try_from(value).unwrap_or(i64::MAX);
        let from_end = negative && self.random.once_in(2);
        int("axis", if from_end { signed(axis) - signed(rank) } else { signed(axis) })
    }

    /// Finishes the model: adds its outputs and its requests.
    pub(super) fn finish(mut self, seed: u64, examples: usize) -> RandomGraph {
        let read: Vec<String> = self.graph.node.iter().flat_map(|node| node.input.iter().cloned()).collect();
        let mut noise = Noise::Exact;
        let made: Vec<Held> = self.values[self.sources.len()..].to_vec();
        for held in &made {
            let last = !read.contains(&held.name);
            // Sometimes an inner value is also an output.
            if last || self.random.once_in(8) {
                self.graph.output.push(info(&held.name, held.dtype, None));
                noise = noise.max(held.noise);
            }
        }
        for (name, dtype) in std::mem::take(&mut self.found) {
            self.graph.output.push(info(&name, dtype, None));
        }
        if self.graph.output.is_empty() {
            let source = self.sources[0].held.clone();
            let name = self.node("Relu", &[&source.name], Vec::new());
            self.graph.output.push(info(&name, source.dtype, None));
        }
        let operators: Vec<&str> = self.graph.node.iter().map(onnx_operator).collect();
        let listing = format!("opset {}: {}", self.opset, operators.join(" "));
        let examples = (0..examples).map(|at| self.example(at)).collect();
        let model = ModelProto {
            ir_version: Some(if self.opset >= 21 { 10 } else { 8 }),
            graph: Some(self.graph),
            opset_import: vec![OperatorSetIdProto {
                domain: Some(String::new()),
                version: Some(i64::try_from(self.opset).unwrap_or(i64::MAX)),
            }],
            ..ModelProto::default()
        };
        let (tolerance, outliers) = if noise == Noise::Stepped { (0.1, 0.05) } else { (1e-3, 0.0) };
        RandomGraph { seed, model: model.encode_to_vec(), examples, tolerance, outliers, listing }
    }

    /// Returns a request; the symbolic batch is the size used for building first, then others.
    fn example(&mut self, at: usize) -> Vec<NamedTensor> {
        let sources = self.sources.clone();
        sources
            .into_iter()
            .map(|Source { held, symbolic }| {
                let mut shape = held.shape.clone();
                if symbolic && at > 0 && self.family == Family::Layers {
                    shape[0] = at * 2 - 1;
                }
                let count = shape.iter().product();
                let data = integers::random_elements(&mut self.random, held.dtype, count, held.bound);
                let tensor = Tensor::new(held.dtype, shape, data.into());
                let tensor = tensor.unwrap_or_else(|error| unreachable!("as many bytes as the shape says: {error}"));
                NamedTensor { name: held.name, tensor }
            })
            .collect()
    }
}

fn onnx_operator(node: &NodeProto) -> &str {
    node.op_type.as_deref().unwrap_or_default()
}
