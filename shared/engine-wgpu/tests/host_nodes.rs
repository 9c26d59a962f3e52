//! Operators whose results have shapes that depend on the data run on the host between two plans.

mod support;

use std::time::Instant;

use engine::{RunControl, RunError, Session};
use rten_onnx::onnx::DataType;
use support::{Model, engine, f32s, int};
use types::{DType, NamedTensor, Tensor};

const F: DataType = DataType::FLOAT;
const L: DataType = DataType::INT64;

fn integers(tensor: &Tensor) -> Vec<i64> {
    tensor.data().as_chunks::<8>().0.iter().map(|lane| i64::from_le_bytes(*lane)).collect()
}

#[test]
fn a_graph_goes_on_with_what_was_found_in_the_data() {
    let Some(engine) = engine() else { return };
    // Everything found is gathered, and the shape of what was found is used again: Reshape to [found, 1].
    let model = Model::new(17)
        .input("x", F, &[-1])
        .constant("tail", L, &[1], &1_i64.to_le_bytes())
        .node("Add", &["x", "x"], &["double"])
        .node("NonZero", &["double"], &["places"])
        .node_with("Transpose", &["places"], &["rows"], vec![])
        .node("GatherND", &["double", "rows"], &["found"])
        .node("Shape", &["found"], &["count"])
        .node_with("Concat", &["count", "tail"], &["wanted"], vec![int("axis", 0)])
        .node("Reshape", &["found", "wanted"], &["column"])
        .node("Add", &["column", "column"], &["y"])
        .output("y", F, &[-1, 1])
        .output("places", L, &[1, -1])
        .bytes();
    let mut session = engine.load_checked(&model).unwrap();
    let description = session.describe();
    assert_eq!((description.segments, description.host_nodes.len()), (2, 1));
    assert_eq!(description.host_nodes[0].operator, "NonZero");
    for values in [vec![0.0, 1.0, 0.0, 2.0], vec![3.0], vec![0.0, 0.0], vec![0.0, 1.0, 2.0, 3.0]] {
        let answer = session.run(&[f32s("x", &[values.len()], &values)], &[], &RunControl::default()).unwrap();
        let hits: Vec<f32> = values.iter().copied().filter(|&value| value != 0.0).collect();
        assert_eq!(answer[0].tensor.shape(), [hits.len(), 1]);
        assert_eq!(answer[0].tensor.to_f32().unwrap(), hits.iter().map(|hit| hit * 4.0).collect::<Vec<_>>());
        let places: Vec<i64> = (0_i64..).zip(&values).filter(|(_at, value)| **value != 0.0).map(|(at, _)| at).collect();
        assert_eq!(integers(&answer[1].tensor), places);
    }
}

#[test]
fn boxes_are_suppressed_as_onnx_says() {
    let Some(engine) = engine() else { return };
    // The suppress-by-IOU case of ONNX's own suite.
    let boxes = [
        [0.0, 0.0, 1.0, 1.0],
        [0.0, 0.1, 1.0, 1.1],
        [0.0, -0.1, 1.0, 0.9],
        [0.0, 10.0, 1.0, 11.0],
        [0.0, 10.1, 1.0, 11.1],
        [0.0, 100.0, 1.0, 101.0],
    ];
    let model = Model::new(17)
        .input("boxes", F, &[1, 6, 4])
        .input("scores", F, &[1, 1, 6])
        .constant("most", L, &[1], &3_i64.to_le_bytes())
        .constant("overlap", F, &[1], &0.5_f32.to_le_bytes())
        .constant("least", F, &[1], &0.0_f32.to_le_bytes())
        .node("NonMaxSuppression", &["boxes", "scores", "most", "overlap", "least"], &["hits"])
        .output("hits", L, &[-1, 3])
        .bytes();
    let mut session = engine.load_checked(&model).unwrap();
    let given =
        [f32s("boxes", &[1, 6, 4], &boxes.concat()), f32s("scores", &[1, 1, 6], &[0.9, 0.75, 0.6, 0.95, 0.5, 0.3])];
    let answer = session.run(&given, &[], &RunControl::default()).unwrap();
    assert_eq!(answer[0].tensor.shape(), [3, 3]);
    assert_eq!(integers(&answer[0].tensor), [0, 0, 3, 0, 0, 0, 0, 0, 5]);
}

#[test]
fn unique_gives_values_first_places_inverse_and_counts() {
    let Some(engine) = engine() else { return };
    let model = |sorted| {
        Model::new(17)
            .input("x", F, &[-1])
            .node_with("Unique", &["x"], &["y", "first", "inverse", "counts"], vec![int("sorted", sorted)])
            .output("y", F, &[-1])
            .output("first", L, &[-1])
            .output("inverse", L, &[-1])
            .output("counts", L, &[-1])
            .bytes()
    };
    let values = [2.0, 1.0, 1.0, 3.0, 4.0, 3.0];
    for (sorted, y, rest) in [
        (0, [2.0, 1.0, 3.0, 4.0], [vec![0, 1, 3, 4], vec![0, 1, 1, 2, 3, 2], vec![1, 2, 2, 1]]),
        (1, [1.0, 2.0, 3.0, 4.0], [vec![1, 0, 3, 4], vec![1, 0, 0, 2, 3, 2], vec![2, 1, 2, 1]]),
    ] {
        let mut session = engine.load_checked(&model(sorted)).unwrap();
        let answer = session.run(&[f32s("x", &[6], &values)], &[], &RunControl::default()).unwrap();
        assert_eq!(answer[0].tensor.to_f32().unwrap(), y);
        for (output, expected) in answer[1..].iter().zip(rest) {
            assert_eq!(integers(&output.tensor), expected);
        }
    }
}

