//! Indices, lengths and positions: out of range they are an error of the request.

use engine::{RunControl, Session};
use engine_wgpu::gpu::AdapterChoice;
use engine_wgpu::{BUDGET_BYTES, WgpuEngine};
use rten_onnx::onnx::DataType;

use super::oracle::{self, Case, int};
use super::{Did, engines, i32s, i64s, run};

/// Every operator that reads indices, with one index at a place of choice.
fn indexed(op: &str, index: i64, dtype: DataType) -> Case {
    let bytes = |values: &[i64]| match dtype {
        DataType::INT64 => i64s(values),
        _ => i32s(&values.iter().map(|&value| i32::try_from(value).unwrap()).collect::<Vec<_>>()),
    };
    let table: Vec<f32> = (0_u8..10).map(f32::from).collect();
    let case = Case::new(17).floats(true, "t", &[5, 2], &table);
    match op {
        "Gather" => case.input("k", dtype, &[3], &bytes(&[0, index, 1])).node(op, &["t", "k"], &["y"], Vec::new()),
        "Gather axis 1" => {
            case.input("k", dtype, &[1], &bytes(&[index])).node("Gather", &["t", "k"], &["y"], vec![int("axis", 1)])
        }
        "GatherElements" => {
            case.input("k", dtype, &[2, 2], &bytes(&[0, index, 1, 4])).node(op, &["t", "k"], &["y"], Vec::new())
        }
        "GatherND" => case.input("k", dtype, &[2, 1], &bytes(&[0, index])).node(op, &["t", "k"], &["y"], Vec::new()),
        "GatherND pairs" => {
            case.input("k", dtype, &[2, 2], &bytes(&[0, 1, 3, index])).node("GatherND", &["t", "k"], &["y"], Vec::new())
        }
        "ScatterElements" => case
            .input("k", dtype, &[1, 2], &bytes(&[0, index]))
            .floats(true, "u", &[1, 2], &[7.0, 8.0])
            .node(op, &["t", "k", "u"], &["y"], Vec::new()),
        "ScatterND" => case.input("k", dtype, &[1, 1], &bytes(&[index])).floats(true, "u", &[1, 2], &[7.0, 8.0]).node(
            op,
            &["t", "k", "u"],
            &["y"],
            Vec::new(),
        ),
        other => panic!("{other}"),
    }
    .output("y", DataType::FLOAT)
}

#[test]
fn an_index_out_of_range_is_an_error_as_in_onnx_runtime() {
    for wgpu in engines() {
        for op in ["Gather", "GatherElements", "GatherND", "ScatterElements", "ScatterND"] {
            for index in [0, 4, -1, -5, 5, -6, i64::from(i32::MAX), i64::from(i32::MIN)] {
                let case = indexed(op, index, DataType::INT64);
                let wanted = if (-5..5).contains(&index) { Did::Answered } else { Did::Index };
                assert_eq!(run(&case, &wgpu, &format!("{op} {index}")), wanted, "{op} {index}");
            }
        }
        for op in ["Gather axis 1", "GatherND pairs"] {
            for index in [0, 1, -1, -2, 2, -3] {
                let case = indexed(op, index, DataType::INT64);
                let wanted = if (-2..2).contains(&index) { Did::Answered } else { Did::Index };
                assert_eq!(run(&case, &wgpu, &format!("{op} {index}")), wanted, "{op} {index}");
            }
        }
        for op in ["Gather", "GatherElements", "ScatterElements"] {
            for (index, wanted) in [(4, Did::Answered), (5, Did::Index), (-6, Did::Index)] {
                assert_eq!(run(&indexed(op, index, DataType::INT32), &wgpu, op), wanted, "{op} {index} of int32");
            }
        }
    }
}

#[test]
fn an_index_into_rows_without_elements_is_still_checked() {
    for wgpu in engines() {
        for (index, wanted) in [(4, Did::Answered), (5, Did::Index)] {
            let case = Case::new(17)
                .input("t", DataType::FLOAT, &[5, 0], &[])
                .input("k", DataType::INT64, &[1], &i64s(&[index]))
                .node("Gather", &["t", "k"], &["y"], Vec::new())
                .output("y", DataType::FLOAT);
            assert_eq!(run(&case, &wgpu, &format!("empty rows {index}")), wanted);
        }
        // No index, no fault.
        let case = Case::new(17)
            .floats(true, "t", &[5, 2], &[0.0; 10])
            .input("k", DataType::INT64, &[0], &[])
            .node("Gather", &["t", "k"], &["y"], Vec::new())
            .output("y", DataType::FLOAT);
        assert_eq!(run(&case, &wgpu, "no indices"), Did::Answered);
    }
}

