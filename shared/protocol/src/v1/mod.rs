//! Messages of major version 1.
//!
//! Each side opens streams for its requests: a device sends [`DeviceRequest`] and receives [`HubResponse`]; the hub
//! sends [`HubRequest`] and receives [`DeviceResponse`]; a machine without a certificate sends [`EnrolRequest`] and
//! receives [`EnrolResponse`]. The parts are in [`hello`], [`infer`], [`update`], [`rollout`] and [`calibration`], the refusals in [`refusal`],
//! optional parts of `Hello` and `Welcome` in [`feature`].
//!
//! Enums here are append-only and structs are closed; see the documentation of the crate.

pub mod calibration;
pub mod enrol;
pub mod feature;
pub mod hello;
pub mod infer;
pub mod refusal;
pub mod rollout;
pub mod update;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use types::RequestId;

pub use calibration::{AuditScores, DriftAlarm, Evidence, ScoreBin, ThresholdOrder, Thresholds, VariantThreshold};
pub use enrol::{EnrolRequest, EnrolResponse, Enrolled};
pub use hello::{ActiveVariant, EngineInfo, Hello, ModelState, RunningModel, Welcome};
pub use infer::{BodyError, InferRequest, InferResponse, TensorHeader, join_body, split_body};
pub use refusal::{Refusal, RefusalCode};
pub use rollout::{Assigned, Audit, Measurement, ModelCounters, Pin, Return, VariantFigures};
pub use update::{BlobRange, BlobSlice, DeltaFile, DeltaRequest, Offer, UpdateOutcome, UpdateReport};

use crate::frame::{Message, bounded_codec};

/// Maximum size of a message that may contain tensor headers, in bytes.
///
/// 256 tensors (`types::limits::TENSORS_MAX`) and as many requested outputs with names of 512 bytes take 256 KiB, their
/// shapes another 36 KiB.
pub const INFER_MESSAGE_BYTES_MAX: usize = 512 * 1024;

/// Maximum size of a small message in bytes; an unauthenticated peer can make us allocate this much.
pub const SMALL_MESSAGE_BYTES_MAX: usize = 16 * 1024;

/// Maximum size of an [`EnrolResponse`] in bytes. It contains a TUF root: tough's limit for one is 1 MiB, ours are a
/// few KiB.
pub const ENROL_RESPONSE_BYTES_MAX: usize = 512 * 1024;

/// Maximum size of one TUF metadata file in bytes: tough's limit for targets is 10 MiB; 8 MiB lists about 30,000
/// versions.
pub const METADATA_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// Maximum size of a certificate signing request in bytes; one for P-256 takes about 250.
pub const CSR_BYTES_MAX: usize = 4096;

/// Maximum number of certificates in a chain: the device's, the CA's, and two between them.
pub const CHAIN_CERTIFICATES_MAX: usize = 4;

/// Maximum length of a free text (a cause, a reason, a software version) in bytes.
pub const TEXT_BYTES_MAX: usize = 1024;

/// Maximum number of features in a `Hello` or `Welcome`.
pub const FEATURES_MAX: usize = 64;

/// Maximum number of requests in one [`DeviceRequest::Settled`]; with ids of 128 bytes it has 33 kB.
pub const SETTLED_MAX: usize = 256;

