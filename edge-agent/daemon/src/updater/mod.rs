//! Model updates: one task for each model, which obeys `edge_core::update`.
//!
//! Fed by the uplink with offers and by the link with whether the hub is there; feeds [`crate::models`] with loaded
//! versions and the outbox with reports. `jobs` and `fetch` do the work of each step, `disk` knows what lies where, `trouble`
//! sorts errors into the kinds that the core understands, `failover` takes a model to the next engine when a GPU is lost.

mod admission;
mod attempts;
mod commands;
mod disk;
mod failover;
mod fetch;
mod follow;
mod forms;
mod gate;
mod jobs;
mod keep;
mod load;
mod measure;
mod observe;
mod shadow;
mod shared;
mod start;
mod task;
mod trouble;

pub use admission::LoadMemory;
pub use attempts::{Attempt, Attempts};
pub use commands::{Command, HubOrder, NotOrdered, Updaters};
pub use disk::{collect_incoming, read_slots};
pub use fetch::Transfers;
pub use follow::Followed;
pub use forms::Choice;
pub(crate) use gate::is_metered;
pub use keep::StoredProbation;
pub use load::{LoadTable, Trial, Wanted, load};
pub use shared::SharedParts;
pub use task::{ModelUpdater, UpdaterParts};
