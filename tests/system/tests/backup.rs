//! Tests of a restored backup: the hub is lost with all its disks, restored from one file, and the devices continue.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use testkit::author::ModelFolder;
use testkit::digits::catalog;
use testkit::{Finished, Fleet, Hub, Site, story};

fn create(hub: &Hub, file: &Path) -> Result<Finished> {
    let config = hub.folder().join("hub.toml");
    Finished::run(hub.command().args(["backup", "create"]).arg(file).arg("--config").arg(config))
}

fn restore(hub: &Hub, file: &Path) -> Result<Finished> {
    Finished::run(hub.command().args(["backup", "restore"]).arg(file).arg("--dir").arg(hub.folder()))
}

/// Destroys the state of the hub, as the loss of its machine does.
fn lose(hub: &mut Hub) -> Result<()> {
    hub.kill()?;
    fs::remove_dir_all(hub.folder()).context("remove the hub's folder")
}

fn file(site: &Site) -> PathBuf {
    site.folder().join("hub.backup")
}

#[test]
fn a_lost_hub_comes_back_from_its_backup_and_its_devices_update() {
    story(|site| {
        let mut fleet = Fleet::serving_v1(site)?;
        // While the hub serves.
        create(&fleet.hub, &file(site))?.ok()?;
        let mode = fs::metadata(file(site))?.permissions().mode() & 0o777;
        ensure!(mode == 0o600, "the backup has mode {mode:o}");
        let left: Vec<_> = fs::read_dir(fleet.hub.folder())?
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| name.starts_with("backup-"))
            .collect();
        ensure!(left.is_empty(), "snapshots stay behind: {left:?}");
        let again = create(&fleet.hub, &file(site))?;
        ensure!(again.code != Some(0), "a backup was overwritten");
        lose(&mut fleet.hub)?;
        restore(&fleet.hub, &file(site))?.ok()?;
        let key = fs::metadata(fleet.hub.folder().join("ca/ca.key"))?.permissions().mode() & 0o777;
        ensure!(key == 0o600, "the CA's key has mode {key:o}");
        fleet.hub.start()?;
        fleet.hub.wait_connected("kitchen", true)?;
        ensure!(fleet.hub.model("digits")?["offered"] == 1, "the hub has forgotten its models");
        let asked = fleet.infer(0, "only-hub")?.ok()?;
        ensure!(asked.parameter("place") == "hub", "{}", asked.json);
        fleet.hub.push(&catalog().join("v2"), &[])?.ok()?;
        fleet.agent.wait_version("digits", 2)?;
        let status = fleet.hub.json(&["status"])?["warnings"].to_string();
        ensure!(status.contains("restored") && status.contains("revoke"), "{status}");
        Ok(())
    });
}

#[test]
fn a_backup_older_than_the_last_push_is_followed_after_the_next_push_or_renewal() {
    story(|site| {
        let mut fleet = Fleet::serving_v1(site)?;
        create(&fleet.hub, &file(site))?.ok()?;
        // Everything after this is lost with the hub, but known to the device.
        fleet.hub.push(&catalog().join("v2"), &[])?.ok()?;
        fleet.agent.wait_version("digits", 2)?;
        for _start in 0..2 {
            fleet.hub.stop()?;
            fleet.hub.start()?;
        }
        lose(&mut fleet.hub)?;
        restore(&fleet.hub, &file(site))?.ok()?;
        fleet.hub.start()?;
        fleet.hub.wait_connected("kitchen", true)?;
        fleet.expect_local(2)?;
        // The lost version is pushed again: the device has it, and reports so.
        fleet.hub.push(&catalog().join("v2"), &[])?.ok()?;
        fleet.hub.push(ModelFolder::copy(site, "v1", 3)?.path(), &[])?.ok()?;
        fleet.agent.wait_version("digits", 3)?;
        // Restored again from the same old backup, with the list of versions signed again: nothing that devices saw is
        // newer.
        lose(&mut fleet.hub)?;
        restore(&fleet.hub, &file(site))?.ok()?;
        let config = fleet.hub.folder().join("hub.toml");
        let mut renew = fleet.hub.command();
        renew.args(["trust", "renew", "--targets", "--keys"]).arg(fleet.hub.keys()).arg("--config").arg(config);
        Finished::run(&mut renew)?.ok()?;
        fleet.hub.start()?;
        fleet.hub.wait_connected("kitchen", true)?;
        fleet.hub.push(ModelFolder::copy(site, "v2", 4)?.path(), &[])?.ok()?;
        fleet.agent.wait_version("digits", 4)?;
        fleet.expect_local(4)
    });
}

