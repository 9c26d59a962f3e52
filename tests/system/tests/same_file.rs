//! Tests that models and versions with the same files never affect each other, whatever happens to one of them.

use std::fs;
use std::path::Path;

use anyhow::{Result, ensure};
use testkit::agent::files_below;
use testkit::author::ModelFolder;
use testkit::digits::catalog;
use testkit::{Agent, Hub, Site, story, wait};

/// Number of models with the same file on each device.
const MODELS: u64 = 8;

fn name(number: u64) -> String {
    format!("same{number}")
}

/// Publishes catalog digits v1 under many names: every model has identical files.
fn publish_same(hub: &Hub, site: &Site, models: std::ops::RangeInclusive<u64>) -> Result<()> {
    let folder = ModelFolder::copy(site, "v1", 1)?;
    for number in models {
        folder.edit(|text| {
            let lines = text.lines().map(|line| {
                if line.starts_with("model =") { format!("model = \"{}\"", name(number)) } else { line.to_owned() }
            });
            lines.collect::<Vec<_>>().join("\n") + "\n"
        })?;
        hub.push(folder.path(), &[])?.ok()?;
    }
    Ok(())
}

fn follower(site: &Site, hub: &Hub, device: &str) -> Result<Agent> {
    let mut agent = site.agent(device)?;
    // One variant of each model, so that all models have the same files and no others.
    agent.config().set("updates.measure_variants", 1)?;
    for number in 1..=MODELS {
        agent.config().set(&format!("models.{}.policy", name(number)), "only-device")?;
    }
    agent.enrol(hub)?;
    Ok(agent)
}

fn wait_all(agent: &Agent) -> Result<()> {
    (1..=MODELS).try_for_each(|number| agent.wait_version(&name(number), 1))
}

fn expect_no_trouble(site: &Site, device: &str) -> Result<()> {
    let log = fs::read_to_string(site.folder().join(format!("{device}.log")))?;
    for trouble in ["storage:", "tampered", "damaged", "outcome=\"rejected\"", "outcome=rejected"] {
        let line = log.lines().find(|line| line.contains(trouble));
        ensure!(line.is_none(), "{device} had trouble: {}", line.unwrap_or_default());
    }
    Ok(())
}

/// Returns the size of a device variant of digits v1 in bytes: its model and its golden file.
fn bytes_of_one(agent: &Agent) -> Result<u64> {
    let place = agent.state_dir().join("models").join(name(1)).join("1");
    let files = files_below(&place)?.into_iter().filter(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        name != "manifest.json" && !name.starts_with('.')
    });
    Ok(files.map(|path| path.metadata().map_or(0, |found| found.len())).sum())
}

#[test]
fn many_models_with_one_file_all_become_active_and_the_file_is_fetched_once() {
    story(|site| {
        let mut hub = site.hub_of_whole_files()?;
        hub.start()?;
        publish_same(&hub, site, 1..=MODELS)?;
        for device in ["d1", "d2", "d3"] {
            let mut agent = follower(site, &hub, device)?;
            agent.start()?;
            wait_all(&agent)?;
            expect_no_trouble(site, device)?;
            let fetched = agent.metrics()?.sum("sanderling_update_bytes_total", &[]);
            let once = bytes_of_one(&agent)?;
            // The count is a whole number far below 2^53.
            ensure!(fetched.to_string() == once.to_string(), "{fetched} bytes fetched for files of {once} bytes");
            agent.stop()?;
        }
        Ok(())
    });
}

#[test]
fn an_agent_killed_while_models_share_a_file_goes_on_after_the_restart() {
    story(|site| {
        let mut hub = site.hub_of_whole_files()?;
        hub.start()?;
        publish_same(&hub, site, 1..=MODELS)?;
        let mut agent = follower(site, &hub, "d1")?;
        for step in ["manifest-stored", "chunk-stored", "files-stored", "version-stored"] {
            agent.env("SANDERLING_CRASH_AT", step);
            agent.start()?;
            wait::until(&format!("the agent dies at {step}"), || agent.daemon()?.ended())?;
        }
        agent.env("SANDERLING_CRASH_AT", "");
        agent.start()?;
        wait_all(&agent)?;
        expect_no_trouble(site, "d1")?;
        ensure!(fs::read_dir(agent.state_dir().join("incoming"))?.count() == 0, "something is left of the downloads");
        Ok(())
    });
}

