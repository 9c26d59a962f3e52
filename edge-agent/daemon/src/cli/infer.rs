//! `edge-agent infer`: asks a model of the running agent, with inputs from files.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use console::{CliError, ExitKind, OrExit, Output};
use serde::Deserialize;
use service::{clock, units};
use serving::codec::client::{DecodedResponse, RequestOptions, decode_response, encode_request};
use types::policy::{Offline, PrivacyClass, RequestRules, check_tags};
use types::{DType, Dim, ModelName, NamedTensor, PolicyMode, TensorSpec, Version};

mod answers;
mod batch;
mod items;

use batch::Batch;

use super::client::Client;
use super::{Context, status};
use crate::input::{FileKind, InputError, load};
use crate::status::Status;

/// Most elements of an output that are printed; more are counted.
const ELEMENTS_SHOWN: usize = 16;

/// Asks a model of the running agent.
///
/// A picture is scaled to the model's size, grey or colour as the model takes it, to 0..1 for floating-point inputs.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
                        edge-agent infer digits --image seven.png\n  \
                        edge-agent infer digits --npy batch.npy --policy only-hub\n  \
                        edge-agent infer fusion --image camera=front.png --npy radar=echo.npy --deadline-ms 250\n  \
                        edge-agent infer digits --batch pictures --out answers.jsonl --jobs 8\n\n\
                        A batch that was interrupted goes on with the same command: items with an answer are skipped.")]
pub struct Infer {
    /// Name of the model
    model: ModelName,
    /// PNG picture for an input; INPUT= may be left out for a model with one input
    #[arg(long, value_name = "[INPUT=]FILE")]
    image: Vec<String>,
    /// NumPy array (numpy.save) for an input
    #[arg(long, value_name = "[INPUT=]FILE")]
    npy: Vec<String>,
    /// Policy: only-device, prefer-device, cascade, prefer-hub, only-hub or hedge; without it the model's own
    #[arg(long)]
    policy: Option<PolicyMode>,
    /// Milliseconds after which the answer is of no use
    #[arg(long, value_name = "MS")]
    deadline_ms: Option<u64>,
    /// Milliseconds after which a request with the policy hedge also goes to the hub
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u64).range(0..=86_400_000))]
    hedge_after_ms: Option<u64>,
    /// Privacy class of the input: public, personal or never-leaves; the strictest of all layers holds
    #[arg(long, value_name = "CLASS")]
    privacy: Option<PrivacyClass>,
    /// Consent to the use of the input by the hub: true or false
    #[arg(long, value_name = "BOOL")]
    consent: Option<bool>,
    /// Tag of the request, for conditions of the policy; may be repeated
    #[arg(long, value_name = "TAG")]
    tag: Vec<String>,
    /// While the hub cannot be reached: answer (with the device's answer) or fail
    #[arg(long, value_name = "BEHAVIOUR")]
    offline: Option<Offline>,
    /// Folder of .png, .npy, .npz or .json files, an .npy or .npz file with an input in each row, or a .jsonl file with a
    /// request in each line; each item is one request
    #[arg(long, value_name = "PATH", requires = "out", conflicts_with_all = ["image", "npy"])]
    batch: Option<PathBuf>,
    /// Place of the answers of a batch: a .jsonl file with a line for each item, or a folder with a .json file for each item;
    /// items with an answer there are skipped
    #[arg(long, value_name = "PATH", requires = "batch")]
    out: Option<PathBuf>,
    /// Number of items of a batch that are asked at the same time
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=64))]
    jobs: u8,
    /// The version that must answer
    #[arg(long = "model-version", value_name = "N")]
    model_version: Option<Version>,
    /// Agent's server; without it the agent on the configured state folder
    #[arg(long)]
    url: Option<String>,
}

/// Metadata of a model as the server returns it.
#[derive(Debug, Deserialize)]
struct Metadata {
    inputs: Vec<InputMetadata>,
}

#[derive(Debug, Deserialize)]
struct InputMetadata {
    name: String,
    datatype: DType,
    shape: Vec<i64>,
}

impl InputMetadata {
    fn spec(&self) -> TensorSpec {
        let dim = |size: &i64| usize::try_from(*size).map_or(Dim::Any, Dim::Fixed);
        TensorSpec { name: self.name.clone(), dtype: self.datatype, shape: Some(self.shape.iter().map(dim).collect()) }
    }
}

