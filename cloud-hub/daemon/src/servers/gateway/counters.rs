//! Counters and measurements that devices send of their models.

use std::sync::atomic::Ordering;

use hub_core::fleet;
use protocol::v1::{DriftAlarm, Evidence, HubResponse, Measurement, ModelCounters, Refusal};

use super::device::{Visit, internal, not_yours};

/// Counts the periods of a device; answers once they are durable.
pub(super) async fn count(visit: &Visit, periods: Vec<ModelCounters>) -> Result<HubResponse, Refusal> {
    let services = &visit.services;
    let skew_s = visit.skew_s.load(Ordering::Relaxed);
    let taken = services.counters.take(&services.registry, &visit.admitted.device, periods, skew_s).await;
    taken.map_err(|error| internal(&error))?;
    Ok(HubResponse::Accepted)
}

/// Counts the periods of a device and the scores of its audits; answers once they are durable.
pub(super) async fn evidence(visit: &Visit, evidence: Evidence) -> Result<HubResponse, Refusal> {
    let services = &visit.services;
    let skew_s = visit.skew_s.load(Ordering::Relaxed);
    let device = &visit.admitted.device;
    let taken = services.calibrations.take(&services.counters, device, evidence, skew_s).await;
    taken.map_err(|error| internal(&error))?;
    Ok(HubResponse::Accepted)
}

/// Notes the alarms of drift of a device.
pub(super) async fn drift(visit: &Visit, alarms: Vec<DriftAlarm>) -> Result<HubResponse, Refusal> {
    let alarms = alarms.into_iter().map(|DriftAlarm { model, version, is_less_sure, since_unix_s }| {
        (model, fleet::DriftAlarm { version, is_less_sure, since_unix_s })
    });
    let noted = visit.services.fleet.drifts(&visit.admitted, alarms.collect()).await;
    noted.map_err(|replaced| not_yours(&replaced))?;
    Ok(HubResponse::Accepted)
}

/// Stores the measurement of a device.
pub(super) async fn measured(visit: &Visit, measurement: Measurement) -> Result<HubResponse, Refusal> {
    let services = &visit.services;
    let stored = services.counters.measured(&services.registry, &visit.admitted.device, measurement).await;
    stored.map_err(|error| internal(&error))?;
    Ok(HubResponse::Accepted)
}
