//! Computes nodes whose inputs are all constants, once and for all.
//!
//! Only what gives the same bits everywhere: moving, casting, exact arithmetic. What would make a model larger than it
//! was, or is not known here, stays a node.

mod arithmetic;
mod array;
mod cast;
mod movement;

use crate::graph::Graph;
use crate::proto::NodeProto;
use crate::rewrite::Inner;
use crate::tensor::ElementType;
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

/// Replaces nodes of constants by initializers; gives how many. `opset` is the version of the default domain.
///
/// The nodes must be in order. A node whose result the graph hands out stays.
pub fn fold(graph: &mut Graph, opset: i64, limits: &FoldLimits) -> usize {
    let inner = Inner::of(graph);
    let uses = Uses::of(graph);
    let mut left = limits.total_bytes;
    let mut kept = Vec::with_capacity(graph.nodes.len());
    let before = graph.nodes.len();
    for node in std::mem::take(&mut graph.nodes) {
        match folded(graph, &uses, &inner, &node, opset, limits.result_bytes.min(left)) {
            Some((name, array)) => {
                left = left.saturating_sub(array.raw.len());
                graph.add_initializer(array.into_tensor(&name));
            }
            None => kept.push(node),
        }
    }
    graph.nodes = kept;
    graph.value_info.retain(|name, _| !graph.initializers.contains_key(name));
    before - graph.nodes.len()
}

fn folded(
    graph: &Graph,
    uses: &Uses,
    inner: &Inner,
    node: &NodeProto,
    opset: i64,
    result_bytes: usize,
) -> Option<(String, Array)> {
    let [output] = node.output.as_slice() else { return None };
    let is_default = matches!(node.domain(), "" | "ai.onnx");
    if !is_default
        || output.is_empty()
        || uses.is_output(output)
        || inner.has(output)
        || subgraphs(node).next().is_some()
    {
        return None;
    }
    let mut inputs = Vec::with_capacity(node.input.len());
    let mut large = 0_usize;
    for name in &node.input {
        if name.is_empty() {
            inputs.push(None);
            continue;
        }
        let array = Array::of(graph.initializer(name)?)?;
        if array.raw.len() > result_bytes {
            // A second form of a weight beside the first would make the model larger.
            if uses.consumers(name).len() != 1 || uses.is_output(name) {
                return None;
            }
            large += array.raw.len();
        }
        inputs.push(Some(array));
    }
    let bound = result_bytes.max(large);
    let array = evaluate(node, &inputs, opset, bound)?;
    (array.raw.len() <= bound).then(|| (output.clone(), array))
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
