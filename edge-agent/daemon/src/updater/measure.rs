//! Measured activation: runs a candidate on this device beside the version that serves, and on every engine
//! that fits where the owner asks for it.
//!
//! Used by [`super::task`] for `Step::Measure`. The golden inputs are the load of the benchmark; candidate and active
//! version take turns, so that another load on the device slows both alike. `edge_core::update::measure` judges.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bundle::{Bundle, Verified};
use edge_core::agreement;
use edge_core::update::Failure;
use edge_core::update::measure::{Comparison, Figures, best};
use types::NamedTensor;

use super::jobs::{self, Done, blocking};
use super::load::Wanted;
use super::task::UpdaterParts;
use super::trouble;
use crate::measured::{Form, Measured};
use crate::models::Serving;

/// Maximum time of the benchmark of one update: a device that measures answers its applications more slowly.
const BUDGET: Duration = Duration::from_secs(2);

/// Maximum number of runs of each form: the median of 30 runs moves little with more.
const ROUNDS_MAX: usize = 30;

/// Runs of each form that are not counted: the first ones allocate and fill caches.
const WARM_UP: usize = 2;

/// Maximum time of one run of the benchmark.
const RUN_WITHIN: Duration = Duration::from_secs(10);

/// One session on the bench.
struct Bench {
    serving: Arc<Serving>,
    runs: Vec<Duration>,
    outputs: Vec<NamedTensor>,
    /// Reason for which it cannot serve.
    refused: Option<String>,
}

impl Bench {
    fn new(serving: Arc<Serving>) -> Self {
        Self { serving, runs: Vec::new(), outputs: Vec::new(), refused: None }
    }

    async fn run(&mut self, inputs: &[NamedTensor], is_counted: bool) {
        if self.refused.is_some() {
            return;
        }
        let deadline = Instant::now().checked_add(RUN_WITHIN);
        match self.serving.session.infer(inputs.to_vec(), Vec::new(), deadline).await {
            Ok(outcome) => {
                if is_counted {
                    self.runs.push(outcome.compute);
                }
                self.outputs = outcome.outputs;
            }
            Err(error) => self.refused = Some(telemetry::chain(&error)),
        }
    }

    fn figures(&self, memory_bytes: Option<u64>, active: Option<&Self>) -> Figures {
        let mut runs = self.runs.clone();
        runs.sort_unstable();
        let at = |percent: usize| runs.get((runs.len() * percent / 100).min(runs.len().saturating_sub(1))).copied();
        let rule = self.serving.compared();
        let agreed = active.and_then(|active| agreement::count(&rule, &self.outputs, &active.outputs));
        let (compared, agreed) = agreed.unwrap_or_default();
        let (p50, p95) = (at(50).unwrap_or_default(), at(95).unwrap_or_default());
        Figures { p50, p95, memory_bytes, compared, agreed }
    }
}

/// Measures a candidate beside the active version, and chooses the best of its engines.
pub(super) async fn measure(
    parts: Arc<UpdaterParts>,
    bundle: Bundle<Verified>,
    serving: Arc<Serving>,
) -> Result<Done, Failure> {
    let Some(inputs) = inputs(&bundle, &serving).await? else {
        return Ok(Done::Measured(Comparison::default(), serving));
    };
    let mut forms = vec![Bench::new(serving)];
    add_other_engines(&parts, &bundle, &mut forms).await;
    let active = parts.model.serving().filter(|active| active.session.signature().check_inputs(&inputs).is_ok());
    let mut active = active.map(Bench::new);
    let end = Instant::now() + BUDGET;
    for round in 0..WARM_UP + ROUNDS_MAX {
        for bench in forms.iter_mut().chain(&mut active) {
            bench.run(&inputs, round >= WARM_UP).await;
        }
        if round >= WARM_UP && Instant::now() >= end {
            break;
        }
    }
    Ok(choose(&parts, forms, active))
}

fn choose(parts: &UpdaterParts, forms: Vec<Bench>, active: Option<Bench>) -> Done {
    let memory = |bench: &Bench| {
        let installed = &bench.serving.installed;
        parts.shared.engines.memory_of(&format!("{}/{}", parts.model.name, installed.version))
    };
    let active = active.filter(|active| active.refused.is_none());
    let figures: Vec<Figures> = forms.iter().map(|form| form.figures(memory(form), active.as_ref())).collect();
    let usable = |at: &usize| forms.get(*at).is_some_and(|form| form.refused.is_none());
    let usable: Vec<usize> = (0..forms.len()).filter(usable).collect();
    let candidates: Vec<Figures> = usable.iter().filter_map(|at| figures.get(*at).cloned()).collect();
    let chosen =
        best(&candidates, parts.shared.updates.measure_memory_max_bytes).and_then(|at| usable.get(at).copied());
    // Where none fits, the first is judged, and refused with its figures.
    let chosen = chosen.unwrap_or(0);
    let active_figures = active.as_ref().map(|active| active.figures(memory(active), None));
    let form = |(bench, figures): (&Bench, &Figures)| Form {
        version: bench.serving.installed.version,
        variant: bench.serving.installed.variant.clone(),
        engine: bench.serving.engine,
        figures: figures.clone(),
        refused: bench.refused.clone(),
    };
    let mut measured: Vec<Form> = forms.iter().zip(&figures).map(form).collect();
    measured.swap(0, chosen);
    for form in &measured {
        tracing::info!(model = %parts.model.name, version = %form.version, engine = %form.engine, figures = ?form.figures,
            refused = form.refused, "measured");
    }
    let active_form = active.as_ref().zip(active_figures.as_ref()).map(form);
    let model = parts.model.name.clone();
    if let Some(version) = measured.first().map(|form| form.version) {
        parts.shared.measurements.push(Measured { model, version, forms: measured, active: active_form });
    }
    let candidate = figures.get(chosen).cloned().unwrap_or_default();
    let serving = forms.into_iter().nth(chosen).map(|form| form.serving);
    let comparison = Comparison { candidate, active: active_figures };
    match serving {
        Some(serving) => Done::Measured(comparison, serving),
        // There is always the one that was given.
        None => Done::Fetched,
    }
}

/// Loads the candidate on the other engines that may run it, where the owner leaves the choice to the measurement.
async fn add_other_engines(parts: &Arc<UpdaterParts>, bundle: &Bundle<Verified>, forms: &mut Vec<Bench>) {
    if parts.model.table.engine.is_some() || !parts.shared.updates.measure_engines {
        return;
    }
    let Some(mut last) = forms.first().map(|form| form.serving.engine) else { return };
    loop {
        let wanted = Wanted { preferred: None, after: Some(last) };
        if wanted.among(&parts.shared.engines, &bundle.variant().engines).next().is_none() {
            return;
        }
        match jobs::load_proven(parts, bundle, wanted).await {
            Ok(serving) => {
                last = serving.engine;
                forms.push(Bench::new(serving));
            }
            Err(failure) => {
                tracing::info!(model = %parts.model.name, %failure, "another engine does not run the candidate");
                return;
            }
        }
    }
}

/// Returns the golden inputs; zeros where the version has none, `None` where the model takes none.
async fn inputs(bundle: &Bundle<Verified>, serving: &Serving) -> Result<Option<Vec<NamedTensor>>, Failure> {
    let bundle = bundle.clone();
    let golden = blocking(move || bundle.golden().map_err(|error| trouble::of_verify(&error))).await?;
    Ok(golden.map(|golden| golden.inputs).or_else(|| engine::zeros(serving.session.signature())))
}
