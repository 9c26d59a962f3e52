//! The tar file of a backup: written member by member, read as if it came from an enemy.
//!
//! A reader gets nothing that the list of contents does not name: no links, no devices, no path that leaves the folder,
//! no member twice, none longer than it was listed, nothing between or behind them.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};

use sha2::{Digest as _, Sha256};
use tar::{Archive, Builder, EntryType, Header};
use types::Digest;

use super::{
    CONTENTS_BYTES_MAX, CONTENTS_FILE, Contents, FORMAT, FORMAT_VERSION, MEMBER_BYTES_MAX, MEMBERS_MAX, Member,
    is_member_name,
};

/// Error for a backup that was not written or read.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The file could not be read or written.
    #[error("{action} the backup")]
    Io {
        /// Failed action: `read` or `write`.
        action: &'static str,
        /// Error of the system.
        #[source]
        source: io::Error,
    },
    /// The list of contents is missing, too long or not readable.
    #[error("this is no backup of a hub: {0}")]
    NotABackup(String),
    /// It was written by a newer program.
    #[error("the backup has format {given}, this program reads up to {FORMAT_VERSION}: use a newer cloud-hub")]
    Newer {
        /// Version of the format.
        given: u32,
    },
    /// A member is not what the list of contents says.
    #[error("member {name:?} of the backup {problem}")]
    Member {
        /// Name of the member.
        name: String,
        /// Problem with the member.
        problem: String,
    },
    /// A member could not be put in its place.
    #[error("write {name:?} of the backup")]
    Place {
        /// Name of the member.
        name: String,
        /// Error of the system.
        #[source]
        source: io::Error,
    },
}

/// Writes a backup to `out`. `open` is asked for the content of each member in turn.
///
/// # Errors
/// When a content is not what the list says, or reading or writing fails; what was written is no backup then.
pub fn write<W: Write>(
    out: W,
    contents: &Contents,
    mut open: impl FnMut(&Member) -> io::Result<Box<dyn Read>>,
) -> Result<W, ArchiveError> {
    let failed = |source| ArchiveError::Io { action: "write", source };
    let list = serde_json::to_vec_pretty(contents).map_err(|error| failed(error.into()))?;
    let mut tar = Builder::new(out);
    let length = u64::try_from(list.len()).unwrap_or(u64::MAX);
    let header = header(CONTENTS_FILE, length, true, contents.created_unix_s).map_err(failed)?;
    tar.append(&header, list.as_slice()).map_err(failed)?;
    for member in &contents.members {
        let header = self::header(&member.name, member.bytes, member.private, contents.created_unix_s);
        let opened = open(member).map_err(failed)?;
        let mut content = Hashed::new(opened.take(member.bytes));
        tar.append(&header.map_err(failed)?, &mut content).map_err(failed)?;
        content.check(member)?;
    }
    tar.into_inner().map_err(failed)
}

fn header(name: &str, bytes: u64, private: bool, created_unix_s: u64) -> io::Result<Header> {
    let mut header = Header::new_ustar();
    header.set_path(name)?;
    header.set_entry_type(EntryType::Regular);
    header.set_size(bytes);
    header.set_mode(if private { 0o600 } else { 0o644 });
    header.set_mtime(created_unix_s);
    header.set_cksum();
    Ok(header)
}

/// Reads a backup from its first byte to its last, and holds every member against the list of contents.
///
/// `take` gets each member with its content, which is proven only when this function returns: a caller that writes
/// reads once before, without writing.
///
/// # Errors
/// The first thing that is not as it must be, and what `take` says.
pub fn read<R: Read>(
    input: R,
    mut take: impl FnMut(&Contents, &Member, &mut dyn Read) -> io::Result<()>,
) -> Result<Contents, ArchiveError> {
    let failed = |source| ArchiveError::Io { action: "read", source };
    let mut archive = Archive::new(input);
    // Raw: a header that would give the next member another name or length is a member of a wrong kind here.
    let mut entries = archive.entries().map_err(failed)?.raw(true);
    let first = entries.next().ok_or_else(|| ArchiveError::NotABackup("the file is empty".to_owned()))?;
    let contents = read_contents(first.map_err(failed)?)?;
    for member in &contents.members {
        let wrong = |problem: String| ArchiveError::Member { name: member.name.clone(), problem };
        let entry = entries.next().ok_or_else(|| wrong("is missing: the file was cut off".to_owned()))?;
        let entry = entry.map_err(failed)?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        if entry.header().entry_type() != EntryType::Regular {
            return Err(wrong(format!("is a {:?} in the file, not a plain file", entry.header().entry_type())));
        }
        if name != member.name {
            return Err(wrong(format!("is called {name:?} in the file")));
        }
        if entry.size() != member.bytes {
            return Err(wrong(format!("has {} bytes in the file, {} are listed", entry.size(), member.bytes)));
        }
        let mut content = Hashed::new(entry);
        let place = |source| ArchiveError::Place { name: member.name.clone(), source };
        take(&contents, member, &mut content).map_err(place)?;
        io::copy(&mut content, &mut io::sink()).map_err(failed)?;
        content.check(member)?;
    }
    match entries.next() {
        None => Ok(contents),
        Some(_more) => {
            Err(ArchiveError::NotABackup("it has members that its list of contents does not name".to_owned()))
        }
    }
}

