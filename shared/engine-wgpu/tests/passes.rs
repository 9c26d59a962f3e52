//! A rewritten graph answers the same with less work.

#![expect(clippy::unwrap_used, reason = "helpers of tests may do what tests may")]

mod support;

use engine_wgpu::ir::{Graph, Literal};
use engine_wgpu::passes::rewrite;
use engine_wgpu::read::read;
use engine_wgpu::{ModelError, check};
use rten_onnx::onnx::DataType;
use support::{Model, engine, f32s, int, ints, run};

const F: DataType = DataType::FLOAT;
const L: DataType = DataType::INT64;

fn rewritten(model: Model) -> Graph {
    let mut graph = read(&model.bytes()).unwrap();
    rewrite(&mut graph);
    graph
}

fn ops(graph: &Graph) -> Vec<&str> {
    graph.nodes.iter().map(|node| node.op.as_str()).collect()
}

fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

#[test]
fn what_no_request_can_change_is_computed_once() {
    let graph = rewritten(
        Model::new(17)
            .input("x", F, &[-1, 2])
            .constant("w", F, &[2, 2], &floats(&[1.0, 2.0, 3.0, 4.0]))
            .node("Transpose", &["w"], &["t"])
            .node("Neg", &["t"], &["n"])
            .node("Add", &["x", "n"], &["y"])
            .output("y", F, &[-1, 2]),
    );
    assert_eq!(ops(&graph), ["Add"]);
    let folded: Vec<&Literal> = graph.constants.values().collect();
    assert_eq!(folded.len(), 1);
    assert_eq!(folded[0].to_f32s(), [-1.0, -3.0, -2.0, -4.0]);
}

#[test]
fn a_value_that_would_grow_too_much_is_left_to_the_device() {
    let graph = rewritten(
        Model::new(17)
            .input("x", F, &[-1])
            .constant("w", F, &[1], &floats(&[1.0]))
            .constant("many", L, &[1], &(1_i64 << 20).to_le_bytes())
            .node("Expand", &["w", "many"], &["large"])
            .node("Add", &["x", "large"], &["y"])
            .output("y", F, &[-1]),
    );
    assert_eq!(ops(&graph), ["Expand", "Add"]);
}

#[test]
fn with_fixed_sizes_shape_arithmetic_disappears() {
    let graph = rewritten(
        Model::new(17)
            .input("x", F, &[4, 3])
            .constant("zero", L, &[1], &0_i64.to_le_bytes())
            .constant("one", L, &[1], &(-1_i64).to_le_bytes())
            .node("Shape", &["x"], &["shape"])
            .node("Gather", &["shape", "zero"], &["rows"])
            .node_with("Concat", &["rows", "one"], &["wanted"], vec![int("axis", 0)])
            .node("Reshape", &["x", "wanted"], &["y"])
            .output("y", F, &[4, 3]),
    );
    assert_eq!(ops(&graph), ["Reshape"]);
}

#[test]
fn operators_that_do_nothing_are_removed_and_outputs_keep_their_names() {
    let graph = rewritten(
        Model::new(17)
            .input("x", F, &[2, 3])
            .node("Identity", &["x"], &["a"])
            .node("Neg", &["a"], &["b"])
            .node("Dropout", &["b"], &["c"])
            .node_with("Cast", &["c"], &["d"], vec![int("to", 1)])
            .node_with("Transpose", &["d"], &["e"], vec![ints("perm", &[1, 0])])
            .node_with("Transpose", &["e"], &["f"], vec![ints("perm", &[1, 0])])
            .node("Identity", &["f"], &["y"])
            .output("y", F, &[2, 3]),
    );
    assert_eq!(ops(&graph), ["Neg"]);
    assert_eq!(graph.value(graph.outputs[0]).name, "y");
}

#[test]
fn an_input_handed_out_as_an_output_is_still_an_answer() {
    let Some(engine) = engine() else { return };
    let model = Model::new(17)
        .input("x", F, &[3])
        .constant("w", F, &[1], &floats(&[7.0]))
        .node("Identity", &["x"], &["y"])
        .node("Identity", &["w"], &["z"])
        .output("y", F, &[3])
        .output("z", F, &[1])
        .output("x", F, &[3])
        .bytes();
    let answer = run(&engine, &model, &[f32s("x", &[3], &[1.0, 2.0, 3.0])]);
    assert_eq!(answer[0].tensor.to_f32().unwrap(), [1.0, 2.0, 3.0]);
    assert_eq!(answer[1].tensor.to_f32().unwrap(), [7.0]);
    assert_eq!(answer[2].tensor.to_f32().unwrap(), [1.0, 2.0, 3.0]);
}

/// `If` on a constant; both branches capture the outer `x` and `w`.
fn branching(condition: u8) -> Model {
    let inner = Model::new(17)
        .node("Add", &["x", "w"], &["sum"])
        .node("Identity", &["sum"], &["deep"])
        .output("deep", F, &[2])
        .subgraph("then_branch");
    let other = Model::new(17).node("Neg", &["w"], &["n"]).output("n", F, &[2]).subgraph("else_branch");
    let nested = Model::new(17)
        .constant("yes", DataType::BOOL, &[], &[1])
        .constant("two", F, &[2], &floats(&[2.0, 2.0]))
        .node_with("If", &["yes"], &["i"], vec![inner, other])
        .node("Mul", &["i", "two"], &["t"])
        .output("t", F, &[2])
        .subgraph("then_branch");
    let plain = Model::new(17).node("Mul", &["x", "w"], &["p"]).output("p", F, &[2]).subgraph("else_branch");
    Model::new(17)
        .input("x", F, &[2])
        .constant("w", F, &[2], &floats(&[10.0, 20.0]))
        .constant("c", DataType::BOOL, &[1], &[condition])
        .node_with("If", &["c"], &["y"], vec![nested, plain])
        .output("y", F, &[2])
}

