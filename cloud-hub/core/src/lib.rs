//! Decides for the fleet: admission, scheduling, authorisation, who gets which version. No I/O, no clock.
//!
//! Every module is a plain value or function that is fed what happened and a clock reading and answers with what must
//! be done or kept. `cloud-hub/daemon` is the shell that obeys; `tests/sim` is another.
//!
//! | module | decides |
//! |---|---|
//! | [`authorise`] | what a connection may do, from its certificate and the device's record |
//! | [`tokens`] | whether a join token lets a device in |
//! | [`registry`] | which versions of a model there are and which one is current |
//! | [`fleet`] | who is online, who follows what, who is offered what, how each version fares |
//! | [`admission`] | which inference request runs next, and which is turned away |
//! | [`shares`] | how much of a common budget one user may hold |
//! | [`intake`] | which stranger gets a place, and whose place it takes |
//! | [`labels`], [`filter`] | which devices a list or a rollout is about |
//! | [`rollout`] | which devices of a rollout get its version now, when its next wave begins, who goes back |
//! | [`audit`] | whether the log of changes is whole |
//! | [`gate`], [`evidence`] | whether a rollout goes on, from the counters of canary and control devices |
//! | [`calibration`] | whether the promise of a threshold holds in the field, and which threshold follows |
//! | [`stats`] | which differences are shown, however often they are looked at |
//! | [`logins`] | which failed logins are logged one by one |

pub mod admission;
pub mod audit;
pub mod authorise;
pub mod calibration;
pub mod evidence;
pub mod filter;
pub mod fleet;
pub mod gate;
pub mod intake;
pub mod labels;
pub mod logins;
pub mod registry;
pub mod rollout;
pub mod shares;
pub mod stats;
pub mod tokens;
