//! Quantized operators: floats to small integers and back, and arithmetic on the small integers themselves.
//!
//! Integer products run on one kernel ([`gemm`]) over values packed four a word along the summed dimension; what happens
//! to a finished sum (nothing, scaling to a float, requantising) is a [`finish::Finish`]. Rounding is half to even and
//! division is a division, as in ONNX Runtime, so that results agree to the bit.

pub(super) mod affine;
pub(super) mod contrib;
pub(super) mod conv;
pub(super) mod dynamic;
mod finish;
mod gemm;
mod geometry;
pub(super) mod matmul;
mod pack;

use crate::error::OpError;
use crate::ir::{ElementType, Literal, Node};
use crate::lower::{Arg, KernelBuilder, Lowering, Operand, Params};
use crate::value_info::ValueInfo;

/// The domain of ONNX Runtime's own operators.
const MICROSOFT: &str = "com.microsoft";

/// Smallest and largest value of an integer type of at most 16 bits.
fn limits(dtype: ElementType) -> Result<(i32, i32), OpError> {
    Ok(match dtype {
        ElementType::U4 => (0, 15),
        ElementType::I4 => (-8, 7),
        ElementType::U8 => (0, 255),
        ElementType::I8 => (-128, 127),
        ElementType::U16 => (0, 65_535),
        ElementType::I16 => (-32_768, 32_767),
        ElementType::Bool
        | ElementType::U32
        | ElementType::I32
        | ElementType::U64
        | ElementType::I64
        | ElementType::F16
        | ElementType::Bf16
        | ElementType::F32
        | ElementType::F64 => return Err(OpError::unsupported(format!("quantizing to {dtype}"))),
    })
}

/// Refuses anything but 8-bit integers.
fn check_bytes(info: &ValueInfo) -> Result<(), OpError> {
    match info.dtype {
        ElementType::I8 | ElementType::U8 => Ok(()),
        other => Err(OpError::unsupported(format!("integer arithmetic on {other}"))),
    }
}

/// Returns whether the top bit of each byte is flipped to make it signed.
fn flip(dtype: ElementType) -> bool {
    dtype == ElementType::U8
}

/// Zero points: one known number for all, or a tensor that the kernel reads.
#[derive(Debug, Clone)]
enum Points {
    /// The same everywhere, known now.
    Uniform(i32),
    /// One for all or one a channel, in a buffer.
    Bound(Operand),
}

impl Points {
    /// The zero points at this input; zero where it is left out.
    fn of(node: &Node, cx: &mut Lowering<'_>, at: usize) -> Result<Self, OpError> {
        let Some(id) = node.input(at) else { return Ok(Self::Uniform(0)) };
        if let Some(literal) = &cx.info(id).known
            && let Some(value) = uniform(literal)
        {
            return Ok(Self::Uniform(value));
        }
        Ok(Self::Bound(cx.operand(id)?))
    }

    /// Steps from one channel's zero point to the next: 0 where all share one.
    fn stride(&self) -> u32 {
        match self {
            Self::Uniform(_) => 0,
            Self::Bound(operand) => u32::from(operand.elements() > 1),
        }
    }

    /// Adds `fn NAME_point(channel: u32) -> i32` and what it reads; `channels` is the period of per-channel points.
    fn add_to(
        &self,
        kernel: KernelBuilder,
        name: &str,
        channels: usize,
        args: &mut Vec<Arg>,
        params: &mut Params,
    ) -> Result<KernelBuilder, OpError> {
        match self {
            Self::Uniform(value) => {
                params.extend(Params::new().signed(format!("{name}_point"), *value));
                let value = format!("bitcast<i32>(param.{name}_point)");
                Ok(kernel.text(&format!("fn {name}_point(channel: u32) -> i32 {{ return {value}; }}")))
            }
            Self::Bound(operand) => {
                let numbers = Params::new().word(format!("{name}_point_step"), self.stride());
                params.extend(numbers.size(format!("{name}_channels"), channels)?);
                args.push(operand.arg);
                Ok(kernel.read(&format!("{name}_points"), operand.repr).text(&format!(
                    "fn {name}_point(channel: u32) -> i32 {{
    return i32(load_{name}_points((channel % param.{name}_channels) * param.{name}_point_step));
}}"
                )))
            }
        }
    }

    /// Refuses a tensor that holds neither one zero point nor one for each of `channels`.
    fn check(&self, channels: usize) -> Result<(), OpError> {
        match self {
            Self::Uniform(_) => Ok(()),
            Self::Bound(operand) => check_channels(&operand.shape, channels),
        }
    }
}

/// Refuses scales or zero points that are neither one nor one a channel.
fn check_channels(shape: &[usize], channels: usize) -> Result<(), OpError> {
    let elements: usize = shape.iter().product();
    if elements == 1 || (elements == channels && shape.iter().filter(|&&size| size != 1).count() <= 1) {
        return Ok(());
    }
    Err(OpError::unsupported(format!("scales or zero points of shape {shape:?} for {channels} channels")))
}

/// The value that every element has, if there is one.
fn uniform(literal: &Literal) -> Option<i32> {
    let values = literal.to_i64s();
    let first = *values.first()?;
    values.iter().all(|&value| value == first).then(|| i32::try_from(first).ok()).flatten()
}

/// A literal that is given.
fn given<'a>(inputs: &[Option<&'a Literal>], at: usize) -> Result<&'a Literal, OpError> {
    inputs.get(at).copied().flatten().ok_or_else(|| OpError::invalid(format!("input {at} is missing")))
}
