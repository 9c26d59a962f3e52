//! The policy `hedge`: a slow device is helped by the hub, a slow hub costs nothing, and the loser is cancelled.

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use testkit::{Fleet, InferOptions, story, wait};

/// Starts a fleet whose agent asks the hub at the same time after this delay.
fn fleet(site: &testkit::Site, hedge_after: &str) -> Result<Fleet> {
    let mut fleet = Fleet::serving_v1(site)?;
    fleet.agent.stop()?;
    fleet.agent.config().set("models.digits.hedge_after", hedge_after)?;
    fleet.agent.start()?;
    fleet.agent.wait_hub(true)?;
    Ok(fleet)
}

/// Returns a digit of which the device is sure: an answer under the threshold would wait for the hub.
fn sure_digit(fleet: &Fleet) -> Result<usize> {
    for index in 0..50 {
        if fleet.infer(index, "cascade")?.ok()?.parameter("reason") == "confident" {
            return Ok(index);
        }
    }
    anyhow::bail!("the device is sure of none of 50 digits")
}

fn answer(fleet: &Fleet, index: usize) -> Result<(String, String)> {
    let ask = InferOptions::policy("hedge").within(wait::PATIENCE);
    let reply = fleet.client()?.infer("digits", &[fleet.digits.input(index)], &ask)?.ok()?;
    ensure!(reply.parameter("policy") == "hedge", "{}", reply.json);
    Ok((reply.parameter("place"), reply.parameter("reason")))
}

/// Returns the process that runs the agent's models.
fn engine_host(fleet: &Fleet) -> Result<Pid> {
    let status = fleet.agent.status()?;
    let pid = status["engines"][0]["hosts"][0]["pid"].as_i64().context("the status names no engine host")?;
    Pid::from_raw(i32::try_from(pid)?).context("a process number")
}

#[test]
fn a_device_that_takes_long_is_helped_by_the_hub() {
    story(|site| {
        let fleet = fleet(site, "50ms")?;
        let sure = sure_digit(&fleet)?;
        let host = engine_host(&fleet)?;
        kill_process(host, Signal::STOP)?;
        let slow = answer(&fleet, sure);
        kill_process(host, Signal::CONT)?;
        ensure!(slow? == ("hub".to_owned(), "hedged".to_owned()), "the hub did not help");
        // The run on the device was withdrawn: the session answers the next request.
        wait::until_true("the device answers again", || {
            let reply = fleet.infer(sure, "only-device")?;
            Ok(reply.status == 200 && reply.parameter("place") == "device")
        })
    });
}

#[test]
fn a_device_that_is_fast_asks_no_hub_and_a_hub_that_is_slow_costs_nothing() {
    story(|site| {
        let mut fleet = fleet(site, "1h")?;
        let sure = sure_digit(&fleet)?;
        ensure!(answer(&fleet, sure)?.0 == "device", "the hub was asked before its time");
        fleet.agent.stop()?;
        fleet.agent.config().set("models.digits.hedge_after", "0s")?;
        fleet.agent.start()?;
        fleet.agent.wait_hub(true)?;
        // Both places are asked at once, and the hub does not answer.
        fleet.hub.daemon()?.signal(testkit::Signal::STOP)?;
        let answers: Result<Vec<_>> = (0..20).map(|_| answer(&fleet, sure)).collect();
        fleet.hub.daemon()?.signal(testkit::Signal::CONT)?;
        ensure!(answers?.iter().all(|(place, _)| place == "device"), "a stopped hub answered");
        Ok(())
    });
}

#[test]
fn a_device_only_model_never_asks_the_hub_and_a_large_input_stays_here() {
    story(|site| {
        let mut fleet = Fleet::serving_v1(site)?;
        fleet.agent.wait_hub(true)?;
        for (field, device_only, hub_bytes_max) in [("device_only", true, 1 << 20), ("hub_bytes_max", false, 16)] {
            fleet.agent.stop()?;
            fleet.agent.config().set("models.digits.device_only", device_only)?;
            fleet.agent.config().set("models.digits.hub_bytes_max", hub_bytes_max)?;
            fleet.agent.start()?;
            fleet.agent.wait_hub(true)?;
            for policy in ["prefer-hub", "cascade", "hedge"] {
                let reply = fleet.infer(3, policy)?.ok()?;
                ensure!(reply.parameter("place") == "device", "{field}, {policy}: {}", reply.json);
            }
            let refused = fleet.infer(3, "only-hub")?;
            ensure!(refused.status == 400, "{field}: {} {}", refused.status, refused.json);
            ensure!(refused.error().contains("the policy keeps the input on the device"), "{}", refused.error());
        }
        let sent = fleet.agent.metrics()?.sum("sanderling_deferred_bytes_total", &[]);
        ensure!(sent == 0.0, "{sent} bytes left the device");
        Ok(())
    });
}
