//! Looks at the bytes of a model before they are decoded: counts messages and what they will take in memory.
//!
//! Every byte is looked at a bounded number of times and nothing is allocated. What passes is not thereby correct; it
//! only can be decoded without harm. The numbers of fields are those of `proto/onnx.proto`.

use std::mem::size_of;

use crate::limits::{ReadLimits, Refusal};
use crate::proto;
use crate::tensor::{ElementType, bytes_of};

/// Deepest nesting of messages of any kind; the decoder itself gives up at 100.
const MESSAGE_DEPTH_MAX: usize = 80;

/// Places that a list takes for its first element.
const LIST_PLACES: u64 = 4;

/// Bytes in memory for each byte of a hint about devices: an empty message of two bytes takes at most that for each.
const HINT_BYTES: u64 = 256;

/// What a length-delimited field holds.
enum Field {
    /// Bytes that stay a slice of the file.
    Slice,
    /// Text, or a message without messages inside: copied.
    Text,
    /// Packed numbers: one byte in the file may take this many in memory.
    Numbers(u64),
    Message(Kind),
}

/// The messages that hold messages.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Model,
    Graph,
    Node,
    Attribute,
    Tensor,
    Sparse,
    Value,
    Type,
    TypePart,
    Shape,
    Dimension,
    Training,
    Function,
    Annotation,
    Entry,
    Device,
}

impl Kind {
    /// Bytes of the decoded message itself.
    const fn size(self) -> usize {
        match self {
            Self::Model => size_of::<proto::ModelProto>(),
            Self::Graph => size_of::<proto::GraphProto>(),
            Self::Node => size_of::<proto::NodeProto>(),
            Self::Attribute => size_of::<proto::AttributeProto>(),
            Self::Tensor => size_of::<proto::TensorProto>(),
            Self::Sparse => size_of::<proto::SparseTensorProto>(),
            Self::Value => size_of::<proto::ValueInfoProto>(),
            Self::Type | Self::TypePart | Self::Shape => size_of::<proto::TypeProto>(),
            Self::Dimension => size_of::<proto::tensor_shape_proto::Dimension>(),
            Self::Training => size_of::<proto::TrainingInfoProto>(),
            Self::Function => size_of::<proto::FunctionProto>(),
            Self::Annotation => size_of::<proto::TensorAnnotation>(),
            Self::Entry => size_of::<proto::StringStringEntryProto>(),
            Self::Device => size_of::<proto::NodeDeviceConfigurationProto>(),
        }
    }

    /// Returns what the field of that number holds when it is length-delimited.
    const fn field(self, number: u64) -> Field {
        use Field::{Message, Numbers, Slice, Text};
        match (self, number) {
            (Self::Model, 7) | (Self::Training, 1 | 2) | (Self::Attribute, 6 | 11) => Message(Self::Graph),
            (Self::Model, 14)
            | (Self::Graph, 16)
            | (Self::Node, 9)
            | (Self::Value, 4)
            | (Self::Function, 14)
            | (Self::Annotation, 2)
            | (Self::Tensor, 13 | 16)
            | (Self::Training, 3 | 4)
            | (Self::Model | Self::Function, 8 | 9) => Message(Self::Entry),
            (Self::Model, 20) => Message(Self::Training),
            (Self::Model, 25) => Message(Self::Function),
            (Self::Graph, 1) | (Self::Function, 7) => Message(Self::Node),
            (Self::Graph, 5) | (Self::Attribute, 5 | 10) | (Self::Sparse, 1 | 2) => Message(Self::Tensor),
            (Self::Graph, 15) | (Self::Attribute, 22 | 23) => Message(Self::Sparse),
            (Self::Graph, 11..=13) | (Self::Function, 12) => Message(Self::Value),
            (Self::Graph, 14) => Message(Self::Annotation),
            (Self::Node, 5) | (Self::Function, 11) => Message(Self::Attribute),
            (Self::Node, 10) => Message(Self::Device),
            // Hints for clusters, of small messages that nobody needs: charged by their bytes, whatever is in them.
            (Self::Device, _) | (Self::Model, 26) => Numbers(HINT_BYTES),
            (Self::Value, 2) | (Self::Attribute, 14 | 15) => Message(Self::Type),
            // The kinds of a type lie in it; lists, maps and optional values hold types again.
            (Self::Type, 1 | 4 | 5 | 8 | 9) => Message(Self::TypePart),
            (Self::TypePart, 1) => Message(Self::Type),
            (Self::TypePart, 2) => Message(Self::Shape),
            (Self::Shape, 1) => Message(Self::Dimension),
            (Self::Tensor, 9) | (Self::Attribute, 4 | 9) => Slice,
            (Self::Tensor, 4 | 10) | (Self::Attribute, 7) => Numbers(1),
            (Self::Tensor, 5) => Numbers(4),
            (Self::Tensor, 1 | 7 | 11) | (Self::Attribute, 8) | (Self::Sparse, 3) => Numbers(8),
            _ => Text,
        }
    }
}

