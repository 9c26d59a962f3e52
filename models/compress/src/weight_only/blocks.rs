//! Grids: the levels that the weights of one block may take, and the search for the best ones.

use super::{Bits, Options};
use crate::linear::Matrix;
use crate::nearest::nearest;

/// The levels `(code - point) · scale` of one block.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Grid {
    /// Distance of two levels; negative when the largest weight is positive and the spare level is of use to it.
    pub scale: f32,
    /// The code of zero; whole unless it was made by HQQ.
    pub point: f32,
    /// The largest code.
    pub top: f32,
}

/// A quantized matrix: one code per weight, one grid per block.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Quantized {
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub columns: usize,
    /// Weights of one block; the last block of a row may be shorter.
    pub block: usize,
    /// `rows * columns` codes.
    pub codes: Vec<u8>,
    /// `rows * blocks` scales.
    pub scales: Vec<f32>,
    /// As many codes of zero.
    pub zero_points: Vec<f32>,
}

impl Quantized {
    /// All zeros.
    pub(super) fn empty(matrix: &Matrix, block: usize) -> Self {
        let (rows, columns) = (matrix.rows, matrix.columns);
        let blocks = columns.div_ceil(block);
        let (codes, grids) = (vec![0; rows * columns], vec![0.0; rows * blocks]);
        Self { rows, columns, block, codes, scales: grids.clone(), zero_points: grids }
    }

    /// Blocks of one row.
    pub(super) fn blocks(&self) -> usize {
        self.columns.div_ceil(self.block)
    }

    /// Notes the grid of a block.
    pub(super) fn set_grid(&mut self, row: usize, block: usize, grid: Grid) {
        let at = row * self.blocks() + block;
        self.scales[at] = grid.scale;
        self.zero_points[at] = grid.point;
    }
}

/// Constraints of a search.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    /// Levels.
    pub bits: Bits,
    /// The code of zero is the middle one.
    pub symmetric: bool,
    /// Scales may be negative.
    pub signed_scale: bool,
}

impl Rules {
    pub(super) fn of(options: &Options) -> Self {
        let signed_scale = matches!(options.form, super::Form::MatMulNBits { .. });
        Self { bits: options.bits, symmetric: options.symmetric, signed_scale }
    }
}

/// Parts of the full range that are tried: cutting off the largest weight makes the levels of the others finer.
const RANGES: [f32; 9] = [1.0, 0.96, 0.92, 0.88, 0.84, 0.8, 0.75, 0.7, 0.64];

impl Grid {
    /// The code of a weight, as a whole float.
    pub(super) fn code(self, weight: f32) -> f32 {
        nearest((weight / self.scale + self.point).clamp(0.0, self.top))
    }

    /// The weight that a code stands for.
    pub(super) fn level(self, code: f32) -> f32 {
        (code - self.point) * self.scale
    }

    fn error(self, weights: &[f32]) -> f32 {
        let inverse = self.scale.recip();
        let square = |&weight: &f32| {
            let code = nearest((weight * inverse + self.point).clamp(0.0, self.top));
            let off = weight - (code - self.point) * self.scale;
            off * off
        };
        let (eights, rest) = weights.as_chunks::<8>();
        let mut sums = [0.0; 8];
        for eight in eights {
            for (sum, weight) in sums.iter_mut().zip(eight) {
                *sum += square(weight);
            }
        }
        sums.iter().sum::<f32>() + rest.iter().map(square).sum::<f32>()
    }

    /// The same levels with the distance that fits the codes best: least squares over the block.
    fn refitted(self, weights: &[f32]) -> Self {
        let (mut product, mut square) = (0.0, 0.0);
        for &weight in weights {
            let level = self.code(weight) - self.point;
            product += weight * level;
            square += level * level;
        }
        let scale = product / square;
        if scale.is_normal() { Self { scale, ..self } } else { self }
    }

    /// The grid of the smallest squared error among many.
    pub(super) fn best(weights: &[f32], rules: Rules) -> Self {
        let top = f32::from(rules.bits.top());
        let (low, high) =
            weights.iter().fold((0.0_f32, 0.0_f32), |(low, high), &weight| (low.min(weight), high.max(weight)));
        let full = if rules.symmetric { low.abs().max(high) } else { high - low };
        // Nothing but zeros (or what is too small for an f32 to divide): any distance will do.
        if !(full / top).is_normal() {
            return Self { scale: 1.0, point: f32::from(rules.bits.middle()), top };
        }
        let mut found = Found { weights, error: f32::INFINITY, grid: Self { scale: 1.0, point: 0.0, top } };
        if rules.symmetric {
            found.symmetric(low, high, rules)
        } else {
            found.asymmetric(low, high)
        }
        found.consider(found.grid.refitted(weights));
        found.grid
    }
}

/// Fewest rows that are worth a thread: below it starting one takes as long as the work.
const ROWS_MIN: usize = 32;

/// The best grid so far.
struct Found<'a> {
    weights: &'a [f32],
    error: f32,
    grid: Grid,
}

