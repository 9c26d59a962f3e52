//! Triton's model configuration extension: a model in the words of `config.pbtxt`, as JSON.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use serde::Serialize;
use types::{DType, TensorSpec};

use super::HttpError;
use super::metadata::dimensions;
use crate::{Endpoint, ModelDescription, VersionDescription};

#[derive(Serialize)]
pub(super) struct ModelConfigJson {
    name: String,
    platform: &'static str,
    backend: &'static str,
    /// Always 0: the batch is a dimension of the model like any other.
    max_batch_size: i32,
    version_policy: VersionPolicyJson,
    input: Vec<TensorJson>,
    output: Vec<TensorJson>,
}

#[derive(Serialize)]
struct VersionPolicyJson {
    specific: SpecificJson,
}

#[derive(Serialize)]
struct SpecificJson {
    versions: Vec<u64>,
}

#[derive(Serialize)]
struct TensorJson {
    name: String,
    data_type: String,
    dims: Vec<i64>,
}

/// Returns a datatype in the words of Triton's configuration.
fn data_type(dtype: DType) -> String {
    match dtype {
        DType::Bytes => "TYPE_STRING".to_owned(),
        DType::Bool
        | DType::U8
        | DType::U16
        | DType::U32
        | DType::U64
        | DType::I8
        | DType::I16
        | DType::I32
        | DType::I64
        | DType::F16
        | DType::Bf16
        | DType::F32
        | DType::F64 => format!("TYPE_{dtype}"),
    }
}

fn tensor(spec: &TensorSpec) -> TensorJson {
    TensorJson { name: spec.name.clone(), data_type: data_type(spec.dtype), dims: dimensions(spec) }
}

fn config_of(model: &ModelDescription, version: &VersionDescription) -> Json<ModelConfigJson> {
    let versions = model.versions.iter().map(|known| known.version.number()).collect();
    Json(ModelConfigJson {
        name: model.name.to_string(),
        platform: version.platform,
        backend: version.platform.split('_').next().unwrap_or_default(),
        max_batch_size: 0,
        version_policy: VersionPolicyJson { specific: SpecificJson { versions } },
        input: version.signature.inputs.iter().map(tensor).collect(),
        output: version.signature.outputs.iter().map(tensor).collect(),
    })
}

pub(super) async fn model(
    State(endpoint): State<Arc<Endpoint>>,
    Path(name): Path<String>,
) -> Result<Json<ModelConfigJson>, HttpError> {
    let (model, version) = endpoint.describe_version(&name, "")?;
    Ok(config_of(&model, &version))
}

pub(super) async fn version(
    State(endpoint): State<Arc<Endpoint>>,
    Path((name, version)): Path<(String, String)>,
) -> Result<Json<ModelConfigJson>, HttpError> {
    let (model, version) = endpoint.describe_version(&name, &version)?;
    Ok(config_of(&model, &version))
}
