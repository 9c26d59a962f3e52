//! `check` and `load` say what is true: a model that they let pass answers its requests as ONNX Runtime does.
#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests may do what tests may")]

mod oracle;
mod support;

use engine::{Engine, LoadOptions, ModelBytes, RunControl, Session};
use engine_wgpu::check;
use rten_onnx::onnx::{AttributeProto, DataType};
use support::{Model, engine, f32s, int, text};
use types::NamedTensor;

const F: DataType = DataType::FLOAT;
const L: DataType = DataType::INT64;

fn i64s(values: &[i64]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// Checks, loads and runs a model; the answers are those of ONNX Runtime.
fn runs(model: &[u8], requests: &[Vec<NamedTensor>], label: &str) {
    let Some(wgpu) = engine() else { return };
    let report = check(model).unwrap();
    assert!(report.can_run(), "{label}: {:?}", report.unsupported);
    let mut session = wgpu.load_checked(model).unwrap_or_else(|error| panic!("{label}: {error:?}"));
    let Some(runtime) = oracle::runtime() else { return };
    let mut oracle = runtime.load(ModelBytes::from(model.to_vec()), &LoadOptions::default()).unwrap();
    for inputs in requests {
        let expected = oracle.run(inputs, &[], &RunControl::default()).unwrap();
        let answer =
            session.run(inputs, &[], &RunControl::default()).unwrap_or_else(|error| panic!("{label}: {error:?}"));
        for (expected, answer) in expected.iter().zip(&answer) {
            assert_eq!(expected.tensor.shape(), answer.tensor.shape(), "{label}");
            let (a, b) = (expected.tensor.to_f32().unwrap(), answer.tensor.to_f32().unwrap());
            let most = a.iter().fold(1e-3_f32, |most, value| most.max(value.abs()));
            for (x, y) in a.iter().zip(&b) {
                assert!((x - y).abs() <= 1e-4 * most, "{label}: {y}, not {x}");
            }
        }
    }
}

fn wave(count: usize) -> Vec<f32> {
    (0..count).map(|at| (f32::from(u16::try_from(at).unwrap()) * 0.37).sin()).collect()
}

#[test]
fn a_signal_without_a_last_dimension_is_transformed() {
    for (shape, given) in [(vec![-1, -2], vec![2, 64]), (vec![1, -2], vec![1, 100]), (vec![-1, -2, 1], vec![2, 64, 1])]
    {
        let model = Model::new(17)
            .input("x", F, &shape)
            .constant("step", L, &[], &i64s(&[8]))
            .constant("window", F, &[16], &wave(16).iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>())
            .constant("length", L, &[], &i64s(&[16]))
            .node_with("STFT", &["x", "step", "window", "length"], &["y"], vec![int("onesided", 1)])
            .output("y", F, &[-1, -2, -3, 2]);
        runs(
            &testkit::graphs::with_named_subgraphs(&model.bytes()),
            &[vec![f32s("x", &given, &wave(given.iter().product()))]],
            &format!("{shape:?}"),
        );
    }
}

/// A branch: `Identity`, or `Unsqueeze` or `Squeeze` of an axis, or another `If`.
fn side(name: &str, make: impl FnOnce(Model, &str) -> Model) -> AttributeProto {
    let result = format!("{name}_{}", COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
    make(Model::new(17), &result).output(&result, F, &[-1]).subgraph(name)
}

static COUNT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);

#[test]
fn branches_about_the_rank_are_decided_however_deep_they_are() {
    // As torch.jit writes `if x.dim() == 1: … elif x.dim() == 2: … else: …`.
    for (shape, given) in
        [(vec![-1], vec![7]), (vec![-1, -2], vec![2, 7]), (vec![-1, -2, 3], vec![2, 7, 3]), (vec![2, 7], vec![2, 7])]
    {
        for inside in [false, true] {
            let condition = |model: Model, rank: i64| {
                model.constant(&format!("rank_{rank}"), L, &[], &i64s(&[rank])).node(
                    "Equal",
                    &["dims", &format!("rank_{rank}")],
                    &[&format!("is_{rank}")],
                )
            };
            let inner = |result: &str| {
                let nested = |model: Model| {
                    model.node_with(
                        "If",
                        &["is_2"],
                        &[result],
                        vec![
                            side("then_branch", |model, y| {
                                model.constant("axis", L, &[1], &i64s(&[1])).node("Unsqueeze", &["x", "axis"], &[y])
                            }),
                            side("else_branch", |model, y| model.node("Identity", &["x"], &[y])),
                        ],
                    )
                };
                nested(if inside { condition(Model::new(17), 2) } else { Model::new(17) })
            };
            let otherwise = inner("nested").output("nested", F, &[-1]).subgraph("else_branch");
            let mut model = Model::new(17).input("x", F, &shape).node("Shape", &["x"], &["shape"]).node(
                "Size",
                &["shape"],
                &["dims"],
            );
            model = condition(model, 1);
            if !inside {
                model = condition(model, 2);
            }
            let model = model
                .node_with(
                    "If",
                    &["is_1"],
                    &["z"],
                    vec![
                        side("then_branch", |model, y| {
                            model.constant("axes", L, &[2], &i64s(&[0, 1])).node("Unsqueeze", &["x", "axes"], &[y])
                        }),
                        otherwise,
                    ],
                )
                .node("Relu", &["z"], &["y"])
                .output("y", F, &[-1, -2, -3]);
            runs(
                &testkit::graphs::with_named_subgraphs(&model.bytes()),
                &[vec![f32s("x", &given, &wave(given.iter().product()))]],
                &format!("{shape:?} inside {inside}"),
            );
        }
    }
}

#[test]
fn branches_inside_branches_about_the_data_are_decided_at_each_request() {
    let above = |model: Model, limit: f32, name: &str| {
        model.constant(&format!("limit_{name}"), F, &[], &limit.to_le_bytes()).node(
            "Greater",
            &["most", &format!("limit_{name}")],
            &[name],
        )
    };
    let single = |op: &'static str| move |model: Model, y: &str| model.node(op, &["x"], &[y]);
    let nested = above(Model::new(17), 2.0, "huge")
        .node_with(
            "If",
            &["huge"],
            &["inner"],
            vec![side("then_branch", single("Exp")), side("else_branch", single("Neg"))],
        )
        .output("inner", F, &[-1])
        .subgraph("then_branch");
    let model = above(Model::new(17).input("x", F, &[-1]), 1.0, "large");
    let model = model.node_with("ReduceMax", &["x"], &["most"], vec![int("keepdims", 0)]);
    let model = model
        .node_with("If", &["large"], &["z"], vec![nested, side("else_branch", single("Abs"))])
        .node("Tanh", &["z"], &["y"])
        .output("y", F, &[-1]);
    let requests = [[-0.5, 0.25, 0.0], [1.5, -1.0, 0.5], [2.5, -1.0, 0.5]].map(|values| vec![f32s("x", &[3], &values)]);
    runs(&testkit::graphs::with_named_subgraphs(&model.bytes()), &requests, "about the data");
}

/// Activations that a quantized product may carry: those that need functions of their own above all.
const ACTIVATIONS: [&str; 13] = [
    "Relu",
    "LeakyRelu",
    "Clip",
    "Sigmoid",
    "Tanh",
    "HardSigmoid",
    "HardSwish",
    "Elu",
    "Softplus",
    "Mish",
    "Gelu",
    "GeluTanh",
    "Erf",
];

/// A product of a kind, from float `x`, with an activation behind it.
fn product(kind: &str, activation: &str) -> Option<Model> {
    let f = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
    let convolves = kind.contains("Conv");
    let mut model = Model::new(20)
        .input("x", F, if convolves { &[1, 4, 3, 3] } else { &[-1, 4] })
        .constant("scale", F, &[], &f(&[0.02]))
        .constant("w_scale", F, &[], &f(&[0.01]))
        .constant("point", DataType::UINT8, &[], &[128])
        .constant("w_point", DataType::INT8, &[], &[0]);
    let shape: &[i64] = if convolves { &[4, 4, 1, 1] } else { &[4, 4] };
    let weights: Vec<u8> = (0..16_u8).map(|at| at.wrapping_mul(37)).collect();
    model = match kind {
        "MatMul" | "Conv" => model.constant("w", F, shape, &f(&wave(16))).node(kind, &["x", "w"], &["z"]),
        "MatMul to float" | "Conv to float" | "MatMul requantised" | "Conv requantised" => model
            .constant("w8", DataType::INT8, shape, &weights)
            .node("QuantizeLinear", &["x", "scale", "point"], &["x8"])
            .node("DequantizeLinear", &["x8", "scale", "point"], &["x32"])
            .node("DequantizeLinear", &["w8", "w_scale", "w_point"], &["w"])
            .node(if convolves { "Conv" } else { "MatMul" }, &["x32", "w"], &["z"]),
        "MatMul dynamic" => model
            .constant("w8", DataType::INT8, shape, &weights)
            .node("DynamicQuantizeLinear", &["x"], &["x8", "x_scale", "x_point"])
            .node("MatMulInteger", &["x8", "w8", "x_point", "w_point"], &["sum"])
            .node_with("Cast", &["sum"], &["float"], vec![int("to", 1)])
            .node("Mul", &["x_scale", "w_scale"], &["both"])
            .node("Mul", &["float", "both"], &["z"]),
        _ => return None,
    };
    let attributes = if activation == "GeluTanh" { vec![text("approximate", "tanh")] } else { Vec::new() };
    let op = if activation == "GeluTanh" { "Gelu" } else { activation };
    model = model.node_with(op, &["z"], &["a"], attributes);
    Some(if kind.ends_with("requantised") {
        model
            .node("QuantizeLinear", &["a", "scale", "point"], &["y8"])
            .node("DequantizeLinear", &["y8", "scale", "point"], &["y"])
            .output("y", F, &[-1])
    } else {
        model.output("a", F, &[-1])
    })
}

#[test]
fn every_activation_runs_behind_every_product() {
    let kinds = [
        "MatMul",
        "Conv",
        "MatMul to float",
        "Conv to float",
        "MatMul requantised",
        "Conv requantised",
        "MatMul dynamic",
    ];
    for kind in kinds {
        for activation in ACTIVATIONS {
            let Some(model) = product(kind, activation) else { panic!("{kind}") };
            let shape: &[usize] = if kind.contains("Conv") { &[1, 4, 3, 3] } else { &[3, 4] };
            let input = f32s("x", shape, &wave(shape.iter().product()));
            // `check` has looked at the kernels of the others.
            if !["Gelu", "GeluTanh", "Mish", "Erf"].contains(&activation) {
                let report = check(&testkit::graphs::with_named_subgraphs(&model.bytes())).unwrap();
                assert!(report.can_run(), "{kind} {activation}: {:?}", report.unsupported);
                continue;
            }
            runs_about(
                &testkit::graphs::with_named_subgraphs(&model.bytes()),
                &[input],
                &format!("{kind} {activation}"),
            );
        }
    }
}

/// As [`runs`], within a step of a quantization.
fn runs_about(model: &[u8], inputs: &[NamedTensor], label: &str) {
    let Some(wgpu) = engine() else { return };
    let report = check(model).unwrap();
    assert!(report.can_run(), "{label}: {:?}", report.unsupported);
    let mut session = wgpu.load_checked(model).unwrap_or_else(|error| panic!("{label}: {error:?}"));
    let answer = session.run(inputs, &[], &RunControl::default()).unwrap_or_else(|error| panic!("{label}: {error:?}"));
    let Some(runtime) = oracle::runtime() else { return };
    let mut oracle = runtime.load(ModelBytes::from(model.to_vec()), &LoadOptions::default()).unwrap();
    let expected = oracle.run(inputs, &[], &RunControl::default()).unwrap();
    let (a, b) = (expected[0].tensor.to_f32().unwrap(), answer[0].tensor.to_f32().unwrap());
    for (x, y) in a.iter().zip(&b) {
        assert!((x - y).abs() <= 0.021, "{label}: {y}, not {x}");
    }
}

/// Returns the refusal of a file by `check` and by `load`, which must agree.
fn refusal(model: &[u8]) -> Option<String> {
    let Some(wgpu) = engine() else { return Some(String::new()) };
    let loaded = wgpu.load_checked(model).err().map(|error| error.to_string());
    let checked = match check(model) {
        Err(error) => Some(error.to_string()),
        Ok(report) if report.can_run() => None,
        Ok(report) => Some(format!("{:?}", report.unsupported)),
    };
    assert_eq!(checked.is_some(), loaded.is_some(), "check says {checked:?}, load says {loaded:?}");
    checked
}

#[test]
fn what_no_request_can_mend_is_refused_before_the_first_one() {
    let transform = |shape: &[i64]| {
        Model::new(17)
            .input("x", F, shape)
            .constant("step", L, &[], &i64s(&[8]))
            .constant("length", L, &[], &i64s(&[16]))
            .node("STFT", &["x", "step", "", "length"], &["y"])
            .output("y", F, &[-1])
            .bytes()
    };
    for shape in [vec![-1], vec![-1, -2, 3], vec![-1, -2, -3, -4]] {
        assert!(refusal(&transform(&shape)).is_some_and(|why| why.contains("STFT")), "{shape:?}");
    }
    assert_eq!(refusal(&transform(&[-1, -2, -3])), None, "a last dimension of 1 or 2 would do");
    // A weight that fits no input of this rank, an attribute of another kind, an axis beyond the rank.
    let cases = [
        Model::new(17).input("x", F, &[-1, 8]).constant("w", F, &[5, 2], &[0; 40]).node("MatMul", &["x", "w"], &["y"]),
        Model::new(17).input("x", F, &[-1, -2]).node_with("Softmax", &["x"], &["y"], vec![text("axis", "last")]),
        Model::new(17).input("x", F, &[-1, -2]).node_with("Softmax", &["x"], &["y"], vec![int("axis", 2)]),
        Model::new(17).input("x", F, &[-1, -2]).node_with("Concat", &["x", "x"], &["y"], vec![int("axis", 7)]),
    ];
    for (at, model) in cases.into_iter().enumerate() {
        assert!(refusal(&model.output("y", F, &[-1]).bytes()).is_some(), "case {at}");
    }
}

#[test]
fn sizes_that_some_request_can_have_are_no_refusal() {
    let reshape = |target: &[i64]| {
        Model::new(17)
            .input("x", F, &[-1, 6])
            .constant("to", L, &[i64::try_from(target.len()).unwrap()], &i64s(target))
            .node("Reshape", &["x", "to"], &["z"])
            .node("Relu", &["z"], &["y"])
            .output("y", F, &[-1])
            .bytes()
    };
    for target in [vec![4, 6], vec![7, 3, 2], vec![-1], vec![911, 6]] {
        assert_eq!(refusal(&reshape(&target)), None, "{target:?}");
    }
    // Behind what does not fit the size of 1, operators are looked at all the same.
    let model = Model::new(17)
        .input("x", F, &[-1, 6])
        .constant("to", L, &[2], &i64s(&[4, 6]))
        .node("Reshape", &["x", "to"], &["z"])
        .node_with("Softmax", &["z"], &["y"], vec![int("axis", 5)])
        .output("y", F, &[-1])
        .bytes();
    assert!(refusal(&model).is_some_and(|why| why.contains("Softmax")));
}

#[test]
fn files_of_versions_that_this_engine_does_not_know_are_refused() {
    use onnx_graph::proto::{ModelProto, OperatorSetIdProto};
    use prost::Message;
    let plain = || Model::new(17).input("x", F, &[2]).node("Relu", &["x"], &["y"]).output("y", F, &[2]).bytes();
    let changed = |change: &dyn Fn(&mut ModelProto)| {
        let bytes = plain();
        let mut model = ModelProto::decode(bytes.as_slice()).unwrap();
        change(&mut model);
        model.encode_to_vec()
    };
    let import = |domain: Option<&str>, version| OperatorSetIdProto {
        domain: domain.map(str::to_owned),
        version: Some(version),
    };
    assert_eq!(refusal(&changed(&|_model| {})), None);
    assert!(refusal(&changed(&|model| model.ir_version = Some(99))).is_some_and(|why| why.contains("IR version")));
    assert!(refusal(&changed(&|model| model.ir_version = None)).is_some_and(|why| why.contains("IR version")));
    assert!(refusal(&changed(&|model| model.opset_import.clear())).is_some_and(|why| why.contains("imports no")));
    assert!(
        refusal(&changed(&|model| model.opset_import = vec![import(None, 99)])).is_some_and(|why| why.contains("99"))
    );
    assert!(refusal(&changed(&|model| model.opset_import = vec![import(None, 0)])).is_some());
    let foreign = |model: &mut ModelProto| {
        if let Some(graph) = &mut model.graph {
            graph.node[0].domain = Some("com.microsoft".into());
            graph.node[0].op_type = Some("QuickGelu".into());
        }
    };
    assert!(refusal(&changed(&foreign)).is_some_and(|why| why.contains("com.microsoft")));
    let imported = |model: &mut ModelProto| {
        foreign(model);
        model.opset_import.push(import(Some("com.microsoft"), 1));
    };
    assert_eq!(refusal(&changed(&imported)), None);
}
