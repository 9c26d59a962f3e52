//! Runs conformance cases: a model, its inputs and the outputs that ONNX (or ONNX Runtime) says it has.
//!
//! Fed by folders in the cache that the scripts under `tools/` write. Used by `onnx_node.rs` (the backend suite), `onnx_models.rs`
//! (whole networks) and `ort_quantized.rs` (generated quantized cases); the promise of each is a committed list.
#![allow(dead_code, clippy::allow_attributes, reason = "each test binary uses a part of it")]
#![expect(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "helpers of tests may do what tests may")]
#![expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small numbers of small tests")]

pub(crate) mod case;
pub(crate) mod family;
pub(crate) mod judge;
pub(crate) mod lists;
pub(crate) mod page;
pub(crate) mod suite;