#[test]
fn what_is_known_at_plan_time_is_no_island() {
    let Some(engine) = engine() else { return };
    // PyTorch's old way to count: NonZero of ones of a known shape.
    let model = Model::new(17)
        .input("x", F, &[-1])
        .node("Shape", &["x"], &["shape"])
        .node("ConstantOfShape", &["shape"], &["zeros"])
        .node("NonZero", &["zeros"], &["none"])
        .node("Add", &["x", "x"], &["y"])
        .output("y", F, &[-1])
        .output("none", L, &[1, -1])
        .bytes();
    let mut session = engine.load_checked(&model).unwrap();
    assert!(session.describe().host_nodes.is_empty());
    let answer = session.run(&[f32s("x", &[2], &[1.0, 2.0])], &[], &RunControl::default()).unwrap();
    assert_eq!(answer[0].tensor.to_f32().unwrap(), [2.0, 4.0]);
    assert_eq!(answer[1].tensor.shape(), [1, 0]);
}

/// `y` is twice or the negative of `x` by a condition, and then once more itself; `w` is captured and constant.
fn choosing(model: Model) -> Vec<u8> {
    let then = Model::new(17)
        .constant("two", F, &[1], &2.0_f32.to_le_bytes())
        .node("Mul", &["x", "two"], &["d"])
        .output("d", F, &[-1])
        .subgraph("then_branch");
    let other = Model::new(17)
        .node("Mul", &["x", "w"], &["n"])
        .node("NonZero", &["n"], &["places"])
        .node_with("Transpose", &["places"], &["rows"], vec![])
        .node("GatherND", &["n", "rows"], &["found"])
        .output("found", F, &[-1])
        .subgraph("else_branch");
    model
        .constant("w", F, &[1], &(-1.0_f32).to_le_bytes())
        .node_with("If", &["c"], &["chosen"], vec![then, other])
        .node("Add", &["chosen", "chosen"], &["y"])
        .output("y", F, &[-1])
        .bytes()
}

#[test]
fn a_branch_is_taken_by_what_the_request_says() {
    let Some(engine) = engine() else { return };
    let model = choosing(Model::new(17).input("x", F, &[-1]).input("c", DataType::BOOL, &[]));
    let mut session = engine.load_checked(&model).unwrap();
    assert_eq!(session.describe().host_nodes[0].operator, "If");
    for (condition, expected) in [(1, vec![4.0, 0.0, 12.0]), (0, vec![-2.0, -6.0]), (1, vec![4.0, 0.0, 12.0])] {
        let condition = Tensor::new(DType::Bool, vec![], vec![condition].into()).unwrap();
        let given = [f32s("x", &[3], &[1.0, 0.0, 3.0]), NamedTensor { name: "c".into(), tensor: condition }];
        let answer = session.run(&given, &[], &RunControl::default()).unwrap();
        assert_eq!(answer[0].tensor.to_f32().unwrap(), expected);
    }
}

#[test]
fn a_branch_is_taken_by_a_shape() {
    let Some(engine) = engine() else { return };
    let model = Model::new(17)
        .input("x", F, &[-1])
        .constant("one", L, &[1], &1_i64.to_le_bytes())
        .node("Shape", &["x"], &["shape"])
        .node("Equal", &["shape", "one"], &["c"]);
    let mut session = match engine.load_checked(&choosing(model)) {
        Ok(session) => session,
        Err(error) => panic!("{error}"),
    };
    for (x, expected) in [(vec![3.0], vec![12.0]), (vec![1.0, 0.0, 3.0], vec![-2.0, -6.0])] {
        let answer = session.run(&[f32s("x", &[x.len()], &x)], &[], &RunControl::default()).unwrap();
        assert_eq!(answer[0].tensor.to_f32().unwrap(), expected);
    }
}

