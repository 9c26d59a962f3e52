//! The token of the hub's own machine: it opens the admin API to verbs that may read the state folder.
//!
//! Whoever can read the state folder can do everything to the hub already. The token lets the same person do it while the
//! hub runs, also when every operator's token has ended: `cloud-hub operator renew --config`, `backup create`, `doctor`.

use store::files::{self, FileError, Mode};

use super::{Operators, key, secret_token};
use crate::storage::folder::Folder;

/// Name of the caller in the hub's log. No operator can have it.
pub const NAME: &str = "(state folder)";

/// Largest file with a token, in bytes.
const FILE_BYTES_MAX: u64 = 1024;

impl Operators {
    /// Makes the token of this start and writes it into the state folder, for the folder's owner alone.
    ///
    /// # Errors
    /// When the file cannot be written; the hub works without it.
    pub fn open_to_machine(&self, folder: &Folder) -> Result<(), FileError> {
        let token = secret_token();
        files::write_atomic(&folder.local_token(), token.as_bytes(), Mode::Private)?;
        // Called once, at the start.
        drop(self.local.set(key(&token)));
        Ok(())
    }
}

/// Reads the token of the hub that runs on this folder.
///
/// # Errors
/// When there is none, or this user may not read it.
pub fn read(folder: &Folder) -> Result<String, FileError> {
    let bytes = files::read_secret(&folder.local_token(), FILE_BYTES_MAX)?;
    Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
}
