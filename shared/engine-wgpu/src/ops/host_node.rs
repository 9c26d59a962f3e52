//! Operators whose output's shape depends on the data: NonMaxSuppression, NonZero, Unique.
//!
//! They run on the host, see [`crate::segments`]. What [`Rule::infer`] says of them is an assumption (one hit), good for
//! element types and for looking ahead; a plan is only made with the true shapes.

use std::cmp::Ordering;

use crate::error::OpError;
use crate::ir::{ElementType, Literal, Node};
use crate::ops::movement::{given, product};
use crate::ops::{Evaluate, Infer, Rule, Run};
use crate::shape::{axis, strides};
use crate::value_info::{Inputs, ValueInfo};

/// The operators of this family.
pub(super) const RULES: &[Rule] = &[
    host_node("NonZero", infer_non_zero, non_zero),
    host_node("Unique", infer_unique, unique),
    host_node("NonMaxSuppression", infer_suppression, suppress),
];

const fn host_node(op: &'static str, infer: Infer, evaluate: Evaluate) -> Rule {
    Rule { domain: "", op, infer, run: Run::HostNode, host: Some(evaluate) }
}

fn signed(value: usize) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn infer_non_zero(_node: &Node, inputs: Inputs<'_>) -> Result<Vec<ValueInfo>, OpError> {
    Ok(vec![ValueInfo::new(ElementType::I64, vec![inputs.at(0)?.rank(), 1])])
}

fn non_zero(_node: &Node, inputs: &[Option<&Literal>]) -> Result<Vec<Literal>, OpError> {
    let x = given(inputs, 0)?;
    // Of floats every bit pattern but the two zeros counts, NaN too.
    let hits: Vec<usize> = match x.dtype().is_float() {
        true => x.to_f64s().iter().enumerate().filter(|(_at, value)| **value != 0.0).map(|(at, _value)| at).collect(),
        false => x.to_i64s().iter().enumerate().filter(|(_at, value)| **value != 0).map(|(at, _value)| at).collect(),
    };
    let steps = strides(x.shape());
    let places =
        steps.iter().zip(x.shape()).flat_map(|(step, size)| hits.iter().map(move |hit| signed(hit / step % size)));
    let values: Vec<i64> = places.collect();
    Ok(vec![Literal::from_i64s(ElementType::I64, vec![x.shape().len(), hits.len()], &values)])
}

fn infer_unique(node: &Node, inputs: Inputs<'_>) -> Result<Vec<ValueInfo>, OpError> {
    let x = inputs.at(0)?;
    let mut shape = vec![1];
    if let Some(at) = node.attributes.optional_int("axis")? {
        shape = x.shape.clone();
        shape[axis(at, x.rank())?] = 1;
    }
    let places = ValueInfo::new(ElementType::I64, vec![1]);
    Ok(vec![ValueInfo::new(x.dtype, shape), places.clone(), places.clone(), places])
}

/// Slices of a tensor along one axis, to be compared.
struct Slices {
    /// For each slice its elements as order-preserving keys.
    keys: Vec<Vec<f64>>,
    /// For each slice the flat positions of its elements.
    places: Vec<Vec<usize>>,
}

impl Slices {
    fn of(x: &Literal, at: Option<usize>) -> Result<Self, OpError> {
        let values = x.to_f64s();
        let (outer, n, inner) = match at {
            None => (1, x.elements(), 1),
            Some(at) => (product(&x.shape()[..at])?, x.shape()[at], product(&x.shape()[at + 1..])?),
        };
        let place = |slice: usize| {
            (0..outer).flat_map(move |o| (0..inner).map(move |i| (o * n + slice) * inner + i)).collect::<Vec<usize>>()
        };
        let places: Vec<Vec<usize>> = (0..n).map(place).collect();
        let keys = places.iter().map(|places| places.iter().map(|&at| values[at]).collect()).collect();
        Ok(Self { keys, places })
    }

    fn compare(&self, a: usize, b: usize) -> Ordering {
        let pairs = self.keys[a].iter().zip(&self.keys[b]);
        pairs.map(|(a, b)| a.total_cmp(b)).find(|order| order.is_ne()).unwrap_or(Ordering::Equal)
    }
}

