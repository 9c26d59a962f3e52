//! Tests of the procedures in docs/runbook.md and of lost keys in docs/trust.md, on real hubs and devices.

use std::fs;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use testkit::agent::files_below;
use testkit::author::ModelFolder;
use testkit::digits::catalog;
use testkit::{Finished, Fleet, Hub, Site, skip, story, wait};

fn create(hub: &Hub, file: &Path) -> Result<()> {
    let config = hub.folder().join("hub.toml");
    let mut command = hub.command();
    Finished::run(command.args(["backup", "create"]).arg(file).arg("--config").arg(config))?.ok().map(drop)
}

fn restore(hub: &Hub, file: &Path) -> Result<()> {
    let mut command = hub.command();
    Finished::run(command.args(["backup", "restore"]).arg(file).arg("--dir").arg(hub.folder()))?.ok().map(drop)
}

/// Runs a verb of trust with the hub's offline keys.
fn trust(hub: &Hub, args: &[&str]) -> Result<()> {
    let mut command = hub.command();
    Finished::run(command.arg("trust").args(args).arg("--keys").arg(hub.keys()))?.ok().map(drop)
}

fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    for path in files_below(from)? {
        let place = to.join(path.strip_prefix(from)?);
        fs::create_dir_all(place.parent().context("a folder")?)?;
        fs::copy(&path, place)?;
    }
    Ok(())
}

/// Programs that encrypt their input, each with its inverse: those that the runbook names.
const ENCRYPTERS: [(&str, &str, &str); 2] = [
    ("age", "age -r $(age-keygen -y key.txt)", "age -d -i key.txt"),
    (
        "gpg",
        "gpg --homedir . --batch --yes --passphrase secret --pinentry-mode loopback --symmetric",
        "gpg --homedir . --batch --yes --passphrase secret --pinentry-mode loopback --decrypt",
    ),
];

fn shell(site: &Site, script: &str) -> Result<Finished> {
    Finished::run(Command::new("bash").args(["-o", "pipefail", "-ec", script]).current_dir(site.folder()))
}

#[test]
fn a_backup_goes_through_a_pipe_into_an_encrypted_file_and_back() {
    story(|site| {
        let there = |program: &&(&str, &str, &str)| {
            shell(site, &format!("command -v {}", program.0)).is_ok_and(|done| done.code == Some(0))
        };
        let Some((program, encrypt, decrypt)) = ENCRYPTERS.iter().find(there) else {
            skip("neither age nor gpg is installed");
            return Ok(());
        };
        let mut fleet = Fleet::serving_v1(site)?;
        if *program == "age" {
            shell(site, "age-keygen -o key.txt")?.ok()?;
        }
        let (hub, config) = (site.binaries().hub.display(), fleet.hub.folder().join("hub.toml"));
        let script = format!("{hub} backup create - --config {} | {encrypt} > hub.backup.enc", config.display());
        let made = shell(site, &script)?.ok()?;
        ensure!(made.stderr.is_empty() || *program == "gpg", "the backup writes on the terminal: {}", made.stderr);
        fleet.hub.kill()?;
        fs::remove_dir_all(fleet.hub.folder())?;
        shell(site, &format!("umask 077; {decrypt} < hub.backup.enc > hub.backup"))?.ok()?;
        restore(&fleet.hub, &site.folder().join("hub.backup"))?;
        fleet.hub.start()?;
        fleet.hub.wait_connected("kitchen", true)?;
        fleet.hub.push(&catalog().join("v2"), &[])?.ok()?;
        fleet.agent.wait_version("digits", 2)
    });
}

