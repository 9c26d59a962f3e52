//! Ranges of integers: which values a tensor can have, as far as types, constants and operators tell before the run.
//!
//! Asked by the operators, so that a kernel looks for an overflow or an index out of range only where there can be one.

use super::{Inputs, ValueInfo, ValueInfos};
use crate::ir::{ElementType, Graph, Literal, Node, ValueId};

/// Most elements of a known value that are looked at.
const LOOKED_AT_MAX: usize = 64 * 1024;

/// Least and greatest value, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// Least value, included.
    pub low: i64,
    /// Greatest value, included.
    pub high: i64,
}

impl Range {
    /// Creates the range from `low` to `high`.
    #[must_use]
    pub const fn new(low: i64, high: i64) -> Self {
        Self { low, high }
    }

    /// Returns every value that a type has on the device: 64-bit integers are held in 32 bits there.
    #[must_use]
    pub const fn of_type(dtype: ElementType) -> Self {
        match dtype {
            ElementType::Bool => Self::new(0, 1),
            ElementType::U4 => Self::new(0, 15),
            ElementType::I4 => Self::new(-8, 7),
            ElementType::U8 => Self::new(0, 255),
            ElementType::I8 => Self::new(-128, 127),
            ElementType::U16 => Self::new(0, 65_535),
            ElementType::I16 => Self::new(-32_768, 32_767),
            ElementType::U32 | ElementType::U64 => Self::new(0, u32::MAX as i64),
            ElementType::I32 | ElementType::I64 => Self::new(i32::MIN as i64, i32::MAX as i64),
            // Nobody asks.
            ElementType::F16 | ElementType::Bf16 | ElementType::F32 | ElementType::F64 => Self::new(i64::MIN, i64::MAX),
        }
    }

    /// Returns whether all of it is within another range.
    #[must_use]
    pub const fn within(self, other: Self) -> bool {
        other.low <= self.low && self.high <= other.high
    }

    /// Returns whether a value is inside.
    #[must_use]
    pub const fn contains(self, value: i64) -> bool {
        self.low <= value && value <= self.high
    }

    /// Returns the range of both.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self::new(self.low.min(other.low), self.high.max(other.high))
    }

    fn corners(self, other: Self, f: impl Fn(i64, i64) -> i64) -> Self {
        let all = [(self.low, other.low), (self.low, other.high), (self.high, other.low), (self.high, other.high)];
        let values = all.map(|(a, b)| f(a, b));
        let low = values.iter().copied().fold(i64::MAX, i64::min);
        Self::new(low, values.iter().copied().fold(i64::MIN, i64::max))
    }

    /// Returns the range of sums.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self::new(self.low.saturating_add(other.low), self.high.saturating_add(other.high))
    }

    /// Returns the range of differences.
    #[must_use]
    pub fn minus(self, other: Self) -> Self {
        Self::new(self.low.saturating_sub(other.high), self.high.saturating_sub(other.low))
    }

    /// Returns the range of products.
    #[must_use]
    pub fn times(self, other: Self) -> Self {
        self.corners(other, i64::saturating_mul)
    }

    /// Returns the range of absolute values.
    #[must_use]
    pub fn magnitude(self) -> Self {
        let (low, high) = (self.low.saturating_abs(), self.high.saturating_abs());
        Self::new(if self.contains(0) { 0 } else { low.min(high) }, low.max(high))
    }

    /// Returns the range of sums of up to `count` values.
    #[must_use]
    pub fn summed(self, count: usize) -> Self {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        Self::new(self.low.saturating_mul(count).min(0), self.high.saturating_mul(count).max(0))
    }
}

/// The range of every value of a graph at the shapes of one plan.
#[derive(Debug, Clone, Default)]
pub struct Ranges(Vec<Option<Range>>);

impl Ranges {
    /// Computes the ranges of all values, node by node.
    #[must_use]
    pub fn of(graph: &Graph, infos: &ValueInfos) -> Self {
        let mut ranges = Self(vec![None; graph.value_count()]);
        for node in &graph.nodes {
            for (at, &id) in node.outputs.iter().enumerate() {
                let Some(id) = id else { continue };
                let Some(info) = infos.find(id).filter(|info| !info.dtype.is_float() && info.known.is_none()) else {
                    continue;
                };
                let all = Range::of_type(info.dtype);
                let found = ranges.of_output(infos, node, at).filter(|range| range.within(all));
                ranges.0[id.index()] = Some(found.unwrap_or(all));
            }
        }
        ranges
    }

    /// Returns the range of a value; that of its type where nothing more is known.
    #[must_use]
    pub fn range(&self, id: ValueId, info: &ValueInfo) -> Range {
        let all = Range::of_type(info.dtype);
        match &info.known {
            Some(literal) => of_literal(literal).unwrap_or(all),
            None => self.0.get(id.index()).copied().flatten().unwrap_or(all),
        }
    }

