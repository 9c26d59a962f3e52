//! Names of values: those that a graph has already, and those that the values of a body get at one call.

use std::collections::{HashMap, HashSet};

use crate::message::{Fields, Malformed};
use crate::{GRAPH_DEPTH_MAX, InlineError};

/// Numbers of the fields of `GraphProto`.
pub(crate) mod graph {
    pub(crate) const NODE: u64 = 1;
    pub(crate) const INITIALIZER: u64 = 5;
    pub(crate) const INPUT: u64 = 11;
    pub(crate) const OUTPUT: u64 = 12;
    pub(crate) const VALUE_INFO: u64 = 13;
    pub(crate) const QUANTIZATION: u64 = 14;
    pub(crate) const SPARSE_INITIALIZER: u64 = 15;
}

/// Numbers of the fields of `NodeProto`.
pub(crate) mod node {
    pub(crate) const INPUT: u64 = 1;
    pub(crate) const OUTPUT: u64 = 2;
    pub(crate) const NAME: u64 = 3;
    pub(crate) const OP_TYPE: u64 = 4;
    pub(crate) const ATTRIBUTE: u64 = 5;
    pub(crate) const DOMAIN: u64 = 7;
    pub(crate) const OVERLOAD: u64 = 8;
}

/// Numbers of the fields of `AttributeProto`.
pub(crate) mod attribute {
    pub(crate) const NAME: u64 = 1;
    pub(crate) const GRAPH: u64 = 6;
    pub(crate) const GRAPHS: u64 = 11;
    pub(crate) const REFERENCE: u64 = 21;
}

/// Number of `TensorProto.name`.
pub(crate) const TENSOR_NAME: u64 = 8;
/// Number of `SparseTensorProto.values`, whose name is the name of the sparse tensor.
pub(crate) const SPARSE_VALUES: u64 = 1;
/// Number of `ValueInfoProto.name`.
pub(crate) const INFO_NAME: u64 = 1;

/// Returns the last field of that number, which a parser takes; empty when there is none.
pub(crate) fn field(message: &[u8], wanted: u64) -> Result<&[u8], Malformed> {
    let mut found: &[u8] = b"";
    let mut fields = Fields::of(message);
    while let Some((number, value)) = fields.next()? {
        if number == wanted {
            found = value.bytes()?;
        }
    }
    Ok(found)
}

/// Collects every name of a value or node in a graph and its subgraphs.
pub(crate) fn names_of(message: &[u8], depth: usize, names: &mut HashSet<Vec<u8>>) -> Result<(), InlineError> {
    if depth > GRAPH_DEPTH_MAX {
        return Err(InlineError::GraphDepth);
    }
    let mut fields = Fields::of(message);
    while let Some((number, value)) = fields.next()? {
        match number {
            graph::NODE => names_of_node(value.bytes()?, depth, names)?,
            graph::INITIALIZER => drop(names.insert(field(value.bytes()?, TENSOR_NAME)?.to_vec())),
            graph::INPUT | graph::OUTPUT | graph::VALUE_INFO => {
                names.insert(field(value.bytes()?, INFO_NAME)?.to_vec());
            }
            graph::SPARSE_INITIALIZER => {
                names.insert(field(field(value.bytes()?, SPARSE_VALUES)?, TENSOR_NAME)?.to_vec());
            }
            _ => {}
        }
    }
    Ok(())
}

fn names_of_node(message: &[u8], depth: usize, names: &mut HashSet<Vec<u8>>) -> Result<(), InlineError> {
    let mut fields = Fields::of(message);
    while let Some((number, value)) = fields.next()? {
        match number {
            node::INPUT | node::OUTPUT | node::NAME => drop(names.insert(value.bytes()?.to_vec())),
            node::ATTRIBUTE => {
                let mut inner = Fields::of(value.bytes()?);
                while let Some((number, value)) = inner.next()? {
                    if matches!(number, attribute::GRAPH | attribute::GRAPHS) {
                        names_of(value.bytes()?, depth + 1, names)?;
                    }
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// Substitutions for the names and attribute references of one body at one call.
#[derive(Debug, Default)]
pub(crate) struct Scope<'a> {
    /// Prefix of the body's own names; empty in the main graph, whose names stay.
    pub(crate) prefix: Vec<u8>,
    /// Names outside for names in the body.
    pub(crate) values: HashMap<&'a [u8], Vec<u8>>,
    /// Attributes of the call by name, as `AttributeProto` bytes, defaults included.
    pub(crate) attributes: HashMap<Vec<u8>, Vec<u8>>,
}

impl<'a> Scope<'a> {
    /// Returns whether the names of this scope stay as they are.
    pub(crate) fn is_main(&self) -> bool {
        self.prefix.is_empty()
    }

    /// Returns the name outside of a value in the body.
    pub(crate) fn value(&mut self, name: &'a [u8], taken: &mut HashSet<Vec<u8>>) -> Vec<u8> {
        if name.is_empty() || self.is_main() {
            return name.to_vec();
        }
        let prefix = &self.prefix;
        self.values
            .entry(name)
            .or_insert_with(|| {
                let mut fresh = [prefix, name].concat();
                while !taken.insert(fresh.clone()) {
                    fresh.push(b'_');
                }
                fresh
            })
            .clone()
    }
}
