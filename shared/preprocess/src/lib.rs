//! Preprocessing of files into the inputs of models, as the manifest declares it: bytes in, tensors out, without I/O.
//!
//! Fed by the command lines and the inference servers with what an application sent; feeds engines. Everything that arrives is
//! hostile: bytes, pixels and time of decoding are bounded, and every file that cannot be read gives an error that names
//! the reason.

mod picture;

use types::preprocess::InputRule;
use types::{NamedTensor, TensorSpec};

pub use picture::{FILE_BYTES_MAX, PIXELS_MAX, PictureError, SIDE_MAX};

/// Turns a file into one input of a model.
///
/// # Errors
/// Fails if the file is not of a kind that the rule reads, is broken or over a limit, or does not fit the input.
pub fn tensor(file: &[u8], rule: &InputRule, input: &TensorSpec) -> Result<NamedTensor, PictureError> {
    let tensor = match rule {
        InputRule::Picture(rule) => picture::tensor(file, rule, input)?,
    };
    Ok(NamedTensor { name: input.name.clone(), tensor })
}
