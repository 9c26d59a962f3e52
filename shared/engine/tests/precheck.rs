//! Tests of the pre-check: hostile models are refused by name, real ones pass, nothing makes it panic.

#![expect(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

mod support;

use std::iter;

use engine::precheck::{ModelLimits, Refusal, check};
use proptest::prelude::*;

use support::model::{self, Graph, Message, Size, tensor, tensor_attribute, tensor_type, value};

fn refusal(file: &[u8]) -> Refusal {
    check(file, &ModelLimits::default()).unwrap_err()
}

#[test]
fn files_of_other_formats_are_named_as_what_they_are() {
    let told = |file: &[u8]| refusal(file).to_string();
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4665a5\nsize 12345\n";
    assert!(told(pointer).contains("Git LFS") && told(pointer).contains("git lfs pull"));
    assert!(told(b"\n <!DOCTYPE html><html><head>").contains("web page"));
    assert!(told(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR").contains("PNG"));
    assert!(told(b"PK\x03\x04\x14\0\0\0\x08\0").contains("zip archive"));
    assert!(told(b"\x1f\x8b\x08\0\0\0\0\0").contains("gzip"));
    assert!(told(b"\x1c\0\0\0TFL3\0\0").contains("TensorFlow Lite"));
    assert!(matches!(refusal(b"just text"), Refusal::Unreadable { .. }));
}

#[test]
fn the_models_of_the_catalogue_pass_and_are_counted() {
    let facts = check(&support::digits("v1/int8-qdq.onnx"), &ModelLimits::default()).unwrap();
    assert_eq!(facts.opset, Some(17));
    assert_eq!(facts.depth, 0);
    assert_eq!(facts.operators.get("Conv"), Some(&2));
    assert_eq!(facts.nodes, facts.operators.values().sum::<usize>());
    for file in ["v1/fp32.onnx", "v1/full.onnx", "v2/int8-qdq.onnx", "v2/fp32.onnx"] {
        check(&support::digits(file), &ModelLimits::default()).unwrap();
    }
}

#[test]
fn a_file_over_the_limit_is_refused_unread() {
    let limits = ModelLimits { file_bytes: 3, ..ModelLimits::default() };
    assert_eq!(check(&[0xff; 4], &limits), Err(Refusal::FileSize { bytes: 4, limit: 3 }));
}

#[test]
fn a_model_cut_anywhere_never_passes_for_another() {
    let file = support::digits("v1/int8-qdq.onnx");
    let whole = check(&file, &ModelLimits::default()).unwrap();
    for end in (0..file.len()).step_by(7) {
        if let Ok(facts) = check(&file[..end], &ModelLimits::default()) {
            assert_eq!(facts.nodes, whole.nodes, "cut between two fields after the graph");
        }
    }
    assert!(matches!(refusal(&[]), Refusal::Unreadable { .. }));
    assert!(matches!(refusal(b"GIF89a"), Refusal::Unreadable { .. }));
}

#[test]
fn the_ort_format_is_refused_even_inside_protocol_buffers() {
    // Field 2 holds eight bytes of which the middle four end up where the runtime looks.
    let disguised = Message::default().bytes(2, b"..ORTM..").message(7, &model::one_node("", "Relu")).0;
    assert_eq!(disguised.get(4..8), Some(&b"ORTM"[..]));
    assert_eq!(refusal(&disguised), Refusal::OrtFormat);
}

#[test]
fn too_many_nodes_are_refused() {
    assert_eq!(refusal(&model::chain(200_000)), Refusal::Nodes { limit: 50_000 });
    assert_eq!(check(&model::chain(50_000), &ModelLimits::default()).unwrap().nodes, 50_000);
}

#[test]
fn too_many_tensors_are_refused() {
    let initializers = iter::repeat_n(tensor("w", model::FLOAT, &[0], &[]), 50_001).collect();
    let file = Graph { initializers, ..Graph::default() }.model();
    assert_eq!(refusal(&file), Refusal::Tensors { limit: 50_000 });
}

#[test]
fn graphs_and_types_nested_too_deep_are_refused() {
    assert_eq!(check(&model::nested(8), &ModelLimits::default()).unwrap().depth, 8);
    assert_eq!(refusal(&model::nested(9)), Refusal::Depth { what: "graphs", limit: 8 });
    assert!(matches!(refusal(&model::nested(3_000)), Refusal::Depth { .. }), "and the check itself does not overflow");

    let deep = (0..3_000).fold(tensor_type(model::FLOAT, &[]), |inner, _| {
        Message::default().message(4, &Message::default().message(1, &inner))
    });
    let file = model::model(&Message::default().message(13, &value("v", &deep)), &[]);
    assert_eq!(refusal(&file), Refusal::Depth { what: "types", limit: 8 });
}

#[test]
fn external_data_is_refused_wherever_it_hides() {
    let outside = Message::default()
        .varint(1, 1)
        .varint(2, model::FLOAT)
        .bytes(8, "w")
        .message(13, &Message::default().bytes(1, "location").bytes(2, "../../etc/passwd"));
    let located = Message::default().varint(1, 1).varint(2, model::FLOAT).bytes(8, "w").varint(14, 1);
    let in_subgraph = |weights: &Message| {
        let branch = Graph { initializers: vec![weights.clone()], ..Graph::default() };
        let fork =
            model::node("If", &["c"], &["y"]).message(5, &model::graph_attribute("then_branch", &branch.message()));
        Graph { nodes: vec![fork], ..Graph::default() }.model()
    };
    for weights in [&outside, &located] {
        let constant = model::node("Constant", &[], &["y"]).message(5, &tensor_attribute("value", weights));
        let list =
            model::node("Constant", &[], &["y"]).message(5, &Message::default().bytes(1, "v").message(10, weights));
        let sparse = Message::default().message(1, weights);
        let function = model::function("f", &[("", "Relu")]).message(7, &constant);
        let hidden = [
            Graph { initializers: vec![weights.clone()], ..Graph::default() }.model(),
            Graph { nodes: vec![constant.clone()], ..Graph::default() }.model(),
            Graph { nodes: vec![list], ..Graph::default() }.model(),
            model::model(&Message::default().message(15, &sparse), &[]),
            in_subgraph(weights),
            model::model(&model::one_node("", "Relu"), &[function]),
        ];
        for (place, file) in hidden.iter().enumerate() {
            assert_eq!(refusal(file), Refusal::ExternalData { tensor: "w".into() }, "place {place}");
        }
    }
}

#[test]
fn a_tensor_that_claims_more_than_its_bytes_is_refused() {
    for dims in [&[1 << 40][..], &[1 << 40, 1 << 40], &[u64::MAX], &[u64::MAX, 0]] {
        let file = Graph { initializers: vec![tensor("w", model::FLOAT, dims, &[0; 16])], ..Graph::default() }.model();
        assert_eq!(refusal(&file), Refusal::TensorSize { tensor: "w".into() }, "{dims:?}");
    }
    let dense = Message::default().message(1, &tensor("values", model::FLOAT, &[1], &[0; 4])).varint(3, 1 << 40);
    let file = model::model(&Message::default().message(15, &dense), &[]);
    assert!(matches!(refusal(&file), Refusal::TensorSize { .. }));
}

#[test]
fn operators_that_nobody_knows_are_refused() {
    let unknown = |domain: &str| Refusal::Domain { domain: domain.into(), operator: "Run".into() };
    assert_eq!(refusal(&model::model(&model::one_node("evil", "Run"), &[])), unknown("evil"));
    assert_eq!(refusal(&model::model(&model::one_node("ai.onnx.contrib", "Run"), &[])), unknown("ai.onnx.contrib"));
    for domain in engine::precheck::DOMAINS {
        check(&model::model(&model::one_node(domain, "Run"), &[]), &ModelLimits::default()).unwrap();
    }
    let reaching_out = model::model(&model::one_node("com.microsoft", "EPContext"), &[]);
    assert!(matches!(refusal(&reaching_out), Refusal::Operator { .. }));
}

#[test]
fn a_function_of_the_model_makes_its_own_domain_known() {
    let calls_f = model::one_node("local", "f");
    let defined = model::model(&calls_f, &[model::function("f", &[("", "Relu"), ("", "Neg")])]);
    assert_eq!(check(&defined, &ModelLimits::default()).unwrap().nodes, 2, "the body stands in place of the call");
    assert!(matches!(refusal(&model::model(&calls_f, &[])), Refusal::Domain { .. }));
    let hides = model::model(&calls_f, &[model::function("f", &[("evil", "Run")])]);
    assert!(matches!(refusal(&hides), Refusal::Domain { .. }), "bodies are looked into");
}

#[test]
fn functions_that_call_themselves_or_multiply_are_refused() {
    let around = [model::function("f", &[("local", "g")]), model::function("g", &[("local", "f")])];
    let file = model::model(&model::one_node("local", "f"), &around);
    assert!(matches!(refusal(&file), Refusal::Recursion { .. }));

    // Twenty functions that each call the next ten times: ten to the twentieth nodes.
    let mut bomb: Vec<Message> = (0..20)
        .map(|at| {
            let next = format!("f{}", at + 1);
            model::function(&format!("f{at}"), &[("local", next.as_str()); 10])
        })
        .collect();
    bomb.push(model::function("f20", &[("", "Relu")]));
    let file = model::model(&model::one_node("local", "f0"), &bomb);
    assert_eq!(refusal(&file), Refusal::Nodes { limit: 50_000 });
}

#[test]
fn inputs_and_outputs_that_are_no_tensors_are_refused() {
    let sequence = Message::default().message(4, &Message::default().message(1, &tensor_type(model::FLOAT, &[])));
    let file = Graph { outputs: vec![value("all", &sequence)], ..Graph::default() }.model();
    assert_eq!(refusal(&file), Refusal::NotTensor { kind: "output", name: "all".into() });
}

#[test]
fn two_graphs_in_one_file_are_refused() {
    let twice = Message::default().message(7, &model::one_node("", "Relu")).message(7, &model::one_node("", "Neg")).0;
    assert_eq!(refusal(&twice), Refusal::Unreadable { what: "it has two graphs" });
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2_000)) {
        let _refused_or_not = check(&bytes, &ModelLimits::default()).is_ok();
    }

    #[test]
    fn no_damage_to_a_model_makes_it_panic(damage in proptest::collection::vec((0..400_usize, any::<u8>()), 1..8)) {
        let mut file = model::endless();
        for (at, byte) in damage {
            let length = file.len();
            if let Some(place) = file.get_mut(at % length) {
                *place = byte;
            }
        }
        let _refused_or_not = check(&file, &ModelLimits::default()).is_ok();
    }
}

