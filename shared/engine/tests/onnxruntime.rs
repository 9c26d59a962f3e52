//! Tests of the ONNX Runtime engine with the real library and real models.
#![cfg(feature = "ort")]
#![expect(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

mod support;

use std::path::Path;
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use engine::{
    CancelFlag, Engine, LibrarySearch, LoadError, LoadOptions, ModelBytes, OrtEngine, Provider, RunControl, RunError,
    Session, SessionWorker, WorkerOptions,
};
use types::{DType, Dim, EngineName, Mismatch, NamedTensor, Tensor};

use support::model::{self, Graph, Size, node, tensor, tensor_type, value};
use support::{floats, raw, runtime};

fn load(engine: &OrtEngine, file: Vec<u8>) -> Result<Box<dyn Session>, LoadError> {
    engine.load(ModelBytes::from(file), &LoadOptions::default())
}

fn run(session: &mut dyn Session, inputs: &[NamedTensor]) -> Result<Vec<NamedTensor>, RunError> {
    session.run(inputs, &[], &RunControl::default())
}

/// Real digits as `FP32[n,1,28,28]` in 0..1, with their labels.
fn digits(count: usize) -> (NamedTensor, Vec<u8>) {
    let file = support::digits("test/digits.npz");
    let mut archive = npyz::npz::NpzArchive::new(std::io::Cursor::new(file)).unwrap();
    let images: Vec<u8> = archive.by_name("images").unwrap().unwrap().into_vec().unwrap();
    let labels: Vec<u8> = archive.by_name("labels").unwrap().unwrap().into_vec().unwrap();
    let pixels: Vec<f32> = images[..count * 784].iter().map(|&pixel| f32::from(pixel) / 255.0).collect();
    (floats("image", &[count, 1, 28, 28], &pixels), labels[..count].to_vec())
}

