//! Operators on integers and booleans, and casts.

use types::DType;

use super::builder::{Builder, Held, Noise, Step};
use super::floats::broadcast;
use super::random::Random;
use super::write::{int, number};

/// Steps of this family of operators.
pub(super) const STEPS: &[Step] = &[arithmetic, arithmetic, single, cast, compare, reduce, logic, lookup];

/// Values at the limits of 32 bits; 64-bit inputs sometimes contain one.
const EDGES: [i64; 6] = [-1, i32::MAX as i64, i32::MIN as i64, 1 << 31, -(1 << 31) - 1, 3_000_000_000];

/// Returns the bytes of random elements: floats up to `bound`, small integers with some limit values.
pub(super) fn random_elements(random: &mut Random, dtype: DType, count: usize, bound: f32) -> Vec<u8> {
    match dtype {
        DType::F32 => random.floats(count, bound).into_iter().flat_map(f32::to_le_bytes).collect(),
        DType::Bool => (0..count).map(|_| u8::from(random.once_in(2))).collect(),
        DType::U8 | DType::I8 => (0..count).map(|_| random.bits().to_le_bytes()[0]).collect(),
        DType::I32 => {
            let mut next = || i32::try_from(random.below(41)).unwrap_or(0) - 20;
            (0..count).flat_map(|_| next().to_le_bytes()).collect()
        }
        DType::I64 => {
            let edged = random.once_in(6);
            let mut next = || match edged && random.once_in(16) {
                true => random.pick(&EDGES),
                false => i64::try_from(random.below(41)).unwrap_or(0) - 20,
            };
            (0..count).flat_map(|_| next().to_le_bytes()).collect()
        }
        DType::U16 | DType::I16 | DType::U32 | DType::U64 | DType::F16 | DType::Bf16 | DType::F64 | DType::Bytes => {
            unreachable!("no input is of {dtype:?}")
        }
    }
}

fn is_wide(held: &Held) -> bool {
    matches!(held.dtype, DType::I64 | DType::I32)
}

fn number_like(b: &mut Builder, dtype: DType, value: i64) -> String {
    let bytes = match dtype {
        DType::I64 => value.to_le_bytes().to_vec(),
        _ => i32::try_from(value).unwrap_or(1).to_le_bytes().to_vec(),
    };
    b.constant(dtype, &[], bytes)
}

fn arithmetic(b: &mut Builder) -> Option<()> {
    let x = b.choose(is_wide)?;
    let op = b.random.pick(&["Add", "Sub", "Mul", "Div", "Mod", "Max", "Min"]);
    let constant = b.random.once_in(2) || matches!(op, "Div" | "Mod");
    if (op == "Mod" && b.opset < 10) || (matches!(op, "Max" | "Min") && b.opset < 12) {
        return None;
    }
    let (name, shape) = if constant {
        let value = i64::try_from(b.random.between(2, 9)).ok()?;
        (number_like(b, x.dtype, value), x.shape.clone())
    } else {
        let y = b.choose(|y| y.dtype == x.dtype && broadcast(&x.shape, &y.shape).is_some())?;
        (y.name.clone(), broadcast(&x.shape, &y.shape)?)
    };
    b.apply(op, &[&x.name, &name], Vec::new(), &x, shape, 2.0)
}

fn single(b: &mut Builder) -> Option<()> {
    let x = b.choose(is_wide)?;
    let op = b.random.pick(&["Abs", "Neg", "Identity", "Sign"]);
    if op == "Sign" && b.opset < 9 {
        return None;
    }
    b.apply(op, &[&x.name], Vec::new(), &x, x.shape.clone(), 2.0)
}

fn cast(b: &mut Builder) -> Option<()> {
    // The conversion of a float beyond the target's range is undefined, and a float after rounding may fall on either
    // side.
    let x = b.choose(|x| x.noise == Noise::Exact && x.elements() > 0)?;
    let to = match x.dtype {
        DType::F32 => b.random.pick(&[DType::I64, DType::I32, DType::Bool, DType::I8]),
        DType::I64 => b.random.pick(&[DType::I32, DType::Bool, DType::U8, DType::I8]),
        DType::Bool | DType::U8 | DType::I8 => b.random.pick(&[DType::F32, DType::I64, DType::I32]),
        _ => b.random.pick(&[DType::F32, DType::I64, DType::Bool]),
    };
    if x.bound > 100.0 {
        return None;
    }
    let name = b.node("Cast", &[&x.name], vec![int("to", i64::from(number(to)))]);
    b.hold(Held { name, dtype: to, shape: x.shape.clone(), bound: 256.0, noise: Noise::Exact })
}

fn compare(b: &mut Builder) -> Option<()> {
    let x = b.choose(is_wide)?;
    let op = if b.opset >= 9 { b.random.pick(&["Equal", "Less", "Greater"]) } else { "Equal" };
    let other = number_like(b, x.dtype, 3);
    let name = b.node(op, &[&x.name, &other], Vec::new());
    b.hold(Held { name, dtype: DType::Bool, ..x })
}

fn reduce(b: &mut Builder) -> Option<()> {
    let x = b.choose(|x| is_wide(x) && x.rank() >= 2)?;
    let axis = b.random.between(1, x.rank() - 1);
    let op = b.random.pick(&["ReduceSum", "ReduceSum", "ReduceMax", "ReduceMin"]);
    if op != "ReduceSum" && x.dtype == DType::I64 && b.opset < 12 {
        return None;
    }
    let since = if op == "ReduceSum" { 13 } else { 18 };
    let (axes, mut attributes) = b.axes(&[i64::try_from(axis).ok()?], since);
    attributes.push(int("keepdims", 0));
    let mut shape = x.shape.clone();
    shape.remove(axis);
    let inputs: Vec<&str> = std::iter::once(x.name.as_str()).chain(axes.as_deref()).collect();
    b.apply(op, &inputs, attributes, &x, shape, 2.0)
}

fn logic(b: &mut Builder) -> Option<()> {
    let x = b.choose(|x| x.dtype == DType::Bool)?;
    let y = b.choose(|y| y.dtype == DType::Bool && y.shape == x.shape)?;
    let op = b.random.pick(&["And", "Or", "Xor", "Not"]);
    let inputs = [x.name.as_str(), &y.name];
    let count = if op == "Not" { 1 } else { 2 };
    b.apply(op, &inputs[..count], Vec::new(), &x, x.shape.clone(), 1.0)
}

/// Adds a table and a lookup of rows by computed indices, sometimes out of range.
fn lookup(b: &mut Builder) -> Option<()> {
    let x = b.choose(|x| x.dtype == DType::I64 && x.rank() <= 3 && x.elements() <= 64)?;
    let rows = b.random.between(3, 50);
    let table = b.weight(&[rows, 4], 1.0);
    let indices = if b.random.once_in(3) || b.opset < 12 {
        x.name.clone()
    } else {
        let (low, high) = (b.int64s(&[], &[0]), b.int64s(&[], &[i64::try_from(rows).ok()? - 1]));
        b.node("Clip", &[&x.name, &low, &high], Vec::new())
    };
    let shape = [&x.shape[..], &[4]].concat();
    let name = b.node("Gather", &[&table, &indices], Vec::new());
    b.hold(Held { name, dtype: DType::F32, shape, bound: 1.0, noise: Noise::Exact })
}
