//! Files in the ONNX format that mean harm: one corpus for all readers of the format.
//!
//! Each is small and would take far more memory, or far more of the stack, than its bytes if a reader believed it. Every reader
//! refuses every one of them, with an error and not by its end.

use onnx_graph::proto::{GraphProto, ModelProto, SparseTensorProto, TensorProto};
use prost::Message;

/// File that every reader refuses.
#[derive(Debug, Clone)]
pub struct HostileFile {
    /// Kind of harm, in a clause.
    pub kind: &'static str,
    /// Content of the file.
    pub bytes: Vec<u8>,
}

/// Encodes a length-delimited field.
#[must_use]
pub fn field(number: u8, inner: &[u8]) -> Vec<u8> {
    let mut bytes = vec![number << 3 | 2];
    let mut length = inner.len();
    while length > 0x7f {
        bytes.push(u8::try_from(length & 0x7f).unwrap_or(0) | 0x80);
        length >>= 7;
    }
    bytes.push(u8::try_from(length).unwrap_or(0));
    bytes.extend(inner);
    bytes
}

/// Graphs within attributes of nodes, this deep.
fn nested(depth: usize) -> Vec<u8> {
    // From the innermost outwards; each level adds a graph in an attribute of a node.
    (0..depth).fold(Vec::new(), |graph, _| field(1, &field(5, &field(6, &graph))))
}

fn sparse(count: usize, rows: i64) -> Vec<u8> {
    let values = TensorProto { data_type: Some(1), dims: vec![1], float_data: vec![1.0], ..TensorProto::default() };
    let indices = TensorProto { data_type: Some(7), dims: vec![1], int64_data: vec![5], ..TensorProto::default() };
    let tensor = SparseTensorProto { values: Some(values), indices: Some(indices), dims: vec![rows, rows] };
    let graph = GraphProto { sparse_initializer: vec![tensor; count], ..GraphProto::default() };
    ModelProto { graph: Some(graph), ..ModelProto::default() }.encode_to_vec()
}

/// Returns the corpus.
#[must_use]
pub fn files() -> Vec<HostileFile> {
    let file = |kind, bytes| HostileFile { kind, bytes };
    let dims = |count: usize| field(11, &field(2, &field(1, &field(2, &field(1, &[]).repeat(count)))));
    vec![
        file("a million empty nodes", field(7, &field(1, &[]).repeat(1_000_000))),
        file("four million empty attributes of one node", field(7, &field(1, &field(5, &[]).repeat(4_000_000)))),
        file("eight million empty dimensions of one input", field(7, &dims(8_000_000))),
        file("graphs nested twenty deep", field(7, &nested(20))),
        file("graphs nested two thousand deep", field(7, &nested(2_000))),
        file("a field that is longer than the file", vec![0x3a, 0x7f, 1]),
        file("a length that is longer than any file", vec![0x3a, 0xff, 0xff, 0xff, 0xff, 0x7f]),
        file("a number without an end", vec![0xff; 40]),
        file("sparse constants that are large together", sparse(24, 8_192)),
        file("a sparse constant whose size overflows", sparse(1, i64::MAX)),
    ]
}
