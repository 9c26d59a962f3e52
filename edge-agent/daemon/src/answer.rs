//! Answers one request: obeys `edge_core::route` until there is an answer or a failure.
//!
//! Fed by [`crate::inference`] with tensors and by [`crate::models`] with the serving session; asks the hub by
//! [`crate::uplink`]. A hedged request is at work in both places at once. Dropping the future withdraws the request
//! everywhere: from the session's queue and from the hub's.

use std::pin::Pin;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use edge_core::policy::Snapshot;
use edge_core::route::{Event, Failure, HubFailure, LocalFailure, RequestInfo, Route, Step};
use engine::InferError;
use types::{ErrorCode, InferenceResponse, NamedTensor, Place, Policy, Reason, Receipt, RequestId, Timings, Version};

use crate::audits::Audits;
use crate::cached::AnswerCache;
use crate::config::Share;
use crate::models::{Model, Serving};
use crate::outbox::Outbox;
use crate::permits::Permits;
use crate::receipts::Recorder;
use crate::uplink::{DeferredRequest, HubAnswer, Link, NotAnswered};

mod asked;
mod error;
mod evidence;
mod later;
mod origin;
mod trace;

pub use asked::Asked;
pub use error::AnswerError;
pub use origin::MadeBy;
use trace::Trace;

/// One request, ready to be routed.
#[derive(Debug)]
pub struct RoutedRequest {
    /// Ties answer, log lines and receipt together.
    pub id: RequestId,
    /// The version that must answer; `None` for whichever serves.
    pub version: Option<Version>,
    /// The policy in force, made of its three layers.
    pub policy: Policy,
    /// Layer of the application, for the record of the request.
    pub asked: Asked,
    /// Time at which the answer is worthless.
    pub deadline: Option<Instant>,
    /// Input tensors of the request.
    pub inputs: Vec<NamedTensor>,
    /// Wanted outputs, in the wanted order; all where empty.
    pub outputs: Vec<String>,
    /// W3C trace context of the caller, where it sent one; it travels with a deferred request to the hub.
    pub traceparent: Option<String>,
    /// Time at which the whole request had arrived.
    pub arrived: Instant,
}

/// Limits that the configuration sets for every request.
#[derive(Debug, Clone)]
pub struct RunLimits {
    /// Longest run on this device.
    pub run_limit: Duration,
    /// Queue of audits; `None` where no hub can be asked.
    pub audits: Option<Audits>,
    /// Maximum share of the kept answers that are audited, where a model has none of its own.
    pub audit_share_max: Share,
    /// Queue of the log of receipts.
    pub receipts: Recorder,
    /// Conditions of the surroundings, and budgets.
    pub permits: Permits,
    /// Answers that may be given again.
    pub cache: AnswerCache,
    /// Requests that wait for the hub; `None` where the outbox cannot be used.
    pub outbox: Option<Outbox>,
}

/// Answers one request, wherever the policy allows.
///
/// # Errors
/// [`AnswerError`], with what failed where.
///
/// # Cancel safety
/// Dropping the future withdraws the request.
pub async fn answer(
    model: &Arc<Model>,
    link: &Link,
    limits: &RunLimits,
    request: &RoutedRequest,
) -> Result<InferenceResponse, AnswerError> {
    if let Some(earlier) = later::earlier(limits, request).await {
        return earlier;
    }
    let serving = model.serving_version(request.version);
    let (sent, reached, is_drawn) = (AtomicU64::new(0), OnceLock::new(), false);
    let mut route = Walk { model, link, limits, request, serving, sent, is_drawn, reached };
    let facts = RequestInfo {
        policy: request.policy,
        deadline: request.deadline,
        local: model.local_state(route.serving.as_ref()),
        input_bytes: request.inputs.iter().map(|input| bytes_of(&input.tensor)).sum(),
    };
    // Drawn before the answer is known.
    route.is_drawn = route.is_audited(&facts);
    let snapshot = route.snapshot(facts);
    let mut trace = Trace::new(&route, snapshot);
    let serving = route.serving.as_deref();
    let key = limits.cache.key(model, serving, serving.and_then(|serving| route.threshold(serving)), request);
    if let Some(response) = key.as_ref().and_then(|key| limits.cache.find(key, model, request)) {
        let result = Ok(response);
        trace.end(&result);
        return result;
    }
    let mut wanted = None;
    let result = route.follow(snapshot, &mut trace, &mut wanted).await;
    let result = route.queue(wanted, result).await;
    trace.end(&result);
    let response = result?;
    route.note_answer(&response);
    // A provisional answer is for its own request alone.
    if let Some(key) = key.filter(|_| response.receipt.is_final) {
        limits.cache.keep(key, model, &response);
    }
    Ok(response)
}

