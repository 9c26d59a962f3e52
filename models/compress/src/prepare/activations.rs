//! Activations that an exporter wrote out, as one operator again.
//!
//! An engine fuses them itself while they are in floating point, but not once their input is shared by rounding.

use std::collections::HashMap;

use onnx_graph::infer::{Types, infer};
use onnx_graph::proto::NodeProto;
use onnx_graph::{Graph, Model, Uses, Values};

/// Distance from a constant of the definition, relative to it, that rounding to f32 or to a few decimals explains.
const TOLERANCE: f32 = 1e-4;

/// First operator set with Gelu; before, ONNX Runtime's own domain has it.
const OPSET_GELU: i64 = 20;

/// First operator set with HardSwish.
const OPSET_HARD_SWISH: i64 = 14;

/// Finds GELU and HardSwish and writes each with its own operator; what is left over is dead.
pub(super) fn put_together(model: &mut Model) {
    let opset = model.opset("").unwrap_or(1);
    let own = opset >= OPSET_GELU;
    let uses = Uses::of(&model.graph);
    let types = infer(model, &HashMap::new());
    let mut contributed = false;
    for place in 0..model.graph.nodes.len() {
        let Some(node) = model.graph.nodes.get(place) else { continue };
        let found = if node.is("Erf") {
            gelu(&model.graph, &uses, place)
        } else if node.is("Clip") && opset >= OPSET_HARD_SWISH {
            hard_swish(&model.graph, &uses, place)
        } else {
            None
        };
        let Some(Found { input, end, kind, constants }) = found else { continue };
        if !keeps_rank(&model.graph, &types, &input, &constants) {
            continue;
        }
        let Some(last) = model.graph.nodes.get_mut(end) else { continue };
        let (name, output) = (last.name().to_owned(), last.output.first().cloned().unwrap_or_default());
        match kind {
            Kind::Gelu => {
                let gelu = NodeProto::new("Gelu", &name, &[&input], &[&output]);
                contributed |= !own;
                *last = if own { gelu } else { gelu.in_domain("com.microsoft") };
            }
            Kind::HardSwish => *last = NodeProto::new("HardSwish", &name, &[&input], &[&output]),
        }
    }
    if contributed && model.opset("com.microsoft").is_none() {
        model.import("com.microsoft", 1);
    }
}

struct Found {
    /// Input value of the activation.
    input: String,
    /// The node whose output is the activation's.
    end: usize,
    kind: Kind,
    /// Constants that it was written out with.
    constants: Vec<String>,
}

/// Returns whether the activation by itself has the shape that it had written out: a constant of more dimensions than what goes
/// in gives the result dimensions of size 1.
fn keeps_rank(graph: &Graph, types: &Types, input: &str, constants: &[String]) -> bool {
    let rank = types.shape(input).map_or(0, <[_]>::len);
    constants.iter().all(|name| graph.initializer(name).is_some_and(|constant| constant.dims.len() <= rank))
}

enum Kind {
    Gelu,
    HardSwish,
}

