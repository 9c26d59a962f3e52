//! `cloud-hub make-delta`: the child process of a hub that makes one delta.

use std::path::PathBuf;

use clap::Args;
use console::{CliError, ExitKind, OrExit};
use types::Digest;

use crate::app::deltas::{Work, work};

#[derive(Debug, Args)]
pub(super) struct MakeDeltaArgs {
    /// File that devices have.
    #[arg(long, requires = "base_digest")]
    base: Option<PathBuf>,
    /// Digest of that file.
    #[arg(long, requires = "base")]
    base_digest: Option<Digest>,
    /// New file.
    #[arg(long)]
    target: PathBuf,
    /// Digest of the new file.
    #[arg(long)]
    target_digest: Digest,
    /// File for the delta.
    #[arg(long)]
    out: PathBuf,
    /// Maximum memory of this process in bytes.
    #[arg(long)]
    memory_max_bytes: u64,
}

pub(super) fn run(args: &MakeDeltaArgs) -> Result<(), CliError> {
    let order = Work {
        base: args.base.clone().zip(args.base_digest),
        target: (args.target.clone(), args.target_digest),
        out: args.out.clone(),
        memory_max_bytes: args.memory_max_bytes,
    };
    let report = work(&order).or_exit(ExitKind::Failed)?;
    Ok(console::print_line(&report)?)
}
