//! Numbers of several rounds, and their summary: the median, with quartiles as its spread.

/// One number per round, in the order of the rounds.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Sample(Vec<f64>);

impl Sample {
    /// Creates a sample from the numbers of all rounds.
    #[must_use]
    pub fn new(values: Vec<f64>) -> Self {
        Self(values)
    }

    /// Creates a sample of a number that is equal in every round, like a count.
    #[must_use]
    pub fn exact(value: f64) -> Self {
        Self(vec![value])
    }

    /// Adds the number of one more round.
    pub fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    /// Returns the median, between the two middle numbers if their count is even; NaN without numbers.
    #[must_use]
    pub fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    /// Returns the first and third quartile.
    #[must_use]
    pub fn quartiles(&self) -> [f64; 2] {
        [self.quantile(0.25), self.quantile(0.75)]
    }

    /// Returns for each round the ratio of this number to that of `other` in the same round: both had the same load of
    /// the machine.
    #[must_use]
    pub fn over(&self, other: &Self) -> Self {
        Self(self.0.iter().zip(&other.0).map(|(one, two)| one / two).collect())
    }

    /// Interpolates between neighbours, as numpy's default does.
    fn quantile(&self, share: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
        #[expect(clippy::cast_precision_loss, reason = "rounds are few")]
        let place = share * last as f64;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and the last index")]
        let below = place as usize;
        let at = |index: usize| sorted.get(index.min(last)).copied().unwrap_or(f64::NAN);
        at(below) + (at(below + 1) - at(below)) * place.fract()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_round_in_a_storm_does_not_move_the_median() {
        let calm = Sample::new(vec![10.0, 11.0, 12.0, 13.0, 14.0]);
        let stormy = Sample::new(vec![10.0, 900.0, 12.0, 13.0, 11.0]);
        assert_eq!(calm.median(), 12.0);
        assert_eq!(stormy.median(), 12.0);
        assert_eq!(calm.quartiles(), [11.0, 13.0]);
    }

    #[test]
    fn an_even_count_is_judged_between_its_two_middle_rounds() {
        let sample = Sample::new(vec![4.0, 1.0, 3.0, 2.0]);
        assert_eq!(sample.median(), 2.5);
        assert_eq!(sample.quartiles(), [1.75, 3.25]);
    }

    #[test]
    fn rounds_are_compared_with_the_same_round_of_the_other() {
        // The machine was three times slower in the second round, for both.
        let ratios = Sample::new(vec![20.0, 60.0]).over(&Sample::new(vec![10.0, 30.0]));
        assert_eq!(ratios.quartiles(), [2.0, 2.0]);
    }

    #[test]
    fn no_rounds_are_no_number() {
        assert!(Sample::default().median().is_nan());
    }
}
