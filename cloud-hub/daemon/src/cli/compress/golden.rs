//! Golden answers of each variant: what a device asks before a variant may serve.

use bundle::golden::{GOLDEN_BYTES_MAX, Golden as GoldenTensors};
use compress::Examples;
use compress::auto::Outcome;
use console::CliError;
use engine::{LoadOptions, RunControl};
use types::NamedTensor;

use super::choice::Chosen;
use super::engines::Engines;

/// Examples in a golden file, where they can stand in one request.
const EXAMPLES: usize = 8;

/// Least tolerance, as a share of the largest answer: another processor rounds otherwise.
const TOLERANCE_LEAST: f32 = 1e-3;

/// Tolerance as a multiple of what the form itself is off by: a device whose kernels round each value to a neighbouring
/// step stays within it, one that computes something else does not.
const TOLERANCE_TIMES: f32 = 2.0;

/// A golden file and how far an answer may be from it.
#[derive(Debug)]
pub(super) struct Golden {
    /// Name of the file.
    pub(super) file: String,
    /// Its content.
    pub(super) bytes: Vec<u8>,
    /// Largest difference of any element.
    pub(super) max_abs: f32,
}

/// Has every chosen form answer the same few examples. A form whose answers no golden file can hold gets none.
pub(super) fn make(
    chosen: &[Chosen<'_>],
    outcome: &Outcome,
    examples: &Examples,
    engines: &Engines,
) -> Result<Vec<Golden>, CliError> {
    let Some(batch) = examples.batches(EXAMPLES).next() else { return Ok(Vec::new()) };
    let inputs = batch?.inputs;
    let answer = |model: &engine::ModelBytes| -> Result<Vec<NamedTensor>, CliError> {
        let mut session = engines.judge().load(model.clone(), &LoadOptions::default())?;
        Ok(session.run(&inputs, &[], &RunControl::default())?)
    };
    let Some(reference) = outcome.candidates.first().and_then(|reference| reference.model.as_ref()) else {
        return Ok(Vec::new());
    };
    let wanted = answer(reference)?;
    let mut goldens = Vec::new();
    for variant in chosen.iter().filter(|variant| variant.is_first_of_file()) {
        let outputs = answer(&variant.model)?;
        let max_abs = tolerance(&wanted, &outputs);
        let golden = GoldenTensors { inputs: inputs.clone(), outputs };
        // Text, or values that are not finite, cannot be held to anything.
        let Ok(bytes) = golden.to_bytes() else { continue };
        if u64::try_from(bytes.len()).is_ok_and(|length| length <= GOLDEN_BYTES_MAX) {
            goldens.push(Golden { file: variant.golden_file(), bytes, max_abs });
        }
    }
    Ok(goldens)
}

fn tolerance(wanted: &[NamedTensor], found: &[NamedTensor]) -> f32 {
    let (mut largest, mut difference) = (0.0_f32, 0.0_f32);
    for (wanted, found) in wanted.iter().zip(found) {
        let (Ok(wanted), Ok(found)) = (wanted.tensor.to_f32(), found.tensor.to_f32()) else { continue };
        for (wanted, found) in wanted.iter().zip(&found) {
            largest = largest.max(found.abs());
            difference = difference.max((wanted - found).abs());
        }
    }
    (TOLERANCE_LEAST * largest).max(TOLERANCE_TIMES * difference).min(f32::MAX)
}
