//! What is known of every value once the shapes of a request are known: element type, shape, and often the value itself.
//!
//! Shape-computing subgraphs (`Shape` → `Gather` → `Concat` → …) are never run on the device: their values are known here,
//! by [`crate::host`], before a plan is made. Fed by [`crate::plan`] with concrete input shapes; feeds [`crate::lower`].

mod range;

pub use range::{Range, Ranges};
use types::Dim;
use types::limits::RANK_MAX;

use crate::error::OpError;
use crate::ir::{ElementType, Graph, Literal, ValueId};

/// The operator that errors about an input of a model name.
pub(crate) const INPUT: &str = "input";

/// Knowledge of one value at the shapes of one plan: its value info.
#[derive(Debug, Clone, PartialEq)]
pub struct ValueInfo {
    /// Type of the elements.
    pub dtype: ElementType,
    /// Size of each dimension.
    pub shape: Vec<usize>,
    /// The value itself, where it does not depend on the request's data.
    pub known: Option<Literal>,
}

impl ValueInfo {
    /// A value of which only type and shape are known.
    #[must_use]
    pub fn new(dtype: ElementType, shape: Vec<usize>) -> Self {
        Self { dtype, shape, known: None }
    }

    /// A value that is wholly known.
    #[must_use]
    pub fn known(literal: Literal) -> Self {
        Self { dtype: literal.dtype(), shape: literal.shape().to_vec(), known: Some(literal) }
    }

    /// Number of elements of the tensor.
    #[must_use]
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Number of dimensions of the shape.
    #[must_use]
    pub fn rank(&self) -> usize {
        self.shape.len()
    }
}

/// The inputs of one node, as an operator's rule sees them.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a>(pub &'a [Option<&'a ValueInfo>]);

impl<'a> Inputs<'a> {
    /// The info at this place.
    ///
    /// # Errors
    /// [`OpError::Invalid`] when the input is not given.
    pub fn at(&self, at: usize) -> Result<&'a ValueInfo, OpError> {
        self.optional(at).ok_or_else(|| OpError::invalid(format!("input {at} is missing")))
    }

    /// The info at this place, if the input is given.
    #[must_use]
    pub fn optional(&self, at: usize) -> Option<&'a ValueInfo> {
        self.0.get(at).copied().flatten()
    }

    /// The value at this place, needed now.
    ///
    /// # Errors
    /// When the input is missing or depends on the request's data.
    pub fn known(&self, at: usize) -> Result<&'a Literal, OpError> {
        self.at(at)?.known.as_ref().ok_or(OpError::DataDependent(at))
    }

    /// The value at this place if the input is given, needed now.
    ///
    /// # Errors
    /// When the input is given but depends on the request's data.
    pub fn optional_known(&self, at: usize) -> Result<Option<&'a Literal>, OpError> {
        self.optional(at).map(|_given| self.known(at)).transpose()
    }

    /// Returns the number of places there are, given or not.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns whether there are no places.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Treatment of an operator whose output's shape depends on data that is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DataDependent {
    /// Its shape is not known, and nothing behind it.
    Refused,
    /// It is taken to find one thing: good for element types and for looking ahead.
    Assumed,
}

/// The infos of every value of a graph at the shapes of one plan.
#[derive(Debug, Clone)]
pub struct ValueInfos(pub(crate) Vec<Option<ValueInfo>>);

impl ValueInfos {
    /// The infos of a graph's inputs as declared, every symbolic size taken as 1; `None` where no shape is declared.
    #[must_use]
    pub fn declared_inputs(graph: &Graph) -> Vec<Option<ValueInfo>> {
        let size = |dim: &Dim| match dim {
            Dim::Fixed(size) => *size,
            Dim::Symbol(_) | Dim::Any => 1,
        };
        let info = |&id: &ValueId| {
            let (dtype, dims) = graph.value(id).declared.as_ref()?;
            Some(ValueInfo::new(*dtype, dims.as_ref()?.iter().map(size).collect()))
        };
        graph.inputs.iter().map(info).collect()
    }

    /// Every value's info, by its number.
    pub(crate) fn into_vec(self) -> Vec<Option<ValueInfo>> {
        self.0
    }

    /// The info of a value, if its node could be inferred.
    #[must_use]
    pub fn find(&self, id: ValueId) -> Option<&ValueInfo> {
        self.0.get(id.index())?.as_ref()
    }

    /// The info of a value.
    ///
    /// # Panics
    /// When the value is of another graph or was never defined; `read` and `passes` make sure every value is.
    #[must_use]
    pub fn of(&self, id: ValueId) -> &ValueInfo {
        match &self.0[id.index()] {
            Some(info) => info,
            None => unreachable!("value {id:?} is read before it is defined"),
        }
    }
}

/// Byte offsets into a buffer are 32-bit in shaders, and one bit is kept for signed index arithmetic.
pub(crate) const TENSOR_BYTES_MAX: usize = 1 << 31;

/// The same where nothing is addressed: the scores of a batch of attentions are some 2^32 bytes at the sizes that passes imagine.
pub(crate) const IMAGINED_BYTES_MAX: usize = 1 << 48;

/// Refuses tensors of more than so many bytes.
///
/// Empty ones count as if each zero were a one, so that strides never overflow either.
pub(crate) fn check_size(info: &ValueInfo, bytes_max: usize) -> Result<(), OpError> {
    let elements = info.shape.iter().try_fold(1_usize, |product, &size| product.checked_mul(size.max(1)));
    // Everything but 8-bit integers takes four bytes an element on the device.
    let fits = elements.and_then(|elements| elements.checked_mul(4)).is_some_and(|bytes| bytes <= bytes_max);
    if fits && info.shape.len() <= RANK_MAX { Ok(()) } else { Err(OpError::TooLarge(info.shape.clone())) }
}
