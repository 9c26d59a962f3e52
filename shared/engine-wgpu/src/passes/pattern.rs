//! What the fusions share to recognise shapes of graphs: who makes a value, who reads it, which number it is.

use types::Dim;

use crate::ir::{ElementType, Graph, Literal, Node, ValueId};
use crate::value_info::{ValueInfo, ValueInfos};

/// Producers and readers of each value, as of when it was made and told of changes: values that come later are unknown
/// to it.
#[derive(Debug, Default)]
pub(super) struct Uses {
    producers: Vec<Option<usize>>,
    /// Readers and requests together.
    reads: Vec<usize>,
}

impl Uses {
    /// Looks over a graph.
    pub(super) fn of(graph: &Graph) -> Self {
        let mut reads = vec![0; graph.value_count()];
        let inputs = graph.nodes.iter().flat_map(|node| node.inputs.iter().flatten());
        for id in inputs.chain(&graph.outputs) {
            reads[id.index()] += 1;
        }
        Self { producers: graph.producers(), reads }
    }

    /// Takes note of a node at a new position.
    pub(super) fn added(&mut self, at: usize, node: &Node) {
        let ids = node.inputs.iter().chain(&node.outputs).flatten();
        let values = ids.map(|id| id.index() + 1).max().unwrap_or(0).max(self.reads.len());
        self.reads.resize(values, 0);
        self.producers.resize(values, None);
        for id in node.inputs.iter().flatten() {
            self.reads[id.index()] += 1;
        }
        for id in node.outputs.iter().flatten() {
            self.producers[id.index()] = Some(at);
        }
    }

    /// Takes note of another node at a known position.
    pub(super) fn replaced(&mut self, at: usize, before: &Node, after: &Node) {
        for id in before.inputs.iter().flatten() {
            self.reads[id.index()] = self.reads[id.index()].saturating_sub(1);
        }
        for id in before.outputs.iter().flatten() {
            self.producers[id.index()] = None;
        }
        self.added(at, after);
    }

    /// The node that makes this value, and its position.
    pub(super) fn producer<'g>(&self, graph: &'g Graph, id: ValueId) -> Option<(usize, &'g Node)> {
        let at = self.producers.get(id.index()).copied().flatten()?;
        graph.nodes.get(at).filter(|node| node.outputs.contains(&Some(id))).map(|node| (at, node))
    }

    /// Returns whether exactly one input of one node reads this value, and no request does.
    pub(super) fn once(&self, id: ValueId) -> bool {
        self.reads.get(id.index()) == Some(&1)
    }

    /// Readers and requests of this value.
    pub(super) fn reads(&self, id: ValueId) -> usize {
        self.reads.get(id.index()).copied().unwrap_or(0)
    }
}

/// The one number that a constant holds.
pub(super) fn number(graph: &Graph, id: ValueId) -> Option<f32> {
    let literal = graph.constants.get(&id)?;
    (literal.elements() == 1).then(|| literal.to_f32s().first().copied()).flatten()
}

/// Returns whether this is that operator, of ONNX's domain.
pub(super) fn is_one_of(node: &Node, ops: &[&str]) -> bool {
    node.domain.is_empty() && ops.contains(&node.op.as_str())
}

/// The two inputs of a node of exactly two.
pub(super) fn pair(node: &Node) -> Option<(ValueId, ValueId)> {
    match node.inputs.as_slice() {
        [Some(a), Some(b)] => Some((*a, *b)),
        _ => None,
    }
}

/// Of two inputs the one that is not this constant number, within a part in a thousand.
pub(super) fn other_than(graph: &Graph, node: &Node, wanted: f32) -> Option<ValueId> {
    let (a, b) = pair(node)?;
    let is = |id| number(graph, id).is_some_and(|value| (value - wanted).abs() <= wanted.abs() * 1e-3);
    if is(b) {
        return Some(a);
    }
    is(a).then_some(b)
}

