//! Folders of examples, and files that are refused because a later version reads them.
//!
//! Fed by [`super`] with a path; feeds it with the files and arrays to read.

use std::fs;
use std::path::{Path, PathBuf};

use types::Signature;

use super::column::{self, Column};
use super::{LABELS, Source};

/// Maximum number of files in a folder of examples; each is opened on its own.
pub(super) const FILES_MAX: usize = 100_000;

/// Extensions of pictures and sounds, in lower case.
pub(super) const LATER: [&str; 12] =
    ["png", "jpg", "jpeg", "bmp", "gif", "webp", "tif", "tiff", "wav", "flac", "mp3", "ogg"];

/// Error for pictures and sounds, which need preprocessing that the manifest declares.
pub(super) fn later(path: &Path) -> String {
    format!(
        "{} holds pictures or sounds, which a later version reads: save the model's inputs as an .npz file",
        path.display()
    )
}

/// Opens a folder of `.npz` files with one example each, or of `.npy` files with one input each.
///
/// # Errors
/// A sentence that says what is wrong and what to do.
pub(super) fn open(path: &Path, signature: &Signature) -> Result<(Source, usize), String> {
    let broken = |error: std::io::Error| format!("read folder {}: {error}", path.display());
    let (mut files, mut singles, mut has_media) = (Vec::new(), Vec::new(), false);
    for entry in fs::read_dir(path).map_err(broken)? {
        let file = entry.map_err(broken)?.path();
        let extension = file.extension().map(|extension| extension.to_string_lossy().to_lowercase());
        match extension.as_deref() {
            Some("npz") if file.is_file() => files.push(file),
            Some("npy") if file.is_file() => singles.push(file),
            Some(extension) => has_media |= LATER.contains(&extension),
            // Folders named like classes, as collections of pictures are.
            None => {}
        }
        if files.len() > FILES_MAX || singles.len() > FILES_MAX {
            return Err(format!("{} holds more than {FILES_MAX} files: take a part", path.display()));
        }
    }
    match (files.is_empty(), singles.is_empty()) {
        (false, false) => Err(format!("{} holds .npz and .npy files: keep one kind", path.display())),
        (true, true) if has_media => Err(later(path)),
        (true, true) => Err(format!("{} holds no .npz and no .npy file", path.display())),
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
