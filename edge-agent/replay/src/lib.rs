//! Replays recorded requests of devices under another policy, with the router of the agent.
//!
//! Fed by `edge-agent policy replay` with the log of receipts, and by `cloud-hub policy replay` with exported logs. The verbs
//! read twice: [`Samples`] collects the times of both places, then [`Replay`] lets [`edge_core::route`] decide each request
//! once more in virtual time. No I/O and no clock: the origin of the virtual time is passed in.

mod change;
mod moment;
mod record;
mod replay;
mod report;
mod samples;
#[cfg(test)]
mod tests;
mod text;
mod walk;

pub use change::{Change, Decision, EXAMPLES_MAX};
pub use moment::{NewPolicy, Replaces};
pub use record::{Entry, Event, ReadError, Request, hub_failure, local_failure, read, read_export};
pub use replay::Replay;
pub use report::{Bound, Figures, Lacking, Outcome, Report, Wrong};
pub use samples::{SAMPLES_MIN, Samples};
