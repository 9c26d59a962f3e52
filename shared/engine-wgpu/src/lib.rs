//! The wgpu engine: quantized ONNX models, loaded at run time, on any GPU that Vulkan, Metal, DX12 or GL can drive.
//!
//! ```text
//! bytes → read → ir::Graph → check (ops.toml) → passes (fold, fuse) → segments
//!                 per request shapes: infos → lower → plan (arena, bind groups) → gpu → answer
//! ```
//! Fed by a daemon with model bytes that `engine::precheck` has bounded; it is an [`engine::Engine`] like ONNX Runtime.
//! Knows no network and no files (the pipeline cache is bytes in, bytes out).

pub mod check;
mod engine;
pub mod error;
pub mod fault;
pub mod gpu;
pub mod host;
pub mod inference;
pub mod ir;
pub mod lower;
pub mod ops;
pub mod passes;
mod plan;
pub mod read;
pub mod segments;
pub mod session;
mod shape;
pub mod value_info;

pub use crate::engine::{BUDGET_BYTES, WgpuEngine};
pub use check::{ModelReport, check};
pub use error::{GpuError, ModelError, OpError, UnsupportedOperator};
