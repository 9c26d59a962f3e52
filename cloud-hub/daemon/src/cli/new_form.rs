//! `cloud-hub model init`: a commented model.toml for an ONNX file, or for a folder of Hugging Face or Triton.

mod import;
mod pbtxt;
mod preprocessor;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bundle::manifest::{TensorEntry, write_dimensions};
use bundle::{ScoreFrom, ScoreRule};
use clap::Args;
use console::{CliError, ExitKind, Output};
use engine::{RunControl, zeros};
use model_tools::pack::AUTHOR_FILE;
use serde::Serialize;
use store::files::{self, Mode};
use types::preprocess::{InputRule, Layout, PictureRule};
use types::{ModelName, TensorSpec};

use import::Imported;

use super::compress::named_like;
use super::examined::{Loaded, open_engine, packed, rule_of};

/// Examples of the verb.
pub(super) const HELP: &str = "\
Examples:
  cloud-hub model init digits/small.onnx
  cloud-hub model init digits/small.onnx --full digits/big.onnx --name digits
  cloud-hub model init resnet-50            # a folder of Hugging Face: config.json, onnx/model.onnx
  cloud-hub model init repository/densenet  # a model of a Triton repository: config.pbtxt, 1/model.onnx

A folder gives the names of the classes and the newest version; of Hugging Face's files the quantized one runs on devices and the other one on
the hub. Writes model.toml beside the file or into the folder, with a comment for each field (docs/reference/model.md has them all). Next: cloud-hub model calibrate
finds thresholds, cloud-hub model push publishes the folder.";

#[derive(Debug, Args)]
pub(super) struct InitModelArgs {
    /// ONNX file for devices, or a folder with config.json (Hugging Face) or config.pbtxt (Triton).
    model: PathBuf,
    /// ONNX file of the full model, which the hub runs; in the same folder.
    #[arg(long, value_name = "FILE")]
    full: Option<PathBuf>,
    /// Name of the model [default: like the file].
    #[arg(long, value_name = "NAME")]
    name: Option<ModelName>,
    /// The model takes pictures: write [preprocess], with the picture stretched to the input and its samples divided by 255.
    #[arg(long)]
    pictures: bool,
    /// Print JSON instead of text.
    #[arg(long)]
    json: bool,
}

/// Form that was written, as it is printed.
#[derive(Debug, Serialize)]
struct Written {
    file: PathBuf,
    model: ModelName,
    score: Option<ScoreRule>,
    labels: usize,
    notes: Vec<String>,
}

