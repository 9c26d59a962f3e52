//! `cargo xtask gpu-check`: the wgpu engine's tests and benches on a machine with a GPU, without network, in ten minutes.
//!
//! `pack DIR` builds here and puts binaries, cases, models and ONNX Runtime into one folder with a `run.sh`. Copied to another machine,
//! `run.sh` runs everything on each adapter and writes `report.md` and `report.json`.

mod pack;
mod report;
mod suite;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;

/// Default time for everything on all adapters together: what machines are lent for.
const TIME_MAX: Duration = Duration::from_secs(9 * 60 + 30);

/// Options of `cargo xtask gpu-check`.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand)]
enum Verb {
    /// Build the test binaries and put all that they need into a folder.
    Pack {
        /// Folder to make; it must not exist.
        folder: PathBuf,
        /// Build without optimisation: quick to make, and the times in the report say little.
        #[arg(long)]
        dev: bool,
    },
    /// Run what a folder holds, on each adapter, and write the report into it.
    Run {
        /// Folder that `pack` made.
        folder: PathBuf,
        /// Only adapters whose name contains this.
        #[arg(long, value_name = "NAME", default_value = "")]
        adapter: String,
        /// Seconds for everything together; what does not fit is reported as not run.
        #[arg(long, value_name = "SECONDS", default_value_t = TIME_MAX.as_secs())]
        seconds: u64,
    },
}

/// Runs the verb.
pub(crate) fn run(args: &Args) -> Result<()> {
    match &args.verb {
        Verb::Pack { folder, dev } => pack::pack(folder, *dev),
        Verb::Run { folder, adapter, seconds } => suite::run(folder, adapter, Duration::from_secs(*seconds)),
    }
}
