//! Half-quadratic quantization: zero points that lose to outliers on purpose.
//!
//! Badri and Shaji, "Half-Quadratic Quantization of Large Machine Learning Models" (2023): the error's p-norm with p < 1
//! is split into a shrinking step and a mean, by turns. Errors are measured in levels here, so that the strength of the
//! shrinking does not depend on how large the weights are.

use super::blocks::{Grid, Quantized, Rules, by_blocks};
use crate::linear::Matrix;

/// Exponent of the norm: the smaller, the less an outlier counts.
const NORM: f32 = 0.7;

/// How strongly the two halves are coupled at first, and by how much more each round.
const COUPLING: f32 = 10.0;
const COUPLING_GROWTH: f32 = 1.01;

/// Rounds at most; most blocks are done after five.
const ROUNDS: usize = 20;

/// Rounds every weight to the grid that HQQ finds for its block.
///
/// With `whole`, points are rounded to whole codes at the end, for forms that store them so.
pub(super) fn hqq(matrix: &Matrix, block: usize, rules: Rules, whole: bool) -> Quantized {
    by_blocks(matrix, block, |weights| {
        let grid = found(weights, rules);
        if whole { Grid { point: grid.point.round().clamp(0.0, grid.top), ..grid } } else { grid }
    })
}

fn found(weights: &[f32], rules: Rules) -> Grid {
    let start = full_range(weights, rules);
    let (mut best, mut best_error) = (start, norm(start, weights));
    let (mut grid, mut coupling) = (start, COUPLING);
    for _ in 0..ROUNDS {
        let moved: f32 = weights.iter().map(|&weight| pull(grid, weight, coupling)).sum();
        #[expect(clippy::cast_precision_loss, reason = "a block has a few hundred weights")]
        let point = moved / weights.len() as f32;
        grid.point = point;
        coupling *= COUPLING_GROWTH;
        let error = norm(grid, weights);
        if error.is_nan() || error >= best_error {
            break;
        }
        (best, best_error) = (grid, error);
    }
    best
}

/// Returns where the point would have to be for this weight, after its error was shrunk.
fn pull(grid: Grid, weight: f32, coupling: f32) -> f32 {
    let code = grid.code(weight);
    let place = weight / grid.scale;
    let off = place - (code - grid.point);
    let size = off.abs();
    // The proximal step of the p-norm: small errors vanish, large ones stay and are not paid for.
    let kept = (size - size.powf(NORM - 1.0) / coupling).max(0.0).copysign(off);
    code - (place - if size == 0.0 { 0.0 } else { kept })
}

fn norm(grid: Grid, weights: &[f32]) -> f32 {
    weights.iter().map(|&weight| (weight - grid.level(grid.code(weight))).abs()).sum()
}

fn full_range(weights: &[f32], rules: Rules) -> Grid {
    let top = f32::from(rules.bits.top());
    let (low, high) =
        weights.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(low, high), &w| (low.min(w), high.max(w)));
    let scale = (high - low) / top;
    // One value only: the search of the plain method knows what to do.
    if scale.is_normal() { Grid { scale, point: -low / scale, top } } else { Grid::best(weights, rules) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weight_only::Bits;

    #[test]
    fn the_error_is_never_larger_than_with_the_full_range() {
        let mut weights: Vec<f32> = (0_u8..64).map(|at| (f32::from(at) * 0.61).sin()).collect();
        weights[9] = 6.0;
        let rules = Rules { bits: Bits::Four, symmetric: false, signed_scale: true };
        assert!(norm(found(&weights, rules), &weights) <= norm(full_range(&weights, rules), &weights));
    }
}
