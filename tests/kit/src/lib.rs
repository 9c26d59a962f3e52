//! Shared parts of the tests: temporary hubs and agents as real processes, the digits, a client of the HTTP server.
//!
//! [`Site`] is a temporary folder with a [`Hub`] and its [`Agent`]s; [`story`] runs a test on one and, if it fails,
//! prints every log and keeps the folder. [`wait`] polls until a condition holds. `cargo xtask demo` uses the same
//! parts, with release binaries.

pub mod agent;
pub mod author;
pub mod binaries;
pub mod cohort;
pub mod digits;
pub mod disk;
pub mod fleet;
pub mod graphs;
pub mod hostile;
pub mod hub;
pub mod load;
pub mod metrics;
pub mod oip;
pub mod process;
pub mod raw;

pub mod runtime;
pub mod site;
pub mod tools;
pub mod udp_proxy;
pub mod wait;

pub use agent::Agent;
pub use binaries::Binaries;
pub use cohort::Cohort;
pub use digits::Digits;
pub use fleet::Fleet;
pub use hub::Hub;
pub use oip::{Client, InferOptions, Input, Reply};
pub use process::{Daemon, Finished};
pub use raw::{Raw, RawReply};
pub use rustix::process::Signal;
pub use site::{Site, skip, story};
