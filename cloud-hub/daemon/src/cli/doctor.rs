//! `cloud-hub doctor`: looks for what is wrong on the hub's machine and says what to do.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::Args;
use console::doctor::{self, Check};
use console::port::Protocol;
use console::{CliError, ExitKind, Output};
use service::doctor::{self as common, Names};
use store::StateLock;
use store::aside::SetAside;

use super::doctor_hub;
use crate::config::HubConfig;
use crate::config::reach;
use crate::hub::second_config;
use crate::records;
use crate::storage::folder::Folder;
use crate::workers::attempts;

/// Free bytes under which the disk is short: one version with its variants takes tens to hundreds of megabytes.
const FREE_BYTES_LEAST: u64 = 512 * 1024 * 1024;

/// Names of the hub in advice.
const NAMES: Names = Names { daemon: "hub", program: "cloud-hub" };

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sudo cloud-hub doctor
  cloud-hub doctor --config hub/hub.toml --json

Tries what the hub does: writes a file into the state folder (and removes it), opens ONNX Runtime, binds the ports of a
hub that does not run, resolves the names in join tokens, reads every published file and compares it with its digest. A
running hub is asked for its warnings, of a stopped one the operator tokens are looked at. With sudo it tries as the user that the hub runs as.
The exit code is that of the first check that failed.")]
pub(super) struct DoctorArgs {
    /// The config file [default: /etc/sanderling/hub.toml].
    #[arg(long, value_name = "FILE", env = "SANDERLING_HUB_CONFIG")]
    config: Option<PathBuf>,
    /// Print JSON instead of text.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &DoctorArgs) -> Result<(), CliError> {
    let output = Output::from_json_flag(args.json);
    let file = super::config::file(args.config.as_deref());
    let config = match super::config::read(&file) {
        Ok(config) => config,
        Err(error) => {
            return doctor::finish(&[common::wrong_configuration(error)], output);
        }
    };
    let folder = Folder::new(&config.hub.state_dir);
    let mut checks = vec![one_config(&config, &folder, &file)];
    checks.extend(state(folder.root()));
    let is_usable = checks.iter().all(Check::is_ok);
    let library = config.inference.onnxruntime.as_deref();
    checks.push(common::library(folder.root(), library, "inference.onnxruntime", ""));
    checks.push(versions(&folder));
    let running = StateLock::holder(folder.root());
    checks.extend(addresses(&config, &folder)?);
    checks.push(match running {
        Some(pid) => Check::ok("hub", format!("process {pid} runs")),
        None => Check::warning("hub", "does not run", "start it: cloud-hub serve, or systemctl start sanderling-hub"),
    });
    if folder.ca_certificate().exists() {
        checks.extend(match running {
            Some(_pid) => doctor_hub::warnings(&config, &folder),
            None => doctor_hub::tokens(&folder),
        });
        checks.extend(doctor_hub::files(&folder));
    }
    if running.is_none() {
        checks.extend(if is_usable { unreadable_records(&folder) } else { Vec::new() });
        checks.push(bound("gateway.listen", Protocol::Udp, config.gateway.listen));
        checks.push(bound("admin.listen", Protocol::Tcp, config.admin.listen));
        checks.push(bound("metrics.listen", Protocol::Tcp, config.metrics.listen));
    }
    doctor::finish(&checks, output)
}

/// Looks for stored records that are not readable. Of a running hub they are among the warnings of `cloud-hub status`.
fn unreadable_records(folder: &Folder) -> Vec<Check> {
    const NAME: &str = "stored records";
    if !folder.store().exists() {
        return Vec::new();
    }
    let found =
        super::init::with_store(folder, async |store| store::aside::find(store.as_ref(), &records::TABLES).await);
    match found {
        Ok(unreadable) => {
            let told = |SetAside { table, key, reason }: SetAside| {
                let what_next = records::consequence(&table).trim_start_matches("; ");
                Check::warning(NAME, format!("record {key} of table {table} was set aside: {reason}"), what_next)
            };
            unreadable.into_iter().map(told).collect()
        }
        Err(error) => {
            let found = telemetry::chain(error.source.as_ref());
            vec![Check::failed(NAME, error.kind, found, error.hint.unwrap_or_default())]
        }
    }
}

/// Names the versions that the hub could not load at its last start.
fn versions(folder: &Folder) -> Check {
    const NAME: &str = "versions";
    match attempts::problems(&folder.loads()).as_slice() {
        [] => Check::ok(NAME, "each one loaded at the last start of the hub"),
        problems => {
            let advice = "push a mended version, or install the runtime that it loads in and restart the hub";
            Check::warning(NAME, problems.join("; "), advice)
        }
    }
}

fn one_config(config: &HubConfig, folder: &Folder, file: &Path) -> Check {
    const NAME: &str = "config";
    match second_config(config, folder) {
        None => Check::ok(NAME, file.display().to_string()),
        Some(second) => Check::warning(
            NAME,
            format!("{} is read, and {} is not", file.display(), second.display()),
            "move what the second one says into the first, and remove it",
        ),
    }
}

/// Tries the state folder as the user that owns it.
fn state(root: &Path) -> Vec<Check> {
    const NAME: &str = "state folder";
    let shown = root.display();
    let owned = match common::ownership(root, NAMES) {
        Ok(owned) => owned,
        Err(error) => {
            let kind = if error.kind() == ErrorKind::NotFound { ExitKind::NotFound } else { ExitKind::Storage };
            let advice = "make a hub with `cloud-hub init`, correct hub.state_dir, or run this with sudo";
            return vec![Check::failed(NAME, kind, format!("look at {shown}: {error}"), advice)];
        }
    };
    if !owned.is_ok() {
        return vec![owned];
    }
    if !Folder::new(root).ca_certificate().exists() {
        let found = format!("there is no hub in {shown} yet");
        return vec![Check::failed(NAME, ExitKind::NotFound, found, "make one: cloud-hub init --help")];
    }
    vec![owned, common::writing(root), room(root)]
}

fn room(root: &Path) -> Check {
    common::disk_space(root, FREE_BYTES_LEAST, |name, free| {
        let found = format!("{free} free: the next version may not fit");
        Check::warning(name, found, "free some space, or move hub.state_dir to a larger disk")
    })
}

/// Judges the addresses in join tokens, and asks the resolver.
fn addresses(config: &HubConfig, folder: &Folder) -> Result<Vec<Check>, CliError> {
    const NAME: &str = "addresses";
    let port = super::locate::listening(folder).map_or(config.gateway.listen.port(), |listening| listening.quic.port());
    let mut warnings = reach::unreachable(config, port);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    warnings.extend(runtime.block_on(reach::unresolved(config, port)));
    // A resolver that does not answer must not hold up the end of this verb.
    runtime.shutdown_background();
    if warnings.is_empty() {
        let addresses = reach::public_addresses(config, port).join(", ");
        return Ok(vec![Check::ok(NAME, format!("join tokens tell devices to dial {addresses}"))]);
    }
    let check = |warning: String| match warning.rsplit_once(": ") {
        Some((found, advice)) => Check::warning(NAME, found, advice),
        None => Check::warning(NAME, warning, "correct hub.names"),
    };
    Ok(warnings.into_iter().map(check).collect())
}

/// Binds a port of a hub that does not run.
fn bound(field: &'static str, protocol: Protocol, address: SocketAddr) -> Check {
    common::port(field, protocol, address, |address| common::any_holder(protocol, address))
}
