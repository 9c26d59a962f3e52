//! Builds a tensor out of elements of others: the host side of every operator that only moves data.

use bytes::Bytes;

use crate::error::OpError;
use crate::ir::{ElementType, Literal};

/// Builds a tensor of that type and shape; `pick` says for each flat position which input's which element stands there.
///
/// `None` is zero, and so is an element that no input has. All inputs must be of the type.
///
/// # Errors
/// [`OpError::TooLarge`] when the size overflows, or whatever `pick` refuses.
pub fn rearrange(
    dtype: ElementType,
    shape: Vec<usize>,
    inputs: &[&Literal],
    mut pick: impl FnMut(usize) -> Result<Option<(usize, usize)>, OpError>,
) -> Result<Literal, OpError> {
    let elements = shape.iter().try_fold(1_usize, |product, &size| product.checked_mul(size));
    let bytes = elements.and_then(|elements| Some((elements, dtype.bytes_of(elements)?)));
    let Some((elements, bytes)) = bytes else { return Err(OpError::TooLarge(shape)) };
    if dtype.bits() < 8 {
        let sources: Vec<Vec<i64>> = inputs.iter().map(|input| input.to_i64s()).collect();
        let mut values = vec![0_i64; elements];
        for (at, value) in values.iter_mut().enumerate() {
            let from = pick(at)?;
            *value = from.and_then(|(input, from)| sources.get(input)?.get(from)).copied().unwrap_or(0);
        }
        return Ok(Literal::from_i64s(dtype, shape, &values));
    }
    let width = dtype.bits() / 8;
    let mut values = vec![0_u8; bytes];
    for (at, value) in values.chunks_exact_mut(width).enumerate() {
        let Some((input, from)) = pick(at)? else { continue };
        let source = inputs.get(input).and_then(|input| input.bytes().get(from * width..(from + 1) * width));
        if let Some(source) = source {
            value.copy_from_slice(source);
        }
    }
    Literal::new(dtype, shape.clone(), Bytes::from(values)).ok_or(OpError::TooLarge(shape))
}
