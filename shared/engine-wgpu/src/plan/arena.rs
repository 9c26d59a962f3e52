//! Packs everything that lives for a part of one inference into one buffer.
//!
//! Values whose lives do not touch share memory: largest first, each at the best-fitting gap among those it overlaps in
//! time with (greedy by size, Pisarchyk and Lee, arXiv 2001.03288).

use std::collections::BTreeMap;

/// Something that needs memory from one step to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Interval {
    /// Bytes, already a multiple of the alignment.
    pub(crate) bytes: u64,
    /// First step that touches it.
    pub(crate) from: usize,
    /// Last step that touches it.
    pub(crate) to: usize,
}

/// Most values alive beside another for which a gap between them is looked for; beyond, it goes to the end.
///
/// Networks have tens. Without a bound, a file of values that all live to the end would take a time that grows with the square
/// of their number.
const NEIGHBOURS_MAX: usize = 2048;

/// Offsets for each interval, and the bytes of the whole.
pub(crate) fn pack(intervals: &[Interval]) -> (Vec<u64>, u64) {
    let mut order: Vec<usize> = (0..intervals.len()).collect();
    order.sort_by_key(|&at| (std::cmp::Reverse(intervals[at].bytes), intervals[at].from, at));
    let mut offsets = vec![0; intervals.len()];
    let mut placed = Placed::new(intervals.iter().map(|interval| interval.to + 1).max().unwrap_or(0));
    let mut total = 0;
    for &at in &order {
        let wanted = intervals[at];
        offsets[at] = placed.beside(wanted).map_or(total, |beside| {
            let range = |&other: &usize| (offsets[other], offsets[other] + intervals[other].bytes);
            let mut taken: Vec<(u64, u64)> = beside.iter().map(range).collect();
            taken.sort_unstable();
            best_gap(&taken, wanted.bytes)
        });
        total = total.max(offsets[at] + wanted.bytes);
        placed.add(at, wanted);
    }
    (offsets, total)
}

/// A range of the arena with the time that it is used.
struct Placed {
    /// By the step that it begins with.
    begins: BTreeMap<usize, Vec<usize>>,
    /// A segment tree over the steps: each life lies at the few nodes that cover it.
    covers: Vec<Vec<usize>>,
    /// Steps, rounded up to a power of two; the leaves of the tree.
    leaves: usize,
}

impl Placed {
    fn new(steps: usize) -> Self {
        let leaves = steps.max(1).next_power_of_two();
        Self { begins: BTreeMap::new(), covers: vec![Vec::new(); 2 * leaves], leaves }
    }

    fn add(&mut self, at: usize, life: Interval) {
        self.begins.entry(life.from).or_default().push(at);
        let (mut low, mut high) = (life.from + self.leaves, life.to + self.leaves + 1);
        while low < high {
            if low % 2 == 1 {
                self.covers[low].push(at);
                low += 1;
            }
            if high % 2 == 1 {
                high -= 1;
                self.covers[high].push(at);
            }
            (low, high) = (low / 2, high / 2);
        }
    }

    /// Everything that lives at some step of this life; `None` if that is too much to look at.
    fn beside(&self, life: Interval) -> Option<Vec<usize>> {
        let mut found = Vec::new();
        let mut node = life.from + self.leaves;
        // Alive as it begins.
        while node > 0 {
            found.extend_from_slice(&self.covers[node]);
            node /= 2;
        }
        // Begun while it lives.
        for begun in self.begins.range(life.from + 1..(life.to + 1).max(life.from + 1)).map(|(_step, begun)| begun) {
            if found.len() > NEIGHBOURS_MAX {
                return None;
            }
            found.extend_from_slice(begun);
        }
        (found.len() <= NEIGHBOURS_MAX).then_some(found)
    }
}

/// The smallest gap between taken ranges that is large enough, else the end.
fn best_gap(taken: &[(u64, u64)], bytes: u64) -> u64 {
    let mut best: Option<(u64, u64)> = None;
    let mut end = 0;
    for &(start, stop) in taken {
        if start > end && start - end >= bytes && best.is_none_or(|(size, _at)| start - end < size) {
            best = Some((start - end, end));
        }
        end = end.max(stop);
    }
    best.map_or(end, |(_size, at)| at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interval(bytes: u64, from: usize, to: usize) -> Interval {
        Interval { bytes, from, to }
    }

    #[test]
    fn values_that_never_live_together_share_memory() {
        let (offsets, total) = pack(&[interval(256, 0, 1), interval(256, 2, 3)]);
        assert_eq!((offsets, total), (vec![0, 0], 256));
    }

    #[test]
    fn values_that_all_live_to_the_end_get_a_place_each() {
        let intervals: Vec<Interval> = (0..5000).map(|at| interval(256, at, 9999)).collect();
        let (mut offsets, total) = pack(&intervals);
        offsets.sort_unstable();
        offsets.dedup();
        assert_eq!((offsets.len(), total), (5000, 5000 * 256));
    }

    #[test]
    fn values_that_live_together_never_overlap() {
        let mut seed = 7_u64;
        let mut next = |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % below
        };
        for _round in 0..200 {
            let intervals: Vec<Interval> = (0..40)
                .map(|_| {
                    let from = usize::try_from(next(30)).unwrap();
                    interval((next(9) + 1) * 256, from, from + usize::try_from(next(6)).unwrap())
                })
                .collect();
            let (offsets, total) = pack(&intervals);
            let mut peak = 0;
            for step in 0..40 {
                peak = peak.max(intervals.iter().filter(|i| i.from <= step && step <= i.to).map(|i| i.bytes).sum());
            }
            assert!(total >= peak && total <= peak * 2, "total {total}, peak {peak}");
            for (a, i) in intervals.iter().enumerate() {
                for (b, j) in intervals.iter().enumerate().skip(a + 1) {
                    let together = i.from <= j.to && j.from <= i.to;
                    let overlap = offsets[a] < offsets[b] + j.bytes && offsets[b] < offsets[a] + i.bytes;
                    assert!(!(together && overlap), "{i:?} at {} and {j:?} at {}", offsets[a], offsets[b]);
                }
            }
        }
    }
}
