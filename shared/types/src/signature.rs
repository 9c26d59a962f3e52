//! What a model takes and gives, and how a request's tensors are held against it.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{DType, NamedTensor};

/// One dimension of a declared shape.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Dim {
    /// Exactly this many.
    Fixed(usize),
    /// Any number. Exporters give names freely, so one name may mean several sizes; see [`Signature::check_symbols`].
    Symbol(String),
    /// Any number.
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
    /// Element type.
    pub dtype: DType,
    /// One entry for each dimension; `None` where the model does not even say how many there are.
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

/// The inputs and outputs of a model, in the order of the model file.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Signature {
    /// What a request must bring.
    pub inputs: Vec<TensorSpec>,
    /// What an answer may hold.
    pub outputs: Vec<TensorSpec>,
}

/// How a request does not fit a model: says what is expected and what was given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    /// The model has no input or output of that name.
    #[error("the model has no {kind} {given:?}: it has {expected}")]
    Unknown {
        /// `input` or `output`.
        kind: &'static str,
        /// The name in the request.
        given: String,
        /// The names the model has.
        expected: String,
    },
    /// An input was not given.
    #[error("input {expected} is missing")]
    Missing {
        /// The input, with dtype and shape.
        expected: String,
    },
    /// An input was given twice.
    #[error("input {0:?} was given twice")]
    Twice(String),
    /// Wrong element type.
    #[error("input {name:?} must be {expected}, not {given}")]
    DType {
        /// The input.
        name: String,
        /// What the model declares.
        expected: DType,
        /// What the request brought.
        given: DType,
    },
    /// Wrong number of dimensions or wrong size of one.
    #[error("input {expected} was given with shape {given:?}")]
    Shape {
        /// The input, with dtype and shape.
        expected: String,
        /// What the request brought.
        given: Vec<usize>,
    },
    /// One symbol would have to be two sizes at once.
    #[error("dimension {symbol:?} cannot be {first} and {second} in one request")]
    Symbol {
        /// The symbol in the model's shapes.
        symbol: String,
        /// Its size where it was met first.
        first: usize,
        /// Its size at the later place.
        second: usize,
    },
}

impl Signature {
    /// Holds the tensors of a request against the inputs: names, element types, ranks and fixed sizes.
    ///
    /// One symbol may have several sizes: ONNX Runtime does not compare them, and exporters that name every open dimension
    /// `N` promise nothing by it.
    ///
    /// # Errors
    /// The first [`Mismatch`], in the order of the request.
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
    /// [`Mismatch::Symbol`] for the first that has two.
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

    /// Checks that every wanted output exists.
    ///
    /// # Errors
    /// [`Mismatch::Unknown`] for the first that does not.
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
        assert_eq!(refused, "dimension \"batch\" cannot be 1 and 2 in one request");
        assert_eq!(
            signature().check_symbols(&[named("image", DType::F32, &[2, 2]), named("mask", DType::Bool, &[2])]),
            Ok(())
        );
    }
}
