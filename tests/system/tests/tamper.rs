//! Tests that a version which differs from the signed one never serves: the active one continues, and the operator sees
//! the reason.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use testkit::author::{ModelFolder, blob_of, flip_byte};
use testkit::digits::catalog;
use testkit::{Fleet, Site, story};

/// Checks that `version` was refused, that the operator sees it in both lists, and that v1 continues to serve.
fn expect_refused(fleet: &Fleet, version: u64) -> Result<Value> {
    let report = fleet.hub.refusal("kitchen", "digits", version)?;
    ensure!(report["detail"].as_str().is_some_and(|detail| !detail.is_empty()), "no reason is told: {report}");
    fleet.expect_local(1)?;
    ensure!(fleet.agent.active_version("digits")? == Some(1), "the device moved");
    let seen = fleet.hub.model("digits")?["devices"][0]["report"].clone();
    ensure!(seen["version"] == version && seen["outcome"] == report["outcome"], "model status shows {seen}");
    let table = fleet.hub.run(["device", "show", "kitchen"])?.ok()?.stdout;
    ensure!(table.contains(report["outcome"].as_str().unwrap_or("?")), "the table does not show it:\n{table}");
    Ok(report)
}

/// Checks that a good version after a bad one is installed.
fn expect_recovery(fleet: &Fleet, site: &Site, version: u64) -> Result<()> {
    let good = ModelFolder::copy(site, "v2", version)?;
    fleet.hub.push(good.path(), &[])?.ok()?;
    fleet.agent.wait_version("digits", version)?;
    fleet.expect_local(version)
}

#[test]
fn one_flipped_byte_in_the_model_file_is_refused() {
    story(|site| {
        let fleet = Fleet::of_whole_files(site)?;
        fleet.hub.push(&catalog().join("v2"), &["--hold"])?.ok()?;
        flip_byte(&blob_of(&fleet.hub, "digits", 2, "device")?, 5000)?;
        fleet.hub.offer("digits", 2)?.ok()?;
        expect_refused(&fleet, 2)?;
        expect_recovery(&fleet, site, 3)
    });
}

#[test]
fn an_older_version_is_not_taken() {
    story(|site| {
        let mut fleet = Fleet::serving_v1(site)?;
        let old_trust = site.folder().join("trust-before-v2");
        copy_folder(&fleet.hub.folder().join("trust/metadata"), &old_trust)?;
        fleet.hub.push(&catalog().join("v2"), &[])?.ok()?;
        fleet.agent.wait_version("digits", 2)?;
        // By a regular request: the operator offers version 1 again.
        let offered = fleet.hub.offer("digits", 1)?;
        if offered.code == Some(0) {
            let report = fleet.hub.refusal("kitchen", "digits", 1)?;
            ensure!(report["detail"].as_str().is_some_and(|detail| !detail.is_empty()), "{report}");
        } else {
            ensure!(offered.stderr.contains("older") || offered.stderr.contains("newer"), "{}", offered.stderr);
        }
        fleet.expect_local(2)?;
        // By force: anyone with control over the hub restores the earlier metadata, which was signed at its time.
        fleet.hub.stop()?;
        let trust = fleet.hub.folder().join("trust/metadata");
        fs::remove_dir_all(&trust)?;
        copy_folder(&old_trust, &trust)?;
        // The hub may detect this and refuse to start, which is equally good.
        if fleet.hub.start().is_err() {
            return fleet.expect_local(2);
        }
        fleet.agent.wait_hub(true)?;
        fleet.expect_local(2)?;
        // Whether or not the hub offers it, the device does not go back.
        fleet.hub.offer("digits", 1)?;
        fleet.expect_local(2)?;
        // New signatures of the offline keys have a higher number than everything before (decision 0010), so the device
        // follows again, forward only.
        let third = ModelFolder::copy(site, "v1", 3)?;
        fleet.hub.push(third.path(), &[])?.ok()?;
        fleet.agent.wait_version("digits", 3)
    });
}

fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from).with_context(|| format!("read folder {}", from.display()))? {
        let path = entry?.path();
        fs::copy(&path, to.join(path.file_name().context("a name")?))?;
    }
    Ok(())
}

#[test]
fn a_version_without_a_signature_is_refused() {
    story(|site| {
        let mut fleet = Fleet::serving_v1(site)?;
        fleet.hub.push(&catalog().join("v2"), &["--hold"])?.ok()?;
        let targets = newest_targets(&fleet.hub.folder().join("trust/metadata"))?;
        let mut signed: Value = serde_json::from_slice(&fs::read(&targets)?)?;
        signed["signatures"] = Value::Array(Vec::new());
        fs::write(&targets, serde_json::to_vec(&signed)?)?;
        let offered = fleet.hub.offer("digits", 2)?;
        if offered.code == Some(0) {
            expect_refused(&fleet, 2)?;
            return Ok(());
        }
        // The hub detected it first and reports it; the device must not have changed.
        ensure!(!offered.stderr.is_empty(), "the hub refused without a word");
        fleet.expect_local(1)?;
        fleet.hub.stop().map(drop)
    });
}

fn newest_targets(metadata: &Path) -> Result<PathBuf> {
    let number =
        |path: &PathBuf| -> Option<u64> { path.file_name()?.to_str()?.strip_suffix(".targets.json")?.parse().ok() };
    let files = fs::read_dir(metadata)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<PathBuf>>>()?;
    files.into_iter().filter(|path| number(path).is_some()).max_by_key(number).context("a targets file")
}
