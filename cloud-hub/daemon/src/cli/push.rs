//! `cloud-hub model push`: pack, upload what is missing, sign here, publish.
//!
//! The targets key never leaves this machine: the hub gets a signed list, not the means to make one.

use std::path::{Path, PathBuf};

use bundle::Manifest;
use bundle::trust::inspect_targets;
use clap::Args;
use console::{CliError, ExitKind, OrExit};
use hub_cli::Client;
use hub_cli::rollout::{self, RolloutOptions};
use jiff::Timestamp;
use model_tools::pack::{Packed, pack};
use model_tools::sign::{Change, Push, draft_addition};
use serde::Serialize;
use types::Digest;

use super::Operate;
use super::locate::own_hub;
use super::trust::Site;
use super::trust::keys::{KeyArgs, Keyring};
use crate::api::endpoints::{PublishVersion, ReadMetadata};
use crate::api::{PublishRequest, Published, RolloutView};

/// Advice when list and keys do not belong together.
pub(super) const FOREIGN: &str = "this hub's trust is not the one of these keys: is operator.toml of the right hub?";

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cloud-hub model push models/catalog/digits/v2 --keys offline-keys
  cloud-hub model push v3 --keys /media/usb/keys --to all    # publish, and start a rollout in waves
  cloud-hub model push v3 --keys mine --to site=berlin --waves 1,25%@2h,100% --approve
  cloud-hub model push v3 --keys mine --offer                # publish, and offer it to every device at once
  cloud-hub model push v4 --keys mine --prepare v4.json      # when further holders must sign: trust sign, trust publish

The first version of a model is offered to every device that follows it. A later one is published without
offering it: `cloud-hub rollout create` brings it to devices in waves, and --to does both.

DIR holds model.toml and the files it names. Only files that the hub does not have are uploaded.
The hub loads its own variant and checks its golden answers before anything is published.
A version that is worse than the one in force (no threshold, no golden inputs, other labels, other
inputs or outputs) is refused with a list of what is worse; --force publishes it all the same.
What a version lacks, and a looser bound than that of the version in force, is printed as a warning on the standard error
and in --json; --strict refuses such a version.
Pushing the same content again changes nothing, except that files which are damaged on the hub are sent again.
Other content under the same version is refused.")]
pub(super) struct PushArgs {
    /// Folder of the version: model.toml and the files it names.
    folder: PathBuf,
    #[command(flatten)]
    keys: KeyArgs,
    /// Upload the files and write the signed list to this file instead of publishing: further holders sign it.
    #[arg(long, value_name = "FILE")]
    prepare: Option<PathBuf>,
    /// Publish without offering the version to devices, although it is the first one of its model.
    #[arg(long, conflicts_with_all = ["offer", "to"])]
    hold: bool,
    /// Make the version current and offer it to every device at once, without waves.
    #[arg(long, conflicts_with_all = ["prepare", "to"])]
    offer: bool,
    /// Start a rollout of the version to these devices: `all` or a filter.
    #[arg(long, value_name = "COHORT", conflicts_with = "prepare")]
    to: Option<String>,
    #[command(flatten)]
    rollout: RolloutOptions,
    /// Publish although the version is worse than the one in force: no threshold, no golden inputs, other labels.
    #[arg(long)]
    force: bool,
    /// Refuse the version if it has warnings: no score, no threshold, no golden inputs, a looser bound than the version in force.
    #[arg(long, conflicts_with_all = ["force", "prepare"])]
    strict: bool,
    #[command(flatten)]
    operate: Operate,
}

/// Result of a push, for `--json`.
#[derive(Debug, Serialize)]
struct Pushed {
    #[serde(flatten)]
    published: Published,
    held: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    rollout: Option<RolloutView>,
    manifest: Digest,
    files: usize,
    files_uploaded: usize,
    bytes_uploaded: u64,
}

