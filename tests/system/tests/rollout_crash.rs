//! Tests in which the hub is killed between the writes of one step of a rollout: it continues, and no device is left behind.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use testkit::author::ModelFolder;
use testkit::{Cohort, Site, story, tools, wait};

/// Environment variable of the store that ends the process at a write (`shared/store/src/crash.rs`).
const CRASH: &str = "SANDERLING_STORE_CRASH";

/// Tables that the steps of a rollout write.
const TABLES: &str = "rollout/,rollout-member/,version/,current/";

/// Writes of a rollout and of its rollback at which the hub is killed, in pairs.
///
/// Forwards: the version is released and nobody was offered it; it is current and the rollout does not know. Backwards: the
/// version is taken back and the earlier one is not current; it is current and the rollback does not know.
const POINTS: [(&str, &str); 3] = [
    ("after:1:version/", "after:1:version/"),
    ("after:1:current/", "after:1:current/"),
    ("after:1:rollout-member/", "before:1:current/"),
];

/// Maximum number of writes of a rollout to three devices; one more means that the test counts what it should not.
const WRITES_MAX: u64 = 60;

fn cohort(site: &Site) -> Result<Cohort> {
    Cohort::serving_v1(site, 3, |_agent| Ok(()))
}

/// Restarts the hub, to be killed at a write; an empty order ends that.
fn restart(cohort: &mut Cohort, order: &str) -> Result<()> {
    if cohort.hub.daemon()?.ended()?.is_none() {
        cohort.hub.stop()?;
    }
    cohort.hub.env(CRASH, order);
    cohort.hub.start()
}

/// Waits until the rollout of a version is in a state, or the hub is dead; returns whether it died.
fn dies_before(cohort: &mut Cohort, version: u64, state: &str) -> Result<bool> {
    wait::until(&format!("the rollout of version {version} is {state}, or the hub dies"), || {
        if cohort.hub.daemon()?.ended()?.is_some() {
            return Ok(Some(true));
        }
        // A hub that dies during the request is seen next time.
        let rollout = cohort.rollout().unwrap_or_default();
        Ok((rollout["version"] == version && rollout["state"] == state).then_some(false))
    })
}

/// Creates the rollout of a version unless the hub has stored it before it was killed.
fn create(cohort: &Cohort, version: u64) -> Result<()> {
    let known = cohort.rollout().is_ok_and(|rollout| rollout["version"] == version);
    if !known {
        let number = version.to_string();
        // Where the hub is killed at this very write, there is no response.
        cohort.hub.run(["rollout", "create", "digits", &number, "--to", "all", "--waves", "1,100%"])?;
    }
    Ok(())
}

/// Returns the number of decisions of the rollout of one kind.
fn decisions(cohort: &Cohort, what: &str) -> Result<usize> {
    let explained = cohort.hub.json(&["rollout", "explain", "digits"])?;
    let decisions = explained["decisions"].as_array().context("decisions")?;
    Ok(decisions.iter().filter(|decision: &&Value| decision["what"] == what).count())
}

/// Rolls a version out with a hub that is killed at a write; checks the end. Returns whether the hub died.
fn forwards(cohort: &mut Cohort, site: &Site, version: u64, order: &str) -> Result<bool> {
    cohort.hub.publish(ModelFolder::copy(site, "v2", version)?.path(), &[])?.ok()?;
    restart(cohort, order)?;
    create(cohort, version)?;
    let died = dies_before(cohort, version, "completed")?;
    restart(cohort, "")?;
    create(cohort, version)?;
    cohort.wait_state("completed").with_context(|| format!("killed {order}"))?;
    cohort.agents.iter().try_for_each(|agent| agent.wait_version("digits", version))?;
    ensure!(cohort.hub.model("digits")?["offered"] == version, "version {version} is not current after {order}");
    ensure!(decisions(cohort, "completed")? == 1, "the rollout has ended more than once after {order}");
    Ok(died)
}

/// Takes the version back with a hub that is killed at a write; checks the end. Returns whether the hub died.
fn backwards(cohort: &mut Cohort, version: u64, order: &str) -> Result<bool> {
    restart(cohort, order)?;
    cohort.verb("rollback")?;
    let died = dies_before(cohort, version, "rolled-back")?;
    restart(cohort, "")?;
    if cohort.rollout()?["state"] == "completed" {
        cohort.verb("rollback")?.ok()?;
    }
    cohort.wait_state("rolled-back").with_context(|| format!("killed {order}"))?;
    cohort.agents.iter().try_for_each(|agent| agent.wait_version("digits", 1))?;
    ensure!(cohort.hub.model("digits")?["offered"] == 1, "version 1 is not current again after {order}");
    ensure!(decisions(cohort, "rolled-back")? == 1, "the rollback has ended more than once after {order}");
    Ok(died)
}

#[test]
fn a_hub_killed_between_the_writes_of_a_step_carries_the_step_out_after_its_restart() {
    story(|site| {
        let mut cohort = cohort(site)?;
        for (version, (out, back)) in (2..).zip(POINTS) {
            ensure!(forwards(&mut cohort, site, version, out)?, "the hub was not killed {out}");
            ensure!(backwards(&mut cohort, version, back)?, "the hub was not killed {back}");
        }
        cohort.hub.run(["audit", "--verify"])?.ok().map(drop)
    });
}

#[test]
fn a_hub_killed_at_any_write_of_a_rollout_and_of_its_rollback_ends_both() {
    if !tools::runs_long("the hub is killed at each of some forty writes") {
        return;
    }
    story(|site| {
        let mut cohort = cohort(site)?;
        let mut version = 1;
        for number in 1..=WRITES_MAX {
            let mut has_died = false;
            for side in ["before", "after"] {
                version += 1;
                let order = format!("{side}:{number}:{TABLES}");
                has_died |= forwards(&mut cohort, site, version, &order)?;
                has_died |= backwards(&mut cohort, version, &order)?;
            }
            if !has_died {
                println!("{} writes", number - 1);
                return cohort.hub.run(["audit", "--verify"])?.ok().map(drop);
            }
        }
        anyhow::bail!("a rollout of three devices has more than {WRITES_MAX} writes")
    });
}
