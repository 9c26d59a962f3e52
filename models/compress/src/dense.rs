//! Dense linear algebra, as much of it as error compensation needs: Cholesky, inverse of a triangle, solving.
//!
//! Fed by `weight_only::gptq` and `prune::channels` with Gram matrices of a few thousand rows at most. All in f64: the
//! matrices are close to singular by nature.

/// Rows that are worked on together: with 4,096 numbers each they fill a second-level cache.
const ROWS_TOGETHER: usize = 8;

/// A square matrix in row order. Symmetric ones are read by their lower triangle only.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Square {
    /// Rows, and columns.
    pub side: usize,
    /// `side * side` numbers.
    pub values: Vec<f64>,
}

impl Square {
    /// All zeros.
    pub(crate) fn zeros(side: usize) -> Self {
        Self { side, values: vec![0.0; side * side] }
    }

    /// One row.
    pub(crate) fn row(&self, at: usize) -> &[f64] {
        &self.values[at * self.side..(at + 1) * self.side]
    }

    fn row_mut(&mut self, at: usize) -> &mut [f64] {
        &mut self.values[at * self.side..(at + 1) * self.side]
    }

    /// The diagonal.
    pub(crate) fn diagonal(&self) -> impl Iterator<Item = f64> + '_ {
        self.values.iter().step_by(self.side + 1).copied()
    }

    /// Adds to each number of the diagonal.
    pub(crate) fn lift(&mut self, by: f64) {
        self.values.iter_mut().step_by(self.side + 1).for_each(|value| *value += by);
    }

    /// The rows and columns named by `order`, in that order, from the lower triangle.
    pub(crate) fn chosen(&self, order: &[usize]) -> Self {
        let mut chosen = Self::zeros(order.len());
        for (row, &i) in order.iter().enumerate() {
            for (column, &j) in order[..=row].iter().enumerate() {
                chosen.values[row * order.len() + column] = self.values[i.max(j) * self.side + i.min(j)];
            }
        }
        chosen
    }

    /// The lower triangle `L` with `L·Lᵀ` = this; `None` when this is not positive definite.
    ///
    /// Cholesky–Banachiewicz: every inner product runs over adjacent numbers. Some rows go together, so that those
    /// above are read from memory once for all of them.
    pub(crate) fn cholesky(mut self) -> Option<Self> {
        let side = self.side;
        for start in (0..side).step_by(ROWS_TOGETHER) {
            let (above, rest) = self.values.split_at_mut(start * side);
            let rows = &mut rest[..ROWS_TOGETHER.min(side - start) * side];
            for (j, other) in above.chunks_exact(side).enumerate() {
                for row in rows.chunks_exact_mut(side) {
                    row[j] = (row[j] - dot(&row[..j], &other[..j])) / other[j];
                }
            }
            for i in start..start + rows.len() / side {
                let (before, row) = rows.split_at_mut((i - start) * side);
                let row = &mut row[..side];
                for (j, other) in (start..i).zip(before.chunks_exact(side)) {
                    row[j] = (row[j] - dot(&row[..j], &other[..j])) / other[j];
                }
                let square = row[i] - dot(&row[..i], &row[..i]);
                if !(square > 0.0 && square.is_finite()) {
                    return None;
                }
                row[i] = square.sqrt();
                row[i + 1..].fill(0.0);
            }
        }
        Some(self)
    }

    /// The inverse of a lower triangle, which is one too.
    ///
    /// Row i of it is `(e_i - Σ L[i][k] · row k) / L[i][i]`, over rows that are already there.
    pub(crate) fn inverse_of_lower(&self) -> Self {
        let side = self.side;
        let mut inverse = Self::zeros(side);
        for start in (0..side).step_by(ROWS_TOGETHER) {
            let (done, rest) = inverse.values.split_at_mut(start * side);
            let rows = &mut rest[..ROWS_TOGETHER.min(side - start) * side];
            for (k, other) in done.chunks_exact(side).enumerate() {
                for (i, row) in (start..).zip(rows.chunks_exact_mut(side)) {
                    add_scaled(&mut row[..=k], -self.row(i)[k], &other[..=k]);
                }
            }
            for i in start..start + rows.len() / side {
                let (before, row) = rows.split_at_mut((i - start) * side);
                let row = &mut row[..=i];
                for (k, other) in (start..i).zip(before.chunks_exact(side)) {
                    add_scaled(&mut row[..=k], -self.row(i)[k], &other[..=k]);
                }
                row[i] = 1.0;
                let pivot = self.row(i)[i];
                row.iter_mut().for_each(|value| *value /= pivot);
            }
        }
        inverse
    }

    /// Solves `L·Lᵀ·x = b` in place, this being `L`.
    pub(crate) fn solve(&self, b: &mut [f64]) {
        for i in 0..self.side {
            b[i] = (b[i] - dot(&self.row(i)[..i], &b[..i])) / self.row(i)[i];
        }
        for i in (0..self.side).rev() {
            b[i] /= self.row(i)[i];
            let value = b[i];
            add_scaled(&mut b[..i], -value, &self.row(i)[..i]);
        }
    }

    /// Adds `columnsᵀ · columns` to the lower triangle: `columns[i]` holds what column `i` is in each of some samples.
    pub(crate) fn add_products(&mut self, columns: &[Vec<f32>]) {
        for (i, column) in columns.iter().enumerate() {
            for (value, other) in self.row_mut(i)[..=i].iter_mut().zip(columns) {
                *value += f64::from(dot_f32(column, other));
            }
        }
    }
}

