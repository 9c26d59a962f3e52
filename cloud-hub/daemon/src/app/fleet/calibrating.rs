//! Connected devices whose agents take thresholds, with what serves on them.

use std::collections::{BTreeMap, HashMap};

use hub_core::fleet::{ConnectionId, Device, Installed};
use store::StoreError;
use transport::Connection;
use types::{DeviceId, ModelName, Version};

use super::Fleet;

/// Connected device whose agent takes thresholds.
#[derive(Debug)]
pub struct Calibrating {
    /// Name of the device.
    pub device: DeviceId,
    /// Number of its connection.
    pub id: ConnectionId,
    /// Its connection.
    pub connection: Connection,
    /// Value of the label that was asked for.
    pub label: Option<String>,
    /// Models with what serves on the device.
    pub active: Vec<(ModelName, Installed)>,
}

impl Fleet {
    /// Returns the connected devices whose agents take thresholds; with the value of a label, where one is named.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn calibrating(&self, label: Option<&str>) -> Result<Vec<Calibrating>, StoreError> {
        if self.inner().calibrating.is_empty() {
            return Ok(Vec::new());
        }
        let mut values: HashMap<DeviceId, String> = HashMap::new();
        if let Some(label) = label {
            for (_name, record) in self.records.list().await?.records {
                values.extend(record.labels.value(label).map(|value| (record.id.clone(), value.to_owned())));
            }
        }
        let inner = self.inner();
        let devices = inner.fleet.devices().filter_map(|(device, known)| {
            let id = inner.fleet.connection(device).filter(|id| inner.calibrating.contains(id))?;
            let connection = inner.live.get(&id)?.clone();
            let active = Device::models(known).filter_map(|(name, model)| Some((name.clone(), model.active.clone()?)));
            let (label, active) = (values.remove(device), active.collect());
            Some(Calibrating { device: device.clone(), id, connection, label, active })
        });
        Ok(devices.collect())
    }

    /// Returns the number of devices that serve a version and report an alarm of drift.
    #[must_use]
    pub fn drifting(&self, model: &ModelName, version: Version) -> u64 {
        u64::try_from(self.inner().fleet.drifting(model, version)).unwrap_or(u64::MAX)
    }

    /// Returns the number of devices with an alarm of drift, by model.
    #[must_use]
    pub fn alarmed(&self) -> BTreeMap<ModelName, usize> {
        self.inner().fleet.alarmed()
    }

    /// Notes that the agent of a connection takes thresholds.
    pub fn takes_thresholds(&self, id: ConnectionId) {
        self.inner().calibrating.insert(id);
    }
}
