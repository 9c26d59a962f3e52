//! Forms of models that exporters write in unusual ways: half and double precision, bodies, stacks, odd ranks.
#![expect(clippy::unwrap_used, reason = "helpers of tests may do what tests may")]

mod support;

use compress::{CompressError, Grams, dynamic_int8};
use compress::{prepare, static_int8, weight_only};
use engine::{Engine, LoadOptions, OrtEngine, RunControl};
use half::f16;
use onnx_graph::proto::tensor_proto::DataType;
use onnx_graph::proto::{AttributeProto, GraphProto, NodeProto, TensorProto, ValueInfoProto, type_proto};
use onnx_graph::{ElementType, Model, Values};
use support::{cosine, model, noise, noisy, run, runtime, value};
use types::{DType, NamedTensor, Tensor};

fn scalar(name: &str, number: f32, rank: usize) -> TensorProto {
    TensorProto::of_floats(name, &vec![1; rank], &[number])
}

/// GELU or HardSwish written out over `[n, 8]`, with constants of this rank.
fn written_out(gelu: bool, rank: usize) -> Model {
    let mut nodes = vec![NodeProto::new("MatMul", "m", &["x", "w"], &["a"])];
    let mut constants = vec![noisy("w", 1, &[16, 8])];
    if gelu {
        nodes.extend([
            NodeProto::new("Div", "d", &["a", "root"], &["d"]),
            NodeProto::new("Erf", "e", &["d"], &["e"]),
            NodeProto::new("Add", "p", &["e", "one"], &["p"]),
            NodeProto::new("Mul", "q", &["a", "p"], &["q"]),
            NodeProto::new("Mul", "h", &["q", "half"], &["y"]),
        ]);
        let numbers = [("root", std::f32::consts::SQRT_2), ("one", 1.0), ("half", 0.5)];
        constants.extend(numbers.map(|(name, number)| scalar(name, number, rank)));
    } else {
        nodes.extend([
            NodeProto::new("Add", "t", &["a", "three"], &["t"]),
            NodeProto::new("Clip", "c", &["t", "zero", "six"], &["c"]),
            NodeProto::new("Mul", "q", &["c", "a"], &["q"]),
            NodeProto::new("Div", "h", &["q", "sixth"], &["y"]),
        ]);
        constants.extend([
            scalar("three", 3.0, rank),
            scalar("zero", 0.0, 0),
            scalar("six", 6.0, 0),
            scalar("sixth", 6.0, rank),
        ]);
    }
    let y = ValueInfoProto { name: Some("y".to_owned()), ..value("y", &[]) };
    let mut made = model(nodes, constants, vec![value("x", &[-1, 16])], vec![y]);
    let kind = made.graph.outputs[0].r#type.as_mut().unwrap().value.as_mut().unwrap();
    let type_proto::Value::TensorType(tensor) = kind else { unreachable!("it is a tensor") };
    tensor.shape = None;
    made.import("", 14);
    made
}

#[test]
fn an_activation_with_constants_of_more_dimensions_keeps_its_shape() {
    let Some(engine) = runtime() else { return };
    for gelu in [true, false] {
        for rank in 0..5 {
            let original = written_out(gelu, rank);
            let prepared = prepare(&original).unwrap();
            let is_together = prepared.graph.nodes.len() == 2;
            assert_eq!(is_together, rank <= 2, "gelu {gelu}, rank {rank}");
            let shape = |model: &Model| {
                let mut session = engine.load(model.to_bytes().unwrap().into(), &LoadOptions::default()).unwrap();
                let tensor = Tensor::from_f32(vec![3, 16], &noise(5, 48)).unwrap();
                let input = [NamedTensor { name: "x".to_owned(), tensor }];
                session.run(&input, &[], &RunControl::default()).unwrap().remove(0).tensor.shape().to_vec()
            };
            assert_eq!(shape(&original), shape(&prepared), "gelu {gelu}, rank {rank}");
        }
    }
}

