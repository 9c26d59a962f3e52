//! Pins: versions that operators keep on single devices, above rollouts and the current version.

use hub_core::audit::Change;
use protocol::v1::{HubRequest, Pin};
use store::Batch;
use types::{DeviceId, ModelName, Version};

use super::{RolloutError, Rollouts};
use crate::api::{PinRequest, PinView};
use crate::app::fleet::FleetError;
use crate::app::fleet::notices;
use crate::app::operators::Caller;
use crate::clock;
use crate::storage::values::PinRecord;

impl Rollouts {
    /// Keeps a version of a model on a device, or ends that.
    ///
    /// # Errors
    /// When there is no such device or version, or the store fails; nothing has changed.
    pub async fn pin(&self, by: &Caller, device: &DeviceId, request: PinRequest) -> Result<PinView, RolloutError> {
        let PinRequest { model, version } = request;
        let _one_at_a_time = self.writing.lock().await;
        let seen = self.fleet.show(device).await.map_err(|error| match error {
            FleetError::Store(error) => RolloutError::Store(error),
            FleetError::Unknown(_)
            | FleetError::NotSeen(_)
            | FleetError::Exists(_)
            | FleetError::Label(_)
            | FleetError::Filter(_) => RolloutError::UnknownDevice(device.clone()),
        })?;
        let registry = self.registry.snapshot();
        if version.is_some() {
            registry.resolve(&model, version)?;
        }
        let before = self.state().pinned(device, &model);
        let pin = PinRecord { version, at_unix_s: clock::unix_s(), by: by.name.clone() };
        let change = Change::new(clock::unix_ms(), &by.name, "device.pin", format!("{device}: {model}"));
        let change = change.states(before.map(text), version.map(text));
        let batch = self.pins.put_in(Batch::new(), &format!("{device}/{model}"), &pin)?;
        self.audit.commit(batch, change).await?;
        self.state().pins.insert((device.clone(), model.clone()), pin);
        self.show_pins();
        let mut warnings = Vec::new();
        if let Some(version) = version {
            self.registry.release(&model, version).await?;
            let follows = seen.models.iter().any(|one| one.model == model);
            if !follows {
                warnings.push(format!("{device} does not follow {model}: the pin holds once it does"));
            }
            let offers = self.fleet.offers_to(std::slice::from_ref(device), &model, version);
            self.notices.spawn(notices::tell(offers));
        }
        if seen.connected && self.fleet.speaking(device).is_none() {
            warnings.push("its agent is too old to be told of a pin: it only takes a later version".to_owned());
        }
        let request = HubRequest::Pin(Pin { model: model.clone(), version });
        let told = self.send(vec![(device.clone(), request)]) > 0;
        if version.is_none() {
            self.offer_again(device).await;
        }
        self.fleet.note_change();
        Ok(PinView { device: device.clone(), model, version, told, warnings })
    }

    /// Returns the pin of a model on a device.
    #[must_use]
    pub fn pinned(&self, device: &DeviceId, model: &ModelName) -> Option<Version> {
        self.state().pinned(device, model)
    }

    /// Offers a device what it should have after the end of a pin; its next greeting does it, too.
    async fn offer_again(&self, device: &DeviceId) {
        match self.offers(device).await {
            Ok(offers) => {
                for offer in offers {
                    let told = self.fleet.offers_to(std::slice::from_ref(device), &offer.model, offer.version);
                    self.notices.spawn(notices::tell(told));
                }
            }
            Err(error) => tracing::error!(%device, error = telemetry::chain(&error), "offers were not made"),
        }
    }
}

fn text(version: Version) -> String {
    format!("version {version}")
}
