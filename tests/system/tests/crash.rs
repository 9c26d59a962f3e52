//! Tests in which the agent is killed at every step of an update and at random times: it always restarts with a
//! complete model.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use testkit::author::ModelFolder;
use testkit::load::ask_one;
use testkit::{Fleet, InferOptions, Site, story, wait};

/// Names of the steps at which `SANDERLING_CRASH_AT` ends an update (`edge-agent/daemon/src/crash.rs`), in their order.
const UPDATE_STEPS: [&str; 11] = [
    "trust-stored",
    "manifest-stored",
    "chunk-stored",
    "files-stored",
    "version-stored",
    "golden-checked",
    "probation-stored",
    "slot-stored",
    "switched",
    "report-stored",
    "collected",
];

/// Number of kills at random times: enough to hit several steps, few enough for CI.
const RANDOM_KILLS: u64 = 8;

#[test]
fn an_agent_killed_at_any_step_of_an_update_finishes_or_undoes_it() {
    story(|site| {
        let mut fleet = Fleet::serving_v1(site)?;
        for (version, step) in (2..).zip(UPDATE_STEPS) {
            killed_at(site, &mut fleet, version, step)?;
        }
        Ok(())
    });
}

fn killed_at(site: &Site, fleet: &mut Fleet, version: u64, step: &str) -> Result<()> {
    fleet.agent.stop()?;
    fleet.agent.env("SANDERLING_CRASH_AT", step);
    fleet.agent.start()?;
    fleet.hub.push(publish(site, version)?.path(), &[])?.ok()?;
    wait::until(&format!("the agent dies at {step}"), || fleet.agent.daemon()?.ended())?;
    fleet.agent.env("SANDERLING_CRASH_AT", "");
    fleet.agent.start()?;
    // Before anything can be fetched again, one of the two serves correctly.
    let active = serving(fleet)?;
    ensure!(active == version || active == version - 1, "after {step} version {active} serves");
    fleet.agent.wait_version("digits", version)?;
    fleet.expect_local(version)?;
    no_leftovers(fleet, step)
}

/// Returns the version in service, as soon as there is one.
fn serving(fleet: &Fleet) -> Result<u64> {
    let version = wait::until("a version serves after the restart", || fleet.agent.active_version("digits"))?;
    let seen = ask_one(&fleet.client()?, &fleet.digits, 0, &InferOptions::policy("only-device")).outcome;
    let seen = seen.map_err(anyhow::Error::msg)?;
    ensure!(seen.right, "a wrong answer after the restart: {seen:?}");
    Ok(version.min(seen.version))
}

fn publish(site: &Site, version: u64) -> Result<ModelFolder> {
    ModelFolder::copy(site, "v2", version)
}

/// Checks that the files which an interrupted update fetched are either in use or removed.
fn no_leftovers(fleet: &Fleet, step: &str) -> Result<()> {
    let folder = fleet.agent.state_dir().join("models/digits");
    wait::until_true(&format!("at most three versions are kept after {step}"), || {
        Ok(std::fs::read_dir(&folder)?.count() <= 3)
    })
}

#[test]
fn random_kills_during_updates_never_leave_the_device_without_a_model() {
    story(|site| {
        let mut fleet = Fleet::serving_v1(site)?;
        for round in 0..RANDOM_KILLS {
            let version = round + 2;
            fleet.hub.push(publish(site, version)?.path(), &[])?.ok()?;
            // Spread over the few hundred milliseconds that an update takes; the exact moment does not matter.
            std::thread::sleep(Duration::from_millis(round * 37));
            fleet.agent.kill()?;
            fleet.agent.start()?;
            let active = serving(&fleet)?;
            if active > version || active + 1 < version {
                bail!("after kill {round} version {active} serves instead of {version} or the one before");
            }
            fleet.agent.wait_version("digits", version)?;
        }
        Ok(())
    });
}

#[test]
fn an_agent_killed_while_it_renews_its_certificate_keeps_an_identity() {
    story(|site| {
        let mut hub = site.hub()?;
        hub.config().set("gateway.certificate_lifetime", "20s")?;
        hub.start()?;
        let mut fleet = Fleet::with_hub(site, hub)?;
        fleet.agent.stop()?;
        fleet.agent.env("SANDERLING_CRASH_AT", "renewal-stored");
        fleet.agent.start()?;
        wait::until("the agent dies at its renewal", || fleet.agent.daemon()?.ended())?;
        fleet.agent.env("SANDERLING_CRASH_AT", "");
        fleet.agent.start()?;
        fleet.agent.wait_hub(true)?;
        fleet.infer(0, "only-hub")?.ok().map(drop)
    });
}
