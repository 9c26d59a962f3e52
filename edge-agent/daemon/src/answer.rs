//! The way of one request: obeys `edge_core::route` until there is an answer or a failure.
//!
//! Fed by [`crate::inference`] with tensors and by [`crate::models`] with what serves; asks [`crate::uplink`] when the route says
//! so. Dropping the future withdraws the request everywhere: from the session's queue and from the hub's.

use std::sync::Arc;
use std::time::{Duration, Instant};

use edge_core::route::{Event, Failure, FailureCode, HubFailure, LocalFailure, LocalState, RequestFacts, Route, Step};
use engine::InferError;
use types::{InferenceResponse, NamedTensor, Place, PolicyMode, Reason, Receipt, RequestId, Timings, Version};

use crate::models::{Model, Serving};
use crate::uplink::{HubAnswer, HubQuestion, Link};

/// One request, ready to be routed.
#[derive(Debug)]
pub struct Question {
    /// Ties answer, log lines and receipt together.
    pub id: RequestId,
    /// The version that must answer; `None` for whichever serves.
    pub version: Option<Version>,
    /// The policy in force.
    pub policy: PolicyMode,
    /// When the answer is worth nothing any more.
    pub deadline: Option<Instant>,
    /// The inputs.
    pub inputs: Vec<NamedTensor>,
    /// Wanted outputs, in the wanted order; all where empty.
    pub outputs: Vec<String>,
    /// W3C trace context of the caller, where it sent one; it travels with a question to the hub.
    pub traceparent: Option<String>,
    /// When the whole request was there.
    pub arrived: Instant,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum NoAnswer {
    /// The route ended without one.
    #[error("{failure}{}", cause(.detail))]
    Failed {
        /// The kind, and what failed where.
        failure: Failure,
        /// What the place that failed said, where it is fit for the client.
        detail: Option<String>,
    },
    /// The machine and the shell disagree about what happened: a mistake in this program.
    #[error("route the request")]
    Route(#[source] edge_core::Refused),
}

fn cause(detail: &Option<String>) -> String {
    detail.as_deref().map_or_else(String::new, |detail| format!(": {detail}"))
}

impl NoAnswer {
    /// The label in metrics and logs.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Failed { failure, .. } => failure.code.as_str(),
            Self::Route(_) => "internal",
        }
    }

    /// The kind; `None` for a mistake in this program.
    #[must_use]
    pub fn failure(&self) -> Option<FailureCode> {
        match self {
            Self::Failed { failure, .. } => Some(failure.code),
            Self::Route(_) => None,
        }
    }
}

/// Limits that the configuration sets for every request.
#[derive(Debug, Clone, Copy)]
pub struct RunLimits {
    /// Longest run on this device.
    pub run_limit: Duration,
}

/// Answers one request, wherever the policy allows.
///
/// # Errors
/// [`NoAnswer`], with what failed where.
///
/// # Cancel safety
/// Dropping the future withdraws the request.
pub async fn answer(
    model: &Arc<Model>,
    link: &Link,
    limits: RunLimits,
    question: &Question,
) -> Result<InferenceResponse, NoAnswer> {
    let serving = model.serving_version(question.version);
    let mut walk = Walk { model, link, limits, question, serving, local: None, hub: None, detail: None };
    let facts = RequestFacts { policy: question.policy, deadline: question.deadline, local: walk.local_state() };
    let (mut route, mut step) = Route::start(facts, link.hub_state(), Instant::now());
    loop {
        tracing::debug!(?step, "routed");
        let event = match step {
            Step::RunLocal { until } => walk.run_local(until).await,
            Step::AskHub { until, reason } => walk.ask_hub(until, reason).await,
            Step::Answer { place, reason } => return walk.finish(place, reason),
            Step::Fail(failure) => return Err(walk.fail(failure)),
        };
        step = route.on(event, link.hub_state(), Instant::now()).map_err(NoAnswer::Route)?;
    }
}

/// What is in hand while a request is on its way.
struct Walk<'a> {
    model: &'a Arc<Model>,
    link: &'a Link,
    limits: RunLimits,
    question: &'a Question,
    serving: Option<Arc<Serving>>,
    local: Option<Local>,
    hub: Option<HubAnswer>,
    detail: Option<String>,
}

/// The device's own answer.
struct Local {
    outputs: Vec<NamedTensor>,
    score: Option<f32>,
    queue: Duration,
    compute: Duration,
}

