//! The inference servers of both daemons: the Open Inference Protocol v2 over HTTP and gRPC, over one trait.
//!
//! A daemon implements [`InferenceService`] and makes an [`Endpoint`] of it, which adds what every request needs once:
//! admission, memory, request ids, spans and metrics. [`http::router`] and [`grpc::router`] map the calls of the two
//! protocols to it; [`serve`] owns the connections of a listener, whichever protocol they speak. [`guard`] refuses web pages
//! and foreign host names, [`codec`] reads and writes the tensors of HTTP.

pub mod budget;
pub mod classify;
pub mod codec;
pub mod connections;
mod deadlines;
pub mod decompress;
pub mod endpoint;
pub mod grpc;
pub mod guard;
pub mod http;
pub mod limits;
pub mod listener;
mod progress;
pub mod refusal;
pub mod server;
pub mod service;
pub mod status;
pub mod streams;

pub use budget::Budget;
pub use endpoint::{Endpoint, Identity, Login};
pub use guard::Guard;
pub use limits::Limits;
pub use listener::{Listener, Secure, UnixSocket};
pub use server::{ConnectionLimits, LocalAddress, PeerAddress, Wire, serve};
pub use service::{
    CountAndTime, InferenceService, ModelDescription, ModelStatistics, ResponseStream, VersionDescription,
};
