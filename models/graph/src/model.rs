//! A model file in memory.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use prost::Message;

use crate::graph::Graph;
use crate::proto::{ModelProto, OperatorSetIdProto};

/// A model: its graph and what stands around it.
#[derive(Debug, Clone, PartialEq)]
pub struct Model {
    /// The top graph.
    pub graph: Graph,
    /// Everything else of the message: versions, operator sets, functions, metadata.
    pub rest: ModelProto,
}

/// Why a file is no model.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file could not be read.
    #[error("read model file {path:?}")]
    File {
        /// Its path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The bytes are not ONNX.
    #[error("the file is no readable ONNX model")]
    Decode(#[source] prost::DecodeError),
    /// A model without a graph has nothing to run.
    #[error("the model has no graph")]
    NoGraph,
}

/// Why a model was not written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The file could not be written.
    #[error("write model file {path:?}")]
    File {
        /// Its path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl Model {
    /// Reads a model file.
    ///
    /// # Errors
    /// When the file cannot be read or is no model.
    pub fn open(path: &Path) -> Result<Self, ReadError> {
        let bytes = fs::read(path).map_err(|source| ReadError::File { path: path.to_owned(), source })?;
        Self::from_bytes(bytes.into())
    }

    /// Reads a model from its bytes; weights stay slices of them.
    ///
    /// # Errors
    /// When the bytes are no model.
    pub fn from_bytes(bytes: Bytes) -> Result<Self, ReadError> {
        let mut rest = ModelProto::decode(bytes).map_err(ReadError::Decode)?;
        let graph = rest.graph.take().ok_or(ReadError::NoGraph)?;
        Ok(Self { graph: Graph::from_proto(graph), rest })
    }

    /// The bytes of the model as one file.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut whole = self.rest.clone();
        whole.graph = Some(self.graph.clone().into_proto());
        whole.encode_to_vec()
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
fn plain(domain: &str) -> &str {
    if domain == "ai.onnx" { "" } else { domain }
}
