//! A tensor seen through strides: transposition, slicing, repetition and their relatives are all one kernel.

use crate::error::OpError;
use crate::host::rearrange;
use crate::ir::{Literal, Node};
use crate::lower::{KernelBuilder, Lowering, Operand, Params, element_groups};
use crate::ops::movement::{given, on_host};
use crate::shape::strides;
use crate::value_info::{Inputs, ValueInfo};

/// One dimension of a window: how many steps, and how many input elements each goes ahead (or back).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Step {
    /// Number of steps along the dimension.
    pub(super) size: usize,
    /// Elements of the input from one step to the next.
    pub(super) stride: i64,
}

/// Part of input 0 that an output shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Window {
    /// Shape of the output.
    pub(super) shape: Vec<usize>,
    /// The output's elements in order, as nested steps; their sizes multiply to the shape's.
    pub(super) steps: Vec<Step>,
    /// Input element that the first output element shows.
    pub(super) offset: i64,
}

/// Computes the windows of a node, one for each output.
pub(super) type Windows = fn(&Node, Inputs<'_>) -> Result<Vec<Window>, OpError>;

impl Window {
    /// The whole of a tensor.
    pub(super) fn whole(shape: &[usize]) -> Self {
        let steps = shape.iter().zip(signed_strides(shape)).map(|(&size, stride)| Step { size, stride }).collect();
        Self { shape: shape.to_vec(), steps, offset: 0 }
    }

    /// The same with as few steps as possible: single ones left out, neighbours that continue each other joined.
    fn joined(&self) -> Vec<Step> {
        let mut joined: Vec<Step> = Vec::with_capacity(self.steps.len());
        for &step in self.steps.iter().filter(|step| step.size != 1) {
            match joined.last_mut() {
                Some(outer) if i64::try_from(step.size).is_ok_and(|size| outer.stride == step.stride * size) => {
                    *outer = Step { size: outer.size * step.size, stride: step.stride };
                }
                _ => joined.push(step),
            }
        }
        joined
    }

    /// Returns whether the output is the beginning of the input's memory, so that nothing needs to move.
    fn is_prefix(&self) -> bool {
        let steps = self.joined();
        self.offset == 0 && (steps.is_empty() || (steps.len() == 1 && steps[0].stride == 1))
    }

    /// The input element at a flat position of the output.
    fn source(steps: &[Step], offset: i64, flat: usize) -> Option<usize> {
        let mut rest = flat;
        let mut at = offset;
        for step in steps.iter().rev().filter(|step| step.size > 0) {
            at += i64::try_from(rest % step.size).ok()? * step.stride;
            rest /= step.size;
        }
        usize::try_from(at).ok()
    }
}

/// Row-major strides as signed numbers; a shape that was checked never overflows them.
pub(super) fn signed_strides(shape: &[usize]) -> Vec<i64> {
    strides(shape).into_iter().map(|stride| i64::try_from(stride).unwrap_or(i64::MAX)).collect()
}

/// The infos of outputs that are windows of input 0.
pub(super) fn infer(node: &Node, inputs: Inputs<'_>, windows: Windows) -> Result<Vec<ValueInfo>, OpError> {
    let dtype = inputs.at(0)?.dtype;
    Ok(windows(node, inputs)?.into_iter().map(|window| ValueInfo::new(dtype, window.shape)).collect())
}

/// Launches the copies of outputs that are windows of input 0; those that begin where it begins share its memory.
pub(super) fn lower(node: &Node, cx: &mut Lowering<'_>, windows: Windows) -> Result<(), OpError> {
    let infos = cx.input_infos(node);
    let x_elements = Inputs(&infos).at(0)?.elements();
    let from = node.input(0).ok_or_else(|| OpError::invalid("input 0 is missing"))?;
    for (at, window) in windows(node, Inputs(&infos))?.into_iter().enumerate() {
        let Some(to) = node.output(at) else { continue };
        let y = cx.place(to);
        // The last word of packed bytes must end in zeros, so only a whole tensor of them is shared.
        if window.is_prefix() && (y.repr.per_word() == 1 || y.elements() == x_elements) {
            cx.alias(to, from)?;
        } else {
            let x = cx.operand(from)?;
            copy(cx, &x, &y, &window)?;
        }
    }
    Ok(())
}

/// Launches one copy by strides.
fn copy(cx: &mut Lowering<'_>, x: &Operand, y: &Operand, window: &Window) -> Result<(), OpError> {
    let steps = window.joined();
    let elements = y.elements();
    let mut text = format!("fn element(i: u32) -> {} {{\n    var rest = i; var at = param.offset;\n", y.repr.wgsl());
    // Innermost first: remainder and quotient by each size. Strides backwards are two's complement and wrap.
    for d in (0..steps.len()).rev() {
        text.push_str(&match d {
            0 => format!("    at += rest * param.stride[{d}];\n"),
            _ => format!("    at += (rest % param.size[{d}]) * param.stride[{d}]; rest = rest / param.size[{d}];\n"),
        });
    }
    text.push_str("    return load_x(at);\n}");
    let kernel = KernelBuilder::new("copy").read("x", x.repr).text(&text).element(y.repr);
    let sizes: Vec<usize> = steps.iter().map(|step| step.size).collect();
    let strides = steps.iter().map(|step| wrapped(step.stride)).collect::<Result<Vec<_>, _>>()?;
    let numbers = Params::sizes([("elements", elements)])?.word("offset", wrapped(window.offset)?);
    let numbers = numbers.list("size", &sizes)?.words("stride", &strides);
    cx.dispatch(kernel, vec![x.arg, y.arg], numbers, element_groups(elements, y.repr), elements as u64);
    Ok(())
}

/// A signed number as a param that wraps.
pub(super) fn wrapped(value: i64) -> Result<u32, OpError> {
    let narrow = i32::try_from(value).map(i32::cast_unsigned);
    narrow.map_err(|_wide| OpError::unsupported(format!("{value} does not fit the device's 32 bits")))
}

/// Copies on the host.
pub(super) fn evaluate(node: &Node, inputs: &[Option<&Literal>], windows: Windows) -> Result<Vec<Literal>, OpError> {
    let x = given(inputs, 0)?;
    let windows = on_host(inputs, |inputs| windows(node, inputs))?;
    let one = |window: Window| {
        if window.is_prefix()
            && let Some(same) = x.reshaped(window.shape.clone())
        {
            return Ok(same);
        }
        let steps = window.joined();
        rearrange(x.dtype(), window.shape, &[x], |flat| {
            Ok(Window::source(&steps, window.offset, flat).map(|at| (0, at)))
        })
    };
    windows.into_iter().map(one).collect()
}
