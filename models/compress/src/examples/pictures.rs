//! Pictures as examples: a folder of files, or a folder for each class.
//!
//! Fed by [`super`] with a path and the rule of the manifest; feeds it with one tensor for each file, made when it is read.

use std::fs;
use std::path::{Path, PathBuf};

use evaluate::labels::Label;
use types::preprocess::InputRule;
use types::{Dim, NamedTensor, Signature, TensorSpec};

use super::{Example, ExampleRules, Source};

/// Maximum number of files in a folder of examples; each is opened on its own.
pub(super) const FILES_MAX: usize = 100_000;

/// Extensions of pictures that are read, in lower case.
pub(super) const PICTURES: [&str; 5] = ["png", "jpg", "jpeg", "bmp", "webp"];

/// Pictures of a folder, and the input that they feed.
#[derive(Debug)]
pub(super) struct Pictures {
    files: Vec<(PathBuf, Option<Label>)>,
    input: TensorSpec,
    rule: InputRule,
}

/// Opens a folder of pictures. The names of its folders are class names of the model, or class numbers.
///
/// # Errors
/// A sentence that says what is wrong and what to do.
pub(super) fn open(path: &Path, signature: &Signature, rules: &ExampleRules<'_>) -> Result<(Source, usize), String> {
    let (input, rule) = only_input(path, signature, rules)?;
    let (mut files, mut folders) = (Vec::new(), Vec::new());
    for entry in entries(path)? {
        if entry.is_dir() {
            folders.push(entry);
        } else if is_picture(&entry) {
            files.push((entry, None));
        }
    }
    if !files.is_empty() && !folders.is_empty() {
        let path = path.display();
        return Err(format!("{path} holds pictures and folders: keep pictures only, or a folder for each class"));
    }
    for folder in folders {
        let label = class_of(&folder, rules.classes)?;
        let pictures = entries(&folder)?.into_iter().filter(|file| is_picture(file));
        files.extend(pictures.map(|file| (file, Some(label.clone()))));
        if files.len() > FILES_MAX {
            break;
        }
    }
    if files.len() > FILES_MAX {
        return Err(format!("{} holds more than {FILES_MAX} pictures: take a part", path.display()));
    }
    if files.is_empty() {
        return Err(format!("{} holds no picture: {} files are read", path.display(), PICTURES.join(", ")));
    }
    let count = files.len();
    Ok((Source::Pictures(Pictures { files, input, rule }), count))
}

/// Returns the only input of the model and its rule.
fn only_input(path: &Path, signature: &Signature, rules: &ExampleRules<'_>) -> Result<(TensorSpec, InputRule), String> {
    let [input] = signature.inputs.as_slice() else {
        return Err(format!(
            "{} holds pictures, and the model takes {} inputs: save its inputs as an .npz file",
            path.display(),
            signature.inputs.len()
        ));
    };
    let rule = rules.preprocess.get(&input.name).ok_or_else(|| {
        format!(
            "{} holds pictures: say in model.toml how they become the input, [preprocess.{}] kind = \"picture\"; see \
             docs/reference/model.md",
            path.display(),
            input.name
        )
    })?;
    match rule.mistakes(input).into_iter().next() {
        None => Ok((input.clone(), rule.clone())),
        Some((field, problem)) => Err(format!("[preprocess.{}] {field}: {problem}", input.name)),
    }
}

/// Paths in a folder, by name; those that begin with a dot are left out.
fn entries(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let broken = |error: std::io::Error| format!("read folder {}: {error}", folder.display());
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).map_err(broken)? {
        let entry = entry.map_err(broken)?;
        if !entry.file_name().as_encoded_bytes().starts_with(b".") {
            paths.push(entry.path());
        }
        if paths.len() > FILES_MAX {
            return Err(format!("{} holds more than {FILES_MAX} files: take a part", folder.display()));
        }
    }
    paths.sort();
    Ok(paths)
}

/// Returns whether a folder holds a picture, as a folder of a class does.
pub(super) fn is_class(folder: &Path) -> bool {
    fs::read_dir(folder).is_ok_and(|mut files| files.any(|file| file.is_ok_and(|file| is_picture(&file.path()))))
}

fn is_picture(path: &Path) -> bool {
    let extension = path.extension().map(|extension| extension.to_string_lossy().to_lowercase());
    extension.is_some_and(|extension| PICTURES.contains(&extension.as_str()))
}

fn class_of(folder: &Path, classes: &[String]) -> Result<Label, String> {
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    let by_name = classes.iter().position(|class| *class == name).and_then(|at| u32::try_from(at).ok());
    let number = by_name.or_else(|| name.parse().ok());
    number.map(|number| Label(vec![f64::from(number)])).ok_or_else(|| {
        let known =
            if classes.is_empty() { "model.toml has no `labels`" } else { "it is none of the `labels` of model.toml" };
        format!("folder {name:?} is no class: {known}; name folders like classes, or by their numbers from 0")
    })
}

impl Pictures {
    /// Returns whether every picture has a label.
    pub(super) fn are_labelled(&self) -> bool {
        self.files.iter().all(|(_file, label)| label.is_some())
    }

    /// Returns whether several can stand in one tensor: behind a free batch, all of one size.
    pub(super) fn joins(&self) -> bool {
        let InputRule::Picture(rule) = &self.rule;
        let dims = self.input.shape.as_deref().unwrap_or_default();
        let is_free = matches!(dims.first(), Some(Dim::Any | Dim::Symbol(_)));
        let inner = dims.get(1..).unwrap_or_default();
        is_free && dims.len() > 3 && (rule.size.is_some() || inner.iter().all(|dim| matches!(dim, Dim::Fixed(_))))
    }

    /// Returns the name of a file in the folder, with that of its class.
    pub(super) fn name(&self, index: usize) -> Option<String> {
        let (file, label) = self.files.get(index)?;
        let parts = if label.is_some() { 2 } else { 1 };
        let mut names: Vec<_> = file.components().rev().take(parts).collect();
        names.reverse();
        Some(names.iter().collect::<PathBuf>().display().to_string())
    }

    /// Reads one picture.
    pub(super) fn read(&self, index: usize) -> Result<Example, String> {
        let (file, label) = self.files.get(index).ok_or_else(|| "no such example".to_owned())?;
        Ok(Example { inputs: vec![tensor(file, &self.rule, &self.input)?], label: label.clone() })
    }
}

/// Reads a picture file for one input.
pub(super) fn tensor(file: &Path, rule: &InputRule, input: &TensorSpec) -> Result<NamedTensor, String> {
    let failed = |error: &dyn std::error::Error| {
        let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
        format!("{}: {error}{cause}", file.display())
    };
    let length = fs::metadata(file).map_err(|error| failed(&error))?.len();
    if usize::try_from(length).is_ok_and(|length| length > preprocess::FILE_BYTES_MAX) {
        return Err(format!("{}: {length} bytes are over the limit of {}", file.display(), preprocess::FILE_BYTES_MAX));
    }
    let bytes = fs::read(file).map_err(|error| failed(&error))?;
    preprocess::tensor(&bytes, rule, input).map_err(|error| failed(&error))
}
