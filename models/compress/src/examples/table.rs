//! Examples in a table: one example in each row, and a column for each element of an input.
//!
//! Fed by [`super::csv_file`] and [`super::parquet_file`] with named columns and rows of [`Cell`]s; feeds [`super`] with examples. A scalar
//! input has the column of its name. A tensor has the columns `x[0]`, `x[1]`, … or `x0`, `x1`, … in row-major order, or one column
//! `x` of lists. The label is in `label` (or `labels`), several numbers in `label[0]`, `label[1]`, ….

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use types::limits::TENSOR_BYTES_MAX;
use types::preprocess::InputRule;
use types::{DType, Dim, NamedTensor, TensorSpec};

use super::cell::{Cell, push};
use super::{EXAMPLES_MAX, Example, ExampleRules, LABELS, csv_file, named, parquet_file, pictures};
use evaluate::labels::Label;

/// Name of the column with the class of each example; `labels` is read too.
const LABEL: &str = "label";

/// Name of the column with the file of each example, for inputs that are made of files.
const FILE: &str = "file";

/// Largest number of mistakes that an error names; the rest is counted.
const MISTAKES_SHOWN: usize = 10;

/// Largest number of columns of a table: a picture of 512 x 512 pixels with three colours has 786,432.
pub(super) const COLUMNS_MAX: usize = 1_000_000;

/// Rows of a table, read one after the other.
pub(super) trait TableRows: Send {
    /// Reads the next row; `false` after the last one.
    ///
    /// # Errors
    /// A clause that names the row, when the file cannot be read on.
    fn advance(&mut self) -> Result<bool, String>;

    /// Returns the place of the row for errors, like `row 3 (line 5)`.
    fn place(&self) -> String;

    /// Returns the number of cells of the row.
    fn len(&self) -> usize;

    /// Returns a cell of the row.
    fn cell(&self, column: usize) -> Cell<'_>;
}

/// File format of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Csv,
    Parquet,
}

/// Extent to which files that a table names are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Files {
    /// Only checked to be there, before anything is run.
    Exist,
    /// Read and made into tensors.
    Read,
}

/// A table whose columns fit the inputs of a model.
#[derive(Debug)]
pub(super) struct Table {
    path: PathBuf,
    format: Format,
    headers: Vec<String>,
    inputs: Vec<Feed>,
    label: Option<Columns>,
    /// Names of the classes, for labels that are text.
    classes: Vec<String>,
}

/// Input of the model and the columns that feed it.
#[derive(Debug)]
struct Feed {
    name: String,
    dtype: DType,
    /// Dimensions of one example, with the batch of one; `None` where the list decides.
    shape: Vec<Option<usize>>,
    columns: Columns,
    joins: bool,
    /// The cell names a file, which becomes the input by this rule.
    rule: Option<(TensorSpec, InputRule)>,
}

/// Columns of one tensor.
#[derive(Debug)]
enum Columns {
    /// One column for each element, in row-major order.
    Each(Vec<usize>),
    /// One column, whose cell is a list or the only element.
    One(usize),
}

impl Table {
    /// Opens a table, maps its columns to the inputs, and checks every cell. Returns the number of rows too.
    ///
    /// # Errors
    /// A text that names the file, and the row and column of each mistake.
    pub(super) fn open(
        path: &Path,
        format: Format,
        inputs: &[TensorSpec],
        rules: &ExampleRules<'_>,
    ) -> Result<(Self, usize), String> {
        let (headers, mut rows) = open(path, format)?;
        if headers.len() > COLUMNS_MAX {
            return Err(format!("{} has more than {COLUMNS_MAX} columns: save an .npz file", path.display()));
        }
        let positions = positions(path, &headers)?;
        let find = |name: &str| columns_of(&positions, name);
        let mut problems = Vec::new();
        let mut feeds = Vec::new();
        for spec in inputs {
            let fed = match rules.preprocess.get(&spec.name) {
                Some(rule) => files(spec, rule, find(&spec.name).or_else(|| find(FILE))),
                None => feed(spec, find(&spec.name)),
            };
            match fed {
                Ok(feed) => feeds.push(feed),
                Err(problem) => problems.push(problem),
            }
        }
        let is_input = |name: &str| inputs.iter().any(|input| input.name == name);
        let labels = [LABEL, LABELS].into_iter().filter(|name| !is_input(name)).find_map(find);
        if !problems.is_empty() {
            let shown: Vec<&str> = headers.iter().take(MISTAKES_SHOWN).map(String::as_str).collect();
            let more = if headers.len() > shown.len() { ", …" } else { "" };
            return Err(format!(
                "{}: {}; its columns are {}{more}",
                path.display(),
                problems.join("; "),
                shown.join(", ")
            ));
        }
        let table = Self {
            path: path.to_owned(),
            format,
            headers,
            inputs: feeds,
            label: labels,
            classes: rules.classes.to_vec(),
        };
        let count = table.check(rows.as_mut())?;
        Ok((table, count))
    }

