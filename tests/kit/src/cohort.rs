//! Initial state of tests of rollouts: a hub and several agents that serve digits v1.

use anyhow::{Context, Result};
use serde_json::Value;

use crate::digits::catalog;
use crate::{Agent, Finished, Hub, Site, wait};

/// A running hub and agents with the names `d0`, `d1`, … that follow `digits`.
#[derive(Debug)]
pub struct Cohort {
    /// Hub of the devices.
    pub hub: Hub,
    /// Agents in the order of their names.
    pub agents: Vec<Agent>,
}

impl Cohort {
    /// Starts a hub, publishes v1, and enrols and starts agents, each changed by `set_up` before its start; waits until they
    /// serve v1.
    ///
    /// # Errors
    /// Fails when any of it fails.
    pub fn serving_v1(site: &Site, devices: usize, set_up: impl Fn(&mut Agent) -> Result<()>) -> Result<Self> {
        // Deltas take seconds on a busy machine and change nothing for rollouts.
        let mut hub = site.hub_of_whole_files()?;
        hub.start()?;
        hub.publish(&catalog().join("v1"), &[])?.ok()?;
        let mut agents = Vec::new();
        for number in 0..devices {
            let mut agent = site.agent(&format!("d{number}"))?;
            set_up(&mut agent)?;
            agent.enrol(&hub)?;
            agent.start()?;
            agents.push(agent);
        }
        agents.iter().try_for_each(|agent| agent.wait_version("digits", 1))?;
        Ok(Self { hub, agents })
    }

    /// Publishes v2, which no device is offered.
    ///
    /// # Errors
    /// Fails when the hub refuses it.
    pub fn publish_v2(&self) -> Result<()> {
        self.hub.publish(&catalog().join("v2"), &[])?.ok().map(drop)
    }

    /// Returns the number of agents that run and serve a version.
    ///
    /// # Errors
    /// Fails when an agent does not answer.
    pub fn serving(&self, version: u64) -> Result<usize> {
        let served = self.agents.iter().map(|agent| agent.active_version("digits"));
        Ok(served.collect::<Result<Vec<_>>>()?.into_iter().filter(|served| *served == Some(version)).count())
    }

    /// Returns the newest rollout of digits.
    ///
    /// # Errors
    /// Fails when the hub knows none.
    pub fn rollout(&self) -> Result<Value> {
        let detail = self.hub.json(&["rollout", "show", "digits"])?;
        detail.get("rollout").cloned().context("a rollout in the answer")
    }

    /// Waits until the rollout is in a state; returns it.
    ///
    /// # Errors
    /// Fails when it does not come to that.
    pub fn wait_state(&self, state: &str) -> Result<Value> {
        wait::until(&format!("the rollout is {state}"), || {
            let rollout = self.rollout()?;
            Ok((rollout["state"] == state).then_some(rollout))
        })
    }

    /// Waits until this number of devices takes part in the rollout.
    ///
    /// # Errors
    /// Fails when that does not come.
    pub fn wait_admitted(&self, devices: u64) -> Result<()> {
        wait::until_true(&format!("{devices} devices take part"), || {
            Ok(self.rollout()?["devices"]["admitted"] == devices)
        })
    }

    /// Runs a verb on the rollout.
    ///
    /// # Errors
    /// Fails when the program does not start.
    pub fn verb(&self, verb: &str) -> Result<Finished> {
        self.hub.run(["rollout", verb, "digits", "--reason", "a test"])
    }

    /// Returns the output of `rollout explain`.
    ///
    /// # Errors
    /// Fails when the hub refuses.
    pub fn explanation(&self) -> Result<String> {
        Ok(self.hub.run(["rollout", "explain", "digits"])?.ok()?.stdout)
    }
}