#[test]
fn devices_enrolled_after_the_backup_are_readmitted_by_a_verb_and_lost_revocations_are_told() {
    story(|site| {
        let mut fleet = Fleet::serving_v1(site)?;
        let mut cellar = site.enrolled_agent(&fleet.hub, "cellar")?;
        fleet.hub.run(["device", "revoke", "cellar", "--why", "stolen"])?.ok()?;
        cellar.stop()?;
        create(&fleet.hub, &file(site))?.ok()?;
        let mut attic = site.enrolled_agent(&fleet.hub, "attic")?;
        attic.wait_version("digits", 1)?;
        lose(&mut fleet.hub)?;
        let restored = restore(&fleet.hub, &file(site))?.ok()?;
        ensure!(restored.stdout.contains("cellar") && restored.stdout.contains("stolen"), "{}", restored.stdout);
        ensure!(restored.stdout.contains("REVOKED SINCE"), "{}", restored.stdout);
        fleet.hub.start()?;
        fleet.hub.wait_connected("kitchen", true)?;
        let early = fleet.hub.run(["device", "readmit", "nobody"])?;
        ensure!(early.code != Some(0) && early.stderr.contains("connected"), "{}", early.stderr);
        // It connects at its next start, and is listed.
        attic.stop()?;
        attic.start()?;
        testkit::wait::until_true("the unknown device is shown", || {
            Ok(fleet.hub.json(&["device", "list"])?["unknown"][0]["device"] == "attic")
        })?;
        fleet.hub.run(["device", "readmit", "--all"])?.ok()?;
        attic.stop()?;
        attic.start()?;
        fleet.hub.wait_connected("attic", true)?;
        // The revoked one remains revoked.
        cellar.start()?;
        cellar.wait_trouble(&["revoked"])?;
        ensure!(fleet.hub.device("cellar")?["connected"] == false, "a revoked device came back");
        Ok(())
    });
}

#[test]
fn a_damaged_backup_writes_nothing_and_a_folder_in_use_is_left_alone() {
    story(|site| {
        let mut fleet = Fleet::serving_v1(site)?;
        create(&fleet.hub, &file(site))?.ok()?;
        let occupied = restore(&fleet.hub, &file(site))?;
        ensure!(occupied.code != Some(0) && occupied.stderr.contains("not empty"), "{}", occupied.stderr);
        lose(&mut fleet.hub)?;
        let good = fs::read(file(site))?;
        let step = good.len() / 12;
        for at in (step..good.len() - 2048).step_by(step) {
            let mut bad = good.clone();
            if let Some(byte) = bad.get_mut(at) {
                *byte ^= 0x10;
            }
            fs::write(file(site), bad)?;
            let refused = restore(&fleet.hub, &file(site))?;
            ensure!(refused.code != Some(0), "a backup with byte {at} changed was restored");
            ensure!(!fleet.hub.folder().exists(), "a damaged backup left files");
        }
        fs::write(file(site), good.get(..good.len() / 2).unwrap_or_default())?;
        ensure!(restore(&fleet.hub, &file(site))?.code != Some(0), "half a backup was restored");
        fs::write(file(site), &good)?;
        restore(&fleet.hub, &file(site))?.ok()?;
        fleet.hub.start()?;
        fleet.hub.wait_connected("kitchen", true)
    });
}

#[test]
fn a_stopped_hub_is_backed_up_too_and_a_rotten_file_is_named_and_left_out() {
    story(|site| {
        let mut fleet = Fleet::serving_v1(site)?;
        let blob = testkit::author::blob_of(&fleet.hub, "digits", 1, "device")?;
        fleet.hub.stop()?;
        create(&fleet.hub, &file(site))?.ok()?;
        testkit::author::flip_byte(&blob, 100)?;
        let second = site.folder().join("second.backup");
        let made = create(&fleet.hub, &second)?;
        ensure!(made.code != Some(0) && made.stderr.contains("damaged"), "{}", made.stderr);
        fs::remove_dir_all(fleet.hub.folder())?;
        restore(&fleet.hub, &second)?.ok()?;
        fleet.hub.start()?;
        // The same push restores the file.
        fleet.hub.push(&catalog().join("v1"), &[])?.ok()?;
        ensure!(blob.exists(), "the file was not uploaded again");
        fleet.hub.wait_connected("kitchen", true)
    });
}
