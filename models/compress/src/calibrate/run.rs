//! Runs a model over examples, with values exposed, in bounded memory.

use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use engine::{Engine, LoadOptions, ModelBytes, RunControl, RunError, Session};
use onnx_graph::Model;
use types::limits::TENSORS_MAX;
use types::{NamedTensor, TensorError};

use super::expose::{self, Slab};
use super::{BATCH, See};
use crate::examples::Batch;
use crate::{CompressError, Examples};

/// Longest time of one batch. The heaviest model that a device serves takes seconds; a crafted Loop takes forever.
const RUN_TIME_MAX: Duration = Duration::from_secs(300);

/// Weights that may be held a second time, and a third, so that several batches run at once (64 MiB): twice the network
/// of a phone, but not that of a server, whose layers keep all cores busy with one batch.
const WEIGHTS_AGAIN_MAX: usize = 64 << 20;

/// The file of a model that was made here.
fn bytes_of(model: &Model) -> Result<ModelBytes, CompressError> {
    model.to_bytes().map(ModelBytes::from).map_err(|error| not_loaded(error.into()))
}

fn not_loaded(source: engine::Cause) -> CompressError {
    CompressError::Run { what: "load it with inner values exposed", source }
}

/// Outputs of a batch.
type Answer = Result<Vec<NamedTensor>, CompressError>;

/// For a session that has the machine for itself: as many threads as the engine thinks best.
const EVERY_CORE: usize = 0;

/// Loads a model, to run on so many threads.
fn load(engine: &dyn Engine, model: ModelBytes, threads: usize) -> Result<Box<dyn Session>, CompressError> {
    let options = LoadOptions { intra_threads: threads, ..LoadOptions::default() };
    engine.load(model, &options).map_err(|error| not_loaded(error.into()))
}

/// Returns how many sessions of a model run side by side. One thread each does more than all threads together on one example,
/// where they wait for each other at every operator. No more examples are under way together than one batch has.
fn lanes(model: &ModelBytes, cores: usize) -> usize {
    let again = WEIGHTS_AGAIN_MAX / model.as_slice().len().max(1);
    cores.min(again.saturating_add(1)).min(BATCH)
}

/// Runs all examples and hands over each answer. In no order and in batches of no size in particular when `ordered` is
/// false, several at once then; else in batches of [`BATCH`], one after the other.
///
/// # Errors
/// When examples cannot be read, or the engine does not load or run the model.
pub(super) fn everything(
    engine: &dyn Engine,
    model: &Model,
    examples: &Examples,
    ordered: bool,
    see: &mut dyn FnMut(&[NamedTensor]),
) -> Result<(), CompressError> {
    let file = bytes_of(model)?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let lanes = if ordered { 1 } else { lanes(&file, cores) };
    let threads = if lanes == 1 { EVERY_CORE } else { cores.div_ceil(lanes) };
    let batches = Mutex::new(examples.batches(BATCH / lanes));
    let next = || batches.lock().unwrap_or_else(PoisonError::into_inner).next();
    // Ends when there is nothing left, or nobody who listens.
    let lane = |file: ModelBytes, answers: &SyncSender<Answer>| -> Result<(), CompressError> {
        let mut session = load(engine, file, threads)?;
        while let Some(batch) = next() {
            let answer = run(session.as_mut(), &batch?).map_err(failed)?;
            if answers.send(Ok(answer)).is_err() {
                break;
            }
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let (answers, seen) = sync_channel(lanes);
        // Each lets go of the file once it has loaded it.
        for file in vec![file; lanes] {
            let answers = answers.clone();
            scope.spawn(move || lane(file, &answers).or_else(|error| answers.send(Err(error))));
        }
        drop(answers);
        seen.into_iter().try_for_each(|answer| answer.map(|tensors| see(&tensors)))
    })
}

/// Runs one batch of examples.
fn run(session: &mut dyn Session, batch: &Batch) -> Result<Vec<NamedTensor>, RunError> {
    let control = RunControl { deadline: Instant::now().checked_add(RUN_TIME_MAX), ..RunControl::default() };
    // A value that nothing exposed needs, an input among them, may have been pruned away with its nodes.
    session.run(&batch.inputs, &[], &control)
}

