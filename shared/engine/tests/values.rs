//! Tests that values pass through ONNX Runtime unchanged: outputs that share memory with inputs and weights, every element
//! type, every small batch, named outputs and all of them.
//!
//! `system`'s test `memory` runs this binary under Valgrind: a read of freed memory is not always another value.
#![cfg(feature = "ort")]
#![expect(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

mod support;

use engine::{Engine, LoadOptions, ModelBytes, OrtEngine, RunControl, Session};
use types::{DType, Dim, NamedTensor, Tensor};

use support::model::{self, Graph, Message, Size, graph_attribute, node, tensor, tensor_type, value};
use support::{floats, runtime};

/// Number of each element type in `onnx.proto`.
const ELEMENTS: [(u64, DType); 14] = [
    (9, DType::Bool),
    (2, DType::U8),
    (4, DType::U16),
    (12, DType::U32),
    (13, DType::U64),
    (3, DType::I8),
    (5, DType::I16),
    (6, DType::I32),
    (7, DType::I64),
    (10, DType::F16),
    (16, DType::Bf16),
    (1, DType::F32),
    (11, DType::F64),
    (8, DType::Bytes),
];

/// Columns of the test inputs; the rows of the larger batches pass the smallest blocks that allocators reuse.
const COLUMNS: usize = 37;

fn load(engine: &OrtEngine, file: Vec<u8>) -> Box<dyn Session> {
    engine.load(ModelBytes::from(file), &LoadOptions::default()).unwrap()
}

fn run(session: &mut dyn Session, inputs: &[NamedTensor], outputs: &[&str]) -> Vec<NamedTensor> {
    let outputs: Vec<String> = outputs.iter().map(ToString::to_string).collect();
    session.run(inputs, &outputs, &RunControl::default()).unwrap()
}

/// A tensor of that shape whose elements all differ as far as the type allows; `seed` makes another one.
fn sample(dtype: DType, shape: &[usize], seed: usize) -> Tensor {
    let count: usize = shape.iter().product();
    let Some(size) = dtype.size() else {
        let texts: Vec<String> = (0..count).map(|at| format!("text {at} of {seed} {}", "é".repeat(at % 40))).collect();
        return Tensor::from_elements(shape.to_vec(), &texts).unwrap();
    };
    let byte = |at: usize| {
        let byte = u8::try_from((at * 31 + seed * 7 + at / 251 + 1) % 251).unwrap();
        if dtype == DType::Bool { byte % 2 } else { byte }
    };
    let bytes: Vec<u8> = (0..count * size).map(byte).collect();
    Tensor::new(dtype, shape.to_vec(), bytes.into()).unwrap()
}

/// Frees and takes blocks of the sizes that the last run used, so that freed memory does not keep its content.
fn stir(bytes: usize) {
    for size in [16, 64, bytes.max(1), bytes.max(1) + 64] {
        let blocks: Vec<Vec<u8>> = (0..8).map(|at| vec![0xA0 | at; size]).collect();
        drop(std::hint::black_box(blocks));
    }
}

fn rows(element: u64) -> Message {
    tensor_type(element, &[Size::Named("n"), Size::Fixed(COLUMNS as u64)])
}

fn flat(element: u64) -> Message {
    tensor_type(element, &[Size::Named("m")])
}

