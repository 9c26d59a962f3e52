//! `POST …/infer`: from the bytes of a body to the bytes of an answer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::{Extension, Path, State};
use axum::response::Response;
use bytes::Bytes;
use edge_core::route::FailureCode;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use telemetry::TraceContext;
use telemetry::metrics::{self, RequestTimes, UNKNOWN_MODEL};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;
use tracing::field::Empty;
use types::{PolicyMode, RequestId, Version};

use super::budget::Hold;
use super::codec::{Answer, HEADER_LENGTH, InferCall, Wanted, check_deadline, encode_answer};
use super::connections::{Activity, Phase};
use super::serve::Counted;
use super::{Door, DoorError, body};
use crate::answer::{NoAnswer, Question, answer};
use crate::models::Model;

/// Policy for one request, where its body does not say one.
const POLICY_HEADER: &str = "sanderling-policy";
/// Deadline of one request in milliseconds, where its body does not say one.
const DEADLINE_HEADER: &str = "sanderling-deadline-ms";

/// `POST /v2/models/{model}/infer`.
pub(super) async fn newest(
    State(door): State<Arc<Door>>,
    Path(model): Path<String>,
    activity: Option<Extension<Arc<Activity>>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, DoorError> {
    infer(door, &model, None, Arrival::new(activity, &headers, body)).await
}

/// `POST /v2/models/{model}/versions/{version}/infer`.
pub(super) async fn of_version(
    State(door): State<Arc<Door>>,
    Path((model, version)): Path<(String, String)>,
    activity: Option<Extension<Arc<Activity>>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, DoorError> {
    infer(door, &model, Some(&version), Arrival::new(activity, &headers, body)).await
}

/// A request that is arriving, and the connection it arrives on.
struct Arrival<'a> {
    activity: Arc<Activity>,
    headers: &'a HeaderMap,
    body: Body,
}

impl<'a> Arrival<'a> {
    fn new(activity: Option<Extension<Arc<Activity>>>, headers: &'a HeaderMap, body: Body) -> Self {
        // Without a connection of its own (a router called in a test), the request still has deadlines and a budget.
        let activity = activity.map_or_else(|| Activity::new(Instant::now()), |Extension(activity)| activity);
        Self { activity, headers, body }
    }

    /// Reads the whole body. Neither a permit nor memory for more than what arrived is held meanwhile.
    async fn read(self, door: &Door) -> Result<(Bytes, Hold), DoorError> {
        let cancelled = CancellationToken::new();
        let hold = door.budget.transfer(cancelled.clone(), Instant::now());
        self.activity.begin(Phase::Body);
        let whole = body::read(self.headers, self.body, door.body_limits(), &hold, &cancelled).await;
        self.activity.begin(Phase::Working);
        let whole = whole?;
        if !hold.complete() {
            return Err(DoorError::memory_full());
        }
        Ok((whole, hold))
    }

    async fn discard(self) {
        self.activity.begin(Phase::Body);
        body::discard(self.headers, self.body).await;
        self.activity.begin(Phase::Working);
    }
}

async fn infer(
    door: Arc<Door>,
    name: &str,
    version: Option<&str>,
    arrival: Arrival<'_>,
) -> Result<Response, DoorError> {
    let Some(model) = door.models.find(name) else {
        metrics::request_failed(UNKNOWN_MODEL, "unknown-model");
        arrival.discard().await;
        return Err(DoorError::unknown_model(name, &door.models.names()));
    };
    let _pending = metrics::request_pending(model.name.as_str());
    // The id and the policy are known once the body is read.
    let span = tracing::info_span!("request", id = Empty, model = %model.name, policy = Empty);
    async {
        let begun = Instant::now();
        let result = admitted(&door, model, version, arrival).await;
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
    arrival: Arrival<'_>,
) -> Result<Response, DoorError> {
    let version = version.map(|text| read_version(model, text)).transpose();
    let version = match version {
        Ok(version) => version,
        Err(error) => {
            arrival.discard().await;
            return Err(error);
        }
    };
    let headers = arrival.headers;
    let activity = Arc::clone(&arrival.activity);
    let (body, hold) = arrival.read(door).await?;
    // After the body: a client that sends slowly keeps nobody from the models.
    let Ok(_permit) = door.permits.try_acquire() else { return Err(DoorError::busy(door.table.requests_max)) };
    let arrived = Instant::now();
    let (call, hold) = parse(headers, body, hold).await?;
    let (question, wanted) = question(model, version, headers, call, arrived)?;
    let span = tracing::Span::current();
    span.record("id", question.id.as_str()).record("policy", question.policy.as_str());
    let answer = answer(model, &door.link, door.run, &question).await.map_err(|error| explained(model, error))?;
    // The inputs are not needed any more, and the response may be as large as they are.
    drop((question, hold));
    note(model, &answer.receipt);
    encode(door, wanted, answer, &activity).await
}

/// Adds the reason where no version serves because the installed ones were given up.
fn explained(model: &Model, error: NoAnswer) -> DoorError {
    match (error.failure(), model.given_up()) {
        (Some(FailureCode::UnknownModel), Some(why)) => DoorError::given_up(model.name.as_str(), &why),
        _ => error.into(),
    }
}

/// Largest body or response that is read or written on the thread of the connection.
///
/// JSON takes about 5 ms per MiB; more than a millisecond or two of it would delay every other connection of that thread.
const CODEC_INLINE_BYTES_MAX: usize = 256 * 1024;

/// Makes tensors of a body. The returned hold counts what is kept: the tensors, and the body where tensors share it.
async fn parse(headers: &HeaderMap, body: Bytes, hold: Hold) -> Result<(InferCall, Hold), DoorError> {
    let header_length = text_header(headers, HEADER_LENGTH)?.map(str::to_owned);
    let inline = body.len() <= CODEC_INLINE_BYTES_MAX;
    let parse = move || {
        let refused = std::cell::Cell::new(None);
        let room = |bytes: usize| match hold.grow(bytes, Instant::now()) {
            Ok(()) => true,
            Err(full) => {
                refused.set(Some(full));
                false
            }
        };
        let call = InferCall::parse(header_length.as_deref(), &body, &room);
        if let Some(full) = refused.get() {
            return Err(body::full(full));
        }
        let call = call?;
        if header_length.is_none() {
            hold.shrink(body.len());
        }
        Ok((call, hold))
    };
    if inline {
        return parse();
    }
    let parsed = tokio::task::spawn_blocking(parse).await;
    parsed.map_err(|_panicked| DoorError::internal())?
}

fn question(
    model: &Model,
    version: Option<Version>,
    headers: &HeaderMap,
    call: InferCall,
    arrived: Instant,
) -> Result<(Question, Wanted), DoorError> {
    let policy = match call.policy {
        Some(policy) => Some(policy),
        None => policy_header(headers)?,
    };
    let deadline = match call.deadline {
        Some(deadline) => Some(deadline),
        None => deadline_header(headers)?.or(model.table.deadline),
    };
    let id = match call.id {
        Some(id) => id,
        None => new_request_id()?,
    };
    let question = Question {
        id,
        version,
        policy: policy.unwrap_or(model.table.policy),
        deadline: deadline.and_then(|deadline| arrived.checked_add(deadline)),
        inputs: call.inputs,
        outputs: call.wanted.names(),
        traceparent: traceparent(headers),
        arrived,
    };
    Ok((question, call.wanted))
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

async fn encode(door: &Door, wanted: Wanted, answer: Answer, activity: &Activity) -> Result<Response, DoorError> {
    let bytes: usize = answer.outputs.iter().map(|output| output.tensor.data().len()).sum();
    let encoded = if bytes <= CODEC_INLINE_BYTES_MAX {
        encode_answer(&wanted, answer)?
    } else {
        let encoded = tokio::task::spawn_blocking(move || encode_answer(&wanted, answer)).await;
        encoded.map_err(|_panicked| DoorError::internal())??
    };
    let kind = if encoded.header_length.is_some() { "application/octet-stream" } else { "application/json" };
    // A client that does not take its response loses its connection when other requests need the memory.
    let hold = door.budget.response(encoded.body.len(), activity.close.clone(), Instant::now());
    let mut response = Counted::response(encoded.body, hold);
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
