//! Measured activation: runs a candidate on this device beside the version that serves, in the variants that were fetched for
//! that and, where the owner asks for it, on every engine.
//!
//! Used by [`super::task`] for `Step::Measure`. The golden inputs are the load of the benchmark; all forms of the candidate and
//! the active version take turns, so that another load on the device slows all alike. `edge_core::update::measure` judges, and
//! [`super::forms`] keeps the choice.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bundle::{Bundle, Verified};
use edge_core::agreement;
use edge_core::update::Failure;
use edge_core::update::measure::{Comparison, Figures, best};
use types::{EngineName, NamedTensor};

use super::jobs::{self, Done, blocking};
use super::load::Wanted;
use super::task::UpdaterParts;
use super::{disk, forms, trouble};
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

/// Maximum number of forms of a candidate that are loaded at once, each in a process of its own, beside the version that serves.
const FORMS_MAX: usize = 4;

/// One session on the bench.
struct Bench {
    bundle: Bundle<Verified>,
    serving: Arc<Serving>,
    measuring: Measuring,
}

/// Runs of one session so far.
#[derive(Default)]
struct Measuring {
    runs: Vec<Duration>,
    outputs: Vec<NamedTensor>,
    /// Reason for which it cannot serve.
    refused: Option<String>,
}

impl Measuring {
    async fn run(&mut self, serving: &Serving, inputs: &[NamedTensor], is_counted: bool) {
        if self.refused.is_some() {
            return;
        }
        let deadline = Instant::now().checked_add(RUN_WITHIN);
        match serving.session.infer(inputs.to_vec(), Vec::new(), deadline).await {
            Ok(outcome) => {
                if is_counted {
                    self.runs.push(outcome.compute);
                }
                self.outputs = outcome.outputs;
            }
            Err(error) => self.refused = Some(telemetry::chain(&error)),
        }
    }

    fn figures(&self, serving: &Serving, memory_bytes: Option<u64>, active: Option<&Self>) -> Figures {
        let mut runs = self.runs.clone();
        runs.sort_unstable();
        let at = |percent: usize| runs.get((runs.len() * percent / 100).min(runs.len().saturating_sub(1))).copied();
        let rule = serving.compared();
        let agreed = active.and_then(|active| agreement::count(&rule, &self.outputs, &active.outputs));
        let (compared, agreed) = agreed.unwrap_or_default();
        let (p50, p95) = (at(50).unwrap_or_default(), at(95).unwrap_or_default());
        Figures { least: runs.first().copied().unwrap_or_default(), p50, p95, memory_bytes, compared, agreed }
    }
}

/// Measures a candidate beside the active version, and chooses the best of its forms: this one, and those of `others`.
pub(super) async fn measure(
    parts: Arc<UpdaterParts>,
    bundle: Bundle<Verified>,
    others: Vec<Bundle<Verified>>,
    serving: Arc<Serving>,
) -> Result<Done, Failure> {
    let inputs = inputs(&bundle, &serving).await?;
    let mut benches = vec![Bench { bundle, serving, measuring: Measuring::default() }];
    let Some(inputs) = inputs else { return finish(&parts, Comparison::default(), benches, 0, false).await };
    let has_others = !others.is_empty();
    let refused = add_forms(&parts, &others, &inputs, &mut benches).await;
    let is_choice = has_others || benches.len() > 1;
    let active = parts.model.serving().filter(|active| active.session.signature().check_inputs(&inputs).is_ok());
    let mut active = active.map(|serving| (serving, Measuring::default()));
    let end = Instant::now() + BUDGET;
    for round in 0..WARM_UP + ROUNDS_MAX {
        for bench in &mut benches {
            bench.measuring.run(&bench.serving, &inputs, round >= WARM_UP).await;
        }
        if let Some((serving, measuring)) = &mut active {
            measuring.run(serving, &inputs, round >= WARM_UP).await;
        }
        if round >= WARM_UP && Instant::now() >= end {
            break;
        }
    }
    let active = active.filter(|(_serving, measuring)| measuring.refused.is_none());
    let (comparison, chosen) = choose(&parts, &benches, refused, active);
    // Where no form fits, the first is judged, and refused with its figures: that is no choice for later versions.
    finish(&parts, comparison, benches, chosen.unwrap_or(0), is_choice && chosen.is_some()).await
}

