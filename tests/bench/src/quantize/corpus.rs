//! The corpus and its Python, which `cargo xtask` names in the environment.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use testkit::binaries::workspace;
use testkit::tools::{COMPRESS_CORPUS_ENV, COMPRESS_PYTHON_ENV};

/// Names of the models in the corpus, from small to large.
pub const MODELS: [&str; 9] = [
    "digits-edge",
    "digits-full",
    "rapidocr-cls",
    "magika",
    "light-squeezenet",
    "rapidocr-det",
    "rapidocr-rec",
    "minilm",
    "light-resnet50",
];

/// A Python with `onnxruntime.quantization`, and models with examples.
#[derive(Debug, Clone)]
pub struct Corpus {
    /// Path of the Python interpreter.
    pub python: PathBuf,
    folder: PathBuf,
}

impl Corpus {
    /// Returns the corpus that the environment names.
    ///
    /// # Errors
    /// Fails if it names none; a test then reports that it is skipped.
    pub fn from_env() -> Result<Self> {
        let named = |variable: &str| {
            let value = env::var_os(variable).map(PathBuf::from);
            value.with_context(|| format!("{variable} is not set: run `cargo xtask test -p bench`"))
        };
        let found = Self { python: named(COMPRESS_PYTHON_ENV)?, folder: named(COMPRESS_CORPUS_ENV)? };
        ensure!(found.python.is_file(), "{} is missing", found.python.display());
        Ok(found)
    }

    /// Returns one model of the corpus.
    ///
    /// # Errors
    /// Fails when it is not there.
    pub fn model(&self, name: &str) -> Result<Entry> {
        let folder = self.folder.join(name);
        ensure!(folder.join("about.json").is_file(), "{} is not in the corpus", folder.display());
        Ok(Entry { folder })
    }

    /// Returns the path of a script beside `corpus.py`.
    #[must_use]
    pub fn script(&self, name: &str) -> PathBuf {
        workspace().join("models/compress/tools").join(name)
    }
}

/// A model with its examples.
#[derive(Debug, Clone)]
pub struct Entry {
    folder: PathBuf,
}

impl Entry {
    /// Returns the entry in this folder.
    #[must_use]
    pub fn at(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    /// Returns the folder of the entry.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Returns the path of the model in f32.
    #[must_use]
    pub fn model(&self) -> PathBuf {
        self.folder.join("model.onnx")
    }

    /// Returns the examples for calibration: a file, or a folder with one file per example.
    #[must_use]
    pub fn calibration(&self) -> PathBuf {
        self.part("calibration")
    }

    /// Returns the examples for evaluation, in the same form.
    #[must_use]
    pub fn evaluation(&self) -> PathBuf {
        self.part("evaluation")
    }

    fn part(&self, name: &str) -> PathBuf {
        let folder = self.folder.join(name);
        if folder.is_dir() { folder } else { self.folder.join(format!("{name}.npz")) }
    }
}
