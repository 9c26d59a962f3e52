//! Tests of the shadow: a candidate answers live requests beside the version that serves, and nobody sees its answers.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use testkit::author::{ModelFolder, fixture};
use testkit::load::{Load, Sample};
use testkit::{Agent, Fleet, Hub, InferOptions, Input, Site, story, wait};

/// Answers that a candidate gives in the shadow, unless a test says otherwise.
const ANSWERS: i64 = 20;

/// A device that serves version 1 and has every request answered in the shadow of it.
fn shadowed(site: &Site, settings: &[(&str, toml::Value)]) -> Result<Fleet> {
    let mut fleet = Fleet::serving_v1(site)?;
    fleet.agent.stop()?;
    let config = fleet.agent.config();
    config.set("updates.shadow_answers", ANSWERS)?;
    config.set("updates.shadow_share", 1.0)?;
    config.set("updates.shadow_agreement_min", 0.9)?;
    for (field, value) in settings {
        config.set(field, value.clone())?;
    }
    fleet.agent.env("SANDERLING_COUNTER_PERIOD_MS", "200");
    fleet.agent.start()?;
    fleet.agent.wait_version("digits", 1)?;
    fleet.agent.wait_hub(true)?;
    Ok(fleet)
}

/// Publishes version 2 with the answers of version 1 and offers it.
fn offer_good(site: &Site, fleet: &Fleet) -> Result<()> {
    fleet.hub.push(ModelFolder::copy(site, "v1", 2)?.path(), &[])?.ok().map(drop)
}

/// Publishes version 2 with another class in every answer, which no golden input shows, and offers it.
fn offer_wrong(site: &Site, fleet: &Fleet) -> Result<()> {
    let wrong = ModelFolder::copy(site, "v1", 2)?;
    for form in ["int8-qdq", "fp32"] {
        wrong.answer_wrongly(&format!("{form}.onnx"), "logits", 10)?;
    }
    wrong.edit(|text| {
        let device = text.split("[[variant]]").map(|part| match part.contains("runs_on = \"device\"") {
            true => part.split("[variant.golden]").next().unwrap_or(part).to_owned() + "\n",
            false => part.to_owned(),
        });
        device.collect::<Vec<_>>().join("[[variant]]")
    })?;
    fleet.hub.push(wrong.path(), &["--force"])?.ok().map(drop)
}

fn load(fleet: &Fleet) -> Result<Load> {
    let policy = InferOptions::policy("only-device");
    Ok(Load::start(&fleet.client()?, &fleet.digits, &policy, 2, Duration::from_millis(5)))
}

fn update_state(agent: &Agent) -> Result<String> {
    let state = agent.status()?["models"][0]["update"]["state"].clone();
    state.as_str().map(str::to_owned).context("a state of the update")
}

fn wait_state(agent: &Agent, state: &str) -> Result<()> {
    wait::until_true(&format!("the update is {state}"), || Ok(update_state(agent)? == state))
}

/// Waits until the hub's figures of a version have this many answers in the shadow; returns them.
fn figures(hub: &Hub, model: &str, version: u64, shadowed: u64) -> Result<Value> {
    wait::until(&format!("the hub knows {shadowed} answers of version {version} in the shadow"), || {
        let figures = hub.json(&["model", "figures", model])?;
        let versions = figures["versions"].as_array().cloned().unwrap_or_default();
        let found = versions.into_iter().find(|figures| figures["version"] == version);
        Ok(found.filter(|figures| figures["shadowed"].as_u64() >= Some(shadowed)))
    })
}

/// Checks that every request was answered; returns the versions that answered, in the order of sending.
fn versions(samples: &[Sample]) -> Result<Vec<u64>> {
    let version = |sample: &Sample| sample.outcome.as_ref().map(|seen| seen.version).map_err(Clone::clone);
    samples.iter().map(|sample| version(sample).map_err(anyhow::Error::msg)).collect()
}

#[test]
fn a_good_candidate_serves_after_its_answers_in_the_shadow_and_the_hub_has_the_figures() {
    story(|site| {
        let fleet = shadowed(site, &[])?;
        offer_good(site, &fleet)?;
        wait_state(&fleet.agent, "shadowing")?;
        ensure!(
            fleet.agent.active_version("digits")? == Some(1),
            "the candidate serves without an answer in the shadow"
        );
        let load = load(&fleet)?;
        fleet.agent.wait_version("digits", 2)?;
        let after = load.sent();
        wait::until_true("requests go on after the switch", || Ok(load.sent() > after + 20))?;
        let seen = versions(&load.finish()?)?;
        let switched = seen.iter().position(|version| *version == 2).context("version 2 answers")?;
        ensure!(switched >= usize::try_from(ANSWERS)?, "version 2 answered after {switched} requests");
        let told = figures(&fleet.hub, "digits", 2, 20)?;
        ensure!(told["shadowed"] == 20 && told["shadow_agreed"] == 20, "{told}");
        let page = fleet.hub.run(["model", "figures", "digits"])?.ok()?.stdout;
        ensure!(page.contains("20 of 20"), "{page}");
        Ok(())
    });
}

