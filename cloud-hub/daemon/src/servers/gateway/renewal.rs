//! Renewing certificates: over a device's live connection, and for a device whose certificate has expired.
//!
//! The latter gets a connection that serves its renewal and nothing else: it has no seat in the fleet, replaces no other
//! connection and is offered nothing. The device connects again with its new certificate.

use std::sync::Arc;
use std::time::Duration;

use protocol::v1::{DeviceRequest, HubResponse, Refusal, RefusalCode, Welcome, feature};
use transport::{CloseCode, Connection, Exchange, ExchangeError, Priority};
use types::DeviceId;

use super::Services;
use super::device::{internal, refuse, respond};
use crate::app::fleet::NotAdmitted;
use crate::clock;

/// Longest life of a connection that may only renew: a greeting and a renewal on a poor link, several times over.
const RENEWAL_LIMIT: Duration = Duration::from_secs(60);

/// Maximum number of requests on such a connection; a renewal takes two.
const REQUESTS_MAX: usize = 64;

/// Pause that a device should make before it repeats a request other than the renewal, in milliseconds.
const RETRY_AFTER_MS: u32 = 1000;

/// Serves the renewal of a device whose certificate has expired, then closes the connection.
pub(super) async fn serve_expired(services: &Arc<Services>, connection: &Connection, device: &DeviceId) {
    tracing::info!("the device's certificate has expired: it may renew it");
    match tokio::time::timeout(RENEWAL_LIMIT, exchanges(services, connection, device)).await {
        Ok(reason) => tracing::info!(reason, "device left"),
        Err(_elapsed) => tracing::warn!("the device did not renew its certificate in time"),
    }
    connection.close(CloseCode::Done, "connect again with the renewed certificate");
}

async fn exchanges(services: &Arc<Services>, connection: &Connection, device: &DeviceId) -> String {
    for _request in 0..REQUESTS_MAX {
        let served = match connection.accept().await {
            Ok(mut exchange) => serve(services, &mut exchange, device).await,
            Err(reason) => return reason.to_string(),
        };
        match served {
            Ok(()) | Err(ExchangeError::Cancelled(_) | ExchangeError::ConnectionLost(_)) => {}
            Err(error) => tracing::warn!(error = telemetry::chain(&error), "exchange failed"),
        }
    }
    "it asked too often".to_owned()
}

async fn serve(services: &Arc<Services>, exchange: &mut Exchange, device: &DeviceId) -> Result<(), ExchangeError> {
    let request: DeviceRequest = exchange.receive().await?;
    if services.stop.drain.is_cancelled() {
        return refuse(exchange, Refusal::new(RefusalCode::ShuttingDown, "the hub is stopping")).await;
    }
    match request {
        DeviceRequest::Hello(_) => respond(exchange, Ok(welcome(services))).await,
        DeviceRequest::Renew { csr_der } => respond(exchange, renew(services, device, &csr_der).await).await,
        DeviceRequest::Infer(_)
        | DeviceRequest::Metadata { .. }
        | DeviceRequest::Blob(_)
        | DeviceRequest::Report(_)
        | DeviceRequest::Running(_)
        | DeviceRequest::Counters(_)
        | DeviceRequest::Measured(_)
        | DeviceRequest::Delta(_)
        | DeviceRequest::Evidence(_)
        | DeviceRequest::Drift(_)
        | DeviceRequest::Queued(_)
        | DeviceRequest::Settled(_) => {
            exchange.set_priority(Priority::Control);
            let message = "the device's certificate has expired: the hub serves nothing but its renewal";
            // Busy, so that the device repeats the request once it has renewed.
            let refusal = Refusal::new(RefusalCode::Busy, message);
            refuse(exchange, Refusal { retry_after_ms: Some(RETRY_AFTER_MS), ..refusal }).await
        }
    }
}

fn welcome(services: &Services) -> HubResponse {
    let lifetime_s = services.issuer.device_lifetime.as_secs();
    HubResponse::Welcome(Welcome {
        hub_version: env!("CARGO_PKG_VERSION").to_owned(),
        features: vec![feature::RENEWAL_ONLY.to_owned()],
        hub_now_unix_ms: clock::unix_ms(),
        offers: Vec::new(),
        certificate_lifetime_s: u32::try_from(lifetime_s).unwrap_or(u32::MAX),
    })
}

/// Issues a certificate for a new key of a device. Who asks is known from the connection alone.
pub(super) async fn renew(services: &Services, device: &DeviceId, csr_der: &[u8]) -> Result<HubResponse, Refusal> {
    let issued = services.issuer.device(csr_der, device).map_err(|error| {
        tracing::warn!(error = telemetry::chain(&error), "renewal refused");
        Refusal::new(RefusalCode::BadInput, "the signing request is not lawful")
    })?;
    let until = u64::try_from(issued.not_after_unix_s).unwrap_or(0);
    services.fleet.renewing(device, issued.key, until).await.map_err(|error| match error {
        NotAdmitted::Refused(refused) => Refusal::new(RefusalCode::NotAuthorised, refused.to_string()),
        NotAdmitted::Store(error) => internal(&error),
    })?;
    tracing::info!("certificate renewed");
    Ok(HubResponse::Renewed { chain_der: issued.chain_der })
}
