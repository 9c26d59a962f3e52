//! Answers the inference servers from the models of this device and its route to the hub.
//!
//! Fed by `serving` with requests of local applications that were admitted; [`crate::answer`] walks each through the routing
//! core.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use serving::guard::Settings;
use serving::{
    CountAndTime, Endpoint, Guard, Identity, InferenceService, ModelDescription, ModelStatistics, VersionDescription,
};
use types::{ErrorCode, InferenceError, InferenceRequest, InferenceResponse, ModelName, Receipt};

use crate::answer::{AnswerError, Asked, RoutedRequest, RunLimits, answer};
use crate::config::InferenceTable;
use crate::models::{Model, Models, Sum};
use crate::status::{SharedStatus, Status};
use crate::uplink::Link;

/// Longest wait for a model that is loaded on request: a model of 2 GiB from a slow card.
const LOAD_WITHIN: Duration = Duration::from_secs(120);

/// Name and version of the agent in its metadata.
const IDENTITY: Identity = Identity {
    name: "sanderling-agent",
    version: env!("CARGO_PKG_VERSION"),
    no_models: "add a [models.<name>] table to agent.toml",
};

/// The models of this device as a service.
#[derive(Debug)]
pub struct AgentService {
    models: Arc<Models>,
    link: Link,
    run: RunLimits,
}

impl AgentService {
    /// Creates the service over these models and the link to the hub.
    #[must_use]
    pub fn new(models: Arc<Models>, link: Link, run: RunLimits) -> Self {
        Self { models, link, run }
    }

    fn model(&self, name: &ModelName) -> Result<Arc<Model>, InferenceError> {
        let unknown = || InferenceError::with_advice(ErrorCode::UnknownModel, format!("there is no model {name} here"));
        self.models.find(name.as_str()).ok_or_else(unknown)
    }
}

/// Makes the endpoint that the agent's servers share.
#[must_use]
pub fn endpoint(service: AgentService, table: &InferenceTable) -> Endpoint {
    let settings = Settings { hosts: "inference.hosts", origins: Some("inference.origins") };
    let guard = Arc::new(Guard::new(settings, &table.hosts, &table.origins, Some(table.http.ip())));
    Endpoint::new(Arc::new(service), IDENTITY, table.limits(), guard)
}

/// Makes the router of the HTTP server: the protocol, the status of the agent, and `control`, the orders of the owner.
pub fn router(
    endpoint: Arc<Endpoint>,
    models: Arc<Models>,
    shared_status: Arc<SharedStatus>,
    control: Router,
) -> Router {
    let status = Router::new().route("/sanderling/v1/status", get(status)).with_state((models, shared_status));
    serving::http::router(endpoint, status.merge(control))
}

async fn status(State((models, shared_status)): State<(Arc<Models>, Arc<SharedStatus>)>) -> Json<Status> {
    Json(shared_status.status(&models))
}

#[async_trait]
impl InferenceService for AgentService {
    async fn infer(&self, request: InferenceRequest) -> Result<InferenceResponse, InferenceError> {
        let model = self.model(&request.model)?;
        let InferenceRequest {
            id, version, policy: mode, deadline, rules, inputs, outputs, traceparent, arrived, ..
        } = request;
        let policy = model.policy(mode, &rules);
        tracing::Span::current().record("policy", policy.mode.as_str());
        let asked = Asked { mode, has_deadline: deadline.is_some(), rules };
        let deadline = deadline.or(policy.deadline);
        let request = RoutedRequest {
            id,
            version,
            policy,
            asked,
            deadline: deadline.and_then(|deadline| arrived.checked_add(deadline)),
            inputs,
            outputs,
            traceparent,
            arrived,
        };
        answer(&model, &self.link, &self.run, &request).await.map_err(|error| explained(&model, error))
    }

    fn models(&self) -> Vec<ModelDescription> {
        self.models.iter().map(|model| describe(&model)).collect()
    }

    fn find(&self, name: &str) -> Option<ModelName> {
        self.models.find(name).map(|model| model.name.clone())
    }

