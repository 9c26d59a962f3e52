//! Items of a batch: the files of a folder, the rows of an array file, or the lines of a JSON Lines file.

use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use console::{CliError, ExitKind, OrExit};
use serving::codec::InferCall;
use types::{Dim, NamedTensor, Tensor, TensorSpec};

use crate::input::{self, FileKind};

/// Maximum number of items of one batch; their names are held in memory.
const ITEMS_MAX: usize = 1_000_000;

/// Items of one batch, in order.
pub(super) enum Items {
    /// Files of a folder, each with the inputs of one request.
    Files(Vec<(String, PathBuf)>),
    /// Rows of arrays.
    Rows { inputs: Vec<NamedTensor>, count: usize },
    /// Requests in JSON.
    Lines(Vec<Bytes>),
}

/// Kinds of files that have the inputs of one request.
fn kind(path: &Path) -> Option<&'static str> {
    let extension = path.extension()?.to_str()?.to_lowercase();
    ["png", "npy", "npz", "json"].into_iter().find(|known| *known == extension)
}

impl Items {
    /// Opens a folder or a file. Returns the items and the number of files of other kinds in the folder.
    pub(super) fn open(path: &Path, specs: &[TensorSpec]) -> Result<(Self, usize), CliError> {
        if path.is_dir() {
            return Self::folder(path);
        }
        let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default().to_lowercase();
        let items = match extension.as_str() {
            "npy" | "npz" => Self::rows(path, &extension, specs)?,
            "jsonl" | "ndjson" => Self::lines(path)?,
            _other => {
                let said = format!("{} is no batch", path.display());
                return Err(CliError::new(ExitKind::Usage, said).hint(
                    "name a folder of .png, .npy, .npz or .json files, an .npy or .npz file with an input in each row, or a \
                     .jsonl file with a request in each line",
                ));
            }
        };
        Ok((items, 0))
    }

    fn folder(path: &Path) -> Result<(Self, usize), CliError> {
        let failed =
            |error: std::io::Error| CliError::new(ExitKind::Storage, format!("read {}: {error}", path.display()));
        let (mut files, mut others) = (Vec::new(), 0_usize);
        for entry in fs::read_dir(path).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let name = path.file_name().and_then(|name| name.to_str()).map(str::to_owned);
            match name.filter(|name| kind(&path).is_some() && path.is_file() && !name.starts_with('.')) {
                Some(name) => files.push((name, path)),
                None => others = others.saturating_add(1),
            }
        }
        if files.is_empty() {
            let said = format!("{} has no .png, .npy, .npz or .json file", path.display());
            return Err(CliError::new(ExitKind::Usage, said).hint("name the folder that has the inputs"));
        }
        files.sort();
        let files = Self::Files(files);
        files.check(path)?;
        Ok((files, others))
    }

    fn rows(path: &Path, extension: &str, specs: &[TensorSpec]) -> Result<Self, CliError> {
        let inputs = load(path, extension, specs)?;
        let problem = |said: String| CliError::new(ExitKind::Config, format!("{}: {said}", path.display()));
        let mut counts = inputs.iter().zip(specs).map(|(input, spec)| {
            let is_batch =
                spec.shape.as_ref().is_some_and(|dims| !matches!(dims.first(), None | Some(Dim::Fixed(2..))));
            input.tensor.shape().first().copied().filter(|_| is_batch).ok_or_else(|| {
                problem(format!("input {spec} takes no batch"))
                    .hint("put each input into a file of its own, in a folder")
            })
        });
        let count = counts.next().transpose()?.unwrap_or_default();
        if let Some(other) = counts.find(|other| !matches!(other, Ok(rows) if *rows == count)) {
            let rows = other?;
            return Err(problem(format!("one array has {count} rows, another one {rows}"))
                .hint("save arrays with one row for each request"));
        }
        let rows = Self::Rows { inputs, count };
        rows.check(path)?;
        Ok(rows)
    }

    fn lines(path: &Path) -> Result<Self, CliError> {
        let bytes = Bytes::from(input::read(path).or_exit(ExitKind::Config)?);
        let lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.trim_ascii().is_empty());
        let lines = Self::Lines(lines.map(|line| bytes.slice_ref(line)).collect());
        lines.check(path)?;
        Ok(lines)
    }

    fn check(&self, path: &Path) -> Result<(), CliError> {
        match self.len() {
            0 => Err(CliError::new(ExitKind::Config, format!("{} has no item", path.display()))),
            count if count > ITEMS_MAX => {
                let said = format!("{} has {count} items, over the limit of {ITEMS_MAX}", path.display());
                Err(CliError::new(ExitKind::Usage, said).hint("split it into several batches"))
            }
            _within => Ok(()),
        }
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::Files(files) => files.len(),
            Self::Rows { count, .. } => *count,
            Self::Lines(lines) => lines.len(),
        }
    }

    /// Returns the name of an item, unique in the batch.
    pub(super) fn name(&self, index: usize) -> String {
        match self {
            Self::Files(files) => files.get(index).map(|(name, _path)| name.clone()).unwrap_or_default(),
            Self::Rows { .. } => format!("row-{index:06}"),
            Self::Lines(_) => format!("line-{:06}", index.saturating_add(1)),
        }
    }

    /// Reads the inputs of an item.
    pub(super) fn inputs(&self, index: usize, specs: &[TensorSpec]) -> Result<Vec<NamedTensor>, String> {
        match self {
            Self::Files(files) => {
                let Some((_name, path)) = files.get(index) else { return Err("there is no such file".to_owned()) };
                load(path, kind(path).unwrap_or_default(), specs)
                    .map_err(|error| telemetry::chain(error.source.as_ref()))
            }
            Self::Rows { inputs, count } => inputs.iter().map(|input| row(input, index, *count)).collect(),
            Self::Lines(lines) => {
                let line = lines.get(index).cloned().unwrap_or_default();
                parse(&line)
            }
        }
    }
}

