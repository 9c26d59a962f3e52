//! The cloud hub: answers heavy requests, keeps the registry of signed models, enrols devices, offers them new versions.
//!
//! Shell around [`hub_core`], which decides. In layers, each of which may use those after it: [`hub`] composes and runs the parts;
//! [`jobs`] has the background work; [`servers`] speak to operators, devices and applications; [`app`] has the use cases;
//! [`workers`] run models; [`storage`] has what is kept. [`cli`] is the command line.

pub mod app;
pub mod cli;
pub mod clock;
pub mod config;
pub mod hub;
pub mod jobs;
pub mod servers;
pub mod storage;
pub mod workers;

pub use hub_api as api;
pub use servers::guard;
pub use storage::records;
