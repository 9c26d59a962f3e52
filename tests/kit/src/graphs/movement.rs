//! Operators that move, repeat, select or join elements, and reductions.

use types::DType;

use super::builder::{Builder, Held, Noise, Step};
use super::write::{int, ints};

/// Steps that never mix rows.
pub(super) const BY_ROW: &[Step] = &[flatten, reshape_row, transpose_inner, concat, slice, reduce, unsqueeze];

/// Steps that may mix rows, or are valid for one number of rows only.
pub(super) const STEPS: &[Step] =
    &[transpose, reshape_fixed, split, pad, tile, expand, gather, cumulate, arg, squeeze, top];

fn signed(value: usize) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn any(b: &mut Builder, rank: usize) -> Option<Held> {
    b.choose(|held| held.rank() >= rank && held.elements() > 0)
}

/// Returns whether operators that move values support this type in every operator set version.
fn moves(held: &Held) -> bool {
    matches!(held.dtype, DType::F32 | DType::I64 | DType::I32)
}

fn flatten(b: &mut Builder) -> Option<()> {
    let x = b.choose_float(2)?;
    let shape = vec![x.shape[0], x.shape[1..].iter().product()];
    b.apply("Flatten", &[&x.name], vec![int("axis", 1)], &x, shape, x.bound)
}

/// Adds a reshape that keeps the batch.
fn reshape_row(b: &mut Builder) -> Option<()> {
    let x = any(b, 2)?;
    let count: usize = x.shape[1..].iter().product();
    let divisors: Vec<usize> = (1..=count).filter(|&size| count.is_multiple_of(size)).collect();
    let first = b.random.pick(&divisors);
    let target = b.int64s(&[3], &[0, signed(first), -1]);
    b.apply("Reshape", &[&x.name, &target], Vec::new(), &x, vec![x.shape[0], first, count / first], x.bound)
}

fn reshape_fixed(b: &mut Builder) -> Option<()> {
    let x = any(b, 1)?;
    let target = b.int64s(&[1], &[signed(x.elements())]);
    b.apply("Reshape", &[&x.name, &target], Vec::new(), &x, vec![x.elements()], x.bound)
}

fn permute(b: &mut Builder, first: usize) -> Option<()> {
    let x = any(b, first + 2)?;
    let mut order: Vec<usize> = (0..x.rank()).collect();
    for at in (first + 1..order.len()).rev() {
        let other = b.random.between(first, at);
        order.swap(at, other);
    }
    let shape = order.iter().map(|&at| x.shape[at]).collect();
    let perm: Vec<i64> = order.into_iter().map(signed).collect();
    b.apply("Transpose", &[&x.name], vec![ints("perm", &perm)], &x, shape, x.bound)
}

fn transpose_inner(b: &mut Builder) -> Option<()> {
    permute(b, 1)
}

fn transpose(b: &mut Builder) -> Option<()> {
    permute(b, 0)
}

fn concat(b: &mut Builder) -> Option<()> {
    let x = b.choose_float(2)?;
    let axis = b.axis(&x).filter(|&axis| axis > 0)?;
    let alike = |y: &Held| (0..x.rank()).all(|at| at == axis || y.shape[at] == x.shape[at]);
    let y = b.choose(|y| y.dtype == x.dtype && y.rank() == x.rank() && alike(y))?;
    let mut shape = x.shape.clone();
    shape[axis] += y.shape[axis];
    let like = Held { noise: x.noise.max(y.noise), ..x.clone() };
    let attribute = b.axis_attribute(axis, x.rank(), b.opset >= 11);
    b.apply("Concat", &[&x.name, &y.name], vec![attribute], &like, shape, x.bound.max(y.bound))
}

fn slice(b: &mut Builder) -> Option<()> {
    let x = any(b, 2).filter(moves)?;
    let axis = b.axis(&x).filter(|&axis| axis > 0)?;
    let size = x.shape[axis];
    let start = b.random.below(size);
    let end = b.random.between(start + 1, size);
    let mut shape = x.shape.clone();
    if b.opset < 10 {
        shape[axis] = end - start;
        let attributes =
            vec![ints("starts", &[signed(start)]), ints("ends", &[signed(end)]), ints("axes", &[signed(axis)])];
        return b.apply("Slice", &[&x.name], attributes, &x, shape, x.bound);
    }
    let (from, to, step, count) = match b.random.below(3) {
        0 => (signed(start), i64::MAX, 2, (size - start).div_ceil(2)),
        1 => (-1, i64::MIN + 1, -1, size),
        _ => (signed(start) - signed(size), signed(end), 1, end - start),
    };
    shape[axis] = count;
    let [from, to, axes, steps] = [from, to, signed(axis), step].map(|value| b.int64s(&[1], &[value]));
    b.apply("Slice", &[&x.name, &from, &to, &axes, &steps], Vec::new(), &x, shape, x.bound)
}