#[test]
fn a_candidate_with_wrong_answers_is_refused_with_the_reason_and_nobody_sees_its_answers() {
    story(|site| {
        let fleet = shadowed(site, &[])?;
        let load = load(&fleet)?;
        wait::until_true("the load runs", || Ok(load.sent() > 20))?;
        offer_wrong(site, &fleet)?;
        let report = fleet.hub.refusal("kitchen", "digits", 2)?;
        ensure!(report["outcome"] == "rejected" && report["stage"] == "shadowing", "{report}");
        let words = "in the shadow 0 of 20 answers agreed with the version that serves, a share of 0.9 is required";
        ensure!(report.to_string().contains(words), "{report}");
        let samples = load.finish()?;
        ensure!(versions(&samples)?.iter().all(|version| *version == 1), "an answer of the candidate was shown");
        let right = samples.iter().filter(|sample| sample.outcome.as_ref().is_ok_and(|seen| seen.right)).count();
        ensure!(right * 10 > samples.len() * 9, "only {right} of {} answers are right", samples.len());
        let told = figures(&fleet.hub, "digits", 2, 20)?;
        ensure!(told["shadow_agreed"] == 0, "{told}");
        let status = fleet.agent.status()?["models"][0].clone();
        ensure!(status["failed"][0]["version"] == 2 && status["failed"][0]["kind"] == "unfit", "{status}");
        fleet.expect_local(1)
    });
}

#[test]
fn a_candidate_that_ends_its_process_with_live_inputs_is_refused_and_the_agent_goes_on() {
    story(|site| {
        let mut hub = site.hub()?;
        hub.start()?;
        hub.push(&fixture(site, "divide", 1, "harmless", "harmless")?, &[])?.ok()?;
        let mut agent = site.agent("kitchen")?;
        agent.config().set("models.divide.policy", "only-device")?;
        agent.config().set("updates.shadow_answers", ANSWERS)?;
        agent.config().set("updates.shadow_share", 1.0)?;
        agent.enrol(&hub)?;
        agent.start()?;
        agent.wait_version("divide", 1)?;
        hub.push(&fixture(site, "divide", 2, "divide", "harmless")?, &[])?.ok()?;
        let client = agent.client()?;
        let mut number = 0_u16;
        let report = wait::until("version 2 is refused", || {
            // The smallest 64-bit integer overflows in version 2; each request is another one.
            number += 1;
            let values = [-9.3e18, f32::from(number), 2.0, 3.0];
            client.infer("divide", &[Input::fp32("x", &[1, 4], &values)], &InferOptions::default())?.ok()?;
            let models = hub.device("kitchen")?["models"].as_array().cloned().unwrap_or_default();
            let reports = models.into_iter().map(|model| model["report"].clone());
            Ok(reports.into_iter().find(|report| report["version"] == 2 && report["outcome"] == "rejected"))
        })?;
        ensure!(report["stage"] == "shadowing" && report.to_string().contains("SIGFPE"), "{report}");
        ensure!(agent.active_version("divide")? == Some(1) && agent.daemon()?.ended()?.is_none(), "the agent ended");
        Ok(())
    });
}

#[test]
fn no_more_than_the_configured_share_of_the_requests_is_answered_in_the_shadow() {
    story(|site| {
        let settings = [("updates.shadow_share", 0.1.into()), ("updates.shadow_answers", 1_000_000.into())];
        let fleet = shadowed(site, &settings)?;
        offer_good(site, &fleet)?;
        wait_state(&fleet.agent, "shadowing")?;
        fleet.sweep("only-device", 600)?;
        // Random ids: 60 are expected, and 100 are more than five standard deviations above.
        let told = figures(&fleet.hub, "digits", 2, 1)?;
        wait::until_true("no answer waits", || {
            let now = figures(&fleet.hub, "digits", 2, 1)?;
            Ok(now == told || now["shadowed"].as_u64() >= Some(10))
        })?;
        let told = figures(&fleet.hub, "digits", 2, 1)?;
        ensure!(told["shadowed"].as_u64().is_some_and(|shadowed| shadowed <= 100), "{told}");
        ensure!(update_state(&fleet.agent)? == "shadowing", "the shadow has ended");
        Ok(())
    });
}

#[test]
fn a_quiet_model_does_not_wait_for_ever() {
    story(|site| {
        let fleet = shadowed(site, &[("updates.shadow_time", "1s".into())])?;
        offer_good(site, &fleet)?;
        fleet.agent.wait_version("digits", 2)?;
        fleet.expect_local(2)
    });
}

#[test]
fn an_agent_killed_in_the_shadow_stage_serves_the_version_before_and_begins_the_stage_again() {
    story(|site| {
        let mut fleet = shadowed(site, &[])?;
        offer_good(site, &fleet)?;
        for _time in 0..2 {
            wait_state(&fleet.agent, "shadowing")?;
            fleet.agent.kill()?;
            fleet.agent.start()?;
            ensure!(fleet.agent.active_version("digits")? == Some(1), "another version serves after the kill");
            fleet.expect_local(1)?;
        }
        wait_state(&fleet.agent, "shadowing")?;
        let load = load(&fleet)?;
        fleet.agent.wait_version("digits", 2)?;
        versions(&load.finish()?).map(drop)
    });
}

#[test]
fn a_candidate_that_ends_the_agent_itself_in_the_shadow_is_given_up() {
    story(|site| {
        // Without child processes, a model that ends its process ends the agent.
        let mut fleet = shadowed(site, &[("engine.isolation", "none".into())])?;
        offer_good(site, &fleet)?;
        for _time in 0..2 {
            wait_state(&fleet.agent, "shadowing")?;
            fleet.agent.kill()?;
            fleet.agent.start()?;
        }
        let report = fleet.hub.refusal("kitchen", "digits", 2)?;
        ensure!(report.to_string().contains("the agent ended 2 times"), "{report}");
        fleet.expect_local(1)
    });
}
