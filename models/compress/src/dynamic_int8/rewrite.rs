//! The pass over the graph.

use std::collections::{BTreeMap, HashMap};

use onnx_graph::proto::tensor_proto::DataType;
use onnx_graph::proto::{AttributeProto, NodeProto, TensorProto};
use onnx_graph::rewrite::remove_dead;
use onnx_graph::{Graph, Model, Names, Uses, Values};

use super::weight::{self, Codes, quantized};
use super::{Options, lstm};
use crate::constants::Constants;
use crate::embedding::{self, Embedding};
use crate::linear::{Linear, kept_by_others, transpose};
use crate::stack::{self, Stack};

use crate::{CompressError, Report, logarithm};

/// First operator set with `DynamicQuantizeLinear`.
const OPSET: i64 = 11;

/// Domain of the quantized LSTM.
const MICROSOFT: &str = "com.microsoft";

/// Quantizes the selected products, and what else the options name.
///
/// # Errors
/// When the model is below operator set 11, a weight's bytes are broken, or there is nothing to quantize.
pub fn quantize(model: &Model, options: &Options) -> Result<(Model, Report), CompressError> {
    let opset = model.opset("").unwrap_or(0);
    if opset < OPSET {
        let reason = "DynamicQuantizeLinear came with operator set 11: convert the model first".to_owned();
        return Err(CompressError::Option { option: "model", value: format!("of operator set {opset}"), reason });
    }
    let uses = Uses::of(&model.graph);
    let mut report = Report::of("dynamic-int8");
    report.tell_of_subgraphs(&model.graph);
    let mut made = model.clone();
    let names = Names::of(&model.graph);
    let constants = Constants::of(&model.graph, &uses);
    let places = places(&model.graph, &uses, constants, options, &mut report);
    let kind = Codes::of(options);
    let (weights, inputs, tables, stacks) = (HashMap::new(), HashMap::new(), HashMap::new(), HashMap::new());
    let mut pass = Pass { constants, options, kind, names, weights, inputs, tables, stacks, made: &mut made.graph };
    let mut nodes = Vec::with_capacity(model.graph.nodes.len());
    for (at, node) in model.graph.nodes.iter().enumerate() {
        let replaced = match places.get(&at) {
            None => None,
            Some(place) => match pass.replaced(node, place)? {
                Ok(replaced) => {
                    report.changed.push(node.name().to_owned());
                    Some(replaced)
                }
                Err(reason) => {
                    report.skip(node, reason);
                    None
                }
            },
        };
        nodes.extend(replaced.unwrap_or_else(|| vec![node.clone()]));
    }
    if report.changed.is_empty() {
        let reason =
            "it has no operator with a constant f32 weight that may be changed; widen the selection".to_owned();
        return Err(CompressError::Nothing { pass: "dynamic-int8", reason });
    }
    made.graph.nodes = nodes;
    // Engines infer what was noted of values; a file would carry it for nothing.
    made.graph.value_info.clear();
    remove_dead(&mut made.graph);
    if made.graph.nodes.iter().any(|node| node.domain() == MICROSOFT) && made.opset(MICROSOFT).is_none() {
        made.import(MICROSOFT, 1);
    }
    Ok((made, report))
}

/// Role of a node in this pass.
enum Place {
    Product(Linear),
    Convolution { input: String, weight: String, bias: Option<String>, output: String },
    Table(Embedding),
    Stack(Stack),
    Lstm(String),
}

