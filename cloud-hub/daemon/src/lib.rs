//! The cloud hub: answers heavy requests, keeps the registry of signed models, enrols devices, tells them what is new.
//!
//! Shell around [`hub_core`], which decides. [`hub`] composes the parts and runs them; [`gateway`] speaks to devices,
//! [`admin`] to operators, [`workers`] to the engine, [`registry`] and [`fleet`] to the disk; [`cli`] is the command line.

pub mod admin;
pub mod api;
pub mod backup;
pub mod cli;
pub mod clock;
pub mod config;
pub mod fleet;
pub mod gateway;
pub mod guard;
pub mod hub;
mod inference;
pub mod metrics;
pub mod operators;
pub mod reach;
mod readmission;
pub mod records;
pub mod registry;
pub mod state;
pub mod tokens;
pub mod workers;
