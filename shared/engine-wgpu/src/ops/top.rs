//! TopK: the largest or smallest elements along an axis.
//!
//! On the device each element counts how many stand before it, which takes the square of the axis but one launch and the
//! same bits every time. Axes longer than [`COUNTED_MAX`] are sorted on the host instead, as a host node: see
//! [`crate::segments`].

use std::cmp::Ordering;

use crate::error::OpError;
use crate::host::rearrange;
use crate::ir::{ElementType, Graph, Literal, Node};
use crate::lower::{Effort, GROUPS_MAX, KernelBuilder, Lowering, Params, Repr, THREADS, element_groups};
use crate::ops::movement::{given, integers, on_host, product, size};
use crate::ops::rule::Rule;
use crate::shape::{axis, param};
use crate::value_info::{Inputs, ValueInfo};

/// The operators of this family.
pub(super) const RULES: &[Rule] = &[Rule::device("TopK", infer, lower).with_host(evaluate)];

/// Longest axis whose elements count each other.
///
/// 16 million comparisons a row, some milliseconds on the smallest GPUs; sorting on the host costs about as much, with the
/// way there and back.
const COUNTED_MAX: usize = 4096;

/// Request of a node: axis, count, order.
#[derive(Debug, Clone)]
struct Top {
    /// Shape of both outputs.
    shape: Vec<usize>,
    /// Rows before the axis, length of the axis, elements behind it.
    outer: usize,
    n: usize,
    inner: usize,
    k: usize,
    largest: bool,
}

fn top(node: &Node, inputs: Inputs<'_>) -> Result<Top, OpError> {
    let x = inputs.at(0)?;
    let at = axis(node.attributes.int("axis", -1)?, x.rank())?;
    // Before operator set 10 an attribute.
    let k = match node.attributes.optional_int("k")? {
        Some(k) => size(k)?,
        None => match integers(inputs, 1)?[..] {
            [k] => size(k)?,
            _ => return Err(OpError::invalid("its k is not one number")),
        },
    };
    let n = x.shape[at];
    if k > n {
        return Err(OpError::invalid(format!("the first {k} of {n}")));
    }
    let mut shape = x.shape.clone();
    shape[at] = k;
    let (outer, inner) = (product(&x.shape[..at])?, product(&x.shape[at + 1..])?);
    Ok(Top { shape, outer, n, inner, k, largest: node.attributes.flag("largest", true)? })
}

/// Returns whether this node belongs on the host, by what is known before any request; a length that a request decides
/// counts as long.
pub(crate) fn is_long(
    node: &Node,
    graph: &Graph,
    assumed: &[Option<ValueInfo>],
    symbolic: &[Option<ValueInfo>],
) -> bool {
    let Some(id) = node.input(0).filter(|id| !graph.constants.contains_key(id)) else { return false };
    let length = |infos: &[Option<ValueInfo>]| {
        let x = infos.get(id.index())?.as_ref()?;
        let at = axis(node.attributes.int("axis", -1).ok()?, x.rank()).ok()?;
        Some(x.shape[at])
    };
    match (length(assumed), length(symbolic)) {
        (Some(one), Some(other)) => one != other || one > COUNTED_MAX,
        _ => true,
    }
}

fn infer(node: &Node, inputs: Inputs<'_>) -> Result<Vec<ValueInfo>, OpError> {
    let top = top(node, inputs)?;
    Ok(vec![ValueInfo::new(inputs.at(0)?.dtype, top.shape.clone()), ValueInfo::new(ElementType::I64, top.shape)])
}

/// WGSL of `fn key(i)`: a number that orders as the element does; equal zeros, NaN above everything.
fn key(repr: Repr, largest: bool) -> String {
    let ordered = match repr {
        Repr::F32 => {
            "let bits = bitcast<u32>(load_x(i)); let size = bits & 0x7fffffffu;
    var ordered = select(bits | 0x80000000u, ~bits, (bits >> 31u) == 1u);
    if (size == 0u) { ordered = 0x80000000u; }
    if (size > 0x7f800000u) { ordered = 0xffffffffu; }"
        }
        Repr::I32 | Repr::I8x4 => "let ordered = bitcast<u32>(load_x(i)) ^ 0x80000000u;",
        Repr::U32 | Repr::U8x4 => "let ordered = load_x(i);",
    };
    format!(
        "fn key(i: u32) -> u32 {{\n    {ordered}\n    return {};\n}}\n",
        if largest { "ordered" } else { "~ordered" }
    )
}

