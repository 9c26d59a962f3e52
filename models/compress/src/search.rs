//! Mixed precision: which layers stay in float so that a model is as small as it can be within a loss.
//!
//! A pure decision: layers come in the order of their sensitivity, the worst first ([`crate::sensitivity`]); whoever
//! calls makes and judges the model for each set of layers that is asked about.

/// Most models that one search makes and judges.
///
/// Bisection over 1,000 layers takes 20; what is left goes into giving layers back.
pub const PROBES_MAX: usize = 40;

/// One model that the search asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Probe {
    /// Layers left in float, by their place in the order of sensitivity; ascending.
    pub float: Vec<usize>,
    /// Loss, in the measure of the run.
    pub loss: f64,
}

/// End of a search.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// Layers to leave in float; all of them when nothing less is within the loss.
    pub float: Vec<usize>,
    /// Everything that was tried, in order.
    pub probes: Vec<Probe>,
    /// Whether the search ended because [`PROBES_MAX`] was reached.
    pub is_cut_short: bool,
}

/// Finds a small set of layers to leave in float.
///
/// Doubles the number of most sensitive layers in float until the loss is within `loss_max`, halves the step back to the
/// least such number, then gives layers back one at a time, the least sensitive first. Every answer rests on a probe
/// that was within the loss; that the loss falls with each layer is never assumed for the answer, only for the order.
///
/// # Errors
/// The first error of `judge`, which is given the layers left in float (ascending) and answers with the loss.
pub fn smallest_within<E>(
    layers: usize,
    loss_max: f64,
    judge: impl FnMut(&[usize]) -> Result<f64, E>,
) -> Result<Found, E> {
    let mut search = Search { loss_max, judge, probes: Vec::new() };
    // With every layer in float it is the model that was given.
    let mut float: Vec<usize> = (0..layers).collect();
    let Some(count) = search.fewest_in_a_row(layers)? else { return Ok(search.end(float)) };
    float.truncate(count);
    for layer in (0..count).rev() {
        let without: Vec<usize> = float.iter().copied().filter(|&kept| kept != layer).collect();
        // The last of the row was shown to be needed by the bisection.
        if layer + 1 == count && count == float.len() {
            continue;
        }
        match search.is_within(&without)? {
            Some(true) => float = without,
            Some(false) => {}
            None => break,
        }
    }
    Ok(search.end(float))
}

struct Search<J> {
    loss_max: f64,
    judge: J,
    probes: Vec<Probe>,
}

impl<E, J: FnMut(&[usize]) -> Result<f64, E>> Search<J> {
    /// The least number of most sensitive layers that must stay in float; `None` when all must.
    fn fewest_in_a_row(&mut self, layers: usize) -> Result<Option<usize>, E> {
        let (mut too_few, mut enough, mut step) = (None, None, 0_usize);
        while enough.is_none() && step < layers {
            match self.is_within_row(step)? {
                Some(true) => enough = Some(step),
                Some(false) => too_few = Some(step),
                None => return Ok(None),
            }
            step = if step == 0 { 1 } else { step.saturating_mul(2) };
        }
        let mut high = enough.unwrap_or(layers);
        let Some(mut low) = too_few else { return Ok(enough) };
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            match self.is_within_row(middle)? {
                Some(true) => high = middle,
                Some(false) => low = middle,
                None => break,
            }
        }
        Ok((high < layers).then_some(high))
    }

    fn is_within_row(&mut self, count: usize) -> Result<Option<bool>, E> {
        let float: Vec<usize> = (0..count).collect();
        self.is_within(&float)
    }

    /// Returns whether the model with these layers in float is within the loss; `None` when no more may be tried.
    fn is_within(&mut self, float: &[usize]) -> Result<Option<bool>, E> {
        if self.probes.len() >= PROBES_MAX {
            return Ok(None);
        }
        let loss = (self.judge)(float)?;
        self.probes.push(Probe { float: float.to_vec(), loss });
        Ok(Some(loss <= self.loss_max))
    }

    fn end(self, float: Vec<usize>) -> Found {
        let is_cut_short = self.probes.len() >= PROBES_MAX;
        Found { float, probes: self.probes, is_cut_short }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// A model whose loss is the sum of the losses of its quantized layers.
    fn additive(losses: &[f64], loss_max: f64) -> Found {
        let judge = |float: &[usize]| {
            let quantized = losses.iter().enumerate().filter(|(at, _)| !float.contains(at));
            Ok::<f64, Infallible>(quantized.map(|(_, loss)| loss).sum())
        };
        smallest_within(losses.len(), loss_max, judge).unwrap()
    }

    #[test]
    fn nothing_stays_in_float_when_nothing_needs_to() {
        let found = additive(&[0.1, 0.05, 0.01], 1.0);
        assert_eq!((found.float, found.probes.len()), (vec![], 1));
    }

    #[test]
    fn the_worst_layers_stay_and_no_more() {
        let found = additive(&[0.5, 0.3, 0.004, 0.003, 0.002, 0.001], 0.011);
        assert_eq!(found.float, [0, 1]);
    }

    #[test]
    fn everything_stays_in_float_when_nothing_helps() {
        let found = additive(&[0.5, 0.5, 0.5], 0.1);
        assert_eq!(found.float, [0, 1, 2]);
        assert_eq!(smallest_within(0, 0.1, |_| Ok::<f64, Infallible>(0.0)).unwrap().float, Vec::<usize>::new());
    }

    #[test]
    fn a_layer_whose_rank_was_wrong_is_given_back() {
        // Layer 1 looked bad alone and costs nothing together.
        assert_eq!(additive(&[0.5, 0.0, 0.4, 0.001], 0.01).float, [0, 2]);
    }

    #[test]
    fn an_error_ends_the_search() {
        assert_eq!(smallest_within(5, 0.1, |_| Err::<f64, _>("engine gone")), Err("engine gone"));
    }

    proptest! {
        #[test]
        fn the_answer_was_tried_and_is_within_the_loss(
            losses in vec(0.0_f64..1.0, 0..200), loss_max in 0.0_f64..2.0, wild in any::<bool>(),
        ) {
            let judge = |float: &[usize]| {
                let quantized = losses.iter().enumerate().filter(|(at, _)| !float.contains(at));
                let sum: f64 = quantized.map(|(_, loss)| loss).sum();
                // A loss that jumps about and is sometimes no number must not make the answer wrong.
                let jump = match float.len() % 3 { 0 => 0.3, 1 => f64::NAN, _ => -0.1 };
                Ok::<f64, Infallible>(if wild { sum + jump } else { sum })
            };
            let found = smallest_within(losses.len(), loss_max, judge).unwrap();
            prop_assert!(found.probes.len() <= PROBES_MAX);
            let is_all = found.float.len() == losses.len();
            let tried = found.probes.iter().find(|probe| probe.float == found.float);
            prop_assert!(is_all || tried.is_some_and(|probe| probe.loss <= loss_max));
        }

        #[test]
        fn with_a_true_order_no_shorter_row_of_worst_layers_would_do(mut losses in vec(0.001_f64..1.0, 1..60), loss_max in 0.0_f64..2.0) {
            losses.sort_unstable_by(|a, b| b.total_cmp(a));
            let found = additive(&losses, loss_max);
            let needed = (0..=losses.len()).find(|&count| losses[count..].iter().sum::<f64>() <= loss_max).unwrap();
            prop_assert!(found.float.len() <= needed, "{} kept where {needed} do", found.float.len());
        }
    }
}
