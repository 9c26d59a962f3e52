//! `cloud-hub rollout create | list | show | pause | resume | abort | approve | skip | retry | rollback | explain`.

mod print;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use console::{CliError, ExitKind};
use hub_api::endpoint::NoBody;
use hub_api::endpoints::{ActOnRollout, CreateRollout, ExplainRollout, ListRollouts, ShowRollout};
use hub_api::{ExplainQuery, RolloutAction, RolloutRequest, RolloutView};
use jiff::Timestamp;
use types::{DeviceId, ModelName, Version};

use crate::client::Client;
use crate::{Locate, Operate, show};

/// Maximum length of a file with a gate in bytes; the hub has a limit of its own.
const GATE_FILE_MAX: u64 = 64 * 1024;

/// Interval of `--watch`: a rollout moves within a second of a device's report.
const WATCH_EVERY: Duration = Duration::from_secs(2);

/// Verbs of `cloud-hub rollout`.
#[derive(Debug, Subcommand)]
pub enum RolloutVerb {
    /// Bring a published version to devices in waves, judged by how it behaves on them.
    #[command(after_help = "\
Examples:
  cloud-hub rollout create digits 7 --to all                       # waves 1,5%,25%,100%
  cloud-hub rollout create digits 7 --to 'site=berlin and engine=ort' --waves 1@2h,25%,100% --approve
  cloud-hub rollout create digits 7 --to all --waves label:tier=canary@1d,20/min --max-per-site site=2
  cloud-hub rollout create digits 7 --to all --start-at 2027-01-31T02:00:00Z --on-breach rollback --gate gate.toml

A wave is a count (3), a share of the cohort (5%, in an order that is drawn for each rollout), a label
(label:tier=canary) or a rate (20/min; 10/min*2 doubles each minute), and may end in a soak (@2h). The last one reaches
the whole cohort. A device takes part when it is connected; one that sleeps follows when it wakes, and never counts as
failed. Once all waves have passed, a version that was rolled out to `all` is the current one; for a smaller cohort it is
what these devices get from then on. Pins of devices precede rollouts, and rollouts precede the current version. Two
rollouts of one model never have the same devices.")]
    Create(CreateArgs),
    /// List rollouts, newest first.
    #[command(after_help = "Example:\n  cloud-hub rollout list")]
    List(ListArgs),
    /// Show one rollout and how each device fares.
    #[command(after_help = "\
Examples:
  cloud-hub rollout show 3
  cloud-hub rollout show digits --watch              # the newest rollout of the model, until it ends or waits")]
    Show(ShowArgs),
    /// Admit no further device for now.
    #[command(after_help = "Example:\n  cloud-hub rollout pause digits --reason 'errors in shop 7'")]
    Pause(ActArgs),
    /// Continue after a pause. After a broken gate only evidence from now on counts.
    #[command(after_help = "Example:\n  cloud-hub rollout resume digits")]
    Resume(ActArgs),
    /// End a rollout; devices keep the version that they have.
    #[command(after_help = "Example:\n  cloud-hub rollout abort digits")]
    Abort(ActArgs),
    /// Begin the next wave, where each one waits for an operator.
    #[command(after_help = "Example:\n  cloud-hub rollout approve digits")]
    Approve(ActArgs),
    /// Begin the next wave without waiting for the evidence of this one.
    #[command(after_help = "Example:\n  cloud-hub rollout skip digits --reason 'the canary is switched off'")]
    Skip(ActArgs),
    /// Offer the version again to devices where it failed.
    #[command(after_help = "Example:\n  cloud-hub rollout retry digits")]
    Retry(ActArgs),
    /// Return the devices to their earlier version, also after the rollout has completed.
    #[command(after_help = "\
Example:
  cloud-hub rollout rollback digits --reason 'wrong answers at night'

Devices that are away return when they connect. Nothing is pushed: the earlier version is still signed.")]
    Rollback(ActArgs),
    /// Explain each decision of a rollout with its evidence, and the part of one device in it.
    #[command(after_help = "\
Examples:
  cloud-hub rollout explain digits
  cloud-hub rollout explain 3 --device kitchen")]
    Explain(ExplainArgs),
}

