//! Tests of a hub that stops and restarts: devices reconnect, and its records persist.

use anyhow::ensure;
use testkit::digits::catalog;
use testkit::{Fleet, story};

#[test]
fn a_killed_hub_comes_back_with_all_it_acknowledged() {
    story(|site| {
        let mut fleet = Fleet::serving_v1(site)?;
        fleet.hub.push(&catalog().join("v2"), &[])?.ok()?;
        let token = fleet.hub.token("attic")?;
        fleet.hub.kill()?;
        fleet.hub.start()?;
        let model = fleet.hub.model("digits")?;
        ensure!(model["latest"] == 2 && model["offered"] == 2, "{model}");
        ensure!(fleet.hub.device("kitchen")?["state"] == "enrolled", "the device is forgotten");
        // A token that was created before the crash is still valid.
        let second = site.agent("attic")?;
        second.enrol_with(&token)?.ok()?;
        fleet.agent.wait_version("digits", 2)
    });
}

#[test]
fn devices_reconnect_by_themselves() {
    story(|site| {
        let mut fleet = Fleet::serving_v1(site)?;
        fleet.agent.wait_hub(true)?;
        for _round in 0..2 {
            fleet.hub.stop()?;
            fleet.agent.wait_hub(false)?;
            fleet.expect_local(1)?;
            fleet.hub.start()?;
            fleet.agent.wait_hub(true)?;
            let reply = fleet.infer(3, "only-hub")?.ok()?;
            ensure!(reply.parameter("place") == "hub", "{}", reply.json);
        }
        Ok(())
    });
}

#[test]
fn an_update_that_the_hub_interrupts_is_finished_later() {
    story(|site| {
        let mut fleet = Fleet::serving_v1(site)?;
        // The device is notified and the hub is killed at once: the fetched bytes are kept.
        fleet.hub.push(&catalog().join("v2"), &[])?.ok()?;
        fleet.hub.kill()?;
        fleet.infer(0, "only-device")?.ok()?;
        fleet.hub.start()?;
        fleet.agent.wait_version("digits", 2)
    });
}
