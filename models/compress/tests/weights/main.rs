//! What the passes over weights promise, on real models through ONNX Runtime, our wgpu engine and onnx.checker.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests may do what tests may")]

mod digits;
mod eight_bits;
mod examples;
mod half;
mod hostile;
mod judge;
mod minilm;
mod minilm_int4;
mod node_cases;
mod prune;
#[path = "../support/mod.rs"]
mod support;
