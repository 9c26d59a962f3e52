//! One form of the model that was tried, and everything that was measured of it.

use engine::ModelBytes;
use serde::Serialize;
use types::EngineName;

use super::recipe::Form;
use crate::Report;
use crate::latency::Timing;
use crate::pareto::{Cost, Span};
use crate::quality::Quality;

/// One form of the model.
#[derive(Debug, Clone, Serialize)]
pub struct Candidate {
    /// How it was made, like `int8-qdq per-channel entropy`; unique in a run.
    pub name: String,
    /// Kind and content of the form.
    pub form: Form,
    /// Bytes of the file.
    pub bytes: u64,
    /// Bytes of the file after zstd, as it travels.
    pub bytes_zstd: u64,
    /// How close it came to the reference; `None` when it gave no answers.
    pub quality: Option<Quality>,
    /// What it lost in the measure of the run; `None` when it gave no answers.
    pub loss: Option<f64>,
    /// Runs, one entry for each engine.
    pub runs: Vec<EngineRun>,
    /// Verdict on the form.
    pub verdict: Verdict,
    /// Report of the pass.
    pub report: Report,
    /// The file; `None` when no model was made.
    #[serde(skip)]
    pub model: Option<ModelBytes>,
}

/// Run of a candidate on one engine.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EngineRun {
    /// Engine that this is about.
    pub engine: EngineName,
    /// How long it took; `None` when it does not run there, or was not measured.
    pub timing: Option<Timing>,
    /// Reason why it does not run there.
    pub problem: Option<String>,
}

/// Verdict on a candidate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum Verdict {
    /// It is what the others are held against.
    Reference,
    /// Nothing beats it in every respect, and it loses no more than allowed.
    Good,
    /// Nothing beats it in every respect, but it loses more than allowed.
    Lossy,
    /// Another is at least as good in every respect.
    Beaten {
        /// The name of the other.
        by: String,
        /// Respects in which this form is worse, in words.
        reason: String,
    },
    /// It is no valid model, or gives no answers.
    Invalid {
        /// Reason, in one clause.
        reason: String,
    },
    /// The pass has nothing to do in this model.
    NotApplicable {
        /// Reason, in one clause.
        reason: String,
    },
}

impl Candidate {
    /// Returns what it costs, for the Pareto front; `None` when it gave no answers.
    #[must_use]
    pub fn cost(&self) -> Option<Cost> {
        let loss = self.loss?;
        // Of too few rounds nothing is known but that it runs.
        let span = |timing: Timing| match timing.is_enough() {
            true => Span { low: timing.ratio_low, middle: timing.ratio, high: timing.ratio_high },
            false => Span { low: 0.0, middle: timing.ratio, high: f64::INFINITY },
        };
        let latency = self.runs.iter().map(|run| run.timing.map(span)).collect();
        Some(Cost { loss, bytes: self.bytes_zstd, latency })
    }

    /// Returns its run on an engine.
    #[must_use]
    pub fn on(&self, engine: EngineName) -> Option<&EngineRun> {
        self.runs.iter().find(|run| run.engine == engine)
    }

    /// The engines that run it.
    pub fn engines(&self) -> impl Iterator<Item = EngineName> + '_ {
        self.runs.iter().filter(|run| run.problem.is_none()).map(|run| run.engine)
    }

    /// Returns whether it may be recommended: valid, and within the loss.
    #[must_use]
    pub fn is_eligible(&self) -> bool {
        match self.verdict {
            Verdict::Reference | Verdict::Good => true,
            Verdict::Lossy | Verdict::Beaten { .. } | Verdict::Invalid { .. } | Verdict::NotApplicable { .. } => false,
        }
    }
}
