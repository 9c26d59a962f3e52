//! Runs a model over examples, with values exposed, in bounded memory.

use std::time::{Duration, Instant};

use engine::{Engine, LoadOptions, RunControl, RunError, Session};
use onnx_graph::Model;
use types::limits::TENSORS_MAX;
use types::{NamedTensor, TensorError};

use super::{BATCH, See, expose};
use crate::examples::Batch;
use crate::{CompressError, Examples};

/// Longest time of one batch. The heaviest model that a device serves takes seconds; a crafted Loop takes forever.
const RUN_TIME_MAX: Duration = Duration::from_secs(300);

/// Loads a model that was made here.
///
/// # Errors
/// When the engine refuses it.
pub(super) fn load(engine: &dyn Engine, model: &Model) -> Result<Box<dyn Session>, CompressError> {
    // Every core: nothing else of the tool runs meanwhile.
    let options = LoadOptions { intra_threads: 0, ..LoadOptions::default() };
    let failed = |source: engine::Cause| CompressError::Run { what: "load it with inner values exposed", source };
    let bytes = model.to_bytes().map_err(|error| failed(error.into()))?;
    engine.load(bytes.into(), &options).map_err(|error| failed(error.into()))
}

/// Runs one batch.
pub(super) fn run(session: &mut dyn Session, batch: &Batch) -> Result<Vec<NamedTensor>, RunError> {
    let control = RunControl { deadline: Instant::now().checked_add(RUN_TIME_MAX), ..RunControl::default() };
    // A value that nothing exposed needs, an input among them, may have been pruned away with its nodes.
    session.run(&batch.inputs, &[], &control)
}

/// What the engine said, as an error of ours.
pub(super) fn failed(source: RunError) -> CompressError {
    CompressError::Run { what: "run it on an example", source: source.into() }
}

/// Values that are exposed together, and the first batch for which they are still to be seen.
struct Group {
    values: Vec<String>,
    from: usize,
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
    let mut groups: Vec<Group> =
        inner.rchunks(TENSORS_MAX).map(|chunk| Group { values: chunk.to_vec(), from: 0 }).collect();
    while let Some(group) = groups.pop() {
        if let Some(stopped) = one_group(engine, model, examples, &group, see)? {
            // Too much for one answer: both halves go on from the batch that was.
            let (first, second) = group.values.split_at(group.values.len() / 2);
            groups.push(Group { values: second.to_vec(), from: stopped });
            groups.push(Group { values: first.to_vec(), from: stopped });
        }
    }
    Ok(())
}

fn see_inputs(examples: &Examples, inputs: &[&String], see: &mut See<'_>) -> Result<(), CompressError> {
    for (number, batch) in examples.batches(BATCH).enumerate() {
        let mut tensors = batch?.inputs;
        tensors.retain(|tensor| inputs.contains(&&tensor.name));
        see(number, &tensors)?;
    }
    Ok(())
}

/// Runs one group through all batches. Gives the number of the batch at which it was too much, if it was.
fn one_group(
    engine: &dyn Engine,
    model: &Model,
    examples: &Examples,
    group: &Group,
    see: &mut See<'_>,
) -> Result<Option<usize>, CompressError> {
    let exposed = expose::values(model, &group.values);
    if exposed.graph.outputs.is_empty() {
        return Ok(None);
    }
    let mut session = load(engine, &exposed)?;
    drop(exposed);
    for (number, batch) in examples.batches(BATCH).enumerate().skip(group.from) {
        match run(session.as_mut(), &batch?) {
            Ok(tensors) => see(number, &tensors)?,
            Err(RunError::Output { cause: TensorError::TooLarge { .. }, .. }) if group.values.len() > 1 => {
                return Ok(Some(number));
            }
            Err(error) => return Err(failed(error)),
        }
    }
    Ok(None)
}
