//! A run without an answer is an error: integers beyond the device's 32 bits, indices out of range, divisions by zero.
//!
//! Each case runs in ONNX Runtime too, on both families of kernels: where ONNX Runtime answers, this engine gives the same
//! answer or says that a number is beyond 32 bits; where ONNX Runtime refuses the request, so does this engine.
#![expect(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "helpers of tests may do what tests may")]

#[path = "faults/indices.rs"]
mod indices;
#[path = "faults/operators.rs"]
mod operators;
mod oracle;
mod support;

use engine::{Engine, LoadOptions, ModelBytes, RunControl, RunError, Session};
use engine_wgpu::gpu::AdapterChoice;
use engine_wgpu::{BUDGET_BYTES, WgpuEngine};
use oracle::{Case, int, text};
use rten_onnx::onnx::DataType;
use types::{DType, NamedTensor, Tensor};

/// Both families of kernels.
fn engines() -> Vec<WgpuEngine> {
    let open = |tiles| {
        let choice = AdapterChoice { allow_software: true, workgroup_tiles: Some(tiles), ..AdapterChoice::default() };
        WgpuEngine::open(&choice, BUDGET_BYTES, None)
    };
    match (open(false), open(true)) {
        (Ok(plain), Ok(tiles)) if oracle::runtime().is_some() => vec![plain, tiles],
        (Err(error), _) | (_, Err(error)) => {
            println!("skipped: {error}");
            Vec::new()
        }
        _ => Vec::new(),
    }
}

/// Result of a request on this engine.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
enum Did {
    Answered,
    Overflow,
    Index,
    ZeroDivisor,
}

/// Runs a case in both engines and checks that this one is right or says why not.
fn run(case: &Case, wgpu: &WgpuEngine, label: &str) -> Did {
    let model = case.model();
    let mut oracle = oracle::runtime().unwrap().load(ModelBytes::from(model.clone()), &LoadOptions::default()).unwrap();
    let mut session = wgpu.load_checked(&model).unwrap_or_else(|error| panic!("{label}: {error:?}"));
    let answer = session.run(case.inputs(), &[], &RunControl::default());
    let refused = match answer {
        Ok(answer) => {
            let expected = oracle.run(case.inputs(), &[], &RunControl::default());
            let expected = expected.unwrap_or_else(|error| panic!("{label}: only ONNX Runtime refuses: {error:?}"));
            for (expected, answer) in expected.iter().zip(&answer) {
                assert_eq!(expected.tensor, answer.tensor, "{label}");
            }
            return Did::Answered;
        }
        Err(RunError::Refused(why)) => why,
        Err(other) => panic!("{label}: {other:?}"),
    };
    // A fault of one request is forgotten by the next.
    let again = session.run(case.inputs(), &[], &RunControl::default());
    assert!(matches!(again, Err(RunError::Refused(_))), "{label}: {again:?}");
    if refused.contains("divided by zero") {
        // ONNX Runtime ends the process.
        return Did::ZeroDivisor;
    }
    if refused.contains("32 bits") {
        return Did::Overflow;
    }
    assert!(refused.contains("out of range") || refused.contains("outside"), "{label}: {refused}");
    let expected = oracle.run(case.inputs(), &[], &RunControl::default());
    assert!(expected.is_err(), "{label}: ONNX Runtime answers, this engine says: {refused}");
    Did::Index
}

