//! Folders of other programs that become a version: an ONNX folder of Hugging Face, a model of a Triton repository.
//!
//! Fed by [`super`] with a folder; gives the files of the variants and the names of the classes. Everything read is hostile input.

use std::fs;
use std::path::{Component, Path, PathBuf};

use bundle::manifest::LABELS_MAX;
use console::{CliError, ExitKind};
use store::files;
use types::TensorSpec;
use types::preprocess::PictureRule;

use super::{pbtxt, preprocessor};

/// Maximum size of a configuration or of a file of labels in bytes: 21,000 classes of ImageNet take one megabyte.
const CONFIG_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// Configuration of a model of Hugging Face.
const HUGGING_FACE: &str = "config.json";

/// Configuration of a model of a Triton repository.
const TRITON: &str = "config.pbtxt";

/// Steps of Hugging Face from a picture to the input.
const PREPROCESSOR: &str = "preprocessor_config.json";

/// Files that Hugging Face's exporters write for devices, best first.
const DEVICE_FILES: [&str; 6] = [
    "onnx/model_quantized.onnx",
    "onnx/model_int8.onnx",
    "onnx/model_uint8.onnx",
    "model_quantized.onnx",
    "model_int8.onnx",
    "model_optimized.onnx",
];

/// Files with the whole model.
const FULL_FILES: [&str; 2] = ["onnx/model.onnx", "model.onnx"];

/// Model file of a version in a Triton repository, unless its configuration names another.
const TRITON_FILE: &str = "model.onnx";

/// Parts of a version that a folder holds.
#[derive(Debug, Default)]
pub(super) struct Imported {
    /// Path of the device's variant in the folder.
    pub(super) device: String,
    /// Path of the full model in the folder.
    pub(super) full: Option<String>,
    /// Number of the version.
    pub(super) version: Option<u64>,
    /// Names of the classes.
    pub(super) labels: Vec<String>,
    /// Steps from a picture to the input; the reason why there is no rule for them.
    pub(super) pictures: Option<Result<PictureRule, String>>,
    /// Names of inputs and outputs that the configuration claims.
    claimed: Vec<(&'static str, String)>,
    /// Path of the configuration.
    config: PathBuf,
}

impl Imported {
    /// Reads a folder.
    pub(super) fn read(folder: &Path) -> Result<Self, CliError> {
        if folder.join(TRITON).is_file() {
            return triton(folder).map_err(|problem| refused(&folder.join(TRITON), &problem));
        }
        if folder.join(HUGGING_FACE).is_file() {
            return hugging_face(folder).map_err(|problem| refused(&folder.join(HUGGING_FACE), &problem));
        }
        let models = models_of_repository(folder);
        if !models.is_empty() {
            let problem = format!("{} is a Triton repository with the models {}", folder.display(), models.join(", "));
            return Err(CliError::new(ExitKind::Config, problem).hint("name the folder of one model"));
        }
        let problem = format!("{} has no {HUGGING_FACE} (Hugging Face) and no {TRITON} (Triton)", folder.display());
        Err(CliError::new(ExitKind::Config, problem).hint("name an ONNX file, or a folder with one of the two"))
    }

