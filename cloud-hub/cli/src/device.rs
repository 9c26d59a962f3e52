//! `cloud-hub device list | show | label | pin | revoke | readmit`.

use clap::{Args, Subcommand};
use console::CliError;
use serde::Serialize;
use types::{DeviceId, ModelName, Version};

use hub_api::endpoint::NoBody;
use hub_api::endpoints::{LabelDevice, ListDevices, PinDevice, ReadmitDevice, RevokeDevice, ShowDevice};
use hub_api::{
    DeviceList, DeviceListQuery, DeviceModelView, DeviceState, DeviceView, LabelChange, PAGE_MAX, PinRequest, PinView,
    RevokeRequest,
};
use service::clock;

use crate::client::Client;
use crate::{Locate, Operate, show};

/// Verbs of `cloud-hub device`.
#[derive(Debug, Subcommand)]
pub enum DeviceVerb {
    /// List devices, all or those that a filter selects.
    #[command(after_help = "\
Examples:
  cloud-hub device list --json | jq '.devices[] | select(.connected | not) | .device'
  cloud-hub device list --filter 'site=berlin and version<3'
  cloud-hub device list --filter 'not online and (os=linux or arch in (armv7, aarch64))'

A filter compares fields with =, !=, <, <=, >, >= and in (a, b), joined with and, or, not and parentheses. Fields: a label
by its key, name, online, revoked, agent, os, arch, engine, model, variant, version (of any model) and version.MODEL.")]
    List(ListArgs),
    /// Show one device: certificate, what it serves, what it said about updates.
    #[command(after_help = "Example:\n  cloud-hub device show kitchen")]
    Show(OneArgs),
    /// Set or remove labels of a device, for lists and rollouts.
    #[command(after_help = "\
Examples:
  cloud-hub device label kitchen site=berlin floor=2
  cloud-hub device label kitchen floor-               # removes the label

A key has 1 to 63 of a-z, 0-9, '-', '_' and '.'; a value up to 128 bytes. A device has at most 32 labels.")]
    Label(LabelArgs),
    /// Keep one version of a model on a device, also an earlier one, whatever is rolled out.
    #[command(after_help = "\
Examples:
  cloud-hub device pin kitchen digits 6
  cloud-hub device pin kitchen digits --none          # follows rollouts and the current version again

A pin precedes rollouts, and rollouts precede the current version.")]
    Pin(PinArgs),
    /// Revoke a device: its connections are closed now and its certificate is refused for ever.
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

/// Arguments of `cloud-hub device readmit`.
#[derive(Debug, Args)]
pub struct ReadmitArgs {
    /// Name of the device.
    #[arg(required_unless_present = "all")]
    device: Option<DeviceId>,
    /// Every device that `device list` shows as unknown.
    #[arg(long, conflicts_with = "device")]
    all: bool,
    #[command(flatten)]
    operate: Operate,
}

/// Arguments of `cloud-hub device label`.
#[derive(Debug, Args)]
pub struct LabelArgs {
    /// Name of the device.
    device: DeviceId,
    /// Labels to set (KEY=VALUE) and to remove (KEY-).
    #[arg(required = true, value_name = "KEY=VALUE|KEY-", value_parser = parse_label)]
    labels: Vec<Label>,
    #[command(flatten)]
    operate: Operate,
}

/// Arguments of `cloud-hub device pin`.
#[derive(Debug, Args)]
pub struct PinArgs {
    /// Name of the device.
    device: DeviceId,
    /// Name of the model.
    model: ModelName,
    /// Version to keep.
    #[arg(required_unless_present = "none")]
    version: Option<Version>,
    /// End the pin.
    #[arg(long, conflicts_with = "version")]
    none: bool,
    #[command(flatten)]
    operate: Operate,
}

/// Change of one label.
#[derive(Debug, Clone)]
enum Label {
    /// Sets a value.
    Set(String, String),
    /// Removes the label.
    Remove(String),
}

/// Reads `KEY=VALUE` or `KEY-`; the hub checks key and value.
fn parse_label(text: &str) -> Result<Label, String> {
    match (text.split_once('='), text.strip_suffix('-')) {
        (Some((key, value)), _) => Ok(Label::Set(key.to_owned(), value.to_owned())),
        (None, Some(key)) => Ok(Label::Remove(key.to_owned())),
        (None, None) => Err(format!("{text:?} is neither KEY=VALUE (sets a label) nor KEY- (removes it)")),
    }
}

/// Devices that were let in.
#[derive(Debug, Serialize)]
struct Readmitted {
    devices: Vec<DeviceId>,
}

/// Arguments of `cloud-hub device list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Filter that selects devices, like `site=berlin and version<3`.
    #[arg(long, value_name = "FILTER")]
    filter: Option<String>,
    #[command(flatten)]
    operate: Operate,
}

