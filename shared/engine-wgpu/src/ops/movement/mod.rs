//! Operators that move elements and never change them.
//!
//! Each has one geometry, computed from shapes and from inputs that are known at plan time, which serves all three: the
//! inferred infos, the kernel, and the host ([`crate::host::rearrange`]).

pub(super) mod cache;
pub(super) mod gather;
mod index;
pub(super) mod join;
pub(super) mod pad;
pub(super) mod scatter;
pub(super) mod select;
pub(super) mod slice;
pub(super) mod view;
mod window;

use crate::error::OpError;
use crate::ir::{ElementType, Literal, Node, ValueId};
use crate::lower::{KernelBuilder, Lowering, Params, element_groups};
use crate::value_info::{Inputs, ValueInfo};

/// Most values of an input that states a shape, axes, pads or sizes.
///
/// Sizes of a `Split` are the longest of these, one for each output; a model has at most thousands of nodes to read them.
const NUMBERS_MAX: usize = 65_536;

/// The integers of an input that must be known.
///
/// # Errors
/// When it is missing, depends on the request's data, or is absurdly long.
pub(super) fn integers(inputs: Inputs<'_>, at: usize) -> Result<Vec<i64>, OpError> {
    let literal = inputs.known(at)?;
    if literal.elements() > NUMBERS_MAX {
        return Err(OpError::invalid(format!("input {at} has {} values", literal.elements())));
    }
    if literal.dtype().is_float() {
        return Err(OpError::invalid(format!("input {at} is {}, not integers", literal.dtype())));
    }
    Ok(literal.to_i64s())
}

/// The integers of an input, if it is given.
///
/// # Errors
/// As [`integers`].
pub(super) fn optional_integers(inputs: Inputs<'_>, at: usize) -> Result<Option<Vec<i64>>, OpError> {
    inputs.optional(at).map(|_given| integers(inputs, at)).transpose()
}

/// A list of integers that older operator sets keep in an attribute and newer ones in an input.
///
/// # Errors
/// As [`integers`], or when the attribute is of another kind.
pub(super) fn numbers(
    node: &Node,
    inputs: Inputs<'_>,
    attribute: &str,
    at: usize,
) -> Result<Option<Vec<i64>>, OpError> {
    match node.attributes.ints(attribute)? {
        Some(values) => Ok(Some(values.to_vec())),
        None => optional_integers(inputs, at),
    }
}

/// A size as ONNX states it.
///
/// # Errors
/// When it is negative.
pub(super) fn size(value: i64) -> Result<usize, OpError> {
    usize::try_from(value).map_err(|_negative| OpError::invalid(format!("a dimension of size {value}")))
}

/// The product of sizes.
///
/// # Errors
/// [`OpError::TooLarge`] when it overflows.
pub(super) fn product(sizes: &[usize]) -> Result<usize, OpError> {
    let product = sizes.iter().try_fold(1_usize, |product, &size| product.checked_mul(size));
    product.ok_or_else(|| OpError::TooLarge(sizes.to_vec()))
}

/// Hands known inputs over as infos, so that one geometry serves inference, kernels and the host.
pub(super) fn on_host<T>(inputs: &[Option<&Literal>], then: impl FnOnce(Inputs<'_>) -> T) -> T {
    let infos: Vec<Option<ValueInfo>> =
        inputs.iter().map(|input| input.map(|literal| ValueInfo::known(literal.clone()))).collect();
    let infos: Vec<Option<&ValueInfo>> = infos.iter().map(Option::as_ref).collect();
    then(Inputs(&infos))
}

/// The literal at this place.
///
/// # Errors
/// [`OpError::Invalid`] when the input is not given.
pub(super) fn given<'a>(inputs: &[Option<&'a Literal>], at: usize) -> Result<&'a Literal, OpError> {
    inputs.get(at).copied().flatten().ok_or_else(|| OpError::invalid(format!("input {at} is missing")))
}

/// Refuses two inputs of different element types.
pub(super) fn same_type(a: ElementType, b: ElementType) -> Result<(), OpError> {
    if a == b { Ok(()) } else { Err(OpError::invalid(format!("its inputs are {a} and {b}"))) }
}

/// Writes the same number, given by its bits, into every element of an output.
pub(super) fn fill(cx: &mut Lowering<'_>, output: ValueId, bits: u32) -> Result<(), OpError> {
    let y = cx.place(output);
    let wgsl = y.repr.wgsl();
    let kernel = KernelBuilder::new("fill")
        .text(&format!("fn element(i: u32) -> {wgsl} {{ return bitcast<{wgsl}>(param.value); }}"))
        .element(y.repr);
    let elements = y.elements();
    let groups = element_groups(elements, y.repr);
    cx.dispatch(
        kernel,
        vec![y.arg],
        Params::sizes([("elements", elements)])?.word("value", bits),
        groups,
        elements as u64,
    );
    Ok(())
}
