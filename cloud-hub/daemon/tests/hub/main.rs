//! The hub through its own servers, in one process.
//!
//! `cloud-hub init` and the operator's verbs run as the real program; the hub itself runs in the test ([`site`]).

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "the helpers of a test fail the test")]

mod admin;
mod artifacts;
mod calibrations;
mod counters;
mod device;
mod flood;
mod gateway;
mod hostile;
mod labels;
mod registry;
mod rights;
mod site;