impl Infer {
    pub(super) fn run(self, context: &Context) -> Result<(), CliError> {
        let client = Client::new(self.url.as_deref(), context)?;
        let path = match self.model_version {
            Some(version) => format!("/v2/models/{}/versions/{version}", self.model),
            None => format!("/v2/models/{}", self.model),
        };
        wait_for_first_version(&client, &self.model);
        let metadata = client.get(&path)?.good()?;
        let metadata: Metadata = serde_json::from_slice(&metadata.body)?;
        let options = self.options()?;
        if let (Some(from), Some(out)) = (&self.batch, &self.out) {
            let specs: Vec<TensorSpec> = metadata.inputs.iter().map(InputMetadata::spec).collect();
            let (client, path, jobs) = (&client, path.as_str(), usize::from(self.jobs));
            return Batch { client, path, specs: &specs, options: &options, jobs }.run(from, out, context);
        }
        let inputs = self.inputs(&metadata)?;
        let request = encode_request(&inputs, &options)?;
        let answer = client.post(&format!("{path}/infer"), Some(request.header_length), &request.body)?.good()?;
        let answered = decode_response(answer.header_length.as_deref(), &answer.body)?;
        match context.output {
            Output::Json => console::print_json(&as_json(&answered)).or_exit(ExitKind::Storage),
            Output::Table => print(&answered),
        }
    }

    /// Returns the parameters of the request.
    fn options(&self) -> Result<RequestOptions, CliError> {
        check_tags(&self.tag).map_err(|problem| CliError::new(ExitKind::Usage, format!("--tag: {problem}")))?;
        let rules = RequestRules {
            hedge_after: self.hedge_after_ms.map(Duration::from_millis),
            privacy: self.privacy,
            consent: self.consent,
            tags: self.tag.clone(),
            offline: self.offline,
            ..RequestRules::default()
        };
        Ok(RequestOptions { id: None, policy: self.policy, deadline_ms: self.deadline_ms, rules })
    }

    fn inputs(&self, metadata: &Metadata) -> Result<Vec<NamedTensor>, CliError> {
        let pictures = self.image.iter().map(|file| (file, FileKind::Picture));
        let arrays = self.npy.iter().map(|file| (file, FileKind::Npy));
        let given: Vec<_> = pictures.chain(arrays).collect();
        if given.is_empty() {
            let takes: Vec<String> = metadata.inputs.iter().map(|input| input.spec().to_string()).collect();
            let said = format!("no input was given; {} takes {}", self.model, takes.join(", "));
            return Err(CliError::new(ExitKind::Usage, said)
                .hint("add --image FILE or --npy FILE, or --batch FOLDER --out FILE.jsonl"));
        }
        given.into_iter().map(|(argument, kind)| input(argument, kind, metadata)).collect()
    }
}

/// Longest wait for a version that is being fetched.
const FIRST_VERSION_WITHIN: Duration = Duration::from_secs(300);
/// Time after the agent's start within which it finds its hub and hears of the first version.
const HUB_FOUND_WITHIN: Duration = Duration::from_secs(10);
/// Pause between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Waits while the agent fetches the first version of a model, as just after its first start. Whatever else is wrong,
/// the request itself tells.
fn wait_for_first_version(client: &Client, model: &ModelName) {
    let began = Instant::now();
    let mut shown = None;
    while began.elapsed() < FIRST_VERSION_WITHIN && status::fetch(client).is_ok_and(|status| is_coming(&status, model))
    {
        shown.get_or_insert_with(|| console::spinner(format!("waiting for the first version of {model}")));
        std::thread::sleep(LOOK_EVERY);
    }
    if let Some(shown) = shown {
        shown.done("");
    }
}

/// Returns whether a model that has no version yet is about to get one.
fn is_coming(status: &Status, model: &ModelName) -> bool {
    let Some(model) = status.models.iter().find(|known| known.model == *model) else { return false };
    let age_ms = clock::unix_ms().saturating_sub(status.started_unix_ms);
    let is_fresh = u128::from(age_ms) < HUB_FOUND_WITHIN.as_millis();
    // The link has no state yet in the first moments of an agent.
    let has_a_hub = !["not-enrolled", "identity-damaged", "rejected"].contains(&status.hub.state.as_str());
    model.active.is_none() && model.failed.is_empty() && has_a_hub && (is_fresh || model.update.version.is_some())
}

