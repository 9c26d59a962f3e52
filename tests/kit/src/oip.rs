//! A client of the agent's HTTP server: Open Inference Protocol v2, JSON and binary.
//!
//! Written from the protocol's specification, not from the agent's source, so that the two check each other.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Map, Value, json};

/// Header with the length of the JSON part, after which the raw tensors begin.
const SPLIT_HEADER: &str = "inference-header-content-length";

/// Timeout of a request, longer than any deadline of a test: a server that never responds fails the test.
const TIMEOUT: Duration = Duration::from_secs(120);

/// Maximum size of a response in bytes: no model in a test returns more.
const ANSWER_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// One input tensor.
#[derive(Debug, Clone, PartialEq)]
pub struct Input {
    /// Name of the input in the model.
    pub name: String,
    /// Element type by its protocol name.
    pub datatype: String,
    /// Size of each dimension.
    pub shape: Vec<usize>,
    /// Raw little-endian bytes.
    pub bytes: Vec<u8>,
}

impl Input {
    /// Creates an `FP32` tensor.
    #[must_use]
    pub fn fp32(name: &str, shape: &[usize], values: &[f32]) -> Self {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Self { name: name.to_owned(), datatype: "FP32".to_owned(), shape: shape.to_vec(), bytes }
    }

    fn json_data(&self) -> Vec<f32> {
        let value = |chunk: &[u8]| chunk.try_into().map(f32::from_le_bytes).unwrap_or_default();
        self.bytes.chunks(4).map(value).collect()
    }
}

/// Options of a request besides its inputs.
#[derive(Debug, Clone, Default)]
pub struct InferOptions {
    /// Request id; `None` lets the agent generate one.
    pub id: Option<String>,
    /// Routing policy of this request (`only-device`, `cascade`, …); `None` for the model's own.
    pub policy: Option<String>,
    /// Deadline of the response; `None` for the model's own.
    pub deadline: Option<Duration>,
    /// Further parameters of the request.
    pub parameters: Map<String, Value>,
}

impl InferOptions {
    /// Returns options with a policy.
    #[must_use]
    pub fn policy(policy: &str) -> Self {
        Self { policy: Some(policy.to_owned()), ..Self::default() }
    }

    /// Adds a deadline to the options.
    #[must_use]
    pub fn within(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// Adds a parameter to the request.
    #[must_use]
    pub fn with(mut self, parameter: &str, value: impl Into<Value>) -> Self {
        self.parameters.insert(parameter.to_owned(), value.into());
        self
    }

    fn parameters(&self) -> Map<String, Value> {
        let mut parameters = self.parameters.clone();
        if let Some(policy) = &self.policy {
            parameters.insert("policy".to_owned(), json!(policy));
        }
        if let Some(deadline) = self.deadline {
            parameters.insert("deadline_ms".to_owned(), json!(u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX)));
        }
        parameters
    }
}

/// Response of the server.
#[derive(Debug, Clone)]
pub struct Reply {
    /// HTTP status code.
    pub status: u16,
    /// JSON part of the response, or `null`.
    pub json: Value,
    /// Elements of the first output, if it is `FP32`.
    pub output: Vec<f32>,
}

impl Reply {
    /// Returns the response if its status is 200.
    ///
    /// # Errors
    /// Returns the server's error text otherwise.
    pub fn ok(self) -> Result<Self> {
        ensure!(self.status == 200, "the server responded {}: {}", self.status, self.json);
        Ok(self)
    }

    /// Returns a response parameter as text (`place`, `reason`, `variant`, …); numbers are printed, a missing one is
    /// empty.
    #[must_use]
    pub fn parameter(&self, name: &str) -> String {
        match self.json.get("parameters").and_then(|parameters| parameters.get(name)) {
            Some(Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
            None => String::new(),
        }
    }

    /// Returns the version that served, 0 if none is named.
    #[must_use]
    pub fn version(&self) -> u64 {
        let version = self.json.get("model_version").and_then(Value::as_str).unwrap_or_default();
        version.parse().unwrap_or_default()
    }

    /// Returns the error text, empty if there is none.
    #[must_use]
    pub fn error(&self) -> &str {
        self.json.get("error").and_then(Value::as_str).unwrap_or_default()
    }
}

/// A client of one server. Cheap to clone; clones share connections.
#[derive(Debug, Clone)]
pub struct Client {
    base: String,
    http: ureq::Agent,
}

impl Client {
    /// Creates a client of the server at `address` (`127.0.0.1:8000`).
    #[must_use]
    pub fn new(address: &str) -> Self {
        let config = ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(TIMEOUT)).build();
        Self { base: format!("http://{address}"), http: config.into() }
    }

