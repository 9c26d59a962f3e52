//! Decides for one device: routing, updates, presence. No I/O, no clock.
//!
//! Every module is a plain value that is fed what happened, a clock reading and, where it spreads load, a random
//! number; it answers with what must be done. `edge-agent/daemon` is the shell that obeys; `tests/sim` is another.
//!
//! | module | decides |
//! |---|---|
//! | [`route`] | where one request is answered |
//! | [`update`] | the life of a model update |
//! | [`slots`] | which version serves and which is the way back |
//! | [`uplink`] | when to dial the hub, and where |
//! | [`renewal`] | when to ask for the next certificate |
//! | [`trust`] | when to refresh the trust metadata, and whether it has expired |
//! | [`outbox`] | in which order reports reach the hub, and which are dropped |
//! | [`request_outbox`] | which requests wait for the hub, in which order they are sent, and what is given up |
//! | [`counters`] | which counts of each version wait for the hub |
//! | [`audit`] | which kept answers are compared with the full model's |
//! | [`agreement`] | whether two answers agree |
//! | [`drift`] | whether scores have left the distribution of their calibration |
//! | [`refit`] | which threshold is in force: the author's, or one that the hub refitted |
//! | [`policy`] | which places may answer, by deadline, privacy, conditions and budgets |
//! | [`backoff`] | how long to wait before trying again |
//! | [`refused`] | how a machine says no to an event that makes no sense |

pub mod agreement;
pub mod audit;
pub mod backoff;
pub mod cache;
pub mod counters;
pub mod drift;
pub mod outbox;
pub mod policy;
pub mod refit;
pub mod refused;
pub mod renewal;
pub mod request_outbox;
pub mod route;
pub mod slots;
pub mod trust;
pub mod update;
pub mod uplink;

pub use refused::Refused;
