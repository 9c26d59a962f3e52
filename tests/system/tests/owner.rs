//! Tests that the owner of a device decides on the versions of its models, before the hub does.

use std::time::Duration;

use anyhow::{Result, ensure};
use testkit::author::ModelFolder;
use testkit::digits::catalog;
use testkit::load::{Load, Summary};
use testkit::{Fleet, InferOptions, Site, story, wait};

/// A device that serves version 3 and keeps versions 2 and 1.
fn serving_v3(site: &Site) -> Result<Fleet> {
    let fleet = Fleet::serving_v1(site)?;
    fleet.hub.push(&catalog().join("v2"), &[])?.ok()?;
    fleet.agent.wait_version("digits", 2)?;
    let third = ModelFolder::copy(site, "v2", 3)?;
    fleet.hub.push(third.path(), &[])?.ok()?;
    fleet.agent.wait_version("digits", 3)?;
    Ok(fleet)
}

fn order(fleet: &Fleet, args: &[&str]) -> Result<String> {
    let out = fleet.agent.run(["model"].iter().chain(args))?.ok()?;
    Ok(out.stdout)
}

fn status(fleet: &Fleet) -> Result<serde_json::Value> {
    Ok(fleet.agent.status()?["models"][0].clone())
}

fn wait_update(fleet: &Fleet, state: &str) -> Result<()> {
    wait::until_true(&format!("the update is {state}"), || Ok(status(fleet)?["update"]["state"] == state))
}

#[test]
fn a_rollback_returns_without_the_hub_survives_restarts_and_no_greeting_undoes_it() {
    story(|site| {
        let mut fleet = serving_v3(site)?;
        fleet.hub.kill()?;
        let told = order(&fleet, &["rollback", "digits"])?;
        ensure!(told.contains("from version 3 to version 2"), "{told}");
        fleet.agent.wait_version("digits", 2)?;
        fleet.expect_local(2)?;
        wait_update(&fleet, "idle")?;
        let model = status(&fleet)?;
        ensure!(model["previous"]["version"] == 1, "{model}");
        ensure!(model["failed"][0]["version"] == 3 && model["failed"][0]["kind"] == "returned", "{model}");
        order(&fleet, &["rollback", "digits"])?;
        fleet.agent.wait_version("digits", 1)?;
        let refused = fleet.agent.run(["model", "rollback", "digits"])?;
        ensure!(refused.stderr.contains("no earlier version is kept"), "{refused:?}");
        fleet.agent.stop()?;
        fleet.agent.start()?;
        fleet.agent.wait_version("digits", 1)?;
        fleet.hub.start()?;
        fleet.agent.wait_hub(true)?;
        wait::until_true("the hub hears of the rollback", || {
            let device = fleet.hub.device("kitchen")?;
            Ok(device["models"][0]["active"]["version"] == 1)
        })?;
        ensure!(fleet.agent.active_version("digits")? == Some(1), "the greeting brought version 3 back");
        // An operator who asks for this device goes past it.
        fleet.hub.offer("digits", 3)?.ok()?;
        fleet.agent.wait_version("digits", 3)
    });
}

#[test]
fn a_pin_fetches_what_the_device_does_not_have_and_the_hub_changes_nothing_until_it_ends() {
    story(|site| {
        let mut fleet = Fleet::serving_v1(site)?;
        fleet.agent.config().set("updates.keep", 0)?;
        fleet.agent.stop()?;
        fleet.agent.start()?;
        fleet.hub.push(&catalog().join("v2"), &[])?.ok()?;
        fleet.agent.wait_version("digits", 2)?;
        ensure!(status(&fleet)?["previous"].is_null(), "nothing is kept");
        fleet.agent.wait_hub(true)?;
        order(&fleet, &["pin", "digits", "1"])?;
        fleet.agent.wait_version("digits", 1)?;
        fleet.expect_local(1)?;
        let third = ModelFolder::copy(site, "v2", 3)?;
        fleet.hub.push(third.path(), &[])?.ok()?;
        wait::until_true("the hub hears that the owner puts version 3 off", || {
            Ok(fleet
                .hub
                .device("kitchen")?
                .to_string()
                .contains("the owner of the device keeps the model at version 1"))
        })?;
        fleet.agent.kill()?;
        fleet.agent.start()?;
        fleet.agent.wait_hub(true)?;
        fleet.agent.wait_version("digits", 1)?;
        ensure!(status(&fleet)?["orders"]["owner_pin"] == 1, "the pin is forgotten");
        let table = fleet.agent.run(["status"])?.ok()?.stdout;
        ensure!(table.contains("pinned to version 1 by the owner"), "{table}");
        order(&fleet, &["unpin", "digits"])?;
        fleet.agent.wait_version("digits", 3)
    });
}

