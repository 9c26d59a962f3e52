//! Tests that a rollout survives the death of the hub at every step.

use anyhow::{Context, Result, ensure};
use testkit::digits::catalog;
use testkit::{story, wait};

/// States and waves in which the hub is killed, each with the verb that leads to the next one.
const STEPS: [(&str, u64, &str); 5] = [
    ("waiting-for-approval", 1, "pause"),
    ("paused", 1, "resume"),
    ("waiting-for-approval", 1, "approve"),
    ("waiting-for-approval", 2, "approve"),
    ("waiting-for-approval", 3, "approve"),
];

#[test]
fn a_hub_that_is_killed_at_any_step_goes_on_where_it_was() {
    story(|site| {
        let mut hub = site.hub()?;
        hub.start()?;
        hub.publish(&catalog().join("v1"), &[])?.ok()?;
        let agents =
            (0..4).map(|number| site.enrolled_agent(&hub, &format!("d{number}"))).collect::<Result<Vec<_>>>()?;
        agents.iter().try_for_each(|agent| agent.wait_version("digits", 1))?;
        hub.publish(&catalog().join("v2"), &[])?.ok()?;
        let create = ["rollout", "create", "digits", "2", "--to", "all", "--waves", "1,50%,75%,100%", "--approve"];
        hub.json(&create)?;
        // At once: the rollout is stored, and perhaps nobody was admitted.
        hub.kill()?;
        hub.start()?;
        for (state, wave, verb) in STEPS {
            let detail = wait::until(&format!("the rollout is {state} after wave {wave}"), || {
                let detail = hub.json(&["rollout", "show", "1"])?;
                let is_there = detail["rollout"]["state"] == state && detail["rollout"]["wave"] == wave;
                Ok(is_there.then_some(detail))
            })?;
            let decisions = |hub: &testkit::Hub| -> Result<Vec<serde_json::Value>> {
                let explained = hub.json(&["rollout", "explain", "1"])?;
                explained["decisions"].as_array().cloned().context("decisions")
            };
            let before = decisions(&hub)?;
            hub.kill()?;
            hub.start()?;
            let after = hub.json(&["rollout", "show", "1"])?;
            ensure!(after["rollout"]["state"] == detail["rollout"]["state"], "{after}");
            ensure!(after["rollout"]["devices"]["admitted"] == detail["rollout"]["devices"]["admitted"], "{after}");
            ensure!(decisions(&hub)? == before, "decisions were lost or made again");
            hub.run(["rollout", verb, "1"])?.ok()?;
            // While devices are being admitted and install the version.
            hub.kill()?;
            hub.start()?;
        }
        wait::until_true("the rollout is completed", || {
            Ok(hub.json(&["rollout", "show", "1"])?["rollout"]["state"] == "completed")
        })?;
        hub.kill()?;
        hub.start()?;
        agents.iter().try_for_each(|agent| agent.wait_version("digits", 2))?;
        ensure!(hub.model("digits")?["offered"] == 2, "the version is current");
        // A rollback that is cut off goes on, and devices that were away meanwhile return.
        hub.run(["rollout", "rollback", "1"])?.ok()?;
        hub.kill()?;
        hub.start()?;
        agents.iter().try_for_each(|agent| agent.wait_version("digits", 1))?;
        wait::until_true("the rollback has ended", || {
            Ok(hub.json(&["rollout", "show", "1"])?["rollout"]["state"] == "rolled-back")
        })?;
        ensure!(hub.model("digits")?["offered"] == 1, "the earlier version is current again");
        let verified = hub.run(["audit", "--verify"])?;
        verified.ok()?;
        Ok(())
    });
}
