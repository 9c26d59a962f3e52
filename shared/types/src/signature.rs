//! Inputs and outputs of a model, and the check of a request's tensors against them.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{DType, NamedTensor};

/// One dimension of a declared shape.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Dim {
    /// A fixed size, at least 0.
    Fixed(usize),
    /// Any size, under a name. Exporters choose names freely, so one name may mean several sizes; see
    /// [`Signature::check_symbols`].
    Symbol(String),
    /// Any size, without a name.
    Any,
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(size) => write!(f, "{size}"),
            Self::Symbol(name) => f.write_str(name),
            Self::Any => f.write_str("?"),
        }
    }
}

/// Name, element type and shape of one input or output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TensorSpec {
    /// Name as written in the model file.
    pub name: String,
    /// Element type of the tensor.
    pub dtype: DType,
    /// One entry for each dimension; `None` if the model does not declare the number of dimensions.
    pub shape: Option<Vec<Dim>>,
}

impl fmt::Display for TensorSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}[", self.name, self.dtype)?;
        match &self.shape {
            None => f.write_str("…")?,
            Some(dims) => {
                for (at, dim) in dims.iter().enumerate() {
                    write!(f, "{}{dim}", if at == 0 { "" } else { "," })?;
                }
            }
        }
        f.write_str("]")
    }
}

/// Inputs and outputs of a model, in the order of the model file.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Signature {
    /// Inputs that a request must contain.
    pub inputs: Vec<TensorSpec>,
    /// Outputs that a response may contain.
    pub outputs: Vec<TensorSpec>,
}

/// Difference between a request and a model's signature; names the expected and the given value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    /// The model has no input or output with this name.
    #[error("the model has no {kind} {given:?}: it has {expected}")]
    Unknown {
        /// Either `input` or `output`.
        kind: &'static str,
        /// Name in the request.
        given: String,
        /// Names that the model has.
        expected: String,
    },
    /// The request lacks an input.
    #[error("input {expected} is missing")]
    Missing {
        /// The missing input, with element type and shape.
        expected: String,
    },
    /// The request contains an input twice.
    #[error("input {0:?} was given twice")]
    Twice(String),
    /// The element type of an input is wrong.
    #[error("input {name:?} must be {expected}, not {given}")]
    DType {
        /// Name of the input.
        name: String,
        /// Element type that the model declares.
        expected: DType,
        /// Element type in the request.
        given: DType,
    },
    /// The number of dimensions or the size of one dimension is wrong.
    #[error("input {expected} was given with shape {given:?}")]
    Shape {
        /// The input, with element type and shape.
        expected: String,
        /// Shape in the request.
        given: Vec<usize>,
    },
    /// One symbol would need two sizes at the same time.
    #[error("dimension {symbol:?} is both {first} and {second} in one request")]
    Symbol {
        /// The symbol in the model's shapes.
        symbol: String,
        /// Size at its first occurrence.
        first: usize,
        /// Size at its later occurrence.
        second: usize,
    },
}

impl Signature {
    /// Checks the tensors of a request against the inputs: names, element types, numbers of dimensions and fixed sizes.
    ///
    /// One symbol may have several sizes: ONNX Runtime does not compare them, and exporters that name every open
    /// dimension `N` do not mean that these are equal.
    ///
    /// # Errors
    /// Returns the first [`Mismatch`], in the order of the request.
    pub fn check_inputs(&self, given: &[NamedTensor]) -> Result<(), Mismatch> {
        for (at, input) in given.iter().enumerate() {
            let spec = find(&self.inputs, &input.name, "input")?;
            if given.iter().take(at).any(|earlier| earlier.name == input.name) {
                return Err(Mismatch::Twice(input.name.clone()));
            }
            if spec.dtype != input.tensor.dtype() {
                return Err(Mismatch::DType {
                    name: input.name.clone(),
                    expected: spec.dtype,
                    given: input.tensor.dtype(),
                });
            }
            check_shape(spec, input.tensor.shape())?;
        }
        let missing = self.inputs.iter().find(|spec| !given.iter().any(|input| input.name == spec.name));
        missing.map_or(Ok(()), |spec| Err(Mismatch::Missing { expected: spec.to_string() }))
    }

