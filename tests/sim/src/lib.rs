//! A fleet and a hub in one thread of virtual time.
//!
//! The cores of `edge-agent` and `cloud-hub` decide here exactly as they do in the daemons; everything around them
//! (network, disks, engines, clocks) is played from one seed: delay, loss, partitions, connections that break, agents
//! and hubs that are killed, files that are not what was signed, jobs that fail, stolen tokens, wrong clocks. Hours
//! pass in a second, and the same seed plays the same hours again.
//!
//! [`run`] plays one [`Scenario`] and gives what it saw: counts, and every broken promise ([`watch::Watch`]).
//! `tests/fleet.rs` plays many seeds and prints the one that fails; `SIM_SEED=n` plays that one alone.

pub mod device;
pub mod env;
pub mod hub;
pub mod scenario;
pub mod watch;
pub mod wire;
mod world;

pub use scenario::Scenario;
pub use world::run;
