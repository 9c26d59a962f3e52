//! Where candidates are weighed: how large they are, how close they come, how long they take.

use std::time::{Duration, Instant};

use engine::{Engine, ModelBytes, RunControl};
use onnx_graph::Model;
use types::NamedTensor;

use super::candidate::{Candidate, EngineRun, Verdict};
use super::maker::Maker;
use super::recipe::Form;
use super::{Request, Stage};
use crate::latency::{Contender, race};
use crate::quality::{Judge, JudgeOptions, Kind, Measure, OutputQuality, Quality, engines_agree, load};
use crate::{CompressError, Examples, Report};

/// Examples whose requests are timed and on which engines are held against each other.
const SAMPLE: usize = 8;

/// Most bytes of model files that are loaded at once to be timed.
const RACE_BYTES_MAX: u64 = 1024 * 1024 * 1024;

/// Compression level of zstd by which sizes are compared; the one that bundles travel with is not far from it.
const ZSTD_LEVEL: i32 = 3;

/// Fewest examples: one to calibrate and one to judge by.
const EXAMPLES_LEAST: usize = 2;

/// Below this many examples to judge by, the outcome says that its figures are weak.
pub const EXAMPLES_FEW: usize = 100;

/// Where candidates are weighed: the reference, the examples, the engine that judges.
pub(super) struct Bench<'a> {
    pub(super) engine: &'a dyn Engine,
    pub(super) judge: Judge,
    pub(super) calibration: Examples,
    pub(super) measure: Measure,
    /// Whether some output holds scores of classes.
    pub(super) has_classes: bool,
    /// Single requests, for timing and for holding engines against each other.
    sample: Vec<Vec<NamedTensor>>,
    pub(super) notes: Vec<String>,
}

