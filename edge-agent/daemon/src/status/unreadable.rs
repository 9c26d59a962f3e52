//! Records of the store that were set aside, in the status.

use serde::{Deserialize, Serialize};
use store::aside::SetAside;

/// A record of the store that is not readable, and was set aside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnreadableRecord {
    /// Table that the record was in.
    pub table: String,
    /// Its key in that table.
    pub key: String,
    /// The reason why it is not readable.
    pub reason: String,
}

impl From<SetAside> for UnreadableRecord {
    fn from(SetAside { table, key, reason }: SetAside) -> Self {
        Self { table, key, reason }
    }
}
