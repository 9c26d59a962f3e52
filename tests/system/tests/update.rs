//! Tests that a new version is installed while the device serves, without any failed request.

use std::time::Duration;

use anyhow::ensure;
use testkit::author::ModelFolder;
use testkit::digits::catalog;
use testkit::load::{Load, Sample, Summary};
use testkit::{Fleet, InferOptions, story, wait};

#[test]
fn a_push_reaches_the_device_and_the_hub_hears_of_it() {
    story(|site| {
        let fleet = Fleet::serving_v1(site)?;
        fleet.expect_local(1)?;
        fleet.hub.push(&catalog().join("v2"), &[])?.ok()?;
        fleet.agent.wait_version("digits", 2)?;
        fleet.expect_local(2)?;
        wait::until_true("the hub shows the device on v2", || {
            let device = fleet.hub.device("kitchen")?;
            Ok(device["models"][0]["active"]["version"] == 2 && device["models"][0]["previous"]["version"] == 1)
        })?;
        let model = fleet.hub.model("digits")?;
        ensure!(model["offered"] == 2 && model["latest"] == 2, "{model}");
        Ok(())
    });
}

#[test]
fn no_request_is_lost_or_answered_wrongly_during_the_switch() {
    story(|site| {
        let fleet = Fleet::serving_v1(site)?;
        let load =
            Load::start(&fleet.client()?, &fleet.digits, &InferOptions::policy("only-device"), 3, Duration::ZERO);
        wait::until_true("the load runs", || Ok(load.sent() > 100))?;
        for version in 2..=4 {
            let folder = ModelFolder::copy(site, if version % 2 == 0 { "v2" } else { "v1" }, version)?;
            fleet.hub.push(folder.path(), &[])?.ok()?;
            fleet.agent.wait_version("digits", version)?;
        }
        let after = load.sent();
        wait::until_true("the load goes on", || Ok(load.sent() > after + 100))?;
        let samples = load.finish()?;
        let summary = Summary::of(&samples);
        ensure!(summary.failed == 0, "{} of {} failed: {:?}", summary.failed, summary.requests, summary.first_failure);
        let versions = versions_seen(&samples);
        ensure!(versions == [1, 2, 3, 4], "versions were seen in the order {versions:?}");
        ensure!(summary.accuracy > 0.9, "{summary:?}");
        Ok(())
    });
}

/// Returns the versions that served, each at its first occurrence, in the order of sending.
fn versions_seen(samples: &[Sample]) -> Vec<u64> {
    let mut versions = Vec::new();
    for seen in samples.iter().filter_map(|sample| sample.outcome.as_ref().ok()) {
        if !versions.contains(&seen.version) {
            versions.push(seen.version);
        }
    }
    versions
}

#[test]
fn a_device_that_was_off_takes_the_newest_version_when_it_returns() {
    story(|site| {
        let mut fleet = Fleet::serving_v1(site)?;
        fleet.agent.stop()?;
        fleet.hub.push(&catalog().join("v2"), &[])?.ok()?;
        let third = ModelFolder::copy(site, "v2", 3)?;
        fleet.hub.push(third.path(), &[])?.ok()?;
        fleet.agent.start()?;
        fleet.agent.wait_version("digits", 3)
    });
}

#[test]
fn an_update_survives_a_restart_of_the_agent_without_the_hub() {
    story(|site| {
        let mut fleet = Fleet::serving_v1(site)?;
        fleet.hub.push(&catalog().join("v2"), &[])?.ok()?;
        fleet.agent.wait_version("digits", 2)?;
        fleet.hub.kill()?;
        fleet.agent.stop()?;
        fleet.agent.start()?;
        fleet.agent.wait_version("digits", 2)?;
        fleet.expect_local(2)
    });
}

#[test]
fn a_held_version_is_not_taken_until_it_is_offered() {
    story(|site| {
        let fleet = Fleet::serving_v1(site)?;
        fleet.hub.push(&catalog().join("v2"), &["--hold"])?.ok()?;
        let mut second = site.agent("attic")?;
        second.enrol(&fleet.hub)?;
        second.start()?;
        second.wait_version("digits", 1)?;
        fleet.hub.offer("digits", 2)?.ok()?;
        fleet.agent.wait_version("digits", 2)?;
        second.wait_version("digits", 2)
    });
}

#[test]
fn the_better_version_is_better() {
    story(|site| {
        let fleet = Fleet::serving_v1(site)?;
        let before = fleet.sweep("only-device", 400)?.accuracy;
        fleet.hub.push(&catalog().join("v2"), &[])?.ok()?;
        fleet.agent.wait_version("digits", 2)?;
        let after = fleet.sweep("only-device", 400)?.accuracy;
        ensure!(after > before, "v2 has {after}, v1 had {before}");
        Ok(())
    });
}
