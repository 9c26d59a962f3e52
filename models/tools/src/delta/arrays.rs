//! Finds the arrays of numbers in an ONNX file: where they are, and of which type.
//!
//! Reads `raw_data`, `float_data` and `double_data` of the tensors of graphs, of nodes' attributes, of their subgraphs and of functions.
//! Integers that are stored as varints have no fixed width and stay literals. Field numbers are those of `onnx.proto` (ONNX 1.23).

use std::ops::Range;

use bundle::delta::element::Kind;

/// Smallest array in bytes; smaller ones are compressed together with the bytes around them.
const BYTES_MIN: usize = 64;

/// Deepest nesting of messages that is followed. A tensor in a subgraph of a subgraph is 12 deep.
const DEPTH_MAX: u32 = 64;

/// Array of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Array {
    /// Name of the tensor; for an attribute the outputs of its node and its name.
    pub(super) name: String,
    /// Dimensions as stored.
    pub(super) dims: Vec<u64>,
    /// Type of the elements.
    pub(super) kind: Kind,
    /// Bytes in the file.
    pub(super) range: Range<usize>,
}

/// Returns the arrays of a model in file order, or `None` if the bytes are no readable ONNX model.
pub(super) fn find(file: &[u8]) -> Option<Vec<Array>> {
    let mut arrays = Vec::new();
    message(file, 0..file.len(), Message::Model, "", DEPTH_MAX, &mut arrays)?;
    arrays.sort_by_key(|array| array.range.start);
    arrays.dedup_by(|next, before| next.range.start < before.range.end);
    Some(arrays)
}

/// Messages on the way from a model to its tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Message {
    Model,
    Graph,
    Node,
    Attribute,
    Function,
    SparseTensor,
    Tensor,
}

impl Message {
    /// Returns the message in the field with this number, if arrays can be in it.
    const fn inner(self, field: u64) -> Option<Self> {
        match (self, field) {
            (Self::Model, 7) => Some(Self::Graph),
            (Self::Model, 25) => Some(Self::Function),
            (Self::Graph, 1) | (Self::Function, 7) => Some(Self::Node),
            (Self::Graph, 5) | (Self::Attribute, 5 | 10) | (Self::SparseTensor, 1 | 2) => Some(Self::Tensor),
            (Self::Graph, 15) | (Self::Attribute, 22 | 23) => Some(Self::SparseTensor),
            (Self::Node, 5) => Some(Self::Attribute),
            (Self::Attribute, 6 | 11) => Some(Self::Graph),
            _ => None,
        }
    }

    /// Returns the number of the field that names the message; a node is named by its outputs.
    const fn name(self) -> Option<u64> {
        match self {
            Self::Node => Some(2),
            Self::Attribute | Self::Function => Some(1),
            Self::Tensor => Some(8),
            Self::Model | Self::Graph | Self::SparseTensor => None,
        }
    }
}

/// Walks one message; `None` if it is malformed.
fn message(
    file: &[u8],
    range: Range<usize>,
    kind: Message,
    above: &str,
    depth: u32,
    arrays: &mut Vec<Array>,
) -> Option<()> {
    let depth = depth.checked_sub(1)?;
    let all: Vec<(u64, Field)> = fields(file, range)?;
    let mut name = above.to_owned();
    for (_, field) in all.iter().filter(|(number, _)| Some(*number) == kind.name()) {
        if let Field::Bytes(range) = field {
            name.push('/');
            name.push_str(&String::from_utf8_lossy(file.get(range.clone())?));
        }
    }
    if kind == Message::Tensor {
        arrays.extend(tensor(file, &all, name));
        return Some(());
    }
    for (number, field) in all {
        if let (Some(inner), Field::Bytes(range)) = (kind.inner(number), field) {
            message(file, range, inner, &name, depth, arrays)?;
        }
    }
    Some(())
}

