//! The `Reduce*` operators. Axes are an attribute in older operator sets, an input in newer ones.

use super::fold::Fold;
use crate::error::OpError;
use crate::ir::{ElementType, Literal, Node};
use crate::lower::{Lowering, Repr};
use crate::ops::elementwise::checked;
use crate::ops::elementwise::host::given;
use crate::ops::movement::{numbers, on_host};
use crate::ops::rule::Rule;
use crate::shape::{axis, strides};
use crate::value_info::{Inputs, Range, ValueInfo};

/// The operators of this room.
pub(in crate::ops) const RULES: &[Rule] = &[
    Rule::device("ReduceSum", infer, lower).with_host(host),
    Rule::device("ReduceMean", infer, lower).with_host(host),
    Rule::device("ReduceProd", infer, lower).with_host(host),
    Rule::device("ReduceMax", infer, lower).with_host(host),
    Rule::device("ReduceMin", infer, lower).with_host(host),
    Rule::device("ReduceSumSquare", infer, lower).with_host(host),
    Rule::device("ReduceL1", infer, lower).with_host(host),
    Rule::device("ReduceL2", infer, lower).with_host(host),
    Rule::device("ReduceLogSum", infer, lower).with_host(host),
    Rule::device("ReduceLogSumExp", infer, lower).with_host(host),
];

/// The axes that a node reduces, sorted, each once.
fn axes(node: &Node, inputs: Inputs<'_>) -> Result<Vec<usize>, OpError> {
    let rank = inputs.at(0)?.rank();
    let stated = numbers(node, inputs, "axes", 1)?.unwrap_or_default();
    if stated.is_empty() {
        let none = node.attributes.flag("noop_with_empty_axes", false)?;
        return Ok(if none { Vec::new() } else { (0..rank).collect() });
    }
    let mut axes = stated.into_iter().map(|at| axis(at, rank)).collect::<Result<Vec<_>, _>>()?;
    axes.sort_unstable();
    axes.dedup();
    Ok(axes)
}

fn infer(node: &Node, inputs: Inputs<'_>) -> Result<Vec<ValueInfo>, OpError> {
    let x = inputs.at(0)?;
    let axes = axes(node, inputs)?;
    let keep = node.attributes.flag("keepdims", true)?;
    let shape = (x.shape.iter().enumerate())
        .filter_map(|(d, &size)| if axes.contains(&d) { keep.then_some(1) } else { Some(size) })
        .collect();
    Ok(vec![ValueInfo::new(x.dtype, shape)])
}

fn fold(op: &str, repr: Repr) -> Result<Fold, OpError> {
    let sum = Fold::SUM;
    let float = repr == Repr::F32;
    let extreme = |float_join, float_start, join, start| Fold {
        join: if float { float_join } else { join },
        start: if float { float_start } else { start },
        ..sum
    };
    let (least, most) = match repr {
        Repr::F32 | Repr::I32 => ("i32(-2147483647 - 1)", "i32(2147483647)"),
        Repr::U32 => ("0u", "4294967295u"),
        Repr::I8x4 => ("-128", "127"),
        Repr::U8x4 => ("0u", "255u"),
    };
    Ok(match op {
        "ReduceSum" => sum,
        "ReduceMean" => Fold::MEAN,
        "ReduceProd" => Fold { start: "T(1)", join: "a * b", ..sum },
        "ReduceMax" => extreme("larger(a, b)", "-infinity()", "max(a, b)", least),
        "ReduceMin" => extreme("smaller(a, b)", "infinity()", "min(a, b)", most),
        "ReduceSumSquare" => Fold::SQUARES,
        "ReduceL1" if matches!(repr, Repr::U32 | Repr::U8x4) => sum,
        "ReduceL1" => Fold::ABSOLUTES,
        "ReduceL2" => Fold { finish: "T(sqrt(f32(a)))", ..Fold::SQUARES },
        "ReduceLogSum" => Fold { finish: "T(log(f32(a)))", ..sum },
        "ReduceLogSumExp" if float => {
            Fold { term: "exp(x - most)", finish: "select(log(a) + most, most, is_inf(most))", shifted: true, ..sum }
        }
        other => return Err(OpError::unsupported(format!("{other} of integers"))),
    })
}

