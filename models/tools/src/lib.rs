//! Makes bundles: reads an author's folder ([`pack`]) and signs what devices will trust ([`sign`]).
//!
//! Used by `cloud-hub`, on the operator's machine for the offline keys and on the hub for the online ones. What it
//! writes is read by `bundle` on the devices.

pub mod delta;
pub mod pack;
pub mod sign;
