//! Reads records of the log of receipts, as far as a replay needs them. Fields and events of later versions are ignored.

use std::time::Duration;

use edge_core::route::{HubFailure, LocalFailure};
use serde::Deserialize;
use types::{ModelName, Reason, RequestId};

/// Maximum length of one record, or of one line of an export, in bytes. A payload of the log has at most 64 KiB.
const RECORD_BYTES_MAX: usize = 128 * 1024;

/// Record of the log.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Entry {
    /// Time of the end of the event in milliseconds since 1970, by the clock of the device.
    pub at_unix_ms: u64,
    /// Event that was recorded.
    pub event: Event,
}

/// Event of the log.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// The agent was started.
    Started(serde::de::IgnoredAny),
    /// The agent was stopped.
    Stopped,
    /// A request was answered, failed or was withdrawn.
    Request(Box<Request>),
    /// An answer that the device kept was also sent to the hub.
    Audit(Audit),
}

/// Recorded request.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Request {
    /// Id of the request.
    pub request: RequestId,
    /// Name of the model.
    pub model: ModelName,
    /// Input of the request.
    pub(crate) input: Content,
    /// Policy that was in force.
    pub(crate) policy: InForce,
    /// Round trip of the connection to the hub in microseconds; `None` while it was away.
    pub(crate) link_us: Option<u64>,
    /// Version and engine of the device; `None` where none was ready.
    pub(crate) form: Option<Form>,
    /// Guarantee of the device's variant.
    pub(crate) calibration: Option<Calibration>,
    /// Recent time of the device from queue to answer in microseconds.
    pub(crate) expected_us: Option<u64>,
    /// Work of the device.
    pub(crate) device: Option<DeviceWork>,
    /// Work of the hub.
    pub(crate) hub: Option<HubWork>,
    /// Bytes of input that were sent to the hub.
    #[serde(default)]
    pub(crate) hub_bytes: u64,
    /// End of the request.
    pub(crate) end: End,
    /// Time from the arrival of the request to its end in microseconds.
    pub(crate) total_us: u64,
    /// State of everything that decided the place; `None` in records of earlier agents.
    pub(crate) moment: Option<Box<Moment>>,
}

/// Model file that the device ran.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(crate) struct Form {
    #[serde(default)]
    pub(crate) digest: String,
}

/// Size of the tensors of a request.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(crate) struct Content {
    pub(crate) bytes: u64,
}

/// Fields of the policy that records of all versions have.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(crate) struct InForce {
    pub(crate) mode: String,
    pub(crate) class: String,
    pub(crate) deadline_us: Option<u64>,
    pub(crate) hedge_us: Option<u64>,
    pub(crate) hub_bytes_max: Option<u64>,
}

/// Threshold of the device's variant and its bound.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(crate) struct Calibration {
    /// `certified`, `refitted`, `uncertified` or `not-calibrated`.
    #[serde(default)]
    pub(crate) state: String,
    pub(crate) threshold: Option<f32>,
    pub(crate) alpha: Option<f32>,
    pub(crate) confidence: Option<f32>,
}

/// Work of the device on a request.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(crate) struct DeviceWork {
    pub(crate) outcome: String,
    pub(crate) failure: Option<String>,
    /// Confidence of the answer.
    pub(crate) score: Option<f32>,
    /// Share of the calibration's answers with a score like this one that differ from the full model's. Records of earlier
    /// agents lack it.
    pub(crate) differs: Option<f32>,
    #[serde(default)]
    pub(crate) took_us: u64,
}

/// Work of the hub on a request.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(crate) struct HubWork {
    pub(crate) reason: String,
    pub(crate) outcome: String,
    pub(crate) failure: Option<String>,
    #[serde(default)]
    pub(crate) took_us: u64,
}

/// End of a request.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum End {
    Answered { place: String, reason: String },
    Failed { code: String },
    Cancelled,
}

/// State of everything that decided the place, besides what every record has.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Moment {
    /// Layer of the application.
    pub(crate) asked: Asked,
    /// Layer of the author, in the form of `model.toml`.
    pub(crate) author: Option<serde_json::Value>,
    /// Layer of the owner.
    pub(crate) owner: Option<serde_json::Value>,
    pub(crate) consent: bool,
    pub(crate) device_only: bool,
    pub(crate) metered: Option<bool>,
    pub(crate) battery: Option<u8>,
    pub(crate) local_s: u32,
    pub(crate) device_us: Option<[u64; 3]>,
    pub(crate) device_queue: u32,
    pub(crate) hub_us: Option<[u64; 3]>,
    pub(crate) hub_queue_us: Option<u64>,
    pub(crate) left: Left,
    pub(crate) drifted: bool,
    pub(crate) downloading: bool,
}