    /// Checks that the model file has the inputs and outputs that the configuration names.
    pub(super) fn check(&self, inputs: &[TensorSpec], outputs: &[TensorSpec]) -> Result<(), CliError> {
        for (kind, name) in &self.claimed {
            let specs = if *kind == "input" { inputs } else { outputs };
            if !specs.iter().any(|spec| spec.name == *name) {
                let names: Vec<&str> = specs.iter().map(|spec| spec.name.as_str()).collect();
                let problem = format!("it names the {kind} {name:?}, and {} has {}", self.device, names.join(", "));
                return Err(refused(&self.config, &problem));
            }
        }
        Ok(())
    }
}

fn refused(config: &Path, problem: &str) -> CliError {
    CliError::new(ExitKind::Config, format!("{}: {problem}", config.display()))
        .hint("correct the folder, or name its ONNX file instead")
}

/// Reads a text file of limited size.
fn text(path: &Path) -> Result<String, String> {
    let bytes = files::read_bounded(path, CONFIG_BYTES_MAX).map_err(|error| telemetry::chain(&error))?;
    String::from_utf8(bytes).map_err(|_wrong| "the text is no UTF-8".to_owned())
}

fn hugging_face(folder: &Path) -> Result<Imported, String> {
    let config = folder.join(HUGGING_FACE);
    let json: serde_json::Value = serde_json::from_str(&text(&config)?).map_err(|error| error.to_string())?;
    let there = |names: &[&str]| names.iter().find(|name| folder.join(name).is_file()).map(|&name| name.to_owned());
    let (small, whole) = (there(&DEVICE_FILES), there(&FULL_FILES));
    let labels = match json.get("id2label") {
        Some(labels) => labels_of_ids(labels)?,
        None => Vec::new(),
    };
    let (device, full) = match (small, whole) {
        (Some(small), whole) => (small, whole),
        (None, Some(whole)) => (whole, None),
        (None, None) => {
            return Err(format!(
                "there is no ONNX file beside it: {} or {}",
                FULL_FILES.join(", "),
                DEVICE_FILES.join(", ")
            ));
        }
    };
    let steps = folder.join(PREPROCESSOR);
    // Processors of sound and text have a file of the same name.
    let pictures = steps.is_file().then(|| text(&steps)).transpose()?.filter(|text| text.contains("image_mean"));
    let pictures = pictures.map(|text| preprocessor::rule(&text).map_err(|reason| format!("{PREPROCESSOR}: {reason}")));
    Ok(Imported { device, full, labels, pictures, config, ..Imported::default() })
}

/// Returns the names of classes 0, 1, … of `{"0": "cat", "1": "dog"}`.
fn labels_of_ids(labels: &serde_json::Value) -> Result<Vec<String>, String> {
    let map = labels.as_object().ok_or("id2label is no object")?;
    if map.len() > LABELS_MAX {
        return Err(format!("id2label has more than {LABELS_MAX} classes"));
    }
    (0..map.len())
        .map(|class| {
            let name = map
                .get(&class.to_string())
                .ok_or_else(|| format!("id2label has {} classes and no class {class}", map.len()))?;
            name.as_str().map(str::to_owned).ok_or_else(|| format!("id2label has no text for class {class}"))
        })
        .collect()
}

fn triton(folder: &Path) -> Result<Imported, String> {
    let path = folder.join(TRITON);
    let config = pbtxt::parse(&text(&path)?)?;
    let engine = config.text("platform").or_else(|| config.text("backend")).unwrap_or("onnxruntime");
    if !engine.starts_with("onnxruntime") {
        return Err(format!("its platform is {engine:?}; only onnxruntime_onnx can be imported"));
    }
    let file = inside(config.text("default_model_filename").unwrap_or(TRITON_FILE))?;
    let versions = numbered(folder);
    let newest = versions.iter().rev().find(|version| folder.join(version.to_string()).join(file).is_file());
    let version = *newest.ok_or_else(|| format!("no version has a file {file:?}: it must be in a folder 1, 2, …"))?;
    let mut claimed = Vec::new();
    for kind in ["input", "output"] {
        claimed.extend(config.all(kind).filter_map(|one| one.text("name")).map(|name| (kind, name.to_owned())));
    }
    let labels = match config.all("output").find_map(|output| output.text("label_filename")) {
        Some(name) => labels_in(&folder.join(inside(name)?))?,
        None => Vec::new(),
    };
    let device = format!("{version}/{file}");
    Ok(Imported { device, full: None, version: Some(version), labels, pictures: None, claimed, config: path })
}

/// Returns a file name that leads nowhere else.
fn inside(name: &str) -> Result<&str, String> {
    let mut parts = Path::new(name).components();
    match (parts.next(), parts.next()) {
        (Some(Component::Normal(_)), None) => Ok(name),
        _ => Err(format!("{name:?} is no name of a file in the folder")),
    }
}

/// Returns the lines of a file of labels.
fn labels_in(path: &Path) -> Result<Vec<String>, String> {
    let text = text(path).map_err(|problem| format!("{}: {problem}", path.display()))?;
    let labels: Vec<String> = text.lines().map(|line| line.trim().to_owned()).collect();
    if labels.len() > LABELS_MAX {
        return Err(format!("{} has more than {LABELS_MAX} lines", path.display()));
    }
    Ok(labels)
}

/// Returns the numbers of the versions in a folder, in increasing order.
fn numbered(folder: &Path) -> Vec<u64> {
    let names = names(folder);
    let mut versions: Vec<u64> =
        names.iter().filter_map(|name| name.parse().ok()).filter(|&number| number > 0).collect();
    versions.sort_unstable();
    versions
}

fn models_of_repository(folder: &Path) -> Vec<String> {
    let mut models = names(folder);
    models.retain(|name| folder.join(name).join(TRITON).is_file());
    models.sort();
    models
}

/// Returns the names in a folder; a folder that cannot be read has none.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect()
}
