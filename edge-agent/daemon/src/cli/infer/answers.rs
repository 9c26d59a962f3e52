//! Answers of a batch on the disk: one JSON file for each item in a folder, or one line for each item in a file.
//!
//! Each answer has a key of model, parameters and inputs: a batch that is run again skips the items whose answer has the same key.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, BufRead as _, BufReader, Seek as _, Write as _};
use std::path::{Path, PathBuf};

use console::{CliError, ExitKind, OrExit};
use serde::{Deserialize, Serialize};
use store::files::{self, Mode};
use types::Digest;

/// Maximum length of an answer that is read back, in bytes; a longer one is made again.
const ANSWER_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// Answer of one item.
#[derive(Debug, Serialize)]
struct Answer<'a> {
    item: &'a str,
    key: Digest,
    answer: &'a serde_json::Value,
}

/// Part of a stored answer that decides whether it is skipped.
#[derive(Debug, Deserialize)]
struct Stored {
    item: String,
    key: Digest,
}

/// Place of the answers.
enum Place {
    Folder(PathBuf),
    Lines(File),
}

/// Answers of a batch, those of earlier runs included.
pub(super) struct Answers {
    place: Place,
    path: PathBuf,
}

/// Keys of the answers of earlier runs, by item.
pub(super) type Known = BTreeMap<String, Digest>;

impl Answers {
    /// Opens the folder, or the file if its name ends in `.jsonl`; returns it and what is answered already.
    pub(super) fn open(path: &Path) -> Result<(Self, Known), CliError> {
        let is_file = path.extension().is_some_and(|extension| extension == "jsonl" || extension == "ndjson");
        let (place, known) = if is_file { lines(path)? } else { folder(path)? };
        Ok((Self { place, path: path.to_owned() }, known))
    }

    /// Stores an answer. A kill leaves it whole or absent.
    pub(super) fn store(&mut self, item: &str, key: Digest, answer: &serde_json::Value) -> Result<(), CliError> {
        let text = serde_json::to_vec(&Answer { item, key, answer })?;
        match &mut self.place {
            Place::Folder(folder) => files::write_atomic(&folder.join(format!("{item}.json")), &text, Mode::Shared)
                .or_exit(ExitKind::Storage),
            Place::Lines(file) => {
                // In one write, so that a kill cuts off at most the last line.
                let line = [text.as_slice(), b"\n"].concat();
                file.write_all(&line).map_err(|error| failed(&self.path, "write", &error))
            }
        }
    }
}

fn failed(path: &Path, what: &str, error: &io::Error) -> CliError {
    CliError::new(ExitKind::Storage, format!("{what} {}: {error}", path.display()))
}

fn folder(path: &Path) -> Result<(Place, Known), CliError> {
    fs::create_dir_all(path).map_err(|error| failed(path, "make folder", &error))?;
    let mut known = Known::new();
    for entry in fs::read_dir(path).map_err(|error| failed(path, "read", &error))? {
        let file = entry.map_err(|error| failed(path, "read", &error))?.path();
        let name = file.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(".json"));
        let Some(name) = name else { continue };
        let Ok(bytes) = files::read_bounded(&file, ANSWER_BYTES_MAX) else { continue };
        match serde_json::from_slice::<Stored>(&bytes) {
            Ok(stored) if stored.item == name => drop(known.insert(stored.item, stored.key)),
            Ok(_) | Err(_) => return Err(foreign(&file)),
        }
    }
    Ok((Place::Folder(path.to_owned()), known))
}

/// Returns the error for a file that no batch wrote: it must not be overwritten.
fn foreign(file: &Path) -> CliError {
    let said = format!("{} is no answer of a batch", file.display());
    CliError::new(ExitKind::Conflict, said).hint("name another folder or file with --out")
}

fn lines(path: &Path) -> Result<(Place, Known), CliError> {
    let open = OpenOptions::new().read(true).append(true).create(true).open(path);
    let file = open.map_err(|error| failed(path, "open", &error))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let said = format!("another batch writes to {}", path.display());
            return Err(CliError::new(ExitKind::Conflict, said).hint("wait for it, or name another file with --out"));
        }
        // A file system without locks, like some network drives.
        Err(TryLockError::Error(_unsupported)) => {}
    }
    let (mut known, mut whole) = (Known::new(), 0_u64);
    let mut reader = BufReader::new(&file);
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = reader.read_until(b'\n', &mut line).map_err(|error| failed(path, "read", &error))?;
        if read == 0 || !line.ends_with(b"\n") {
            break;
        }
        let stored: Stored = serde_json::from_slice(&line).map_err(|_other| foreign(path))?;
        known.insert(stored.item, stored.key);
        whole = whole.saturating_add(u64::try_from(read).unwrap_or(u64::MAX));
    }
    // A first line without an end may be of a file that is not ours.
    if whole == 0 && !line.is_empty() && !line.starts_with(b"{\"item\":") {
        return Err(foreign(path));
    }
    // The last line was cut off by a kill.
    file.set_len(whole).map_err(|error| failed(path, "write", &error))?;
    let mut end = &file;
    end.seek(io::SeekFrom::End(0)).map_err(|error| failed(path, "write", &error))?;
    Ok((Place::Lines(file), known))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer() -> serde_json::Value {
        serde_json::json!({"outputs": []})
    }

    #[test]
    fn answers_are_found_again_and_a_line_that_was_cut_off_is_made_again() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["answers", "answers.jsonl"] {
            let path = folder.path().join(name);
            let (mut answers, known) = Answers::open(&path).unwrap();
            assert!(known.is_empty());
            answers.store("a.png", Digest::of(b"a"), &answer()).unwrap();
            answers.store("b.png", Digest::of(b"b"), &answer()).unwrap();
            drop(answers);
            if path.is_file() {
                let mut bytes = fs::read(&path).unwrap();
                bytes.extend_from_slice(b"{\"item\":\"c.png\",\"ke");
                fs::write(&path, bytes).unwrap();
            }
            let (mut answers, known) = Answers::open(&path).unwrap();
            assert_eq!(known.len(), 2);
            assert_eq!(known["b.png"], Digest::of(b"b"));
            answers.store("c.png", Digest::of(b"c"), &answer()).unwrap();
            drop(answers);
            assert_eq!(Answers::open(&path).unwrap().1.len(), 3, "{name}");
        }
    }

    #[test]
    fn files_of_somebody_else_are_not_touched() {
        let folder = tempfile::tempdir().unwrap();
        for text in ["my notes\n", "my notes", "{\"item\":1}\n"] {
            let path = folder.path().join("notes.jsonl");
            fs::write(&path, text).unwrap();
            assert!(Answers::open(&path).is_err(), "{text:?}");
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        let foreign = folder.path().join("folder");
        fs::create_dir(&foreign).unwrap();
        fs::write(foreign.join("package.json"), "{}").unwrap();
        assert!(Answers::open(&foreign).is_err());
    }

    #[test]
    fn two_batches_do_not_write_to_one_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("answers.jsonl");
        let _first = Answers::open(&path).unwrap();
        assert!(Answers::open(&path).is_err());
    }
}