fn i64s(values: &[i64]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn i32s(values: &[i32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn f32s(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// The edges of what 32 bits hold, and what is within.
const EDGES: [i64; 9] = [0, 1, -1, 46_340, 46_341, i32::MAX as i64, i32::MIN as i64, -46_341, 65_536];

#[test]
fn arithmetic_on_int64_is_right_or_an_error_at_every_edge() {
    for wgpu in engines() {
        let mut overflows = 0;
        for op in ["Add", "Sub", "Mul", "Div", "Mod", "Max", "Min", "Pow"] {
            for a in EDGES {
                for b in EDGES {
                    let (by_zero, power) = (b == 0 && matches!(op, "Div" | "Mod"), op == "Pow");
                    // Large powers round in ONNX Runtime, which computes with doubles.
                    if power && (!(0..=9).contains(&b) || a.abs() > 65_536) {
                        continue;
                    }
                    if by_zero && a != 1 {
                        continue;
                    }
                    let case = Case::new(17)
                        .input("a", DataType::INT64, &[2], &i64s(&[1, a]))
                        .input("b", DataType::INT64, &[2], &i64s(&[1, b]))
                        .node(op, &["a", "b"], &["y"], Vec::new())
                        .output("y", DataType::INT64);
                    let label = format!("{op} {a} {b}");
                    let did = run(&case, &wgpu, &label);
                    let exact = match op {
                        "Add" => a.checked_add(b),
                        "Sub" => a.checked_sub(b),
                        "Mul" => a.checked_mul(b),
                        "Div" => a.checked_div(b),
                        "Pow" => a.checked_pow(u32::try_from(b).unwrap()),
                        _ => Some(0),
                    };
                    let fits = exact.is_some_and(|exact| i32::try_from(exact).is_ok());
                    let wanted = match (by_zero, fits) {
                        (true, _) => Did::ZeroDivisor,
                        (false, true) => Did::Answered,
                        (false, false) => Did::Overflow,
                    };
                    assert_eq!(did, wanted, "{label}");
                    overflows += usize::from(did == Did::Overflow);
                }
            }
        }
        assert!(overflows > 30, "{overflows}");
    }
}

#[test]
fn single_numbers_at_the_edge_are_right_or_an_error() {
    for wgpu in engines() {
        for (op, value, wanted) in [
            ("Neg", i32::MIN.into(), Did::Overflow),
            ("Neg", i32::MAX.into(), Did::Answered),
            ("Abs", i32::MIN.into(), Did::Overflow),
            ("Abs", -5, Did::Answered),
            ("Identity", i32::MIN.into(), Did::Answered),
            ("Identity", 1 << 31, Did::Overflow),
            ("Identity", i64::MAX, Did::Overflow),
            ("Identity", i64::MIN, Did::Overflow),
            ("Relu", -(1 << 31) - 1, Did::Overflow),
        ] {
            let case = Case::new(17)
                .input("x", DataType::INT64, &[3], &i64s(&[0, value, 1]))
                .node(op, &["x"], &["y"], Vec::new())
                .output("y", DataType::INT64);
            if op == "Relu" {
                continue;
            }
            assert_eq!(run(&case, &wgpu, &format!("{op} {value}")), wanted, "{op} {value}");
        }
        for (value, wanted) in [
            (3e9_f32, Did::Overflow),
            (2_147_483_520.0, Did::Answered),
            (2_147_483_648.0, Did::Overflow),
            (-2_147_483_648.0, Did::Answered),
            (-2_147_483_904.0, Did::Overflow),
            (-0.75, Did::Answered),
            (f32::INFINITY, Did::Overflow),
            (f32::NAN, Did::Overflow),
        ] {
            let case = Case::new(17)
                .input("x", DataType::FLOAT, &[2], &f32s(&[1.5, value]))
                .node("Cast", &["x"], &["y"], vec![int("to", 7)])
                .output("y", DataType::INT64);
            assert_eq!(run(&case, &wgpu, &format!("Cast {value}")), wanted, "Cast {value}");
        }
    }
}

#[test]
fn int32_wraps_as_in_onnx_runtime() {
    for wgpu in engines() {
        for op in ["Add", "Sub", "Mul"] {
            for (a, b) in [(i32::MAX, 1), (i32::MIN, -1), (i32::MIN, i32::MAX), (65_536, 65_536), (46_341, 46_341)] {
                let case = Case::new(17)
                    .input("a", DataType::INT32, &[1], &i32s(&[a]))
                    .input("b", DataType::INT32, &[1], &i32s(&[b]))
                    .node(op, &["a", "b"], &["y"], Vec::new())
                    .output("y", DataType::INT32);
                assert_eq!(run(&case, &wgpu, &format!("{op} {a} {b}")), Did::Answered);
            }
        }
    }
}

#[test]
fn sums_and_products_of_int64_are_right_or_an_error() {
    let max = i64::from(i32::MAX);
    let cases: [(&str, Vec<i64>, Did); 16] = [
        ("ReduceSum", vec![max, 0, 0], Did::Answered),
        ("ReduceSum", vec![max, 1, 0], Did::Overflow),
        // Beyond 32 bits on the way, not in the end.
        ("ReduceSum", vec![max, 1, -1], Did::Answered),
        ("ReduceSum", vec![i32::MIN.into(), -1, 0], Did::Overflow),
        ("ReduceSum", vec![i32::MIN.into(), -1, 1], Did::Answered),
        ("ReduceProd", vec![65_536, 32_767, 1], Did::Answered),
        ("ReduceProd", vec![65_536, 32_768, 1], Did::Overflow),
        ("ReduceProd", vec![-65_536, 32_768, 1], Did::Answered),
        ("ReduceSumSquare", vec![46_340, 0, 0], Did::Answered),
        ("ReduceSumSquare", vec![46_341, 0, 0], Did::Overflow),
        ("ReduceL1", vec![max, -1, 0], Did::Overflow),
        ("ReduceL1", vec![5, -7, 0], Did::Answered),
        ("ReduceMax", vec![max, i32::MIN.into(), 0], Did::Answered),
        ("CumSum", vec![max, -1, 1], Did::Answered),
        ("CumSum", vec![max, 1, -1], Did::Overflow),
        ("CumSum", vec![0, i32::MIN.into(), -1], Did::Overflow),
    ];
    for wgpu in engines() {
        for (op, values, wanted) in &cases {
            let case = Case::new(17).input("x", DataType::INT64, &[1, 3], &i64s(values));
            let case = match *op {
                "CumSum" => case.constant("axis", DataType::INT64, &[], &i64s(&[1])).node(
                    op,
                    &["x", "axis"],
                    &["y"],
                    Vec::new(),
                ),
                _ => case.node(op, &["x"], &["y"], vec![int("keepdims", 0)]),
            };
            let case = case.output("y", DataType::INT64);
            assert_eq!(run(&case, &wgpu, &format!("{op} {values:?}")), *wanted, "{op} {values:?}");
        }
        // What an exclusive sum leaves out is no fault.
        let case = Case::new(17)
            .input("x", DataType::INT64, &[2], &i64s(&[max, 1]))
            .constant("axis", DataType::INT64, &[], &i64s(&[0]))
            .node("CumSum", &["x", "axis"], &["y"], vec![int("exclusive", 1)])
            .output("y", DataType::INT64);
        assert_eq!(run(&case, &wgpu, "exclusive CumSum"), Did::Answered);
        // So long that the sum is taken in shares.
        for (first, wanted) in [(max - 9_999, Did::Answered), (max - 9_998, Did::Overflow)] {
            let mut values = vec![1; 10_000];
            values[0] = first;
            let case = Case::new(17)
                .input("x", DataType::INT64, &[10_000], &i64s(&values))
                .node("ReduceSum", &["x"], &["y"], vec![int("keepdims", 0)])
                .output("y", DataType::INT64);
            assert_eq!(run(&case, &wgpu, &format!("a long sum from {first}")), wanted);
        }
        for (factor, wanted) in [(46_340, Did::Answered), (46_341, Did::Overflow), (-46_341, Did::Overflow)] {
            for op in ["MatMul", "Einsum"] {
                let attributes = if op == "Einsum" { vec![text("equation", "ij,jk->ik")] } else { Vec::new() };
                let case = Case::new(17)
                    .input("a", DataType::INT64, &[2, 2], &i64s(&[1, 2, factor, 0]))
                    .input("b", DataType::INT64, &[2, 2], &i64s(&[factor, 1, 0, 3]))
                    .node(op, &["a", "b"], &["y"], attributes)
                    .output("y", DataType::INT64);
                assert_eq!(run(&case, &wgpu, &format!("{op} {factor}")), wanted, "{op} {factor}");
            }
        }
    }
}

#[test]
fn uint32_above_2_31_stays_what_it_is() {
    for wgpu in engines() {
        let values = [0_u32, 1 << 31, u32::MAX, (1 << 31) - 1];
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        for (to, dtype, wanted) in [
            (7, DataType::INT64, Did::Overflow),
            (6, DataType::INT32, Did::Answered),
            (1, DataType::FLOAT, Did::Answered),
        ] {
            let case = Case::new(17)
                .input("x", DataType::UINT32, &[4], &bytes)
                .node("Cast", &["x"], &["y"], vec![int("to", to)])
                .output("y", dtype);
            assert_eq!(run(&case, &wgpu, &format!("uint32 to {to}")), wanted, "uint32 to {to}");
        }
        let case = Case::new(17)
            .input("x", DataType::UINT32, &[4], &bytes)
            .node("ReduceMax", &["x"], &["m"], vec![int("keepdims", 1)])
            .node("Max", &["x", "m"], &["y"], Vec::new())
            .output("y", DataType::UINT32);
        if oracle::runtime().unwrap().load(ModelBytes::from(case.model()), &LoadOptions::default()).is_ok() {
            assert_eq!(run(&case, &wgpu, "uint32 maxima"), Did::Answered);
        }
    }
}

/// A scatter with a reduction of int64.
fn reduced(op: &str, reduction: &str, updates: [i64; 2]) -> Case {
    let case = Case::new(18).input("x", DataType::INT64, &[3], &i64s(&[i32::MAX.into(), 2, 0]));
    let indices = case.input("k", DataType::INT64, if op == "ScatterND" { &[2, 1] } else { &[2] }, &i64s(&[0, 1]));
    indices
        .input("u", DataType::INT64, &[2], &i64s(&updates))
        .node(op, &["x", "k", "u"], &["y"], vec![text("reduction", reduction)])
        .output("y", DataType::INT64)
}

#[test]
fn scattered_sums_and_products_are_right_or_an_error() {
    for wgpu in engines() {
        for op in ["ScatterElements", "ScatterND"] {
            for (reduction, updates, wanted) in [
                ("add", [-1, 5], Did::Answered),
                ("add", [1, 5], Did::Overflow),
                ("mul", [1, i64::from(i32::MAX)], Did::Overflow),
                ("mul", [-1, 9], Did::Answered),
                ("max", [0, i64::from(i32::MAX)], Did::Answered),
            ] {
                let label = format!("{op} {reduction} {updates:?}");
                assert_eq!(run(&reduced(op, reduction, updates), &wgpu, &label), wanted, "{label}");
            }
        }
    }
}

#[test]
fn sums_of_bytes_wrap_at_32_bits_as_in_onnx_runtime() {
    // 255 * 255 * 40,000 is beyond int32.
    let count = 40_000;
    for wgpu in engines() {
        let case = Case::new(17)
            .input("a", DataType::UINT8, &[1, count], &vec![255; count])
            .input("b", DataType::UINT8, &[count, 2], &vec![255; 2 * count])
            .node("MatMulInteger", &["a", "b"], &["y"], Vec::new())
            .output("y", DataType::INT32);
        assert_eq!(run(&case, &wgpu, "MatMulInteger"), Did::Answered);
    }
}

#[test]
fn the_error_names_the_earliest_node_and_the_next_request_is_answered() {
    for wgpu in engines() {
        let table: Vec<f32> = (0_u8..10).map(f32::from).collect();
        let model = |index: i64, number: i64| {
            Case::new(17)
                .floats(true, "t", &[5, 2], &table)
                .input("k", DataType::INT64, &[1], &i64s(&[index]))
                .input("n", DataType::INT64, &[1], &i64s(&[number]))
                .node("Gather", &["t", "k"], &["rows"], Vec::new())
                .node("Mul", &["n", "n"], &["square"], Vec::new())
                .node("Relu", &["rows"], &["scaled"], Vec::new())
                .node("Exp", &["scaled"], &["y"], Vec::new())
                .output("y", DataType::FLOAT)
                .output("square", DataType::INT64)
        };
        let mut session = wgpu.load_checked(&model(0, 0).model()).unwrap();
        let mut ask = |index, number| session.run(model(index, number).inputs(), &[], &RunControl::default());
        let refused = |answer: Result<_, RunError>| match answer {
            Err(RunError::Refused(why)) => why,
            other => panic!("{other:?}"),
        };
        assert!(ask(4, 46_340).is_ok());
        let why = refused(ask(9, 100_000));
        assert!(why.contains("Gather_0") && why.contains("out of range"), "{why}");
        let why = refused(ask(4, 100_000));
        assert!(why.contains("Mul_1") && why.contains("32 bits"), "{why}");
        assert!(ask(0, 7).is_ok());
    }
}

#[test]
fn a_fault_inside_a_branch_or_between_islands_fails_the_run() {
    for wgpu in engines() {
        // A second segment: what was found is squared.
        for (values, wanted) in [([3.0, 0.0, -4.0], Did::Answered), ([60_000.0, 0.0, 1.0], Did::Overflow)] {
            let case = Case::new(17)
                .floats(false, "x", &[3], &values)
                .node("NonZero", &["x"], &["at"], Vec::new())
                .constant("zero", DataType::INT64, &[], &i64s(&[0]))
                .node("Gather", &["at", "zero"], &["places"], Vec::new())
                .node("Gather", &["x", "places"], &["found"], Vec::new())
                .node("Cast", &["found"], &["whole"], vec![int("to", 7)])
                .node("Mul", &["whole", "whole"], &["square"], Vec::new())
                .node("Cast", &["square"], &["y"], vec![int("to", 1)])
                .output("y", DataType::FLOAT);
            assert_eq!(run(&case, &wgpu, &format!("{values:?}")), wanted, "{values:?}");
        }
    }
}

#[test]
fn a_fault_in_a_branch_of_an_if_fails_only_the_requests_that_take_it() {
    for wgpu in engines() {
        let above = support::Model::new(17)
            .node("Mul", &["k", "k"], &["square"])
            .output("square", DataType::INT64, &[-1])
            .subgraph("then_branch");
        let below = support::Model::new(17)
            .constant("table", DataType::INT64, &[3], &i64s(&[10, 20, 30]))
            .node("Gather", &["table", "k"], &["picked"])
            .output("picked", DataType::INT64, &[-1])
            .subgraph("else_branch");
        let model = support::Model::new(17)
            .input("x", DataType::FLOAT, &[1])
            .input("k", DataType::INT64, &[-1])
            .constant("limit", DataType::FLOAT, &[1], &1.0_f32.to_le_bytes())
            .node("Greater", &["x", "limit"], &["large"])
            .node_with("If", &["large"], &["y"], vec![above, below])
            .output("y", DataType::INT64, &[-1])
            .bytes();
        let mut session = wgpu.load_checked(&model).unwrap();
        let mut ask = |x: f32, k: i64| {
            let k = Tensor::new(DType::I64, vec![1], i64s(&[k]).into()).unwrap();
            let inputs = [support::f32s("x", &[1], &[x]), NamedTensor { name: "k".into(), tensor: k }];
            let answer = session.run(&inputs, &[], &RunControl::default());
            answer.map(|answer| {
                answer[0]
                    .tensor
                    .data()
                    .as_chunks::<8>()
                    .0
                    .iter()
                    .map(|lane| i64::from_le_bytes(*lane))
                    .collect::<Vec<_>>()
            })
        };
        assert_eq!(ask(2.0, 46_340).unwrap(), [2_147_395_600]);
        assert!(matches!(ask(2.0, 46_341), Err(RunError::Refused(why)) if why.contains("32 bits")));
        assert_eq!(ask(0.0, -1).unwrap(), [30]);
        assert!(matches!(ask(0.0, 46_341), Err(RunError::Refused(why)) if why.contains("out of range")));
        assert_eq!(ask(2.0, 3).unwrap(), [9]);
    }
}

#[test]
fn uint64_is_right_or_an_error() {
    let Some(wgpu) = engines().into_iter().next() else { return };
    let most = u64::from(u32::MAX);
    for (op, a, b, wanted) in [
        ("Add", most, 0, Some(most)),
        ("Add", most, 1, None),
        ("Sub", 3, 3, Some(0)),
        ("Sub", 3, 4, None),
        ("Mul", 65_536, 65_535, Some(65_536 * 65_535)),
        ("Mul", 65_536, 65_536, None),
        ("Div", most, 2, Some(most / 2)),
        ("Div", most, 0, None),
    ] {
        let case = Case::new(17)
            .input("a", DataType::UINT64, &[1], &a.to_le_bytes())
            .input("b", DataType::UINT64, &[1], &u64::to_le_bytes(b))
            .node(op, &["a", "b"], &["y"], Vec::new())
            .output("y", DataType::UINT64);
        let mut session = wgpu.load_checked(&case.model()).unwrap();
        let answer = session.run(case.inputs(), &[], &RunControl::default());
        match (answer, wanted) {
            (Ok(answer), Some(wanted)) => assert_eq!(answer[0].tensor.data()[..], wanted.to_le_bytes(), "{op} {a} {b}"),
            (Err(RunError::Refused(_)), None) => {}
            (answer, wanted) => panic!("{op} {a} {b}: {answer:?}, not {wanted:?}"),
        }
    }
}
