//! Drift of the demo: the inputs of one device change, which raises an alarm and sends its requests to the hub.

#![expect(clippy::print_stdout, reason = "the demo is what it prints")]

use anyhow::{Context, Result};
use serde_json::Value;
use testkit::digits::FRESH;
use testkit::oip::Input;
use testkit::{Agent, InferOptions};

use super::act;
use super::figures::{Drift, Figures};
use super::stage::Stage;

/// Longest time to an alarm in requests, as promised.
const ALARM_WITHIN: usize = 300;

/// Longest time to the end of an alarm in requests: 1,000 that fit, counted from the last alarm on.
const ENDS_WITHIN: usize = 1_400;

/// Number of digits that are sent during the alarm.
const DURING: usize = 50;

/// Turns the digits of one device by a quarter, and back.
pub(super) fn turn_the_digits(stage: &mut Stage, figures: &mut Figures) -> Result<()> {
    act(4, "The camera of one device falls over");
    let agent = stage.agents.first().context("a device")?;
    let digits = &stage.digits;
    let mut drift =
        Drift { calm: send(agent, FRESH, |at| digits.input(at), |_| Ok(false))?.requests, ..Drift::default() };
    let calm = !is_alarmed(agent)?;
    let turned = send(agent, ALARM_WITHIN, |at| digits.turned(at), is_alarmed)?;
    drift.alarm_after = turned.requests;
    println!(
        "   {:10} {} digits as before: no alarm; then the digits arrive turned by a quarter",
        agent.name(),
        drift.calm
    );
    println!(
        "   alarm      after {} turned digits: their scores do not fit those of the calibration",
        drift.alarm_after
    );
    let during = send(agent, DURING, |at| digits.turned(at), |_| Ok(false))?;
    drift.deferred = during.deferred;
    println!("   on_drift   \"defer\" in agent.toml: {} of the next {DURING} went to the hub", drift.deferred);
    let fitting = send(agent, ENDS_WITHIN, |at| digits.input(at), |agent| Ok(!is_alarmed(agent)?))?;
    drift.ended_after = fitting.requests;
    println!("   camera     upright again: the alarm ended after {} digits", drift.ended_after);
    let raised = turned.is_over && drift.alarm_after <= ALARM_WITHIN;
    figures.claim(calm && raised, "inputs that changed raised an alarm, those before did not");
    figures.claim(drift.deferred == DURING, "during the alarm the device kept no answer for itself");
    figures.claim(fitting.is_over, "the alarm ended when the inputs fitted again");
    figures.drift = drift;
    Ok(())
}

/// Requests of one part of the episode.
struct Sent {
    requests: usize,
    deferred: usize,
    is_over: bool,
}

/// Sends at most so many fresh digits with `cascade`, until `is_over`.
fn send(
    agent: &Agent,
    most: usize,
    input: impl Fn(usize) -> Input,
    is_over: impl Fn(&Agent) -> Result<bool>,
) -> Result<Sent> {
    let client = agent.client()?;
    let mut sent = Sent { requests: 0, deferred: 0, is_over: false };
    while sent.requests < most && !sent.is_over {
        let reply = client.infer("digits", &[input(FRESH + sent.requests)], &InferOptions::policy("cascade"))?.ok()?;
        sent.requests += 1;
        sent.deferred += usize::from(reply.parameter("place") == "hub");
        sent.is_over = is_over(agent)?;
    }
    Ok(sent)
}

fn is_alarmed(agent: &Agent) -> Result<bool> {
    let status = agent.status()?;
    Ok(status["models"].get(0).is_some_and(|model: &Value| model["drift"].is_object()))
}
