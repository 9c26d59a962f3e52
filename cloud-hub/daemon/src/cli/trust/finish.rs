//! The end of every change: signatures of the keys at hand, then the hub, or a file for the next holder.

use std::path::Path;

use console::{CliError, ExitKind, OrExit, Output};
use model_tools::sign::{Change, PublicKey};
use serde::Serialize;
use store::files::{self, Mode};

use super::keys::Keyring;
use super::site::Site;
use crate::api::PublishRequest;
use crate::api::endpoints::PublishVersion;
use crate::api::trust::{TrustChange, TrustChanged};
use crate::cli::withdraw::{self, Removal};

/// End of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Finished {
    /// It is in force.
    InForce,
    /// It waits in a file for further signatures.
    Written,
}

/// A change that waits in a file, as it is printed.
#[derive(Debug, Serialize)]
struct Waiting {
    file: String,
    missing: Vec<String>,
}

/// Signs with the keys at hand, then publishes, or writes the file.
pub(super) fn finish(
    site: &Site,
    mut change: Change,
    keys: &Keyring,
    out: Option<&Path>,
    output: Output,
) -> Result<Finished, CliError> {
    sign(&mut change, keys)?;
    if let Some(file) = out {
        write_change(file, &change)?;
        let waiting = Waiting { file: file.display().to_string(), missing: missing(&change)? };
        let next = still_needed(&change, file)?.join("\n");
        output.print(&waiting, |waiting| format!("{} holds the change\n{next}", waiting.file))?;
        return Ok(Finished::Written);
    }
    let missing = missing(&change)?;
    if !missing.is_empty() {
        return Err(CliError::new(ExitKind::Refused, format!("signatures are missing: {}", missing.join("; ")))
            .hint("name further keys with --key FILE, or write the change for their holders with --out FILE"));
    }
    publish(site, &change, output)?;
    Ok(Finished::InForce)
}

/// Adds the signatures of those keys at hand that are needed; returns their number.
pub(super) fn sign(change: &mut Change, keys: &Keyring) -> Result<usize, CliError> {
    let mut wanted: Vec<PublicKey> = Vec::new();
    for missing in change.missing().or_exit(ExitKind::Refused)? {
        wanted.extend(missing.keys);
    }
    let mut signed = 0;
    for (_path, key) in keys.signers(&wanted)? {
        if !change.sign(&key).or_exit(ExitKind::Refused)?.is_empty() {
            signed += 1;
        }
    }
    Ok(signed)
}

fn missing(change: &Change) -> Result<Vec<String>, CliError> {
    let missing = change.missing().or_exit(ExitKind::Refused)?;
    let told = missing.iter().map(|missing| {
        let keys: Vec<String> = missing.keys.iter().map(|key| key.to_string().chars().take(12).collect()).collect();
        let which = if missing.is_previous { "present " } else { "" };
        let role = missing.role.as_str();
        format!("{role} has {} of {} signatures of its {which}keys {}", missing.given, missing.needed, keys.join(", "))
    });
    Ok(told.collect())
}

/// Returns the next steps for a change in a file.
pub(super) fn still_needed(change: &Change, file: &Path) -> Result<Vec<String>, CliError> {
    let missing = missing(change)?;
    let file = file.display();
    if missing.is_empty() {
        return Ok(vec![format!("it has all signatures; publish it: cloud-hub trust publish {file}")]);
    }
    let mut lines = missing;
    lines.push(format!("hand it to a further holder, who runs: cloud-hub trust sign {file} --key THEIR.key"));
    Ok(lines)
}

/// Publishes a change that is complete.
pub(super) fn publish(site: &Site, change: &Change, output: Output) -> Result<(), CliError> {
    let missing = missing(change)?;
    if !missing.is_empty() {
        return Err(CliError::new(ExitKind::Refused, format!("signatures are missing: {}", missing.join("; ")))
            .hint("a further holder adds one: cloud-hub trust sign FILE --key THEIR.key"));
    }
    change.check().or_exit(ExitKind::Refused)?;
    let text = |draft: &Option<model_tools::sign::Draft>| match draft {
        Some(draft) => {
            let bytes = draft.to_signed().or_exit(ExitKind::Failed)?.bytes;
            String::from_utf8(bytes).or_exit(ExitKind::Failed).map(Some)
        }
        None => Ok(None),
    };
    let (root, targets) = (text(&change.root)?, text(&change.targets)?);
    match (&change.push, site) {
        (None, _) => {
            let changed = site.change(&TrustChange { root, targets })?;
            Ok(output.print(&changed, told)?)
        }
        (Some(push), Site::Api(client)) if push.withdraw || push.delete => {
            let removal = if push.delete { Removal::Delete } else { Removal::Withdraw };
            withdraw::send(client, removal, &push.model, push.version, targets.unwrap_or_default(), output)
        }
        (Some(push), Site::Api(client)) => {
            let (version, manifest, hold, force) = (push.version, push.manifest, push.hold, push.force);
            let targets = targets.unwrap_or_default();
            let request = PublishRequest { version, manifest, targets, hold, offer: false, force, strict: false };
            let published = client.send::<PublishVersion>(&push.model, &request)?;
            Ok(output.print(&published, |published| {
                if published.offered != Some(published.version) {
                    return format!(
                        "{}/{} {}",
                        published.model,
                        published.version,
                        crate::cli::push::unoffered(published)
                    );
                }
                format!(
                    "{}/{} is published; {} connected devices were told",
                    published.model, published.version, published.devices_told
                )
            })?)
        }
        (Some(_), Site::Folder { .. }) => {
            Err(CliError::new(ExitKind::Usage, "a version is published by a running hub")
                .hint("start the hub and leave out --config"))
        }
    }
}

fn told(changed: &TrustChanged) -> String {
    let TrustChanged { root_version, targets_version, unchanged } = changed;
    let state = if *unchanged { "were in force already" } else { "are in force; devices follow at their next refresh" };
    format!("root version {root_version} and targets version {targets_version} {state}")
}

/// Reads a prepared change.
pub(super) fn read(file: &Path) -> Result<Change, CliError> {
    Change::read(&super::read_bounded(file)?)
        .or_exit_try(ExitKind::Config, "name a file that was written with --out or --prepare")
}

/// Writes a prepared change.
pub(in crate::cli) fn write_change(file: &Path, change: &Change) -> Result<(), CliError> {
    let text = change.to_text().or_exit(ExitKind::Failed)?;
    files::write_atomic(file, text.as_bytes(), Mode::Shared).or_exit(ExitKind::Storage)
}