/// Inner product in four independent sums, which is what lets the compiler use vectors.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    let (a_four, a_rest) = a.as_chunks::<4>();
    let (b_four, b_rest) = b.as_chunks::<4>();
    let mut sums = [0.0; 4];
    for (x, y) in a_four.iter().zip(b_four) {
        for lane in 0..4 {
            sums[lane] += x[lane] * y[lane];
        }
    }
    let rest: f64 = a_rest.iter().zip(b_rest).map(|(x, y)| x * y).sum();
    sums.iter().sum::<f64>() + rest
}

/// The same over f32, in eight sums; for a few hundred numbers at a time.
fn dot_f32(a: &[f32], b: &[f32]) -> f32 {
    let (a_eight, a_rest) = a.as_chunks::<8>();
    let (b_eight, b_rest) = b.as_chunks::<8>();
    let mut sums = [0.0; 8];
    for (x, y) in a_eight.iter().zip(b_eight) {
        for lane in 0..8 {
            sums[lane] += x[lane] * y[lane];
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(x, y)| x * y).sum();
    sums.iter().sum::<f32>() + rest
}

fn add_scaled(into: &mut [f64], factor: f64, from: &[f64]) {
    for (value, addend) in into.iter_mut().zip(from) {
        *value += factor * addend;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn positive(side: usize) -> Square {
        let columns: Vec<Vec<f32>> =
            (0..side).map(|i| (0..side * 2).map(|j| ((i * 7 + j * 13) % 11) as f32 - 5.0).collect()).collect();
        let mut matrix = Square::zeros(side);
        matrix.add_products(&columns);
        matrix.lift(1.0);
        matrix
    }

    #[test]
    fn a_system_is_solved() {
        let matrix = positive(9);
        let wanted: Vec<f64> = (0..9).map(|i| f64::from(i) - 3.5).collect();
        let entry = |i: usize, j: usize| matrix.row(i.max(j))[i.min(j)];
        let mut b: Vec<f64> = (0..9).map(|i| (0..9).map(|j| entry(i, j) * wanted[j]).sum()).collect();
        matrix.clone().cholesky().unwrap().solve(&mut b);
        assert!(b.iter().zip(&wanted).all(|(a, b)| (a - b).abs() < 1e-8), "{b:?}");
    }

    #[test]
    fn a_triangle_times_its_inverse_is_one() {
        let lower = positive(19).cholesky().unwrap();
        let inverse = lower.inverse_of_lower();
        for i in 0..19 {
            for j in 0..19 {
                let sum: f64 = (0..19).map(|k| lower.row(i)[k] * inverse.row(k)[j]).sum();
                assert!((sum - f64::from(u8::from(i == j))).abs() < 1e-9);
            }
        }
    }

    #[test]
    fn what_is_not_positive_definite_is_told() {
        assert_eq!(Square::zeros(3).cholesky(), None);
        let mut nan = Square::zeros(2);
        nan.lift(f64::NAN);
        assert_eq!(nan.cholesky(), None);
    }
}
