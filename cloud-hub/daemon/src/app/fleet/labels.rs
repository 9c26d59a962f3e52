//! Labels of devices: set and removed by operators, stored in the device's record.

use hub_core::audit::Change;
use hub_core::authorise::DeviceRecord;
use hub_core::labels::Labels;
use types::DeviceId;

use super::{Fleet, FleetError};
use crate::api::{DeviceView, LabelChange};
use crate::app::operators::Caller;
use crate::clock;

impl Fleet {
    /// Sets and removes labels of a device.
    ///
    /// # Errors
    /// When there is no such device, a label is not allowed, or the store fails; then nothing was changed.
    pub async fn label(&self, by: &Caller, device: &DeviceId, wanted: &LabelChange) -> Result<DeviceView, FleetError> {
        let label = |record: Option<&DeviceRecord>| {
            let record = record.ok_or_else(|| FleetError::Unknown(device.clone()))?;
            let labels = record.labels.changed(&wanted.set, &wanted.remove)?;
            let change = Change::new(clock::unix_ms(), &by.name, "device.label", device.as_str());
            let change = change.states(Some(text(&record.labels)), Some(text(&labels)));
            Ok::<_, FleetError>((record.labelled(labels), change))
        };
        self.audit.update(&self.records, device.as_str(), label).await?;
        self.note_change();
        self.show(device).await
    }
}

/// Returns the labels for the audit log.
fn text(labels: &Labels) -> String {
    let pairs: Vec<String> = labels.as_map().iter().map(|(key, value)| format!("{key}={value}")).collect();
    pairs.join(", ")
}
