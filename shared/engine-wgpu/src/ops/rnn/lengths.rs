//! Lengths of sequences that a request gives a recurrent layer.

use super::Layer;
use crate::error::OpError;
use crate::fault::Fault;
use crate::ir::Node;
use crate::lower::{KernelBuilder, Lowering, Params, Repr, element_groups};
use crate::value_info::Range;

/// Launches a kernel that looks for sequence lengths out of range, where there can be some.
pub(super) fn check(node: &Node, cx: &mut Lowering<'_>, layer: &Layer) -> Result<(), OpError> {
    let Some(lengths) = cx.optional_input(node, 4)? else { return Ok(()) };
    let longest = i64::try_from(layer.steps).unwrap_or(i64::MAX);
    if cx.input_range(node, 4).within(Range::new(0, longest)) {
        return Ok(());
    }
    let text = format!(
        "fn element(i: u32) -> u32 {{
    let length = u32(load_lengths(i));
    if (length > param.steps) {{ {} }}
    return length;
}}",
        Fault::Length.report()
    );
    let elements = lengths.elements();
    let kernel = KernelBuilder::new("lengths").read("lengths", lengths.repr).text(&text).element(Repr::U32);
    let args = vec![lengths.arg, cx.scratch(elements)];
    let numbers = Params::sizes([("elements", elements), ("steps", layer.steps)])?;
    cx.dispatch(kernel, args, numbers, element_groups(elements, Repr::U32), elements as u64);
    Ok(())
}
