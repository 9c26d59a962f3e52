//! Every path of the protocol, once: the router is built from this list, and so is the OpenAPI document.

use axum::Json;
use serde_json::{Value, json};

/// Handler of a call; [`super::router`] maps each to its function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handler {
    /// Metadata of the server.
    Server,
    /// Liveness of the server.
    Live,
    /// Readiness of the server.
    Ready,
    /// Names of the models.
    Models,
    /// Metadata of the version that serves.
    Model,
    /// Metadata of a version.
    Version,
    /// Readiness of a model.
    ModelReady,
    /// Readiness of a version.
    VersionReady,
    /// Configuration of the version that serves.
    ModelConfig,
    /// Configuration of a version.
    VersionConfig,
    /// Inference by the version that serves.
    ModelInfer,
    /// Inference by a version.
    VersionInfer,
    /// Statistics of every model.
    Statistics,
    /// Statistics of a model.
    ModelStatistics,
    /// Statistics of a version.
    VersionStatistics,
    /// Index of the repository.
    Index,
    /// Loads a model on request.
    Load,
    /// Unloads a model on request.
    Unload,
    /// Lists shared memory regions: none.
    SharedMemoryStatus,
    /// Refuses a shared memory region.
    SharedMemoryRegister,
    /// Accepts that a region is not registered.
    SharedMemoryUnregister,
    /// Returns the OpenAPI document itself.
    OpenApi,
}

/// One path of the API and the method it takes.
#[derive(Debug, Clone, Copy)]
pub struct Call {
    /// HTTP method in lower case, as OpenAPI writes it.
    pub method: &'static str,
    /// Path with its parameters in braces.
    pub path: &'static str,
    /// One line of the document that says what the call does.
    pub summary: &'static str,
    /// Handler of the call.
    pub handler: Handler,
}

const fn call(method: &'static str, path: &'static str, handler: Handler, summary: &'static str) -> Call {
    Call { method, path, summary, handler }
}

/// Every call of the protocol.
pub const CALLS: &[Call] = &[
    call("get", "/v2", Handler::Server, "Returns name, version and extensions of the server."),
    call("get", "/v2/", Handler::Server, "Returns name, version and extensions of the server."),
    call("get", "/v2/health/live", Handler::Live, "Returns whether the server runs."),
    call("get", "/v2/health/ready", Handler::Ready, "Returns whether every model can answer; 503 while not."),
    call("get", "/v2/models", Handler::Models, "Lists the names of the models."),
    call("get", "/v2/models/stats", Handler::Statistics, "Returns counts and times of every model."),
    call("get", "/v2/models/{model}", Handler::Model, "Returns inputs and outputs of the version that serves."),
    call("get", "/v2/models/{model}/versions/{version}", Handler::Version, "Returns inputs and outputs of a version."),
    call("get", "/v2/models/{model}/ready", Handler::ModelReady, "Returns whether a model can answer; 503 while not."),
    call(
        "get",
        "/v2/models/{model}/versions/{version}/ready",
        Handler::VersionReady,
        "Returns whether a version can answer; 503 while not.",
    ),
    call("get", "/v2/models/{model}/config", Handler::ModelConfig, "Returns the configuration in Triton's form."),
    call(
        "get",
        "/v2/models/{model}/versions/{version}/config",
        Handler::VersionConfig,
        "Returns the configuration of a version in Triton's form.",
    ),
    call("post", "/v2/models/{model}/infer", Handler::ModelInfer, "Answers an inference by the version that serves."),
    call(
        "post",
        "/v2/models/{model}/versions/{version}/infer",
        Handler::VersionInfer,
        "Answers an inference by a version.",
    ),
    call("get", "/v2/models/{model}/stats", Handler::ModelStatistics, "Returns counts and times of a model."),
    call(
        "get",
        "/v2/models/{model}/versions/{version}/stats",
        Handler::VersionStatistics,
        "Returns counts and times of a version.",
    ),
    call("post", "/v2/repository/index", Handler::Index, "Lists the models with version and state."),
    call("post", "/v2/repository/models/{model}/load", Handler::Load, "Loads a model so that it can answer."),
    call("post", "/v2/repository/models/{model}/unload", Handler::Unload, "Unloads a model and frees its memory."),
    call(
        "get",
        "/v2/systemsharedmemory/status",
        Handler::SharedMemoryStatus,
        "Lists shared memory regions: always none.",
    ),
    call(
        "post",
        "/v2/systemsharedmemory/region/{region}/register",
        Handler::SharedMemoryRegister,
        "Refuses a shared memory region with 501.",
    ),
    call(
        "post",
        "/v2/systemsharedmemory/unregister",
        Handler::SharedMemoryUnregister,
        "Does nothing: no region is registered.",
    ),
    call(
        "get",
        "/v2/cudasharedmemory/status",
        Handler::SharedMemoryStatus,
        "Lists CUDA shared memory regions: always none.",
    ),
    call(
        "post",
        "/v2/cudasharedmemory/region/{region}/register",
        Handler::SharedMemoryRegister,
        "Refuses a CUDA shared memory region with 501.",
    ),
    call(
        "post",
        "/v2/cudasharedmemory/unregister",
        Handler::SharedMemoryUnregister,
        "Does nothing: no region is registered.",
    ),
    call("get", "/openapi.json", Handler::OpenApi, "Returns this document."),
];

/// Answers with the OpenAPI document.
pub(super) async fn document() -> Json<Value> {
    Json(openapi())
}

