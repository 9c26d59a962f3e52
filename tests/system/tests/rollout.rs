//! Tests that a rollout brings a version to a fleet in waves, stops, continues and goes back, on real daemons.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use testkit::author::ModelFolder;
use testkit::digits::catalog;
use testkit::{Agent, Finished, Hub, Site, story, wait};

/// A hub with digits v1 and several agents that serve it. Version 2 is published and offered to nobody.
struct Fleet {
    hub: Hub,
    agents: Vec<Agent>,
}

impl Fleet {
    fn new(site: &Site, devices: usize) -> Result<Self> {
        let mut hub = site.hub()?;
        hub.start()?;
        hub.publish(&catalog().join("v1"), &[])?.ok()?;
        let agents = (0..devices).map(|number| site.enrolled_agent(&hub, &format!("d{number}")));
        let agents = agents.collect::<Result<Vec<_>>>()?;
        agents.iter().try_for_each(|agent| agent.wait_version("digits", 1))?;
        hub.publish(&catalog().join("v2"), &[])?.ok()?;
        Ok(Self { hub, agents })
    }

    fn serving(&self, version: u64) -> Result<usize> {
        let mut count = 0;
        for agent in &self.agents {
            count += usize::from(agent.active_version("digits")? == Some(version));
        }
        Ok(count)
    }

    fn create(&self, extra: &[&str]) -> Result<Value> {
        let create = ["rollout", "create", "digits", "2", "--to", "all"];
        self.hub.json(&[&create, extra].concat())
    }

    fn state(&self) -> Result<String> {
        let detail = self.hub.json(&["rollout", "show", "digits"])?;
        detail["rollout"]["state"].as_str().map(str::to_owned).context("a state")
    }

    fn wait_state(&self, state: &str) -> Result<Value> {
        wait::until(&format!("the rollout is {state}"), || {
            let detail = self.hub.json(&["rollout", "show", "digits"])?;
            Ok((detail["rollout"]["state"] == state).then_some(detail))
        })
    }

    fn verb(&self, verb: &str) -> Result<Finished> {
        self.hub.run(["rollout", verb, "digits", "--reason", "a test"])
    }

    fn explanation(&self) -> Result<String> {
        Ok(self.hub.run(["rollout", "explain", "digits"])?.ok()?.stdout)
    }
}

#[test]
fn plain_push_offers_only_the_first_version_and_says_how_to_roll_out() {
    story(|site| {
        let fleet = Fleet::new(site, 1)?;
        ensure!(fleet.hub.model("digits")?["offered"] == 1, "a later version is current after a plain push");
        let again = ModelFolder::copy(site, "v2", 3)?;
        let told = fleet.hub.publish(again.path(), &[])?.ok()?.stdout;
        ensure!(
            told.contains("no device is offered it yet") && told.contains("rollout create digits 3 --to all"),
            "{told}"
        );
        ensure!(fleet.serving(1)? == 1, "the device took a version that nobody offered");
        let push = ModelFolder::copy(site, "v1", 4)?;
        let pushed = fleet.hub.publish(push.path(), &["--to", "all", "--waves", "100%", "--json"])?.ok()?.json()?;
        ensure!(pushed["rollout"]["version"] == 4, "{pushed}");
        fleet.agents[0].wait_version("digits", 4)?;
        fleet.wait_state("completed")?;
        ensure!(fleet.hub.model("digits")?["offered"] == 4, "the version is current after its rollout");
        Ok(())
    });
}

