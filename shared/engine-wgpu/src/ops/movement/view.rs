//! Operators that only give the same elements another shape, and those that do nothing.

use crate::error::OpError;
use crate::ir::{ElementType, Literal, Node};
use crate::lower::Lowering;
use crate::ops::movement::{fill, given, integers, numbers, on_host, product};
use crate::ops::rule::Rule;
use crate::shape::axis;
use crate::value_info::{Inputs, ValueInfo};

/// The operators of this family.
pub(crate) const RULES: &[Rule] = &[
    Rule::device("Reshape", |n, i| infer(n, i, reshape), lower).with_host(|n, i| evaluate(n, i, reshape)),
    Rule::device("Flatten", |n, i| infer(n, i, flatten), lower).with_host(|n, i| evaluate(n, i, flatten)),
    Rule::device("Squeeze", |n, i| infer(n, i, squeeze), lower).with_host(|n, i| evaluate(n, i, squeeze)),
    Rule::device("Unsqueeze", |n, i| infer(n, i, unsqueeze), lower).with_host(|n, i| evaluate(n, i, unsqueeze)),
    Rule::device("Identity", |n, i| infer(n, i, same), lower).with_host(|n, i| evaluate(n, i, same)),
    Rule::device("Dropout", infer_dropout, lower_dropout).with_host(evaluate_dropout),
];

/// Computes the new shape.
type Shape = fn(&Node, Inputs<'_>) -> Result<Vec<usize>, OpError>;

fn infer(node: &Node, inputs: Inputs<'_>, shape: Shape) -> Result<Vec<ValueInfo>, OpError> {
    Ok(vec![ValueInfo::new(inputs.at(0)?.dtype, shape(node, inputs)?)])
}

fn lower(node: &Node, cx: &mut Lowering<'_>) -> Result<(), OpError> {
    let from = node.input(0).ok_or_else(|| OpError::invalid("input 0 is missing"))?;
    node.output(0).map_or(Ok(()), |to| cx.alias(to, from))
}

fn evaluate(node: &Node, inputs: &[Option<&Literal>], shape: Shape) -> Result<Vec<Literal>, OpError> {
    let shape = on_host(inputs, |inputs| shape(node, inputs))?;
    let x = given(inputs, 0)?;
    x.reshaped(shape).map(|y| vec![y]).ok_or_else(|| OpError::invalid("the new shape has another number of elements"))
}

fn same(_node: &Node, inputs: Inputs<'_>) -> Result<Vec<usize>, OpError> {
    Ok(inputs.at(0)?.shape.clone())
}

fn reshape(node: &Node, inputs: Inputs<'_>) -> Result<Vec<usize>, OpError> {
    let x = &inputs.at(0)?.shape;
    let wanted = match numbers(node, inputs, "shape", 1)? {
        Some(wanted) => wanted,
        None => return Err(OpError::invalid("it has no shape")),
    };
    let zero_is_zero = node.attributes.flag("allowzero", false)?;
    let mismatch = || OpError::invalid(format!("{x:?} does not reshape to {wanted:?}"));
    let mut shape = Vec::with_capacity(wanted.len());
    let mut inferred = None;
    for (at, &size) in wanted.iter().enumerate() {
        shape.push(match size {
            0 if !zero_is_zero => *x.get(at).ok_or_else(mismatch)?,
            -1 if inferred.is_none() => {
                inferred = Some(at);
                1
            }
            size => usize::try_from(size).map_err(|_negative| mismatch())?,
        });
    }
    let (elements, rest) = (product(x)?, product(&shape)?);
    if let Some(at) = inferred {
        // Nothing divides nothing: ONNX leaves an inferred size beside a zero open; zero keeps the counts equal.
        shape[at] = elements.checked_div(rest).unwrap_or(0);
    }
    if product(&shape)? == elements { Ok(shape) } else { Err(mismatch()) }
}

fn flatten(node: &Node, inputs: Inputs<'_>) -> Result<Vec<usize>, OpError> {
    let x = &inputs.at(0)?.shape;
    let wanted = node.attributes.int("axis", 1)?;
    // Unlike other axes this one may stand behind the last.
    let at = if usize::try_from(wanted).is_ok_and(|at| at == x.len()) { x.len() } else { axis(wanted, x.len())? };
    Ok(vec![product(&x[..at])?, product(&x[at..])?])
}

fn squeeze(node: &Node, inputs: Inputs<'_>) -> Result<Vec<usize>, OpError> {
    let x = &inputs.at(0)?.shape;
    let Some(axes) = numbers(node, inputs, "axes", 1)? else {
        return Ok(x.iter().copied().filter(|&size| size != 1).collect());
    };
    let mut drop = vec![false; x.len()];
    for wanted in axes {
        let at = axis(wanted, x.len())?;
        if x[at] != 1 {
            return Err(OpError::invalid(format!("axis {wanted} of {x:?} is not of size 1")));
        }
        drop[at] = true;
    }
    Ok(x.iter().zip(drop).filter(|&(_size, drop)| !drop).map(|(&size, _drop)| size).collect())
}

fn unsqueeze(node: &Node, inputs: Inputs<'_>) -> Result<Vec<usize>, OpError> {
    let x = &inputs.at(0)?.shape;
    let axes = match node.attributes.ints("axes")? {
        Some(axes) => axes.to_vec(),
        None => integers(inputs, 1)?,
    };
    let rank = x.len() + axes.len();
    let mut fresh = vec![false; rank];
    for wanted in axes {
        let at = axis(wanted, rank)?;
        if std::mem::replace(&mut fresh[at], true) {
            return Err(OpError::invalid(format!("axis {wanted} is given twice")));
        }
    }
    let mut sizes = x.iter().copied();
    Ok(fresh.into_iter().map(|fresh| if fresh { 1 } else { sizes.next().unwrap_or(1) }).collect())
}

fn infer_dropout(node: &Node, inputs: Inputs<'_>) -> Result<Vec<ValueInfo>, OpError> {
    let x = inputs.at(0)?;
    if let Some(training) = inputs.optional_known(2)?
        && training.to_i64s().iter().any(|&flag| flag != 0)
    {
        return Err(OpError::unsupported("it is in training mode"));
    }
    // Before operator set 10 the mask had the type of the data.
    let mask = if node.opset < 10 { x.dtype } else { ElementType::Bool };
    Ok(vec![ValueInfo::new(x.dtype, x.shape.clone()), ValueInfo::new(mask, x.shape.clone())])
}

fn lower_dropout(node: &Node, cx: &mut Lowering<'_>) -> Result<(), OpError> {
    lower(node, cx)?;
    let Some(mask) = node.output(1) else { return Ok(()) };
    let one = if cx.info(mask).dtype.is_float() { 1.0_f32.to_bits() } else { 1 };
    fill(cx, mask, one)
}

fn evaluate_dropout(node: &Node, inputs: &[Option<&Literal>]) -> Result<Vec<Literal>, OpError> {
    let infos = on_host(inputs, |inputs| infer_dropout(node, inputs))?;
    let x = given(inputs, 0)?;
    let mut outputs = vec![x.clone()];
    if let (Some(_wanted), Some(mask)) = (node.output(1), infos.get(1)) {
        outputs.push(Literal::from_i64s(mask.dtype, mask.shape.clone(), &vec![1; x.elements()]));
    }
    Ok(outputs)
}