/// Models of one input `x` of `[n, COLUMNS]` whose outputs are all `x` again, some in another shape.
fn passing(element: u64) -> Vec<(&'static str, Vec<u8>)> {
    let (x, kind) = (value("x", &rows(element)), rows(element));
    let longs = |name: &str, numbers: &[i64]| {
        let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        tensor(name, model::INT64, &[numbers.len() as u64], &bytes)
    };
    let built = |nodes: Vec<Message>, outputs: Vec<Message>, initializers: Vec<Message>| {
        Graph { nodes, inputs: vec![x.clone()], outputs, initializers }.model()
    };
    let yes = tensor("yes", model::BOOL, &[], &[1]);
    let columns = i64::try_from(COLUMNS).unwrap();
    let branch = |from: &str| {
        Graph { nodes: vec![node("Identity", &[from], &["t"])], outputs: vec![value("t", &kind)], ..Graph::default() }
            .message()
    };
    let fork = node("If", &["yes"], &["y"])
        .message(5, &graph_attribute("then_branch", &branch("x")))
        .message(5, &graph_attribute("else_branch", &branch("x")));
    let body = Graph {
        nodes: vec![node("Identity", &["go"], &["go_on"])],
        inputs: vec![
            value("round", &tensor_type(model::INT64, &[])),
            value("go", &tensor_type(model::BOOL, &[])),
            value("carried", &kind),
        ],
        outputs: vec![value("go_on", &tensor_type(model::BOOL, &[])), value("carried", &kind)],
        initializers: vec![],
    };
    let looping = node("Loop", &["times", "yes", "x"], &["y"]).message(5, &graph_attribute("body", &body.message()));
    vec![
        ("the input itself", built(vec![node("Shape", &["x"], &["s"])], vec![x.clone()], vec![])),
        (
            "the input and a copy",
            built(vec![node("Identity", &["x"], &["y"])], vec![x.clone(), value("y", &kind)], vec![]),
        ),
        (
            "identities in a row",
            built(
                vec![
                    node("Identity", &["x"], &["a"]),
                    node("Identity", &["a"], &["b"]),
                    node("Identity", &["b"], &["y"]),
                ],
                vec![value("y", &kind), value("a", &kind), x.clone()],
                vec![],
            ),
        ),
        (
            "another shape",
            built(
                vec![node("Reshape", &["x", "all"], &["y"]), node("Reshape", &["y", "back"], &["z"])],
                vec![value("y", &flat(element)), value("z", &kind)],
                vec![longs("all", &[-1]), longs("back", &[-1, columns])],
            ),
        ),
        (
            "a dimension more and less",
            built(
                vec![node("Unsqueeze", &["x", "axis"], &["u"]), node("Squeeze", &["u", "axis"], &["y"])],
                vec![
                    value("y", &kind),
                    value("u", &tensor_type(element, &[Size::Fixed(1), Size::Named("n"), Size::Fixed(COLUMNS as u64)])),
                ],
                vec![longs("axis", &[0])],
            ),
        ),
        ("a branch", built(vec![fork], vec![value("y", &kind)], vec![yes.clone()])),
        (
            "a loop that is never entered",
            built(
                vec![looping.clone()],
                vec![value("y", &kind)],
                vec![yes.clone(), tensor("times", model::INT64, &[], &[0; 8])],
            ),
        ),
        (
            "a loop that carries",
            built(
                vec![looping],
                vec![value("y", &kind), x.clone()],
                vec![yes, tensor("times", model::INT64, &[], &3_i64.to_le_bytes())],
            ),
        ),
        (
            "an optional value",
            built(
                vec![node("Optional", &["x"], &["o"]), node("OptionalGetElement", &["o"], &["y"])],
                vec![value("y", &kind)],
                vec![],
            ),
        ),
        (
            "an element of a sequence",
            built(
                vec![node("SequenceConstruct", &["x", "x"], &["s"]), node("SequenceAt", &["s", "second"], &["y"])],
                vec![value("y", &kind)],
                vec![tensor("second", model::INT64, &[], &1_i64.to_le_bytes())],
            ),
        ),
    ]
}

#[test]
fn an_output_that_is_an_input_comes_back_unchanged_for_every_type_and_batch() {
    let Some(engine) = runtime() else { return };
    let mut tried = 0;
    for (element, dtype) in ELEMENTS {
        for (name, file) in passing(element) {
            // Some operators do not exist for every type in ONNX Runtime; that is an error at load and never a crash.
            let Ok(mut session) = engine.load(ModelBytes::from(file), &LoadOptions::default()) else { continue };
            for batch in 0..=8 {
                let x = sample(dtype, &[batch, COLUMNS], batch);
                let inputs = [NamedTensor { name: "x".into(), tensor: x.clone() }];
                let all = run(session.as_mut(), &inputs, &[]);
                let names: Vec<&str> = all.iter().map(|output| output.name.as_str()).collect();
                let twice: Vec<&str> = names.iter().rev().chain(&names).copied().collect();
                for answers in
                    [all.clone(), run(session.as_mut(), &inputs, &names), run(session.as_mut(), &inputs, &twice)]
                {
                    stir(x.data().len());
                    for answer in answers {
                        let place = format!("{name}: output {} of {dtype}, batch {batch}", answer.name);
                        assert_eq!(answer.tensor.data(), x.data(), "{place}");
                        assert_eq!(answer.tensor.shape().iter().product::<usize>(), batch * COLUMNS, "{place}");
                    }
                }
                tried += 1;
            }
        }
    }
    assert!(tried > 14 * 6 * 9, "only {tried} combinations were loaded");
}

