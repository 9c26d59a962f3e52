//! Everything that a request needs once, whatever protocol brings it: admission, memory, ids, spans, metrics.
//!
//! Fed by [`crate::http`] and [`crate::grpc`] with parsed requests; hands them to the [`InferenceService`].

use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use http::HeaderMap;
use telemetry::TraceContext;
use telemetry::metrics::{self, RequestTimes, UNKNOWN_MODEL};
use tokio::sync::{Semaphore, SemaphorePermit};
use tracing::Instrument as _;
use tracing::field::Empty;
use types::{
    Caller, ErrorCode, InferenceError, InferenceRequest, InferenceResponse, ModelName, Receipt, RequestId, Version,
};

use crate::classify::Labels;
use crate::codec::{InferCall, Wanted};
use crate::service::{InferenceService, ModelDescription, VersionDescription};
use crate::{Budget, Guard, Limits, refusal};

/// Name and version of a server, as its metadata says them.
#[derive(Debug, Clone, Copy)]
pub struct Identity {
    /// Name of the program, like `sanderling-agent`.
    pub name: &'static str,
    /// Version of the program.
    pub version: &'static str,
    /// Advice to a client of a server without any model.
    pub no_models: &'static str,
}

/// Everything about a request that is not in its body.
#[derive(Debug)]
pub(crate) struct Envelope {
    /// Version that must answer; `None` for the one that serves.
    pub(crate) version: Option<Version>,
    /// Client that sends the request.
    pub(crate) caller: Caller,
    /// W3C trace context of the caller.
    pub(crate) traceparent: Option<String>,
    /// Moment at which the whole request had been received.
    pub(crate) arrived: Instant,
}

/// Checks who sends a request, where a server asks for a token.
#[async_trait]
pub trait Login: Send + Sync {
    /// Returns the caller whose token these headers carry.
    ///
    /// # Errors
    /// [`ErrorCode::Unauthenticated`], [`ErrorCode::Forbidden`] or [`ErrorCode::TooManyLogins`], with a message for the client.
    async fn caller(&self, headers: &HeaderMap, peer: Option<IpAddr>) -> Result<Caller, InferenceError>;
}

/// A service and everything its servers share.
pub struct Endpoint {
    pub(crate) service: Arc<dyn InferenceService>,
    pub(crate) identity: Identity,
    pub(crate) limits: Limits,
    pub(crate) budget: Arc<Budget>,
    pub(crate) guard: Arc<Guard>,
    pub(crate) login: Option<Arc<dyn Login>>,
    permits: Semaphore,
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Endpoint")
            .field("identity", &self.identity)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

impl Endpoint {
    /// Creates an endpoint with as many permits and as much memory as the limits allow.
    #[must_use]
    pub fn new(service: Arc<dyn InferenceService>, identity: Identity, limits: Limits, guard: Arc<Guard>) -> Self {
        let permits = Semaphore::new(limits.requests_max.min(Semaphore::MAX_PERMITS));
        let budget = Budget::new(limits.memory_bytes_max);
        Self { service, identity, limits, budget, guard, login: None, permits }
    }

    /// Asks every request for a token.
    #[must_use]
    pub fn with_login(self, login: Arc<dyn Login>) -> Self {
        Self { login: Some(login), ..self }
    }

    /// Returns the guard against web pages, for other servers of the same daemon.
    #[must_use]
    pub fn guard(&self) -> &Arc<Guard> {
        &self.guard
    }

    /// Returns the memory that requests and responses share.
    #[must_use]
    pub fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }

    /// Returns the known model of that name, or counts and refuses a request for it.
    pub(crate) fn find(&self, name: &str) -> Result<ModelName, InferenceError> {
        self.service.find(name).ok_or_else(|| {
            let names: Vec<String> = self.service.models().iter().map(|model| model.name.to_string()).collect();
            let known = if names.is_empty() { format!("none: {}", self.identity.no_models) } else { names.join(", ") };
            refusal::unknown_model(name, &known)
        })
    }

    /// Returns the description of a model, whether or not it can answer.
    pub(crate) fn describe(&self, name: &str) -> Result<ModelDescription, InferenceError> {
        let known = self.find(name)?;
        let found = self.service.models().into_iter().find(|model| model.name == known);
        found.ok_or_else(|| refusal::unknown_model(name, "changing now: ask again"))
    }

    /// Returns a version that can answer: the named one, or the one that serves where the text is empty.
    pub(crate) fn describe_version(
        &self,
        name: &str,
        version: &str,
    ) -> Result<(ModelDescription, VersionDescription), InferenceError> {
        let model = self.describe(name)?;
        let wanted = self.read_version(&model.name, version)?;
        if let Some(found) = model.version(wanted).cloned() {
            return Ok((model, found));
        }
        Err(match model.serving {
            Some(_) => {
                let serving: Vec<String> = model.versions.iter().map(|known| known.version.to_string()).collect();
                let verb = if serving.len() == 1 { "does" } else { "do" };
                refusal::unknown_version(name, version, &format!("version {} {verb}", serving.join(", ")))
            }
            None => not_ready(&model),
        })
    }

