//! Arithmetic on integers whose results beyond 32 bits are faults; with plain WGSL where the ranges of the inputs rule that out.

use super::checked::{is_wide, suffix};
use super::launch::Element;
use super::{Class, unary};
use crate::error::OpError;
use crate::ir::{ElementType, Node};
use crate::lower::Lowering;
use crate::value_info::Range;

/// One of the operations that have a checked form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    Add,
    Sub,
    Mul,
    Div,
}

/// Lowers a sum, difference, product or quotient.
pub(super) fn arithmetic(node: &Node, cx: &mut Lowering<'_>, operation: Operation) -> Result<(), OpError> {
    let (a, b, y) = (cx.input(node, 0)?, cx.input(node, 1)?, cx.output(node, 0)?);
    let dtype = node.output(0).map_or(ElementType::F32, |id| cx.info(id).dtype);
    let text = match dtype.is_float() {
        true => plain(operation).to_owned(),
        false => {
            let ranges = (cx.input_range(node, 0), cx.input_range(node, 1));
            integers(operation, dtype, suffix(y.repr), ranges)
        }
    };
    Element::new("binary").input("a", a).input("b", b).run(cx, node, &y, &text)
}

const fn plain(operation: Operation) -> &'static str {
    match operation {
        Operation::Add => "a + b",
        Operation::Sub => "a - b",
        Operation::Mul => "a * b",
        Operation::Div => "a / b",
    }
}

fn integers(operation: Operation, dtype: ElementType, suffix: &str, (a, b): (Range, Range)) -> String {
    let result = match operation {
        Operation::Add => a.plus(b),
        Operation::Sub => a.minus(b),
        Operation::Mul => a.times(b),
        Operation::Div => {
            // The only quotient that does not fit is that of the least number and -1.
            let least = a.contains(i64::from(i32::MIN)) && b.contains(-1);
            let faulty = b.contains(0) || (least && matches!(dtype, ElementType::I32 | ElementType::I64));
            return if faulty { format!("checked_div_{suffix}(a, b)") } else { plain(operation).to_owned() };
        }
    };
    let name = match operation {
        Operation::Add => "add",
        Operation::Sub => "sub",
        Operation::Mul | Operation::Div => "mul",
    };
    if is_wide(dtype) && !result.within(Range::of_type(dtype)) {
        return format!("checked_{name}_{suffix}(a, b)");
    }
    plain(operation).to_owned()
}

/// Lowers `Neg` and `Abs`; `name` is the checked function without its ending.
pub(super) fn turned(node: &Node, cx: &mut Lowering<'_>, name: &str, plain: &str) -> Result<(), OpError> {
    let dtype = node.output(0).map_or(ElementType::F32, |id| cx.info(id).dtype);
    let least = dtype == ElementType::I64 && cx.input_range(node, 0).contains(i64::from(i32::MIN));
    unary(node, cx, |_class: Class| if least { format!("{name}_i32(x)") } else { plain.to_owned() })
}
