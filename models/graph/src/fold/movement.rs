//! Operators that move numbers without changing them.

use super::Call;
use super::array::Array;
use crate::attribute::Attributes;
use crate::tensor::{ElementType, Values, bits_of};

/// First version in which `Squeeze` and `Unsqueeze` take their axes as input.
const AXES_ARE_INPUT: i64 = 13;
/// First version in which `Slice` takes its bounds as inputs.
const BOUNDS_ARE_INPUTS: i64 = 10;

/// An axis counted from the front.
fn axis_of(axis: i64, rank: usize) -> Option<usize> {
    let rank = i64::try_from(rank).ok()?;
    let axis = if axis < 0 { axis + rank } else { axis };
    (axis < rank).then(|| usize::try_from(axis).ok()).flatten()
}

pub(super) fn shape_of(call: &Call<'_>) -> Option<Array> {
    let shape = &call.input(0)?.shape;
    let rank = i64::try_from(shape.len()).ok()?;
    let bound = |at: i64| usize::try_from(if at < 0 { at + rank } else { at }.clamp(0, rank)).ok();
    let (start, end) = (bound(call.int("start").unwrap_or(0))?, bound(call.int("end").unwrap_or(rank))?);
    let dims: Vec<i64> = shape.get(start..end.max(start))?.iter().filter_map(|&dim| i64::try_from(dim).ok()).collect();
    Some(Array::integers(&[dims.len()], &dims))
}

pub(super) fn reshape(call: &Call<'_>) -> Option<Array> {
    let (array, wanted) = (call.input(0)?, call.list("shape", 1, 5)??);
    let keeps_zero = call.int("allowzero").unwrap_or(0) == 0;
    let mut shape = Vec::with_capacity(wanted.len());
    let mut open = None;
    for (axis, &dim) in wanted.iter().enumerate() {
        shape.push(match dim {
            0 if keeps_zero => *array.shape.get(axis)?,
            -1 if open.is_none() => {
                open = Some(axis);
                1
            }
            dim => usize::try_from(dim).ok()?,
        });
    }
    if let Some(axis) = open {
        let known = shape.iter().try_fold(1_usize, |product, &dim| product.checked_mul(dim))?;
        shape[axis] = array.elements().checked_div(known)?;
    }
    array.reshaped(shape)
}

pub(super) fn flatten(call: &Call<'_>) -> Option<Array> {
    let array = call.input(0)?;
    let rank = i64::try_from(array.shape.len()).ok()?;
    let axis = call.int("axis").unwrap_or(1);
    let axis = usize::try_from(if axis < 0 { axis + rank } else { axis }).ok()?;
    let (outer, inner) = array.shape.split_at_checked(axis)?;
    array.reshaped(vec![outer.iter().product(), inner.iter().product()])
}

pub(super) fn squeeze(call: &Call<'_>) -> Option<Array> {
    let array = call.input(0)?;
    let axes = match call.list("axes", 1, AXES_ARE_INPUT)? {
        Some(axes) => axes.iter().map(|&axis| axis_of(axis, array.shape.len())).collect::<Option<Vec<_>>>()?,
        None => (0..array.shape.len()).filter(|&axis| array.shape[axis] == 1).collect(),
    };
    let kept = array.shape.iter().enumerate().filter(|(axis, _)| !axes.contains(axis)).map(|(_, &dim)| dim);
    array.reshaped(kept.collect())
}

pub(super) fn unsqueeze(call: &Call<'_>) -> Option<Array> {
    let array = call.input(0)?;
    let axes = call.list("axes", 1, AXES_ARE_INPUT)??;
    let rank = array.shape.len().checked_add(axes.len())?;
    let axes = axes.iter().map(|&axis| axis_of(axis, rank)).collect::<Option<Vec<_>>>()?;
    let mut dims = array.shape.iter().copied();
    let shape = (0..rank.min(64)).map(|axis| if axes.contains(&axis) { Some(1) } else { dims.next() });
    array.reshaped(shape.collect::<Option<_>>()?)
}