/// Holds the bytes against the limits.
///
/// # Errors
/// The first [`Refusal`] met.
pub(crate) fn scan(file: &[u8], limits: &ReadLimits) -> Result<(), Refusal> {
    let bytes = as_u64(file.len());
    if bytes > limits.file_bytes {
        return Err(Refusal::FileSize { bytes, limit: limits.file_bytes });
    }
    let budget = limits.decoded_bytes.saturating_add(bytes.saturating_mul(2));
    let mut scan = Scan { limits, memory: 0, budget, sparse: 0, nodes: 0, tensors: 0 };
    scan.message(Kind::Model, file, 0, 0)
}

struct Scan<'limits> {
    limits: &'limits ReadLimits,
    memory: u64,
    budget: u64,
    /// Bytes of the sparse constants met so far, written out.
    sparse: u64,
    nodes: usize,
    tensors: usize,
}

impl Scan<'_> {
    fn message(&mut self, kind: Kind, mut rest: &[u8], depth: usize, graphs: usize) -> Result<(), Refusal> {
        if depth > MESSAGE_DEPTH_MAX {
            return Err(Refusal::Depth { what: "messages", limit: MESSAGE_DEPTH_MAX });
        }
        while !rest.is_empty() {
            let key = varint(&mut rest)?;
            match key & 7 {
                0 => {
                    varint(&mut rest)?;
                    self.charge(8 * LIST_PLACES)?;
                }
                1 => self.skip(&mut rest, 8)?,
                5 => self.skip(&mut rest, 4)?,
                2 => {
                    let length = usize::try_from(varint(&mut rest)?).map_err(|_error| cut())?;
                    let (inner, after) = rest.split_at_checked(length).ok_or_else(cut)?;
                    rest = after;
                    self.field(kind.field(key >> 3), inner, depth, graphs)?;
                }
                _ => return Err(Refusal::Unreadable { what: "a field is of an unknown kind" }),
            }
        }
        Ok(())
    }

    fn skip(&mut self, rest: &mut &[u8], bytes: usize) -> Result<(), Refusal> {
        *rest = rest.get(bytes..).ok_or_else(cut)?;
        self.charge(8 * LIST_PLACES)
    }

    fn field(&mut self, field: Field, inner: &[u8], depth: usize, graphs: usize) -> Result<(), Refusal> {
        let length = as_u64(inner.len());
        match field {
            Field::Slice => self.charge(LIST_PLACES * as_u64(size_of::<bytes::Bytes>())),
            Field::Text => self.charge(LIST_PLACES * as_u64(size_of::<String>()) + length),
            Field::Numbers(widening) => self.charge(length.saturating_mul(widening)),
            Field::Message(kind) => {
                self.charge(LIST_PLACES * as_u64(kind.size()))?;
                self.count(kind)?;
                if kind == Kind::Sparse {
                    self.sparse(inner)?;
                }
                let graphs = graphs + usize::from(kind == Kind::Graph);
                // The main graph is not nested in anything.
                if graphs > self.limits.depth + 1 {
                    return Err(Refusal::Depth { what: "graphs", limit: self.limits.depth });
                }
                self.message(kind, inner, depth + 1, graphs)
            }
        }
    }

    /// Adds what a sparse constant takes when it is written out.
    fn sparse(&mut self, inner: &[u8]) -> Result<(), Refusal> {
        self.sparse = self.sparse.saturating_add(dense_bytes(inner)?);
        let limit = self.limits.sparse_bytes;
        if self.sparse > limit { Err(Refusal::Constants { limit }) } else { Ok(()) }
    }

    fn count(&mut self, kind: Kind) -> Result<(), Refusal> {
        let (count, what, limit) = match kind {
            Kind::Node => (&mut self.nodes, "nodes", self.limits.nodes),
            Kind::Tensor => (&mut self.tensors, "constant tensors", self.limits.tensors),
            _ => return Ok(()),
        };
        *count += 1;
        if *count > limit { Err(Refusal::Count { what, limit }) } else { Ok(()) }
    }

    fn charge(&mut self, bytes: u64) -> Result<(), Refusal> {
        self.memory = self.memory.saturating_add(bytes);
        if self.memory > self.budget { Err(Refusal::Memory { limit: self.budget }) } else { Ok(()) }
    }
}

