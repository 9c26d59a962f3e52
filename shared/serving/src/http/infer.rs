//! `POST …/infer`: from the bytes of a body to the bytes of a response.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::{Extension, Path, State};
use axum::response::Response;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use tokio_util::sync::CancellationToken;
use types::{Caller, InferenceError, InferenceResponse, ModelName, PolicyMode};

use super::{HttpError, body};
use crate::budget::Hold;
use crate::classify::{self, Labels};
use crate::codec::{CodecError, Encoded, HEADER_LENGTH, InferCall, Wanted, check_deadline, encode_response};
use crate::connections::{Activity, Phase};
use crate::decompress::{Encoding, decompress};
use crate::endpoint::{Envelope, traceparent};
use crate::progress::Counted;
use crate::{Endpoint, refusal};

/// Policy for one request, where its body does not say one.
const POLICY_HEADER: &str = "sanderling-policy";
/// Deadline of one request in milliseconds, where its body does not say one.
const DEADLINE_HEADER: &str = "sanderling-deadline-ms";

/// Answers `POST /v2/models/{model}/infer`.
pub(super) async fn model(
    State(endpoint): State<Arc<Endpoint>>,
    Path(model): Path<String>,
    Extension(caller): Extension<Caller>,
    activity: Option<Extension<Arc<Activity>>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, HttpError> {
    let arrival = Arrival::new(activity, &headers, body);
    Ok(infer(&endpoint, &model, "", caller, arrival).await?)
}

/// Answers `POST /v2/models/{model}/versions/{version}/infer`.
pub(super) async fn version(
    State(endpoint): State<Arc<Endpoint>>,
    Path((model, version)): Path<(String, String)>,
    Extension(caller): Extension<Caller>,
    activity: Option<Extension<Arc<Activity>>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, HttpError> {
    let arrival = Arrival::new(activity, &headers, body);
    Ok(infer(&endpoint, &model, &version, caller, arrival).await?)
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
    async fn read(self, endpoint: &Endpoint) -> Result<Received, InferenceError> {
        let cancelled = CancellationToken::new();
        let hold = endpoint.budget.transfer(cancelled.clone(), Instant::now());
        self.activity.begin(Phase::Body);
        let read = body::read(self.headers, self.body, &endpoint.limits, &hold, &cancelled).await;
        self.activity.begin(Phase::Working);
        let (bytes, encoding) = read?;
        if !hold.complete() {
            return Err(refusal::memory_full(&endpoint.limits));
        }
        Ok(Received { bytes, encoding, hold })
    }

    async fn discard(self) {
        self.activity.begin(Phase::Body);
        body::discard(self.headers, self.body).await;
        self.activity.begin(Phase::Working);
    }
}

/// A whole body, and the memory it takes.
struct Received {
    bytes: Bytes,
    encoding: Option<Encoding>,
    hold: Hold,
}

async fn infer(
    endpoint: &Arc<Endpoint>,
    name: &str,
    version: &str,
    caller: Caller,
    arrival: Arrival<'_>,
) -> Result<Response, InferenceError> {
    let model = match endpoint.find(name) {
        Ok(model) => model,
        Err(unknown) => {
            endpoint.note_unknown(&unknown);
            arrival.discard().await;
            return Err(unknown);
        }
    };
    endpoint.observed(&model, admitted(endpoint, &model, version, caller, arrival)).await
}

async fn admitted(
    endpoint: &Arc<Endpoint>,
    model: &ModelName,
    version: &str,
    caller: Caller,
    arrival: Arrival<'_>,
) -> Result<Response, InferenceError> {
    let version = match endpoint.read_version(model, version) {
        Ok(version) => version,
        Err(error) => {
            arrival.discard().await;
            return Err(error);
        }
    };
    let headers = arrival.headers;
    let activity = Arc::clone(&arrival.activity);
    let received = arrival.read(endpoint).await?;
    // After the body: a client that sends slowly keeps nobody from the models.
    let _permit = endpoint.permit()?;
    let arrived = Instant::now();
    let (mut call, hold) = parse(endpoint, headers, received).await?;
    call.policy = match call.policy {
        Some(policy) => Some(policy),
        None => policy_header(headers)?,
    };
    call.deadline = match call.deadline {
        Some(deadline) => Some(deadline),
        None => deadline_header(headers)?,
    };
    let envelope = Envelope { version, caller, traceparent: traceparent(headers), arrived };
    let (request, wanted) = endpoint.request(model, envelope, call)?;
    let response = endpoint.answer(request).await?;
    // The inputs are gone, and the response may be as large as they were.
    drop(hold);
    encode(endpoint, wanted, response, &activity).await
}

/// Maximum bytes of JSON that are read or written on the thread of the connection.
///
/// JSON takes about 5 ms per MiB; more than a millisecond or two of it would delay every other connection of that thread.
const JSON_INLINE_BYTES_MAX: usize = 256 * 1024;

/// Maximum bytes of a body with binary tensors that is read on the thread of the connection. Tensors are not copied, but the
/// lengths of text elements are checked, at more than 1 GiB/s.
const BINARY_INLINE_BYTES_MAX: usize = 2 * 1024 * 1024;

/// Makes tensors of a body. The returned hold counts what is kept: the tensors, and the body where tensors share it.
async fn parse(
    endpoint: &Arc<Endpoint>,
    headers: &HeaderMap,
    received: Received,
) -> Result<(InferCall, Hold), InferenceError> {
    let header_length = text_header(headers, HEADER_LENGTH)?.map(str::to_owned);
    let bytes = received.bytes.len();
    let json = header_length.as_deref().and_then(|length| length.parse().ok()).unwrap_or(bytes);
    let inline = json <= JSON_INLINE_BYTES_MAX && bytes <= BINARY_INLINE_BYTES_MAX && received.encoding.is_none();
    let of = Arc::clone(endpoint);
    let parse = move || {
        let Received { bytes, encoding, hold } = received;
        let body = match encoding {
            None => bytes,
            Some(encoding) => {
                let plain = decompress(encoding, &bytes, &of.limits, |more| hold.grow(more, Instant::now()))?;
                hold.shrink(bytes.len());
                plain
            }
        };
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
            return Err(full.refusal(&of.limits));
        }
        let call = call.map_err(|error| refusal::codec(&error))?;
        if header_length.is_none() {
            hold.shrink(body.len());
        }
        Ok((call, hold))
    };
    if inline {
        return parse();
    }
    let parsed = tokio::task::spawn_blocking(parse).await;
    parsed.map_err(|_panicked| refusal::internal())?
}

async fn encode(
    endpoint: &Endpoint,
    wanted: Wanted,
    response: InferenceResponse,
    activity: &Activity,
) -> Result<Response, InferenceError> {
    let as_json = response.outputs.iter().filter(|output| !wanted.is_binary(&output.name));
    let json_bytes: usize = as_json.map(|output| output.tensor.data().len()).sum();
    let classifies = wanted.outputs.iter().any(|output| output.classes > 0);
    let labels = if classifies { endpoint.labels(&response.receipt) } else { Labels::default() };
    let encode = move || -> Result<Encoded, CodecError> {
        let mut response = response;
        if classifies {
            classify::classify(&wanted, &mut response.outputs, &labels)?;
        }
        encode_response(&wanted, response)
    };
    // The classes of an output are found by a pass over all of its elements.
    let encoded = if json_bytes <= JSON_INLINE_BYTES_MAX && !classifies {
        encode()
    } else {
        tokio::task::spawn_blocking(encode).await.map_err(|_panicked| refusal::internal())?
    };
    let encoded = encoded.map_err(|error| refusal::codec(&error))?;
    let kind = if encoded.header_length.is_some() { "application/octet-stream" } else { "application/json" };
    // A client that does not take its response loses its connection when other requests need the memory.
    let hold = endpoint.budget.response(encoded.bytes(), activity.close.clone(), Instant::now());
    let mut response = Counted::response(encoded.parts, hold);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    if let Some(length) = encoded.header_length {
        response.headers_mut().insert(HeaderName::from_static(HEADER_LENGTH), HeaderValue::from(length));
    }
    Ok(response)
}

fn policy_header(headers: &HeaderMap) -> Result<Option<PolicyMode>, InferenceError> {
    let policy = text_header(headers, POLICY_HEADER)?.map(str::parse).transpose();
    policy
        .map_err(|error: types::policy::UnknownPolicy| refusal::bad_request(format!("header {POLICY_HEADER}: {error}")))
}

fn deadline_header(headers: &HeaderMap) -> Result<Option<Duration>, InferenceError> {
    let Some(text) = text_header(headers, DEADLINE_HEADER)? else { return Ok(None) };
    let wrong = |problem: String| refusal::bad_request(format!("header {DEADLINE_HEADER}: {problem}"));
    let milliseconds: u64 =
        text.trim().parse().map_err(|_not_a_number| wrong("give a whole number of milliseconds".to_owned()))?;
    check_deadline(Duration::from_millis(milliseconds)).map(Some).map_err(wrong)
}

fn text_header<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, InferenceError> {
    let text = headers.get(name).map(|value| value.to_str()).transpose();
    text.map_err(|_not_text| refusal::bad_request(format!("header {name} is not plain text")))
}
