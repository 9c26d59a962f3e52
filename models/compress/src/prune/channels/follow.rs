//! Follows channels through a graph.

use std::collections::HashMap;

use onnx_graph::proto::NodeProto;
use onnx_graph::{Attributes, Graph, Uses, Values, subgraphs};

use super::lanes::{Channel, Channels, Lane};
use crate::constants::Constants;
use crate::linear::Linear;

/// Operators that do to each element, or to each channel's plane, something that knows no other channel.
const APART: [&str; 34] = [
    "Abs",
    "AveragePool",
    "Cast",
    "Ceil",
    "Celu",
    "Clip",
    "Dropout",
    "Elu",
    "Erf",
    "Exp",
    "Floor",
    "Gelu",
    "GlobalAveragePool",
    "GlobalLpPool",
    "GlobalMaxPool",
    "HardSigmoid",
    "HardSwish",
    "Identity",
    "InstanceNormalization",
    "LeakyRelu",
    "Log",
    "LpPool",
    "MaxPool",
    "Mish",
    "Neg",
    "Reciprocal",
    "Relu",
    "Selu",
    "Sigmoid",
    "Softplus",
    "Softsign",
    "Sqrt",
    "Tanh",
    "ThresholdedRelu",
];

/// Operators of two inputs, element by element.
const PAIRED: [&str; 8] = ["Add", "Div", "Max", "Min", "Mul", "PRelu", "Pow", "Sub"];

/// What a node does with channels, for whoever takes some of them out.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Part {
    /// A convolution.
    Conv { inputs: Option<Vec<Channel>>, outputs: Vec<Channel> },
    /// A product; each input channel stands for `repeat` neighbouring inputs.
    Product { linear: Linear, inputs: Option<(Vec<Channel>, usize)>, outputs: Vec<Channel> },
    /// Constants along channels, at these inputs of the node and along this axis of each.
    Constants { places: Vec<(usize, usize)>, channels: Vec<Channel> },
}

/// A graph with its channels told apart.
#[derive(Debug, Default)]
pub(super) struct Followed {
    pub channels: Channels,
    /// Rewrite of each node.
    pub parts: HashMap<usize, Part>,
}

/// Goes through the graph once.
pub(super) fn follow(graph: &Graph, uses: &Uses, constants: Constants<'_>) -> Followed {
    let mut way = Way { graph, uses, constants, lanes: HashMap::new(), followed: Followed::default() };
    for (at, node) in graph.nodes.iter().enumerate() {
        let (part, lane) = way.step(node);
        if let Some(part) = part {
            way.followed.parts.insert(at, part);
        }
        if let (Some(lane), Some(output)) = (lane, node.output.first()) {
            way.keep(output, lane);
        }
    }
    way.followed
}

struct Way<'g> {
    graph: &'g Graph,
    uses: &'g Uses,
    constants: Constants<'g>,
    lanes: HashMap<String, Lane>,
    followed: Followed,
}

/// What a node does, and the channels of its first output.
type Step = (Option<Part>, Option<Lane>);

impl<'g> Way<'g> {
    fn step(&mut self, node: &'g NodeProto) -> Step {
        let foreign = !matches!(node.domain(), "" | "ai.onnx") || subgraphs(node).next().is_some();
        let lane = node.input_at(0).and_then(|name| self.lanes.get(name)).cloned();
        let step = match node.op_type() {
            _ if foreign => None,
            "Conv" => self.conv(node, lane),
            "Gemm" | "MatMul" => self.product(node, lane),
            "BatchNormalization" => lane.and_then(|lane| self.batch_norm(node, lane)),
            "Concat" => self.concat(node),
            "Flatten" if node.attr_int("axis").unwrap_or(1) == 1 => lane.and_then(flattened),
            "Reshape" => lane.filter(|_lane| self.flattens(node)).and_then(flattened),
            "Resize" | "Pad" => lane.filter(|_lane| self.spares_channels(node)).map(|lane| (None, Some(lane))),
            "ReduceMean" | "ReduceMax" | "ReduceSum" => lane.and_then(|lane| self.reduced(node, lane)),
            operator if PAIRED.contains(&operator) => self.paired(node),
            operator if APART.contains(&operator) && only_first_output(node) => self.apart(node, lane),
            _ => None,
        };
        step.unwrap_or_else(|| {
            self.pin_inputs(node);
            (None, None)
        })
    }

    /// Notes the channels of a value; those that the graph hands out or that a subgraph sees must stay.
    fn keep(&mut self, value: &str, lane: Lane) {
        if self.graph.is_output(value) {
            self.followed.channels.pin(&lane.channels, "its channels are an output of the model");
        }
        let inner = |&at: &usize| self.graph.nodes.get(at).is_some_and(|node| subgraphs(node).next().is_some());
        if self.uses.consumers(value).iter().any(inner) {
            self.followed.channels.pin(&lane.channels, "a subgraph takes its channels");
        }
        self.lanes.insert(value.to_owned(), lane);
    }

