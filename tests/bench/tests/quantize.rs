//! What our compression makes is no worse than what PyPI's `onnxruntime.quantization` makes of the same model with the same
//! examples and options, is valid to others, and runs on both of our engines.
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

/// How much lower than theirs our mean cosine may be. Two roundings of one model differ by so much in either direction.
const COSINE_NOISE: f64 = 1e-4;

/// Least cosine between the answers of both engines to one quantized model: an activation at the edge of two steps falls
/// either way, and that travels.
const ENGINES_COSINE_MIN: f64 = 0.999;

/// Examples that both engines answer: a software GPU takes a while.
const ENGINES_EXAMPLES: usize = 12;

/// Device memory for a model, in bytes.
const BUDGET_BYTES: u64 = 1024 * 1024 * 1024;

/// One model at a time on the software adapter: several share the cores with it, and run into its time limits.
static ADAPTER: Mutex<()> = Mutex::new(());

/// Both sides' models, and what the judge said of ours, then theirs.
struct Compared {
    entry: Entry,
    ours: PathBuf,
    judgement: Judgement,
    /// Holds the models.
    _folder: tempfile::TempDir,
}

impl Compared {
    /// `None` (and a line that says why) when the peer or the corpus cannot be had.
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

    /// Valid, no larger, no less right, no further from the f32 model.
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

    /// Both engines answer our model alike.
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
