//! What every benchmark shares: a [`figure::Figure`] is measured into [`sample::Sample`]s by a [`race`], becomes a
//! [`row::Row`], and rows become a table and a JSON file ([`report`]).
//!
//! Absolute times do not travel between machines, so a figure is a ratio of two things that took turns in one run. Others
//! that are compared with are [`peer::Peer`]s: small programs under `peers/`, built once into the cache.

pub mod figure;
pub mod peer;
pub mod quantize;
pub mod race;
pub mod report;
pub mod row;
pub mod sample;
