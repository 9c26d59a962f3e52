//! The numbers of a constant, and moving them.

use bytes::Bytes;

use crate::proto::TensorProto;
use crate::tensor::{ElementType, Values, bits_of, bytes_of, is_possible};

/// Most dimensions of what is computed; models have up to 8.
const RANK_MAX: usize = 16;

/// A constant of whole bytes per element.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Array {
    pub(super) element: ElementType,
    pub(super) shape: Vec<usize>,
    pub(super) raw: Bytes,
}

impl Array {
    /// Reads a tensor; `None` for text, packed numbers and what is broken.
    pub(super) fn of(tensor: &TensorProto) -> Option<Self> {
        let (element, shape) = (tensor.element_type(), tensor.shape().ok()?);
        Self::new(element, shape, tensor.raw().ok()?)
    }

    /// `None` when the bytes are not as many as the shape says.
    pub(super) fn new(element: ElementType, shape: Vec<usize>, raw: Bytes) -> Option<Self> {
        let is_whole = bits_of(element)?.is_multiple_of(8) && shape.len() <= RANK_MAX && is_possible(&shape);
        (is_whole && bytes_of(element, &shape)? == raw.len()).then_some(Self { element, shape, raw })
    }

    /// Int64 numbers; the caller sees to their count.
    pub(super) fn integers(shape: &[usize], values: &[i64]) -> Self {
        let raw: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Self { element: ElementType::Int64, shape: shape.to_vec(), raw: raw.into() }
    }

    pub(super) fn into_tensor(self, name: &str) -> TensorProto {
        TensorProto::of_raw(name, self.element, &self.shape, self.raw)
    }

    pub(super) fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Bytes of one element.
    pub(super) fn width(&self) -> usize {
        bits_of(self.element).unwrap_or(8) / 8
    }

    pub(super) fn to_integers(&self) -> Option<Vec<i64>> {
        self.clone().into_tensor("").integers().ok()
    }

    /// The same bytes in another shape of as many elements.
    pub(super) fn reshaped(&self, shape: Vec<usize>) -> Option<Self> {
        Self::new(self.element, shape, self.raw.clone())
    }

    /// Elements from one axis to the next.
    pub(super) fn strides(&self) -> Vec<usize> {
        let mut strides = vec![1_usize; self.shape.len()];
        for axis in (1..self.shape.len()).rev() {
            strides[axis - 1] = strides[axis].saturating_mul(self.shape[axis]);
        }
        strides
    }

    /// Elements picked by steps: the one at `index` is that at `start + Σ index·step`. Steps may be 0 or negative.
    pub(super) fn picked(&self, shape: &[usize], steps: &[isize], start: usize, bytes_max: usize) -> Option<Self> {
        let bytes = bytes_of(self.element, shape).filter(|&bytes| bytes <= bytes_max)?;
        let width = self.width();
        let mut raw = Vec::with_capacity(bytes);
        let mut index = vec![0_usize; shape.len()];
        let mut at = isize::try_from(start).ok()?;
        // Neighbours along the last axis are copied as one piece.
        let run = if steps.last() == Some(&1) { shape.last().copied().unwrap_or(1) } else { 1 };
        while raw.len() < bytes {
            let from = usize::try_from(at).ok()?.checked_mul(width)?;
            raw.extend_from_slice(self.raw.get(from..from.checked_add(run.checked_mul(width)?)?)?);
            let axes = if run > 1 { shape.len() - 1 } else { shape.len() };
            for axis in (0..axes).rev() {
                index[axis] += 1;
                at += steps[axis];
                if index[axis] < shape[axis] {
                    break;
                }
                at -= steps[axis] * isize::try_from(shape[axis]).ok()?;
                index[axis] = 0;
            }
        }
        Self::new(self.element, shape.to_vec(), raw.into())
    }

    /// The array repeated along axes of 1 until it has the shape, by the rules of broadcasting.
    pub(super) fn broadcast(&self, shape: &[usize], bytes_max: usize) -> Option<Self> {
        if self.shape == shape {
            return Some(self.clone());
        }
        let lead = shape.len().checked_sub(self.shape.len())?;
        let strides = self.strides();
        let mut steps = vec![0_isize; shape.len()];
        for (axis, (&dim, &stride)) in self.shape.iter().zip(&strides).enumerate() {
            match (dim, shape[lead + axis]) {
                (dim, wanted) if dim == wanted => steps[lead + axis] = isize::try_from(stride).ok()?,
                (1, _) => {}
                _ => return None,
            }
        }
        self.picked(shape, &steps, 0, bytes_max)
    }
}

/// The shape that two shapes have in common by the rules of broadcasting.
pub(super) fn common(one: &[usize], other: &[usize]) -> Option<Vec<usize>> {
    let rank = one.len().max(other.len());
    let dim = |shape: &[usize], axis: usize| {
        (axis + shape.len()).checked_sub(rank).and_then(|axis| shape.get(axis).copied()).unwrap_or(1)
    };
    (0..rank)
        .map(|axis| match (dim(one, axis), dim(other, axis)) {
            (a, b) if a == b => Some(a),
            (1, b) => Some(b),
            (a, 1) => Some(a),
            _ => None,
        })
        .collect()
}
