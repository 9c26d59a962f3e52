//! Forms are judged by the measure that fits their answers, one at a time, and never in silence about what is broken.
#![expect(clippy::unwrap_used, reason = "helpers of tests may do what tests may")]

mod support;

use std::path::Path;
use std::time::Duration;

use compress::auto::{self, Outcome, Request};
use compress::quality::{Custom, Judge, Measure, Score, Task};
use compress::{CompressError, Examples, Label, Selection, dynamic_int8};
use engine::{Engine, LoadOptions, OrtEngine};
use onnx_graph::proto::{NodeProto, TensorProto};
use onnx_graph::{Model, Values};
use support::{floats, model, noise, noisy, npy, npz, runtime, signature, value};
use types::NamedTensor;
use zip::CompressionMethod;

/// Features of the small models here.
const WIDTH: usize = 32;

fn request<'a>(engine: &'a OrtEngine, model: &Model, examples: &Path, recipes: &[&str]) -> Request<'a> {
    let all = compress::pass::all_recipes();
    let wanted = all.into_iter().filter(|recipe| recipes.iter().any(|name| recipe.name().starts_with(name)));
    Request {
        file: model.to_bytes().unwrap().into(),
        model: model.clone(),
        examples: Examples::open(examples, &signature(engine, model)).unwrap(),
        calibration: 8,
        engines: vec![engine],
        recipes: wanted.collect(),
        search_mixed: Vec::new(),
        rank_by: None,
        selection: Selection::default(),
        measure: None,
        task: None,
        custom: None,
        loss_max: 0.01,
        form_budget: Duration::ZERO,
    }
}

fn judged(request: Request<'_>) -> Result<Outcome, CompressError> {
    auto::run(request, &mut |_| {})
}

/// Features, and a file of them with these labels beside.
fn write(path: &Path, rows: usize, labels: Option<Vec<u8>>) -> Vec<f32> {
    let data = noise(11, rows * WIDTH);
    let mut arrays = vec![("x", floats(&[rows, WIDTH], &data))];
    arrays.extend(labels.map(|labels| ("labels", labels)));
    npz(path, CompressionMethod::Stored, &arrays);
    data
}

/// One sigmoid score per row.
fn wake_word() -> Model {
    let nodes =
        vec![NodeProto::new("MatMul", "m", &["x", "w"], &["a"]), NodeProto::new("Sigmoid", "s", &["a"], &["score"])];
    model(nodes, vec![noisy("w", 5, &[WIDTH, 1])], vec![value("x", &[-1, 32])], vec![value("score", &[-1, 1])])
}

/// A model that gives the same number whatever it hears: what pruning makes of a wake word in the worst case.
fn deaf(original: &Model) -> Model {
    let mut deaf = original.clone();
    deaf.graph.add_initializer(TensorProto::of_floats("w", &[WIDTH, 1], &[1e-4; WIDTH]));
    deaf
}

#[test]
fn one_number_per_answer_is_judged_by_its_spread_and_never_by_cosine() {
    let Some(engine) = runtime() else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.npz");
    write(&path, 60, None);
    let original = wake_word();
    let examples = Examples::open(&path, &signature(&engine, &original)).unwrap();
    let mut judge = Judge::new(&engine, original.to_bytes().unwrap().into(), examples).unwrap();
    let mut variant = engine.load(deaf(&original).to_bytes().unwrap().into(), &LoadOptions::default()).unwrap();
    let quality = judge.judge(&mut *variant, |_| {}).unwrap();
    assert_eq!(quality.natural_measure(), Measure::Error);
    assert!(quality.outputs[0].cosine > 0.99, "cosine sees nothing of it: {quality:?}");
    assert!(quality.loss(Measure::Error).unwrap() > 0.9, "{quality:?}");
    assert_eq!(quality.loss(Measure::Cosine), None);
    // And asked for all the same, it is refused with what is possible.
    let mut by_cosine = request(&engine, &original, &path, &["fp16"]);
    by_cosine.measure = Some(Measure::Cosine);
    let reason = judged(by_cosine).unwrap_err().to_string();
    assert!(reason.contains("error"), "{reason}");
}

