//! The pass over the graph.

use onnx_graph::proto::{AttributeProto, NodeProto, TensorProto};
use onnx_graph::rewrite::remove_dead;
use onnx_graph::{Attributes, Graph, Model, Names, Uses, Values};

use super::follow::{Followed, Part, follow};
use super::lanes::Channel;
use super::reconstruct::Layer;
use super::{Compensation, Options, importance};
use crate::constants::Constants;
use crate::gram::Grams;
use crate::linear::{Linear, transpose};

use crate::{CompressError, Report};

/// Takes channels out.
///
/// `grams` is what examples say of the inputs of each weight; it may be empty when nothing is to be compensated.
///
/// # Errors
/// When an option makes no sense, a weight's bytes are broken, or no channel can go.
pub fn prune(model: &Model, options: &Options, grams: &Grams) -> Result<(Model, Report), CompressError> {
    if !(0.0..1.0).contains(&options.fraction) {
        let reason = "it is a part of the channels, from 0 to below 1".to_owned();
        return Err(CompressError::Option { option: "fraction", value: options.fraction.to_string(), reason });
    }
    let uses = Uses::of(&model.graph);
    let constants = Constants::of(&model.graph, &uses);
    let followed = follow(&model.graph, &uses, constants);
    let mut report = Report::of("prune-channels");
    report.tell_of_subgraphs(&model.graph);
    let kept = importance::kept(&model.graph, constants, &followed, options, grams)?;
    if kept.iter().all(|&kept| kept) {
        tell(&model.graph, &followed, &kept, &mut report);
        let reason = report
            .skipped
            .first()
            .map_or("it has no convolution or product that is followed", |skipped| &skipped.reason);
        let reason =
            format!("no channel can go (of the first layer: {reason}); raise the fraction or widen the selection");
        return Err(CompressError::Nothing { pass: "prune-channels", reason });
    }
    let mut made = model.clone();
    made.graph.value_info.clear();
    let mut pass =
        Pass { constants, kept: &kept, options, grams, names: Names::of(&model.graph), made: &mut made.graph };
    let mut nodes = Vec::with_capacity(model.graph.nodes.len());
    for (at, node) in model.graph.nodes.iter().enumerate() {
        match followed.parts.get(&at) {
            Some(part) if pass.is_touched(part) => {
                nodes.push(pass.cut(node, part)?);
                report.changed.push(node.name().to_owned());
            }
            Some(_) | None => nodes.push(node.clone()),
        }
    }
    tell(&model.graph, &followed, &kept, &mut report);
    made.graph.nodes = nodes;
    remove_dead(&mut made.graph);
    Ok((made, report))
}

/// Says how many channels each layer lost, and why others lost none.
fn tell(graph: &Graph, followed: &Followed, kept: &[bool], report: &mut Report) {
    for (at, node) in graph.nodes.iter().enumerate() {
        let Some(Part::Conv { outputs, .. } | Part::Product { outputs, .. }) = followed.parts.get(&at) else {
            continue;
        };
        let left = outputs.iter().filter(|&&channel| kept[channel]).count();
        match outputs.iter().find_map(|&channel| followed.channels.reason(channel)) {
            Some(reason) if left == outputs.len() => report.skip(node, reason),
            Some(_) | None => {
                report.notes.push(format!("{}: {left} of {} channels stay", node.name(), outputs.len()));
            }
        }
    }
}

struct Pass<'a> {
    constants: Constants<'a>,
    kept: &'a [bool],
    options: &'a Options,
    grams: &'a Grams,
    names: Names,
    made: &'a mut Graph,
}

impl<'a> Pass<'a> {
    fn is_touched(&self, part: &Part) -> bool {
        let lost = |channels: &[Channel]| channels.iter().any(|&channel| !self.kept[channel]);
        match part {
            Part::Conv { inputs, outputs } => lost(outputs) || inputs.as_deref().is_some_and(lost),
            Part::Product { inputs, outputs, .. } => {
                lost(outputs) || inputs.as_ref().is_some_and(|(inputs, _)| lost(inputs))
            }
            Part::Constants { channels, .. } => lost(channels),
        }
    }

    /// Places of the channels that stay.
    fn places(&self, channels: &[Channel]) -> Vec<usize> {
        (0..channels.len()).filter(|&at| self.kept[channels[at]]).collect()
    }

    fn cut(&mut self, node: &'a NodeProto, part: &Part) -> Result<NodeProto, CompressError> {
        match part {
            Part::Conv { inputs, outputs } => self.conv(node, inputs.as_deref(), outputs),
            Part::Product { linear, inputs, outputs } => self.product(node, linear, inputs.as_ref(), outputs),
            Part::Constants { places, channels } => self.constants(node, places, channels),
        }
    }