#[test]
fn a_long_axis_is_sorted_on_the_host_and_a_short_one_on_the_device() {
    let Some(engine) = engine() else { return };
    let model = |size: i64| {
        Model::new(17)
            .input("x", F, &[-1, size])
            .constant("k", L, &[1], &3_i64.to_le_bytes())
            .node("TopK", &["x", "k"], &["values", "places"])
            .node("Add", &["values", "values"], &["y"])
            .output("y", F, &[-1, 3])
            .output("places", L, &[-1, 3])
            .bytes()
    };
    for (size, host_nodes) in [(100_usize, 0), (20_000, 1)] {
        let mut session = engine.load_checked(&model(i64::try_from(size).unwrap())).unwrap();
        assert_eq!(session.describe().host_nodes.len(), host_nodes, "{size}");
        let mut values = vec![0.0_f32; 2 * size];
        (values[7], values[3], values[size - 1]) = (f32::NAN, 5.0, 4.0);
        (values[size + 9], values[size + 8]) = (1.0, 1.0);
        let answer = session.run(&[f32s("x", &[2, size], &values)], &[], &RunControl::default()).unwrap();
        let last = i64::try_from(size).unwrap() - 1;
        assert_eq!(integers(&answer[1].tensor), [7, 3, last, 8, 9, 0]);
        let y = answer[0].tensor.to_f32().unwrap();
        assert!(y[0].is_nan());
        assert_eq!(y[1..], [10.0, 8.0, 2.0, 2.0, 0.0]);
    }
}

#[test]
fn a_model_of_endless_islands_is_refused_before_it_is_cut() {
    let Some(engine) = engine() else { return };
    let mut model = Model::new(17).input("v0", DataType::FLOAT, &[-1]);
    for at in 0..300 {
        let (from, indices, to) = (format!("v{at}"), format!("n{at}"), format!("v{}", at + 1));
        model = model.node("NonZero", &[&from], &[&indices]).node_with("Cast", &[&indices], &[&to], vec![int("to", 1)]);
    }
    let model = model.output("v300", DataType::FLOAT, &[-1, -1]).bytes();
    let error = engine.load_checked(&model).unwrap_err();
    assert!(format!("{error:?}").contains("run on the host"), "{error:?}");
}

/// A loop whose condition stays true, with this as its number of iterations.
fn looping(count: &str) -> Vec<u8> {
    let body = Model::new(17)
        .input("i", L, &[])
        .input("c", DataType::BOOL, &[])
        .input("s", F, &[-1])
        .node("Identity", &["c"], &["c2"])
        .node("Add", &["s", "s"], &["s2"])
        .output("c2", DataType::BOOL, &[])
        .output("s2", F, &[-1])
        .subgraph("body");
    let model = Model::new(17).input("x", F, &[-1]).input("m", L, &[]).constant("yes", DataType::BOOL, &[], &[1]);
    model.node_with("Loop", &[count, "yes", "x"], &["y"], vec![body]).output("y", F, &[-1]).bytes()
}

#[expect(clippy::unwrap_used, reason = "a test may stop anywhere")]
fn counted(count: i64) -> [NamedTensor; 2] {
    let tensor = Tensor::new(DType::I64, Vec::new(), count.to_le_bytes().to_vec().into()).unwrap();
    [f32s("x", &[2], &[1.0, 3.0]), NamedTensor { name: "m".into(), tensor }]
}

#[test]
fn a_loop_whose_count_a_request_decides_is_told_before_it_runs() {
    let Some(engine) = engine() else { return };
    let model = looping("m");
    let report = engine_wgpu::check(&model).unwrap();
    assert!(report.can_run(), "{:?}", report.unsupported);
    assert_eq!(report.host_nodes[0].operator, "Loop");
    let mut session = engine.load_checked(&model).unwrap();
    for (count, expected) in [(0, [1.0, 3.0]), (3, [8.0, 24.0]), (-5, [1.0, 3.0]), (1, [2.0, 6.0])] {
        let answer = session.run(&counted(count), &[], &RunControl::default()).unwrap();
        assert_eq!(answer[0].tensor.to_f32().unwrap(), expected, "{count}");
    }
}

#[test]
fn a_loop_without_end_stops_when_nobody_wants_its_answer() {
    let Some(engine) = engine() else { return };
    let mut session = engine.load_checked(&looping("")).unwrap();
    let cancelled = RunControl::default();
    cancelled.cancel.cancel();
    assert!(matches!(session.run(&counted(0), &[], &cancelled), Err(RunError::Cancelled)));
    let late = RunControl { deadline: Some(Instant::now()), ..RunControl::default() };
    assert!(matches!(session.run(&counted(0), &[], &late), Err(RunError::Deadline)));
    // The session goes on with what ends.
    let mut ending = engine.load_checked(&looping("m")).unwrap();
    assert!(ending.run(&counted(2), &[], &RunControl::default()).is_ok());
}

#[test]
fn a_scan_with_lengths_of_its_own_is_refused_with_what_to_do() {
    let body = || Model::new(8).input("v", F, &[3]).node("Neg", &["v"], &["o"]).output("o", F, &[3]).subgraph("body");
    let scan = |lengths: &str| {
        let model = Model::new(8).input("x", F, &[1, 2, 3]).input("n", DataType::INT64, &[1]);
        let attributes = vec![body(), int("num_scan_inputs", 1)];
        model.node_with("Scan", &[lengths, "x"], &["y"], attributes).output("y", F, &[1, 2, 3]).bytes()
    };
    let report = engine_wgpu::check(&scan("n")).unwrap();
    assert!(report.unsupported[0].reason.contains("sequence_lens"), "{:?}", report.unsupported);
    let report = engine_wgpu::check(&scan("")).unwrap();
    assert!(report.can_run(), "{:?}", report.unsupported);
}
