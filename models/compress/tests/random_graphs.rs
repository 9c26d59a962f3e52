//! Preparation and every compression form keep names, types and shapes of random models, and their answers as far as they
//! promise.
#![expect(clippy::unwrap_used, reason = "helpers of tests may do what tests may")]

mod support;

use std::path::Path;
use std::time::Duration;

use compress::auto::{self, Request, Verdict};
use compress::{Examples, Selection, prepare};
use engine::{Engine, LoadOptions, ModelBytes, OrtEngine, RunControl};
use onnx_graph::Model;
use support::{npy, npz, runtime};
use testkit::graphs::{Family, RandomGraph, random};
use types::{DType, NamedTensor, Signature};
use zip::CompressionMethod;

/// Graphs of an ordinary run, and of `cargo xtask test --long`.
const GRAPHS: u64 = 50;
const GRAPHS_LONG: u64 = 1_000;

/// Models of [`Family::Any`] at whose load ONNX Runtime 1.32 aborts the process, prepared or not: nested branches whose
/// quantized values it fuses.
const ABORTING: [u64; 1] = [167];

fn seeds() -> std::ops::Range<u64> {
    0..if std::env::var_os(testkit::tools::LONG_ENV).is_some() { GRAPHS_LONG } else { GRAPHS }
}

/// Answers of a model to the requests of a graph; `None` where ONNX Runtime does not load it or refuses a request.
fn try_answers(engine: &OrtEngine, file: &[u8], graph: &RandomGraph) -> Option<Vec<Vec<NamedTensor>>> {
    let mut session = engine.load(file.to_vec().into(), &LoadOptions::default()).ok()?;
    graph.examples.iter().map(|inputs| session.run(inputs, &[], &RunControl::default()).ok()).collect()
}

fn answers(engine: &OrtEngine, file: &[u8], graph: &RandomGraph) -> Vec<Vec<NamedTensor>> {
    try_answers(engine, file, graph).unwrap()
}

/// Checks that two answers have the same names, types and shapes, and values as close as the graph allows.
fn compare(graph: &RandomGraph, what: &str, wanted: &[NamedTensor], found: &[NamedTensor], tolerance: f32) {
    let seed = graph.seed;
    assert_eq!(wanted.len(), found.len(), "{what} of seed {seed}: {}", graph.listing);
    for (wanted, found) in wanted.iter().zip(found) {
        let of = |tensor: &NamedTensor| (tensor.name.clone(), tensor.tensor.dtype(), tensor.tensor.shape().to_vec());
        assert_eq!(of(wanted), of(found), "{what} of seed {seed}: {}", graph.listing);
        let Ok(values) = wanted.tensor.to_f32() else { continue };
        let largest = values.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
        for (a, b) in values.iter().zip(&found.tensor.to_f32().unwrap()) {
            let far = (a - b).abs() > tolerance * largest.max(1e-3);
            assert!(!far, "{what} of seed {seed}: {a} became {b} in {}: {}", wanted.name, graph.listing);
        }
    }
}

#[test]
fn preparation_changes_no_answer_and_no_shape_of_random_models() {
    let Some(engine) = runtime() else { return };
    for family in [Family::Layers, Family::Any] {
        for seed in seeds().filter(|seed| family != Family::Any || !ABORTING.contains(seed)) {
            eprintln!("preparation of {family:?} {seed}");
            let graph = random(family, seed);
            let model = Model::from_bytes(graph.model.clone().into()).unwrap();
            // Old operators that no converter knows are left to the passes, which say so.
            let Ok(prepared) = prepare(&model) else { continue };
            // ONNX Runtime's own rewrites break a few quantized models of the other family.
            let Some(before) = try_answers(&engine, &graph.model, &graph) else {
                assert_eq!(family, Family::Any, "seed {seed} does not load: {}", graph.listing);
                continue;
            };
            let after = answers(&engine, &prepared.to_bytes().unwrap(), &graph);
            for (before, after) in before.iter().zip(&after) {
                compare(&graph, "preparation", before, after, graph.tolerance.max(1e-4));
            }
        }
    }
}

/// Writes the examples of a graph, each into a file of its own.
fn write_examples(folder: &Path, graph: &RandomGraph) {
    for (at, example) in graph.examples.iter().enumerate() {
        let arrays: Vec<(&str, Vec<u8>)> = example
            .iter()
            .map(|input| {
                let shape: String = input.tensor.shape().iter().map(|dim| format!("{dim}, ")).collect();
                (input.name.as_str(), npy(descr(input.tensor.dtype()), &format!("({shape})"), input.tensor.data()))
            })
            .collect();
        npz(&folder.join(format!("{at}.npz")), CompressionMethod::Stored, &arrays);
    }
}

fn descr(dtype: DType) -> &'static str {
    let all = ["|b1", "|u1", "<u2", "<u4", "<u8", "|i1", "<i2", "<i4", "<i8", "<f2", "<f4", "<f8"];
    all.into_iter().find(|descr| DType::from_numpy(descr) == Some(dtype)).unwrap()
}

#[test]
fn every_form_of_a_random_model_is_valid_and_keeps_its_shapes() {
    let Some(engine) = runtime() else { return };
    let mut made = 0;
    for seed in seeds() {
        eprintln!("forms of seed {seed}");
        let graph = random(Family::Layers, seed);
        let folder = tempfile::tempdir().unwrap();
        write_examples(folder.path(), &graph);
        let file = ModelBytes::from(graph.model.clone());
        let signature: Signature = engine.load(file.clone(), &LoadOptions::default()).unwrap().signature().clone();
        let request = Request {
            model: Model::from_bytes(graph.model.clone().into()).unwrap(),
            file,
            examples: Examples::open(folder.path(), &signature).unwrap(),
            calibration: 2,
            engines: vec![&engine],
            recipes: compress::pass::all_recipes(),
            search_mixed: Vec::new(),
            rank_by: None,
            selection: Selection::default(),
            measure: Some(compress::quality::Measure::Error),
            task: None,
            custom: None,
            loss_max: 1.0,
            form_budget: Duration::ZERO,
        };
        let outcome = auto::run(request, &mut |_| {}).unwrap();
        let wanted = answers(&engine, &graph.model, &graph);
        for candidate in &outcome.candidates {
            let invalid = matches!(candidate.verdict, Verdict::Invalid { .. });
            assert!(!invalid, "{} of seed {seed}: {:?}: {}", candidate.name, candidate.verdict, graph.listing);
            let Some(model) = &candidate.model else { continue };
            made += 1;
            for (wanted, found) in wanted.iter().zip(answers(&engine, model.as_slice(), &graph)) {
                // 16 bits of everything round by this much at most; integers may be further off, and keep the shape.
                let is_half = candidate.name.ends_with("weights") && candidate.name.contains("16");
                compare(&graph, &candidate.name, wanted, &found, if is_half { 0.05 } else { f32::INFINITY });
            }
        }
    }
    assert!(made > 100, "only {made} forms were made of all graphs");
}
