//! Backups of a hub: what is in one, and how it is taken from a hub that is serving.
//!
//! A backup is a tar file. Its first member is [`Contents`], the list of all others with length and digest. It holds
//! the whole state folder but what is made anew at a start, with the store as text ([`snapshot`]). It contains the key
//! of the CA and the online keys, so it is made on the hub's own machine and never sent over the operator API: the
//! running hub is only asked for a [`snapshot`] in its own folder. Used by `cloud-hub backup`; [`archive`] reads files
//! that may come from anywhere.

pub mod archive;
pub mod snapshot;

use serde::{Deserialize, Serialize};
use types::Digest;

/// Name of the format, in the first member.
pub const FORMAT: &str = "sanderling-hub-backup";

/// Version of the format that is written; older ones stay readable.
pub const FORMAT_VERSION: u32 = 1;

/// Name of the first member.
pub const CONTENTS_FILE: &str = "contents.json";

/// Name of the member that holds the store.
pub const STORE_FILE: &str = "store.jsonl";

/// Name of the file in a restored state folder that says so; see [`Restored`].
pub const RESTORED_FILE: &str = "restored.json";

/// Prefix of the names of snapshots in the state folder. What a cut leaves behind is removed at the next start.
pub const SNAPSHOT_PREFIX: &str = "backup-";

/// Largest list of members, in bytes: about 150 for each.
pub const CONTENTS_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Most members of a backup: blobs and metadata of tens of thousands of versions.
pub const MEMBERS_MAX: usize = 400_000;

/// Largest member in bytes: the largest file of a bundle, with room to spare.
pub const MEMBER_BYTES_MAX: u64 = 64 * 1024 * 1024 * 1024;

/// Maximum number of folders above a member.
const DEPTH_MAX: usize = 4;
/// Maximum length of the name of a folder or file, in bytes.
const COMPONENT_BYTES_MAX: usize = 100;

/// Table of contents of a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contents {
    /// Name of the format: always [`FORMAT`].
    pub format: String,
    /// [`FORMAT_VERSION`] of the writer.
    pub version: u32,
    /// Time at which the store was read, in seconds of the Unix clock.
    pub created_unix_s: u64,
    /// Version of the program that wrote it.
    pub hub_version: String,
    /// Fingerprint of the hub's CA, to tell backups of different hubs apart.
    pub ca: Digest,
    /// Every other member, in the order of the file.
    pub members: Vec<Member>,
    /// Files of the state folder that were left out because they were damaged already.
    #[serde(default)]
    pub damaged: Vec<String>,
}

/// One file in a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Path under the state folder, with `/` between its parts.
    pub name: String,
    /// Length of the content in bytes.
    pub bytes: u64,
    /// Digest of the content.
    pub digest: Digest,
    /// Whether only its owner may read it.
    pub private: bool,
}

/// `restored.json`: this state folder came out of a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restored {
    /// Time at which the backup was made, in seconds of the Unix clock.
    pub backup_unix_s: u64,
    /// Time at which it was restored, in seconds of the Unix clock.
    pub restored_unix_s: u64,
}

impl Restored {
    /// Returns the warning with what the operator must still do after a restore.
    #[must_use]
    pub fn warning(&self) -> String {
        let at = |unix_s: u64| crate::clock::utc(unix_s.saturating_mul(1000));
        format!(
            "this hub was restored at {} from a backup of {}: devices revoked since then may connect again (revoke them \
             again), devices enrolled since then are not known (cloud-hub device readmit), versions published since then \
             must be pushed again; remove {RESTORED_FILE} from the state folder when that is done",
            at(self.restored_unix_s),
            at(self.backup_unix_s)
        )
    }

    /// Reads the mark of a state folder; `None` where it was never restored, or the mark does not read.
    #[must_use]
    pub fn read(folder: &crate::storage::folder::Folder) -> Option<Self> {
        /// Two numbers and their names.
        const MARK_BYTES_MAX: u64 = 4096;
        let bytes = store::files::read_bounded(&folder.root().join(RESTORED_FILE), MARK_BYTES_MAX).ok()?;
        serde_json::from_slice(&bytes).ok()
    }
}

/// Files of the state folder that a start makes anew, or that belong to one run or one machine.
const MADE_ANEW: [&str; 5] = ["lock", "listening.json", "loads.json", "local.token", RESTORED_FILE];

/// Returns whether a start makes a file of this name anew, so that a backup without it loses nothing.
#[must_use]
pub fn is_made_anew(name: &str) -> bool {
    MADE_ANEW.contains(&name) || name.starts_with(SNAPSHOT_PREFIX) || name.ends_with(".unfinished")
}

/// Returns whether a file of this name is part of a backup: a plain path below the state folder, and nothing that a start makes.
#[must_use]
pub fn is_member_name(name: &str) -> bool {
    let parts: Vec<&str> = name.split('/').collect();
    let is_plain = |part: &&str| {
        let first = part.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
        let rest = part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
        first && rest && part.len() <= COMPONENT_BYTES_MAX && !part.ends_with(".unfinished")
    };
    let is_left_out = match parts.as_slice() {
        [CONTENTS_FILE] => true,
        [file] => is_made_anew(file),
        ["trust", "trusted", ..] => true,
        // The store itself, and what was set aside of it.
        [first, ..] => first.starts_with("store"),
        [] => true,
    };
    parts.len() <= DEPTH_MAX && parts.iter().all(is_plain) && !is_left_out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_paths_below_the_folder_are_members() {
        for name in ["hub.toml", STORE_FILE, "ca/ca.key", "trust/online/snapshot.key", "blobs/sha256/00ff"] {
            assert!(is_member_name(name), "{name}");
        }
        for name in [
            "",
            "/",
            "/etc/passwd",
            "..",
            "../x",
            "a/../b",
            "a//b",
            "a/",
            "./a",
            ".ssh/x",
            "a\\b",
            "a\0",
            "a b",
            "ä",
            "-x",
            "a/b/c/d/e",
            "lock",
            "listening.json",
            "loads.json",
            "local.token",
            "store/db",
            "store.1/db",
            "trust/trusted/floor.json",
            "backup-1.snapshot",
            CONTENTS_FILE,
            RESTORED_FILE,
            "x.unfinished",
        ] {
            assert!(!is_member_name(name), "{name:?} was taken");
        }
        assert!(!is_member_name(&"x".repeat(COMPONENT_BYTES_MAX + 1)));
    }
}
