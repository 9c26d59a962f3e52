//! The list of devices: filtered, in pages.

use hub_core::authorise::DeviceRecord;
use hub_core::filter::{self, Filter};

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
        let facets = self.facets(record);
        filter.matches(&self.subject(record, &facets))
    }
}
