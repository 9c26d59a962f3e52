//! Decides which threshold is in force: the author's, or a stricter one that the hub has refitted from audits in the field.
//!
//! Fed by the shell with the threshold of the manifest and the hub's order for exactly that variant.

/// Order of the hub about the threshold of one variant.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Order {
    /// The author's threshold holds.
    #[default]
    Author,
    /// No answer counts as sure: audits broke the promise, and no other threshold is shown yet.
    Nothing,
    /// At least this score is kept.
    AtLeast(f32),
}

/// Origin of the threshold in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Source {
    /// The manifest, also where it has none.
    #[default]
    Author,
    /// The hub, from audits.
    Refitted,
    /// The hub has withdrawn the author's threshold and shown no other one.
    Withdrawn,
}

/// Threshold in force.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct InForce {
    /// Least score at which an answer is kept; `None` if none is.
    pub threshold: Option<f32>,
    /// Origin of it.
    pub source: Source,
}

/// Returns the threshold in force. It is never below the author's, and a variant without one never gets one.
#[must_use]
pub fn in_force(author: Option<f32>, order: Order) -> InForce {
    let Some(least) = author else { return InForce::default() };
    match order {
        Order::Nothing => InForce { threshold: None, source: Source::Withdrawn },
        Order::AtLeast(threshold) if threshold > least => {
            InForce { threshold: Some(threshold), source: Source::Refitted }
        }
        Order::Author | Order::AtLeast(_) => InForce { threshold: author, source: Source::Author },
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_hub_only_tightens_and_never_gives_a_threshold_to_a_variant_without_one() {
        let of = |threshold, source| InForce { threshold, source };
        assert_eq!(in_force(Some(0.8), Order::Author), of(Some(0.8), Source::Author));
        assert_eq!(in_force(Some(0.8), Order::AtLeast(0.9)), of(Some(0.9), Source::Refitted));
        assert_eq!(in_force(Some(0.8), Order::AtLeast(0.7)), of(Some(0.8), Source::Author));
        assert_eq!(in_force(Some(0.8), Order::AtLeast(f32::NAN)), of(Some(0.8), Source::Author));
        assert_eq!(in_force(Some(0.8), Order::Nothing), of(None, Source::Withdrawn));
        for order in [Order::Author, Order::Nothing, Order::AtLeast(0.5)] {
            assert_eq!(in_force(None, order), of(None, Source::Author));
        }
    }

    proptest! {
        #[test]
        fn no_order_keeps_an_answer_that_the_author_would_defer(author in 0.0_f32..1.0, order: f32, score in 0.0_f32..1.0) {
            let kept = in_force(Some(author), Order::AtLeast(order)).threshold.is_some_and(|least| score >= least);
            prop_assert!(!kept || score >= author);
        }
    }
}