pub(super) fn run(args: &InitModelArgs) -> Result<(), CliError> {
    let imported = if args.model.is_dir() { Some(Imported::read(&args.model)?) } else { None };
    let folder = match (&imported, args.model.parent()) {
        (Some(_), _) => args.model.clone(),
        (None, Some(folder)) if !folder.as_os_str().is_empty() => folder.to_owned(),
        (None, Some(_) | None) => PathBuf::from("."),
    };
    let path = folder.join(AUTHOR_FILE);
    if path.exists() {
        let problem = format!("{} is there already", path.display());
        return Err(CliError::new(ExitKind::Conflict, problem).hint("edit it, or move it away"));
    }
    let called = || args.model.canonicalize().ok().as_deref().and_then(named_like);
    let Some(name) = args.name.clone().or_else(|| named_like(&args.model)).or_else(called) else {
        return Err(CliError::new(ExitKind::Usage, "the file's name makes no name of a model").hint("give --name NAME"));
    };
    let file = match &imported {
        Some(imported) => imported.device.clone(),
        None => name_in(&folder, &args.model)?,
    };
    let full = args.full.as_deref().map(|full| name_in(&folder, full)).transpose()?;
    let full = full.or_else(|| imported.as_ref().and_then(|imported| imported.full.clone()));
    let mut loaded = Loaded::open(&open_engine()?, name.to_string(), &folder.join(&file))?;
    let signature = loaded.session.signature().clone();
    if let Some(imported) = &imported {
        imported.check(&signature.inputs, &signature.outputs)?;
    }
    let Imported { version, labels, pictures, .. } = imported.unwrap_or_default();
    let (pictures, mut notes) = match pictures {
        Some(Ok(rule)) => (Some(rule), Vec::new()),
        Some(Err(reason)) => {
            (None, vec![format!("{reason}, which [preprocess] does not have: write the rule by hand")])
        }
        None => (args.pictures.then(PictureRule::default), Vec::new()),
    };
    let preprocess = pictures.map(|rule| for_picture(rule, &signature.inputs)).transpose()?;
    // Many models run on zeros; where this one does not, the author writes the rule.
    let answers = zeros(&signature).and_then(|inputs| loaded.session.run(&inputs, &[], &RunControl::default()).ok());
    let found = |labels: &[String]| answers.as_ref().and_then(|answers| rule_of(&signature.outputs, labels, answers));
    let mut are_labels_wrong = false;
    let rule = found(&labels).or_else(|| {
        let rule = found(&[]);
        if !labels.is_empty() && rule.is_some() {
            are_labels_wrong = true;
            notes.push(format!(
                "the {} labels of the folder fit no output: correct `labels` in model.toml",
                labels.len()
            ));
        }
        rule
    });
    let labels = if are_labels_wrong { Vec::new() } else { labels };
    let form = Form {
        name: &name,
        version: version.unwrap_or(1),
        labels: &labels,
        inputs: &signature.inputs,
        outputs: &signature.outputs,
        rule: rule.as_ref(),
        preprocess: preprocess.as_ref(),
        file: &file,
        full: full.as_deref(),
    };
    let text = form.text()?;
    files::write_atomic(&path, text.as_bytes(), Mode::Shared)
        .map_err(|error| CliError::new(ExitKind::Storage, error).hint("make the folder writable"))?;
    packed(&folder)?;
    for note in &notes {
        console::warn(note);
    }
    let written = Written { file: path, model: name, score: rule, labels: labels.len(), notes };
    Ok(Output::from_json_flag(args.json).print(&written, |written| {
        let file = written.file.display();
        telemetry::escape_control(&format!("written: {file}; read it, complete description and licence")).into_owned()
    })?)
}

/// Preprocessing, by the names of inputs.
type Preprocess = BTreeMap<String, InputRule>;

/// Gives the rule to the one input that can take a picture.
fn for_picture(rule: PictureRule, inputs: &[TensorSpec]) -> Result<Preprocess, CliError> {
    let fitting: Vec<&TensorSpec> = inputs.iter().filter(|input| Layout::of(input).is_ok()).collect();
    let [input] = fitting.as_slice() else {
        let problem = format!("{} of {} inputs can take a picture, not one", fitting.len(), inputs.len());
        return Err(
            CliError::new(ExitKind::Config, problem).hint("write [preprocess] by hand: docs/reference/model.md")
        );
    };
    // A size that the input has already need not be said again.
    let same = |layout: Layout| {
        let side = |side: Option<usize>| side.and_then(|side| u32::try_from(side).ok());
        side(layout.rows).zip(side(layout.columns)).map(|(rows, columns)| [rows, columns])
    };
    let known = Layout::of(input).ok().and_then(same);
    let size = rule.size.filter(|size| known != Some(*size));
    let rule = InputRule::Picture(PictureRule { size, ..rule });
    match rule.mistakes(input).into_iter().next() {
        None => Ok(BTreeMap::from([(input.name.clone(), rule)])),
        Some((field, problem)) => {
            let problem = format!("[preprocess.{}] {field}: {problem}", input.name);
            Err(CliError::new(ExitKind::Config, problem).hint("write [preprocess] by hand: docs/reference/model.md"))
        }
    }
}

/// The tables `[preprocess.INPUT]`.
fn written(preprocess: &Preprocess) -> Result<String, CliError> {
    #[derive(Serialize)]
    struct Tables<'a> {
        preprocess: &'a Preprocess,
    }
    let tables = toml::to_string(&Tables { preprocess }).map_err(|error| CliError::new(ExitKind::Failed, error))?;
    Ok(format!("# Steps from a picture file to the input. Check them: they must be those of the training.\n{tables}"))
}

