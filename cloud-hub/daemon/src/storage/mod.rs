//! Storage of the hub: records, files, signed metadata, the audit log.

pub mod audit;
pub mod records;
