//! Answers of a model as a `.npz` file, for a judge outside of this program.
//!
//! The file has one array for each output, named like it, with an example in each row. An output whose shape varies has
//! one array per example, named `OUTPUT/ROW`. `rows` says which rows of the examples were answered, and `labels` repeats
//! their labels. Outputs of text are left out. Values go to spool files first, so that no more than one answer is held.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use types::{DType, NamedTensor};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use crate::Label;
use crate::examples::LABELS;

/// The array with the rows of the examples that were answered.
pub const ROWS: &str = "rows";

/// Bytes of the header that NumPy's format 1.0 begins with, padded as `numpy.save` pads it.
const HEADER_BYTES: usize = 128;

/// Gathers the answers of one model.
#[derive(Debug)]
pub struct AnswersFile {
    path: PathBuf,
    spools: BTreeMap<String, Spool>,
    rows: Vec<i64>,
    labels: Vec<Label>,
}

/// Values of one output that were gathered so far.
#[derive(Debug)]
struct Spool {
    file: BufWriter<File>,
    dtype: DType,
    /// Shape of each answer.
    shapes: Vec<Vec<usize>>,
}

impl AnswersFile {
    /// Begins a file at `path`; spool files are made beside it and removed at the end.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), spools: BTreeMap::new(), rows: Vec::new(), labels: Vec::new() }
    }

    /// Adds the answers to the example in `row`.
    ///
    /// # Errors
    /// When a spool file cannot be written, or an output changes its type.
    pub fn add(&mut self, row: usize, label: Option<&Label>, answers: &[NamedTensor]) -> io::Result<()> {
        self.rows.push(i64::try_from(row).unwrap_or(i64::MAX));
        self.labels.extend(label.cloned());
        for NamedTensor { name, tensor } in answers {
            if tensor.dtype() == DType::Bytes {
                continue;
            }
            if !self.spools.contains_key(name) {
                let file = BufWriter::new(self.spool_file(self.spools.len())?);
                self.spools.insert(name.clone(), Spool { file, dtype: tensor.dtype(), shapes: Vec::new() });
            }
            let Some(spool) = self.spools.get_mut(name) else { continue };
            if spool.dtype != tensor.dtype() {
                return Err(io::Error::other(format!("output {name:?} changes its type")));
            }
            spool.shapes.push(tensor.shape().to_vec());
            // NumPy has no bf16: the numbers are widened, which changes none.
            if spool.dtype == DType::Bf16 {
                for value in tensor.to_f32().map_err(io::Error::other)? {
                    spool.file.write_all(&value.to_le_bytes())?;
                }
            } else {
                spool.file.write_all(tensor.data())?;
            }
        }
        Ok(())
    }

    /// Writes the file.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn finish(mut self) -> io::Result<()> {
        let mut archive = ZipWriter::new(BufWriter::new(File::create(&self.path)?));
        for (name, spool) in std::mem::take(&mut self.spools) {
            spool.copy(&name, &self.rows, &mut archive)?;
        }
        let taken = |name: &str| self.spools.contains_key(name);
        if !taken(ROWS) {
            let data: Vec<u8> = self.rows.iter().flat_map(|row| row.to_le_bytes()).collect();
            array(&mut archive, ROWS, DType::I64, &[self.rows.len()])?.write_all(&data)?;
        }
        let width = self.labels.first().map(|label| label.0.len());
        let is_even = self.labels.iter().all(|label| Some(label.0.len()) == width);
        if let Some(width) = width.filter(|_| is_even && self.labels.len() == self.rows.len() && !taken(LABELS)) {
            let shape = if width == 1 { vec![self.labels.len()] } else { vec![self.labels.len(), width] };
            let data: Vec<u8> =
                self.labels.iter().flat_map(|label| &label.0).flat_map(|one| one.to_le_bytes()).collect();
            array(&mut archive, LABELS, DType::F64, &shape)?.write_all(&data)?;
        }
        archive.finish()?.flush()
    }

    fn spool_file(&self, number: usize) -> io::Result<File> {
        let path = self.path.with_extension(format!("spool-{number}"));
        let file = File::options().read(true).write(true).create(true).truncate(true).open(&path)?;
        // The file lives as long as it is open.
        std::fs::remove_file(path)?;
        Ok(file)
    }
}

