//! The signed parcel a model version travels in.
//!
//! What is in it ([`manifest`]), which bytes it names ([`mod@file`]), how they arrive ([`fetch`]), who vouches for them
//! ([`trust`]) and what the model must answer before it serves ([`golden`]). A parcel on disk is a
//! [`Bundle<Unverified>`]; only [`Bundle::verify`] makes it a [`Bundle<Verified>`], and only that one yields the bytes
//! of a model. Reads and writes local files; knows no network: the caller hands in a [`trust::MetadataSource`].

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
