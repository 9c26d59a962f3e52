//! Calls that carry files.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, header};
use futures_util::StreamExt;
use tokio::time::Instant;
use transport::Limits;
use types::Digest;

use super::Refused;
use super::error::Named;
use crate::api::{BlobStored, ErrorCode};
use crate::hub::Hub;
use crate::registry::blobs::BlobError;

/// Longest silence in an upload before it is given up: a dead uplink must not hold a half-written file for ever.
const SILENCE_LIMIT: Duration = Duration::from_secs(30);

/// `HEAD /blobs/{digest}`: says whether it is there and whole. Files are never given out here; devices fetch them over QUIC.
pub(super) async fn head(
    State(hub): State<Arc<Hub>>,
    method: Method,
    Named(digest): Named<Digest>,
) -> Result<StatusCode, Refused> {
    if method != Method::HEAD {
        return Err(super::error::no_such_call().await);
    }
    match hub.registry.blob_is_whole(&digest).await {
        Ok(true) => Ok(StatusCode::OK),
        Ok(false) => Ok(StatusCode::NOT_FOUND),
        Err(error) => Err(Refused::storage(&error)),
    }
}

/// `PUT /blobs/{digest}`: takes the bytes, hashes them while they are written, and keeps them if they are what they say.
pub(super) async fn put(
    State(hub): State<Arc<Hub>>,
    Named(digest): Named<Digest>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<BlobStored>, Refused> {
    let limit = hub.config.admin.blob_bytes_max;
    let said = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if said.is_some_and(|bytes| bytes > limit) {
        return Err(too_large(limit));
    }
    let mut upload = hub.registry.blobs().begin(digest, limit).await.map_err(|error| refuse(&error, limit))?;
    let mut body = body.into_data_stream();
    let mut pace = Limits::hub().pace();
    loop {
        let since = Instant::now();
        let piece = tokio::time::timeout(SILENCE_LIMIT, body.next()).await;
        let piece = piece.map_err(|_elapsed| Refused::new(ErrorCode::BadRequest, "the upload fell silent"))?;
        match piece {
            Some(Ok(bytes)) if pace.passed(since.elapsed(), bytes.len()).is_err() => {
                return Err(Refused::new(ErrorCode::BadRequest, "the upload is too slow: at least 1 KiB/s are needed"));
            }
            Some(Ok(bytes)) => upload.write(bytes).await.map_err(|error| refuse(&error, limit))?,
            Some(Err(_broken)) => return Err(Refused::new(ErrorCode::BadRequest, "the upload broke off")),
            None => break,
        }
    }
    let bytes = upload.commit().await.map_err(|error| refuse(&error, limit))?;
    hub.registry.blob_stored(&digest);
    Ok(Json(BlobStored { digest, bytes }))
}

fn too_large(limit: u64) -> Refused {
    Refused::new(ErrorCode::TooLarge, format!("the file is over the limit of {limit} bytes"))
        .hint("raise admin.blob_bytes_max in hub.toml")
}

fn refuse(error: &BlobError, limit: u64) -> Refused {
    match error {
        BlobError::TooLarge { .. } => too_large(limit),
        BlobError::Digest { .. } | BlobError::Length { .. } => Refused::new(ErrorCode::BadRequest, error.to_string()),
        BlobError::Io { .. } => Refused::storage(error),
    }
}
