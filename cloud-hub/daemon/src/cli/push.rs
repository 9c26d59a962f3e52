//! `cloud-hub model push`: pack, upload what is missing, sign here, publish.
//!
//! The targets key never leaves this machine: the hub gets a signed list, not the means to make one.

use std::path::{Path, PathBuf};

use bundle::Manifest;
use bundle::trust::{check_next_root, inspect_targets};
use clap::Args;
use console::{CliError, ExitKind, OrExit};
use jiff::Timestamp;
use model_tools::pack::{Packed, pack};
use model_tools::sign::{KeyPair, SignError, add_target};
use serde::Serialize;
use store::files;
use types::Digest;

use super::Operate;
use super::client::Client;
use super::init::{ROOT_JSON, TARGETS_KEY};
use crate::api::{PublishRequest, Published};

/// Largest root that is read from the folder of keys, in bytes; as devices take it.
const ROOT_BYTES_MAX: u64 = bundle::trust::ROOT_BYTES_MAX;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cloud-hub model push models/catalog/digits/v2 --keys offline-keys
  cloud-hub model push v3 --keys /media/usb/keys --hold      # publish, tell devices later: model offer

DIR holds model.toml and the files it names. Only files that the hub does not have are uploaded.
The hub loads its own variant and checks its golden answers before anything is published.
Pushing the same content again changes nothing; other content under the same version is refused.")]
pub(super) struct PushArgs {
    /// Folder of the version: model.toml and the files it names.
    folder: PathBuf,
    /// Folder with targets.key, as `cloud-hub init` made it.
    #[arg(long, value_name = "DIR", env = "SANDERLING_KEYS")]
    keys: Option<PathBuf>,
    /// Publish without telling devices.
    #[arg(long)]
    hold: bool,
    #[command(flatten)]
    operate: Operate,
}

/// What came of a push.
#[derive(Debug, Serialize)]
struct Pushed {
    #[serde(flatten)]
    published: Published,
    held: bool,
    manifest: Digest,
    files: usize,
    files_uploaded: usize,
    bytes_uploaded: u64,
}

pub(super) fn run(args: &PushArgs) -> Result<(), CliError> {
    let spinner = console::spinner("packing");
    let packed =
        pack(&args.folder).or_exit_try(ExitKind::Config, "correct model.toml or its files, then push again")?;
    drop(spinner);
    let client = args.operate.client()?;
    let manifest = Digest::of(&packed.manifest_bytes);
    let root = client.get_bytes("/trust/root.json")?;
    let targets = client.get_bytes("/trust/targets.json")?;
    // Signed before anything is uploaded: a missing key is found at once.
    let targets = sign(args, &packed, manifest, &root, targets)?;
    let (files_uploaded, bytes_uploaded) = upload(&client, &packed, &manifest)?;
    let spinner = console::spinner("the hub checks and publishes");
    let request = PublishRequest { version: packed.manifest.version, manifest, targets, hold: args.hold };
    let published: Published = client.post(&format!("/models/{}/versions", packed.manifest.model), &request)?;
    drop(spinner);
    let files = packed.files.len();
    let pushed = Pushed { published, held: args.hold, manifest, files, files_uploaded, bytes_uploaded };
    Ok(args.operate.output().print(&pushed, told)?)
}

fn told(pushed: &Pushed) -> String {
    let Published { model, version, devices_told, unchanged, warnings } = &pushed.published;
    let state = match (unchanged, pushed.held) {
        (true, _) => "was published already, nothing has changed".to_owned(),
        (false, true) => format!("is published and held; offer it with: cloud-hub model offer {model} {version}"),
        (false, false) => format!("is published; {devices_told} connected devices were told"),
    };
    let warnings: String = warnings.iter().map(|warning| format!("\nwarning: {warning}")).collect();
    format!(
        "{model}/{version} {state}\n{} of {} files uploaded, {} bytes{warnings}",
        pushed.files_uploaded, pushed.files, pushed.bytes_uploaded
    )
}

/// The list of versions with this one on it, signed; the hub's own list when it is on it already.
fn sign(args: &PushArgs, packed: &Packed, digest: Digest, root: &[u8], targets: Vec<u8>) -> Result<String, CliError> {
    let foreign = "this hub's trust is not the one of these keys: is operator.toml of the right hub?";
    let listing = inspect_targets(root, &targets).or_exit_try(ExitKind::Refused, foreign)?;
    let Manifest { model, version, .. } = &packed.manifest;
    let listed = listing.manifests.get(model).and_then(|versions| versions.get(version));
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).or_exit(ExitKind::Failed);
    match listed {
        Some(listed) if listed.digest == digest => return text(targets),
        Some(_) => {
            let problem = format!("{model}/{version} is published already with other content");
            return Err(CliError::new(ExitKind::Conflict, problem)
                .hint("a version never changes: raise `version` in model.toml and push again"));
        }
        None => {}
    }
    let Some(keys) = &args.keys else {
        return Err(CliError::new(ExitKind::Usage, "a new version must be signed with the targets key")
            .hint("give the folder of offline keys with --keys DIR or SANDERLING_KEYS"));
    };
    check_root(keys, root)?;
    let key = KeyPair::load(&keys.join(TARGETS_KEY))
        .or_exit_try(ExitKind::Refused, "give the folder that `cloud-hub init --keys` made with --keys DIR")?;
    let path = Manifest::target_path(model, *version);
    let signed = add_target(root, &targets, &path, &packed.manifest_bytes, &[&key], Timestamp::now());
    let signed = signed.map_err(|error| {
        let kind = match &error {
            SignError::AlreadySigned { .. } => ExitKind::Conflict,
            _ => ExitKind::Refused,
        };
        CliError::new(kind, error).hint(foreign)
    })?;
    text(signed.bytes)
}

/// Signs for no other hub than the one the keys were made with.
fn check_root(keys: &Path, root: &[u8]) -> Result<(), CliError> {
    let pinned = match files::read_bounded(&keys.join(ROOT_JSON), ROOT_BYTES_MAX) {
        Ok(pinned) => pinned,
        // Keys may be kept without it; the signatures on the hub's own list are checked in any case.
        Err(error) if error.is_not_found() => return Ok(()),
        Err(error) => return Err(CliError::new(ExitKind::Storage, error)),
    };
    if pinned == root {
        return Ok(());
    }
    check_next_root(&pinned, root).or_exit_try(
        ExitKind::Refused,
        "the hub shows another trust root than root.json beside the keys: is operator.toml of the right hub?",
    )
}

/// Uploads what the hub does not have; says how many files and bytes that were.
fn upload(client: &Client, packed: &Packed, manifest: &Digest) -> Result<(usize, u64), CliError> {
    let mut missing = Vec::new();
    for file in &packed.files {
        if !client.has_blob(&file.reference.digest)? {
            missing.push(file);
        }
    }
    let total = missing.iter().map(|file| file.reference.size).sum();
    let progress = console::progress_bytes("uploading", total);
    for file in &missing {
        progress.label(file.reference.name.to_string());
        client.put_blob(&file.reference.digest, &file.path, |bytes| progress.add(bytes))?;
    }
    drop(progress);
    if !client.has_blob(manifest)? {
        client.put_bytes(manifest, &packed.manifest_bytes)?;
    }
    Ok((missing.len(), total))
}