/// Parameters of the request.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Asked {
    pub(crate) mode: Option<String>,
    /// Whether the request brought its deadline.
    pub(crate) deadline: bool,
    pub(crate) hedge_us: Option<u64>,
    pub(crate) privacy: Option<String>,
    pub(crate) consent: Option<bool>,
    pub(crate) tags: Vec<String>,
    pub(crate) offline: Option<String>,
}

/// What was left of the budgets.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Left {
    pub(crate) bytes: Option<u64>,
    pub(crate) calls: Option<u64>,
    pub(crate) escalations: Option<u64>,
}

/// Recorded audit.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Audit {
    /// Id of the request.
    pub request: RequestId,
    /// Name of the model.
    pub model: ModelName,
    #[serde(default)]
    pub(crate) hub_bytes: u64,
}

/// Error: bytes are no record that this version reads.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The record is longer than any that an agent writes.
    #[error("{0} bytes are over the limit of {RECORD_BYTES_MAX} for a record")]
    TooLong(usize),
    /// The text is no record, or one with an event of a later version.
    #[error("read a record of the log of receipts")]
    Json(#[source] serde_json::Error),
}

/// Reads a record from the payload of the log.
///
/// # Errors
/// [`ReadError`], with the reason.
pub fn read(payload: &[u8]) -> Result<Entry, ReadError> {
    if payload.len() > RECORD_BYTES_MAX {
        return Err(ReadError::TooLong(payload.len()));
    }
    serde_json::from_slice(payload).map_err(ReadError::Json)
}

/// Reads a record from one line of `edge-agent log export`.
///
/// # Errors
/// [`ReadError`], with the reason.
pub fn read_export(line: &[u8]) -> Result<Entry, ReadError> {
    #[derive(Deserialize)]
    struct Line {
        record: Entry,
    }
    if line.len() > RECORD_BYTES_MAX {
        return Err(ReadError::TooLong(line.len()));
    }
    serde_json::from_slice::<Line>(line).map(|line| line.record).map_err(ReadError::Json)
}

/// Returns the failure of the device with this name in records; an unknown name counts as a failed engine.
#[must_use]
pub fn local_failure(name: &str) -> LocalFailure {
    match name {
        "no-model" => LocalFailure::NoModel,
        "busy" => LocalFailure::Busy,
        "crashed" => LocalFailure::Crashed,
        "quarantined" => LocalFailure::Quarantined,
        "too-late" => LocalFailure::TooLate,
        "bad-input" => LocalFailure::BadInput,
        "refused" => LocalFailure::Refused,
        _failed => LocalFailure::Failed,
    }
}

/// Returns the failure of the hub with this name in records; an unknown name counts as a failed hub.
#[must_use]
pub fn hub_failure(name: &str) -> HubFailure {
    match name {
        "unreachable" => HubFailure::Unreachable,
        "too-late" => HubFailure::TooLate,
        "busy" => HubFailure::Busy,
        "unknown-model" => HubFailure::UnknownModel,
        "bad-input" => HubFailure::BadInput,
        "not-authorised" => HubFailure::NotAuthorised,
        "failed" => HubFailure::Failed,
        "forbidden" => HubFailure::Forbidden,
        "hub-predicted-late" => HubFailure::PredictedLate,
        other => reason(other).map_or(HubFailure::Failed, HubFailure::Withheld),
    }
}

/// Returns the reason with this code.
pub(crate) fn reason(code: &str) -> Option<Reason> {
    Reason::ALL.into_iter().find(|reason| reason.as_str() == code)
}

pub(crate) fn micros(us: u64) -> Duration {
    Duration::from_micros(us)
}

impl Request {
    /// Sets the chance that the device's answer differs from the full model's where the record lacks it. `chance` gets the
    /// digest of the model file and the score.
    pub fn fill_chance(&mut self, chance: &dyn Fn(&str, f32) -> Option<f32>) {
        let Some(form) = &self.form else { return };
        if let Some(device) = self.device.as_mut().filter(|device| device.differs.is_none()) {
            device.differs = device.score.and_then(|score| chance(&form.digest, score));
        }
    }

    /// Returns whether an earlier answer was given again: no place was asked.
    pub(crate) fn is_cached(&self) -> bool {
        matches!(&self.end, End::Answered { reason, .. } if reason == Reason::Cached.as_str())
    }

    /// Returns whether the request has an end that a policy decides: it was not withdrawn, and no fault of the program ended it.
    pub(crate) fn is_decided(&self) -> bool {
        match &self.end {
            End::Answered { .. } => true,
            End::Failed { code } => code != "internal",
            End::Cancelled => false,
        }
    }
}