fn reduce(b: &mut Builder) -> Option<()> {
    let x = b.choose_float(2)?;
    let axis = b.axis(&x).filter(|&axis| axis > 0)?;
    let op = b.random.pick(&["ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceSumSquare"]);
    let keep = b.random.once_in(2);
    let since = if op == "ReduceSum" { 13 } else { 18 };
    let stated = if b.opset >= 11 && b.random.once_in(2) { signed(axis) - signed(x.rank()) } else { signed(axis) };
    let (axes, mut attributes) = b.axes(&[stated], since);
    attributes.push(int("keepdims", i64::from(keep)));
    let mut shape = x.shape.clone();
    if keep {
        shape[axis] = 1;
    } else {
        shape.remove(axis);
    }
    let count = f32::from(u16::try_from(x.shape[axis]).ok()?);
    let bound = match op {
        "ReduceSum" | "ReduceL1" => x.bound * count,
        "ReduceSumSquare" => x.bound * x.bound * count,
        _ => x.bound,
    };
    let inputs: Vec<&str> = std::iter::once(x.name.as_str()).chain(axes.as_deref()).collect();
    let like = Held { noise: x.noise.max(Noise::Rounded), ..x.clone() };
    b.apply(op, &inputs, attributes, &like, shape, bound)
}

fn unsqueeze(b: &mut Builder) -> Option<()> {
    let x = any(b, 1).filter(|x| moves(x) && x.rank() < 5)?;
    let axis = b.random.between(1, x.rank());
    let (axes, attributes) = b.axes(&[signed(axis)], 13);
    let mut shape = x.shape.clone();
    shape.insert(axis, 1);
    let inputs: Vec<&str> = std::iter::once(x.name.as_str()).chain(axes.as_deref()).collect();
    b.apply("Unsqueeze", &inputs, attributes, &x, shape, x.bound)
}

fn squeeze(b: &mut Builder) -> Option<()> {
    let x = b.choose(|x| moves(x) && x.shape.iter().skip(1).any(|&size| size == 1))?;
    let axis = (1..x.rank()).find(|&at| x.shape[at] == 1)?;
    let (axes, attributes) = b.axes(&[signed(axis)], 13);
    let mut shape = x.shape.clone();
    shape.remove(axis);
    let inputs: Vec<&str> = std::iter::once(x.name.as_str()).chain(axes.as_deref()).collect();
    b.apply("Squeeze", &inputs, attributes, &x, shape, x.bound)
}

fn split(b: &mut Builder) -> Option<()> {
    let x = any(b, 2).filter(moves)?;
    let axis = b.random.between(1, x.rank() - 1);
    let size = x.shape[axis];
    let first = b.random.between(1, size.checked_sub(1).filter(|&rest| rest > 0)?);
    let parts = [first, size - first];
    let sizes = parts.map(signed);
    let attribute = b.axis_attribute(axis, x.rank(), b.opset >= 11);
    let names = [b.name("value"), b.name("value")];
    let outputs = [names[0].as_str(), &names[1]];
    if b.opset >= 13 {
        let sizes = b.int64s(&[2], &sizes);
        b.node_with("Split", &[&x.name, &sizes], &outputs, vec![attribute]);
    } else {
        b.node_with("Split", &[&x.name], &outputs, vec![attribute, ints("split", &sizes)]);
    }
    for (name, part) in names.into_iter().zip(parts) {
        let mut shape = x.shape.clone();
        shape[axis] = part;
        b.hold(Held { name, shape, ..x.clone() })?;
    }
    Some(())
}

fn pad(b: &mut Builder) -> Option<()> {
    let x = b.choose_float(2)?;
    let axis = b.random.between(1, x.rank() - 1);
    let (begin, end) = (b.random.below(3), b.random.below(3));
    let mut pads = vec![0; 2 * x.rank()];
    (pads[axis], pads[x.rank() + axis]) = (signed(begin), signed(end));
    let mut shape = x.shape.clone();
    shape[axis] += begin + end;
    if b.opset < 11 {
        return b.apply("Pad", &[&x.name], vec![ints("pads", &pads)], &x, shape, x.bound);
    }
    let pads = b.int64s(&[pads.len()], &pads);
    b.apply("Pad", &[&x.name, &pads], Vec::new(), &x, shape, x.bound)
}

