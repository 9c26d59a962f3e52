//! Computes nodes whose inputs are all constants, once and for all.
//!
//! Only what gives the same bits everywhere: moving, casting, exact arithmetic. What would make a model larger than it
//! was, or is not known here, stays a node.

mod arithmetic;
mod array;
mod cast;
mod movement;

use std::collections::HashSet;

use crate::graph::Graph;
use crate::proto::NodeProto;
use crate::rewrite::Inner;
use crate::tensor::{ElementType, Values, bytes_of};
use crate::uses::{Uses, subgraphs};

use array::Array;
pub(crate) use movement::range_of;

/// Bounds of folding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoldLimits {
    /// Bytes of a result that may be larger than the inputs it is made of.
    ///
    /// Default 64 KiB: shapes, masks and tables of positions stay under it, and a model does not grow by weights that it
    /// computes (`ConstantOfShape`). A result of up to the bytes of its inputs is always made if nobody else needs them.
    pub result_bytes: usize,
    /// Bytes of all results together. Default 4 GiB; the second bound of memory after the size of the file.
    pub total_bytes: usize,
}

impl Default for FoldLimits {
    fn default() -> Self {
        Self { result_bytes: 64 << 10, total_bytes: 4 << 30 }
    }
}

/// How many times the bytes of a result the small inputs of one node may have together.
const SMALL_INPUTS_MAX: usize = 16;

/// Replaces nodes of constants by initializers; gives how many. `opset` is the version of the default domain.
///
/// The nodes must be in order. A node whose result the graph hands out stays.
pub fn fold(graph: &mut Graph, opset: i64, limits: &FoldLimits) -> usize {
    let mut folding = Folding {
        inner: Inner::of(graph),
        uses: Uses::of(graph),
        opset,
        result_bytes: limits.result_bytes,
        left: limits.total_bytes,
    };
    let mut kept = Vec::with_capacity(graph.nodes.len());
    let before = graph.nodes.len();
    for node in std::mem::take(&mut graph.nodes) {
        match folding.folded(graph, &node) {
            Some((name, array)) => graph.add_initializer(array.into_tensor(&name)),
            None => kept.push(node),
        }
    }
    graph.nodes = kept;
    graph.value_info.retain(|name, _| !graph.initializers.contains_key(name));
    before - graph.nodes.len()
}

struct Folding {
    inner: Inner,
    uses: Uses,
    opset: i64,
    result_bytes: usize,
    /// Bytes that results may still take.
    left: usize,
}

impl Folding {
    /// The value that the node makes, and its name; `None` when the node stays.
    fn folded(&mut self, graph: &Graph, node: &NodeProto) -> Option<(String, Array)> {
        let [output] = node.output.as_slice() else { return None };
        let is_default = matches!(node.domain(), "" | "ai.onnx");
        let is_free = !output.is_empty() && !self.uses.is_output(output) && !self.inner.has(output);
        if !is_default || !is_free || subgraphs(node).next().is_some() {
            return None;
        }
        let (inputs, large) = self.inputs(graph, node)?;
        let bound = self.result_bytes.max(large).min(self.left);
        let array = evaluate(node, &inputs, self.opset, bound)?;
        self.left = self.left.checked_sub(array.raw.len())?;
        (array.raw.len() <= bound).then(|| (output.clone(), array))
    }

    /// The numbers of all inputs, and the bytes of those that are no small ones.
    fn inputs(&self, graph: &Graph, node: &NodeProto) -> Option<(Vec<Option<Array>>, usize)> {
        let (mut large, mut small, mut seen) = (0_usize, 0_usize, HashSet::new());
        let mut inputs = Vec::with_capacity(node.input.len());
        for name in &node.input {
            if name.is_empty() {
                inputs.push(None);
                continue;
            }
            let tensor = graph.initializer(name)?;
            // Before the numbers are unpacked: many nodes may ask for the same ones.
            let bytes = bytes_of(tensor.element_type(), &tensor.shape().ok()?)?;
            if bytes > self.result_bytes {
                // A second form of a weight beside the first would make the model larger.
                let is_only_use =
                    self.uses.consumers(name).len() == 1 && !self.uses.is_output(name) && seen.insert(name);
                large = large.checked_add(bytes).filter(|_| is_only_use)?;
            } else {
                small = small.checked_add(bytes)?;
            }
            if small > self.result_bytes.saturating_mul(SMALL_INPUTS_MAX) {
                return None;
            }
            inputs.push(Some(Array::of(tensor)?));
        }
        Some((inputs, large))
    }
}

/// The one result of a node of the default domain; `None` for what is not computed here or would be over `bytes_max`.
fn evaluate(node: &NodeProto, inputs: &[Option<Array>], opset: i64, bytes_max: usize) -> Option<Array> {
    let call = Call { node, inputs, opset, bytes_max };
    match node.op_type() {
        "Identity" => call.input(0).cloned(),
        "Cast" => {
            let to = i32::try_from(call.int("to")?).ok()?;
            cast::cast(call.input(0)?, ElementType::try_from(to).ok()?)
        }
        "Shape" => movement::shape_of(&call),
        "Size" => Some(Array::integers(&[], &[i64::try_from(call.input(0)?.elements()).ok()?])),
        "Reshape" => movement::reshape(&call),
        "Flatten" => movement::flatten(&call),
        "Squeeze" => movement::squeeze(&call),
        "Unsqueeze" => movement::unsqueeze(&call),
        "Transpose" => movement::transpose(&call),
        "Expand" => movement::expand(&call),
        "Concat" => movement::concat(&call),
        "Slice" => movement::slice(&call),
        "Gather" => movement::gather(&call),
        "ConstantOfShape" => movement::constant_of_shape(&call),
        "Range" => movement::range(&call),
        "Where" => arithmetic::choose(&call),
        _ => arithmetic::elementwise(&call),
    }
}

/// A node with the values of its inputs.
struct Call<'call> {
    node: &'call NodeProto,
    inputs: &'call [Option<Array>],
    opset: i64,
    bytes_max: usize,
}

impl Call<'_> {
    fn input(&self, place: usize) -> Option<&Array> {
        self.inputs.get(place)?.as_ref()
    }

    fn int(&self, name: &str) -> Option<i64> {
        crate::Attributes::attr_int(self.node, name)
    }

    /// A list of whole numbers that is an attribute in versions before `since`, and the input at `place` from then on.
    /// `Some(None)` is a list left out.
    #[expect(clippy::option_option, reason = "left out and unreadable are two things")]
    fn list(&self, name: &str, place: usize, since: i64) -> Option<Option<Vec<i64>>> {
        if self.opset < since {
            return Some(crate::Attributes::attr_ints(self.node, name).map(<[i64]>::to_vec));
        }
        match self.input(place) {
            Some(array) => array.to_integers().map(Some),
            None => Some(None),
        }
    }
}
