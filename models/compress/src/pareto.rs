//! Which candidates are worth looking at: those that no other beats in every respect.
//!
//! Pure decisions over measured figures. Fed by [`crate::auto`] and [`crate::search`]; [`plot`] draws what came of it.

pub mod plot;

use std::cmp::Ordering;

/// Two times within this share of each other count as equal: what one machine measures twice differs as much.
pub const LATENCY_SLACK: f64 = 0.03;

/// Costs of one candidate; less is better throughout.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Cost {
    /// Quality lost, in the measure of the run.
    pub loss: f64,
    /// Size in bytes as it travels (after zstd).
    pub bytes: u64,
    /// Time over the reference's time, one for each engine of the run; `None` where it does not run.
    pub latency: Vec<Option<Span>>,
}

/// A measured ratio and what it may really be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Span {
    /// The least it may be.
    pub low: f64,
    /// Best estimate of the ratio.
    pub middle: f64,
    /// The most it may be.
    pub high: f64,
}

impl Span {
    /// Returns whether this one is surely less: apart by more than the slack, and the two spans do not meet.
    fn is_below(self, other: Self) -> bool {
        self.middle < other.middle * (1.0 - LATENCY_SLACK) && self.high < other.low
    }
}

impl Cost {
    /// Returns whether this one is no worse in any respect and better in at least one.
    ///
    /// A candidate that does not run on an engine is worse there than any that does.
    #[must_use]
    pub fn beats(&self, other: &Self) -> bool {
        let sides = self.sides(other);
        !sides.contains(&Ordering::Greater) && sides.contains(&Ordering::Less)
    }

    /// Returns how the two stand in each respect: loss, bytes, then the engines. A loss that is no number is the worst there is.
    fn sides(&self, other: &Self) -> Vec<Ordering> {
        let loss = match (self.loss.is_nan(), other.loss.is_nan()) {
            (false, false) => self.loss.total_cmp(&other.loss),
            (is_nan, other_is_nan) => is_nan.cmp(&other_is_nan),
        };
        let engines = self.latency.len().max(other.latency.len());
        let time = |cost: &Self, at: usize| cost.latency.get(at).copied().flatten();
        let latency = (0..engines).map(|at| compare_times(time(self, at), time(other, at)));
        [loss, self.bytes.cmp(&other.bytes)].into_iter().chain(latency).collect()
    }
}

fn compare_times(one: Option<Span>, other: Option<Span>) -> Ordering {
    match (one, other) {
        (Some(one), Some(other)) if one.is_below(other) => Ordering::Less,
        (Some(one), Some(other)) if other.is_below(one) => Ordering::Greater,
        (Some(_), Some(_)) | (None, None) => Ordering::Equal,
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
    }
}

/// For each candidate the one that beats it and is itself on the Pareto front; `None` for those on the Pareto front.
///
/// At least one candidate stays on the Pareto front, whatever the figures. Of several that beat a candidate the one with the
/// least loss is named, then the smallest, then the first.
#[must_use]
pub fn beaten_by(costs: &[Cost]) -> Vec<Option<usize>> {
    let mut beaten: Vec<Option<usize>> = vec![None; costs.len()];
    // One at a time, by a candidate that still stands: times that are equal within the slack could beat each other in
    // a circle, and a circle must not empty the Pareto front.
    let mut order: Vec<usize> = (0..costs.len()).collect();
    order.sort_by(|&a, &b| worst_first(costs, a, b));
    for at in order {
        let Some(cost) = costs.get(at) else { continue };
        let standing = costs.iter().enumerate().filter(|(by, _)| beaten.get(*by) == Some(&None));
        let by = standing.filter(|(_, other)| other.beats(cost)).min_by(|a, b| best_first(a.1, b.1)).map(|(by, _)| by);
        if let Some(place) = beaten.get_mut(at) {
            *place = by;
        }
    }
    // A candidate may have been beaten by one that fell later itself.
    let named: Vec<Option<usize>> = beaten.iter().map(|by| by.map(|by| standing(&beaten, by))).collect();
    named
}

/// Follows the chain of who beat whom to one that stands; each step leads to a candidate that fell later, so it ends.
fn standing(beaten: &[Option<usize>], mut at: usize) -> usize {
    for _ in 0..beaten.len() {
        match beaten.get(at).copied().flatten() {
            Some(by) => at = by,
            None => break,
        }
    }
    at
}

fn best_first(a: &Cost, b: &Cost) -> Ordering {
    a.loss.total_cmp(&b.loss).then(a.bytes.cmp(&b.bytes))
}

fn worst_first(costs: &[Cost], a: usize, b: usize) -> Ordering {
    match (costs.get(a), costs.get(b)) {
        (Some(one), Some(other)) => best_first(other, one).then(b.cmp(&a)),
        (Some(_) | None, _) => a.cmp(&b),
    }
}

