//! Statistics of a simulation, and every broken promise.

use std::time::Duration;

/// Maximum number of recorded broken promises: the first few are enough for a diagnosis.
const BROKEN_MAX: usize = 20;

/// Numbers of events; a simulation without an event tests nothing about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Certificates issued for a token.
    pub enrolled: u64,
    /// Token redemptions that were refused.
    pub tokens_refused: u64,
    /// Connections that were welcomed.
    pub greeted: u64,
    /// Connections refused because the device is revoked.
    pub revoked_refused: u64,
    /// Certificates that were renewed.
    pub renewed: u64,
    /// Agents that were killed.
    pub killed: u64,
    /// Agents killed during an update.
    pub killed_updating: u64,
    /// Files of active versions that were damaged.
    pub damaged: u64,
    /// Times that the hub was killed.
    pub hub_killed: u64,
    /// Outages of a device's network.
    pub partitions: u64,
    /// Switches to a new version.
    pub switched: u64,
    /// Versions that devices rejected.
    pub given_up: u64,
    /// Requests served by the device.
    pub by_device: u64,
    /// Requests served by the hub.
    pub by_hub: u64,
    /// Requests that ended in an error.
    pub failed: u64,
    /// Requests refused by the hub's queue.
    pub busy: u64,
    /// Reports that were acknowledged.
    pub reports: u64,
}

/// Results of a simulation.
#[derive(Debug, Clone, Default)]
pub struct Watch {
    /// Numbers of events.
    pub counts: Counts,
    /// Broken promises, with their times.
    pub broken: Vec<String>,
}

impl Watch {
    /// Records a broken promise.
    pub fn broken(&mut self, at: Duration, what: impl FnOnce() -> String) {
        if self.broken.len() < BROKEN_MAX {
            self.broken.push(format!("{:.3} s: {}", at.as_secs_f64(), what()));
        }
    }

    /// Records a broken promise if `kept` is false.
    pub fn expect(&mut self, kept: bool, at: Duration, what: impl FnOnce() -> String) {
        if !kept {
            self.broken(at, what);
        }
    }
}