fn input(argument: &str, kind: FileKind, metadata: &Metadata) -> Result<NamedTensor, CliError> {
    let specs: Vec<TensorSpec> = metadata.inputs.iter().map(InputMetadata::spec).collect();
    let (spec, path) = match argument.split_once('=') {
        // A file may have a = in its name.
        Some((name, path)) if !Path::new(argument).exists() => {
            (specs.iter().find(|spec| spec.name == name), PathBuf::from(path))
        }
        Some(_) | None => (specs.first().filter(|_| specs.len() == 1), PathBuf::from(argument)),
    };
    let takes = || specs.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let spec = spec.ok_or_else(|| {
        let said = format!("it is not clear which input {argument:?} is for: the model takes {}", takes());
        CliError::new(ExitKind::Usage, said).hint("name it: --image INPUT=FILE")
    })?;
    load(&path, kind, spec).map_err(|error| {
        let kind = match &error {
            InputError::Read { source, .. } if source.kind() != std::io::ErrorKind::NotFound => ExitKind::Storage,
            InputError::Read { .. }
            | InputError::TooLarge { .. }
            | InputError::Png { .. }
            | InputError::Npy { .. }
            | InputError::Npz { .. }
            | InputError::Array { .. }
            | InputError::NotAPicture { .. }
            | InputError::Tensor { .. } => ExitKind::Config,
        };
        let hint = format!("give {spec} as a PNG file with --image, or as numpy.save wrote it with --npy");
        CliError::new(kind, error).hint(hint)
    })
}

/// The whole answer, with the elements of its outputs where JSON can say them.
fn as_json(answered: &DecodedResponse) -> serde_json::Value {
    let mut json = answered.json.clone();
    let outputs = answered.outputs.iter().map(|output| {
        serde_json::json!({
            "name": output.name,
            "datatype": output.tensor.dtype().as_str(),
            "shape": output.tensor.shape(),
            "data": output.tensor.to_f32().ok(),
            "top1": top1(output),
        })
    });
    if let Some(fields) = json.as_object_mut() {
        fields.insert("outputs".to_owned(), outputs.collect());
    }
    json
}

fn print(answered: &DecodedResponse) -> Result<(), CliError> {
    for output in &answered.outputs {
        console::print_line(&describe(output)).or_exit(ExitKind::Storage)?;
    }
    let parameter = |name: &str| answered.json.pointer(&format!("/parameters/{name}")).cloned().unwrap_or_default();
    let text = |name: &str| parameter(name).as_str().unwrap_or_default().to_owned();
    let time = |name: &str| units::micros(parameter(name).as_u64().unwrap_or_default());
    let version = answered.json.get("model_version").and_then(serde_json::Value::as_str).unwrap_or_default();
    let score = parameter("score").as_f64().map_or_else(String::new, |score| format!(", score {score:.3}"));
    let threshold = parameter("threshold").as_f64().map_or_else(String::new, |least| format!(" of {least:.3}"));
    let line = format!(
        "by the {} ({}{score}{threshold}): version {version}, {}, {} {}\nin {}: queue {}, compute {}, network {}",
        text("place"),
        text("reason"),
        text("variant"),
        text("engine"),
        text("provider"),
        time("total_us"),
        time("queue_us"),
        time("compute_us"),
        time("network_us"),
    );
    console::print_line(&line).or_exit(ExitKind::Storage)
}

/// One output: its largest element where it looks like classes, and its first elements.
fn describe(output: &NamedTensor) -> String {
    let tensor = &output.tensor;
    let mut line = format!("{} {}{:?}", output.name, tensor.dtype(), tensor.shape());
    if let Some(classes) = top1(output) {
        let classes: Vec<String> = classes.iter().map(ToString::to_string).collect();
        line.push_str(&format!(": top-1 {}", classes.join(" ")));
    }
    if let Ok(values) = tensor.to_f32() {
        let shown: Vec<String> = values.iter().take(ELEMENTS_SHOWN).map(|value| format!("{value:.4}")).collect();
        let more = values.len().saturating_sub(ELEMENTS_SHOWN);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        line.push_str(&format!("\n  [{}]{more}", shown.join(", ")));
    }
    line
}

/// The place of the largest element of each row, for outputs of shape `[rows, classes]`.
fn top1(output: &NamedTensor) -> Option<Vec<usize>> {
    let &[_rows, classes] = output.tensor.shape() else { return None };
    let values = output.tensor.to_f32().ok().filter(|_| classes > 1)?;
    let largest = |row: &[f32]| row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map(|(place, _)| place);
    values.chunks_exact(classes).map(largest).collect()
}
