//! Writes models: weights are never copied, whole files appear or nothing does.
//!
//! Protocol buffers end at 2 GiB. A model beyond that keeps its weights in one file beside it, in the form of the ONNX
//! documentation (`ExternalData.md`).

use std::fs::{self, File, Permissions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};
use tempfile::NamedTempFile;

use crate::limits::MESSAGE_BYTES_MAX;
use crate::model::Model;
use crate::proto::tensor_proto::DataLocation;
use crate::proto::{GraphProto, ModelProto, StringStringEntryProto, TensorProto};
use crate::visit;

/// Smallest weight that goes into the file beside, in bytes. Smaller ones are mostly shapes, which readers want at hand.
pub const EXTERNAL_BYTES_MIN: usize = 1024;

/// Weights of a page or more begin at a page, so that a reader may map them; smaller ones at a cache line.
const PAGE: u64 = 4096;
const CACHE_LINE: u64 = 64;

/// Numbers of fields in `onnx.proto`.
const MODEL_GRAPH: u32 = 7;
const GRAPH_INITIALIZER: u32 = 5;
const TENSOR_RAW_DATA: u32 = 9;

/// Reason why a model was not written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The file could not be written.
    #[error("write model file {}", path.display())]
    File {
        /// Path on the disk.
        path: PathBuf,
        /// Reason, in one clause.
        #[source]
        source: io::Error,
    },
    /// Beyond what one file may have.
    #[error("the model takes {bytes} bytes, over the limit of {limit} for one file: save it with its weights beside")]
    TooLarge {
        /// Bytes of the file that it would be.
        bytes: u64,
        /// Limit that was exceeded.
        limit: u64,
    },
    /// A tensor's data is beside a file that this model was not read from by its path.
    #[error("tensor {tensor:?} keeps its data in another file that was not read: open the model by its path")]
    External {
        /// Name of the tensor.
        tensor: String,
    },
    /// A path without a file name.
    #[error("{} is no name for a model file", path.display())]
    Name {
        /// Path on the disk.
        path: PathBuf,
    },
}

/// Destination of the weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Weights {
    /// Into the model file if the whole stays under the limit of protocol buffers, else beside.
    #[default]
    Fitting,
    /// Beside: those of [`EXTERNAL_BYTES_MIN`] or more go into `NAME.data`, where `NAME` is the file name of the model.
    Beside,
}

impl Model {
    /// The bytes of the model as one file.
    ///
    /// # Errors
    /// [`WriteError::TooLarge`] over 2 GiB, [`WriteError::External`] when a weight was never read.
    pub fn to_bytes(&self) -> Result<Vec<u8>, WriteError> {
        let plan = Plan::of(self)?;
        let bytes = plan.bytes();
        if bytes > MESSAGE_BYTES_MAX {
            return Err(WriteError::TooLarge { bytes, limit: MESSAGE_BYTES_MAX });
        }
        let mut whole = Vec::with_capacity(usize::try_from(bytes).unwrap_or(0));
        plan.write(&mut whole).map_err(|source| WriteError::File { path: PathBuf::new(), source })?;
        Ok(whole)
    }

    /// Writes the model file, and a file of weights beside it when the whole would be 2 GiB or more.
    ///
    /// Each file appears whole or not at all, the weights first. An old file of weights of that name is replaced.
    ///
    /// # Errors
    /// When a file cannot be written, or the model without its weights is still over the limit.
    pub fn save(&self, path: &Path) -> Result<(), WriteError> {
        self.save_with(path, Weights::Fitting, MESSAGE_BYTES_MAX)
    }

    /// Writes the model as [`Model::save`] does, with a choice of where the weights go and the most bytes for the file.
    ///
    /// # Errors
    /// As [`Model::save`].
    pub fn save_with(&self, path: &Path, weights: Weights, file_bytes_max: u64) -> Result<(), WriteError> {
        let plan = Plan::of(self)?;
        if weights == Weights::Fitting && plan.bytes() <= file_bytes_max {
            return replace(path, |file| plan.write(file));
        }
        let name = path.file_name().and_then(|name| name.to_str());
        let beside = format!("{}.data", name.ok_or_else(|| WriteError::Name { path: path.to_owned() })?);
        let (plan, data) = plan.with_weights_beside(&beside);
        let bytes = plan.bytes();
        if bytes > file_bytes_max {
            return Err(WriteError::TooLarge { bytes, limit: file_bytes_max });
        }
        replace(&path.with_file_name(&beside), |file| write_data(file, &data))?;
        replace(path, |file| plan.write(file))
    }
}

/// A message in pieces that together are the model's: everything small is encoded, weights are referred to.
struct Plan<'model> {
    /// The model without its graph.
    model: ModelProto,
    /// The graph without its initializers.
    graph: GraphProto,
    initializers: Vec<Piece<'model>>,
}

/// One initializer: its message without raw data, and the raw data.
struct Piece<'model> {
    head: Vec<u8>,
    raw: Option<&'model [u8]>,
    tensor: &'model TensorProto,
}

impl<'model> Piece<'model> {
    fn of(tensor: &'model TensorProto) -> Self {
        // A tensor with raw data has empty lists, so that a copy without it is small.
        let Some(raw) = &tensor.raw_data else { return Self { head: tensor.encode_to_vec(), raw: None, tensor } };
        let head = TensorProto { raw_data: None, ..tensor.clone() }.encode_to_vec();
        Self { head, raw: Some(raw), tensor }
    }

