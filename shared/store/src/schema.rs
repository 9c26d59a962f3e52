//! Schema of a state folder, so that an older program does not use a newer folder.
//!
//! The file `state.json` in the folder contains one number and the version of the program that wrote it last. A folder
//! without the file has schema 1. Checked by each daemon when it locks its folder.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::files::{self, FileError, Mode};

const FILE: &str = "state.json";

/// Maximum size of the file in bytes; a number and a version take a hundred.
const FILE_BYTES_MAX: u64 = 4096;

/// The schema that a program knows, and the program's version.
#[derive(Debug, Clone, Copy)]
pub struct StateSchema {
    /// Highest schema that the program reads.
    pub known: u32,
    /// Version of the program, for messages.
    pub version: &'static str,
}

/// Error: a later version of the program has changed the state folder.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{} was written by version {written_by} (schema {found}); this is version {version}, which reads schemas up to {known}: \
     install version {written_by} or a later one, or restore an earlier backup",
    folder.display()
)]
pub struct NewerFolder {
    folder: PathBuf,
    found: u32,
    written_by: String,
    known: u32,
    version: &'static str,
}

/// Content of `state.json`.
#[derive(Serialize, Deserialize)]
struct StateFile {
    schema: u32,
    #[serde(default)]
    written_by: String,
}

impl StateSchema {
    /// Checks that the schema of a folder is known, and records in the folder that this program writes it from now on.
    ///
    /// # Errors
    /// Returns [`NewerFolder`] for a later schema. A file that is damaged or cannot be written is ignored.
    pub fn claim(self, folder: &Path) -> Result<(), NewerFolder> {
        let path = folder.join(FILE);
        let found = files::read_bounded(&path, FILE_BYTES_MAX).ok();
        let found: Option<StateFile> = found.and_then(|text| serde_json::from_slice(&text).ok());
        if let Some(StateFile { schema, written_by }) = found {
            if schema > self.known {
                let folder = folder.to_owned();
                let Self { known, version } = self;
                return Err(NewerFolder { folder, found: schema, written_by, known, version });
            }
            if schema == self.known && written_by == self.version {
                return Ok(());
            }
        }
        if let Err(error) = self.write(&path) {
            tracing::debug!(error = %error, "state.json was not written");
        }
        Ok(())
    }

    fn write(self, path: &Path) -> Result<(), FileError> {
        let file = StateFile { schema: self.known, written_by: self.version.to_owned() };
        // A number and a text can always be serialised.
        files::write_atomic(path, &serde_json::to_vec(&file).unwrap_or_default(), Mode::Shared)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_of_a_newer_schema_is_refused_with_both_versions() {
        let folder = tempfile::tempdir().unwrap();
        let old = StateSchema { known: 1, version: "0.1.0" };
        old.claim(folder.path()).unwrap();
        StateSchema { known: 2, version: "0.9.0" }.claim(folder.path()).unwrap();
        let refused = old.claim(folder.path()).unwrap_err().to_string();
        for part in ["version 0.9.0 (schema 2)", "this is version 0.1.0", "schemas up to 1"] {
            assert!(refused.contains(part), "{refused}");
        }
    }

    #[test]
    fn a_damaged_file_stops_nothing() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(FILE), b"\0").unwrap();
        let schema = StateSchema { known: 1, version: "0.1.0" };
        schema.claim(folder.path()).unwrap();
        assert_eq!(std::fs::read(folder.path().join(FILE)).unwrap(), br#"{"schema":1,"written_by":"0.1.0"}"#);
    }
}
