//! Weights in files beside the model.
//!
//! The paths come from the model and are hostile: only relative ones without `..` are followed, one component at a time,
//! never through a link, and only to regular files under the folder that the model file lies in. The format is that of
//! the ONNX documentation, `ExternalData.md`.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Component, Path, PathBuf};

use bytes::Bytes;
use rustix::fs::{Mode, OFlags, open, openat};

use crate::proto::tensor_proto::DataLocation;
use crate::proto::{GraphProto, ModelProto, NodeProto, TensorProto};
use crate::tensor::{Values, bytes_of};

/// Reason why weights beside a model were not read.
#[derive(Debug, thiserror::Error)]
pub enum ExternalError {
    /// The path leads out of the model's folder.
    #[error("tensor {tensor:?} names {location:?}: weights must be stored under the folder of the model file")]
    Outside {
        /// Name of the tensor.
        tensor: String,
        /// The path as the model gives it.
        location: String,
    },
    /// The file could not be opened or read; a link on the way counts as that.
    #[error("read the weights of tensor {tensor:?} from {location:?}")]
    File {
        /// Name of the tensor.
        tensor: String,
        /// The path as the model gives it.
        location: String,
        /// Reason, in one clause.
        #[source]
        source: io::Error,
    },
    /// Not a file, but a folder, a device or a pipe.
    #[error("tensor {tensor:?} names {location:?}, which is no regular file")]
    NotFile {
        /// Name of the tensor.
        tensor: String,
        /// The path as the model gives it.
        location: String,
    },
    /// An entry that makes no sense.
    #[error("tensor {tensor:?} has an impossible {key} of external data")]
    Entry {
        /// Name of the tensor.
        tensor: String,
        /// The entry: `location`, `offset` or `length`.
        key: &'static str,
    },
    /// The file ends before the weights do, or they are not as many as the dimensions say.
    #[error("tensor {tensor:?} wants {wanted} bytes at {offset} of {location:?}, which cannot be its weights")]
    Length {
        /// Name of the tensor.
        tensor: String,
        /// The path as the model gives it.
        location: String,
        /// Offset of the first byte.
        offset: u64,
        /// Number of bytes that they should be.
        wanted: u64,
    },
    /// More weights than the limit.
    #[error("the weights beside the model take more than {limit} bytes")]
    Total {
        /// Limit that was exceeded.
        limit: u64,
    },
}

/// Loads every tensor of the model that keeps its data beside it into its `raw_data`.
///
/// # Errors
/// The first tensor whose data may not, or cannot, be read.
pub(crate) fn load(model: &mut ModelProto, folder: &Path, limit: u64) -> Result<(), ExternalError> {
    let mut loader = Loader { folder, limit, total: 0, root: None, spent: HashMap::new(), regions: HashMap::new() };
    if let Some(graph) = &mut model.graph {
        loader.graph(graph)?;
    }
    for training in &mut model.training_info {
        for graph in training.initialization.iter_mut().chain(&mut training.algorithm) {
            loader.graph(graph)?;
        }
    }
    for node in model.functions.iter_mut().flat_map(|function| &mut function.node) {
        loader.node(node)?;
    }
    Ok(())
}

struct Loader<'folder> {
    folder: &'folder Path,
    limit: u64,
    total: u64,
    root: Option<OwnedFd>,
    /// Bytes read of each file, by device and number.
    spent: HashMap<(u64, u64), u64>,
    /// Tensors that share their bytes in the file share them in memory.
    regions: HashMap<(String, u64, u64), Bytes>,
}

