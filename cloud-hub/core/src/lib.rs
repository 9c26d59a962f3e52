//! Decides for the fleet: admission, scheduling, authorisation, who gets which version. No I/O, no clock.
//!
//! Every module is a plain value or function that is fed what happened and a clock reading and answers with what must
//! be done or kept. `cloud-hub/daemon` is the shell that obeys; `tests/sim` is another.
//!
//! | module | decides |
//! |---|---|
//! | [`authorise`] | whether a connection may be served, from its certificate and the device's record |
//! | [`tokens`] | whether a join token lets a device in |
//! | [`registry`] | which versions of a model there are and which one is current |
//! | [`fleet`] | who is online, who follows what, who is offered what, how each version fares |
//! | [`admission`] | which inference request runs next, and which is turned away |

pub mod admission;
pub mod authorise;
pub mod fleet;
pub mod registry;
pub mod tokens;
