//! Long walks of one thread: Mesa's software adapter ends a thread's loops after 65,535 rounds without a word, so every
//! operator that walks along data is asked for more than that, and must be right or refuse.
#![expect(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_precision_loss,
    reason = "references count in small numbers, and a test may stop anywhere"
)]

mod support;

use bytes::Bytes;
use engine::{RunControl, Session};
use rten_onnx::onnx::{AttributeProto, DataType};
use support::{Model, engine, f32s, float, int, ints, run, text};
use types::{DType, NamedTensor, Tensor};

/// Over the limit, and well over it.
const LENGTHS: [usize; 2] = [70_000, 200_000];

/// A number of small steps around zero, no two neighbours alike.
fn wave(at: usize) -> f32 {
    ((at.wrapping_mul(2_654_435_761) >> 7) % 2048) as f32 / 1024.0 - 1.0
}

fn waves(length: usize) -> Vec<f32> {
    (0..length).map(wave).collect()
}

fn i64s(name: &str, values: &[i64]) -> NamedTensor {
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let tensor = Tensor::new(DType::I64, vec![values.len()], Bytes::from(bytes)).unwrap();
    NamedTensor { name: name.into(), tensor }
}

fn to_i64s(tensor: &Tensor) -> Vec<i64> {
    tensor.data().as_chunks::<8>().0.iter().map(|&bytes| i64::from_le_bytes(bytes)).collect()
}

/// Runs one node on `x`, and constants of `int64` after it.
fn node(
    op: &str,
    shape: &[usize],
    values: &[f32],
    constants: &[&[i64]],
    attributes: Vec<AttributeProto>,
    output: DataType,
) -> Option<Tensor> {
    let engine = engine()?;
    let dims: Vec<i64> = shape.iter().map(|&size| size as i64).collect();
    let mut model = Model::new(17).input("x", DataType::FLOAT, &dims);
    let names: Vec<String> = (0..constants.len()).map(|at| format!("c{at}")).collect();
    for (name, numbers) in names.iter().zip(constants) {
        let bytes: Vec<u8> = numbers.iter().flat_map(|value| value.to_le_bytes()).collect();
        let dims: &[i64] = if op == "CumSum" { &[] } else { &[numbers.len() as i64] };
        model = model.constant(name, DataType::INT64, dims, &bytes);
    }
    let inputs: Vec<&str> = std::iter::once("x").chain(names.iter().map(String::as_str)).collect();
    let model = model.node_with(op, &inputs, &["y"], attributes).output("y", output, &[-1]).bytes();
    Some(run(&engine, &model, &[f32s("x", shape, values)]).remove(0).tensor)
}

fn floats(op: &str, shape: &[usize], values: &[f32], attributes: Vec<AttributeProto>) -> Option<Vec<f32>> {
    node(op, shape, values, &[], attributes, DataType::FLOAT).map(|tensor| tensor.to_f32().unwrap())
}

fn assert_near(what: &str, found: &[f32], wanted: &[f64], rtol: f64) {
    assert_eq!(found.len(), wanted.len(), "{what}");
    for (at, (&found, &wanted)) in found.iter().zip(wanted).enumerate() {
        let error = (f64::from(found) - wanted).abs();
        assert!(error <= rtol * wanted.abs() + 1e-9, "{what}: element {at} is {found}, not {wanted}");
    }
}

#[test]
fn the_extreme_of_a_long_line_is_found_wherever_it_stands() {
    for length in LENGTHS {
        // Two equal extremes behind what one thread would see.
        let mut values = waves(2 * length);
        for (line, sign) in [(0, 1.0), (1, -1.0)] {
            for at in [length - 9, length - 3] {
                values[line * length + at] = 5.0 * sign;
                values[line * length + at - 1000] = -7.0 * sign;
            }
        }
        for (op, lines) in [("ArgMax", [length - 9, length - 1009]), ("ArgMin", [length - 1009, length - 9])] {
            let Some(y) = node(op, &[2, length], &values, &[], vec![int("axis", 1)], DataType::INT64) else { return };
            assert_eq!(to_i64s(&y), lines.map(|at| at as i64), "{op} of {length}");
            let last = vec![int("axis", 1), int("select_last_index", 1)];
            let y = node(op, &[2, length], &values, &[], last, DataType::INT64).unwrap();
            assert_eq!(to_i64s(&y), lines.map(|at| at as i64 + 6), "the last {op} of {length}");
        }
        values[length - 2] = f32::NAN;
        let y = node("ArgMax", &[2, length], &values, &[], vec![int("axis", 1)], DataType::INT64).unwrap();
        assert_eq!(to_i64s(&y)[0], length as i64 - 2, "NaN is the extreme");
    }
}

