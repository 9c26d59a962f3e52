//! What a store keeps when its process is killed or its machine loses power.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod kill;
mod power_cut;
mod writer;
