//! Operators that bring many elements together into few: sums, extremes, running sums, softmax.

pub(super) mod arg;
pub(super) mod cumulative;
pub(super) mod fold;
pub(super) mod rules;
pub(super) mod softmax;

use crate::error::OpError;
use crate::shape::axis;

/// A tensor around one axis: `outer` lines of `length` elements that stand `inner` apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lines {
    pub(super) outer: usize,
    pub(super) length: usize,
    pub(super) inner: usize,
}

impl Lines {
    /// The lines of a shape along one axis.
    pub(super) fn along(shape: &[usize], at: i64) -> Result<(Self, usize), OpError> {
        let at = axis(at, shape.len())?;
        let outer = shape[..at].iter().product();
        let inner = shape[at + 1..].iter().product();
        Ok((Self { outer, length: shape[at], inner }, at))
    }

    /// Returns the number of lines.
    pub(super) fn count(self) -> usize {
        self.outer * self.inner
    }

    /// Returns the number of elements.
    pub(super) fn elements(self) -> u64 {
        u64::try_from(self.count().saturating_mul(self.length)).unwrap_or(u64::MAX)
    }
}
