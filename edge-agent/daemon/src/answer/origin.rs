//! Origin of an answer: the part of its receipt that the place itself knows.

use types::{Digest, EngineName, Timings, VariantName, Version};

/// Origin of an answer; see [`types::Receipt`].
#[derive(Debug, Clone)]
pub struct MadeBy {
    /// The version that answered.
    pub version: Version,
    /// Variant that answered.
    pub variant: VariantName,
    /// Digest of its model file.
    pub digest: Digest,
    /// Engine that ran it.
    pub engine: EngineName,
    /// The execution provider that really ran.
    pub provider: String,
    /// Queue, compute and network; the total is measured by whoever asked.
    pub timings: Timings,
}
