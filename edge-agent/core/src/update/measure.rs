//! Measured activation: figures of a candidate on this device, compared with those of the version that serves.
//!
//! The shell measures; [`best`] chooses among variants and engines, and [`Limits::judge`] refuses a candidate that is too
//! much worse. Used by [`super::Updater`].

use std::time::Duration;

use crate::slots::Installed;

/// Default factor of the median latency beyond which a candidate is refused: a form that falls off an accelerator, or an
/// fp16 model on a processor, is ten times slower; anything less may be wanted.
pub const LATENCY_FACTOR_MAX: u32 = 10;

/// Difference of the median latency below which no factor counts.
pub const LATENCY_SLACK: Duration = Duration::from_millis(20);

/// Factor of the shortest run of the preferred form up to which another form takes its place: the order of an author or an
/// owner is not changed for what the next measurement may show the other way round.
pub const QUICKER_FACTOR: f64 = 0.8;

/// Difference of the shortest runs below which no other form takes the place of the preferred one.
pub const QUICKER_BY: Duration = Duration::from_micros(500);

/// Figures of one variant on one engine.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Figures {
    /// Duration of the shortest run: forms are compared by it, because another load on the device hardly changes it.
    pub least: Duration,
    /// Median duration of a run.
    pub p50: Duration,
    /// Duration that 95 % of the runs do not exceed.
    pub p95: Duration,
    /// Memory of the session in bytes; `None` where it is not known.
    pub memory_bytes: Option<u64>,
    /// Inputs whose answers were compared with those of the version that serves.
    pub compared: u32,
    /// Of these, the inputs with equal answers.
    pub agreed: u32,
}

impl Figures {
    /// Returns the share of equal answers, 0 to 1; `None` if nothing was compared.
    #[must_use]
    pub fn agreement(&self) -> Option<f64> {
        (self.compared > 0).then(|| f64::from(self.agreed) / f64::from(self.compared))
    }
}

/// Figures of a candidate and of the version that served at the same time.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Comparison {
    /// The chosen form of the candidate.
    pub candidate: Figures,
    /// The version that served; `None` if none did.
    pub active: Option<Figures>,
    /// Form of the candidate that was chosen; `None` if it is the one that was given.
    pub form: Option<Installed>,
}

/// Limits of a candidate, relative to the version that serves.
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    /// Maximum factor of the median latency.
    pub latency_factor: f64,
    /// Maximum memory of a session in bytes; `None` for no limit.
    pub memory_bytes: Option<u64>,
    /// Minimum share of equal answers, 0 to 1. A new version is meant to answer otherwise sometimes.
    pub agreement: f64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { latency_factor: f64::from(LATENCY_FACTOR_MAX), memory_bytes: None, agreement: 0.0 }
    }
}

impl Limits {
    /// Returns the reason, with figures, for which a candidate must not serve; `None` if it may.
    #[must_use]
    pub fn judge(&self, compared: &Comparison) -> Option<String> {
        let Comparison { candidate, active, form: _chosen } = compared;
        if let Some((limit, bytes)) = self.memory_bytes.zip(candidate.memory_bytes).filter(|(limit, is)| is > limit) {
            return Some(format!("its session takes {bytes} bytes of memory, at most {limit} are allowed"));
        }
        let active = active.as_ref()?;
        if let Some(share) = candidate.agreement().filter(|share| *share < self.agreement) {
            return Some(format!(
                "it agrees with the version that serves on {:.1} % of {} golden inputs, at least {:.1} % are required",
                share * 100.0,
                candidate.compared,
                self.agreement * 100.0
            ));
        }
        let is_slow = candidate.p50.as_secs_f64() > self.latency_factor * active.p50.as_secs_f64()
            && candidate.p50 > active.p50 + LATENCY_SLACK;
        is_slow.then(|| {
            format!(
                "its median run takes {:.1} ms, more than {} times the {:.1} ms of the version that serves",
                candidate.p50.as_secs_f64() * 1e3,
                self.latency_factor,
                active.p50.as_secs_f64() * 1e3
            )
        })
    }
}

