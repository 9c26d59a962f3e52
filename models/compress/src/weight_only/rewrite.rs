//! The pass over the graph: which nodes are taken, and what stands in their place.

use std::collections::{BTreeMap, HashMap};

use onnx_graph::proto::{AttributeProto, NodeProto};
use onnx_graph::rewrite::remove_dead;
use onnx_graph::{Graph, Model, Names, Uses};

use super::blocks::{Quantized, Rules, rtn};
use super::pack::{self, Packed};
use super::{BLOCKS, Bits, Form, Method, Options, gptq, hqq};
use crate::constants::Constants;
use crate::embedding::{self, Embedding};
use crate::gram::Grams;
use crate::linear::{Linear, Matrix, kept_by_others};
use crate::stack::{self, Stack};

use crate::{CompressError, Report};

/// First operator set of the default domain whose `Add` broadcasts.
const BROADCAST_OPSET: i64 = 7;

/// First operator set with a `DequantizeLinear` per axis.
const PER_AXIS_OPSET: i64 = 13;

/// First operator set with a `DequantizeLinear` in blocks and types of four bits, and the IR version that goes with it.
const BLOCK_OPSET: i64 = 21;
const BLOCK_IR_VERSION: i64 = 10;

/// Domain of `MatMulNBits`.
const MICROSOFT: &str = "com.microsoft";

/// Quantizes the weights of the selected products and embeddings.
///
/// `grams` is what [`Method::Gptq`] knows of the inputs; the other methods do not look at it. A product that it knows
/// nothing of is rounded to nearest, and the report says so.
///
/// # Errors
/// When an option does not fit the model, a weight's bytes are broken, or there is nothing to quantize.
pub fn quantize(model: &Model, options: &Options, grams: &Grams) -> Result<(Model, Report), CompressError> {
    check(model, options)?;
    let uses = Uses::of(&model.graph);
    let mut report = Report::of("weight-only");
    report.tell_of_subgraphs(&model.graph);
    let mut made = model.clone();
    let names = Names::of(&model.graph);
    let mut pass = Pass {
        source: &model.graph,
        constants: Constants::of(&model.graph, &uses),
        options,
        grams,
        per_channel: options.form == Form::Qdq && model.opset("").unwrap_or(0) < BLOCK_OPSET,
        names,
        done: HashMap::new(),
        tables: HashMap::new(),
        stacks: HashMap::new(),
        made: &mut made.graph,
    };
    let places = pass.places(&uses, &mut report);
    let mut nodes = Vec::with_capacity(model.graph.nodes.len());
    for (at, node) in model.graph.nodes.iter().enumerate() {
        let replaced = match places.get(&at) {
            None => None,
            Some(Place::Product(linear)) => pass.product(node, linear, &mut report)?,
            Some(Place::Table(table)) => pass.table(node, table, &mut report)?,
            Some(Place::Stack(stack)) => pass.stack(node, stack, &mut report)?,
        };
        if replaced.is_some() {
            report.changed.push(node.name().to_owned());
        }
        nodes.extend(replaced.unwrap_or_else(|| vec![node.clone()]));
    }
    if report.changed.is_empty() {
        let reason =
            "it has no MatMul, Gemm or Gather with a constant f32 weight that may be changed; widen the selection";
        return Err(CompressError::Nothing { pass: "weight-only", reason: reason.to_owned() });
    }
    made.graph.nodes = nodes;
    remove_dead(&mut made.graph);
    // Engines infer what was noted of values; a file would carry it for nothing.
    made.graph.value_info.clear();
    declare(&mut made, options);
    Ok((made, report))
}

/// The operator set that the form needs.
#[must_use]
pub const fn opset_needed(options: &Options) -> i64 {
    match (options.form, options.bits) {
        (Form::MatMulNBits { .. }, _) => BROADCAST_OPSET,
        (Form::Qdq, Bits::Eight) => PER_AXIS_OPSET,
        (Form::Qdq, Bits::Four) => BLOCK_OPSET,
    }
}

fn check(model: &Model, options: &Options) -> Result<(), CompressError> {
    let refuse =
        |option, value: String, reason: &str| Err(CompressError::Option { option, value, reason: reason.to_owned() });
    let opset = model.opset("").unwrap_or(0);
    if !BLOCKS.contains(&options.block) {
        return refuse("block", options.block.to_string(), "it is 16, 32, 64, 128 or 256");
    }
    if options.method == Method::Hqq && options.symmetric {
        return refuse("method", "hqq".to_owned(), "it moves zero points, and a symmetric grid has none");
    }
    let needed = opset_needed(options);
    if opset < needed {
        let reason = format!("the form needs operator set {needed}: convert it first, by onnx_graph::opset::upgrade");
        return refuse("model", format!("of operator set {opset}"), &reason);
    }
    Ok(())
}

/// Imports what the new nodes need.
fn declare(model: &mut Model, options: &Options) {
    let uses_microsoft = model.graph.nodes.iter().any(|node| node.domain() == MICROSOFT);
    if uses_microsoft && model.opset(MICROSOFT).is_none() {
        model.import(MICROSOFT, 1);
    }
    if options.form == Form::Qdq && options.bits == Bits::Four {
        model.rest.ir_version = Some(model.rest.ir_version().max(BLOCK_IR_VERSION));
    }
}

