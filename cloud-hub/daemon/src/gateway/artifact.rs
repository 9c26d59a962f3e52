//! What devices fetch: signed metadata, and the files it leads to.

use bundle::trust::is_metadata_name;
use protocol::v1::{BlobRange, BlobSlice, HubResponse, Refusal, RefusalCode};
use transport::{Exchange, ExchangeError, Priority};

use super::device::{Visit, internal, refuse};
use crate::registry::MetadataName;
use crate::registry::health::SendError;

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
    if let Some((model, version)) = hub.registry.fetchable_manifest(&range.digest) {
        // Before the bytes go out: whoever has the manifest may have the version.
        if let Err(replaced) = hub.fleet.takes(&visit.seat, &model, version).await {
            return refuse(exchange, Refusal::new(RefusalCode::NotAuthorised, replaced.to_string())).await;
        }
    }
    // Files can wait: a fleet that updates at once is served a few parts at a time.
    let Ok(_turn) = hub.artifact_turns.acquire().await else {
        return refuse(exchange, Refusal::new(RefusalCode::ShuttingDown, "the hub is stopping")).await;
    };
    // What was uploaded but not published, what is held, and the full models, are nobody's to fetch.
    match hub.registry.read_for_device(&range.digest, range.offset, range.length).await {
        Ok((bytes, total)) => {
            let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
            let body = if bytes.is_empty() { Vec::new() } else { vec![bytes] };
            exchange.send_last(&HubResponse::Blob(BlobSlice { total, length }), &body).await
        }
        Err(error) => refuse(exchange, refusal(&error)).await,
    }
}

/// A damaged file is a fault of the hub that passes, not a reason to give the version up.
fn refusal(error: &SendError) -> Refusal {
    let code = match error {
        SendError::Unknown => RefusalCode::NotFound,
        SendError::Damaged => RefusalCode::Internal,
    };
    Refusal::new(code, error.to_string())
}
