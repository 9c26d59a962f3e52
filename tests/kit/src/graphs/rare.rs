//! Rarely used operators, and element types that few models compute with.

use types::DType;

use super::builder::{Builder, Held, Noise, Step};
use super::write::{float, int, ints, number, text};

/// Steps of this family of operators.
pub(super) const STEPS: &[Step] = &[
    resize,
    transposed,
    local,
    einsum,
    gather_elements,
    gather_nd,
    scatter,
    triangle,
    one_hot,
    blocks,
    mirror,
    narrow,
    recurrent,
    reductions,
    non_zero,
    bits,
    choose_integers,
];

fn signed(value: usize) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn rounded(x: &Held) -> Held {
    Held { noise: x.noise.max(Noise::Rounded), ..x.clone() }
}

fn images(b: &mut Builder) -> Option<Held> {
    b.choose(|x| x.dtype == DType::F32 && x.rank() == 4 && x.elements() > 0)
}

fn resize(b: &mut Builder) -> Option<()> {
    let x = images(b)?;
    if b.opset < 11 {
        return None;
    }
    let (mode, coordinates) =
        b.random.pick(&[("nearest", "asymmetric"), ("linear", "half_pixel"), ("linear", "align_corners")]);
    let times = b.random.between(1, 3);
    let scale = f32::from(u16::try_from(times).ok()?);
    let scales = b.floats(&[4], &[1.0, 1.0, scale, scale]);
    let attributes =
        vec![text("mode", mode), text("coordinate_transformation_mode", coordinates), text("nearest_mode", "floor")];
    // Operator set 11 requires the regions.
    let regions = if b.opset < 13 { b.floats(&[0], &[]) } else { String::new() };
    let shape = vec![x.shape[0], x.shape[1], x.shape[2] * times, x.shape[3] * times];
    b.apply("Resize", &[&x.name, &regions, &scales], attributes, &rounded(&x), shape, x.bound)
}

fn transposed(b: &mut Builder) -> Option<()> {
    let x = images(b)?;
    let out = b.random.between(1, 3);
    let weight = b.weight(&[x.shape[1], out, 2, 2], 0.5);
    let attributes = vec![ints("kernel_shape", &[2, 2]), ints("strides", &[2, 2])];
    let shape = vec![x.shape[0], out, x.shape[2] * 2, x.shape[3] * 2];
    let terms = f32::from(u16::try_from(x.shape[1]).ok()?);
    b.apply("ConvTranspose", &[&x.name, &weight], attributes, &rounded(&x), shape, x.bound * terms)
}

fn local(b: &mut Builder) -> Option<()> {
    let x = images(b)?;
    b.apply("LRN", &[&x.name], vec![int("size", 3), float("alpha", 0.1)], &rounded(&x), x.shape.clone(), x.bound)
}

fn einsum(b: &mut Builder) -> Option<()> {
    let x = b.choose_float(2).filter(|x| x.rank() == 2 && x.bound < 50.0)?;
    if b.opset < 12 {
        return None;
    }
    let columns = b.random.between(1, 5);
    let weight = b.weight(&[columns, x.shape[1]], 0.5);
    let (equation, shape) = b.random.pick(&[("ij,kj->ik", 0), ("ij,kj->ki", 1), ("ij,kj->ijk", 2), ("ij,kj->k", 3)]);
    let (rows, inner) = (x.shape[0], x.shape[1]);
    let shape = [vec![rows, columns], vec![columns, rows], vec![rows, inner, columns], vec![columns]][shape].clone();
    let bound = x.bound * f32::from(u16::try_from(rows * inner).ok()?);
    b.apply("Einsum", &[&x.name, &weight], vec![text("equation", equation)], &rounded(&x), shape, bound)
}

fn gather_elements(b: &mut Builder) -> Option<()> {
    let x = b.choose(|x| matches!(x.dtype, DType::F32 | DType::I64) && x.rank() >= 1 && x.elements() > 0)?;
    if b.opset < 11 {
        return None;
    }
    let axis = b.random.below(x.rank());
    let mut shape = if b.fixed_rows { x.shape.clone() } else { vec![1; x.rank()] };
    shape[axis] = b.random.between(1, 4);
    let size = if axis == 0 && !b.fixed_rows { 1 } else { x.shape[axis] };
    let values: Vec<i64> = (0..shape.iter().product()).map(|_| signed(b.random.below(size))).collect();
    let indices = b.int64s(&shape, &values);
    b.apply("GatherElements", &[&x.name, &indices], vec![int("axis", signed(axis))], &x, shape, x.bound)
}

