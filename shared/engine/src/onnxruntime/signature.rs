//! Reads the inputs and outputs of a loaded session into [`Signature`].

use ort::session::Session;
use ort::value::{Outlet, TensorElementType, ValueType};
use types::limits::{RANK_MAX, TENSORS_MAX};
use types::{DType, Dim, Signature, TensorSpec};

use super::raw::{self, Side};
use crate::session::LoadError;

/// Reads the signature of a session.
///
/// # Errors
/// When an input or output is something that a request cannot carry, or there are too many of them.
pub(super) fn of(session: &Session) -> Result<Signature, LoadError> {
    let shaped = |side| move |at| raw::has_shape(session, side, at);
    Ok(Signature {
        inputs: specs("input", session.inputs(), shaped(Side::Input))?,
        outputs: specs("output", session.outputs(), shaped(Side::Output))?,
    })
}

fn specs(
    kind: &'static str,
    outlets: &[Outlet],
    has_shape: impl Fn(usize) -> bool,
) -> Result<Vec<TensorSpec>, LoadError> {
    if let Some(over) = outlets.get(TENSORS_MAX) {
        let what = format!("one of {}, over the limit of {TENSORS_MAX}", outlets.len());
        return Err(LoadError::Unsupported { kind, name: over.name().to_owned(), what });
    }
    outlets.iter().enumerate().map(|(at, outlet)| spec(kind, outlet, || has_shape(at))).collect()
}

fn spec(kind: &'static str, outlet: &Outlet, has_shape: impl FnOnce() -> bool) -> Result<TensorSpec, LoadError> {
    let unsupported = |what: String| LoadError::Unsupported { kind, name: outlet.name().to_owned(), what };
    let ValueType::Tensor { ty, shape, dimension_symbols } = outlet.dtype() else {
        return Err(unsupported(outlet.dtype().to_string()));
    };
    let dtype = dtype(*ty).ok_or_else(|| unsupported(format!("a tensor of {ty}")))?;
    if shape.len() > RANK_MAX {
        return Err(unsupported(format!("a tensor of {} dimensions", shape.len())));
    }
    // ort shows a tensor of unknown rank as a scalar.
    if shape.is_empty() && !has_shape() {
        return Ok(TensorSpec { name: outlet.name().to_owned(), dtype, shape: None });
    }
    let dims = shape.iter().zip(dimension_symbols.iter()).map(|(&size, symbol)| match usize::try_from(size) {
        Ok(size) => Dim::Fixed(size),
        // Older exporters write "?" for whatever they do not know: no promise that all of these are equal.
        Err(_negative) if symbol.is_empty() || symbol == "?" => Dim::Any,
        Err(_negative) => Dim::Symbol(symbol.clone()),
    });
    Ok(TensorSpec { name: outlet.name().to_owned(), dtype, shape: Some(dims.collect()) })
}

/// The element type in our words; `None` for those that no request can carry (complex, 8-bit floats, below 8 bits).
pub(super) fn dtype(element: TensorElementType) -> Option<DType> {
    let all = [
        (TensorElementType::Bool, DType::Bool),
        (TensorElementType::Uint8, DType::U8),
        (TensorElementType::Uint16, DType::U16),
        (TensorElementType::Uint32, DType::U32),
        (TensorElementType::Uint64, DType::U64),
        (TensorElementType::Int8, DType::I8),
        (TensorElementType::Int16, DType::I16),
        (TensorElementType::Int32, DType::I32),
        (TensorElementType::Int64, DType::I64),
        (TensorElementType::Float16, DType::F16),
        (TensorElementType::Bfloat16, DType::Bf16),
        (TensorElementType::Float32, DType::F32),
        (TensorElementType::Float64, DType::F64),
        (TensorElementType::String, DType::Bytes),
    ];
    all.into_iter().find(|(theirs, _)| *theirs == element).map(|(_, ours)| ours)
}