/// Tests that a device stays revoked although the backup contains neither its enrolment nor its revocation.
#[test]
fn a_device_that_was_enrolled_and_revoked_after_the_backup_stays_out() {
    story(|site| {
        let mut fleet = Fleet::serving_v1(site)?;
        let backup = site.folder().join("hub.backup");
        create(&fleet.hub, &backup)?;
        let mut cellar = site.enrolled_agent(&fleet.hub, "cellar")?;
        fleet.hub.run(["device", "revoke", "cellar", "--why", "stolen"])?.ok()?;
        cellar.stop()?;
        fleet.hub.kill()?;
        fs::remove_dir_all(fleet.hub.folder())?;
        restore(&fleet.hub, &backup)?;
        fleet.hub.start()?;
        // In the runbook's order: first of all, before the device has tried.
        fleet.hub.run(["device", "revoke", "cellar", "--why", "stolen"])?.ok()?;
        cellar.start()?;
        cellar.wait_trouble(&["revoked"])?;
        fleet.hub.run(["device", "readmit", "--all"])?;
        ensure!(fleet.hub.run(["device", "readmit", "cellar"])?.code != Some(0), "a revoked device was readmitted");
        ensure!(fleet.hub.device("cellar")?["state"] == "revoked", "it is not revoked");
        // If the device came first, it is known by the certificate that it presented.
        let mut attic = site.agent("attic")?;
        attic.enrol(&fleet.hub)?;
        fleet.hub.stop()?;
        fs::remove_dir_all(fleet.hub.folder())?;
        restore(&fleet.hub, &backup)?;
        fleet.hub.start()?;
        attic.start()?;
        wait::until_true("the unknown device is shown", || {
            Ok(fleet.hub.json(&["device", "list"])?["unknown"][0]["device"] == "attic")
        })?;
        fleet.hub.run(["device", "revoke", "attic"])?.ok()?;
        let list = fleet.hub.json(&["device", "list"])?;
        ensure!(list["unknown"].as_array().is_none_or(Vec::is_empty), "{list}");
        // A hub without losses refuses a name that it does not know.
        fs::remove_file(fleet.hub.folder().join("restored.json"))?;
        fleet.hub.stop()?;
        fleet.hub.start()?;
        let unknown = fleet.hub.run(["device", "revoke", "nobody"])?;
        ensure!(unknown.code == Some(4), "{:?} {}", unknown.code, unknown.stderr);
        Ok(())
    });
}

#[test]
fn a_hub_that_moves_to_another_address_is_followed() {
    story(|site| {
        let mut fleet = Fleet::serving_v1(site)?;
        let old = fleet.hub.address("quic")?;
        // Another machine: another address and port.
        let new = UdpSocket::bind("127.0.0.2:0").context("another address of this machine")?.local_addr()?.to_string();
        fleet.agent.stop()?;
        fleet.agent.config().set("hub.addresses", vec![old, new.clone()])?;
        fleet.agent.start()?;
        fleet.agent.wait_hub(true)?;
        fleet.hub.stop()?;
        let backup = site.folder().join("hub.backup");
        create(&fleet.hub, &backup)?;
        fs::rename(fleet.hub.folder(), site.folder().join("old-machine"))?;
        restore(&fleet.hub, &backup)?;
        fleet.hub.config().set("gateway.listen", new)?;
        fleet.hub.start()?;
        fleet.hub.wait_connected("kitchen", true)?;
        fleet.hub.push(&catalog().join("v2"), &[])?.ok()?;
        fleet.agent.wait_version("digits", 2)?;
        fs::remove_file(fleet.hub.folder().join("restored.json"))?;
        let status = fleet.hub.json(&["status"])?["warnings"].to_string();
        ensure!(!status.contains("restored"), "{status}");
        Ok(())
    });
}