fn best(row: &[f32]) -> usize {
    (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap()
}

#[test]
fn the_engine_says_what_it_is() {
    let Some(engine) = runtime() else { return };
    let description = engine.describe();
    assert_eq!(description.engine, EngineName::Ort);
    assert!(description.version.starts_with("1."), "{description:?}");
    assert!(description.providers.contains(&"CPUExecutionProvider".to_owned()), "{description:?}");
}

#[test]
fn real_digits_are_read_right_by_every_variant() {
    let Some(engine) = runtime() else { return };
    let (image, labels) = digits(500);
    for (file, least) in
        [("v1/int8-qdq.onnx", 450), ("v1/fp32.onnx", 450), ("v2/int8-qdq.onnx", 480), ("v2/full.onnx", 490)]
    {
        let mut session = load(&engine, support::digits(file)).unwrap();
        assert_eq!(session.provider(), "CPUExecutionProvider");
        let outputs = run(session.as_mut(), std::slice::from_ref(&image)).unwrap();
        assert_eq!((outputs[0].name.as_str(), outputs[0].tensor.shape()), ("logits", &[500, 10][..]));
        let logits = outputs[0].tensor.to_f32().unwrap();
        let right = logits.chunks(10).zip(&labels).filter(|(row, label)| best(row) == usize::from(**label)).count();
        assert!(right >= least, "{file}: {right} of 500");
    }
}

#[test]
fn the_signature_is_that_of_the_model() {
    let Some(engine) = runtime() else { return };
    let session = load(&engine, support::digits("v1/int8-qdq.onnx")).unwrap();
    let image = &session.signature().inputs[0];
    assert_eq!((image.name.as_str(), image.dtype), ("image", DType::F32));
    let dims = [Dim::Symbol("batch".into()), Dim::Fixed(1), Dim::Fixed(28), Dim::Fixed(28)];
    assert_eq!(image.shape.as_deref(), Some(&dims[..]));
    assert_eq!(session.signature().outputs[0].to_string(), "\"logits\" FP32[batch,10]");
}

#[test]
fn every_element_type_goes_through_unchanged() {
    let Some(engine) = runtime() else { return };
    let cases = [
        (9, raw("x", DType::Bool, &[3], &[0, 1, 1])),
        (2, raw("x", DType::U8, &[3], &[0, 127, 255])),
        (4, raw("x", DType::U16, &[2], &[0, 0, 255, 255])),
        (12, raw("x", DType::U32, &[1], &[1, 2, 3, 255])),
        (13, raw("x", DType::U64, &[1], &[1, 2, 3, 4, 5, 6, 7, 255])),
        (3, raw("x", DType::I8, &[3], &[0, 127, 128])),
        (5, raw("x", DType::I16, &[2], &[0, 128, 255, 127])),
        (6, raw("x", DType::I32, &[1], &[1, 2, 3, 255])),
        (7, raw("x", DType::I64, &[1], &[1, 2, 3, 4, 5, 6, 7, 255])),
        (10, raw("x", DType::F16, &[2], &[0x00, 0x3c, 0x01, 0x7e])),
        (16, raw("x", DType::Bf16, &[2], &[0x80, 0x3f, 0xc1, 0x7f])),
        (1, raw("x", DType::F32, &[2], &[0, 0, 0x80, 0x3f, 1, 0, 0xc0, 0x7f])),
        (11, raw("x", DType::F64, &[1], &[1, 0, 0, 0, 0, 0, 0xf0, 0x3f])),
        (8, NamedTensor { name: "x".into(), tensor: Tensor::from_elements(vec![3], &["", "a", "épée ⚔"]).unwrap() }),
    ];
    assert_eq!(cases.len(), DType::ALL.len());
    for (element, input) in cases {
        let mut session = load(&engine, model::identity(element)).unwrap();
        assert_eq!(session.signature().inputs[0].dtype, input.tensor.dtype());
        let outputs = run(session.as_mut(), std::slice::from_ref(&input)).unwrap();
        assert_eq!(outputs[0].tensor, input.tensor, "to the last bit of a NaN");
        let nothing: &[&str] = &[];
        let empty = match input.tensor.dtype() {
            DType::Bytes => Tensor::from_elements(vec![0], nothing).unwrap(),
            dtype => Tensor::new(dtype, vec![0], bytes::Bytes::new()).unwrap(),
        };
        let outputs = run(session.as_mut(), &[NamedTensor { name: "x".into(), tensor: empty.clone() }]).unwrap();
        assert_eq!(outputs[0].tensor, empty, "an empty batch is lawful");
    }
}

#[test]
fn text_that_the_runtime_would_cut_short_is_refused() {
    let Some(engine) = runtime() else { return };
    let mut session = load(&engine, model::identity(8)).unwrap();
    for bad in [&b"a\0b"[..], &[0xff]] {
        let tensor = Tensor::from_elements(vec![2], &[b"good", bad]).unwrap();
        let error = run(session.as_mut(), &[NamedTensor { name: "x".into(), tensor }]).unwrap_err();
        assert!(matches!(error, RunError::NotText { element: 1, .. }), "{error:?}");
    }
}

#[test]
fn only_the_wanted_outputs_come_in_the_wanted_order() {
    let Some(engine) = runtime() else { return };
    let mut session = load(&engine, model::sum_and_product()).unwrap();
    let inputs = [floats("b", &[1, 2], &[3.0, 4.0]), floats("a", &[1, 2], &[1.0, 2.0])];
    let mut names = |wanted: &[&str]| {
        let wanted: Vec<String> = wanted.iter().map(ToString::to_string).collect();
        let outputs = session.run(&inputs, &wanted, &RunControl::default()).unwrap();
        outputs.iter().map(|output| (output.name.clone(), output.tensor.to_f32().unwrap())).collect::<Vec<_>>()
    };
    let (sum, product) = (("sum".to_owned(), vec![4.0, 6.0]), ("product".to_owned(), vec![3.0, 8.0]));
    assert_eq!(names(&[]), [sum.clone(), product.clone()]);
    assert_eq!(names(&["product"]), std::slice::from_ref(&product));
    assert_eq!(names(&["product", "sum", "product"]), [product.clone(), sum, product]);
}

#[test]
fn a_request_that_does_not_fit_is_refused_before_the_run() {
    let Some(engine) = runtime() else { return };
    let mut session = load(&engine, model::sum_and_product()).unwrap();
    let a = || floats("a", &[1, 2], &[1.0, 2.0]);
    let mut refused = |inputs: &[NamedTensor], outputs: &[String]| match session
        .run(inputs, outputs, &RunControl::default())
        .unwrap_err()
    {
        RunError::Mismatch(mismatch) => mismatch,
        other => panic!("{other:?}"),
    };
    assert!(matches!(refused(&[a()], &[]), Mismatch::Missing { .. }));
    assert!(matches!(refused(&[a(), raw("b", DType::I8, &[1, 2], &[0; 2])], &[]), Mismatch::DType { .. }));
    assert!(matches!(refused(&[a(), floats("b", &[2], &[0.0; 2])], &[]), Mismatch::Shape { .. }));
    assert!(matches!(refused(&[a(), floats("b", &[1, 2], &[0.0; 2])], &["sums".into()]), Mismatch::Unknown { .. }));
}

#[test]
fn one_symbol_may_be_two_sizes_and_the_operators_judge() {
    let Some(engine) = runtime() else { return };
    let mut session = load(&engine, model::sum_and_product()).unwrap();
    let rows = |name: &str, count: usize| floats(name, &[count, 2], &vec![1.0; 2 * count]);
    let sum = session.run(&[rows("a", 1), rows("b", 3)], &["sum".into()], &RunControl::default()).unwrap();
    assert_eq!((sum[0].tensor.shape(), sum[0].tensor.to_f32().unwrap()), (&[3, 2][..], vec![2.0; 6]));
    let refused = session.run(&[rows("a", 2), rows("b", 3)], &[], &RunControl::default()).unwrap_err();
    assert!(matches!(refused, RunError::Refused(_)), "{refused:?}");
}

#[test]
fn a_deadline_stops_an_endless_model() {
    let Some(engine) = runtime() else { return };
    let mut session = load(&engine, model::endless()).unwrap();
    let input = floats("x", &[4], &[1.0; 4]);
    let control = RunControl { deadline: Some(Instant::now() + Duration::from_millis(50)), ..RunControl::default() };
    let error = session.run(std::slice::from_ref(&input), &[], &control).unwrap_err();
    assert!(matches!(error, RunError::Deadline), "{error:?}");
    // The session is as good as before.
    let control = RunControl { deadline: Some(Instant::now()), ..RunControl::default() };
    assert!(matches!(session.run(&[input], &[], &control), Err(RunError::Deadline)));
}

#[test]
fn a_cancelled_run_stops() {
    let Some(engine) = runtime() else { return };
    let mut session = load(&engine, model::endless()).unwrap();
    let cancel = CancelFlag::default();
    let control = RunControl { cancel: cancel.clone(), deadline: None };
    let (ended, end) = mpsc::sync_channel(1);
    let running = thread::spawn(move || {
        ended.send(session.run(&[floats("x", &[4], &[1.0; 4])], &[], &control)).unwrap();
    });
    // Whether the run has begun or not, the flag ends it.
    cancel.cancel();
    assert!(matches!(end.recv().unwrap(), Err(RunError::Cancelled)));
    running.join().unwrap();
}

#[tokio::test]
async fn an_asker_who_leaves_frees_the_session_for_the_next() {
    let Some(engine) = runtime() else { return };
    let session = load(&engine, model::endless()).unwrap();
    let worker = SessionWorker::start(session, &WorkerOptions::default()).unwrap();
    let input = || vec![floats("x", &[4], &[1.0; 4])];
    let asked = worker.infer(input(), vec![], None);
    assert!(tokio::time::timeout(Duration::from_millis(20), asked).await.is_err(), "it never answers by itself");
    let deadline = Some(Instant::now() + Duration::from_millis(20));
    assert!(matches!(worker.infer(input(), vec![], deadline).await, Err(engine::InferError::Deadline)));
    worker.stop();
    worker.stopped().await;
}

#[test]
fn a_provider_that_is_not_there_is_an_error_and_never_a_silent_fallback() {
    let Some(engine) = runtime() else { return };
    let built_in = engine.describe().providers;
    let options = |providers| LoadOptions { providers, ..LoadOptions::default() };
    for provider in [Provider::Cuda, Provider::TensorRt, Provider::OpenVino, Provider::Xnnpack] {
        if built_in.iter().any(|name| name.to_lowercase().starts_with(provider.as_str())) {
            continue;
        }
        let error = engine.load(model::identity(1).into(), &options(vec![provider, Provider::Cpu])).unwrap_err();
        assert!(matches!(error, LoadError::Provider { .. }), "{error:?}");
    }
    engine.load(model::identity(1).into(), &options(vec![Provider::Cpu])).unwrap();
}

#[test]
fn broken_models_are_errors_and_not_crashes() {
    let Some(engine) = runtime() else { return };
    let digits = support::digits("v1/int8-qdq.onnx");
    for end in (0..digits.len()).step_by(997) {
        assert!(load(&engine, digits[..end].to_vec()).is_err(), "cut at {end}");
    }
    let kind = tensor_type(model::FLOAT, &[Size::Fixed(1)]);
    let around = Graph {
        nodes: vec![node("Add", &["x", "b"], &["a"]), node("Add", &["x", "a"], &["b"]), node("Relu", &["b"], &["y"])],
        inputs: vec![value("x", &kind)],
        outputs: vec![value("y", &kind)],
        initializers: vec![],
    };
    assert!(matches!(load(&engine, around.model()), Err(LoadError::Failed(_))), "a cycle");
    let unknown = model::model(&model::one_node("", "NoSuchOperator"), &[]);
    assert!(matches!(load(&engine, unknown), Err(LoadError::Failed(_))), "an operator that does not exist");
    assert!(matches!(load(&engine, model::chain(200_000)), Err(LoadError::Refused(_))), "200,000 nodes");
}

#[test]
fn damaged_models_never_take_the_process_down() {
    let Some(engine) = runtime() else { return };
    let whole = model::endless();
    for at in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x15;
        // Some are still models, and some of those are endless.
        let Ok(mut session) = load(&engine, damaged) else { continue };
        let control = RunControl { deadline: Some(Instant::now() + Duration::from_millis(1)), ..RunControl::default() };
        let outcome = session.run(&[floats("x", &[4], &[1.0; 4])], &[], &control);
        assert!(outcome.is_err() || outcome.is_ok_and(|outputs| !outputs.is_empty()));
    }
}

