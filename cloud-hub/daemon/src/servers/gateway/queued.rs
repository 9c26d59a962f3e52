//! Requests that waited on a device: each is run once for its id, and its answer is kept until the device has stored it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use protocol::v1::{HubResponse, InferRequest, InferResponse, Refusal, RefusalCode};
use protocol::{FrameHeader, decode, encode};
use telemetry::metrics::{self, RequestTimes, UNKNOWN_MODEL};
use tokio::sync::OwnedSemaphorePermit;
use transport::{Exchange, ExchangeError, Priority};
use types::limits::TENSOR_BYTES_MAX;
use types::{Caller, DeviceId, RequestId};

use super::Services;
use super::device::{Visit, delivered, refuse};
use super::infer::{busy, no_memory, output_bytes, refusal, response, unknown};
use crate::servers::guard::budget::Held;
use crate::storage::queued::{Claim, QueuedKey, Running};
use crate::workers::pool::{Pool, PoolRequest};

/// Response and its body.
type Made = (InferResponse, Vec<Bytes>);

/// Answers one queued request. A run that has begun goes on when the device goes away, so that the device finds the answer
/// later.
pub(super) async fn serve(visit: &Visit, exchange: &mut Exchange, request: InferRequest) -> Result<(), ExchangeError> {
    exchange.set_priority(Priority::Artifact);
    let services = &visit.services;
    let _in_flight = services.in_flight.token();
    let Ok(permit) = Arc::clone(&visit.requests).try_acquire_owned() else {
        return refuse(exchange, busy("this device has too many requests in the hub", Some(BUSY_PAUSE))).await;
    };
    let key = QueuedKey { device: visit.admitted.device.clone(), id: request.request_id.clone() };
    let cancelled = exchange.cancelled();
    let claim = tokio::select! {
        biased;
        _gone = cancelled => return Ok(()),
        claim = services.queued_answers.claim(key) => claim,
    };
    let made = match claim {
        Claim::Known(bytes) => read(&bytes).inspect(|_made| metrics::queued_request("repeated")),
        Claim::Fresh(running) => return run(visit, exchange, request, running, permit).await,
    };
    match made {
        Some((response, body)) => {
            exchange.send_last(&HubResponse::Infer(response), &body).await?;
            delivered(exchange).await
        }
        None => {
            // Of a later version of the hub. The device tries again, and the answer expires.
            refuse(exchange, Refusal::new(RefusalCode::Internal, "the stored answer cannot be read")).await
        }
    }
}

/// Pause that a device is asked for when it has too many requests in the hub.
const BUSY_PAUSE: Duration = Duration::from_secs(1);

async fn run(
    visit: &Visit,
    exchange: &mut Exchange,
    request: InferRequest,
    running: Running,
    permit: OwnedSemaphorePermit,
) -> Result<(), ExchangeError> {
    let services = &visit.services;
    let current = services.registry.current(&request.model);
    let Some(pool) = services.workers.pool(&request.model, request.version, current) else {
        metrics::request_failed(UNKNOWN_MODEL, RefusalCode::UnknownModel.as_str());
        return refuse(exchange, unknown(&request)).await;
    };
    let mut memory = services.limits.request_memory.hold(visit.admitted.device.clone());
    if memory.check(exchange.body_left()).is_err() {
        return refuse(exchange, no_memory()).await;
    }
    let limit = u64::try_from(TENSOR_BYTES_MAX).unwrap_or(u64::MAX);
    let grow = |bytes: usize| memory.grow(u64::try_from(bytes).unwrap_or(u64::MAX)).is_ok();
    let Some(body) = exchange.read_body_while(limit, grow).await? else { return refuse(exchange, no_memory()).await };
    let job = Job { services: Arc::clone(services), device: visit.admitted.device.clone(), request, pool, running };
    let cancelled = exchange.cancelled();
    let mut ending = services.in_flight.spawn(async move {
        let _one_of_its_own = permit;
        job.run(body, memory).await
    });
    let made = tokio::select! {
        biased;
        _gone = cancelled => return Ok(()),
        ended = &mut ending => ended,
    };
    match made {
        Ok(Ok((made, _memory))) => {
            let (response, body) = made;
            exchange.send_last(&HubResponse::Infer(response), &body).await?;
            delivered(exchange).await
        }
        Ok(Err(refusal)) => refuse(exchange, refusal).await,
        Err(_panicked) => refuse(exchange, Refusal::new(RefusalCode::Internal, "the hub failed")).await,
    }
}

