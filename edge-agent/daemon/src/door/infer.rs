//! `POST …/infer`: from the bytes of a body to the bytes of an answer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use telemetry::TraceContext;
use telemetry::metrics::{self, RequestTimes, UNKNOWN_MODEL};
use tracing::Instrument as _;
use tracing::field::Empty;
use types::{PolicyMode, RequestId, Version};

use super::codec::{Answer, HEADER_LENGTH, InferCall, check_deadline, encode_answer};
use super::{Door, DoorError};
use crate::answer::{Question, answer};
use crate::models::Model;

/// Policy for one request, where its body does not say one.
const POLICY_HEADER: &str = "sanderling-policy";
/// Deadline of one request in milliseconds, where its body does not say one.
const DEADLINE_HEADER: &str = "sanderling-deadline-ms";
/// Memory for a body before its first byte is there; more is taken as it arrives.
const BODY_BYTES_FIRST: usize = 64 * 1024;

/// `POST /v2/models/{model}/infer`.
pub(super) async fn newest(
    State(door): State<Arc<Door>>,
    Path(model): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, DoorError> {
    infer(door, &model, None, &headers, body).await
}

/// `POST /v2/models/{model}/versions/{version}/infer`.
pub(super) async fn of_version(
    State(door): State<Arc<Door>>,
    Path((model, version)): Path<(String, String)>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, DoorError> {
    infer(door, &model, Some(&version), &headers, body).await
}

async fn infer(
    door: Arc<Door>,
    name: &str,
    version: Option<&str>,
    headers: &HeaderMap,
    body: Body,
) -> Result<Response, DoorError> {
    let Some(model) = door.models.find(name) else {
        metrics::request_failed(UNKNOWN_MODEL, "unknown-model");
        discard(headers, body).await;
        return Err(DoorError::unknown_model(name, &door.models.names()));
    };
    let _pending = metrics::request_pending(model.name.as_str());
    // The id and the policy are known once the body is read.
    let span = tracing::info_span!("request", id = Empty, model = %model.name, policy = Empty);
    async {
        let begun = Instant::now();
        let result = admitted(&door, model, version, headers, body).await;
        if let Err(error) = &result {
            model.statistics.failed(begun.elapsed());
            metrics::request_failed(model.name.as_str(), error.code());
            tracing::info!(code = error.code(), error = error.message(), "a request was not answered");
        }
        result
    }
    .instrument(span)
    .await
}

async fn admitted(
    door: &Arc<Door>,
    model: &Arc<Model>,
    version: Option<&str>,
    headers: &HeaderMap,
    body: Body,
) -> Result<Response, DoorError> {
    // Before the body is read: what waits here must not hold memory.
    let Ok(_permit) = door.permits.try_acquire() else {
        discard(headers, body).await;
        return Err(DoorError::busy(door.table.requests_max));
    };
    let version = version.map(|text| read_version(model, text)).transpose()?;
    let body = read_body(headers, body, door.table.body_bytes_max, door.table.body_timeout).await?;
    let arrived = Instant::now();
    let call = parse(headers, body).await?;
    let question = question(model, version, headers, &call, arrived)?;
    let span = tracing::Span::current();
    span.record("id", question.id.as_str()).record("policy", question.policy.as_str());
    let answer = answer(model, &door.link, door.run, &question).await?;
    note(model, &answer.receipt);
    encode(call, answer).await
}

/// Longer bodies and answers are read and written on a blocking thread: JSON takes about 5 ms per MiB, and a door must turn.
const CODEC_INLINE_BYTES_MAX: usize = 256 * 1024;

async fn parse(headers: &HeaderMap, body: Bytes) -> Result<InferCall, DoorError> {
    let header_length = text_header(headers, HEADER_LENGTH)?.map(str::to_owned);
    if body.len() <= CODEC_INLINE_BYTES_MAX {
        return Ok(InferCall::parse(header_length.as_deref(), &body)?);
    }
    let parsed = tokio::task::spawn_blocking(move || InferCall::parse(header_length.as_deref(), &body)).await;
    Ok(parsed.map_err(|_gone| DoorError::bad_request("the body could not be parsed"))??)
}

fn question(
    model: &Model,
    version: Option<Version>,
    headers: &HeaderMap,
    call: &InferCall,
    arrived: Instant,
) -> Result<Question, DoorError> {
    let policy = match call.policy {
        Some(policy) => Some(policy),
        None => policy_header(headers)?,
    };
    let deadline = match call.deadline {
        Some(deadline) => Some(deadline),
        None => deadline_header(headers)?.or(model.table.deadline),
    };
    Ok(Question {
        id: match &call.id {
            Some(id) => id.clone(),
            None => new_request_id()?,
        },
        version,
        policy: policy.unwrap_or(model.table.policy),
        deadline: deadline.and_then(|deadline| arrived.checked_add(deadline)),
        inputs: call.inputs.clone(),
        outputs: call.output_names(),
        traceparent: traceparent(headers),
        arrived,
    })
}

/// The caller's trace context; one that is malformed is passed over, as W3C Trace Context asks.
fn traceparent(headers: &HeaderMap) -> Option<String> {
    let text = headers.get("traceparent")?.to_str().ok()?;
    text.parse::<TraceContext>().ok().map(|context| context.to_string())
}

fn new_request_id() -> Result<RequestId, DoorError> {
    // Ordered by time, so that logs and traces sort.
    uuid::Uuid::now_v7()
        .to_string()
        .parse()
        .map_err(|error: types::InvalidId| DoorError::bad_request(error.to_string()))
}

fn note(model: &Model, receipt: &types::Receipt) {
    let timings = receipt.timings;
    model.statistics.answered(receipt);
    let times = RequestTimes { queue: timings.queue, compute: timings.compute, total: timings.total };
    metrics::request_answered(model.name.as_str(), receipt.place.as_str(), receipt.reason.as_str(), times);
    tracing::debug!(
        place = %receipt.place,
        reason = %receipt.reason,
        version = %receipt.version,
        score = receipt.score,
        total_us = u64::try_from(timings.total.as_micros()).unwrap_or(u64::MAX),
        "answered"
    );
}

async fn encode(call: InferCall, answer: Answer) -> Result<Response, DoorError> {
    let bytes: usize = answer.outputs.iter().map(|output| output.tensor.data().len()).sum();
    let encoded = if bytes <= CODEC_INLINE_BYTES_MAX {
        encode_answer(&call, &answer)?
    } else {
        let encoded = tokio::task::spawn_blocking(move || encode_answer(&call, &answer)).await;
        encoded.map_err(|_gone| DoorError::bad_request("the answer could not be written"))??
    };
    let kind = if encoded.header_length.is_some() { "application/octet-stream" } else { "application/json" };
    let mut response = encoded.body.into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    if let Some(length) = encoded.header_length {
        response.headers_mut().insert(HeaderName::from_static(HEADER_LENGTH), HeaderValue::from(length));
    }
    Ok(response)
}

fn read_version(model: &Model, text: &str) -> Result<Version, DoorError> {
    text.parse().map_err(|_not_one: types::InvalidId| {
        DoorError::unknown_version(model.name.as_str(), text, "versions are whole numbers from 1")
    })
}

fn policy_header(headers: &HeaderMap) -> Result<Option<PolicyMode>, DoorError> {
    let policy = text_header(headers, POLICY_HEADER)?.map(str::parse).transpose();
    policy.map_err(|error: types::policy::UnknownPolicy| {
        DoorError::bad_request(format!("header {POLICY_HEADER}: {error}"))
    })
}

fn deadline_header(headers: &HeaderMap) -> Result<Option<Duration>, DoorError> {
    let Some(text) = text_header(headers, DEADLINE_HEADER)? else { return Ok(None) };
    let wrong = |problem: String| DoorError::bad_request(format!("header {DEADLINE_HEADER}: {problem}"));
    let milliseconds: u64 =
        text.trim().parse().map_err(|_not_a_number| wrong("give a whole number of milliseconds".to_owned()))?;
    check_deadline(Duration::from_millis(milliseconds)).map(Some).map_err(wrong)
}

fn text_header<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, DoorError> {
    let text = headers.get(name).map(|value| value.to_str()).transpose();
    text.map_err(|_not_text| DoorError::bad_request(format!("header {name} is not plain text")))
}

async fn read_body(headers: &HeaderMap, body: Body, limit: usize, timeout: Duration) -> Result<Bytes, DoorError> {
    if let Some(encoding) = text_header(headers, header::CONTENT_ENCODING.as_str())?
        && !encoding.eq_ignore_ascii_case("identity")
    {
        return Err(DoorError::unsupported_encoding(encoding));
    }
    let announced = text_header(headers, header::CONTENT_LENGTH.as_str())?.and_then(|text| text.parse::<usize>().ok());
    if announced.is_some_and(|length| length > limit) {
        discard(headers, body).await;
        return Err(DoorError::too_large(limit));
    }
    tokio::time::timeout(timeout, collect(body, limit)).await.map_err(|_elapsed| DoorError::too_slow())?
}

async fn collect(body: Body, limit: usize) -> Result<Bytes, DoorError> {
    let mut whole = BytesMut::with_capacity(BODY_BYTES_FIRST.min(limit));
    let mut parts = body.into_data_stream();
    while let Some(part) = parts.next().await {
        let part = part.map_err(|_gone| DoorError::bad_request("the body broke off"))?;
        if whole.len() + part.len() > limit {
            return Err(DoorError::too_large(limit));
        }
        whole.extend_from_slice(&part);
    }
    Ok(whole.freeze())
}

/// Most bytes of a refused body that are read and thrown away.
const DISCARD_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Longest time that is spent on it.
const DISCARD_WITHIN: Duration = Duration::from_secs(5);

/// Reads a body that will not be used and keeps none of it: most clients look for an answer only when they have sent
/// everything, and a connection closed under them would tell them nothing.
async fn discard(headers: &HeaderMap, body: Body) {
    // Who waits for leave to send is answered by the refusal itself.
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
    // Late or not, the refusal is what follows.
    tokio::time::timeout(DISCARD_WITHIN, discarding).await.ok();
}
