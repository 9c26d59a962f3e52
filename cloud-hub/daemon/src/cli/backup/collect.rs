//! The files of a state folder that go into a backup, each with its length and digest.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Cursor, Read};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};
use types::Digest;

use crate::storage::backup::{Member, is_made_anew, is_member_name};

/// Folder of the blobs, as members name it: files there are named by their digest.
const BLOBS: &str = "blobs/sha256/";

/// Deepest folder that is walked into; a state folder has three levels.
const DEPTH_MAX: usize = 4;

/// Source of a member's content.
#[derive(Debug)]
pub(super) enum Origin {
    /// Content of a file.
    File(PathBuf),
    /// A text that differs from what lies in the folder.
    Memory(Vec<u8>),
}

/// Members that go into a backup.
#[derive(Debug, Default)]
pub(super) struct Collected {
    pub(super) members: Vec<Member>,
    pub(super) origins: BTreeMap<String, Origin>,
    /// Blobs that do not hash to their name any more: left out.
    pub(super) damaged: Vec<String>,
    /// Files that are no part of a hub: left out.
    pub(super) foreign: Vec<String>,
}

impl Collected {
    /// Adds everything below a state folder that has not been added under its name before.
    pub(super) fn folder(&mut self, root: &Path) -> io::Result<()> {
        let mut files = Vec::new();
        walk(root, "", 0, &mut files)?;
        files.sort();
        for (name, path) in files {
            if self.origins.contains_key(&name) {
                continue;
            }
            if is_member_name(&name) {
                self.file(&name, path)?;
            } else if !is_made_anew(&name) {
                self.foreign.push(name);
            }
        }
        Ok(())
    }

    /// Adds one file under a name.
    pub(super) fn file(&mut self, name: &str, path: PathBuf) -> io::Result<()> {
        let file = File::open(&path)?;
        let private = file.metadata()?.permissions().mode() & 0o077 == 0;
        let (bytes, digest) = digest(file)?;
        if name.strip_prefix(BLOBS).is_some_and(|hex| hex != digest.to_hex()) {
            self.damaged.push(name.to_owned());
            return Ok(());
        }
        self.add(Member { name: name.to_owned(), bytes, digest, private }, Origin::File(path));
        Ok(())
    }

    /// Adds a text under a name.
    pub(super) fn text(&mut self, name: &str, text: Vec<u8>) {
        let bytes = u64::try_from(text.len()).unwrap_or(u64::MAX);
        let member = Member { name: name.to_owned(), bytes, digest: Digest::of(&text), private: false };
        self.add(member, Origin::Memory(text));
    }

    /// Opens the content of a member.
    pub(super) fn open(&self, member: &Member) -> io::Result<Box<dyn Read>> {
        match self.origins.get(&member.name) {
            Some(Origin::File(path)) => Ok(Box::new(File::open(path)?)),
            Some(Origin::Memory(text)) => Ok(Box::new(Cursor::new(text.clone()))),
            None => Err(io::Error::new(io::ErrorKind::NotFound, "a member without content")),
        }
    }

    fn add(&mut self, member: Member, origin: Origin) {
        self.origins.insert(member.name.clone(), origin);
        self.members.push(member);
    }
}

fn walk(folder: &Path, prefix: &str, depth: usize, found: &mut Vec<(String, PathBuf)>) -> io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let name = format!("{prefix}{name}");
        // The store has its own snapshot; deltas are a cache that a restored hub makes again.
        let is_left_out = depth == 0 && (name.starts_with("store") || name == "deltas");
        // Links are followed: blobs may lie on another disk.
        match std::fs::metadata(&path) {
            Ok(kind) if kind.is_dir() && depth < DEPTH_MAX && !is_left_out && name != "trust/trusted" => {
                walk(&path, &format!("{name}/"), depth + 1, found)?;
            }
            Ok(kind) if kind.is_file() => found.push((name, path)),
            Ok(_) => {}
            // A file that was finished or deleted meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn digest(mut file: File) -> io::Result<(u64, Digest)> {
    let mut hash = Sha256::new();
    let bytes = io::copy(&mut file, &mut hash)?;
    Ok((bytes, Digest::from_bytes(hash.finalize().into())))
}