    /// Returns whether each row has a label.
    pub(super) fn is_labelled(&self) -> bool {
        self.label.is_some()
    }

    /// Returns whether several rows can stand in one tensor.
    pub(super) fn joins(&self) -> bool {
        self.inputs.iter().all(|input| input.joins && input.shape.iter().all(Option::is_some))
    }

    /// Begins to read at the first row.
    pub(super) fn reader(&self) -> Result<Reader, String> {
        Ok(Reader { rows: open(&self.path, self.format)?.1, next: 0 })
    }

    /// Reads all rows and names every cell that cannot be read, up to a limit.
    fn check(&self, rows: &mut dyn TableRows) -> Result<usize, String> {
        let (mut count, mut mistakes, mut total) = (0_usize, Vec::new(), 0_usize);
        while rows.advance().map_err(|problem| format!("{}: {problem}", self.path.display()))? {
            count += 1;
            if count > EXAMPLES_MAX {
                return Err(format!("{} has more than {EXAMPLES_MAX} rows: take a part", self.path.display()));
            }
            let mut found = Vec::new();
            self.example(rows, Files::Exist, &mut found);
            total += found.len();
            mistakes.extend(found.into_iter().take(MISTAKES_SHOWN.saturating_sub(mistakes.len())));
        }
        if total == 0 {
            return Ok(count);
        }
        let more = total - mistakes.len();
        let more = if more > 0 { format!("; and {more} more mistakes") } else { String::new() };
        Err(format!("{}: {}{more}", self.path.display(), mistakes.join("; ")))
    }

    /// Reads the example of the current row; adds a sentence for each cell that cannot be read.
    fn example(&self, row: &dyn TableRows, files: Files, mistakes: &mut Vec<String>) -> Option<Example> {
        if row.len() != self.headers.len() {
            let (found, wanted) = (row.len(), self.headers.len());
            mistakes.push(format!("{} has {found} cells, the first line names {wanted} columns", row.place()));
            return None;
        }
        let mut tensors = Vec::with_capacity(self.inputs.len());
        for input in &self.inputs {
            tensors.extend(match (&input.rule, files) {
                (Some((spec, rule)), files) => self.file(spec, rule, input, row, files, mistakes),
                (None, _) => self.tensor(input, row, mistakes),
            });
        }
        let label = match &self.label {
            Some(columns) => Some(self.label(columns, row, mistakes)?),
            None => None,
        };
        // While it is only checked whether files are there, there is no tensor of them.
        (tensors.len() == self.inputs.len()).then_some(Example { inputs: tensors, label })
    }

    /// Reads the file that a cell names, beside the table.
    fn file(
        &self,
        spec: &TensorSpec,
        rule: &InputRule,
        input: &Feed,
        row: &dyn TableRows,
        files: Files,
        mistakes: &mut Vec<String>,
    ) -> Option<NamedTensor> {
        let Columns::One(column) = input.columns else { return None };
        let Some(name) = row.cell(column).text().map(str::trim).filter(|name| !name.is_empty()) else {
            mistakes.push(self.mistake(row, column, "names no file"));
            return None;
        };
        let path = self.path.parent().unwrap_or(Path::new(".")).join(name);
        let made = match files {
            Files::Exist if path.is_file() => return None,
            Files::Exist => Err(format!("there is no file {}", path.display())),
            Files::Read => pictures::tensor(&path, rule, spec),
        };
        made.map_err(|problem| mistakes.push(self.mistake(row, column, &problem))).ok()
    }

