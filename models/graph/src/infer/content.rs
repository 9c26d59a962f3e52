//! Follows the numbers in small tensors of whole numbers.

use super::{Dim, Step, axis_of, plus, times};
use crate::fold::range_of;

/// First versions in which lists are inputs.
const SLICE_INPUTS: i64 = 10;
const AXES_ARE_INPUT: i64 = 13;

/// The numbers that the first output holds, in order; of tensors of rank 0 or 1 only.
pub(super) fn of(step: &Step<'_>) -> Option<Vec<Dim>> {
    let node = step.node;
    if !matches!(node.domain(), "" | "ai.onnx") {
        return None;
    }
    match node.op_type() {
        "Shape" => {
            let shape = step.shape(0)?;
            let rank = i64::try_from(shape.len()).ok()?;
            let bound =
                |at: i64| usize::try_from(if at < 0 { at.saturating_add(rank) } else { at }.clamp(0, rank)).ok();
            let (start, end) = (bound(step.int("start").unwrap_or(0))?, bound(step.int("end").unwrap_or(rank))?);
            Some(shape.get(start..end.max(start))?.to_vec())
        }
        "Size" => Some(vec![super::product(step.shape(0)?)]),
        "Identity" => step.content(0).map(<[Dim]>::to_vec),
        // Whole numbers stay what they are in other types of whole numbers; shapes are never beyond 32 bits.
        "Cast" if matches!(step.int("to"), Some(6 | 7)) => step.content(0).map(<[Dim]>::to_vec),
        "Gather" if is_list(step, 0) && step.shape(1)?.len() <= 1 => {
            let content = step.content(0)?;
            let at = step.numbers(1)?;
            at.iter().map(|&at| content.get(axis_of(at, content.len())?).cloned()).collect()
        }
        "Concat" => {
            let mut whole = Vec::new();
            for place in 0..node.input.len() {
                whole.extend_from_slice(step.content(place).filter(|_| is_list(step, place))?);
                if whole.len() > super::CONTENT_MAX {
                    return None;
                }
            }
            Some(whole)
        }
        "Squeeze" if is_short(step, 0) => step.content(0).filter(|content| content.len() == 1).map(<[Dim]>::to_vec),
        "Unsqueeze" if step.shape(0)?.is_empty() => {
            let axes = step.list("axes", 1, AXES_ARE_INPUT)??;
            (axes.len() == 1).then(|| step.content(0).map(<[Dim]>::to_vec)).flatten()
        }
        "Reshape" => {
            let wanted = step.content(1)?;
            (wanted.len() <= 1).then(|| step.content(0).map(<[Dim]>::to_vec)).flatten()
        }
        "Slice" if is_list(step, 0) => {
            let content = step.content(0)?;
            let (starts, ends) = (step.list("starts", 1, SLICE_INPUTS)??, step.list("ends", 2, SLICE_INPUTS)??);
            let steps = if step.opset < SLICE_INPUTS { None } else { step.list("steps", 4, SLICE_INPUTS)? };
            let (&[start], &[end]) = (starts.as_slice(), ends.as_slice()) else { return None };
            let by = steps.map_or(Some(1), |steps| steps.first().copied())?;
            let (first, count) = range_of(content.len(), start, end, by)?;
            let by = isize::try_from(by).ok()?;
            let place = |at: usize| first.checked_add_signed(by.checked_mul(isize::try_from(at).ok()?)?);
            (0..count).map(|at| content.get(place(at)?).cloned()).collect()
        }
        "Add" => pairwise(step, plus),
        "Mul" => pairwise(step, times),
        "Sub" => pairwise(step, |one, other| match (one, other) {
            (Dim::Known(one), Dim::Known(other)) => one.checked_sub(*other).map_or(Dim::Unknown, Dim::Known),
            _ => Dim::Unknown,
        }),
        "Div" => pairwise(step, |one, other| match (one, other) {
            (Dim::Known(one), Dim::Known(other)) => one.checked_div(*other).map_or(Dim::Unknown, Dim::Known),
            _ => Dim::Unknown,
        }),
        _ => None,
    }
}

fn is_list(step: &Step<'_>, place: usize) -> bool {
    step.shape(place).is_some_and(|shape| shape.len() == 1)
}

fn is_short(step: &Step<'_>, place: usize) -> bool {
    step.shape(place).is_some_and(|shape| shape.len() <= 1)
}

/// Only of whole numbers, which is what contents are; one number goes with many.
fn pairwise(step: &Step<'_>, with: fn(&Dim, &Dim) -> Dim) -> Option<Vec<Dim>> {
    let (one, other) = (step.content(0)?, step.content(1)?);
    let count = match (one.len(), other.len()) {
        (a, b) if a == b => a,
        (1, b) => b,
        (a, 1) => a,
        _ => return None,
    };
    let at = |list: &[Dim], place: usize| list.get(if list.len() == 1 { 0 } else { place }).cloned();
    (0..count).map(|place| Some(with(&at(one, place)?, &at(other, place)?))).collect()
}
