//! Operators that compute each output element from the elements at the same place of their inputs.
//!
//! One WGSL expression each, put into the shared element kernel of [`launch`]; inputs broadcast by strides in the params.
//! Integers wrap to their own width; NaN is told by its bits, because `x != x` is false on some drivers.

pub(super) mod activation;
pub(super) mod arithmetic;
pub(super) mod bitwise;
pub(super) mod cast;
pub(in crate::ops) mod checked;
pub(super) mod compare;
mod exact;
pub(in crate::ops) mod host;
pub(crate) mod launch;
pub(crate) mod math;
pub(super) mod transcendental;
pub(super) mod variadic;

use self::launch::Element;
use crate::error::OpError;
use crate::ir::{ElementType, Node};
use crate::lower::{Lowering, Repr};
use crate::shape::broadcast;
use crate::value_info::{Inputs, ValueInfo};

/// The output is like the first input.
pub(super) fn same(_node: &Node, inputs: Inputs<'_>) -> Result<Vec<ValueInfo>, OpError> {
    let x = inputs.at(0)?;
    Ok(vec![ValueInfo::new(x.dtype, x.shape.clone())])
}

/// The output is like the first input, which must be of floats.
pub(super) fn same_float(node: &Node, inputs: Inputs<'_>) -> Result<Vec<ValueInfo>, OpError> {
    let x = inputs.at(0)?;
    if !x.dtype.is_float() {
        return Err(OpError::invalid(format!("it takes floats, not {}", x.dtype)));
    }
    same(node, inputs)
}

/// The output has the type of the first input and the shape that both broadcast to.
fn broadcasting(_node: &Node, inputs: Inputs<'_>) -> Result<Vec<ValueInfo>, OpError> {
    let (a, b) = (inputs.at(0)?, inputs.at(1)?);
    same_type(a.dtype, b.dtype)?;
    Ok(vec![ValueInfo::new(a.dtype, broadcast(&a.shape, &b.shape)?)])
}

fn same_type(a: ElementType, b: ElementType) -> Result<(), OpError> {
    if a == b { Ok(()) } else { Err(OpError::invalid(format!("its inputs are {a} and {b}"))) }
}

/// Kind of arithmetic of an element once it is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Float,
    Signed,
    Unsigned,
}

impl Class {
    fn of(repr: Repr) -> Self {
        match repr {
            Repr::F32 => Self::Float,
            Repr::I32 | Repr::I8x4 => Self::Signed,
            Repr::U32 | Repr::U8x4 => Self::Unsigned,
        }
    }
}

/// Launches an expression of `x` for each element.
fn unary(node: &Node, cx: &mut Lowering<'_>, expression: impl Fn(Class) -> String) -> Result<(), OpError> {
    let (x, y) = (cx.input(node, 0)?, cx.output(node, 0)?);
    let text = expression(Class::of(x.repr));
    Element::new("unary").input("x", x).run(cx, node, &y, &text)
}

/// Launches an expression of `a` and `b` for each element of the broadcast shape.
fn binary(node: &Node, cx: &mut Lowering<'_>, expression: impl Fn(Class) -> String) -> Result<(), OpError> {
    let (a, b, y) = (cx.input(node, 0)?, cx.input(node, 1)?, cx.output(node, 0)?);
    let text = expression(Class::of(a.repr));
    Element::new("binary").input("a", a).input("b", b).run(cx, node, &y, &text)
}
