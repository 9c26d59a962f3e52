//! Tests that damaged files on the hub's disk are found without being fetched, reported with the verb that repairs
//! them, and never served.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use testkit::author::{blob_of, flip_byte};
use testkit::digits::catalog;
use testkit::{Fleet, Hub, story, wait};

/// Exit code of `console::ExitKind::Storage`.
const STORAGE: i32 = 8;

fn warnings(hub: &Hub) -> Result<String> {
    Ok(hub.json(&["status"])?["warnings"].to_string())
}

fn damaged(hub: &Hub) -> Result<f64> {
    Ok(hub.metrics()?.sum("sanderling_blobs_damaged", &[]))
}

/// Waits until status and metric report one damaged file, or none.
fn wait_damaged(hub: &Hub, count: usize) -> Result<()> {
    wait::until_true(&format!("the hub knows of {count} damaged files"), || {
        let told = warnings(hub)?.matches("is damaged on this disk").count();
        Ok(told == count && damaged(hub)?.to_string() == count.to_string())
    })
}

fn doctor(hub: &Hub) -> Result<(Option<i32>, String)> {
    let config = hub.folder().join("hub.toml").display().to_string();
    let done = hub.run(["doctor", "--config", &config])?;
    Ok((done.code, done.stdout))
}

fn fleet_that_looks_often(site: &testkit::Site) -> Result<Fleet> {
    let mut hub = site.hub_of_whole_files()?;
    hub.config().set("hub.scrub_every", "1s")?;
    hub.start()?;
    Fleet::with_hub(site, hub)
}

fn manifest_of(hub: &Hub, version: u64) -> Result<PathBuf> {
    let model = hub.model("digits")?;
    let versions = model["versions"].as_array().cloned().unwrap_or_default();
    let found = versions.iter().find(|entry| entry["version"] == version).context("the version")?;
    let digest = found["manifest"].as_str().and_then(|digest| digest.strip_prefix("sha256:")).context("a digest")?;
    Ok(hub.folder().join("blobs/sha256").join(digest))
}

/// Truncates a file to half of its length.
fn cut(path: &Path) -> Result<()> {
    let length = fs::metadata(path)?.len();
    fs::File::options().write(true).open(path)?.set_len(length / 2).context("cut the file")
}

#[test]
fn whatever_rots_while_the_hub_runs_is_named_with_the_verb_that_mends_it() {
    story(|site| {
        let fleet = fleet_that_looks_often(site)?;
        let (hub, v1) = (&fleet.hub, catalog().join("v1"));
        // The hub's own variant, a device's, and the manifest; a flipped bit, a truncation, a lost file.
        type Harm = fn(&Path) -> Result<()>;
        let harms: [(PathBuf, Harm, &str); 4] = [
            (blob_of(hub, "digits", 1, "hub")?, |path| flip_byte(path, 300_000), "damaged"),
            (blob_of(hub, "digits", 1, "device")?, cut, "damaged"),
            (blob_of(hub, "digits", 1, "hub")?, |path| Ok(fs::remove_file(path)?), "missing"),
            (manifest_of(hub, 1)?, |path| flip_byte(path, 100), "damaged"),
        ];
        for (file, harm, found) in harms {
            harm(&file)?;
            wait_damaged(hub, 1)?;
            let told = warnings(hub)?;
            ensure!(told.contains("of digits/1") && told.contains("cloud-hub model push"), "{told}");
            let (code, report) = doctor(hub)?;
            ensure!(code == Some(STORAGE), "doctor ended with {code:?}: {report}");
            for word in ["digits/1", found, "cloud-hub model push"] {
                ensure!(report.contains(word), "doctor does not say {word:?}: {report}");
            }
            // The hub continues to serve its loaded models.
            fleet.infer(0, "only-hub")?.ok()?;
            hub.push(&v1, &[])?.ok()?;
            wait_damaged(hub, 0)?;
            let (code, report) = doctor(hub)?;
            ensure!(code == Some(0) && report.contains("published files match their digests"), "{code:?}: {report}");
        }
        Ok(())
    });
}

