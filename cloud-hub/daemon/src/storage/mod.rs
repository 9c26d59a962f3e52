//! Storage of the hub: records, files, signed metadata, the audit log.

pub mod audit;
pub mod backup;
pub mod blobs;
pub mod folder;
pub mod metadata;
pub mod queued;
pub mod records;
pub mod rotation;
pub mod standing;
pub mod trust_view;
pub mod values;