#[test]
fn labels_choose_the_measure_and_are_never_ignored() {
    let Some(engine) = runtime() else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.npz");
    let original = wake_word();
    let data = write(&path, 80, None);
    let answers = support::run(&engine, &original, &[("x", vec![80, WIDTH], data)]).remove(0);
    let doubles =
        |values: Vec<f64>| npy("<f8", "(80,)", &values.iter().flat_map(|one| one.to_le_bytes()).collect::<Vec<_>>());
    let yes = answers.iter().map(|&score| f64::from(u8::from(score > 0.5))).collect();
    let cases: [(Vec<u8>, Measure); 3] = [
        (doubles(yes), Measure::F1),
        (doubles(answers.iter().map(|&score| 3.0 * f64::from(score)).collect()), Measure::R2),
        (npy("<i8", "(80,)", &(0..80_i64).flat_map(i64::to_le_bytes).collect::<Vec<_>>()), Measure::R2),
    ];
    for (labels, measure) in cases {
        write(&path, 80, Some(labels));
        let outcome = judged(request(&engine, &original, &path, &["int8-weights"])).unwrap();
        assert_eq!(outcome.measure, measure);
        let labelled = outcome.candidates[0].quality.as_ref().unwrap().labelled.as_ref().unwrap();
        assert!(labelled.figure(measure).is_some_and(|figure| figure.lost == 0.0), "{labelled:?}");
    }
    // Three numbers per label fit no output.
    write(&path, 80, Some(npy("<f4", "(80, 3)", &[0; 80 * 12])));
    let reason = judged(request(&engine, &original, &path, &["fp16"])).unwrap_err().to_string();
    assert!(reason.contains("3 per example") && reason.contains("--task"), "{reason}");
    // With a measure that needs none they may stay, and it is said.
    let mut unlabelled = request(&engine, &original, &path, &["fp16"]);
    unlabelled.measure = Some(Measure::Error);
    judged(unlabelled).unwrap();
}

#[test]
fn what_is_not_finite_is_named_by_tensor_row_and_count() {
    let Some(engine) = runtime() else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.npz");
    let original = wake_word();
    let mut data = noise(11, 40 * WIDTH);
    (data[17 * WIDTH], data[17 * WIDTH + 3], data[30 * WIDTH]) = (f32::NAN, f32::INFINITY, f32::NAN);
    npz(&path, CompressionMethod::Stored, &[("x", floats(&[40, WIDTH], &data))]);
    let reason = judged(request(&engine, &original, &path, &["fp16"])).unwrap_err().to_string();
    for word in ["\"x\"", "row 17", "2 of 32 numbers", "2 of 40 examples"] {
        assert!(reason.contains(word), "{word} is missing: {reason}");
    }
    // Answers that are not finite, though the examples are.
    write(&path, 40, None);
    let mut broken = original.clone();
    broken.graph.add_initializer(TensorProto::of_floats("w", &[WIDTH, 1], &[f32::NAN; WIDTH]));
    let reason = judged(request(&engine, &broken, &path, &["fp16"])).unwrap_err().to_string();
    for word in ["\"score\"", "row 0", "1 of 1 numbers", "32 of 32 examples"] {
        assert!(reason.contains(word), "{word} is missing: {reason}");
    }
}

#[test]
fn forms_answer_one_example_at_a_time() {
    let Some(engine) = runtime() else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.npz");
    // Two layers, and examples of very different size: in a batch the large ones take all levels of the small ones.
    let nodes = vec![
        NodeProto::new("MatMul", "m", &["x", "w"], &["a"]),
        NodeProto::new("Relu", "r", &["a"], &["b"]),
        NodeProto::new("MatMul", "n", &["b", "v"], &["y"]),
    ];
    let weights = vec![noisy("w", 5, &[WIDTH, 64]), noisy("v", 6, &[64, 16])];
    let original = model(nodes, weights, vec![value("x", &[-1, 32])], vec![value("y", &[-1, 16])]);
    let data: Vec<f32> = noise(11, 32 * WIDTH)
        .chunks(WIDTH)
        .enumerate()
        .flat_map(|(row, values)| {
            values.iter().map(move |value| if row % 8 == 0 { 200.0 * value } else { *value }).collect::<Vec<_>>()
        })
        .collect();
    npz(&path, CompressionMethod::Stored, &[("x", floats(&[32, WIDTH], &data))]);
    let (small, _) = dynamic_int8::quantize(&original, &dynamic_int8::Options::default()).unwrap();
    let examples = Examples::open(&path, &signature(&engine, &original)).unwrap();
    let mut judge = Judge::new(&engine, original.to_bytes().unwrap().into(), examples).unwrap();
    let mut session = engine.load(small.to_bytes().unwrap().into(), &LoadOptions::default()).unwrap();
    let quality = judge.judge(&mut *session, |_| {}).unwrap();
    let together = [("x", vec![32, WIDTH], data)];
    let (wanted, found) =
        (support::run(&engine, &original, &together).remove(0), support::run(&engine, &small, &together).remove(0));
    let batched = wanted.chunks(16).zip(found.chunks(16)).map(|(a, b)| support::cosine(a, b)).fold(1.0, f64::min);
    assert!(batched < 0.9, "beside others the small ones are lost: {batched}");
    assert!(quality.outputs[0].cosine_least > 0.99, "one at a time they are not: {quality:?}");
}

