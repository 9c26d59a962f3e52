//! Paths of the HTTP server for later answers, by poll and by a stream of events, and for the owner's orders on the outbox.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{Extension, Path, Query, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use bytes::Bytes;
use edge_core::request_outbox;
use futures_util::stream::{self, Stream};
use serde::{Deserialize, Serialize};
use serving::codec::{HEADER_LENGTH, Wanted, encode_response};
use serving::connections::{Activity, Phase};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use types::RequestId;

use super::drain::is_settled;
use super::{Outbox, View};
use crate::control::ControlToken;

/// Maximum number of streams of events at once: each keeps a connection of the server.
const STREAMS_MAX: usize = 32;

/// Interval between signs of life on a stream.
const ALIVE_EVERY: Duration = Duration::from_secs(5);

/// Path of the list of the outbox, for its owner.
pub const OUTBOX_PATH: &str = "/sanderling/v1/outbox";

#[derive(Debug, Clone)]
struct Server {
    outbox: Outbox,
    token: Option<ControlToken>,
    streams: Arc<Semaphore>,
}

/// Request in the outbox, as its owner sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// Id of the request.
    pub id: RequestId,
    /// Name of the model.
    pub model: String,
    /// `storing`, `waiting`, `in-flight`, `answered`, `expired`, `displaced`, `dropped` or `failed`.
    pub state: String,
    /// `low`, `normal` or `high`.
    pub priority: String,
    /// Privacy class of the input.
    pub class: String,
    /// Reason for asking the hub.
    pub reason: String,
    /// Bytes on the disk.
    pub bytes: u64,
    /// Time at which it was taken, in seconds since 1970.
    pub accepted_unix_s: u64,
    /// Time at which it is given up, in seconds since 1970.
    pub expires_unix_s: u64,
    /// Bytes of input that were sent to the hub so far.
    pub hub_bytes: u64,
}

impl From<View> for Listed {
    fn from(view: View) -> Self {
        let View { entry, detail } = view;
        let bytes = match entry.state {
            request_outbox::State::Answered { bytes } => bytes,
            request_outbox::State::Ended(_) => 0,
            request_outbox::State::Storing | request_outbox::State::Waiting | request_outbox::State::InFlight => {
                entry.request.bytes
            }
        };
        Self {
            id: detail.id,
            model: detail.model.to_string(),
            state: entry.state.as_str().to_owned(),
            priority: entry.request.priority.as_str().to_owned(),
            class: detail.class.as_str().to_owned(),
            reason: detail.reason.as_str().to_owned(),
            bytes,
            accepted_unix_s: detail.accepted_unix_s,
            expires_unix_s: detail.expires_unix_s,
            hub_bytes: detail.hub_bytes,
        }
    }
}

/// Order of the owner on the outbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum OutboxOrder {
    /// Lists the requests.
    List,
    /// Removes one request, or its answer.
    Drop {
        /// Id of the request.
        id: RequestId,
    },
    /// Removes all requests and answers.
    Clear,
}

/// Response to an order that was carried out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutboxDone {
    /// Requests in the order of arrival, for [`OutboxOrder::List`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub requests: Vec<Listed>,
    /// Number of requests and answers that were removed.
    pub removed: usize,
}

/// Makes the routes. Orders need the token of this run.
pub fn router(outbox: Outbox, token: Option<ControlToken>) -> Router {
    let server = Server { outbox, token, streams: Arc::new(Semaphore::new(STREAMS_MAX)) };
    Router::new()
        .route("/sanderling/v1/requests/{id}", get(poll))
        .route("/sanderling/v1/requests/{id}/events", get(events))
        .route(OUTBOX_PATH, post(order))
        .with_state(server)
}

/// State of a request as a response.
pub(super) struct Delivery {
    pub(super) status: StatusCode,
    /// Length of the JSON at the start of the body; `None` where all is JSON.
    header_length: Option<usize>,
    pub(super) body: Vec<u8>,
}

/// Body of a response without an answer.
#[derive(Serialize)]
struct StateBody<'a> {
    id: &'a RequestId,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    expires_unix_s: u64,
}

impl StateBody<'_> {
    fn delivery(&self, status: StatusCode) -> Delivery {
        Delivery { status, header_length: None, body: serde_json::to_vec(self).unwrap_or_default() }
    }
}

/// Returns the state of a request, with the answer where it is there.
pub(super) async fn delivery(outbox: &Outbox, view: &View, is_binary: bool) -> Delivery {
    let expires_unix_s = view.detail.expires_unix_s;
    let id = &view.detail.id;
    let told = |state: &'static str, error: Option<String>| StateBody { id, state, error, expires_unix_s };
    match view.entry.state {
        request_outbox::State::Storing | request_outbox::State::Waiting | request_outbox::State::InFlight => {
            told(view.entry.state.as_str(), None).delivery(StatusCode::ACCEPTED)
        }
        request_outbox::State::Ended(end) => told(end.as_str(), view.ended()).delivery(StatusCode::GONE),
        request_outbox::State::Answered { .. } => {
            let wanted = Wanted { outputs: Vec::new(), binary_by_default: is_binary };
            match outbox.answer(view).await {
                Ok(answer) => match encode_response(&wanted, answer) {
                    Ok(encoded) => Delivery {
                        status: StatusCode::OK,
                        header_length: encoded.header_length,
                        body: encoded.parts.iter().flat_map(|part| part.iter().copied()).collect(),
                    },
                    Err(error) => told("answered", Some(format!("{}; add ?binary=true", telemetry::chain(&error))))
                        .delivery(StatusCode::BAD_REQUEST),
                },
                Err(error) => told("failed", Some(telemetry::chain(&error))).delivery(StatusCode::GONE),
            }
        }
    }
}

