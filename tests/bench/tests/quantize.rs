//! Tests that our compression is no worse than PyPI's `onnxruntime.quantization` with the same model, examples and
//! options, is valid to others, and runs on both of our engines.
//!
//! A small selection of the corpus, so that it ends in minutes; `cargo xtask bench quantize` compares all of it.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
#![expect(clippy::print_stdout, reason = "a skipped test says so, and figures are shown by --show-output")]

use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use bench::quantize::corpus::{Corpus, Entry};
use bench::quantize::theirs::{Candidate, Judgement};
use bench::quantize::{Form, ours};
use compress::Examples;
use engine::{Engine, LibrarySearch, LoadError, LoadOptions, OrtEngine, RunControl, Session};
use engine_wgpu::WgpuEngine;
use engine_wgpu::gpu::AdapterChoice;
use types::NamedTensor;

/// Tolerance for our mean cosine below theirs. Two roundings of one model differ by this amount in either direction.
const COSINE_NOISE: f64 = 1e-4;

/// Minimum cosine between the outputs of both engines for one quantized model: an activation between two steps may
/// round either way, and the difference propagates.
const ENGINES_COSINE_MIN: f64 = 0.999;

/// Number of examples that both engines process: a software GPU is slow.
const ENGINES_EXAMPLES: usize = 12;

/// Maximum device memory of a model, in bytes.
const BUDGET_BYTES: u64 = 1024 * 1024 * 1024;

/// Lock that allows one model at a time on the software adapter: several would share its cores and exceed its time
/// limits.
static ADAPTER: Mutex<()> = Mutex::new(());

/// Models of both quantizers, and the judgements of ours, then theirs.
struct Compared {
    entry: Entry,
    ours: PathBuf,
    judgement: Judgement,
    /// Folder with the models.
    _folder: tempfile::TempDir,
}

impl Compared {
    /// Creates and judges the models; `None` (and a line with the reason) if the peer or the corpus is not available.
    fn new(name: &str, form: Form) -> Option<Self> {
        let corpus = match Corpus::from_env() {
            Ok(corpus) => corpus,
            Err(error) => {
                println!("skipped: {error:#}");
                return None;
            }
        };
        let entry = corpus.model(name).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let (ours, theirs) = (folder.path().join("ours.onnx"), folder.path().join("theirs.onnx"));
        ours::make(form, &entry, &ours).unwrap();
        run(corpus.peer(form, &entry, &theirs));
        let judgement = corpus.judge(&entry, &[&ours, &theirs]).unwrap();
        println!("{name} {}: {judgement:?}", form.name());
        Some(Self { entry, ours, judgement, _folder: folder })
    }

    fn sides(&self) -> (&Candidate, &Candidate) {
        let [ours, theirs] = self.judgement.candidates.as_slice() else { panic!("the judge forgot a model") };
        (ours, theirs)
    }

    /// Checks that our model is valid, no larger, no less accurate, and no further from the f32 model.
    fn is_no_worse(&self) {
        let (ours, theirs) = self.sides();
        assert_eq!(ours.refused, None, "onnx.checker and ONNX Runtime take it");
        assert_eq!(theirs.refused, None, "the peer's model is one to compare with");
        assert!(ours.bytes <= theirs.bytes, "{} bytes are more than theirs, {}", ours.bytes, theirs.bytes);
        let [_, _, high] = self.judgement.quality_gain.unwrap();
        assert!(high >= 0.0, "right less often, beyond chance: {:?}", self.judgement.quality_gain);
        let gain = ours.cosine.unwrap() - theirs.cosine.unwrap();
        assert!(gain >= -COSINE_NOISE, "cosine {:?} is below theirs, {:?}", ours.cosine, theirs.cosine);
    }

    /// Checks that both engines produce the same outputs for our model.
    fn is_one_model_to_both_engines(&self) {
        let _alone = ADAPTER.lock().unwrap_or_else(PoisonError::into_inner);
        let file = std::fs::read(&self.ours).unwrap();
        let library = Some(testkit::binaries::onnxruntime().unwrap());
        let ort = OrtEngine::open(&LibrarySearch { configured: library }).unwrap();
        let mut ort = ort.load(file.clone().into(), &LoadOptions::default()).unwrap();
        let choice = AdapterChoice { allow_software: true, ..AdapterChoice::default() };
        let gpu = match WgpuEngine::open(&choice, BUDGET_BYTES, None) {
            Ok(gpu) => gpu,
            Err(error) => return println!("skipped: no GPU, not even in software: {error}"),
        };
        let mut gpu = match gpu.load(file.into(), &LoadOptions::default()) {
            Ok(session) => session,
            Err(error @ LoadError::Unsupported { .. }) => return println!("skipped: wgpu does not run it: {error}"),
            Err(error) => panic!("{error:?}"),
        };
        let examples = Examples::open(&self.entry.evaluation(), ort.signature()).unwrap();
        for example in examples.iter().take(ENGINES_EXAMPLES) {
            let inputs = example.unwrap().inputs;
            let cosine = cosine(&answer(&mut *ort, &inputs), &answer(&mut *gpu, &inputs));
            assert!(cosine >= ENGINES_COSINE_MIN, "the engines disagree: cosine {cosine}");
        }
    }
}

fn run(mut command: Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn answer(session: &mut dyn Session, inputs: &[NamedTensor]) -> Vec<f32> {
    let outputs = session.run(inputs, &[], &RunControl::default()).unwrap();
    outputs.iter().flat_map(|output| output.tensor.to_f32().unwrap()).collect()
}

fn cosine(one: &[f32], two: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    assert_eq!(one.len(), two.len());
    dot(one, two) / (dot(one, one) * dot(two, two)).sqrt()
}

fn holds(name: &str, form: Form) {
    if let Some(compared) = Compared::new(name, form) {
        compared.is_no_worse();
        compared.is_one_model_to_both_engines();
    }
}

#[test]
fn static_int8_of_the_device_digits_is_no_worse_than_onnxruntimes() {
    holds("digits-edge", Form::Int8Qdq);
}

#[test]
fn static_int8_of_the_full_digits_is_no_worse_than_onnxruntimes() {
    holds("digits-full", Form::Int8Qdq);
}

#[test]
fn static_int8_of_a_text_classifier_is_no_worse_than_onnxruntimes() {
    holds("rapidocr-cls", Form::Int8Qdq);
}

#[test]
fn static_int8_of_a_squeezenet_is_no_worse_than_onnxruntimes() {
    holds("light-squeezenet", Form::Int8Qdq);
}

#[test]
fn dynamic_int8_of_the_full_digits_is_no_worse_than_onnxruntimes() {
    holds("digits-full", Form::Int8Dynamic);
}

#[test]
fn dynamic_int8_of_a_file_classifier_is_no_worse_than_onnxruntimes() {
    holds("magika", Form::Int8Dynamic);
}

#[test]
fn four_bit_weights_of_a_sentence_encoder_are_no_worse_than_onnxruntimes() {
    holds("minilm", Form::Int4Weights);
}
