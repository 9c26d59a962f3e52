//! Golden answers of each variant: what a device asks before a variant may serve.

use bundle::golden::{GOLDEN_BYTES_MAX, Golden as GoldenTensors};
use bytes::Bytes;
use compress::Examples;
use compress::auto::Outcome;
use console::CliError;
use engine::{LoadOptions, RunControl};
use types::NamedTensor;

use super::choice::Chosen;
use super::engines::Engines;

/// Examples in a golden file, most first: as many as one request can hold and a device has memory for.
const EXAMPLES: [usize; 4] = [8, 4, 2, 1];

/// Bytes of tensors that a run of several examples may hold at once, by the estimate: an eighth of what a process that
/// runs a model may take by default. Kernels take several times the estimate: those of integer convolutions copy
/// their input once per element of the kernel (DNSMOS as int8: 1.6 GiB where its tensors take 0.2 GiB).
const RUN_BYTES_MAX: u64 = 128 * 1024 * 1024;

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
    /// Content of the file.
    pub(super) bytes: Vec<u8>,
    /// Largest difference of any element.
    pub(super) max_abs: f32,
}

/// The golden files of a run, and the variants without one.
#[derive(Debug, Default)]
pub(super) struct Goldens {
    pub(super) files: Vec<Golden>,
    /// One sentence for each variant without golden answers.
    pub(super) missing: Vec<String>,
}

/// Has every chosen form answer the same few examples: eight, or fewer where their run takes much memory or their answers
/// are too large for a golden file. A form whose answers no golden file can hold gets none, and a sentence says so.
pub(super) fn make(
    chosen: &[Chosen<'_>],
    outcome: &Outcome,
    examples: &Examples,
    engines: &Engines,
) -> Result<Goldens, CliError> {
    let mut goldens = Goldens::default();
    for variant in chosen.iter().filter(|variant| variant.is_first_of_file()) {
        let mut made = Err("there is no example".to_owned());
        for count in EXAMPLES {
            made = of(variant, outcome, examples, engines, count)?;
            if made.is_ok() {
                break;
            }
        }
        match made {
            Ok(golden) => goldens.files.push(golden),
            Err(reason) => goldens.missing.push(format!(
                "variant {} has no golden answers ({reason}): devices only run it on zeros before it serves",
                variant.name
            )),
        }
    }
    Ok(goldens)
}

/// The golden file of one variant with so many examples, or why there is none.
fn of(
    variant: &Chosen<'_>,
    outcome: &Outcome,
    examples: &Examples,
    engines: &Engines,
    count: usize,
) -> Result<Result<Golden, String>, CliError> {
    let Some(batch) = examples.batches(count).next() else { return Ok(Err("there is no example".to_owned())) };
    let inputs = batch?.inputs;
    let run_bytes = estimate(&variant.model, &inputs);
    if count > 1 && run_bytes > RUN_BYTES_MAX {
        return Ok(Err(format!("a run takes {run_bytes} bytes, over the limit of {RUN_BYTES_MAX}")));
    }
    let Some(reference) = outcome.candidates.first().and_then(|reference| reference.model.as_ref()) else {
        return Ok(Err("there is no reference".to_owned()));
    };
    let answer = |model: &engine::ModelBytes| -> Result<Vec<NamedTensor>, CliError> {
        let mut session = engines.judge().load(model.clone(), &LoadOptions::default())?;
        Ok(session.run(&inputs, &[], &RunControl::default())?)
    };
    let (wanted, outputs) = (answer(reference)?, answer(&variant.model)?);
    let max_abs = tolerance(&wanted, &outputs);
    let bytes = match (GoldenTensors { inputs: inputs.clone(), outputs }).to_bytes() {
        Ok(bytes) => bytes,
        Err(error) => return Ok(Err(telemetry::chain(&error))),
    };
    if u64::try_from(bytes.len()).is_ok_and(|length| length <= GOLDEN_BYTES_MAX) {
        return Ok(Ok(Golden { file: variant.golden_file(), bytes, max_abs }));
    }
    Ok(Err(format!("{} bytes are over the limit of {GOLDEN_BYTES_MAX}", bytes.len())))
}

/// Bytes of the tensors of one run; 0 where they cannot be estimated.
fn estimate(model: &engine::ModelBytes, inputs: &[NamedTensor]) -> u64 {
    let Ok(model) = onnx_graph::Model::from_bytes(Bytes::copy_from_slice(model.as_slice())) else { return 0 };
    let shapes = inputs.iter().map(|input| (input.name.clone(), input.tensor.shape().to_vec())).collect();
    onnx_graph::memory::peak(model, &shapes).bytes
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