/// Returns the name of a file that must be in the folder.
fn name_in(folder: &Path, file: &Path) -> Result<String, CliError> {
    let real = |path: &Path| {
        path.canonicalize().map_err(|error| CliError::new(ExitKind::NotFound, error).hint("name an ONNX file"))
    };
    let (inside, name) =
        (real(file)?.parent() == Some(real(folder)?.as_path()), file.file_name().and_then(|name| name.to_str()));
    match name {
        Some(name) if inside => Ok(name.to_owned()),
        Some(_) | None => {
            Err(CliError::new(ExitKind::Config, format!("{} is not in {}", file.display(), folder.display()))
                .hint("copy both files into one folder: a version is a folder"))
        }
    }
}

/// One `[[input]]` or `[[output]]`.
fn table(header: &str, spec: &TensorSpec) -> Result<String, CliError> {
    let mut spec = [spec.clone()];
    write_dimensions(&mut spec);
    let entries: Vec<TensorEntry> = spec.iter().map(TensorEntry::from).collect();
    let fields = entries.iter().map(toml::to_string).collect::<Result<String, _>>();
    let fields = fields.map_err(|error| CliError::new(ExitKind::Failed, error))?;
    Ok(format!("[[{header}]]\n{fields}\n"))
}

/// Writes a variant.
fn variant(name: &str, place: &str, file: &str) -> String {
    let file = toml::Value::from(file);
    format!(
        "[[variant]]\nname = \"{name}\"\nruns_on = \"{place}\"\nengines = [\"ort\"] # best first; also \"wgpu\", where cloud-hub model check says so\n\
         precision = \"fp32\" # fp32, fp16, bf16, int8, int4 or mixed\nfile = {file}\n"
    )
}

/// Content of a new model.toml.
struct Form<'a> {
    name: &'a ModelName,
    version: u64,
    labels: &'a [String],
    inputs: &'a [TensorSpec],
    outputs: &'a [TensorSpec],
    rule: Option<&'a ScoreRule>,
    preprocess: Option<&'a Preprocess>,
    file: &'a str,
    full: Option<&'a str>,
}

impl Form<'_> {
    fn text(&self) -> Result<String, CliError> {
        let Self { name, version, labels, inputs, outputs, rule, preprocess, file, full } = *self;
        let classes = if labels.is_empty() {
            "# labels = [\"cat\", \"dog\"] # names of the classes, in the order of the scored output\n".to_owned()
        } else {
            format!("labels = {}\n", toml::Value::from(labels.to_vec()))
        };
        let mut parts = vec![format!(
            "# Written by `cloud-hub model init`. docs/reference/model.md describes every field.\n\
         schema = 1\nmodel = \"{name}\"\nversion = {version} # a version never changes once it was pushed\n\
         # classification, binary, regression, detection or ctc choose how answers are judged.\n\
         task = \"{}\"\ndescription = \"\" # one or two sentences for people\nlicence = \"NOASSERTION\" # SPDX expression, like \"MIT\"\n\
         {classes}",
            if rule.is_some() { "classification" } else { "inference" }
        )];
        for input in inputs {
            parts.push(table("input", input)?);
        }
        for output in outputs {
            parts.push(table("output", output)?);
        }
        parts.push(match rule {
        Some(rule) => {
            let output = toml::Value::from(rule.output.as_str());
            let from = match rule.from {
                ScoreFrom::Logits => "logits",
                ScoreFrom::Probabilities => "probabilities",
            };
            format!(
                "# How sure an answer is. Check it: softmax is taken of logits, probabilities are used as they are.\n\
                 [score]\nkind = \"{}\"\noutput = {output}\nfrom = \"{from}\"\n",
                rule.kind.as_str()
            )
        }
        None => "# How sure an answer is; without it `cascade` asks the hub each time.\n\
                 # [score]\n# kind = \"top1-probability\"\n# output = \"logits\"\n# from = \"logits\"\n"
            .to_owned(),
    });
        parts.extend(preprocess.map(written).transpose()?);
        parts.push(format!(
            "{}# cloud-hub model calibrate writes the threshold.\n# threshold = 0.9\n\n\
         # Inputs with the answers they must give, in a safetensors file (input.NAME, output.NAME): recommended.\n\
         # [variant.golden]\n# file = \"golden.safetensors\"\n# max_abs = 0.001\n",
            variant("device", "device", file)
        ));
        parts.extend(full.map(|full| variant("full", "hub", full)));
        Ok(parts.join("\n"))
    }
}
