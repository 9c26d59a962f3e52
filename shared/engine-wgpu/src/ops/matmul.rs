//! MatMul, Gemm and their fused forms: describe a [`Product`] and let it choose its kernel.

use crate::error::OpError;
use crate::ir::{ElementType, Literal, Node, OWN_DOMAIN};
use crate::lower::{Lowering, Operand};
use crate::ops::elementwise::checked;
use crate::ops::epilogue::Epilogue;
use crate::ops::product::{Bias, Constant, Matrix, Product};
use crate::ops::rule::Rule;
use crate::shape::{broadcast, broadcast_strides, strides};
use crate::value_info::{Inputs, Range, ValueInfo};

/// The operators of this family.
///
/// `sanderling::MatMul` is `MatMul` with inputs bias (broadcast to the output) and residual, the attributes of
/// [`crate::ops::epilogue`], `transA`, `transB`, `alpha`, and `plain` = 1 for the yardstick kernel. `turnA`, `turnB`, `turnY` = 1:
/// that operand, or the output, is `[batch, rows, heads, columns]` where the product is of `[batch, heads, rows, columns]`.
pub(super) const RULES: &[Rule] = &[
    Rule::device("MatMul", infer_matmul, lower_matmul).with_host(host_matmul),
    Rule::device("FusedMatMul", infer_matmul, lower_matmul).in_domain("com.microsoft"),
    Rule::device("MatMul", infer_matmul, lower_matmul).in_domain(OWN_DOMAIN),
    Rule::device("Gemm", infer_gemm, lower_gemm),
    Rule::device("Gemm", infer_gemm, lower_gemm).in_domain(OWN_DOMAIN),
];

/// A product's sizes, from the shapes of its operands.
#[derive(Debug)]
struct Sizes {
    batch: Vec<usize>,
    m: usize,
    n: usize,
    k: usize,
    y: Vec<usize>,
}

/// Which operands are transposed in their last two dimensions.
fn transposes(node: &Node) -> Result<(bool, bool), OpError> {
    let attributes = &node.attributes;
    if attributes.flag("transBatchA", false)? || attributes.flag("transBatchB", false)? {
        return Err(OpError::unsupported("transBatchA and transBatchB are not supported"));
    }
    Ok((attributes.flag("transA", false)?, attributes.flag("transB", false)?))
}

/// Which of the operands and the output have their heads behind their rows.
fn turns(node: &Node) -> Result<[bool; 3], OpError> {
    let [a, b, y] = ["turnA", "turnB", "turnY"].map(|name| node.attributes.flag(name, false));
    Ok([a?, b?, y?])
}

/// The shape with heads in front of rows, or the other way round.
fn turned(shape: &[usize], turn: bool) -> Vec<usize> {
    match *shape {
        [batch, rows, heads, columns] if turn => vec![batch, heads, rows, columns],
        _ => shape.to_vec(),
    }
}

fn sizes(a: &[usize], b: &[usize], transposes: (bool, bool)) -> Result<Sizes, OpError> {
    if a.is_empty() || b.is_empty() {
        return Err(OpError::invalid("a scalar cannot be multiplied as a matrix"));
    }
    let mismatch = || OpError::invalid(format!("shapes {a:?} and {b:?} cannot be multiplied"));
    // A vector on the left is a row, on the right a column, and leaves no dimension in the result.
    let (batch_a, m, k) = match (a, transposes.0) {
        ([k], _) => (&a[..0], 1, *k),
        ([batch @ .., m, k], false) | ([batch @ .., k, m], true) => (batch, *m, *k),
        ([], _) => return Err(mismatch()),
    };
    let (batch_b, k_b, n) = match (b, transposes.1) {
        ([k], _) => (&b[..0], *k, 1),
        ([batch @ .., k, n], false) | ([batch @ .., n, k], true) => (batch, *k, *n),
        ([], _) => return Err(mismatch()),
    };
    if k != k_b {
        return Err(mismatch());
    }
    let batch = broadcast(batch_a, batch_b)?;
    let mut y = batch.clone();
    if a.len() > 1 {
        y.push(m);
    }
    if b.len() > 1 {
        y.push(n);
    }
    Ok(Sizes { batch, m, n, k, y })
}