/// Run of a queued request, which its device may not wait for.
struct Job {
    services: Arc<Services>,
    device: DeviceId,
    request: InferRequest,
    pool: Arc<Pool>,
    running: Running,
}

impl Job {
    async fn run(self, body: Bytes, mut memory: Held<DeviceId>) -> Result<(Made, Held<DeviceId>), Refusal> {
        let Self { services, device, request, pool, running } = self;
        let model = pool.model().as_str();
        let begun = Instant::now();
        let _pending = metrics::request_pending(model);
        let inputs = request.split_body(&body);
        let inputs = inputs.map_err(|error| Refusal::new(RefusalCode::BadInput, telemetry::chain(&error)))?;
        let outputs = request.outputs.clone();
        let ask = PoolRequest { caller: Caller::Device(device), inputs, outputs, deadline: None, is_background: true };
        let answer = pool.infer(ask).await.map_err(refusal).inspect_err(|refusal| {
            metrics::request_failed(model, refusal.code.as_str());
        })?;
        metrics::queued_request("run");
        memory.resize(output_bytes(&answer)).map_err(|_no_share| no_memory())?;
        let times = RequestTimes { queue: answer.queue, compute: answer.compute, total: begun.elapsed() };
        metrics::request_answered(model, types::Place::Hub.as_str(), request.reason.as_str(), times);
        services.workers.note_answered(pool.model(), request.reason);
        let made = response(&pool, &answer);
        if let Some(bytes) = written(&made)
            && let Err(error) = services.queued_answers.keep(&running, bytes).await
        {
            // The device may still get it now; if not, the request runs again.
            tracing::warn!(error = telemetry::chain(&error), "the answer to a queued request is not kept");
        }
        Ok((made, memory))
    }
}

/// Forgets answers that the device has stored.
pub(super) async fn settle(visit: &Visit, ids: &[RequestId]) -> Result<HubResponse, Refusal> {
    let key = |id: &RequestId| QueuedKey { device: visit.admitted.device.clone(), id: id.clone() };
    visit.services.queued_answers.settle(ids.iter().map(key).collect()).await;
    Ok(HubResponse::Accepted)
}

/// Returns the stored form of a response: its frame on the wire, and the body.
fn written((response, body): &Made) -> Option<Vec<u8>> {
    let frame = encode(&HubResponse::Infer(response.clone()));
    let frame = frame.inspect_err(|error| {
        tracing::warn!(error = telemetry::chain(error), "the answer to a queued request is not kept");
    });
    let parts = body.iter().flat_map(|part| part.iter().copied());
    Some(frame.ok()?.iter().copied().chain(parts).collect())
}

/// Reads the stored form of a response; `None` if it is none.
fn read(bytes: &[u8]) -> Option<Made> {
    let (header, rest) = bytes.split_first_chunk()?;
    let header = FrameHeader::parse(*header);
    let (message, body) = rest.split_at_checked(usize::try_from(header.length).ok()?)?;
    match decode::<HubResponse>(header.kind, message).ok()? {
        HubResponse::Infer(response) => {
            let body = Bytes::copy_from_slice(body);
            // Held against its headers, as the device will.
            response.split_body(&body).ok()?;
            Some((response, vec![body]))
        }
        HubResponse::Welcome(_)
        | HubResponse::Metadata { .. }
        | HubResponse::Blob(_)
        | HubResponse::Accepted
        | HubResponse::Renewed { .. }
        | HubResponse::Refused(_)
        | HubResponse::Delta(_) => None,
    }
}
