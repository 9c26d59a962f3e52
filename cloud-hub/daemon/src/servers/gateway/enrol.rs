//! A machine that wants to become a device: one request, no certificate, a token's secret.

use std::time::Duration;

use hub_core::tokens::TokenRefused;
use protocol::v1::{EnrolRequest, EnrolResponse, Enrolled, Refusal, RefusalCode};
use transport::{CloseCode, Connection, ExchangeError, Priority};

use super::Services;
use super::device::internal;
use crate::app::registry::MetadataName;
use crate::app::tokens::RedeemError;
use crate::clock;
use crate::servers::guard::places::Place;

/// From the connection to the delivered answer; the machine has its key ready before it connects.
const ENROL_LIMIT: Duration = Duration::from_secs(20);

/// From the connection to the request: whoever only holds a place open loses it soon.
const REQUEST_LIMIT: Duration = Duration::from_secs(5);

/// Serves one enrolment and closes the connection. A newcomer may take the place until the request has arrived.
pub(super) async fn serve(services: &Services, connection: &Connection, place: &Place) {
    let remote = connection.remote_addr();
    match tokio::time::timeout(ENROL_LIMIT, exchange(services, connection, place)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%remote, error = telemetry::chain(&error), "enrolment broke off"),
        Err(_elapsed) => tracing::warn!(%remote, "enrolment took too long"),
    }
    connection.close(CloseCode::Done, "");
}

async fn exchange(services: &Services, connection: &Connection, place: &Place) -> Result<(), ExchangeError> {
    let asked = async {
        let mut exchange = connection.accept().await.map_err(ExchangeError::ConnectionLost)?;
        let request: EnrolRequest = exchange.receive().await?;
        Ok::<_, ExchangeError>((exchange, request))
    };
    let stalled = |_elapsed| ExchangeError::Stalled { what: "an enrolment", after: REQUEST_LIMIT };
    let evicted = place.evicted();
    let (mut exchange, request) = tokio::select! {
        asked = tokio::time::timeout(REQUEST_LIMIT, asked) => asked.map_err(stalled)??,
        () = evicted.cancelled() => {
            connection.close(CloseCode::Busy, "too many devices are joining");
            return Err(ExchangeError::Stalled { what: "an enrolment", after: Duration::ZERO });
        }
    };
    exchange.set_priority(Priority::Control);
    let response = match enrol(services, &request).await {
        Ok(enrolled) => {
            tracing::info!(device = %enrolled.device, remote = %connection.remote_addr(), "device enrolled");
            EnrolResponse::Enrolled(enrolled)
        }
        Err(refusal) => {
            telemetry::metrics::refused(refusal.code.as_str());
            tracing::warn!(remote = %connection.remote_addr(), code = %refusal.code, "enrolment refused");
            EnrolResponse::Refused(refusal)
        }
    };
    exchange.send_last(&response, &[]).await?;
    exchange.delivered().await
}

/// The certificate is made first and handed out last: between the two the token is used up, in one write with the
/// device's record, and whoever loses that race gets nothing.
async fn enrol(services: &Services, request: &EnrolRequest) -> Result<Enrolled, Refusal> {
    let device = services.tokens.device_of(&request.secret).await.map_err(refusal)?;
    let issued = services.issuer.device(&request.csr_der, &device).map_err(|error| {
        tracing::warn!(%device, error = telemetry::chain(&error), "signing request refused");
        Refusal::new(RefusalCode::BadInput, "the signing request is not lawful")
    })?;
    let root = services.registry.metadata(&MetadataName::Root).await.map_err(|error| internal(&error))?;
    let root_json = root.ok_or_else(|| Refusal::new(RefusalCode::Internal, "the hub has no trust root"))?;
    let device = services.tokens.redeem(&request.secret, issued.key, clock::unix_s()).await.map_err(refusal)?;
    services.fleet.enrolled(&device);
    services.fleet.certified(&device, u64::try_from(issued.not_after_unix_s).unwrap_or(0)).await;
    Ok(Enrolled { device, chain_der: issued.chain_der, ca_der: services.issuer.ca.cert_der(), root_json })
}

fn refusal(error: RedeemError) -> Refusal {
    let code = match &error {
        RedeemError::Refused(TokenRefused::Unknown | TokenRefused::Withdrawn | TokenRefused::OtherDevice) => {
            RefusalCode::TokenUnknown
        }
        RedeemError::Refused(TokenRefused::Used) | RedeemError::Overtaken(_) => RefusalCode::TokenUsed,
        RedeemError::Refused(TokenRefused::Expired) => RefusalCode::TokenExpired,
        RedeemError::Store(cause) => return internal(cause),
    };
    Refusal::new(code, error.to_string())
}