fn infer_matmul(node: &Node, inputs: Inputs<'_>) -> Result<Vec<ValueInfo>, OpError> {
    let (a, b) = (inputs.at(0)?, inputs.at(1)?);
    if a.dtype != b.dtype {
        return Err(OpError::invalid(format!("its inputs are {} and {}", a.dtype, b.dtype)));
    }
    let whole = matches!(a.dtype, ElementType::I32 | ElementType::I64 | ElementType::U32 | ElementType::U64);
    if !a.dtype.is_float() && !whole {
        return Err(OpError::invalid(format!("it multiplies {}", a.dtype)));
    }
    let scaled = [("alpha", 1.0), ("beta", 1.0)].map(|(name, default)| node.attributes.float(name, default));
    if whole && scaled.iter().flatten().any(|&factor| factor.fract() != 0.0 || factor.abs() > 1.0e6) {
        return Err(OpError::unsupported("a product of integers scaled by a fraction"));
    }
    let turns = turns(node)?;
    if turns.contains(&true) && (a.rank() != 4 || b.rank() != 4) {
        return Err(OpError::invalid("it moves heads of what has none"));
    }
    let sizes = sizes(&turned(&a.shape, turns[0]), &turned(&b.shape, turns[1]), transposes(node)?)?;
    if inputs.optional(2).is_some() && (a.rank() < 2 || b.rank() < 2) {
        return Err(OpError::unsupported("a bias on a product of vectors"));
    }
    if let Some(bias) = inputs.optional(2)
        && broadcast(&bias.shape, &sizes.y)? != sizes.y
    {
        return Err(OpError::invalid("its bias does not broadcast to its output"));
    }
    Ok(vec![ValueInfo::new(a.dtype, turned(&sizes.y, turns[2]))])
}

fn lower_matmul(node: &Node, cx: &mut Lowering<'_>) -> Result<(), OpError> {
    let (transposes, turns) = (transposes(node)?, turns(node)?);
    let (a, b, y) = (cx.input(node, 0)?, cx.input(node, 1)?, cx.output(node, 0)?);
    let (a_shape, b_shape) = (turned(&a.shape, turns[0]), turned(&b.shape, turns[1]));
    let Sizes { mut batch, mut m, n, k, .. } = sizes(&a_shape, &b_shape, transposes)?;
    let (left, right) = ((transposes.0, turns[0], Side::Left), (transposes.1, turns[1], Side::Right));
    let mut left = matrix(&a, Constant::of(cx, node.input(0)), left, &batch);
    let mut right = matrix(&b, Constant::of(cx, node.input(1)), right, &batch);
    let bias = cx.optional_input(node, 2)?;
    // Many matrices times one are one tall matrix times one.
    if right.batch.iter().all(|&stride| stride == 0)
        && !transposes.0
        && turns == [false; 3]
        && bias.as_ref().is_none_or(|b| b.shape.len() <= 1)
    {
        let rows = batch.iter().product::<usize>() * m;
        if a.elements() == rows * k {
            (batch, m, left.batch, right.batch) = (Vec::new(), rows, Vec::new(), Vec::new());
        }
    }
    let (y_batch, y_row) = match turned(&strides(&y.shape), turns[2]).as_slice() {
        [batch @ .., row, _column] if turns[2] => (batch.to_vec(), *row),
        _ => (strides(&batch).into_iter().map(|stride| stride * m * n).collect(), n),
    };
    let full: Vec<usize> = batch.iter().copied().chain([m, n]).collect();
    let bias = bias.map(|operand| {
        let mut batch = broadcast_strides(&operand.shape, &full);
        let col = batch.pop().unwrap_or(0);
        let row = batch.pop().unwrap_or(0);
        Bias { operand, beta: 1.0, batch, row, col }
    });
    let epilogue = Epilogue::of(node, cx, 3)?;
    let alpha = node.attributes.float("alpha", 1.0)?;
    let plain = node.attributes.flag("plain", false)?;
    let checked = may_overflow(node, cx, k, alpha);
    Product { batch, m, n, k, a: left, b: right, alpha, bias, y: y.arg, y_batch, y_row, epilogue, plain, checked }
        .lower(cx)
}

/// Returns whether a product of `terms` terms a sum is of 64-bit integers that may not fit 32 bits.
fn may_overflow(node: &Node, cx: &Lowering<'_>, terms: usize, alpha: f32) -> bool {
    let Some(dtype) = node.output(0).map(|id| cx.info(id).dtype).filter(|&dtype| checked::is_wide(dtype)) else {
        return false;
    };
    let product = cx.input_range(node, 0).times(cx.input_range(node, 1));
    let plain = (alpha - 1.0).abs() < f32::EPSILON && node.input(2).is_none();
    !plain || !product.summed(terms).within(Range::of_type(dtype))
}

/// Which operand of a product: decides how a vector counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Left,
    Right,
}