/// Requests from a device to its hub.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeviceRequest {
    /// First request on each connection: identifies the agent and lists its models.
    Hello(Hello),
    /// Requests an inference. The bytes of the tensors follow as body.
    Infer(InferRequest),
    /// Requests a TUF metadata file.
    Metadata {
        /// Name of the file, like `timestamp.json` or `3.root.json`.
        name: String,
        /// Maximum size that the device accepts, in bytes; the hub refuses a longer file with
        /// [`RefusalCode::TooLarge`].
        bytes_max: u64,
    },
    /// Requests a part of a file of a bundle.
    Blob(BlobRange),
    /// Reports the state of an update; the hub responds [`HubResponse::Accepted`].
    Report(UpdateReport),
    /// Requests a certificate for a new key over this authenticated connection.
    Renew {
        /// PKCS #10 request in DER, at most [`CSR_BYTES_MAX`] bytes; only its public key is used.
        csr_der: Bytes,
    },
    /// Engine and provider of every model that serves now, in place of what was sent before; the hub answers
    /// [`HubResponse::Accepted`]. Sent only to hubs with the feature [`feature::RUNNING_MODELS`].
    Running(Vec<RunningModel>),
    /// Counters of a period; the hub answers [`HubResponse::Accepted`] once they are stored. Sent only to hubs with the
    /// feature [`feature::MODEL_COUNTERS`].
    Counters(Vec<ModelCounters>),
    /// Figures of a version before it serves; the hub answers [`HubResponse::Accepted`]. Sent only to hubs with the
    /// feature [`feature::MODEL_COUNTERS`].
    Measured(Measurement),
    /// Asks for a file that makes one file out of another; the hub answers [`HubResponse::Delta`]. Sent only to hubs with
    /// the feature [`feature::DELTAS`].
    Delta(DeltaRequest),
    /// Counters of a period with the scores of its audits, in place of `Counters`; the hub answers [`HubResponse::Accepted`] once both
    /// are stored. Sent only to hubs with the feature [`feature::CALIBRATION`], as is the following.
    Evidence(Evidence),
    /// Alarms of drift that stand, in place of what was sent before; the hub answers [`HubResponse::Accepted`].
    Drift(Vec<DriftAlarm>),
    /// Requests an inference for a request that waited on the device; the hub answers [`HubResponse::Infer`]. The hub runs it
    /// once for each request id and keeps the response until [`DeviceRequest::Settled`]. Sent only to hubs with the feature
    /// [`feature::QUEUED_REQUESTS`].
    Queued(InferRequest),
    /// Names queued requests whose responses are stored on the device; the hub forgets them and answers
    /// [`HubResponse::Accepted`]. At most [`SETTLED_MAX`]; sent as [`DeviceRequest::Queued`].
    Settled(Vec<RequestId>),
}

impl Message for DeviceRequest {
    const KIND: u16 = 0x0101;
    const NAME: &'static str = "device request";
    const BYTES_MAX: usize = INFER_MESSAGE_BYTES_MAX;
    bounded_codec!();

    fn body_length(&self) -> u64 {
        match self {
            Self::Infer(request) | Self::Queued(request) => infer::length(&request.tensors),
            Self::Hello(_)
            | Self::Metadata { .. }
            | Self::Blob(_)
            | Self::Report(_)
            | Self::Renew { .. }
            | Self::Running(_)
            | Self::Counters(_)
            | Self::Measured(_)
            | Self::Delta(_)
            | Self::Evidence(_)
            | Self::Drift(_)
            | Self::Settled(_) => 0,
        }
    }

    fn check(&self) -> Result<(), String> {
        match self {
            Self::Hello(hello) => hello.check(),
            Self::Infer(request) | Self::Queued(request) => request.check(),
            Self::Settled(ids) => count("settled requests", ids.len(), SETTLED_MAX),
            Self::Metadata { name, bytes_max } => {
                check_metadata_name(name)?;
                at_most("bytes_max", *bytes_max, METADATA_BYTES_MAX)
            }
            Self::Blob(range) => range.check(),
            Self::Report(report) => report.check(),
            Self::Renew { csr_der } => count("csr_der", csr_der.len(), CSR_BYTES_MAX),
            Self::Running(running) => RunningModel::check_all(running),
            Self::Counters(counters) => ModelCounters::check_all(counters),
            Self::Measured(measurement) => measurement.check(),
            Self::Delta(request) => request.check(),
            Self::Evidence(evidence) => evidence.check(),
            Self::Drift(alarms) => DriftAlarm::check_all(alarms),
        }
    }
}

/// Responses of a hub to a [`DeviceRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum HubResponse {
    /// Response to `Hello`: the device is known and may continue.
    Welcome(Welcome),
    /// Response to `Infer`. The bytes of the tensors follow as body.
    Infer(InferResponse),
    /// Response to `Metadata`. The file follows as body.
    Metadata {
        /// Length of the file in bytes; `None` if it does not exist.
        length: Option<u64>,
    },
    /// Response to `Blob`. The bytes follow as body.
    Blob(BlobSlice),
    /// Response to `Report`: the hub has recorded it.
    Accepted,
    /// Response to `Renew`: the new certificate.
    Renewed {
        /// Certificates in DER, the device's own first, the CA last.
        chain_der: Vec<Bytes>,
    },
    /// Response to any request: the hub did not execute it.
    Refused(Refusal),
    /// Response to `Delta`: the file to fetch with `Blob`; `None` if the hub has none that is smaller than the whole file.
    Delta(Option<DeltaFile>),
}

impl Message for HubResponse {
    const KIND: u16 = 0x0102;
    const NAME: &'static str = "hub response";
    const BYTES_MAX: usize = INFER_MESSAGE_BYTES_MAX;
    bounded_codec!();

