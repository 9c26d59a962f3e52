//! Makes small models of large ones.
//!
//! A pass takes a [`onnx_graph::Model`] and gives a new one with a [`Report`]; what must be run (calibration, judging
//! quality, latency) is run through an [`engine::Engine`] that is handed in. Fed by the operator's command line
//! (`cloud-hub model compress`). Knows no network and no trust.

pub mod answers;
pub mod auto;
mod bodies;
pub mod calibrate;
mod constants;
mod dense;
pub mod dequantize;
pub mod dynamic_int8;
mod embedding;
pub mod equalize;
mod error;
pub mod examples;
pub mod gram;
pub mod half_precision;
mod labels;
pub mod latency;
mod linear;
mod logarithm;
mod nearest;
pub mod pareto;
pub mod pass;
mod prepare;
pub mod prune;
pub mod quality;
mod report;
pub mod search;
mod selection;
pub mod sensitivity;
mod stack;
pub mod static_int8;
pub mod weight_only;

pub use dequantize::dequantize;
pub use error::CompressError;
pub use evaluate::labels::Label;
pub use examples::{ExampleRules, Examples};
pub use gram::Grams;
pub use prepare::{PrepareError, prepare};
pub use report::{Report, Skipped};
pub use selection::Selection;
