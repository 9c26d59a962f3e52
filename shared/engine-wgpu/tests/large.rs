//! Tensors that are larger than one binding of the device may be, on a device that is told to bind very little.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_precision_loss,
    reason = "references count in small numbers, and a test may stop anywhere"
)]

mod support;

use bytes::Bytes;
use engine::{RunControl, Session};
use engine_wgpu::gpu::AdapterChoice;
use engine_wgpu::{BUDGET_BYTES, WgpuEngine};
use half::f16;
use rten_onnx::onnx::DataType;
use support::{Model, f32s, int, run};
use types::{DType, NamedTensor, Tensor};

/// A quarter of a WebGPU device's uniform buffer.
const BINDING_BYTES: u64 = 16 * 1024;

/// The same device twice: one that binds little, and one as it is.
fn engines(workgroup_tiles: bool) -> Option<[WgpuEngine; 2]> {
    let choice = |binding_bytes| AdapterChoice {
        allow_software: true,
        workgroup_tiles: Some(workgroup_tiles),
        binding_bytes,
        ..AdapterChoice::for_tests()
    };
    match WgpuEngine::open(&choice(Some(BINDING_BYTES)), BUDGET_BYTES, None) {
        Ok(small) => Some([small, WgpuEngine::open(&choice(None), BUDGET_BYTES, None).unwrap()]),
        Err(error) => {
            println!("skipped: {error}");
            None
        }
    }
}

