//! Tests of the watch over scores: an alarm when the inputs change, the owner's reaction to it, and its end.

use anyhow::{Context, Result, ensure};
use testkit::digits::FRESH;
use testkit::oip::Input;
use testkit::{Agent, Digits, Fleet, InferOptions, story};

/// Longest time to an alarm in requests, as promised.
const ALARM_WITHIN: usize = 300;

/// Longest time to the end of an alarm: 1,000 requests that fit, counted from the last alarm on.
const ENDS_WITHIN: usize = 1_400;

/// Returns after how many requests `is_over` holds, `None` after `most` without.
fn until(
    agent: &Agent,
    most: usize,
    input: impl Fn(usize) -> Input,
    is_over: impl Fn() -> Result<bool>,
) -> Result<Option<usize>> {
    let client = agent.client()?;
    for at in 0..most {
        client.infer("digits", &[input(FRESH + at)], &InferOptions::policy("cascade"))?.ok()?;
        if is_over()? {
            return Ok(Some(at + 1));
        }
    }
    Ok(None)
}

fn is_alarmed(agent: &Agent) -> Result<bool> {
    Ok(agent.status()?["models"][0]["drift"].is_object())
}

/// Places and reasons of ten answers.
fn places(agent: &Agent, input: impl Fn(usize) -> Input) -> Result<Vec<(String, String)>> {
    let client = agent.client()?;
    let ask = |at: usize| {
        let reply = client.infer("digits", &[input(FRESH + at)], &InferOptions::policy("cascade"))?.ok()?;
        Ok((reply.parameter("place"), reply.parameter("reason")))
    };
    (0..10).map(ask).collect()
}

/// Guarantee that a receipt states for the threshold.
fn guarantee(agent: &Agent, digits: &Digits) -> Result<String> {
    let reply = agent.client()?.infer("digits", &[digits.input(FRESH)], &InferOptions::policy("cascade"))?.ok()?;
    Ok(reply.parameter("calibration"))
}

#[test]
fn inputs_that_change_raise_an_alarm_within_300_requests_and_the_owner_says_what_then_answers() {
    story(|site| {
        let digits = Digits::load()?;
        let mut fleet = Fleet::serving_v1(site)?;
        for reaction in ["answer", "defer"] {
            fleet.agent.stop()?;
            fleet.agent.config().set("models.digits.on_drift", reaction)?;
            fleet.agent.start()?;
            fleet.agent.wait_version("digits", 1)?;
            fleet.agent.wait_hub(true)?;
            let agent = &fleet.agent;
            let early = until(agent, 400, |at| digits.input(at), || is_alarmed(agent))?;
            ensure!(
                agent.metrics()?.sum("sanderling_drift", &[("model", "digits")]) < 0.1,
                "an alarm of the run before"
            );
            ensure!(early.is_none(), "{reaction}: an alarm after {early:?} digits of the calibration's kind");
            ensure!(guarantee(agent, &digits)? == "certified", "no bound is stated");
            let alarm = until(agent, ALARM_WITHIN, |at| digits.turned(at), || is_alarmed(agent))?;
            let alarm = alarm.context("no alarm")?;
            eprintln!("{reaction}: alarm after {alarm} turned digits");
            let status = agent.status()?;
            ensure!(status["models"][0]["drift"]["shift"] == "less-sure", "{status}");
            ensure!((agent.metrics()?.sum("sanderling_drift", &[("model", "digits")]) - 1.0).abs() < 0.1, "no metric");
            let doctor = agent.run(["doctor"])?;
            ensure!(doctor.stdout.contains("have left the distribution of the calibration"), "{}", doctor.stdout);
            let places = places(agent, |at| digits.input(at))?;
            let kept = places.iter().filter(|(place, _reason)| place == "device").count();
            ensure!(guarantee(agent, &digits)? == "uncertified", "a bound is stated that does not hold");
            if reaction == "answer" {
                ensure!(kept > 0, "nothing is kept: {places:?}");
                continue;
            }
            ensure!(places.iter().all(|place| *place == ("hub".to_owned(), "drifted".to_owned())), "{places:?}");
            let end = until(agent, ENDS_WITHIN, |at| digits.input(at), || Ok(!is_alarmed(agent)?))?;
            eprintln!("the alarm ended after {end:?} digits of the calibration's kind");
            ensure!(end.is_some(), "the alarm does not end");
            ensure!(agent.metrics()?.sum("sanderling_drift", &[("model", "digits")]) < 0.1, "the metric stays");
            let kept = self::places(agent, |at| digits.input(at))?;
            ensure!(kept.iter().any(|(place, _reason)| place == "device"), "{kept:?}");
        }
        Ok(())
    });
}