impl<'a> Bench<'a> {
    pub(super) fn new(
        request: &mut Request<'a>,
        progress: &mut dyn FnMut(Stage<'_>),
    ) -> Result<(Self, Candidate), CompressError> {
        progress(Stage::Reference);
        let &engine = request.engines.first().ok_or_else(no_engine)?;
        let there = request.examples.len();
        if there < EXAMPLES_LEAST {
            let reason = format!("{there} is too few: at least {EXAMPLES_LEAST} are needed, a few hundred are wanted");
            return Err(CompressError::Examples { reason });
        }
        let (calibration, evaluation) = request.examples.split(request.calibration.clamp(1, there - 1));
        // An example that cannot be read, or is not finite, is found now, and told as what it is.
        request.examples.check_finite()?;
        let sample = evaluation.iter().take(SAMPLE).map(|example| Ok(example?.inputs));
        let sample = sample.collect::<Result<_, CompressError>>()?;
        let is_unlabelled = request.measure.is_some_and(|measure| !measure.uses_labels());
        let options = JudgeOptions { task: request.task, custom: request.custom.take(), is_unlabelled };
        let mut judge = Judge::with(engine, request.file.clone(), evaluation, options)?;
        let mut session = load(engine, request.file.clone(), "load the reference")?;
        let of = judge.examples().len();
        let quality = judge.judge(&mut *session, |done| progress(Stage::Judge("reference", done, of)))?;
        let measure = request.measure.unwrap_or_else(|| quality.natural_measure());
        if quality.loss(measure).is_none() {
            return Err(CompressError::Option {
                option: "measure",
                value: measure.as_str().to_owned(),
                reason: format!("these answers can be measured by {}", quality.possible().join(", ")),
            });
        }
        let form = Form::of(&request.model);
        let has_classes = quality.outputs.iter().any(|output| output.divergence.is_some());
        let mut bench = Self { engine, judge, calibration, measure, has_classes, sample, notes: Vec::new() };
        bench.note_weaknesses(form, &quality);
        // A model that is given in half precision is not the form of that name that is made of it.
        let is_taken = request.recipes.iter().any(|recipe| recipe.name() == form.as_str());
        let name = if is_taken { format!("{} as given", form.as_str()) } else { form.as_str().to_owned() };
        let reference = Candidate {
            name,
            form,
            bytes: size(&request.file),
            bytes_zstd: size_zstd(&request.file),
            loss: quality.loss(measure),
            quality: Some(quality),
            runs: vec![EngineRun { engine: engine.name(), timing: None, problem: None }],
            verdict: Verdict::Reference,
            report: Report::of("none"),
            model: Some(request.file.clone()),
        };
        Ok((bench, reference))
    }

    fn note_weaknesses(&mut self, form: Form, quality: &Quality) {
        let judged = self.judge.examples().len();
        if judged < EXAMPLES_FEW {
            self.notes.push(format!("only {judged} examples judge: give a few hundred for figures to trust"));
        }
        if form != Form::Fp32 {
            self.notes.push(format!("the model given is {} already: start from fp32 for better forms", form.as_str()));
        }
        if quality.outputs.iter().any(|output| output.max_abs > 0.0) {
            self.notes.push("the model given answers the same request differently: losses are not exact".to_owned());
        }
        if quality.labelled.is_some() && !self.measure.uses_labels() {
            self.notes.push(format!("the labels were not used: loss is counted in {}", self.measure.as_str()));
        }
        let is_blind = |output: &&OutputQuality| output.natural == Measure::Error && output.kind == Kind::Values;
        if self.measure == Measure::Cosine
            && let Some(output) = quality.outputs.iter().find(is_blind)
        {
            let (name, blind) = (&output.name, output.cosine_of_mean);
            self.notes.push(format!(
                "cosine says little of output {name:?}: a constant answer would reach {blind:.3}; use --measure error"
            ));
        }
    }

    /// Says that no pass makes anything of a model of decision trees.
    pub(super) fn note_trees(&mut self, model: &Model, candidates: &[Candidate]) {
        let trees = ["TreeEnsemble", "TreeEnsembleClassifier", "TreeEnsembleRegressor"];
        let has_trees = model.graph.nodes.iter().any(|node| trees.contains(&node.op_type()));
        let bytes = candidates.first().map_or(0, |reference| reference.bytes);
        // In half precision what stands around the trees can be written, and is no smaller.
        let is_none = |candidate: &Candidate| candidate.loss.is_none() || candidate.bytes >= bytes;
        if has_trees && candidates.iter().skip(1).all(is_none) {
            self.notes.push(
                "no smaller form exists of a model of decision trees: its thresholds are compared, not multiplied; ship it as it is, \
                 or train fewer or shallower trees"
                    .to_owned(),
            );
        }
    }

    /// What makes forms of the model.
    ///
    /// # Errors
    /// When the model's nodes have no order.
    pub(super) fn maker(&mut self, request: &Request<'a>) -> Result<Maker<'a>, CompressError> {
        let (maker, problem) =
            Maker::new(&request.model, self.engine, self.calibration.clone(), request.selection.clone())?;
        self.notes.extend(problem);
        Ok(maker)
    }

    /// Makes a candidate of what a pass made: its size, its quality, or why it is none.
    pub(super) fn weigh(
        &mut self,
        name: String,
        form: Form,
        made: Result<(Model, Report), CompressError>,
        known: &[Candidate],
        progress: &mut dyn FnMut(Stage<'_>),
    ) -> Result<Candidate, CompressError> {
        let mut candidate = Candidate {
            name,
            form,
            bytes: 0,
            bytes_zstd: 0,
            quality: None,
            loss: None,
            runs: Vec::new(),
            verdict: Verdict::Good,
            report: Report::default(),
            model: None,
        };
        let (model, report) = match made {
            Ok(made) => made,
            Err(error) => {
                let reason = types::error::chain(&error);
                candidate.verdict = match error {
                    CompressError::Nothing { .. } => Verdict::NotApplicable { reason },
                    _ => Verdict::Invalid { reason },
                };
                return Ok(candidate);
            }
        };
        let file = match model.to_bytes() {
            Ok(bytes) => ModelBytes::from(bytes),
            Err(error) => {
                candidate.verdict = Verdict::Invalid { reason: types::error::chain(&error) };
                return Ok(candidate);
            }
        };
        drop(model);
        (candidate.bytes, candidate.bytes_zstd, candidate.report) = (size(&file), size_zstd(&file), report);
        if let Some(same) = known.iter().find(|other| is_same(other, &file)) {
            let (by, reason) = (same.name.clone(), "the same file".to_owned());
            candidate.verdict = Verdict::Beaten { by, reason };
            return Ok(candidate);
        }
        let total = self.judge.examples().len();
        let shown = candidate.name.clone();
        let judged = load(self.engine, file.clone(), "load the form").and_then(|mut session| {
            self.judge.judge(&mut *session, |done| progress(Stage::Judge(&shown, done, total)))
        });
        let run = |problem| EngineRun { engine: self.engine.name(), timing: None, problem };
        match judged {
            Ok(quality) => {
                candidate.verdict = answers_are_numbers(&quality, self.judge.examples());
                candidate.loss = quality.loss(self.measure).filter(|_| candidate.verdict == Verdict::Good);
                candidate.quality = Some(quality);
                candidate.runs.push(run(None));
                candidate.model = Some(file);
            }
            Err(error @ (CompressError::Examples { .. } | CompressError::Command { .. })) => return Err(error),
            Err(error) => {
                candidate.verdict = Verdict::Invalid { reason: types::error::chain(&error) };
                candidate.runs.push(run(Some(types::error::chain(&error))));
            }
        }
        Ok(candidate)
    }

    /// Returns whether the other engines run the candidates, and answer as the first one does.
    pub(super) fn try_other_engines(&self, engines: &[&dyn Engine], candidates: &mut [Candidate]) {
        for &engine in engines.iter().skip(1) {
            for candidate in candidates.iter_mut().filter(|candidate| candidate.loss.is_some()) {
                let Some(model) = &candidate.model else { continue };
                let problem = self.differs(engine, model).err();
                candidate.runs.push(EngineRun { engine: engine.name(), timing: None, problem });
            }
        }
    }

    fn differs(&self, engine: &dyn Engine, model: &ModelBytes) -> Result<(), String> {
        let told = |error: CompressError| types::error::chain(&error);
        let mut here = load(self.engine, model.clone(), "load the form").map_err(told)?;
        let mut there = load(engine, model.clone(), "load the form").map_err(told)?;
        let (mut wanted, mut found) = (Vec::new(), Vec::new());
        for inputs in &self.sample {
            wanted.push(here.run(inputs, &[], &RunControl::default()).map_err(|error| types::error::chain(&error))?);
            found.push(there.run(inputs, &[], &RunControl::default()).map_err(|error| types::error::chain(&error))?);
        }
        let name = self.engine.name();
        engines_agree(&wanted, &found)
            .map_err(|reason| format!("it answers differently there than on {name}: {reason}"))
    }

    /// Times the candidates on an engine, as many at once as fit, each time beside the reference.
    pub(super) fn race(
        &self,
        engine: &dyn Engine,
        budget: Duration,
        candidates: &mut [Candidate],
        progress: &mut dyn FnMut(Stage<'_>),
    ) {
        // Without the reference there is nothing to measure against.
        if !candidates.first().is_some_and(|reference| runs_on(engine, reference)) {
            return;
        }
        let sizes: Vec<u64> = candidates.iter().map(|candidate| candidate.bytes).collect();
        let groups = groups(&sizes);
        // The reference runs in every group.
        let timed = candidates.len().saturating_add(groups.len()).saturating_sub(1);
        let longest = budget.saturating_mul(u32::try_from(timed).unwrap_or(u32::MAX));
        let started = Instant::now();
        for group in groups {
            let mut contenders = Vec::new();
            let mut places = Vec::new();
            for at in std::iter::once(0).chain(group) {
                if let Some(contender) = candidates.get(at).and_then(|candidate| contender(engine, candidate)) {
                    contenders.push(contender);
                    places.push(at);
                }
            }
            let name = engine.name();
            let whole = budget.saturating_mul(u32::try_from(contenders.len()).unwrap_or(u32::MAX));
            let (before, most) = (started.elapsed().as_secs(), longest.as_secs());
            let times = race(&mut contenders, &self.sample, whole, |elapsed| {
                progress(Stage::Race(name.as_str(), before.saturating_add(elapsed.as_secs()).min(most), most));
            });
            for (at, time) in places.into_iter().zip(times) {
                let run = candidates.get_mut(at).and_then(|one| one.runs.iter_mut().find(|run| run.engine == name));
                let Some(run) = run else { continue };
                match time {
                    Ok(timing) => run.timing = Some(timing),
                    Err(error) => run.problem = Some(types::error::chain(&error)),
                }
            }
        }
    }
}

/// Places of the candidates after the first, in groups whose files can be loaded together with the first one.
fn groups(sizes: &[u64]) -> Vec<Vec<usize>> {
    let room = RACE_BYTES_MAX.saturating_sub(sizes.first().copied().unwrap_or(0));
    let mut groups: Vec<Vec<usize>> = Vec::new();
    let mut taken = u64::MAX;
    for (at, &size) in sizes.iter().enumerate().skip(1) {
        match groups.last_mut() {
            Some(group) if taken.saturating_add(size) <= room => {
                group.push(at);
                taken += size;
            }
            Some(_) | None => {
                groups.push(vec![at]);
                taken = size;
            }
        }
    }
    if groups.is_empty() { vec![Vec::new()] } else { groups }
}

/// A candidate that runs on the engine, loaded.
fn contender(engine: &dyn Engine, candidate: &Candidate) -> Option<Contender> {
    if !runs_on(engine, candidate) {
        return None;
    }
    let session = load(engine, candidate.model.clone()?, "load the form").ok()?;
    Some(Contender { name: candidate.name.clone(), session })
}

fn runs_on(engine: &dyn Engine, candidate: &Candidate) -> bool {
    candidate.loss.is_some() && candidate.on(engine.name()).is_some_and(|run| run.problem.is_none())
}

fn answers_are_numbers(quality: &Quality, examples: &Examples) -> Verdict {
    let broken = quality.outputs.iter().find(|output| output.not_finite > 0 || output.other_shape > 0);
    let Some(output) = broken else { return Verdict::Good };
    let OutputQuality { name, not_finite, not_finite_examples: count, other_shape, .. } = output;
    let of = quality.examples;
    if *other_shape > 0 {
        let reason =
            format!("output {name:?} has another shape or type than the model's for {other_shape} of {of} examples");
        return Verdict::Invalid { reason };
    }
    let first = output.not_finite_first.and_then(|first| usize::try_from(first).ok()).unwrap_or(0);
    let place = examples.place(first);
    Verdict::Invalid {
        reason: format!(
            "{not_finite} numbers of output {name:?} are NaN or infinite, for {count} of {of} examples, first {place}"
        ),
    }
}

fn is_same(candidate: &Candidate, file: &ModelBytes) -> bool {
    candidate.model.as_ref().is_some_and(|model| model.as_slice() == file.as_slice())
}

pub(super) fn size(file: &ModelBytes) -> u64 {
    u64::try_from(file.as_slice().len()).unwrap_or(u64::MAX)
}

/// Bytes after zstd; the plain size should zstd fail, which memory alone can make it.
fn size_zstd(file: &ModelBytes) -> u64 {
    let mut count = Counter(0);
    match zstd::stream::copy_encode(file.as_slice(), &mut count, ZSTD_LEVEL) {
        Ok(()) => count.0,
        Err(_no_memory) => size(file),
    }
}

/// Counts what is written to it.
struct Counter(u64);

impl std::io::Write for Counter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 = self.0.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn no_engine() -> CompressError {
    CompressError::Option { option: "engines", value: "none".to_owned(), reason: "at least one must judge".to_owned() }
}
