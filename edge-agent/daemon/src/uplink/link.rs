//! What the rest of the agent sees of the hub: questions and answers over the connection there is.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bundle::trust::{MetadataSource, SourceError};
use bytes::Bytes;
use edge_core::route::{HubFailure, HubState};
use protocol::v1::{
    BlobRange, DeltaFile, DeltaRequest, DeviceRequest, HubResponse, InferRequest, InferResponse, Refusal, RefusalCode,
    join_body,
};
use tokio::sync::watch;
use transport::{CloseCode, Connection, ExchangeError, Priority};
use types::limits::TENSOR_BYTES_MAX;
use types::{Digest, ModelName, NamedTensor, Reason, RequestId, Timings, Version};

use super::silence::{Heard, Silence};
use super::takes::Takes;
use crate::answer::MadeBy;

/// Longest wait for an answer that is not an inference: metadata, a part of a file, a report.
///
/// A part of 4 MiB at 140 kB/s; a slower link makes progress by the transport's own limits and then tries again.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// Longest wait for the connection that takes the place of one that the hub closed for it: a greeting.
const SUCCESSOR_WITHIN: Duration = Duration::from_secs(3);

/// Longest wait for any sign of life after a request; four round trips where those take longer.
///
/// QUIC acknowledges within a round trip what has arrived, however long the answer takes, and until then sends it again:
/// three times within this at 50 ms. Without it, a hub that lost its power would hold up every request until the
/// connection is given up (30 s).
const SILENCE_MAX: Duration = Duration::from_secs(2);

/// Longest time without a sign of life later on: the connection is kept alive every 10 s.
const QUIET_MAX: Duration = Duration::from_secs(12);

/// The connection there is, or none. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Link {
    connection: watch::Receiver<Option<Connection>>,
    /// On which connection the hub fell silent; read by the uplink task too.
    silence: Silence,
    /// Optional requests that the hub takes; written by the uplink task.
    takes: Takes,
}

/// Error of an exchange with the hub outside of inference.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// There is no connection.
    #[error("the hub is away")]
    Away,
    /// Nothing came in time.
    #[error("the hub did not answer within {} s", ANSWER_WITHIN.as_secs())]
    TooLate,
    /// The exchange broke off.
    #[error("ask the hub")]
    Exchange(#[source] ExchangeError),
    /// The hub would not.
    #[error("the hub refused")]
    Refused(#[source] Refusal),
    /// The hub answered something else.
    #[error("the hub sent a response of another kind than requested")]
    OffTopic,
}

impl LinkError {
    /// Returns whether the hub could not be reached.
    #[must_use]
    pub fn is_away(&self) -> bool {
        match self {
            Self::Away => true,
            Self::Exchange(error) => error.is_connection_lost(),
            Self::TooLate | Self::Refused(_) | Self::OffTopic => false,
        }
    }
}

/// A request for the hub.
#[derive(Debug)]
pub struct DeferredRequest<'a> {
    /// Id of the request.
    pub id: &'a RequestId,
    /// Name of the model.
    pub model: &'a ModelName,
    /// The version that must answer; `None` for the hub's current one.
    pub version: Option<Version>,
    /// Reason for asking the hub.
    pub reason: Reason,
    /// Time at which the answer is worthless.
    pub until: Instant,
    /// Input tensors of the request.
    pub inputs: &'a [NamedTensor],
    /// Wanted outputs; all where empty.
    pub outputs: &'a [String],
    /// W3C trace context of the caller.
    pub traceparent: Option<&'a str>,
    /// Whether nobody waits for the answer: the request then gives way to all others.
    pub is_background: bool,
    /// Whether the request waited on the device: the hub then runs it once for its id, where it can.
    pub is_queued: bool,
    /// Counts the bytes of input that are handed to a connection.
    pub sent: &'a AtomicU64,
}

/// Answer of the hub.
#[derive(Debug, Clone)]
pub struct HubAnswer {
    /// Output tensors in the wanted order.
    pub outputs: Vec<NamedTensor>,
    /// By what it was made, and where the time went.
    pub made: MadeBy,
}

/// Reason for no answer of the hub.
#[derive(Debug)]
pub struct NotAnswered {
    /// The kind, for the routing core.
    pub failure: HubFailure,
    /// Message of the hub or the connection.
    pub detail: Option<String>,
    /// Pause that the hub asks for.
    pub retry_after: Option<Duration>,
}

impl NotAnswered {
    fn new(failure: HubFailure) -> Self {
        Self { failure, detail: None, retry_after: None }
    }
}

impl Link {
    /// A link that follows the connection in `connection`.
    #[must_use]
    pub fn new(connection: watch::Receiver<Option<Connection>>) -> Self {
        Self { connection, silence: Silence::default(), takes: Takes::default() }
    }

