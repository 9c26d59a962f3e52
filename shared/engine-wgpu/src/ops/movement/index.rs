//! Indices that a request computes: counted from the end where negative, and a fault where out of range.

use crate::error::OpError;
use crate::fault::Fault;
use crate::ir::Node;
use crate::lower::{KernelBuilder, Lowering, Operand, Params, Repr, element_groups};
use crate::value_info::Range;

/// Returns WGSL of `fn index_at(k, n)`: the index at place `k` of `indices`, inside `0..n` whatever the tensor holds.
///
/// `safe`: no index can be out of range, so that none is reported.
pub(super) fn index_at(safe: bool) -> String {
    let report = match safe {
        true => String::new(),
        false => format!("    if (index < 0 || index >= i32(n)) {{ {} }}\n", Fault::Index.report()),
    };
    format!(
        "fn index_at(k: u32, n: u32) -> u32 {{
    var index = i32(load_indices(k));
    index = select(index, index + i32(n), index < 0);
{report}    return u32(clamp(index, 0, i32(n) - 1));
}}"
    )
}

/// Returns whether the indices at an input are known to lie inside each dimension that they address.
pub(super) fn is_safe(cx: &Lowering<'_>, node: &Node, at: usize, sizes: &[usize]) -> bool {
    let least = sizes.iter().copied().min().and_then(|least| i64::try_from(least).ok()).unwrap_or(0);
    cx.input_range(node, at).within(Range::new(-least, least - 1))
}

/// Launches a kernel that only looks at indices, for an operator whose output has no elements, so that no other kernel would.
///
/// `sizes`: the dimensions that a tuple of indices addresses, in order; one for single indices.
pub(super) fn check_alone(cx: &mut Lowering<'_>, indices: &Operand, sizes: &[usize]) -> Result<(), OpError> {
    let elements = indices.elements();
    let cases = (0..sizes.len()).map(|k| format!("n = select(n, param.sizes[{k}], i % {}u == {k}u); ", sizes.len()));
    let text = format!(
        "{}\nfn element(i: u32) -> u32 {{ var n = 0u; {}return index_at(i, n); }}",
        index_at(false),
        cases.collect::<String>()
    );
    let kernel = KernelBuilder::new("indices").read("indices", indices.repr).text(&text).element(Repr::U32);
    let numbers = Params::sizes([("elements", elements)])?.list("sizes", sizes)?;
    let args = vec![indices.arg, cx.scratch(elements)];
    cx.dispatch(kernel, args, numbers, element_groups(elements, Repr::U32), elements as u64);
    Ok(())
}
