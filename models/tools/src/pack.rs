//! Reads the folder an author keeps a model version in and makes the manifest of it.
//!
//! Fed by `cloud-hub model push`; what it answers ([`Packed`]) is signed by [`crate::sign`] and sent to the hub. Knows
//! nothing of engines: whether the model runs and answers its golden inputs is asked elsewhere.
//!
//! # The author's form
//! A folder holds `model.toml` and the files it names. Unknown fields are refused.
//!
//! ```toml
//! schema = 1                       # always 1
//! model = "digits"                 # a-z, 0-9, '-', '_', '.', at most 63
//! version = 1                      # 1, 2, 3, … ; a version never changes once pushed
//! task = "classification"          # free word: what the model does
//! description = "Handwritten digits, 28 x 28 grey."
//! licence = "MIT"                  # SPDX expression
//! labels = ["0", "1", "2"]         # optional: names of the classes, in the order of the scored output
//!
//! [[input]]                        # one table for each input, in the order of the model file
//! name = "image"
//! datatype = "FP32"                # BOOL, UINT8 … UINT64, INT8 … INT64, FP16, BF16, FP32, FP64, BYTES
//! shape = ["batch", 1, 28, 28]     # a number, the name of a free dimension, or "?"; "?" and a `shape` that is left out
//!                                  # mean whatever the model file says
//!
//! [[output]]
//! name = "logits"
//! datatype = "FP32"
//! shape = ["batch", 10]
//!
//! [score]                          # optional: how sure an answer is; without it `cascade` always defers
//! kind = "top1-probability"        # largest class probability; also "margin", "entropy", "energy" and "learned" for classes,
//!                                  # "sigmoid" for yes/no answers, "box-maximum" for detections
//! output = "logits"
//! from = "logits"                  # "logits" (softmax is taken; sigmoid for the other kinds) or "probabilities"
//! axis = 1                         # optional, for classes only: dimension of the classes; negative from the end (-1)
//! temperature = 1.5                # optional: logits are divided by it first; 0.01 to 100
//! weights = [0, 1, 0, 0, 0]        # for "learned" only: `cloud-hub model calibrate` writes them
//!
//! [[variant]]                      # one table for each form of this version
//! name = "int8-qdq"
//! runs_on = "device"               # "device" or "hub"
//! engines = ["ort"]                # what can run it
//! precision = "int8"               # fp32, fp16, bf16, int8, int4 or mixed
//! file = "edge_v1_int8.onnx"       # inside this folder; no links, no ".."
//! score = { kind = "margin", output = "logits", from = "logits" }  # optional: the rule of this variant instead of [score]
//! threshold = 0.9                  # optional: least score, 0 to 1, at which the device keeps its answer
//! calibration = "int8.calibration.json"  # optional: the curve the threshold was read from, see below
//!
//! [variant.golden]                 # optional, recommended: inputs with the answers they must give
//! file = "golden_int8.safetensors" # tensors named `input.<name>` and `output.<name>`
//! max_abs = 0.05                   # optional: largest difference of any output element
//! top1 = 1.0                       # optional: least share of rows with the same top-1 class; one of the two is needed
//! ```
//!
//! A calibration file is JSON with exactly these fields (shares and scores are 0 to 1, at most 1,024 points, strictest
//! threshold first; see [`bundle::manifest::Calibration`]):
//!
//! ```json
//! {"examples": 1000, "confidence": 0.95,
//!  "curve": [{"threshold": 0.99, "coverage": 0.41, "differing": 0.0, "bound": 0.003}]}
//! ```

mod author;
pub mod edit;

use std::fs::File;
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};

use bundle::golden::{GOLDEN_BYTES_MAX, Golden, GoldenError};
use bundle::manifest::score::{self, Verdict};
use bundle::manifest::{Calibration, SCHEMA};
use bundle::{FileName, FileRef, Manifest, ManifestError, Variant};
use bytes::Bytes;
use types::limits::FILE_BYTES_MAX;

use author::{AuthorGolden, AuthorModel, AuthorVariant, in_the_form};

/// The author's form, inside the folder.
pub const AUTHOR_FILE: &str = "model.toml";

/// Longest author's form in bytes; the largest manifest has 4 MiB, and that is mostly digests.
const AUTHOR_BYTES_MAX: u64 = 1024 * 1024;

/// Longest calibration file in bytes: 1,024 points at a hundred bytes each.
const CALIBRATION_BYTES_MAX: u64 = 256 * 1024;

/// A version ready to be signed and sent.
#[derive(Debug, Clone)]
pub struct Packed {
    /// Content of the folder.
    pub manifest: Manifest,
    /// Its canonical text: what is signed and stored.
    pub manifest_bytes: Vec<u8>,
    /// Every file it names, each once.
    pub files: Vec<PackedFile>,
}

/// A file of the folder as the manifest describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackedFile {
    /// Name, size and digests.
    pub reference: FileRef,
    /// Path of the file.
    pub path: PathBuf,
}

