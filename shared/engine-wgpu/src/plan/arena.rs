//! Packs everything that lives for a part of one inference into one buffer.
//!
//! Values whose lives do not touch share memory: largest first, each at the best-fitting gap among those it overlaps in
//! time with (greedy by size, Pisarchyk and Lee, arXiv 2001.03288).

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

/// Offsets for each interval, and the bytes of the whole.
pub(crate) fn pack(intervals: &[Interval]) -> (Vec<u64>, u64) {
    let mut order: Vec<usize> = (0..intervals.len()).collect();
    order.sort_by_key(|&at| (std::cmp::Reverse(intervals[at].bytes), intervals[at].from, at));
    let mut offsets = vec![0; intervals.len()];
    let mut placed: Vec<usize> = Vec::with_capacity(intervals.len());
    let mut total = 0;
    for &at in &order {
        let wanted = intervals[at];
        let mut taken: Vec<(u64, u64)> = placed
            .iter()
            .filter(|&&other| intervals[other].from <= wanted.to && wanted.from <= intervals[other].to)
            .map(|&other| (offsets[other], offsets[other] + intervals[other].bytes))
            .collect();
        taken.sort_unstable();
        offsets[at] = best_gap(&taken, wanted.bytes);
        total = total.max(offsets[at] + wanted.bytes);
        placed.push(at);
    }
    (offsets, total)
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
