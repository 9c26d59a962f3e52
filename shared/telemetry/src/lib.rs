//! Logs, metrics, trace context and error chains of both daemons.
//!
//! `main` calls [`init`] once for logs and [`metrics::install`] once for metrics; the shells then use `tracing` and the
//! recording functions of [`metrics`]. Names and messages from peers are escaped before they reach a terminal or a file
//! ([`escape_control`]).
//!
//! Deliberately absent: an exporter with its own socket (the daemons serve [`metrics::Metrics`] on their own port) and
//! payloads in logs.

mod escape;
mod logs;
pub mod metrics;
mod noise;
pub mod service;
mod trace;

pub use escape::escape_control;
pub use logs::{Guard, InitError, LogConfig, LogFormat, init};
pub use noise::{with_real_stderr, without_noise};
pub use trace::{InvalidTraceparent, TraceContext};
pub use types::error::chain;