/// Returns what the engine said, as an error of ours.
fn failed(source: RunError) -> CompressError {
    CompressError::Run { what: "run it on an example", source: source.into() }
}

/// Values that are exposed together, and the first example for which they are still to be seen.
struct Group {
    values: Vec<String>,
    /// Number of examples in one request.
    size: usize,
    /// Number of examples that are done.
    from: usize,
    /// Part of the one value; `None` for whole values.
    slab: Option<Slab>,
}

impl Group {
    /// Divides a group of which one answer, of a value of this shape, was too large: the values first, then the examples of
    /// one request, then the value itself. `None` where nothing is left to divide.
    fn divide(self, done: usize, shape: &[usize]) -> Option<Vec<Self>> {
        if self.values.len() > 1 {
            let (first, second) = self.values.split_at(self.values.len() / 2);
            let part = |values: &[String]| Self { values: values.to_vec(), from: done, ..self };
            return Some(vec![part(second), part(first)]);
        }
        if self.size > 1 {
            return Some(vec![Self { size: 1, from: done, ..self }]);
        }
        let slabs = self.slab.unwrap_or_else(|| Slab::along(shape)).halves(shape)?;
        let part = |slab| Self { values: self.values.clone(), from: done, slab: Some(slab), ..self };
        Some(slabs.map(part).into())
    }
}

/// As [`super::each`].
pub(super) fn in_groups(
    engine: &dyn Engine,
    model: &Model,
    examples: &Examples,
    values: &[String],
    see: &mut See<'_>,
) -> Result<(), CompressError> {
    let is_input = |name: &&String| model.graph.inputs.iter().any(|input| input.name() == name.as_str());
    let (inputs, inner): (Vec<&String>, Vec<&String>) = values.iter().partition(is_input);
    if !inputs.is_empty() {
        see_inputs(examples, &inputs, see)?;
    }
    let inner: Vec<String> = inner.into_iter().cloned().collect();
    let size = if examples.can_be_joined() { BATCH } else { 1 };
    let mut groups: Vec<Group> =
        inner.rchunks(TENSORS_MAX).map(|chunk| Group { values: chunk.to_vec(), size, from: 0, slab: None }).collect();
    while let Some(group) = groups.pop() {
        if let Some(rest) = one_group(engine, model, examples, group, see)? {
            groups.extend(rest);
        }
    }
    Ok(())
}

fn see_inputs(examples: &Examples, inputs: &[&String], see: &mut See<'_>) -> Result<(), CompressError> {
    for batch in examples.batches(BATCH) {
        let mut tensors = batch?.inputs;
        tensors.retain(|tensor| inputs.contains(&&tensor.name));
        see(&tensors)?;
    }
    Ok(())
}

/// Runs one group through all examples. Returns the groups that are left where an answer was too large.
fn one_group(
    engine: &dyn Engine,
    model: &Model,
    examples: &Examples,
    group: Group,
    see: &mut See<'_>,
) -> Result<Option<Vec<Group>>, CompressError> {
    let exposed = match (&group.slab, group.values.as_slice()) {
        (Some(slab), [value]) => expose::slab(model, value, *slab),
        (_, values) => expose::values(model, values),
    };
    if exposed.graph.outputs.is_empty() {
        return Ok(None);
    }
    let file = bytes_of(&exposed)?;
    drop(exposed);
    let mut session = load(engine, file, EVERY_CORE)?;
    let done = group.from / group.size;
    for (number, batch) in examples.batches(group.size).enumerate().skip(done) {
        match run(session.as_mut(), &batch?) {
            Ok(mut tensors) => {
                if let (Some(_), [value]) = (group.slab, group.values.as_slice()) {
                    // Of a shorter example there may be nothing in this part.
                    tensors.retain(|tensor| tensor.tensor.elements() > 0);
                    tensors.iter_mut().for_each(|tensor| tensor.name.clone_from(value));
                }
                see(&tensors)?;
            }
            Err(error) => {
                let shape = match &error {
                    RunError::Output { cause: TensorError::TooLarge { shape, .. }, .. } => shape.clone(),
                    _other => return Err(failed(error)),
                };
                let done = number * group.size;
                return group.divide(done, &shape).map(Some).ok_or_else(|| failed(error));
            }
        }
    }
    Ok(None)
}
