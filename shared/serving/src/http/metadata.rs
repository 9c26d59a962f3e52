//! What the protocol says about server and models: metadata, readiness, statistics, the repository's index.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::Json;
use axum::extract::{Path, State};
use http::StatusCode;
use serde::Serialize;
use types::{Dim, TensorSpec, Version};

use super::{Door, DoorError};
use crate::models::{Model, Serving, Sum};

/// Parts of Triton's protocol extensions that are spoken here.
const EXTENSIONS: [&str; 3] = ["binary_tensor_data", "model_repository", "statistics"];

#[derive(Serialize)]
pub(super) struct ServerMetadata {
    name: &'static str,
    version: &'static str,
    extensions: [&'static str; 3],
}

pub(super) async fn server() -> Json<ServerMetadata> {
    Json(ServerMetadata { name: "sanderling-agent", version: env!("CARGO_PKG_VERSION"), extensions: EXTENSIONS })
}

#[derive(Serialize)]
pub(super) struct Live {
    live: bool,
}

pub(super) async fn live() -> Json<Live> {
    Json(Live { live: true })
}

#[derive(Serialize)]
pub(super) struct ServerReady {
    ready: bool,
}

/// Ready when every followed model has a version that serves: what a load balancer wants to know.
pub(super) async fn ready(State(door): State<Arc<Door>>) -> (StatusCode, Json<ServerReady>) {
    let ready = door.models.iter().all(|model| model.serving().is_some());
    (status_of(ready), Json(ServerReady { ready }))
}

#[derive(Serialize)]
pub(super) struct ModelReady {
    name: String,
    ready: bool,
}

pub(super) async fn model_ready(
    State(door): State<Arc<Door>>,
    Path(name): Path<String>,
) -> Result<(StatusCode, Json<ModelReady>), DoorError> {
    let model = find(&door, &name)?;
    let ready = model.serving().is_some();
    Ok((status_of(ready), Json(ModelReady { name, ready })))
}

pub(super) async fn version_ready(
    State(door): State<Arc<Door>>,
    Path((name, version)): Path<(String, String)>,
) -> Result<(StatusCode, Json<ModelReady>), DoorError> {
    let model = find(&door, &name)?;
    let ready = version.parse().is_ok_and(|version| model.serving_version(Some(version)).is_some());
    Ok((status_of(ready), Json(ModelReady { name, ready })))
}

fn status_of(ready: bool) -> StatusCode {
    if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

#[derive(Serialize)]
pub(super) struct ModelMetadata {
    name: String,
    versions: Vec<String>,
    platform: &'static str,
    inputs: Vec<TensorMetadata>,
    outputs: Vec<TensorMetadata>,
}

#[derive(Serialize)]
struct TensorMetadata {
    name: String,
    datatype: &'static str,
    /// -1 stands for any size, as the protocol says.
    shape: Vec<i64>,
}

pub(super) async fn model(
    State(door): State<Arc<Door>>,
    Path(name): Path<String>,
) -> Result<Json<ModelMetadata>, DoorError> {
    let model = find(&door, &name)?;
    Ok(Json(metadata_of(&*serving(model)?, model)))
}

pub(super) async fn version(
    State(door): State<Arc<Door>>,
    Path((name, version)): Path<(String, String)>,
) -> Result<Json<ModelMetadata>, DoorError> {
    let model = find(&door, &name)?;
    Ok(Json(metadata_of(&*serving_version(model, &version)?, model)))
}

fn metadata_of(serving: &Serving, model: &Model) -> ModelMetadata {
    let describe = |specs: &[TensorSpec]| specs.iter().map(describe).collect();
    ModelMetadata {
        name: model.name.to_string(),
        versions: vec![serving.installed.version.to_string()],
        platform: "onnxruntime_onnx",
        inputs: describe(&serving.session.signature().inputs),
        outputs: describe(&serving.session.signature().outputs),
    }
}

fn describe(spec: &TensorSpec) -> TensorMetadata {
    let size = |dim: &Dim| match dim {
        Dim::Fixed(size) => i64::try_from(*size).unwrap_or(i64::MAX),
        Dim::Any | Dim::Symbol(_) => -1,
    };
    // A model that does not say how many dimensions there are is shown with one of any size: the protocol has no word for it.
    let shape = spec.shape.as_ref().map_or_else(|| vec![-1], |dims| dims.iter().map(size).collect());
    TensorMetadata { name: spec.name.clone(), datatype: spec.dtype.as_str(), shape }
}

#[derive(Serialize)]
pub(super) struct IndexEntry {
    name: String,
    version: String,
    state: &'static str,
    reason: &'static str,
}

pub(super) async fn index(State(door): State<Arc<Door>>) -> Json<Vec<IndexEntry>> {
    let entry = |model: &Arc<Model>| match model.serving() {
        Some(serving) => IndexEntry {
            name: model.name.to_string(),
            version: serving.installed.version.to_string(),
            state: "READY",
            reason: "",
        },
        None => IndexEntry {
            name: model.name.to_string(),
            version: String::new(),
            state: "UNAVAILABLE",
            reason: "no version is installed yet",
        },
    };
    Json(door.models.iter().map(entry).collect())
}

#[derive(Serialize)]
pub(super) struct ModelStatistics {
    model_stats: Vec<VersionStatistics>,
}

#[derive(Serialize)]
struct VersionStatistics {
    name: String,
    version: String,
    last_inference: u64,
    inference_count: u64,
    execution_count: u64,
    inference_stats: InferenceStatistics,
}

#[derive(Serialize)]
struct InferenceStatistics {
    success: CountAndTime,
    fail: CountAndTime,
    queue: CountAndTime,
    compute_infer: CountAndTime,
}

#[derive(Serialize)]
struct CountAndTime {
    count: u64,
    ns: u64,
}

impl From<&Sum> for CountAndTime {
    fn from(sum: &Sum) -> Self {
        Self { count: sum.count(), ns: sum.nanos() }
    }
}

pub(super) async fn statistics(State(door): State<Arc<Door>>) -> Json<ModelStatistics> {
    Json(ModelStatistics { model_stats: door.models.iter().map(|model| statistics_of(model)).collect() })
}

pub(super) async fn model_statistics(
    State(door): State<Arc<Door>>,
    Path(name): Path<String>,
) -> Result<Json<ModelStatistics>, DoorError> {
    Ok(Json(ModelStatistics { model_stats: vec![statistics_of(find(&door, &name)?)] }))
}

pub(super) async fn version_statistics(
    State(door): State<Arc<Door>>,
    Path((name, version)): Path<(String, String)>,
) -> Result<Json<ModelStatistics>, DoorError> {
    let model = find(&door, &name)?;
    serving_version(model, &version)?;
    Ok(Json(ModelStatistics { model_stats: vec![statistics_of(model)] }))
}

fn statistics_of(model: &Model) -> VersionStatistics {
    let statistics = &model.statistics;
    VersionStatistics {
        name: model.name.to_string(),
        version: model.serving().map_or_else(String::new, |serving| serving.installed.version.to_string()),
        last_inference: statistics.last_unix_ms.load(Ordering::Relaxed),
        inference_count: statistics.success.count(),
        execution_count: statistics.success.count(),
        inference_stats: InferenceStatistics {
            success: (&statistics.success).into(),
            fail: (&statistics.fail).into(),
            queue: (&statistics.queue).into(),
            compute_infer: (&statistics.compute).into(),
        },
    }
}

fn find<'a>(door: &'a Door, name: &str) -> Result<&'a Arc<Model>, DoorError> {
    door.models.find(name).ok_or_else(|| DoorError::unknown_model(name, &door.models.names()))
}

fn serving(model: &Model) -> Result<Arc<Serving>, DoorError> {
    model.serving().ok_or_else(|| DoorError::not_ready(model.name.as_str()))
}

fn serving_version(model: &Model, text: &str) -> Result<Arc<Serving>, DoorError> {
    let wanted: Option<Version> = text.parse().ok();
    let now = serving(model)?;
    if wanted == Some(now.installed.version) {
        return Ok(now);
    }
    let serving = format!("version {} does", now.installed.version);
    Err(DoorError::unknown_version(model.name.as_str(), text, &serving))
}