/// Reason why a folder is no model version. Each names the place and what to do there.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// A file that cannot be read.
    #[error("read {path:?}")]
    Read {
        /// Path of the file.
        path: PathBuf,
        /// Cause of the failure.
        #[source]
        source: io::Error,
    },
    /// The author's form is not what it should be: all its mistakes.
    #[error(transparent)]
    Form(#[from] config::ConfigErrors),
    /// Several files are not what they should be.
    #[error("{}", .0.iter().map(|one| types::error::chain(one)).collect::<Vec<_>>().join("\n"))]
    Several(Vec<PackError>),
    /// A field of the form holds what it must not.
    #[error("{file}: {path}: {problem}", file = .file.display())]
    Field {
        /// Path of the form.
        file: PathBuf,
        /// Where in it, like `variant[1].file`.
        path: String,
        /// Problem at that place, in one sentence.
        problem: String,
    },
    /// The calibration file is not what it should be.
    #[error("read calibration {path:?}")]
    Calibration {
        /// Path of the file.
        path: PathBuf,
        /// The cause, with line and column.
        #[source]
        source: serde_json::Error,
    },
    /// The golden file is not what it should be.
    #[error("check golden file {path:?} of variant {variant}")]
    Golden {
        /// The variant that names it.
        variant: String,
        /// Path of the file.
        path: PathBuf,
        /// Cause of the failure.
        #[source]
        source: GoldenError,
    },
    /// The manifest would not be lawful.
    #[error("make the manifest of {file}", file = .file.display())]
    Manifest {
        /// Path of the form.
        file: PathBuf,
        /// Cause of the failure.
        #[source]
        source: ManifestError,
    },
}

impl PackError {
    /// Makes one error of several; none of none.
    fn all(mut wrong: Vec<Self>) -> Result<(), Self> {
        match wrong.len() {
            0 | 1 => wrong.pop().map_or(Ok(()), Err),
            _ => Err(Self::Several(wrong)),
        }
    }
}

/// Reads an author's folder.
///
/// # Errors
/// Every mistake of the form; else everything that is wrong with its files ([`PackError::Several`] if it is more than one).
pub fn pack(folder: &Path) -> Result<Packed, PackError> {
    let packer = Packer { folder: folder.to_owned(), form: folder.join(AUTHOR_FILE) };
    let author = packer.author()?;
    let mut files = Vec::new();
    let mut variants = Vec::new();
    let mut wrong = Vec::new();
    for (at, variant) in author.variants.iter().enumerate() {
        variants.extend(packer.variant(variant, at, &mut files, &mut wrong));
    }
    PackError::all(wrong)?;
    let manifest = author.into_manifest(SCHEMA, variants);
    let manifest_bytes = manifest.to_bytes().map_err(|source| packer.unlawful(source))?;
    // What is read back on the device must be what was meant here, to the last digit of a threshold.
    let read = Manifest::parse(&manifest_bytes).map_err(|source| packer.unlawful(source))?;
    if read != manifest {
        return Err(packer.unlawful(ManifestError::NotCanonical));
    }
    PackError::all(packer.check_goldens(&manifest, &files))?;
    Ok(Packed { manifest, manifest_bytes, files })
}

struct Packer {
    folder: PathBuf,
    form: PathBuf,
}

impl Packer {
    fn author(&self) -> Result<AuthorModel, PackError> {
        let bytes = read_bounded(&self.form, AUTHOR_BYTES_MAX)?;
        let text = String::from_utf8(bytes).map_err(|_binary| self.field("", "is not UTF-8 text".to_owned()))?;
        Ok(config::parse(&text, &self.form)?)
    }

    /// Packs the files of a variant; `None` when one is not what it should be, with what is wrong added to `wrong`.
    fn variant(
        &self,
        author: &AuthorVariant,
        at: usize,
        files: &mut Vec<PackedFile>,
        wrong: &mut Vec<PackError>,
    ) -> Option<Variant> {
        let field = |name: &str| format!("variant[{at}].{name}");
        let mut noted = |error: PackError| wrong.push(error);
        let file = self.file(&author.file, &field("file"), FILE_BYTES_MAX, files).map_err(&mut noted);
        let golden = author.golden.as_ref();
        let golden = golden.map(|given| self.file(&given.file, &field("golden.file"), GOLDEN_BYTES_MAX, files));
        let golden = golden.transpose().map_err(&mut noted);
        let golden_tolerance = author.golden.as_ref().map(AuthorGolden::tolerance);
        let calibration = author.calibration.as_deref();
        let calibration = calibration.map(|path| self.calibration(path, &field("calibration"))).transpose();
        let calibration = calibration.map_err(&mut noted);
        let (Ok(file), Ok(golden), Ok(calibration)) = (file, golden, calibration) else { return None };
        Some(Variant {
            name: author.name.clone(),
            runs_on: author.runs_on,
            engines: author.engines.clone(),
            precision: author.precision,
            file,
            golden,
            golden_tolerance,
            score: author.score.clone(),
            threshold: author.threshold,
            calibration,
            preprocess: author.preprocess.clone(),
        })
    }

