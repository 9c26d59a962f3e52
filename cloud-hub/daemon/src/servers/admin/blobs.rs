//! Calls that carry files.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::http::{StatusCode, header};
use futures_util::StreamExt;
use tokio::time::Instant;
use transport::Limits;
use types::Digest;

use super::Refused;
use super::call::FileCall;
use crate::api::endpoints::{HeadBlob, PutBlob};
use crate::api::{BlobStored, ErrorCode};
use crate::app::registry::blobs::BlobError;
use crate::app::uploads::Uploads;

/// Longest silence in an upload before it is given up: a dead uplink must not hold a half-written file for ever.
const SILENCE_LIMIT: Duration = Duration::from_secs(30);

/// Answers `HEAD /blobs/{digest}`. Files are never given out here; devices fetch them over QUIC.
pub(super) async fn head(uploads: Arc<Uploads>, call: FileCall<HeadBlob>) -> Result<StatusCode, Refused> {
    match uploads.is_whole(&call.id).await {
        Ok(true) => Ok(StatusCode::OK),
        Ok(false) => Ok(StatusCode::NOT_FOUND),
        Err(error) => Err(Refused::storage(&error)),
    }
}

/// Answers `PUT /blobs/{digest}`: hashes the bytes while they are written, and keeps them if the digest is right.
pub(super) async fn put(uploads: Arc<Uploads>, call: FileCall<PutBlob>) -> Result<Json<BlobStored>, Refused> {
    let (digest, limit) = (call.id, uploads.blob_bytes_max);
    let length = call.headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|bytes| bytes > limit) {
        return Err(too_large(limit));
    }
    let bytes = match upload(&uploads, digest, call.body).await {
        Ok(bytes) => bytes,
        Err(Broken::Client(refused)) => return Err(refused),
        Err(Broken::Blob(error)) => {
            if error.is_disk_full() {
                uploads.make_room().await;
            }
            return Err(refuse(&error, limit));
        }
    };
    uploads.finished(&digest);
    Ok(Json(BlobStored { digest, bytes }))
}

/// The reason why an upload ended early.
enum Broken {
    /// The operator's end.
    Client(Refused),
    /// The hub's disk, or bytes that are not what they must be.
    Blob(BlobError),
}

async fn upload(uploads: &Uploads, digest: Digest, body: Body) -> Result<u64, Broken> {
    let client = |problem: &str| Broken::Client(Refused::new(ErrorCode::BadRequest, problem));
    let mut upload = uploads.begin(digest).await.map_err(Broken::Blob)?;
    let mut body = body.into_data_stream();
    let mut pace = Limits::hub().pace();
    loop {
        let since = Instant::now();
        let piece = tokio::time::timeout(SILENCE_LIMIT, body.next()).await;
        let piece = piece.map_err(|_elapsed| client("the upload fell silent"))?;
        match piece {
            Some(Ok(bytes)) if pace.passed(since.elapsed(), bytes.len()).is_err() => {
                return Err(client("the upload is too slow: at least 1 KiB/s are needed"));
            }
            Some(Ok(bytes)) => upload.write(bytes).await.map_err(Broken::Blob)?,
            Some(Err(_broken)) => return Err(client("the upload broke off")),
            None => break,
        }
    }
    upload.commit().await.map_err(Broken::Blob)
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