#[test]
fn a_long_running_sum_ends_at_the_whole_sum() {
    for length in LENGTHS {
        let Some(engine) = engine() else { return };
        let values: Vec<i64> = (0..length).map(|at| (wave(at) * 1024.0) as i64).collect();
        for (reverse, exclusive) in [(0, 0), (1, 0), (0, 1), (1, 1)] {
            let model = Model::new(17)
                .input("x", DataType::INT64, &[-1])
                .constant("axis", DataType::INT64, &[], &0_i64.to_le_bytes())
                .node_with("CumSum", &["x", "axis"], &["y"], vec![int("reverse", reverse), int("exclusive", exclusive)])
                .output("y", DataType::INT64, &[-1])
                .bytes();
            let y = to_i64s(&run(&engine, &model, &[i64s("x", &values)])[0].tensor);
            let mut wanted = Vec::with_capacity(length);
            let mut sum = 0;
            let mut ordered = values.clone();
            if reverse == 1 {
                ordered.reverse();
            }
            for value in ordered {
                wanted.push(if exclusive == 1 { sum } else { sum + value });
                sum += value;
            }
            if reverse == 1 {
                wanted.reverse();
            }
            assert!(y == wanted, "CumSum of {length}, reverse {reverse}, exclusive {exclusive}");
        }
    }
}

#[test]
fn a_long_line_becomes_probabilities_along_either_axis() {
    for length in LENGTHS {
        let values = waves(2 * length);
        for axis in [0, 1] {
            let shape = if axis == 0 { [length, 2] } else { [2, length] };
            let lines =
                |line: usize| (0..length).map(move |k| if axis == 0 { k * 2 + line } else { line * length + k });
            let (mut soft, mut log, mut hard) = (vec![0.0; 2 * length], vec![0.0; 2 * length], vec![0.0; 2 * length]);
            for line in 0..2 {
                let most = lines(line).map(|at| f64::from(values[at])).fold(f64::MIN, f64::max);
                let sum: f64 = lines(line).map(|at| (f64::from(values[at]) - most).exp()).sum();
                for at in lines(line) {
                    soft[at] = (f64::from(values[at]) - most).exp() / sum;
                    log[at] = f64::from(values[at]) - most - sum.ln();
                }
                hard[lines(line).find(|&at| f64::from(values[at]) == most).unwrap()] = 1.0;
            }
            for (op, wanted) in [("Softmax", soft), ("LogSoftmax", log), ("Hardmax", hard)] {
                let Some(y) = floats(op, &shape, &values, vec![int("axis", axis)]) else { return };
                assert_near(&format!("{op} of {shape:?} along {axis}"), &y, &wanted, 1e-5);
            }
        }
    }
}

#[test]
fn long_reductions_take_every_term() {
    for length in LENGTHS {
        let values: Vec<f32> = waves(length).iter().map(|value| value + 1.5).collect();
        let sum = |f: fn(f64) -> f64| values.iter().map(|&value| f(f64::from(value))).sum::<f64>();
        let wanted = [
            ("ReduceSum", sum(|x| x)),
            ("ReduceMean", sum(|x| x) / length as f64),
            ("ReduceL1", sum(f64::abs)),
            ("ReduceL2", sum(|x| x * x).sqrt()),
            ("ReduceSumSquare", sum(|x| x * x)),
            ("ReduceLogSum", sum(|x| x).ln()),
            ("ReduceLogSumExp", sum(f64::exp).ln()),
            ("ReduceMax", values.iter().copied().fold(f32::MIN, f32::max).into()),
            ("ReduceMin", values.iter().copied().fold(f32::MAX, f32::min).into()),
        ];
        for (op, wanted) in wanted {
            let Some(y) = floats(op, &[length], &values, vec![int("keepdims", 0)]) else { return };
            assert_near(&format!("{op} of {length}"), &y, &[wanted], 2e-5);
        }
    }
}

