//! Triton's classification extension: the largest elements of an output in place of the tensor.
//!
//! Used by both protocols after the service has answered. Each entry is text: `value:index`, or `value:index:label` where
//! the model names its classes. The last dimension holds the classes; the others stay as they are.

use std::cmp::Ordering;

use half::{bf16, f16};
use types::limits::TENSOR_BYTES_MAX;
use types::{DType, NamedTensor, Tensor, TensorError};

use crate::codec::{CodecError, Wanted, shorten};

/// Names of a model's classes.
#[derive(Debug, Clone, Default)]
pub struct Labels {
    /// Names by index; empty where the model has none.
    pub names: Vec<String>,
    /// Output whose elements they name; `None` for any output.
    pub output: Option<String>,
}

/// Replaces each output of which classes were asked for by its largest elements.
///
/// # Errors
/// [`CodecError::Classes`] for an output of text or booleans, or when the list would be over the limit of a tensor.
pub fn classify(wanted: &Wanted, outputs: &mut [NamedTensor], labels: &Labels) -> Result<(), CodecError> {
    for output in outputs {
        let classes = wanted.outputs.iter().find(|one| one.name == output.name).map_or(0, |one| one.classes);
        if classes > 0 {
            let is_labelled = labels.output.as_ref().is_none_or(|labelled| *labelled == output.name);
            let names: &[String] = if is_labelled { &labels.names } else { &[] };
            output.tensor = largest(&output.tensor, classes, names)
                .map_err(|problem| CodecError::Classes { name: shorten(&output.name), problem })?;
        }
    }
    Ok(())
}

/// Problem of a list that does not fit a tensor.
const TOO_LONG: &str = "has too many classes to list: ask for fewer";

/// Lists the `classes` largest elements of each row.
fn largest(tensor: &Tensor, classes: usize, labels: &[String]) -> Result<Tensor, &'static str> {
    let values = Values::of(tensor).ok_or("has no numbers to order: ask for the tensor itself")?;
    let (outer, row) = match tensor.shape().split_last() {
        Some((&row, outer)) => (outer.to_vec(), row),
        None => (Vec::new(), 1),
    };
    let kept = classes.min(row);
    let rows = tensor.elements().checked_div(row).unwrap_or(0);
    let mut data = Vec::new();
    let mut order: Vec<usize> = Vec::new();
    let mut entry = String::new();
    for first in (0..rows).map(|number| number * row) {
        order.clear();
        order.extend(0..row);
        let compare = |a: &usize, b: &usize| values.compare(first + a, first + b).reverse().then(a.cmp(b));
        if kept < row && kept > 0 {
            order.select_nth_unstable_by(kept - 1, compare);
            order.truncate(kept);
        }
        order.sort_unstable_by(compare);
        for &index in &order {
            entry.clear();
            entry.push_str(&values.text(first + index));
            entry.push_str(&format!(":{index}"));
            if let Some(label) = labels.get(index) {
                entry.push(':');
                entry.push_str(label);
            }
            let length = u32::try_from(entry.len()).map_err(|_over| TOO_LONG)?;
            data.extend_from_slice(&length.to_le_bytes());
            data.extend_from_slice(entry.as_bytes());
            if data.len() > TENSOR_BYTES_MAX {
                return Err(TOO_LONG);
            }
        }
    }
    let shape = outer.into_iter().chain([kept]).collect();
    Tensor::new(DType::Bytes, shape, data.into()).map_err(|_error: TensorError| TOO_LONG)
}

/// Elements of a tensor, ready to be ordered and written.
enum Values {
    Float(Vec<f64>),
    Signed(Vec<i64>),
    Unsigned(Vec<u64>),
}

impl Values {
    fn of(tensor: &Tensor) -> Option<Self> {
        fn read<const N: usize, T>(tensor: &Tensor, one: impl Fn([u8; N]) -> T) -> Vec<T> {
            tensor.data().as_chunks::<N>().0.iter().map(|lane| one(*lane)).collect()
        }
        Some(match tensor.dtype() {
            DType::U8 => Self::Unsigned(read(tensor, |lane| u8::from_le_bytes(lane).into())),
            DType::U16 => Self::Unsigned(read(tensor, |lane| u16::from_le_bytes(lane).into())),
            DType::U32 => Self::Unsigned(read(tensor, |lane| u32::from_le_bytes(lane).into())),
            DType::U64 => Self::Unsigned(read(tensor, u64::from_le_bytes)),
            DType::I8 => Self::Signed(read(tensor, |lane| i8::from_le_bytes(lane).into())),
            DType::I16 => Self::Signed(read(tensor, |lane| i16::from_le_bytes(lane).into())),
            DType::I32 => Self::Signed(read(tensor, |lane| i32::from_le_bytes(lane).into())),
            DType::I64 => Self::Signed(read(tensor, i64::from_le_bytes)),
            DType::F16 => Self::Float(read(tensor, |lane| f16::from_le_bytes(lane).to_f64())),
            DType::Bf16 => Self::Float(read(tensor, |lane| bf16::from_le_bytes(lane).to_f64())),
            DType::F32 => Self::Float(read(tensor, |lane| f32::from_le_bytes(lane).into())),
            DType::F64 => Self::Float(read(tensor, f64::from_le_bytes)),
            DType::Bool | DType::Bytes => return None,
        })
    }

