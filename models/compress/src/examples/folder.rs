//! Folders of examples, and files that are refused because a later version reads them.
//!
//! Fed by [`super`] with a path; feeds it with the files and arrays to read.

use std::fs;
use std::path::{Path, PathBuf};

use types::Signature;

use super::column::{self, Column};
use super::pictures::{self, FILES_MAX, PICTURES};
use super::{ExampleRules, LABELS, Source};

/// Extensions of other pictures and of sounds, in lower case.
pub(super) const LATER: [&str; 7] = ["gif", "tif", "tiff", "wav", "flac", "mp3", "ogg"];

/// Error for files that a later version reads.
pub(super) fn later(path: &Path) -> String {
    format!(
        "{} holds sounds or pictures of a kind that is not read: save pictures as JPEG, PNG, WebP or BMP, and inputs of other \
         models as an .npz file",
        path.display()
    )
}

/// Opens a folder of `.npz` files with one example each, of `.npy` files with one input each, or of pictures.
///
/// # Errors
/// A sentence that says what is wrong and what to do.
pub(super) fn open(path: &Path, signature: &Signature, rules: &ExampleRules<'_>) -> Result<(Source, usize), String> {
    let broken = |error: std::io::Error| format!("read folder {}: {error}", path.display());
    let (mut files, mut singles) = (Vec::new(), Vec::new());
    let (mut has_pictures, mut has_media) = (false, false);
    for entry in fs::read_dir(path).map_err(broken)? {
        let file = entry.map_err(broken)?.path();
        let extension = file.extension().map(|extension| extension.to_string_lossy().to_lowercase());
        match extension.as_deref() {
            Some("npz") if file.is_file() => files.push(file),
            Some("npy") if file.is_file() => singles.push(file),
            _ if file.is_dir() => has_pictures |= pictures::is_class(&file),
            Some(extension) if PICTURES.contains(&extension) => has_pictures = true,
            Some(extension) => has_media |= LATER.contains(&extension),
            None => {}
        }
        if files.len() > FILES_MAX || singles.len() > FILES_MAX {
            return Err(format!("{} holds more than {FILES_MAX} files: take a part", path.display()));
        }
    }
    match (files.is_empty(), singles.is_empty()) {
        (false, false) => Err(format!("{} holds .npz and .npy files: keep one kind", path.display())),
        (true, true) if has_pictures => pictures::open(path, signature, rules),
        (true, true) if has_media => Err(later(path)),
        (true, true) => Err(format!("{} holds no .npz and no .npy file, and no pictures", path.display())),
        (true, false) => super::arrays(path, single_arrays(&singles, signature)?, signature),
        (false, true) => {
            files.sort();
            let count = files.len();
            Ok((Source::Folder { files, inputs: signature.inputs.clone() }, count))
        }
    }
}

/// Reads the headers of the `.npy` files that are named like inputs or labels.
fn single_arrays(files: &[PathBuf], signature: &Signature) -> Result<Vec<Column>, String> {
    let mut columns = Vec::new();
    for file in files {
        let Some(name) = file.file_stem().and_then(|stem| stem.to_str()) else { continue };
        if name == LABELS || signature.inputs.iter().any(|input| input.name == name) {
            columns.push(column::single(file, name)?);
        }
    }
    Ok(columns)
}