#[test]
fn the_exponentials_of_infinities_add_up_over_long_lines_too() {
    let mut values = vec![f32::NEG_INFINITY; 70_000];
    let Some(y) = floats("ReduceLogSumExp", &[70_000], &values, vec![int("keepdims", 0)]) else { return };
    assert_eq!(y, [f32::NEG_INFINITY]);
    values[69_999] = f32::INFINITY;
    assert_eq!(floats("ReduceLogSumExp", &[70_000], &values, vec![int("keepdims", 0)]).unwrap(), [f32::INFINITY]);
}

/// Two inputs of floats, one node, one output.
fn pair(op: &str, a: NamedTensor, b: NamedTensor, attributes: Vec<AttributeProto>) -> Option<Vec<f32>> {
    let engine = engine()?;
    let dims = |tensor: &NamedTensor| -> Vec<i64> { tensor.tensor.shape().iter().map(|&size| size as i64).collect() };
    let model = Model::new(17)
        .input("a", DataType::FLOAT, &dims(&a))
        .input("b", DataType::FLOAT, &dims(&b))
        .node_with(op, &["a", "b"], &["y"], attributes)
        .output("y", DataType::FLOAT, &[-1])
        .bytes();
    Some(run(&engine, &model, &[a, b])[0].tensor.to_f32().unwrap())
}

