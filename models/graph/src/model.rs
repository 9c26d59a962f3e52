//! A model file in memory.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use prost::Message;

use crate::external::{self, ExternalError};
use crate::graph::Graph;
use crate::limits::{ReadLimits, Refusal};
use crate::proto::{ModelProto, OperatorSetIdProto};
use crate::scan::scan;

/// Oldest version of the format that is written: the first in which a weight need not be an input.
const IR_VERSION_MIN: i64 = 4;

/// A model: its graph and what stands around it.
#[derive(Debug, Clone, PartialEq)]
pub struct Model {
    /// The top graph.
    pub graph: Graph,
    /// Everything else of the message: versions, operator sets, functions, metadata.
    pub rest: ModelProto,
}

/// Reason why a file is no model.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file could not be read.
    #[error("read model file {}", path.display())]
    File {
        /// Path on the disk.
        path: PathBuf,
        /// Reason, in one clause.
        #[source]
        source: io::Error,
    },
    /// Over a limit, or no protocol buffers.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The bytes are not ONNX.
    #[error("the file is no readable ONNX model")]
    Decode(#[source] prost::DecodeError),
    /// A model without a graph has nothing to run.
    #[error("the model has no graph")]
    NoGraph,
    /// Two weights of one name.
    #[error("the model has two initializers {name:?}")]
    Duplicate {
        /// The name.
        name: String,
    },
    /// Functions of the model could not be inlined.
    #[error(transparent)]
    Functions(#[from] onnx_functions::InlineError),
    /// Weights beside the model could not be read.
    #[error(transparent)]
    External(#[from] ExternalError),
}

impl Model {
    /// Reads a model file, with weights that lie beside it.
    ///
    /// # Errors
    /// When a file cannot be read, is over a limit, or is no model.
    pub fn open(path: &Path) -> Result<Self, ReadError> {
        Self::open_within(path, &ReadLimits::default())
    }

    /// Reads a model file as [`Model::open`] does, within other limits.
    ///
    /// # Errors
    /// As [`Model::open`].
    pub fn open_within(path: &Path, limits: &ReadLimits) -> Result<Self, ReadError> {
        let failed = |source| ReadError::File { path: path.to_owned(), source };
        let file = File::open(path).map_err(failed)?;
        let size = file.metadata().map_err(failed)?.len();
        if size > limits.file_bytes {
            return Err(Refusal::FileSize { bytes: size, limit: limits.file_bytes }.into());
        }
        let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
        // One more than allowed, so that a file that grows meanwhile, or a pipe, is found out.
        file.take(limits.file_bytes.saturating_add(1)).read_to_end(&mut bytes).map_err(failed)?;
        let mut proto = decoded(bytes.into(), limits)?;
        let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        external::load(&mut proto, folder, limits.external_bytes)?;
        Self::from_proto(proto)
    }

    /// Reads a model from its bytes; weights stay slices of them. Weights beside it are not read, and say so when asked.
    ///
    /// # Errors
    /// When the bytes are over a limit or no model.
    pub fn from_bytes(bytes: Bytes) -> Result<Self, ReadError> {
        Self::from_bytes_within(bytes, &ReadLimits::default())
    }

    /// Reads a model from its bytes as [`Model::from_bytes`] does, within other limits.
    ///
    /// # Errors
    /// As [`Model::from_bytes`].
    pub fn from_bytes_within(bytes: Bytes, limits: &ReadLimits) -> Result<Self, ReadError> {
        Self::from_proto(decoded(bytes, limits)?)
    }

    fn from_proto(mut rest: ModelProto) -> Result<Self, ReadError> {
        let graph = rest.graph.take().ok_or(ReadError::NoGraph)?;
        let mut names = HashSet::new();
        if let Some(twice) = graph.initializer.iter().find(|tensor| !names.insert(tensor.name())) {
            return Err(ReadError::Duplicate { name: twice.name().to_owned() });
        }
        // Before version 4 every initializer had to be an input too; they are none here.
        rest.ir_version = Some(rest.ir_version().max(IR_VERSION_MIN));
        Ok(Self { graph: Graph::from_proto(graph), rest })
    }

    /// Returns the model with its own functions inlined, so that passes see every operator. A model without functions is returned
    /// unchanged.
    ///
    /// # Errors
    /// [`ReadError::Functions`] when a function cannot be inlined.
    pub fn without_functions(self) -> Result<Self, ReadError> {
        if self.rest.functions.is_empty() {
            return Ok(self);
        }
        let file = ModelProto { graph: Some(self.graph.into_proto()), ..self.rest }.encode_to_vec();
        let inlined = onnx_functions::inlined(&file, &onnx_functions::Limits::default())?;
        Self::from_proto(decoded(inlined.unwrap_or(file).into(), &ReadLimits::default())?)
    }

    /// The version of an operator domain; the default domain is `""`.
    #[must_use]
    pub fn opset(&self, domain: &str) -> Option<i64> {
        let same = |id: &&OperatorSetIdProto| plain(id.domain()) == plain(domain);
        self.rest.opset_import.iter().find(same).map(OperatorSetIdProto::version)
    }

    /// Imports an operator domain at this version, replacing what was imported of it.
    pub fn import(&mut self, domain: &str, version: i64) {
        self.rest.opset_import.retain(|id| plain(id.domain()) != plain(domain));
        let domain = Some(domain.to_owned());
        self.rest.opset_import.push(OperatorSetIdProto { domain, version: Some(version) });
    }
}

/// The default domain has two spellings.
pub(crate) fn plain(domain: &str) -> &str {
    if domain == "ai.onnx" { "" } else { domain }
}

fn decoded(bytes: Bytes, limits: &ReadLimits) -> Result<ModelProto, ReadError> {
    scan(&bytes, limits)?;
    ModelProto::decode(bytes).map_err(ReadError::Decode)
}
