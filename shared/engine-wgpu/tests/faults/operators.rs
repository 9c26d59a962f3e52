//! Faults of single operators that no other file here looks at, of loop bodies, and of classical models.

use engine::{RunControl, RunError, Session};
use engine_wgpu::WgpuEngine;
use rten_onnx::onnx::{AttributeProto, AttributeType, DataType};
use types::{DType, NamedTensor, Tensor};

use super::oracle::{Case, text};
use super::{Did, engines, i64s, run, support};

fn u64s(values: &[u64]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

#[test]
fn shifts_of_uint64_are_right_or_an_error() {
    for wgpu in engines() {
        for (value, by, wanted) in [
            (1, 0, Did::Answered),
            (3, 30, Did::Answered),
            (1, 31, Did::Answered),
            (3, 31, Did::Overflow),
            (1, 32, Did::Overflow),
            (1, 40, Did::Overflow),
            (0, 63, Did::Answered),
            (u64::from(u32::MAX), 0, Did::Answered),
            (u64::from(u32::MAX), 1, Did::Overflow),
        ] {
            let case = Case::new(11)
                .input("x", DataType::UINT64, &[2], &u64s(&[1, value]))
                .input("n", DataType::UINT64, &[2], &u64s(&[1, by]))
                .node("BitShift", &["x", "n"], &["y"], vec![text("direction", "LEFT")])
                .output("y", DataType::UINT64);
            assert_eq!(run(&case, &wgpu, &format!("{value} << {by}")), wanted, "{value} << {by}");
        }
    }
}

#[test]
fn slopes_of_int64_are_right_or_an_error() {
    for wgpu in engines() {
        for (x, slope, wanted) in [
            (-5, 3, Did::Answered),
            (-46_341, 46_341, Did::Overflow),
            (-65_536, 32_768, Did::Answered),
            (-65_537, 32_768, Did::Overflow),
            // A positive number keeps its value, whatever the slope.
            (46_341, 46_341, Did::Answered),
            (i64::from(i32::MIN), 1, Did::Answered),
            (i64::from(i32::MIN), -1, Did::Overflow),
        ] {
            let case = Case::new(16)
                .input("x", DataType::INT64, &[2], &i64s(&[-1, x]))
                .input("s", DataType::INT64, &[2], &i64s(&[1, slope]))
                .node("PRelu", &["x", "s"], &["y"], Vec::new())
                .output("y", DataType::INT64);
            assert_eq!(run(&case, &wgpu, &format!("PRelu {x} by {slope}")), wanted, "{x} by {slope}");
        }
    }
}

#[test]
fn a_cache_that_is_written_behind_its_end_is_an_error() {
    for wgpu in engines() {
        for (start, wanted) in [
            (0, Did::Answered),
            (2, Did::Answered),
            (3, Did::Index),
            (-1, Did::Index),
            (i64::from(i32::MAX), Did::Index),
        ] {
            let case = Case::new(24)
                .floats(false, "cache", &[2, 4, 1], &[0.0; 8])
                .floats(false, "update", &[2, 2, 1], &[1.0, 2.0, 3.0, 4.0])
                .input("at", DataType::INT64, &[2], &i64s(&[1, start]))
                .node("TensorScatter", &["cache", "update", "at"], &["y"], Vec::new())
                .output("y", DataType::FLOAT);
            assert_eq!(run(&case, &wgpu, &format!("TensorScatter {start}")), wanted, "at {start}");
        }
    }
}

fn scalar(name: &str, value: i64) -> NamedTensor {
    NamedTensor { name: name.into(), tensor: Tensor::new(DType::I64, Vec::new(), i64s(&[value]).into()).unwrap() }
}

/// A loop of so many iterations as the request says, with a state of int64 that this body computes.
fn looped(body: support::Model) -> Vec<u8> {
    let body = body
        .input("i", DataType::INT64, &[])
        .input("go", DataType::BOOL, &[])
        .input("s", DataType::INT64, &[1])
        .output("on", DataType::BOOL, &[])
        .output("next", DataType::INT64, &[1]);
    support::Model::new(17)
        .input("m", DataType::INT64, &[])
        .constant("first", DataType::INT64, &[1], &i64s(&[3]))
        .node_with("Loop", &["m", "", "first"], &["y"], vec![body.subgraph("body")])
        .output("y", DataType::INT64, &[1])
        .bytes()
}

fn ask(wgpu: &WgpuEngine, model: &[u8], counts: &[(i64, Result<i64, &str>)]) {
    let mut session = wgpu.load_checked(model).unwrap();
    for (count, wanted) in counts {
        let answer = session.run(&[scalar("m", *count)], &[], &RunControl::default());
        match (answer, wanted) {
            (Ok(answer), Ok(value)) => assert_eq!(answer[0].tensor.data().as_ref(), i64s(&[*value]), "{count}"),
            (Err(RunError::Refused(why)), Err(wanted)) => assert!(why.contains(wanted), "{count}: {why}"),
            (answer, wanted) => panic!("{count}: {answer:?}, not {wanted:?}"),
        }
    }
}

#[test]
fn a_fault_in_the_body_of_a_loop_fails_the_run_and_the_next_is_answered() {
    for wgpu in engines() {
        let squares = support::Model::new(17).node("Identity", &["go"], &["on"]).node("Mul", &["s", "s"], &["next"]);
        let counts = [(1, Ok(9)), (4, Ok(43_046_721)), (5, Err("32 bits")), (2, Ok(81)), (0, Ok(3))];
        ask(&wgpu, &looped(squares), &counts);
        let picks = support::Model::new(17)
            .constant("table", DataType::INT64, &[3], &i64s(&[10, 20, 30]))
            .constant("one", DataType::INT64, &[1], &i64s(&[1]))
            .node("Identity", &["go"], &["on"])
            .node("Reshape", &["i", "one"], &["k"])
            .node("Gather", &["table", "k"], &["next"]);
        let counts = [(3, Ok(30)), (4, Err("out of range")), (1, Ok(10)), (9, Err("out of range"))];
        ask(&wgpu, &looped(picks), &counts);
    }
}

#[test]
fn an_index_of_a_classical_model_out_of_range_is_an_error() {
    for wgpu in engines() {
        for (index, wanted) in [(0, Did::Answered), (3, Did::Answered), (4, Did::Index), (1_000_000, Did::Index)] {
            let case = Case::new(17)
                .floats(false, "x", &[2, 4], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0])
                .input("k", DataType::INT64, &[2], &i64s(&[1, index]))
                .node_in("ai.onnx.ml", "ArrayFeatureExtractor", &["x", "k"], &["y"], Vec::new())
                .output("y", DataType::FLOAT);
            assert_eq!(run(&case, &wgpu, &format!("feature {index}")), wanted, "feature {index}");
        }
    }
}

