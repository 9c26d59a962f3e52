//! The whole road from bytes to an answer, on whatever adapter there is (lavapipe in CI).

mod support;

use engine::{RunControl, Session};
use rten_onnx::onnx::DataType;
use support::{Model, engine, f32s, run};

#[test]
fn a_small_graph_is_answered_as_onnx_says() {
    let Some(engine) = engine() else { return };
    let model = Model::new(17)
        .input("x", DataType::FLOAT, &[-1, 3])
        .constant("w", DataType::FLOAT, &[3], &[1.0_f32, -2.0, 3.0].map(f32::to_le_bytes).concat())
        .node("Mul", &["x", "w"], &["m"])
        .node("Add", &["m", "x"], &["s"])
        .node("Relu", &["s"], &["y"])
        .output("y", DataType::FLOAT, &[-1, 3])
        .bytes();
    let answer = run(&engine, &model, &[f32s("x", &[2, 3], &[1.0, 2.0, 3.0, -1.0, -2.0, -3.0])]);
    assert_eq!(answer[0].tensor.to_f32().unwrap(), [2.0, 0.0, 12.0, 0.0, 2.0, 0.0]);
}

#[test]
fn the_same_input_gives_the_same_bits_at_every_shape_and_again() {
    let Some(engine) = engine() else { return };
    let model = Model::new(17)
        .input("x", DataType::FLOAT, &[-1])
        .node("Add", &["x", "x"], &["y"])
        .output("y", DataType::FLOAT, &[-1])
        .bytes();
    let mut session = engine.load_checked(&model).unwrap();
    for size in [1_usize, 7, 64, 1000, 7, 300_000] {
        let values: Vec<f32> = (0_u16..u16::MAX).cycle().take(size).map(f32::from).collect();
        let input = [f32s("x", &[size], &values)];
        let first = session.run(&input, &[], &RunControl::default()).unwrap();
        let again = session.run(&input, &[], &RunControl::default()).unwrap();
        assert_eq!(first, again);
        assert_eq!(first[0].tensor.to_f32().unwrap(), values.iter().map(|v| v * 2.0).collect::<Vec<_>>());
    }
}
