//! Signed bundles, in which model versions are distributed.
//!
//! The content of a bundle ([`manifest`]), its files ([`mod@file`]), their download ([`fetch`]), their signatures
//! ([`trust`]) and the outputs that the model must produce before it serves ([`golden`]), the score of an answer ([`confidence`]). A bundle on disk is a
//! [`Bundle<Unverified>`]; only [`Bundle::verify`] makes it a [`Bundle<Verified>`], and only that one returns the bytes
//! of a model. Reads and writes local files; does no network I/O: the caller provides a [`trust::MetadataSource`].

pub mod confidence;
pub mod delta;
pub mod fetch;
pub mod file;
pub mod golden;
pub mod manifest;
mod parcel;
pub mod trust;

pub use file::{CHUNK_BYTES, FileName, FileRef};
pub use manifest::{
    GoldenTolerance, MANIFEST_BYTES_MAX, Manifest, ManifestError, ScoreFrom, ScoreKind, ScoreRule, Variant,
};
pub use parcel::{Bundle, Unverified, Verified, VerifyError, read_manifest, verify_file};