    fn pin_inputs(&mut self, node: &NodeProto) {
        for lane in node.input.iter().filter_map(|name| self.lanes.get(name)) {
            let reason = format!("its channels reach {} {:?}", node.op_type(), node.name());
            self.followed.channels.pin(&lane.channels, &reason);
        }
    }

    fn conv(&mut self, node: &'g NodeProto, lane: Option<Lane>) -> Option<Step> {
        let weight = self.constants.float32(node.input_at(1)?)?.shape().ok()?;
        if node.input_at(2).is_some_and(|bias| self.constants.float32(bias).is_none()) || weight.contains(&0) {
            return None;
        }
        let (&outputs, &width) = (weight.first()?, weight.get(1)?);
        let groups = usize::try_from(node.attr_int("group").unwrap_or(1)).ok().filter(|&groups| groups > 0)?;
        let inputs = width.checked_mul(groups)?;
        let fits = |lane: &Lane| lane.channels.len() == inputs && !lane.flat;
        if outputs % groups != 0 || lane.as_ref().is_some_and(|lane| !fits(lane)) {
            return None;
        }
        let taken = lane.map(|lane| lane.channels);
        let channels = &mut self.followed.channels;
        let made = channels.fresh(outputs);
        if groups > 1 {
            let each = outputs / groups;
            match &taken {
                // Inputs that are not followed keep their groups, so outputs must too.
                None => channels.pin(&made, "its groups take inputs that must stay"),
                // Depthwise: a channel goes with the one it is made of.
                Some(taken) if width == 1 => {
                    made.iter().enumerate().for_each(|(at, &channel)| channels.join(channel, taken[at / each]));
                }
                // Groups stay of one size: the same places go from each.
                Some(taken) => {
                    (0..inputs).for_each(|at| channels.join(taken[at], taken[at % width]));
                    (0..outputs).for_each(|at| channels.join(made[at], made[at % each]));
                }
            }
        }
        let lane = Lane { channels: made.clone(), rank: weight.len(), flat: false };
        Some((Some(Part::Conv { inputs: taken, outputs: made }), Some(lane)))
    }

    fn product(&mut self, node: &'g NodeProto, lane: Option<Lane>) -> Option<Step> {
        let linear = Linear::of(node, self.constants)?.ok()?;
        let shape = self.constants.float32(node.input_at(1)?)?.shape().ok()?;
        let &[first, second] = shape.as_slice() else { return None };
        let (outputs, inputs) = if linear.transposed { (first, second) } else { (second, first) };
        let taken = match lane {
            None => None,
            Some(lane) if lane.rank == 2 && !lane.channels.is_empty() && inputs % lane.channels.len() == 0 => {
                let repeat = inputs / lane.channels.len();
                (lane.flat || repeat == 1).then_some((lane.channels, repeat)).map(Some)?
            }
            Some(_other) => return None,
        };
        // Only behind a matrix is axis 1 known to be the one of the outputs.
        let followed = taken.is_some() || node.is("Gemm");
        let bias = linear.bias.as_ref().map(|(name, _beta)| self.constants.float32(name).map(Values::shape));
        let sliceable = match &bias {
            None => true,
            Some(Some(Ok(shape))) => shape.iter().product::<usize>() == outputs && shape.last() == Some(&outputs),
            Some(_other) => false,
        };
        let made = self.followed.channels.fresh(outputs);
        if !sliceable {
            self.followed.channels.pin(&made, "its bias is not one constant for each channel");
        }
        let lane = Lane { channels: made.clone(), rank: 2, flat: false };
        if !followed {
            self.followed.channels.pin(&made, "its input is not known to be a matrix");
        }
        Some((Some(Part::Product { linear, inputs: taken, outputs: made }), followed.then_some(lane)))
    }

    fn batch_norm(&mut self, node: &'g NodeProto, lane: Lane) -> Option<Step> {
        let along = |at: &usize| {
            let tensor = node.input_at(*at).and_then(|name| self.constants.float32(name));
            tensor.and_then(|tensor| tensor.shape().ok()).is_some_and(|shape| shape == [lane.channels.len()])
        };
        let whole = (1..5).all(|at| along(&at)) && only_first_output(node) && !lane.flat;
        let part = Part::Constants { places: (1..5).map(|at| (at, 0)).collect(), channels: lane.channels.clone() };
        whole.then_some((Some(part), Some(lane)))
    }

    fn apart(&mut self, node: &'g NodeProto, lane: Option<Lane>) -> Option<Step> {
        let lane = lane?;
        if !node.is("InstanceNormalization") {
            return Some((None, Some(lane)));
        }
        let along = |at: usize| {
            let tensor = node.input_at(at).and_then(|name| self.constants.float32(name));
            tensor.and_then(|tensor| tensor.shape().ok()).is_some_and(|shape| shape == [lane.channels.len()])
        };
        let part = Part::Constants { places: vec![(1, 0), (2, 0)], channels: lane.channels.clone() };
        (along(1) && along(2)).then_some((Some(part), Some(lane)))
    }

