//! The servers of the hub: [`admin`] for operators (HTTPS), [`gateway`] for devices (QUIC), `inference` for applications (Open
//! Inference Protocol), and the guards against clients that take more than their share ([`guard`]).

pub mod admin;
pub mod gateway;
pub mod guard;
pub(crate) mod inference;
pub mod metrics;
