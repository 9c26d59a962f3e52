//! Rewrites keep a model's answers.

mod support;

use onnx_graph::fold::{FoldLimits, fold};
use onnx_graph::proto::{AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto};
use onnx_graph::rewrite::{
    constants_to_initializers, fold_batch_norms, merge_duplicates, remove_dead, remove_pass_through, sort, tidy,
};
use onnx_graph::{ElementType, Graph, Model, Values, packed};
use support::{assert_alike, judged, ort, read, real_models, run};

/// How far answers may be after normalizations were folded, relative to the largest answer.
const FOLDED_TOLERANCE: f32 = 1e-5;

#[test]
fn real_models_answer_alike_after_every_rewrite() {
    let Some(ort) = ort() else { return };
    let mut rewritten = Vec::new();
    for case in real_models() {
        let inputs = case.inputs.as_deref().unwrap();
        let before = run(&ort, case.model.clone(), inputs).unwrap();
        let (model, done) = tidy(&read(&case), &FoldLimits::default()).unwrap();
        println!("{}: {done:?}", case.name);
        let bytes = model.to_bytes().unwrap();
        // ONNX Runtime folds normalizations too, and fuses what it finds: another graph rounds differently there.
        let after = run(&ort, bytes.clone(), inputs).unwrap_or_else(|error| panic!("{}: {error}", case.name));
        assert_alike(&case.name, &before, &after, FOLDED_TOLERANCE);
        rewritten.push((case.name, bytes));
    }
    let Some(verdicts) = judged("check", &rewritten) else { return };
    for ((name, _), verdict) in rewritten.iter().zip(verdicts) {
        assert_eq!(verdict, "ok", "{name}");
    }
}

#[test]
fn weights_of_ppocr_become_initializers() {
    for case in real_models().into_iter().filter(|case| case.name.starts_with("rapidocr")) {
        let mut model = read(&case);
        constants_to_initializers(&mut model.graph);
        remove_pass_through(&mut model.graph, 11);
        let convolutions = model.graph.nodes.iter().filter(|node| node.is("Conv"));
        for node in convolutions {
            let weight = node.input_at(1).unwrap();
            assert!(model.graph.initializer(weight).is_some(), "{}: {weight}", case.name);
        }
    }
}

fn node(operator: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
    NodeProto::new(operator, outputs[0], inputs, outputs)
}

fn value(name: &str) -> ValueInfoProto {
    ValueInfoProto { name: Some(name.into()), ..ValueInfoProto::default() }
}

fn graph(nodes: Vec<NodeProto>, outputs: &[&str]) -> Graph {
    Graph {
        nodes,
        inputs: vec![value("x")],
        outputs: outputs.iter().map(|name| value(name)).collect(),
        ..Graph::default()
    }
}

fn operators(graph: &Graph) -> Vec<&str> {
    graph.nodes.iter().map(NodeProto::op_type).collect()
}

#[test]
fn outputs_keep_their_names() {
    let mut whole = graph(
        vec![
            node("Relu", &["x"], &["a"]),
            node("Identity", &["a"], &["b"]),
            node("Identity", &["b"], &["y"]),
            node("Neg", &["a"], &["z"]),
            node("Identity", &["x"], &["same"]),
        ],
        &["y", "z", "same"],
    );
    assert_eq!(remove_pass_through(&mut whole, 13), 1);
    assert_eq!(remove_pass_through(&mut whole, 13), 1);
    assert_eq!(operators(&whole), ["Relu", "Neg", "Identity"]);
    assert_eq!((whole.nodes[0].output[0].as_str(), whole.nodes[1].input[0].as_str()), ("y", "y"));
}

#[test]
fn a_dropout_that_trains_or_whose_mask_is_used_stays() {
    let mut whole = graph(
        vec![
            node("Dropout", &["x"], &["a", "mask"]),
            node("Dropout", &["a", "", "mode"], &["b"]),
            node("Dropout", &["b", "", "off"], &["c"]),
            node("Neg", &["c"], &["y"]),
        ],
        &["y", "mask"],
    );
    whole.add_initializer(TensorProto::of_raw("mode", ElementType::Bool, &[], vec![1]));
    whole.add_initializer(TensorProto::of_raw("off", ElementType::Bool, &[], vec![0]));
    assert_eq!(remove_pass_through(&mut whole, 13), 1);
    assert_eq!(operators(&whole), ["Dropout", "Dropout", "Neg"]);
}