pub(super) fn transpose(call: &Call<'_>) -> Option<Array> {
    let array = call.input(0)?;
    let rank = array.shape.len();
    let order: Vec<usize> = match call.node.attr_ints("perm") {
        Some(order) => order.iter().map(|&axis| axis_of(axis, rank)).collect::<Option<_>>()?,
        None => (0..rank).rev().collect(),
    };
    let mut seen = order.clone();
    seen.sort_unstable();
    if seen.iter().copied().ne(0..rank) {
        return None;
    }
    let strides = array.strides();
    let shape: Vec<usize> = order.iter().map(|&axis| array.shape[axis]).collect();
    let steps = order.iter().map(|&axis| isize::try_from(strides[axis]).ok()).collect::<Option<Vec<_>>>()?;
    array.picked(&shape, &steps, 0, call.bytes_max)
}

pub(super) fn expand(call: &Call<'_>) -> Option<Array> {
    let array = call.input(0)?;
    let wanted: Option<Vec<usize>> = call.input(1)?.to_integers()?.iter().map(|&dim| dim.try_into().ok()).collect();
    let shape = super::array::common(&array.shape, &wanted?)?;
    array.broadcast(&shape, call.bytes_max)
}

pub(super) fn concat(call: &Call<'_>) -> Option<Array> {
    let first = call.input(0)?;
    let axis = axis_of(call.int("axis")?, first.shape.len())?;
    let outer: usize = first.shape[..axis].iter().product();
    let mut shape = first.shape.clone();
    shape[axis] = 0;
    let mut parts = Vec::with_capacity(call.inputs.len());
    let mut bytes = 0_usize;
    for place in 0..call.inputs.len() {
        let array = call.input(place)?;
        let is_fitting = array.element == first.element
            && array.shape.len() == first.shape.len()
            && (0..shape.len()).all(|at| at == axis || array.shape[at] == first.shape[at]);
        bytes = bytes.checked_add(array.raw.len())?;
        if !is_fitting || bytes > call.bytes_max {
            return None;
        }
        shape[axis] = shape[axis].checked_add(array.shape[axis])?;
        parts.push((&array.raw, array.raw.len().checked_div(outer).unwrap_or(0)));
    }
    let mut raw = Vec::with_capacity(bytes);
    for row in 0..outer {
        for (part, length) in &parts {
            raw.extend_from_slice(part.get(row * length..(row + 1) * length)?);
        }
    }
    Array::new(first.element, shape, raw.into())
}

pub(super) fn slice(call: &Call<'_>) -> Option<Array> {
    let array = call.input(0)?;
    let starts = call.list("starts", 1, BOUNDS_ARE_INPUTS)??;
    let ends = call.list("ends", 2, BOUNDS_ARE_INPUTS)??;
    let axes = call.list("axes", 3, BOUNDS_ARE_INPUTS)?;
    let steps_given = if call.opset < BOUNDS_ARE_INPUTS { None } else { call.list("steps", 4, BOUNDS_ARE_INPUTS)? };
    let strides = array.strides();
    let mut shape = array.shape.clone();
    let mut steps = strides.iter().map(|&stride| isize::try_from(stride).ok()).collect::<Option<Vec<_>>>()?;
    let mut from = 0_usize;
    for (at, (&start, &end)) in starts.iter().zip(&ends).enumerate() {
        let axis = match &axes {
            Some(axes) => axis_of(*axes.get(at)?, shape.len())?,
            None => at,
        };
        let step = steps_given.as_ref().map_or(Some(1), |steps| steps.get(at).copied())?;
        let (first, count) = range_of(*array.shape.get(axis)?, start, end, step)?;
        shape[axis] = count;
        steps[axis] = steps[axis].checked_mul(isize::try_from(step).ok()?)?;
        from = from.checked_add(first.checked_mul(strides[axis])?)?;
    }
    array.picked(&shape, &steps, from, call.bytes_max)
}

