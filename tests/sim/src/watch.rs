//! What was seen, and every promise that was broken.

use std::time::Duration;

/// Most broken promises that are written down: the first few say what is wrong.
const BROKEN_MAX: usize = 20;

/// How often things happened; a play in which something never happened proves nothing about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Certificates given for a token.
    pub enrolled: u64,
    /// Claims on a token that were refused.
    pub tokens_refused: u64,
    /// Connections greeted.
    pub greeted: u64,
    /// Connections refused because the device is revoked.
    pub revoked_refused: u64,
    /// Certificates renewed.
    pub renewed: u64,
    /// Agents killed.
    pub killed: u64,
    /// Agents killed while an update was under way.
    pub killed_updating: u64,
    /// Files of active versions that were damaged.
    pub damaged: u64,
    /// Hubs killed.
    pub hub_killed: u64,
    /// Partitions.
    pub partitions: u64,
    /// Switches to a new version.
    pub switched: u64,
    /// Versions given up.
    pub given_up: u64,
    /// Requests answered by the device.
    pub by_device: u64,
    /// Requests answered by the hub.
    pub by_hub: u64,
    /// Requests that got no answer.
    pub failed: u64,
    /// Requests refused by the hub's queue.
    pub busy: u64,
    /// Reports acknowledged.
    pub reports: u64,
}

/// What was seen.
#[derive(Debug, Clone, Default)]
pub struct Watch {
    /// How often things happened.
    pub counts: Counts,
    /// Promises that were broken, with the time at which they were.
    pub broken: Vec<String>,
}

impl Watch {
    /// Writes down a broken promise.
    pub fn broken(&mut self, at: Duration, what: impl FnOnce() -> String) {
        if self.broken.len() < BROKEN_MAX {
            self.broken.push(format!("{:.3} s: {}", at.as_secs_f64(), what()));
        }
    }

    /// Writes it down where `kept` is false.
    pub fn expect(&mut self, kept: bool, at: Duration, what: impl FnOnce() -> String) {
        if !kept {
            self.broken(at, what);
        }
    }
}