    fn tensor(&self, input: &Feed, row: &dyn TableRows, mistakes: &mut Vec<String>) -> Option<NamedTensor> {
        let mut data = Vec::new();
        let mut count = 0_usize;
        let before = mistakes.len();
        self.each(&input.columns, row, |column, cell| {
            count += 1;
            if let Err(problem) = push(cell, input.dtype, &mut data) {
                mistakes.push(self.mistake(row, column, &problem));
            }
        });
        if mistakes.len() > before {
            return None;
        }
        let shape = sized(&input.shape, count).ok_or_else(|| {
            let dims: Vec<String> =
                input.shape.iter().map(|dim| dim.map_or_else(|| "?".to_owned(), |dim| dim.to_string())).collect();
            format!("{count} elements do not make the shape [{}]", dims.join(", "))
        });
        let made = shape.and_then(|shape| named(&input.name, input.dtype, shape, data));
        made.map_err(|problem| mistakes.push(format!("{}, input {:?}: {problem}", row.place(), input.name))).ok()
    }

    fn label(&self, columns: &Columns, row: &dyn TableRows, mistakes: &mut Vec<String>) -> Option<Label> {
        let mut numbers = Vec::new();
        let before = mistakes.len();
        self.each(columns, row, |column, cell| match self.class(cell) {
            Ok(number) => numbers.push(number),
            Err(problem) => mistakes.push(self.mistake(row, column, &problem)),
        });
        (mistakes.len() == before).then_some(Label(numbers))
    }

    /// Returns the number of a label: the number itself, or the position of its text among the names of the classes.
    fn class(&self, cell: Cell<'_>) -> Result<f64, String> {
        let number = cell.number();
        let by_name = cell.text().and_then(|text| self.classes.iter().position(|class| class == text));
        let by_name = by_name.and_then(|at| u32::try_from(at).ok()).map(f64::from);
        number.filter(|number| number.is_finite()).or(by_name).ok_or_else(|| {
            let names = if self.classes.is_empty() { "" } else { " and none of the `labels` of model.toml" };
            format!("{cell} is no number{names}")
        })
    }

    /// Visits the cells of a tensor, with the elements of lists.
    fn each<'a>(&self, columns: &Columns, row: &'a dyn TableRows, mut visit: impl FnMut(usize, Cell<'a>)) {
        match columns {
            Columns::Each(columns) => columns.iter().for_each(|&column| visit(column, row.cell(column))),
            Columns::One(column) => {
                let cell = row.cell(*column);
                cell.elements(&mut |element| visit(*column, element));
            }
        }
    }

    fn mistake(&self, row: &dyn TableRows, column: usize, problem: &str) -> String {
        let name = self.headers.get(column).map_or("", String::as_str);
        format!("{}, column {name:?}: {problem}", row.place())
    }
}

/// Reads the examples of a table in increasing order; some may be left out.
pub(super) struct Reader {
    rows: Box<dyn TableRows>,
    next: usize,
}

impl Reader {
    /// Reads the example in row `index`, which is after the one read before.
    ///
    /// # Errors
    /// When the file changed since it was opened.
    pub(super) fn read(&mut self, table: &Table, index: usize) -> Result<Example, String> {
        let changed = || format!("{} has changed while it was read", table.path.display());
        while self.next <= index {
            if !self.rows.advance()? {
                return Err(changed());
            }
            self.next += 1;
        }
        let mut mistakes = Vec::new();
        let example = table.example(self.rows.as_ref(), Files::Read, &mut mistakes);
        example.ok_or_else(|| mistakes.into_iter().next().unwrap_or_else(changed))
    }
}

/// Opens a file and returns its column names and rows.
fn open(path: &Path, format: Format) -> Result<(Vec<String>, Box<dyn TableRows>), String> {
    let opened = match format {
        Format::Csv => csv_file::open(path),
        Format::Parquet => parquet_file::open(path),
    };
    opened.map_err(|problem| format!("{}: {problem}", path.display()))
}

