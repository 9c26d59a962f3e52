//! Tests of rollouts with real daemons: devices per site, starts, rates, failures that are tried again, and pins.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use testkit::{Agent, Cohort, Digits, Hub, InferOptions, skip, story, tools, wait};

fn nothing(_agent: &mut Agent) -> Result<()> {
    Ok(())
}

/// Has a candidate wait for five requests before it serves.
fn slow_to_install(agent: &mut Agent) -> Result<()> {
    agent.config().set("updates.shadow_answers", 5)?;
    agent.config().set("updates.shadow_share", 1.0)
}

fn state_of(agent: &Agent) -> Result<String> {
    Ok(agent.status()?["models"][0]["update"]["state"].as_str().unwrap_or_default().to_owned())
}

/// Returns libfaketime; prints that the test is skipped without it.
fn faketime() -> Option<PathBuf> {
    let found = tools::faketime(std::path::Path::new("/"));
    if found.is_none() {
        skip("libfaketime is not installed");
    }
    found
}

/// Restarts a hub at another time of its clock.
fn restart_at(hub: &mut Hub, library: &std::path::Path, shift: &str) -> Result<()> {
    hub.stop()?;
    for (name, value) in tools::at_another_time(library, shift) {
        hub.env(name, &value);
    }
    hub.start()
}

#[test]
fn no_more_devices_of_a_site_are_updated_at_once_than_allowed() {
    story(|site| {
        let cohort = Cohort::serving_v1(site, 4, slow_to_install)?;
        for (device, place) in [("d0", "berlin"), ("d1", "berlin"), ("d2", "berlin"), ("d3", "paris")] {
            cohort.hub.run(["device", "label", device, &format!("site={place}")])?.ok()?;
        }
        cohort.publish_v2()?;
        let create = ["rollout", "create", "digits", "2", "--to", "all", "--waves", "100%", "--max-per-site", "site=1"];
        cohort.hub.run(create)?.ok()?;
        let digits = Digits::load()?;
        let mut installed = Vec::new();
        while installed.len() < 4 {
            // Those that install wait for requests: nobody else of their site may begin.
            let shadowing = || -> Result<Vec<usize>> {
                let states = cohort.agents.iter().map(state_of).collect::<Result<Vec<_>>>()?;
                let at = states.iter().enumerate().filter(|(_, state)| *state == "shadowing").map(|(at, _)| at);
                Ok(at.filter(|at| !installed.contains(at)).collect())
            };
            let at = wait::until("a device installs", || Ok(shadowing()?.first().copied()))?;
            let busy = shadowing()?;
            ensure!(busy.iter().filter(|at| **at < 3).count() <= 1, "devices of one site install at once: {busy:?}");
            let agent = cohort.agents.get(at).context("an agent")?;
            let client = agent.client()?;
            wait::until_true("version 2 serves", || {
                client.infer("digits", &[digits.input(at)], &InferOptions::policy("only-device"))?.ok()?;
                Ok(agent.active_version("digits")? == Some(2))
            })?;
            installed.push(at);
        }
        cohort.wait_state("completed").map(drop)
    });
}

#[test]
fn a_rollout_begins_at_its_time_also_after_a_restart() {
    story(|site| {
        let Some(library) = faketime() else { return Ok(()) };
        let mut cohort = Cohort::serving_v1(site, 1, nothing)?;
        cohort.publish_v2()?;
        let create = ["rollout", "create", "digits", "2", "--to", "all", "--waves", "100%", "--start-at", "2h"];
        cohort.hub.run(create)?.ok()?;
        cohort.wait_state("scheduled")?;
        let early = cohort.verb("skip")?;
        ensure!(early.code != Some(0) && early.stderr.contains("scheduled"), "{}", early.stderr);
        restart_at(&mut cohort.hub, &library, "+1h")?;
        cohort.hub.wait_connected("d0", true)?;
        ensure!(cohort.wait_state("scheduled")?["devices"]["admitted"] == 0, "a device takes part an hour too early");
        ensure!(cohort.serving(1)? == 1, "the version was installed an hour too early");
        restart_at(&mut cohort.hub, &library, "+3h")?;
        cohort.wait_state("completed")?;
        cohort.agents.iter().try_for_each(|agent| agent.wait_version("digits", 2))
    });
}