#[test]
fn a_decided_branch_takes_the_place_of_the_if() {
    let Some(engine) = engine() else { return };
    let x = f32s("x", &[2], &[1.0, 2.0]);
    for (condition, expected) in [(1, [22.0, 44.0]), (0, [10.0, 40.0])] {
        let graph = rewritten(branching(condition));
        // What is left of the branch may have been fused.
        assert!(!ops(&graph).contains(&"If") && graph.nodes.len() <= 2, "{:?}", ops(&graph));
        let answer = run(&engine, &branching(condition).bytes(), std::slice::from_ref(&x));
        assert_eq!(answer[0].tensor.to_f32().unwrap(), expected);
    }
}

#[test]
fn a_model_is_checked_without_a_device_and_everything_is_listed() {
    let branch = |name: &str| Model::new(17).node("Nonsense", &["x"], &["n"]).output("n", F, &[2]).subgraph(name);
    let body = Model::new(17).input("s", F, &[]).node("Neg", &["s"], &["n"]).output("n", F, &[]).subgraph("body");
    let model = Model::new(17)
        .input("x", F, &[2])
        .input("c", DataType::BOOL, &[])
        .node("Nonsense", &["x"], &["a"])
        .node("Nonsense", &["a"], &["b"])
        .node_with("If", &["c"], &["d"], vec![branch("then_branch"), branch("else_branch")])
        .node_with("Scan", &["x"], &["g"], vec![body, int("num_scan_inputs", 1)])
        .output("g", F, &[2])
        .node("NonZero", &["x"], &["e"])
        // Its shape is a request's data.
        .node("Expand", &["x", "e"], &["f"])
        .output("b", F, &[2])
        .output("d", F, &[2])
        .output("f", F, &[-1])
        .bytes();
    let report = check(&model).unwrap();
    assert!(!report.can_run());
    let listed: Vec<(&str, usize)> = report.unsupported.iter().map(|one| (one.operator.as_str(), one.count)).collect();
    assert_eq!(listed, [("Expand", 1), ("Nonsense", 4)]);
    let host_nodes: Vec<&str> = report.host_nodes.iter().map(|host_node| host_node.operator.as_str()).collect();
    assert_eq!(host_nodes, ["If", "Scan", "NonZero"]);
    assert_eq!(report.unsupported[1].first_node, "Nonsense_0");
    let Some(engine) = engine() else { return };
    let refused = engine.load_checked(&model).unwrap_err();
    assert!(matches!(refused, ModelError::Unsupported(list) if list == report.unsupported));
}

#[test]
fn an_operator_set_from_the_future_is_refused_by_its_number() {
    let model = Model::new(999).input("x", F, &[2]).node("Neg", &["x"], &["y"]).output("y", F, &[2]).bytes();
    let report = check(&model).unwrap();
    assert!(report.unsupported[0].reason.contains("999"), "{report:?}");
}

/// A loop that adds `x` to what it carries and keeps every sum; `w` is captured and constant.
fn looping(count: i64, condition: bool) -> Vec<u8> {
    let body = Model::new(17)
        .input("round", L, &[])
        .input("going", DataType::BOOL, &[])
        .input("carried", F, &[2])
        .node("Identity", &["going"], &["still"])
        .node("Add", &["carried", "x"], &["sum"])
        .node("Mul", &["sum", "w"], &["next"])
        .output("still", DataType::BOOL, &[])
        .output("next", F, &[2])
        .output("sum", F, &[2])
        .subgraph("body");
    let model = Model::new(17)
        .input("x", F, &[2])
        .constant("w", F, &[2], &floats(&[2.0, 1.0]))
        .constant("count", L, &[], &count.to_le_bytes())
        .constant("yes", DataType::BOOL, &[], &[1]);
    let condition = if condition { "yes" } else { "" };
    model
        .node_with("Loop", &["count", condition, "x"], &["last", "sums"], vec![body])
        .output("last", F, &[2])
        .output("sums", F, &[-1, 2])
        .bytes()
}

#[test]
fn a_loop_of_a_constant_count_is_unrolled() {
    let Some(engine) = engine() else { return };
    for condition in [true, false] {
        let answer = run(&engine, &looping(3, condition), &[f32s("x", &[2], &[1.0, 10.0])]);
        // 1 -> (1+1)*2 = 4 -> (4+1)*2 = 10 -> (10+1)*2 = 22; 10 -> 20 -> 30 -> 40.
        assert_eq!(answer[0].tensor.to_f32().unwrap(), [22.0, 40.0]);
        assert_eq!(answer[1].tensor.shape(), [3, 2]);
        assert_eq!(answer[1].tensor.to_f32().unwrap(), [2.0, 20.0, 5.0, 30.0, 11.0, 40.0]);
    }
    let report = check(&looping(1_000_000_000, true)).unwrap();
    assert_eq!(report.unsupported[0].operator, "Loop");
}