fn gather_nd(b: &mut Builder) -> Option<()> {
    let x = b.choose(|x| matches!(x.dtype, DType::F32 | DType::I64) && x.rank() >= 2 && x.elements() > 0)?;
    if b.opset < 11 {
        return None;
    }
    let tuples = b.random.between(1, 3);
    let values: Vec<i64> = (0..tuples).flat_map(|_| [0, signed(b.random.below(x.shape[1]))]).collect();
    let indices = b.int64s(&[tuples, 2], &values);
    let shape = [&[tuples], &x.shape[2..]].concat();
    b.apply("GatherND", &[&x.name, &indices], Vec::new(), &x, shape, x.bound)
}

fn scatter(b: &mut Builder) -> Option<()> {
    let x = b.choose_float(2)?;
    if b.opset < 11 {
        return None;
    }
    let at = b.random.below(x.shape[1]);
    let update = b.random.float();
    if b.random.once_in(2) {
        let shape = vec![1; x.rank()];
        let (indices, updates) = (b.int64s(&shape, &[signed(at)]), b.floats(&shape, &[update]));
        let inputs = [x.name.as_str(), &indices, &updates];
        return b.apply("ScatterElements", &inputs, vec![int("axis", 1)], &x, x.shape.clone(), x.bound.max(1.0));
    }
    let slice: usize = x.shape[2..].iter().product();
    let (indices, values) = (b.int64s(&[1, 2], &[0, signed(at)]), b.random.floats(slice, 1.0));
    let updates = b.floats(&[&[1], &x.shape[2..]].concat(), &values);
    b.apply("ScatterND", &[&x.name, &indices, &updates], Vec::new(), &x, x.shape.clone(), x.bound.max(1.0))
}

fn triangle(b: &mut Builder) -> Option<()> {
    let x = b.choose_float(2)?;
    if b.opset < 14 {
        return None;
    }
    let k = signed(b.random.below(4)) - 2;
    let k = b.int64s(&[], &[k]);
    let upper = signed(b.random.below(2));
    b.apply("Trilu", &[&x.name, &k], vec![int("upper", upper)], &x, x.shape.clone(), x.bound)
}

fn one_hot(b: &mut Builder) -> Option<()> {
    let x = b.choose(|x| x.dtype == DType::I64 && x.rank() <= 3 && x.elements() <= 64)?;
    if b.opset < 9 {
        return None;
    }
    let depth = b.random.between(2, 9);
    let (count, values) = (b.int64s(&[1], &[signed(depth)]), b.floats(&[2], &[0.0, 1.0]));
    let name = b.node("OneHot", &[&x.name, &count, &values], Vec::new());
    b.hold(Held { name, dtype: DType::F32, shape: [&x.shape[..], &[depth]].concat(), bound: 1.0, noise: Noise::Exact })
}

fn blocks(b: &mut Builder) -> Option<()> {
    let x = images(b)?;
    let shape = |c, h, w| vec![x.shape[0], c, h, w];
    let (channels, height, width) = (x.shape[1], x.shape[2], x.shape[3]);
    if channels.is_multiple_of(4) && b.random.once_in(2) {
        let shape = shape(channels / 4, height * 2, width * 2);
        return b.apply("DepthToSpace", &[&x.name], vec![int("blocksize", 2)], &x, shape, x.bound);
    }
    let even = height.is_multiple_of(2) && width.is_multiple_of(2);
    let shape = shape(channels * 4, height / 2, width / 2);
    even.then(|| b.apply("SpaceToDepth", &[&x.name], vec![int("blocksize", 2)], &x, shape, x.bound))?
}

fn mirror(b: &mut Builder) -> Option<()> {
    let x = b.choose_float(2)?;
    let axis = b.random.between(1, x.rank() - 1);
    if x.shape[axis] < 3 {
        return None;
    }
    let mut pads = vec![0; 2 * x.rank()];
    (pads[axis], pads[x.rank() + axis]) = (2, 1);
    let mut shape = x.shape.clone();
    shape[axis] += 3;
    let mode = text("mode", b.random.pick(&["reflect", "edge"]));
    if b.opset < 11 {
        return b.apply("Pad", &[&x.name], vec![mode, ints("pads", &pads)], &x, shape, x.bound);
    }
    let pads = b.int64s(&[pads.len()], &pads);
    b.apply("Pad", &[&x.name, &pads], vec![mode], &x, shape, x.bound)
}

