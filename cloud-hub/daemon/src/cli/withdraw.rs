//! `cloud-hub model withdraw`: signs the list of versions without one of them, and has the hub publish that list.
//!
//! The targets key never leaves this machine, as for a push.

use std::path::PathBuf;

use bundle::Manifest;
use bundle::trust::inspect_targets;
use clap::Args;
use console::{CliError, ExitKind, OrExit};
use jiff::Timestamp;
use model_tools::sign::{KeyPair, remove_target};
use types::{ModelName, Version};

use super::init::TARGETS_KEY;
use super::{Operate, push};
use crate::api::{WithdrawRequest, Withdrawn};

#[derive(Debug, Args)]
pub(super) struct WithdrawArgs {
    /// Name of the model.
    model: ModelName,
    /// The version.
    version: Version,
    /// Folder with targets.key, as `cloud-hub init` made it.
    #[arg(long, value_name = "DIR", env = "SANDERLING_KEYS")]
    keys: PathBuf,
    #[command(flatten)]
    operate: Operate,
}

pub(super) fn run(args: &WithdrawArgs) -> Result<(), CliError> {
    let client = args.operate.client()?;
    let root = client.get_bytes("/trust/root.json")?;
    let targets = client.get_bytes("/trust/targets.json")?;
    let foreign = "this hub's trust is not the one of these keys: is operator.toml of the right hub?";
    let listing = inspect_targets(&root, &targets).or_exit_try(ExitKind::Refused, foreign)?;
    let WithdrawArgs { model, version, .. } = args;
    if !listing.manifests.get(model).is_some_and(|versions| versions.contains_key(version)) {
        return Err(CliError::new(ExitKind::NotFound, format!("{model}/{version} is not published"))
            .hint(format!("see what there is: cloud-hub model status {model}")));
    }
    push::check_root(&args.keys, &root)?;
    let key = KeyPair::load(&args.keys.join(TARGETS_KEY))
        .or_exit_try(ExitKind::Refused, "give the folder that `cloud-hub init --keys` made with --keys DIR")?;
    let path = Manifest::target_path(model, *version);
    let signed = remove_target(&root, &targets, &path, &[&key], Timestamp::now());
    let signed = signed.or_exit_try(ExitKind::Refused, foreign)?;
    let targets = String::from_utf8(signed.bytes).or_exit(ExitKind::Failed)?;
    let request = WithdrawRequest { version: *version, targets };
    let withdrawn: Withdrawn = client.post(&format!("/models/{model}/withdraw"), &request)?;
    Ok(args.operate.output().print(&withdrawn, told)?)
}

fn told(done: &Withdrawn) -> String {
    let now = match done.offered {
        Some(version) => format!("devices follow version {version}"),
        None => "devices follow no version of it until one is offered".to_owned(),
    };
    format!("{}/{} is withdrawn, its number is free; {now}", done.model, done.version)
}
