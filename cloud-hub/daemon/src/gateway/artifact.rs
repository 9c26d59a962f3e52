//! Answers requests for signed metadata, and for the files it leads to.

use std::time::Duration;

use bundle::trust::is_metadata_name;
use protocol::v1::{BlobRange, BlobSlice, HubResponse, Refusal, RefusalCode};
use tokio::time::Instant;
use transport::{Exchange, ExchangeError, Priority};

use super::device::{Visit, internal, refuse};
use crate::registry::MetadataName;

/// Time after which a transfer gives its turn to one that waits, and waits itself: a slow reader delays others by this.
const TURN_MAX: Duration = Duration::from_secs(10);

/// Answers with a metadata file.
pub(super) async fn metadata(
    visit: &Visit,
    exchange: &mut Exchange,
    name: &str,
    bytes_max: u64,
) -> Result<(), ExchangeError> {
    exchange.set_priority(Priority::Control);
    let bytes = if is_metadata_name(name) {
        visit.hub.registry.metadata(&MetadataName::File(name.to_owned())).await
    } else {
        Ok(None)
    };
    let bytes = match bytes {
        Ok(bytes) => bytes,
        Err(error) => return refuse(exchange, internal(&error)).await,
    };
    let length = bytes.as_ref().map(|bytes| u64::try_from(bytes.len()).unwrap_or(u64::MAX));
    if length.is_some_and(|length| length > bytes_max) {
        return refuse(exchange, Refusal::new(RefusalCode::TooLarge, "the metadata file is larger than was asked for"))
            .await;
    }
    let mut memory = visit.hub.request_memory.hold(visit.seat.device.clone());
    if memory.grow(length.unwrap_or(0)).is_err() {
        return refuse(exchange, Refusal::new(RefusalCode::Busy, "this device holds its share of the hub's memory"))
            .await;
    }
    let body: Vec<_> = bytes.into_iter().collect();
    exchange.send_last(&HubResponse::Metadata { length }, &body).await
}

/// Answers with a part of a file, piece by piece: a transfer holds little memory, however slowly it is read.
pub(super) async fn blob(visit: &Visit, exchange: &mut Exchange, range: &BlobRange) -> Result<(), ExchangeError> {
    exchange.set_priority(Priority::Artifact);
    let hub = &visit.hub;
    let not_found = || Refusal::new(RefusalCode::NotFound, "the hub publishes no such file");
    let stopping = || Refusal::new(RefusalCode::ShuttingDown, "the hub is stopping");
    // What was uploaded but not published, and the full models, are nobody's to fetch.
    if !hub.registry.is_fetchable(&range.digest) {
        return refuse(exchange, not_found()).await;
    }
    // Files can wait: a device fetches a few at once, and a fleet that updates at once is served in turns.
    let Ok(_one_of_its_own) = visit.artifacts.acquire().await else { return refuse(exchange, stopping()).await };
    let Ok(mut turn) = hub.artifact_turns.acquire().await else { return refuse(exchange, stopping()).await };
    let mut part = match hub.registry.blobs().open_range(&range.digest, range.offset, range.length).await {
        Ok(Some(part)) => part,
        Ok(None) => return refuse(exchange, not_found()).await,
        Err(error) => return refuse(exchange, internal(&error)).await,
    };
    exchange.send_head(&HubResponse::Blob(BlobSlice { total: part.total(), length: part.left() })).await?;
    let mut since = Instant::now();
    loop {
        if since.elapsed() > TURN_MAX {
            drop(turn);
            // Turns are given in order of asking. No turn means that the hub ends, and the exchange with it.
            let Ok(next) = hub.artifact_turns.acquire().await else { return Ok(()) };
            (turn, since) = (next, Instant::now());
        }
        match part.next_piece().await {
            Ok(Some(piece)) => exchange.send_piece(piece).await?,
            Ok(None) => return exchange.finish(),
            Err(error) => {
                // The length is announced already: only a reset tells the device that the rest does not come.
                tracing::error!(error = telemetry::chain(&error), digest = %range.digest, "a file broke off");
                return Ok(());
            }
        }
    }
}
