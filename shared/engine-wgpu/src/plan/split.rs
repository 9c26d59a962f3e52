//! Cuts launches that would hold the device for too long.
//!
//! Mobile drivers reset a GPU that does not answer for some hundred milliseconds to seconds, and nothing else (not even the
//! screen) runs in between. A kernel whose entry point adds `group_base()` can be launched in several parts.

use std::ops::Range;

use crate::lower::Dispatch;
use crate::lower::{PARAM_WORDS, PARAMS_MAX};

/// Most elementary operations of one launch.
///
/// 50 ms at 5 billion multiply-adds a second: what a software adapter on two cores reaches in its best kernels (measured
/// 10), and the GPU of a Raspberry Pi 4 in ours.
pub(crate) const LAUNCH_WORK_MAX: u64 = 250_000_000;

/// The same launches, with long ones in parts.
pub(crate) fn split(dispatches: Vec<Dispatch>) -> Vec<Dispatch> {
    dispatches.into_iter().flat_map(parts).collect()
}

fn parts(dispatch: Dispatch) -> Vec<Dispatch> {
    let wanted = u32::try_from(dispatch.effort.work.div_ceil(LAUNCH_WORK_MAX)).unwrap_or(u32::MAX);
    let (axis, groups) = longest(dispatch.groups);
    if wanted <= 1 || groups <= 1 || !dispatch.kernel.is_splittable() || dispatch.params.len() > PARAMS_MAX + 1 {
        return vec![dispatch];
    }
    let ranges = ranges(groups, wanted);
    let share = dispatch.effort.work / u64::try_from(ranges.len()).unwrap_or(1).max(1);
    let part = |range: Range<u32>| {
        let mut part = dispatch.clone();
        part.effort.work = share;
        part.groups[axis] = range.end - range.start;
        part.params.resize(PARAM_WORDS, 0);
        part.params[PARAMS_MAX + 1 + axis] = range.start;
        part
    };
    ranges.into_iter().map(part).collect()
}

/// The dimension with most workgroups.
fn longest(groups: [u32; 3]) -> (usize, u32) {
    let [x, y, z] = groups;
    if x >= y && x >= z && y == 1 {
        (0, x)
    } else if y >= z {
        // A flat launch over x and y counts y-major: only whole rows may be cut.
        (1, y)
    } else {
        (2, z)
    }
}

/// Cuts `groups` into at most `parts` nearly equal ranges.
fn ranges(groups: u32, parts: u32) -> Vec<Range<u32>> {
    let size = groups.div_ceil(parts.clamp(1, groups));
    (0..groups.div_ceil(size)).map(|at| at * size..((at + 1) * size).min(groups)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_of_a_launch_cover_each_workgroup_once() {
        for groups in [1_u32, 2, 7, 100, 65_535] {
            for parts in [1_u32, 2, 3, 64, 70_000] {
                let ranges = ranges(groups, parts);
                assert!(ranges.len() <= parts as usize);
                let covered: Vec<u32> = ranges.iter().cloned().flatten().collect();
                assert_eq!(covered, (0..groups).collect::<Vec<_>>(), "{groups} groups in {parts} parts");
            }
        }
    }

    #[test]
    fn a_flat_launch_over_two_dimensions_is_cut_between_rows() {
        assert_eq!(longest([65_535, 3, 1]), (1, 3));
        assert_eq!(longest([65_535, 1, 1]), (0, 65_535));
        assert_eq!(longest([1, 1, 9]), (2, 9));
    }
}
