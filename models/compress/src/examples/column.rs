//! One array of an `.npz` file or one `.npy` file, read row by row.
//!
//! Fed by [`super`] with a file and a name; gives rows without ever holding the array. The archive's directory says at which
//! offset the bytes begin; they are read straight from the file, so that several arrays can be read side by side.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use flate2::read::DeflateDecoder;
use types::DType;
use types::limits::{RANK_MAX, TENSOR_BYTES_MAX};
use zip::{CompressionMethod, ZipArchive};

/// Most arrays in one file; a model has at most 256 inputs, and some room for what else a script saved.
const ARRAYS_MAX: usize = 1024;

/// Longest header of an array in bytes; NumPy writes 128 for everything that a tensor can be.
const HEADER_BYTES_MAX: u64 = 4 * 1024;

/// Bytes read from the file at a time.
const READ_BYTES: usize = 256 * 1024;

/// Location, type and shape of an array.
#[derive(Debug, Clone)]
pub(super) struct Column {
    /// File with the bytes of the array.
    path: PathBuf,
    /// Name without `.npy`.
    pub(super) name: String,
    pub(super) dtype: DType,
    pub(super) shape: Vec<usize>,
    start: u64,
    length: u64,
    deflated: bool,
    header: u64,
}

/// Reads the directory of an archive and the headers of the arrays that `wanted` picks.
///
/// # Errors
/// A sentence that says what is wrong and what to do.
pub(super) fn columns(path: &Path, wanted: impl Fn(&str) -> bool) -> Result<Vec<Column>, String> {
    let file = File::open(path).map_err(|error| format!("open {}: {error}", path.display()))?;
    let broken = |error: &dyn std::fmt::Display| format!("{} is no readable .npz file: {error}", path.display());
    let mut archive = ZipArchive::new(BufReader::new(file)).map_err(|error| broken(&error))?;
    if archive.len() > ARRAYS_MAX {
        return Err(format!("{} holds more than {ARRAYS_MAX} arrays: save fewer", path.display()));
    }
    let mut found = Vec::new();
    for index in 0..archive.len() {
        let entry = archive.by_index_raw(index).map_err(|error| broken(&error))?;
        let Some(name) = entry.name().strip_suffix(".npy").map(str::to_owned) else { continue };
        if !wanted(&name) {
            continue;
        }
        let deflated = match entry.compression() {
            CompressionMethod::Stored => false,
            CompressionMethod::Deflated => true,
            other => return Err(broken(&format!("array {name:?} is compressed by {other}: use numpy.savez"))),
        };
        let place = Place { start: entry.data_start(), length: entry.compressed_size(), deflated };
        drop(entry);
        let column = header(path, name, place).map_err(|error| broken(&error))?;
        found.push(column);
    }
    Ok(found)
}

/// Reads the header of one `.npy` file, which becomes an array named `name`.
///
/// # Errors
/// A sentence that says what is wrong and what to do.
pub(super) fn single(path: &Path, name: &str) -> Result<Column, String> {
    let broken = |error: &dyn std::fmt::Display| format!("{} is no readable .npy file: {error}", path.display());
    let length = std::fs::metadata(path).map_err(|error| broken(&error))?.len();
    header(path, name.to_owned(), Place { start: 0, length, deflated: false }).map_err(|error| broken(&error))
}

struct Place {
    start: u64,
    length: u64,
    deflated: bool,
}

fn header(path: &Path, name: String, place: Place) -> Result<Column, String> {
    let Place { start, length, deflated } = place;
    let wrong = |what: String| format!("array {name:?} {what}");
    let mut limited = stream(path, start, length, deflated).map_err(|error| wrong(error.to_string()))?;
    let mut head = Vec::new();
    limited.by_ref().take(12).read_to_end(&mut head).map_err(|error| wrong(error.to_string()))?;
    let (prefix, size) =
        header_bytes(&head).ok_or_else(|| wrong("does not begin like numpy.save writes it".to_owned()))?;
    if size > HEADER_BYTES_MAX {
        return Err(wrong(format!("has a header of more than {HEADER_BYTES_MAX} bytes")));
    }
    let rest = size.saturating_sub(12);
    limited.take(rest).read_to_end(&mut head).map_err(|error| wrong(error.to_string()))?;
    let text = head.get(prefix..).and_then(|text| std::str::from_utf8(text).ok());
    let Header { descr, fortran, shape } =
        text.and_then(Header::parse).ok_or_else(|| wrong("has a header that numpy.save does not write".to_owned()))?;
    if fortran && shape.len() > 1 {
        return Err(wrong("is in Fortran order: save numpy.ascontiguousarray(x)".to_owned()));
    }
    let dtype = DType::from_numpy(descr)
        .ok_or_else(|| wrong(format!("has dtype {descr:?}: use a little-endian number or boolean type")))?;
    if shape.len() > RANK_MAX + 1 {
        return Err(wrong(format!("has {} dimensions", shape.len())));
    }
    Ok(Column { path: path.to_owned(), name, dtype, shape, start, length, deflated, header: size })
}

/// Bytes before the header's text, and with it; from the format's own description (NEP 1).
fn header_bytes(head: &[u8]) -> Option<(usize, u64)> {
    let rest = head.strip_prefix(b"\x93NUMPY")?;
    match rest {
        [1, _, low, high, ..] => Some((10, 10 + u64::from(u16::from_le_bytes([*low, *high])))),
        [2 | 3, _, a, b, c, d] => Some((12, 12 + u64::from(u32::from_le_bytes([*a, *b, *c, *d])))),
        _ => None,
    }
}

