//! The trait that a daemon implements to be served, and what it says of its models.
//!
//! Implemented by the agent over its route, by the hub over its pools of sessions, and by tests. Called by
//! [`crate::endpoint`] with requests that were admitted, and by both protocols for everything else.

use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use types::{ErrorCode, InferenceError, InferenceRequest, InferenceResponse, ModelName, Receipt, Signature, Version};

/// Responses to one request, in order; the end of the stream ends the request.
pub type ResponseStream = BoxStream<'static, Result<InferenceResponse, InferenceError>>;

/// Answers inferences and describes its models.
#[async_trait]
pub trait InferenceService: Send + Sync + 'static {
    /// Answers one request by one response.
    ///
    /// # Errors
    /// [`InferenceError`], with a message for the client.
    ///
    /// # Cancel safety
    /// Dropping the future withdraws the request.
    async fn infer(&self, request: InferenceRequest) -> Result<InferenceResponse, InferenceError>;

    /// Answers one request by any number of responses. Models that give one response need not implement it.
    ///
    /// # Errors
    /// As [`InferenceService::infer`]; later errors are in the stream.
    ///
    /// # Cancel safety
    /// Dropping the future or the stream withdraws the request.
    async fn infer_stream(&self, request: InferenceRequest) -> Result<ResponseStream, InferenceError> {
        let response = self.infer(request).await?;
        Ok(stream::iter([Ok(response)]).boxed())
    }

    /// Returns every model, in the order of their names.
    fn models(&self) -> Vec<ModelDescription>;

    /// Returns the checked name of a model that is known here. Called once for each request.
    fn find(&self, name: &str) -> Option<ModelName> {
        self.models().into_iter().map(|model| model.name).find(|known| known.as_str() == name)
    }

    /// Returns whether every model can answer: what a load balancer wants to know.
    fn ready(&self) -> bool {
        self.models().iter().all(|model| model.serving.is_some())
    }

    /// Returns counts and times of each version since the start.
    fn statistics(&self) -> Vec<ModelStatistics>;

    /// Loads a model, so that it can answer. A model that is loaded stays as it is.
    ///
    /// # Errors
    /// When there is no such model, it does not load, or this server loads models by other means.
    async fn load(&self, model: &ModelName) -> Result<(), InferenceError> {
        let _unused = model;
        Err(InferenceError::with_advice(ErrorCode::Unsupported, "this server loads no models on request"))
    }

    /// Unloads a model: it gives back its memory and answers nothing until it is loaded again.
    ///
    /// # Errors
    /// As [`InferenceService::load`].
    async fn unload(&self, model: &ModelName) -> Result<(), InferenceError> {
        let _unused = model;
        Err(InferenceError::with_advice(ErrorCode::Unsupported, "this server unloads no models on request"))
    }

    /// Counts the outcome of a request in the statistics of the service, also of one that was refused before it got here.
    fn record(&self, model: &ModelName, outcome: Result<&Receipt, ErrorCode>, elapsed: Duration) {
        let _unused = (model, outcome, elapsed);
    }
}

/// A model and the versions of it that can answer.
#[derive(Debug, Clone)]
pub struct ModelDescription {
    /// Name of the model.
    pub name: ModelName,
    /// Version that answers a request which names none; `None` while no version can answer.
    pub serving: Option<Version>,
    /// Versions that can answer, in ascending order.
    pub versions: Vec<VersionDescription>,
    /// Reason why no version can answer, with what to do; read while `serving` is `None`.
    pub reason: Option<String>,
}

impl ModelDescription {
    /// Returns a version that can answer: the named one, or the one that serves.
    #[must_use]
    pub fn version(&self, wanted: Option<Version>) -> Option<&VersionDescription> {
        let wanted = wanted.or(self.serving)?;
        self.versions.iter().find(|version| version.version == wanted)
    }
}

/// A version of a model that can answer.
#[derive(Debug, Clone)]
pub struct VersionDescription {
    /// Number of the version.
    pub version: Version,
    /// Inputs and outputs of the version.
    pub signature: Signature,
    /// Names of the classes; empty where the model has none.
    pub labels: Vec<String>,
    /// Output whose elements the labels name; `None` for any output.
    pub labelled_output: Option<String>,
    /// Platform in Triton's words, like `onnxruntime_onnx`.
    pub platform: &'static str,
}

/// Number of events and the sum of their durations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CountAndTime {
    /// Number of the events.
    pub count: u64,
    /// Sum of their durations in nanoseconds.
    pub nanos: u64,
}

/// Statistics of one version since the start.
#[derive(Debug, Clone)]
pub struct ModelStatistics {
    /// Name of the model.
    pub name: ModelName,
    /// Version that serves; `None` while none does.
    pub version: Option<Version>,
    /// Time of the last response in milliseconds since 1970; 0 before the first.
    pub last_inference_unix_ms: u64,
    /// Requests that were answered, from the whole request to the whole response.
    pub success: CountAndTime,
    /// Requests that were not answered.
    pub fail: CountAndTime,
    /// Waiting for the session that answered.
    pub queue: CountAndTime,
    /// Inside the engine that answered.
    pub compute: CountAndTime,
}