    fn ready(&self) -> bool {
        self.models.iter().all(|model| model.serving().is_some())
    }

    fn statistics(&self) -> Vec<ModelStatistics> {
        self.models.iter().map(|model| statistics(&model)).collect()
    }

    async fn load(&self, name: &ModelName) -> Result<(), InferenceError> {
        let model = self.model(name)?;
        let loaded = tokio::time::timeout(LOAD_WITHIN, model.load())
            .await
            .unwrap_or_else(|_elapsed| Err(format!("it was not loaded within {} s", LOAD_WITHIN.as_secs())));
        loaded.map_err(|reason| InferenceError::new(ErrorCode::NotReady, format!("load model {name}: {reason}")))
    }

    async fn unload(&self, name: &ModelName) -> Result<(), InferenceError> {
        self.model(name)?.unload();
        tracing::info!(model = %name, "unloaded on request");
        Ok(())
    }

    fn record(&self, name: &ModelName, outcome: Result<&Receipt, ErrorCode>, elapsed: Duration) {
        let Some(model) = self.models.find(name.as_str()) else { return };
        match outcome {
            Ok(receipt) => model.statistics.answered(receipt),
            Err(_code) => model.statistics.failed(elapsed),
        }
    }
}

/// Converts an error of the route; adds the reason where every installed version was given up or unloaded.
fn explained(model: &Model, error: AnswerError) -> InferenceError {
    if let AnswerError::Queued { amendment, .. } = error {
        return InferenceError::queued(amendment);
    }
    let Some(code) = error.failure() else {
        tracing::error!(error = telemetry::chain(&error), "the route of a request broke");
        return InferenceError::with_advice(ErrorCode::Internal, "route the request");
    };
    if code == ErrorCode::UnknownModel
        && let Some(reason) = not_ready(model)
    {
        return InferenceError::new(ErrorCode::NotReady, reason);
    }
    let message = format!("{}; {}", telemetry::chain(&error), code.advice());
    let error = InferenceError::new(code, message);
    match code {
        ErrorCode::DeviceBusy => error.retry_after(Duration::from_secs(1)),
        _ => error,
    }
}

/// Returns the reason why no version of a model runs on this device although one is installed; `None` where none is.
fn not_ready(model: &Model) -> Option<String> {
    if model.is_unloaded() {
        let name = &model.name;
        return Some(format!("model {name:?} was unloaded: load it with POST /v2/repository/models/{name}/load"));
    }
    let why = model.given_up()?;
    Some(format!(
        "no version of model {:?} runs on this device ({why}): let the hub answer (policy prefer-device), or push a mended \
         version",
        model.name
    ))
}

fn describe(model: &Model) -> ModelDescription {
    let serving = model.serving();
    let version = serving.as_ref().map(|serving| {
        let manifest = &serving.manifest;
        VersionDescription {
            version: serving.installed.version,
            signature: serving.session.signature().clone(),
            labels: manifest.labels.clone(),
            labelled_output: manifest.score.as_ref().map(|rule| rule.output.clone()),
            platform: "onnxruntime_onnx",
        }
    });
    let waiting = || {
        format!(
            "no version of model {:?} is installed yet: `edge-agent status` shows how far its first update is",
            model.name
        )
    };
    let reason = serving.is_none().then(|| not_ready(model).unwrap_or_else(waiting));
    ModelDescription {
        name: model.name.clone(),
        serving: serving.map(|serving| serving.installed.version),
        versions: version.into_iter().collect(),
        reason,
    }
}

fn statistics(model: &Model) -> ModelStatistics {
    let statistics = &model.statistics;
    let sum = |sum: &Sum| CountAndTime { count: sum.count(), nanos: sum.nanos() };
    ModelStatistics {
        name: model.name.clone(),
        version: model.serving().map(|serving| serving.installed.version),
        last_inference_unix_ms: statistics.last_unix_ms.load(Ordering::Relaxed),
        success: sum(&statistics.success),
        fail: sum(&statistics.fail),
        queue: sum(&statistics.queue),
        compute: sum(&statistics.compute),
    }
}