type Refused = (StatusCode, Json<serde_json::Value>);

fn refused(status: StatusCode, message: &str) -> Refused {
    (status, Json(serde_json::json!({ "error": message })))
}

fn find(outbox: &Outbox, id: &str) -> Result<View, Refused> {
    let found = id.parse::<RequestId>().ok().and_then(|id| outbox.find(&id));
    found.ok_or_else(|| {
        refused(
            StatusCode::NOT_FOUND,
            "the outbox has no request with this id: it was never queued, or its end is forgotten",
        )
    })
}

#[derive(Debug, Default, Deserialize)]
struct PollQuery {
    #[serde(default)]
    binary: bool,
}

async fn poll(
    State(server): State<Server>,
    Path(id): Path<String>,
    Query(query): Query<PollQuery>,
) -> Result<Response, Refused> {
    let view = find(&server.outbox, &id)?;
    let Delivery { status, header_length, body } = delivery(&server.outbox, &view, query.binary).await;
    let kind = if header_length.is_some() { "application/octet-stream" } else { "application/json" };
    let mut response = (status, Bytes::from(body)).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    if let Some(length) = header_length {
        response.headers_mut().insert(HeaderName::from_static(HEADER_LENGTH), HeaderValue::from(length));
    }
    Ok(response)
}

/// Answers with a stream that has one event: `answer`, or `ended` with the reason. Signs of life come before it.
async fn events(
    State(server): State<Server>,
    Path(id): Path<String>,
    activity: Option<Extension<Arc<Activity>>>,
) -> Result<Response, Refused> {
    let view = find(&server.outbox, &id)?;
    let Ok(permit) = Arc::clone(&server.streams).try_acquire_owned() else {
        return Err(refused(
            StatusCode::SERVICE_UNAVAILABLE,
            "too many streams of events are open: poll, or try again",
        ));
    };
    let activity = activity.map_or_else(|| Activity::new(Instant::now()), |Extension(activity)| activity);
    let stream = follow(server.outbox, view.detail.id, activity, permit);
    let mut response = Sse::new(stream).keep_alive(KeepAlive::new().interval(ALIVE_EVERY)).into_response();
    // A compressed stream would wait for more before it sends anything.
    response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("identity"));
    Ok(response)
}

/// Waits for the end of a request, or of the agent.
fn follow(
    outbox: Outbox,
    id: RequestId,
    activity: Arc<Activity>,
    permit: OwnedSemaphorePermit,
) -> impl Stream<Item = Result<Event, Infallible>> {
    stream::unfold(Some((outbox, id, activity, permit)), |state| async move {
        let (outbox, id, activity, permit) = state?;
        let mut changes = outbox.changes();
        let view = loop {
            // The server counts a response that is being sent as idle after a while; this one waits on purpose.
            activity.begin(Phase::Working);
            let view = outbox.find(&id)?;
            if is_settled(view.entry.state) {
                break view;
            }
            tokio::select! {
                () = outbox.closing().cancelled() => return None,
                _changed = changes.changed() => {}
                () = tokio::time::sleep(ALIVE_EVERY) => {}
            }
        };
        activity.begin(Phase::Sending);
        let Delivery { status, body, .. } = delivery(&outbox, &view, false).await;
        let name = if status == StatusCode::OK { "answer" } else { "ended" };
        let data = String::from_utf8_lossy(&body).into_owned();
        drop(permit);
        Some((Ok(Event::default().event(name).data(data)), None))
    })
}

async fn order(
    State(server): State<Server>,
    headers: HeaderMap,
    Json(order): Json<OutboxOrder>,
) -> Result<Json<OutboxDone>, Refused> {
    if !server.token.is_some_and(|token| token.is_in(&headers)) {
        let message = "orders need the token of this run: use `edge-agent outbox` as the owner of the state folder";
        return Err(refused(StatusCode::FORBIDDEN, message));
    }
    let done = match order {
        OutboxOrder::List => {
            OutboxDone { requests: server.outbox.list().into_iter().map(Listed::from).collect(), removed: 0 }
        }
        OutboxOrder::Drop { id } => {
            if !server.outbox.remove(&id).await {
                return Err(refused(StatusCode::NOT_FOUND, "no request with this id waits, and no answer to it"));
            }
            OutboxDone { requests: Vec::new(), removed: 1 }
        }
        OutboxOrder::Clear => OutboxDone { requests: Vec::new(), removed: server.outbox.clear().await },
    };
    Ok(Json(done))
}