    fn paired(&mut self, node: &'g NodeProto) -> Option<Step> {
        let [first, second] = node.input.as_slice() else { return None };
        match (self.lanes.get(first).cloned(), self.lanes.get(second).cloned()) {
            (Some(a), Some(b)) if a.rank == b.rank && a.flat == b.flat && a.channels.len() == b.channels.len() => {
                let pairs = a.channels.iter().zip(&b.channels);
                pairs.for_each(|(&a, &b)| self.followed.channels.join(a, b));
                Some((None, Some(a)))
            }
            (Some(lane), None) => self.with_constant(lane, 1, second),
            (None, Some(lane)) => self.with_constant(lane, 0, first),
            (Some(_), Some(_)) | (None, None) => None,
        }
    }

    /// A value and a constant that stretches to it.
    fn with_constant(&self, lane: Lane, place: usize, constant: &'g str) -> Option<Step> {
        let shape = self.constants.float32(constant)?.shape().ok()?;
        if shape.len() > lane.rank {
            return None;
        }
        // Axis 1 of the value, counted from the right as broadcasting does.
        let axis = (shape.len() + 1).checked_sub(lane.rank).filter(|&axis| axis < shape.len());
        match axis.map(|axis| (axis, shape[axis])) {
            None | Some((_, 1)) => Some((None, Some(lane))),
            Some((axis, size)) if size == lane.channels.len() && !lane.flat => Some((
                Some(Part::Constants { places: vec![(place, axis)], channels: lane.channels.clone() }),
                Some(lane),
            )),
            Some(_other) => None,
        }
    }

    fn concat(&mut self, node: &'g NodeProto) -> Option<Step> {
        let lanes: Vec<&Lane> = node.input.iter().map(|name| self.lanes.get(name)).collect::<Option<_>>()?;
        let (rank, flat) = lanes.first().map(|lane| (lane.rank, lane.flat))?;
        let axis = node.attr_int("axis")?;
        let alike = lanes.iter().all(|lane| lane.rank == rank && !lane.flat);
        let along = axis == 1
            || axis.checked_neg().and_then(|back| usize::try_from(back).ok()).is_some_and(|back| back + 1 == rank);
        let channels = lanes.iter().flat_map(|lane| lane.channels.iter().copied()).collect();
        (alike && along && !flat).then_some((None, Some(Lane { channels, rank, flat })))
    }

    /// Returns whether a `Reshape` leaves the first axis and joins all others.
    fn flattens(&self, node: &'g NodeProto) -> bool {
        let shape = node.input_at(1).and_then(|name| self.constants.whole_numbers(name));
        matches!(shape.as_deref(), Some([0 | 1, -1]))
    }

    /// Returns whether a `Resize` or `Pad` works within planes.
    fn spares_channels(&self, node: &'g NodeProto) -> bool {
        if node.is("Pad") {
            let pads = match node.attr_ints("pads") {
                Some(pads) => Some(pads.to_vec()),
                None => node.input_at(1).and_then(|name| self.constants.whole_numbers(name)),
            };
            let rank = pads.as_ref().map_or(0, |pads| pads.len() / 2);
            return node.input_at(3).is_none()
                && pads.is_some_and(|pads| rank >= 2 && pads.get(1) == Some(&0) && pads.get(rank + 1) == Some(&0));
        }
        let scales =
            node.input_at(2).and_then(|name| self.constants.float32(name)).and_then(|scales| scales.floats().ok());
        node.input_at(3).is_none()
            && node.attr("axes").is_none()
            && scales.is_some_and(|scales| scales.len() > 2 && scales[..2] == [1.0, 1.0])
    }

    fn reduced(&mut self, node: &'g NodeProto, lane: Lane) -> Option<Step> {
        let axes = match node.attr_ints("axes") {
            Some(axes) => axes.to_vec(),
            None => self.constants.whole_numbers(node.input_at(1)?)?,
        };
        let rank = i64::try_from(lane.rank).ok()?;
        let mut axes: Vec<i64> = axes.into_iter().map(|axis| if axis < 0 { axis + rank } else { axis }).collect();
        axes.sort_unstable();
        axes.dedup();
        if lane.flat || axes.is_empty() || axes.iter().any(|&axis| axis < 2 || axis >= rank) {
            return None;
        }
        let kept = node.attr_int("keepdims").unwrap_or(1) != 0;
        let rank = if kept { lane.rank } else { lane.rank - axes.len() };
        Some((None, Some(Lane { rank, ..lane })))
    }
}

fn flattened(lane: Lane) -> Option<Step> {
    Some((None, Some(Lane { flat: lane.flat || lane.rank > 2, rank: 2, ..lane })))
}

fn only_first_output(node: &NodeProto) -> bool {
    node.output.iter().skip(1).all(String::is_empty)
}
