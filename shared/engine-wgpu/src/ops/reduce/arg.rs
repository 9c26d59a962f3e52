//! ArgMax and ArgMin: the position of the extreme along one axis, the first or the last of equal ones.

use super::Lines;
use crate::error::OpError;
use crate::ir::{ElementType, Node};
use crate::lower::{Arg, Effort, KernelBuilder, Lowering, Operand, Params, Repr, element_groups};
use crate::ops::elementwise::math;
use crate::ops::rule::Rule;
use crate::shape::param;
use crate::value_info::{Inputs, ValueInfo};

/// The operators of this room.
pub(in crate::ops) const RULES: &[Rule] = &[
    Rule::device("ArgMax", infer, |n, cx| lower(n, cx, ">")),
    Rule::device("ArgMin", infer, |n, cx| lower(n, cx, "<")),
];

fn infer(node: &Node, inputs: Inputs<'_>) -> Result<Vec<ValueInfo>, OpError> {
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
    Ok(vec![ValueInfo::new(ElementType::I64, shape)])
}

/// Elements that one thread looks at; longer lines are looked at in shares, and then the best of each.
const SHARE: usize = 4096;

fn lower(node: &Node, cx: &mut Lowering<'_>, better: &str) -> Result<(), OpError> {
    let (x, y) = (cx.input(node, 0)?, cx.output(node, 0)?);
    let (lines, _at) = Lines::along(&x.shape, node.attributes.int("axis", 0)?)?;
    let last = node.attributes.flag("select_last_index", false)?;
    let equal = if last { "|| v == best" } else { "" };
    // The first NaN is the extreme, as in NumPy.
    let nan = if x.repr == Repr::F32 { "|| (is_nan(v) && !is_nan(best))" } else { "" };
    let better = format!("v {better} best {equal} {nan}");
    let mut search = Search { x, lines, better, among: None, count: lines.length };
    while search.count > SHARE {
        let shares = search.count.div_ceil(SHARE);
        let words = lines.count().checked_mul(shares).ok_or_else(|| OpError::TooLarge(vec![lines.count(), shares]))?;
        let best = Operand { arg: cx.scratch(words), repr: Repr::I32, shape: vec![lines.count(), shares] };
        search.launch(cx, &best, shares)?;
        search = Search { among: Some(best.arg), count: shares, ..search };
    }
    search.launch(cx, &y, 1)
}

/// A search for the place of the extreme of each line.
struct Search {
    x: Operand,
    lines: Lines,
    /// WGSL: whether `v` beats `best`.
    better: String,
    /// The places to look at, line by line; `None`: all.
    among: Option<Arg>,
    /// Number of candidates in a line.
    count: usize,
}

impl Search {
    /// Launches it, with so many answers a line.
    fn launch(&self, cx: &mut Lowering<'_>, y: &Operand, shares: usize) -> Result<(), OpError> {
        // None is empty.
        let share = if shares == 1 { self.count } else { SHARE };
        let place = if self.among.is_some() { "u32(load_among(line * param.count + k))" } else { "k" };
        let better = &self.better;
        let text = format!(
            "fn element(i: u32) -> i32 {{
    let step = param.inner; let line = i / param.shares;
    let base = (line / step) * param.length * step + line % step;
    let begin = (i % param.shares) * param.share; let end = min(begin + param.share, param.count);
    var k = begin;
    var at = {place}; var best = load_x(base + at * step);
    for (k = begin + 1u; k < end; k++) {{
        let place = {place}; let v = load_x(base + place * step);
        if ({better}) {{ best = v; at = place; }}
    }}
    return i32(at);
}}"
        );
        let mut kernel = KernelBuilder::new("arg").read("x", self.x.repr);
        let mut args = vec![self.x.arg];
        if let Some(among) = self.among {
            kernel = kernel.read("among", Repr::I32);
            args.push(among);
        }
        args.push(y.arg);
        let kernel = kernel.text(&math::needed_by(&text)).text(&text).element(y.repr);
        let elements = self.lines.count() * shares;
        let numbers = Params::sizes([
            ("elements", elements),
            ("length", self.lines.length),
            ("inner", self.lines.inner),
            ("count", self.count),
            ("shares", shares),
            ("share", share),
        ])?;
        let effort = Effort::looping(u64::from(param(elements)?) * u64::from(param(share)?), share);
        cx.dispatch(kernel, args, numbers, element_groups(elements, y.repr), effort);
        Ok(())
    }
}
