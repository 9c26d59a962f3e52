//! Tests that a wrong version number can be withdrawn and that no number ever means two versions on a device.

use anyhow::{Result, ensure};
use testkit::author::ModelFolder;
use testkit::digits::catalog;
use testkit::{Finished, Fleet, Hub, story, wait};

fn withdraw(hub: &Hub, version: u64) -> Result<Finished> {
    let keys = hub.keys().display().to_string();
    hub.run(["model", "withdraw", "digits", &version.to_string(), "--keys", &keys])
}

fn offered(hub: &Hub) -> Result<Option<u64>> {
    Ok(hub.model("digits")?["offered"].as_u64())
}

#[test]
fn a_number_that_no_device_took_is_free_again_for_other_content() {
    story(|site| {
        let mut fleet = Fleet::serving_v1(site)?;
        fleet.agent.stop()?;
        // 20 instead of 2, pushed and offered while no device is connected.
        fleet.hub.push(ModelFolder::copy(site, "v2", 20)?.path(), &[])?.ok()?;
        ensure!(offered(&fleet.hub)? == Some(20), "the wrong number is offered");
        withdraw(&fleet.hub, 20)?.ok()?;
        ensure!(offered(&fleet.hub)? == Some(1), "the version before is offered again");
        let again = withdraw(&fleet.hub, 20)?;
        ensure!(again.code != Some(0) && again.stderr.contains("not published"), "{}", again.stderr);
        fleet.hub.push(&catalog().join("v2"), &[])?.ok()?;
        fleet.agent.start()?;
        fleet.agent.wait_version("digits", 2)?;
        // The number itself can be reused for other content, also after a restart of the hub.
        let other = ModelFolder::copy(site, "v1", 20)?;
        fleet.hub.push(other.path(), &["--hold"])?.ok()?;
        fleet.hub.stop()?;
        fleet.hub.start()?;
        fleet.hub.offer("digits", 20)?.ok()?;
        fleet.agent.wait_version("digits", 20)?;
        fleet.expect_local(20)
    });
}

#[test]
fn a_version_that_a_device_has_or_may_have_is_not_withdrawn() {
    story(|site| {
        let mut fleet = Fleet::serving_v1(site)?;
        fleet.hub.push(&catalog().join("v2"), &[])?.ok()?;
        fleet.agent.wait_version("digits", 2)?;
        for version in [1, 2] {
            let refused = withdraw(&fleet.hub, version)?;
            ensure!(refused.code != Some(0) && refused.stderr.contains("kitchen"), "{version}: {}", refused.stderr);
        }
        // A device that was killed during the fetch may have the version, although it never reported so.
        fleet.agent.stop()?;
        fleet.agent.env("SANDERLING_CRASH_AT", "manifest-stored");
        fleet.agent.start()?;
        fleet.hub.push(ModelFolder::copy(site, "v1", 3)?.path(), &[])?.ok()?;
        wait::until("the agent dies", || fleet.agent.daemon()?.ended())?;
        fleet.hub.kill()?;
        fleet.hub.start()?;
        let refused = withdraw(&fleet.hub, 3)?;
        ensure!(refused.code != Some(0) && refused.stderr.contains("kitchen"), "{}", refused.stderr);
        ensure!(offered(&fleet.hub)? == Some(3), "a refused withdrawal changes nothing");
        fleet.agent.env("SANDERLING_CRASH_AT", "");
        fleet.agent.start()?;
        fleet.agent.wait_version("digits", 3)
    });
}

#[test]
fn a_version_that_every_device_gave_up_is_withdrawn_and_its_number_works_with_good_content() {
    story(|site| {
        let mut fleet = Fleet::serving_v1(site)?;
        fleet.agent.stop()?;
        fleet.agent.config().set("models.digits.variant", "int8-qdq")?;
        fleet.agent.start()?;
        fleet.agent.wait_version("digits", 1)?;
        // A version without the variant that this device is configured for.
        let bad = ModelFolder::copy(site, "v2", 5)?;
        bad.edit(|text| text.replacen("name = \"int8-qdq\"", "name = \"int8-other\"", 1))?;
        fleet.hub.push(bad.path(), &[])?.ok()?;
        let report = fleet.hub.refusal("kitchen", "digits", 5)?;
        ensure!(report["outcome"] == "rejected", "{report}");
        withdraw(&fleet.hub, 5)?.ok()?;
        let good = ModelFolder::copy(site, "v1", 5)?;
        fleet.hub.push(good.path(), &[])?.ok()?;
        fleet.agent.wait_version("digits", 5)?;
        fleet.expect_local(5)
    });
}

#[test]
fn a_held_version_is_not_sent_to_devices_before_it_is_offered() {
    story(|site| {
        let fleet = Fleet::serving_v1(site)?;
        fleet.hub.push(&catalog().join("v2"), &["--hold"])?.ok()?;
        let view = fleet.hub.model("digits")?;
        ensure!(view["versions"][0]["held"] == true && view["offered"] == 1, "{view}");
        withdraw(&fleet.hub, 2)?.ok()?;
        let again = ModelFolder::copy(site, "v2", 2)?;
        fleet.hub.push(again.path(), &["--hold"])?.ok()?;
        fleet.expect_local(1)?;
        fleet.hub.offer("digits", 2)?.ok()?;
        fleet.agent.wait_version("digits", 2)?;
        ensure!(fleet.hub.model("digits")?["versions"][0]["held"] == false, "it was offered");
        fleet.expect_local(2)
    });
}