fn lower(node: &Node, cx: &mut Lowering<'_>) -> Result<(), OpError> {
    let infos = cx.input_infos(node);
    let top = top(node, Inputs(&infos))?;
    if top.n > COUNTED_MAX {
        return Err(OpError::unsupported(format!("an axis of {} elements, where no cut is possible", top.n)));
    }
    let x = cx.input(node, 0)?;
    let count = product(&top.shape)?;
    let places = match node.output(1) {
        Some(id) => cx.place(id).arg,
        None => cx.scratch(count),
    };
    let text = format!(
        "{}@compute @workgroup_size({THREADS})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {{
    let i = (group.y * {GROUPS_MAX}u + group.x) * {THREADS}u + lane;
    if (i >= param.elements) {{ return; }}
    let n = param.length; let inner = param.inner;
    let own = (i / inner) % n; let row = i - own * inner; let mine = key(i);
    var before = 0u;
    for (var k = 0u; k < n; k++) {{
        let other = key(row + k * inner);
        before += select(0u, 1u, other > mine || (other == mine && k < own));
    }}
    if (before < param.k) {{
        places[(i / (inner * n) * param.k + before) * inner + i % inner] = i32(own);
    }}
}}",
        key(x.repr, top.largest)
    );
    let kernel = KernelBuilder::new("top_k").read("x", x.repr).raw("places", "array<i32>").text(&text).finish();
    let elements = x.elements();
    let numbers = Params::sizes([("elements", elements), ("length", top.n), ("inner", top.inner), ("k", top.k)])?;
    let work = elements as u64 * u64::from(param(top.n)?);
    let effort = Effort::looping(work, top.n);
    cx.dispatch(kernel, vec![x.arg, places], numbers, element_groups(elements, Repr::I32), effort);
    let Some(values) = node.output(0) else { return Ok(()) };
    let y = cx.place(values);
    let text = format!(
        "fn element(i: u32) -> {} {{
    let inner = param.inner;
    return load_x((i / (inner * param.k) * param.length + u32(load_places(i))) * inner + i % inner);
}}",
        y.repr.wgsl()
    );
    let kernel =
        KernelBuilder::new("top_k_values").read("x", x.repr).read("places", Repr::I32).text(&text).element(y.repr);
    let numbers = Params::sizes([("elements", count), ("length", top.n), ("inner", top.inner), ("k", top.k)])?;
    cx.dispatch(kernel, vec![x.arg, places, y.arg], numbers, element_groups(count, y.repr), count as u64);
    Ok(())
}

/// Floats and integers in one order that fits their type.
enum Keys {
    Floats(Vec<f64>),
    Integers(Vec<i64>),
    Naturals(Vec<u64>),
}

impl Keys {
    fn of(x: &Literal) -> Self {
        if x.dtype().is_float() {
            return Self::Floats(x.to_f64s());
        }
        let integers = x.to_i64s();
        match x.dtype() {
            ElementType::U64 => Self::Naturals(integers.into_iter().map(i64::cast_unsigned).collect()),
            _ => Self::Integers(integers),
        }
    }

    fn compare(&self, a: usize, b: usize) -> Ordering {
        match self {
            Self::Floats(values) => {
                let (a, b) = (values[a], values[b]);
                a.partial_cmp(&b).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
            }
            Self::Integers(values) => values[a].cmp(&values[b]),
            Self::Naturals(values) => values[a].cmp(&values[b]),
        }
    }
}

fn evaluate(node: &Node, inputs: &[Option<&Literal>]) -> Result<Vec<Literal>, OpError> {
    let top = on_host(inputs, |inputs| top(node, inputs))?;
    let x = given(inputs, 0)?;
    let keys = Keys::of(x);
    let mut places = vec![0_usize; product(&top.shape)?];
    for outer in 0..top.outer {
        for i in 0..top.inner {
            let at = |own: usize| (outer * top.n + own) * top.inner + i;
            let mut order: Vec<usize> = (0..top.n).collect();
            // Stable: of equals the first comes first.
            order.sort_by(|&a, &b| {
                let rising = keys.compare(at(a), at(b));
                if top.largest { rising.reverse() } else { rising }
            });
            for (rank, own) in order.into_iter().take(top.k).enumerate() {
                places[(outer * top.k + rank) * top.inner + i] = own;
            }
        }
    }
    let (n, inner, k) = (top.n, top.inner, top.k);
    let values = rearrange(x.dtype(), top.shape.clone(), &[x], |flat| {
        Ok(Some((0, (flat / (inner * k) * n + places[flat]) * inner + flat % inner)))
    })?;
    let places: Vec<i64> = places.into_iter().map(|place| i64::try_from(place).unwrap_or(i64::MAX)).collect();
    Ok(vec![values, Literal::from_i64s(ElementType::I64, top.shape, &places)])
}
