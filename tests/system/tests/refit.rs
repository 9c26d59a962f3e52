//! Tests that a promise which the inputs of the field break is noticed by the hub, and that the device gets another threshold.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use testkit::digits::catalog;
use testkit::oip::{Input, Reply};
use testkit::{Agent, Digits, Hub, InferOptions, Site, story, wait};

/// First digit that did not calibrate the catalog's threshold.
const FRESH: usize = 1_000;

/// Maximum number of turned digits until the promise is broken.
const BROKEN_WITHIN: usize = 3_000;

/// Maximum number of upright digits until a threshold is shown.
const SHOWN_WITHIN: usize = 6_000;

/// Requests between two looks at the state of the hub or the device.
const LOOK_EVERY: usize = 50;

fn ask(agent: &Agent, input: Input) -> Result<Reply> {
    agent.client()?.infer("digits", &[input], &InferOptions::policy("cascade"))?.ok()
}

/// Sends inputs until `is_over` holds; returns their number.
fn send_until(
    agent: &Agent,
    most: usize,
    input: impl Fn(usize) -> Input,
    is_over: impl Fn() -> Result<bool>,
) -> Result<usize> {
    for at in 0..most {
        ask(agent, input(at))?;
        if at % LOOK_EVERY == LOOK_EVERY - 1 && is_over()? {
            return Ok(at + 1);
        }
    }
    // What was sent last may still be on its way.
    wait::until("the last requests have their effect", || Ok(is_over()?.then_some(())))?;
    Ok(most)
}

fn refit(agent: &Agent) -> Result<Value> {
    Ok(agent.status()?["models"][0]["refit"].clone())
}

/// Returns the watch over the variant that serves in Berlin.
fn watched(hub: &Hub) -> Result<Value> {
    let list = hub.json(&["calibration", "show", "digits"])?;
    let all = list["calibrations"].as_array().context("a list")?;
    Ok(all.iter().find(|one| one["group"] == "site=berlin").cloned().unwrap_or_default())
}

fn agent(site: &Site, hub: &Hub, name: &str) -> Result<Agent> {
    let mut agent = site.agent(name)?;
    agent.env("SANDERLING_COUNTER_PERIOD_MS", "200");
    agent.config().set("updates.audit_share_max", 1.0)?;
    agent.enrol(hub)?;
    agent.start()?;
    agent.wait_version("digits", 1)?;
    Ok(agent)
}

