//! The least and the greatest of what was seen.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, HashSet};

use engine::Engine;
use onnx_graph::Model;
use types::{DType, Tensor};

use super::run::{self, in_groups};
use super::{Range, Ranges, expose, ranges};
use crate::{CompressError, Examples};

/// Numbers looked at side by side, so that the compiler can use vector registers.
const LANES: usize = 16;

/// The least and greatest element of tensors, and whether all were finite.
#[derive(Debug, Clone, Copy)]
pub(super) struct Extremes {
    low: f32,
    high: f32,
    bounded: bool,
}

impl Default for Extremes {
    /// Of nothing: every number widens it.
    fn default() -> Self {
        Self { low: f32::INFINITY, high: f32::NEG_INFINITY, bounded: true }
    }
}

impl Extremes {
    /// Of the little-endian f32 of a tensor.
    pub(super) fn of(data: &[u8]) -> Self {
        let (mut low, mut high) = ([f32::INFINITY; LANES], [f32::NEG_INFINITY; LANES]);
        // 0 times anything is 0, unless it is infinite or no number.
        let mut zero = [0.0_f32; LANES];
        let (chunks, rest) = data.as_chunks::<4>().0.as_chunks::<LANES>();
        let mut look = |numbers: &[[u8; 4]]| {
            for (((bytes, low), high), zero) in numbers.iter().zip(&mut low).zip(&mut high).zip(&mut zero) {
                let value = f32::from_le_bytes(*bytes);
                *low = if value < *low { value } else { *low };
                *high = if value > *high { value } else { *high };
                *zero += value * 0.0;
            }
        };
        chunks.iter().for_each(|chunk| look(chunk));
        look(rest);
        let least = low.into_iter().fold(f32::INFINITY, f32::min);
        let greatest = high.into_iter().fold(f32::NEG_INFINITY, f32::max);
        Self { low: least, high: greatest, bounded: zero.iter().sum::<f32>() == 0.0 }
    }

    /// Of two sets together.
    pub(super) fn join(self, other: Self) -> Self {
        Self { low: self.low.min(other.low), high: self.high.max(other.high), bounded: self.bounded && other.bounded }
    }

    fn towards(self, newer: Self, momentum: f32) -> Self {
        if self.range().is_none() || newer.range().is_none() {
            return self.join(newer);
        }
        Self {
            low: self.low + momentum * (newer.low - self.low),
            high: self.high + momentum * (newer.high - self.high),
            bounded: self.bounded && newer.bounded,
        }
    }

    /// Returns whether every number was finite.
    pub(super) fn is_bounded(self) -> bool {
        self.bounded
    }

    /// The greatest distance from 0.
    pub(super) fn magnitude(self) -> f32 {
        self.low.abs().max(self.high.abs())
    }

    /// `None` when nothing was seen, or something that is not finite.
    pub(super) fn range(self) -> Option<Range> {
        (self.bounded && self.low <= self.high).then_some(Range { low: self.low, high: self.high })
    }
}

/// Ranges from the least to the greatest; averaged over batches when there is a momentum.
///
/// # Errors
/// As [`super::observe`].
pub(super) fn least_and_greatest(
    engine: &dyn Engine,
    model: &Model,
    examples: &Examples,
    values: &[String],
    momentum: Option<f32>,
) -> Result<Ranges, CompressError> {
    let made: HashSet<&str> = model.graph.nodes.iter().flat_map(|node| &node.output).map(String::as_str).collect();
    let inside = |name: &&String| made.contains(name.as_str()) && expose::is_float(model, name) != Some(false);
    let (inside, outside): (Vec<String>, Vec<String>) = values.iter().cloned().partition(|name| inside(&name));
    let mut seen = Averages { momentum, found: BTreeMap::new() };
    if in_graph(engine, model, examples, &inside, &mut seen).is_ok() {
        in_groups(engine, model, examples, &outside, &mut |tensors| {
            tensors.iter().for_each(|seen_one| seen.see(&seen_one.name, of_tensor(&seen_one.tensor)));
            Ok(())
        })?;
    } else {
        // An empty tensor has no least element, and one of another type cannot stand beside floats: look at them here.
        seen.found.clear();
        in_groups(engine, model, examples, values, &mut |tensors| {
            tensors.iter().for_each(|seen_one| seen.see(&seen_one.name, of_tensor(&seen_one.tensor)));
            Ok(())
        })?;
    }
    Ok(ranges(seen.found.into_iter().map(|(name, found)| (name, found.is_bounded(), found.range()))))
}

fn of_tensor(tensor: &Tensor) -> Extremes {
    if tensor.dtype() == DType::F32 { Extremes::of(tensor.data()) } else { Extremes::default() }
}

struct Averages {
    momentum: Option<f32>,
    found: BTreeMap<String, Extremes>,
}

impl Averages {
    fn see(&mut self, name: &str, newer: Extremes) {
        let Some(found) = self.found.get_mut(name) else {
            self.found.insert(name.to_owned(), newer);
            return;
        };
        *found = match self.momentum {
            Some(momentum) => found.towards(newer, momentum),
            None => found.join(newer),
        };
    }
}

/// Values in the order in which the engine should not come to them.
///
/// ONNX Runtime goes backwards from what it hands out, and first into what stands last there. So each value is looked at as soon
/// as it is made, while it is still in the processor's cache, and is freed; the other way round all of them wait for the last one:
/// twice the memory and a quarter more time on a network that finds text.
fn last_first(model: &Model, values: &[String]) -> Vec<String> {
    let made =
        model.graph.nodes.iter().enumerate().flat_map(|(at, node)| node.output.iter().map(move |name| (name, at)));
    let places: HashMap<&String, usize> = made.collect();
    let mut values = values.to_vec();
    values.sort_by_key(|name| Reverse(places.get(name).copied()));
    values
}

/// Lets the engine find the extremes where the values are made: nothing large leaves it, and it can free as it goes.
fn in_graph(
    engine: &dyn Engine,
    model: &Model,
    examples: &Examples,
    values: &[String],
    seen: &mut Averages,
) -> Result<(), CompressError> {
    if values.is_empty() {
        return Ok(());
    }
    let floors = expose::floors(model);
    let values = last_first(model, values);
    let exposed = expose::extremes(model, &values, &floors);
    // An average depends on what came first, the least and the greatest do not.
    let ordered = seen.momentum.is_some();
    run::everything(engine, &exposed, examples, ordered, &mut |answer| {
        let mut numbers = answer.iter().flat_map(|tensor| tensor.tensor.data().as_chunks::<4>().0);
        for value in &values {
            let mut next = || numbers.next().map_or(f32::NAN, |bytes| f32::from_le_bytes(*bytes));
            let low = if floors.contains(value.as_str()) { 0.0 } else { next() };
            let high = next();
            seen.see(value, Extremes { low, high, bounded: low.is_finite() && high.is_finite() });
        }
    })
}

#[cfg(test)]
mod tests {
    use onnx_graph::Graph;
    use onnx_graph::proto::{ModelProto, NodeProto};

    use super::*;

    #[test]
    fn what_is_made_first_is_asked_for_last() {
        let mut graph = Graph::default();
        for (from, to) in [("x", "b"), ("b", "a"), ("a", "c")] {
            graph.nodes.push(NodeProto::new("Relu", to, &[from], &[to]));
        }
        let model = Model { graph, rest: ModelProto::default() };
        let names = ["a", "b", "c"].map(str::to_owned);
        assert_eq!(last_first(&model, &names), ["c", "a", "b"]);
    }
}