#[test]
fn a_constant_that_would_fill_the_memory_is_an_error() {
    let Some(engine) = runtime() else { return };
    let bomb = Graph {
        nodes: vec![node("ConstantOfShape", &["shape"], &["big"]), node("Add", &["big", "x"], &["y"])],
        inputs: vec![value("x", &tensor_type(model::FLOAT, &[Size::Fixed(1)]))],
        outputs: vec![value("y", &tensor_type(model::FLOAT, &[Size::Named("n")]))],
        initializers: vec![tensor("shape", model::INT64, &[1], &(1_u64 << 44).to_le_bytes())],
    };
    match load(&engine, bomb.model()) {
        Err(LoadError::Failed(_)) => {}
        Err(other) => panic!("{other:?}"),
        Ok(mut session) => {
            assert!(matches!(run(session.as_mut(), &[floats("x", &[1], &[1.0])]), Err(RunError::Failed(_))))
        }
    }
}

#[test]
fn an_output_over_the_limit_is_an_error() {
    let Some(engine) = runtime() else { return };
    let large = Graph {
        nodes: vec![node("Expand", &["x", "shape"], &["y"])],
        inputs: vec![
            value("x", &tensor_type(2, &[Size::Fixed(1)])),
            value("shape", &tensor_type(model::INT64, &[Size::Fixed(1)])),
        ],
        outputs: vec![value("y", &tensor_type(2, &[Size::Named("n")]))],
        initializers: vec![],
    };
    let mut session = load(&engine, large.model()).unwrap();
    let limit = u64::try_from(types::limits::TENSOR_BYTES_MAX).unwrap();
    let mut expand = |to: u64| {
        run(session.as_mut(), &[raw("x", DType::U8, &[1], &[7]), raw("shape", DType::I64, &[1], &to.to_le_bytes())])
    };
    assert!(expand(limit).is_ok());
    assert!(matches!(expand(limit + 1), Err(RunError::Output { .. })));
}