/// Arguments of `cloud-hub device show`.
#[derive(Debug, Args)]
pub struct OneArgs {
    /// Name of the device.
    device: DeviceId,
    #[command(flatten)]
    operate: Operate,
}

/// Arguments of `cloud-hub device revoke`.
#[derive(Debug, Args)]
pub struct RevokeArgs {
    /// Name of the device.
    device: DeviceId,
    /// Reason, for later readers.
    #[arg(long, default_value = "", alias = "why")]
    reason: String,
    #[command(flatten)]
    operate: Operate,
}

/// Runs a verb and prints its result.
///
/// # Errors
/// When the hub does not answer, or refuses.
pub fn run(verb: &DeviceVerb, locate: Locate) -> Result<(), CliError> {
    match verb {
        DeviceVerb::List(args) => {
            let list = list(&args.operate.client(locate)?, args.filter.as_deref())?;
            args.operate.output().print(&list, table)?;
        }
        DeviceVerb::Show(args) => {
            let view = args.operate.client(locate)?.get::<ShowDevice>(&args.device)?;
            args.operate.output().print(&view, page)?;
        }
        DeviceVerb::Label(args) => {
            let mut change = LabelChange::default();
            for label in &args.labels {
                match label.clone() {
                    Label::Set(key, value) => drop(change.set.insert(key, value)),
                    Label::Remove(key) => change.remove.push(key),
                }
            }
            let view = args.operate.client(locate)?.send::<LabelDevice>(&args.device, &change)?;
            args.operate.output().print(&view, |view| match view.labels.is_empty() {
                true => format!("device {} has no labels", view.device),
                false => format!("device {}: {}", view.device, labels(view)),
            })?;
        }
        DeviceVerb::Pin(args) => {
            let request = PinRequest { model: args.model.clone(), version: args.version };
            let pin = args.operate.client(locate)?.send::<PinDevice>(&args.device, &request)?;
            args.operate.output().print(&pin, pinned)?;
        }
        DeviceVerb::Revoke(args) => {
            let request = RevokeRequest { reason: args.reason.clone() };
            let view = args.operate.client(locate)?.send::<RevokeDevice>(&args.device, &request)?;
            args.operate.output().print(&view, |view| format!("device {} is revoked", view.device))?;
        }
        DeviceVerb::Readmit(args) => readmit(args, locate)?,
    }
    Ok(())
}

/// Returns the active variant of a model in one cell, with the pin of an operator.
fn active(model: &DeviceModelView) -> String {
    let form = show::form(model.active.as_ref());
    model.pinned.map_or_else(|| form.clone(), |version| format!("{form} (pinned to {version})"))
}

fn pinned(pin: &PinView) -> String {
    let state = match pin.version {
        Some(version) => format!("device {} keeps {}/{version}", pin.device, pin.model),
        None => format!("device {} follows rollouts and the current version of {} again", pin.device, pin.model),
    };
    let told = if pin.told { "it was told" } else { "it is told when it connects" };
    let warnings: String = pin.warnings.iter().map(|warning| format!("\nwarning: {warning}")).collect();
    format!("{state}; {told}{warnings}")
}

/// Reads the whole list, page by page.
fn list(client: &Client, filter: Option<&str>) -> Result<DeviceList, CliError> {
    let mut list = DeviceList { devices: Vec::new(), unknown: Vec::new(), next: None };
    loop {
        let query =
            DeviceListQuery { filter: filter.map(str::to_owned), limit: Some(PAGE_MAX), after: list.next.take() };
        let page = client.call::<ListDevices>(&(), &query, &NoBody {})?;
        list.devices.extend(page.devices);
        list.unknown.extend(page.unknown);
        list.next = page.next;
        if list.next.is_none() {
            return Ok(list);
        }
    }
}