#[test]
fn waves_pass_one_after_the_other_each_approved_and_the_version_becomes_current() {
    story(|site| {
        let fleet = Fleet::new(site, 4)?;
        let created = fleet.create(&["--waves", "1,50%,100%", "--approve"])?;
        ensure!(
            created["rollout"] == 1 && created["waves"].as_array().is_some_and(|waves| waves.len() == 3),
            "{created}"
        );
        for (wave, devices) in [(1, 1), (2, 2)] {
            let detail = fleet.wait_state("waiting-for-approval")?;
            ensure!(detail["rollout"]["wave"] == wave, "{detail}");
            ensure!(detail["rollout"]["devices"]["active"] == devices, "{detail}");
            ensure!(fleet.serving(2)? == devices, "devices outside the wave have the version");
            let conflict = fleet.hub.run(["rollout", "create", "digits", "2", "--to", "site=berlin"])?;
            ensure!(conflict.code != Some(0) && conflict.stderr.contains("rollout 1 of digits"), "{}", conflict.stderr);
            let offer = fleet.hub.offer("digits", 2)?;
            ensure!(offer.code != Some(0) && offer.stderr.contains("rollout 1"), "{}", offer.stderr);
            fleet.verb("approve")?.ok()?;
        }
        fleet.wait_state("completed")?;
        ensure!(fleet.serving(2)? == 4, "every device has the version");
        ensure!(fleet.hub.model("digits")?["offered"] == 2, "the version is current");
        let explained = fleet.explanation()?;
        for words in ["created", "wave 1 (1) begins", "wave 1 (1) has passed", "approved", "wave 3 (100%) has passed"] {
            ensure!(explained.contains(words), "{words:?} is missing in {explained}");
        }
        let table = fleet.hub.run(["rollout", "list"])?.ok()?.stdout;
        ensure!(table.contains("digits/2") && table.contains("completed"), "{table}");
        let audit = fleet.hub.run(["audit"])?.ok()?.stdout;
        ensure!(audit.contains("rollout.create") && audit.contains("rollout.approve"), "{audit}");
        let metrics = fleet.hub.metrics()?;
        ensure!(metrics.sum("sanderling_rollouts", &[("state", "completed")]) > 0.5, "metric of completed rollouts");
        Ok(())
    });
}

#[test]
fn a_bad_version_stops_at_the_canary_and_is_explained() {
    story(|site| {
        let fleet = Fleet::new(site, 4)?;
        let bad = bad_version(site, 3)?;
        fleet.hub.publish(bad.path(), &["--force"])?.ok()?;
        fleet.hub.json(&["rollout", "create", "digits", "3", "--to", "all", "--waves", "1,50%,100%"])?;
        let detail = fleet.wait_state("paused")?;
        ensure!(detail["rollout"]["devices"]["admitted"] == 1, "more than the canary was admitted: {detail}");
        ensure!(fleet.serving(1)? == 4, "a device serves the bad version");
        let explained = fleet.explanation()?;
        ensure!(
            explained.contains("paused") && explained.contains("1 of 1 admitted devices gave version 3 up"),
            "{explained}"
        );
        ensure!(explained.contains("golden"), "the device's reason is missing: {explained}");
        let one = fleet.hub.run(["rollout", "explain", "digits", "--device", "d0"])?.ok()?.stdout;
        ensure!(one.contains("d0 "), "{one}");
        let refused = fleet.verb("approve")?;
        ensure!(refused.code != Some(0) && refused.stderr.contains("is paused"), "{}", refused.stderr);
        fleet.verb("abort")?.ok()?;
        ensure!(fleet.state()? == "aborted", "the verb abort has no effect");
        Ok(())
    });
}

#[test]
fn pause_skip_and_abort_do_what_they_say() {
    story(|site| {
        let fleet = Fleet::new(site, 4)?;
        fleet.create(&["--waves", "1@1h,50%@1h,100%"])?;
        wait::until_true("the canary serves", || Ok(fleet.serving(2)? == 1))?;
        fleet.verb("pause")?.ok()?;
        fleet.wait_state("paused")?;
        fleet.verb("resume")?.ok()?;
        fleet.verb("skip")?.ok()?;
        wait::until_true("the second wave serves", || Ok(fleet.serving(2)? == 2))?;
        fleet.verb("abort")?.ok()?;
        ensure!(fleet.serving(2)? == 2 && fleet.serving(1)? == 2, "an abort changes devices");
        ensure!(fleet.hub.model("digits")?["offered"] == 1, "an aborted version is not current");
        let again = fleet.verb("resume")?;
        ensure!(again.code != Some(0) && again.stderr.contains("aborted"), "{}", again.stderr);
        Ok(())
    });
}