/// Returns how much worse a candidate is than another, in words: `1.8x slower on ort, 3.0x the loss`. Empty when it is not.
#[must_use]
pub fn worse_in(candidate: &Cost, than: &Cost, engines: &[String]) -> String {
    let mut said = Vec::new();
    for (at, engine) in engines.iter().enumerate() {
        let time = |cost: &Cost| cost.latency.get(at).copied().flatten();
        match (time(candidate), time(than)) {
            (Some(one), Some(other)) if compare_times(Some(one), Some(other)) == Ordering::Greater => {
                said.push(format!("{} slower on {engine}", times(one.middle / other.middle)));
            }
            (None, Some(_)) => said.push(format!("does not run on {engine}")),
            (Some(_), _) | (None, None) => {}
        }
    }
    if candidate.loss > than.loss {
        said.push(match than.loss > 0.0 {
            true => format!("{} the loss", times(candidate.loss / than.loss)),
            false => format!("loses {:.2} % more", 100.0 * (candidate.loss - than.loss)),
        });
    }
    if candidate.bytes > than.bytes {
        #[expect(clippy::cast_precision_loss, reason = "told with two digits")]
        let ratio = candidate.bytes as f64 / than.bytes.max(1) as f64;
        said.push(format!("{} the size", times(ratio)));
    }
    said.join(", ")
}

/// A factor with as many digits as can be told apart.
fn times(ratio: f64) -> String {
    if ratio < 1.095 { format!("{ratio:.3}x") } else { format!("{ratio:.1}x") }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::option;
    use proptest::prelude::*;

    use super::*;

    fn span(middle: f64) -> Span {
        Span { low: 0.99 * middle, middle, high: 1.01 * middle }
    }

    fn cost(loss: f64, bytes: u64, latency: f64) -> Cost {
        Cost { loss, bytes, latency: vec![Some(span(latency))] }
    }

    fn any_cost() -> impl Strategy<Value = Cost> {
        // Few distinct values, so that ties and circles come up.
        let latency = vec(option::of((90_u32..110).prop_map(|percent| span(f64::from(percent) / 100.0))), 2);
        (0_u8..4, 0_u64..4, latency).prop_map(|(loss, bytes, latency)| Cost { loss: f64::from(loss), bytes, latency })
    }

    #[test]
    fn slower_and_worse_is_beaten_and_told_in_words() {
        let (static_int8, dynamic) = (cost(0.01, 100, 0.5), cost(0.03, 110, 1.8));
        assert_eq!(beaten_by(&[static_int8.clone(), dynamic.clone()]), [None, Some(0)]);
        let said = worse_in(&dynamic, &static_int8, &["ort".to_owned()]);
        assert_eq!(said, "3.6x slower on ort, 3.0x the loss, 1.1x the size");
    }

    #[test]
    fn a_trade_is_never_refused() {
        let costs = [cost(0.0, 400, 1.0), cost(0.01, 100, 0.5), cost(0.02, 50, 2.0)];
        assert_eq!(beaten_by(&costs), [None, None, None]);
    }

    #[test]
    fn what_runs_where_nothing_else_does_stays() {
        let only_here = Cost { loss: 1.0, bytes: 900, latency: vec![Some(span(2.0)), Some(span(1.0))] };
        let better = Cost { loss: 0.0, bytes: 100, latency: vec![Some(span(1.0)), None] };
        assert_eq!(beaten_by(&[only_here, better]), [None, None]);
    }

    #[test]
    fn a_loss_that_is_no_number_beats_nothing() {
        let broken = Cost { loss: f64::NAN, bytes: 100, latency: vec![Some(span(1.0))] };
        assert_eq!(beaten_by(&[broken, cost(0.5, 100, 1.0)]), [Some(1), None]);
    }

    #[test]
    fn times_within_the_noise_are_equal() {
        assert!(!cost(0.0, 1, 0.99).beats(&cost(0.0, 1, 1.0)));
        assert!(cost(0.0, 1, 0.9).beats(&cost(0.0, 1, 1.0)));
        let wide = Cost { latency: vec![Some(Span { low: 0.2, middle: 0.5, high: 1.6 })], ..cost(0.0, 1, 0.5) };
        assert!(!wide.beats(&cost(0.0, 1, 1.0)), "half the time, as far as anybody can tell, is not sure enough");
    }

    proptest! {
        #[test]
        fn somebody_stays_and_whoever_falls_is_beaten_by_one_who_stays(costs in vec(any_cost(), 1..12)) {
            let beaten = beaten_by(&costs);
            prop_assert!(beaten.iter().any(Option::is_none));
            for by in beaten.iter().flatten() {
                prop_assert_eq!(beaten[*by], None);
            }
        }

        #[test]
        fn nobody_on_the_front_is_beaten_when_times_are_exact(costs in vec((0_u8..9, 0_u64..9), 1..12)) {
            let costs: Vec<Cost> = costs.iter().map(|&(loss, bytes)| cost(f64::from(loss), bytes, 1.0)).collect();
            let beaten = beaten_by(&costs);
            for (at, one) in costs.iter().enumerate() {
                prop_assert_eq!(beaten[at].is_some(), costs.iter().any(|other| other.beats(one)));
            }
        }

        #[test]
        fn two_candidates_never_beat_each_other(one in any_cost(), other in any_cost()) {
            prop_assert!(!(one.beats(&other) && other.beats(&one)));
            prop_assert!(!one.beats(&one));
        }
    }
}