impl Spool {
    fn copy<W: Write + Seek>(self, name: &str, rows: &[i64], archive: &mut ZipWriter<W>) -> io::Result<()> {
        let Self { file, dtype, shapes } = self;
        let mut file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.seek(SeekFrom::Start(0))?;
        let mut data = BufReader::new(file);
        let Some(first) = shapes.first() else { return Ok(()) };
        if shapes.iter().all(|shape| shape == first) {
            // The batch of one that devices ask with is the row.
            let row = if first.first() == Some(&1) { first.get(1..).unwrap_or_default() } else { first };
            let shape: Vec<usize> = std::iter::once(shapes.len()).chain(row.iter().copied()).collect();
            io::copy(&mut data, array(archive, name, dtype, &shape)?)?;
            return Ok(());
        }
        for (shape, row) in shapes.iter().zip(rows) {
            let size = written(dtype).1.saturating_mul(shape.iter().product());
            let size = u64::try_from(size).unwrap_or(u64::MAX);
            io::copy(&mut data.by_ref().take(size), array(archive, &format!("{name}/{row}"), dtype, shape)?)?;
        }
        Ok(())
    }
}

/// NumPy's name of a type, and the bytes of an element.
const fn written(dtype: DType) -> (&'static str, usize) {
    match dtype {
        DType::Bool => ("|b1", 1),
        DType::U8 | DType::Bytes => ("|u1", 1),
        DType::I8 => ("|i1", 1),
        DType::U16 => ("<u2", 2),
        DType::I16 => ("<i2", 2),
        DType::F16 => ("<f2", 2),
        DType::U32 => ("<u4", 4),
        DType::I32 => ("<i4", 4),
        DType::F32 | DType::Bf16 => ("<f4", 4),
        DType::U64 => ("<u8", 8),
        DType::I64 => ("<i8", 8),
        DType::F64 => ("<f8", 8),
    }
}

/// Begins an array in the archive; its elements follow.
fn array<'a, W: Write + Seek>(
    archive: &'a mut ZipWriter<W>,
    name: &str,
    dtype: DType,
    shape: &[usize],
) -> io::Result<&'a mut ZipWriter<W>> {
    let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored).large_file(true);
    archive.start_file(format!("{name}.npy"), options)?;
    let dims: String = shape.iter().map(|dim| format!("{dim}, ")).collect();
    let text = format!("{{'descr': '{}', 'fortran_order': False, 'shape': ({dims}), }}", written(dtype).0);
    let prefix = b"\x93NUMPY\x01\x00";
    // The text ends with a line break, and the whole header is a multiple of 64 bytes.
    let length = (text.len() + prefix.len() + 3).next_multiple_of(64).max(HEADER_BYTES) - prefix.len() - 2;
    archive.write_all(prefix)?;
    archive.write_all(&u16::try_from(length).map_err(io::Error::other)?.to_le_bytes())?;
    archive.write_all(format!("{text:<width$}\n", width = length - 1).as_bytes())?;
    Ok(archive)
}

#[cfg(test)]
mod tests {
    use types::{Dim, Signature, Tensor, TensorSpec};

    use super::*;
    use crate::Examples;

    #[test]
    fn what_is_written_can_be_read_as_examples() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("answers.npz");
        let mut file = AnswersFile::new(&path);
        for row in 0..3_u8 {
            let values = [f32::from(row), 0.5];
            let tensor = Tensor::from_f32(vec![1, 2], &values).unwrap();
            let answers = [NamedTensor { name: "y".to_owned(), tensor }];
            file.add(usize::from(row) * 2, Some(&Label(vec![f64::from(row)])), &answers).unwrap();
        }
        file.finish().unwrap();
        let shape = Some(vec![Dim::Symbol("n".to_owned()), Dim::Fixed(2)]);
        let inputs = vec![TensorSpec { name: "y".to_owned(), dtype: DType::F32, shape }];
        let read = Examples::open(&path, &Signature { inputs, outputs: Vec::new() }).unwrap();
        let last = read.iter().last().unwrap().unwrap();
        assert_eq!(last.inputs[0].tensor.to_f32().unwrap(), [2.0, 0.5]);
        assert_eq!(last.label, Some(Label(vec![2.0])));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "spool files are gone");
    }

    #[test]
    fn answers_of_varying_shape_are_arrays_of_their_own() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("answers.npz");
        let mut file = AnswersFile::new(&path);
        for row in 1..3_usize {
            let tensor = Tensor::from_f32(vec![1, row], &vec![1.0; row]).unwrap();
            file.add(row, None, &[NamedTensor { name: "y".to_owned(), tensor }]).unwrap();
        }
        file.finish().unwrap();
        let mut archive = zip::ZipArchive::new(File::open(&path).unwrap()).unwrap();
        let names: Vec<String> = archive.file_names().map(str::to_owned).collect();
        assert!(names.contains(&"y/1.npy".to_owned()) && names.contains(&"y/2.npy".to_owned()), "{names:?}");
        let mut bytes = Vec::new();
        archive.by_name("y/2.npy").unwrap().read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes.len(), HEADER_BYTES + 8);
    }
}