    /// Returns where this link notes that the hub fell silent.
    #[must_use]
    pub fn silence(&self) -> Silence {
        self.silence.clone()
    }

    /// Returns which optional requests the hub takes.
    #[must_use]
    pub fn takes(&self) -> Takes {
        self.takes.clone()
    }

    /// A link without a hub, for a device that is not enrolled.
    #[must_use]
    pub fn none() -> Self {
        // Nobody will ever send: the last value stays readable.
        Self::new(watch::channel(None).1)
    }

    /// Returns the state of the hub at this moment.
    #[must_use]
    pub fn hub_state(&self) -> HubState {
        match self.published() {
            Some(connection) if self.silence.lasts_on(&connection) => HubState::Away,
            // While a renewed certificate takes a new connection into use, the old one may be closed already.
            Some(connection) if connection.close_reason().is_none() || was_replaced(&connection) => {
                HubState::Online { round_trip: connection.rtt() }
            }
            Some(_) | None => HubState::Away,
        }
    }

    /// Waits until the hub is there, or is not, other than it was said last. Never returns when there is no hub at all.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn changed(&mut self) -> bool {
        if self.connection.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        self.connection.borrow_and_update().is_some()
    }

    /// Returns whether there is a greeted connection.
    #[must_use]
    pub fn is_online(&self) -> bool {
        self.connection().is_some()
    }

    /// Returns the latest connection of the uplink, alive or not.
    fn published(&self) -> Option<Connection> {
        self.connection.borrow().clone()
    }

    fn connection(&self) -> Option<Connection> {
        self.published().filter(|connection| connection.close_reason().is_none())
    }

    /// Has the hub answer a request.
    ///
    /// An inference changes nothing at the hub, so one whose connection gave way to a newer one (a renewed certificate
    /// does that) is asked once more there.
    ///
    /// # Errors
    /// [`NotAnswered`].
    ///
    /// # Cancel safety
    /// Dropping the future withdraws the request from the hub.
    pub async fn infer(&self, deferred: DeferredRequest<'_>) -> Result<HubAnswer, NotAnswered> {
        let connection = self.published().ok_or(NotAnswered::new(HubFailure::Unreachable))?;
        match self.infer_or_silence(&connection, &deferred).await {
            Err(lost) if lost.failure == HubFailure::Unreachable => {
                match self.successor(&connection, deferred.until).await {
                    Some(successor) => self.infer_or_silence(&successor, &deferred).await,
                    None => Err(lost),
                }
            }
            result => result,
        }
    }

    /// Asks once, and gives a hub up that shows no sign of life; it counts as away until it shows one.
    async fn infer_or_silence(
        &self,
        connection: &Connection,
        deferred: &DeferredRequest<'_>,
    ) -> Result<HubAnswer, NotAnswered> {
        let silent = tokio::select! {
            biased;
            answered = infer_once(connection, deferred, self.takes.queued()) => return answered,
            silent = silence(connection) => silent,
        };
        self.silence.note(silent);
        Err(NotAnswered {
            failure: HubFailure::Unreachable,
            detail: Some("the hub fell silent".to_owned()),
            retry_after: None,
        })
    }

    /// The connection that took the place of a lost one; waits for it a moment where the hub said that there is one.
    async fn successor(&self, lost: &Connection, until: Instant) -> Option<Connection> {
        let other = |connection: &Connection| connection.number() != lost.number();
        if !was_replaced(lost) {
            return self.connection().filter(other);
        }
        let mut follow = self.connection.clone();
        let until = until.min(Instant::now() + SUCCESSOR_WITHIN);
        // No connection at all means that it was another machine with this identity that took the place.
        let found = follow.wait_for(|connection| connection.as_ref().is_none_or(other));
        let found = tokio::time::timeout_at(until.into(), found).await;
        found.ok()?.ok()?.clone()
    }

    /// Asks the hub for one thing that is not an inference, and reads the answer's body of at most `body_max` bytes.
    ///
    /// # Errors
    /// [`LinkError`]; a refusal of the hub is one.
    ///
    /// # Cancel safety
    /// Dropping the future cancels the exchange.
    pub async fn exchange(
        &self,
        priority: Priority,
        request: &DeviceRequest,
        body_max: u64,
    ) -> Result<(HubResponse, Bytes), LinkError> {
        let connection = self.connection().ok_or(LinkError::Away)?;
        exchange(&connection, priority, request, body_max).await
    }

    /// Fetches a part of a file of a bundle.
    ///
    /// # Errors
    /// [`LinkError`].
    pub async fn blob(&self, digest: Digest, offset: u64, length: u64) -> Result<Bytes, LinkError> {
        let request = DeviceRequest::Blob(BlobRange { digest, offset, length });
        match self.exchange(Priority::Artifact, &request, length).await? {
            (HubResponse::Blob(_slice), bytes) => Ok(bytes),
            (_other, _) => Err(LinkError::OffTopic),
        }
    }

    /// Tells the hub that the answer to a queued request is stored here. Nothing is lost where that does not arrive: the hub
    /// forgets the answer when it is too old.
    ///
    /// # Cancel safety
    /// Dropping the future cancels the exchange.
    pub async fn settle(&self, id: &RequestId) {
        if !self.takes.queued() {
            return;
        }
        let request = DeviceRequest::Settled(vec![id.clone()]);
        if let Err(error) = self.exchange(Priority::Artifact, &request, 0).await {
            tracing::debug!(error = telemetry::chain(&error), "the hub was not told that an answer is stored");
        }
    }

    /// Asks for a file that makes `target` out of one of `bases`; `None` if the hub has none. Only for hubs that make deltas.
    ///
    /// # Errors
    /// [`LinkError`].
    pub async fn delta(&self, bases: Vec<Digest>, target: Digest) -> Result<Option<DeltaFile>, LinkError> {
        let request = DeviceRequest::Delta(DeltaRequest { bases, target });
        match self.exchange(Priority::Control, &request, 0).await? {
            (HubResponse::Delta(file), _) => Ok(file),
            (_other, _) => Err(LinkError::OffTopic),
        }
    }
}

