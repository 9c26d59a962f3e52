//! Makes small models of large ones.
//!
//! A pass takes a [`onnx_graph::Model`] and gives a new one with a [`Report`]; what must be run (calibration, judging
//! quality, latency) is run through an [`engine::Engine`] that is handed in. Fed by the operator's command line
//! (`cloud-hub model compress`). Knows no network and no trust.

pub mod calibrate;
pub mod equalize;
mod error;
pub mod examples;
mod prepare;
mod report;
mod selection;
pub mod static_int8;

pub use error::CompressError;
pub use examples::Examples;
pub use prepare::{PrepareError, prepare};
pub use report::{Report, Skipped};
pub use selection::Selection;
