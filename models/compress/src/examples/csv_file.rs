//! Rows of a CSV file: UTF-8, the first line names the columns; separated by commas, semicolons or tabs.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read};
use std::path::Path;

use csv::{ErrorKind, StringRecord, Terminator, Trim};

use super::cell::Cell;
use super::table::{COLUMNS_MAX, TableRows};

/// Largest size of one row in bytes: a million elements of 64 characters.
const ROW_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Bytes read from the file at a time.
const READ_BYTES: usize = 256 * 1024;

/// Largest part of the first line that is searched for a separator, in bytes.
const SEPARATOR_BYTES: usize = 64 * 1024;

/// Opens a file and returns its column names and rows.
///
/// # Errors
/// A clause that says what is wrong.
pub(super) fn open(path: &Path) -> Result<(Vec<String>, Box<dyn TableRows>), String> {
    let file = File::open(path).map_err(|error| format!("open: {error}"))?;
    let mut file = BufReader::with_capacity(READ_BYTES, file);
    let separator = separator(file.fill_buf().map_err(|error| format!("read: {error}"))?);
    let bounded = Bounded { file, left: ROW_BYTES_MAX };
    let mut reader = csv::ReaderBuilder::new()
        .delimiter(separator)
        .flexible(true)
        .trim(Trim::Headers)
        .terminator(Terminator::CRLF)
        .from_reader(bounded);
    let headers = reader.headers().map_err(|error| explained(&error))?;
    if headers.len() > COLUMNS_MAX {
        return Err(format!("more than {COLUMNS_MAX} columns: save an .npz file"));
    }
    let headers = headers.iter().map(str::to_owned).collect();
    Ok((headers, Box::new(CsvRows { reader, record: StringRecord::new(), row: 0, line: 0 })))
}

/// Returns the separator: the most frequent of the usual ones in the first line.
fn separator(start: &[u8]) -> u8 {
    let line = start.get(..start.len().min(SEPARATOR_BYTES)).unwrap_or_default();
    let line = line.split(|&byte| byte == b'\n').next().unwrap_or_default();
    let count = |separator: u8| line.iter().filter(|&&byte| byte == separator).count();
    // The first of equals is kept: a comma, where no line has any.
    [b';', b'\t', b','].into_iter().max_by_key(|&separator| count(separator)).unwrap_or(b',')
}

struct CsvRows {
    reader: csv::Reader<Bounded>,
    record: StringRecord,
    /// Rows read so far.
    row: usize,
    line: u64,
}

impl TableRows for CsvRows {
    fn advance(&mut self) -> Result<bool, String> {
        self.reader.get_mut().left = ROW_BYTES_MAX;
        let is_row = self.reader.read_record(&mut self.record).map_err(|error| explained(&error))?;
        self.row += usize::from(is_row);
        self.line = self.record.position().map_or(0, csv::Position::line);
        Ok(is_row)
    }

    fn place(&self) -> String {
        format!("row {} (line {})", self.row.saturating_sub(1), self.line)
    }

    fn len(&self) -> usize {
        self.record.len()
    }

    fn cell(&self, column: usize) -> Cell<'_> {
        Cell::Text(self.record.get(column).unwrap_or_default())
    }
}

fn explained(error: &csv::Error) -> String {
    match error.kind() {
        ErrorKind::Utf8 { pos, err } => {
            let line = pos.as_ref().map_or(0, csv::Position::line);
            format!("line {line}, cell {}: the text is no UTF-8", err.field())
        }
        ErrorKind::Io(error) => format!("read: {error}"),
        _ => error.to_string(),
    }
}

/// File whose reader asks for a limited number of bytes for one row.
struct Bounded {
    file: BufReader<File>,
    left: u64,
}

impl Read for Bounded {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            return Err(io::Error::other(format!(
                "a row is longer than {ROW_BYTES_MAX} bytes: is a quotation mark not closed?"
            )));
        }
        let read = self.file.read(buffer)?;
        self.left = self.left.saturating_sub(u64::try_from(read).unwrap_or(u64::MAX));
        Ok(read)
    }
}