    /// Reads the version in a path or message; empty text means the one that serves.
    pub(crate) fn read_version(&self, model: &ModelName, text: &str) -> Result<Option<Version>, InferenceError> {
        if text.is_empty() {
            return Ok(None);
        }
        text.parse().map(Some).map_err(|_not_one: types::InvalidId| {
            refusal::unknown_version(model.as_str(), text, "versions are whole numbers from 1")
        })
    }

    /// Counts and refuses a request whose model is not known.
    pub(crate) fn note_unknown(&self, error: &InferenceError) {
        metrics::request_failed(UNKNOWN_MODEL, error.code.as_str());
    }

    /// Runs the work of one request in a span, counted as pending, and counts its failure.
    pub(crate) async fn observed<T>(
        &self,
        model: &ModelName,
        work: impl Future<Output = Result<T, InferenceError>>,
    ) -> Result<T, InferenceError> {
        let _pending = metrics::request_pending(model.as_str());
        // The id and the policy are known once the request is read.
        let span = tracing::info_span!("request", id = Empty, model = %model, policy = Empty);
        async {
            let begun = Instant::now();
            let result = work.await;
            if let Err(error) = &result
                && error.code != ErrorCode::Queued
            {
                self.service.record(model, Err(error.code), begun.elapsed());
                metrics::request_failed(model.as_str(), error.code.as_str());
                tracing::info!(code = error.code.as_str(), error = error.message, "a request was not answered");
            }
            result
        }
        .instrument(span)
        .await
    }

    /// Takes one of the permits for complete requests.
    pub(crate) fn permit(&self) -> Result<SemaphorePermit<'_>, InferenceError> {
        self.permits.try_acquire().map_err(|_none_left| refusal::busy(&self.limits))
    }

    /// Makes a request of a call that was read.
    pub(crate) fn request(
        &self,
        model: &ModelName,
        envelope: Envelope,
        call: InferCall,
    ) -> Result<(InferenceRequest, Wanted), InferenceError> {
        let id = match call.id {
            Some(id) => id,
            None => new_request_id()?,
        };
        tracing::Span::current().record("id", id.as_str());
        let Envelope { version, caller, traceparent, arrived } = envelope;
        let request = InferenceRequest {
            id,
            caller,
            model: model.clone(),
            version,
            policy: call.policy,
            deadline: call.deadline,
            rules: call.rules,
            inputs: call.inputs,
            outputs: call.wanted.names(),
            traceparent,
            arrived,
        };
        Ok((request, call.wanted))
    }

    /// Has the service answer a request, and counts the response.
    pub(crate) async fn answer(&self, request: InferenceRequest) -> Result<InferenceResponse, InferenceError> {
        let response = self.service.infer(request).await?;
        self.note(&response.receipt);
        Ok(response)
    }

    /// Counts a response in metrics and statistics.
    pub(crate) fn note(&self, receipt: &Receipt) {
        let timings = receipt.timings;
        self.service.record(&receipt.model, Ok(receipt), timings.total);
        let times = RequestTimes { queue: timings.queue, compute: timings.compute, total: timings.total };
        metrics::request_answered(receipt.model.as_str(), receipt.place.as_str(), receipt.reason.as_str(), times);
        tracing::debug!(
            place = %receipt.place,
            reason = %receipt.reason,
            version = %receipt.version,
            score = receipt.score,
            total_us = u64::try_from(timings.total.as_micros()).unwrap_or(u64::MAX),
            "answered"
        );
    }

    /// Returns the labels of a version for classification, and the output they name.
    pub(crate) fn labels(&self, receipt: &Receipt) -> Labels {
        let models = self.service.models();
        let model = models.into_iter().find(|model| model.name == receipt.model);
        let version = model.and_then(|model| model.version(Some(receipt.version)).cloned());
        version
            .map_or_else(Labels::default, |version| Labels { names: version.labels, output: version.labelled_output })
    }
}

/// Refuses a request for a model of which no version can answer.
pub(crate) fn not_ready(model: &ModelDescription) -> InferenceError {
    match &model.reason {
        Some(reason) => InferenceError::new(ErrorCode::NotReady, reason.clone()),
        None => {
            InferenceError::with_advice(ErrorCode::NotReady, format!("no version of model {} can answer", model.name))
        }
    }
}

/// Returns the caller's trace context; one that is malformed is ignored, as W3C Trace Context asks.
pub(crate) fn traceparent(headers: &HeaderMap) -> Option<String> {
    let text = headers.get("traceparent")?.to_str().ok()?;
    text.parse::<TraceContext>().ok().map(|context| context.to_string())
}

/// Makes an id that is ordered by time, so that logs and traces sort.
fn new_request_id() -> Result<RequestId, InferenceError> {
    let text = uuid::Uuid::now_v7().to_string();
    text.parse().map_err(|error: types::InvalidId| refusal::bad_request(error.to_string()))
}
