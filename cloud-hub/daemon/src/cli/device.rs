//! `cloud-hub device list | show | revoke | readmit`.

use clap::{Args, Subcommand};
use console::CliError;
use serde::Serialize;
use types::DeviceId;

use super::{Operate, show};
use crate::api::{DeviceList, DeviceState, DeviceView, RevokeRequest};
use crate::clock;

#[derive(Debug, Subcommand)]
pub(super) enum DeviceVerb {
    /// List all devices.
    #[command(
        after_help = "Example:\n  cloud-hub device list --json | jq '.devices[] | select(.connected | not) | .device'"
    )]
    List(ListArgs),
    /// Show one device: certificate, what it serves, what it said about updates.
    #[command(after_help = "Example:\n  cloud-hub device show kitchen")]
    Show(OneArgs),
    /// Shut a device out: its connections are closed now and its certificate is worth nothing.
    #[command(after_help = "\
Example:
  cloud-hub device revoke kitchen

To let the machine in again: cloud-hub token create --name kitchen --replace")]
    Revoke(RevokeArgs),
    /// Let a device in again whose record was lost: one that was enrolled after the backup the hub was restored from.
    #[command(after_help = "\
Examples:
  cloud-hub device readmit attic
  cloud-hub device readmit --all

Only for devices that show a certificate of this hub's CA; `device list` names those that have tried to connect since
the hub was started. Check first that none of them had been revoked after the backup was made.")]
    Readmit(ReadmitArgs),
}

#[derive(Debug, Args)]
pub(super) struct ReadmitArgs {
    /// Name of the device.
    #[arg(required_unless_present = "all")]
    device: Option<DeviceId>,
    /// Every device that `device list` shows as unknown.
    #[arg(long, conflicts_with = "device")]
    all: bool,
    #[command(flatten)]
    operate: Operate,
}

/// The devices that were let in.
#[derive(Debug, Serialize)]
struct Readmitted {
    devices: Vec<DeviceId>,
}

#[derive(Debug, Args)]
pub(super) struct ListArgs {
    #[command(flatten)]
    operate: Operate,
}

#[derive(Debug, Args)]
pub(super) struct OneArgs {
    /// Name of the device.
    device: DeviceId,
    #[command(flatten)]
    operate: Operate,
}

#[derive(Debug, Args)]
pub(super) struct RevokeArgs {
    /// Name of the device.
    device: DeviceId,
    /// Why, for whoever looks later.
    #[arg(long, default_value = "")]
    why: String,
    #[command(flatten)]
    operate: Operate,
}

pub(super) fn run(verb: &DeviceVerb) -> Result<(), CliError> {
    match verb {
        DeviceVerb::List(args) => {
            let list: DeviceList = args.operate.client()?.get("/devices")?;
            args.operate.output().print(&list, table)?;
        }
        DeviceVerb::Show(args) => {
            let view: DeviceView = args.operate.client()?.get(&format!("/devices/{}", args.device))?;
            args.operate.output().print(&view, page)?;
        }
        DeviceVerb::Revoke(args) => {
            let path = format!("/devices/{}/revoke", args.device);
            let view: DeviceView = args.operate.client()?.post(&path, &RevokeRequest { why: args.why.clone() })?;
            args.operate.output().print(&view, |view| format!("device {} is revoked", view.device))?;
        }
        DeviceVerb::Readmit(args) => readmit(args)?,
    }
    Ok(())
}

fn readmit(args: &ReadmitArgs) -> Result<(), CliError> {
    let client = args.operate.client()?;
    let wanted = match &args.device {
        Some(device) => vec![device.clone()],
        None => {
            let list: DeviceList = client.get("/devices")?;
            list.unknown.into_iter().map(|unknown| unknown.device).collect()
        }
    };
    let mut devices = Vec::new();
    for device in wanted {
        let view: DeviceView = client.post(&format!("/devices/{device}/readmit"), &serde_json::json!({}))?;
        devices.push(view.device);
    }
    let told = |done: &Readmitted| match done.devices.as_slice() {
        [] => "no unknown device has tried to connect since the hub was started".to_owned(),
        devices => {
            let names = devices.iter().map(DeviceId::as_str).collect::<Vec<_>>().join(", ");
            format!("readmitted: {names}; each connects again by itself within the hour")
        }
    };
    Ok(args.operate.output().print(&Readmitted { devices }, told)?)
}

