//! The matrices of a product: strided windows of tensors, some of them constants that are packed once.

use crate::ir::{Literal, ValueId};
use crate::lower::{Arg, Floats, Lowering, Repr};

/// A constant of the model that a matrix is made from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Constant {
    /// Value of the graph that is constant.
    pub(crate) id: ValueId,
    /// Name of what [`Self::floats`] makes of it, empty where that is itself; a tensor that exists on no device.
    pub(crate) form: &'static str,
    /// The tensor that is read.
    pub(crate) floats: fn(&Literal) -> Vec<f32>,
    /// Their type in panels and rows on the device.
    pub(crate) lie: Floats,
}

impl Constant {
    /// The constant itself, if the value is one.
    pub(crate) fn of(cx: &Lowering<'_>, id: Option<ValueId>) -> Option<Self> {
        let id = id?;
        cx.constant(id).map(|literal| Self { id, form: "", floats: Literal::to_f32s, lie: Floats::of(literal) })
    }
}

/// A matrix per batch element, anywhere in one tensor.
#[derive(Debug, Clone)]
pub(crate) struct Matrix {
    /// The tensor that is read.
    pub(crate) arg: Arg,
    /// Layout of its elements.
    pub(crate) repr: Repr,
    /// The constant it is, so that it is packed once per session.
    pub(crate) constant: Option<Constant>,
    /// Position of the first element.
    pub(crate) offset: usize,
    /// Elements from one batch index to the next, for each batch dimension; 0 where the matrix repeats.
    pub(crate) batch: Vec<usize>,
    /// Elements from row to row.
    pub(crate) row: usize,
    /// Elements from column to column.
    pub(crate) col: usize,
}

impl Matrix {
    /// Returns the layout of its floats as the register kernel reads them: it takes constants from panels or rows of its
    /// own.
    pub(super) fn lie(&self) -> Floats {
        self.constant.map_or(Floats::Singles, |constant| constant.lie)
    }
}
