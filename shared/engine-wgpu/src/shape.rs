//! Arithmetic on shapes that many operators share: broadcasting, axes, strides.

use crate::error::OpError;

/// The shape that two shapes broadcast to, by NumPy's rule.
///
/// # Errors
/// When two sizes differ and neither is 1.
pub(crate) fn broadcast(a: &[usize], b: &[usize]) -> Result<Vec<usize>, OpError> {
    let rank = a.len().max(b.len());
    let size = |shape: &[usize], at: usize| (at + shape.len()).checked_sub(rank).map_or(1, |at| shape[at]);
    let pick = |at: usize| match (size(a, at), size(b, at)) {
        (x, y) if x == y => Ok(x),
        (1, y) => Ok(y),
        (x, 1) => Ok(x),
        (_, _) => Err(OpError::invalid(format!("shapes {a:?} and {b:?} do not broadcast"))),
    };
    (0..rank).map(pick).collect()
}

/// Row-major strides in elements.
pub(crate) fn strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for at in (1..shape.len()).rev() {
        strides[at - 1] = strides[at] * shape[at];
    }
    strides
}

/// Strides with which a tensor of this shape is read as if it had the broadcast shape: 0 where it repeats.
pub(crate) fn broadcast_strides(shape: &[usize], to: &[usize]) -> Vec<usize> {
    let own = strides(shape);
    let stride = |at: usize| {
        let at = (at + shape.len()).checked_sub(to.len())?;
        (shape[at] != 1).then(|| own[at])
    };
    (0..to.len()).map(|at| stride(at).unwrap_or(0)).collect()
}

/// An axis as a position: negative ones count from the end.
///
/// # Errors
/// When it lies outside the rank.
pub(crate) fn axis(axis: i64, rank: usize) -> Result<usize, OpError> {
    let signed = i64::try_from(rank).unwrap_or(i64::MAX);
    let at = if axis < 0 { axis + signed } else { axis };
    let outside = || OpError::invalid(format!("axis {axis} is outside a tensor of {rank} dimensions"));
    usize::try_from(at).ok().filter(|&at| at < rank).ok_or_else(outside)
}

/// A `usize` as a kernel's param.
///
/// # Errors
/// [`OpError::Unsupported`] over 32 bits.
pub(crate) fn param(value: usize) -> Result<u32, OpError> {
    u32::try_from(value).map_err(|_wide| OpError::unsupported(format!("{value} does not fit the device's 32 bits")))
}

/// The product of sizes, if the device can count so many elements.
///
/// # Errors
/// [`OpError::Unsupported`] over 32 bits.
pub(crate) fn volume(sizes: &[usize]) -> Result<usize, OpError> {
    let product = sizes.iter().try_fold(1_usize, |product, &size| product.checked_mul(size));
    let product = product.filter(|&product| u32::try_from(product).is_ok());
    product.ok_or_else(|| OpError::unsupported(format!("{sizes:?} together are over the device's 32 bits")))
}
