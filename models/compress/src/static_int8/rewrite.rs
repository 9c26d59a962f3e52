//! Carries out a plan: puts the pairs of QuantizeLinear and DequantizeLinear into the graph.
//!
//! A value that is computed in integers is rounded where it is made, and everyone reads what became of it. A value that
//! is computed in floats is rounded beside its way, for those only who need integers.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use onnx_graph::proto::{AttributeProto, NodeProto, TensorProto};
use onnx_graph::{Attributes, ElementType, Model, Names, Uses, Values};

use super::operators::{Role, channel_axis, data_inputs, weight};
use super::params::{Integers, Params, fit};
use super::plan::Plan;
use super::weights;
use super::{Activations, Options};
use crate::calibrate::{Means, Ranges};
use crate::{CompressError, Report};

pub(super) struct Rewriter<'plan> {
    plan: &'plan Plan,
    options: &'plan Options,
    means: Option<&'plan Means>,
    params: BTreeMap<String, Params>,
    names: Names,
    /// New constants by what is in them.
    constants: HashMap<(ElementType, Vec<usize>, Vec<u8>), String>,
    /// Weights done already: name, axis, factor.
    weights: HashMap<(String, Option<usize>, u32), Done>,
    /// Names of scale and zero point of each rounded value.
    scales: HashMap<String, (String, String)>,
    added: Vec<TensorProto>,
    nodes: Vec<NodeProto>,
    /// Values that are rounded beside their way, and the name of what becomes of them.
    beside: HashMap<String, String>,
}

#[derive(Debug, Clone)]
struct Done {
    /// Name of the output of DequantizeLinear.
    output: String,
    params: Vec<Params>,
    /// Name of the integers.
    quantized: String,
}

/// Ranges and means of the model's values.
pub(super) struct Seen<'seen> {
    pub(super) ranges: &'seen Ranges,
    /// Means of what convolutions and Gemm take, when biases are to be corrected.
    pub(super) means: Option<&'seen Means>,
}

pub(super) fn rewrite(
    mut model: Model,
    plan: &Plan,
    options: &Options,
    seen: &Seen<'_>,
    report: &mut Report,
) -> Result<Model, CompressError> {
    let integers = options.activations.integers();
    let params = plan.roots().into_iter().filter_map(|root| {
        let range = seen.ranges.found.get(root)?;
        Some((root.to_owned(), fit(*range, integers, options.activations_symmetric)))
    });
    let mut rewriter = Rewriter {
        plan,
        options,
        means: seen.means,
        params: params.collect(),
        names: Names::of(&model.graph),
        constants: HashMap::new(),
        weights: HashMap::new(),
        scales: HashMap::new(),
        added: Vec::new(),
        nodes: Vec::with_capacity(model.graph.nodes.len() * 3),
        beside: HashMap::new(),
    };
    let nodes = std::mem::take(&mut model.graph.nodes);
    let inputs: Vec<String> = model.graph.inputs.iter().map(|input| input.name().to_owned()).collect();
    let absorbed_into = absorbed_into(plan, &nodes);
    inputs.iter().for_each(|input| rewriter.round_beside(input));
    for (place, node) in nodes.into_iter().enumerate() {
        if plan.absorbed.contains(&place) {
            report.changed.push(node.name().to_owned());
            continue;
        }
        rewriter.node(&model, place, node, &absorbed_into, report)?;
    }
    model.graph.nodes = rewriter.nodes;
    for tensor in rewriter.added {
        model.graph.add_initializer(tensor);
    }
    drop_unused(&mut model);
    // What was noted of values is no longer true of all, and engines infer it.
    model.graph.value_info.clear();
    Ok(model)
}

/// Returns what each value is called behind the nodes that vanish after it.
fn absorbed_into(plan: &Plan, nodes: &[NodeProto]) -> HashMap<String, String> {
    let gone = plan.absorbed.iter().filter_map(|&place| nodes.get(place));
    let ends = gone.filter_map(|node| Some((node.input_at(0)?.to_owned(), node.output.first()?.clone())));
    ends.collect()
}

