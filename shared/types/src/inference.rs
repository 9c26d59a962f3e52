//! An inference as it crosses the boundary of a daemon: request, response and error, whatever protocol carries them.
//!
//! The servers of both daemons (`serving`) make an [`InferenceRequest`] of what a client sent and a message of the
//! [`InferenceResponse`] or [`InferenceError`] that comes back. Nothing here knows HTTP or gRPC.

mod error;

use std::time::{Duration, Instant};

pub use error::{ErrorCode, InferenceError};

use crate::policy::RequestRules;
use crate::{DeviceId, ModelName, NamedTensor, PolicyMode, Receipt, RequestId, Version};

/// Client that sent a request, for admission and logs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Caller {
    /// An application on the same machine, or one that the address of the server lets in without a token.
    Application,
    /// The operator whose token the request carries, by name.
    Operator(String),
    /// A device with a certificate of the hub.
    Device(DeviceId),
}

/// One request, ready to be answered.
#[derive(Debug)]
pub struct InferenceRequest {
    /// Ties response, log lines and receipt together. Chosen by the client or made by the server.
    pub id: RequestId,
    /// Client that asks.
    pub caller: Caller,
    /// Model that must answer.
    pub model: ModelName,
    /// Version that must answer; `None` for the one that serves.
    pub version: Option<Version>,
    /// Policy for this request alone; `None` for the model's own.
    pub policy: Option<PolicyMode>,
    /// Time after `arrived` from which the response is worth nothing; `None` for the model's own limit.
    pub deadline: Option<Duration>,
    /// Further rules of the policy for this request alone.
    pub rules: RequestRules,
    /// Inputs in the order of the request.
    pub inputs: Vec<NamedTensor>,
    /// Names of the wanted outputs, in the wanted order; empty for all of them.
    pub outputs: Vec<String>,
    /// W3C trace context of the caller, well formed; `None` where it sent none.
    pub traceparent: Option<String>,
    /// Moment at which the whole request had been received.
    pub arrived: Instant,
}

/// The outputs of a model and how they came to be.
#[derive(Debug, Clone)]
pub struct InferenceResponse {
    /// Outputs in the order of the request, or of the model where the request names none.
    pub outputs: Vec<NamedTensor>,
    /// Model, version, engine, place, reason and times.
    pub receipt: Receipt,
}