fn unique(node: &Node, inputs: &[Option<&Literal>]) -> Result<Vec<Literal>, OpError> {
    let x = given(inputs, 0)?;
    if matches!(x.dtype(), ElementType::I64 | ElementType::U64)
        && x.to_i64s().iter().any(|value| value.unsigned_abs() > 1 << 53)
    {
        return Err(OpError::unsupported("integers over 2^53"));
    }
    let at = node.attributes.optional_int("axis")?.map(|at| axis(at, x.shape().len())).transpose()?;
    let slices = Slices::of(x, at)?;
    let n = slices.keys.len();
    // A stable sort keeps the first occurrence in front of its repetitions.
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|&a, &b| slices.compare(a, b));
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for slice in order {
        match groups.last_mut() {
            Some(group) if slices.compare(group[0], slice).is_eq() => group.push(slice),
            _ => groups.push(vec![slice]),
        }
    }
    if !node.attributes.flag("sorted", true)? {
        groups.sort_by_key(|group| group[0]);
    }
    let mut inverse = vec![0; n];
    for (to, group) in groups.iter().enumerate() {
        group.iter().for_each(|&slice| inverse[slice] = signed(to));
    }
    let mut shape = vec![groups.len()];
    if let Some(at) = at {
        shape = x.shape().to_vec();
        shape[at] = groups.len();
    }
    let (count, inner) = (groups.len().max(1), at.map_or(Ok(1), |at| product(&x.shape()[at + 1..]))?);
    let y = crate::host::rearrange(x.dtype(), shape, &[x], |flat| {
        let (outer, slice, i) = (flat / inner / count, flat / inner % count, flat % inner);
        Ok(groups.get(slice).and_then(|group| slices.places[group[0]].get(outer * inner + i)).map(|&from| (0, from)))
    })?;
    let firsts: Vec<i64> = groups.iter().map(|group| signed(group[0])).collect();
    let counts: Vec<i64> = groups.iter().map(|group| signed(group.len())).collect();
    Ok(vec![y, Literal::i64_vector(&firsts), Literal::i64_vector(&inverse), Literal::i64_vector(&counts)])
}

fn infer_suppression(_node: &Node, inputs: Inputs<'_>) -> Result<Vec<ValueInfo>, OpError> {
    sizes(&inputs.at(0)?.shape, &inputs.at(1)?.shape)?;
    Ok(vec![ValueInfo::new(ElementType::I64, vec![1, 3])])
}

/// Batches, classes and boxes.
fn sizes(boxes: &[usize], scores: &[usize]) -> Result<[usize; 3], OpError> {
    match (boxes, scores) {
        (&[batches, count, 4], &[same, classes, scored]) if same == batches && scored == count => {
            Ok([batches, classes, count])
        }
        _ => Err(OpError::invalid(format!("boxes of shape {boxes:?} with scores of {scores:?}"))),
    }
}

/// A box as its corners, lowest first.
#[derive(Debug, Clone, Copy)]
struct Corners {
    low: [f32; 2],
    high: [f32; 2],
}

impl Corners {
    fn of(numbers: &[f32], centered: bool) -> Self {
        let at = |k: usize| numbers.get(k).copied().unwrap_or(0.0);
        if centered {
            let (x, y, w, h) = (at(0), at(1), at(2) / 2.0, at(3) / 2.0);
            return Self { low: [x - w, y - h], high: [x + w, y + h] };
        }
        Self { low: [at(0).min(at(2)), at(1).min(at(3))], high: [at(0).max(at(2)), at(1).max(at(3))] }
    }

    fn area(self) -> f32 {
        (self.high[0] - self.low[0]) * (self.high[1] - self.low[1])
    }

    /// Returns whether the common part is more than this share of both together.
    fn overlaps(self, other: Self, threshold: f32) -> bool {
        let side = |k: usize| (self.high[k].min(other.high[k]) - self.low[k].max(other.low[k])).max(0.0);
        let common = side(0) * side(1);
        // Empty boxes overlap nothing.
        self.area() > 0.0
            && other.area() > 0.0
            && common > 0.0
            && common / (self.area() + other.area() - common) > threshold
    }
}

fn suppress(node: &Node, inputs: &[Option<&Literal>]) -> Result<Vec<Literal>, OpError> {
    let (boxes, scores) = (given(inputs, 0)?, given(inputs, 1)?);
    let [batches, classes, count] = sizes(boxes.shape(), scores.shape())?;
    let optional = |at: usize| inputs.get(at).copied().flatten();
    let most = optional(2).and_then(|most| most.to_i64s().first().copied()).unwrap_or(0);
    let most = usize::try_from(most).unwrap_or(0);
    let number = |at: usize| optional(at).and_then(|number| number.to_f32s().first().copied());
    let (overlap, least) = (number(3).unwrap_or(0.0), number(4));
    let centered = node.attributes.flag("center_point_box", false)?;
    let (boxes, scores) = (boxes.to_f32s(), scores.to_f32s());
    let corners: Vec<Corners> = boxes.chunks_exact(4).map(|numbers| Corners::of(numbers, centered)).collect();
    let mut hits = Vec::new();
    for batch in 0..batches {
        for class in 0..classes {
            let scores = &scores[(batch * classes + class) * count..][..count];
            let corners = &corners[batch * count..][..count];
            let passes = |score: f32| least.is_none_or(|least| score > least);
            let mut order: Vec<usize> = (0..count).filter(|&at| passes(scores[at])).collect();
            order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
            let mut kept: Vec<usize> = Vec::new();
            for at in order {
                if kept.len() >= most {
                    break;
                }
                if !kept.iter().any(|&before| corners[before].overlaps(corners[at], overlap)) {
                    kept.push(at);
                }
            }
            hits.extend(kept.into_iter().flat_map(|at| [signed(batch), signed(class), signed(at)]));
        }
    }
    Ok(vec![Literal::from_i64s(ElementType::I64, vec![hits.len() / 3, 3], &hits)])
}
