//! What devices fetch: signed metadata, and the files it leads to.

use bundle::trust::is_metadata_name;
use protocol::v1::{BlobRange, BlobSlice, HubResponse, Refusal, RefusalCode};
use transport::{Exchange, ExchangeError, Priority};

use super::device::{Visit, internal, refuse};
use crate::registry::MetadataName;

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
    let body: Vec<_> = bytes.into_iter().collect();
    exchange.send_last(&HubResponse::Metadata { length }, &body).await
}

/// Answers with a part of a file.
pub(super) async fn blob(visit: &Visit, exchange: &mut Exchange, range: &BlobRange) -> Result<(), ExchangeError> {
    exchange.set_priority(Priority::Artifact);
    let hub = &visit.hub;
    let not_found = || Refusal::new(RefusalCode::NotFound, "the hub publishes no such file");
    // What was uploaded but not published, and the full models, are nobody's to fetch.
    if !hub.registry.is_fetchable(&range.digest) {
        return refuse(exchange, not_found()).await;
    }
    // Files can wait: a fleet that updates at once is served a few parts at a time.
    let Ok(_turn) = hub.artifact_turns.acquire().await else {
        return refuse(exchange, Refusal::new(RefusalCode::ShuttingDown, "the hub is stopping")).await;
    };
    let read = hub.registry.blobs().read_range(&range.digest, range.offset, range.length).await;
    match read {
        Ok(Some((bytes, total))) => {
            let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
            let body = if bytes.is_empty() { Vec::new() } else { vec![bytes] };
            exchange.send_last(&HubResponse::Blob(BlobSlice { total, length }), &body).await
        }
        Ok(None) => refuse(exchange, not_found()).await,
        Err(error) => refuse(exchange, internal(&error)).await,
    }
}
