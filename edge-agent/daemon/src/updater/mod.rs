//! Model updates: one task for each model, which obeys `edge_core::update`.
//!
//! Fed by the uplink with offers and by the link with whether the hub is there; feeds [`crate::models`] with loaded
//! versions and the outbox with reports. `jobs` and `fetch` do the work of each step, `disk` knows what lies where, `trouble`
//! sorts errors into the kinds that the core understands, `failover` takes a model to the next engine when a GPU is lost.

mod attempts;
mod disk;
mod failover;
mod fetch;
mod jobs;
mod load;
mod task;
mod trouble;

pub use attempts::{Attempt, Attempts};
pub use disk::{collect_incoming, read_slots};
pub use fetch::Transfers;
pub use load::{LoadTable, Trial, Wanted, load};
pub use task::{ModelUpdater, UpdaterParts};