    fn body_length(&self) -> u64 {
        match self {
            Self::Infer(response) => infer::length(&response.tensors),
            Self::Metadata { length } => length.unwrap_or(0),
            Self::Blob(slice) => slice.length,
            Self::Welcome(_) | Self::Accepted | Self::Renewed { .. } | Self::Refused(_) | Self::Delta(_) => 0,
        }
    }

    fn check(&self) -> Result<(), String> {
        match self {
            Self::Welcome(welcome) => welcome.check(),
            Self::Infer(response) => response.check(),
            Self::Metadata { length } => at_most("length", length.unwrap_or(0), METADATA_BYTES_MAX),
            Self::Blob(slice) => slice.check(),
            Self::Accepted => Ok(()),
            Self::Renewed { chain_der } => count("chain_der", chain_der.len(), CHAIN_CERTIFICATES_MAX),
            Self::Refused(refusal) => refusal.check(),
            Self::Delta(file) => file.as_ref().map_or(Ok(()), DeltaFile::check),
        }
    }
}

/// Requests from a hub to a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum HubRequest {
    /// Announces a version of a model that the device follows.
    Offer(Offer),
    /// Announces that the hub is about to close this connection.
    Goodbye {
        /// Reason for the log.
        reason: String,
        /// Time to wait before the next connection, in milliseconds; `None` leaves it to the device's back-off.
        retry_after_ms: Option<u32>,
    },
    /// Serves an earlier version again. Sent only to devices with the feature [`feature::ROLLOUTS`], as are the following.
    Return(Return),
    /// Keeps one version of a model, or ends that.
    Pin(Pin),
    /// Sends a share of the kept answers' inputs to the hub too.
    Audit(Audit),
    /// Replaces the list of models that the hub assigns to the device.
    Assigned(Assigned),
    /// Replaces the thresholds that the hub keeps valid. Sent only to devices with the feature [`feature::CALIBRATION`].
    Thresholds(Thresholds),
}

impl Message for HubRequest {
    const KIND: u16 = 0x0103;
    const NAME: &'static str = "hub request";
    const BYTES_MAX: usize = SMALL_MESSAGE_BYTES_MAX;
    bounded_codec!();

    fn check(&self) -> Result<(), String> {
        match self {
            Self::Offer(_) => Ok(()),
            Self::Goodbye { reason, .. } => text("reason", reason),
            Self::Return(request) => request.check(),
            Self::Pin(_) => Ok(()),
            Self::Audit(request) => request.check(),
            Self::Assigned(assigned) => assigned.check(),
            Self::Thresholds(thresholds) => thresholds.check(),
        }
    }
}

/// Responses of a device to a [`HubRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeviceResponse {
    /// The device has recorded the request; it reports the result in later messages.
    Accepted,
    /// The device refused the request.
    Refused(Refusal),
}

impl Message for DeviceResponse {
    const KIND: u16 = 0x0104;
    const NAME: &'static str = "device response";
    const BYTES_MAX: usize = SMALL_MESSAGE_BYTES_MAX;
    bounded_codec!();

    fn check(&self) -> Result<(), String> {
        match self {
            Self::Accepted => Ok(()),
            Self::Refused(refusal) => refusal.check(),
        }
    }
}

/// Checks a count or length against its limit.
fn count(field: &str, given: usize, max: usize) -> Result<(), String> {
    if given <= max { Ok(()) } else { Err(format!("{field} has {given}, at most {max} are allowed")) }
}

/// Checks a number against its limit.
fn at_most(field: &str, given: u64, max: u64) -> Result<(), String> {
    if given <= max { Ok(()) } else { Err(format!("{field} is {given}, at most {max} is allowed")) }
}

/// Checks the length of a free text against [`TEXT_BYTES_MAX`].
fn text(field: &str, given: &str) -> Result<(), String> {
    count(field, given.len(), TEXT_BYTES_MAX)
}

/// Truncates a text to the length that a message may contain, at a character boundary.
#[must_use]
pub fn shorten(text: &str) -> String {
    text[..text.floor_char_boundary(TEXT_BYTES_MAX)].to_owned()
}

/// Maximum length of the name of a metadata file in bytes; `18446744073709551615.timestamp.json` takes 35.
const METADATA_NAME_BYTES_MAX: usize = 64;

/// Checks that a metadata name can only be a file in the hub's own metadata folder.
fn check_metadata_name(name: &str) -> Result<(), String> {
    let lawful = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.".contains(&b);
    let plain = name.bytes().all(lawful) && !name.starts_with('.') && !name.contains("..") && name.ends_with(".json");
    if plain && name.len() <= METADATA_NAME_BYTES_MAX {
        Ok(())
    } else {
        Err("name is not that of a metadata file".to_owned())
    }
}
