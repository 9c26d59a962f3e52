//! Evidence of a rollout from the stored counters.

use std::collections::HashMap;

use hub_core::evidence::{self, Assignment, Attribute, Cell, Evidence};
use hub_core::gate::Gate;
use store::StoreError;
use types::{DeviceId, ModelName};

use super::Counters;
use crate::clock;

impl Counters {
    /// Returns the evidence of a rollout of a model, as of now. `attributes` returns labels, hardware and engine of a device.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn evidence(
        &self,
        model: &ModelName,
        assignment: &Assignment,
        gate: &Gate,
        attributes: &(dyn Fn(&DeviceId) -> Vec<Attribute> + Sync),
    ) -> Result<Evidence, StoreError> {
        let mut cells: HashMap<DeviceId, Vec<Cell>> = HashMap::new();
        for device in evidence::involved(assignment, gate) {
            cells.insert(device.clone(), self.cells(model, device).await?);
        }
        let of = |device: &DeviceId| cells.get(device).cloned().unwrap_or_default();
        Ok(evidence::gather(assignment, gate, &of, attributes, clock::unix_s()))
    }
}
