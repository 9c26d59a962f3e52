//! Metadata and readiness of the server and of its models.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use http::StatusCode;
use serde::Serialize;
use types::{Dim, TensorSpec};

use super::HttpError;
use crate::{Endpoint, ModelDescription, VersionDescription};

/// Triton's protocol extensions that are implemented, for both protocols.
pub(crate) const EXTENSIONS: [&str; 5] =
    ["binary_tensor_data", "classification", "model_configuration", "model_repository", "statistics"];

#[derive(Serialize)]
pub(super) struct ServerMetadata {
    name: &'static str,
    version: &'static str,
    extensions: [&'static str; EXTENSIONS.len()],
}

pub(super) async fn server(State(endpoint): State<Arc<Endpoint>>) -> Json<ServerMetadata> {
    let crate::Identity { name, version, .. } = endpoint.identity;
    Json(ServerMetadata { name, version, extensions: EXTENSIONS })
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

/// Answers whether every model has a version that serves: what a load balancer wants to know.
pub(super) async fn ready(State(endpoint): State<Arc<Endpoint>>) -> (StatusCode, Json<ServerReady>) {
    let ready = endpoint.service.ready();
    (status_of(ready), Json(ServerReady { ready }))
}

#[derive(Serialize)]
pub(super) struct ModelNames {
    models: Vec<String>,
}

pub(super) async fn models(State(endpoint): State<Arc<Endpoint>>) -> Json<ModelNames> {
    Json(ModelNames { models: endpoint.service.models().iter().map(|model| model.name.to_string()).collect() })
}

#[derive(Serialize)]
pub(super) struct ModelReady {
    name: String,
    ready: bool,
}

pub(super) async fn model_ready(
    State(endpoint): State<Arc<Endpoint>>,
    Path(name): Path<String>,
) -> Result<(StatusCode, Json<ModelReady>), HttpError> {
    let ready = endpoint.describe(&name)?.serving.is_some();
    Ok((status_of(ready), Json(ModelReady { name, ready })))
}

pub(super) async fn version_ready(
    State(endpoint): State<Arc<Endpoint>>,
    Path((name, version)): Path<(String, String)>,
) -> Result<(StatusCode, Json<ModelReady>), HttpError> {
    let model = endpoint.describe(&name)?;
    let ready = version.parse().is_ok_and(|version| model.version(Some(version)).is_some());
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
    State(endpoint): State<Arc<Endpoint>>,
    Path(name): Path<String>,
) -> Result<Json<ModelMetadata>, HttpError> {
    let (model, version) = endpoint.describe_version(&name, "")?;
    Ok(Json(metadata_of(&model, &version)))
}

pub(super) async fn version(
    State(endpoint): State<Arc<Endpoint>>,
    Path((name, version)): Path<(String, String)>,
) -> Result<Json<ModelMetadata>, HttpError> {
    let (model, version) = endpoint.describe_version(&name, &version)?;
    Ok(Json(metadata_of(&model, &version)))
}

fn metadata_of(model: &ModelDescription, version: &VersionDescription) -> ModelMetadata {
    let describe = |specs: &[TensorSpec]| specs.iter().map(describe).collect();
    ModelMetadata {
        name: model.name.to_string(),
        versions: model.versions.iter().map(|known| known.version.to_string()).collect(),
        platform: version.platform,
        inputs: describe(&version.signature.inputs),
        outputs: describe(&version.signature.outputs),
    }
}

fn describe(spec: &TensorSpec) -> TensorMetadata {
    TensorMetadata { name: spec.name.clone(), datatype: spec.dtype.as_str(), shape: dimensions(spec) }
}

/// Returns the shape of an input or output as both protocols write it; -1 stands for any size.
pub(crate) fn dimensions(spec: &TensorSpec) -> Vec<i64> {
    let size = |dim: &Dim| match dim {
        Dim::Fixed(size) => i64::try_from(*size).unwrap_or(i64::MAX),
        Dim::Any | Dim::Symbol(_) => -1,
    };
    // A model that does not say how many dimensions there are is shown with one of any size: the protocol has no word for it.
    spec.shape.as_ref().map_or_else(|| vec![-1], |dims| dims.iter().map(size).collect())
}
