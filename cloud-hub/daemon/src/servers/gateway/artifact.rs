//! Answers requests for signed metadata, and for the files it leads to.

use std::time::Duration;

use bundle::CHUNK_BYTES;
use bundle::trust::is_metadata_name;
use protocol::v1::{BlobRange, BlobSlice, DeltaRequest, HubResponse, Refusal, RefusalCode};
use tokio::time::Instant;
use transport::{Exchange, ExchangeError, Priority};

use super::device::{Visit, delivered, internal, refuse};
use crate::app::deltas::Choice;
use crate::app::registry::MetadataName;
use crate::app::registry::health::SendError;

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
        visit.services.registry.metadata(&MetadataName::File(name.to_owned())).await
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
    let mut memory = visit.services.limits.request_memory.hold(visit.admitted.device.clone());
    if memory.grow(length.unwrap_or(0)).is_err() {
        return refuse(exchange, Refusal::new(RefusalCode::Busy, "this device holds its share of the hub's memory"))
            .await;
    }
    let body: Vec<_> = bytes.into_iter().collect();
    exchange.send_last(&HubResponse::Metadata { length }, &body).await?;
    delivered(exchange).await
}

/// Answers with a part of a file, chunk by chunk: a transfer holds one chunk, and QUIC at most its send window for all
/// transfers of a device. A transfer keeps its turn until the device has everything, so that what all of them hold is bounded
/// by the number of turns.
pub(super) async fn blob(visit: &Visit, exchange: &mut Exchange, range: &BlobRange) -> Result<(), ExchangeError> {
    exchange.set_priority(Priority::Artifact);
    let services = &visit.services;
    let stopping = || Refusal::new(RefusalCode::ShuttingDown, "the hub is stopping");
    if let Some((model, version)) = services.registry.fetchable_manifest(&range.digest) {
        // Before the bytes go out: whoever has the manifest may have the version.
        if let Err(replaced) = services.fleet.takes(&visit.admitted, &model, version).await {
            return refuse(exchange, Refusal::new(RefusalCode::NotAuthorised, replaced.to_string())).await;
        }
    }
    // Files can wait: a device fetches a few at once, and a fleet that updates at once is served in turns.
    let Ok(_one_of_its_own) = visit.artifacts.acquire().await else { return refuse(exchange, stopping()).await };
    let Ok(mut turn) = services.limits.artifact_turns.acquire().await else {
        return refuse(exchange, stopping()).await;
    };
    let mut at = range.offset;
    let end = range.offset.saturating_add(range.length);
    let mut since = Instant::now();
    let mut is_announced = false;
    loop {
        if since.elapsed() > TURN_MAX {
            drop(turn);
            // Turns are given in order of asking. No turn means that the hub ends, and the exchange with it.
            let Ok(next) = services.limits.artifact_turns.acquire().await else { return Ok(()) };
            (turn, since) = (next, Instant::now());
        }
        let to_boundary = CHUNK_BYTES - at % CHUNK_BYTES;
        // What was uploaded but not published, what is held, and the full models, are nobody's to fetch.
        let length = to_boundary.min(end.saturating_sub(at));
        let read = match services.registry.read_for_device(&range.digest, at, length).await {
            Err(SendError::Unknown) => services.deltas.read_for_device(&range.digest, at, length).await,
            read => read,
        };
        let (piece, total) = match read {
            Ok(read) => read,
            Err(error) if !is_announced => return refuse(exchange, refusal(&error)).await,
            Err(error) => {
                // The length is announced already: only a reset tells the device that the rest does not come.
                tracing::error!(error = telemetry::chain(&error), digest = %range.digest, "a file broke off");
                return Ok(());
            }
        };
        if !is_announced {
            let length = end.min(total).saturating_sub(range.offset.min(total));
            exchange.send_head(&HubResponse::Blob(BlobSlice { total, length })).await?;
            is_announced = true;
        }
        if piece.is_empty() {
            exchange.finish()?;
            break;
        }
        at = at.saturating_add(u64::try_from(piece.len()).unwrap_or(u64::MAX));
        exchange.send_piece(piece).await?;
        if at >= end.min(total) {
            exchange.finish()?;
            break;
        }
    }
    // A slow reader keeps its own place for longer, and nobody else's turn.
    let left = TURN_MAX.saturating_sub(since.elapsed());
    if let Ok(taken) = tokio::time::timeout(left, delivered(exchange)).await {
        return taken;
    }
    drop(turn);
    delivered(exchange).await
}

/// A damaged file is a fault of the hub that passes, not a reason to give the version up.
fn refusal(error: &SendError) -> Refusal {
    let code = match error {
        SendError::Unknown => RefusalCode::NotFound,
        SendError::Damaged => RefusalCode::Internal,
    };
    Refusal::new(code, error.to_string())
}

/// Answers which file makes another one out of one that the device has.
pub(super) async fn delta(visit: &Visit, request: &DeltaRequest) -> Result<HubResponse, Refusal> {
    match visit.services.deltas.choose(&visit.admitted.device, request).await {
        Choice::File(file) => Ok(HubResponse::Delta(Some(file))),
        Choice::Whole => Ok(HubResponse::Delta(None)),
        Choice::Making => Err(Refusal::new(RefusalCode::Busy, "the delta is being made: ask again")),
        Choice::Unknown => Err(Refusal::new(RefusalCode::NotFound, SendError::Unknown.to_string())),
    }
}
