//! Kernels on OpenGL, whose shading language leaves more undefined than others do.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests may do what tests may")]

mod support;

use engine_wgpu::gpu::{AdapterChoice, BackEnd};
use engine_wgpu::{BUDGET_BYTES, WgpuEngine};
use rten_onnx::onnx::DataType;
use support::{Model, int, run, text};
use types::{DType, NamedTensor, Tensor};

/// Opens the engine on OpenGL; `None` where no such adapter is there.
fn opengl() -> Option<WgpuEngine> {
    let choice = AdapterChoice { allow_software: true, back_end: Some(BackEnd::Gl), ..AdapterChoice::default() };
    let opened = WgpuEngine::open(&choice, BUDGET_BYTES, None).ok();
    if opened.is_none() {
        println!("skipped: there is no OpenGL adapter");
    }
    opened
}

fn i32s(name: &str, values: &[i32]) -> NamedTensor {
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let tensor = Tensor::new(DType::I32, vec![values.len()], bytes.into()).unwrap();
    NamedTensor { name: name.to_owned(), tensor }
}

fn values(tensor: &Tensor) -> Vec<i32> {
    tensor.data().as_chunks::<4>().0.iter().map(|&bytes| i32::from_le_bytes(bytes)).collect()
}

#[test]
fn remainders_of_negative_numbers_are_those_of_onnx_and_not_of_the_driver() {
    let Some(engine) = opengl() else { return };
    let (a, b) = ([-4, 7, 5, 4, -7, 8, i32::MIN], [2, -3, 8, -2, 3, 5, -1]);
    for (fmod, wanted) in [(0, [0, -2, 5, 0, 2, 3, 0]), (1, [0, 1, 5, 0, -1, 3, 0])] {
        let model = Model::new(18).input("a", DataType::INT32, &[7]).input("b", DataType::INT32, &[7]);
        let model = model.node_with("Mod", &["a", "b"], &["y"], vec![int("fmod", fmod)]);
        let model = model.output("y", DataType::INT32, &[]).bytes();
        let answer = run(&engine, &model, &[i32s("a", &a), i32s("b", &b)]);
        assert_eq!(values(&answer[0].tensor), wanted, "fmod = {fmod}");
    }
}

#[test]
fn padding_by_reflection_and_by_wrapping_begins_before_the_first_element() {
    let Some(engine) = opengl() else { return };
    for (mode, wanted) in [("reflect", [3, 2, 1, 2, 3, 2]), ("wrap", [2, 3, 1, 2, 3, 1])] {
        let pads: Vec<u8> = [2_i64, 1].iter().flat_map(|pad| pad.to_le_bytes()).collect();
        let model = Model::new(19).input("x", DataType::INT32, &[3]);
        let model = model.constant("pads", DataType::INT64, &[2], &pads);
        let model = model.node_with("Pad", &["x", "pads"], &["y"], vec![text("mode", mode)]);
        let model = model.output("y", DataType::INT32, &[]).bytes();
        let answer = run(&engine, &model, &[i32s("x", &[1, 2, 3])]);
        assert_eq!(values(&answer[0].tensor), wanted, "{mode}");
    }
}
