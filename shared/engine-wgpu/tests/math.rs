//! What the ONNX suite does not ask of the elementwise and reducing kernels: wide ranges, NaN and infinities, long sums.

mod support;

use rten_onnx::onnx::DataType;
use support::{Model, engine, f32s, ints, run};

const SPECIALS: [f32; 6] = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0, -0.0, 1.0];

fn unary(op: &str, values: &[f32]) -> Option<Vec<f32>> {
    let engine = engine()?;
    let model = Model::new(17)
        .input("x", DataType::FLOAT, &[-1])
        .node(op, &["x"], &["y"])
        .output("y", DataType::FLOAT, &[-1])
        .bytes();
    let answer = run(&engine, &model, &[f32s("x", &[values.len()], values)]);
    answer[0].tensor.to_f32().ok()
}

/// Compares with `f64` over a range of arguments, and at what is not finite.
fn check(op: &str, low: f32, high: f32, rtol: f64, reference: fn(f64) -> f64) {
    let steps = 4001_u16;
    let mut values: Vec<f32> = (0..steps).map(|at| low + (high - low) * f32::from(at) / f32::from(steps - 1)).collect();
    values.extend(SPECIALS);
    let Some(answers) = unary(op, &values) else { return };
    for (&x, &y) in values.iter().zip(&answers) {
        let wanted = reference(f64::from(x));
        let y = f64::from(y);
        let close = (y - wanted).abs() <= rtol * wanted.abs() + 1e-7;
        assert!(y == wanted || (y.is_nan() && wanted.is_nan()) || close, "{op}({x}) = {y}, not {wanted}");
    }
}

#[test]
fn functions_agree_with_double_precision_over_their_range_and_at_its_edges() {
    check("Exp", -80.0, 80.0, 1e-5, f64::exp);
    check("Sin", -100.0, 100.0, 5e-6, f64::sin);
    check("Cos", -100.0, 100.0, 5e-6, f64::cos);
    check("Asin", -1.0, 1.0, 2e-6, f64::asin);
    check("Acos", -1.0, 1.0, 2e-6, f64::acos);
    check("Atan", -50.0, 50.0, 2e-6, f64::atan);
    check("Sinh", -10.0, 10.0, 1e-5, f64::sinh);
    check("Cosh", -10.0, 10.0, 1e-5, f64::cosh);
    check("Tanh", -20.0, 20.0, 2e-6, f64::tanh);
    check("Asinh", -50.0, 50.0, 5e-6, f64::asinh);
    check("Atanh", -0.99, 0.99, 5e-6, f64::atanh);
    check("Sigmoid", -80.0, 80.0, 1e-5, |x| 1.0 / (1.0 + (-x).exp()));
    check("Sqrt", 0.0, 1000.0, 2e-6, f64::sqrt);
    check("Relu", -5.0, 5.0, 0.0, |x| if x < 0.0 { 0.0 } else { x });
    check("Round", -5.0, 5.0, 0.0, f64::round_ties_even);
}

#[test]
fn not_a_number_wins_in_maxima_and_reductions() {
    let Some(engine) = engine() else { return };
    let model = Model::new(17)
        .input("x", DataType::FLOAT, &[2, 2])
        .input("z", DataType::FLOAT, &[2, 2])
        .node("Max", &["x", "z"], &["m"])
        .node_with("ReduceMax", &["m"], &["y"], vec![ints("axes", &[1])])
        .output("y", DataType::FLOAT, &[2, 1])
        .bytes();
    let x = f32s("x", &[2, 2], &[f32::NAN, 1.0, 2.0, f32::NEG_INFINITY]);
    let z = f32s("z", &[2, 2], &[0.0, 5.0, 1.0, -3.0]);
    let answer = run(&engine, &model, &[x, z])[0].tensor.to_f32().unwrap();
    assert!(answer[0].is_nan());
    assert_eq!(answer[1], 2.0);
}

#[test]
fn a_sum_of_many_equal_terms_loses_almost_nothing() {
    let Some(engine) = engine() else { return };
    let model = Model::new(17)
        .input("x", DataType::FLOAT, &[-1])
        .node("ReduceMean", &["x"], &["y"])
        .output("y", DataType::FLOAT, &[1])
        .bytes();
    let answer = run(&engine, &model, &[f32s("x", &[300_000], &vec![0.1; 300_000])])[0].tensor.to_f32().unwrap();
    assert!((answer[0] - 0.1).abs() < 1e-5, "{}", answer[0]);
}