impl Loader<'_> {
    fn graph(&mut self, graph: &mut GraphProto) -> Result<(), ExternalError> {
        for tensor in &mut graph.initializer {
            self.tensor(tensor)?;
        }
        for sparse in &mut graph.sparse_initializer {
            for tensor in sparse.values.iter_mut().chain(&mut sparse.indices) {
                self.tensor(tensor)?;
            }
        }
        graph.node.iter_mut().try_for_each(|node| self.node(node))
    }

    fn node(&mut self, node: &mut NodeProto) -> Result<(), ExternalError> {
        for attribute in &mut node.attribute {
            if let Some(tensor) = &mut attribute.t {
                self.tensor(tensor)?;
            }
            for tensor in &mut attribute.tensors {
                self.tensor(tensor)?;
            }
            for graph in attribute.g.iter_mut().chain(&mut attribute.graphs) {
                self.graph(graph)?;
            }
        }
        Ok(())
    }

    fn tensor(&mut self, tensor: &mut TensorProto) -> Result<(), ExternalError> {
        if tensor.data_location() != DataLocation::External {
            return Ok(());
        }
        let region = Region::of(tensor)?;
        let raw = self.read(tensor.name(), &region)?;
        tensor.raw_data = Some(raw);
        tensor.external_data.clear();
        tensor.data_location = None;
        Ok(())
    }

    fn read(&mut self, tensor: &str, region: &Region) -> Result<Bytes, ExternalError> {
        let Region { location, offset, length } = region;
        let key = (location.clone(), *offset, *length);
        if let Some(known) = self.regions.get(&key) {
            return Ok(known.clone());
        }
        self.total = self.total.saturating_add(*length);
        if self.total > self.limit {
            return Err(ExternalError::Total { limit: self.limit });
        }
        let short = || ExternalError::Length {
            tensor: tensor.to_owned(),
            location: location.clone(),
            offset: *offset,
            wanted: *length,
        };
        let file = self.opened(tensor, location)?;
        let found = file.metadata().map_err(|source| failed(tensor, location, source))?;
        if !found.is_file() {
            return Err(ExternalError::NotFile { tensor: tensor.to_owned(), location: location.clone() });
        }
        let size = found.len();
        let end = offset.checked_add(*length).ok_or_else(short)?;
        // Weights do not overlap: a small file that many tensors name is no way to fill the memory.
        let spent = self.spent.entry((found.dev(), found.ino())).or_default();
        *spent = spent.saturating_add(*length);
        if end > size || *spent > size {
            return Err(short());
        }
        let mut raw = vec![0; usize::try_from(*length).map_err(|_error| short())?];
        file.read_exact_at(&mut raw, *offset).map_err(|source| failed(tensor, location, source))?;
        let raw = Bytes::from(raw);
        self.regions.insert(key, raw.clone());
        Ok(raw)
    }

    /// Opens a path one component at a time: a link anywhere on the way is an error of the system.
    fn opened(&mut self, tensor: &str, location: &str) -> Result<File, ExternalError> {
        let outside = || ExternalError::Outside { tensor: tensor.to_owned(), location: location.to_owned() };
        let parts: Option<Vec<PathBuf>> = Path::new(location)
            .components()
            .filter(|part| *part != Component::CurDir)
            .map(|part| matches!(part, Component::Normal(_)).then(|| PathBuf::from(part.as_os_str())))
            .collect();
        let parts = parts.filter(|parts| !location.contains('\0') && !parts.is_empty()).ok_or_else(outside)?;
        let failed = |source: rustix::io::Errno| failed(tensor, location, source.into());
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        if self.root.is_none() {
            // The operator chose this folder: links on the way to it are theirs.
            self.root = Some(open(self.folder, flags | OFlags::DIRECTORY, Mode::empty()).map_err(failed)?);
        }
        let mut at: Option<OwnedFd> = None;
        for (place, part) in parts.iter().enumerate() {
            let is_last = place + 1 == parts.len();
            // Not to hang on a pipe that nobody writes to.
            let kind = if is_last { OFlags::NONBLOCK } else { OFlags::DIRECTORY };
            let base = at.as_ref().or(self.root.as_ref()).ok_or_else(outside)?;
            let next = openat(base.as_fd(), part, flags | kind | OFlags::NOFOLLOW, Mode::empty()).map_err(failed)?;
            at = Some(next);
        }
        Ok(File::from(at.ok_or_else(outside)?))
    }
}

/// Location of a tensor's bytes.
struct Region {
    location: String,
    offset: u64,
    length: u64,
}

impl Region {
    fn of(tensor: &TensorProto) -> Result<Self, ExternalError> {
        let impossible = |key| ExternalError::Entry { tensor: tensor.name().to_owned(), key };
        let entry = |key: &str| tensor.external_data.iter().find(|entry| entry.key() == key).map(|entry| entry.value());
        let number = |key| entry(key).map(|text| text.parse().map_err(|_error| impossible(key))).transpose();
        let location = entry("location").ok_or_else(|| impossible("location"))?.to_owned();
        let offset: u64 = number("offset")?.unwrap_or(0);
        let shape = tensor.shape().map_err(|_error| impossible("length"))?;
        let wanted = bytes_of(tensor.element_type(), &shape).ok_or_else(|| impossible("length"))?;
        let wanted = u64::try_from(wanted).map_err(|_error| impossible("length"))?;
        let length = number("length")?.unwrap_or(wanted);
        if length != wanted {
            return Err(ExternalError::Length { tensor: tensor.name().to_owned(), location, offset, wanted });
        }
        Ok(Self { location, offset, length })
    }
}

fn failed(tensor: &str, location: &str, source: io::Error) -> ExternalError {
    ExternalError::File { tensor: tensor.to_owned(), location: location.to_owned(), source }
}