    /// Checks that each symbol has one size in all inputs, for engines that rely on it. The inputs must have passed
    /// [`Signature::check_inputs`].
    ///
    /// # Errors
    /// Returns [`Mismatch::Symbol`] for the first symbol with two sizes.
    pub fn check_symbols(&self, given: &[NamedTensor]) -> Result<(), Mismatch> {
        let mut symbols: BTreeMap<&str, usize> = BTreeMap::new();
        for input in given {
            let dims = find(&self.inputs, &input.name, "input")?.shape.iter().flatten();
            for (dim, &second) in dims.zip(input.tensor.shape()) {
                let Dim::Symbol(symbol) = dim else { continue };
                let first = *symbols.entry(symbol).or_insert(second);
                if first != second {
                    return Err(Mismatch::Symbol { symbol: symbol.clone(), first, second });
                }
            }
        }
        Ok(())
    }

    /// Checks that the model has every requested output.
    ///
    /// # Errors
    /// Returns [`Mismatch::Unknown`] for the first that it does not have.
    pub fn check_outputs<'a>(&self, wanted: impl IntoIterator<Item = &'a str>) -> Result<(), Mismatch> {
        wanted.into_iter().try_for_each(|name| find(&self.outputs, name, "output").map(drop))
    }
}

fn find<'a>(specs: &'a [TensorSpec], name: &str, kind: &'static str) -> Result<&'a TensorSpec, Mismatch> {
    specs.iter().find(|spec| spec.name == name).ok_or_else(|| Mismatch::Unknown {
        kind,
        given: name.chars().take(80).collect(),
        expected: specs.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
    })
}

fn check_shape(spec: &TensorSpec, given: &[usize]) -> Result<(), Mismatch> {
    let Some(dims) = &spec.shape else { return Ok(()) };
    let fits = |(dim, size): (&Dim, &usize)| match dim {
        Dim::Any | Dim::Symbol(_) => true,
        Dim::Fixed(expected) => expected == size,
    };
    if dims.len() != given.len() || !dims.iter().zip(given).all(fits) {
        return Err(Mismatch::Shape { expected: spec.to_string(), given: given.to_vec() });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Tensor;

    fn signature() -> Signature {
        let batch = || Dim::Symbol("batch".into());
        Signature {
            inputs: vec![
                TensorSpec { name: "image".into(), dtype: DType::F32, shape: Some(vec![batch(), Dim::Fixed(2)]) },
                TensorSpec { name: "mask".into(), dtype: DType::Bool, shape: Some(vec![batch()]) },
            ],
            outputs: vec![TensorSpec { name: "logits".into(), dtype: DType::F32, shape: None }],
        }
    }

    fn named(name: &str, dtype: DType, shape: &[usize]) -> NamedTensor {
        let bytes = shape.iter().product::<usize>() * dtype.size().unwrap();
        NamedTensor { name: name.into(), tensor: Tensor::new(dtype, shape.to_vec(), vec![0; bytes].into()).unwrap() }
    }

    #[test]
    fn a_request_that_fits_is_taken_in_any_order() {
        let given = [named("mask", DType::Bool, &[3]), named("image", DType::F32, &[3, 2])];
        assert_eq!(signature().check_inputs(&given), Ok(()));
        assert_eq!(signature().check_outputs(["logits"]), Ok(()));
    }

    #[test]
    fn a_mismatch_names_the_expected_and_the_given() {
        let message = |given: &[NamedTensor]| signature().check_inputs(given).unwrap_err().to_string();
        assert_eq!(message(&[named("image", DType::F32, &[1, 2])]), "input \"mask\" BOOL[batch] is missing");
        assert_eq!(message(&[named("image", DType::F64, &[1, 2])]), "input \"image\" must be FP32, not FP64");
        assert_eq!(
            message(&[named("image", DType::F32, &[1, 3])]),
            "input \"image\" FP32[batch,2] was given with shape [1, 3]"
        );
        assert_eq!(
            message(&[named("picture", DType::F32, &[1, 2])]),
            "the model has no input \"picture\": it has \"image\" FP32[batch,2], \"mask\" BOOL[batch]"
        );
        let twice = [named("mask", DType::Bool, &[1]), named("mask", DType::Bool, &[1])];
        assert_eq!(message(&twice), "input \"mask\" was given twice");
    }
    #[test]
    fn one_symbol_may_have_two_sizes_unless_the_engine_relies_on_it() {
        let given = [named("image", DType::F32, &[1, 2]), named("mask", DType::Bool, &[2])];
        assert_eq!(signature().check_inputs(&given), Ok(()));
        let refused = signature().check_symbols(&given).unwrap_err().to_string();
        assert_eq!(refused, "dimension \"batch\" is both 1 and 2 in one request");
        assert_eq!(
            signature().check_symbols(&[named("image", DType::F32, &[2, 2]), named("mask", DType::Bool, &[2])]),
            Ok(())
        );
    }
}