impl Found<'_> {
    fn consider(&mut self, grid: Grid) {
        let error = grid.error(self.weights);
        if error < self.error {
            (self.error, self.grid) = (error, grid);
        }
    }

    fn symmetric(&mut self, low: f32, high: f32, rules: Rules) {
        let point = f32::from(rules.bits.middle());
        let (most, top) = (low.abs().max(high), self.grid.top);
        // One level more on the side of the code 0: it goes to the larger side.
        let sign = if high > -low && rules.signed_scale { -1.0 } else { 1.0 };
        for range in RANGES {
            self.consider(Grid { scale: sign * most * range / point, point, top });
        }
        // The whole range with as many levels on both sides.
        self.consider(Grid { scale: most / (top - point), point, top });
    }

    fn asymmetric(&mut self, low: f32, high: f32) {
        let top = self.grid.top;
        let point = (-low / (high - low) * top).round().clamp(0.0, top);
        for range in RANGES {
            self.consider(Grid { scale: (high - low) * range / top, point, top });
        }
        let best = self.grid;
        for point in [point - 1.0, point + 1.0] {
            if (0.0..=top).contains(&point) {
                self.consider(Grid { point, ..best });
            }
        }
    }
}

/// Rounds every weight to the nearest level of its block's best grid.
pub(super) fn rtn(matrix: &Matrix, block: usize, rules: Rules) -> Quantized {
    by_blocks(matrix, block, |weights| Grid::best(weights, rules))
}

/// Rounds every weight to the nearest level of the grid that `find` gives its block. Rows are shared out among the
/// processor's cores; each is a world of its own, so the result does not hang on how many there are.
pub(super) fn by_blocks(matrix: &Matrix, block: usize, find: impl Fn(&[f32]) -> Grid + Sync) -> Quantized {
    let mut quantized = Quantized::empty(matrix, block);
    let (columns, blocks) = (matrix.columns.max(1), quantized.blocks().max(1));
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let rows = matrix.rows.div_ceil(cores).max(ROWS_MIN);
    let find = &find;
    std::thread::scope(|scope| {
        let weights = matrix.values.chunks(rows * columns);
        let codes = quantized.codes.chunks_mut(rows * columns);
        let grids = quantized.scales.chunks_mut(rows * blocks).zip(quantized.zero_points.chunks_mut(rows * blocks));
        for ((weights, codes), (scales, zero_points)) in weights.zip(codes).zip(grids) {
            scope.spawn(move || {
                let rows = weights.chunks(columns).zip(codes.chunks_mut(columns));
                let grids = scales.chunks_mut(blocks).zip(zero_points.chunks_mut(blocks));
                for ((weights, codes), (scales, zero_points)) in rows.zip(grids) {
                    let blocks = weights.chunks(block).zip(codes.chunks_mut(block));
                    for ((weights, codes), (scale, point)) in blocks.zip(scales.iter_mut().zip(zero_points)) {
                        let grid = find(weights);
                        (*scale, *point) = (grid.scale, grid.point);
                        for (code, &weight) in codes.iter_mut().zip(weights) {
                            *code = as_code(grid.code(weight));
                        }
                    }
                }
            });
        }
    });
    quantized
}

/// A whole float of a grid as the byte that it is.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a grid's codes are within 0 to 255")]
pub(super) fn as_code(code: f32) -> u8 {
    code as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(bits: Bits, symmetric: bool) -> Rules {
        Rules { bits, symmetric, signed_scale: true }
    }

    fn waves(count: u16) -> Vec<f32> {
        (0..count).map(|at| (f32::from(at) * 0.73).sin() * (1.0 + f32::from(at % 7))).collect()
    }

    #[test]
    fn the_search_is_never_worse_than_the_full_range() {
        let weights = waves(64);
        for symmetric in [true, false] {
            let found = Grid::best(&weights, rules(Bits::Four, symmetric));
            let (low, high) =
                (weights.iter().fold(0.0_f32, |a, &b| a.min(b)), weights.iter().fold(0.0_f32, |a, &b| a.max(b)));
            let scale = (high - low) / 15.0;
            let plain = if symmetric {
                Grid { scale: low.abs().max(high) / 7.0, point: 8.0, top: 15.0 }
            } else {
                Grid { scale, point: (-low / scale).round(), top: 15.0 }
            };
            assert!(found.error(&weights) <= plain.error(&weights));
        }
    }

    #[test]
    fn codes_stay_in_range_and_levels_come_back() {
        let matrix = Matrix { rows: 1, columns: 70, values: waves(70) };
        for (bits, most) in [(Bits::Four, 1.2), (Bits::Eight, 0.04)] {
            let quantized = rtn(&matrix, 32, rules(bits, false));
            assert_eq!(quantized.blocks(), 3);
            for (at, &weight) in matrix.values.iter().enumerate() {
                let block = at / 32;
                let level = (f32::from(quantized.codes[at]) - quantized.zero_points[block]) * quantized.scales[block];
                assert!((level - weight).abs() < most, "{weight} became {level}");
            }
        }
    }

    #[test]
    fn a_block_of_zeros_and_one_of_dust_are_zero() {
        for weights in [[0.0; 16], [1e-45; 16]] {
            let grid = Grid::best(&weights, rules(Bits::Four, false));
            assert_eq!(grid.level(grid.code(weights[0])), 0.0);
        }
    }
}
