//! `cloud-hub model withdraw | delete`: signs the list of versions without one of them, and has the hub publish that list.
//!
//! The targets key never leaves this machine, as for a push.

use std::path::PathBuf;

use bundle::Manifest;
use bundle::trust::inspect_targets;
use clap::Args;
use console::{CliError, ExitKind, OrExit, Output};
use hub_cli::Client;
use jiff::Timestamp;
use model_tools::sign::{Change, Push, draft_removal};
use types::{ModelName, Version};

use super::trust::Site;
use super::trust::keys::KeyArgs;
use super::{Operate, push};
use crate::api::endpoints::{DeleteVersion, ReadMetadata, WithdrawVersion};
use crate::api::{DeleteRequest, FilesView, WithdrawRequest, Withdrawn};

/// Verb that removes a version from the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Removal {
    /// Because it should not have been published; no device may know it.
    Withdraw,
    /// Because no device holds it any more.
    Delete,
}

#[derive(Debug, Args)]
pub(super) struct WithdrawArgs {
    /// Name of the model.
    model: ModelName,
    /// Number of the version.
    version: Version,
    #[command(flatten)]
    keys: KeyArgs,
    /// Write the signed list to this file instead of publishing it: further holders sign it.
    #[arg(long, value_name = "FILE")]
    prepare: Option<PathBuf>,
    #[command(flatten)]
    operate: Operate,
}

pub(super) fn run(args: &WithdrawArgs, removal: Removal) -> Result<(), CliError> {
    let client = args.operate.client(super::locate::own_hub)?;
    let site = Site::Api(Box::new(client));
    let root = super::trust::checked_root(&site, args.keys.folder())?;
    let Site::Api(client) = site else {
        return Err(CliError::new(ExitKind::Failed, "removing a version needs a running hub"));
    };
    let targets = client.read::<ReadMetadata>(&"targets.json".to_owned())?;
    let listing = inspect_targets(&root, &targets).or_exit_try(ExitKind::Refused, push::FOREIGN)?;
    let WithdrawArgs { model, version, .. } = args;
    let Some(listed) = listing.manifests.get(model).and_then(|versions| versions.get(version)) else {
        return Err(CliError::new(ExitKind::NotFound, format!("{model}/{version} is not published"))
            .hint(format!("see what there is: cloud-hub model status {model}")));
    };
    let manifest = listed.digest;
    let keys = args.keys.open()?;
    let path = Manifest::target_path(model, *version);
    let draft =
        draft_removal(&root, &targets, &path, Timestamp::now()).or_exit_try(ExitKind::Refused, push::FOREIGN)?;
    let (hold, force) = (false, false);
    let (withdraw, delete) = (removal == Removal::Withdraw, removal == Removal::Delete);
    let mut change = Change {
        previous_root: root,
        previous_targets: targets,
        root: None,
        targets: Some(draft),
        push: Some(Push { model: model.clone(), version: *version, manifest, hold, force, withdraw, delete }),
    };
    push::sign_list(&mut change, &keys, args.prepare.is_some())?;
    if let Some(file) = &args.prepare {
        return push::prepared(args.operate.output(), &change, file);
    }
    let list = push::signed_list(&change)?;
    send(&client, removal, model, *version, list, args.operate.output())
}

/// Has the hub publish the signed list, and prints its answer.
pub(super) fn send(
    client: &Client,
    removal: Removal,
    model: &ModelName,
    version: Version,
    targets: String,
    output: Output,
) -> Result<(), CliError> {
    match removal {
        Removal::Withdraw => {
            let withdrawn = client.send::<WithdrawVersion>(model, &WithdrawRequest { version, targets })?;
            Ok(output.print(&withdrawn, told)?)
        }
        Removal::Delete => {
            let deleted = client.send::<DeleteVersion>(model, &DeleteRequest { version, targets })?;
            Ok(output.print(&deleted, |done| {
                let FilesView { files, bytes } = done.files;
                format!(
                    "{}/{} is deleted, with {files} files of {bytes} bytes that only it had",
                    done.model, done.version
                )
            })?)
        }
    }
}

fn told(done: &Withdrawn) -> String {
    let now = match done.offered {
        Some(version) => format!("devices follow version {version}"),
        None => "devices follow no version of it until one is offered".to_owned(),
    };
    format!("{}/{} is withdrawn, its number is free; {now}", done.model, done.version)
}
