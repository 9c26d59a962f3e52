//! `If` operators, decided by a constant, by a shape or by the data, sometimes nested.

use onnx_graph::proto::GraphProto;
use types::DType;

use super::builder::{Builder, Held, Noise, Step};
use super::floats::apply_unary;
use super::write::{info, int, subgraph};

/// Steps of this family of operators.
pub(super) const STEPS: &[Step] = &[branch];

/// Maximum depth of nested branches.
const DEPTH_MAX: usize = 2;

fn branch(b: &mut Builder) -> Option<()> {
    let x = b.choose_float(1).filter(|x| capturable(b, x))?;
    let condition = condition(b, &x)?;
    let (then, first) = side(b, &x);
    let (other, second) = side(b, &x);
    let name = b.node("If", &[&condition], vec![subgraph("then_branch", then), subgraph("else_branch", other)]);
    let noise = first.noise.max(second.noise);
    b.hold(Held { name, dtype: DType::F32, shape: x.shape.clone(), bound: first.bound.max(second.bound), noise })
}

/// Returns whether a branch may read a value: ONNX Runtime 1.32 removes `DequantizeLinear` nodes whose output a branch
/// reads, and then lacks the value or crashes.
fn capturable(b: &Builder, held: &Held) -> bool {
    held.noise != Noise::Stepped && !b.dequantized.contains(&held.name)
}

fn condition(b: &mut Builder, x: &Held) -> Option<String> {
    match b.random.below(3) {
        0 => {
            let value = u8::from(b.random.once_in(2));
            Some(b.constant(DType::Bool, &[], vec![value]))
        }
        1 => {
            let shape = b.node("Shape", &[&x.name], Vec::new());
            let (at, one) = (b.int64s(&[], &[0]), b.int64s(&[], &[1]));
            let rows = b.node("Gather", &[&shape, &at], Vec::new());
            Some(b.node("Equal", &[&rows, &one], Vec::new()))
        }
        _ => {
            let y = b.choose(|y| y.dtype == DType::F32 && y.noise == Noise::Exact)?;
            let most = b.node("ReduceMax", &[&y.name], vec![int("keepdims", 0)]);
            let limit = b.floats(&[], &[1.0]);
            (b.opset >= 9).then(|| b.node("Greater", &[&most, &limit], Vec::new()))
        }
    }
}

/// Returns a branch whose output has the shape of `x`, and the properties of the output.
fn side(b: &mut Builder, x: &Held) -> (GraphProto, Held) {
    let outer = std::mem::replace(&mut b.graph, GraphProto { name: Some("branch".into()), ..GraphProto::default() });
    let held = b.values.len();
    b.depth += 1;
    for _ in 0..b.random.between(0, 2) {
        let nested = b.depth < DEPTH_MAX && b.random.once_in(3);
        if nested {
            let _fits = branch(b);
        } else if let Some(y) = b.choose(|y| y.dtype == DType::F32 && y.shape == x.shape).filter(|y| capturable(b, y)) {
            let _fits = apply_unary(b, &y);
        }
    }
    let inner = b.values.split_off(held);
    let answer = inner.into_iter().rev().find(|y| y.dtype == DType::F32 && y.shape == x.shape);
    let answer = answer.unwrap_or_else(|| x.clone());
    // The output of a branch is computed inside it.
    let name = b.node("Identity", &[&answer.name], Vec::new());
    b.depth -= 1;
    let mut graph = std::mem::replace(&mut b.graph, outer);
    graph.output.push(info(&name, DType::F32, None));
    (graph, Held { name, ..answer })
}
