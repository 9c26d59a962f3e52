//! What a model may be at most, and why one is refused before anything is built from it.

/// Largest message that protocol buffers can carry: lengths are signed 32-bit numbers in every implementation.
pub const MESSAGE_BYTES_MAX: u64 = i32::MAX as u64;

/// Bounds of reading a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadLimits {
    /// Bytes of the model file. Default: [`MESSAGE_BYTES_MAX`]; what is larger keeps its weights in files beside.
    pub file_bytes: u64,
    /// Bytes of weights in files beside, together. Default 64 GiB: no machine that compresses a model has more memory.
    pub external_bytes: u64,
    /// Bytes that the decoded messages may take beyond twice the file.
    ///
    /// An empty node takes two bytes in a file and hundreds in memory. Default 1 GiB: a decoder of 48 layers exported
    /// operator by operator takes about 50 MiB, counted as generously as the scan counts.
    pub decoded_bytes: u64,
    /// Bytes of all sparse constants together once they are written out. Default 256 MiB, as engines take them.
    pub sparse_bytes: u64,
    /// Nodes, with those of subgraphs and functions. Default 200,000: the largest exports have about 50,000.
    pub nodes: usize,
    /// Constant tensors of all kinds. Default 200,000, for the same reason.
    pub tensors: usize,
    /// Depth of graphs in attributes of nodes (`If` in `Loop` in `Scan`). Default 8: real models stay under 4.
    pub depth: usize,
}

impl Default for ReadLimits {
    fn default() -> Self {
        Self {
            file_bytes: MESSAGE_BYTES_MAX,
            external_bytes: 64 << 30,
            decoded_bytes: 1 << 30,
            sparse_bytes: 256 << 20,
            nodes: 200_000,
            tensors: 200_000,
            depth: 8,
        }
    }
}

/// Reason why a model is refused before it is decoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The file is over the limit.
    #[error("the model file has {bytes} bytes, over the limit of {limit}: keep its weights in a file beside")]
    FileSize {
        /// Bytes of the file.
        bytes: u64,
        /// Limit that was exceeded.
        limit: u64,
    },
    /// Not protocol buffers, or cut short.
    #[error("the file is no readable ONNX model: {what}")]
    Unreadable {
        /// Kind of the field that was met.
        what: &'static str,
    },
    /// More of something than anybody needs.
    #[error("the model has more than {limit} {what}")]
    Count {
        /// Kind of thing that was counted.
        what: &'static str,
        /// Limit that was exceeded.
        limit: usize,
    },
    /// Messages nested too deep.
    #[error("the model nests {what} deeper than {limit}")]
    Depth {
        /// Kind of thing that is nested.
        what: &'static str,
        /// Limit that was exceeded.
        limit: usize,
    },
    /// Sparse constants that are enormous once they are written out.
    #[error("the sparse constants of the model together take more than {limit} bytes when they are written out")]
    Constants {
        /// Limit that was exceeded.
        limit: u64,
    },
    /// Small in the file, enormous in memory.
    #[error("the model would take more than {limit} bytes of memory without its weights")]
    Memory {
        /// Limit that was exceeded.
        limit: u64,
    },
}