fn read_contents(entry: tar::Entry<'_, impl Read>) -> Result<Contents, ArchiveError> {
    let not_one = |problem: &str| ArchiveError::NotABackup(problem.to_owned());
    if *entry.path_bytes() != *CONTENTS_FILE.as_bytes() || entry.header().entry_type() != EntryType::Regular {
        return Err(not_one("it does not begin with its list of contents"));
    }
    if entry.size() > CONTENTS_BYTES_MAX {
        return Err(not_one("its list of contents is too long"));
    }
    let mut list = Vec::new();
    let read = entry.take(CONTENTS_BYTES_MAX).read_to_end(&mut list);
    read.map_err(|source| ArchiveError::Io { action: "read", source })?;
    /// Part that every version of the format has.
    #[derive(serde::Deserialize)]
    struct Kind {
        format: String,
        version: u32,
    }
    let unreadable = |error: serde_json::Error| ArchiveError::NotABackup(error.to_string());
    let kind: Kind = serde_json::from_slice(&list).map_err(unreadable)?;
    if kind.format != FORMAT {
        return Err(not_one("it has another format"));
    }
    if kind.version > FORMAT_VERSION {
        return Err(ArchiveError::Newer { given: kind.version });
    }
    let contents: Contents = serde_json::from_slice(&list).map_err(unreadable)?;
    check_contents(&contents)?;
    Ok(contents)
}

fn check_contents(contents: &Contents) -> Result<(), ArchiveError> {
    if contents.members.len() > MEMBERS_MAX {
        return Err(ArchiveError::NotABackup(format!("it lists more than {MEMBERS_MAX} members")));
    }
    let mut names = BTreeSet::new();
    for member in &contents.members {
        let wrong =
            |problem: &str| Err(ArchiveError::Member { name: member.name.clone(), problem: problem.to_owned() });
        if !is_member_name(&member.name) {
            return wrong("has a name that no file of a hub has");
        }
        if member.bytes > MEMBER_BYTES_MAX {
            return wrong("is larger than any file of a hub");
        }
        if !names.insert(member.name.as_str()) {
            return wrong("is listed twice");
        }
    }
    Ok(())
}

/// Hashes what is read through it.
struct Hashed<R> {
    inner: R,
    hash: Sha256,
    bytes: u64,
}

impl<R: Read> Hashed<R> {
    fn new(inner: R) -> Self {
        Self { inner, hash: Sha256::new(), bytes: 0 }
    }

    fn check(self, member: &Member) -> Result<(), ArchiveError> {
        let wrong = |problem: String| ArchiveError::Member { name: member.name.clone(), problem };
        if self.bytes != member.bytes {
            return Err(wrong(format!("has {} bytes, {} are listed", self.bytes, member.bytes)));
        }
        let given = Digest::from_bytes(self.hash.finalize().into());
        if given != member.digest {
            return Err(wrong(format!("is damaged: it hashes to {given}, {} is listed", member.digest)));
        }
        Ok(())
    }
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hash.update(buffer.get(..count).unwrap_or_default());
        self.bytes = self.bytes.saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contents(files: &[(&str, &[u8])]) -> Contents {
        let member = |(name, content): &(&str, &[u8])| Member {
            name: (*name).to_owned(),
            bytes: u64::try_from(content.len()).unwrap(),
            digest: Digest::of(content),
            private: name.ends_with(".key"),
        };
        Contents {
            format: FORMAT.to_owned(),
            version: FORMAT_VERSION,
            created_unix_s: 1_800_000_000,
            hub_version: "0.1.0".to_owned(),
            ca: Digest::of(b"ca"),
            members: files.iter().map(member).collect(),
            damaged: Vec::new(),
        }
    }

    const FILES: &[(&str, &[u8])] =
        &[("hub.toml", b"[hub]\n"), ("ca/ca.key", b"secret"), ("blobs/sha256/aa", &[7; 100_000]), ("empty", b"")];

    fn written(contents: &Contents) -> Result<Vec<u8>, ArchiveError> {
        write(Vec::new(), contents, |member| {
            let content = FILES.iter().find(|(name, _)| *name == member.name).unwrap().1;
            Ok(Box::new(content))
        })
    }

