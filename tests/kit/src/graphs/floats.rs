//! Elementwise operators on floats.

use types::DType;

use super::Family;
use super::builder::{Builder, Held, Noise, Step};
use super::write::{float, int, text};

/// Steps of this family of operators.
pub(super) const STEPS: &[Step] = &[unary, unary, unary, binary, binary, with_constant, clip, divide, choose_by, prelu];

/// An operator on one float: its first operator set version, and the bound of its output.
struct Unary {
    op: &'static str,
    since: usize,
    bound: fn(f32) -> f32,
    kind: Kind,
}

#[derive(PartialEq)]
enum Kind {
    /// Produces the same bits in every engine.
    Exact,
    /// Continuous, with rounding errors in the output.
    Smooth,
    /// Discontinuous, so that its input must be exact.
    Jumps,
}

const fn unary_of(op: &'static str, since: usize, bound: fn(f32) -> f32, kind: Kind) -> Unary {
    Unary { op, since, bound, kind }
}

const UNARY: &[Unary] = &[
    unary_of("Relu", 7, |x| x, Kind::Exact),
    unary_of("Abs", 7, |x| x, Kind::Exact),
    unary_of("Neg", 7, |x| x, Kind::Exact),
    unary_of("Identity", 7, |x| x, Kind::Exact),
    unary_of("Sigmoid", 7, |_| 1.0, Kind::Smooth),
    unary_of("Tanh", 7, |_| 1.0, Kind::Smooth),
    unary_of("Exp", 7, f32::exp, Kind::Smooth),
    unary_of("Softplus", 7, |x| x + 1.0, Kind::Smooth),
    unary_of("Softsign", 7, |_| 1.0, Kind::Smooth),
    unary_of("LeakyRelu", 7, |x| x, Kind::Smooth),
    unary_of("Elu", 7, |x| x, Kind::Smooth),
    unary_of("Selu", 7, |x| 2.0 * x, Kind::Smooth),
    unary_of("HardSigmoid", 7, |_| 1.0, Kind::Smooth),
    unary_of("Sin", 7, |_| 1.0, Kind::Smooth),
    unary_of("Cos", 7, |_| 1.0, Kind::Smooth),
    unary_of("Atan", 7, |_| 2.0, Kind::Smooth),
    unary_of("Erf", 9, |_| 1.0, Kind::Smooth),
    unary_of("Sinh", 9, f32::exp, Kind::Smooth),
    unary_of("Asinh", 9, |x| x, Kind::Smooth),
    unary_of("Celu", 12, |x| x, Kind::Smooth),
    unary_of("HardSwish", 14, |x| x, Kind::Smooth),
    unary_of("Mish", 18, |x| x, Kind::Smooth),
    unary_of("Gelu", 20, |x| x, Kind::Smooth),
    unary_of("Floor", 7, |x| x + 1.0, Kind::Jumps),
    unary_of("Ceil", 7, |x| x + 1.0, Kind::Jumps),
    unary_of("Sign", 9, |_| 1.0, Kind::Jumps),
    unary_of("ThresholdedRelu", 10, |x| x, Kind::Jumps),
    unary_of("Round", 11, |x| x + 1.0, Kind::Jumps),
];

fn unary(b: &mut Builder) -> Option<()> {
    let x = b.choose_float(0)?;
    apply_unary(b, &x).map(|_name| ())
}

/// Applies a random suitable operator on one float, and returns the name of its output.
pub(super) fn apply_unary(b: &mut Builder, x: &Held) -> Option<String> {
    let opset = b.opset;
    let fits = |unary: &&Unary| {
        unary.since <= opset && (unary.kind != Kind::Jumps || x.noise == Noise::Exact) && (unary.bound)(x.bound) < 500.0
    };
    let fitting: Vec<&Unary> = UNARY.iter().filter(fits).collect();
    let unary = b.random.pick(&fitting);
    let attributes = match unary.op {
        "LeakyRelu" | "Elu" | "Celu" if b.random.once_in(2) => vec![float("alpha", 0.3)],
        "Gelu" if b.random.once_in(2) => vec![text("approximate", "tanh")],
        _ => Vec::new(),
    };
    let noise = if unary.kind == Kind::Smooth { x.noise.max(Noise::Rounded) } else { x.noise };
    let like = Held { noise, ..x.clone() };
    b.apply(unary.op, &[&x.name], attributes, &like, x.shape.clone(), (unary.bound)(x.bound))?;
    b.values.last().map(|held| held.name.clone())
}

