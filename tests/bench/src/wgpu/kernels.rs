//! Single operators at the sizes for which peers were measured.
//!
//! A turn is submit and wait, without uploading inputs and reading outputs, for us and for burn alike. Each side makes
//! one turn that is not counted before the counted one: its threads sleep then, and the caches contain the other's
//! data.

use anyhow::{Context as _, Result, ensure};
use bench::figure::Measured;
use bench::peer::{self, Peer};
use bench::race::race;
use engine::{RunControl, Session as _};
use engine_wgpu::ir::{Attribute, Attributes, ElementType, Graph, Literal, Node, OWN_DOMAIN, Value};
use engine_wgpu::session::WgpuSession;
use types::{Dim, NamedTensor, Tensor};

use super::{BUDGET_BYTES, Context};

/// Maximum difference to burn divided by the largest magnitude: 512 or 576 terms are summed in another order.
const TOLERANCE: f32 = 1e-5;

const SQUARE: [usize; 2] = [512, 512];
const IMAGE: [usize; 4] = [1, 64, 56, 56];
const FILTERS: [usize; 4] = [64, 64, 3, 3];

/// An operand: its value, and whether it is an initializer of the model.
struct Operand {
    value: Literal,
    constant: bool,
}

/// Returns numbers that are neither zero nor equal, so that no driver takes a short cut; peers use the same.
fn numbers(shape: &[usize]) -> Literal {
    let count = shape.iter().product();
    #[expect(clippy::cast_precision_loss, reason = "below 2003")]
    let values: Vec<f32> = (0..count).map(|at: usize| ((at * 7919) % 2003) as f32 / 2003.0 - 0.5).collect();
    Literal::from_f32s(shape.to_vec(), &values)
}

fn given(value: Literal) -> Operand {
    Operand { value, constant: false }
}

fn held(value: Literal) -> Operand {
    Operand { value, constant: true }
}

/// Returns a session of one operator that has run once, and its result.
fn session(context: &Context, node: Node, operands: &[Operand]) -> Result<(WgpuSession, Literal)> {
    let mut graph = Graph::default();
    let mut inputs = Vec::new();
    let mut request = Vec::new();
    for (at, operand) in operands.iter().enumerate() {
        let (name, value) = (format!("in{at}"), &operand.value);
        inputs.push(Some(if operand.constant {
            graph.add_constant(&name, value.clone())
        } else {
            let dims = value.shape().iter().map(|&size| Dim::Fixed(size)).collect();
            let id = graph.add_value(Value { name: name.clone(), declared: Some((value.dtype(), Some(dims))) });
            graph.inputs.push(id);
            let dtype = value.dtype().to_request().context("an operand that no request carries")?;
            let tensor = Tensor::new(dtype, value.shape().to_vec(), value.bytes().clone())?;
            request.push(NamedTensor { name, tensor });
            id
        }));
    }
    let answer = if node.op == "MatMulInteger" { ElementType::I32 } else { ElementType::F32 };
    let output = graph.add_value(Value { name: "out".into(), declared: Some((answer, None)) });
    graph.outputs.push(output);
    graph.nodes.push(Node { inputs, outputs: vec![Some(output)], ..node });
    let mut session = WgpuSession::new(context.engine.gpu().clone(), &graph, BUDGET_BYTES, None)?;
    let outputs = session.run(&request, &[], &RunControl::default())?;
    let tensor = &outputs.first().context("an operator without an output")?.tensor;
    let result = Literal::new(answer, tensor.shape().to_vec(), tensor.data().clone()).context("an answer of bytes")?;
    Ok((session, result))
}

fn node(domain: &str, op: &str, opset: i64, attributes: Attributes) -> Node {
    let (name, domain, op) = (op.to_owned(), domain.to_owned(), op.to_owned());
    Node { name, domain, op, opset, inputs: Vec::new(), outputs: Vec::new(), attributes }
}

/// Returns a product; with `naive`, one thread computes each output, as in the first lesson on GPUs.
fn matmul(naive: bool) -> Node {
    node(OWN_DOMAIN, "MatMul", 1, Attributes::default().with("plain", Attribute::Int(naive.into())))
}

fn turn(session: &mut WgpuSession) -> Result<f64> {
    Ok(session.rerun()?.as_secs_f64() * 1e3)
}

fn against_burn(context: &Context, operation: &str, node: Node, operands: &[Operand]) -> Result<Measured> {
    let mut burn = Peer::start(&peer::built("burn")?, &[operation.as_ref()])?;
    let (mut session, ours) = session(context, node, operands)?;
    let difference = peer::agree(&ours.to_f32s(), &burn.output()?, TOLERANCE)?;
    let samples = race(
        context.rounds,
        [
            &mut || {
                turn(&mut session)?;
                turn(&mut session)
            },
            &mut || {
                burn.run()?;
                burn.run()
            },
        ],
    )?;
    Ok(Measured::race(samples).noting(format!("results differ by {difference:.1e} of the largest")))
}

fn against_ourselves(context: &Context, mut one: WgpuSession, mut two: WgpuSession) -> Result<Measured> {
    Ok(Measured::race(race(context.rounds, [&mut || turn(&mut one), &mut || turn(&mut two)])?))
}

pub(super) fn matmul_and_burn(context: &Context) -> Result<Measured> {
    against_burn(context, "matmul", matmul(false), &[given(numbers(&SQUARE)), given(numbers(&SQUARE))])
}

pub(super) fn conv_and_burn(context: &Context) -> Result<Measured> {
    let attributes = Attributes::default().with("pads", Attribute::Ints(vec![1; 4]));
    let conv = node("", "Conv", 22, attributes);
    against_burn(context, "conv", conv, &[given(numbers(&IMAGE)), held(numbers(&FILTERS))])
}

pub(super) fn matmul_and_naive(context: &Context) -> Result<Measured> {
    let operands = [given(numbers(&SQUARE)), given(numbers(&SQUARE))];
    let (ours, result) = session(context, matmul(false), &operands)?;
    let (naive, expected) = session(context, matmul(true), &operands)?;
    peer::agree(&result.to_f32s(), &expected.to_f32s(), TOLERANCE)?;
    against_ourselves(context, ours, naive)
}

/// Measures a layer as models have it: the right-hand matrix is a weight.
pub(super) fn int8_and_f32(context: &Context) -> Result<Measured> {
    let integers = |least: i64| (0..512 * 512).map(|at: i64| (at * 7919) % 251 + least).collect::<Vec<_>>();
    let (left, right) = (integers(0), integers(-125));
    let literal = |dtype, values: &[i64]| Literal::from_i64s(dtype, SQUARE.to_vec(), values);
    let operands = [given(literal(ElementType::U8, &left)), held(literal(ElementType::I8, &right))];
    let (ours, result) = session(context, node("", "MatMulInteger", 10, Attributes::default()), &operands)?;
    ensure!(result.to_i64s() == product(&left, &right), "the int8 product is not exact");
    let (floats, _result) = session(context, matmul(false), &[given(numbers(&SQUARE)), held(numbers(&SQUARE))])?;
    Ok(against_ourselves(context, ours, floats)?.noting("every integer is exact"))
}

/// Computes the product of two square matrices on the host.
fn product(left: &[i64], right: &[i64]) -> Vec<i64> {
    let row_times = |row: &[i64]| {
        let mut sums = vec![0; SQUARE[1]];
        for (factor, others) in row.iter().zip(right.chunks(SQUARE[1])) {
            sums.iter_mut().zip(others).for_each(|(sum, other)| *sum += factor * other);
        }
        sums
    };
    left.chunks(SQUARE[0]).flat_map(row_times).collect()
}