#[test]
fn what_only_a_subgraph_takes_is_not_dead_and_is_followed_by_renaming() {
    let branch = GraphProto {
        node: vec![node("Neg", &["b"], &["inner"])],
        output: vec![value("inner")],
        ..GraphProto::default()
    };
    let branch = AttributeProto {
        name: Some("then_branch".into()),
        r#type: Some(5),
        g: Some(branch),
        ..AttributeProto::default()
    };
    let mut whole = graph(
        vec![node("Relu", &["x"], &["a"]), node("Identity", &["a"], &["b"]), node("If", &["x"], &["y"]).with(branch)],
        &["y"],
    );
    assert_eq!(remove_dead(&mut whole), 0);
    assert_eq!(remove_pass_through(&mut whole, 13), 1);
    let inner = whole.nodes[1].attribute[0].g.as_ref().unwrap();
    assert_eq!(inner.node[0].input[0], "a");
}

#[test]
fn names_that_a_subgraph_gives_anew_are_left_alone() {
    let branch =
        GraphProto { node: vec![node("Neg", &["x"], &["b"])], output: vec![value("b")], ..GraphProto::default() };
    let branch = AttributeProto {
        name: Some("then_branch".into()),
        r#type: Some(5),
        g: Some(branch),
        ..AttributeProto::default()
    };
    let mut whole = graph(vec![node("Identity", &["x"], &["b"]), node("If", &["b"], &["y"]).with(branch)], &["y"]);
    assert_eq!(remove_pass_through(&mut whole, 13), 0);
}

#[test]
fn nodes_are_sorted_and_circles_found() {
    let mut whole = graph(vec![node("Neg", &["a"], &["y"]), node("Relu", &["x"], &["a"])], &["y"]);
    assert_eq!(sort(&mut whole), Ok(2));
    assert_eq!(operators(&whole), ["Relu", "Neg"]);
    let mut circle = graph(vec![node("Neg", &["a"], &["y"]), node("Relu", &["y"], &["a"])], &["y"]);
    let before = circle.clone();
    assert_eq!(sort(&mut circle).unwrap_err().count, 2);
    assert_eq!(circle, before);
}

#[test]
fn equal_initializers_become_one() {
    let mut whole = graph(vec![node("Sum", &["x", "a", "b", "c"], &["y"])], &["y"]);
    for (name, last) in [("a", 2.0), ("b", 2.0), ("c", 3.0)] {
        whole.add_initializer(TensorProto::of_floats(name, &[2], &[1.0, last]));
    }
    whole.add_initializer(TensorProto::of_floats("d", &[2, 1], &[1.0, 2.0]));
    assert_eq!(merge_duplicates(&mut whole), 1);
    assert_eq!(whole.nodes[0].input, ["x", "a", "a", "c"]);
}

#[test]
fn folding_does_not_make_a_model_larger() {
    let mut whole = graph(
        vec![
            node("ConstantOfShape", &["shape"], &["huge"]),
            node("Transpose", &["shared"], &["turned"]),
            node("Transpose", &["own"], &["own_turned"]),
            node("Sum", &["x", "huge", "turned", "shared", "own_turned"], &["y"]),
        ],
        &["y"],
    );
    whole.add_initializer(TensorProto::of_int64("shape", &[2], &[1 << 20, 1 << 20]));
    for name in ["shared", "own"] {
        whole.add_initializer(TensorProto::of_floats(name, &[200, 100], &vec![1.0; 20_000]));
    }
    assert_eq!(fold(&mut whole, 13, &FoldLimits::default()), 1);
    assert_eq!(whole.initializer("own_turned").unwrap().dims, [100, 200]);
}