/// Returns the array of a tensor, if its elements have a fixed width and it is worth coding.
fn tensor(file: &[u8], fields: &[(u64, Field)], name: String) -> Option<Array> {
    let mut dims = Vec::new();
    let mut data_type = 0;
    let mut data = None;
    for (number, field) in fields {
        match (number, field) {
            (1, Field::Varint(dim)) => dims.push(*dim),
            (1, Field::Bytes(packed)) => dims.extend(varints(file.get(packed.clone())?)),
            (2, Field::Varint(number)) => data_type = *number,
            (4, Field::Bytes(range)) => data = Some((Kind::Float32, range.clone())),
            (10, Field::Bytes(range)) => data = Some((Kind::Float64, range.clone())),
            (9, Field::Bytes(range)) => data = kind_of(data_type_of(fields)).map(|kind| (kind, range.clone())),
            _ => {}
        }
    }
    // Packed `float_data` also holds complex numbers, which are pairs of floats.
    let (kind, range) = data?;
    let whole = (range.len() * 8).is_multiple_of(kind.bits() as usize);
    (data_type != 0 && whole && range.len() >= BYTES_MIN).then_some(Array { name, dims, kind, range })
}

fn data_type_of(fields: &[(u64, Field)]) -> u64 {
    let number = fields.iter().rev().find_map(|(number, field)| match field {
        Field::Varint(value) if *number == 2 => Some(*value),
        _ => None,
    });
    number.unwrap_or(0)
}

/// Returns how the elements of a tensor in `raw_data` are coded, by the number of its data type.
const fn kind_of(data_type: u64) -> Option<Kind> {
    Some(match data_type {
        // FLOAT; COMPLEX64 is pairs of them.
        1 | 14 => Kind::Float32,
        // UINT8, INT8, BOOL, and the floats of eight bits.
        2 | 3 | 9 | 17..=20 | 24 => Kind::Byte,
        // UINT16, INT16.
        4 | 5 => Kind::Int16,
        // FLOAT16, BFLOAT16.
        10 | 16 => Kind::Float16,
        // INT32, UINT32.
        6 | 12 => Kind::Int32,
        // INT64, UINT64.
        7 | 13 => Kind::Int64,
        // DOUBLE; COMPLEX128 is pairs of them.
        11 | 15 => Kind::Float64,
        // UINT4, INT4, FLOAT4E2M1.
        21..=23 => Kind::Nibble,
        _ => return None,
    })
}

/// Value of a field.
#[derive(Debug, Clone)]
enum Field {
    Varint(u64),
    Bytes(Range<usize>),
}

/// Returns the fields of a message with their places in the file; those of fixed width are left out.
fn fields(file: &[u8], range: Range<usize>) -> Option<Vec<(u64, Field)>> {
    let mut at = range.start;
    let end = range.end;
    let mut all = Vec::new();
    while at < end {
        let tag = varint(file, &mut at)?;
        match tag & 7 {
            0 => all.push((tag >> 3, Field::Varint(varint(file, &mut at)?))),
            1 => at = at.checked_add(8)?,
            2 => {
                let length = usize::try_from(varint(file, &mut at)?).ok()?;
                let after = at.checked_add(length).filter(|after| *after <= end)?;
                all.push((tag >> 3, Field::Bytes(at..after)));
                at = after;
            }
            5 => at = at.checked_add(4)?,
            _ => return None,
        }
    }
    (at == end).then_some(all)
}

fn varint(file: &[u8], at: &mut usize) -> Option<u64> {
    let mut number = 0_u64;
    for group in 0..10 {
        let byte = *file.get(*at)?;
        *at += 1;
        number |= u64::from(byte & 0x7f).checked_shl(group * 7)?;
        if byte < 0x80 {
            return Some(number);
        }
    }
    None
}

fn varints(packed: &[u8]) -> Vec<u64> {
    let mut at = 0;
    std::iter::from_fn(|| (at < packed.len()).then(|| varint(packed, &mut at)).flatten()).collect()
}