/// The text of a header, a Python dictionary: `{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }`.
///
/// Read here and not by npyz, whose reader overflows on the product of hostile dimensions and recurses on brackets.
struct Header<'text> {
    descr: &'text str,
    fortran: bool,
    shape: Vec<usize>,
}

impl<'text> Header<'text> {
    fn parse(text: &'text str) -> Option<Self> {
        let after = |key: &str| text.split_once(key).map(|(_, rest)| rest.trim_start());
        let descr = after("'descr':")?.strip_prefix('\'')?.split_once('\'')?.0;
        let fortran = match after("'fortran_order':")? {
            rest if rest.starts_with("False") => false,
            rest if rest.starts_with("True") => true,
            _ => return None,
        };
        let dims = after("'shape':")?.strip_prefix('(')?.split_once(')')?.0;
        let dims = dims.split(',').map(str::trim).filter(|dim| !dim.is_empty());
        let shape = dims.map(|dim| dim.parse().ok()).collect::<Option<Vec<usize>>>()?;
        Some(Self { descr, fortran, shape })
    }
}

fn stream(path: &Path, start: u64, length: u64, deflated: bool) -> io::Result<Box<dyn Read + Send>> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(start))?;
    let bytes = BufReader::with_capacity(READ_BYTES, file).take(length);
    Ok(if deflated { Box::new(DeflateDecoder::new(bytes)) } else { Box::new(bytes) })
}

impl Column {
    /// Bytes of the whole array when `rows` is false, of one row of it otherwise.
    ///
    /// # Errors
    /// When they are more than a tensor may have.
    pub(super) fn bytes_of(&self, rows: bool) -> Result<usize, String> {
        let dims = if rows { self.shape.get(1..).unwrap_or_default() } else { &self.shape };
        let size = self.dtype.size().unwrap_or(1);
        let bytes = dims.iter().try_fold(size, |product, &dim| product.checked_mul(dim));
        bytes.filter(|&bytes| bytes <= TENSOR_BYTES_MAX).ok_or_else(|| {
            format!("array {:?} of shape {:?} is over the limit of {TENSOR_BYTES_MAX} bytes", self.name, self.shape)
        })
    }

    /// Begins to read at the first row.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub(super) fn rows(&self, bytes: usize) -> Result<Rows, String> {
        let path = &self.path;
        let wrong = |error: io::Error| format!("read array {:?} of {}: {error}", self.name, path.display());
        if self.deflated {
            let mut source = stream(path, self.start, self.length, true).map_err(wrong)?;
            io::copy(&mut source.by_ref().take(self.header), &mut io::sink()).map_err(wrong)?;
            return Ok(Rows { name: self.name.clone(), bytes, at: 0, source: Source::Stream(source) });
        }
        let file = File::open(path).map_err(wrong)?;
        let end = self.start.saturating_add(self.length);
        let first = self.start.saturating_add(self.header);
        let source = Source::File { file: BufReader::with_capacity(READ_BYTES, file), first, end };
        Ok(Rows { name: self.name.clone(), bytes, at: 0, source })
    }
}

enum Source {
    /// Compressed: only forwards.
    Stream(Box<dyn Read + Send>),
    /// Stored as it is: any row can be sought.
    File { file: BufReader<File>, first: u64, end: u64 },
}

/// The rows of one array, in order; some may be left out.
pub(super) struct Rows {
    name: String,
    bytes: usize,
    at: usize,
    source: Source,
}

impl Rows {
    /// Reads the row `index`, which lies behind the one read before.
    ///
    /// # Errors
    /// When the file ends early or cannot be read.
    pub(super) fn read(&mut self, index: usize) -> Result<Vec<u8>, String> {
        let row = u64::try_from(self.bytes).unwrap_or(u64::MAX);
        let skipped = u64::try_from(index.saturating_sub(self.at)).unwrap_or(u64::MAX).saturating_mul(row);
        // Grown as bytes arrive: a header may promise what the file does not hold.
        let mut data = Vec::new();
        let done = match &mut self.source {
            Source::Stream(stream) => io::copy(&mut stream.by_ref().take(skipped), &mut io::sink())
                .and_then(|_skipped| stream.by_ref().take(row).read_to_end(&mut data)),
            Source::File { file, first, end } => {
                let start = first.saturating_add(u64::try_from(index).unwrap_or(u64::MAX).saturating_mul(row));
                let left = end.saturating_sub(start);
                file.stream_position()
                    .and_then(|now| seek(file, now, start))
                    .and_then(|()| file.by_ref().take(row.min(left)).read_to_end(&mut data))
            }
        };
        done.map_err(|error| format!("read row {index} of array {:?}: {error}", self.name))?;
        if data.len() != self.bytes {
            return Err(format!("array {:?} ends before its row {index}: the file was cut short", self.name));
        }
        self.at = index.saturating_add(1);
        Ok(data)
    }
}

/// Keeps what is buffered when the place is near.
fn seek(file: &mut BufReader<File>, now: u64, to: u64) -> io::Result<()> {
    match (i64::try_from(now), i64::try_from(to)) {
        (Ok(now), Ok(to)) => file.seek_relative(to - now),
        _ => file.seek(SeekFrom::Start(to)).map(drop),
    }
}
