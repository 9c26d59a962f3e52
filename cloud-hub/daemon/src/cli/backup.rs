//! `cloud-hub backup create | restore`: the whole hub in one file, and back.

use clap::{Args, Subcommand};
use console::CliError;
use std::path::PathBuf;

mod collect;
mod create;
mod restore;

#[derive(Debug, Subcommand)]
pub(super) enum BackupVerb {
    /// Write everything that this hub is into one file: records, models, trust metadata, CA, keys, config.
    #[command(after_help = "\
Examples:
  cloud-hub backup create hub.backup --config hub/hub.toml
  sudo -u sanderling-hub cloud-hub backup create - | age -p > hub.backup.age

The hub can go on serving. The file contains the key of the CA and the hub's online keys: anyone
who has it can pretend to be this hub. It is written with mode 0600; keep it encrypted (age, gpg)
or in a safe. The offline keys are not in it.")]
    Create(CreateArgs),
    /// Make a hub out of a backup, in a new folder.
    #[command(after_help = "\
Examples:
  cloud-hub backup restore hub.backup --dir hub
  cloud-hub trust renew --targets --keys offline-keys --config hub/hub.toml

The whole file is checked before anything is written. Never run the old hub and the restored one at
the same time. Devices that have seen a later list of versions take no update before that list is
signed again: by a push, or by `trust renew --targets`.")]
    Restore(RestoreArgs),
}

#[derive(Debug, Args)]
pub(super) struct CreateArgs {
    /// The file to write, which must not exist; `-` is standard output.
    file: PathBuf,
    /// Config of the hub, on this machine.
    #[arg(long, value_name = "FILE", env = "SANDERLING_HUB_CONFIG", default_value = "/etc/sanderling/hub.toml")]
    config: PathBuf,
    /// Context of an operator, for a hub that is serving and has no token of its own machine [default: operator.toml in the
    /// state folder].
    #[arg(long, value_name = "FILE", env = "SANDERLING_OPERATOR")]
    context: Option<PathBuf>,
    /// Print JSON instead of text.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct RestoreArgs {
    /// File of the backup, as `backup create` wrote it.
    file: PathBuf,
    /// Folder of the restored hub: its state, hub.toml and operator.toml. Must be absent or empty.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Print JSON instead of text.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(verb: &BackupVerb) -> Result<(), CliError> {
    match verb {
        BackupVerb::Create(args) => create::run(args),
        BackupVerb::Restore(args) => restore::run(args),
    }
}
