//! ArgMax and ArgMin: the position of the extreme along one axis, the first or the last of equal ones.

use super::Lines;
use crate::error::OpError;
use crate::facts::{Fact, Inputs};
use crate::ir::{ElementType, Node};
use crate::lower::{KernelBuilder, Lowering, Repr, element_groups};
use crate::ops::Rule;
use crate::ops::elementwise::math;
use crate::ops::shape::param;

/// The operators of this room.
pub(in crate::ops) const RULES: &[Rule] = &[
    Rule::device("ArgMax", infer, |n, cx| lower(n, cx, ">")),
    Rule::device("ArgMin", infer, |n, cx| lower(n, cx, "<")),
];

fn infer(node: &Node, inputs: Inputs<'_>) -> Result<Vec<Fact>, OpError> {
    let x = inputs.at(0)?;
    let (lines, at) = Lines::along(&x.shape, node.attributes.int("axis", 0)?)?;
    if lines.length == 0 {
        return Err(OpError::invalid("nothing is the extreme of no elements"));
    }
    let mut shape = x.shape.clone();
    if node.attributes.flag("keepdims", true)? {
        shape[at] = 1;
    } else {
        shape.remove(at);
    }
    Ok(vec![Fact::new(ElementType::I64, shape)])
}

fn lower(node: &Node, cx: &mut Lowering<'_>, better: &str) -> Result<(), OpError> {
    let (x, y) = (cx.input(node, 0)?, cx.output(node, 0)?);
    let (lines, _at) = Lines::along(&x.shape, node.attributes.int("axis", 0)?)?;
    let last = node.attributes.flag("select_last_index", false)?;
    let equal = if last { "|| v == best" } else { "" };
    // The first NaN is the extreme, as in NumPy.
    let nan = if x.repr == Repr::F32 { "|| (is_nan(v) && !is_nan(best))" } else { "" };
    let text = format!(
        "fn element(i: u32) -> i32 {{
    let n = param(1u); let step = param(2u);
    let base = (i / step) * n * step + i % step;
    var best = load_x(base); var at = 0;
    for (var k = 1u; k < n; k++) {{
        let v = load_x(base + k * step);
        if (v {better} best {equal} {nan}) {{ best = v; at = i32(k); }}
    }}
    return at;
}}"
    );
    let kernel = KernelBuilder::new("arg").read("x", x.repr).text(&math::needed_by(&text)).text(&text).element(y.repr);
    let elements = y.elements();
    let numbers = vec![param(elements)?, param(lines.length)?, param(lines.inner)?];
    cx.dispatch(kernel, vec![x.arg, y.arg], numbers, element_groups(elements, y.repr), lines.elements());
    Ok(())
}
