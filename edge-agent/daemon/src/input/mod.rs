//! Inputs from files, for `edge-agent infer`: pictures (`picture`), NumPy arrays (`npy`) and files of several arrays (`npz`).
//!
//! Fed by the command line with a path and by the HTTP server with what the model takes ([`TensorSpec`]); yields the tensor
//! for one input. Files are hostile: they are read up to a limit, and every size is checked before it is allocated.

mod npy;
mod npz;
mod picture;

use std::path::{Path, PathBuf};

use types::limits::TENSOR_BYTES_MAX;
use types::{NamedTensor, TensorError, TensorSpec};

/// Largest file that is read as an input, in bytes: a tensor of the greatest size and a header beside it.
const FILE_BYTES_MAX: u64 = TENSOR_BYTES_MAX as u64 + 64 * 1024;

/// Format of an input file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// Picture in PNG format.
    Picture,
    /// A NumPy array, as `numpy.save` writes it.
    Npy,
}

/// Error of reading an input file.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// The file does not open or read.
    #[error("read input file {path:?}")]
    Read {
        /// File that was read.
        path: PathBuf,
        /// Cause.
        #[source]
        source: std::io::Error,
    },
    /// The file is larger than any input.
    #[error("input file {path:?} is over the limit of {FILE_BYTES_MAX} bytes")]
    TooLarge {
        /// File that was read.
        path: PathBuf,
    },
    /// Not a PNG file that decodes.
    #[error("decode {path:?} as a PNG picture")]
    Png {
        /// File that was read.
        path: PathBuf,
        /// Cause.
        #[source]
        source: png::DecodingError,
    },
    /// Not a NumPy file that reads.
    #[error("read {path:?} as a NumPy array")]
    Npy {
        /// File that was read.
        path: PathBuf,
        /// Cause.
        #[source]
        source: std::io::Error,
    },
    /// Not a file of arrays that reads, or one that lacks an input.
    #[error("read {path:?} as NumPy arrays: {problem}")]
    Npz {
        /// File that was read.
        path: PathBuf,
        /// Problem with the file.
        problem: String,
    },
    /// The array is of a kind that no tensor has.
    #[error("the array in {path:?} {problem}")]
    Array {
        /// File that was read.
        path: PathBuf,
        /// Problem with the file, and advice.
        problem: String,
    },
    /// The model's input is not a picture.
    #[error("input {spec} does not take a picture: {problem}")]
    NotAPicture {
        /// The input, with datatype and shape.
        spec: String,
        /// Problem with the input.
        problem: &'static str,
    },
    /// Shape and bytes disagree.
    #[error("make a tensor of {path:?}")]
    Tensor {
        /// File that was read.
        path: PathBuf,
        /// Cause.
        #[source]
        source: TensorError,
    },
}

/// Reads a file as one input of a model.
///
/// # Errors
/// [`InputError`], with what to do where that is known.
pub fn load(path: &Path, kind: FileKind, spec: &TensorSpec) -> Result<NamedTensor, InputError> {
    let bytes = read(path)?;
    let tensor = match kind {
        FileKind::Picture => picture::load(path, &bytes, spec)?,
        FileKind::Npy => npy::load(path, &bytes, spec)?,
    };
    Ok(NamedTensor { name: spec.name.clone(), tensor })
}

/// Reads a file of arrays (`numpy.savez`) as all inputs of a model; each array has the name of its input.
///
/// # Errors
/// [`InputError`], with what to do where that is known.
pub fn load_all(path: &Path, specs: &[TensorSpec]) -> Result<Vec<NamedTensor>, InputError> {
    npz::load(path, &read(path)?, specs)
}

/// Reads a whole file up to the limit for inputs.
///
/// # Errors
/// When it does not open or read, or is too large.
pub fn read(path: &Path) -> Result<Vec<u8>, InputError> {
    use std::io::Read as _;
    let failed = |source| InputError::Read { path: path.to_owned(), source };
    let file = std::fs::File::open(path).map_err(failed)?;
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > FILE_BYTES_MAX) {
        return Err(InputError::TooLarge { path: path.to_owned() });
    }
    Ok(bytes)
}
