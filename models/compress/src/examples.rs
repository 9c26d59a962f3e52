//! Examples of inputs with their labels, read from the operator's files.
//!
//! Fed by `.npz`, `.npy`, CSV and Parquet files; feeds calibration and everything that judges a model. Keeps no more than one batch
//! in memory, so that gigabytes of examples need no more memory than one.

mod cell;
mod column;
mod csv_file;
mod folder;
mod parquet_file;
mod pictures;
mod table;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use types::preprocess::InputRule;
use types::{DType, Dim, NamedTensor, Signature, Tensor, TensorSpec};

use crate::CompressError;
use column::{Column, Rows};
use evaluate::labels::{Label, numbers};
use pictures::Pictures;
use table::{Format, Table};

/// Most examples of one set. Calibration wants hundreds, an evaluation thousands.
pub const EXAMPLES_MAX: usize = 1_000_000;

/// The array that holds what each example shows; it is no input.
pub const LABELS: &str = "labels";

/// A set of examples on disk, and which of them are meant. Clones share what was read.
#[derive(Debug, Clone)]
pub struct Examples {
    source: Arc<Source>,
    chosen: Vec<usize>,
}

/// Parts of `model.toml` that say how examples are read.
#[derive(Debug, Clone, Copy)]
pub struct ExampleRules<'a> {
    /// Names of the classes, for labels that are text.
    pub classes: &'a [String],
    /// Preprocessing of inputs, by their names.
    pub preprocess: &'a BTreeMap<String, InputRule>,
}

impl Default for ExampleRules<'_> {
    fn default() -> Self {
        static NONE: BTreeMap<String, InputRule> = BTreeMap::new();
        Self { classes: &[], preprocess: &NONE }
    }
}

/// One request, and its answer where it is known.
#[derive(Debug, Clone, PartialEq)]
pub struct Example {
    /// A tensor for every input of the model.
    pub inputs: Vec<NamedTensor>,
    /// Label, from the array `labels`.
    pub label: Option<Label>,
}

/// Several examples in one request.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// A tensor for every input; its first dimension counts the examples when there are several.
    pub inputs: Vec<NamedTensor>,
    /// One entry for each example.
    pub labels: Vec<Option<Label>>,
}

#[derive(Debug)]
enum Source {
    /// Arrays with an example in each row: an `.npz` file, or a folder with an `.npy` file for each input.
    Arrays { inputs: Vec<Input>, labels: Option<Column> },
    /// A CSV or Parquet file with an example in each row.
    Table(Table),
    /// One file for each example.
    Folder { files: Vec<PathBuf>, inputs: Vec<TensorSpec> },
    /// A picture for each example.
    Pictures(Pictures),
}

/// An input of the model and the array that feeds it.
#[derive(Debug)]
struct Input {
    column: Column,
    /// Shape of one example.
    shape: Vec<usize>,
    /// Bytes of one example.
    bytes: usize,
    /// Whether several can stand in one tensor.
    joins: bool,
}

impl Examples {
    /// Opens examples: an `.npz` file whose arrays are named like the inputs and have one example in each row; a folder of `.npy` files
    /// named like the inputs, of the same form; a `.csv`, `.tsv` or `.parquet` file with one example in each row (see [`table`]);
    /// a folder of `.npz` files of one example each (for inputs whose shape varies), in the order of their names; or a folder of
    /// pictures, or of folders of pictures that are named like classes, where `rules` say how they become the input.
    ///
    /// An array `labels`, if there is one, holds the right answer of each example: a class number, a quantity, or several
    /// numbers. Of arrays only the headers are read yet, of tables every cell.
    ///
    /// # Errors
    /// [`CompressError::Examples`] when files are missing, broken, over a limit or do not fit the signature.
    pub fn open(path: &Path, signature: &Signature) -> Result<Self, CompressError> {
        Self::open_as(path, signature, &ExampleRules::default())
    }