/// Options of a rollout, for `rollout create` and `model push`.
#[derive(Debug, Clone, Args)]
pub struct RolloutOptions {
    /// Waves, smallest first, like `1,5%@2h,25%,100%` [default: 1,5%,25%,100%].
    #[arg(long, value_name = "WAVES", requires = "to")]
    waves: Option<String>,
    /// File with the gate between the waves [default: at most 10 % of the devices may fail].
    #[arg(long, value_name = "FILE", requires = "to")]
    gate: Option<PathBuf>,
    /// Let each wave but the first wait for `rollout approve`.
    #[arg(long, requires = "to")]
    approve: bool,
    /// Time of the start, like 2027-01-31T02:00:00Z, or a time from now, like 2h [default: now].
    #[arg(long, value_name = "TIME", requires = "to", value_parser = parse_start)]
    start_at: Option<u64>,
    /// Maximum number of devices with the same value of a label that are updated at once.
    #[arg(long, value_name = "LABEL=NUMBER", requires = "to")]
    max_per_site: Option<String>,
    /// Reaction to a broken gate [default: pause].
    #[arg(long, value_name = "pause|rollback", requires = "to", value_parser = ["pause", "rollback"])]
    on_breach: Option<String>,
    /// Time after which a wave without enough evidence pauses the rollout [default: 1d].
    #[arg(long, value_name = "TIME", requires = "to", value_parser = show::parse_duration)]
    patience: Option<Duration>,
    /// Time after which a device that has begun and reports no more counts as silent [default: 1h].
    #[arg(long, value_name = "TIME", requires = "to", value_parser = show::parse_duration)]
    silent_after: Option<Duration>,
}

/// Arguments of `cloud-hub rollout create`.
#[derive(Debug, Args)]
pub struct CreateArgs {
    /// Name of the model.
    model: ModelName,
    /// Number of the version, which was pushed before.
    version: Version,
    /// Devices: `all`, or a filter like `site=berlin and engine=ort`.
    #[arg(long, value_name = "COHORT")]
    to: String,
    #[command(flatten)]
    options: RolloutOptions,
    #[command(flatten)]
    operate: Operate,
}

/// Arguments of `cloud-hub rollout list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    #[command(flatten)]
    operate: Operate,
}

/// Arguments of `cloud-hub rollout show`.
#[derive(Debug, Args)]
pub struct ShowArgs {
    /// Number of the rollout, or name of a model for its newest one.
    rollout: String,
    /// Print again whenever something changes, until the rollout ends, pauses or waits for an operator.
    #[arg(long)]
    watch: bool,
    #[command(flatten)]
    operate: Operate,
}

/// Arguments of the verbs that act on a rollout.
#[derive(Debug, Args)]
pub struct ActArgs {
    /// Number of the rollout, or name of a model for its newest one.
    rollout: String,
    /// Reason, for later readers.
    #[arg(long, default_value = "")]
    reason: String,
    #[command(flatten)]
    operate: Operate,
}

/// Arguments of `cloud-hub rollout explain`.
#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// Number of the rollout, or name of a model for its newest one.
    rollout: String,
    /// Device whose part in the rollout is explained, too.
    #[arg(long, value_name = "DEVICE")]
    device: Option<DeviceId>,
    #[command(flatten)]
    operate: Operate,
}

/// Reads a point in time, or a time from now, as milliseconds since 1970.
fn parse_start(text: &str) -> Result<u64, String> {
    let at = match (text.parse::<Timestamp>(), show::parse_duration(text)) {
        (Ok(at), _) => at.as_millisecond(),
        (Err(_), Ok(from_now)) => {
            let now = Timestamp::now().as_millisecond();
            now.saturating_add(i64::try_from(from_now.as_millis()).unwrap_or(i64::MAX))
        }
        (Err(_), Err(_)) => {
            return Err(format!("{text:?} is neither a time like 2027-01-31T02:00:00Z nor one like 2h"));
        }
    };
    u64::try_from(at).map_err(|_before_1970| format!("{text:?} is before 1970"))
}