fn bytes_of(tensor: &types::Tensor) -> u64 {
    u64::try_from(tensor.data().len()).unwrap_or(u64::MAX)
}

/// One request and everything that can answer it.
struct Walk<'a> {
    model: &'a Arc<Model>,
    link: &'a Link,
    limits: &'a RunLimits,
    request: &'a RoutedRequest,
    serving: Option<Arc<Serving>>,
    /// Bytes of input that were handed to the connection to the hub.
    sent: AtomicU64,
    /// Whether the answer is audited, drawn before it is known.
    is_drawn: bool,
    /// Highest threshold of the curve that the device's score reaches, once it is known; unset where it is not counted.
    reached: OnceLock<Option<f32>>,
}

/// Work in flight at one place; `None` while the place has nothing to do.
type InFlight<'a, T> = Option<Pin<Box<dyn Future<Output = T> + Send + 'a>>>;

/// Answers of both places, and the fault that the client must know of.
#[derive(Default)]
struct Made {
    local: Option<Local>,
    hub: Option<HubAnswer>,
    detail: Option<String>,
}

/// Answer of the device.
struct Local {
    outputs: Vec<NamedTensor>,
    score: Option<f32>,
    threshold: Option<f32>,
    queue: Duration,
    compute: Duration,
}

/// Failure of the device, and what the client must know of it.
struct LocalFault {
    failure: LocalFailure,
    detail: Option<String>,
}

impl LocalFault {
    fn of(error: &InferError) -> Self {
        let detail = error.fault_of_request();
        if let Some(fault) = &detail {
            // The client must know what to change. What an engine says of itself stays in the log.
            tracing::info!(fault, "the device's model refused the input");
        } else if error.is_lost() {
            // Logged once, by the updater; until the next engine serves every request meets it.
            tracing::debug!(error = telemetry::chain(error), "the device gave no answer");
        } else {
            tracing::warn!(error = telemetry::chain(error), "the device gave no answer");
        }
        let failure = match error {
            InferError::Busy { .. } => LocalFailure::Busy,
            InferError::Deadline => LocalFailure::TooLate,
            InferError::Mismatch(_) | InferError::Failed(engine::RunError::NotText { .. }) => LocalFailure::BadInput,
            InferError::Failed(_) if detail.is_some() => LocalFailure::Refused,
            InferError::Failed(engine::RunError::Died(_)) => LocalFailure::Crashed,
            InferError::Failed(engine::RunError::Quarantined { .. }) => LocalFailure::Quarantined,
            InferError::Cancelled | InferError::Failed(_) | InferError::Stopped => LocalFailure::Failed,
        };
        Self { failure, detail }
    }
}

impl Made {
    fn note_local(&mut self, result: Result<Local, LocalFault>) -> Event {
        match result {
            Ok(local) => {
                let (score, threshold) = (local.score, local.threshold);
                self.local = Some(local);
                Event::LocalAnswered { score, threshold }
            }
            Err(fault) => {
                self.detail = fault.detail.or(self.detail.take());
                Event::LocalFailed(fault.failure)
            }
        }
    }

    fn note_hub(&mut self, result: Result<HubAnswer, NotAnswered>) -> Event {
        match result {
            Ok(answer) => {
                self.hub = Some(answer);
                Event::HubAnswered
            }
            Err(refused) => {
                tracing::info!(failure = ?refused.failure, detail = refused.detail, "the hub gave no answer");
                if refused.failure == HubFailure::BadInput {
                    self.detail = refused.detail;
                }
                Event::HubFailed(refused.failure)
            }
        }
    }

    fn failed(self, failure: Failure) -> AnswerError {
        let detail = self.detail.filter(|_| failure.code == ErrorCode::BadInput);
        AnswerError::Failed { failure, detail }
    }
}

/// Waits for the work of one place and clears it; waits forever while there is none.
async fn finished<T>(work: &mut InFlight<'_, T>) -> T {
    let Some(running) = work.as_mut() else { return std::future::pending().await };
    let result = running.await;
    *work = None;
    result
}