    /// Opens examples as [`Examples::open`] does, as `model.toml` says: labels may be names of classes, and pictures become inputs.
    ///
    /// # Errors
    /// As [`Examples::open`].
    pub fn open_as(path: &Path, signature: &Signature, rules: &ExampleRules<'_>) -> Result<Self, CompressError> {
        let table = |format| {
            let (table, count) = Table::open(path, format, &signature.inputs, rules)?;
            Ok((Source::Table(table), count))
        };
        let extension = path.extension().map(|extension| extension.to_string_lossy().to_lowercase());
        let opened = match extension.as_deref() {
            _ if path.is_dir() => folder::open(path, signature, rules),
            Some("csv" | "tsv") => table(Format::Csv),
            Some("parquet" | "pq") => table(Format::Parquet),
            Some("npy") => Err(format!(
                "{} is a single array: name the folder with an .npy file for each input, or save an .npz file",
                path.display()
            )),
            Some(extension) if pictures::PICTURES.contains(&extension) => {
                Err(format!("{} is one picture: name the folder that holds it", path.display()))
            }
            Some(extension) if folder::LATER.contains(&extension) => Err(folder::later(path)),
            Some(_) | None => file(path, signature),
        };
        let (source, count) = opened.map_err(unusable)?;
        if count == 0 {
            return Err(unusable(format!("{} holds no example", path.display())));
        }
        if count > EXAMPLES_MAX {
            return Err(unusable(format!("{count} examples are over the limit of {EXAMPLES_MAX}: take a part")));
        }
        Ok(Self { source: Arc::new(source), chosen: (0..count).collect() })
    }

    /// Returns the number of elements.
    #[must_use]
    pub fn len(&self) -> usize {
        self.chosen.len()
    }

