//! Makes the weights behind pruned channels do what the whole ones did, as nearly as the examples tell.
//!
//! For outputs `y = W·x + b`, the weights over the inputs that are left are those of the least squared error of `y`. With
//! the second moments of `x` (and a 1 for the bias) these are normal equations, one matrix for all outputs.

use super::Compensation;
use crate::dense::Square;
use crate::gram::Gram;

/// How strongly weights are held to what they were, as a part of the mean of the diagonal.
const DAMPING: f64 = 1e-3;

/// A weight with one row per output, its bias behind it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Layer {
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub columns: usize,
    /// In row order.
    pub weight: Vec<f32>,
    /// One for each row; `None` for an operator without.
    pub bias: Option<Vec<f32>>,
}

impl Layer {
    /// The layer over the inputs named by `kept`, nothing made up for.
    fn cut(&self, kept: &[usize]) -> Self {
        let rows = self.weight.chunks_exact(self.columns.max(1));
        let weight = rows.flat_map(|row| kept.iter().map(|&column| row[column])).collect();
        Self { columns: kept.len(), weight, ..self.clone() }
    }

    /// The layer over the inputs named by `kept`, made up for by what `gram` knows of all inputs.
    pub(super) fn reduced(&self, kept: &[usize], gram: Option<&Gram>, how: Compensation) -> Self {
        let cut = self.cut(kept);
        let Some(gram) = gram.filter(|gram| gram.products.side == self.columns) else { return cut };
        match how {
            Compensation::None => cut,
            Compensation::Bias => self.with_means(cut, kept, gram),
            Compensation::Weights => self.fitted(&cut, kept, gram).unwrap_or_else(|| self.with_means(cut, kept, gram)),
        }
    }

    /// Adds the mean of what is gone to the bias.
    fn with_means(&self, mut cut: Self, kept: &[usize], gram: &Gram) -> Self {
        let Some(bias) = &mut cut.bias else { return cut };
        let mut means: Vec<f64> = gram.sums.iter().map(|sum| sum / count(gram)).collect();
        kept.iter().for_each(|&column| means[column] = 0.0);
        for (bias, row) in bias.iter_mut().zip(self.weight.chunks_exact(self.columns.max(1))) {
            let gone: f64 = row.iter().zip(&means).map(|(&weight, mean)| f64::from(weight) * mean).sum();
            *bias += narrow(gone);
        }
        cut
    }

    /// Fits weights and bias anew; `None` when the examples do not determine them.
    fn fitted(&self, cut: &Self, kept: &[usize], gram: &Gram) -> Option<Self> {
        let whole = with_one(gram, self.bias.is_some());
        let mut places = kept.to_vec();
        // The 1 that stands for the bias comes last.
        places.extend(self.bias.is_some().then_some(self.columns));
        let mut normal = whole.chosen(&places);
        #[expect(clippy::cast_precision_loss, reason = "a side of a few thousand")]
        let damping = DAMPING * normal.diagonal().sum::<f64>() / places.len().max(1) as f64;
        normal.lift(damping);
        let factor = normal.cholesky()?;
        let mut made = cut.clone();
        for row in 0..self.rows {
            let old = self.augmented(row);
            // Right side: what the whole row says, and the pull towards what the kept weights were.
            let mut solution: Vec<f64> =
                places.iter().map(|&place| product(&whole, place, &old) + damping * old[place]).collect();
            factor.solve(&mut solution);
            if !solution.iter().all(|value| value.is_finite()) {
                return None;
            }
            if let (Some(bias), Some(value)) = (&mut made.bias, solution.get(kept.len())) {
                bias[row] = narrow(*value);
            }
            let weights = &mut made.weight[row * kept.len()..(row + 1) * kept.len()];
            weights.iter_mut().zip(&solution).for_each(|(weight, value)| *weight = narrow(*value));
        }
        Some(made)
    }

    /// A row with its bias behind it.
    fn augmented(&self, row: usize) -> Vec<f64> {
        let weights = &self.weight[row * self.columns..(row + 1) * self.columns];
        let bias = self.bias.as_ref().and_then(|bias| bias.get(row));
        weights.iter().chain(bias).map(|&value| f64::from(value)).collect()
    }
}

#[expect(clippy::cast_precision_loss, reason = "a count of samples")]
fn count(gram: &Gram) -> f64 {
    gram.count.max(1) as f64
}

#[expect(clippy::cast_possible_truncation, reason = "weights are f32")]
fn narrow(value: f64) -> f32 {
    value as f32
}

/// Second moments, a constant 1 joined to the inputs where there is a bias.
fn with_one(gram: &Gram, bias: bool) -> Square {
    let side = gram.products.side;
    let mut moments = Square::zeros(side + usize::from(bias));
    for row in 0..side {
        let start = row * moments.side;
        let (values, from) = (&mut moments.values[start..start + row + 1], &gram.products.row(row)[..=row]);
        values.iter_mut().zip(from).for_each(|(value, sum)| *value = sum / count(gram));
    }
    if bias {
        let last = side * moments.side;
        moments.values[last..last + side]
            .iter_mut()
            .zip(&gram.sums)
            .for_each(|(value, sum)| *value = sum / count(gram));
        moments.values[last + side] = 1.0;
    }
    moments
}

/// One row of a symmetric matrix, of which the lower triangle is there, times a vector.
fn product(matrix: &Square, row: usize, vector: &[f64]) -> f64 {
    let before: f64 = matrix.row(row)[..=row].iter().zip(vector).map(|(a, b)| a * b).sum();
    before + (row + 1..matrix.side).map(|at| matrix.values[at * matrix.side + row] * vector[at]).sum::<f64>()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two inputs, the second always twice the first and one: what it did, the first can do.
    fn gram() -> Gram {
        let first: Vec<f32> = (0_u8..100).map(|at| f32::from(at % 17) - 4.0).collect();
        let second: Vec<f32> = first.iter().map(|value| 2.0 * value + 1.0).collect();
        let sums = [&first, &second].map(|column| column.iter().map(|&value| f64::from(value)).sum()).to_vec();
        let mut products = Square::zeros(2);
        products.add_products(&[first, second]);
        Gram { products, sums, count: 100 }
    }

    fn layer() -> Layer {
        Layer { rows: 1, columns: 2, weight: vec![1.0, 3.0], bias: Some(vec![0.5]) }
    }

    #[test]
    fn an_input_that_others_tell_is_not_missed() {
        let made = layer().reduced(&[0], Some(&gram()), Compensation::Weights);
        assert!((made.weight[0] - 7.0).abs() < 0.05, "{made:?}");
        assert!((made.bias.unwrap()[0] - 3.5).abs() < 0.1);
    }

    #[test]
    fn the_mean_of_what_is_gone_goes_into_the_bias() {
        let made = layer().reduced(&[0], Some(&gram()), Compensation::Bias);
        let mean = gram().sums[1] / 100.0;
        assert!((f64::from(made.bias.unwrap()[0]) - (0.5 + 3.0 * mean)).abs() < 1e-4);
        assert_eq!(made.weight, [1.0]);
    }
}
