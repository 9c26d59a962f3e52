//! Tests that a hub assigns models to devices that their configuration does not name.

use anyhow::{Result, ensure};
use testkit::author::ModelFolder;
use testkit::digits::catalog;
use testkit::{Agent, Digits, InferOptions, story, wait};

fn serves(agent: &Agent, digits: &Digits) -> Result<bool> {
    let reply = agent.client()?.infer("letters", &[digits.input(0)], &InferOptions::policy("only-device"))?;
    Ok(reply.status == 200)
}

#[test]
fn an_assigned_model_is_fetched_served_without_the_hub_and_given_up_again() {
    story(|site| {
        let mut hub = site.hub()?;
        hub.start()?;
        hub.publish(&catalog().join("v1"), &[])?.ok()?;
        let letters = ModelFolder::copy(site, "v1", 1)?;
        letters.edit(|text| text.replace("model = \"digits\"", "model = \"letters\""))?;
        hub.publish(letters.path(), &[])?.ok()?;
        let digits = Digits::load()?;
        let (mut willing, mut unwilling) = (site.agent("willing")?, site.agent("unwilling")?);
        unwilling.config().set("updates.assign", false)?;
        for agent in [&mut willing, &mut unwilling] {
            agent.enrol(&hub)?;
            agent.start()?;
            agent.wait_version("digits", 1)?;
            ensure!(!serves(agent, &digits)?, "a model that nobody assigned is served");
        }
        let assigned = hub.json(&["model", "assign", "letters", "--filter", "all"])?;
        ensure!(assigned["devices"] == 2 && assigned["told"] == 2, "{assigned}");
        willing.wait_version("letters", 1)?;
        wait::until_true("the assigned model answers", || serves(&willing, &digits))?;
        ensure!(unwilling.active_version("letters")?.is_none(), "the owner forbids it");

        // The list outlives a restart without the hub.
        hub.stop()?;
        willing.stop()?;
        willing.start()?;
        willing.wait_version("letters", 1)?;
        wait::until_true("the assigned model answers without the hub", || serves(&willing, &digits))?;

        // The end of an assignment reaches a device that was away.
        willing.stop()?;
        hub.start()?;
        hub.json(&["model", "assign", "letters", "--none"])?;
        willing.start()?;
        wait::until_true("the model is given up", || Ok(willing.active_version("letters")?.is_none()))?;
        ensure!(!serves(&willing, &digits)?, "a model that is assigned no more is served");
        willing.wait_version("digits", 1)
    });
}