    /// Returns whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.chosen.is_empty()
    }

    /// Returns whether every example comes with a label; a folder's `.npz` files are opened only when they are read.
    #[must_use]
    pub fn are_labelled(&self) -> bool {
        match &*self.source {
            Source::Arrays { labels, .. } => labels.is_some(),
            Source::Table(table) => table.is_labelled(),
            Source::Pictures(pictures) => pictures.are_labelled(),
            Source::Folder { .. } => false,
        }
    }

    /// Takes `calibration` of them, spread evenly over all (files are often sorted by class), and the rest.
    #[must_use]
    pub fn split(&self, calibration: usize) -> (Self, Self) {
        let all = self.len().max(1);
        let wanted = calibration.min(self.len());
        let mut first = Vec::with_capacity(wanted);
        let mut rest = Vec::with_capacity(self.len() - wanted);
        for (at, &index) in self.chosen.iter().enumerate() {
            // The count of chosen ones steps up here: Bresenham's line from (0, 0) to (all, wanted).
            let steps = (at + 1) * wanted / all > at * wanted / all;
            if steps { first.push(index) } else { rest.push(index) }
        }
        let part = |chosen| Self { source: Arc::clone(&self.source), chosen };
        (part(first), part(rest))
    }

    /// Reads them one after the other. Ends after the first error.
    ///
    /// # Errors
    /// [`CompressError::Examples`] in an item, when a file cannot be read or is not what its header said.
    pub fn iter(&self) -> impl Iterator<Item = Result<Example, CompressError>> + use<'_> {
        let mut reader: Option<Reader> = None;
        let mut rows: Option<table::Reader> = None;
        let mut failed = false;
        self.chosen.iter().map_while(move |&index| {
            if failed {
                return None;
            }
            let example = match &*self.source {
                Source::Arrays { inputs, labels } => match &mut reader {
                    Some(reader) => reader.read(inputs, index),
                    None => Reader::open(inputs, labels.as_ref())
                        .and_then(|opened| reader.insert(opened).read(inputs, index)),
                },
                Source::Table(table) => match &mut rows {
                    Some(rows) => rows.read(table, index),
                    None => table.reader().and_then(|opened| rows.insert(opened).read(table, index)),
                },
                Source::Folder { files, inputs } => {
                    files.get(index).ok_or_else(|| "no such example".to_owned()).and_then(|file| whole(file, inputs))
                }
                Source::Pictures(pictures) => pictures.read(index),
            };
            failed = example.is_err();
            Some(example.map_err(unusable))
        })
    }

    /// Reads them in batches of `size` (the last is smaller); inputs that cannot be joined come one by one.
    ///
    /// # Errors
    /// As [`Examples::iter`].
    pub fn batches(&self, size: usize) -> impl Iterator<Item = Result<Batch, CompressError>> + use<'_> {
        let size = if self.can_be_joined() { size.max(1) } else { 1 };
        let mut examples = self.iter();
        std::iter::from_fn(move || {
            let batch: Result<Vec<Example>, CompressError> = examples.by_ref().take(size).collect();
            match batch {
                Ok(batch) if batch.is_empty() => None,
                Ok(batch) => Some(join(batch).map_err(unusable)),
                Err(error) => Some(Err(error)),
            }
        })
    }

    /// Checks that all numbers of all inputs are finite: one NaN among hundreds of rows spoils calibration and judging.
    ///
    /// # Errors
    /// [`CompressError::Examples`] that names the first tensor and row, and counts the rows; or as [`Examples::iter`].
    pub fn check_finite(&self) -> Result<(), CompressError> {
        let mut first: Option<String> = None;
        let mut rows = 0_usize;
        for (at, example) in self.iter().enumerate() {
            let example = example?;
            let mut is_broken = false;
            for input in &example.inputs {
                let count = not_finite(&input.tensor);
                is_broken |= count > 0;
                if count > 0 && first.is_none() {
                    let (of, place) = (input.tensor.elements(), self.place(at));
                    let name = &input.name;
                    first = Some(format!("{count} of {of} numbers of input {name:?} in {place} are NaN or infinite"));
                }
            }
            rows += usize::from(is_broken);
        }
        match first {
            None => Ok(()),
            Some(first) => Err(unusable(format!(
                "{first}; {rows} of {} examples hold such numbers: correct them or leave them out",
                self.len()
            ))),
        }
    }

    /// Returns the place of the example at this position for errors and reports: `row 17`, or the name of its file.
    #[must_use]
    pub fn place(&self, position: usize) -> String {
        let index = self.chosen.get(position).copied().unwrap_or(position);
        match &*self.source {
            Source::Arrays { .. } | Source::Table(_) => format!("row {index}"),
            Source::Folder { files, .. } => match files.get(index).and_then(|file| file.file_name()) {
                Some(name) => format!("file {}", name.to_string_lossy()),
                None => format!("file {index}"),
            },
            Source::Pictures(pictures) => {
                pictures.name(index).map_or_else(|| format!("file {index}"), |name| format!("file {name}"))
            }
        }
    }

    /// Returns the examples at these positions, in the order of the file.
    #[must_use]
    pub fn select(&self, positions: &[usize]) -> Self {
        let mut chosen: Vec<usize> = positions.iter().filter_map(|&at| self.chosen.get(at).copied()).collect();
        chosen.sort_unstable();
        Self { source: Arc::clone(&self.source), chosen }
    }

    /// Positions of the examples in the file or folder they were read from.
    #[must_use]
    pub fn rows(&self) -> &[usize] {
        &self.chosen
    }

    /// Returns whether every input has a free first dimension that counts examples.
    #[must_use]
    pub fn can_be_joined(&self) -> bool {
        match &*self.source {
            Source::Arrays { inputs, .. } => inputs.iter().all(|input| input.joins),
            Source::Table(table) => table.joins(),
            Source::Pictures(pictures) => pictures.joins(),
            Source::Folder { .. } => false,
        }
    }
}

fn unusable(reason: String) -> CompressError {
    CompressError::Examples { reason }
}

fn file(path: &Path, signature: &Signature) -> Result<(Source, usize), String> {
    let wanted = |name: &str| name == LABELS || signature.inputs.iter().any(|input| input.name == name);
    arrays(path, column::columns(path, wanted)?, signature)
}

