//! The list of devices: filtered, in pages.

use hub_core::authorise::{DeviceRecord, Standing};
use hub_core::filter::{self, Filter, Subject, SubjectModel};

use super::{Fleet, FleetError, Inner};
use crate::api::{DeviceList, DeviceListQuery, PAGE_MAX};

impl Fleet {
    /// Returns a page of the devices that pass the filter, by name.
    ///
    /// # Errors
    /// When the filter is none, or the store fails.
    pub async fn list(&self, query: &DeviceListQuery) -> Result<DeviceList, FleetError> {
        let filter = query.filter.as_deref().map(filter::parse).transpose()?;
        let limit = query.limit.map_or(usize::MAX, |limit| limit.clamp(1, PAGE_MAX) as usize);
        let records = self.records.list().await?.records;
        let inner = self.inner();
        let wanted = |record: &DeviceRecord| filter.as_ref().is_none_or(|filter| inner.passes(record, filter));
        let behind = |name: &str| query.after.as_deref().is_none_or(|after| name > after);
        let mut passing =
            records.iter().filter(|(name, record)| behind(name) && wanted(record)).map(|(_name, record)| record);
        let devices: Vec<_> = passing.by_ref().take(limit).map(|record| inner.view(record, self.grace_s)).collect();
        let next = passing.next().and_then(|_more| devices.last()).map(|last| last.device.to_string());
        let is_first = query.after.is_none() && filter.is_none();
        let unknown = if is_first { inner.unknown.list() } else { Vec::new() };
        Ok(DeviceList { devices, unknown, next })
    }
}

impl Inner {
    /// Returns whether a device passes a filter.
    fn passes(&self, record: &DeviceRecord, filter: &Filter) -> bool {
        let device = self.fleet.device(&record.id);
        let models: Vec<SubjectModel<'_>> = device
            .into_iter()
            .flat_map(hub_core::fleet::Device::models)
            .map(|(name, model)| SubjectModel {
                name: name.as_str(),
                active: model.active.as_ref().map(|active| (active.version.number(), active.variant.as_str())),
            })
            .collect();
        let engines: Vec<&str> =
            device.into_iter().flat_map(|device| &device.machine.engines).map(|engine| engine.name.as_str()).collect();
        filter.matches(&Subject {
            name: record.id.as_str(),
            labels: &record.labels,
            is_online: self.fleet.connection(&record.id).is_some(),
            is_revoked: record.standing != Standing::Good,
            agent: device.and_then(|device| device.agent_version.as_deref()),
            os: device.and_then(|device| device.machine.os.as_deref()),
            arch: device.and_then(|device| device.machine.arch.as_deref()),
            engines: &engines,
            models: &models,
        })
    }
}
