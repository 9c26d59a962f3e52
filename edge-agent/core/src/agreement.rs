//! Compares two answers to the same input: of the device and of the full model, or of two versions.
//!
//! Answers with classes agree if each row has the same class at the top. All other answers agree if every floating-point
//! output has a cosine similarity of at least [`COSINE_MIN`] and every other output is equal.

use types::{DType, NamedTensor, Tensor};

/// Minimum cosine similarity of two outputs that agree: about 8 degrees, more than quantization moves a good model's output
/// and less than two different answers are apart.
pub const COSINE_MIN: f64 = 0.99;

/// Rule of the comparison.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Compared {
    /// The class at the top of one output counts.
    Top1 {
        /// Name of the output.
        output: String,
        /// Number of the dimension of the classes, from 0; a negative number counts from the end.
        axis: i64,
    },
    /// All outputs count.
    Outputs,
}

/// Returns whether two answers agree; `None` if they cannot be compared, because an output is missing or has another shape.
#[must_use]
pub fn agree(rule: &Compared, left: &[NamedTensor], right: &[NamedTensor]) -> Option<bool> {
    count(rule, left, right).map(|(compared, agreed)| compared == agreed)
}

/// Returns the number of answers that were compared, and of those that agree; `None` as in [`agree`].
///
/// Answers with classes have one for each row; all other answers are one.
#[must_use]
pub fn count(rule: &Compared, left: &[NamedTensor], right: &[NamedTensor]) -> Option<(u32, u32)> {
    let find = |outputs: &'_ [NamedTensor], name: &str| {
        outputs.iter().find(|output| output.name == name).map(|output| output.tensor.clone())
    };
    match rule {
        Compared::Top1 { output, axis } => {
            let (left, right) = (classes(&find(left, output)?, *axis)?, classes(&find(right, output)?, *axis)?);
            let rows = (left.len() == right.len()).then_some(left.len())?;
            let same = left.iter().zip(&right).filter(|(left, right)| left == right).count();
            Some((u32::try_from(rows).ok()?, u32::try_from(same).ok()?))
        }
        Compared::Outputs => {
            let mut all = (!left.is_empty()).then_some(true)?;
            for output in left {
                all &= same(&output.tensor, &find(right, &output.name)?)?;
            }
            Some((1, u32::from(all)))
        }
    }
}

/// Returns the position of the largest value of each row along a dimension.
fn classes(output: &Tensor, axis: i64) -> Option<Vec<usize>> {
    let shape = output.shape();
    let rank = i64::try_from(shape.len()).ok()?;
    let at = usize::try_from(if axis < 0 { axis.checked_add(rank)? } else { axis }).ok()?;
    let count = *shape.get(at).filter(|count| **count > 0)?;
    let inner: usize = shape.iter().skip(at + 1).product();
    let values = output.to_f32().ok()?;
    let mut found = Vec::new();
    for block in values.chunks_exact(count.checked_mul(inner).filter(|block| *block > 0)?) {
        for column in 0..inner {
            let row = block.iter().skip(column).step_by(inner).enumerate();
            // The first of equal values, on both sides alike.
            let top = row.fold(None, |top: Option<(usize, f32)>, (at, value)| match top {
                Some((_, best)) if *value <= best || value.is_nan() => top,
                _ => Some((at, *value)),
            });
            found.push(top.map_or(0, |(at, _)| at));
        }
    }
    Some(found)
}

fn same(left: &Tensor, right: &Tensor) -> Option<bool> {
    if left.shape() != right.shape() {
        return None;
    }
    if !is_float(left.dtype()) || !is_float(right.dtype()) {
        return (left.dtype() == right.dtype()).then(|| left.data() == right.data());
    }
    let (left, right) = (left.to_f32().ok()?, right.to_f32().ok()?);
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let (across, left_norm, right_norm) = (dot(&left, &right), dot(&left, &left), dot(&right, &right));
    if left_norm == 0.0 || right_norm == 0.0 {
        return Some(left_norm == right_norm);
    }
    // False also for NaN.
    Some(across / (left_norm.sqrt() * right_norm.sqrt()) >= COSINE_MIN)
}

fn is_float(dtype: DType) -> bool {
    matches!(dtype, DType::F16 | DType::Bf16 | DType::F32 | DType::F64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(name: &str, shape: &[usize], values: &[f32]) -> NamedTensor {
        let data: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        NamedTensor { name: name.to_owned(), tensor: Tensor::new(DType::F32, shape.to_vec(), data.into()).unwrap() }
    }

    fn top1(axis: i64) -> Compared {
        Compared::Top1 { output: "y".to_owned(), axis }
    }

    #[test]
    fn classes_agree_by_their_top_in_every_row() {
        let left = [output("y", &[2, 3], &[0.1, 0.7, 0.2, 9.0, 1.0, 2.0])];
        let near = [output("y", &[2, 3], &[0.3, 0.4, 0.3, 3.0, 2.9, 2.0])];
        let far = [output("y", &[2, 3], &[0.1, 0.7, 0.2, 1.0, 9.0, 2.0])];
        assert_eq!(agree(&top1(-1), &left, &near), Some(true));
        assert_eq!(agree(&top1(1), &left, &far), Some(false), "one row of two");
        assert_eq!(agree(&top1(0), &left, &far), Some(true), "by columns the second row is larger everywhere");
        assert_eq!(agree(&top1(2), &left, &near), None, "no such dimension");
        assert_eq!(agree(&top1(-1), &left, &[]), None);
        let ties = [output("y", &[1, 2], &[0.5, 0.5])];
        assert_eq!(agree(&top1(-1), &ties, &ties), Some(true));
        let nan = [output("y", &[1, 2], &[f32::NAN, 1.0])];
        assert_eq!(agree(&top1(-1), &nan, &nan), Some(true), "and no panic");
    }

    #[test]
    fn other_outputs_agree_by_their_direction() {
        let left = [output("y", &[2], &[1.0, 0.0]), output("z", &[1], &[3.0])];
        let near = [output("z", &[1], &[2.0]), output("y", &[2], &[1.0, 0.1])];
        let far = [output("y", &[2], &[1.0, 0.2]), output("z", &[1], &[3.0])];
        assert_eq!(agree(&Compared::Outputs, &left, &near), Some(true));
        assert_eq!(agree(&Compared::Outputs, &left, &far), Some(false));
        assert_eq!(agree(&Compared::Outputs, &left, &far[..1]), None, "an output is missing");
        let (zero, nan) = ([output("y", &[2], &[0.0, 0.0])], [output("y", &[2], &[f32::NAN, 0.0])]);
        assert_eq!(agree(&Compared::Outputs, &zero, &zero), Some(true));
        assert_eq!(agree(&Compared::Outputs, &zero, &left), Some(false));
        assert_eq!(agree(&Compared::Outputs, &nan, &nan), Some(false));
        assert_eq!(agree(&Compared::Outputs, &[], &[]), None);
    }
}