impl<'plan> Rewriter<'plan> {
    fn node(
        &mut self,
        model: &Model,
        place: usize,
        mut node: NodeProto,
        absorbed_into: &HashMap<String, String>,
        report: &mut Report,
    ) -> Result<(), CompressError> {
        let role = self.plan.nodes.get(&place).copied();
        if let Some(role) = role {
            self.inputs(model, &mut node, role)?;
            report.changed.push(node.name().to_owned());
        }
        // What vanishes behind this node may be cut twice: Relu, then Clip.
        for output in &mut node.output {
            let mut steps = 0;
            while let Some(behind) = absorbed_into.get(output).filter(|_| steps < self.plan.absorbed.len()) {
                output.clone_from(behind);
                steps += 1;
            }
        }
        let gives_integers = role.is_some_and(|role| role != Role::WeightOnly);
        let outputs: Vec<String> = node.output.clone();
        let mut rounded = Vec::new();
        for (at, value) in outputs.iter().enumerate() {
            if gives_integers && self.plan.values.contains_key(value) && self.has_params(value) {
                let raw = self.names.fresh(&format!("{value}_f"));
                if let Some(output) = node.output.get_mut(at) {
                    output.clone_from(&raw);
                }
                rounded.push((raw, value.clone()));
            }
        }
        self.nodes.push(node);
        for (raw, value) in rounded {
            self.pair(&value, &raw, &value);
        }
        if !gives_integers {
            outputs.iter().for_each(|value| self.round_beside(value));
        }
        Ok(())
    }

    fn has_params(&self, value: &str) -> bool {
        self.plan.values.get(value).is_some_and(|root| self.params.contains_key(root))
    }

    fn params_of(&self, value: &str) -> Option<Params> {
        self.params.get(self.plan.values.get(value)?).copied()
    }

    fn round_beside(&mut self, value: &str) {
        if self.has_params(value) {
            let output = self.names.fresh(&format!("{value}_dq"));
            self.pair(value, value, &output);
            self.beside.insert(value.to_owned(), output);
        }
    }

    /// QuantizeLinear and DequantizeLinear from `raw` to `output`, by the parameters of `value`.
    fn pair(&mut self, value: &str, raw: &str, output: &str) {
        let Some((scale, zero)) = self.scale_of(value) else { return };
        let quantized = self.names.fresh(&format!("{value}_q"));
        let name = self.names.fresh(&format!("{value}_Q"));
        self.nodes.push(NodeProto::new("QuantizeLinear", &name, &[raw, &scale, &zero], &[&quantized]));
        let name = self.names.fresh(&format!("{value}_DQ"));
        self.nodes.push(NodeProto::new("DequantizeLinear", &name, &[&quantized, &scale, &zero], &[output]));
    }

    /// Names of the scale and the zero point of a value; those that share a range share them.
    fn scale_of(&mut self, value: &str) -> Option<(String, String)> {
        let root = self.plan.values.get(value)?.clone();
        if let Some(found) = self.scales.get(&root) {
            return Some(found.clone());
        }
        let params = self.params_of(value)?;
        let names = self.scale_and_zero(&[params], false, self.options.activations.integers());
        self.scales.insert(root, names.clone());
        Some(names)
    }

    fn scale_and_zero(&mut self, params: &[Params], per_channel: bool, integers: Integers) -> (String, String) {
        let shape: Vec<usize> = if per_channel { vec![params.len()] } else { Vec::new() };
        let scales = params.iter().flat_map(|one| one.scale.to_le_bytes()).collect();
        let zeros = params.iter().map(|one| integers.byte(one.zero)).collect();
        let scale = self.constant("scale", ElementType::Float, &shape, scales);
        let zero = self.constant("zero", integers.element, &shape, zeros);
        (scale, zero)
    }

    /// A constant of these bytes; the same bytes are kept once.
    fn constant(&mut self, wanted: &str, element: ElementType, shape: &[usize], bytes: Vec<u8>) -> String {
        let key = (element, shape.to_vec(), bytes);
        if let Some(name) = self.constants.get(&key) {
            return name.clone();
        }
        let name = self.names.fresh(wanted);
        self.added.push(TensorProto::of_raw(&name, element, shape, key.2.clone()));
        self.constants.insert(key, name.clone());
        name
    }

    /// Turns what a node takes into integers.
    fn inputs(&mut self, model: &Model, node: &mut NodeProto, role: Role) -> Result<(), CompressError> {
        let weight = weight(&model.graph, role, node);
        for at in data_inputs(role, node) {
            let Some(name) = node.input_at(at).map(str::to_owned) else { continue };
            if Some(at) == weight {
                continue;
            }
            let replaced = match model.graph.initializer(&name) {
                Some(constant) if role == Role::Joins => Some(self.operand(constant)?),
                Some(_) => None,
                None => self.beside.get(&name).cloned(),
            };
            if let (Some(input), Some(replaced)) = (node.input.get_mut(at), replaced) {
                *input = replaced;
            }
        }
        match weight {
            Some(at) => self.weigh(model, node, role, at),
            None => Ok(()),
        }
    }

