//! Cosine of the outputs of two models, with an interval.

use types::Tensor;

use crate::arithmetic::cosine;
use crate::labels::numbers;
use crate::metrics::{CONFIDENCE, Figure};
use crate::{bootstrap, real};

/// Seed of the draws: the same examples give the same interval.
const SEED: u64 = 1;

/// Returns the mean cosine of the outputs of two models over the examples. `None` without examples, for outputs of texts, and where an output
/// has another number of elements or a single one.
#[must_use]
pub fn mean_cosine(ours: &[Tensor], theirs: &[Tensor]) -> Option<Figure> {
    let of_pair = |(ours, theirs): (&Tensor, &Tensor)| {
        let read = |tensor: &Tensor| numbers(tensor.dtype(), tensor.data());
        let (ours, theirs) = (read(ours)?, read(theirs)?);
        let sum = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let is_vector = ours.len() == theirs.len() && ours.len() > 1;
        is_vector.then(|| cosine(sum(&ours, &theirs), sum(&ours, &ours), sum(&theirs, &theirs)))
    };
    let cosines: Vec<f64> = ours.iter().zip(theirs).map(of_pair).collect::<Option<_>>()?;
    let mean = |drawn: &mut dyn Iterator<Item = usize>, count: usize| {
        drawn.filter_map(|at| cosines.get(at)).sum::<f64>() / real(count)
    };
    let examples = cosines.len();
    let interval =
        bootstrap::interval(examples, CONFIDENCE, SEED, |drawn| Some(mean(&mut drawn.iter().copied(), drawn.len())))?;
    Some(Figure { value: mean(&mut (0..examples), examples), interval, examples })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mean_cosine_is_over_examples() {
        let of = |values: &[f32]| Tensor::from_f32(vec![1, values.len()], values).unwrap();
        let ours = [of(&[1.0, 0.0]), of(&[1.0, 1.0])];
        let found = mean_cosine(&ours, &[of(&[0.0, 2.0]), of(&[3.0, 3.0])]).unwrap();
        assert!((found.value - 0.5).abs() < 1e-12 && found.interval.low <= 0.5 && found.interval.high >= 0.5);
        assert_eq!(mean_cosine(&ours, &[of(&[1.0]), of(&[1.0, 2.0])]), None);
        assert_eq!(mean_cosine(&[], &[]), None);
    }
}