/// Holds arrays with an example in each row against the inputs that they feed.
fn arrays(path: &Path, mut columns: Vec<Column>, signature: &Signature) -> Result<(Source, usize), String> {
    let mut take = |name: &str| {
        let at = columns.iter().position(|column| column.name == name)?;
        Some(columns.swap_remove(at))
    };
    let mut inputs = Vec::new();
    for spec in &signature.inputs {
        let column = take(&spec.name)
            .ok_or_else(|| format!("{} has no array {:?}: the model's input {spec}", path.display(), spec.name))?;
        inputs.push(rows_for(column, spec)?);
    }
    // An input of that name is an input.
    let labels = take(LABELS);
    let count = inputs.first().and_then(|input| input.column.shape.first()).copied().unwrap_or_default();
    for column in inputs.iter().map(|input| &input.column).chain(&labels) {
        if column.shape.first() != Some(&count) {
            return Err(format!("array {:?} has {:?} rows, others {count}", column.name, column.shape.first()));
        }
    }
    if let Some(labels) = labels.as_ref().filter(|labels| labels.dtype == DType::Bytes) {
        return Err(format!("array {LABELS:?} holds {}: save numbers, one row per example", labels.dtype));
    }
    Ok((Source::Arrays { inputs, labels }, count))
}

/// Holds an array with one example in each row against the input it is for.
fn rows_for(column: Column, spec: &TensorSpec) -> Result<Input, String> {
    check_dtype(&column, spec)?;
    let row = column.shape.get(1..).ok_or_else(|| format!("array {:?} has no rows", column.name))?.to_vec();
    let bytes = column.bytes_of(true)?;
    let batched: Vec<usize> = std::iter::once(1).chain(row.iter().copied()).collect();
    let free_first = |dims: &[Dim]| matches!(dims.first(), Some(Dim::Any | Dim::Symbol(_)));
    let (shape, joins) = match &spec.shape {
        Some(dims) if fits(dims, &batched) => (batched, free_first(dims)),
        Some(dims) if fits(dims, &row) => (row, false),
        None => (batched, false),
        Some(_) => {
            let found = &column.shape;
            return Err(format!("array {:?} has shape {found:?}: one row must be an input {spec}", column.name));
        }
    };
    Ok(Input { column, shape, bytes, joins })
}

fn check_dtype(column: &Column, spec: &TensorSpec) -> Result<(), String> {
    if column.dtype == spec.dtype {
        return Ok(());
    }
    let wanted = spec.dtype.as_str().to_lowercase().replace("fp", "float");
    Err(format!("array {:?} is {}: save x.astype('{wanted}') for input {spec}", column.name, column.dtype))
}

fn fits(dims: &[Dim], shape: &[usize]) -> bool {
    let fit = |(dim, &size): (&Dim, &usize)| match dim {
        Dim::Fixed(fixed) => *fixed == size,
        Dim::Any | Dim::Symbol(_) => true,
    };
    dims.len() == shape.len() && dims.iter().zip(shape).all(fit)
}

/// Reads a file that is one example.
fn whole(path: &Path, inputs: &[TensorSpec]) -> Result<Example, String> {
    let wanted = |name: &str| name == LABELS || inputs.iter().any(|input| input.name == name);
    let columns = column::columns(path, wanted)?;
    let find = |name: &str| columns.iter().find(|column| column.name == name);
    let mut tensors = Vec::with_capacity(inputs.len());
    for spec in inputs {
        let column = find(&spec.name)
            .ok_or_else(|| format!("{} has no array {:?}: the model's input {spec}", path.display(), spec.name))?;
        check_dtype(column, spec)?;
        let batched: Vec<usize> = std::iter::once(1).chain(column.shape.iter().copied()).collect();
        let shape = match &spec.shape {
            Some(dims) if fits(dims, &column.shape) => column.shape.clone(),
            Some(dims) if fits(dims, &batched) => batched,
            None => column.shape.clone(),
            Some(_) => {
                let (name, found) = (&column.name, &column.shape);
                return Err(format!("array {name:?} of {} has shape {found:?}, not {spec}", path.display()));
            }
        };
        let data = column.rows(column.bytes_of(false)?)?.read(0)?;
        tensors.push(named(&spec.name, column.dtype, shape, data)?);
    }
    let is_input = inputs.iter().any(|input| input.name == LABELS);
    let label = match find(LABELS).filter(|_| !is_input) {
        Some(column) => Some(label(column.dtype, &column.rows(column.bytes_of(false)?)?.read(0)?)?),
        None => None,
    };
    Ok(Example { inputs: tensors, label })
}