    /// A constant that is added or multiplied: as wide as an activation, because it stands where one could.
    fn operand(&mut self, constant: &TensorProto) -> Result<String, CompressError> {
        let integers = self.options.activations.integers();
        let done = self.round(constant, None, 1.0, integers, self.options.activations_symmetric, None)?;
        Ok(done.output)
    }

    fn weigh(&mut self, model: &Model, node: &mut NodeProto, role: Role, at: usize) -> Result<(), CompressError> {
        let graph = &model.graph;
        let Some(tensor) = node.input_at(at).and_then(|name| graph.initializer(name)) else { return Ok(()) };
        if role == Role::Lookup || (role == Role::Product && at == 0) {
            let integers = self.options.activations.integers();
            let done = self.round(tensor, None, 1.0, integers, self.options.activations_symmetric, None)?;
            if let (Role::Lookup, Some(&params), Some(output)) = (role, done.params.first(), node.output.first()) {
                // Rows of the table are in its integers already.
                self.params.insert(output.clone(), params);
            }
            set_input(node, at, done.output);
            return Ok(());
        }
        let rank = tensor.shape()?.len();
        let axis = channel_axis(node, role, at, rank).filter(|_| self.options.per_channel);
        // alpha and beta go into the constants: the integer kernels know neither.
        let alpha = take_factor(node, "alpha");
        let beta = take_factor(node, "beta");
        let bias = match node.input_at(2) {
            Some(name) if role != Role::WeightOnly => graph.initializer(name),
            _ => None,
        };
        let bias = bias.map(weights::read).transpose()?.map(|(values, _)| values);
        let bias: Option<Vec<f32>> = bias.map(|values| values.into_iter().map(|value| value * beta).collect());
        let means = node.input_at(0).and_then(|name| self.means_of(name)).filter(|_| alpha == 1.0);
        let input = node.input_at(0).and_then(|name| self.source_params(name));
        let room = bias.as_deref().zip(input.map(|input| input.scale));
        let symmetric = axis.is_some() || self.options.weights_symmetric;
        let done = self.round(tensor, axis, alpha, self.options.weight_integers(symmetric), symmetric, room)?;
        set_input(node, at, done.output.clone());
        let correction = means.and_then(|means| self.shift(node, tensor, axis, &done, means));
        let bias = match (bias, correction) {
            (Some(bias), Some(shift)) => Some(bias.iter().zip(&shift).map(|(bias, shift)| bias - shift).collect()),
            (None, Some(shift)) if node.is("Conv") => Some(shift.into_iter().map(|shift| -shift).collect()),
            (bias, _) => bias,
        };
        if let (Some(bias), Some(input)) = (bias, input) {
            let bias: Vec<f32> = bias;
            let output = self.bias(node, &bias, input.scale, &done.params);
            node.input.resize(node.input.len().max(3), String::new());
            set_input(node, 2, output);
        }
        Ok(())
    }

    /// The parameters of what a node reads, which may stand beside the way of the value.
    fn source_params(&self, name: &str) -> Option<Params> {
        let value = self.beside.iter().find(|(_, output)| *output == name).map_or(name, |(value, _)| value);
        self.params_of(value)
    }