/// Counts what a command would see.
#[derive(Debug, Default)]
struct Mean {
    rows: Vec<usize>,
    sum: f64,
}

impl Custom for Mean {
    fn take(&mut self, row: usize, _label: Option<&Label>, answers: &[NamedTensor]) -> Result<(), CompressError> {
        self.rows.push(row);
        self.sum += answers[0].tensor.to_f32().unwrap().iter().copied().map(f64::from).sum::<f64>();
        Ok(())
    }

    fn finish(&mut self) -> Result<Score, CompressError> {
        let value = self.sum / self.rows.len() as f64;
        *self = Self::default();
        Ok(Score { value, higher_is_better: false })
    }
}

#[test]
fn a_judge_of_the_user_sees_every_answer_and_decides() {
    let Some(engine) = runtime() else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.npz");
    write(&path, 60, None);
    let original = wake_word();
    let mut asked = request(&engine, &original, &path, &["int8-qdq minmax"]);
    asked.measure = Some(Measure::Command);
    asked.custom = Some(Box::new(Mean::default()));
    let outcome = judged(asked).unwrap();
    let (reference, form) = (&outcome.candidates[0], &outcome.candidates[1]);
    assert_eq!((outcome.measure, reference.loss), (Measure::Command, Some(0.0)));
    let figure = form.quality.as_ref().unwrap().figures[0];
    assert!((figure.lost - (figure.variant - figure.reference)).abs() < 1e-12 && figure.lost != 0.0, "{figure:?}");
    assert!((0.3..0.7).contains(&figure.reference), "{figure:?}");
}

#[test]
fn boxes_and_texts_are_judged_as_what_they_are_where_the_task_is_declared() {
    let Some(engine) = runtime() else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.npz");
    write(&path, 48, None);
    // 20 steps of 6 symbols; and 2 boxes of `x1 y1 x2 y2 score class`.
    for (task, measure, shape, columns) in
        [(Task::Ctc, Measure::EditDistance, [0, 20, 6], 120), (Task::Detection, Measure::MeanPrecision, [0, 2, 6], 12)]
    {
        let nodes = vec![
            NodeProto::new("MatMul", "m", &["x", "w"], &["a"]),
            NodeProto::new("Abs", "abs", &["a"], &["b"]),
            NodeProto::new("Reshape", "r", &["b", "shape"], &["c"]),
            // Boxes have an area and one class; symbols stay what they are.
            NodeProto::new("Mul", "mask", &["c", "factor"], &["d"]),
            NodeProto::new("Add", "grow", &["d", "size"], &["y"]),
        ];
        let is_boxes = task == Task::Detection;
        let factor = if is_boxes { [1.0, 1.0, 1.0, 1.0, 1.0, 0.0] } else { [1.0; 6] };
        let size = if is_boxes { [0.0, 0.0, 50.0, 50.0, 0.0, 0.0] } else { [0.0; 6] };
        let constants = vec![
            noisy("w", 5, &[WIDTH, columns]),
            TensorProto::of_int64("shape", &[3], &shape),
            TensorProto::of_floats("factor", &[6], &factor),
            TensorProto::of_floats("size", &[6], &size),
        ];
        let y = value("y", &[-1, shape[1], shape[2]]);
        let original = model(nodes, constants, vec![value("x", &[-1, 32])], vec![y]);
        let mut asked = request(&engine, &original, &path, &["int4-weights", "int8-weights"]);
        asked.task = Some(task);
        let outcome = judged(asked).unwrap();
        assert_eq!(outcome.measure, measure);
        let loss = |name: &str| outcome.candidates.iter().find(|one| one.name == name).unwrap().loss.unwrap();
        assert!(loss("fp32").abs() < 1e-9, "{task:?}: {}", loss("fp32"));
        assert!(loss("int8-weights") < 0.15, "{task:?}: {}", loss("int8-weights"));
    }
}
