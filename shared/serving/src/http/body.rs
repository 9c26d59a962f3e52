//! The body of a request, from the socket into memory: bounded in bytes, in time and in its rate.
//!
//! Fed by [`super::infer`]; counts every byte in the [`super::budget`] when it arrives. A body that is refused is read to
//! its end and dropped, because most clients read a response only after they have sent everything.

use std::time::{Duration, Instant};

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use http::{HeaderMap, header};
use tokio_util::sync::CancellationToken;

use super::DoorError;
use super::budget::{Full, Hold};
use super::connections::{RATE_WINDOW, bytes_per_window};

/// Memory for a body before its first byte is there; more is taken as it arrives.
const BODY_BYTES_FIRST: usize = 16 * 1024;

/// Limits of the body of one request.
#[derive(Debug, Clone, Copy)]
pub struct BodyLimits {
    /// Maximum bytes.
    pub bytes_max: usize,
    /// Longest time for the whole body.
    pub timeout: Duration,
    /// Least bytes per second, measured over [`RATE_WINDOW`].
    pub rate_min: usize,
}

/// Reads a whole body; `hold` counts its bytes, `cancelled` says that other requests need its memory.
///
/// # Errors
/// With the status and the sentence for the client: 400, 408, 413, 415 or 503.
pub(super) async fn read(
    headers: &HeaderMap,
    body: Body,
    limits: BodyLimits,
    hold: &Hold,
    cancelled: &CancellationToken,
) -> Result<Bytes, DoorError> {
    if let Some(encoding) = text(headers, &header::CONTENT_ENCODING)?
        && !encoding.eq_ignore_ascii_case("identity")
    {
        return Err(DoorError::unsupported_encoding(encoding));
    }
    let announced = text(headers, &header::CONTENT_LENGTH)?.and_then(|text| text.parse::<usize>().ok());
    if announced.is_some_and(|length| length > limits.bytes_max) {
        discard(headers, body).await;
        return Err(DoorError::too_large(limits.bytes_max));
    }
    tokio::select! {
        biased;
        () = cancelled.cancelled() => Err(DoorError::memory_full()),
        () = tokio::time::sleep(limits.timeout) => Err(DoorError::too_slow(limits)),
        whole = collect(body, limits, hold) => whole,
    }
}

async fn collect(body: Body, limits: BodyLimits, hold: &Hold) -> Result<Bytes, DoorError> {
    let mut whole = BytesMut::with_capacity(BODY_BYTES_FIRST.min(limits.bytes_max));
    let mut parts = body.into_data_stream();
    let mut window = Box::pin(tokio::time::sleep(RATE_WINDOW));
    let mut before = 0_usize;
    loop {
        let part = tokio::select! {
            biased;
            part = parts.next() => part,
            () = window.as_mut() => {
                if whole.len().saturating_sub(before) < bytes_per_window(limits.rate_min) {
                    return Err(DoorError::too_slow(limits));
                }
                before = whole.len();
                window.set(tokio::time::sleep(RATE_WINDOW));
                continue;
            }
        };
        let Some(part) = part else { return Ok(whole.freeze()) };
        let part =
            part.map_err(|_gone| DoorError::bad_request("the connection ended before the whole body had arrived"))?;
        if whole.len().saturating_add(part.len()) > limits.bytes_max {
            return Err(DoorError::too_large(limits.bytes_max));
        }
        hold.grow(part.len(), Instant::now()).map_err(full)?;
        whole.extend_from_slice(&part);
    }
}

/// Returns the error for a request that the budget has no memory for.
pub(super) fn full(full: Full) -> DoorError {
    match full {
        Full::Now => DoorError::memory_full(),
        Full::Always => DoorError::memory_never(),
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &http::HeaderName) -> Result<Option<&'a str>, DoorError> {
    let text = headers.get(name).map(|value| value.to_str()).transpose();
    text.map_err(|_not_text| DoorError::bad_request(format!("header {name} is not plain text")))
}

/// Maximum bytes of a refused body that are read and dropped.
const DISCARD_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Longest time that is spent on it.
const DISCARD_WITHIN: Duration = Duration::from_secs(5);

/// Reads a body that will not be used and keeps none of it: most clients look for a response only when they have sent
/// everything, and a connection closed under them would tell them nothing.
pub(super) async fn discard(headers: &HeaderMap, body: Body) {
    // A client that waits for leave to send is answered by the refusal itself.
    if headers.contains_key(header::EXPECT) {
        return;
    }
    let discarding = async {
        let mut parts = body.into_data_stream();
        let mut read = 0;
        while let Some(Ok(part)) = parts.next().await {
            read += part.len();
            if read > DISCARD_BYTES_MAX {
                return;
            }
        }
    };
    // Late or not, the refusal follows.
    tokio::time::timeout(DISCARD_WITHIN, discarding).await.ok();
}