#[test]
fn waves_by_rate_admit_as_many_devices_as_the_minutes_allow() {
    story(|site| {
        let Some(library) = faketime() else { return Ok(()) };
        let mut cohort = Cohort::serving_v1(site, 4, nothing)?;
        cohort.publish_v2()?;
        // One in the first minute, two more in the second: the second device after a minute and a half.
        cohort.hub.run(["rollout", "create", "digits", "2", "--to", "all", "--waves", "1/min*2"])?.ok()?;
        cohort.wait_admitted(1)?;
        wait::until_true("the first device serves version 2", || Ok(cohort.serving(2)? == 1))?;
        ensure!(cohort.rollout()?["devices"]["admitted"] == 1, "more devices than the rate allows");
        restart_at(&mut cohort.hub, &library, "+91s")?;
        cohort.wait_admitted(2)?;
        wait::until_true("the second device serves version 2", || Ok(cohort.serving(2)? >= 2))?;
        restart_at(&mut cohort.hub, &library, "+10m")?;
        cohort.wait_state("completed")?;
        cohort.agents.iter().try_for_each(|agent| agent.wait_version("digits", 2))
    });
}

#[test]
fn a_retry_offers_the_version_again_to_a_device_whose_owner_has_mended_it() {
    story(|site| {
        let tight = |agent: &mut Agent| agent.config().set("updates.measure_memory_max_bytes", 1000);
        let mut cohort = Cohort::serving_v1(site, 1, nothing)?;
        for agent in &mut cohort.agents {
            agent.stop()?;
            tight(agent)?;
            agent.start()?;
            agent.wait_hub(true)?;
        }
        cohort.publish_v2()?;
        cohort.hub.run(["rollout", "create", "digits", "2", "--to", "all", "--waves", "100%"])?.ok()?;
        cohort.wait_state("paused")?;
        let explained = cohort.explanation()?;
        ensure!(explained.contains("at most 1000 are allowed"), "the device's reason is missing: {explained}");
        // A resume alone changes nothing: the device has given the version up.
        cohort.verb("resume")?.ok()?;
        for agent in &mut cohort.agents {
            agent.stop()?;
            agent.config().set("updates.measure_memory_max_bytes", 1_000_000_000)?;
            agent.start()?;
            agent.wait_hub(true)?;
        }
        ensure!(cohort.serving(1)? == 1, "a version that was given up was taken again without a retry");
        cohort.verb("retry")?.ok()?;
        cohort.agents.iter().try_for_each(|agent| agent.wait_version("digits", 2))?;
        cohort.wait_state("completed")?;
        ensure!(
            cohort.explanation()?.contains("offers the version again where it failed"),
            "the retry is not explained"
        );
        Ok(())
    });
}

#[test]
fn a_pin_of_a_device_that_is_away_waits_for_it_and_so_does_its_end() {
    story(|site| {
        let mut cohort = Cohort::serving_v1(site, 2, nothing)?;
        cohort.publish_v2()?;
        cohort.hub.run(["rollout", "create", "digits", "2", "--to", "all", "--waves", "100%"])?.ok()?;
        cohort.wait_state("completed")?;
        cohort.agents.iter().try_for_each(|agent| agent.wait_version("digits", 2))?;
        let Cohort { hub, agents } = &mut cohort;
        let [away, other] = agents.as_mut_slice() else { anyhow::bail!("two agents") };
        away.kill()?;
        hub.wait_connected("d0", false)?;
        let pinned = hub.json(&["device", "pin", "d0", "digits", "1"])?;
        ensure!(pinned["told"] == false && pinned["version"] == 1, "{pinned}");
        // The pin is in the store: the hub may be restarted before the device comes back.
        hub.kill()?;
        hub.start()?;
        away.start()?;
        away.wait_version("digits", 1)?;
        ensure!(other.active_version("digits")? == Some(2), "the pin of one device changed another one");
        wait::until_true("the device stays at version 1", || {
            Ok(away.status()?["models"][0]["orders"]["hub_pin"] == 1 && state_of(away)? == "idle")
        })?;
        away.stop()?;
        hub.wait_connected("d0", false)?;
        hub.run(["device", "pin", "d0", "digits", "--none"])?.ok()?;
        away.start()?;
        away.wait_version("digits", 2)
    });
}