/// Runs a verb and prints its result.
///
/// # Errors
/// When the hub does not answer, or refuses.
pub fn run(verb: &RolloutVerb, locate: Locate) -> Result<(), CliError> {
    match verb {
        RolloutVerb::Create(args) => {
            let client = args.operate.client(locate)?;
            let created = create(&client, &args.model, args.version, &args.to, &args.options)?;
            args.operate.output().print(&created, print::created)?;
        }
        RolloutVerb::List(args) => {
            let list = args.operate.client(locate)?.get::<ListRollouts>(&())?;
            args.operate.output().print(&list, print::table)?;
        }
        RolloutVerb::Show(args) if args.watch => watch(args, locate)?,
        RolloutVerb::Show(args) => {
            let detail = args.operate.client(locate)?.get::<ShowRollout>(&args.rollout)?;
            args.operate.output().print(&detail, print::page)?;
        }
        RolloutVerb::Pause(args) => act(args, "pause", locate)?,
        RolloutVerb::Resume(args) => act(args, "resume", locate)?,
        RolloutVerb::Abort(args) => act(args, "abort", locate)?,
        RolloutVerb::Approve(args) => act(args, "approve", locate)?,
        RolloutVerb::Skip(args) => act(args, "skip", locate)?,
        RolloutVerb::Retry(args) => act(args, "retry", locate)?,
        RolloutVerb::Rollback(args) => act(args, "rollback", locate)?,
        RolloutVerb::Explain(args) => {
            let query = ExplainQuery { device: args.device.clone() };
            let client = args.operate.client(locate)?;
            let explained = client.call::<ExplainRollout>(&args.rollout, &query, &NoBody {})?;
            args.operate.output().print(&explained, print::explanation)?;
        }
    }
    Ok(())
}

/// Creates a rollout of a published version.
///
/// # Errors
/// When the file of the gate cannot be read, or the hub does not answer, or refuses.
pub fn create(
    client: &Client,
    model: &ModelName,
    version: Version,
    to: &str,
    options: &RolloutOptions,
) -> Result<RolloutView, CliError> {
    let RolloutOptions { waves, approve, start_at, max_per_site, on_breach, .. } = options.clone();
    let gate = match &options.gate {
        Some(file) => Some(read_gate(file)?),
        None => None,
    };
    let request = RolloutRequest {
        model: model.clone(),
        version,
        to: to.to_owned(),
        waves,
        gate,
        approve,
        start_unix_ms: start_at,
        max_per_site,
        on_breach,
        patience_s: options.patience.map(|patience| patience.as_secs()),
        silent_after_s: options.silent_after.map(|silent| silent.as_secs()),
    };
    client.send::<CreateRollout>(&(), &request)
}

fn read_gate(file: &std::path::Path) -> Result<String, CliError> {
    use std::io::Read;

    let problem = |error| {
        CliError::new(ExitKind::Config, format!("read the gate {}: {error}", file.display()))
            .hint("name a TOML file with the limits of the gate")
    };
    let mut text = String::new();
    let opened = std::fs::File::open(file).map_err(problem)?;
    opened.take(GATE_FILE_MAX).read_to_string(&mut text).map_err(problem)?;
    Ok(text)
}

fn act(args: &ActArgs, action: &str, locate: Locate) -> Result<(), CliError> {
    let request = RolloutAction { action: action.to_owned(), reason: args.reason.clone() };
    let view = args.operate.client(locate)?.send::<ActOnRollout>(&args.rollout, &request)?;
    Ok(args.operate.output().print(&view, print::state)?)
}

/// Prints the rollout again whenever it has changed, until it ends or needs an operator.
fn watch(args: &ShowArgs, locate: Locate) -> Result<(), CliError> {
    let client = args.operate.client(locate)?;
    let mut last = None;
    loop {
        let detail = client.get::<ShowRollout>(&args.rollout)?;
        if last.as_ref() != Some(&detail) {
            args.operate.output().print(&detail, print::page)?;
        }
        let moves = ["scheduled", "running", "promoting", "rolling-back"].contains(&detail.rollout.state.as_str());
        if !moves {
            return Ok(());
        }
        last = Some(detail);
        std::thread::sleep(WATCH_EVERY);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_is_a_time_or_a_time_from_now() {
        assert_eq!(parse_start("2027-01-31T02:00:00Z"), Ok(1_801_360_800_000));
        let soon = parse_start("2h").unwrap();
        let now = u64::try_from(Timestamp::now().as_millisecond()).unwrap();
        assert!((7_190_000..=7_200_000).contains(&(soon - now)));
        assert!(parse_start("tomorrow").is_err() && parse_start("1960-01-01T00:00:00Z").is_err());
    }
}
