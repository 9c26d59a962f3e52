//! `cloud-hub model push | list | status | offer | withdraw | check | inspect | compress`.

use clap::{Args, Subcommand};
use console::CliError;
use types::{ModelName, Version};

use super::{Operate, check, compress, inspect, push, show, withdraw};
use crate::api::{ModelList, ModelView, OfferRequest, Published};
use crate::clock;

#[derive(Debug, Subcommand)]
pub(super) enum ModelVerb {
    /// Pack, sign and publish one version of a model, and tell the devices that follow it.
    Push(push::PushArgs),
    /// List all models.
    #[command(after_help = "Example:\n  cloud-hub model list")]
    List(ListArgs),
    /// Show one model: its versions, and how far each device has come.
    #[command(after_help = "\
Example:
  cloud-hub model status digits

The requests that this hub answered since it started are shown by the devices' reason for asking, as counts and shares. What
devices answer themselves is unknown to the hub: `edge-agent status` on a device shows how much it sends here.")]
    Status(OneArgs),
    /// Tell devices to follow a version that was pushed with --hold, or an operator's retry of one that failed.
    #[command(after_help = "Example:\n  cloud-hub model offer digits 2")]
    Offer(OfferArgs),
    /// Take back a version that no device took, for example one with a wrong number.
    #[command(after_help = "\
Example:
  cloud-hub model withdraw digits 20 --keys offline-keys

Refused when a device has the version or may have it: a number that a device knows never gets other content.
The number is free again afterwards, and devices follow the version that was offered before.")]
    Withdraw(withdraw::WithdrawArgs),
    /// Say whether an engine can run a model file, and everything that stands in the way.
    Check(check::CheckArgs),
    /// Show what is in a model file: inputs, operators, weights, arithmetic, and which engine runs it.
    Inspect(inspect::InspectArgs),
    /// Make small, fast variants of a model file, and measure what they cost.
    Compress(Box<compress::CompressArgs>),
}

#[derive(Debug, Args)]
pub(super) struct ListArgs {
    #[command(flatten)]
    operate: Operate,
}

#[derive(Debug, Args)]
pub(super) struct OneArgs {
    /// Name of the model.
    model: ModelName,
    #[command(flatten)]
    operate: Operate,
}

#[derive(Debug, Args)]
pub(super) struct OfferArgs {
    /// Name of the model.
    model: ModelName,
    /// The version.
    version: Version,
    #[command(flatten)]
    operate: Operate,
}

pub(super) fn run(verb: &ModelVerb) -> Result<(), CliError> {
    match verb {
        ModelVerb::Push(args) => push::run(args)?,
        ModelVerb::Withdraw(args) => withdraw::run(args)?,
        ModelVerb::Check(args) => check::run(args)?,
        ModelVerb::Inspect(args) => inspect::run(args)?,
        ModelVerb::Compress(args) => compress::run(args)?,
        ModelVerb::List(args) => {
            let list: ModelList = args.operate.client()?.get("/models")?;
            args.operate.output().print(&list, table)?;
        }
        ModelVerb::Status(args) => {
            let view: ModelView = args.operate.client()?.get(&format!("/models/{}", args.model))?;
            args.operate.output().print(&view, page)?;
        }
        ModelVerb::Offer(args) => {
            let path = format!("/models/{}/offer", args.model);
            let offered: Published = args.operate.client()?.post(&path, &OfferRequest { version: args.version })?;
            args.operate.output().print(&offered, |done| {
                format!("{}/{} is offered; {} connected devices were told", done.model, done.version, done.devices_told)
            })?;
        }
    }
    Ok(())
}

fn table(list: &ModelList) -> String {
    let rows = list.models.iter().map(|view| {
        [
            view.model.to_string(),
            number(view.latest),
            number(view.offered),
            view.versions.len().to_string(),
            view.devices.len().to_string(),
        ]
    });
    console::render_table(["model", "latest", "offered", "versions", "devices"], rows)
}

fn number(version: Option<Version>) -> String {
    version.map_or_else(|| "-".to_owned(), |version| version.to_string())
}

fn page(view: &ModelView) -> String {
    let versions = view.versions.iter().map(|version| {
        let state = match (Some(version.version) == view.offered, version.held) {
            (true, _) => "offered",
            (false, true) => "held",
            (false, false) => "past",
        };
        [
            version.version.to_string(),
            state.to_owned(),
            clock::utc(version.published_unix_ms),
            show::yes(version.loaded),
            version.variants.join(", "),
            show::short(&version.manifest),
        ]
    });
    let versions =
        console::render_table(["version", "state", "published", "loaded here", "variants", "manifest"], versions);
    let devices = view.devices.iter().map(|device| {
        [
            device.device.to_string(),
            (if device.connected { "connected" } else { "away" }).to_owned(),
            show::form(device.active.as_ref()),
            show::running(device.running.as_ref()),
            show::report(device.report.as_ref()),
        ]
    });
    let devices = console::render_table(["device", "state", "active", "runs with", "last report"], devices);
    let mut lines = vec![versions, String::new(), devices];
    let total: u64 = view.answered.iter().map(|count| count.requests).sum();
    if total > 0 {
        let why: Vec<String> = view
            .answered
            .iter()
            .map(|count| format!("{} {} ({:.1} %)", count.requests, count.reason, count.share_percent))
            .collect();
        let requests = if total == 1 { "request" } else { "requests" };
        let why = why.join(", ");
        lines.push(format!("\n{total} {requests} of devices answered here since the hub started: {why}"));
    }
    let offered = number(view.offered);
    lines.extend(view.warnings.iter().map(|warning| format!("\nwarning: version {offered}: {warning}")));
    lines.join("\n")
}