    fn calibration(&self, path: &str, field: &str) -> Result<Calibration, PackError> {
        let path = self.inside(path, field)?;
        let bytes = read_bounded(&path, CALIBRATION_BYTES_MAX)?;
        serde_json::from_slice(&bytes).map_err(|source| PackError::Calibration { path, source })
    }

    /// Describes a file of the folder and remembers it.
    fn file(&self, path: &str, field: &str, bytes_max: u64, files: &mut Vec<PackedFile>) -> Result<FileRef, PackError> {
        let full = self.inside(path, field)?;
        let name = full.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let name: FileName =
            name.parse().map_err(|error: bundle::file::InvalidFileName| self.field(field, error.to_string()))?;
        let fail = |source| PackError::Read { path: full.clone(), source };
        let reference = bundle::file::describe(name, File::open(&full).map_err(fail)?, bytes_max);
        let reference = reference.map_err(fail)?;
        if let Some(known) = files.iter().find(|file| file.reference.name == reference.name) {
            if known.reference != reference {
                let problem = format!("another file is called {} too: rename one of them", reference.name);
                return Err(self.field(field, problem));
            }
        } else {
            files.push(PackedFile { reference: reference.clone(), path: full });
        }
        Ok(reference)
    }

    /// Returns where a path of the form leads, if that is a regular file inside the folder reached without a link.
    fn inside(&self, path: &str, field: &str) -> Result<PathBuf, PackError> {
        let relative = Path::new(path);
        let plain = relative.components().all(|part| matches!(part, Component::Normal(_)));
        if path.is_empty() || !plain {
            return Err(self.field(field, format!("{path:?} must be a path inside the folder, without \"..\"")));
        }
        let mut full = self.folder.clone();
        for part in relative.components() {
            full.push(part);
            let found = std::fs::symlink_metadata(&full);
            let found = found.map_err(|source| PackError::Read { path: full.clone(), source })?;
            if found.is_symlink() {
                return Err(
                    self.field(field, format!("{path:?} is or leads through a link: put the file itself there"))
                );
            }
        }
        if !full.is_file() {
            return Err(self.field(field, format!("{path:?} is not a file")));
        }
        Ok(full)
    }

    fn check_goldens(&self, manifest: &Manifest, files: &[PackedFile]) -> Vec<PackError> {
        let mut wrong = Vec::new();
        for variant in &manifest.variants {
            let packed = files.iter().find(|file| Some(&file.reference) == variant.golden.as_ref());
            let Some(path) = packed.map(|file| file.path.clone()) else { continue };
            if let Err(error) = self.check_golden(manifest, variant, &path) {
                wrong.push(error);
            }
        }
        wrong
    }

    fn check_golden(&self, manifest: &Manifest, variant: &Variant, path: &Path) -> Result<(), PackError> {
        let bytes: Bytes = read_bounded(path, GOLDEN_BYTES_MAX)?.into();
        let golden = Golden::parse(&bytes).and_then(|golden| golden.check(&manifest.signature()).map(|()| golden));
        let wrong = |source| PackError::Golden { variant: variant.name.to_string(), path: path.to_owned(), source };
        let golden = golden.map_err(wrong)?;
        let rule = manifest.score.as_ref();
        let verdict = rule.and_then(|rule| score::of_answers(rule, &manifest.labels, &golden.outputs));
        match verdict {
            Some(Verdict::Wrong(problem)) => {
                Err(self.field("score", format!("{problem} (golden file {})", path.display())))
            }
            Some(Verdict::Fits | Verdict::Unknown(_)) | None => Ok(()),
        }
    }

    fn field(&self, path: &str, problem: String) -> PackError {
        PackError::Field { file: self.form.clone(), path: path.to_owned(), problem }
    }

    /// A mistake in the manifest, told in the words of the form where that can be done.
    fn unlawful(&self, source: ManifestError) -> PackError {
        match source {
            ManifestError::Field { path, problem } => {
                let path = in_the_form(&path);
                PackError::Field { file: self.form.clone(), path, problem }
            }
            source @ (ManifestError::TooLarge(_) | ManifestError::Json(_) | ManifestError::NotCanonical) => {
                PackError::Manifest { file: self.form.clone(), source }
            }
        }
    }
}

fn read_bounded(path: &Path, bytes_max: u64) -> Result<Vec<u8>, PackError> {
    let fail = |source| PackError::Read { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    let file = bundle::file::open_regular(path).map_err(fail)?;
    file.take(bytes_max.saturating_add(1)).read_to_end(&mut bytes).map_err(fail)?;
    if u64::try_from(bytes.len()).map_or(true, |length| length > bytes_max) {
        return Err(fail(io::Error::new(io::ErrorKind::FileTooLarge, format!("more than {bytes_max} bytes"))));
    }
    Ok(bytes)
}
