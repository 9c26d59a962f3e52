//! The body of a request, from the socket into memory: bounded in bytes, in time and in its rate.
//!
//! Fed by [`super::infer`]; counts every byte in the [`crate::budget`] when it arrives. A body that is refused is read to
//! its end and dropped, because most clients read a response only after they have sent everything.

use std::time::{Duration, Instant};

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use http::{HeaderMap, header};
use tokio_util::sync::CancellationToken;
use types::InferenceError;

use crate::budget::Hold;
use crate::connections::{RATE_WINDOW, bytes_per_window};
use crate::decompress::Encoding;
use crate::{Limits, refusal};

/// Memory for a body whose length is not announced, before its first byte is there; more is taken as it arrives.
const BODY_BYTES_FIRST: usize = 16 * 1024;

/// Maximum memory for an announced body before it is there, so that a picture is not copied while it grows. Pages take
/// memory when bytes arrive in them: 512 connections that announce and send nothing hold half a gigabyte of addresses only.
const BODY_BYTES_RESERVED_MAX: usize = 1024 * 1024;

/// Reads a whole body as it was sent, and says how it is compressed; `hold` counts its bytes, `cancelled` says that other requests need its memory.
///
/// # Errors
/// With the status and the sentence for the client: 400, 408, 413, 415 or 503.
pub(super) async fn read(
    headers: &HeaderMap,
    body: Body,
    limits: &Limits,
    hold: &Hold,
    cancelled: &CancellationToken,
) -> Result<(Bytes, Option<Encoding>), InferenceError> {
    let encoding = Encoding::parse(text(headers, &header::CONTENT_ENCODING)?)?;
    let announced = text(headers, &header::CONTENT_LENGTH)?.and_then(|text| text.parse::<usize>().ok());
    if announced.is_some_and(|length| length > limits.body_bytes_max) {
        discard(headers, body).await;
        return Err(refusal::too_large(limits));
    }
    tokio::select! {
        biased;
        () = cancelled.cancelled() => Err(refusal::memory_full(limits)),
        () = tokio::time::sleep(limits.body_timeout) => Err(refusal::too_slow(limits)),
        whole = collect(body, announced, limits, hold) => Ok((whole?, encoding)),
    }
}

async fn collect(body: Body, announced: Option<usize>, limits: &Limits, hold: &Hold) -> Result<Bytes, InferenceError> {
    let first = announced.unwrap_or(BODY_BYTES_FIRST).min(BODY_BYTES_RESERVED_MAX);
    let mut whole = BytesMut::with_capacity(first.min(limits.body_bytes_max));
    let mut parts = body.into_data_stream();
    let mut window = Box::pin(tokio::time::sleep(RATE_WINDOW));
    let mut before = 0_usize;
    loop {
        let part = tokio::select! {
            biased;
            part = parts.next() => part,
            () = window.as_mut() => {
                if whole.len().saturating_sub(before) < bytes_per_window(limits.rate_min_bytes) {
                    return Err(refusal::too_slow(limits));
                }
                before = whole.len();
                window.set(tokio::time::sleep(RATE_WINDOW));
                continue;
            }
        };
        let Some(part) = part else { return Ok(whole.freeze()) };
        let part =
            part.map_err(|_gone| refusal::bad_request("the connection ended before the whole body had arrived"))?;
        if whole.len().saturating_add(part.len()) > limits.body_bytes_max {
            return Err(refusal::too_large(limits));
        }
        hold.grow(part.len(), Instant::now()).map_err(|full| full.refusal(limits))?;
        whole.extend_from_slice(&part);
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &http::HeaderName) -> Result<Option<&'a str>, InferenceError> {
    let text = headers.get(name).map(|value| value.to_str()).transpose();
    text.map_err(|_not_text| refusal::bad_request(format!("header {name} is not plain text")))
}

/// Maximum bytes of a refused body that are read and dropped.
const DISCARD_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Longest time that is spent on it.
const DISCARD_WITHIN: Duration = Duration::from_secs(5);

/// Reads a body that will not be used and keeps none of it: most clients look for a response only when they have sent
/// everything, and a connection closed under them would tell them nothing.
pub(crate) async fn discard(headers: &HeaderMap, body: Body) {
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