    fn bytes(&self) -> u64 {
        let raw = self.raw.map_or(0, |raw| framed(TENSOR_RAW_DATA, as_u64(raw.len())));
        as_u64(self.head.len()) + raw
    }
}

/// A weight in the file beside: where it begins, and its bytes.
type Placed<'model> = (u64, &'model [u8]);

impl<'model> Plan<'model> {
    fn of(model: &'model Model) -> Result<Self, WriteError> {
        let graph = &model.graph;
        let plan = Self {
            model: ModelProto { graph: None, ..model.rest.clone() },
            graph: GraphProto {
                node: graph.nodes.clone(),
                input: graph.inputs.clone(),
                output: graph.outputs.clone(),
                value_info: graph.value_info.values().cloned().collect(),
                ..graph.rest.clone()
            },
            initializers: graph.initializers.values().map(Piece::of).collect(),
        };
        let mut unread = graph.initializers.values().find(|tensor| is_external(tensor)).map(|t| t.name().to_owned());
        visit::tensors(&plan.graph, &mut |tensor| {
            if is_external(tensor) {
                unread = Some(tensor.name().to_owned());
            }
        });
        unread.map_or(Ok(plan), |tensor| Err(WriteError::External { tensor }))
    }

    fn graph_bytes(&self) -> u64 {
        let initializers = self.initializers.iter().map(|piece| framed(GRAPH_INITIALIZER, piece.bytes()));
        as_u64(self.graph.encoded_len()) + initializers.sum::<u64>()
    }

    fn bytes(&self) -> u64 {
        as_u64(self.model.encoded_len()) + framed(MODEL_GRAPH, self.graph_bytes())
    }

    fn write(&self, out: &mut impl Write) -> io::Result<()> {
        out.write_all(&self.model.encode_to_vec())?;
        out.write_all(&frame(MODEL_GRAPH, self.graph_bytes()))?;
        out.write_all(&self.graph.encode_to_vec())?;
        for piece in &self.initializers {
            out.write_all(&frame(GRAPH_INITIALIZER, piece.bytes()))?;
            out.write_all(&piece.head)?;
            if let Some(raw) = piece.raw {
                out.write_all(&frame(TENSOR_RAW_DATA, as_u64(raw.len())))?;
                out.write_all(raw)?;
            }
        }
        Ok(())
    }

    /// Takes the larger weights out of the message.
    fn with_weights_beside(mut self, location: &str) -> (Self, Vec<Placed<'model>>) {
        let (mut data, mut end) = (Vec::new(), 0_u64);
        for piece in &mut self.initializers {
            let Some(raw) = piece.raw.filter(|raw| raw.len() >= EXTERNAL_BYTES_MIN) else { continue };
            let length = as_u64(raw.len());
            let start = end.next_multiple_of(if length >= PAGE { PAGE } else { CACHE_LINE });
            end = start + length;
            data.push((start, raw));
            let entry =
                |key: &str, value: String| StringStringEntryProto { key: Some(key.to_owned()), value: Some(value) };
            let head = TensorProto {
                raw_data: None,
                data_location: Some(DataLocation::External.into()),
                external_data: vec![
                    entry("location", location.to_owned()),
                    entry("offset", start.to_string()),
                    entry("length", length.to_string()),
                ],
                ..piece.tensor.clone()
            };
            (piece.head, piece.raw) = (head.encode_to_vec(), None);
        }
        (self, data)
    }
}

fn is_external(tensor: &TensorProto) -> bool {
    tensor.data_location() == DataLocation::External
}

fn write_data(out: &mut impl Write, data: &[Placed<'_>]) -> io::Result<()> {
    let mut at = 0;
    for &(start, raw) in data {
        io::copy(&mut io::Read::take(io::repeat(0), start - at), out)?;
        out.write_all(raw)?;
        at = start + as_u64(raw.len());
    }
    Ok(())
}

/// Writes beside, syncs, renames over, syncs the folder.
fn replace(path: &Path, write: impl FnOnce(&mut BufWriter<&mut File>) -> io::Result<()>) -> Result<(), WriteError> {
    let attempt = || -> io::Result<()> {
        let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut builder = tempfile::Builder::new();
        builder.prefix(".writing-").permissions(Permissions::from_mode(0o644));
        let mut beside: NamedTempFile = builder.tempfile_in(folder)?;
        let mut file = BufWriter::new(beside.as_file_mut());
        write(&mut file)?;
        file.flush()?;
        drop(file);
        beside.as_file().sync_all()?;
        beside.persist(path).map_err(|error| error.error)?;
        fs::File::open(folder)?.sync_all()
    };
    attempt().map_err(|source| WriteError::File { path: path.to_owned(), source })
}

/// Key and length of a field that holds a message or bytes.
fn frame(field: u32, length: u64) -> Vec<u8> {
    let mut head = Vec::new();
    encode_key(field, WireType::LengthDelimited, &mut head);
    encode_varint(length, &mut head);
    head
}

/// Bytes of such a field with its key and length.
fn framed(field: u32, length: u64) -> u64 {
    as_u64(key_len(field) + encoded_len_varint(length)) + length
}

fn as_u64(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}