    /// Sends `GET path`; returns status and JSON (or text as a JSON string).
    ///
    /// # Errors
    /// Fails if the server cannot be reached.
    pub fn get(&self, path: &str) -> Result<(u16, Value)> {
        let url = format!("{}{path}", self.base);
        let mut response = self.http.get(&url).call().with_context(|| format!("get {url}"))?;
        let text = response.body_mut().read_to_string().with_context(|| format!("read {url}"))?;
        Ok((response.status().as_u16(), serde_json::from_str(&text).unwrap_or(Value::String(text))))
    }

    /// Sends `POST path` with any body and headers.
    ///
    /// # Errors
    /// Fails if the server cannot be reached.
    pub fn post(&self, path: &str, headers: &[(&str, String)], body: &[u8]) -> Result<Reply> {
        let url = format!("{}{path}", self.base);
        let mut request = self.http.post(&url);
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        let mut response = request.send(body).with_context(|| format!("post {url}"))?;
        let status = response.status().as_u16();
        let split = response.headers().get(SPLIT_HEADER).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
        let bytes = response.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_vec();
        let bytes = bytes.with_context(|| format!("read the answer of {url}"))?;
        read_reply(status, &bytes, split)
    }

    /// Sends one inference request with binary tensors in both directions.
    ///
    /// # Errors
    /// Fails if the server cannot be reached or its response is malformed. An error response is a [`Reply`].
    pub fn infer(&self, model: &str, inputs: &[Input], ask: &InferOptions) -> Result<Reply> {
        let heads: Vec<Value> = inputs.iter().map(binary_head).collect();
        let mut parameters = ask.parameters();
        parameters.insert("binary_data_output".to_owned(), json!(true));
        let head = with_id(json!({"inputs": heads, "parameters": parameters}), ask).to_string();
        let headers = [("Content-Type", "application/octet-stream".to_owned()), (SPLIT_HEADER, head.len().to_string())];
        let mut body = head.into_bytes();
        inputs.iter().for_each(|input| body.extend_from_slice(&input.bytes));
        self.post(&format!("/v2/models/{model}/infer"), &headers, &body)
    }

    /// Sends one inference request in plain JSON; inputs must be `FP32`.
    ///
    /// # Errors
    /// As [`Client::infer`].
    pub fn infer_json(&self, model: &str, inputs: &[Input], ask: &InferOptions) -> Result<Reply> {
        let inputs: Vec<Value> = inputs.iter().map(json_tensor).collect();
        let body = with_id(json!({"inputs": inputs, "parameters": ask.parameters()}), ask).to_string();
        let headers = [("Content-Type", "application/json".to_owned())];
        self.post(&format!("/v2/models/{model}/infer"), &headers, body.as_bytes())
    }
}

fn with_id(mut request: Value, ask: &InferOptions) -> Value {
    if let (Some(id), Some(request)) = (&ask.id, request.as_object_mut()) {
        request.insert("id".to_owned(), json!(id));
    }
    request
}

fn binary_head(input: &Input) -> Value {
    json!({"name": input.name, "shape": input.shape, "datatype": input.datatype,
           "parameters": {"binary_data_size": input.bytes.len()}})
}

fn json_tensor(input: &Input) -> Value {
    json!({"name": input.name, "shape": input.shape, "datatype": input.datatype, "data": input.json_data()})
}

fn read_reply(status: u16, bytes: &[u8], split: Option<usize>) -> Result<Reply> {
    let (head, raw) = bytes.split_at_checked(split.unwrap_or(bytes.len())).context("a head longer than the answer")?;
    let json: Value = serde_json::from_slice(head).unwrap_or_else(|_plain| json!(String::from_utf8_lossy(head)));
    let first = json.get("outputs").and_then(|outputs| outputs.get(0)).cloned().unwrap_or_default();
    let output = match first.get("data").and_then(Value::as_array) {
        Some(data) => data.iter().filter_map(Value::as_f64).map(narrow).collect(),
        None => floats(raw, &first),
    };
    Ok(Reply { status, json, output })
}

fn floats(raw: &[u8], head: &Value) -> Vec<f32> {
    let size = head.pointer("/parameters/binary_data_size").and_then(Value::as_u64).unwrap_or_default();
    let bytes = usize::try_from(size).ok().and_then(|size| raw.get(..size)).unwrap_or_default();
    let (chunks, _rest) = bytes.as_chunks::<4>();
    chunks.iter().map(|chunk| f32::from_le_bytes(*chunk)).collect()
}

#[expect(clippy::cast_possible_truncation, reason = "the value was an f32 before the server printed it as JSON")]
fn narrow(value: f64) -> f32 {
    value as f32
}