#[test]
fn a_device_that_slept_through_every_wave_follows_and_a_cohort_keeps_to_itself() {
    story(|site| {
        let mut fleet = Fleet::new(site, 3)?;
        for (device, place) in [("d0", "berlin"), ("d1", "berlin"), ("d2", "paris")] {
            fleet.hub.run(["device", "label", device, &format!("site={place}")])?.ok()?;
        }
        fleet.agents[0].stop()?;
        fleet.hub.wait_connected("d0", false)?;
        fleet.hub.json(&["rollout", "create", "digits", "2", "--to", "site=berlin", "--waves", "1,100%"])?;
        fleet.wait_state("completed")?;
        fleet.agents[1].wait_version("digits", 2)?;
        fleet.agents[0].start()?;
        fleet.agents[0].wait_version("digits", 2)?;
        ensure!(fleet.agents[2].active_version("digits")? == Some(1), "a device outside the cohort has the version");
        ensure!(fleet.hub.model("digits")?["offered"] == 1, "the version is current for its cohort only");
        // A device that joins the cohort later follows, too.
        fleet.hub.run(["device", "label", "d2", "site=berlin"])?.ok()?;
        fleet.agents[2].stop()?;
        fleet.agents[2].start()?;
        fleet.agents[2].wait_version("digits", 2)
    });
}

#[test]
fn a_rollback_returns_the_devices_also_one_that_slept() {
    story(|site| {
        let mut fleet = Fleet::new(site, 3)?;
        fleet.create(&["--waves", "100%"])?;
        fleet.wait_state("completed")?;
        fleet.agents.iter().try_for_each(|agent| agent.wait_version("digits", 2))?;
        fleet.agents[0].stop()?;
        fleet.hub.wait_connected("d0", false)?;
        fleet.verb("rollback")?.ok()?;
        fleet.agents[1..].iter().try_for_each(|agent| agent.wait_version("digits", 1))?;
        let detail = fleet.wait_state("rolled-back")?;
        ensure!(fleet.hub.model("digits")?["offered"] == 1, "the earlier version is current again");
        ensure!(detail["rollout"]["devices"]["to_return"] == 1, "{detail}");
        ensure!(fleet.explanation()?.contains("d0: to return, pending: offline since"), "{}", fleet.explanation()?);
        fleet.agents[0].start()?;
        fleet.agents[0].wait_version("digits", 1)?;
        wait::until_true("nobody is left to return", || {
            Ok(fleet.hub.json(&["rollout", "show", "digits"])?["rollout"]["devices"]["to_return"] == 0)
        })
    });
}

#[test]
fn a_pin_precedes_a_rollout_until_it_ends() {
    story(|site| {
        let fleet = Fleet::new(site, 2)?;
        let pinned = fleet.hub.json(&["device", "pin", "d0", "digits", "1"])?;
        ensure!(pinned["version"] == 1, "{pinned}");
        fleet.create(&["--waves", "100%"])?;
        fleet.agents[1].wait_version("digits", 2)?;
        fleet.wait_state("completed")?;
        ensure!(fleet.agents[0].active_version("digits")? == Some(1), "a pinned device was updated");
        let explained = fleet.hub.run(["rollout", "explain", "digits", "--device", "d0"])?.ok()?.stdout;
        ensure!(explained.contains("d0 is pinned to version 1"), "{explained}");
        fleet.hub.run(["device", "pin", "d0", "digits", "--none"])?.ok()?;
        fleet.agents[0].wait_version("digits", 2)
    });
}

/// Makes a version whose golden answers are those of another model: every device rejects it.
fn bad_version(site: &Site, version: u64) -> Result<ModelFolder> {
    let folder = ModelFolder::copy(site, "v2", version)?;
    for form in ["int8-qdq", "fp32"] {
        let golden = format!("{form}.golden.safetensors");
        std::fs::copy(catalog().join("v1").join(&golden), folder.path().join(&golden))?;
    }
    folder.edit(|text| text.replace("max_abs = 1.0", "max_abs = 0.0001"))?;
    Ok(folder)
}
