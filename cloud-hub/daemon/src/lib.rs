//! The cloud hub: answers heavy requests, keeps the registry of signed models, enrols devices, offers them new versions.
//!
//! Shell around [`hub_core`], which decides. [`hub`] composes and runs the parts: [`servers`] speak to operators and devices,
//! [`app`] has the use cases, [`storage`] what is kept, [`jobs`] the background work, [`workers`] the engine; [`cli`] is the
//! command line.

pub mod app;
pub mod backup;
pub mod cli;
pub mod clock;
pub mod config;
pub mod counters;
pub mod deltas;
pub mod fleet;
pub mod gate_file;
pub mod hub;
pub mod jobs;
pub mod metrics;
pub mod operators;
pub mod reach;
mod readmission;
pub mod registry;
pub mod rollouts;
pub mod servers;
pub mod state;
pub mod storage;
pub mod tokens;
pub mod workers;

pub use hub_api as api;
pub use servers::guard;
pub use storage::records;