#[test]
fn a_promise_that_turned_digits_break_is_refitted_by_the_hub_and_the_owner_may_ignore_it() {
    story(|site| {
        let digits = Digits::load()?;
        let mut hub = site.hub()?;
        hub.config().set("calibration.audit_share", 1.0)?;
        hub.config().set("calibration.group_by", "site")?;
        hub.start()?;
        hub.push(&catalog().join("v1"), &[])?.ok()?;
        let none = hub.run(["calibration", "list"])?.ok()?.stdout;
        ensure!(none.contains("no audit has arrived yet"), "{none}");
        let mut agent = agent(site, &hub, "kitchen")?;
        hub.run(["device", "label", "kitchen", "site=berlin"])?.ok()?;
        let elsewhere = self::agent(site, &hub, "barn")?;
        let author = agent.status()?["models"][0]["threshold"].as_f64().context("a threshold")?;

        // Upright digits keep the promise.
        send_until(&agent, 400, |at| digits.input(FRESH + at), || Ok(watched(&hub)?["audits"].as_u64() >= Some(200)))?;
        let kept = watched(&hub)?;
        ensure!(kept["state"] == "author" && kept["group"] == "site=berlin" && refit(&agent)?.is_null(), "{kept}");

        // Turned ones break it: nothing is kept any more, and the receipts say why.
        let broken = send_until(
            &agent,
            BROKEN_WITHIN,
            |at| digits.turned(FRESH + at),
            || Ok(refit(&agent)?["state"] == "withdrawn"),
        )?;
        eprintln!("broken after {broken} turned digits: {}", watched(&hub)?);
        // The device without the label is in another group.
        ensure!(refit(&elsewhere)?.is_null(), "{}", refit(&elsewhere)?);
        let sure = (0..50).find_map(|at| {
            let reply = ask(&elsewhere, digits.input(FRESH + at)).ok()?;
            (reply.parameter("reason") == "confident").then_some(())
        });
        ensure!(sure.is_some(), "the other group keeps nothing either");
        let reply = ask(&agent, digits.input(FRESH))?;
        let place = (reply.parameter("place"), reply.parameter("reason"), reply.parameter("calibration"));
        ensure!(place == ("hub".into(), "bound-broken".into(), "uncertified".into()), "{place:?}");
        let id = reply.json["id"].as_str().context("an id")?.to_owned();
        // The record is written behind the answer.
        let explained = wait::until("the record of the request", || {
            Ok(agent.run(["policy", "explain", &id])?.ok().ok().map(|explained| explained.stdout))
        })?;
        ensure!(explained.contains("audits broke the promise") && explained.contains("on_refit"), "{explained}");
        ensure!(
            agent.run(["status"])?.stdout.contains("policy cascade asks the hub for every request"),
            "no word of it"
        );
        let metrics =
            agent.metrics()?.sum("sanderling_threshold_state", &[("model", "digits"), ("state", "withdrawn")]);
        ensure!((metrics - 1.0).abs() < 0.1, "{metrics}");
        ensure!((hub.metrics()?.sum("sanderling_calibrations", &[("state", "withdrawn")]) - 1.0).abs() < 0.1);
        let audit = hub.run(["audit"])?.ok()?.stdout;
        ensure!(audit.contains("calibration.refit"), "{audit}");

        // The device's alarm of drift has reached the hub.
        let told = wait::until("the alarm is told", || {
            let device = hub.device("kitchen")?;
            Ok(device["models"][0]["drift"].is_object().then_some(device))
        })?;
        ensure!(told["models"][0]["drift"]["shift"] == "less-sure", "{told}");
        ensure!(watched(&hub)?["drifting_devices"] == 1, "{}", watched(&hub)?);
        let shown = hub.run(["device", "show", "kitchen"])?.ok()?.stdout;
        ensure!(shown.contains("less sure"), "{shown}");
        let status = hub.run(["status"])?.ok()?.stdout;
        ensure!(status.contains("no threshold is shown yet") && status.contains("1 device reports scores"), "{status}");

        // Restarts change nothing, and a device without its hub goes on as it was told.
        hub.stop()?;
        agent.stop()?;
        agent.start()?;
        agent.wait_version("digits", 1)?;
        ensure!(refit(&agent)?["state"] == "withdrawn", "{}", refit(&agent)?);
        agent.stop()?;
        agent.config().set("models.digits.on_refit", "ignore")?;
        agent.start()?;
        agent.wait_version("digits", 1)?;
        ensure!(refit(&agent)?["state"] == "ignored", "{}", refit(&agent)?);
        let certain = (0..50).find_map(|at| {
            let reply = ask(&agent, digits.input(FRESH + at)).ok()?;
            (reply.parameter("reason") == "confident").then(|| reply.parameter("calibration"))
        });
        ensure!(certain.as_deref() == Some("certified"), "{certain:?}");
        agent.stop()?;
        agent.config().set("models.digits.on_refit", "accept")?;
        hub.start()?;
        agent.start()?;
        agent.wait_version("digits", 1)?;
        agent.wait_hub(true)?;
        ensure!(watched(&hub)?["state"] == "withdrawn", "{}", watched(&hub)?);

        // The camera is put right: the deferred answers show a threshold, which the receipts name.
        let shown = send_until(
            &agent,
            SHOWN_WITHIN,
            |at| digits.input(FRESH + at % 8_000),
            || Ok(refit(&agent)?["state"] != "withdrawn"),
        )?;
        eprintln!("a threshold is shown after {shown} upright digits: {}", watched(&hub)?);
        let (state, threshold) = (refit(&agent)?, agent.status()?["models"][0]["threshold"].as_f64());
        ensure!(state["state"] == "refitted" && threshold > Some(author), "{state} {threshold:?} {author}");
        let certain = (0..200).find_map(|at| {
            let reply = ask(&agent, digits.input(FRESH + at)).ok()?;
            (reply.parameter("reason") == "confident")
                .then(|| (reply.parameter("calibration"), reply.parameter("threshold")))
        });
        let (calibration, of_receipt) = certain.context("nothing is kept")?;
        ensure!(calibration == "refitted" && of_receipt.parse::<f64>()? > author, "{calibration} {of_receipt}");
        let told = hub.run(["calibration", "show", "digits"])?.ok()?.stdout;
        ensure!(told.contains("refitted") && told.contains("audits show the promise"), "{told}");

        // A device that was away hears of a reset when it comes back.
        agent.stop()?;
        hub.run(["calibration", "reset", "digits"])?.ok()?;
        let again = hub.run(["calibration", "reset", "digits"])?;
        ensure!(again.code != Some(0) && again.stderr.contains("nothing was reset"), "{again:?}");
        agent.start()?;
        agent.wait_version("digits", 1)?;
        wait::until("the author's threshold is in force", || Ok(refit(&agent)?.is_null().then_some(())))?;
        let threshold = agent.status()?["models"][0]["threshold"].as_f64();
        ensure!(threshold == Some(author), "{threshold:?}");
        Ok(())
    });
}