impl Walk<'_> {
    fn local_state(&self) -> LocalState {
        self.model.local_state(self.serving.as_ref())
    }

    async fn run_local(&mut self, until: Option<Instant>) -> Event {
        let Some(serving) = self.serving.clone() else { return Event::LocalFailed(LocalFailure::NoModel) };
        let started = Instant::now();
        let limit = started.checked_add(self.limits.run_limit);
        let until = [until, limit].into_iter().flatten().min();
        let asked = self.outputs_to_ask(&serving);
        let outcome = serving.session.infer(self.question.inputs.clone(), asked, until).await;
        self.model.statistics.took_locally(started.elapsed());
        match outcome {
            Ok(outcome) => {
                let score = serving.score(&outcome.outputs);
                let outputs = self.only_wanted(outcome.outputs);
                self.local = Some(Local { outputs, score, queue: outcome.queue, compute: outcome.compute });
                Event::LocalAnswered { score, threshold: serving.threshold() }
            }
            Err(error) => {
                if error.is_lost() {
                    // Its updater takes the model to the next engine; this request goes on as its policy says.
                    self.model.tell_lost();
                }
                Event::LocalFailed(self.local_failure(&error))
            }
        }
    }

    /// The scored output must be there, wanted or not.
    fn outputs_to_ask(&self, serving: &Serving) -> Vec<String> {
        let mut asked = self.question.outputs.clone();
        if let Some(scored) = serving.scored_output()
            && !asked.is_empty()
            && !asked.iter().any(|output| output == scored)
        {
            asked.push(scored.to_owned());
        }
        asked
    }

    fn only_wanted(&self, mut outputs: Vec<NamedTensor>) -> Vec<NamedTensor> {
        if !self.question.outputs.is_empty() {
            outputs.retain(|output| self.question.outputs.contains(&output.name));
        }
        outputs
    }

    fn local_failure(&mut self, error: &InferError) -> LocalFailure {
        if let Some(fault) = error.fault_of_request() {
            // The client must hear what to change. What an engine says of itself stays in the log.
            tracing::info!(fault, "the device's model refused the input");
            self.detail = Some(fault);
        } else if error.is_lost() {
            // Told once, by the updater; until the next engine serves every request meets it.
            tracing::debug!(error = telemetry::chain(error), "the device gave no answer");
        } else {
            tracing::warn!(error = telemetry::chain(error), "the device gave no answer");
        }
        match error {
            InferError::Busy { .. } => LocalFailure::Busy,
            InferError::Deadline => LocalFailure::TooLate,
            InferError::Mismatch(_) | InferError::Failed(engine::RunError::NotText { .. }) => LocalFailure::BadInput,
            InferError::Failed(_) if error.fault_of_request().is_some() => LocalFailure::Refused,
            InferError::Failed(engine::RunError::Died(_)) => LocalFailure::Crashed,
            InferError::Failed(engine::RunError::Quarantined { .. }) => LocalFailure::Quarantined,
            InferError::Cancelled | InferError::Failed(_) | InferError::Stopped => LocalFailure::Failed,
        }
    }

    async fn ask_hub(&mut self, until: Instant, reason: Reason) -> Event {
        let question = HubQuestion {
            id: &self.question.id,
            model: &self.model.name,
            version: self.question.version,
            reason,
            until,
            inputs: &self.question.inputs,
            outputs: &self.question.outputs,
            traceparent: self.question.traceparent.as_deref(),
        };
        match self.link.ask(question).await {
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

    fn fail(&mut self, failure: Failure) -> NoAnswer {
        let detail = self.detail.take().filter(|_| failure.code == FailureCode::BadInput);
        NoAnswer::Failed { failure, detail }
    }

    fn finish(self, place: Place, reason: Reason) -> Result<InferenceResponse, NoAnswer> {
        let score = self.local.as_ref().and_then(|local| local.score);
        let threshold = self.serving.as_ref().and_then(|serving| serving.threshold()).filter(|_| score.is_some());
        let question = self.question;
        let model = self.model;
        let receipt = |made: Made| Receipt {
            request_id: question.id.clone(),
            model: model.name.clone(),
            version: made.version,
            variant: made.variant,
            digest: made.digest,
            engine: made.engine,
            provider: made.provider,
            place,
            reason,
            policy: question.policy,
            score,
            threshold,
            timings: Timings { total: question.arrived.elapsed(), ..made.timings },
        };
        match (place, self.local, self.hub, self.serving) {
            (Place::Device, Some(local), _, Some(serving)) => {
                let timings = Timings { queue: local.queue, compute: local.compute, ..Timings::default() };
                let made = Made {
                    version: serving.installed.version,
                    variant: serving.installed.variant.clone(),
                    digest: serving.installed.digest,
                    engine: serving.engine,
                    provider: serving.session.provider().to_owned(),
                    timings,
                };
                Ok(InferenceResponse { outputs: local.outputs, receipt: receipt(made) })
            }
            (Place::Hub, _, Some(hub), _) => {
                let receipt = receipt(hub.made);
                Ok(InferenceResponse { outputs: hub.outputs, receipt })
            }
            // The route answers from a place only after that place has answered.
            (Place::Device, ..) | (Place::Hub, ..) => Err(NoAnswer::Route(edge_core::Refused {
                machine: "route",
                state: "over",
                event: "answer that nobody made",
            })),
        }
    }
}

/// By what an answer was made; see [`Receipt`].
#[derive(Debug, Clone)]
pub struct Made {
    /// The version that answered.
    pub version: Version,
    /// Which form of it.
    pub variant: types::VariantName,
    /// Digest of its model file.
    pub digest: types::Digest,
    /// What ran it.
    pub engine: types::EngineName,
    /// The execution provider that really ran.
    pub provider: String,
    /// Queue, compute and network; the total is measured by whoever asked.
    pub timings: Timings,
}
