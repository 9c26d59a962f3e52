//! The edge agent: answers requests on the device, defers to the hub, takes signed model updates.
//!
//! Shell around [`edge_core`], which decides. [`agent`] composes the parts and runs them; [`inference`] answers the
//! servers for applications,
//! [`answer`] walks one request through the routing core, [`uplink`] speaks to the hub, [`updater`] brings versions into
//! [`models`], [`trust`] watches who vouches for them, [`receipts`] keeps the log of receipts; [`cli`] is the command line.

pub mod agent;
pub mod answer;
pub mod assigned;
pub mod audits;
pub mod cached;
pub mod cli;
pub mod config;
pub mod control;
pub mod counters;
pub mod crash;
pub mod drift;
pub mod engines;
pub mod identity;
pub mod inference;
pub mod input;
pub mod latencies;
pub mod measured;
mod memory;
pub mod models;
pub mod notify;
pub mod outbox;
pub mod permits;
pub mod receipts;
pub mod records;
pub mod reports;
pub mod shadow;
mod sockets;
pub mod state;
pub mod status;
pub mod surroundings;
pub mod thresholds;
pub mod trust;
pub mod updater;
pub mod uplink;
pub mod vitals;