#[test]
fn sizes_of_shapes_are_written_as_the_standard_says() {
    // Guards the writer of these tests: a mistake in it would make the refusals above meaningless.
    let file =
        Graph { inputs: vec![value("x", &tensor_type(1, &[Size::Named("n"), Size::Fixed(3)]))], ..Graph::default() };
    check(&file.model(), &ModelLimits::default()).unwrap();
}

/// `SparseTensorProto` with one number in a square of that many rows.
fn sparse(rows: u64) -> Message {
    let values = tensor("v", model::FLOAT, &[1], &1_f32.to_le_bytes());
    let indices = tensor("i", model::INT64, &[1], &5_i64.to_le_bytes());
    Message::default().message(1, &values).message(2, &indices).varint(3, rows).varint(3, rows)
}

/// Nodes `Constant` that hold these sparse tensors.
fn sparse_constants(count: usize, rows: u64) -> Vec<Message> {
    let constant = |at: usize| {
        let attribute = Message::default().bytes(1, "sparse_value").message(22, &sparse(rows)).varint(20, 11);
        model::node("Constant", &[], &[&format!("w{at}")]).message(5, &attribute)
    };
    (0..count).map(constant).collect()
}

#[test]
fn sparse_constants_share_one_budget_wherever_they_are() {
    // 8192 x 8192 numbers are 256 MiB: one is lawful, and so are small ones by the hundred.
    let file = |nodes: Vec<Message>| Graph { nodes, ..Graph::default() }.model();
    check(&file(sparse_constants(1, 8192)), &ModelLimits::default()).unwrap();
    check(&file(sparse_constants(200, 256)), &ModelLimits::default()).unwrap();
    let initializers = |count: usize| {
        let graph = Graph::default().message();
        model::model(&(0..count).fold(graph, |graph, _| graph.message(15, &sparse(8192))), &[])
    };
    let in_function = model::function("f", &[("", "Relu")]).messages(7, &sparse_constants(12, 8192));
    let branch = Graph { nodes: sparse_constants(12, 8192), ..Graph::default() }.message();
    let fork =
        |branch: &Message| model::node("If", &["c"], &["y"]).message(5, &model::graph_attribute("then_branch", branch));
    let half = Graph { nodes: sparse_constants(1, 8192), ..Graph::default() }.message();
    let over = [
        file(sparse_constants(24, 8192)),
        initializers(24),
        model::model(&model::one_node("", "Relu"), &[in_function]),
        file(vec![fork(&branch)]),
        // One here and one there.
        file([sparse_constants(1, 8192), vec![fork(&half)]].concat()),
        // Many small ones.
        file(sparse_constants(2_000, 512)),
    ];
    for (place, file) in over.iter().enumerate() {
        assert!(file.len() < 500_000);
        assert!(matches!(refusal(file), Refusal::Memory { .. }), "place {place}: {:?}", refusal(file));
    }
}