/// Ends when nothing is heard of a hub that was sent something just now.
async fn silence(connection: &Connection) -> Heard {
    let mut patience = SILENCE_MAX.max(connection.rtt() * 4);
    loop {
        let before = Heard::on(connection);
        tokio::time::sleep(patience).await;
        if Heard::on(connection) == before {
            return before;
        }
        patience = QUIET_MAX.max(patience);
    }
}

/// Replaces a reason that hubs of 0.1.0 do not know: they refuse a request with it.
fn sent_reason(reason: Reason) -> Reason {
    match reason {
        Reason::NoScore => Reason::LowConfidence,
        Reason::Drifted | Reason::BoundBroken => Reason::NotCalibrated,
        Reason::Hedged | Reason::DeviceTooLate => Reason::DeviceBusy,
        Reason::Downloading => Reason::NoLocalModel,
        // Reasons for not asking the hub never go to it.
        Reason::HubPredictedLate
        | Reason::Cached
        | Reason::NeverLeaves
        | Reason::NoConsent
        | Reason::MeteredLink
        | Reason::BatteryLow
        | Reason::OutsideHours
        | Reason::NoTag
        | Reason::BytesSpent
        | Reason::CallsSpent
        | Reason::EscalationsSpent => Reason::Policy,
        Reason::Policy
        | Reason::Confident
        | Reason::LowConfidence
        | Reason::NotCalibrated
        | Reason::NoLocalModel
        | Reason::DeviceBusy
        | Reason::DeviceFailed
        | Reason::HubUnreachable
        | Reason::HubFailed
        | Reason::HubTooLate => reason,
    }
}

/// Returns whether the hub closed the connection because this device has a newer one.
fn was_replaced(connection: &Connection) -> bool {
    connection.close_reason().and_then(|reason| reason.code()) == Some(CloseCode::Replaced)
}

/// One exchange over a connection, with a deadline.
pub(super) async fn exchange(
    connection: &Connection,
    priority: Priority,
    request: &DeviceRequest,
    body_max: u64,
) -> Result<(HubResponse, Bytes), LinkError> {
    let asked = async {
        let (response, mut exchange): (HubResponse, _) = connection.request(priority, request, &[]).await?;
        let body = exchange.read_body(body_max).await?;
        Ok((response, body))
    };
    let answered = tokio::time::timeout(ANSWER_WITHIN, asked).await.map_err(|_elapsed| LinkError::TooLate)?;
    match answered.map_err(LinkError::Exchange)? {
        (HubResponse::Refused(refusal), _) => Err(LinkError::Refused(refusal)),
        other => Ok(other),
    }
}