#[test]
fn labels_that_are_text_are_refused_with_the_attribute_and_the_way_out() {
    let floats = |name: &str, values: &[f32]| AttributeProto {
        name: Some(name.into()),
        r#type: Some(AttributeType::FLOATS),
        floats: values.to_vec(),
        ..AttributeProto::default()
    };
    let labels = AttributeProto {
        name: Some("classlabels_strings".into()),
        r#type: Some(AttributeType::STRINGS),
        strings: vec!["cat".into(), "dog".into()],
        ..AttributeProto::default()
    };
    let attributes = vec![floats("coefficients", &[1.0, 2.0, 3.0, 4.0]), floats("intercepts", &[0.0, 0.5]), labels];
    let case = Case::new(17)
        .floats(false, "x", &[1, 2], &[1.0, 2.0])
        .node_in("ai.onnx.ml", "LinearClassifier", &["x"], &["label", "scores"], attributes)
        .output("scores", DataType::FLOAT);
    let report = engine_wgpu::check(&case.model()).unwrap();
    let [refused] = report.unsupported.as_slice() else { panic!("{report:?}") };
    assert_eq!(refused.operator, "LinearClassifier");
    assert!(refused.reason.contains("classlabels_strings") && refused.reason.contains("integer labels"), "{refused}");
}
