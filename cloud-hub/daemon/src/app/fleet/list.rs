//! The list of devices: filtered, in pages.

use hub_core::authorise::DeviceRecord;
use hub_core::filter::{self, Filter};

use super::{Fleet, FleetError, Inner};
use crate::api::{DeviceList, DeviceListQuery, PAGE_MAX};

/// Number of records that are read at once.
const READ_AT_ONCE: usize = 500;

impl Fleet {
    /// Returns a page of the devices that pass the filter, by name. Reads the records from the begin of the page to its end, and
    /// up to [`READ_AT_ONCE`] more.
    ///
    /// # Errors
    /// When the filter is none, or the store fails.
    pub async fn list(&self, query: &DeviceListQuery) -> Result<DeviceList, FleetError> {
        let filter = query.filter.as_deref().map(filter::parse).transpose()?;
        let limit = query.limit.map_or(usize::MAX, |limit| limit.clamp(1, PAGE_MAX) as usize);
        let (mut devices, mut after) = (Vec::new(), query.after.clone());
        let mut has_more = false;
        while !has_more {
            let page = self.records.page(after.as_deref(), READ_AT_ONCE.min(limit.saturating_add(1))).await?;
            let inner = self.inner();
            for (_name, record) in &page.listing.records {
                if filter.as_ref().is_some_and(|filter| !inner.passes(record, filter)) {
                    continue;
                }
                if devices.len() == limit {
                    has_more = true;
                    break;
                }
                devices.push(inner.view(record, self.grace_s));
            }
            drop(inner);
            match page.next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        let next = devices.last().filter(|_last| has_more).map(|last| last.device.to_string());
        let is_first = query.after.is_none() && filter.is_none();
        let unknown = if is_first { self.inner().unknown.list() } else { Vec::new() };
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