/// `x / sqrt(2)` -> Erf -> `+ 1` -> `* x` and `* 0.5`, in any order of the last two.
fn gelu(graph: &Graph, uses: &Uses, erf: usize) -> Option<Found> {
    let node = graph.nodes.get(erf)?;
    let before = graph.nodes.get(uses.producer(node.input_at(0)?)?)?;
    let input = if before.is("Div") {
        near(number(graph, before.input_at(1)?)?, std::f32::consts::SQRT_2).then(|| before.input_at(0))??
    } else {
        other(graph, before, "Mul", std::f32::consts::FRAC_1_SQRT_2)?
    };
    let plus_one = follow(uses, node)?;
    other(graph, graph.nodes.get(plus_one)?, "Add", 1.0)?;
    let product = follow(uses, graph.nodes.get(plus_one)?)?;
    let sum = graph.nodes.get(plus_one)?.output.first()?;
    let node = graph.nodes.get(product).filter(|node| node.is("Mul"))?;
    let factor = if node.input_at(0) == Some(sum) { node.input_at(1)? } else { node.input_at(0)? };
    let mut halving = None;
    let halved = |name: &str| {
        let place = uses.producer(name)?;
        other(graph, graph.nodes.get(place)?, "Mul", 0.5).filter(|half| *half == input).map(|_| place)
    };
    let end = if factor == input {
        let end = follow(uses, node)?;
        other(graph, graph.nodes.get(end)?, "Mul", 0.5)?;
        end
    } else if number(graph, factor).is_some_and(|number| near(number, 0.5)) {
        let end = follow(uses, node)?;
        let last = graph.nodes.get(end).filter(|last| last.is("Mul"))?;
        last.input.iter().any(|name| name == input).then_some(end)?
    } else {
        halving = Some(halved(factor)?);
        product
    };
    let nodes =
        [graph.nodes.get(uses.producer(graph.nodes.get(erf)?.input_at(0)?)?)?, graph.nodes.get(plus_one)?, node];
    let halves = halving.and_then(|half| graph.nodes.get(half));
    let constants = constants_of(graph, nodes.into_iter().chain(graph.nodes.get(end)).chain(halves));
    Some(Found { input: input.to_owned(), end, kind: Kind::Gelu, constants })
}

/// The constants that nodes take.
fn constants_of<'graph>(graph: &Graph, nodes: impl Iterator<Item = &'graph NodeProto>) -> Vec<String> {
    nodes.flat_map(|node| &node.input).filter(|name| graph.initializer(name).is_some()).cloned().collect()
}

/// `x + 3` -> Clip to 0 and 6 -> `* x` -> `/ 6`.
fn hard_swish(graph: &Graph, uses: &Uses, clip: usize) -> Option<Found> {
    let node = graph.nodes.get(clip)?;
    let bound = |place: usize| number(graph, node.input_at(place)?);
    if bound(1)? != 0.0 || !near(bound(2)?, 6.0) {
        return None;
    }
    let input = other(graph, graph.nodes.get(uses.producer(node.input_at(0)?)?)?, "Add", 3.0)?;
    let product = follow(uses, node)?;
    let last = graph.nodes.get(product).filter(|product| product.is("Mul"))?;
    last.input.iter().any(|name| name == input).then_some(())?;
    let end = follow(uses, last)?;
    let last = graph.nodes.get(end)?;
    let divides = last.is("Div") && number(graph, last.input_at(1)?).is_some_and(|six| near(six, 6.0));
    if !divides {
        other(graph, last, "Mul", 1.0 / 6.0)?;
    }
    let plus_three = graph.nodes.get(uses.producer(node.input_at(0)?)?)?;
    let constants = constants_of(graph, [plus_three, node, last].into_iter());
    Some(Found { input: input.to_owned(), end, kind: Kind::HardSwish, constants })
}

/// The only node that takes what this one makes.
fn follow(uses: &Uses, node: &NodeProto) -> Option<usize> {
    uses.only_consumer(node.output.first()?)
}

/// The operand beside a constant near `wanted`, when the node is that operator.
fn other<'graph>(graph: &Graph, node: &'graph NodeProto, operator: &str, wanted: f32) -> Option<&'graph str> {
    let (left, right) = (node.input_at(0)?, node.input_at(1)?);
    let constant = |name: &str| number(graph, name).is_some_and(|number| near(number, wanted));
    if !node.is(operator) {
        None
    } else if constant(right) {
        Some(left)
    } else {
        constant(left).then_some(right)
    }
}

fn near(number: f32, wanted: f32) -> bool {
    (number - wanted).abs() <= TOLERANCE * wanted.abs()
}

fn number(graph: &Graph, name: &str) -> Option<f32> {
    match graph.initializer(name)?.floats().ok()?.as_slice() {
        [only] => Some(*only),
        _ => None,
    }
}
