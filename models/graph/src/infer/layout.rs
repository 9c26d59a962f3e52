//! Operators that move elements.

use super::{Dim, Step, TensorType, axis_of, broadcast, plus, product, times};
use crate::attribute::Attributes;
use crate::fold::range_of;
use crate::tensor::{ElementType, Values};

/// First versions in which lists are inputs.
const SLICE_INPUTS: i64 = 10;
const PAD_INPUTS: i64 = 11;
const RESIZE_SIZES: i64 = 11;
const AXES_ARE_INPUT: i64 = 13;

pub(super) fn infer(step: &Step<'_>) -> Option<Vec<TensorType>> {
    let like = |shape| vec![step.typed_like_first(shape)];
    Some(match step.node.op_type() {
        "Shape" => {
            let count = super::content::of(step).and_then(|content| i64::try_from(content.len()).ok());
            vec![TensorType::new(ElementType::Int64, vec![count.map_or(Dim::Unknown, Dim::Known)])]
        }
        "Size" => vec![TensorType::new(ElementType::Int64, Vec::new())],
        "Reshape" => like(reshape(step)),
        "Flatten" => like(flatten(step)),
        "Squeeze" => like(squeeze(step)),
        "Unsqueeze" => like(unsqueeze(step)),
        "Transpose" => like(transpose(step)),
        "Concat" => like(concat(step)),
        "Slice" => like(slice(step)),
        "Gather" => like(gather(step)),
        "GatherElements" => like(step.shape(1).map(<[Dim]>::to_vec)),
        "ScatterElements" | "Scatter" => vec![step.like_first()],
        "Expand" => like(step.shape(0).zip(step.content(1)).and_then(|(shape, wanted)| broadcast(shape, wanted))),
        "Tile" => like(tile(step)),
        "Pad" => like(pad(step)),
        "Resize" | "Upsample" => like(resize(step)),
        "DepthToSpace" | "SpaceToDepth" => like(blocks(step)),
        "ConstantOfShape" => {
            let element = step.node.attr_tensor("value").map_or(ElementType::Float, Values::element_type);
            vec![TensorType {
                element,
                shape: step.content(0).map(<[Dim]>::to_vec).filter(|shape| shape.len() <= super::RANK_MAX),
            }]
        }
        "Range" => vec![TensorType::new(step.element(0), vec![range(step).map_or(Dim::Unknown, Dim::Known)])],
        "Split" => split(step)?,
        _ => return None,
    })
}

fn reshape(step: &Step<'_>) -> Option<Vec<Dim>> {
    let wanted: Vec<Dim> = if step.opset < 5 {
        step.node.attr_ints("shape")?.iter().map(|&size| Dim::Known(size)).collect()
    } else if let Some(content) = step.content(1) {
        content.to_vec()
    } else {
        // Not the numbers, but how many they are.
        let [rank] = step.shape(1)? else { return None };
        let rank = usize::try_from(rank.known()?).ok().filter(|&rank| rank <= super::RANK_MAX)?;
        return Some(vec![Dim::Unknown; rank]);
    };
    if wanted.len() > super::RANK_MAX {
        return None;
    }
    let given = step.shape(0);
    let keeps_zero = step.int("allowzero").unwrap_or(0) == 0;
    let mut shape: Vec<Dim> = wanted
        .iter()
        .enumerate()
        .map(|(axis, size)| match size {
            Dim::Known(0) if keeps_zero => given.and_then(|given| given.get(axis).cloned()).unwrap_or(Dim::Unknown),
            // A named size is at least 0, unless it is what stands for the rest.
            size => size.clone(),
        })
        .collect();
    if let Some(open) = wanted.iter().position(|size| *size == Dim::Known(-1)) {
        let rest = given.map_or(Dim::Unknown, |given| quotient(given, &shape, open));
        *shape.get_mut(open)? = rest;
    }
    shape.iter().all(|dim| dim.known().is_none_or(|size| size >= 0)).then_some(shape)
}

