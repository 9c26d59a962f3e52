//! The mixed forms: int8 or int4 with the layers in float that lose most by it, searched when the plain form loses too much.

use onnx_graph::Model;
use serde::Serialize;

use super::bench::{Bench, size};
use super::candidate::{Candidate, Verdict};
use super::maker::Maker;
use super::recipe::{Form, Recipe};
use super::{Request, Stage};
use crate::quality::{Judge, JudgeOptions, Measure, load};
use crate::search::smallest_within;
use crate::sensitivity::{self, LayerLoss, examples_for, layers, rank};
use crate::{CompressError, Report, Selection};
use engine::ModelBytes;

/// Result of a search.
pub(super) struct Searched {
    /// The model and the name of the form; `None` when nothing short of the whole model in float is within the loss.
    pub(super) made: Option<((Model, Report), String)>,
    /// Record of the search.
    pub(super) search: Search,
    /// Notes for the reader, one sentence each.
    pub(super) notes: Vec<String>,
}

/// How the search for a mixed form went.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Search {
    /// The form that was searched.
    pub form: Form,
    /// How much each layer loses alone, the worst first.
    pub sensitivity: Vec<LayerLoss>,
    /// The models that were made on the way, in order.
    pub steps: Vec<Step>,
}

/// Starting point of a search.
pub(super) struct Start {
    recipe: Recipe,
    form: Form,
    /// The nodes that the recipe changed.
    changed: Vec<String>,
}

/// One model on the way to the mixed form.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Step {
    /// Number of layers in float.
    pub layers_in_float: usize,
    /// Loss, in the measure of the run.
    pub loss: f64,
    /// Bytes of the file.
    pub bytes: u64,
}

/// The best recipe for the plain form, if none of them is within the loss.
pub(super) fn start(plain: Form, request: &Request<'_>, candidates: &[Candidate]) -> Option<Start> {
    let form = plain.mixed()?;
    let made = request.recipes.iter().filter(|recipe| recipe.form() == plain);
    let judged = made.filter_map(|recipe| {
        let name = recipe.name();
        let candidate = candidates.iter().find(|candidate| candidate.name == name)?;
        Some((recipe, candidate, candidate.loss.filter(|loss| loss.is_finite())?))
    });
    let (recipe, candidate, loss) = judged.min_by(|a, b| a.2.total_cmp(&b.2))?;
    let is_needed = loss > request.loss_max && candidate.verdict == Verdict::Good;
    is_needed.then(|| Start { recipe: *recipe, form, changed: candidate.report.changed.clone() })
}

/// Ranks the layers on the calibration examples, then searches on the judging ones.
///
/// # Errors
/// When the examples cannot be read or a pass fails.
pub(super) fn search(
    request: &Request<'_>,
    Start { recipe, form, changed }: Start,
    maker: &mut Maker<'_>,
    bench: &mut Bench<'_>,
    progress: &mut dyn FnMut(Stage<'_>),
) -> Result<Searched, CompressError> {
    let layers = layers(maker.model(), &changed);
    let mut notes = Vec::new();
    if layers.len() == sensitivity::LAYERS_MAX {
        notes.push(format!("only the {} heaviest layers were ranked", layers.len()));
    }
    // Ranked on other examples than those that judge: the order is then not fitted to them.
    let (some, _) = bench.calibration.split(examples_for(layers.len(), bench.calibration.len()));
    let options = JudgeOptions { task: request.task, custom: None, is_unlabelled: true };
    let mut judge = Judge::with(bench.engine, request.file.clone(), some, options)?;
    let by = request.rank_by.unwrap_or(bench.finest_measure());
    let ranked = {
        let quantize = |alone: &Selection| maker.make(&recipe, &within(&request.selection, alone)).map(|made| made.0);
        rank(bench.engine, &mut judge, &layers, by, quantize, |done| progress(Stage::Rank(done, layers.len())))?
    };
    // What cannot be quantized alone, a Relu between two layers, follows its neighbours.
    let ranked: Vec<LayerLoss> = ranked.into_iter().filter(|one| one.loss.is_some()).collect();
    let mut steps: Vec<Step> = Vec::new();
    let mut best: Option<((Model, Report), usize)> = None;
    let found = smallest_within(ranked.len(), request.loss_max, |float| {
        progress(Stage::Search(steps.len() + 1));
        let made = match maker.make(&recipe, &without(&request.selection, &ranked, float)) {
            Ok(made) => made,
            // With everything in float it is the model that was given.
            Err(CompressError::Nothing { .. }) => return Ok(0.0),
            Err(error) => return Err(error),
        };
        let file = ModelBytes::from(made.0.to_bytes()?);
        let bytes = size(&file);
        let mut session = load(bench.engine, file, "load a mixed form")?;
        let quality = bench.judge.judge(&mut *session, |_| {})?;
        let loss = quality.loss(bench.measure).unwrap_or(1.0);
        steps.push(Step { layers_in_float: float.len(), loss, bytes });
        if loss <= request.loss_max && best.as_ref().is_none_or(|(_, count)| float.len() < *count) {
            best = Some((made, float.len()));
        }
        Ok(loss)
    })?;
    if found.is_cut_short {
        let form = form.as_str();
        notes.push(format!("the search for {form} ended after {} models", found.probes.len()));
    }
    let made = best.filter(|_| found.float.len() < ranked.len()).map(|((model, mut report), count)| {
        let kept = names(&ranked, &found.float);
        report.notes.push(format!("left in float: {}", kept.join(", ")));
        let of = ranked.len();
        let way = recipe.name().replacen(recipe.form().as_str(), form.as_str(), 1);
        ((model, report), format!("{way}, {count} of {of} layers in float"))
    });
    if made.is_none() {
        let form = form.as_str();
        notes.push(format!("no {form} form is within the loss: every layer would have to stay in float"));
    }
    Ok(Searched { made, search: Search { form, sensitivity: ranked, steps }, notes })
}

fn names(ranked: &[LayerLoss], places: &[usize]) -> Vec<String> {
    places.iter().filter_map(|&at| ranked.get(at)).flat_map(|one| one.layer.nodes.clone()).collect()
}

/// Returns what was asked for, less the layers that stay in float.
fn without(asked: &Selection, ranked: &[LayerLoss], float: &[usize]) -> Selection {
    let mut selection = asked.clone();
    selection.nodes_excluded.extend(names(ranked, float));
    selection
}

/// One layer, as far as what was asked for allows it.
fn within(asked: &Selection, alone: &Selection) -> Selection {
    Selection { nodes: alone.nodes.clone(), ..asked.clone() }
}

impl Bench<'_> {
    /// The measure that tells small differences apart best: a divergence or an error, where an accuracy moves in steps.
    fn finest_measure(&self) -> Measure {
        if self.has_classes { Measure::Divergence } else { Measure::Error }
    }
}
