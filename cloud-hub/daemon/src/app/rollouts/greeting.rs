//! Greetings: offers for a device that connects, and notices of its pins and assigned models.

use hub_core::fleet::Offer;
use protocol::v1::{Assigned, HubRequest, Pin};
use store::StoreError;
use types::{DeviceId, ModelName};

use super::{Rollouts, State};
use crate::app::fleet::notices;
use hub_core::rollout::DeviceView;
use types::Version;

impl State {
    /// Returns the version of a model that a device should have: its pin, else that of the newest rollout that it takes part
    /// in, else the current one.
    fn wanted(&self, model: &ModelName, device: &DeviceView<'_>, current: Option<Version>) -> Option<Version> {
        if let Some(pinned) = device.pinned {
            return Some(pinned);
        }
        let of_model = self.rollouts.values().rev().filter(|rollout| rollout.spec().model == *model);
        let rolled_out = of_model.into_iter().find_map(|rollout| rollout.offers(device));
        rolled_out.max(current)
    }
}

impl Rollouts {
    /// Returns what a device that has greeted is offered.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn offers(&self, device: &DeviceId) -> Result<Vec<Offer>, StoreError> {
        let mut offers = Vec::new();
        let pinned = |model: &ModelName| self.state().pinned(device, model);
        self.fleet
            .with_device(device, pinned, |model, view| {
                let wanted = self.state().wanted(model, view, self.registry.current(model));
                let wants = |version: &Version| view.status.is_some_and(|status| status.wants(*version));
                offers.extend(wanted.filter(wants).map(|version| Offer { model: model.clone(), version }));
            })
            .await?;
        Ok(offers)
    }

    /// Tells devices that have connected their pins and assigned models.
    pub(super) async fn tell_greeted(&self) {
        let untold = std::mem::take(&mut self.state().untold);
        if untold.is_empty() {
            return;
        }
        let mut requests = Vec::new();
        {
            let state = self.state();
            for ((device, model), pin) in state.pins.iter().filter(|((device, _model), _pin)| untold.contains(device)) {
                let request = HubRequest::Pin(Pin { model: model.clone(), version: pin.version });
                requests.push((device.clone(), request));
            }
        }
        match self.assigned_to(&untold).await {
            Ok(assigned) => requests.extend(
                assigned.into_iter().map(|(device, models)| (device, HubRequest::Assigned(Assigned { models }))),
            ),
            Err(error) => {
                tracing::error!(error = telemetry::chain(&error), "assigned models were not read");
            }
        }
        self.send(requests);
    }

    /// Sends requests to devices that are connected and take them. Returns their number.
    pub(super) fn send(&self, requests: Vec<(DeviceId, HubRequest)>) -> usize {
        let live = requests.into_iter().filter_map(|(device, request)| {
            self.fleet.speaking(&device).map(|connection| (device, connection, request))
        });
        let live: Vec<_> = live.collect();
        let count = live.len();
        if count > 0 {
            self.notices.spawn(notices::request(live));
        }
        count
    }
}