fn halves(name: &str, seed: u64, shape: &[usize]) -> TensorProto {
    let values = noise(seed, shape.iter().product());
    let raw: Vec<u8> = values.iter().flat_map(|&value| f16::from_f32(value).to_le_bytes()).collect();
    TensorProto::of_raw(name, ElementType::Float16, shape, raw)
}

fn typed(mut info: ValueInfoProto, element: DataType) -> ValueInfoProto {
    if let Some(type_proto::Value::TensorType(tensor)) = info.r#type.as_mut().and_then(|kind| kind.value.as_mut()) {
        tensor.elem_type = Some(element.into());
    }
    info
}

/// Runs a model whose input may be of another float type.
fn ask(engine: &OrtEngine, model: &Model, dtype: DType, shape: &[usize], values: &[f32]) -> (DType, Vec<f32>) {
    let mut session = engine.load(model.to_bytes().unwrap().into(), &LoadOptions::default()).unwrap();
    let data: Vec<u8> = match dtype {
        DType::F16 => values.iter().flat_map(|&value| f16::from_f32(value).to_le_bytes()).collect(),
        DType::F64 => values.iter().flat_map(|&value| f64::from(value).to_le_bytes()).collect(),
        _ => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
    };
    let tensor = Tensor::new(dtype, shape.to_vec(), data.into()).unwrap();
    let input = [NamedTensor { name: "x".to_owned(), tensor }];
    let answer = session.run(&input, &[], &RunControl::default()).unwrap().remove(0).tensor;
    (answer.dtype(), answer.to_f32().unwrap())
}

#[test]
fn weights_in_half_precision_behind_casts_are_quantized_like_others() {
    let Some(engine) = runtime() else { return };
    let to_single = || AttributeProto::int("to", DataType::Float as i64);
    let original = model(
        vec![
            NodeProto::new("Cast", "widen", &["w_half"], &["w"]).with(to_single()),
            NodeProto::new("MatMul", "m", &["x", "w"], &["a"]),
            NodeProto::new("Relu", "r", &["a"], &["y"]),
        ],
        vec![halves("w_half", 1, &[128, 64])],
        vec![value("x", &[-1, 128])],
        vec![value("y", &[-1, 64])],
    );
    let prepared = prepare(&original).unwrap();
    let operators: Vec<&str> = prepared.graph.nodes.iter().map(|node| node.op_type()).collect();
    assert_eq!(operators, ["MatMul", "Relu"]);
    let (small, report) =
        weight_only::quantize(&prepared, &weight_only::Options::default(), &Grams::default()).unwrap();
    assert_eq!(report.changed, ["m"]);
    let input = noise(9, 4 * 128);
    let (before, after) =
        (ask(&engine, &original, DType::F32, &[4, 128], &input), ask(&engine, &small, DType::F32, &[4, 128], &input));
    assert!(cosine(&before.1, &after.1) > 0.99);
}

#[test]
fn whole_models_in_half_and_double_precision_keep_their_types_outside() {
    let Some(engine) = runtime() else { return };
    for (dtype, element) in [(DType::F16, DataType::Float16), (DType::F64, DataType::Double)] {
        let weight = match dtype {
            DType::F16 => halves("w", 1, &[128, 64]),
            _ => {
                let raw: Vec<u8> = noise(1, 128 * 64).iter().flat_map(|&one| f64::from(one).to_le_bytes()).collect();
                TensorProto::of_raw("w", ElementType::Double, &[128, 64], raw)
            }
        };
        let mut original = model(
            vec![NodeProto::new("MatMul", "m", &["x", "w"], &["a"]), NodeProto::new("Tanh", "t", &["a"], &["y"])],
            vec![weight],
            vec![typed(value("x", &[-1, 128]), element)],
            vec![typed(value("y", &[-1, 64]), element)],
        );
        original.import("", 14);
        let prepared = prepare(&original).unwrap();
        let input: Vec<f32> = noise(9, 4 * 128).iter().map(|value| value / 16.0).collect();
        let wanted = ask(&engine, &original, dtype, &[4, 128], &input);
        let found = ask(&engine, &prepared, dtype, &[4, 128], &input);
        assert_eq!((wanted.0, found.0), (dtype, dtype), "the types outside stay");
        assert!(cosine(&wanted.1, &found.1) > 0.9999, "{dtype}");
        let (small, _) = dynamic_int8::quantize(&prepared, &dynamic_int8::Options::default()).unwrap();
        let found = ask(&engine, &small, dtype, &[4, 128], &input);
        assert!(found.0 == dtype && cosine(&wanted.1, &found.1) > 0.99, "{dtype}");
    }
}

