//! `cloud-hub calibration list | show | reset`.

use clap::{Args, Subcommand};
use console::CliError;
use hub_api::endpoint::NoBody;
use hub_api::endpoints::{ListCalibrations, ResetCalibration, ShowCalibration};
use hub_api::{CalibrationList, CalibrationReset, CalibrationView};
use service::clock;
use types::{ModelName, Version};

use crate::{Locate, Operate};

/// Verbs of `cloud-hub calibration`.
#[derive(Debug, Subcommand)]
pub enum CalibrationVerb {
    /// List the thresholds that are kept valid in the field, with their audits and bounds.
    #[command(after_help = "\
Examples:
  cloud-hub calibration list
  cloud-hub calibration list --json | jq '.calibrations[] | select(.state != \"author\")'")]
    List(ListArgs),
    /// Show the thresholds of one model: each variant and group of devices, and what changed last.
    #[command(after_help = "Example:\n  cloud-hub calibration show digits")]
    Show(ShowArgs),
    /// Put the author's threshold in force again and forget the audits.
    #[command(after_help = "\
Examples:
  cloud-hub calibration reset digits                       # all versions and groups
  cloud-hub calibration reset digits --version 2 --group site=berlin

Use it when the cause is mended, like a camera that was moved back. Without it, audits loosen the threshold step by step.")]
    Reset(ResetArgs),
}

/// Arguments of `cloud-hub calibration list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    #[command(flatten)]
    operate: Operate,
}

/// Arguments of `cloud-hub calibration show`.
#[derive(Debug, Args)]
pub struct ShowArgs {
    /// Name of the model.
    model: ModelName,
    #[command(flatten)]
    operate: Operate,
}

/// Arguments of `cloud-hub calibration reset`.
#[derive(Debug, Args)]
pub struct ResetArgs {
    /// Name of the model.
    model: ModelName,
    /// Version of the model [default: all].
    #[arg(long)]
    version: Option<Version>,
    /// Group of devices, as `calibration list` names it [default: all].
    #[arg(long, value_name = "GROUP")]
    group: Option<String>,
    #[command(flatten)]
    operate: Operate,
}

/// Runs a verb of `cloud-hub calibration`.
///
/// # Errors
/// When the hub does not answer, or refuses.
pub fn run(verb: &CalibrationVerb, locate: Locate) -> Result<(), CliError> {
    match verb {
        CalibrationVerb::List(args) => {
            let list = args.operate.client(locate)?.call::<ListCalibrations>(&(), &Default::default(), &NoBody {})?;
            Ok(args.operate.output().print(&list, table)?)
        }
        CalibrationVerb::Show(args) => {
            let list = args.operate.client(locate)?.get::<ShowCalibration>(&args.model)?;
            Ok(args.operate.output().print(&list, page)?)
        }
        CalibrationVerb::Reset(args) => {
            let request = CalibrationReset { version: args.version, group: args.group.clone() };
            let done = args.operate.client(locate)?.send::<ResetCalibration>(&args.model, &request)?;
            Ok(args.operate.output().print(&done, |done| {
                format!("{}: {} calibrations begin anew with the author's threshold", done.model, done.reset)
            })?)
        }
    }
}

fn table(list: &CalibrationList) -> String {
    let rows = list.calibrations.iter().map(|view| {
        [
            format!("{}/{} {}", view.model, view.version, view.variant),
            view.group.clone(),
            view.state.clone(),
            view.threshold.map_or_else(|| "none".to_owned(), |threshold| threshold.to_string()),
            percent(view.alpha),
            format!("{} of {}", view.wrong, view.audits),
            bounds(view),
            view.drifting_devices.to_string(),
        ]
    });
    let headers = ["variant", "group", "state", "threshold", "promise", "kept and differing", "share", "drifting"];
    let mut lines = vec![console::render_table(headers, rows)];
    lines.extend(list.notes.iter().cloned());
    lines.join("\n")
}

fn page(list: &CalibrationList) -> String {
    let mut lines = vec![table(list)];
    for view in &list.calibrations {
        let CalibrationView { model, version, variant, group, author_threshold, recorded, refits, .. } = view;
        lines.push(format!(
            "\n{model}/{version} {variant} on {group}: {}; the author's threshold is {author_threshold}; {recorded} audits recorded, \
             {refits} times broken",
            view.meaning
        ));
        if let (Some(at), Some(what)) = (view.last_change_unix_ms, &view.last_change) {
            lines.push(format!("  {}  {what}", clock::utc(at)));
        }
        if let Some(needed) = view.audits_needed {
            lines.push(format!("  at least {needed} audits show a threshold, {recorded} are recorded"));
        }
    }
    lines.join("\n")
}

fn bounds(view: &CalibrationView) -> String {
    match (view.low, view.high) {
        (Some(low), Some(high)) => format!("{} to {}", percent(low), percent(high)),
        _ => "-".to_owned(),
    }
}

fn percent(share: f64) -> String {
    format!("{:.2} %", 100.0 * share)
}