fn tile(b: &mut Builder) -> Option<()> {
    let x = any(b, 1).filter(moves)?;
    let times: Vec<usize> = (0..x.rank()).map(|_| b.random.between(1, 2)).collect();
    let shape = x.shape.iter().zip(&times).map(|(size, times)| size * times).collect();
    let times: Vec<i64> = times.into_iter().map(signed).collect();
    let repeats = b.int64s(&[times.len()], &times);
    b.apply("Tile", &[&x.name, &repeats], Vec::new(), &x, shape, x.bound)
}

fn expand(b: &mut Builder) -> Option<()> {
    if b.opset < 8 {
        return None;
    }
    let x = b.choose(|x| moves(x) && x.rank() >= 1 && x.rank() < 5)?;
    let times = b.random.between(1, 3);
    let target: Vec<i64> = std::iter::once(signed(times)).chain(x.shape.iter().map(|_| 1)).collect();
    let target = b.int64s(&[target.len()], &target);
    let shape = [&[times], &x.shape[..]].concat();
    b.apply("Expand", &[&x.name, &target], Vec::new(), &x, shape, x.bound)
}

fn gather(b: &mut Builder) -> Option<()> {
    let x = any(b, 1).filter(moves)?;
    let axis = b.random.below(x.rank());
    let size = if axis == 0 && !b.fixed_rows { 1 } else { x.shape[axis] };
    let shape: &[usize] = b.random.pick(&[&[] as &[usize], &[1], &[3], &[2, 2]]);
    let negative = b.opset >= 11;
    let indices: Vec<i64> = (0..shape.iter().product())
        .map(|_| signed(b.random.below(size)) - if negative && b.random.once_in(3) { signed(size) } else { 0 })
        .collect();
    let shape = shape.to_vec();
    let indices = b.int64s(&shape, &indices);
    let whole = [&x.shape[..axis], &shape, &x.shape[axis + 1..]].concat();
    b.apply("Gather", &[&x.name, &indices], vec![int("axis", signed(axis))], &x, whole, x.bound)
}

fn cumulate(b: &mut Builder) -> Option<()> {
    if b.opset < 11 {
        return None;
    }
    let x = b.choose(|x| x.rank() >= 1 && moves(x))?;
    let axis = b.random.below(x.rank());
    let at = b.int64s(&[], &[signed(axis)]);
    let flags = vec![int("exclusive", signed(b.random.below(2))), int("reverse", signed(b.random.below(2)))];
    let count = f32::from(u16::try_from(x.shape[axis]).ok()?);
    let noise = if x.dtype == DType::F32 { x.noise.max(Noise::Rounded) } else { x.noise };
    let like = Held { noise, ..x.clone() };
    b.apply("CumSum", &[&x.name, &at], flags, &like, x.shape.clone(), x.bound * count)
}

/// Returns an input of the model: its random numbers hardly ever repeat, and of equal ones ONNX Runtime does not always
/// find the first.
fn distinct(b: &mut Builder) -> Option<Held> {
    b.choose(|x| x.name.starts_with("input_") && x.dtype == DType::F32 && x.rank() >= 2)
}

fn arg(b: &mut Builder) -> Option<()> {
    let x = distinct(b)?;
    let axis = b.random.between(1, x.rank() - 1);
    let op = b.random.pick(&["ArgMax", "ArgMin"]);
    let name = b.node(op, &[&x.name], vec![int("axis", signed(axis)), int("keepdims", 0)]);
    let mut shape = x.shape.clone();
    shape.remove(axis);
    b.hold(Held { name, shape, dtype: DType::I64, bound: 2.0, noise: Noise::Exact })
}

fn top(b: &mut Builder) -> Option<()> {
    if b.opset < 10 {
        return None;
    }
    let x = distinct(b)?;
    let axis = x.rank() - 1;
    let count = b.random.between(1, x.shape[axis]);
    let k = b.int64s(&[1], &[signed(count)]);
    let names = [b.name("value"), b.name("value")];
    b.node_with("TopK", &[&x.name, &k], &[&names[0], &names[1]], vec![int("axis", -1)]);
    let mut shape = x.shape.clone();
    shape[axis] = count;
    let [values, _indices] = names;
    b.hold(Held { name: values, shape, ..x.clone() })
}