/// Position of each column by its name.
fn positions<'a>(path: &Path, headers: &'a [String]) -> Result<HashMap<&'a str, usize>, String> {
    let mut positions = HashMap::new();
    for (at, header) in headers.iter().enumerate() {
        let name = header.trim();
        if let Some(first) = positions.insert(name, at) {
            return Err(format!("{}: columns {first} and {at} are both named {name:?}", path.display()));
        }
    }
    Ok(positions)
}

/// Finds the columns of a tensor: `x`, or `x[0]`, `x[1]`, …, or `x0`, `x1`, … without a gap.
fn columns_of(positions: &HashMap<&str, usize>, name: &str) -> Option<Columns> {
    if let Some(&column) = positions.get(name) {
        return Some(Columns::One(column));
    }
    let numbered: [&dyn Fn(usize) -> String; 3] =
        [&|at| format!("{name}[{at}]"), &|at| format!("{name}{at}"), &|at| format!("{name}_{at}")];
    numbered.iter().find_map(|of| {
        let columns: Vec<usize> = (0..COLUMNS_MAX).map_while(|at| positions.get(of(at).as_str()).copied()).collect();
        (!columns.is_empty()).then_some(Columns::Each(columns))
    })
}

/// Holds the columns found against the input they are for.
fn feed(spec: &TensorSpec, columns: Option<Columns>) -> Result<Feed, String> {
    let name = &spec.name;
    let columns = columns.ok_or_else(|| {
        format!("input {spec} has no column {name:?}, and no columns \"{name}[0]\", \"{name}[1]\", … or \"{name}0\", \"{name}1\", …")
    })?;
    let dims = spec.shape.as_deref().unwrap_or(&[Dim::Any, Dim::Any]);
    let joins = matches!(dims.first(), Some(Dim::Any | Dim::Symbol(_)));
    let shape: Vec<Option<usize>> = dims
        .iter()
        .enumerate()
        .map(|(at, dim)| match dim {
            Dim::Fixed(size) => Some(*size),
            // The first free dimension counts examples.
            Dim::Any | Dim::Symbol(_) => (at == 0).then_some(1),
        })
        .collect();
    if shape.iter().filter(|dim| dim.is_none()).count() > 1 {
        return Err(format!(
            "input {spec} has several free dimensions, and the columns of a table do not determine their sizes: save an .npz file"
        ));
    }
    let shape = match &columns {
        Columns::Each(columns) => {
            let found = columns.len();
            let sized = sized(&shape, found).ok_or_else(|| {
                let needed = shape.iter().flatten().product::<usize>();
                format!("input {spec} needs {needed} columns, {found} are named like it")
            })?;
            sized.into_iter().map(Some).collect()
        }
        Columns::One(_) => shape,
    };
    Ok(Feed { name: name.clone(), dtype: spec.dtype, shape, columns, joins, rule: None })
}

/// Takes the column with the names of the files that become an input.
fn files(spec: &TensorSpec, rule: &InputRule, columns: Option<Columns>) -> Result<Feed, String> {
    let name = &spec.name;
    let columns = match columns {
        Some(columns @ Columns::One(_)) => columns,
        Some(Columns::Each(_)) | None => {
            return Err(format!("input {spec} has no column {name:?} or {FILE:?} with the names of its files"));
        }
    };
    if let Some((field, problem)) = rule.mistakes(spec).into_iter().next() {
        return Err(format!("[preprocess.{name}] {field}: {problem}"));
    }
    let rule = Some((spec.clone(), rule.clone()));
    Ok(Feed { name: name.clone(), dtype: spec.dtype, shape: Vec::new(), columns, joins: false, rule })
}

/// Returns the shape for a number of elements, with its free dimension filled in; `None` if they do not fit.
fn sized(shape: &[Option<usize>], count: usize) -> Option<Vec<usize>> {
    let fixed = shape.iter().flatten().try_fold(1_usize, |product, &dim| product.checked_mul(dim))?;
    let is_free = shape.iter().any(Option::is_none);
    let free = if is_free { count.checked_div(fixed)? } else { 1 };
    let fits = count <= TENSOR_BYTES_MAX && fixed.checked_mul(free) == Some(count);
    fits.then(|| shape.iter().map(|dim| dim.unwrap_or(free)).collect())
}