/// Computes in another float type and converts back.
fn narrow(b: &mut Builder) -> Option<()> {
    let x = b.choose_float(1).filter(|x| x.bound < 100.0)?;
    let (dtype, noise) = b.random.pick(&[(DType::F16, Noise::Stepped), (DType::F64, Noise::Rounded)]);
    let there = b.node("Cast", &[&x.name], vec![int("to", i64::from(number(dtype)))]);
    let op = b.random.pick(&["Add", "Mul", "Sub"]);
    let inside = b.node(op, &[&there, &there], Vec::new());
    let like = Held { noise: x.noise.max(noise), ..x.clone() };
    let bound = if op == "Mul" { x.bound * x.bound } else { 2.0 * x.bound };
    b.apply("Cast", &[&inside], vec![int("to", 1)], &like, x.shape.clone(), bound)
}

fn recurrent(b: &mut Builder) -> Option<()> {
    let x = b.choose_float(3).filter(|x| x.rank() == 3 && x.shape[0] <= 4)?;
    let (op, gates) = b.random.pick(&[("LSTM", 4), ("GRU", 3), ("RNN", 1)]);
    let hidden = b.random.between(1, 4);
    let weight = b.weight(&[1, gates * hidden, x.shape[2]], 0.5);
    let recurrence = b.weight(&[1, gates * hidden, hidden], 0.5);
    let names = [b.name("value"), b.name("value")];
    let attributes = vec![int("hidden_size", signed(hidden))];
    b.node_with(op, &[&x.name, &weight, &recurrence], &[&names[0], &names[1]], attributes);
    let shape = vec![x.shape[0], 1, x.shape[1], hidden];
    let [all, _last] = names;
    b.hold(Held { name: all, shape, bound: 1.0, ..rounded(&x) })
}

fn reductions(b: &mut Builder) -> Option<()> {
    let x = b.choose_float(2).filter(|x| x.bound < 8.0)?;
    let axis = b.random.between(1, x.rank() - 1);
    let op = b.random.pick(&["ReduceL2", "ReduceLogSumExp", "ReduceProd"]);
    if op == "ReduceProd" && x.shape[axis] > 4 {
        return None;
    }
    let (axes, mut attributes) = b.axes(&[signed(axis)], 18);
    attributes.push(int("keepdims", 0));
    let mut shape = x.shape.clone();
    shape.remove(axis);
    let count = f32::from(u16::try_from(x.shape[axis]).ok()?);
    let bound = if op == "ReduceProd" { x.bound.max(1.0).powf(count) } else { x.bound * count + 5.0 };
    let inputs: Vec<&str> = std::iter::once(x.name.as_str()).chain(axes.as_deref()).collect();
    b.apply(op, &inputs, attributes, &rounded(&x), shape, bound)
}

/// Adds `NonZero` with its result as an output of the model.
fn non_zero(b: &mut Builder) -> Option<()> {
    if b.opset < 9 || b.depth > 0 {
        return None;
    }
    let x = b.choose(|x| {
        matches!(x.dtype, DType::F32 | DType::Bool | DType::I64) && x.noise == Noise::Exact && x.rank() >= 1
    })?;
    let at = b.node("NonZero", &[&x.name], Vec::new());
    let rows = b.node("Transpose", &[&at], Vec::new());
    let tripled = b.node("Add", &[&rows, &rows], Vec::new());
    b.found.push((tripled, DType::I64));
    Some(())
}

fn bits(b: &mut Builder) -> Option<()> {
    let x = b.choose(|x| matches!(x.dtype, DType::I64 | DType::I32))?;
    if b.opset < 18 {
        return None;
    }
    let y = b.choose(|y| y.dtype == x.dtype && y.shape == x.shape)?;
    match b.random.pick(&["BitwiseAnd", "BitwiseOr", "BitwiseXor", "BitwiseNot"]) {
        "BitwiseNot" => b.apply("BitwiseNot", &[&x.name], Vec::new(), &x, x.shape.clone(), 2.0),
        op => b.apply(op, &[&x.name, &y.name], Vec::new(), &x, x.shape.clone(), 2.0),
    }
}

fn choose_integers(b: &mut Builder) -> Option<()> {
    let condition = b.choose(|x| x.dtype == DType::Bool)?;
    let x = b.choose(|x| x.dtype == DType::I64 && x.shape == condition.shape)?;
    let other = b.int64s(&[], &[7]);
    (b.opset >= 9)
        .then(|| b.apply("Where", &[&condition.name, &x.name, &other], Vec::new(), &x, x.shape.clone(), 2.0))?
}