    /// The exact range of an output; `None` where no more is known than its type.
    fn of_output(&self, infos: &ValueInfos, node: &Node, at: usize) -> Option<Range> {
        if !node.domain.is_empty() {
            return None;
        }
        let of = |at: usize| -> Option<Range> {
            let id = node.input(at)?;
            let info = infos.find(id).filter(|info| !info.dtype.is_float())?;
            Some(self.range(id, info))
        };
        let given: Vec<Option<&ValueInfo>> = node.inputs.iter().map(|id| id.and_then(|id| infos.find(id))).collect();
        let given = Inputs(&given);
        let count = |at: usize| given.optional(at).map(ValueInfo::elements);
        let zero = Range::new(0, 0);
        Some(match node.op.as_str() {
            "Identity" | "Reshape" | "Transpose" | "Squeeze" | "Unsqueeze" | "Flatten" | "Slice" | "Split"
            | "Expand" | "Tile" | "Gather" | "GatherElements" | "GatherND" | "Compress" | "DepthToSpace"
            | "SpaceToDepth" | "ReverseSequence" | "ReduceMax" | "ReduceMin" | "Cast" | "CastLike" => of(0)?,
            "TopK" if at == 0 => of(0)?,
            "Concat" | "Max" | "Min" => {
                let all: Option<Vec<Range>> = (0..node.inputs.len()).map(of).collect();
                all?.into_iter().reduce(Range::or)?
            }
            "Where" => of(1)?.or(of(2)?),
            "Trilu" => of(0)?.or(zero),
            "Pad" => of(0)?.or(if node.input(2).is_some() { of(2)? } else { zero }),
            "Clip" => clipped(of(0)?, (node.input(1).is_some(), of(1)), (node.input(2).is_some(), of(2)))?,
            "Relu" => Range::new(of(0)?.low.max(0), of(0)?.high.max(0)),
            "Abs" => of(0)?.magnitude(),
            "Neg" => zero.minus(of(0)?),
            "Sign" => Range::new(-1, 1),
            "Add" => of(0)?.plus(of(1)?),
            "Sub" => of(0)?.minus(of(1)?),
            "Mul" => of(0)?.times(of(1)?),
            "Div" => quotient(of(0)?, of(1)?)?,
            "Mod" => {
                let most = of(1)?.magnitude().high;
                Range::new(if of(1)?.low > 0 && of(0)?.low >= 0 { 0 } else { -most }, most)
            }
            "ReduceSum" | "CumSum" => of(0)?.summed(count(0)?),
            "ArgMax" | "ArgMin" => {
                let x = given.optional(0)?;
                Range::new(0, i64::try_from(x.elements()).ok()?)
            }
            "TopK" => Range::new(0, i64::try_from(count(0)?).ok()?),
            "OneHot" => of(2)?,
            "ScatterElements" | "ScatterND" if node.attributes.find("reduction").is_none() => of(0)?.or(of(2)?),
            _ => return None,
        })
    }
}

/// The range of `Clip`; a bound that is given and not known decides nothing.
fn clipped(x: Range, low: (bool, Option<Range>), high: (bool, Option<Range>)) -> Option<Range> {
    let mut range = x;
    if low.0 {
        let low = low.1?;
        range = Range::new(range.low.max(low.low), range.high.max(low.high));
    }
    if high.0 {
        let high = high.1?;
        range = Range::new(range.low.min(high.low), range.high.min(high.high));
    }
    Some(range)
}

fn quotient(a: Range, b: Range) -> Option<Range> {
    (!b.contains(0)).then(|| a.corners(b, |a, b| a.checked_div(b).unwrap_or(i64::MAX)).or(Range::new(0, 0)))
}

/// The range of a known value, if it is short enough to be looked at.
fn of_literal(literal: &Literal) -> Option<Range> {
    if literal.dtype().is_float() || literal.elements() > LOOKED_AT_MAX || literal.dtype() == ElementType::U64 {
        return None;
    }
    let values = literal.to_i64s();
    let low = values.iter().copied().min();
    let high = values.iter().copied().max();
    // An empty tensor has no value at all.
    Some(Range::new(low.unwrap_or(0), high.unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_on_ranges_covers_every_value() {
        let ranges = [Range::new(-3, 5), Range::new(0, 0), Range::new(2, 7), Range::new(-9, -2)];
        for a in ranges {
            for b in ranges {
                for x in a.low..=a.high {
                    for y in b.low..=b.high {
                        assert!(a.plus(b).contains(x + y) && a.minus(b).contains(x - y) && a.times(b).contains(x * y));
                        assert!(a.or(b).contains(x) && a.or(b).contains(y) && a.magnitude().contains(x.abs()));
                        assert!(quotient(a, b).is_none_or(|range| range.contains(x / y)), "{a:?} / {b:?}");
                        let range = clipped(Range::new(-8, 8), (true, Some(a)), (true, Some(b))).unwrap();
                        assert!((-8..=8_i64).all(|z| range.contains(z.max(x).min(y))), "{a:?} {b:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn sums_of_some_values_are_covered_too() {
        for range in [Range::new(-3, 5), Range::new(2, 7), Range::new(-9, -2)] {
            let sums = range.summed(4);
            assert!((0..=4).all(|count| sums.contains(range.low * count) && sums.contains(range.high * count)));
        }
    }
}