#[test]
fn stacks_of_matrices_are_quantized_with_a_scale_for_each_column_of_each() {
    let Some(engine) = runtime() else { return };
    let original = model(
        vec![NodeProto::new("MatMul", "heads", &["x", "w"], &["y"])],
        vec![noisy("w", 3, &[4, 64, 32])],
        vec![value("x", &[4, -1, 64])],
        vec![value("y", &[4, -1, 32])],
    );
    let prepared = prepare(&original).unwrap();
    let (small, _) = weight_only::quantize(&prepared, &weight_only::Options::default(), &Grams::default()).unwrap();
    let (dynamic, _) = dynamic_int8::quantize(&prepared, &dynamic_int8::Options::default()).unwrap();
    let size = |model: &Model| model.to_bytes().unwrap().len();
    let input = [("x", vec![4, 5, 64], noise(9, 4 * 5 * 64))];
    let wanted = run(&engine, &original, &input).remove(0);
    for made in [&small, &dynamic] {
        assert!(size(made) < size(&original) / 3, "{} of {} bytes", size(made), size(&original));
        assert!(cosine(&wanted, &run(&engine, made, &input).remove(0)) > 0.9999);
    }
}

/// A Loop that multiplies with a weight three times; the weight is inside its body, or outside.
fn looping(inside: bool) -> Model {
    let weight =
        TensorProto::of_floats("w", &[64, 64], &noise(3, 64 * 64).iter().map(|one| one / 16.0).collect::<Vec<_>>());
    let condition = |name: &str| typed(value(name, &[]), DataType::Bool);
    let body = GraphProto {
        name: Some("body".to_owned()),
        node: vec![
            NodeProto::new("MatMul", "step", &["state", "w"], &["next"]),
            NodeProto::new("Identity", "go on", &["condition"], &["still"]),
        ],
        initializer: if inside { vec![weight.clone()] } else { Vec::new() },
        input: vec![typed(value("count", &[]), DataType::Int64), condition("condition"), value("state", &[-1, 64])],
        output: vec![condition("still"), value("next", &[-1, 64])],
        ..GraphProto::default()
    };
    let graph = AttributeProto {
        name: Some("body".to_owned()),
        r#type: Some(onnx_graph::proto::attribute_proto::AttributeType::Graph.into()),
        g: Some(body),
        ..AttributeProto::default()
    };
    let truth = TensorProto::of_raw("true", ElementType::Bool, &[], vec![1_u8]);
    let mut constants = vec![TensorProto::of_int64("three", &[], &[3]), truth];
    constants.extend((!inside).then_some(weight));
    let node = NodeProto::new("Loop", "loop", &["three", "true", "x"], &["y"]).with(graph);
    model(vec![node], constants, vec![value("x", &[-1, 64])], vec![value("y", &[-1, 64])])
}

