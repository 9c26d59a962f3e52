//! GPTQ: rounding one input's weights, and making up for it in the weights of the inputs that are not rounded yet.
//!
//! Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers" (2022). The inputs
//! are taken from the last to the first of an order, so that the factor of the inverse Hessian is a lower triangle.

use super::blocks::{Grid, Quantized, Rules, as_code};
use crate::dense::Square;
use crate::gram::Gram;
use crate::linear::Matrix;

/// What is added to the diagonal, as a part of its mean: the paper's 1 %.
const DAMPING: f64 = 0.01;

/// How often the damping is raised tenfold before giving up: 1 % to 100 times the mean.
const DAMPING_TRIES: usize = 5;

/// Rows that go through the inputs together: their weights and one row of the factor stay in the cache.
const ROWS_AT_ONCE: usize = 16;

/// Rounds the matrix under the inputs that `gram` describes; `None` when they make no usable Hessian.
pub(super) fn gptq(matrix: &Matrix, gram: &Gram, block: usize, rules: Rules, act_order: bool) -> Option<Quantized> {
    if gram.products.side != matrix.columns {
        return None;
    }
    let order = order(&gram.products, act_order);
    let factor = factor(gram.products.chosen(&order))?;
    let mut quantized = Quantized::empty(matrix, block);
    for start in (0..matrix.rows).step_by(ROWS_AT_ONCE) {
        let rows = start..(start + ROWS_AT_ONCE).min(matrix.rows);
        Pass { matrix, order: &order, factor: &factor, rules, fixed_grids: act_order }.run(rows, &mut quantized);
    }
    Some(quantized)
}

/// The inputs, the one to be rounded first standing last.
fn order(products: &Square, act_order: bool) -> Vec<usize> {
    let mut order: Vec<usize> = (0..products.side).rev().collect();
    if act_order {
        let strength: Vec<f64> = products.diagonal().collect();
        order.sort_by(|&a, &b| strength[a].total_cmp(&strength[b]));
    }
    order
}

/// The lower triangle `F` with `FᵀF` = inverse of the damped Hessian, in f32 rows.
fn factor(mut hessian: Square) -> Option<Vec<f32>> {
    let side = hessian.side;
    #[expect(clippy::cast_precision_loss, reason = "a side of a few thousand")]
    let mean = hessian.diagonal().sum::<f64>() / side as f64;
    if !(mean > 0.0 && mean.is_finite()) {
        return None;
    }
    let mut damping = DAMPING * mean;
    for _ in 0..DAMPING_TRIES {
        hessian.lift(damping);
        if let Some(lower) = hessian.clone().cholesky() {
            #[expect(clippy::cast_possible_truncation, reason = "weights are f32, and so is what corrects them")]
            let rows = lower.inverse_of_lower().values.iter().map(|&value| value as f32).collect();
            return Some(rows);
        }
        damping *= 10.0;
    }
    None
}

/// One way through all inputs with a few rows.
struct Pass<'a> {
    matrix: &'a Matrix,
    order: &'a [usize],
    factor: &'a [f32],
    rules: Rules,
    /// Grids come from the weights as they were, because the order visits a block's inputs apart from each other.
    fixed_grids: bool,
}