/// Returns what is left of the elements of `given` for the place `open` of `shape`.
fn quotient(given: &[Dim], shape: &[Dim], open: usize) -> Dim {
    let mut left: Vec<Dim> = given.to_vec();
    let mut others: Vec<Dim> =
        shape.iter().enumerate().filter(|&(axis, _)| axis != open).map(|(_, dim)| dim.clone()).collect();
    // A name on both sides is the same number on both.
    others.retain(|dim| match left.iter().position(|other| matches!(dim, Dim::Named(_)) && other == dim) {
        Some(place) => {
            left.swap_remove(place);
            false
        }
        None => true,
    });
    match (product(&left), product(&others)) {
        (Dim::Known(all), Dim::Known(taken)) if taken > 0 && all % taken == 0 => Dim::Known(all / taken),
        (rest, Dim::Known(1)) => rest,
        _ => Dim::Unknown,
    }
}

fn flatten(step: &Step<'_>) -> Option<Vec<Dim>> {
    let shape = step.shape(0)?;
    let axis = step.int("axis").unwrap_or(1);
    let rank = i64::try_from(shape.len()).ok()?;
    let axis = usize::try_from(if axis < 0 { axis.checked_add(rank)? } else { axis }).ok()?;
    let (outer, inner) = shape.split_at_checked(axis)?;
    Some(vec![product(outer), product(inner)])
}

fn squeeze(step: &Step<'_>) -> Option<Vec<Dim>> {
    let shape = step.shape(0)?;
    let axes = match step.list("axes", 1, AXES_ARE_INPUT)? {
        Some(axes) => axes.iter().map(|&axis| axis_of(axis, shape.len())).collect::<Option<Vec<_>>>()?,
        // Every 1 goes, so all must be known.
        None if shape.iter().all(|dim| dim.known().is_some()) => {
            (0..shape.len()).filter(|&axis| shape.get(axis) == Some(&Dim::Known(1))).collect()
        }
        None => return None,
    };
    Some(shape.iter().enumerate().filter(|(axis, _)| !axes.contains(axis)).map(|(_, dim)| dim.clone()).collect())
}

fn unsqueeze(step: &Step<'_>) -> Option<Vec<Dim>> {
    let shape = step.shape(0)?;
    let axes = step.list("axes", 1, AXES_ARE_INPUT)??;
    let rank = shape.len().checked_add(axes.len()).filter(|&rank| rank <= super::RANK_MAX)?;
    let axes = axes.iter().map(|&axis| axis_of(axis, rank)).collect::<Option<Vec<_>>>()?;
    let mut dims = shape.iter();
    (0..rank).map(|axis| if axes.contains(&axis) { Some(Dim::Known(1)) } else { dims.next().cloned() }).collect()
}

fn transpose(step: &Step<'_>) -> Option<Vec<Dim>> {
    let shape = step.shape(0)?;
    match step.node.attr_ints("perm") {
        Some(order) if order.len() == shape.len() => {
            order.iter().map(|&axis| shape.get(axis_of(axis, shape.len())?).cloned()).collect()
        }
        Some(_) => None,
        None => Some(shape.iter().rev().cloned().collect()),
    }
}

fn concat(step: &Step<'_>) -> Option<Vec<Dim>> {
    let mut shape = step.shape(0)?.to_vec();
    let axis = step.axis(1, shape.len())?;
    for place in 1..step.node.input.len() {
        let other = step.shape(place).filter(|other| other.len() == shape.len())?;
        for (at, (dim, other)) in shape.iter_mut().zip(other).enumerate() {
            if at == axis {
                *dim = plus(dim, other);
            } else if dim.known().is_none() && (other.known().is_some() || *dim == Dim::Unknown) {
                *dim = other.clone();
            }
        }
    }
    Some(shape)
}

fn slice(step: &Step<'_>) -> Option<Vec<Dim>> {
    let mut shape = step.shape(0)?.to_vec();
    let starts = step.list("starts", 1, SLICE_INPUTS);
    let ends = step.list("ends", 2, SLICE_INPUTS);
    let axes = step.list("axes", 3, SLICE_INPUTS);
    let steps = if step.opset < SLICE_INPUTS { Some(None) } else { step.list("steps", 4, SLICE_INPUTS) };
    let unknown = |shape: Vec<Dim>| Some(vec![Dim::Unknown; shape.len()]);
    let Some(axes) = axes else { return unknown(shape) };
    let count = [&starts, &ends].iter().find_map(|list| list.as_ref()?.as_ref().map(Vec::len));
    let axes = match (axes, count) {
        (Some(axes), _) => axes.iter().map(|&axis| axis_of(axis, shape.len())).collect::<Option<Vec<_>>>()?,
        (None, Some(count)) => (0..count).collect(),
        (None, None) => return unknown(shape),
    };
    let at = |list: &Option<Option<Vec<i64>>>, place: usize| list.as_ref()?.as_ref()?.get(place).copied();
    for (place, &axis) in axes.iter().enumerate() {
        let by = if matches!(steps, Some(None)) { Some(1) } else { at(&steps, place) };
        let dim = shape.get_mut(axis)?;
        let bounds = at(&starts, place).zip(at(&ends, place)).zip(by);
        *dim = match (&*dim, bounds) {
            (Dim::Known(size), Some(((start, end), by))) => {
                let (_, count) = range_of(usize::try_from(*size).ok()?, start, end, by)?;
                i64::try_from(count).map_or(Dim::Unknown, Dim::Known)
            }
            // From the beginning to beyond any end.
            (whole, Some(((0, end), 1))) if end >= i64::from(i32::MAX) => whole.clone(),
            _ => Dim::Unknown,
        };
    }
    Some(shape)
}