#[test]
fn weights_in_bodies_of_loops_are_quantized() {
    let Some(engine) = runtime() else { return };
    for inside in [true, false] {
        let original = looping(inside);
        let file = original.to_bytes().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.npz");
        support::npz(&path, zip::CompressionMethod::Stored, &[("x", support::floats(&[8, 64], &noise(7, 8 * 64)))]);
        let signature = support::signature(&engine, &original);
        let recipes = compress::pass::all_recipes();
        let request = compress::auto::Request {
            file: file.clone().into(),
            model: original.clone(),
            examples: compress::Examples::open(&path, &signature).unwrap(),
            calibration: 4,
            engines: vec![&engine],
            recipes: recipes
                .into_iter()
                .filter(|recipe| recipe.name().contains("weights") || recipe.name().contains("dynamic"))
                .collect(),
            search_mixed: Vec::new(),
            rank_by: None,
            selection: compress::Selection::default(),
            measure: None,
            task: None,
            custom: None,
            loss_max: 1.0,
            form_budget: std::time::Duration::ZERO,
        };
        let outcome = compress::auto::run(request, &mut |_| {}).unwrap();
        let made: Vec<_> = outcome.candidates.iter().skip(1).filter(|one| one.model.is_some()).collect();
        assert!(made.len() >= 4, "inside {inside}: {:?}", outcome.candidates);
        for candidate in made {
            let quality = candidate.quality.as_ref().unwrap();
            assert!(quality.outputs[0].cosine > 0.98, "{}: {quality:?}", candidate.name);
            let of = file.len() as u64;
            assert!(candidate.bytes < of * 6 / 10, "{} has {} of {of} bytes", candidate.name, candidate.bytes);
        }
    }
}

#[test]
fn integers_are_kept_from_kernels_that_compute_them_wrongly_and_it_is_said() {
    let Some(engine) = runtime() else { return };
    let pool = NodeProto::new("AveragePool", "pool", &["a"], &["p"])
        .with(AttributeProto::int_list("kernel_shape", &[3, 3]))
        .with(AttributeProto::int_list("strides", &[2, 2]))
        .with(AttributeProto::int("ceil_mode", 1));
    let mut original = model(
        vec![
            NodeProto::new("Conv", "first", &["x", "w"], &["a"]),
            pool,
            NodeProto::new("Pad", "pad", &["p", "pads", "", "axes"], &["q"]),
            NodeProto::new("Conv", "second", &["q", "w"], &["y"]),
        ],
        vec![
            noisy("w", 1, &[4, 4, 1, 1]),
            TensorProto::of_int64("pads", &[2], &[1, 1]),
            TensorProto::of_int64("axes", &[1], &[3]),
        ],
        vec![value("x", &[-1, 4, 6, 6])],
        vec![value("y", &[-1, 4, 3, 5])],
    );
    original.import("", 18);
    let options = static_int8::Options::default();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.npz");
    let images = support::floats(&[8, 4, 6, 6], &noise(7, 8 * 144));
    support::npz(&path, zip::CompressionMethod::Stored, &[("x", images)]);
    let examples = compress::Examples::open(&path, &support::signature(&engine, &original)).unwrap();
    let prepared = prepare(&original).unwrap();
    let values = static_int8::values(&prepared, &options);
    let ranges = compress::calibrate::observe(&engine, &prepared, &examples, &values, Default::default()).unwrap();
    let (made, report) = static_int8::quantize(&prepared, &options, &ranges).unwrap();
    let reason = |operator: &str| {
        report.skipped.iter().find(|one| one.operator == operator).map(|one| one.reason.clone()).unwrap_or_default()
    };
    assert!(reason("AveragePool").contains("ceil_mode") && reason("Pad").contains("axes"), "{report:?}");
    let input = [("x", vec![2, 4, 6, 6], noise(8, 288))];
    let (wanted, found) = (run(&engine, &original, &input).remove(0), run(&engine, &made, &input).remove(0));
    assert!(cosine(&wanted, &found) > 0.99);
}

#[test]
fn a_pass_that_finds_nothing_anywhere_says_so() {
    let plain = model(
        vec![NodeProto::new("Relu", "r", &["x"], &["y"])],
        Vec::new(),
        vec![value("x", &[4])],
        vec![value("y", &[4])],
    );
    let refused = dynamic_int8::quantize(&plain, &dynamic_int8::Options::default());
    assert!(matches!(refused, Err(CompressError::Nothing { .. })));
}
