//! Elementwise operators on the host: floats in `f64`, integers in `i64` that wrap to their type.

use crate::error::OpError;
use crate::ir::{ElementType, Literal};
use crate::shape::{broadcast, broadcast_strides, strides};

/// Most elements of one answer: what is folded at load is weights, which fit memory anyway.
const ELEMENTS_MAX: usize = 1 << 28;

/// The literal at this place.
pub(crate) fn given<'a>(inputs: &[Option<&'a Literal>], at: usize) -> Result<&'a Literal, OpError> {
    inputs.get(at).copied().flatten().ok_or_else(|| OpError::invalid(format!("input {at} is missing")))
}

/// Applies a function of floats.
pub(super) fn map_float(inputs: &[Option<&Literal>], f: impl Fn(f64) -> f64) -> Result<Vec<Literal>, OpError> {
    let x = given(inputs, 0)?;
    let values: Vec<f64> = x.to_f64s().into_iter().map(f).collect();
    Ok(vec![Literal::from_f64s(x.dtype(), x.shape().to_vec(), &values)])
}

/// Applies one function to floats, another to integers.
pub(super) fn map(
    inputs: &[Option<&Literal>],
    f: impl Fn(f64) -> f64,
    g: impl Fn(i64) -> i64,
) -> Result<Vec<Literal>, OpError> {
    let x = given(inputs, 0)?;
    if x.dtype().is_float() {
        return map_float(inputs, f);
    }
    let values: Vec<i64> = x.to_i64s().into_iter().map(g).collect();
    Ok(vec![Literal::from_i64s(x.dtype(), x.shape().to_vec(), &values)])
}

/// For each element of the broadcast shape, the flat index in each input.
pub(super) fn indices(inputs: &[&Literal]) -> Result<(Vec<usize>, Vec<Vec<usize>>), OpError> {
    let mut shape = Vec::new();
    for input in inputs {
        shape = broadcast(&shape, input.shape())?;
    }
    let elements = shape.iter().try_fold(1_usize, |product, &size| product.checked_mul(size));
    let Some(elements) = elements.filter(|&elements| elements <= ELEMENTS_MAX) else {
        return Err(OpError::TooLarge(shape));
    };
    let own = strides(&shape);
    let places = inputs.iter().map(|input| {
        let steps = broadcast_strides(input.shape(), &shape);
        let at = |i: usize| own.iter().zip(&steps).zip(&shape).map(|((own, step), size)| i / own % size * step).sum();
        (0..elements).map(at).collect()
    });
    let places = places.collect();
    Ok((shape, places))
}

/// Applies one function to pairs of floats, another to pairs of integers.
pub(super) fn zip(
    inputs: &[Option<&Literal>],
    f: impl Fn(f64, f64) -> f64,
    g: impl Fn(i64, i64) -> i64,
) -> Result<Vec<Literal>, OpError> {
    let (a, b) = (given(inputs, 0)?, given(inputs, 1)?);
    let (shape, places) = indices(&[a, b])?;
    let pairs = places[0].iter().zip(&places[1]);
    if a.dtype().is_float() {
        let (of_a, of_b) = (a.to_f64s(), b.to_f64s());
        let values: Vec<f64> = pairs.map(|(&at_a, &at_b)| f(of_a[at_a], of_b[at_b])).collect();
        return Ok(vec![Literal::from_f64s(a.dtype(), shape, &values)]);
    }
    let (of_a, of_b) = (a.to_i64s(), b.to_i64s());
    let values: Vec<i64> = pairs.map(|(&at_a, &at_b)| g(of_a[at_a], of_b[at_b])).collect();
    Ok(vec![Literal::from_i64s(a.dtype(), shape, &values)])
}

/// Compares pairs of floats or of integers.
pub(super) fn compare(
    inputs: &[Option<&Literal>],
    f: impl Fn(f64, f64) -> bool,
    g: impl Fn(i64, i64) -> bool,
) -> Result<Vec<Literal>, OpError> {
    let (a, b) = (given(inputs, 0)?, given(inputs, 1)?);
    let (shape, places) = indices(&[a, b])?;
    let pairs = places[0].iter().zip(&places[1]);
    let values: Vec<i64> = if a.dtype().is_float() {
        let (of_a, of_b) = (a.to_f64s(), b.to_f64s());
        pairs.map(|(&at_a, &at_b)| i64::from(f(of_a[at_a], of_b[at_b]))).collect()
    } else {
        let (of_a, of_b) = (a.to_i64s(), b.to_i64s());
        pairs.map(|(&at_a, &at_b)| i64::from(g(of_a[at_a], of_b[at_b]))).collect()
    };
    Ok(vec![Literal::from_i64s(ElementType::Bool, shape, &values)])
}
