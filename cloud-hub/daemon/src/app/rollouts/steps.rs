//! Carries out the steps of a rollout that is stored.

use hub_core::rollout::{Event, RolloutId, Step};
use protocol::v1::{Audit, HubRequest, Return};
use store::Batch;
use types::Version;

use super::{Rollouts, evaluate};
use crate::app::fleet::notices;
use crate::clock;

impl Rollouts {
    /// Lets devices fetch the version of a rollout.
    pub(super) async fn release(&self, id: RolloutId) {
        let Some((model, version)) = self.about(id) else { return };
        if let Err(error) = self.registry.release(&model, version).await {
            tracing::error!(rollout = %id, error = telemetry::chain(&error), "devices cannot fetch the version yet");
        }
    }

    /// Carries out the steps of a rollout. What fails is a step of the next look again.
    pub(super) async fn carry_out(&self, id: RolloutId, steps: Vec<Step>) {
        let Some((model, version)) = self.about(id) else { return };
        let reason = self.state().rollouts.get(&id).and_then(|rollout| rollout.state().reason().map(str::to_owned));
        let reason = bounded(format!("rollout {id}: {}", reason.unwrap_or_default()));
        let offers = self.fleet.offers_to(&evaluate::offers(&steps), &model, version);
        if !offers.is_empty() {
            self.notices.spawn(notices::tell(offers));
        }
        let mut requests = Vec::new();
        for step in steps {
            let (device, request) = match step {
                Step::Return { device, to } => {
                    let request = Return { model: model.clone(), from: version, to, reason: reason.clone() };
                    (device, HubRequest::Return(request))
                }
                Step::Audit { device, version, per_mille } => {
                    let audit = Audit { model: model.clone(), version, share_per_mille: per_mille };
                    (device, HubRequest::Audit(audit))
                }
                Step::MakeCurrent => {
                    self.make_current(id).await;
                    continue;
                }
                Step::Revert { to } => {
                    self.revert(id, to).await;
                    continue;
                }
                Step::Offer { .. } => continue,
            };
            requests.extend(self.fleet.speaking(&device).map(|connection| (device, connection, request)));
        }
        if !requests.is_empty() {
            self.notices.spawn(notices::request(requests));
        }
    }

    /// Makes the version of a rollout current, and offers it to the devices that the rollout did not reach.
    async fn make_current(&self, id: RolloutId) {
        let Some((model, version)) = self.about(id) else { return };
        let offered = match self.registry.current(&model) {
            // A later one was made current meanwhile.
            Some(current) if current >= version => Ok(()),
            Some(_) | None => self.registry.offer(&model, version).await.map(drop),
        };
        if let Err(error) = offered {
            tracing::error!(rollout = %id, error = telemetry::chain(&error), "the version cannot become current yet");
            return;
        }
        let rollout = self.state().rollouts.get(&id).cloned();
        let Some(mut rollout) = rollout else { return };
        if rollout.handle(Event::Promoted, clock::unix_s()).is_err() {
            return;
        }
        if let Err(error) = self.keep(&mut rollout, Batch::new()).await {
            tracing::error!(rollout = %id, error = telemetry::chain(&error), "the end of a rollout was not stored");
            return;
        }
        self.state().rollouts.insert(id, rollout);
        self.count();
        let mut recipients = self.fleet.to_tell(&model, version, false);
        recipients.retain(|(recipient, _connection)| !self.is_pinned(&recipient.device, &model));
        self.notices.spawn(notices::tell(recipients));
    }

    async fn revert(&self, id: RolloutId, to: Version) {
        let Some((model, version)) = self.about(id) else { return };
        match self.registry.revert(&model, version, to).await {
            // The rollback ends at the next look, which is due now.
            Ok(()) => self.fleet.note_change(),
            Err(error) => {
                tracing::error!(rollout = %id, error = telemetry::chain(&error), "the earlier version is not current yet");
            }
        }
    }

    fn about(&self, id: RolloutId) -> Option<(types::ModelName, Version)> {
        self.state().rollouts.get(&id).map(|rollout| (rollout.spec().model.clone(), rollout.spec().version))
    }
}

/// Maximum length of a reason that is sent to a device, in bytes.
const REASON_SENT_MAX: usize = 500;

fn bounded(mut reason: String) -> String {
    reason.truncate(reason.floor_char_boundary(REASON_SENT_MAX));
    reason
}