fn named(name: &str, dtype: DType, shape: Vec<usize>, data: Vec<u8>) -> Result<NamedTensor, String> {
    let tensor = Tensor::new(dtype, shape, data.into()).map_err(|error| format!("array {name:?}: {error}"))?;
    Ok(NamedTensor { name: name.to_owned(), tensor })
}

/// Reads the label of one example.
fn label(dtype: DType, data: &[u8]) -> Result<Label, String> {
    let label = Label::read(dtype, data);
    let finite = label.filter(|label| label.0.iter().all(|number| number.is_finite()));
    finite.ok_or_else(|| {
        format!("array {LABELS:?} holds text, or a number that is not finite: correct it or leave it out")
    })
}

/// Number of elements of a float tensor that are infinite or not a number; 0 for other types.
pub(crate) fn not_finite(tensor: &Tensor) -> usize {
    if !matches!(tensor.dtype(), DType::F16 | DType::Bf16 | DType::F32 | DType::F64) {
        return 0;
    }
    let values = numbers(tensor.dtype(), tensor.data()).unwrap_or_default();
    values.iter().filter(|value| !value.is_finite()).count()
}

/// Reads rows of all arrays side by side.
struct Reader {
    inputs: Vec<Rows>,
    labels: Option<(DType, Rows)>,
}

impl Reader {
    fn open(inputs: &[Input], labels: Option<&Column>) -> Result<Self, String> {
        let rows = inputs.iter().map(|input| input.column.rows(input.bytes)).collect::<Result<_, _>>()?;
        let labels = labels.map(|column| Ok::<_, String>((column.dtype, column.rows(column.bytes_of(true)?)?)));
        Ok(Self { inputs: rows, labels: labels.transpose()? })
    }

    fn read(&mut self, inputs: &[Input], index: usize) -> Result<Example, String> {
        let mut tensors = Vec::with_capacity(inputs.len());
        for (input, rows) in inputs.iter().zip(&mut self.inputs) {
            tensors.push(named(&input.column.name, input.column.dtype, input.shape.clone(), rows.read(index)?)?);
        }
        let label = match &mut self.labels {
            Some((dtype, rows)) => Some(label(*dtype, &rows.read(index)?)?),
            None => None,
        };
        Ok(Example { inputs: tensors, label })
    }
}

/// Joins examples along the first dimension.
fn join(batch: Vec<Example>) -> Result<Batch, String> {
    let labels = batch.iter().map(|example| example.label.clone()).collect();
    let count = batch.len();
    let mut examples = batch.into_iter();
    let Some(first) = examples.next() else { return Err("an empty batch".to_owned()) };
    if count == 1 {
        return Ok(Batch { inputs: first.inputs, labels });
    }
    let mut data: Vec<Vec<u8>> = first.inputs.iter().map(|input| input.tensor.data().to_vec()).collect();
    for example in examples {
        for (bytes, input) in data.iter_mut().zip(&example.inputs) {
            bytes.extend_from_slice(input.tensor.data());
        }
    }
    let joined = first.inputs.into_iter().zip(data).map(|(input, bytes)| {
        let row = input.tensor.shape().get(1..).unwrap_or_default();
        let shape = std::iter::once(count).chain(row.iter().copied()).collect();
        named(&input.name, input.tensor.dtype(), shape, bytes)
    });
    Ok(Batch { inputs: joined.collect::<Result<_, _>>()?, labels })
}
