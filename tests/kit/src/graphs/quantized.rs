//! Chains of quantized operators, as quantization tools write them.

use types::DType;

use super::builder::{Builder, Held, Noise, Step};
use super::write::{int, ints};

/// Steps of this family of operators.
pub(super) const STEPS: &[Step] = &[round_trip, sandwich, sandwich, dynamic];

/// Scale and zero point of a tensor.
struct Grid {
    scale: String,
    point: String,
}

fn grid(b: &mut Builder, bound: f32) -> Grid {
    let unsigned = b.random.once_in(2);
    let scale = b.floats(&[], &[bound.max(0.1) / 127.0]);
    let byte = if unsigned { 128 } else { 0 };
    let point = b.constant(if unsigned { DType::U8 } else { DType::I8 }, &[], vec![byte]);
    Grid { scale, point }
}

/// Adds `QuantizeLinear` and `DequantizeLinear`; returns the name of the float.
fn through(b: &mut Builder, x: &str, grid: &Grid) -> String {
    let integers = b.node("QuantizeLinear", &[x, &grid.scale, &grid.point], Vec::new());
    let name = b.node("DequantizeLinear", &[&integers, &grid.scale, &grid.point], Vec::new());
    b.dequantized.push(name.clone());
    name
}

fn round_trip(b: &mut Builder) -> Option<()> {
    if b.opset < 10 {
        return None;
    }
    let x = b.choose_float(0).filter(|x| x.bound < 50.0)?;
    let grid = grid(b, x.bound);
    let name = through(b, &x.name, &grid);
    let noise = if x.noise == Noise::Exact { Noise::Rounded } else { Noise::Stepped };
    b.hold(Held { name, noise, ..x })
}

/// Adds a weight of bytes behind `DequantizeLinear`.
fn weight(b: &mut Builder, shape: &[usize], axis: usize, scale: f32) -> String {
    let bytes: Vec<u8> = (0..shape.iter().product()).map(|_| b.random.bits().to_le_bytes()[0]).collect();
    let integers = b.constant(DType::I8, shape, bytes);
    if b.opset >= 13 && b.random.once_in(2) {
        let count = shape[axis];
        let scales: Vec<f32> = b.random.floats(count, 0.3).into_iter().map(|one| scale * (1.0 + one)).collect();
        let (scales, points) = (b.floats(&[count], &scales), b.constant(DType::I8, &[count], vec![0; count]));
        let axis = int("axis", i64::try_from(axis).unwrap_or(0));
        return b.node("DequantizeLinear", &[&integers, &scales, &points], vec![axis]);
    }
    let (scale, point) = (b.floats(&[], &[scale]), b.constant(DType::I8, &[], vec![0]));
    b.node("DequantizeLinear", &[&integers, &scale, &point], Vec::new())
}

/// Adds a quantized product, an activation, and a quantization.
fn sandwich(b: &mut Builder) -> Option<()> {
    if b.opset < 10 {
        return None;
    }
    let x = b.choose_float(2).filter(|x| x.bound < 50.0)?;
    let into = grid(b, x.bound);
    let input = through(b, &x.name, &into);
    let out = b.random.between(1, 8);
    let (product, shape) = if x.rank() == 4 {
        let weights = weight(b, &[out, x.shape[1], 1, 1], 0, 0.01);
        let attributes = vec![ints("kernel_shape", &[1, 1])];
        (b.node("Conv", &[&input, &weights], attributes), vec![x.shape[0], out, x.shape[2], x.shape[3]])
    } else {
        let inner = *x.shape.last()?;
        let weights = weight(b, &[inner, out], 1, 0.01);
        let shape = [&x.shape[..x.rank() - 1], &[out]].concat();
        (b.node("MatMul", &[&input, &weights], Vec::new()), shape)
    };
    let bound = x.bound * 4.0;
    let held = Held { name: product, dtype: DType::F32, shape, bound, noise: Noise::Stepped };
    let mut name = held.name.clone();
    if b.random.once_in(2) {
        let before = b.values.len();
        name = super::floats::apply_unary(b, &held)?;
        // Only its quantized form is read.
        b.values.truncate(before);
    }
    if b.random.once_in(4) {
        return b.hold(Held { name, ..held });
    }
    let after = grid(b, bound);
    let name = through(b, &name, &after);
    b.hold(Held { name, ..held })
}

/// Adds a product that is quantized at run time.
fn dynamic(b: &mut Builder) -> Option<()> {
    if b.opset < 11 {
        return None;
    }
    let x = b.choose_float(2).filter(|x| x.bound < 50.0)?;
    let names = [b.name("value"), b.name("value"), b.name("value")];
    let outputs = [names[0].as_str(), &names[1], &names[2]];
    b.node_with("DynamicQuantizeLinear", &[&x.name], &outputs, Vec::new());
    let (inner, out) = (*x.shape.last()?, b.random.between(1, 8));
    let bytes: Vec<u8> = (0..inner * out).map(|_| b.random.bits().to_le_bytes()[0]).collect();
    let (weights, zero) = (b.constant(DType::I8, &[inner, out], bytes), b.constant(DType::I8, &[], vec![0]));
    let sum = b.node("MatMulInteger", &[&names[0], &weights, &names[2], &zero], Vec::new());
    let float = b.node("Cast", &[&sum], vec![int("to", 1)]);
    let scale = b.floats(&[], &[0.01]);
    let both = b.node("Mul", &[&names[1], &scale], Vec::new());
    let shape = [&x.shape[..x.rank() - 1], &[out]].concat();
    let like = Held { noise: Noise::Stepped, ..x.clone() };
    b.apply("Mul", &[&float, &both], Vec::new(), &like, shape, x.bound * 4.0)
}
