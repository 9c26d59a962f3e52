//! The matrices of a product: strided windows of tensors, some of them constants that are packed once.

use crate::ir::{Literal, ValueId};
use crate::lower::{Arg, Floats, Lowering, Repr};

/// A constant of the model that a matrix is made from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Constant {
    /// The constant.
    pub(crate) id: ValueId,
    /// What [`Self::floats`] makes of it, empty where that is itself; a tensor that exists on no device.
    pub(crate) form: &'static str,
    /// The tensor.
    pub(crate) floats: fn(&Literal) -> Vec<f32>,
    /// What they are in panels and rows on the device.
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
    /// The tensor.
    pub(crate) arg: Arg,
    /// How its elements lie.
    pub(crate) repr: Repr,
    /// The constant it is, so that it is packed once per session.
    pub(crate) constant: Option<Constant>,
    /// First element.
    pub(crate) offset: usize,
    /// Elements from one batch index to the next, for each batch dimension; 0 where the matrix repeats.
    pub(crate) batch: Vec<usize>,
    /// Elements from row to row.
    pub(crate) row: usize,
    /// Elements from column to column.
    pub(crate) col: usize,
}

impl Matrix {
    /// What its floats are once the register kernel reads them: it takes constants from panels or rows of its own.
    pub(super) fn lie(&self) -> Floats {
        self.constant.map_or(Floats::Singles, |constant| constant.lie)
    }
}