/// First element and count of a slice of an axis, as the ONNX specification clamps them.
pub(crate) fn range_of(dim: usize, start: i64, end: i64, step: i64) -> Option<(usize, usize)> {
    let dim = i64::try_from(dim).ok()?;
    let from_front = |at: i64| if at < 0 { at.saturating_add(dim) } else { at };
    let (start, end) = (from_front(start), from_front(end));
    let count = match step {
        0 => return None,
        1.. => {
            let (start, end) = (start.clamp(0, dim), end.clamp(0, dim));
            ((end - start).max(0).checked_add(step - 1)?) / step
        }
        _ => {
            let (start, end) = (start.clamp(-1, dim - 1), end.clamp(-1, dim - 1));
            let step = step.checked_neg()?;
            (start - end).max(0).checked_add(step - 1)? / step
        }
    };
    let first = if step > 0 { start.clamp(0, dim) } else { start.clamp(0, (dim - 1).max(0)) };
    Some((usize::try_from(first).ok()?, usize::try_from(count).ok()?))
}

pub(super) fn gather(call: &Call<'_>) -> Option<Array> {
    let (array, at) = (call.input(0)?, call.input(1)?);
    let axis = axis_of(call.int("axis").unwrap_or(0), array.shape.len())?;
    let dim = array.shape[axis];
    let indices: Vec<usize> = at.to_integers()?.iter().map(|&index| axis_of(index, dim)).collect::<Option<_>>()?;
    let outer: usize = array.shape[..axis].iter().product();
    let run = array.shape[axis + 1..].iter().product::<usize>() * array.width();
    let bytes = outer.checked_mul(indices.len())?.checked_mul(run)?;
    if bytes > call.bytes_max {
        return None;
    }
    let mut raw = Vec::with_capacity(bytes);
    for row in 0..outer {
        for index in &indices {
            let from = (row * dim + index) * run;
            raw.extend_from_slice(array.raw.get(from..from + run)?);
        }
    }
    let shape = [&array.shape[..axis], &at.shape, &array.shape[axis + 1..]].concat();
    Array::new(array.element, shape, raw.into())
}

pub(super) fn constant_of_shape(call: &Call<'_>) -> Option<Array> {
    let shape = call.input(0)?.to_integers()?.iter().map(|&dim| dim.try_into().ok()).collect::<Option<Vec<usize>>>()?;
    let value = match call.node.attr_tensor("value") {
        Some(tensor) => Array::of(tensor)?,
        None => Array::new(ElementType::Float, vec![], vec![0; 4].into())?,
    };
    let bytes = crate::tensor::bytes_of(value.element, &shape).filter(|&bytes| bytes <= call.bytes_max)?;
    let count = bytes.checked_div(bits_of(value.element)? / 8)?;
    if value.elements() != 1 {
        return None;
    }
    Array::new(value.element, shape, value.raw.repeat(count).into())
}

pub(super) fn range(call: &Call<'_>) -> Option<Array> {
    let one = |place| {
        let array = call.input(place)?;
        let is_whole = matches!(array.element, ElementType::Int64 | ElementType::Int32);
        is_whole.then(|| array.to_integers()).flatten()?.first().copied()
    };
    let (start, limit, step) = (one(0)?, one(1)?, one(2)?);
    let distance = limit.checked_sub(start)?;
    if step == 0 || distance == i64::MIN {
        return None;
    }
    let count = if (distance > 0) == (step > 0) && distance != 0 {
        distance.unsigned_abs().div_ceil(step.unsigned_abs())
    } else {
        0
    };
    let count = usize::try_from(count).ok().filter(|count| *count <= call.bytes_max / 8)?;
    let values: Vec<i64> = (0..i64::try_from(count).ok()?).map(|at| start + at * step).collect();
    let made = crate::proto::TensorProto::of_int64("", &[count], &values);
    super::cast::cast(&Array::of(&made)?, call.input(0)?.element)
}