#[test]
fn a_hold_keeps_the_version_and_its_end_takes_the_offer_that_waited() {
    story(|site| {
        let fleet = Fleet::serving_v1(site)?;
        order(&fleet, &["hold", "digits"])?;
        fleet.hub.push(&catalog().join("v2"), &[])?.ok()?;
        wait::until_true("the hub hears of the hold", || {
            Ok(fleet.hub.device("kitchen")?.to_string().contains("holds the model"))
        })?;
        ensure!(fleet.agent.active_version("digits")? == Some(1), "the hold was passed");
        order(&fleet, &["resume", "digits"])?;
        fleet.agent.wait_version("digits", 2)
    });
}

#[test]
fn a_pin_to_a_version_that_was_never_signed_keeps_what_serves() {
    story(|site| {
        let fleet = Fleet::serving_v1(site)?;
        order(&fleet, &["pin", "digits", "9"])?;
        wait::until_true("version 9 is refused", || {
            Ok(status(&fleet)?["failed"][0]["kind"] == "not_signed" && status(&fleet)?["update"]["state"] == "idle")
        })?;
        fleet.expect_local(1)
    });
}

#[test]
fn a_rollback_that_is_cut_off_after_it_was_stored_is_carried_out_at_the_next_start() {
    story(|site| {
        let mut fleet = Fleet::serving_v1(site)?;
        fleet.hub.push(&catalog().join("v2"), &[])?.ok()?;
        fleet.agent.wait_version("digits", 2)?;
        fleet.hub.kill()?;
        fleet.agent.stop()?;
        fleet.agent.env("SANDERLING_CRASH_AT", "orders-stored");
        fleet.agent.start()?;
        fleet.agent.run(["model", "rollback", "digits"])?;
        wait::until("the agent dies", || fleet.agent.daemon()?.ended())?;
        fleet.agent.env("SANDERLING_CRASH_AT", "");
        fleet.agent.start()?;
        ensure!(fleet.agent.active_version("digits")? == Some(1), "version 2 was loaded again");
        fleet.expect_local(1)
    });
}

#[test]
fn no_request_is_lost_while_versions_are_left_and_pinned() {
    story(|site| {
        let fleet = serving_v3(site)?;
        let load =
            Load::start(&fleet.client()?, &fleet.digits, &InferOptions::policy("only-device"), 2, Duration::ZERO);
        wait::until_true("the load runs", || Ok(load.sent() > 50))?;
        for (args, version) in [
            (["rollback", "digits"].as_slice(), 2),
            (&["pin", "digits", "1"], 1),
            (&["pin", "digits", "3"], 3),
            (&["rollback", "digits"], 1),
        ] {
            order(&fleet, args)?;
            fleet.agent.wait_version("digits", version)?;
            let after = load.sent();
            wait::until_true("the load goes on", || Ok(load.sent() > after + 20))?;
        }
        let summary = Summary::of(&load.finish()?);
        ensure!(summary.failed == 0, "{} of {} failed: {:?}", summary.failed, summary.requests, summary.first_failure);
        Ok(())
    });
}

#[test]
fn an_order_needs_the_state_folder_and_a_model_that_is_followed() {
    story(|site| {
        let fleet = Fleet::serving_v1(site)?;
        let client = fleet.client()?;
        let json = [("Content-Type", "application/json".to_owned())];
        let refused = client.post("/sanderling/v1/models/digits/order", &json, br#""hold""#)?;
        ensure!(refused.status == 403 && refused.error().contains("edge-agent model"), "{refused:?}");
        let unknown = fleet.agent.run(["model", "hold", "vowels"])?;
        ensure!(unknown.stderr.contains("does not follow model vowels"), "{unknown:?}");
        ensure!(fleet.agent.status()?["models"][0]["orders"].is_null(), "a refused order is in force");
        Ok(())
    });
}