#[test]
fn texts_and_small_messages_share_the_budget_of_constants() {
    let text = vec![b'x'; 1_000_000];
    let graph = || model::one_node("", "Relu");
    let entry = |value: &[u8]| Message::default().bytes(1, "k").bytes(2, value);
    let metadata =
        |count: usize, value: &[u8]| Message(model::model(&graph(), &[])).messages(14, &vec![entry(value); count]).0;
    let described = |count: usize| model::model(&(0..count).fold(graph(), |graph, _| graph.bytes(10, &text)), &[]);
    let commented = |count: usize| {
        let node = (0..count).fold(model::node("Relu", &["x"], &["y"]), |node, _| node.bytes(6, &text));
        Graph { nodes: vec![node], ..Graph::default() }.model()
    };
    let values = |count: usize| model::model(&(0..count).fold(graph(), |graph, _| graph.bytes(13, [])), &[]);
    for file in [metadata(100, &text), described(100), commented(100), metadata(3_000_000, b""), values(3_000_000)] {
        assert!(matches!(refusal(&file), Refusal::Memory { .. }), "{} bytes: {:?}", file.len(), refusal(&file));
    }
    // As much as the largest exports have is no harm, and neither are large weights.
    for file in [metadata(20, &text), described(20), commented(20), metadata(100_000, b"x"), values(100_000)] {
        check(&file, &ModelLimits::default()).unwrap();
    }
    let weights = tensor("w", model::FLOAT, &[25_000_000], &vec![0; 100_000_000]);
    check(&Graph { initializers: vec![weights], ..Graph::default() }.model(), &ModelLimits::default()).unwrap();
}

#[test]
fn numbers_that_are_wide_in_memory_are_counted_so() {
    // A varint of one byte becomes eight.
    let numbers = vec![1_u8; 60_000_000];
    let list = Message::default().bytes(1, "ints").bytes(8, &numbers).varint(20, 7);
    let file = Graph { nodes: vec![model::node("Relu", &["x"], &["y"]).message(5, &list)], ..Graph::default() }.model();
    assert!(matches!(refusal(&file), Refusal::Memory { .. }));
    let wide = Message::default().varint(1, 60_000_000).varint(2, model::INT64).bytes(7, &numbers).bytes(8, "w");
    let file = Graph { initializers: vec![wide], ..Graph::default() }.model();
    assert!(matches!(refusal(&file), Refusal::Memory { .. }));
}