fn table(list: &DeviceList) -> String {
    let now = clock::unix_ms();
    let rows = list.devices.iter().map(|view| {
        let models: Vec<String> =
            view.models.iter().map(|model| format!("{}/{}", model.model, show::form(model.active.as_ref()))).collect();
        let seen = view.seen_unix_ms.map_or_else(|| "never".to_owned(), |seen| clock::ago(seen, now));
        [
            view.device.to_string(),
            state(view),
            seen,
            view.agent_version.clone().unwrap_or_else(|| "-".to_owned()),
            models.join(", "),
        ]
    });
    let table = console::render_table(["device", "state", "seen", "agent", "serves"], rows);
    let warnings: Vec<String> = list.devices.iter().filter_map(clone_warning).collect();
    let known = [vec![table], warnings].concat().join("\n");
    if list.unknown.is_empty() {
        return known;
    }
    let rows = list.unknown.iter().map(|unknown| {
        [
            unknown.device.to_string(),
            clock::ago(unknown.seen_unix_ms, now),
            unknown.address.clone(),
            unknown.key.to_string(),
        ]
    });
    let unknown = console::render_table(["unknown device", "seen", "address", "key"], rows);
    format!("{known}\n\nWith a certificate of this hub and without a record (cloud-hub device readmit):\n{unknown}")
}

/// The warning about a device whose identity two machines use.
fn clone_warning(view: &DeviceView) -> Option<String> {
    let cloned = view.cloned.as_ref()?;
    let [one, other] = &cloned.addresses;
    Some(format!(
        "warning: two machines use the identity of device {}: {one} and {other} (last seen {}). Remove the folder \
         `identity` from the state folder of one and enrol it under another name",
        view.device,
        clock::utc(cloned.last_unix_ms)
    ))
}

fn state(view: &DeviceView) -> String {
    let state = match (view.state, view.connected) {
        (DeviceState::Revoked, _) => "revoked",
        (DeviceState::Enrolled, true) => "connected",
        (DeviceState::Enrolled, false) => "away",
    };
    let expired = view.renewable_until_unix_ms.map_or_else(String::new, |until| format!(", {}", renewable(until)));
    let cloned = if view.cloned.is_some() { ", used by two machines" } else { "" };
    format!("{state}{expired}{cloned}")
}

/// What becomes of an expired certificate that can be renewed until then.
fn renewable(until_unix_ms: u64) -> String {
    let until = clock::utc(until_unix_ms);
    if clock::unix_ms() <= until_unix_ms {
        format!("certificate expired, may renew until {until}")
    } else {
        format!("certificate expired, could be renewed until {until}: enrol it again")
    }
}

fn page(view: &DeviceView) -> String {
    let moment = |at: Option<u64>| at.map_or_else(|| "-".to_owned(), clock::utc);
    let facts = [
        ("device", view.device.to_string()),
        ("state", view.why.as_ref().map_or_else(|| state(view), |why| format!("{} {why}", state(view)))),
        ("address", view.address.clone().unwrap_or_else(|| "-".to_owned())),
        ("agent", view.agent_version.clone().unwrap_or_else(|| "-".to_owned())),
        ("enrolled", clock::utc(view.enrolled_unix_ms)),
        ("seen", moment(view.seen_unix_ms)),
        ("certificate until", moment(view.certificate_until_unix_ms)),
    ];
    let facts: Vec<String> = facts.iter().map(|(name, value)| format!("{name:18} {value}")).collect();
    let rows = view.models.iter().map(|model| {
        [
            model.model.to_string(),
            show::form(model.active.as_ref()),
            show::running(model.running.as_ref()),
            show::form(model.previous.as_ref()),
            show::report(model.report.as_ref()),
        ]
    });
    let models = console::render_table(["model", "active", "runs with", "previous", "last report"], rows);
    let warning = clone_warning(view).map_or_else(String::new, |warning| format!("\n\n{warning}"));
    format!("{}{warning}\n\n{models}", facts.join("\n"))
}
