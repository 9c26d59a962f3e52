//! Steps that the tests of the outbox share.
#![allow(dead_code, reason = "each test file uses a part of it")]

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use testkit::{Agent, Fleet, Hub, InferOptions, Reply, Site, wait};

/// Starts a fleet whose agent has these settings, takes the hub away without a word, and waits until the agent knows.
pub(crate) fn alone(site: &Site, settings: &[(&str, toml::Value)]) -> Result<Fleet> {
    let mut fleet = Fleet::serving_v1(site)?;
    if !settings.is_empty() {
        restart(&mut fleet, settings)?;
    }
    fleet.agent.wait_hub(true)?;
    fleet.hub.kill()?;
    fleet.agent.wait_hub(false)?;
    Ok(fleet)
}

/// Starts the agent again with these settings.
pub(crate) fn restart(fleet: &mut Fleet, settings: &[(&str, toml::Value)]) -> Result<()> {
    fleet.agent.stop()?;
    if settings.iter().any(|(field, _value)| field.starts_with("models.digits.policy.")) {
        fleet.agent.config().set("models.digits.policy", toml::Table::new())?;
    }
    for (field, value) in settings {
        fleet.agent.config().set(field, value.clone())?;
    }
    fleet.agent.start()
}

/// Returns the options of a request that only the hub may answer, and that waits for it.
pub(crate) fn queued(id: &str) -> InferOptions {
    InferOptions { id: Some(id.to_owned()), ..InferOptions::policy("only-hub").with("offline", "queue") }
}

/// Sends a digit.
pub(crate) fn ask(fleet: &Fleet, index: usize, options: &InferOptions) -> Result<Reply> {
    fleet.client()?.infer("digits", &[fleet.digits.input(index)], options)
}

/// Puts so many requests `q-0`, `q-1`, … into the outbox.
pub(crate) fn fill(fleet: &Fleet, count: usize) -> Result<()> {
    for index in 0..count {
        let reply = ask(fleet, index, &queued(&format!("q-{index}")))?;
        ensure!(reply.status == 202, "{}: {}", reply.status, reply.json);
    }
    Ok(())
}

/// Asks for the state of a request.
pub(crate) fn poll(agent: &Agent, id: &str) -> Result<(u16, Value)> {
    agent.client()?.get(&format!("/sanderling/v1/requests/{id}"))
}

/// Waits for the answer to a request.
pub(crate) fn answer(agent: &Agent, id: &str) -> Result<Value> {
    wait::until(&format!("{id} is answered"), || {
        let (status, value) = poll(agent, id)?;
        ensure!(status == 200 || status == 202, "{id}: {status} {value}");
        Ok((status == 200).then_some(value))
    })
}

/// Waits until a request has ended without an answer; returns its state.
pub(crate) fn ended(agent: &Agent, id: &str) -> Result<Value> {
    wait::until(&format!("{id} has ended"), || {
        let (status, value) = poll(agent, id)?;
        ensure!(status == 410 || status == 202, "{id}: {status} {value}");
        Ok((status == 410).then_some(value))
    })
}

/// Returns a figure of the outbox in the status.
pub(crate) fn figure(agent: &Agent, name: &str) -> Result<u64> {
    agent.status()?["outbox"][name].as_u64().with_context(|| format!("outbox.{name} in the status"))
}

/// Waits until no request waits any more.
pub(crate) fn wait_empty(agent: &Agent) -> Result<()> {
    wait::until_true("the outbox is empty", || Ok(figure(agent, "requests")? == 0))
}

/// Returns how many queued requests the hub has run since its start, and how many it has answered without a run.
pub(crate) fn runs(hub: &Hub) -> Result<(f64, f64)> {
    let metrics = hub.metrics()?;
    let of = |outcome| metrics.sum("sanderling_queued_requests_total", &[("outcome", outcome)]);
    Ok((of("run"), of("repeated")))
}
