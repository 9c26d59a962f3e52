//! Watch over the scores of one loaded version: raises and ends the alarm of `edge_core::drift`, logged and counted.
//!
//! Fed by [`crate::answer`] with the score of each run; read by the status page and, where the owner wants it, by the routing.

use std::sync::{Mutex, PoisonError};

use bundle::Variant;
use edge_core::drift::{Change, Drift, Reference, Shift};
use serde::{Deserialize, Serialize};
use service::clock;
use types::{ModelName, NamedTensor, Version};

/// Reaction of the policy `cascade` to an alarm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnDrift {
    /// The threshold decides as before.
    #[default]
    Answer,
    /// Each request is deferred to the hub, as without a threshold, until the alarm ends.
    Defer,
}

/// Alarm as `GET /status` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DriftStatus {
    /// Direction of the change: `less-sure` or `more-sure`.
    pub shift: String,
    /// Time at which the alarm was raised, in milliseconds since 1970.
    pub since_unix_ms: u64,
}

impl DriftStatus {
    /// Returns whether scores are lower than in the calibration; otherwise they are higher.
    #[must_use]
    pub fn is_less_sure(&self) -> bool {
        self.shift == "less-sure"
    }

    /// Returns the finding in plain words.
    #[must_use]
    pub fn sentence(&self) -> String {
        format!(
            "the scores have left the distribution of the calibration ({}): its threshold promises nothing for these inputs",
            self.shift.replace('-', " ")
        )
    }
}

/// Watch over one loaded version.
#[derive(Debug, Default)]
pub struct DriftWatch {
    /// `None` for a variant without a calibration curve that says enough.
    state: Option<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    drift: Drift,
    alarm: Option<DriftStatus>,
}

impl DriftWatch {
    /// Begins a watch over a variant.
    #[must_use]
    pub fn of(variant: Option<&Variant>) -> Self {
        let curve = variant.and_then(|variant| variant.calibration.as_ref());
        let points = |curve: &bundle::manifest::Calibration| {
            let points = curve.curve.iter().map(|point| (point.threshold, point.coverage));
            Reference::of_curve(curve.examples, points)
        };
        let state =
            curve.and_then(points).map(|reference| Mutex::new(State { drift: Drift::new(reference), alarm: None }));
        Self { state }
    }

    /// Takes the score of an answer. `output` is the one that was scored: a batch is left out, because its score is that of its
    /// least sure row and the calibration's are of single rows.
    pub fn observe(&self, model: &ModelName, version: Version, output: &NamedTensor, score: f32) {
        let is_single = matches!(output.tensor.shape(), [] | [_] | [1, ..]);
        let Some(state) = self.state.as_ref().filter(|_| is_single) else { return };
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        match state.drift.observe(score, rand::random()) {
            Some(Change::Begins(shift)) => {
                let shift = match shift {
                    Shift::LessSure => "less-sure",
                    Shift::MoreSure => "more-sure",
                };
                let alarm = DriftStatus { shift: shift.to_owned(), since_unix_ms: clock::unix_ms() };
                tracing::warn!(%model, %version, shift, "{}", alarm.sentence());
                telemetry::metrics::drift_began(model.as_str(), shift);
                state.alarm = Some(alarm);
            }
            Some(Change::Ends) => {
                tracing::info!(%model, %version, "the scores fit the calibration again");
                telemetry::metrics::drift(model.as_str(), false);
                state.alarm = None;
            }
            None => {}
        }
    }

    /// Returns the alarm that stands.
    #[must_use]
    pub fn alarm(&self) -> Option<DriftStatus> {
        self.state.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner).alarm.clone()
    }

    /// Returns whether an alarm stands.
    #[must_use]
    pub fn is_alarmed(&self) -> bool {
        let is_alarmed = |state: &Mutex<State>| state.lock().unwrap_or_else(PoisonError::into_inner).alarm.is_some();
        self.state.as_ref().is_some_and(is_alarmed)
    }
}
