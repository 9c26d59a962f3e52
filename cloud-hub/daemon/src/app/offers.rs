//! Offers of versions to connected devices.

use std::sync::Arc;

use tokio_util::task::TaskTracker;
use types::{ModelName, Version};

use crate::app::fleet::Fleet;
use crate::app::fleet::notices;
use crate::app::registry::Registry;
use crate::app::rollouts::Rollouts;

/// Sends offers without waiting for the devices.
#[derive(Debug, Clone)]
pub struct Offers {
    /// Devices and their connections.
    pub fleet: Arc<Fleet>,
    /// Rollouts and pins, which precede the current version.
    pub rollouts: Arc<Rollouts>,
    /// Tracker of the offers in progress.
    pub notices: TaskTracker,
}

impl Offers {
    /// Offers a version to the connected devices that follow the model; with `again` also to those that had rejected it.
    /// Returns their number.
    pub fn offer(&self, model: &ModelName, version: Version, again: bool) -> usize {
        let mut recipients = self.fleet.to_tell(model, version, again);
        recipients.retain(|(recipient, _connection)| !self.rollouts.is_pinned(&recipient.device, model));
        let count = recipients.len();
        self.notices.spawn(notices::tell(recipients));
        count
    }

    /// Offers versions again whose files were damaged and are whole, where they are current.
    pub fn offer_mended(&self, registry: &Registry, mended: &[(ModelName, Version)]) {
        for (model, version) in mended {
            if registry.current(model) == Some(*version) {
                self.offer(model, *version, true);
            }
        }
    }
}