/// Reads a file with the inputs of one request, or of several.
fn load(path: &Path, kind: &str, specs: &[TensorSpec]) -> Result<Vec<NamedTensor>, CliError> {
    let one = |kind| match specs {
        [spec] => input::load(path, kind, spec).map(|input| vec![input]).or_exit(ExitKind::Config),
        several => {
            let said = format!("{} has one input, and the model takes {}", path.display(), several.len());
            Err(CliError::new(ExitKind::Config, said).hint("save an .npz file with an array for each input"))
        }
    };
    match kind {
        "png" => one(FileKind::Picture),
        "npy" => one(FileKind::Npy),
        "npz" => input::load_all(path, specs).or_exit(ExitKind::Config),
        _json => {
            let body = input::read(path).or_exit(ExitKind::Config)?;
            parse(&body.into()).map_err(|problem| CliError::new(ExitKind::Config, problem))
        }
    }
}

/// Reads the inputs of a request of the Open Inference Protocol.
fn parse(body: &Bytes) -> Result<Vec<NamedTensor>, String> {
    let call = InferCall::parse(None, body, &|_bytes| true);
    call.map(|call| call.inputs).map_err(|error| telemetry::chain(&error))
}

/// Returns one row of an array as a batch of one.
fn row(input: &NamedTensor, index: usize, count: usize) -> Result<NamedTensor, String> {
    let tensor = &input.tensor;
    let length = tensor.data().len().checked_div(count).unwrap_or_default();
    let from = index.saturating_mul(length);
    let within = from.saturating_add(length) <= tensor.data().len();
    let data = within.then(|| Bytes::copy_from_slice(tensor.data().get(from..from + length).unwrap_or_default()));
    let shape = std::iter::once(1).chain(tensor.shape().iter().skip(1).copied()).collect();
    let data = data.ok_or_else(|| format!("there is no row {index}"))?;
    let tensor = Tensor::new(tensor.dtype(), shape, data).map_err(|error| telemetry::chain(&error))?;
    Ok(NamedTensor { name: input.name.clone(), tensor })
}