fn lower(node: &Node, cx: &mut Lowering<'_>) -> Result<(), OpError> {
    let axes = axes(node, Inputs(&cx.input_infos(node)))?;
    let (x, y) = (cx.input(node, 0)?, cx.output(node, 0)?);
    // Bool is 0 or 1 on the device: the empty maximum is false, the empty minimum true, which min and max of all bits would not be.
    let mut fold = fold(&node.op, x.repr)?;
    if node.input(0).is_some_and(|id| cx.info(id).dtype == ElementType::Bool) {
        fold.start = if node.op == "ReduceMin" { "T(1)" } else { "T(0)" };
    }
    let dtype = node.output(0).map_or(ElementType::F32, |id| cx.info(id).dtype);
    if checked::is_wide(dtype) {
        let count = axes.iter().map(|&at| x.shape[at]).product();
        fold = checks(fold, &node.op, checked::suffix(x.repr), cx.input_range(node, 0), count);
    }
    fold.run(cx, &x, &axes, &y)
}

/// The reduction of 64-bit integers, with a look for results beyond 32 bits where the inputs allow them.
fn checks(fold: Fold, op: &str, suffix: &str, x: Range, count: usize) -> Fold {
    let all = Range::of_type(if suffix == "i32" { ElementType::I64 } else { ElementType::U64 });
    let term = match op {
        "ReduceSumSquare" | "ReduceL2" => x.times(x),
        "ReduceL1" => x.magnitude(),
        "ReduceProd" => {
            let join = if suffix == "i32" { "checked_mul_i32(a, b)" } else { "checked_mul_u32(a, b)" };
            return Fold { join, ..fold };
        }
        _ => x,
    };
    let summed = matches!(op, "ReduceSum" | "ReduceMean" | "ReduceSumSquare" | "ReduceL1" | "ReduceL2");
    if !summed || term.summed(count).within(all) {
        return fold;
    }
    let term = match (op, suffix) {
        ("ReduceSumSquare" | "ReduceL2", "i32") => "checked_mul_i32(x, x)",
        ("ReduceSumSquare" | "ReduceL2", _) => "checked_mul_u32(x, x)",
        ("ReduceL1", "i32") => "checked_abs_i32(x)",
        _ => fold.term,
    };
    Fold { term, checked: true, ..fold }
}

fn host(node: &Node, inputs: &[Option<&Literal>]) -> Result<Vec<Literal>, OpError> {
    let x = given(inputs, 0)?;
    let (axes, info) = on_host(inputs, |infos| Ok::<_, OpError>((axes(node, infos)?, infer(node, infos)?)))?;
    let own = strides(x.shape());
    let outputs: usize = info.iter().map(ValueInfo::elements).sum();
    let mut groups: Vec<Vec<f64>> = vec![Vec::new(); outputs];
    for (at, value) in x.to_f64s().into_iter().enumerate() {
        let mut to = 0;
        for d in (0..x.shape().len()).filter(|d| !axes.contains(d)) {
            to = to * x.shape()[d] + at / own[d] % x.shape()[d];
        }
        if let Some(group) = groups.get_mut(to) {
            group.push(value);
        }
    }
    let float = x.dtype().is_float();
    let values: Vec<f64> = groups.iter().map(|group| reduced(&node.op, group, float)).collect();
    Ok(info.into_iter().map(|info| Literal::from_f64s(info.dtype, info.shape, &values)).collect())
}

#[expect(clippy::cast_precision_loss, reason = "a count of elements in memory is far below 2^53")]
fn reduced(op: &str, group: &[f64], float: bool) -> f64 {
    let sum = |f: &dyn Fn(f64) -> f64| group.iter().map(|&x| f(x)).sum::<f64>();
    let most = group.iter().fold(f64::NEG_INFINITY, |a, &b| if b > a || b.is_nan() { b } else { a });
    match op {
        "ReduceMean" if float => sum(&|x| x) / group.len() as f64,
        "ReduceMean" => (sum(&|x| x) / group.len() as f64).trunc(),
        "ReduceProd" => group.iter().product(),
        "ReduceMax" => most,
        "ReduceMin" => group.iter().fold(f64::INFINITY, |a, &b| if b < a || b.is_nan() { b } else { a }),
        "ReduceSumSquare" => sum(&|x| x * x),
        "ReduceL1" => sum(&f64::abs),
        "ReduceL2" => sum(&|x| x * x).sqrt(),
        "ReduceLogSum" => sum(&|x| x).ln(),
        "ReduceLogSumExp" if most.is_infinite() => most,
        "ReduceLogSumExp" => sum(&|x| (x - most).exp()).ln() + most,
        _ => sum(&|x| x),
    }
}