/// Bytes of a `SparseTensorProto` when it is written out.
fn dense_bytes(mut rest: &[u8]) -> Result<u64, Refusal> {
    let (mut elements, mut width) = (1_u64, 1_u64);
    while let Some((number, value)) = field(&mut rest)? {
        match (number, value) {
            (1, Value::Bytes(mut values)) => {
                while let Some((number, value)) = field(&mut values)? {
                    if let (2, Value::Number(element)) = (number, value) {
                        width = element_bytes(element);
                    }
                }
            }
            (3, Value::Number(dim)) => elements = elements.saturating_mul(dim),
            (3, Value::Bytes(mut packed)) => {
                while !packed.is_empty() {
                    elements = elements.saturating_mul(varint(&mut packed)?);
                }
            }
            (_, Value::Number(_) | Value::Bytes(_)) => {}
        }
    }
    Ok(elements.saturating_mul(width))
}

/// Bytes of one element; 32 for text and for what is not known.
fn element_bytes(element: u64) -> u64 {
    let known = i32::try_from(element).ok().and_then(|number| ElementType::try_from(number).ok());
    let bytes = known.and_then(|element| bytes_of(element, &[1]));
    bytes.map_or(32, as_u64)
}

/// Content of one field.
enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// Takes one field off the front; `None` at the end. Numbers of fixed width are given as 0: nothing here needs them.
fn field<'a>(rest: &mut &'a [u8]) -> Result<Option<(u64, Value<'a>)>, Refusal> {
    if rest.is_empty() {
        return Ok(None);
    }
    let key = varint(rest)?;
    let length = match key & 7 {
        0 => return Ok(Some((key >> 3, Value::Number(varint(rest)?)))),
        1 => 8,
        5 => 4,
        2 => usize::try_from(varint(rest)?).map_err(|_error| cut())?,
        _ => return Err(Refusal::Unreadable { what: "a field is of an unknown kind" }),
    };
    let (inner, after) = rest.split_at_checked(length).ok_or_else(cut)?;
    *rest = after;
    Ok(Some((key >> 3, if key & 7 == 2 { Value::Bytes(inner) } else { Value::Number(0) })))
}

fn varint(rest: &mut &[u8]) -> Result<u64, Refusal> {
    let mut value = 0_u64;
    for place in 0..10 {
        let (&byte, after) = rest.split_first().ok_or_else(cut)?;
        *rest = after;
        value |= u64::from(byte & 0x7f) << (7 * place);
        if byte < 0x80 {
            return Ok(value);
        }
    }
    Err(Refusal::Unreadable { what: "a number has too many bytes" })
}

const fn cut() -> Refusal {
    Refusal::Unreadable { what: "it is cut short" }
}

fn as_u64(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}
