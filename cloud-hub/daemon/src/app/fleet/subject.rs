//! Devices as filters and rollouts see them.

use hub_core::authorise::{DeviceRecord, Standing};
use hub_core::filter::{Subject, SubjectModel};
use hub_core::fleet::{Device, Presence};
use hub_core::rollout::DeviceView;
use store::StoreError;
use types::{DeviceId, ModelName, Version};

use super::{Fleet, Inner};

/// Lists of a device that a filter asks for; a [`Subject`] borrows them.
pub(super) struct Facets<'a> {
    models: Vec<SubjectModel<'a>>,
    engines: Vec<&'a str>,
}

impl Inner {
    pub(super) fn facets(&self, record: &DeviceRecord) -> Facets<'_> {
        let device = self.fleet.device(&record.id);
        let models = device.into_iter().flat_map(Device::models).map(|(name, model)| SubjectModel {
            name: name.as_str(),
            active: model.active.as_ref().map(|active| (active.version.number(), active.variant.as_str())),
        });
        let engines = device.into_iter().flat_map(|device| &device.machine.engines).map(|engine| engine.name.as_str());
        Facets { models: models.collect(), engines: engines.collect() }
    }

    pub(super) fn subject<'a>(&'a self, record: &'a DeviceRecord, facets: &'a Facets<'a>) -> Subject<'a> {
        let device = self.fleet.device(&record.id);
        Subject {
            name: record.id.as_str(),
            labels: &record.labels,
            is_online: self.fleet.connection(&record.id).is_some(),
            is_revoked: record.standing != Standing::Good,
            agent: device.and_then(|device| device.agent_version.as_deref()),
            os: device.and_then(|device| device.machine.os.as_deref()),
            arch: device.and_then(|device| device.machine.arch.as_deref()),
            engines: &facets.engines,
            models: &facets.models,
        }
    }

    fn rollout_view<'a>(
        &'a self,
        record: &'a DeviceRecord,
        facets: &'a Facets<'a>,
        model: &ModelName,
        pinned: Option<Version>,
    ) -> DeviceView<'a> {
        let device = self.fleet.device(&record.id);
        let connection = self.fleet.connection(&record.id);
        DeviceView {
            id: &record.id,
            subject: self.subject(record, facets),
            status: device.and_then(|device| device.model(model)),
            pinned,
            // Of a device that is away nobody knows what its agent will be.
            speaks: connection.is_none_or(|connection| self.speaking.contains(&connection)),
            since_unix_s: device.map_or(Presence::Never, |device| device.presence).since_unix_s(),
        }
    }
}

impl Fleet {
    /// Calls a function with every device as a rollout of a model sees it, by name.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn with_views<R>(
        &self,
        model: &ModelName,
        pinned: impl Fn(&DeviceId) -> Option<Version>,
        call: impl FnOnce(&[DeviceView<'_>]) -> R,
    ) -> Result<R, StoreError> {
        let records = self.records.list().await?.records;
        let inner = self.inner();
        let facets: Vec<Facets<'_>> = records.iter().map(|(_name, record)| inner.facets(record)).collect();
        let views = records.iter().zip(&facets);
        let views: Vec<DeviceView<'_>> = views
            .map(|((_name, record), facets)| inner.rollout_view(record, facets, model, pinned(&record.id)))
            .collect();
        Ok(call(&views))
    }

    /// Calls a function with one device as a rollout sees it, once for each model that the device follows.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn with_device(
        &self,
        device: &DeviceId,
        pinned: impl Fn(&ModelName) -> Option<Version>,
        mut call: impl FnMut(&ModelName, &DeviceView<'_>),
    ) -> Result<(), StoreError> {
        let Some(record) = self.records.get(device.as_str()).await? else { return Ok(()) };
        let inner = self.inner();
        let facets = inner.facets(&record);
        for (model, _status) in inner.fleet.device(device).into_iter().flat_map(Device::models) {
            call(model, &inner.rollout_view(&record, &facets, model, pinned(model)));
        }
        Ok(())
    }

    /// Calls a function with one device as filters see it, if it is on record.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn with_subject(&self, device: &DeviceId, call: impl FnOnce(&Subject<'_>)) -> Result<(), StoreError> {
        let Some(record) = self.records.get(device.as_str()).await? else { return Ok(()) };
        let inner = self.inner();
        let facets = inner.facets(&record);
        call(&inner.subject(&record, &facets));
        Ok(())
    }

    /// Calls a function with each device as filters see it, by name.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn for_each_subject(&self, mut call: impl FnMut(&DeviceId, &Subject<'_>)) -> Result<(), StoreError> {
        let records = self.records.list().await?.records;
        let inner = self.inner();
        for (_name, record) in &records {
            let facets = inner.facets(record);
            call(&record.id, &inner.subject(record, &facets));
        }
        Ok(())
    }
}