impl Place {
    fn of(node: &NodeProto, constants: Constants<'_>, options: &Options) -> Option<Result<Self, &'static str>> {
        if let Some(stack) = Stack::of(node, constants) {
            return Some(Ok(Self::Stack(stack)));
        }
        if let Some(linear) = Linear::of(node, constants) {
            return Some(linear.map(Self::Product));
        }
        if node.is("Conv") && options.convolutions {
            return Some(Self::convolution(node, constants));
        }
        if node.is("LSTM") {
            return Some(node.input_at(1).map(|name| Self::Lstm(name.to_owned())).ok_or("it has no weights"));
        }
        Embedding::of(node, constants).filter(|_table| options.embeddings).map(|table| Ok(Self::Table(table)))
    }

    fn convolution(node: &NodeProto, constants: Constants<'_>) -> Result<Self, &'static str> {
        let (Some(input), Some(weight), [output]) = (node.input_at(0), node.input_at(1), node.output.as_slice()) else {
            return Err("it has not two inputs and one output");
        };
        let tensor = constants.float32(weight).ok_or("its weight is no f32 constant")?;
        let shape = tensor.shape().map_err(|_error| "its weight has impossible dimensions")?;
        if shape.len() < 3 || shape.contains(&0) {
            return Err("its weight is no kernel");
        }
        let (input, weight) = (input.to_owned(), weight.to_owned());
        Ok(Self::Convolution { input, weight, bias: node.input_at(2).map(str::to_owned), output: output.clone() })
    }

    fn weight(&self) -> &str {
        match self {
            Self::Product(linear) => &linear.weight,
            Self::Convolution { weight, .. } | Self::Lstm(weight) => weight,
            Self::Table(table) => &table.weight,
            Self::Stack(stack) => &stack.weight,
        }
    }

    /// Returns whether both would take the same tensors in place of a weight.
    fn shares(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Product(one), Self::Product(other)) => one.key() == other.key(),
            (Self::Convolution { .. }, Self::Convolution { .. })
            | (Self::Table(_), Self::Table(_))
            | (Self::Stack(_), Self::Stack(_)) => self.weight() == other.weight(),
            // LSTMs are packed one by one, so a shared weight would be stored for each.
            (Self::Product(_) | Self::Convolution { .. } | Self::Table(_) | Self::Stack(_) | Self::Lstm(_), _) => {
                std::ptr::eq(self, other)
            }
        }
    }
}

/// The nodes to be replaced.
fn places(
    graph: &Graph,
    uses: &Uses,
    constants: Constants<'_>,
    options: &Options,
    report: &mut Report,
) -> BTreeMap<usize, Place> {
    let mut places = BTreeMap::new();
    let before_logarithms = logarithm::products_before(graph, uses);
    for (at, node) in graph.nodes.iter().enumerate() {
        match Place::of(node, constants, options) {
            None => {}
            Some(Ok(_place)) if before_logarithms.contains(&at) => report.skip(node, logarithm::REASON),
            Some(Ok(place)) if options.selection.takes(node) => {
                places.insert(at, place);
            }
            Some(Ok(_place)) => report.skip(node, "it is not selected"),
            Some(Err(reason)) => report.skip(node, reason),
        }
    }
    let reason = |place: &Place| {
        kept_by_others(place.weight(), graph, uses, |at| places.get(&at).is_some_and(|other| place.shares(other)))
    };
    let kept: Vec<(usize, &str)> =
        places.iter().filter_map(|(&at, place)| reason(place).map(|reason| (at, reason))).collect();
    for (at, reason) in kept {
        places.remove(&at);
        if let Some(node) = graph.nodes.get(at) {
            report.skip(node, reason);
        }
    }
    places
}

/// The names of a quantized weight's tensors.
#[derive(Debug, Clone)]
struct Packed {
    codes: String,
    scales: String,
    zero_points: String,
}

/// The values that `DynamicQuantizeLinear` makes of one input.
#[derive(Debug, Clone)]
struct Quantizer {
    codes: String,
    scale: String,
    point: String,
}

struct Pass<'a> {
    constants: Constants<'a>,
    options: &'a Options,
    kind: Codes,
    names: Names,
    weights: HashMap<(String, bool, u32), Option<Packed>>,
    /// By the value that is quantized: one serves all its consumers.
    inputs: HashMap<String, Quantizer>,
    tables: HashMap<String, Option<embedding::Packed>>,
    stacks: HashMap<String, Option<stack::Packed>>,
    made: &'a mut Graph,
}

