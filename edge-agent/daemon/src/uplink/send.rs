//! What the device sends while the hub is there: reports, counters, measurements, what serves, alarms of drift.
//!
//! Each loop ends with its connection, when [`super::online`] drops it.

use std::sync::Arc;
use std::time::Duration;

use protocol::v1::DeviceRequest;
use transport::{Connection, Priority};

use super::link::{LinkError, exchange};
use super::online::Never;
use super::say;
use crate::counters::DeviceCounters;
use crate::measured::Measurements;
use crate::models::Models;
use crate::reports::Reports;

/// Pause before something is sent again over a connection that still lives.
const AGAIN_AFTER: Duration = Duration::from_secs(5);

/// Interval between checks whether the sessions that serve have changed since the hub was told.
const RUNNING_CHECK: Duration = Duration::from_secs(1);

/// Sends the engine and provider of each model, at first and at each change. Never ends.
pub(super) async fn running(connection: Connection, models: Arc<Models>) -> Never {
    let mut sent = None;
    loop {
        let running = say::running(&models);
        if sent.as_ref() != Some(&running) {
            match exchange(&connection, Priority::Control, &DeviceRequest::Running(running.clone()), 0).await {
                Ok(_accepted) => sent = Some(running),
                Err(error) => {
                    tracing::debug!(error = telemetry::chain(&error), "the hub did not take what runs here");
                    tokio::time::sleep(AGAIN_AFTER).await;
                }
            }
        }
        tokio::time::sleep(RUNNING_CHECK).await;
    }
}

/// Sends the alarms of drift that stand, at first and at each change. Never ends.
pub(super) async fn drift(connection: Connection, models: Arc<Models>) -> Never {
    let mut sent = None;
    loop {
        let alarms = say::drift(&models);
        if sent.as_ref() != Some(&alarms) {
            match exchange(&connection, Priority::Control, &DeviceRequest::Drift(alarms.clone()), 0).await {
                Ok(_accepted) => sent = Some(alarms),
                Err(error) => {
                    tracing::debug!(error = telemetry::chain(&error), "the hub did not take the alarms of drift");
                    tokio::time::sleep(AGAIN_AFTER).await;
                }
            }
        }
        tokio::time::sleep(RUNNING_CHECK).await;
    }
}

/// Sends counters, oldest period first, each until the hub has it. Never ends.
pub(super) async fn counters(connection: Connection, counters: Arc<DeviceCounters>, takes_scores: bool) -> Never {
    loop {
        let period = counters.next().await;
        let request = match takes_scores {
            true => DeviceRequest::Evidence(say::evidence(&period)),
            false => DeviceRequest::Counters(say::counters(&period)),
        };
        match exchange(&connection, Priority::Control, &request, 0).await {
            Ok(_accepted) => counters.acknowledged(period.sequence).await,
            // Sent again it would be refused again.
            Err(LinkError::Refused(refusal)) if !refusal.is_retryable() => {
                tracing::warn!(error = telemetry::chain(&refusal), "the hub does not take a period of counters");
                counters.acknowledged(period.sequence).await;
            }
            Err(error) => {
                tracing::debug!(error = telemetry::chain(&error), "a period of counters did not arrive");
                tokio::time::sleep(AGAIN_AFTER).await;
            }
        }
    }
}

/// Sends measurements, oldest first, each until the hub has it. Never ends.
pub(super) async fn measurements(connection: Connection, measurements: Arc<Measurements>) -> Never {
    loop {
        let measured = measurements.next().await;
        let request = DeviceRequest::Measured(say::measurement(&measured));
        match exchange(&connection, Priority::Control, &request, 0).await {
            Ok(_accepted) => measurements.sent(),
            Err(LinkError::Refused(refusal)) if !refusal.is_retryable() => {
                tracing::warn!(error = telemetry::chain(&refusal), "the hub does not take a measurement");
                measurements.sent();
            }
            Err(error) => {
                tracing::debug!(error = telemetry::chain(&error), "a measurement did not arrive");
                tokio::time::sleep(AGAIN_AFTER).await;
            }
        }
    }
}

/// Sends reports, oldest first, each until the hub has it. Never ends.
pub(super) async fn reports(connection: Connection, reports: Arc<Reports>, knows: say::HubKnows) -> Never {
    loop {
        let entry = reports.next().await;
        let request = DeviceRequest::Report(say::report(&entry.report, knows));
        match exchange(&connection, Priority::Control, &request, 0).await {
            Ok(_accepted) => reports.acknowledged(entry.id).await,
            // Said again it would be refused again.
            Err(LinkError::Refused(refusal)) if !refusal.is_retryable() => {
                tracing::warn!(error = telemetry::chain(&refusal), "the hub does not take a report");
                reports.acknowledged(entry.id).await;
            }
            Err(error) => {
                tracing::debug!(error = telemetry::chain(&error), "a report did not arrive");
                reports.not_delivered();
                tokio::time::sleep(AGAIN_AFTER).await;
            }
        }
    }
}
