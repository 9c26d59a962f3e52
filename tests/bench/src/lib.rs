//! Shared parts of the benchmarks: a [`race`] measures a [`figure::Figure`] into [`sample::Sample`]s, which become a
//! [`row::Row`], and rows become a table and a JSON file ([`report`]).
//!
//! Absolute times of different machines are not comparable, so a figure is a ratio of two contestants that took turns
//! in one run. Foreign contestants are [`peer::Peer`]s: small programs under `peers/`, built once into the cache.

pub mod figure;
pub mod peer;
pub mod quantize;
pub mod race;
pub mod report;
pub mod row;
pub mod sample;