#[test]
fn a_file_that_rotted_while_the_hub_was_stopped_is_found_at_the_start_and_never_served() {
    story(|site| {
        let mut fleet = Fleet::of_whole_files(site)?;
        let blob = blob_of(&fleet.hub, "digits", 1, "device")?;
        let good = fs::read(&blob)?;
        fleet.hub.stop()?;
        flip_byte(&blob, 2000)?;
        let (code, report) = doctor(&fleet.hub)?;
        ensure!(code == Some(STORAGE) && report.contains("of digits/1 is damaged"), "a stopped hub: {code:?} {report}");
        fleet.hub.start()?;
        wait_damaged(&fleet.hub, 1)?;
        // A device that needs the file does not receive it, and does not report the hub as tampering.
        let attic = site.enrolled_agent(&fleet.hub, "attic")?;
        let report = fleet.hub.refusal("attic", "digits", 1)?;
        ensure!(report["outcome"] == "retrying", "it will be tried again: {report}");
        ensure!(report["detail"].as_str().is_some_and(|detail| detail.contains("damaged on the hub")), "{report}");
        fs::write(&blob, good)?;
        fleet.hub.push(&catalog().join("v1"), &[])?.ok()?;
        attic.wait_version("digits", 1)
    });
}

#[test]
fn a_file_that_is_put_back_by_hand_is_noticed_and_fetched_without_an_operator() {
    story(|site| {
        let fleet = fleet_that_looks_often(site)?;
        let blob = blob_of(&fleet.hub, "digits", 1, "device")?;
        let good = fs::read(&blob)?;
        flip_byte(&blob, 2000)?;
        wait_damaged(&fleet.hub, 1)?;
        let attic = site.enrolled_agent(&fleet.hub, "attic")?;
        fleet.hub.refusal("attic", "digits", 1)?;
        fs::write(&blob, good)?;
        wait_damaged(&fleet.hub, 0)?;
        attic.wait_version("digits", 1)
    });
}

/// Tests that a file that was damaged at the start is used once it is pushed again, and that its warning ends.
#[test]
fn what_was_damaged_at_the_start_is_mended_by_a_push_without_a_restart() {
    story(|site| {
        let mut fleet = Fleet::of_whole_files(site)?;
        let harmed = [blob_of(&fleet.hub, "digits", 1, "hub")?, manifest_of(&fleet.hub, 1)?];
        for file in harmed {
            fleet.hub.stop()?;
            flip_byte(&file, 100)?;
            fleet.hub.start()?;
            wait_damaged(&fleet.hub, 1)?;
            let told = warnings(&fleet.hub)?;
            ensure!(told.contains("digits/1"), "{told}");
            fleet.agent.wait_hub(true)?;
            fleet.expect_local(1)?;
            fleet.hub.push(&catalog().join("v1"), &[])?.ok()?;
            wait_damaged(&fleet.hub, 0)?;
            let told = warnings(&fleet.hub)?;
            ensure!(!told.contains("digits/1"), "a warning stays: {told}");
            let asked = fleet.infer(0, "only-hub")?.ok()?;
            ensure!(asked.parameter("place") == "hub", "{}", asked.json);
        }
        Ok(())
    });
}

#[test]
fn a_manifest_that_is_put_back_by_hand_is_served_again() {
    story(|site| {
        let mut fleet = fleet_that_looks_often(site)?;
        let manifest = manifest_of(&fleet.hub, 1)?;
        let good = fs::read(&manifest)?;
        fleet.hub.stop()?;
        fs::remove_file(&manifest)?;
        fleet.hub.start()?;
        wait_damaged(&fleet.hub, 1)?;
        fs::write(&manifest, good)?;
        wait_damaged(&fleet.hub, 0)?;
        site.enrolled_agent(&fleet.hub, "attic")?.wait_version("digits", 1)
    });
}
