//! `listening.json` in the state folder: the addresses that a running daemon has bound.

use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;
use store::files::{self, FileError, Mode};

/// Maximum size of the file in bytes; a handful of addresses and a process id take some hundred.
const BYTES_MAX: u64 = 4096;

/// Writes the bound addresses.
///
/// # Errors
/// When the file cannot be written.
pub fn write(file: &Path, listening: &impl Serialize) -> Result<(), FileError> {
    // Addresses and numbers always serialize.
    let text = serde_json::to_vec_pretty(listening).unwrap_or_default();
    files::write_atomic(file, &text, Mode::Shared)
}

/// Reads the addresses of a running daemon; `None` when no daemon runs, or the file is not readable.
#[must_use]
pub fn read<T: DeserializeOwned>(file: &Path) -> Option<T> {
    serde_json::from_slice(&files::read_bounded(file, BYTES_MAX).ok()?).ok()
}

/// Removes a file that only a running daemon has; logs a failure.
pub fn remove(file: &Path) {
    if let Err(error) = std::fs::remove_file(file)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(error = telemetry::chain(&error), file = %file.display(), "the file could not be removed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_read_back_until_they_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("listening.json");
        assert_eq!(read::<Vec<u16>>(&file), None);
        write(&file, &[8000_u16, 8002]).unwrap();
        assert_eq!(read::<Vec<u16>>(&file), Some(vec![8000, 8002]));
        remove(&file);
        remove(&file);
        assert_eq!(read::<Vec<u16>>(&file), None);
    }
}