/// Returns the index of the best of several forms of one version, which come in the order of preference. `None` without any
/// that fits into the memory.
///
/// The first that fits is taken, unless another one is clearly quicker ([`QUICKER_FACTOR`], [`QUICKER_BY`]) and agrees no
/// less with the version that serves; then the quickest of those.
#[must_use]
pub fn best(forms: &[Figures], memory_bytes: Option<u64>) -> Option<usize> {
    let fits = |figures: &Figures| match (memory_bytes, figures.memory_bytes) {
        (Some(limit), Some(bytes)) => bytes <= limit,
        (None, _) | (_, None) => true,
    };
    let mut fitting = forms.iter().enumerate().filter(|(_at, figures)| fits(figures));
    let (preferred, first) = fitting.next()?;
    let agreement = |figures: &Figures| figures.agreement().unwrap_or(1.0);
    let is_better = |figures: &Figures| {
        let is_quicker = figures.least + QUICKER_BY <= first.least
            && figures.least.as_secs_f64() <= QUICKER_FACTOR * first.least.as_secs_f64();
        is_quicker && agreement(figures) >= agreement(first)
    };
    let better = fitting.filter(|(_at, figures)| is_better(figures)).min_by_key(|(at, figures)| (figures.least, *at));
    Some(better.map_or(preferred, |(at, _figures)| at))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(ms: u64, agreed: u32) -> Figures {
        let p50 = Duration::from_millis(ms);
        Figures { least: p50, p50, p95: p50 * 2, memory_bytes: Some(ms * 1000), compared: 10, agreed }
    }

    fn judged(candidate: Figures, active: Option<Figures>) -> Option<String> {
        let limits = Limits { agreement: 0.5, memory_bytes: Some(1_000_000), ..Limits::default() };
        limits.judge(&Comparison { candidate, active, form: None })
    }

    #[test]
    fn a_candidate_is_refused_with_the_figure_that_is_too_bad() {
        assert_eq!(judged(figures(90, 10), Some(figures(10, 10))), None);
        assert!(judged(figures(110, 10), Some(figures(10, 10))).unwrap().contains("110.0 ms"));
        assert_eq!(judged(figures(20, 10), Some(figures(1, 10))), None, "a difference that nobody notices");
        assert!(judged(figures(10, 4), Some(figures(10, 10))).unwrap().contains("40.0 % of 10"));
        assert!(judged(figures(1001, 10), None).unwrap().contains("1001000 bytes"));
        assert_eq!(judged(figures(999, 0), None), None, "nothing to compare with");
    }

    #[test]
    fn a_clearly_quicker_form_that_fits_and_agrees_takes_the_place_of_the_preferred_one() {
        assert_eq!(best(&[figures(10, 10), figures(5, 10), figures(7, 10)], None), Some(1));
        assert_eq!(best(&[figures(10, 10), figures(5, 9)], None), Some(0), "not at the cost of agreement");
        assert_eq!(best(&[figures(10, 10), figures(5, 10)], Some(4000)), None);
        assert_eq!(best(&[figures(10, 10), figures(5, 10), figures(3, 9)], Some(6000)), Some(1));
        let unknown = |ms| Figures { compared: 0, agreed: 0, memory_bytes: None, ..figures(ms, 0) };
        assert_eq!(best(&[unknown(9), unknown(5)], Some(1)), Some(1), "what is not known is no reason");
        assert_eq!(best(&[figures(10, 10), figures(9, 10)], None), Some(0), "not clearly quicker");
        let micros = |us| Figures { least: Duration::from_micros(us), ..figures(7, 10) };
        assert_eq!(best(&[micros(600), micros(200)], None), Some(0), "a difference that nobody notices");
        assert_eq!(best(&[micros(900), micros(400)], None), Some(1));
        assert_eq!(best(&[figures(10, 9), figures(5, 10)], None), Some(1), "more agreement is no reason against it");
        assert_eq!(best(&[], None), None);
    }
}