    /// The means of what a node reads.
    fn means_of(&self, name: &str) -> Option<&'plan [f32]> {
        let value = self.beside.iter().find(|(_, output)| *output == name).map_or(name, |(value, _)| value);
        self.means?.0.get(value).map(Vec::as_slice)
    }

    /// Returns what rounding the weights adds to each channel of a node's result in the mean (Nagel et al. 2019, section 4.2).
    fn shift(
        &self,
        node: &NodeProto,
        tensor: &TensorProto,
        axis: Option<usize>,
        done: &Done,
        means: &[f32],
    ) -> Option<Vec<f32>> {
        let integers = &self.added.iter().find(|added| added.name() == done.quantized)?.raw_data;
        let rounded = weights::Rounded { bytes: integers.as_deref()?, params: &done.params, axis };
        let (values, shape) = weights::read(tensor).ok()?;
        if node.is("Conv") {
            let groups = usize::try_from(node.attr_int("group").unwrap_or(1)).ok()?;
            rounded.shift_of_convolution(&values, &shape, groups, means)
        } else if node.is("Gemm") && node.attr_int("transA").unwrap_or_default() == 0 {
            rounded.shift_of_product(&values, &shape, node.attr_int("transB").unwrap_or_default() != 0, means)
        } else {
            None
        }
    }

    fn bias(&mut self, node: &NodeProto, bias: &[f32], input: f32, weights: &[Params]) -> String {
        let scales: Vec<f32> = weights.iter().map(|one| one.scale * input).collect();
        let per_channel = scales.len() > 1;
        let integers = weights::round_bias(bias, &scales);
        let shape: Vec<usize> = if per_channel { vec![scales.len()] } else { Vec::new() };
        let scale = self.constant("scale", ElementType::Float, &shape, bytes(&scales, f32::to_le_bytes));
        let integers = bytes(&integers, i32::to_le_bytes);
        let quantized = self.constant("bias_q", ElementType::Int32, &[bias.len()], integers);
        let (output, name) = (self.names.fresh("bias_dq"), self.names.fresh(&format!("{}_bias_DQ", node.name())));
        let dequantize = NodeProto::new("DequantizeLinear", &name, &[&quantized, &scale], &[&output]);
        self.nodes.push(if per_channel { dequantize.with(AttributeProto::int("axis", 0)) } else { dequantize });
        output
    }

    /// Rounds a constant and gives the name of what DequantizeLinear makes of it.
    fn round(
        &mut self,
        tensor: &TensorProto,
        axis: Option<usize>,
        factor: f32,
        integers: Integers,
        symmetric: bool,
        room_for: Option<(&[f32], f32)>,
    ) -> Result<Done, CompressError> {
        let key = (tensor.name().to_owned(), axis, factor.to_bits() ^ u32::from(integers == Integers::U8));
        let (mut values, shape) = weights::read(tensor)?;
        if factor != 1.0 {
            values.iter_mut().for_each(|value| *value *= factor);
        }
        let mut params = weights::fit_all(&weights::ranges(&values, &shape, axis), integers, symmetric);
        let widened = room_for.is_some_and(|(bias, input)| weights::make_room(&mut params, bias, input));
        if !widened && let Some(done) = self.weights.get(&key) {
            return Ok(done.clone());
        }
        let rounded = weights::round(&values, &shape, axis, integers, &params);
        drop(values);
        let quantized = self.names.fresh(&format!("{}_q", tensor.name()));
        self.added.push(TensorProto::of_raw(&quantized, integers.element, &shape, rounded));
        let (scale, zero) = self.scale_and_zero(&params, axis.is_some(), integers);
        let (output, name) =
            (self.names.fresh(&format!("{}_dq", tensor.name())), self.names.fresh(&format!("{}_DQ", tensor.name())));
        let dequantize = NodeProto::new("DequantizeLinear", &name, &[&quantized, &scale, &zero], &[&output]);
        let axis = axis.and_then(|axis| i64::try_from(axis).ok());
        self.nodes.push(match axis {
            Some(axis) => dequantize.with(AttributeProto::int("axis", axis)),
            None => dequantize,
        });
        let done = Done { output, params, quantized };
        if !widened {
            self.weights.insert(key, done.clone());
        }
        Ok(done)
    }
}

fn bytes<T: Copy, const N: usize>(values: &[T], write: fn(T) -> [u8; N]) -> Vec<u8> {
    values.iter().flat_map(|&value| write(value)).collect()
}

fn set_input(node: &mut NodeProto, at: usize, name: String) {
    if let Some(input) = node.input.get_mut(at) {
        *input = name;
    }
}

/// Takes a factor of Gemm away from it.
fn take_factor(node: &mut NodeProto, name: &str) -> f32 {
    let factor = node.attr_float(name).filter(|_| node.is("Gemm")).unwrap_or(1.0);
    if node.is("Gemm") {
        node.attribute.retain(|attribute| attribute.name() != name);
    }
    factor
}

/// Removes constants that nobody takes any more.
fn drop_unused(model: &mut Model) {
    let uses = Uses::of(&model.graph);
    let outputs: BTreeSet<String> = model.graph.outputs.iter().map(|output| output.name().to_owned()).collect();
    model.graph.initializers.retain(|name, _| !uses.consumers(name).is_empty() || outputs.contains(name));
}

impl Activations {
    pub(super) fn integers(self) -> Integers {
        match self {
            Self::U8 => Integers::U8,
            Self::S8 => Integers::S8,
        }
    }
}
