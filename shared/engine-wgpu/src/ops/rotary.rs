//! RotaryEmbedding, of ONNX (opset 23) and of com.microsoft: turns pairs of features by angles that depend on the place.

use crate::error::OpError;
use crate::fault::Fault;
use crate::ir::Node;
use crate::lower::{KernelBuilder, Lowering, Params, Repr, element_groups};
use crate::ops::rule::Rule;
use crate::value_info::{Inputs, Range, ValueInfo};

/// The operators of this family.
pub(super) const RULES: &[Rule] = &[
    Rule::device("RotaryEmbedding", infer, lower),
    Rule::device("RotaryEmbedding", infer, lower).in_domain("com.microsoft"),
];

/// Returns the positions of the inputs: position numbers, cosines, sines.
fn places(node: &Node) -> (usize, usize, usize) {
    if node.domain.is_empty() { (3, 1, 2) } else { (1, 2, 3) }
}

/// Heads, size of a head, features that turn.
fn sizes(node: &Node, shape: &[usize], cache: &[usize]) -> Result<(usize, usize, usize), OpError> {
    let count = |name: &str| -> Result<usize, OpError> {
        usize::try_from(node.attributes.int(name, 0)?)
            .map_err(|_negative| OpError::invalid(format!("{name} is negative")))
    };
    let stated = count("rotary_embedding_dim")?;
    let (heads, size) = match *shape {
        [_batch, heads, _length, size] => (heads, size),
        [_batch, _length, hidden] => {
            let size = match (count("num_heads")?, stated, cache.last()) {
                (0, 0, Some(&half)) if !node.domain.is_empty() => 2 * half,
                (0, _, _) => 0,
                (heads, _, _) => hidden / heads,
            };
            let fits = size > 0 && hidden.is_multiple_of(size);
            if !fits {
                return Err(OpError::invalid(format!("num_heads does not divide {hidden} features")));
            }
            (hidden / size, size)
        }
        _ => return Err(OpError::invalid(format!("an input of shape {shape:?}"))),
    };
    let turned = if stated == 0 { size } else { stated };
    if turned > size || turned % 2 != 0 || cache.last() != Some(&(turned / 2)) {
        return Err(OpError::invalid(format!("{turned} of {size} features turn by a cache of {cache:?}")));
    }
    Ok((heads, size, turned))
}

fn infer(node: &Node, inputs: Inputs<'_>) -> Result<Vec<ValueInfo>, OpError> {
    let (_positions, cos, sin) = places(node);
    let x = inputs.at(0)?;
    let (cos, sin) = (inputs.at(cos)?, inputs.at(sin)?);
    if cos.shape != sin.shape || !x.dtype.is_float() {
        return Err(OpError::invalid("its caches differ in shape, or it turns no floats"));
    }
    sizes(node, &x.shape, &cos.shape)?;
    Ok(vec![ValueInfo::new(x.dtype, x.shape.clone())])
}

fn lower(node: &Node, cx: &mut Lowering<'_>) -> Result<(), OpError> {
    let (at_positions, cos, sin) = places(node);
    let (x, y) = (cx.input(node, 0)?, cx.output(node, 0)?);
    let (cos, sin) = (cx.input(node, cos)?, cx.input(node, sin)?);
    let positions = cx.optional_input(node, at_positions)?;
    let (heads, size, turned) = sizes(node, &x.shape, &cos.shape)?;
    let (batch, length) = match x.shape[..] {
        [batch, _, length, _] | [batch, length, _] => (batch, length),
        _ => return Err(OpError::invalid("an input of another rank")),
    };
    let mut args = vec![x.arg, cos.arg, sin.arg];
    let mut kernel = KernelBuilder::new("rotary").read("x", x.repr).read("cos", cos.repr).read("sin", sin.repr);
    let place = match &positions {
        Some(positions) => {
            kernel = kernel.read("positions", positions.repr);
            args.push(positions.arg);
            if positions.elements() == 1 && !node.domain.is_empty() {
                "u32(load_positions(0u)) + place"
            } else if positions.elements() == batch * length {
                "u32(load_positions(batch * param.length + place))"
            } else {
                return Err(OpError::invalid(format!("positions of shape {:?}", positions.shape)));
            }
        }
        None if cos.elements() == batch * length * turned / 2 => "batch * param.length + place",
        None => return Err(OpError::invalid("without positions its caches must have a row for each place")),
    };
    args.push(y.arg);
    let rows = cos.elements() / (turned / 2).max(1);
    if rows == 0 && y.elements() > 0 {
        return Err(OpError::invalid("its caches are empty"));
    }
    // A single position is that of the first place, the others follow it.
    let last = i64::try_from(rows).unwrap_or(i64::MAX) - 1;
    let behind = if place.contains("+ place") { i64::try_from(length).unwrap_or(i64::MAX) } else { 0 };
    let known = positions.is_none() || cx.input_range(node, at_positions).within(Range::new(0, last - behind));
    let check = match known {
        true => String::new(),
        // A negative position is a very large row.
        false => format!("if (row >= param.rows) {{ {} }}", Fault::Index.report()),
    };
    let (index, pair) = if node.attributes.flag("interleaved", false)? {
        ("feature / 2u", "select(i - 1u, i + 1u, feature % 2u == 0u)")
    } else {
        ("feature % half", "select(i - half, i + half, feature < half)")
    };
    let first = if pair.contains("% 2u") { "feature % 2u == 0u" } else { "feature < half" };
    // In [batch, heads, length, size] the place runs inside the heads, in [batch, length, hidden] outside.
    let place_of = if x.shape.len() == 4 {
        "i / param.size % param.length"
    } else {
        "i / param.size / param.heads % param.length"
    };
    let text = format!(
        "fn element(i: u32) -> f32 {{
    let feature = i % param.size;
    let x = load_x(i);
    if (feature >= param.turned) {{ return x; }}
    let half = param.turned / 2u;
    let place = {place_of};
    let batch = i / (param.size * param.length * param.heads);
    let row = {place};
    {check}
    let at = min(row, param.rows - 1u) * half + {index};
    let other = load_x({pair});
    let sign = select(1.0, -1.0, {first});
    return load_cos(at) * x + sign * load_sin(at) * other;
}}"
    );
    let elements = y.elements();
    let numbers = Params::sizes([
        ("elements", elements),
        ("size", size),
        ("turned", turned),
        ("length", length),
        ("heads", heads),
        ("rows", rows),
    ])?;
    let work = u64::try_from(elements).unwrap_or(u64::MAX);
    cx.dispatch(kernel.text(&text).element(Repr::F32), args, numbers, element_groups(elements, Repr::F32), work);
    Ok(())
}
