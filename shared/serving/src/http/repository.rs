//! Triton's repository and statistics extensions: the index of models, loading, counts and times.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use types::{ErrorCode, InferenceError};

use super::HttpError;
use crate::{CountAndTime, Endpoint, ModelDescription, ModelStatistics, refusal};

/// One line of the index, for both protocols.
#[derive(Debug, Serialize)]
pub(crate) struct IndexEntry {
    /// Name of the model.
    pub(crate) name: String,
    /// Number of the version; empty where none can answer.
    pub(crate) version: String,
    /// State of the version: `READY` or `UNAVAILABLE`.
    pub(crate) state: &'static str,
    /// Reason why the model is unavailable; empty otherwise.
    pub(crate) reason: String,
}

/// Returns the index: each version that can answer, and each model that cannot.
pub(crate) fn index_of(models: &[ModelDescription], only_ready: bool) -> Vec<IndexEntry> {
    let entries = models.iter().flat_map(|model| {
        let name = model.name.to_string();
        let ready = model.versions.iter().map(|known| IndexEntry {
            name: model.name.to_string(),
            version: known.version.to_string(),
            state: "READY",
            reason: String::new(),
        });
        let unavailable = model.versions.is_empty().then(|| IndexEntry {
            name,
            version: String::new(),
            state: "UNAVAILABLE",
            reason: model.reason.clone().unwrap_or_default(),
        });
        ready.chain(unavailable.filter(|_| !only_ready)).collect::<Vec<_>>()
    });
    entries.collect()
}

#[derive(Default, Deserialize)]
struct IndexRequest {
    #[serde(default)]
    ready: Option<bool>,
}

/// Longest body of a call other than an inference, in bytes.
const BODY_BYTES_MAX: usize = 64 * 1024;

pub(super) async fn index(
    State(endpoint): State<Arc<Endpoint>>,
    body: Bytes,
) -> Result<Json<Vec<IndexEntry>>, HttpError> {
    let only_ready = if body.is_empty() {
        false
    } else {
        if body.len() > BODY_BYTES_MAX {
            return Err(refusal::bad_request(format!("the body is over the limit of {BODY_BYTES_MAX} bytes")).into());
        }
        let request: IndexRequest = serde_json::from_slice(&body).map_err(|error| {
            refusal::bad_request(format!("read the body: {error}: send {{\"ready\": true}} or nothing"))
        })?;
        request.ready.unwrap_or(false)
    };
    Ok(Json(index_of(&endpoint.service.models(), only_ready)))
}

#[derive(Deserialize)]
struct LoadRequest {
    #[serde(default)]
    parameters: Option<serde_json::Map<String, Value>>,
}

/// Refuses the parameters by which Triton loads a model with another configuration or other files: versions are signed.
pub(crate) fn check_load_parameters<'a>(mut names: impl Iterator<Item = &'a str>) -> Result<(), InferenceError> {
    match names.find(|name| *name == "config" || name.starts_with("file:")) {
        None => Ok(()),
        Some(name) => {
            let name: String = name.chars().take(80).collect();
            let message =
                format!("parameter {name:?} is not supported: push a version with other files or another policy");
            Err(InferenceError::new(ErrorCode::Unsupported, message))
        }
    }
}

pub(super) async fn load(
    State(endpoint): State<Arc<Endpoint>>,
    Path(name): Path<String>,
    body: Bytes,
) -> Result<Json<Value>, HttpError> {
    if !body.is_empty() {
        let request: LoadRequest = serde_json::from_slice(&body)
            .map_err(|error| refusal::bad_request(format!("read the body: {error}: send {{}} or nothing")))?;
        let parameters = request.parameters.unwrap_or_default();
        check_load_parameters(parameters.keys().map(String::as_str))?;
    }
    let model = endpoint.find(&name)?;
    endpoint.service.load(&model).await?;
    Ok(Json(json!({})))
}

pub(super) async fn unload(
    State(endpoint): State<Arc<Endpoint>>,
    Path(name): Path<String>,
) -> Result<Json<Value>, HttpError> {
    let model = endpoint.find(&name)?;
    endpoint.service.unload(&model).await?;
    Ok(Json(json!({})))
}

#[derive(Serialize)]
pub(super) struct StatisticsJson {
    model_stats: Vec<VersionStatisticsJson>,
}

#[derive(Serialize)]
struct VersionStatisticsJson {
    name: String,
    version: String,
    last_inference: u64,
    inference_count: u64,
    execution_count: u64,
    inference_stats: InferenceStatisticsJson,
}

#[derive(Serialize)]
struct InferenceStatisticsJson {
    success: CountAndTimeJson,
    fail: CountAndTimeJson,
    queue: CountAndTimeJson,
    compute_infer: CountAndTimeJson,
}

#[derive(Serialize)]
struct CountAndTimeJson {
    count: u64,
    ns: u64,
}

impl From<CountAndTime> for CountAndTimeJson {
    fn from(sum: CountAndTime) -> Self {
        Self { count: sum.count, ns: sum.nanos }
    }
}

impl From<ModelStatistics> for VersionStatisticsJson {
    fn from(of: ModelStatistics) -> Self {
        Self {
            name: of.name.to_string(),
            version: of.version.map_or_else(String::new, |version| version.to_string()),
            last_inference: of.last_inference_unix_ms,
            inference_count: of.success.count,
            execution_count: of.success.count,
            inference_stats: InferenceStatisticsJson {
                success: of.success.into(),
                fail: of.fail.into(),
                queue: of.queue.into(),
                compute_infer: of.compute.into(),
            },
        }
    }
}

/// Returns the statistics of a model, or of every model where the name is empty, of one version where one is named.
pub(crate) fn statistics_of(
    endpoint: &Endpoint,
    name: &str,
    version: &str,
) -> Result<Vec<ModelStatistics>, InferenceError> {
    let mut statistics = endpoint.service.statistics();
    if !name.is_empty() {
        let model = endpoint.find(name)?;
        statistics.retain(|of| of.name == model);
    }
    if !version.is_empty() {
        let (_model, wanted) = endpoint.describe_version(name, version)?;
        statistics.retain(|of| of.version == Some(wanted.version));
    }
    Ok(statistics)
}

fn statistics_json(of: Vec<ModelStatistics>) -> Json<StatisticsJson> {
    Json(StatisticsJson { model_stats: of.into_iter().map(Into::into).collect() })
}

pub(super) async fn statistics(State(endpoint): State<Arc<Endpoint>>) -> Result<Json<StatisticsJson>, HttpError> {
    Ok(statistics_json(statistics_of(&endpoint, "", "")?))
}

pub(super) async fn model_statistics(
    State(endpoint): State<Arc<Endpoint>>,
    Path(name): Path<String>,
) -> Result<Json<StatisticsJson>, HttpError> {
    Ok(statistics_json(statistics_of(&endpoint, &name, "")?))
}

pub(super) async fn version_statistics(
    State(endpoint): State<Arc<Endpoint>>,
    Path((name, version)): Path<(String, String)>,
) -> Result<Json<StatisticsJson>, HttpError> {
    Ok(statistics_json(statistics_of(&endpoint, &name, &version)?))
}