/// Role of a node in this pass.
enum Place {
    Product(Linear),
    Table(Embedding),
    Stack(Stack),
}

impl Place {
    fn weight(&self) -> &str {
        match self {
            Self::Product(linear) => &linear.weight,
            Self::Table(table) => &table.weight,
            Self::Stack(stack) => &stack.weight,
        }
    }
}

struct Pass<'a> {
    source: &'a Graph,
    constants: Constants<'a>,
    options: &'a Options,
    grams: &'a Grams,
    /// One grid per output: the form for models below operator set 21.
    per_channel: bool,
    names: Names,
    /// Weights that were quantized already; `None` where it cannot be done.
    done: HashMap<(String, bool, u32), Option<Packed>>,
    tables: HashMap<String, Option<embedding::Packed>>,
    stacks: HashMap<String, Option<stack::Packed>>,
    made: &'a mut Graph,
}

impl Pass<'_> {
    /// The nodes to be replaced.
    fn places(&self, uses: &Uses, report: &mut Report) -> BTreeMap<usize, Place> {
        let mut places = BTreeMap::new();
        for (at, node) in self.source.nodes.iter().enumerate() {
            let place = match (Linear::of(node, self.constants), Embedding::of(node, self.constants)) {
                (Some(Err(_)), _) if Stack::of(node, self.constants).is_some() => {
                    Stack::of(node, self.constants).map(Place::Stack).ok_or("its weight is no stack")
                }
                (Some(linear), _) => linear.map(Place::Product),
                (None, Some(table)) if self.options.embeddings => Ok(Place::Table(table)),
                (None, _) => continue,
            };
            match place {
                Ok(place) if self.options.selection.takes(node) => {
                    places.insert(at, place);
                }
                Ok(_place) => report.skip(node, "it is not selected"),
                Err(reason) => report.skip(node, reason),
            }
        }
        let reason = |place: &Place| {
            kept_by_others(place.weight(), self.source, uses, |at| {
                places.get(&at).is_some_and(|other| same(place, other))
            })
        };
        let kept: Vec<(usize, &str)> =
            places.iter().filter_map(|(&at, place)| reason(place).map(|reason| (at, reason))).collect();
        for (at, reason) in kept {
            places.remove(&at);
            if let Some(node) = self.source.nodes.get(at) {
                report.skip(node, reason);
            }
        }
        places
    }

    /// Returns what computes a product with the quantized weight.
    fn product(
        &mut self,
        node: &NodeProto,
        linear: &Linear,
        report: &mut Report,
    ) -> Result<Option<Vec<NodeProto>>, CompressError> {
        let Some(tensor) = self.constants.tensor(&linear.weight) else { return Ok(None) };
        let matrix = linear.matrix(tensor)?;
        let packed = match self.done.get(&linear.key()) {
            Some(packed) => packed.clone(),
            None => {
                let packed = self.pack(node, linear, &matrix, report);
                self.done.insert(linear.key(), packed.clone());
                packed
            }
        };
        let Some(packed) = packed else {
            report.skip(node, "its weight holds numbers that are not finite");
            return Ok(None);
        };
        let bias = linear.bias.as_ref().and_then(|(name, _beta)| self.constants.tensor(name));
        let (output, add) = linear.with_bias(self.made, bias, &mut self.names)?;
        let mut nodes = match self.options.form {
            Form::MatMulNBits { accuracy_level } => {
                vec![self.nbits(node, &linear.input, &output, &packed, &matrix, accuracy_level)]
            }
            Form::Qdq => self.qdq(node, &linear.input, &output, &packed),
        };
        nodes.extend(add);
        Ok(Some(nodes))
    }

    /// Quantizes a weight and puts its tensors into the new graph.
    fn pack(&mut self, node: &NodeProto, linear: &Linear, matrix: &Matrix, report: &mut Report) -> Option<Packed> {
        if !matrix.values.iter().all(|value| value.is_finite()) {
            return None;
        }
        let block = if self.per_channel { matrix.columns } else { self.options.block };
        let quantized = self.codes(node, matrix, block, report);
        let bits = self.options.bits.count();
        let mut fresh = |what: &str| self.names.fresh(&format!("{}_{what}", linear.weight));
        let packed = Packed {
            codes: fresh(&format!("q{bits}")),
            scales: fresh("scales"),
            zero_points: (!self.options.symmetric).then(|| fresh("points")),
        };
        let tensors = match self.options.form {
            Form::MatMulNBits { .. } => pack::for_nbits(&quantized, self.options, &packed),
            Form::Qdq => pack::for_qdq(&quantized, self.options, &packed, self.per_channel),
        };
        tensors.into_iter().for_each(|tensor| self.made.add_initializer(tensor));
        Some(packed)
    }

    fn codes(&self, node: &NodeProto, matrix: &Matrix, block: usize, report: &mut Report) -> Quantized {
        let rules = Rules::of(self.options);
        let plain = || rtn(matrix, block, rules);
        match self.options.method {
            Method::Rtn => plain(),
            Method::Hqq => {
                // ONNX Runtime's MatMulNBits takes zero points between the levels at 4 bits only (matmul_nbits.cc).
                let whole = self.options.form == Form::Qdq || self.options.bits == Bits::Eight;
                hqq::hqq(matrix, block, rules, whole)
            }
            Method::Gptq { act_order } => {
                let gram = self.grams.of_node(node);
                let made = gram.and_then(|gram| gptq::gptq(matrix, gram, block, rules, act_order));
                made.unwrap_or_else(|| {
                    let reason =
                        if gram.is_some() { "its inputs give no usable Hessian" } else { "no example reached it" };
                    report.notes.push(format!("{} was rounded to nearest: {reason}", node.name()));
                    plain()
                })
            }
        }
    }

    fn nbits(
        &self,
        node: &NodeProto,
        input: &str,
        output: &str,
        packed: &Packed,
        matrix: &Matrix,
        level: u8,
    ) -> NodeProto {
        let mut inputs = vec![input, &packed.codes, &packed.scales];
        inputs.extend(packed.zero_points.as_deref());
        let int = |name: &str, value: usize| AttributeProto::int(name, i64::try_from(value).unwrap_or(i64::MAX));
        let mut product = NodeProto::new("MatMulNBits", node.name(), &inputs, &[output])
            .in_domain(MICROSOFT)
            .with(int("K", matrix.columns))
            .with(int("N", matrix.rows))
            .with(int("bits", self.options.bits.count()))
            .with(int("block_size", self.options.block));
        if level != 0 {
            product.set(AttributeProto::int("accuracy_level", level.into()));
        }
        product
    }

    fn qdq(&mut self, node: &NodeProto, input: &str, output: &str, packed: &Packed) -> Vec<NodeProto> {
        // Each product has a DequantizeLinear of its own: engines fuse pairs, and constants cost nothing twice.
        let weight = self.names.fresh(&format!("{}_dequantized", packed.codes));
        let name = self.names.fresh(&format!("{}_dequantize", node.name()));
        let mut inputs = vec![packed.codes.as_str(), &packed.scales];
        inputs.extend(packed.zero_points.as_deref());
        let mut dequantize = NodeProto::new("DequantizeLinear", &name, &inputs, &[&weight]);
        if self.per_channel {
            dequantize.set(AttributeProto::int("axis", 1));
        } else {
            dequantize.set(AttributeProto::int("axis", 0));
            dequantize.set(AttributeProto::int("block_size", i64::try_from(self.options.block).unwrap_or(i64::MAX)));
        }
        vec![dequantize, NodeProto::new("MatMul", node.name(), &[input, &weight], &[output])]
    }

    /// Returns what looks rows up in a quantized table.
    fn table(
        &mut self,
        node: &NodeProto,
        table: &Embedding,
        report: &mut Report,
    ) -> Result<Option<Vec<NodeProto>>, CompressError> {
        let Some(tensor) = self.constants.tensor(&table.weight) else { return Ok(None) };
        let packed = match self.tables.get(&table.weight) {
            Some(packed) => packed.clone(),
            None => {
                let packed = embedding::pack(tensor, &table.weight, self.made, &mut self.names)?;
                self.tables.insert(table.weight.clone(), packed.clone());
                packed
            }
        };
        let Some(packed) = packed else {
            report.skip(node, "its table holds numbers that are not finite");
            return Ok(None);
        };
        Ok(Some(table.nodes(node, &packed, &mut self.names)))
    }
}