#[test]
fn outputs_that_are_weights_do_not_change_from_run_to_run() {
    let Some(engine) = runtime() else { return };
    for (element, dtype) in ELEMENTS {
        let Some(size) = dtype.size() else { continue };
        let weights = sample(dtype, &[5, 3], 1);
        assert_eq!(weights.data().len(), 15 * size);
        let kind = tensor_type(element, &[Size::Fixed(5), Size::Fixed(3)]);
        let file = Graph {
            nodes: vec![
                node("Identity", &["w"], &["copy"]),
                node("Reshape", &["w", "all"], &["flat"]),
                node("Identity", &["x"], &["y"]),
            ],
            inputs: vec![value("x", &rows(element))],
            outputs: vec![
                value("w", &kind),
                value("copy", &kind),
                value("flat", &tensor_type(element, &[Size::Fixed(15)])),
                value("y", &rows(element)),
            ],
            initializers: vec![
                tensor("w", element, &[5, 3], weights.data()),
                tensor("all", model::INT64, &[1], &(-1_i64).to_le_bytes()),
            ],
        };
        let mut session = load(&engine, file.model());
        let mut kept = Vec::new();
        for seed in 0..4 {
            let x = NamedTensor { name: "x".into(), tensor: sample(dtype, &[2, COLUMNS], seed) };
            kept.push((x.clone(), run(session.as_mut(), &[x], &[])));
        }
        // The answers outlive the session that gave them.
        drop(session);
        stir(weights.data().len());
        for (x, answers) in kept {
            for answer in answers {
                let expected = if answer.name == "y" { x.tensor.data() } else { weights.data() };
                assert_eq!(answer.tensor.data(), expected, "{} of {dtype}", answer.name);
            }
        }
    }
}

#[test]
fn sizes_of_zero_in_any_place_are_lawful() {
    let Some(engine) = runtime() else { return };
    for (element, dtype) in ELEMENTS {
        let kind = tensor_type(element, &[Size::Named("a"), Size::Named("b"), Size::Named("c")]);
        let file = Graph {
            nodes: vec![node("Identity", &["x"], &["y"])],
            inputs: vec![value("x", &kind)],
            outputs: vec![value("y", &kind), value("x", &kind)],
            initializers: vec![],
        };
        let mut session = load(&engine, file.model());
        for shape in [[0, 2, 3], [2, 0, 3], [2, 3, 0], [0, 0, 0]] {
            let x = NamedTensor { name: "x".into(), tensor: sample(dtype, &shape, 0) };
            for answer in run(session.as_mut(), std::slice::from_ref(&x), &[]) {
                assert_eq!(answer.tensor, x.tensor, "{} of {dtype}", answer.name);
            }
        }
    }
}

#[test]
fn a_scalar_and_a_tensor_of_unknown_rank_are_told_apart() {
    let Some(engine) = runtime() else { return };
    // A tensor type without the field `shape`.
    let unknown = Message::default().message(1, &Message::default().varint(1, model::FLOAT));
    let scalar = tensor_type(model::FLOAT, &[]);
    let file = |kind: &Message| {
        Graph {
            nodes: vec![node("Relu", &["x"], &["y"])],
            inputs: vec![value("x", kind)],
            outputs: vec![value("y", kind)],
            initializers: vec![],
        }
        .model()
    };
    let mut open = load(&engine, file(&unknown));
    assert_eq!((&open.signature().inputs[0].shape, &open.signature().outputs[0].shape), (&None, &None));
    for shape in [&[][..], &[3], &[2, 2], &[1, 2, 3, 4], &[0, 4]] {
        let count: usize = shape.iter().product();
        let values: Vec<f32> = (0..count).map(|at| f32::from(u8::try_from(at).unwrap())).collect();
        let x = floats("x", shape, &values);
        assert_eq!(run(open.as_mut(), std::slice::from_ref(&x), &[])[0].tensor, x.tensor, "{shape:?}");
    }
    let mut closed = load(&engine, file(&scalar));
    assert_eq!(closed.signature().inputs[0].shape.as_deref(), Some(&[][..] as &[Dim]));
    assert!(closed.run(&[floats("x", &[3], &[1.0; 3])], &[], &RunControl::default()).is_err(), "a scalar stays one");
}

/// Name of the variable that `cargo xtask test --long` sets.
const LONG: &str = "SANDERLING_TEST_LONG";

/// Exit code by which Valgrind reports an error that no suppression names.
const FOUND: i32 = 99;

#[test]
fn no_read_or_write_outside_living_memory_under_valgrind() {
    if std::env::var_os(LONG).is_none() {
        println!("skipped: Valgrind takes half a minute, run `cargo xtask test --long`");
        return;
    }
    let suppressions = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/valgrind.supp");
    let checked = std::process::Command::new("valgrind")
        .args(["--quiet", "--leak-check=no", "--num-callers=30"])
        .arg(format!("--error-exitcode={FOUND}"))
        .arg(format!("--suppressions={}", suppressions.display()))
        .arg(std::env::current_exe().unwrap())
        .args(["--test-threads=1", "--skip", "under_valgrind"])
        .output();
    let checked = match checked {
        Ok(checked) => checked,
        Err(error) => {
            println!("skipped: valgrind does not start ({error}); install the package valgrind");
            return;
        }
    };
    let errors = String::from_utf8_lossy(&checked.stderr);
    assert_ne!(checked.status.code(), Some(FOUND), "{errors}");
    assert!(checked.status.success(), "{errors}{}", String::from_utf8_lossy(&checked.stdout));
}
