//! Counters and measurements that devices send of their models.

use std::sync::atomic::Ordering;

use protocol::v1::{HubResponse, Measurement, ModelCounters, Refusal};

use super::device::{Visit, internal};

/// Counts the periods of a device; answers once they are durable.
pub(super) async fn count(visit: &Visit, periods: Vec<ModelCounters>) -> Result<HubResponse, Refusal> {
    let services = &visit.services;
    let skew_s = visit.skew_s.load(Ordering::Relaxed);
    let taken = services.counters.take(&services.registry, &visit.admitted.device, periods, skew_s).await;
    taken.map_err(|error| internal(&error))?;
    Ok(HubResponse::Accepted)
}

/// Stores the measurement of a device.
pub(super) async fn measured(visit: &Visit, measurement: Measurement) -> Result<HubResponse, Refusal> {
    let services = &visit.services;
    let stored = services.counters.measured(&services.registry, &visit.admitted.device, measurement).await;
    stored.map_err(|error| internal(&error))?;
    Ok(HubResponse::Accepted)
}