async fn infer_once(
    connection: &Connection,
    deferred: &DeferredRequest<'_>,
    takes_queued: bool,
) -> Result<HubAnswer, NotAnswered> {
    let begun = Instant::now();
    let left = deferred.until.saturating_duration_since(begun);
    let (tensors, body) = join_body(deferred.inputs);
    let bytes = tensors.iter().map(|tensor| tensor.bytes).sum();
    let request = InferRequest {
        request_id: deferred.id.clone(),
        model: deferred.model.clone(),
        version: deferred.version,
        reason: sent_reason(deferred.reason),
        deadline_left_ms: Some(u32::try_from(left.as_millis()).unwrap_or(u32::MAX)),
        traceparent: deferred.traceparent.map(str::to_owned),
        outputs: deferred.outputs.to_vec(),
        tensors,
    };
    let request = match deferred.is_queued && takes_queued {
        true => DeviceRequest::Queued(request),
        false => DeviceRequest::Infer(request),
    };
    let priority = if deferred.is_background { Priority::Artifact } else { Priority::Inference };
    let asked = async {
        let (response, mut exchange): (HubResponse, _) =
            connection.request(priority, &request, &body).await.map_err(|error| broken(&error))?;
        let bytes_max = u64::try_from(TENSOR_BYTES_MAX).unwrap_or(u64::MAX);
        let body = exchange.read_body(bytes_max).await.map_err(|error| broken(&error))?;
        Ok((response, body))
    };
    // Before the first byte: an exchange that is cancelled later has sent some of them, and all are counted.
    if connection.close_reason().is_none() {
        deferred.sent.fetch_add(bytes, Ordering::Relaxed);
        telemetry::metrics::deferred_bytes(deferred.model.as_str(), bytes);
    }
    let answered = tokio::time::timeout(left, asked).await;
    let (response, body) = answered.map_err(|_elapsed| NotAnswered::new(HubFailure::TooLate))??;
    match response {
        HubResponse::Infer(response) => answer(&response, &body, begun.elapsed()),
        HubResponse::Refused(refusal) => Err(refused(refusal)),
        HubResponse::Welcome(_)
        | HubResponse::Metadata { .. }
        | HubResponse::Blob(_)
        | HubResponse::Accepted
        | HubResponse::Delta(_)
        | HubResponse::Renewed { .. } => Err(NotAnswered {
            failure: HubFailure::Failed,
            detail: Some("the hub sent a response of another kind than requested".to_owned()),
            retry_after: None,
        }),
    }
}

fn answer(response: &InferResponse, body: &Bytes, took: Duration) -> Result<HubAnswer, NotAnswered> {
    let outputs = response.split_body(body).map_err(|error| NotAnswered {
        detail: Some(telemetry::chain(&error)),
        ..NotAnswered::new(HubFailure::Failed)
    })?;
    let queue = Duration::from_micros(response.queue_us);
    let compute = Duration::from_micros(response.compute_us);
    let network = took.saturating_sub(queue.saturating_add(compute));
    let made = MadeBy {
        version: response.version,
        variant: response.variant.clone(),
        digest: response.digest,
        engine: response.engine,
        provider: response.provider.clone(),
        timings: Timings { queue, compute, network, ..Timings::default() },
    };
    Ok(HubAnswer { outputs, made })
}

fn broken(error: &ExchangeError) -> NotAnswered {
    let failure = if error.is_connection_lost() { HubFailure::Unreachable } else { HubFailure::Failed };
    NotAnswered { failure, detail: Some(telemetry::chain(error)), retry_after: None }
}

fn refused(refusal: Refusal) -> NotAnswered {
    let failure = match refusal.code {
        RefusalCode::UnknownModel | RefusalCode::NotFound => HubFailure::UnknownModel,
        RefusalCode::BadInput | RefusalCode::TooLarge => HubFailure::BadInput,
        RefusalCode::Busy | RefusalCode::ShuttingDown => HubFailure::Busy,
        RefusalCode::DeadlineExceeded => HubFailure::TooLate,
        RefusalCode::NotAuthorised | RefusalCode::Revoked => HubFailure::NotAuthorised,
        RefusalCode::Cancelled
        | RefusalCode::TokenUnknown
        | RefusalCode::TokenUsed
        | RefusalCode::TokenExpired
        | RefusalCode::Unsupported
        | RefusalCode::Internal => HubFailure::Failed,
    };
    let retry_after = refusal.retry_after_ms.map(|ms| Duration::from_millis(u64::from(ms)));
    NotAnswered { failure, detail: Some(refusal.message), retry_after }
}

#[async_trait]
impl MetadataSource for Link {
    async fn fetch(&self, name: &str, bytes_max: u64) -> Result<Option<Bytes>, SourceError> {
        let request = DeviceRequest::Metadata { name: name.to_owned(), bytes_max };
        match self.exchange(Priority::Control, &request, bytes_max).await.map_err(SourceError::new)? {
            (HubResponse::Metadata { length: Some(_) }, bytes) => Ok(Some(bytes)),
            (HubResponse::Metadata { length: None }, _) => Ok(None),
            (_other, _) => Err(SourceError::new(LinkError::OffTopic)),
        }
    }
}

/// A link that several tasks share as a source of metadata.
pub(crate) fn source(link: &Link) -> Arc<dyn MetadataSource> {
    Arc::new(link.clone())
}
