//! Sends messages that devices did not request: offers, and the goodbye of the hub.

use std::time::Duration;

use futures_util::StreamExt;
use hub_core::fleet::Recipient;
use protocol::v1::{DeviceResponse, HubRequest, Offer};
use transport::{Connection, Exchange, ExchangeError, Priority};
use types::DeviceId;

/// Devices that are told at once; each costs a stream for as long as its network takes.
const TOLD_AT_ONCE: usize = 256;

/// Longest wait for a device to take a notice; one that does not hears of it at its next greeting.
const NOTICE_LIMIT: Duration = Duration::from_secs(10);

/// Longest wait for a device to take a goodbye.
const GOODBYE_LIMIT: Duration = Duration::from_secs(1);

/// Time in milliseconds after which devices come back to a hub that stops: it is often a restart.
const COME_BACK_MS: u32 = 2000;

/// Offers a version to devices.
///
/// # Cancel safety
/// Those that were told are told; the others hear of it at their next greeting.
pub async fn tell(recipients: Vec<(Recipient, Connection)>) {
    let telling = recipients.into_iter().map(|(recipient, connection)| async move {
        let offer = Offer { model: recipient.offer.model, version: recipient.offer.version };
        if let Err(error) = notice(&connection, &HubRequest::Offer(offer), NOTICE_LIMIT).await {
            tracing::info!(device = %recipient.device, error, "offer was not taken; the next greeting repeats it");
        }
    });
    futures_util::stream::iter(telling).for_each_concurrent(TOLD_AT_ONCE, |telling| telling).await;
}

/// Sends a request of its own to each device.
///
/// # Cancel safety
/// Those that were told are told; the rollouts send the others their request again when they connect.
pub async fn request(requests: Vec<(DeviceId, Connection, HubRequest)>) {
    let telling = requests.into_iter().map(|(device, connection, request)| async move {
        if let Err(error) = notice(&connection, &request, NOTICE_LIMIT).await {
            tracing::info!(%device, error, "a request to the device was not taken");
        }
    });
    futures_util::stream::iter(telling).for_each_concurrent(TOLD_AT_ONCE, |telling| telling).await;
}

/// Sends a request of its own to one device.
///
/// # Errors
/// The reason for which the device did not take it.
pub async fn ask(connection: &Connection, request: &HubRequest) -> Result<(), String> {
    notice(connection, request, NOTICE_LIMIT).await
}

/// Tells every device that the hub is about to go, and when to come back.
///
/// # Cancel safety
/// Those that were told are told.
pub async fn goodbye(connections: Vec<Connection>) {
    let goodbye = HubRequest::Goodbye { reason: "the hub is stopping".to_owned(), retry_after_ms: Some(COME_BACK_MS) };
    let telling = connections.iter().map(|connection| async {
        if let Err(error) = notice(connection, &goodbye, GOODBYE_LIMIT).await {
            tracing::debug!(remote = %connection.remote_addr(), error, "goodbye was not taken");
        }
    });
    futures_util::stream::iter(telling).for_each_concurrent(TOLD_AT_ONCE, |telling| telling).await;
}

async fn notice(connection: &Connection, request: &HubRequest, limit: Duration) -> Result<(), String> {
    let asking = connection.request::<_, DeviceResponse>(Priority::Control, request, &[]);
    let asked: Result<(DeviceResponse, Exchange), ExchangeError> =
        tokio::time::timeout(limit, asking).await.map_err(|_elapsed| "no answer in time".to_owned())?;
    match asked {
        Ok((DeviceResponse::Accepted, _exchange)) => Ok(()),
        Ok((DeviceResponse::Refused(refusal), _exchange)) => Err(refusal.to_string()),
        Err(error) => Err(telemetry::chain(&error)),
    }
}
