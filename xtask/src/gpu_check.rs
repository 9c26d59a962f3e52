//! `cargo xtask gpu-check`: the wgpu engine's tests and benches on a machine with a GPU, without network, in ten
//! minutes.
//!
//! `pack DIR` builds here and copies binaries, cases, models and ONNX Runtime into one folder with a `run.sh`. Copied
//! to another machine, `run.sh` runs everything on each adapter and writes `report.md` and `report.json`.

mod pack;
mod report;
mod suite;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;

/// Default time limit for all adapters together, which fits the time for which machines are lent.
const TIME_MAX: Duration = Duration::from_secs(9 * 60 + 30);

/// Options of `cargo xtask gpu-check`.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand)]
enum Verb {
    /// Build the test binaries and copy them with all their files to a folder.
    Pack {
        /// Folder to create; it must not exist.
        folder: PathBuf,
        /// Build without optimisation: faster, but the times in the report are not representative.
        #[arg(long)]
        dev: bool,
    },
    /// Run the content of a packed folder on each adapter, and write the report to it.
    Run {
        /// Folder that `pack` created.
        folder: PathBuf,
        /// Only adapters whose name contains this text.
        #[arg(long, value_name = "NAME", default_value = "")]
        adapter: String,
        /// Time limit in seconds for everything; the rest is reported as not run.
        #[arg(long, value_name = "SECONDS", default_value_t = TIME_MAX.as_secs())]
        seconds: u64,
    },
}

/// Runs the verb to its end.
pub(crate) fn run(args: &Args) -> Result<()> {
    match &args.verb {
        Verb::Pack { folder, dev } => pack::pack(folder, *dev),
        Verb::Run { folder, adapter, seconds } => suite::run(folder, adapter, Duration::from_secs(*seconds)),
    }
}
