//! Tests of a store whose process is killed or whose machine loses power.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod kill;
mod power_cut;
mod writer;
