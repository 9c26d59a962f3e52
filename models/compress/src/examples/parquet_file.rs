//! Rows of a Parquet file, uncompressed or compressed with Snappy or Zstandard.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use parquet::basic::Compression;
use parquet::file::reader::{FileReader as _, SerializedFileReader};
use parquet::record::reader::RowIter;
use parquet::record::{Field, Row};

use super::EXAMPLES_MAX;
use super::cell::Cell;
use super::table::{COLUMNS_MAX, TableRows};

/// Largest uncompressed size of a row group in bytes; its pages are in memory one by one.
const GROUP_BYTES_MAX: i64 = 4 * 1024 * 1024 * 1024;

/// Advice for files of another form.
const CONVERT: &str =
    "convert it: python -c \"import pandas; pandas.read_parquet('in.parquet').to_csv('out.csv', index=False)\"";

/// Opens a file and returns its column names and rows.
///
/// # Errors
/// A clause that says what is wrong.
pub(super) fn open(path: &Path) -> Result<(Vec<String>, Box<dyn TableRows>), String> {
    let file = File::open(path).map_err(|error| format!("open: {error}"))?;
    let (headers, rows) = guarded(|| {
        let reader =
            SerializedFileReader::new(file).map_err(|error| format!("is no readable Parquet file: {error}"))?;
        let metadata = reader.metadata();
        let headers: Vec<String> = metadata
            .file_metadata()
            .schema_descr()
            .root_schema()
            .get_fields()
            .iter()
            .map(|field| field.name().to_owned())
            .collect();
        if headers.len() > COLUMNS_MAX {
            return Err(format!("more than {COLUMNS_MAX} columns: save an .npz file"));
        }
        let rows = metadata.file_metadata().num_rows();
        if usize::try_from(rows).map_or(true, |rows| rows > EXAMPLES_MAX) {
            return Err(format!("{rows} rows are over the limit of {EXAMPLES_MAX}: take a part"));
        }
        for group in metadata.row_groups() {
            if group.total_byte_size() > GROUP_BYTES_MAX {
                return Err(format!("a row group has more than {GROUP_BYTES_MAX} bytes: write smaller row groups"));
            }
            for column in group.columns() {
                let compression = column.compression();
                let is_known =
                    matches!(compression, Compression::UNCOMPRESSED | Compression::SNAPPY | Compression::ZSTD(_));
                if !is_known {
                    return Err(format!("column {} is compressed with {compression}: {CONVERT}", column.column_path()));
                }
            }
        }
        Ok((headers, RowIter::from_file_into(Box::new(reader))))
    })?;
    Ok((headers, Box::new(ParquetRows { rows, current: Vec::new(), row: 0 })))
}

/// Runs the decoder; a panic in it, which only a damaged file can cause, becomes an error.
fn guarded<T>(decode: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(decode)).unwrap_or_else(|_panic| Err("the Parquet file is damaged".to_owned()))
}

struct ParquetRows {
    rows: RowIter<'static>,
    current: Vec<(String, Field)>,
    /// Rows read so far.
    row: usize,
}

impl TableRows for ParquetRows {
    fn advance(&mut self) -> Result<bool, String> {
        let rows = &mut self.rows;
        let next = guarded(|| rows.next().transpose().map_err(|error| error.to_string()));
        let next = next.map_err(|problem| format!("row {}: {problem}", self.row))?;
        let is_row = next.is_some();
        self.current = next.map(Row::into_columns).unwrap_or_default();
        self.row += usize::from(is_row);
        Ok(is_row)
    }

    fn place(&self) -> String {
        format!("row {}", self.row.saturating_sub(1))
    }

    fn len(&self) -> usize {
        self.current.len()
    }

    fn cell(&self, column: usize) -> Cell<'_> {
        Cell::Field(self.current.get(column).map_or(&Field::Null, |(_name, field)| field))
    }
}
