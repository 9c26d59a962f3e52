//! Assigned models: which devices follow a model beside those of their own configuration.

use std::collections::{BTreeMap, BTreeSet};

use hub_core::audit::Change;
use hub_core::filter::Subject;
use hub_core::registry::RegistryError;
use hub_core::rollout::Cohort;
use protocol::v1::rollout::ASSIGNED_MAX;
use protocol::v1::{Assigned, HubRequest};
use store::{Batch, StoreError};
use types::{DeviceId, ModelName};

use super::{ASSIGNMENTS_MAX, RolloutError, Rollouts};
use crate::api::{AssignRequest, AssignmentView};
use crate::app::operators::Caller;
use crate::clock;
use crate::storage::values::AssignmentRecord;

impl Rollouts {
    /// Lets the devices of a filter follow a model, or ends that.
    ///
    /// # Errors
    /// When there is no such model, the filter is none, or the store fails; nothing has changed.
    pub async fn assign(
        &self,
        by: &Caller,
        model: &ModelName,
        request: &AssignRequest,
    ) -> Result<AssignmentView, RolloutError> {
        let cohort = request.to.as_deref().map(Cohort::parse).transpose()?;
        let _one_at_a_time = self.writing.lock().await;
        if cohort.is_some() && self.registry.snapshot().model(model).is_none() {
            return Err(RegistryError::UnknownModel(model.clone()).into());
        }
        let before = self.assigned().await?;
        let earlier = {
            let state = self.state();
            let is_new = !state.assignments.contains_key(model);
            if is_new && state.assignments.len() >= ASSIGNMENTS_MAX {
                return Err(RolloutError::Text(format!("at most {ASSIGNMENTS_MAX} models can be assigned")));
            }
            state.assignments.get(model).and_then(|assignment| assignment.cohort.clone())
        };
        let record = AssignmentRecord { cohort: cohort.clone(), at_unix_s: clock::unix_s(), by: by.name.clone() };
        let change = Change::new(clock::unix_ms(), &by.name, "model.assign", model.to_string());
        let change = change.states(earlier.map(|cohort| cohort.to_string()), cohort.as_ref().map(Cohort::to_string));
        let batch = self.assignments.put_in(Batch::new(), model.as_str(), &record)?;
        self.audit.commit(batch, change).await?;
        self.state().assignments.insert(model.clone(), record);
        let after = self.assigned().await?;
        let devices = after.values().filter(|models| models.contains(model)).count();
        let changed = after.into_iter().filter(|(device, models)| before.get(device) != Some(models));
        let requests =
            changed.map(|(device, models)| (device, HubRequest::Assigned(Assigned { models }))).collect::<Vec<_>>();
        let told = self.send(requests);
        let is_empty = cohort.is_some() && devices == 0;
        let warnings = is_empty.then(|| "no device passes the filter now".to_owned()).into_iter().collect();
        Ok(AssignmentView { model: model.clone(), to: request.to.clone(), devices, told, warnings })
    }

    /// Returns the models that are assigned to each device; nothing while no model was ever assigned.
    async fn assigned(&self) -> Result<BTreeMap<DeviceId, Vec<ModelName>>, StoreError> {
        let assignments = self.state().assignments.clone();
        let mut assigned = BTreeMap::new();
        if assignments.is_empty() {
            return Ok(assigned);
        }
        self.fleet
            .for_each_subject(|device, subject| {
                assigned.extend(models_of(subject, &assignments).map(|models| (device.clone(), models)));
            })
            .await?;
        Ok(assigned)
    }

    /// Returns the models that are assigned to each of these devices, and reads no other device; nothing while no model was
    /// ever assigned.
    pub(super) async fn assigned_to(
        &self,
        devices: &BTreeSet<DeviceId>,
    ) -> Result<BTreeMap<DeviceId, Vec<ModelName>>, StoreError> {
        let assignments = self.state().assignments.clone();
        let mut assigned = BTreeMap::new();
        if assignments.is_empty() {
            return Ok(assigned);
        }
        for device in devices {
            let add = |subject: &Subject<'_>| {
                assigned.extend(models_of(subject, &assignments).map(|models| (device.clone(), models)));
            };
            self.fleet.with_subject(device, add).await?;
        }
        Ok(assigned)
    }
}

/// Returns the models that are assigned to a device; `None` if the device is revoked.
fn models_of(subject: &Subject<'_>, assignments: &BTreeMap<ModelName, AssignmentRecord>) -> Option<Vec<ModelName>> {
    let includes =
        |assignment: &AssignmentRecord| assignment.cohort.as_ref().is_some_and(|cohort| cohort.includes(subject));
    let models = assignments.iter().filter(|(_model, assignment)| includes(assignment));
    (!subject.is_revoked).then(|| models.map(|(model, _assignment)| model.clone()).take(ASSIGNED_MAX).collect())
}
