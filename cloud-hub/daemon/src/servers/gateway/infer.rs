//! A request that a device wants answered by the hub.

use std::time::{Duration, Instant};

use protocol::v1::{HubResponse, InferRequest, InferResponse, Refusal, RefusalCode, join_body};
use telemetry::metrics::{self, RequestTimes, UNKNOWN_MODEL};
use transport::{Exchange, ExchangeError, Priority};
use types::limits::TENSOR_BYTES_MAX;
use types::{Caller, DeviceId};

use super::device::{Visit, delivered, internal, refuse};
use crate::servers::guard::budget::Held;
use crate::workers::pool::{Answer, Pool, PoolError, PoolRequest};

/// Answers one request, or says why not. When the device withdraws it, so does its work.
pub(super) async fn serve(visit: &Visit, exchange: &mut Exchange, request: InferRequest) -> Result<(), ExchangeError> {
    exchange.set_priority(Priority::Inference);
    let arrived = Instant::now();
    let services = &visit.services;
    // In flight from here until the device holds the answer: a stop waits for it.
    let _in_flight = services.in_flight.token();
    let Some(pool) = services.workers.pool(&request.model, request.version, services.registry.current(&request.model))
    else {
        metrics::request_failed(UNKNOWN_MODEL, RefusalCode::UnknownModel.as_str());
        return refuse(exchange, unknown(&request)).await;
    };
    let model = pool.model().as_str();
    let cancelled = exchange.cancelled();
    let Ok(_one_of_its_own) = visit.requests.try_acquire() else {
        metrics::request_failed(model, RefusalCode::Busy.as_str());
        return refuse(exchange, busy("this device has too many requests in the hub", None)).await;
    };
    let mut memory = services.limits.request_memory.hold(visit.admitted.device.clone());
    let answered = tokio::select! {
        biased;
        _gone = cancelled => {
            metrics::request_failed(model, RefusalCode::Cancelled.as_str());
            return Ok(());
        }
        answered = answer(visit, exchange, &request, &pool, arrived, &mut memory) => answered?,
    };
    // From here the response is what is held, until the device has taken it.
    let held = answered.and_then(|answer| match memory.resize(output_bytes(&answer)) {
        Ok(()) => Ok(answer),
        Err(_no_share) => Err(no_memory()),
    });
    match held {
        Ok(answer) => {
            let times = RequestTimes { queue: answer.queue, compute: answer.compute, total: arrived.elapsed() };
            metrics::request_answered(model, types::Place::Hub.as_str(), request.reason.as_str(), times);
            services.workers.note_answered(pool.model(), request.reason);
            let (response, body) = response(&pool, &answer);
            exchange.send_last(&HubResponse::Infer(response), &body).await?;
            delivered(exchange).await
        }
        Err(refusal) => {
            metrics::request_failed(model, refusal.code.as_str());
            tracing::debug!(request_id = %request.request_id, model, code = %refusal.code, "request refused");
            refuse(exchange, refusal).await
        }
    }
}

async fn answer(
    visit: &Visit,
    exchange: &mut Exchange,
    request: &InferRequest,
    pool: &Pool,
    arrived: Instant,
    memory: &mut Held<DeviceId>,
) -> Result<Result<Answer, Refusal>, ExchangeError> {
    // What was announced is only compared with what is free: memory is taken by what arrives.
    if memory.check(exchange.body_left()).is_err() {
        return Ok(Err(no_memory()));
    }
    let _pending = metrics::request_pending(pool.model().as_str());
    let limit = u64::try_from(TENSOR_BYTES_MAX).unwrap_or(u64::MAX);
    let grow = |bytes: usize| memory.grow(u64::try_from(bytes).unwrap_or(u64::MAX)).is_ok();
    let Some(body) = exchange.read_body_while(limit, grow).await? else { return Ok(Err(no_memory())) };
    let inputs = match request.split_body(&body) {
        Ok(inputs) => inputs,
        Err(error) => return Ok(Err(Refusal::new(RefusalCode::BadInput, telemetry::chain(&error)))),
    };
    let left = request.deadline_left_ms.map(|left| Duration::from_millis(u64::from(left)));
    let ask = PoolRequest {
        caller: Caller::Device(visit.admitted.device.clone()),
        inputs,
        outputs: request.outputs.clone(),
        deadline: left.and_then(|left| arrived.checked_add(left)),
        is_background: false,
    };
    Ok(pool.infer(ask).await.map_err(refusal))
}

pub(super) fn output_bytes(answer: &Answer) -> u64 {
    let bytes: usize = answer.outputs.iter().map(|output| output.tensor.data().len()).sum();
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

pub(super) fn no_memory() -> Refusal {
    busy("the hub holds too many requests, or too many of this device", None)
}

pub(super) fn response(pool: &Pool, answer: &Answer) -> (InferResponse, Vec<bytes::Bytes>) {
    let (tensors, body) = join_body(&answer.outputs);
    let facts = pool.facts();
    let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    let response = InferResponse {
        version: facts.version,
        variant: facts.variant.clone(),
        digest: facts.digest,
        engine: facts.engine,
        provider: pool.provider().to_owned(),
        queue_us: micros(answer.queue),
        compute_us: micros(answer.compute),
        tensors,
    };
    (response, body)
}

pub(super) fn unknown(request: &InferRequest) -> Refusal {
    let message = match request.version {
        Some(version) => format!("the hub does not serve {} version {version}", request.model),
        None => format!("the hub serves no model called {}", request.model),
    };
    Refusal::new(RefusalCode::UnknownModel, message)
}

pub(super) fn busy(message: &str, retry_after: Option<Duration>) -> Refusal {
    let retry_after_ms = retry_after.map(|after| u32::try_from(after.as_millis()).unwrap_or(u32::MAX));
    Refusal { retry_after_ms, ..Refusal::new(RefusalCode::Busy, message) }
}

pub(super) fn refusal(error: PoolError) -> Refusal {
    match error {
        PoolError::Mismatch(mismatch) => Refusal::new(RefusalCode::BadInput, mismatch.to_string()),
        PoolError::Input(fault) => Refusal::new(RefusalCode::BadInput, fault),
        PoolError::Busy { retry_after } => busy("too many requests are waiting", retry_after),
        PoolError::Deadline => {
            Refusal::new(RefusalCode::DeadlineExceeded, "the deadline passed before the model returned its outputs")
        }
        PoolError::Stopped => busy("the model is being replaced", None),
        PoolError::Failed(engine::InferError::Failed(
            error @ (engine::RunError::Died(_) | engine::RunError::Quarantined { .. }),
        )) => {
            tracing::warn!(error = telemetry::chain(&error), "a request ended the engine's process");
            // The sentence names no path and no address.
            Refusal::new(RefusalCode::Internal, telemetry::chain(&error))
        }
        PoolError::Failed(error) => internal(&error),
    }
}