/// Nodes in place of one, or the reason why it stays.
type Replaced = Result<Result<Vec<NodeProto>, &'static str>, CompressError>;

const NOT_FINITE: &str = "its weight holds numbers that are not finite";

impl Pass<'_> {
    fn replaced(&mut self, node: &NodeProto, place: &Place) -> Replaced {
        match place {
            Place::Product(linear) => self.product(node, linear),
            Place::Convolution { input, weight, bias, output } => {
                self.convolution(node, input, weight, bias.as_deref(), output)
            }
            Place::Table(table) => self.table(node, table),
            Place::Stack(stack) => self.stack(node, stack),
            Place::Lstm(_weight) => {
                let made = lstm::replaced(node, self.constants, self.options, self.made, &mut self.names)?;
                Ok(made.map(|made| vec![made]))
            }
        }
    }

    fn product(&mut self, node: &NodeProto, linear: &Linear) -> Replaced {
        let packed = match self.weights.get(&linear.key()) {
            Some(packed) => packed.clone(),
            None => {
                let packed = self.pack_matrix(linear)?;
                self.weights.insert(linear.key(), packed.clone());
                packed
            }
        };
        let Some(packed) = packed else { return Ok(Err(NOT_FINITE)) };
        let bias = linear.bias.as_ref().and_then(|(name, _beta)| self.constants.tensor(name));
        let (output, add) = linear.with_bias(self.made, bias, &mut self.names)?;
        let mut nodes = self.integer("MatMulInteger", node, &linear.input, &packed, &output);
        nodes.extend(add);
        Ok(Ok(nodes))
    }

    fn pack_matrix(&mut self, linear: &Linear) -> Result<Option<Packed>, CompressError> {
        let Some(tensor) = self.constants.tensor(&linear.weight) else { return Ok(None) };
        let matrix = linear.matrix(tensor)?;
        // The operator takes `[inputs, outputs]`.
        let values = transpose(&matrix.values, matrix.rows, matrix.columns);
        let channels = if self.options.per_channel { matrix.rows } else { 1 };
        Ok(self.pack(&linear.weight, &[matrix.columns, matrix.rows], &values, channels))
    }

    /// Quantizes a weight into the graph; `None` when it is not finite.
    fn pack(&mut self, weight: &str, shape: &[usize], values: &[f32], channels: usize) -> Option<Packed> {
        if !values.iter().all(|value| value.is_finite()) {
            return None;
        }
        let made = quantized(values, channels, self.kind);
        let mut fresh = |what: &str| self.names.fresh(&format!("{weight}_{what}"));
        let packed = Packed { codes: fresh("q8"), scales: fresh("scales"), zero_points: fresh("points") };
        self.made.add_initializer(TensorProto::of_raw(&packed.codes, self.kind.element, shape, made.codes));
        self.made.add_initializer(weight::scales(&packed.scales, &made.scales));
        self.made.add_initializer(weight::zero_points(&packed.zero_points, &made.zero_points, self.kind.element));
        Some(packed)
    }

    /// Quantizer (when it is the first of its value), integer operator, and what makes floats of its result.
    fn integer(
        &mut self,
        operator: &str,
        node: &NodeProto,
        input: &str,
        packed: &Packed,
        output: &str,
    ) -> Vec<NodeProto> {
        let mut nodes = Vec::with_capacity(5);
        let quantizer = match self.inputs.get(input) {
            Some(quantizer) => quantizer.clone(),
            None => {
                let mut fresh = |what: &str| self.names.fresh(&format!("{input}_{what}"));
                let made = Quantizer { codes: fresh("quantized"), scale: fresh("scale"), point: fresh("zero_point") };
                let (name, outputs) = (fresh("quantize"), [made.codes.as_str(), &made.scale, &made.point]);
                nodes.push(NodeProto::new("DynamicQuantizeLinear", &name, &[input], &outputs));
                self.inputs.insert(input.to_owned(), made.clone());
                made
            }
        };
        let mut fresh = |what: &str| self.names.fresh(&format!("{output}_{what}"));
        let (sums, floats, scale) = (fresh("integer"), fresh("float"), fresh("scale"));
        let (cast, scales, rescale) = (fresh("cast"), fresh("scales_mul"), fresh("rescale"));
        let inputs = [quantizer.codes.as_str(), &packed.codes, &quantizer.point, &packed.zero_points];
        let mut product = NodeProto::new(operator, node.name(), &inputs, &[&sums]);
        if operator == "ConvInteger" {
            product.attribute.clone_from(&node.attribute);
        }
        nodes.extend([
            product,
            NodeProto::new("Cast", &cast, &[&sums], &[&floats]).with(AttributeProto::int("to", DataType::Float as i64)),
            NodeProto::new("Mul", &scales, &[&quantizer.scale, &packed.scales], &[&scale]),
            NodeProto::new("Mul", &rescale, &[&floats, &scale], &[output]),
        ]);
        nodes
    }

    fn convolution(
        &mut self,
        node: &NodeProto,
        input: &str,
        weight: &str,
        bias: Option<&str>,
        output: &str,
    ) -> Replaced {
        let key = (weight.to_owned(), false, 0);
        let Some(tensor) = self.constants.tensor(weight) else { return Ok(Err("its weight is no constant")) };
        let shape = tensor.shape()?;
        let packed = match self.weights.get(&key) {
            Some(packed) => packed.clone(),
            None => {
                let packed = self.pack(weight, &shape, &tensor.floats()?, 1);
                self.weights.insert(key, packed.clone());
                packed
            }
        };
        let Some(packed) = packed else { return Ok(Err(NOT_FINITE)) };
        let Some(bias) = bias else { return Ok(Ok(self.integer("ConvInteger", node, input, &packed, output))) };
        let product = self.names.fresh(&format!("{output}_product"));
        let mut nodes = self.integer("ConvInteger", node, input, &packed, &product);
        let mut fresh = |what: &str| self.names.fresh(&format!("{output}_{what}"));
        let (as_channel, target, reshape, add) =
            (fresh("bias"), fresh("bias_shape"), fresh("bias_reshape"), fresh("bias_add"));
        let mut dims = vec![1; shape.len()];
        if let Some(channel) = dims.get_mut(1) {
            *channel = -1;
        }
        self.made.add_initializer(TensorProto::of_int64(&target, &[shape.len()], &dims));
        nodes.push(NodeProto::new("Reshape", &reshape, &[bias, &target], &[&as_channel]));
        nodes.push(NodeProto::new("Add", &add, &[&product, &as_channel], &[output]));
        Ok(Ok(nodes))
    }

    fn table(&mut self, node: &NodeProto, table: &Embedding) -> Replaced {
        let packed = match (self.tables.get(&table.weight), self.constants.tensor(&table.weight)) {
            (Some(packed), _) => packed.clone(),
            (None, None) => None,
            (None, Some(tensor)) => {
                let packed = embedding::pack(tensor, &table.weight, self.made, &mut self.names)?;
                self.tables.insert(table.weight.clone(), packed.clone());
                packed
            }
        };
        Ok(packed.map(|packed| table.nodes(node, &packed, &mut self.names)).ok_or(NOT_FINITE))
    }

    fn stack(&mut self, node: &NodeProto, stack: &Stack) -> Replaced {
        let packed = match (self.stacks.get(&stack.weight), self.constants.tensor(&stack.weight)) {
            (Some(packed), _) => packed.clone(),
            (None, None) => None,
            (None, Some(tensor)) => {
                let packed = stack::pack(tensor, &stack.weight, self.made, &mut self.names)?;
                self.stacks.insert(stack.weight.clone(), packed.clone());
                packed
            }
        };
        Ok(packed.map(|packed| Stack::nodes(node, &packed, &mut self.names)).ok_or(NOT_FINITE))
    }
}