    fn conv(
        &mut self,
        node: &'a NodeProto,
        inputs: Option<&[Channel]>,
        outputs: &[Channel],
    ) -> Result<NodeProto, CompressError> {
        let mut made = node.clone();
        let Some(tensor) = self.tensor(node, 1) else { return Ok(made) };
        let shape = tensor.shape()?;
        let (width, plane) = (shape.get(1).copied().unwrap_or(0), shape.iter().skip(2).product::<usize>());
        let groups = node.attr_int("group").unwrap_or(1);
        let places = self.places(outputs);
        let bias = self.tensor(node, 2).map(Values::floats).transpose()?;
        // Of the inputs of one group; in groups of several the same ones go from each.
        let columns: Vec<usize> = match inputs {
            Some(inputs) if width > 1 || groups == 1 => {
                let of_group = self.places(&inputs[..width.min(inputs.len())]);
                of_group.into_iter().flat_map(|at| at * plane..(at + 1) * plane).collect()
            }
            Some(_) | None => (0..width * plane).collect(),
        };
        let layer = Layer { rows: outputs.len(), columns: width * plane, weight: tensor.floats()?, bias };
        let fewer = columns.len() < layer.columns;
        let reduced = self.compensated(node, layer, &columns, fewer);
        let mut cut_shape = shape.clone();
        cut_shape[0] = places.len();
        cut_shape[1] = columns.len() / plane.max(1);
        let weight = rows(&reduced.weight, reduced.columns, &places);
        made.input[1] = self.add(tensor.name(), &cut_shape, &weight);
        self.set_bias(&mut made, reduced.bias, &places);
        if let Some(inputs) = inputs.filter(|_inputs| width == 1 && groups > 1) {
            // Depthwise: as many groups as inputs.
            made.set(AttributeProto::int("group", i64::try_from(self.places(inputs).len()).unwrap_or(i64::MAX)));
        }
        Ok(made)
    }

    fn product(
        &mut self,
        node: &'a NodeProto,
        linear: &Linear,
        inputs: Option<&(Vec<Channel>, usize)>,
        outputs: &[Channel],
    ) -> Result<NodeProto, CompressError> {
        let mut made = node.clone();
        let Some(tensor) = self.tensor(node, 1) else { return Ok(made) };
        // Alpha and beta stay at the node, so that the weight is read as it is.
        let matrix = Linear { alpha: 1.0, ..linear.clone() }.matrix(tensor)?;
        let places = self.places(outputs);
        let columns: Vec<usize> = match inputs {
            Some((inputs, repeat)) => {
                self.places(inputs).into_iter().flat_map(|at| at * repeat..(at + 1) * repeat).collect()
            }
            None => (0..matrix.columns).collect(),
        };
        let bias = self.tensor(node, 2).map(Values::floats).transpose()?;
        let layer = Layer { rows: matrix.rows, columns: matrix.columns, weight: matrix.values, bias };
        // Scaled terms would need their factors in the equations; exporters write 1.
        let unscaled = linear.alpha == 1.0 && linear.bias.as_ref().is_none_or(|(_name, beta)| *beta == 1.0);
        let fewer = columns.len() < layer.columns && unscaled;
        let reduced = self.compensated(node, layer, &columns, fewer);
        let weight = rows(&reduced.weight, reduced.columns, &places);
        made.input[1] = if linear.transposed {
            self.add(tensor.name(), &[places.len(), columns.len()], &weight)
        } else {
            self.add(tensor.name(), &[columns.len(), places.len()], &transpose(&weight, places.len(), columns.len()))
        };
        self.set_bias(&mut made, reduced.bias, &places);
        Ok(made)
    }

    /// The layer over fewer inputs. One without a bias gets one when that is worth something.
    fn compensated(&self, node: &NodeProto, mut layer: Layer, columns: &[usize], fewer: bool) -> Layer {
        let how = if fewer { self.options.compensation } else { Compensation::None };
        let gram = self.grams.of_node(node).filter(|_gram| how != Compensation::None);
        if gram.is_some() && layer.bias.is_none() && !node.is("MatMul") {
            layer.bias = Some(vec![0.0; layer.rows]);
        }
        layer.reduced(columns, gram, how)
    }

    fn set_bias(&mut self, node: &mut NodeProto, bias: Option<Vec<f32>>, places: &[usize]) {
        let Some(bias) = bias else { return };
        let values: Vec<f32> = places.iter().filter_map(|&at| bias.get(at).copied()).collect();
        let old = node.input_at(2).map_or_else(|| format!("{}_bias", node.name()), str::to_owned);
        let name = self.add(&old, &[values.len()], &values);
        node.input.resize(node.input.len().max(3), String::new());
        node.input[2] = name;
    }

    fn constants(
        &mut self,
        node: &'a NodeProto,
        places: &[(usize, usize)],
        channels: &[Channel],
    ) -> Result<NodeProto, CompressError> {
        let mut made = node.clone();
        let kept = self.places(channels);
        for &(place, axis) in places {
            let Some(tensor) = self.tensor(node, place) else { continue };
            let (mut shape, values) = (tensor.shape()?, tensor.floats()?);
            let inner: usize = shape.iter().skip(axis + 1).product();
            let length = shape.get(axis).copied().unwrap_or(1);
            let cut: Vec<f32> = values
                .chunks(length.max(1) * inner.max(1))
                .flat_map(|outer| kept.iter().filter_map(move |&at| outer.get(at * inner..(at + 1) * inner)))
                .flatten()
                .copied()
                .collect();
            shape[axis] = kept.len();
            made.input[place] = self.add(tensor.name(), &shape, &cut);
        }
        Ok(made)
    }

    fn tensor(&self, node: &'a NodeProto, place: usize) -> Option<&'a TensorProto> {
        self.constants.float32(node.input_at(place)?)
    }

    /// Adds a tensor of its own: another node may take the old one whole.
    fn add(&mut self, old: &str, shape: &[usize], values: &[f32]) -> String {
        let name = self.names.fresh(&format!("{old}_pruned"));
        self.made.add_initializer(TensorProto::of_floats(&name, shape, values));
        name
    }
}

/// The rows at these places.
fn rows(values: &[f32], columns: usize, places: &[usize]) -> Vec<f32> {
    places.iter().flat_map(|&row| &values[row * columns..(row + 1) * columns]).copied().collect()
}
