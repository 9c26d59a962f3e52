//! The heavy kernels against plain references in `f64`, over many random shapes, on both families of kernels.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_precision_loss,
    reason = "references count in small numbers, and a test may stop anywhere"
)]

mod support;

#[path = "heavy/attend.rs"]
mod attend;
#[path = "heavy/bench_node.rs"]
mod bench_node;
#[path = "heavy/conv.rs"]
mod conv;
#[path = "heavy/conv_transpose.rs"]
mod conv_transpose;
#[path = "heavy/halves.rs"]
mod halves;
#[path = "heavy/matmul.rs"]
mod matmul;
#[path = "heavy/nbits.rs"]
mod nbits;
#[path = "heavy/recurrent.rs"]
mod recurrent;
#[path = "heavy/winograd.rs"]
mod winograd;