impl Pass<'_> {
    fn run(&self, rows: std::ops::Range<usize>, into: &mut Quantized) {
        let side = self.matrix.columns;
        let row = |row: usize| &self.matrix.values[row * side..(row + 1) * side];
        // The weights of each row, in the order's places.
        let mut work: Vec<Vec<f32>> =
            rows.clone().map(|at| self.order.iter().map(|&input| row(at)[input]).collect()).collect();
        let blocks = into.blocks();
        let mut grids: Vec<Option<Grid>> = vec![None; rows.len() * blocks];
        for place in (0..side).rev() {
            let input = self.order[place];
            let factor = &self.factor[place * side..place * side + place + 1];
            let block = input / into.block;
            for (nth, (at, work)) in rows.clone().zip(&mut work).enumerate() {
                let grid = *grids[nth * blocks + block].get_or_insert_with(|| {
                    let grid = self.grid(row(at), work, block, into.block);
                    into.set_grid(at, block, grid);
                    grid
                });
                let code = grid.code(work[place]);
                into.codes[at * side + input] = as_code(code);
                let off = (work[place] - grid.level(code)) / factor[place];
                for (weight, part) in work[..place].iter_mut().zip(factor) {
                    *weight -= off * part;
                }
            }
        }
    }

    /// The grid of a block whose first input is being rounded.
    fn grid(&self, original: &[f32], work: &[f32], block: usize, size: usize) -> Grid {
        let inputs = block * size..((block + 1) * size).min(original.len());
        if self.fixed_grids {
            return Grid::best(&original[inputs], self.rules);
        }
        // Without an order of their own, inputs stand in reverse.
        let places = original.len() - inputs.end..original.len() - inputs.start;
        Grid::best(&work[places], self.rules)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weight_only::Bits;
    use crate::weight_only::blocks::rtn;

    /// Inputs that depend on each other, as those of real layers do.
    fn inputs(side: usize, samples: usize) -> Vec<Vec<f32>> {
        let noise = |seed: usize| ((seed * 7919 % 1009) as f32 / 504.5) - 1.0;
        (0..side)
            .map(|i| (0..samples).map(|s| noise(s * 3 + i / 4) + 0.2 * noise(s * 101 + i * 37 + 5)).collect())
            .collect()
    }

    fn off(matrix: &Matrix, quantized: &Quantized, columns: &[Vec<f32>]) -> f64 {
        let level = |row: usize, input: usize| {
            let block = row * quantized.blocks() + input / quantized.block;
            let code = f32::from(quantized.codes[row * matrix.columns + input]);
            (code - quantized.zero_points[block]) * quantized.scales[block]
        };
        let error = |row: usize, sample: usize| -> f32 {
            let of_input = |(input, column): (usize, &Vec<f32>)| {
                (matrix.values[row * matrix.columns + input] - level(row, input)) * column[sample]
            };
            columns.iter().enumerate().map(of_input).sum()
        };
        let samples = 0..columns[0].len();
        samples
            .flat_map(|sample| (0..matrix.rows).map(move |row| (row, sample)))
            .map(|(row, sample)| f64::from(error(row, sample).powi(2)))
            .sum()
    }

    #[test]
    fn answers_are_nearer_than_with_rounding_alone() {
        let (side, rows) = (48, 20);
        let values = (0..side * rows).map(|at| ((at * 31 % 97) as f32 / 48.0 - 1.0) * 0.1).collect();
        let matrix = Matrix { rows, columns: side, values };
        let columns = inputs(side, 200);
        let mut products = Square::zeros(side);
        products.add_products(&columns);
        let gram = Gram { products, sums: vec![0.0; side], count: 200 };
        let rules = Rules { bits: Bits::Four, symmetric: false, signed_scale: true };
        let plain = off(&matrix, &rtn(&matrix, 16, rules), &columns);
        for act_order in [false, true] {
            let made = gptq(&matrix, &gram, 16, rules, act_order).unwrap();
            let compensated = off(&matrix, &made, &columns);
            assert!(compensated < 0.7 * plain, "{compensated} against {plain}");
        }
    }

    #[test]
    fn inputs_that_were_always_zero_make_no_hessian() {
        let gram = Gram { products: Square::zeros(16), sums: vec![0.0; 16], count: 3 };
        let matrix = Matrix { rows: 1, columns: 16, values: vec![1.0; 16] };
        let rules = Rules { bits: Bits::Four, symmetric: true, signed_scale: true };
        assert_eq!(gptq(&matrix, &gram, 16, rules, false), None);
    }
}
