//! From one model and examples to the forms worth shipping.
//!
//! Makes the candidates, holds each against the model given, measures it on every engine, refuses what is invalid or
//! beaten in every respect, and recommends one for each class of devices. Fed by the operator's command line; everything
//! it decides by is in its [`Outcome`].

mod bench;
mod candidate;
mod maker;
mod mixed;
mod names;
mod recipe;
mod verdict;

use std::time::Duration;

use engine::{Engine, ModelBytes};
use onnx_graph::Model;
use serde::Serialize;

pub use bench::EXAMPLES_FEW;
pub use candidate::{Candidate, EngineRun, Verdict};
pub use mixed::{Search, Step};
pub use recipe::{Calibration, Form, GPTQ, Recipe};
pub use verdict::{DeviceClass, Recommendation, recommend, settle};

use crate::quality::{Custom, Kind, Measure, Quality, Task};
use crate::{CompressError, Examples, Selection};
use bench::Bench;

/// Everything that a run is asked to do.
#[derive(Debug)]
pub struct Request<'a> {
    /// The model file as it was given: the reference.
    pub file: ModelBytes,
    /// The same, as passes take it.
    pub model: Model,
    /// Real inputs of the model.
    pub examples: Examples,
    /// How many of them calibrate; the others judge. At least one is left to judge by.
    pub calibration: usize,
    /// The engines; the first one calibrates and judges, all are timed.
    pub engines: Vec<&'a dyn Engine>,
    /// Recipes to make, in order.
    pub recipes: Vec<Recipe>,
    /// The forms of which a mixed one is searched when no recipe for them is within the loss.
    pub search_mixed: Vec<Form>,
    /// What the sensitivity of layers is counted in; `None` takes the finest that the answers allow.
    pub rank_by: Option<Measure>,
    /// Nodes and operators that passes may touch.
    pub selection: Selection,
    /// What loss is counted in; `None` takes what the model's answers allow.
    pub measure: Option<Measure>,
    /// Task that the operator or the manifest declares.
    pub task: Option<Task>,
    /// Judge of the user; the measure is its number then.
    pub custom: Option<Box<dyn Custom>>,
    /// Greatest loss that a recommended form may have.
    pub loss_max: f64,
    /// Longest time that the timing of one form on one engine takes.
    pub form_budget: Duration,
}

/// Activity of a run, for progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage<'a> {
    /// The reference answers the examples.
    Reference,
    /// A form is made.
    Make(&'a str),
    /// A form answers the examples: how many of how many.
    Judge(&'a str, usize, usize),
    /// Layers are ranked: how many of how many.
    Rank(usize, usize),
    /// The mixed form is searched: which probe.
    Search(usize),
    /// Forms are timed on an engine: seconds so far, and at most.
    Race(&'a str, u64, u64),
}

/// Everything that came of it.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    /// Number of examples that calibrated.
    pub calibrated_on: usize,
    /// Number of examples that judged.
    pub judged_on: usize,
    /// Measure of the loss.
    pub measure: Measure,
    /// Greatest loss that is allowed.
    pub loss_max: f64,
    /// Forms that were tried; the first one is the reference.
    pub candidates: Vec<Candidate>,
    /// Recommended form for each class of devices.
    pub recommendations: Vec<Recommendation>,
    /// The searches for mixed forms; none where the plain ones are within the loss.
    pub searches: Vec<Search>,
    /// Notes for the reader, one sentence each.
    pub notes: Vec<String>,
}

/// Does all of it.
///
/// # Errors
/// When the reference does not run, the examples do not fit it, or there are too few. A form that fails is no error: its
/// verdict says why.
pub fn run(mut request: Request<'_>, progress: &mut dyn FnMut(Stage<'_>)) -> Result<Outcome, CompressError> {
    let (mut bench, reference) = Bench::new(&mut request, progress)?;
    let mut candidates = vec![reference];
    let mut maker = bench.maker(&request)?;
    for recipe in &request.recipes {
        progress(Stage::Make(&recipe.name()));
        let made = maker.make(recipe, &request.selection);
        let candidate = bench.weigh(recipe.name(), recipe.form(), made, &candidates, progress)?;
        candidates.push(candidate);
    }
    let mut searches = Vec::new();
    for &form in &request.search_mixed {
        let Some(start) = mixed::start(form, &request, &candidates) else { continue };
        let searched = mixed::search(&request, start, &mut maker, &mut bench, progress)?;
        if let Some((made, name)) = searched.made {
            candidates.push(bench.weigh(name, searched.search.form, Ok(made), &candidates, progress)?);
        }
        searches.push(searched.search);
        bench.notes.extend(searched.notes);
    }
    bench.try_other_engines(&request.engines, &mut candidates);
    for &engine in &request.engines {
        bench.race(engine, request.form_budget, &mut candidates, progress);
    }
    bench.note_trees(&request.model, &candidates);
    settle(&mut candidates, request.loss_max);
    let recommendations = recommend(&candidates);
    Ok(Outcome {
        calibrated_on: bench.calibration.len(),
        judged_on: bench.judge.examples().len(),
        measure: bench.measure,
        loss_max: request.loss_max,
        candidates,
        recommendations,
        searches,
        notes: bench.notes,
    })
}

/// The output that scores an answer, and whether it holds probabilities; `None` when no output holds classes.
#[must_use]
pub fn scored_output(quality: &Quality) -> Option<(&str, bool)> {
    let classes = |output: &&crate::quality::OutputQuality| matches!(output.kind, Kind::Probabilities | Kind::Logits);
    let output = match &quality.labelled_output {
        Some(name) => quality.outputs.iter().filter(classes).find(|output| output.name == *name),
        None => quality.outputs.iter().find(classes),
    }?;
    Some((&output.name, output.kind == Kind::Probabilities))
}
