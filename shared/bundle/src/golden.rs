//! Golden files: inputs with the outputs that a model must produce before it serves.
//!
//! A golden file is a safetensors file whose tensors are named `input.<name>` and `output.<name>`. Read by
//! [`crate::Bundle::golden`] and the packer; [`compare`] compares the outputs of a run with it.

mod compare;

pub use compare::{Agreement, Disagreement, compare};

use bytes::Bytes;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensorError, SafeTensors};
use types::limits::{TENSOR_BYTES_MAX, TENSOR_NAME_BYTES_MAX, TENSORS_MAX};
use types::{DType, Mismatch, NamedTensor, Signature, Tensor, TensorError};

/// Maximum size of a golden file in bytes: all inputs and all outputs at their limit, and 1 MiB for the header.
pub const GOLDEN_BYTES_MAX: u64 = 2 * 64 * 1024 * 1024 + 1024 * 1024;

const _: () = assert!(TENSOR_BYTES_MAX == 64 * 1024 * 1024, "GOLDEN_BYTES_MAX repeats this figure");

/// The tensors of a golden file, ordered by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Golden {
    /// Inputs for the model.
    pub inputs: Vec<NamedTensor>,
    /// Outputs that the model must produce.
    pub outputs: Vec<NamedTensor>,
}