#[test]
fn lengths_and_positions_out_of_range_are_errors_too() {
    for wgpu in engines() {
        for (length, wanted) in [(0, Did::Answered), (3, Did::Answered), (4, Did::Index), (-1, Did::Index)] {
            let case = Case::new(17)
                .floats(false, "x", &[3, 2], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
                .input("n", DataType::INT64, &[2], &i64s(&[1, length]))
                .node("ReverseSequence", &["x", "n"], &["y"], vec![int("time_axis", 0), int("batch_axis", 1)])
                .output("y", DataType::FLOAT);
            // ONNX Runtime takes a length of 0 or not, by version: it is no fault here.
            if length != 0 {
                assert_eq!(run(&case, &wgpu, &format!("ReverseSequence {length}")), wanted, "length {length}");
            }
            let weights = [0.1_f32; 4];
            let case = Case::new(17)
                .floats(false, "x", &[3, 1, 1], &[1.0, 2.0, 3.0])
                .floats(true, "w", &[1, 4, 1], &weights)
                .floats(true, "r", &[1, 4, 1], &weights)
                .input("n", DataType::INT32, &[1], &i32s(&[i32::try_from(length).unwrap()]))
                .node("LSTM", &["x", "w", "r", "", "n"], &["", "y"], vec![int("hidden_size", 1)])
                .output("y", DataType::FLOAT);
            if wanted == Did::Index {
                assert_eq!(run(&case, &wgpu, &format!("LSTM {length}")), wanted, "LSTM of {length}");
            }
        }
        for (image, wanted) in [(0, Did::Answered), (1, Did::Answered), (2, Did::Index), (-1, Did::Index)] {
            let case = Case::new(16)
                .floats(false, "x", &[2, 1, 2, 2], &[1.0; 8])
                .floats(true, "rois", &[1, 4], &[0.0, 0.0, 1.0, 1.0])
                .input("b", DataType::INT64, &[1], &i64s(&[image]))
                .node("RoiAlign", &["x", "rois", "b"], &["y"], vec![int("sampling_ratio", 2)])
                .output("y", DataType::FLOAT);
            assert_eq!(run(&case, &wgpu, &format!("RoiAlign {image}")), wanted, "RoiAlign of image {image}");
        }
        for (position, fits) in [(0, true), (2, true), (3, false), (-1, false)] {
            let case = Case::new(23)
                .floats(false, "x", &[1, 1, 1, 2], &[1.0, 2.0])
                .floats(true, "c", &[3, 1], &[0.5; 3])
                .floats(true, "s", &[3, 1], &[0.25; 3])
                .input("p", DataType::INT64, &[1, 1], &i64s(&[position]))
                .node("RotaryEmbedding", &["x", "c", "s", "p"], &["y"], Vec::new())
                .output("y", DataType::FLOAT);
            let mut session = wgpu.load_checked(&case.model()).unwrap();
            let answer = session.run(case.inputs(), &[], &RunControl::default());
            assert_eq!(answer.is_ok(), fits, "position {position}: {answer:?}");
        }
    }
}

#[test]
fn a_table_in_several_bindings_is_checked_like_any_other() {
    // A binding of 64 KiB: the table takes five, the answer three launches.
    let choice = AdapterChoice { allow_software: true, binding_bytes: Some(64 * 1024), ..AdapterChoice::default() };
    let Ok(wgpu) = WgpuEngine::open(&choice, BUDGET_BYTES, None) else { return };
    let rows: u16 = 40_000;
    let table: Vec<f32> = (0..rows).flat_map(|row| [f32::from(row), -f32::from(row)]).collect();
    let mut indices: Vec<i64> = (0..20_000).map(|at| at * 7919 % i64::from(rows)).collect();
    let case = |indices: &[i64]| {
        Case::new(17)
            .floats(true, "t", &[usize::from(rows), 2], &table)
            .input("k", DataType::INT64, &[indices.len()], &i64s(indices))
            .node("Gather", &["t", "k"], &["y"], Vec::new())
            .output("y", DataType::FLOAT)
    };
    if oracle::runtime().is_none() {
        return;
    }
    assert_eq!(run(&case(&indices), &wgpu, "in range"), Did::Answered);
    for place in [0, 9_999, 19_999] {
        let before = std::mem::replace(&mut indices[place], i64::from(rows));
        assert_eq!(run(&case(&indices), &wgpu, "out of range"), Did::Index, "at {place}");
        indices[place] = before;
    }
}