fn gather(step: &Step<'_>) -> Option<Vec<Dim>> {
    let (shape, at) = (step.shape(0)?, step.shape(1)?);
    let axis = step.axis(0, shape.len())?;
    Some([shape.get(..axis)?, at, shape.get(axis + 1..)?].concat())
}

fn tile(step: &Step<'_>) -> Option<Vec<Dim>> {
    let shape = step.shape(0)?;
    let Some(repeats) = step.content(1).filter(|repeats| repeats.len() == shape.len()) else {
        return Some(vec![Dim::Unknown; shape.len()]);
    };
    Some(shape.iter().zip(repeats).map(|(dim, repeat)| times(dim, repeat)).collect())
}

fn pad(step: &Step<'_>) -> Option<Vec<Dim>> {
    let shape = step.shape(0)?;
    let name = if step.opset < 2 { "paddings" } else { "pads" };
    let Some(Some(pads)) = step.list(name, 1, PAD_INPUTS) else { return Some(vec![Dim::Unknown; shape.len()]) };
    let axes = match step.node.input_at(3) {
        Some(_) => step.numbers(3)?.iter().map(|&axis| axis_of(axis, shape.len())).collect::<Option<Vec<_>>>()?,
        None => (0..shape.len()).collect(),
    };
    if pads.len() != 2 * axes.len() {
        return None;
    }
    let mut padded = shape.to_vec();
    for (place, &axis) in axes.iter().enumerate() {
        let sum = pads.get(place)?.checked_add(*pads.get(place + axes.len())?)?;
        let dim = padded.get_mut(axis)?;
        *dim = match plus(dim, &Dim::Known(sum)) {
            Dim::Known(size) if size < 0 => return None,
            sum => sum,
        };
    }
    Some(padded)
}

/// Shape from sizes, or from constant scales, of all axes or of those that `axes` names.
fn resize(step: &Step<'_>) -> Option<Vec<Dim>> {
    let shape = step.shape(0)?;
    let named = step.node.attr_ints("axes");
    let axes: Option<Vec<usize>> = match named {
        Some(axes) => axes.iter().map(|&axis| axis_of(axis, shape.len())).collect(),
        None => Some((0..shape.len()).collect()),
    };
    let Some(axes) = axes else { return Some(vec![Dim::Unknown; shape.len()]) };
    let given: Vec<Dim> = axes.iter().filter_map(|&axis| shape.get(axis).cloned()).collect();
    let lengths = if step.opset >= RESIZE_SIZES && step.node.input_at(3).is_some() {
        let sizes = step.content(3).filter(|sizes| sizes.len() == given.len());
        match step.node.attr_str("keep_aspect_ratio_policy").unwrap_or("stretch") {
            "stretch" => sizes.map(<[Dim]>::to_vec),
            // ONNX Runtime ignores negative axes here, against the text of the operator.
            _ if named.is_some_and(|axes| axes.iter().any(|&axis| axis < 0)) => None,
            policy => sizes.and_then(|sizes| in_proportion(&given, sizes, policy)),
        }
    } else {
        scaled(step, &given)
    };
    let mut resized = shape.to_vec();
    for (place, &axis) in axes.iter().enumerate() {
        *resized.get_mut(axis)? =
            lengths.as_ref().and_then(|lengths| lengths.get(place).cloned()).unwrap_or(Dim::Unknown);
    }
    Some(resized)
}

