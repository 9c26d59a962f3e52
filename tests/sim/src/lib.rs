//! Simulation of a fleet and a hub in one thread of virtual time.
//!
//! The cores of `edge-agent` and `cloud-hub` run here exactly as in the daemons; everything around them (network,
//! disks, engines, clocks) is simulated from one seed: delay, loss, partitions, broken connections, killed agents and
//! hubs, files that differ from the signed ones, failing jobs, stolen tokens, wrong clocks. Hours pass in a second, and
//! the same seed repeats the same hours.
//!
//! [`run`] simulates one [`Scenario`] and returns its statistics and every broken promise ([`watch::Watch`]).
//! `tests/fleet.rs` runs many seeds and prints the one that fails; `SIM_SEED=n` runs only that one.

pub mod device;
pub mod env;
pub mod hub;
pub mod scenario;
pub mod watch;
pub mod wire;
mod world;

pub use scenario::Scenario;
pub use world::run;
