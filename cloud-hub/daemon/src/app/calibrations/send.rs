//! Sends each device the thresholds of what it serves, when they differ from what it was sent before.

use std::sync::Arc;

use hub_core::calibration::Force;
use protocol::v1::calibration::THRESHOLDS_MAX;
use protocol::v1::{HubRequest, ThresholdOrder, Thresholds, VariantThreshold};
use store::StoreError;
use types::ModelName;

use super::{ALL, Calibrations, watch_of};
use crate::app::fleet::calibrating::Calibrating;
use crate::app::fleet::notices;

impl Calibrations {
    /// Waits until thresholds may have to be sent.
    pub async fn changed(&self) {
        self.changes.notified().await;
    }

    /// Sends thresholds to the connected devices whose list has changed. A list that a device does not take is sent again by the next
    /// call.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn send(self: &Arc<Self>) -> Result<(), StoreError> {
        self.show_drift();
        let devices = self.fleet.calibrating(self.config.group_by.as_deref()).await?;
        let mut lists = Vec::new();
        {
            let mut state = self.state();
            state.sent.retain(|device, (connection, _list)| {
                devices.iter().any(|one| one.device == *device && one.id == *connection)
            });
        }
        for device in devices {
            let list = self.list_of(&device);
            let mut state = self.state();
            let is_known = state.sent.get(&device.device).is_some_and(|(_connection, sent)| *sent == list);
            if !is_known {
                state.sent.insert(device.device.clone(), (device.id, list.clone()));
                lists.push((device, list));
            }
        }
        for (device, list) in lists {
            let this = Arc::clone(self);
            self.notices.spawn(async move {
                let request = HubRequest::Thresholds(Thresholds { variants: list });
                if let Err(error) = notices::ask(&device.connection, &request).await {
                    tracing::debug!(device = %device.device, error, "thresholds were not taken");
                    let mut state = this.state();
                    if state.sent.get(&device.device).is_some_and(|(connection, _list)| *connection == device.id) {
                        state.sent.remove(&device.device);
                    }
                }
            });
        }
        Ok(())
    }

    /// Shows the number of devices with an alarm of drift in the metrics. Models that the hub does not have are left out: a device must not
    /// invent labels.
    fn show_drift(&self) {
        let alarmed = self.fleet.alarmed();
        for (model, _versions) in self.registry.snapshot().models() {
            let count = alarmed.get(model).copied().unwrap_or_default();
            telemetry::metrics::devices_drifting(model.as_str(), u32::try_from(count).unwrap_or(u32::MAX));
        }
    }

    /// Returns the thresholds of what a device serves.
    fn list_of(&self, device: &Calibrating) -> Vec<VariantThreshold> {
        let group = match &self.config.group_by {
            None => ALL.to_owned(),
            Some(label) => super::group(label, device.label.as_deref()),
        };
        let of = |(model, installed): &(ModelName, hub_core::fleet::Installed)| {
            let manifest = self.registry.manifest(model, installed.version)?;
            let variant = manifest.variant(&installed.variant).filter(|it| it.file.digest == installed.digest)?;
            watch_of(variant)?;
            let key = (model.clone(), installed.version, installed.variant.clone(), group.clone());
            let state = self.state();
            let record = state.watches.get(&key).filter(|record| record.digest == installed.digest);
            let force = record.map_or(Force::Author, |record| record.watch.parts().force);
            Some(VariantThreshold {
                model: model.clone(),
                version: installed.version,
                variant: installed.variant.clone(),
                digest: installed.digest,
                share_per_mille: self.config.audit_share.per_mille(),
                changes: record.map_or(0, |record| record.changes),
                threshold: match force {
                    Force::Author => ThresholdOrder::Author,
                    Force::Nothing => ThresholdOrder::Nothing,
                    Force::At(at) => ThresholdOrder::AtLeast { bits: at.to_bits() },
                },
            })
        };
        device.active.iter().filter_map(of).take(THRESHOLDS_MAX).collect()
    }
}