/// Returns a length in single precision, in which ONNX Runtime computes; `None` where it would be rounded.
#[expect(clippy::cast_precision_loss, reason = "it is bounded")]
fn exact(length: i64) -> Option<f32> {
    (0..1 << 24).contains(&length).then_some(length as f32)
}

/// Lengths that change by one scale, the least or the greatest of all; `None` where one is not known.
fn in_proportion(given: &[Dim], sizes: &[Dim], policy: &str) -> Option<Vec<Dim>> {
    let scales: Option<Vec<f32>> = (given.iter().zip(sizes))
        .map(|(length, size)| Some(exact(size.known()?)? / exact(length.known()?.max(1))?))
        .collect();
    let scale = match policy {
        "not_larger" => scales?.into_iter().reduce(f32::min)?,
        "not_smaller" => scales?.into_iter().reduce(f32::max)?,
        _ => return None,
    };
    given.iter().map(|length| whole((exact(length.known()?)? * scale).round()).map(Dim::Known)).collect()
}

#[expect(clippy::cast_possible_truncation, reason = "it is bounded")]
fn whole(length: f32) -> Option<i64> {
    (0.0..=i32::MAX as f32).contains(&length).then_some(length as i64)
}

/// Lengths by constant scales; `None` where they are not known.
fn scaled(step: &Step<'_>, given: &[Dim]) -> Option<Vec<Dim>> {
    let place = if step.opset < RESIZE_SIZES { 1 } else { 2 };
    let scales = match step.node.attr("scales") {
        Some(scales) => scales.floats.clone(),
        None => step.node.input_at(place).and_then(|name| step.inference.graph.initializer(name)?.floats().ok())?,
    };
    let scaled = |(dim, &scale): (&Dim, &f32)| {
        if scale.to_bits() == 1.0_f32.to_bits() {
            return dim.clone();
        }
        let length = dim.known().and_then(exact).and_then(|length| whole((length * scale).floor()));
        length.map_or(Dim::Unknown, Dim::Known)
    };
    (scales.len() == given.len()).then(|| given.iter().zip(&scales).map(scaled).collect())
}

fn blocks(step: &Step<'_>) -> Option<Vec<Dim>> {
    let [batch, channels, height, width] = step.shape(0)? else { return None };
    let block = step.int("blocksize").filter(|&block| block > 0)?;
    let square = block.checked_mul(block)?;
    let divided = |dim: &Dim, by: i64| {
        dim.known().filter(|size| size % by == 0).map_or(Dim::Unknown, |size| Dim::Known(size / by))
    };
    Some(if step.node.op_type() == "DepthToSpace" {
        let wide = |dim| times(dim, &Dim::Known(block));
        vec![batch.clone(), divided(channels, square), wide(height), wide(width)]
    } else {
        vec![batch.clone(), times(channels, &Dim::Known(square)), divided(height, block), divided(width, block)]
    })
}

fn range(step: &Step<'_>) -> Option<i64> {
    let one = |place| step.numbers(place)?.first().copied();
    let (start, limit, by) = (one(0)?, one(1)?, one(2)?);
    if by == 0 {
        return None;
    }
    let distance = i128::from(limit) - i128::from(start);
    let by = i128::from(by);
    let count = if (distance > 0) == (by > 0) { distance.unsigned_abs().div_ceil(by.unsigned_abs()) } else { 0 };
    i64::try_from(count).ok()
}

fn split(step: &Step<'_>) -> Option<Vec<TensorType>> {
    let shape = step.shape(0)?;
    let axis = step.axis(0, shape.len())?;
    let count = step.node.output.len();
    let sizes: Vec<Dim> = match step.list("split", 1, AXES_ARE_INPUT) {
        Some(Some(sizes)) if sizes.len() == count => sizes.into_iter().map(Dim::Known).collect(),
        Some(None) => {
            let parts = i64::try_from(count).ok()?;
            let whole = shape.get(axis)?.known();
            // Since version 18 the last may be smaller; only equal parts are told.
            let each = whole.filter(|size| size % parts == 0).map_or(Dim::Unknown, |size| Dim::Known(size / parts));
            vec![each; count]
        }
        _ => vec![Dim::Unknown; count],
    };
    let part = |size: Dim| {
        let mut shape = shape.to_vec();
        if let Some(dim) = shape.get_mut(axis) {
            *dim = size;
        }
        step.typed_like_first(Some(shape))
    };
    Some(sizes.into_iter().map(part).collect())
}