#[test]
fn a_model_that_is_superseded_half_way_takes_nothing_from_one_with_the_same_file() {
    story(|site| {
        let mut hub = site.hub_of_whole_files()?;
        hub.start()?;
        publish_same(&hub, site, 1..=MODELS)?;
        let mut agent = follower(site, &hub, "d1")?;
        agent.env("SANDERLING_CRASH_AT", "chunk-stored");
        agent.start()?;
        wait::until("the agent dies with a part on its disk", || agent.daemon()?.ended())?;
        agent.env("SANDERLING_CRASH_AT", "");
        // While it is stopped, one of the models moves on: its unfinished update is removed.
        let folder = ModelFolder::copy(site, "v2", 2)?;
        folder.edit(|text| text.replacen("model = \"digits\"", "model = \"same1\"", 1))?;
        hub.push(folder.path(), &[])?.ok()?;
        agent.start()?;
        agent.wait_version(&name(1), 2)?;
        (2..=MODELS).try_for_each(|number| agent.wait_version(&name(number), 1))?;
        expect_no_trouble(site, "d1")
    });
}

#[test]
fn a_damaged_local_copy_and_a_lost_part_are_fetched_anew_and_never_called_tampering() {
    story(|site| {
        let mut hub = site.hub_of_whole_files()?;
        hub.start()?;
        publish_same(&hub, site, 1..=1)?;
        let mut agent = follower(site, &hub, "d1")?;
        agent.start()?;
        agent.wait_version(&name(1), 1)?;
        // The last byte of the copy that the next models would use is damaged.
        for path in files_below(&agent.state_dir().join("models"))? {
            if path.extension().is_some_and(|ending| ending == "onnx") {
                testkit::author::flip_byte(&path, 0)?;
            }
        }
        publish_same(&hub, site, 2..=MODELS)?;
        (2..=MODELS).try_for_each(|number| agent.wait_version(&name(number), 1))?;
        let log = fs::read_to_string(site.folder().join("d1.log"))?;
        ensure!(!log.contains("tampered"), "a fault of the device's disk was called tampering");
        agent.stop()?;
        // At the next start the damaged version itself is fetched again.
        agent.start()?;
        wait_all(&agent)
    });
}

#[test]
fn a_file_that_rotted_on_the_hub_is_not_sent_is_shown_and_is_fetched_again_once_it_is_pushed() {
    story(|site| {
        let fleet = testkit::Fleet::of_whole_files(site)?;
        let v2 = catalog().join("v2");
        fleet.hub.push(&v2, &["--hold"])?.ok()?;
        let blob = testkit::author::blob_of(&fleet.hub, "digits", 2, "device")?;
        testkit::author::flip_byte(&blob, 5000)?;
        fleet.hub.offer("digits", 2)?.ok()?;
        let report = fleet.hub.refusal("kitchen", "digits", 2)?;
        ensure!(report["detail"].as_str().is_some_and(|detail| detail.contains("damaged on the hub")), "{report}");
        ensure!(report["outcome"] == "retrying", "it will be tried again: {report}");
        fleet.expect_local(1)?;
        let status = fleet.hub.json(&["status"])?["warnings"].to_string();
        ensure!(status.contains("digits/2") && status.contains("damaged"), "status does not show it: {status}");
        // The same push repairs it, and the device installs it automatically.
        let pushed = fleet.hub.push(&v2, &[])?.ok()?;
        ensure!(pushed.stdout.contains("1 of"), "one file is sent again: {}", pushed.stdout);
        fleet.agent.wait_version("digits", 2)?;
        let status = fleet.hub.json(&["status"])?["warnings"].to_string();
        ensure!(!status.contains("damaged"), "the damage is gone: {status}");
        missing_too(&fleet, &v2, &blob)
    });
}

/// Checks that a missing blob is repaired in the same way.
fn missing_too(fleet: &testkit::Fleet, folder: &Path, blob: &Path) -> Result<()> {
    fs::remove_file(blob)?;
    fleet.hub.push(folder, &[])?.ok()?;
    ensure!(blob.exists(), "a push does not bring a missing file back");
    Ok(())
}
