//! Estimates the memory that loading a model takes beyond its weights: one budget for the whole file.
//!
//! Fed by the walk with every field it meets. A limit on each tensor alone is none on all of them together, and text and
//! empty messages take many times their bytes once they are decoded.

use super::wire::Value;
use super::{ModelLimits, Refusal};

/// Bytes of memory for each byte of text: ONNX Runtime took 5.3 to 7.6 MB for each MB of descriptions and metadata
/// (measured with 100 MB of them), because the text is decoded, kept with the graph and copied again.
const TEXT_FACTOR: u64 = 8;

/// Bytes of memory for a message or a text, however short: its object, its place in a list, its allocation.
const MESSAGE_BYTES: u64 = 128;

/// Bytes of memory for a node: the message, the node of the engine, its edges.
const NODE_BYTES: u64 = 1024;

/// Bytes of memory for an attribute, however short: its message has a field for each type of value.
const ATTRIBUTE_BYTES: u64 = 256;

/// Bytes of memory for each byte of a description of a value, whose smallest parts are messages of two bytes.
const VALUE_FACTOR: u64 = 32;

/// Bytes of memory for a number that stands alone: eight, in a list that may be half empty.
const NUMBER_BYTES: u64 = 16;

/// Names of the kinds of data in a refusal for lack of memory.
pub(super) const CONSTANTS: &str = "constants written out in full";
const TEXTS: &str = "names, descriptions and metadata";

/// The estimate so far, and its limit.
pub(super) struct Budget {
    used: u64,
    limit: u64,
}

impl Budget {
    /// The budget for a file of that many bytes: its weights are read once and copied once.
    pub(super) fn new(file_bytes: usize, limits: &ModelLimits) -> Self {
        let file = u64::try_from(file_bytes).unwrap_or(u64::MAX).saturating_mul(2);
        Self { used: 0, limit: limits.load_bytes.saturating_add(file) }
    }

    /// Adds bytes of memory.
    pub(super) fn charge(&mut self, bytes: u64, what: &'static str) -> Result<(), Refusal> {
        self.used = self.used.saturating_add(bytes);
        if self.used > self.limit { Err(Refusal::Memory { what, limit: self.limit }) } else { Ok(()) }
    }

    /// Adds a node, without its fields.
    pub(super) fn node(&mut self) -> Result<(), Refusal> {
        self.charge(NODE_BYTES, TEXTS)
    }

    /// Adds an attribute, without its fields.
    pub(super) fn attribute(&mut self) -> Result<(), Refusal> {
        self.charge(ATTRIBUTE_BYTES, TEXTS)
    }

    /// Adds a field that is text, a number, or a small message of text.
    pub(super) fn field(&mut self, value: &Value<'_>) -> Result<(), Refusal> {
        match value {
            Value::Bytes(bytes) => self.charge(MESSAGE_BYTES + TEXT_FACTOR * length(bytes), TEXTS),
            Value::Varint(_) | Value::Fixed => self.charge(NUMBER_BYTES, TEXTS),
        }
    }

    /// Adds the description of a value: name, type, shape.
    pub(super) fn value(&mut self, value: &Value<'_>) -> Result<(), Refusal> {
        match value {
            Value::Bytes(bytes) => self.charge(MESSAGE_BYTES + VALUE_FACTOR * length(bytes), TEXTS),
            Value::Varint(_) | Value::Fixed => self.charge(NUMBER_BYTES, TEXTS),
        }
    }

    /// Adds numbers: packed ones take `widening` bytes of memory for each of theirs.
    pub(super) fn numbers(&mut self, value: &Value<'_>, widening: u64) -> Result<(), Refusal> {
        match value {
            Value::Bytes(bytes) => self.charge(widening * length(bytes), CONSTANTS),
            Value::Varint(_) | Value::Fixed => self.charge(NUMBER_BYTES, CONSTANTS),
        }
    }

    /// Adds bytes that are kept as they are: the value of an attribute, or an element of a tensor of text.
    pub(super) fn bytes(&mut self, value: &Value<'_>) -> Result<(), Refusal> {
        match value {
            Value::Bytes(bytes) => self.charge(MESSAGE_BYTES + 2 * length(bytes), CONSTANTS),
            Value::Varint(_) | Value::Fixed => self.charge(NUMBER_BYTES, CONSTANTS),
        }
    }
}

fn length(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

/// Bytes of one element of a type of `onnx.proto`; 32 for text and for types that are not known.
pub(super) const fn element_bytes(element: u64) -> u64 {
    match element {
        2 | 3 | 9 | 17..=25 => 1,
        4 | 5 | 10 | 16 => 2,
        1 | 6 | 12 => 4,
        7 | 11 | 13 | 14 => 8,
        15 => 16,
        _ => 32,
    }
}