pub(super) fn run(args: &PushArgs) -> Result<(), CliError> {
    if !args.folder.is_dir() {
        let problem = format!("there is no folder {}", args.folder.display());
        return Err(CliError::new(ExitKind::NotFound, problem)
            .hint("name the folder that holds model.toml, for example models/catalog/digits/v1"));
    }
    let spinner = console::spinner("packing");
    let packed =
        pack(&args.folder).or_exit_try(ExitKind::Config, "correct model.toml or its files, then push again")?;
    drop(spinner);
    let client = args.operate.client(own_hub)?;
    let manifest = Digest::of(&packed.manifest_bytes);
    let site = Site::Api(Box::new(client));
    let root = super::trust::checked_root(&site, args.keys.folder())?;
    let Site::Api(client) = site else { return Err(CliError::new(ExitKind::Failed, "a push needs a running hub")) };
    let targets = client.read::<ReadMetadata>(&"targets.json".to_owned())?;
    // Signed before anything is uploaded: a missing key is found at once.
    let list = sign(args, &packed, manifest, &root, targets)?;
    let (files_uploaded, bytes_uploaded) = upload(&client, &packed, &manifest)?;
    let targets = match (list, &args.prepare) {
        (List::Whole(targets), _) => targets,
        (List::Change(change), Some(file)) => return prepared(args.operate.output(), &change, file),
        (List::Change(change), None) => signed_list(&change)?,
    };
    let spinner = console::spinner("the hub checks and publishes");
    // A rollout brings the version to devices, also the first one.
    let hold = args.hold || args.to.is_some();
    let Manifest { model, version, .. } = &packed.manifest;
    let (offer, force, strict) = (args.offer, args.force, args.strict);
    let request = PublishRequest { version: *version, manifest, targets, hold, offer, force, strict };
    let published = client.send::<PublishVersion>(model, &request)?;
    drop(spinner);
    let rollout = match &args.to {
        Some(to) => Some(roll_out(&client, args, &packed.manifest, to)?),
        None => None,
    };
    let files = packed.files.len();
    for warning in &published.warnings {
        console::warn(warning);
    }
    let pushed = Pushed { published, held: hold, rollout, manifest, files, files_uploaded, bytes_uploaded };
    Ok(args.operate.output().print(&pushed, told)?)
}

fn told(pushed: &Pushed) -> String {
    let Published { model, version, devices_told, offered, unchanged, .. } = &pushed.published;
    let state = match (unchanged, pushed.held) {
        _ if let Some(rollout) = &pushed.rollout => {
            let number = rollout.rollout;
            format!(
                "is published; rollout {number} brings it to {} in waves {}\nwatch it: cloud-hub rollout show {number} --watch",
                rollout.to,
                rollout.waves.join(", ")
            )
        }
        (true, _) if pushed.files_uploaded > 0 => {
            format!("was published already; damaged files were replaced, {devices_told} connected devices were told")
        }
        (true, _) => "was published already, nothing has changed".to_owned(),
        (false, true) => format!("is published and held; offer it with: cloud-hub model offer {model} {version}"),
        (false, false) if *offered == Some(*version) => {
            format!("is published; {devices_told} connected devices were told")
        }
        (false, false) => unoffered(&pushed.published),
    };
    format!(
        "{model}/{version} {state}\n{} of {} files uploaded, {} bytes",
        pushed.files_uploaded, pushed.files, pushed.bytes_uploaded
    )
}

/// Says that a version is published and offered to no device.
pub(super) fn unoffered(published: &Published) -> String {
    let Published { model, version, .. } = published;
    format!(
        "is published, and no device is offered it yet\nroll it out: cloud-hub rollout create {model} {version} --to all"
    )
}

/// Starts the rollout of a version that is published now.
fn roll_out(client: &Client, args: &PushArgs, manifest: &Manifest, to: &str) -> Result<RolloutView, CliError> {
    let Manifest { model, version, .. } = manifest;
    rollout::create(client, model, *version, to, &args.rollout).inspect_err(|_error| {
        let hint = format!(
            "{model}/{version} is published; start its rollout: cloud-hub rollout create {model} {version} --to …"
        );
        console::warn(&hint);
    })
}