/// Returns the OpenAPI 3.1 document of the protocol.
#[must_use]
pub fn openapi() -> Value {
    let mut paths = serde_json::Map::new();
    for call in CALLS {
        let entry = paths.entry(call.path).or_insert_with(|| json!({}));
        if let Some(methods) = entry.as_object_mut() {
            methods.insert(call.method.to_owned(), operation(call));
        }
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Sanderling inference API",
            "summary": "The Open Inference Protocol v2 over HTTP with Triton's extensions.",
            "version": "2",
            "license": {"name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0"},
        },
        "paths": paths,
        "components": {"schemas": schemas()},
    })
}

fn operation(call: &Call) -> Value {
    let names = call.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
    let parameters: Vec<Value> =
        names.map(|name| json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}})).collect();
    let schema = |name: &str| json!({"$ref": format!("#/components/schemas/{name}")});
    let content = match call.handler {
        Handler::ModelInfer | Handler::VersionInfer => json!({
            "application/json": {"schema": schema("InferenceResponse")},
            "application/octet-stream": {},
        }),
        Handler::Model | Handler::Version => json!({"application/json": {"schema": schema("ModelMetadata")}}),
        Handler::Server
        | Handler::Live
        | Handler::Ready
        | Handler::Models
        | Handler::ModelReady
        | Handler::VersionReady
        | Handler::ModelConfig
        | Handler::VersionConfig
        | Handler::Statistics
        | Handler::ModelStatistics
        | Handler::VersionStatistics
        | Handler::Index
        | Handler::Load
        | Handler::Unload
        | Handler::SharedMemoryStatus
        | Handler::SharedMemoryRegister
        | Handler::SharedMemoryUnregister
        | Handler::OpenApi => json!({"application/json": {}}),
    };
    let error = json!({"description": "The error.", "content": {"application/json": {"schema": schema("Error")}}});
    let mut operation = json!({
        "summary": call.summary,
        "responses": {"200": {"description": "The result.", "content": content}, "default": error},
    });
    let Some(fields) = operation.as_object_mut() else { return operation };
    if !parameters.is_empty() {
        fields.insert("parameters".to_owned(), parameters.into());
    }
    if matches!(call.handler, Handler::ModelInfer | Handler::VersionInfer) {
        let body = json!({"required": true, "content": {
            "application/json": {"schema": schema("InferenceRequest")},
            "application/octet-stream": {},
        }});
        fields.insert("requestBody".to_owned(), body);
        let later = json!({"description": "The request waits for the hub; `parameters.amendment` is where its answer can be had.",
            "content": {"application/json": {"schema": schema("Queued")}}});
        if let Some(responses) = fields.get_mut("responses").and_then(Value::as_object_mut) {
            responses.insert("202".to_owned(), later);
        }
    }
    operation
}

fn schemas() -> Value {
    let datatypes: Vec<&str> = types::DType::ALL.iter().map(|dtype| dtype.as_str()).collect();
    let shape = json!({"type": "array", "items": {"type": "integer"}});
    let datatype = json!({"type": "string", "enum": datatypes});
    json!({
        "Error": {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}},
        "Queued": {"type": "object", "properties": {
            "error": {"type": "string"}, "id": {"type": "string"},
            "parameters": {"type": "object", "properties": {
                "queued": {"type": "boolean"}, "amendment": {"type": "string"},
                "amendment_expires_unix_s": {"type": "integer"},
            }},
        }},
        "ModelMetadata": {"type": "object", "properties": {
            "name": {"type": "string"},
            "versions": {"type": "array", "items": {"type": "string"}},
            "platform": {"type": "string"},
            "inputs": {"type": "array", "items": {"$ref": "#/components/schemas/TensorMetadata"}},
            "outputs": {"type": "array", "items": {"$ref": "#/components/schemas/TensorMetadata"}},
        }},
        "TensorMetadata": {"type": "object", "properties": {
            "name": {"type": "string"}, "datatype": datatype, "shape": shape,
        }},
        "InferenceRequest": {"type": "object", "required": ["inputs"], "properties": {
            "id": {"type": "string"},
            "parameters": {"type": "object", "properties": {
                "policy": {"type": "string"}, "deadline_ms": {"type": "integer"}, "timeout": {"type": "integer"},
                "hedge_after_ms": {"type": "integer"}, "privacy": {"type": "string"}, "consent": {"type": "boolean"},
                "tags": {"type": "string"}, "offline": {"type": "string"}, "amend": {"type": "string"},
                "amend_url": {"type": "string"}, "queue_priority": {"type": "string"},
                "binary_data_output": {"type": "boolean"},
            }},
            "inputs": {"type": "array", "items": {"type": "object", "required": ["name", "shape", "datatype"], "properties": {
                "name": {"type": "string"}, "datatype": datatype, "shape": shape, "data": {"type": "array"},
                "parameters": {"type": "object", "properties": {"binary_data_size": {"type": "integer"}}},
            }}},
            "outputs": {"type": "array", "items": {"type": "object", "required": ["name"], "properties": {
                "name": {"type": "string"},
                "parameters": {"type": "object", "properties": {
                    "binary_data": {"type": "boolean"}, "classification": {"type": "integer"},
                }},
            }}},
        }},
        "InferenceResponse": {"type": "object", "properties": {
            "model_name": {"type": "string"},
            "model_version": {"type": "string"},
            "id": {"type": "string"},
            "parameters": {"type": "object"},
            "outputs": {"type": "array", "items": {"type": "object", "properties": {
                "name": {"type": "string"}, "datatype": datatype, "shape": shape, "data": {"type": "array"},
                "parameters": {"type": "object", "properties": {"binary_data_size": {"type": "integer"}}},
            }}},
        }},
    })
}