/// Returns the figures of the best form beside those of the active version, and its index; reports all of them.
fn choose(
    parts: &UpdaterParts,
    benches: &[Bench],
    refused: Vec<Form>,
    active: Option<(Arc<Serving>, Measuring)>,
) -> (Comparison, Option<usize>) {
    let memory = |serving: &Serving| parts.shared.engines.memory_of_load(&serving.loaded_as, serving.engine);
    let beside = active.as_ref().map(|(_serving, measuring)| measuring);
    let figures = |bench: &Bench| bench.measuring.figures(&bench.serving, memory(&bench.serving), beside);
    let figures: Vec<Figures> = benches.iter().map(figures).collect();
    let runs = |at: &usize| benches.get(*at).is_some_and(|bench| bench.measuring.refused.is_none());
    let usable: Vec<usize> = (0..benches.len()).filter(runs).collect();
    let candidates: Vec<Figures> = usable.iter().filter_map(|at| figures.get(*at).cloned()).collect();
    let chosen =
        best(&candidates, parts.shared.updates.measure_memory_max_bytes).and_then(|at| usable.get(at).copied());
    let form = |serving: &Serving, measuring: &Measuring, figures: &Figures| Form {
        version: serving.installed.version,
        variant: serving.installed.variant.clone(),
        engine: serving.engine,
        figures: figures.clone(),
        refused: measuring.refused.clone(),
    };
    let measured = benches.iter().zip(&figures).map(|(bench, of)| form(&bench.serving, &bench.measuring, of));
    let mut measured: Vec<Form> = measured.collect();
    if let Some(at) = chosen.filter(|at| *at < measured.len()) {
        let first = measured.remove(at);
        measured.insert(0, first);
    }
    measured.extend(refused);
    for form in &measured {
        tracing::info!(model = %parts.model.name, version = %form.version, variant = %form.variant, engine = %form.engine,
            figures = ?form.figures, refused = form.refused, "measured");
    }
    let active_figures = active.as_ref().map(|(serving, measuring)| measuring.figures(serving, memory(serving), None));
    let active_form = active.as_ref().zip(active_figures.as_ref());
    let active_form = active_form.map(|((serving, measuring), figures)| form(serving, measuring, figures));
    let model = parts.model.name.clone();
    if let Some(version) = measured.first().map(|form| form.version) {
        parts.shared.measurements.push(Measured { model, version, forms: measured, active: active_form });
    }
    let candidate = chosen.or(Some(0)).and_then(|at| figures.get(at).cloned()).unwrap_or_default();
    (Comparison { candidate, active: active_figures, form: None }, chosen)
}

/// Ends the measurement with the chosen form. A choice is stored with it.
async fn finish(
    parts: &Arc<UpdaterParts>,
    comparison: Comparison,
    benches: Vec<Bench>,
    chosen: usize,
    is_choice: bool,
) -> Result<Done, Failure> {
    let Some(Bench { bundle, serving, .. }) = benches.into_iter().nth(chosen) else {
        return Err(trouble::interrupted());
    };
    if is_choice {
        let (parts, bundle, engine) = (Arc::clone(parts), bundle.clone(), serving.engine);
        let engine = Some(engine).filter(|_| measures_engines(&parts));
        blocking(move || forms::settle(&parts, &bundle, engine)).await?;
    }
    let comparison = Comparison { form: Some(disk::installed(&bundle)), ..comparison };
    Ok(Done::Measured(comparison, Box::new(bundle), serving))
}

/// Returns whether the owner leaves the choice of the engine to the measurement.
fn measures_engines(parts: &UpdaterParts) -> bool {
    parts.model.table.engine.is_none() && parts.shared.updates.measure_engines
}

/// Loads the other forms of the candidate that are to be compared; returns those that do not run here.
async fn add_forms(
    parts: &Arc<UpdaterParts>,
    others: &[Bundle<Verified>],
    inputs: &[NamedTensor],
    benches: &mut Vec<Bench>,
) -> Vec<Form> {
    let Some((first, on)) = benches.first().map(|bench| (bench.bundle.clone(), bench.serving.engine)) else {
        return Vec::new();
    };
    let mut refused = Vec::new();
    for (at, bundle) in std::iter::once(&first).chain(others).enumerate() {
        for engine in engines_of(parts, bundle) {
            if at == 0 && engine == on {
                continue;
            }
            if benches.len() >= FORMS_MAX {
                return refused;
            }
            let reason = match jobs::load_proven(parts, bundle, Wanted { only: Some(engine), ..parts.wanted() }).await {
                Ok(serving) if serving.session.signature().check_inputs(inputs).is_ok() => {
                    benches.push(Bench { bundle: bundle.clone(), serving, measuring: Measuring::default() });
                    continue;
                }
                Ok(_serving) => "it does not take the inputs of the first variant".to_owned(),
                Err(failure) => failure.to_string(),
            };
            let installed = disk::installed(bundle);
            tracing::info!(model = %parts.model.name, variant = %installed.variant, %engine, reason, "a form does not run here");
            let (version, variant) = (installed.version, installed.variant);
            refused.push(Form { version, variant, engine, figures: Figures::default(), refused: Some(reason) });
        }
    }
    refused
}

/// Returns the engines on which a variant is measured: all that may run it where the owner asks for it, else the first.
fn engines_of(parts: &UpdaterParts, bundle: &Bundle<Verified>) -> Vec<EngineName> {
    let most = if measures_engines(parts) { usize::MAX } else { 1 };
    let allowed = &bundle.variant().engines;
    let engines = parts.wanted();
    engines.among(&parts.shared.engines, allowed).map(|engine| engine.name()).take(most).collect()
}

/// Returns the golden inputs; zeros where the version has none, `None` where the model takes none.
async fn inputs(bundle: &Bundle<Verified>, serving: &Serving) -> Result<Option<Vec<NamedTensor>>, Failure> {
    let bundle = bundle.clone();
    let golden = blocking(move || bundle.golden().map_err(|error| trouble::of_verify(&error))).await?;
    Ok(golden.map(|golden| golden.inputs).or_else(|| engine::zeros(serving.session.signature())))
}