/// A scalar constant of zero.
pub(super) fn zero(graph: &mut Graph, dtype: ElementType) -> ValueId {
    graph.add_constant("zero", Literal::from_i64s(dtype, Vec::new(), &[0]))
}

/// An activation that epilogues know, as their attributes name it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Activation {
    /// Its name.
    pub(super) name: &'static str,
    /// Its two numbers.
    pub(super) numbers: [f32; 2],
}

/// The activation that a node is, applied to its first input.
pub(super) fn activation(graph: &Graph, node: &Node) -> Option<Activation> {
    if !node.domain.is_empty() {
        return None;
    }
    let float = |name: &str, default: f32| node.attributes.float(name, default).ok();
    let (name, numbers) = match node.op.as_str() {
        "Relu" => ("Relu", [0.0, 0.0]),
        "LeakyRelu" => ("LeakyRelu", [float("alpha", 0.01)?, 0.0]),
        "Clip" => ("Clip", clip(graph, node)?),
        "Sigmoid" => ("Sigmoid", [0.0, 0.0]),
        "Tanh" => ("Tanh", [0.0, 0.0]),
        "HardSigmoid" => ("HardSigmoid", [float("alpha", 0.2)?, float("beta", 0.5)?]),
        "HardSwish" => ("HardSwish", [0.0, 0.0]),
        "Elu" => ("Elu", [float("alpha", 1.0)?, 0.0]),
        "Softplus" => ("Softplus", [0.0, 0.0]),
        "Mish" => ("Mish", [0.0, 0.0]),
        "Gelu" => match node.attributes.text("approximate", "none").ok()? {
            "none" => ("Gelu", [0.0, 0.0]),
            "tanh" => ("GeluTanh", [0.0, 0.0]),
            _ => return None,
        },
        _ => return None,
    };
    Some(Activation { name, numbers })
}

/// Bounds of a `Clip`: attributes before opset 11, constants since.
fn clip(graph: &Graph, node: &Node) -> Option<[f32; 2]> {
    let (mut low, mut high) =
        (node.attributes.float("min", f32::MIN).ok()?, node.attributes.float("max", f32::MAX).ok()?);
    if let Some(id) = node.input(1) {
        low = number(graph, id)?;
    }
    if let Some(id) = node.input(2) {
        high = number(graph, id)?;
    }
    (low <= high).then_some([low, high])
}

/// Sizes that stand for symbols when shapes are compared: unlike each other and unlike what models fix, multiples of 32
/// so that images survive being halved.
const SYMBOL_SIZES: [usize; 12] = [352, 416, 544, 608, 736, 928, 992, 1184, 1312, 1376, 1504, 1696];

/// Returns the infos of each value when every symbol is a size of its own: two shapes that agree here agree in
/// every request.
pub(crate) fn symbolic_infos(graph: &Graph) -> Vec<Option<ValueInfo>> {
    let mut symbols: Vec<String> = Vec::new();
    let mut inputs = ValueInfos::declared_inputs(graph);
    for (info, &id) in inputs.iter_mut().zip(&graph.inputs) {
        let Some((_dtype, Some(dims))) = &graph.value(id).declared else { continue };
        for (axis, dim) in dims.iter().enumerate() {
            let name = match dim {
                Dim::Fixed(_) => continue,
                Dim::Symbol(name) => name.clone(),
                Dim::Any => format!("{id:?} {axis}"),
            };
            let at = symbols.iter().position(|known| *known == name).unwrap_or_else(|| {
                symbols.push(name);
                symbols.len() - 1
            });
            // More symbols than sizes: nothing is said of what depends on them.
            let Some(&size) = SYMBOL_SIZES.get(at) else { return vec![None; graph.value_count()] };
            if let Some(place) = info.as_mut().and_then(|info| info.shape.get_mut(axis)) {
                *place = size;
            }
        }
    }
    ValueInfos::imagine(graph, &inputs).into_vec()
}
