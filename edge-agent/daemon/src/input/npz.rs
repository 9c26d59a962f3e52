//! Several NumPy arrays in one file (`numpy.savez`) as the inputs of a model.

use std::io::{Cursor, Read as _};
use std::path::Path;

use types::{NamedTensor, TensorSpec};
use zip::ZipArchive;

use super::{FILE_BYTES_MAX, InputError, npy};

/// Reads the array of each input, which has the input's name. Other arrays are ignored.
pub(super) fn load(path: &Path, bytes: &[u8], specs: &[TensorSpec]) -> Result<Vec<NamedTensor>, InputError> {
    let failed = |error: zip::result::ZipError| InputError::Npz { path: path.to_owned(), problem: error.to_string() };
    let mut archive = ZipArchive::new(Cursor::new(bytes)).map_err(failed)?;
    let named: Vec<String> =
        archive.file_names().filter_map(|name| name.strip_suffix(".npy").map(str::to_owned)).collect();
    let mut inputs = Vec::with_capacity(specs.len());
    for spec in specs {
        let missing = || InputError::Npz {
            path: path.to_owned(),
            problem: format!("there is no array {:?} for input {spec}; the file has {}", spec.name, named.join(", ")),
        };
        let found = named.contains(&spec.name).then_some(()).ok_or_else(missing);
        found?;
        let entry = archive.by_name(&format!("{}.npy", spec.name)).map_err(failed)?;
        let mut array = Vec::new();
        // The stated size of an entry proves nothing: what comes out is counted.
        entry
            .take(FILE_BYTES_MAX + 1)
            .read_to_end(&mut array)
            .map_err(|source| InputError::Npy { path: path.to_owned(), source })?;
        if u64::try_from(array.len()).is_ok_and(|length| length > FILE_BYTES_MAX) {
            return Err(InputError::TooLarge { path: path.to_owned() });
        }
        inputs.push(NamedTensor { name: spec.name.clone(), tensor: npy::load(path, &array, spec)? });
    }
    Ok(inputs)
}
