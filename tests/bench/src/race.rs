//! Lets contestants take turns, so that the load of the machine affects all of them alike.

use std::time::Instant;

use anyhow::Result;

use crate::sample::Sample;

/// One iteration of a contestant; returns its milliseconds.
pub type Turn<'a> = &'a mut dyn FnMut() -> Result<f64>;

/// Runs this number of rounds; every other round is in reverse order, so that no contestant always follows the same
/// one.
///
/// Returns one [`Sample`] for each contestant. The first turn of each is not counted: caches are cold.
///
/// # Errors
/// Returns the first error of a contestant.
pub fn race<const N: usize>(rounds: u32, mut turns: [Turn<'_>; N]) -> Result<[Sample; N]> {
    let mut samples = [const { Vec::new() }; N];
    for turn in &mut turns {
        turn()?;
    }
    for round in 0..rounds {
        let mut order: Vec<_> = turns.iter_mut().zip(&mut samples).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for (turn, sample) in order {
            sample.push(turn()?);
        }
    }
    Ok(samples.map(Sample::new))
}

/// Returns the milliseconds of some work, and its result.
///
/// # Errors
/// Returns the error of the work.
pub fn timed<T>(work: impl FnOnce() -> Result<T>) -> Result<(f64, T)> {
    let begin = Instant::now();
    let result = work()?;
    Ok((begin.elapsed().as_secs_f64() * 1e3, result))
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[test]
    fn contestants_take_turns_and_the_order_changes() {
        let order = RefCell::new(String::new());
        let mut one = || {
            order.borrow_mut().push('a');
            Ok(1.0)
        };
        let mut two = || {
            order.borrow_mut().push('b');
            Ok(2.0)
        };
        let [ours, theirs] = race(3, [&mut one, &mut two]).unwrap();
        assert_eq!((ours.median(), theirs.median()), (1.0, 2.0));
        assert_eq!(order.into_inner(), "ab ab ba ab".replace(' ', ""), "a warm-up, then three rounds");
    }

    #[test]
    fn an_error_ends_the_race() {
        let mut fails = || anyhow::bail!("lost");
        assert_eq!(race(3, [&mut fails]).unwrap_err().to_string(), "lost");
    }
}