/// Returns the shape that two shapes broadcast to.
pub(super) fn broadcast(a: &[usize], b: &[usize]) -> Option<Vec<usize>> {
    let rank = a.len().max(b.len());
    let size = |of: &[usize], at: usize| (at + of.len()).checked_sub(rank).map_or(1, |at| of[at]);
    (0..rank)
        .map(|at| match (size(a, at), size(b, at)) {
            (x, y) if x == y || y == 1 => Some(x),
            (1, y) => Some(y),
            _ => None,
        })
        .collect()
}

/// Returns whether combining these two keeps rows separate: the batch of one never meets another dimension of the
/// other.
fn keeps_rows(b: &Builder, x: &Held, y: &Held) -> bool {
    b.family == Family::Any || x.rank() == y.rank()
}

fn binary(b: &mut Builder) -> Option<()> {
    let x = b.choose_float(0)?;
    let y = b.choose(|y| y.dtype == DType::F32 && broadcast(&x.shape, &y.shape).is_some())?;
    if !keeps_rows(b, &x, &y) {
        return None;
    }
    let op = b.random.pick(&["Add", "Sub", "Mul", "Max", "Min", "Sum"]);
    if matches!(op, "Max" | "Min" | "Sum") && b.opset < 8 && x.shape != y.shape {
        return None;
    }
    let bound = if op == "Mul" { x.bound * y.bound } else { x.bound + y.bound };
    let rounds = if matches!(op, "Max" | "Min") { Noise::Exact } else { Noise::Rounded };
    let like = Held { noise: x.noise.max(y.noise).max(rounds), ..x.clone() };
    let shape = broadcast(&x.shape, &y.shape)?;
    let (first, second) = if b.random.once_in(2) { (&x, &y) } else { (&y, &x) };
    let (first, second) = (first.name.clone(), second.name.clone());
    b.apply(op, &[&first, &second], Vec::new(), &like, shape, bound)
}

/// Returns a shape that broadcasts to another: its last dimensions, some of them 1.
pub(super) fn part_of_shape(b: &mut Builder, shape: &[usize]) -> Vec<usize> {
    let first = usize::from(b.family == Family::Layers || !b.fixed_rows).min(shape.len());
    let from = b.random.between(first, shape.len());
    shape[from..].iter().map(|&size| if b.random.once_in(3) { 1 } else { size }).collect()
}

fn with_constant(b: &mut Builder) -> Option<()> {
    let x = b.choose_float(1)?;
    let op = b.random.pick(&["Add", "Sub", "Mul", "Div", "Max", "Min", "Pow"]);
    let shape = part_of_shape(b, &x.shape);
    if matches!(op, "Max" | "Min") && b.opset < 8 && shape != x.shape {
        return None;
    }
    let like = Held { noise: x.noise.max(Noise::Rounded), ..x.clone() };
    let (constant, bound) = match op {
        "Pow" => (b.floats(&[], &[2.0]), x.bound * x.bound),
        "Div" => {
            let count = shape.iter().product();
            let values: Vec<f32> = b.random.floats(count, 1.0).into_iter().map(|value| value + 2.0).collect();
            (b.floats(&shape, &values), x.bound)
        }
        "Mul" => (b.weight(&shape, 1.0), x.bound),
        _ => (b.weight(&shape, 1.0), x.bound + 1.0),
    };
    let turned = matches!(op, "Add" | "Sub" | "Mul") && b.random.once_in(3);
    let inputs = if turned { [constant.as_str(), &x.name] } else { [x.name.as_str(), &constant] };
    b.apply(op, &inputs, Vec::new(), &like, x.shape.clone(), bound)
}