fn waves(count: usize) -> Vec<f32> {
    (0..count).map(|at| ((at.wrapping_mul(2_654_435_761) >> 9) % 512) as f32 / 256.0 - 1.0).collect()
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// Runs a model on both devices: the bits must be the same, and the device that binds little must have had to split.
fn assert_same(what: &str, model: &[u8], inputs: &[NamedTensor], workgroup_tiles: bool) {
    let Some([small, whole]) = engines(workgroup_tiles) else { return };
    let (found, wanted) = (run(&small, model, inputs), run(&whole, model, inputs));
    for (found, wanted) in found.iter().zip(&wanted) {
        assert_eq!(found.tensor.shape(), wanted.tensor.shape(), "{what}");
        assert!(found.tensor.data() == wanted.tensor.data(), "{what}: {} differs", found.name);
    }
}

#[test]
fn a_weight_over_several_bindings_multiplies_as_one() {
    let (k, n) = (300, 77);
    let weight = bytes(&waves(k * n));
    for (m, transposed, workgroup_tiles) in [(1, 0, false), (1, 1, false), (5, 1, false), (12, 0, false), (24, 1, true)]
    {
        let shape = if transposed == 1 { [n as i64, k as i64] } else { [k as i64, n as i64] };
        let model = |bias: bool| {
            let model = Model::new(17)
                .input("x", DataType::FLOAT, &[m, k as i64])
                .constant("w", DataType::FLOAT, &shape, &weight)
                .constant("b", DataType::FLOAT, &[n as i64], &bytes(&waves(n)))
                .input("r", DataType::FLOAT, &[m, n as i64]);
            let inputs: &[&str] = if bias { &["x", "w", "b"] } else { &["x", "w"] };
            let model = model.node_with("Gemm", inputs, &["p"], vec![int("transB", transposed)]);
            // A residual and an activation are read and made by the column too.
            model.node("Add", &["p", "r"], &["s"]).node("Relu", &["s"], &["y"]).output(
                "y",
                DataType::FLOAT,
                &[m, n as i64],
            )
        };
        let rows = m.unsigned_abs() as usize;
        let inputs = [f32s("x", &[rows, k], &waves(rows * k)), f32s("r", &[rows, n], &waves(rows * n))];
        for bias in [false, true] {
            let what = format!("Gemm of {m} rows, transB {transposed}");
            assert_same(&what, &model(bias).bytes(), &inputs, workgroup_tiles);
        }
    }
}

#[test]
fn a_weight_of_halves_over_several_bindings_multiplies_as_one() {
    // 46,200 bytes where they are halves, an odd number of them a part.
    let (k, n) = (300, 77);
    let halves: Vec<u8> = waves(k * n).into_iter().flat_map(|value| f16::from_f32(value).to_le_bytes()).collect();
    for (m, op, workgroup_tiles) in [(1, "MatMul", false), (12, "MatMul", false), (24, "MatMul", true)] {
        let model = Model::new(17)
            .input("x", DataType::FLOAT, &[m, k as i64])
            .node_with("Cast", &["x"], &["x16"], vec![int("to", 10)])
            .constant("w", DataType::FLOAT16, &[k as i64, n as i64], &halves)
            .node(op, &["x16", "w"], &["y16"])
            .node_with("Cast", &["y16"], &["y"], vec![int("to", 1)])
            .output("y", DataType::FLOAT, &[m, n as i64]);
        let rows = m.unsigned_abs() as usize;
        assert_same(op, &model.bytes(), &[f32s("x", &[rows, k], &waves(rows * k))], workgroup_tiles);
    }
}

#[test]
fn a_matrix_of_a_request_over_several_bindings_multiplies_as_one() {
    for (op, shape) in [("MatMul", [300, 80]), ("MatMul", [300, 77]), ("Gemm", [80, 300])] {
        let transposed = i64::from(op == "Gemm");
        let (k, n) = if transposed == 1 { (shape[1], shape[0]) } else { (shape[0], shape[1]) };
        let model = Model::new(17)
            .input("x", DataType::FLOAT, &[2, k])
            .input("w", DataType::FLOAT, &shape)
            .node_with(op, &["x", "w"], &["y"], if transposed == 1 { vec![int("transB", 1)] } else { Vec::new() })
            .output("y", DataType::FLOAT, &[2, n])
            .bytes();
        let [k, rows, columns] = [k, shape[0], shape[1]].map(|size| size.unsigned_abs() as usize);
        let inputs = [f32s("x", &[2, k], &waves(2 * k)), f32s("w", &[rows, columns], &waves(rows * columns))];
        assert_same(&format!("{op} with {shape:?}"), &model, &inputs, false);
    }
}

#[test]
fn rows_are_gathered_from_a_table_over_several_bindings() {
    let (rows, width) = (1000_usize, 12);
    let model = Model::new(17)
        .constant("table", DataType::FLOAT, &[rows as i64, width as i64], &bytes(&waves(rows * width)))
        .input("ids", DataType::INT64, &[-1])
        .node("Gather", &["table", "ids"], &["y"])
        .output("y", DataType::FLOAT, &[-1, width as i64])
        .bytes();
    let halves: Vec<u8> =
        waves(rows * width).into_iter().flat_map(|value| f16::from_f32(value).to_le_bytes()).collect();
    let of_halves = Model::new(17)
        .constant("table", DataType::FLOAT16, &[rows as i64, width as i64], &halves)
        .input("ids", DataType::INT64, &[-1])
        .node("Gather", &["table", "ids"], &["y"])
        .output("y", DataType::FLOAT16, &[-1, width as i64])
        .bytes();
    let ids: Vec<u8> = [0_i64, 340, 341, 342, 682, 683, 999, -1].iter().flat_map(|id| id.to_le_bytes()).collect();
    let tensor = Tensor::new(DType::I64, vec![8], Bytes::from(ids)).unwrap();
    let inputs = [NamedTensor { name: "ids".into(), tensor }];
    assert_same("Gather", &model, &inputs, false);
    assert_same("Gather of halves", &of_halves, &inputs, false);
}

#[test]
fn activations_over_several_bindings_are_read_and_written_in_parts() {
    let count = 12_345;
    let model = Model::new(17)
        .input("x", DataType::FLOAT, &[count as i64])
        .input("z", DataType::FLOAT, &[count as i64])
        .node("Add", &["x", "z"], &["s"])
        .node("Sin", &["s"], &["t"])
        .node("Mul", &["t", "x"], &["y"])
        .node_with("ReduceSum", &["s"], &["sum"], Vec::new())
        .node_with("Cast", &["x"], &["bytes"], vec![int("to", 3)])
        .node_with("Cast", &["bytes"], &["back"], vec![int("to", 1)])
        .output("y", DataType::FLOAT, &[count as i64])
        .output("sum", DataType::FLOAT, &[1])
        .output("back", DataType::FLOAT, &[count as i64])
        .bytes();
    let values = waves(count);
    let scaled: Vec<f32> = values.iter().map(|value| value * 100.0).collect();
    assert_same("elementwise", &model, &[f32s("x", &[count], &scaled), f32s("z", &[count], &values)], false);
}

#[test]
fn bytes_over_several_bindings_are_read_and_written_in_parts() {
    let count = 50_003;
    let model = Model::new(17)
        .input("x", DataType::UINT8, &[count as i64])
        .constant("one", DataType::UINT8, &[], &[200])
        .node("Max", &["x", "one"], &["y"])
        .output("y", DataType::UINT8, &[count as i64])
        .bytes();
    let data: Vec<u8> = (0..count).map(|at| u8::try_from(at % 251).unwrap()).collect();
    let tensor = Tensor::new(DType::U8, vec![count], Bytes::from(data)).unwrap();
    assert_same("Max of bytes", &model, &[NamedTensor { name: "x".into(), tensor }], false);
}

#[test]
fn a_kernel_that_cannot_reach_so_large_a_tensor_says_so() {
    let Some([small, _whole]) = engines(false) else { return };
    let model = Model::new(17)
        .input("x", DataType::FLOAT, &[1, 9000])
        .node("Softmax", &["x"], &["y"])
        .output("y", DataType::FLOAT, &[1, 9000])
        .bytes();
    let mut session = match small.load_checked(&model) {
        Err(error) => return assert!(format!("{error:?}").contains("can reach on this device"), "{error:?}"),
        Ok(session) => session,
    };
    let error = session.run(&[f32s("x", &[1, 9000], &waves(9000))], &[], &RunControl::default()).unwrap_err();
    assert!(format!("{error:?}").contains("can reach on this device"), "{error:?}");
}