fn readmit(args: &ReadmitArgs, locate: Locate) -> Result<(), CliError> {
    let client = args.operate.client(locate)?;
    let wanted = match &args.device {
        Some(device) => vec![device.clone()],
        None => list(&client, None)?.unknown.into_iter().map(|unknown| unknown.device).collect(),
    };
    let mut devices = Vec::new();
    for device in wanted {
        devices.push(client.get::<ReadmitDevice>(&device)?.device);
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
            labels(view),
        ]
    });
    let table = console::render_table(["device", "state", "seen", "agent", "serves", "labels"], rows);
    let drifting = list.devices.iter().flat_map(drift_warnings);
    let warnings: Vec<String> = list.devices.iter().filter_map(clone_warning).chain(drifting).collect();
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

/// Returns the labels in one cell.
fn labels(view: &DeviceView) -> String {
    or_dash(view.labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(" "))
}

/// Returns the engines in one cell.
fn engines(view: &DeviceView) -> String {
    or_dash(
        view.engines.iter().map(|engine| format!("{} {}", engine.name, engine.version)).collect::<Vec<_>>().join(", "),
    )
}

/// Returns a dash in place of an empty text.
fn or_dash(text: String) -> String {
    if text.is_empty() { "-".to_owned() } else { text }
}

/// Returns operating system and processor in one cell.
fn system(view: &DeviceView) -> String {
    match (&view.os, &view.arch) {
        (Some(os), Some(arch)) => format!("{os} {arch}"),
        (Some(one), None) | (None, Some(one)) => one.clone(),
        (None, None) => "-".to_owned(),
    }
}

/// Returns the warning about a device whose identity two machines use.
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

/// Returns the state of an expired certificate that can be renewed until then.
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
        ("state", view.reason.as_ref().map_or_else(|| state(view), |reason| format!("{} {reason}", state(view)))),
        ("labels", labels(view)),
        ("address", view.address.clone().unwrap_or_else(|| "-".to_owned())),
        ("agent", view.agent_version.clone().unwrap_or_else(|| "-".to_owned())),
        ("system", system(view)),
        ("engines", engines(view)),
        ("enrolled", clock::utc(view.enrolled_unix_ms)),
        ("seen", moment(view.seen_unix_ms)),
        ("certificate until", moment(view.certificate_until_unix_ms)),
    ];
    let facts: Vec<String> = facts.iter().map(|(name, value)| format!("{name:18} {value}")).collect();
    let rows = view.models.iter().map(|model| {
        [
            model.model.to_string(),
            active(model),
            show::running(model.running.as_ref()),
            show::form(model.previous.as_ref()),
            show::report(model.report.as_ref()),
        ]
    });
    let models = console::render_table(["model", "active", "runs with", "previous", "last report"], rows);
    let counted = view.models.iter().filter(|model| !model.figures.is_empty());
    let counted: String = counted
        .map(|model| format!("\n\n{} over the last day:\n{}", model.model, show::figures(&model.figures)))
        .collect();
    let warning = clone_warning(view).map_or_else(String::new, |warning| format!("\n\n{warning}"));
    let drift: String = drift_warnings(view).map(|warning| format!("\n\n{warning}")).collect();
    format!("{}{warning}\n\n{models}{drift}{counted}", facts.join("\n"))
}

/// Returns a line for each alarm of drift of a device.
fn drift_warnings(view: &DeviceView) -> impl Iterator<Item = String> + '_ {
    view.models.iter().filter_map(|model| {
        let drift = model.drift.as_ref()?;
        let (device, name, version) = (&view.device, &model.model, drift.version);
        let (shift, since) = (drift.shift.replace('-', " "), clock::utc(drift.since_unix_ms));
        Some(format!(
            "{device}: the scores of {name}/{version} have left the distribution of the calibration since {since} ({shift})"
        ))
    })
}