/// Tests a copy of the hub's folder at its address, run by a thief after the owner has rotated the online keys.
#[test]
fn devices_refuse_the_news_of_a_stolen_hub_and_follow_the_true_one() {
    story(|site| {
        let mut fleet = Fleet::serving_v1(site)?;
        fleet.agent.stop()?;
        fleet.agent.config().set("updates.trust_refresh", "1s")?;
        fleet.agent.start()?;
        fleet.hub.stop()?;
        let (own, stolen) = (fleet.hub.folder().to_owned(), site.folder().join("stolen"));
        copy_folder(&own, &stolen)?;
        fleet.hub.start()?;
        trust(&fleet.hub, &["rotate", "online"])?;
        let second_root = fleet.agent.state_dir().join("trust/roots/2.root.json");
        wait::until_true("the device knows the new keys", || Ok(second_root.exists()))?;
        fleet.hub.stop()?;
        // At the same address, with the CA's key: devices connect.
        let kept = site.folder().join("kept");
        fs::rename(&own, &kept)?;
        fs::rename(&stolen, &own)?;
        fleet.hub.start()?;
        fleet.hub.wait_connected("kitchen", true)?;
        wait::until_true("the device refuses what the old keys sign", || {
            let error = fleet.agent.status()?["trust"]["last_error"].clone();
            Ok(error.as_str().is_some_and(|error| error.contains("signed")))
        })?;
        fleet.expect_local(1)?;
        fleet.hub.stop()?;
        fs::rename(&own, site.folder().join("gone"))?;
        fs::rename(&kept, &own)?;
        fleet.hub.start()?;
        fleet.hub.push(&catalog().join("v2"), &[])?.ok()?;
        fleet.agent.wait_version("digits", 2)
    });
}

#[test]
fn a_hub_that_is_lost_without_a_backup_is_made_anew_and_its_devices_enrol_again() {
    story(|site| {
        let mut fleet = Fleet::serving_v1(site)?;
        let address = fleet.hub.address("quic")?;
        fleet.hub.kill()?;
        fs::remove_dir_all(fleet.hub.folder())?;
        let mut new = Hub::init(site, "new-hub")?;
        new.config().set("gateway.listen", address)?;
        new.start()?;
        new.push(&catalog().join("v1"), &[])?.ok()?;
        // During this time the device serves, and reports the problem.
        fleet.expect_local(1)?;
        fleet.agent.stop()?;
        let kept: PathBuf = site.folder().join("kitchen/state.old");
        fs::rename(fleet.agent.state_dir(), kept)?;
        fleet.agent.enrol(&new)?;
        fleet.agent.start()?;
        fleet.agent.wait_version("digits", 1)?;
        new.push(&catalog().join("v2"), &[])?.ok()?;
        fleet.agent.wait_version("digits", 2)
    });
}

#[test]
fn lost_keys_are_replaced_as_long_as_one_root_key_is_left() {
    story(|site| {
        let mut fleet = Fleet::serving_v1(site)?;
        let next = |fleet: &Fleet, version: u64| -> Result<()> {
            fleet.hub.push(ModelFolder::copy(site, "v2", version)?.path(), &[])?.ok()?;
            fleet.agent.wait_version("digits", version)
        };
        // Lost targets key.
        fs::remove_file(fleet.hub.keys().join("targets.key"))?;
        trust(&fleet.hub, &["rotate", "targets"])?;
        next(&fleet, 2)?;
        // Lost online keys: the hub starts and serves without them.
        fleet.hub.stop()?;
        fs::remove_dir_all(fleet.hub.folder().join("trust/online"))?;
        fleet.hub.start()?;
        fleet.agent.wait_hub(true)?;
        fleet.infer(0, "only-hub")?.ok()?;
        let warned = fleet.hub.run(["status"])?.ok()?.stdout;
        ensure!(warned.contains("cloud-hub trust rotate online"), "{warned}");
        trust(&fleet.hub, &["rotate", "online"])?;
        next(&fleet, 3)?;
        // One lost root key of two.
        let second = site.folder().join("second-root");
        let (public, key) = (format!("{}.pub", second.display()), format!("{}.key", second.display()));
        fleet.hub.run(["trust", "keygen", &second.display().to_string()])?.ok()?;
        trust(&fleet.hub, &["add-signer", "root", &public, "--threshold", "1", "--key", &key])?;
        fs::remove_file(fleet.hub.keys().join("root.key"))?;
        fleet.hub.run(["trust", "renew", "--root", "--key", &key])?.ok()?;
        next(&fleet, 4)
    });
}