/// The list of versions with this one on it.
enum List {
    /// The hub's own: the version is on it already.
    Whole(String),
    /// The one that follows, with the signatures of the keys at hand.
    Change(Box<Change>),
}

fn sign(args: &PushArgs, packed: &Packed, digest: Digest, root: &[u8], targets: Vec<u8>) -> Result<List, CliError> {
    let listing = inspect_targets(root, &targets).or_exit_try(ExitKind::Refused, FOREIGN)?;
    let Manifest { model, version, .. } = &packed.manifest;
    match listing.manifests.get(model).and_then(|versions| versions.get(version)) {
        Some(listed) if listed.digest == digest => {
            return String::from_utf8(targets).or_exit(ExitKind::Failed).map(List::Whole);
        }
        Some(_) => {
            let problem = format!("{model}/{version} is published already with other content");
            return Err(CliError::new(ExitKind::Conflict, problem)
                .hint("a version never changes: raise `version` in model.toml and push again, or take it back with `cloud-hub model withdraw` if no device has it"));
        }
        None => {}
    }
    let keys = args.keys.open()?;
    let path = Manifest::target_path(model, *version);
    let draft = draft_addition(root, &targets, &path, &packed.manifest_bytes, Timestamp::now());
    let draft = draft.or_exit_try(ExitKind::Refused, FOREIGN)?;
    let mut change = Change {
        previous_root: root.to_vec(),
        previous_targets: targets,
        root: None,
        targets: Some(draft),
        push: Some(Push {
            model: model.clone(),
            version: *version,
            manifest: digest,
            hold: args.hold,
            force: args.force,
            withdraw: false,
            delete: false,
        }),
    };
    sign_list(&mut change, &keys, args.prepare.is_some())?;
    Ok(List::Change(Box::new(change)))
}

/// Adds the signatures of the keys at hand to a change of the list; with `is_prepared` they may be too few.
pub(super) fn sign_list(change: &mut Change, keys: &Keyring, is_prepared: bool) -> Result<(), CliError> {
    let authority = change.roles().or_exit(ExitKind::Refused)?.targets;
    for (_path, key) in keys.signers(&authority.keys)? {
        change.sign(&key).or_exit(ExitKind::Failed)?;
    }
    let missing = change.missing().or_exit(ExitKind::Refused)?;
    if let (Some(missing), false) = (missing.first(), is_prepared) {
        let problem = format!("{} of the {} signatures that the list needs are at hand", missing.given, missing.needed);
        let hint = match missing.needed {
            1 => FOREIGN,
            _ => "name further keys with --key FILE, or write the list for their holders: --prepare FILE",
        };
        return Err(CliError::new(ExitKind::Refused, problem).hint(hint));
    }
    Ok(())
}

pub(super) fn signed_list(change: &Change) -> Result<String, CliError> {
    let Some(draft) = &change.targets else { return Err(CliError::new(ExitKind::Failed, "the list is gone")) };
    change.check().or_exit(ExitKind::Refused)?;
    String::from_utf8(draft.to_signed().or_exit(ExitKind::Failed)?.bytes).or_exit(ExitKind::Failed)
}

/// Writes the list for further holders; the files are on the hub already.
pub(super) fn prepared(output: console::Output, change: &Change, file: &Path) -> Result<(), CliError> {
    super::trust::write_change(file, change)?;
    let missing: usize =
        change.missing().or_exit(ExitKind::Refused)?.iter().map(|missing| missing.needed - missing.given).sum();
    let waiting = Prepared { file: file.to_owned(), signatures_missing: missing };
    Ok(output.print(&waiting, |waiting| {
        let file = waiting.file.display();
        match waiting.signatures_missing {
            0 => format!("{file} has all signatures; publish it: cloud-hub trust publish {file}"),
            missing => format!(
                "{file} needs {missing} more signatures: cloud-hub trust sign {file} --key THEIR.key\n\
                 then publish it: cloud-hub trust publish {file}"
            ),
        }
    })?)
}

/// A list that waits for signatures.
#[derive(Debug, Serialize)]
struct Prepared {
    file: PathBuf,
    signatures_missing: usize,
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