    /// Orders two elements; a NaN is smaller than every number.
    fn compare(&self, a: usize, b: usize) -> Ordering {
        match self {
            Self::Float(values) => {
                let key = |at: usize| values.get(at).copied().filter(|value| !value.is_nan());
                match (key(a), key(b)) {
                    (Some(a), Some(b)) => a.total_cmp(&b),
                    (a, b) => a.is_some().cmp(&b.is_some()),
                }
            }
            Self::Signed(values) => values.get(a).cmp(&values.get(b)),
            Self::Unsigned(values) => values.get(a).cmp(&values.get(b)),
        }
    }

    /// Returns an element as Triton writes it: floats with six decimals.
    fn text(&self, at: usize) -> String {
        let text = match self {
            Self::Float(values) => values.get(at).map(|value| format!("{value:.6}")),
            Self::Signed(values) => values.get(at).map(i64::to_string),
            Self::Unsigned(values) => values.get(at).map(u64::to_string),
        };
        text.unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::WantedOutput;

    fn classified(tensor: Tensor, classes: usize, labels: &[&str]) -> Result<(Vec<usize>, Vec<String>), CodecError> {
        let output = WantedOutput { name: "y".into(), binary: false, classes };
        let wanted = Wanted { outputs: vec![output], binary_by_default: false };
        let mut outputs = [NamedTensor { name: "y".into(), tensor }];
        let names = labels.iter().map(|&label| label.to_owned()).collect();
        classify(&wanted, &mut outputs, &Labels { names, output: Some("y".into()) })?;
        let [output] = outputs;
        let text = |element: &&[u8]| String::from_utf8(element.to_vec()).unwrap();
        Ok((output.tensor.shape().to_vec(), output.tensor.to_elements().unwrap().iter().map(text).collect()))
    }

    #[test]
    fn each_row_lists_its_largest_elements_with_index_and_label() {
        let tensor = Tensor::from_f32(vec![2, 3], &[0.1, 0.7, 0.2, f32::NAN, -1.0, f32::INFINITY]).unwrap();
        let (shape, entries) = classified(tensor, 2, &["cat", "dog"]).unwrap();
        assert_eq!(shape, [2, 2]);
        assert_eq!(entries, ["0.700000:1:dog", "0.200000:2", "inf:2", "-1.000000:1:dog"]);
    }

    #[test]
    fn more_classes_than_there_are_give_all_of_them_in_order() {
        let tensor = Tensor::new(DType::U8, vec![3], vec![3, 9, 3].into()).unwrap();
        assert_eq!(classified(tensor, 99, &[]).unwrap(), (vec![3], ["9:1", "3:0", "3:2"].map(str::to_owned).to_vec()));
        let scalar = Tensor::new(DType::I64, vec![], (-5_i64).to_le_bytes().to_vec().into()).unwrap();
        assert_eq!(classified(scalar, 1, &[]).unwrap(), (vec![1], vec!["-5:0".to_owned()]));
        let empty = Tensor::from_f32(vec![2, 0], &[]).unwrap();
        assert_eq!(classified(empty, 1, &[]).unwrap(), (vec![2, 0], Vec::new()));
    }

    #[test]
    fn halves_are_ordered_by_value_and_text_is_refused() {
        let lanes = [f16::from_f32(-2.0), f16::from_f32(0.5)].map(f16::to_le_bytes).concat();
        let tensor = Tensor::new(DType::F16, vec![1, 2], lanes.into()).unwrap();
        assert_eq!(classified(tensor, 1, &[]).unwrap(), (vec![1, 1], vec!["0.500000:1".to_owned()]));
        let text = Tensor::from_elements(vec![1], &["a"]).unwrap();
        assert!(classified(text, 1, &[]).unwrap_err().to_string().contains("no numbers"));
    }
}