/// Runs one of the ignored tests in a process of its own, because a process has one library; gives what it said.
fn alone(test: &str, library: &Path, home: &Path) -> String {
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--include-ignored"])
        .env(engine::library::LIBRARY_VARIABLE, library)
        .env("HOME", home)
        .env_remove("XDG_CACHE_HOME")
        .env_remove("ORT_DISABLE_TELEMETRY")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stdout).into_owned();
    assert!(child.status.success(), "{said}");
    said
}

#[test]
fn a_file_that_is_no_library_is_a_clean_error() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("libonnxruntime.so");
    std::fs::write(&file, b"not a library").unwrap();
    let said = alone("opens_what_it_is_told", &file, folder.path());
    assert!(said.contains("as ONNX Runtime 1.24 or newer"), "{said}");
}

#[test]
fn a_missing_library_is_an_error_that_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let said = alone("opens_what_it_is_told", &folder.path().join("nowhere.so"), folder.path());
    assert!(said.contains("nowhere.so: install the package, or run `cargo xtask setup`"), "{said}");
}

#[test]
fn the_runtime_leaves_no_identifier_behind_and_phones_nobody() {
    let Some(engine) = runtime() else { return };
    let library = engine.describe().library.unwrap();
    let home = tempfile::tempdir().unwrap();
    let said = alone("opens_what_it_is_told", Path::new(&library), home.path());
    assert!(said.contains("opened and run"), "{said}");
    let left: Vec<_> = std::fs::read_dir(home.path()).unwrap().collect();
    assert!(left.is_empty(), "telemetry would have made a database here: {left:?}");
}

#[test]
#[ignore = "run by others in a process of its own, with a library of their choice"]
fn opens_what_it_is_told() {
    match OrtEngine::open(&LibrarySearch::default()) {
        Ok(engine) => {
            let mut session = load(&engine, model::identity(1)).unwrap();
            run(session.as_mut(), &[floats("x", &[1], &[1.0])]).unwrap();
            println!("opened and run");
        }
        Err(error) => println!("{error}"),
    }
}
