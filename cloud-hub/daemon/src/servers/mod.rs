//! The servers of the hub: [`admin`] for operators (HTTPS), [`gateway`] for devices (QUIC), and what guards both against
//! clients that take more than their share ([`guard`]).

pub mod admin;
pub mod gateway;
pub mod guard;
