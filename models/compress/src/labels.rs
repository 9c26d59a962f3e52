//! Labels of examples: class numbers, quantities, or several numbers per example.
//!
//! Fed by [`crate::examples`] with the array `labels`; read by [`crate::quality`], which chooses the task by them.

use std::collections::BTreeSet;

use types::DType;

/// Number of different labels of a yes-or-no question.
///
/// Ratings, ages and counts have more.
const TWO_CLASSES: usize = 2;

/// Largest number of different values that [`LabelFacts`] remembers.
const VALUES_MAX: usize = 64;

/// Numbers that describe one example: one for a class or a quantity, several for boxes, texts or several targets.
#[derive(Debug, Clone, PartialEq)]
pub struct Label(pub Vec<f64>);

impl Label {
    /// The label's only number.
    #[must_use]
    pub fn number(&self) -> Option<f64> {
        match self.0.as_slice() {
            [only] => Some(*only),
            _ => None,
        }
    }

    /// Reads little-endian numbers; `None` for text and broken data.
    pub(crate) fn read(dtype: DType, data: &[u8]) -> Option<Self> {
        numbers(dtype, data).map(Self)
    }
}

/// Numbers of a tensor's bytes as f64; `None` for text.
pub(crate) fn numbers(dtype: DType, data: &[u8]) -> Option<Vec<f64>> {
    #[expect(clippy::cast_precision_loss, reason = "class numbers and quantities stay below 2^53")]
    let values = match dtype {
        DType::F64 => data.as_chunks().0.iter().map(|&lane| f64::from_le_bytes(lane)).collect(),
        DType::F32 => data.as_chunks().0.iter().map(|&lane| f64::from(f32::from_le_bytes(lane))).collect(),
        DType::F16 => data.as_chunks().0.iter().map(|&lane| half::f16::from_le_bytes(lane).to_f64()).collect(),
        DType::Bf16 => data.as_chunks().0.iter().map(|&lane| half::bf16::from_le_bytes(lane).to_f64()).collect(),
        DType::Bool | DType::U8 => data.iter().map(|&byte| f64::from(byte)).collect(),
        DType::I8 => data.iter().map(|&byte| f64::from(i8::from_le_bytes([byte]))).collect(),
        DType::U16 => data.as_chunks().0.iter().map(|&lane| f64::from(u16::from_le_bytes(lane))).collect(),
        DType::I16 => data.as_chunks().0.iter().map(|&lane| f64::from(i16::from_le_bytes(lane))).collect(),
        DType::U32 => data.as_chunks().0.iter().map(|&lane| f64::from(u32::from_le_bytes(lane))).collect(),
        DType::I32 => data.as_chunks().0.iter().map(|&lane| f64::from(i32::from_le_bytes(lane))).collect(),
        DType::U64 => data.as_chunks().0.iter().map(|&lane| u64::from_le_bytes(lane) as f64).collect(),
        DType::I64 => data.as_chunks().0.iter().map(|&lane| i64::from_le_bytes(lane) as f64).collect(),
        DType::Bytes => return None,
    };
    Some(values)
}

/// Summary of all labels of a set, by which the task is chosen.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct LabelFacts {
    /// Examples with a label.
    pub(crate) labelled: usize,
    /// Numbers per label; `None` when it varies.
    pub(crate) width: Option<usize>,
    /// Whether every number is whole.
    pub(crate) is_whole: bool,
    /// Smallest number among the labels.
    pub(crate) least: f64,
    /// Largest number among the labels.
    pub(crate) greatest: f64,
    /// Different numbers, by their bits; at most [`VALUES_MAX`].
    values: BTreeSet<i64>,
}

impl LabelFacts {
    /// Summarises labels; `None` when there are none.
    pub(crate) fn of<'a>(labels: impl Iterator<Item = &'a Label>) -> Option<Self> {
        let mut facts: Option<Self> = None;
        for label in labels {
            let facts = facts.get_or_insert_with(|| Self {
                labelled: 0,
                width: Some(label.0.len()),
                is_whole: true,
                least: f64::INFINITY,
                greatest: f64::NEG_INFINITY,
                values: BTreeSet::new(),
            });
            facts.labelled += 1;
            facts.width = facts.width.filter(|&width| width == label.0.len());
            for &number in &label.0 {
                facts.is_whole &= number.fract() == 0.0;
                facts.least = facts.least.min(number);
                facts.greatest = facts.greatest.max(number);
                if facts.values.len() < VALUES_MAX {
                    facts.values.insert(number.to_bits().cast_signed());
                }
            }
        }
        facts
    }

    /// Returns whether the labels say yes or no: two whole numbers, of which the smaller is 0 or -1.
    pub(crate) fn is_binary(&self) -> bool {
        let is_pair = self.values.len() <= TWO_CLASSES && self.greatest <= 1.0;
        self.is_whole && is_pair && (self.least == 0.0 || self.least == -1.0 || self.least == 1.0)
    }

    /// Description for errors: `whole numbers from 0 to 9`.
    pub(crate) fn told(&self) -> String {
        let kind = if self.is_whole { "whole numbers" } else { "numbers" };
        let width = match self.width {
            Some(1) => String::new(),
            Some(width) => format!(", {width} per example"),
            None => ", a varying count per example".to_owned(),
        };
        format!("{kind} from {} to {}{width}", self.least, self.greatest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(labels: &[&[f64]]) -> LabelFacts {
        let labels: Vec<Label> = labels.iter().map(|label| Label(label.to_vec())).collect();
        LabelFacts::of(labels.iter()).unwrap()
    }

    #[test]
    fn yes_and_no_are_told_from_classes_and_quantities() {
        assert!(facts(&[&[0.0], &[1.0]]).is_binary());
        assert!(facts(&[&[-1.0], &[1.0]]).is_binary());
        assert!(facts(&[&[0.0, 1.0], &[1.0, 1.0]]).is_binary());
        assert!(!facts(&[&[0.0], &[2.0]]).is_binary());
        assert!(!facts(&[&[0.0], &[0.5]]).is_binary());
        assert_eq!(facts(&[&[1.0], &[2.0, 3.0]]).width, None);
    }
}