/// Sleeps until a time; forever without one.
async fn reached(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

impl Walk<'_> {
    /// Collects everything that decides the place of the request.
    fn snapshot(&self, info: RequestInfo) -> Snapshot {
        let now = Instant::now();
        let (surroundings, left) = self.limits.permits.look(&self.model.name, &info.policy);
        let (hub_times, hub_queue) = self.model.latencies.hub(now);
        let waiting = self.serving.as_ref().map_or(0, |serving| serving.runs_ahead());
        Snapshot {
            info,
            hub: self.link.hub_state(),
            device_times: self.model.latencies.device(now),
            device_queue: waiting,
            hub_times,
            hub_queue,
            surroundings,
            left,
            is_calibrated: self.serving.as_ref().is_some_and(|serving| self.threshold(serving).is_some()),
            is_drifted: self.serving.as_ref().is_some_and(|serving| self.is_drifted(serving)),
            is_withdrawn: self.serving.as_ref().is_some_and(|serving| self.is_withdrawn(serving)),
            is_downloading: self.model.is_downloading(),
        }
    }

    /// Obeys the route to its end. `wanted` becomes the reason for which the hub is to answer later, where it is.
    async fn follow(
        &self,
        snapshot: Snapshot,
        trace: &mut Trace<'_>,
        wanted: &mut Option<Reason>,
    ) -> Result<InferenceResponse, AnswerError> {
        let bytes = snapshot.info.input_bytes;
        let mut made = Made::default();
        let mut on_device: InFlight<'_, Result<Local, LocalFault>> = None;
        let mut at_hub: InFlight<'_, Result<HubAnswer, NotAnswered>> = None;
        let (mut route, mut steps) = Route::begin(snapshot, Instant::now());
        loop {
            for step in steps {
                tracing::debug!(?step, "routed");
                match step {
                    Step::RunLocal { until } => {
                        trace.runs_local();
                        on_device = Some(Box::pin(self.run_local(until)));
                    }
                    Step::AskHub { until, reason } => {
                        trace.asks_hub(until, reason);
                        at_hub = Some(Box::pin(self.ask_hub(until, reason, bytes)));
                    }
                    // Dropped, the work is withdrawn from the session's queue, or from the hub's.
                    Step::Cancel(place) => {
                        trace.cancelled(place);
                        match place {
                            Place::Device => on_device = None,
                            Place::Hub => at_hub = None,
                        }
                    }
                    Step::Queue { reason } => *wanted = Some(reason),
                    Step::Answer { place, reason } => return self.finish(made, place, reason, trace),
                    Step::Fail(failure) => return Err(made.failed(failure)),
                }
            }
            let event = tokio::select! {
                result = finished(&mut on_device) => {
                    trace.local_ended(&result);
                    made.note_local(result)
                }
                result = finished(&mut at_hub) => {
                    trace.hub_ended(&result);
                    made.note_hub(result)
                }
                () = reached(route.poll_timeout().map(|(at, _why)| at)) => Event::Tick,
            };
            let now = Instant::now();
            steps = route
                .handle(Event::Hub(self.link.hub_state()), now)
                .and_then(|_none| route.handle(event, now))
                .map_err(AnswerError::Route)?;
        }
    }

    async fn run_local(&self, until: Option<Instant>) -> Result<Local, LocalFault> {
        let Some(serving) = self.serving.clone() else {
            return Err(LocalFault { failure: LocalFailure::NoModel, detail: None });
        };
        let started = Instant::now();
        let limit = started.checked_add(self.limits.run_limit);
        let until = [until, limit].into_iter().flatten().min();
        let ahead = serving.runs_ahead();
        let asked = self.outputs_to_ask(&serving);
        let outcome = serving.session.infer(self.request.inputs.clone(), asked, until).await;
        self.model.statistics.took_locally(started.elapsed());
        match outcome {
            Ok(outcome) => {
                // With the way to the engine and back, which a hedge waits for too.
                self.model.latencies.ran_on_device(started.elapsed().saturating_sub(outcome.queue));
                self.note_run(&serving, &outcome);
                let score = serving.score(&outcome.outputs);
                self.watch_score(&serving, &outcome.outputs, score);
                let threshold = self.threshold(&serving);
                let outputs = self.only_wanted(outcome.outputs);
                Ok(Local { outputs, score, threshold, queue: outcome.queue, compute: outcome.compute })
            }
            Err(error) => {
                if error.is_lost() {
                    // Its updater takes the model to the next engine; this request goes on as its policy says.
                    self.model.tell_lost();
                }
                let fault = LocalFault::of(&error);
                if fault.failure == LocalFailure::TooLate {
                    // It takes at least this long.
                    self.model.latencies.ran_on_device(started.elapsed() / ahead.saturating_add(1));
                }
                self.note_failure(&serving, &error, &fault);
                Err(fault)
            }
        }
    }

    /// The scored output must be there, wanted or not.
    fn outputs_to_ask(&self, serving: &Serving) -> Vec<String> {
        let mut asked = self.request.outputs.clone();
        if let Some(scored) = serving.scored_output()
            && !asked.is_empty()
            && !asked.iter().any(|output| output == scored)
        {
            asked.push(scored.to_owned());
        }
        asked
    }

    fn only_wanted(&self, mut outputs: Vec<NamedTensor>) -> Vec<NamedTensor> {
        if !self.request.outputs.is_empty() {
            outputs.retain(|output| self.request.outputs.contains(&output.name));
        }
        outputs
    }

    async fn ask_hub(&self, until: Instant, reason: Reason, bytes: u64) -> Result<HubAnswer, NotAnswered> {
        let (name, policy) = (&self.model.name, &self.request.policy);
        if let Err(spent) = self.limits.permits.take(name, policy, bytes, reason).await {
            let failure = HubFailure::of_policy(spent);
            return Err(NotAnswered { failure, detail: None, retry_after: None });
        }
        let started = Instant::now();
        let request = DeferredRequest {
            id: &self.request.id,
            model: &self.model.name,
            version: self.request.version,
            reason,
            until,
            inputs: &self.request.inputs,
            outputs: &self.request.outputs,
            traceparent: self.request.traceparent.as_deref(),
            is_background: false,
            is_queued: false,
            sent: &self.sent,
        };
        let answered = self.link.infer(request).await;
        match &answered {
            Ok(answer) => self.model.latencies.asked_hub(started.elapsed(), Some(answer.made.timings.queue)),
            Err(NotAnswered { failure: HubFailure::TooLate, .. }) => {
                self.model.latencies.asked_hub(started.elapsed(), None);
            }
            // Other failures say nothing of the time that an answer takes.
            Err(_other) => {}
        }
        answered
    }

    fn finish(
        &self,
        made: Made,
        place: Place,
        reason: Reason,
        trace: &Trace<'_>,
    ) -> Result<InferenceResponse, AnswerError> {
        let score = made.local.as_ref().and_then(|local| local.score);
        let threshold = self.serving.as_ref().and_then(|serving| self.threshold(serving)).filter(|_| score.is_some());
        let request = self.request;
        let model = self.model;
        let receipt = |made: MadeBy| Receipt {
            request_id: request.id.clone(),
            model: model.name.clone(),
            version: made.version,
            variant: made.variant,
            digest: made.digest,
            engine: made.engine,
            provider: made.provider,
            place,
            reason,
            policy: request.policy.mode,
            score,
            threshold,
            calibration: Some(trace.calibration()),
            hub_bytes: trace.sent(),
            is_final: true,
            amendment: None,
            timings: Timings { hub: trace.at_hub(), total: request.arrived.elapsed(), ..made.timings },
        };
        match (place, made.local, made.hub, self.serving.as_ref()) {
            (Place::Device, Some(local), _, Some(serving)) => {
                let timings = Timings { queue: local.queue, compute: local.compute, ..Timings::default() };
                let made = MadeBy {
                    version: serving.installed.version,
                    variant: serving.installed.variant.clone(),
                    digest: serving.installed.digest,
                    engine: serving.engine,
                    provider: serving.session.provider().to_owned(),
                    timings,
                };
                Ok(InferenceResponse { outputs: local.outputs, receipt: receipt(made) })
            }
            (Place::Hub, local, Some(hub), _) => {
                self.note_deferred(local.as_ref(), &hub.outputs, reason);
                let receipt = receipt(hub.made);
                Ok(InferenceResponse { outputs: hub.outputs, receipt })
            }
            // The route answers from a place only after that place has answered.
            (Place::Device, ..) | (Place::Hub, ..) => Err(AnswerError::Route(edge_core::Refused {
                machine: "route",
                state: "over",
                event: "answer that nobody made",
            })),
        }
    }
}
