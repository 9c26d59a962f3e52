//! The connection to the hub.
//!
//! [`Link`] is what the rest of the agent holds: it asks the hub for answers, metadata and files over whatever connection
//! there is. [`Uplink`] is the task that sees to there being one: it obeys `edge_core::uplink` (when to dial, where) and
//! `edge_core::renewal` (when to ask for the next certificate), passes offers to the updaters and reports to the hub.

mod beside;
mod link;
mod missing;
mod online;
mod renew;
mod say;
mod send;
mod silence;
mod takes;
mod task;

pub(crate) use link::source;
pub use link::{DeferredRequest, HubAnswer, Link, LinkError, NotAnswered};
pub use silence::Silence;
pub use takes::Takes;
pub use task::{Uplink, UplinkParts};