/// Operator, shapes of input and weight, channels, attributes.
type Maker = (&'static str, &'static [usize], &'static [usize], usize, Vec<AttributeProto>);

#[test]
fn normalizations_fold_into_every_kind_of_maker() {
    let Some(ort) = ort() else { return };
    let wave = |count: usize, seed: usize| -> Vec<f32> {
        (0..count).map(|at| (((at * 7919 + seed * 104_729) % 1000) as f32).mul_add(0.002, -1.0)).collect()
    };
    let kinds: [Maker; 5] = [
        ("Conv", &[2, 4, 6, 6], &[8, 2, 3, 3], 8, vec![AttributeProto::int("group", 2)]),
        ("ConvTranspose", &[2, 4, 6, 6], &[4, 3, 2, 2], 6, vec![AttributeProto::int("group", 2)]),
        ("Gemm", &[3, 4], &[4, 5], 5, vec![AttributeProto::float("beta", 0.5), AttributeProto::float("alpha", 2.0)]),
        ("Gemm", &[3, 4], &[5, 4], 5, vec![AttributeProto::int("transB", 1)]),
        ("Conv", &[1, 2, 9], &[3, 2, 3], 3, vec![]),
    ];
    for (operator, input, weight, channels, attributes) in kinds {
        let mut maker = node(operator, &["x", "w", "b"], &["made"]);
        attributes.into_iter().for_each(|attribute| maker.set(attribute));
        let norm = node("BatchNormalization", &["made", "s", "t", "m", "v"], &["y"]);
        let mut whole = graph(vec![maker, norm], &["y"]);
        whole.inputs = vec![support::float_value("x", input)];
        whole.outputs = vec![support::float_value_of_rank("y", input.len())];
        whole.add_initializer(TensorProto::of_floats("w", weight, &wave(weight.iter().product(), 1)));
        for (seed, name) in ["b", "s", "t", "m"].into_iter().enumerate() {
            whole.add_initializer(TensorProto::of_floats(name, &[channels], &wave(channels, seed + 2)));
        }
        let variance: Vec<f32> = wave(channels, 9).into_iter().map(|value| value + 1.5).collect();
        whole.add_initializer(TensorProto::of_floats("v", &[channels], &variance));
        let mut model = Model { graph: whole, rest: ModelProto { ir_version: Some(8), ..ModelProto::default() } };
        model.import("", 15);
        let inputs = [support::float_input("x", input, &wave(input.iter().product(), 11))];
        let before = run(&ort, model.to_bytes().unwrap(), &inputs).unwrap();
        assert_eq!(fold_batch_norms(&mut model.graph, 15), 1, "{operator}");
        assert_eq!(operators(&model.graph), [operator]);
        let after = run(&ort, model.to_bytes().unwrap(), &inputs).unwrap();
        assert_alike(operator, &before, &after, FOLDED_TOLERANCE);
    }
}

#[test]
fn numbers_of_every_width_are_read() {
    let read = |element, raw: Vec<u8>, count| TensorProto::of_raw("t", element, &[count], raw).integers().unwrap();
    assert_eq!(read(ElementType::Int4, packed(&[-8, 7, -1], 4), 3), [-8, 7, -1]);
    assert_eq!(read(ElementType::Uint4, vec![0xf1, 0x0a], 3), [1, 15, 10]);
    assert_eq!(read(ElementType::Int2, packed(&[-2, 1, 0, -1, 1], 2), 5), [-2, 1, 0, -1, 1]);
    assert_eq!(read(ElementType::Bool, vec![1, 0], 2), [1, 0]);
    assert_eq!(read(ElementType::Uint32, vec![0xff; 4], 1), [i64::from(u32::MAX)]);
    assert_eq!(read(ElementType::Uint64, 5_u64.to_le_bytes().to_vec(), 1), [5]);
    let beyond = TensorProto::of_raw("t", ElementType::Uint64, &[1], vec![0xff; 8]);
    assert!(beyond.integers().is_err());
    let listed = TensorProto { data_type: Some(12), dims: vec![2], uint64_data: vec![7, 9], ..TensorProto::default() };
    assert_eq!(listed.integers().unwrap(), [7, 9]);
    let half = TensorProto { data_type: Some(10), dims: vec![1], int32_data: vec![0x3c00], ..TensorProto::default() };
    assert_eq!(half.floats().unwrap(), [1.0]);
    let brain = TensorProto::of_raw("t", ElementType::Bfloat16, &[1], vec![0x80, 0xbf]);
    assert_eq!(brain.floats().unwrap(), [-1.0]);
    let short = TensorProto::of_raw("t", ElementType::Int4, &[3], vec![0]);
    assert!(short.integers().is_err());
    let overflow = TensorProto { data_type: Some(1), dims: vec![0, i64::MAX, i64::MAX], ..TensorProto::default() };
    assert!(overflow.floats().is_err());
}