    /// A tar file by hand: what a friendly writer would not make.
    fn forged(list: &Contents, entries: &[(&str, EntryType, &[u8], &str)]) -> Vec<u8> {
        let mut tar = Builder::new(Vec::new());
        let text = serde_json::to_vec(list).unwrap();
        let length = u64::try_from(text.len()).unwrap();
        tar.append(&header(CONTENTS_FILE, length, true, 0).unwrap(), text.as_slice()).unwrap();
        for (name, kind, content, link) in entries {
            let mut header = Header::new_ustar();
            // `set_path` would refuse some of them.
            let field = &mut header.as_old_mut().name;
            field[..name.len()].copy_from_slice(name.as_bytes());
            header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
            header.set_entry_type(*kind);
            header.set_size(u64::try_from(content.len()).unwrap());
            header.set_cksum();
            tar.append(&header, *content).unwrap();
        }
        tar.into_inner().unwrap()
    }

    #[test]
    fn what_was_written_reads_back_member_by_member() {
        let contents = contents(FILES);
        let bytes = written(&contents).unwrap();
        let mut seen = Vec::new();
        let read = read(bytes.as_slice(), |_contents, member, content| {
            let mut all = Vec::new();
            content.read_to_end(&mut all)?;
            seen.push((member.name.clone(), all));
            Ok(())
        });
        assert_eq!(read.unwrap(), contents);
        let expected: Vec<_> = FILES.iter().map(|(name, content)| ((*name).to_owned(), content.to_vec())).collect();
        assert_eq!(seen, expected);
    }

    #[test]
    fn a_backup_that_was_cut_or_changed_anywhere_is_refused() {
        let bytes = written(&contents(&FILES[..2])).unwrap();
        let nothing = |_: &Contents, _: &Member, _: &mut dyn Read| Ok(());
        // Behind the last member stand only the two zero blocks that end a tar file.
        let end = bytes.len() - 1024;
        for keep in (0..end).step_by(97) {
            assert!(read(&bytes[..keep], nothing).is_err(), "cut to {keep} bytes");
        }
        let mut unnoticed = 0;
        for at in 0..end {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            // Padding, and fields of the list that are only shown, may change unnoticed; a content never.
            unnoticed += usize::from(
                read(changed.as_slice(), nothing).is_ok_and(|read| read.members != contents(&FILES[..2]).members),
            );
        }
        assert_eq!(unnoticed, 0);
    }

    #[test]
    fn hostile_members_are_refused() {
        let one = contents(&[("a", b"x")]);
        let nothing = |_: &Contents, _: &Member, _: &mut dyn Read| Ok(());
        let ok = forged(&one, &[("a", EntryType::Regular, b"x", "")]);
        assert!(read(ok.as_slice(), nothing).is_ok(), "the forge itself works");
        type Entry<'a> = (&'a str, EntryType, &'a [u8], &'a str);
        let bad: &[&[Entry<'_>]] = &[
            &[("a", EntryType::Symlink, b"", "/etc/passwd")],
            &[("a", EntryType::Link, b"", "/etc/passwd")],
            &[("a", EntryType::Char, b"", "")],
            &[("a", EntryType::Directory, b"", "")],
            &[("b", EntryType::Regular, b"x", "")],
            &[("../a", EntryType::Regular, b"x", "")],
            &[("/a", EntryType::Regular, b"x", "")],
            &[("a", EntryType::Regular, b"y", "")],
            &[("a", EntryType::Regular, b"xx", "")],
            &[("a", EntryType::Regular, b"", "")],
            &[("a", EntryType::Regular, b"x", ""), ("a", EntryType::Regular, b"x", "")],
            &[("a", EntryType::Regular, b"x", ""), ("b", EntryType::Regular, b"x", "")],
            &[("././@LongLink", EntryType::GNULongName, b"../../a\0", ""), ("a", EntryType::Regular, b"x", "")],
            &[("pax", EntryType::XHeader, b"12 path=../a\n", ""), ("a", EntryType::Regular, b"x", "")],
            &[],
        ];
        for entries in bad {
            assert!(read(forged(&one, entries).as_slice(), nothing).is_err(), "{entries:?}");
        }
        for name in ["../a", "/a", "store/db", "a/../../b"] {
            let list = contents(&[(name, b"x")]);
            let file = forged(&list, &[(name, EntryType::Regular, b"x", "")]);
            assert!(read(file.as_slice(), nothing).is_err(), "{name}");
        }
        let twice = contents(&[("a", b"x"), ("a", b"x")]);
        let file = forged(&twice, &[("a", EntryType::Regular, b"x", ""), ("a", EntryType::Regular, b"x", "")]);
        assert!(read(file.as_slice(), nothing).is_err());
        let newer = Contents { version: FORMAT_VERSION + 1, ..contents(&[]) };
        assert!(matches!(read(forged(&newer, &[]).as_slice(), nothing), Err(ArchiveError::Newer { .. })));
    }
}
