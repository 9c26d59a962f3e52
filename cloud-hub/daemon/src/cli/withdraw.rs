//! `cloud-hub model withdraw`: signs the list of versions without one of them, and has the hub publish that list.
//!
//! The targets key never leaves this machine, as for a push.

use std::path::PathBuf;

use bundle::Manifest;
use bundle::trust::inspect_targets;
use clap::Args;
use console::{CliError, ExitKind, OrExit};
use jiff::Timestamp;
use model_tools::sign::{Change, Push, draft_removal};
use types::{ModelName, Version};

use super::trust::Site;
use super::trust::keys::KeyArgs;
use super::{Operate, push};
use crate::api::endpoints::{ReadMetadata, WithdrawVersion};
use crate::api::{WithdrawRequest, Withdrawn};

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

pub(super) fn run(args: &WithdrawArgs) -> Result<(), CliError> {
    let client = args.operate.client(super::locate::own_hub)?;
    let site = Site::Api(Box::new(client));
    let root = super::trust::checked_root(&site, args.keys.folder())?;
    let Site::Api(client) = site else {
        return Err(CliError::new(ExitKind::Failed, "withdrawing needs a running hub"));
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
    let mut change = Change {
        previous_root: root,
        previous_targets: targets,
        root: None,
        targets: Some(draft),
        push: Some(Push { model: model.clone(), version: *version, manifest, hold, force, withdraw: true }),
    };
    push::sign_list(&mut change, &keys, args.prepare.is_some())?;
    if let Some(file) = &args.prepare {
        return push::prepared(args.operate.output(), &change, file);
    }
    let request = WithdrawRequest { version: *version, targets: push::signed_list(&change)? };
    let withdrawn = client.send::<WithdrawVersion>(model, &request)?;
    Ok(args.operate.output().print(&withdrawn, told)?)
}

pub(super) fn told(done: &Withdrawn) -> String {
    let now = match done.offered {
        Some(version) => format!("devices follow version {version}"),
        None => "devices follow no version of it until one is offered".to_owned(),
    };
    format!("{}/{} is withdrawn, its number is free; {now}", done.model, done.version)
}
