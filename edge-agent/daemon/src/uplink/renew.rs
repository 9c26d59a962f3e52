//! The next certificate: a new key, a request over the live connection, and both on the disk before they are used.

use std::path::PathBuf;
use std::time::Duration;

use edge_core::renewal::{ClockSkew, Validity};
use protocol::v1::{DeviceRequest, HubResponse};
use service::clock;
use transport::ca::CLOCK_SKEW;
use transport::{CertificateError, Connection, DeviceKey, Identity, Priority};

use super::link::{LinkError, exchange};
use crate::identity::{self, Enrolment, IdentityError};

/// Error of a renewal; the old certificate stays in use.
#[derive(Debug, thiserror::Error)]
pub(super) enum RenewError {
    /// The hub did not give one.
    #[error("ask the hub for a new certificate")]
    Asked(#[source] LinkError),
    /// The hub's certificate is not one for this device's new key.
    #[error("use the certificate that the hub issued")]
    Certificate(#[source] CertificateError),
    /// It names another device.
    #[error("the hub issued a certificate for another device")]
    OtherDevice,
    /// It could not be stored.
    #[error("store the new certificate")]
    Store(#[source] IdentityError),
    /// The agent is stopping.
    #[error("storing the new certificate was interrupted")]
    Interrupted,
}

/// Asks for a certificate for a new key and stores both.
pub(super) async fn renew(connection: &Connection, held: &Enrolment, folder: PathBuf) -> Result<Identity, RenewError> {
    let key = DeviceKey::generate().map_err(RenewError::Certificate)?;
    let request = DeviceRequest::Renew { csr_der: key.csr_der().map_err(RenewError::Certificate)? };
    let (answer, _) = exchange(connection, Priority::Control, &request, 0).await.map_err(RenewError::Asked)?;
    let chain_der = match answer {
        HubResponse::Renewed { chain_der } => chain_der,
        HubResponse::Welcome(_)
        | HubResponse::Infer(_)
        | HubResponse::Metadata { .. }
        | HubResponse::Blob(_)
        | HubResponse::Accepted
        | HubResponse::Delta(_)
        | HubResponse::Refused(_) => return Err(RenewError::Asked(LinkError::OffTopic)),
    };
    let identity = key.identity(&chain_der).map_err(RenewError::Certificate)?;
    if identity.device().map_err(RenewError::Certificate)? != held.hub.device {
        return Err(RenewError::OtherDevice);
    }
    let new = identity.clone();
    let stored = tokio::task::spawn_blocking(move || identity::replace(&folder, &key, &new)).await;
    stored.map_err(|_stopped| RenewError::Interrupted)?.map_err(RenewError::Store)?;
    Ok(identity)
}

/// When a certificate is valid, by the hub's clock that issued it, counted from when it was issued: certificates begin
/// a little earlier, and two thirds of that longer time may be over before a short-lived one was even received.
pub(super) fn validity(identity: &Identity) -> Validity {
    let second = |second: i64| u64::try_from(second).unwrap_or(0);
    let issued = second(identity.not_before_unix_s()).saturating_add(CLOCK_SKEW.as_secs());
    Validity { not_before: issued, not_after: second(identity.not_after_unix_s()) }
}

/// The hub's clock now, in seconds since 1970.
pub(super) fn hub_now(skew: ClockSkew) -> u64 {
    skew.to_hub_time(clock::unix_s())
}

/// How long from now until a second of the hub's clock; at most a minute, because clocks jump.
pub(super) fn until(second: u64, skew: ClockSkew) -> Duration {
    Duration::from_secs(second.saturating_sub(hub_now(skew))).clamp(Duration::from_millis(200), TICK_MAX)
}

/// The longest time between two looks at the clock.
const TICK_MAX: Duration = Duration::from_secs(60);