impl Pass<'_> {
    /// Creates the nodes that multiply with a quantized stack of matrices.
    fn stack(
        &mut self,
        node: &NodeProto,
        stack: &Stack,
        report: &mut Report,
    ) -> Result<Option<Vec<NodeProto>>, CompressError> {
        let Some(tensor) = self.constants.tensor(&stack.weight) else { return Ok(None) };
        let packed = match self.stacks.get(&stack.weight) {
            Some(packed) => packed.clone(),
            None => {
                let packed = stack::pack(tensor, &stack.weight, self.made, &mut self.names)?;
                self.stacks.insert(stack.weight.clone(), packed.clone());
                packed
            }
        };
        let Some(packed) = packed else {
            report.skip(node, "its weight holds numbers that are not finite");
            return Ok(None);
        };
        Ok(Some(Stack::nodes(node, &packed, &mut self.names)))
    }
}

/// Two nodes that would take the same tensors in place of a weight: otherwise it would be stored once for each kind.
fn same(one: &Place, other: &Place) -> bool {
    match (one, other) {
        (Place::Product(one), Place::Product(other)) => one.key() == other.key(),
        (Place::Table(one), Place::Table(other)) => one.weight == other.weight,
        (Place::Stack(one), Place::Stack(other)) => one.weight == other.weight,
        (Place::Product(_) | Place::Table(_) | Place::Stack(_), _) => false,
    }
}