/// An operand as matrices over these batch dimensions: transposed or not, its heads behind its rows or not.
fn matrix(
    operand: &Operand,
    constant: Option<Constant>,
    (transposed, turn, side): (bool, bool, Side),
    batch: &[usize],
) -> Matrix {
    let (shape, steps) = (turned(&operand.shape, turn), turned(&strides(&operand.shape), turn));
    let (row, col, own) = match (shape.as_slice(), steps.as_slice()) {
        ([own @ .., _, _], [.., row, col]) if transposed => (*col, *row, own),
        ([own @ .., _, _], [.., row, col]) => (*row, *col, own),
        ([size], _) if side == Side::Left => (*size, 1, &shape[..0]),
        _ => (1, 1, &shape[..0]),
    };
    // Where it repeats, it goes on doing so.
    let missing = batch.len() - own.len();
    let repeats = broadcast_strides(own, batch).into_iter().map(|step| step == 0).enumerate();
    let batch = repeats.map(|(at, repeats)| if repeats { 0 } else { steps[at - missing] }).collect();
    Matrix { arg: operand.arg, repr: operand.repr, constant, offset: 0, batch, row, col }
}

fn infer_gemm(node: &Node, inputs: Inputs<'_>) -> Result<Vec<ValueInfo>, OpError> {
    let (a, b) = (inputs.at(0)?, inputs.at(1)?);
    if a.rank() != 2 || b.rank() != 2 {
        return Err(OpError::invalid("its operands are not matrices"));
    }
    infer_matmul(node, inputs)
}

fn lower_gemm(node: &Node, cx: &mut Lowering<'_>) -> Result<(), OpError> {
    let transposes = transposes(node)?;
    let (a, b, y) = (cx.input(node, 0)?, cx.input(node, 1)?, cx.output(node, 0)?);
    let Sizes { m, n, k, .. } = sizes(&a.shape, &b.shape, transposes)?;
    let left = matrix(&a, Constant::of(cx, node.input(0)), (transposes.0, false, Side::Left), &[]);
    let right = matrix(&b, Constant::of(cx, node.input(1)), (transposes.1, false, Side::Right), &[]);
    let beta = node.attributes.float("beta", 1.0)?;
    let bias = cx.optional_input(node, 2)?.map(|operand| {
        let steps = broadcast_strides(&operand.shape, &[m, n]);
        Bias { operand, beta, batch: Vec::new(), row: steps[0], col: steps[1] }
    });
    let epilogue = Epilogue::of(node, cx, 3)?;
    let alpha = node.attributes.float("alpha", 1.0)?;
    let plain = node.attributes.flag("plain", false)?;
    let (batch, y_batch) = (Vec::new(), Vec::new());
    let checked = may_overflow(node, cx, k, alpha);
    Product { batch, m, n, k, a: left, b: right, alpha, bias, y: y.arg, y_batch, y_row: n, epilogue, plain, checked }
        .lower(cx)
}

/// Most multiply-adds the host does while planning; shape subgraphs have tens.
const HOST_WORK_MAX: usize = 1 << 32;

fn host_matmul(_node: &Node, inputs: &[Option<&Literal>]) -> Result<Vec<Literal>, OpError> {
    let given =
        |at: usize| inputs.get(at).copied().flatten().ok_or_else(|| OpError::invalid(format!("input {at} is missing")));
    let (a, b) = (given(0)?, given(1)?);
    let Sizes { batch, m, n, k, y } = sizes(a.shape(), b.shape(), (false, false))?;
    let count: usize = batch.iter().product();
    if count.saturating_mul(m).saturating_mul(n).saturating_mul(k) > HOST_WORK_MAX {
        return Err(OpError::unsupported("a product of constants is too large to be folded"));
    }
    let (batch_a, batch_b) =
        (&a.shape()[..a.shape().len().saturating_sub(2)], &b.shape()[..b.shape().len().saturating_sub(2)]);
    let (step_a, step_b) = (broadcast_strides(batch_a, &batch), broadcast_strides(batch_b, &batch));
    let (values_a, values_b) = (a.to_f64s(), b.to_f64s());
    let mut out = Vec::with_capacity(count * m * n);
    for z in 0..count {
        let (mut rest, mut at_a, mut at_b) = (z, 0, 0);
        for d in (0..batch.len()).rev() {
            at_a += rest % batch[d] * step_a[d] * m * k;
            at_b += rest % batch[d] * step_b[d] * k * n;
            rest /= batch[d];
        }
        for row in 0..m {
            for col in 0..n {
                out.push((0..k).map(|i| values_a[at_a + row * k + i] * values_b[at_b + i * n + col]).sum());
            }
        }
    }
    Ok(vec![Literal::from_f64s(a.dtype(), y, &out)])
}
