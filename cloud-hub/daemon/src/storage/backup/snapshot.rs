//! The store and the published timestamp of a hub at one moment, as one text file.
//!
//! One JSON object a line: first [`Head`], then one [`Line`] for each entry of the store. Written by the hub into its
//! own folder while it holds publishing back, or by the command line from the folder of a hub that is stopped.

use std::io::{BufRead, Write};
use std::path::Path;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use store::files::{AtomicFile, FileError, Mode};
use store::{BATCH_BYTES_MAX, BATCH_OPERATIONS_MAX, Batch, SCAN_ENTRIES_MAX, Scan, Store, StoreError};

/// Name of the format, in the first line.
const FORMAT: &str = "sanderling-hub-store";

/// Longest line in bytes: the largest key and value in hexadecimal, and their names.
const LINE_BYTES_MAX: u64 = 1024 * 1024;

/// First line of the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    format: String,
    version: u32,
    /// Time at which the store was read, in seconds of the Unix clock.
    pub created_unix_s: u64,
    /// `timestamp.json` at that moment: what it names is published, and nothing later.
    pub timestamp: String,
}

/// One entry of the store, both parts in hexadecimal.
#[derive(Debug, Serialize, Deserialize)]
struct Line {
    key: String,
    value: String,
}

/// Error for a snapshot that was not written or read.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The store cannot be used.
    #[error("read the store for a backup")]
    Store(#[from] StoreError),
    /// The file cannot be used.
    #[error("write a snapshot of the store")]
    File(#[from] FileError),
    /// The file, piece by piece.
    #[error("use a snapshot of the store")]
    Io(#[from] std::io::Error),
    /// A line is not what this program writes.
    #[error("line {0} of the store's snapshot is malformed")]
    Malformed(usize),
}

/// Writes the store and this timestamp to a file that only its owner may read.
///
/// A store of up to [`SCAN_ENTRIES_MAX`] entries is read at one moment; a larger one in pieces, each at one moment.
///
/// # Errors
/// When the store or the disk fails; there is no file then.
pub async fn write(store: &dyn Store, timestamp: &[u8], created_unix_s: u64, path: &Path) -> Result<(), SnapshotError> {
    let mut entries: Vec<(Bytes, Bytes)> = Vec::new();
    loop {
        let mut scan = Scan::prefix("");
        if let Some((last, _value)) = entries.last() {
            scan = scan.after(last.clone());
        }
        let piece = store.scan(scan).await?;
        let is_last = piece.len() < SCAN_ENTRIES_MAX;
        entries.extend(piece);
        if is_last {
            break;
        }
    }
    let timestamp = String::from_utf8_lossy(timestamp).into_owned();
    let head = Head { format: FORMAT.to_owned(), version: 1, created_unix_s, timestamp };
    let path = path.to_owned();
    let written = tokio::task::spawn_blocking(move || write_file(&head, &entries, &path)).await;
    written.unwrap_or_else(|lost| Err(std::io::Error::other(lost).into()))
}

fn write_file(head: &Head, entries: &[(Bytes, Bytes)], path: &Path) -> Result<(), SnapshotError> {
    let file = AtomicFile::create(path, Mode::Private)?;
    let mut out = std::io::BufWriter::new(file);
    let mut line = |text: Result<Vec<u8>, serde_json::Error>| -> Result<(), SnapshotError> {
        out.write_all(&text.map_err(std::io::Error::from)?)?;
        Ok(out.write_all(b"\n")?)
    };
    line(serde_json::to_vec(head))?;
    for (key, value) in entries {
        line(serde_json::to_vec(&Line { key: hex::encode(key), value: hex::encode(value) }))?;
    }
    let file = out.into_inner().map_err(std::io::IntoInnerError::into_error)?;
    Ok(file.commit()?)
}

/// Reads the first line.
///
/// # Errors
/// When it is none.
pub fn read_head(input: &mut impl BufRead) -> Result<Head, SnapshotError> {
    let line = read_line(input, 1)?.ok_or(SnapshotError::Malformed(1))?;
    let head: Head = serde_json::from_slice(&line).map_err(|_error| SnapshotError::Malformed(1))?;
    if head.format == FORMAT && head.version == 1 { Ok(head) } else { Err(SnapshotError::Malformed(1)) }
}

/// Checks every line behind the first, and puts the entries into a store where one is given.
///
/// # Errors
/// When a line is malformed, or the store refuses an entry.
pub async fn read_entries(input: &mut impl BufRead, into: Option<&dyn Store>) -> Result<u64, SnapshotError> {
    let (mut count, mut number) = (0_u64, 1);
    let (mut batch, mut operations, mut bytes) = (Batch::new(), 0, 0);
    while let Some(text) = read_line(input, number + 1)? {
        number += 1;
        let malformed = || SnapshotError::Malformed(number);
        let line: Line = serde_json::from_slice(&text).map_err(|_error| malformed())?;
        let key = hex::decode(&line.key).map_err(|_error| malformed())?;
        let value = hex::decode(&line.value).map_err(|_error| malformed())?;
        count += 1;
        let Some(store) = into else { continue };
        if operations + 1 > BATCH_OPERATIONS_MAX || bytes + key.len() + value.len() > BATCH_BYTES_MAX {
            store.apply(std::mem::take(&mut batch)).await?;
            (operations, bytes) = (0, 0);
        }
        operations += 1;
        bytes += key.len() + value.len();
        batch = batch.put(key, value);
    }
    if let Some(store) = into {
        store.apply(batch).await?;
    }
    Ok(count)
}

fn read_line(input: &mut impl BufRead, number: usize) -> Result<Option<Vec<u8>>, SnapshotError> {
    use std::io::Read as _;
    let mut line = Vec::new();
    let count = input.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line)?;
    if count == 0 {
        return Ok(None);
    }
    // Cut off, or longer than any line.
    if line.pop() == Some(b'\n') { Ok(Some(line)) } else { Err(SnapshotError::Malformed(number)) }
}

#[cfg(test)]
mod tests {
    use store::MemoryStore;

    use super::*;

    #[tokio::test]
    async fn a_store_comes_back_entry_by_entry() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let store = MemoryStore::default();
        for number in 0..3000_u32 {
            let value = vec![7; usize::try_from(number % 700).unwrap()];
            store.apply(Batch::new().put(format!("device/{number}"), value)).await.unwrap();
        }
        store.apply(Batch::new().put(vec![0xff, 0], vec![0xfe])).await.unwrap();
        write(&store, b"{}", 17, &path).await.unwrap();
        let restored = MemoryStore::default();
        let mut file = std::io::BufReader::new(std::fs::File::open(&path).unwrap());
        let head = read_head(&mut file).unwrap();
        assert_eq!((head.created_unix_s, head.timestamp.as_str()), (17, "{}"));
        assert_eq!(read_entries(&mut file, Some(&restored)).await.unwrap(), 3001);
        let all = |store: MemoryStore| async move { store.scan(Scan::prefix("")).await.unwrap() };
        assert_eq!(all(restored).await, all(store).await);
    }

    #[tokio::test]
    async fn a_damaged_snapshot_is_refused() {
        let good = |body: &str| {
            format!("{{\"format\":\"{FORMAT}\",\"version\":1,\"created_unix_s\":1,\"timestamp\":\"\"}}\n{body}")
        };
        for text in ["", "{}\n", &good("").replace("\"version\":1", "\"version\":2")] {
            assert!(read_head(&mut text.as_bytes()).is_err(), "{text}");
        }
        for body in [
            "{}\n",
            "{\"key\":\"zz\",\"value\":\"\"}\n",
            "{\"key\":\"00\",\"value\":\"0\"}\n",
            "{\"key\":\"00\",\"value\":\"00\"}",
        ] {
            let text = good(body);
            let mut input = text.as_bytes();
            read_head(&mut input).unwrap();
            assert!(read_entries(&mut input, None).await.is_err(), "{body}");
        }
    }
}