/// Error: bytes are not a golden file, or not one of this model.
#[derive(Debug, thiserror::Error)]
pub enum GoldenError {
    /// The file does not have the safetensors format.
    #[error("read golden file as safetensors")]
    Format(#[source] SafeTensorError),
    /// The file exceeds [`GOLDEN_BYTES_MAX`].
    #[error("a golden file of {0} bytes exceeds the limit of {GOLDEN_BYTES_MAX}")]
    TooLarge(usize),
    /// The name of a tensor begins neither with `input.` nor with `output.`.
    #[error("golden tensor {0:?} must be named \"input.<name>\" or \"output.<name>\"")]
    Name(String),
    /// The element type is not supported for models here.
    #[error("golden tensor {name:?} has the element type {dtype}, which is not supported")]
    Type {
        /// Name of the tensor.
        name: String,
        /// Element type as safetensors names it.
        dtype: String,
    },
    /// The bytes of a tensor do not match its type and shape.
    #[error("read golden tensor {name:?}")]
    Tensor {
        /// Name of the tensor.
        name: String,
        /// Fault of the tensor.
        #[source]
        source: TensorError,
    },
    /// A tensor contains an infinite or NaN value.
    #[error("golden tensor {0:?} contains a value that is not finite")]
    NotFinite(String),
    /// The file has no inputs, no outputs, or more than any model.
    #[error("a golden file needs 1 to {TENSORS_MAX} inputs and outputs, this one has {inputs} and {outputs}")]
    Count {
        /// Number of inputs.
        inputs: usize,
        /// Number of outputs.
        outputs: usize,
    },
    /// The tensors do not match the model's signature.
    #[error("compare golden file with the model's inputs and outputs")]
    Mismatch(#[source] Mismatch),
    /// An output has another element type than the model declares.
    #[error("golden output {name:?} is {given}, the model declares {expected}")]
    OutputType {
        /// Name of the output.
        name: String,
        /// Element type that the model declares.
        expected: DType,
        /// Element type in the file.
        given: DType,
    },
}

impl Golden {
    /// Reads a golden file.
    ///
    /// # Errors
    /// Fails if it is too long, not safetensors, or contains tensors that a golden file must not contain.
    pub fn parse(bytes: &Bytes) -> Result<Self, GoldenError> {
        if u64::try_from(bytes.len()).map_or(true, |length| length > GOLDEN_BYTES_MAX) {
            return Err(GoldenError::TooLarge(bytes.len()));
        }
        let file = SafeTensors::deserialize(bytes).map_err(GoldenError::Format)?;
        let mut golden = Self { inputs: Vec::new(), outputs: Vec::new() };
        for (name, view) in file.iter() {
            let (list, short) = if let Some(short) = name.strip_prefix("input.") {
                (&mut golden.inputs, short)
            } else if let Some(short) = name.strip_prefix("output.") {
                (&mut golden.outputs, short)
            } else {
                return Err(GoldenError::Name(shortened(name)));
            };
            list.push(tensor(short, &view, bytes)?);
        }
        let (inputs, outputs) = (golden.inputs.len(), golden.outputs.len());
        if !(1..=TENSORS_MAX).contains(&inputs) || !(1..=TENSORS_MAX).contains(&outputs) {
            return Err(GoldenError::Count { inputs, outputs });
        }
        golden.inputs.sort_by(|a, b| a.name.cmp(&b.name));
        golden.outputs.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(golden)
    }

    /// Returns the bytes of a file that [`Golden::parse`] reads.
    ///
    /// # Errors
    /// Fails if a golden file may not contain these tensors, or the file would be too long.
    pub fn to_bytes(&self) -> Result<Vec<u8>, GoldenError> {
        let sides = [("input.", &self.inputs), ("output.", &self.outputs)];
        let named =
            sides.iter().flat_map(|(side, list)| list.iter().map(move |one| (format!("{side}{}", one.name), one)));
        let mut views = Vec::new();
        for (name, one) in named {
            let unsupported =
                || GoldenError::Type { name: shortened(&one.name), dtype: one.tensor.dtype().to_string() };
            let element = element(one.tensor.dtype()).ok_or_else(unsupported)?;
            let view = TensorView::new(element, one.tensor.shape().to_vec(), one.tensor.data());
            views.push((name, view.map_err(GoldenError::Format)?));
        }
        let bytes = safetensors::serialize(views, None).map_err(GoldenError::Format)?;
        // Parsing the result finds every tensor that it must not contain.
        Self::parse(&Bytes::copy_from_slice(&bytes))?;
        Ok(bytes)
    }

    /// Compares the tensors with the inputs and outputs of the model.
    ///
    /// # Errors
    /// Returns the first tensor that does not match.
    pub fn check(&self, signature: &Signature) -> Result<(), GoldenError> {
        signature.check_inputs(&self.inputs).map_err(GoldenError::Mismatch)?;
        let names = self.outputs.iter().map(|output| output.name.as_str());
        signature.check_outputs(names).map_err(GoldenError::Mismatch)?;
        for output in &self.outputs {
            let spec = signature.outputs.iter().find(|spec| spec.name == output.name);
            if let Some(spec) = spec.filter(|spec| spec.dtype != output.tensor.dtype()) {
                return Err(GoldenError::OutputType {
                    name: output.name.clone(),
                    expected: spec.dtype,
                    given: output.tensor.dtype(),
                });
            }
        }
        Ok(())
    }
}

fn tensor(name: &str, view: &TensorView<'_>, file: &Bytes) -> Result<NamedTensor, GoldenError> {
    if name.is_empty() || name.len() > TENSOR_NAME_BYTES_MAX {
        return Err(GoldenError::Name(shortened(name)));
    }
    let unsupported = || GoldenError::Type { name: shortened(name), dtype: format!("{:?}", view.dtype()) };
    let dtype = dtype(view.dtype()).ok_or_else(unsupported)?;
    let wrong = |source| GoldenError::Tensor { name: shortened(name), source };
    let tensor = Tensor::new(dtype, view.shape().to_vec(), file.slice_ref(view.data())).map_err(wrong)?;
    // Integers are always finite; for them the conversion fails and there is nothing to check.
    if tensor.to_f32().is_ok_and(|values| values.iter().any(|value| !value.is_finite())) {
        return Err(GoldenError::NotFinite(shortened(name)));
    }
    Ok(NamedTensor { name: name.to_owned(), tensor })
}

/// Returns the element type; the wildcard covers types of the foreign crate that no model here has.
fn dtype(dtype: Dtype) -> Option<DType> {
    match dtype {
        Dtype::BOOL => Some(DType::Bool),
        Dtype::U8 => Some(DType::U8),
        Dtype::U16 => Some(DType::U16),
        Dtype::U32 => Some(DType::U32),
        Dtype::U64 => Some(DType::U64),
        Dtype::I8 => Some(DType::I8),
        Dtype::I16 => Some(DType::I16),
        Dtype::I32 => Some(DType::I32),
        Dtype::I64 => Some(DType::I64),
        Dtype::F16 => Some(DType::F16),
        Dtype::BF16 => Some(DType::Bf16),
        Dtype::F32 => Some(DType::F32),
        Dtype::F64 => Some(DType::F64),
        _ => None,
    }
}

/// Returns the element type in a file; text has none.
fn element(dtype: DType) -> Option<Dtype> {
    match dtype {
        DType::Bool => Some(Dtype::BOOL),
        DType::U8 => Some(Dtype::U8),
        DType::U16 => Some(Dtype::U16),
        DType::U32 => Some(Dtype::U32),
        DType::U64 => Some(Dtype::U64),
        DType::I8 => Some(Dtype::I8),
        DType::I16 => Some(Dtype::I16),
        DType::I32 => Some(Dtype::I32),
        DType::I64 => Some(Dtype::I64),
        DType::F16 => Some(Dtype::F16),
        DType::Bf16 => Some(Dtype::BF16),
        DType::F32 => Some(Dtype::F32),
        DType::F64 => Some(Dtype::F64),
        DType::Bytes => None,
    }
}

fn shortened(name: &str) -> String {
    name.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn file(tensors: &[(&str, Dtype, Vec<usize>, Vec<u8>)]) -> Bytes {
        let views = tensors.iter().map(|(name, dtype, shape, data)| {
            ((*name).to_owned(), TensorView::new(*dtype, shape.clone(), data).unwrap())
        });
        safetensors::serialize(views, None).unwrap().into()
    }

    fn f32s(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    #[test]
    fn a_golden_file_reads_back_its_inputs_and_outputs() {
        let bytes = file(&[
            ("output.logits", Dtype::F32, vec![1, 2], f32s(&[0.5, -1.0])),
            ("input.image", Dtype::U8, vec![2], vec![3, 4]),
        ]);
        let golden = Golden::parse(&bytes).unwrap();
        assert_eq!(golden.inputs[0].name, "image");
        assert_eq!(golden.inputs[0].tensor.data().as_ref(), [3, 4]);
        assert_eq!(golden.outputs[0].tensor.to_f32().unwrap(), [0.5, -1.0]);
    }

    #[test]
    fn what_is_written_reads_back() {
        let tensor = |shape: Vec<usize>, values: &[f32]| Tensor::from_f32(shape, values).unwrap();
        let named = |name: &str, tensor| NamedTensor { name: name.to_owned(), tensor };
        let golden = Golden {
            inputs: vec![named("image", tensor(vec![1, 2], &[0.5, 1.0]))],
            outputs: vec![named("logits", tensor(vec![1, 1], &[3.0]))],
        };
        assert_eq!(Golden::parse(&golden.to_bytes().unwrap().into()).unwrap(), golden);
        let text = Tensor::from_elements(vec![1], &["a"]).unwrap();
        let outputs = vec![named("answer", text)];
        assert!(matches!(Golden { outputs, ..golden.clone() }.to_bytes(), Err(GoldenError::Type { .. })));
        let outputs = vec![named("logits", tensor(vec![1], &[f32::NAN]))];
        assert!(matches!(Golden { outputs, ..golden }.to_bytes(), Err(GoldenError::NotFinite(_))));
    }

    #[test]
    fn what_no_model_can_be_held_to_is_refused() {
        let input = ("input.x", Dtype::U8, vec![1], vec![1]);
        let output = |value: f32| ("output.y", Dtype::F32, vec![1], f32s(&[value]));
        assert!(matches!(Golden::parse(&file(std::slice::from_ref(&input))), Err(GoldenError::Count { .. })));
        let nan = Golden::parse(&file(&[input.clone(), output(f32::NAN)]));
        assert!(matches!(nan, Err(GoldenError::NotFinite(_))));
        let stray = ("label", Dtype::U8, vec![1], vec![1]);
        assert!(matches!(Golden::parse(&file(&[input.clone(), stray])), Err(GoldenError::Name(_))));
        let odd = ("output.y", Dtype::F8_E4M3, vec![1], vec![1]);
        assert!(matches!(Golden::parse(&file(&[input, odd])), Err(GoldenError::Type { .. })));
    }

    proptest! {
        #[test]
        fn hostile_bytes_are_refused_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            prop_assert!(Golden::parse(&bytes.into()).is_err());
        }

        #[test]
        fn a_golden_file_with_a_flipped_byte_never_panics(at in 0_usize..200, flip in 1_u8..=255) {
            let whole = file(&[
                ("input.x", Dtype::U8, vec![1], vec![1]),
                ("output.y", Dtype::F32, vec![2], f32s(&[1.0, 2.0])),
            ]);
            let mut bytes = whole.to_vec();
            let at = at % bytes.len();
            bytes[at] ^= flip;
            drop(Golden::parse(&bytes.into()));
        }
    }
}
