//! Initial state of most tests: a hub that published digits v1, and one agent that serves it.

use std::sync::Arc;

use anyhow::{Result, ensure};

use crate::digits::catalog;
use crate::load::{Summary, sweep};
use crate::{Agent, Client, Digits, Hub, InferOptions, Reply, Site};

/// A running hub and a running agent that follows `digits`.
#[derive(Debug)]
pub struct Fleet {
    /// Hub of the fleet.
    pub hub: Hub,
    /// Agent with the name `kitchen`.
    pub agent: Agent,
    /// Test digits of the catalog.
    pub digits: Arc<Digits>,
}

impl Fleet {
    /// Starts a hub, publishes v1, enrols the agent `kitchen` and waits until it serves v1.
    ///
    /// # Errors
    /// Fails when any of it fails.
    pub fn serving_v1(site: &Site) -> Result<Self> {
        let mut hub = site.hub()?;
        hub.start()?;
        Self::with_hub(site, hub)
    }

    /// Creates the fleet as [`Fleet::serving_v1`] does, with a hub that sends whole files only.
    ///
    /// # Errors
    /// Fails when any of it fails.
    pub fn of_whole_files(site: &Site) -> Result<Self> {
        let mut hub = site.hub_of_whole_files()?;
        hub.start()?;
        Self::with_hub(site, hub)
    }

    /// Creates the fleet as [`Fleet::serving_v1`] does, with a hub that is already running.
    ///
    /// # Errors
    /// Fails when any of it fails.
    pub fn with_hub(site: &Site, hub: Hub) -> Result<Self> {
        hub.push(&catalog().join("v1"), &[])?.ok()?;
        let agent = site.enrolled_agent(&hub, "kitchen")?;
        agent.wait_version("digits", 1)?;
        Ok(Self { hub, agent, digits: Arc::new(Digits::load()?) })
    }

    /// Returns a client of the agent's HTTP server.
    ///
    /// # Errors
    /// Fails when the agent is not started.
    pub fn client(&self) -> Result<Client> {
        self.agent.client()
    }

    /// Sends the digit `index` with a policy.
    ///
    /// # Errors
    /// Fails if the server cannot be reached.
    pub fn infer(&self, index: usize, policy: &str) -> Result<Reply> {
        self.client()?.infer("digits", &[self.digits.input(index)], &InferOptions::policy(policy))
    }

    /// Sends the first `count` digits with a policy, four at a time; none may fail.
    ///
    /// # Errors
    /// Fails when one fails.
    pub fn sweep(&self, policy: &str, count: usize) -> Result<Summary> {
        let clients = vec![self.client()?; 4];
        let summary = Summary::of(&sweep(&clients, &self.digits, &InferOptions::policy(policy), count, || ())?);
        ensure!(summary.failed == 0, "{policy}: {} failed: {:?}", summary.failed, summary.first_failure);
        Ok(summary)
    }

    /// Checks that the agent serves locally, with this version.
    ///
    /// # Errors
    /// Fails when it does not.
    pub fn expect_local(&self, version: u64) -> Result<()> {
        let reply = self.infer(0, "only-device")?.ok()?;
        ensure!(reply.parameter("place") == "device", "the response came from {:?}", reply.parameter("place"));
        ensure!(reply.version() == version, "version {} served instead of {version}", reply.version());
        Ok(())
    }
}
