//! Both ends of the log, in `ends.json`: the newest record that is durable, and the last one that rotation removed.
//!
//! Written after the records are durable, so the log may go on behind the newest end.

use std::path::Path;

use serde::{Deserialize, Serialize};
use store::files::{self, FileError, Mode};
use types::Digest;
use types::chain::Link;

/// Name of the file in the folder of the log.
pub const ENDS_FILE: &str = "ends.json";

/// Maximum length of the file in bytes: two links.
const BYTES_MAX: u64 = 4096;

/// Both ends of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ends {
    /// Newest record that is durable.
    pub newest: Link,
    /// Newest record that rotation removed; the place before the first one while all are there.
    pub removed: Link,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    schema: u32,
    newest: StoredLink,
    removed: StoredLink,
}

#[derive(Serialize, Deserialize)]
struct StoredLink {
    number: u64,
    hash: Digest,
}

impl Ends {
    /// Reads the ends; `None` if the file is missing.
    ///
    /// # Errors
    /// A sentence if it cannot be read.
    pub fn read(folder: &Path) -> Result<Option<Self>, String> {
        let bytes = match files::read_bounded(&folder.join(ENDS_FILE), BYTES_MAX) {
            Ok(bytes) => bytes,
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(telemetry::chain(&error)),
        };
        let stored: Stored = serde_json::from_slice(&bytes).map_err(|error| format!("{ENDS_FILE}: {error}"))?;
        let link = |link: StoredLink| Link { number: link.number, hash: link.hash };
        Ok(Some(Self { newest: link(stored.newest), removed: link(stored.removed) }))
    }

    /// Writes the ends durably.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, folder: &Path) -> Result<(), FileError> {
        let link = |link: Link| StoredLink { number: link.number, hash: link.hash };
        let stored = Stored { schema: 1, newest: link(self.newest), removed: link(self.removed) };
        let bytes = serde_json::to_vec(&stored).unwrap_or_default();
        files::write_atomic(&folder.join(ENDS_FILE), &bytes, Mode::Private)
    }
}