#[test]
fn long_products_add_every_term() {
    for length in LENGTHS {
        let (a, b): (Vec<f32>, Vec<f32>) = (0..length).map(|at| (wave(at) + 1.5, wave(at + 7) + 1.5)).unzip();
        let wanted: f64 = a.iter().zip(&b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
        let (row, column) = (f32s("a", &[1, length], &a), f32s("b", &[length, 1], &b));
        let Some(y) = pair("MatMul", row, column, Vec::new()) else { return };
        assert_near(&format!("MatMul over {length}"), &y, &[wanted], 2e-5);
        let (a, b) = (f32s("a", &[length], &a), f32s("b", &[length], &b));
        let y = pair("Einsum", a, b, vec![text("equation", "i,i->")]).unwrap();
        assert_near(&format!("Einsum over {length}"), &y, &[wanted], 2e-5);
    }
}

#[test]
fn long_products_of_integers_are_exact() {
    for length in LENGTHS {
        let Some(engine) = engine() else { return };
        let (a, b): (Vec<i32>, Vec<i32>) = (0..length as i32).map(|at| (at % 11 - 5, at % 7 - 3)).unzip();
        let bytes = |values: &[i32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
        let tensor = |name: &str, shape: [usize; 2], values: &[i32]| NamedTensor {
            name: name.into(),
            tensor: Tensor::new(DType::I32, shape.to_vec(), Bytes::from(bytes(values))).unwrap(),
        };
        let n = length as i64;
        let model = Model::new(17)
            .input("a", DataType::INT32, &[1, n])
            .input("b", DataType::INT32, &[n, 1])
            .node("MatMul", &["a", "b"], &["y"])
            .output("y", DataType::INT32, &[1, 1])
            .bytes();
        let y = run(&engine, &model, &[tensor("a", [1, length], &a), tensor("b", [length, 1], &b)]);
        let wanted: i32 = a.iter().zip(&b).map(|(a, b)| a * b).sum();
        assert_eq!(&y[0].tensor.data()[..], wanted.to_le_bytes(), "MatMul over {length}");
    }
}

#[test]
fn wide_rows_are_normalised_by_all_their_elements() {
    for length in LENGTHS {
        let values: Vec<f32> = waves(length).iter().map(|value| value + 3.0).collect();
        let mean = values.iter().map(|&x| f64::from(x)).sum::<f64>() / length as f64;
        let variance = values.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / length as f64;
        let wanted: Vec<f64> = values.iter().map(|&x| (f64::from(x) - mean) / (variance + 1e-5).sqrt()).collect();
        let scale = f32s("b", &[length], &vec![1.0; length]);
        let Some(y) = pair("LayerNormalization", f32s("a", &[1, length], &values), scale, Vec::new()) else { return };
        let worst = y.iter().zip(&wanted).map(|(&y, w)| (f64::from(y) - w).abs()).fold(0.0, f64::max);
        assert!(worst < 2e-5, "LayerNormalization of {length}: off by {worst}");
        let norm = values.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
        let wanted: Vec<f64> = values.iter().map(|&x| f64::from(x) / norm).collect();
        let y = floats("LpNormalization", &[1, length], &values, Vec::new()).unwrap();
        assert_near(&format!("LpNormalization of {length}"), &y, &wanted, 2e-5);
    }
}

#[test]
fn pools_see_the_whole_of_a_large_window() {
    for side in [265_usize, 448] {
        let mut values = waves(side * side);
        values[side * side - 2] = 9.0;
        let mean = values.iter().map(|&x| f64::from(x)).sum::<f64>() / (side * side) as f64;
        let shape = [1, 1, side, side];
        let window = || vec![ints("kernel_shape", &[side as i64, side as i64])];
        for (op, attributes, wanted) in [
            ("GlobalAveragePool", Vec::new(), mean),
            ("AveragePool", window(), mean),
            ("GlobalMaxPool", Vec::new(), 9.0),
            ("MaxPool", window(), 9.0),
        ] {
            let Some(y) = floats(op, &shape, &values, attributes) else { return };
            assert!((f64::from(y[0]) - wanted).abs() < 1e-4, "{op} of {side}x{side}: {} instead of {wanted}", y[0]);
        }
        let weights = f32s("b", &shape, &vec![1.0; side * side]);
        let y = pair("Conv", f32s("a", &shape, &values), weights, Vec::new()).unwrap();
        let wanted = mean * (side * side) as f64;
        assert!((f64::from(y[0]) - wanted).abs() < 0.05, "Conv over {side}x{side}: {} instead of {wanted}", y[0]);
    }
}

#[test]
fn updates_that_come_late_are_scattered() {
    for length in LENGTHS {
        let Some(engine) = engine() else { return };
        let n = length as i64;
        let zeros = vec![0_u8; 16];
        let indices: Vec<i64> = (0..n).map(|at| at % 4).collect();
        let updates = f32s("u", &[length], &vec![1.0; length]);
        for (op, shape) in [("ScatterElements", vec![n]), ("ScatterND", vec![n, 1])] {
            let model = Model::new(18)
                .constant("x", DataType::FLOAT, &[4], &zeros)
                .input("i", DataType::INT64, &[n])
                .constant(
                    "shape",
                    DataType::INT64,
                    &[shape.len() as i64],
                    &shape.iter().flat_map(|s| s.to_le_bytes()).collect::<Vec<_>>(),
                )
                .node("Reshape", &["i", "shape"], &["places"])
                .input("u", DataType::FLOAT, &[n])
                .node_with(op, &["x", "places", "u"], &["y"], vec![text("reduction", "add")])
                .output("y", DataType::FLOAT, &[4])
                .bytes();
            let y = run(&engine, &model, &[i64s("i", &indices), updates.clone()])[0].tensor.to_f32().unwrap();
            assert_eq!(y, vec![length as f32 / 4.0; 4], "{op} of {length}");
        }
        let mut condition = vec![0_u8; length];
        (condition[5], condition[length - 2]) = (1, 1);
        let model = Model::new(17)
            .input("x", DataType::FLOAT, &[n])
            .constant("condition", DataType::BOOL, &[n], &condition)
            .node("Compress", &["x", "condition"], &["y"])
            .output("y", DataType::FLOAT, &[2])
            .bytes();
        let values = waves(length);
        let y = run(&engine, &model, &[f32s("x", &[length], &values)])[0].tensor.to_f32().unwrap();
        assert_eq!(y, [values[5], values[length - 2]], "Compress of {length}");
    }
}

#[test]
fn attention_reaches_the_last_of_many_keys() {
    for keys in LENGTHS {
        let Some(engine) = engine() else { return };
        let n = keys as i64;
        let model = Model::new(23)
            .input("q", DataType::FLOAT, &[1, 1, 1, 4])
            .input("k", DataType::FLOAT, &[1, 1, n, 4])
            .input("v", DataType::FLOAT, &[1, 1, n, 4])
            .node_with("Attention", &["q", "k", "v"], &["y"], vec![float("scale", 1.0)])
            .output("y", DataType::FLOAT, &[1, 1, 1, 4])
            .bytes();
        // The last key alone is like the query.
        let (mut k, mut v) = (vec![0.0; keys * 4], vec![0.0; keys * 4]);
        k[keys * 4 - 4..].fill(5.0);
        v[keys * 4 - 4..].fill(1.0);
        let shape = [1, 1, keys, 4];
        let inputs = [f32s("q", &[1, 1, 1, 4], &[1.0; 4]), f32s("k", &shape, &k), f32s("v", &shape, &v)];
        let y = run(&engine, &model, &inputs)[0].tensor.to_f32().unwrap();
        let wanted = 20_f64.exp() / (20_f64.exp() + keys as f64 - 1.0);
        assert_near(&format!("attention over {keys}"), &y, &[wanted; 4], 1e-4);
    }
}

#[test]
fn a_walk_that_is_too_long_for_the_adapter_is_refused_and_not_cut_short() {
    let Some(engine) = engine() else { return };
    if !engine.gpu().report().software {
        println!("skipped: only software adapters end loops");
        return;
    }
    let model = Model::new(17)
        .input("x", DataType::INT64, &[2_000_000])
        .constant("axis", DataType::INT64, &[], &0_i64.to_le_bytes())
        .node("CumSum", &["x", "axis"], &["y"])
        .output("y", DataType::INT64, &[2_000_000])
        .bytes();
    let error = match engine.load_checked(&model) {
        Err(error) => error.to_string(),
        Ok(mut session) => {
            session.run(&[i64s("x", &vec![1; 2_000_000])], &[], &RunControl::default()).unwrap_err().to_string()
        }
    };
    assert!(!error.is_empty());
    let error = format!("{:?}", engine.load_checked(&model).err());
    assert!(error.contains("ends loops after"), "{error}");
}

#[test]
fn pools_of_bytes_see_the_whole_of_a_large_window() {
    for size in [150_usize, 448] {
        let Some(engine) = engine() else { return };
        let side = size as i64;
        // A thread makes the four bytes of a word, one after the other.
        let model = Model::new(17)
            .input("x", DataType::FLOAT, &[1, 4, side, side])
            .constant("scale", DataType::FLOAT, &[], &0.01_f32.to_le_bytes())
            .constant("point", DataType::UINT8, &[], &[128])
            .node("QuantizeLinear", &["x", "scale", "point"], &["q"])
            .node("DequantizeLinear", &["q", "scale", "point"], &["d"])
            .node("GlobalAveragePool", &["d"], &["p"])
            .node("QuantizeLinear", &["p", "scale", "point"], &["r"])
            .node("DequantizeLinear", &["r", "scale", "point"], &["y"])
            .output("y", DataType::FLOAT, &[1, 4, 1, 1])
            .bytes();
        // Negative but for the last quarter, which decides the mean.
        let value = |at: usize| if at % (size * size) < size * size / 4 * 3 { -0.2 } else { 1.2 };
        let values: Vec<f32> = (0..4 * size * size).map(value).collect();
        let y = run(&engine, &model, &[f32s("x", &[1, 4, size, size], &values)])[0].tensor.to_f32().unwrap();
        assert!(y.iter().all(|y| (y - 0.15).abs() < 0.011), "mean over {side}x{side}: {y:?}");
    }
}