fn clip(b: &mut Builder) -> Option<()> {
    let x = b.choose_float(0)?;
    if b.opset < 11 {
        return b.apply("Clip", &[&x.name], vec![float("min", -0.5), float("max", 1.5)], &x, x.shape.clone(), x.bound);
    }
    let (low, high) = (b.floats(&[], &[-0.5]), b.floats(&[], &[1.5]));
    let all = [x.name.as_str(), &low, &high];
    let inputs = match b.random.below(3) {
        0 => [all[0], all[1]].to_vec(),
        1 => [all[0], "", all[2]].to_vec(),
        _ => all.to_vec(),
    };
    b.apply("Clip", &inputs, Vec::new(), &x, x.shape.clone(), x.bound)
}

/// Adds a division, logarithm, root or reciprocal of values of at least one.
fn divide(b: &mut Builder) -> Option<()> {
    let x = b.choose_float(0)?;
    let absolute = b.node("Abs", &[&x.name], Vec::new());
    let one = b.floats(&[], &[1.0]);
    let positive = b.node("Add", &[&absolute, &one], Vec::new());
    let like = Held { noise: x.noise.max(Noise::Rounded), ..x.clone() };
    match b.random.pick(&["Div", "Log", "Sqrt", "Reciprocal"]) {
        "Div" => {
            let y = b.choose(|y| y.dtype == DType::F32 && y.shape == x.shape)?;
            let like = Held { noise: like.noise.max(y.noise), ..like };
            b.apply("Div", &[&y.name, &positive], Vec::new(), &like, x.shape.clone(), y.bound)
        }
        op => b.apply(op, &[&positive], Vec::new(), &like, x.shape.clone(), x.bound + 1.0),
    }
}

/// Adds a comparison of exact values, and a selection by it.
fn choose_by(b: &mut Builder) -> Option<()> {
    if b.opset < 9 {
        return None;
    }
    let x = b.choose(|x| x.dtype == DType::F32 && x.noise == Noise::Exact)?;
    let y = b.choose(|y| y.dtype == DType::F32 && y.shape == x.shape)?;
    let z = b.choose(|z| z.dtype == DType::F32 && z.shape == x.shape)?;
    let limit = b.floats(&[], &[0.25]);
    let comparison = b.random.pick(&["Greater", "Less"]);
    let condition = b.node(comparison, &[&x.name, &limit], Vec::new());
    let condition = if b.random.once_in(2) { b.node("Not", &[&condition], Vec::new()) } else { condition };
    let like = Held { noise: y.noise.max(z.noise), ..x.clone() };
    b.apply("Where", &[&condition, &y.name, &z.name], Vec::new(), &like, x.shape.clone(), y.bound.max(z.bound))
}

fn prelu(b: &mut Builder) -> Option<()> {
    let x = b.choose_float(2)?;
    let channels = if x.rank() == 2 { vec![x.shape[1]] } else { [&[x.shape[1]], &vec![1; x.rank() - 2][..]].concat() };
    let slope = b.weight(&channels, 1.0);
    let like = Held { noise: x.noise.max(Noise::Rounded), ..x.clone() };
    b.apply("PRelu", &[&x.name, &slope], Vec::new(), &like, x.shape.clone(), x.bound)
}

/// Adds a softmax or a related operator.
pub(super) fn softmax(b: &mut Builder) -> Option<()> {
    let x = b.choose_float(2)?;
    let op = b.random.pick(&["Softmax", "Softmax", "LogSoftmax"]);
    // Before operator set 13, all axes from this one on are flattened into one.
    let axis = if b.opset < 13 { 1 } else { b.axis(&x)? };
    let attribute = int("axis", i64::try_from(axis).ok()?);
    let bound = if op == "Softmax" { 1.0 } else { 2.0 * x.bound + 10.0 };
    let like = Held { noise: x.noise.max(Noise::Rounded), ..x.clone() };
    b.apply(op, &[&x.name], vec![attribute], &like, x.shape.clone(), bound)
}
