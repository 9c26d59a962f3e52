//! Metadata, configuration, statistics and the index of models as gRPC messages.

use types::{DType, InferenceError, TensorSpec};

use super::inference::model_metadata_response::TensorMetadata;
use super::inference::model_version_policy::{PolicyChoice, Specific};
use super::inference::repository_index_response::ModelIndex;
use super::inference::{
    DataType, InferStatistics, ModelConfig, ModelConfigResponse, ModelInput, ModelMetadataResponse, ModelOutput,
    ModelStatistics, ModelStatisticsResponse, ModelVersionPolicy, RepositoryIndexResponse, StatisticDuration,
};
use crate::http::{dimensions, index_of, statistics_of};
use crate::{CountAndTime, Endpoint};

pub(super) fn metadata(
    endpoint: &Endpoint,
    name: &str,
    version: &str,
) -> Result<ModelMetadataResponse, InferenceError> {
    let (model, version) = endpoint.describe_version(name, version)?;
    let describe = |specs: &[TensorSpec]| {
        let one = |spec: &TensorSpec| TensorMetadata {
            name: spec.name.clone(),
            datatype: spec.dtype.as_str().to_owned(),
            shape: dimensions(spec),
        };
        specs.iter().map(one).collect()
    };
    Ok(ModelMetadataResponse {
        name: model.name.to_string(),
        versions: model.versions.iter().map(|known| known.version.to_string()).collect(),
        platform: version.platform.to_owned(),
        inputs: describe(&version.signature.inputs),
        outputs: describe(&version.signature.outputs),
    })
}

pub(super) fn config(endpoint: &Endpoint, name: &str, version: &str) -> Result<ModelConfigResponse, InferenceError> {
    let (model, version) = endpoint.describe_version(name, version)?;
    let versions = model.versions.iter().map(|known| i64::try_from(known.version.number()).unwrap_or(i64::MAX));
    let policy = PolicyChoice::Specific(Specific { versions: versions.collect() });
    let input = |spec: &TensorSpec| ModelInput {
        name: spec.name.clone(),
        data_type: data_type(spec.dtype).into(),
        dims: dimensions(spec),
        ..Default::default()
    };
    let output = |spec: &TensorSpec| ModelOutput {
        name: spec.name.clone(),
        data_type: data_type(spec.dtype).into(),
        dims: dimensions(spec),
        ..Default::default()
    };
    let config = ModelConfig {
        name: model.name.to_string(),
        platform: version.platform.to_owned(),
        backend: version.platform.split('_').next().unwrap_or_default().to_owned(),
        version_policy: Some(ModelVersionPolicy { policy_choice: Some(policy) }),
        // The batch is a dimension of the model like any other.
        max_batch_size: 0,
        input: version.signature.inputs.iter().map(input).collect(),
        output: version.signature.outputs.iter().map(output).collect(),
        ..Default::default()
    };
    Ok(ModelConfigResponse { config: Some(config) })
}

fn data_type(dtype: DType) -> DataType {
    match dtype {
        DType::Bool => DataType::TypeBool,
        DType::U8 => DataType::TypeUint8,
        DType::U16 => DataType::TypeUint16,
        DType::U32 => DataType::TypeUint32,
        DType::U64 => DataType::TypeUint64,
        DType::I8 => DataType::TypeInt8,
        DType::I16 => DataType::TypeInt16,
        DType::I32 => DataType::TypeInt32,
        DType::I64 => DataType::TypeInt64,
        DType::F16 => DataType::TypeFp16,
        DType::Bf16 => DataType::TypeBf16,
        DType::F32 => DataType::TypeFp32,
        DType::F64 => DataType::TypeFp64,
        DType::Bytes => DataType::TypeString,
    }
}

pub(super) fn index(endpoint: &Endpoint, only_ready: bool) -> RepositoryIndexResponse {
    let entries = index_of(&endpoint.service.models(), only_ready).into_iter();
    let entries = entries.map(|entry| ModelIndex {
        name: entry.name,
        version: entry.version,
        state: entry.state.to_owned(),
        reason: entry.reason,
    });
    RepositoryIndexResponse { models: entries.collect() }
}

pub(super) fn statistics(
    endpoint: &Endpoint,
    name: &str,
    version: &str,
) -> Result<ModelStatisticsResponse, InferenceError> {
    let sum = |of: CountAndTime| Some(StatisticDuration { count: of.count, ns: of.nanos });
    let one = |of: crate::ModelStatistics| ModelStatistics {
        name: of.name.to_string(),
        version: of.version.map_or_else(String::new, |version| version.to_string()),
        last_inference: of.last_inference_unix_ms,
        inference_count: of.success.count,
        execution_count: of.success.count,
        inference_stats: Some(InferStatistics {
            success: sum(of.success),
            fail: sum(of.fail),
            queue: sum(of.queue),
            compute_infer: sum(of.compute),
            ..Default::default()
        }),
        ..Default::default()
    };
    let statistics = statistics_of(endpoint, name, version)?;
    Ok(ModelStatisticsResponse { model_stats: statistics.into_iter().map(one).collect() })
}
