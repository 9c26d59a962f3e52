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
pub struct Fact {
    /// Type of the elements.
    pub dtype: ElementType,
    /// Size of each dimension.
    pub shape: Vec<usize>,
    /// The value itself, where it does not depend on the request's data.
    pub known: Option<Literal>,
}

impl Fact {
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
pub struct Inputs<'a>(pub &'a [Option<&'a Fact>]);

impl<'a> Inputs<'a> {
    /// The fact at this place.
    ///
    /// # Errors
    /// [`OpError::Invalid`] when the input is not given.
    pub fn at(&self, at: usize) -> Result<&'a Fact, OpError> {
        self.optional(at).ok_or_else(|| OpError::invalid(format!("input {at} is missing")))
    }

    /// The fact at this place, if the input is given.
    #[must_use]
    pub fn optional(&self, at: usize) -> Option<&'a Fact> {
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
pub(crate) enum Islands {
    /// Its shape is not known, and nothing behind it.
    Refused,
    /// It is taken to find one thing: good for element types and for looking ahead.
    Assumed,
}

/// The facts of every value of a graph at the shapes of one plan.
#[derive(Debug, Clone)]
pub struct Facts(pub(crate) Vec<Option<Fact>>);

impl Facts {
    /// The facts of a graph's inputs as declared, every symbolic size taken as 1; `None` where no shape is declared.
    #[must_use]
    pub fn declared_inputs(graph: &Graph) -> Vec<Option<Fact>> {
        let size = |dim: &Dim| match dim {
            Dim::Fixed(size) => *size,
            Dim::Symbol(_) | Dim::Any => 1,
        };
        let fact = |&id: &ValueId| {
            let (dtype, dims) = graph.value(id).declared.as_ref()?;
            Some(Fact::new(*dtype, dims.as_ref()?.iter().map(size).collect()))
        };
        graph.inputs.iter().map(fact).collect()
    }

    /// Every value's fact, by its number.
    pub(crate) fn into_vec(self) -> Vec<Option<Fact>> {
        self.0
    }

    /// The fact of a value, if its node could be inferred.
    #[must_use]
    pub fn find(&self, id: ValueId) -> Option<&Fact> {
        self.0.get(id.index())?.as_ref()
    }

    /// The fact of a value.
    ///
    /// # Panics
    /// When the value is of another graph or was never defined; `read` and `passes` make sure every value is.
    #[must_use]
    pub fn of(&self, id: ValueId) -> &Fact {
        match &self.0[id.index()] {
            Some(fact) => fact,
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
pub(crate) fn check_size(fact: &Fact, bytes_max: usize) -> Result<(), OpError> {
    let elements = fact.shape.iter().try_fold(1_usize, |product, &size| product.checked_mul(size.max(1)));
    // Everything but 8-bit integers takes four bytes an element on the device.
    let fits = elements.and_then(|elements| elements.checked_mul(4)).is_some_and(|bytes| bytes <= bytes_max);
    if fits && fact.shape.len() <= RANK_MAX { Ok(()) } else { Err(OpError::TooLarge(fact.shape.clone())) }
}
