//! What is said on the operator API (`/api/v1`, HTTPS, bearer token): plain data, spoken by [`crate::admin`] and
//! understood by [`crate::cli`].
//!
//! | call | asks | gives |
//! |---|---|---|
//! | `GET /status` | | [`HubStatus`] |
//! | `POST /tokens` | [`TokenRequest`] | [`TokenCreated`] |
//! | `POST /operators`, `GET /operators` | [`OperatorRequest`] | [`OperatorCreated`], [`OperatorList`] |
//! | `POST /operators/{name}/revoke` | | [`OperatorRevoked`] |
//! | `GET /devices`, `GET /devices/{id}` | | [`DeviceList`], [`DeviceView`] |
//! | `POST /devices/{id}/revoke` | [`RevokeRequest`] | [`DeviceView`] |
//! | `POST /devices/{id}/readmit` | | [`DeviceView`] |
//! | `POST /backup` | | [`BackupSnapshot`] |
//! | `GET /models`, `GET /models/{m}` | | [`ModelList`], [`ModelView`] |
//! | `HEAD /blobs/{digest}`, `PUT /blobs/{digest}` | the bytes | 200 or 404; [`BlobStored`] |
//! | `GET /trust` | | [`trust::TrustView`] |
//! | `POST /trust/online-keys` | | [`trust::OnlineKeysView`] |
//! | `POST /trust/changes` | [`trust::TrustChange`] | [`trust::TrustChanged`] |
//! | `GET /trust/{file}` | | the metadata file as it is |
//! | `POST /models/{m}/versions` | [`PublishRequest`] | [`Published`] |
//! | `POST /models/{m}/offer` | [`OfferRequest`] | [`Published`] |
//! | `POST /models/{m}/withdraw` | [`WithdrawRequest`] | [`Withdrawn`] |
//!
//! Times are milliseconds since 1970 (`_unix_ms`). Every refusal is an [`ApiError`].

pub mod cloned;
pub mod recovery;
pub mod trust;

mod operators;

use std::fmt;

use engine::{HostStatus, Isolation};
use serde::{Deserialize, Serialize};
use types::{DeviceId, Digest, EngineName, ModelName, VariantName, Version};

pub use cloned::ClonedView;
pub use operators::{OperatorCreated, OperatorList, OperatorRenewal, OperatorRequest, OperatorRevoked, OperatorView};
pub use recovery::{BackupSnapshot, UnknownDevice};

/// Where the API begins.
pub const PREFIX: &str = "/api/v1";

/// Longest JSON body of a request, in bytes: targets metadata of thousands of versions (about 300 bytes each) fit.
pub const JSON_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Longest life of a join token, in seconds: long enough to carry it to a device, too short to be worth stealing.
pub const TOKEN_TTL_S_MAX: u64 = 3600;

/// Why a call was refused. The text names no path and no address of the hub.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiError {
    /// One clause for the operator.
    pub error: String,
    /// What programs may decide on.
    pub code: ErrorCode,
    /// What to do next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// Kinds of refusal; append only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// No token, an unknown or a malformed one.
    NotAuthorised,
    /// The token was good once.
    TokenExpired,
    /// The request makes no sense.
    BadRequest,
    /// Nothing has that name.
    NotFound,
    /// It exists already with other content, or something else changed it in between.
    Conflict,
    /// The body is over its limit.
    TooLarge,
    /// Signatures, digests or golden answers do not hold.
    NotTrusted,
    /// The hub's disk is full or broken.
    Storage,
    /// The hub is stopping or overloaded.
    Unavailable,
    /// A fault of the hub; its log has the cause under the same id.
    Internal,
    /// Too many failed logins of one address, or too many calls of one operator at once.
    TooMany,
}

/// Asks for a join token.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenRequest {
    /// Name of the device that may join; without it the hub makes one up.
    pub device: Option<DeviceId>,
    /// Whether the name may be one that is on record: the same machine, enrolled anew.
    #[serde(default)]
    pub replace: bool,
    /// Seconds the token is good for, at most [`TOKEN_TTL_S_MAX`] (the default).
    pub ttl_s: Option<u64>,
}

/// A join token. The hub keeps only a hash of its secret.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenCreated {
    /// The text to hand to `edge-agent enroll`.
    pub token: String,
    /// Name the device will have.
    pub device: DeviceId,
    /// When it stops being good.
    pub expires_unix_ms: u64,
    /// Addresses in it that no device can reach, each with what to change on the hub.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// Shuts a device out.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RevokeRequest {
    /// Why, for whoever looks later; at most 200 bytes.
    #[serde(default)]
    pub why: String,
}

impl fmt::Debug for TokenCreated {
    /// Leaves the token out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenCreated").field("device", &self.device).finish_non_exhaustive()
    }
}

/// All devices.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeviceList {
    /// By name.
    pub devices: Vec<DeviceView>,
    /// Devices that have no record here and show a certificate of this hub's CA, by name: they were enrolled after the
    /// backup from which this hub was restored. `POST /devices/{id}/readmit` lets one in.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unknown: Vec<UnknownDevice>,
}

/// Whether a device may connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeviceState {
    /// It may.
    Enrolled,
    /// Never again.
    Revoked,
}

/// One device as the hub knows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeviceView {
    /// Its name, as in its certificate.
    pub device: DeviceId,
    /// Whether it may connect.
    pub state: DeviceState,
    /// Why not, in the operator's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Whether it is connected now.
    pub connected: bool,
    /// Where from, while it is connected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// When it joined.
    pub enrolled_unix_ms: u64,
    /// When it was last greeted or left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen_unix_ms: Option<u64>,
    /// When its newest certificate ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate_until_unix_ms: Option<u64>,
    /// Set once its certificate has expired: until when the device can still renew it by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renewable_until_unix_ms: Option<u64>,
    /// Set while two machines use this device's identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cloned: Option<ClonedView>,
    /// Version of its agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_version: Option<String>,
    /// What it serves and what it last said about updates.
    pub models: Vec<DeviceModelView>,
}

/// One model on one device.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeviceModelView {
    /// The model.
    pub model: ModelName,
    /// What answers now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active: Option<FormView>,
    /// What it can go back to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<FormView>,
    /// Engine and provider that run the active form, where the device said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub running: Option<RunningView>,
    /// The device's last word on an update.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<ReportView>,
}

/// Session that serves a model on a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunningView {
    /// Engine of the session.
    pub engine: EngineName,
    /// Execution provider that runs it, as the engine names it.
    pub provider: String,
}

/// One form of one version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FormView {
    /// The version.
    pub version: Version,
    /// Which form of it.
    pub variant: VariantName,
    /// Digest of its model file.
    pub digest: Digest,
}

/// What a device said about an update.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportView {
    /// The version it was about.
    pub version: Version,
    /// The form of it, once the device has chosen one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<VariantName>,
    /// How far it came.
    pub stage: String,
    /// How that went: `running`, `active`, `failed` (it will try again), `refused` (it will not).
    pub outcome: String,
    /// Why, in the device's words (bounded and stripped of control characters).
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
    /// When the hub heard it.
    pub at_unix_ms: u64,
}

/// All models.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelList {
    /// By name.
    pub models: Vec<ModelView>,
}

/// One model in the registry.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelView {
    /// The model.
    pub model: ModelName,
    /// Newest published version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latest: Option<Version>,
    /// The version devices are told to follow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offered: Option<Version>,
    /// Newest first.
    pub versions: Vec<VersionView>,
    /// The devices that follow it, by name.
    pub devices: Vec<ModelDeviceView>,
    /// Requests of devices that this hub has answered since it started, by the device's reason for asking.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub answered: Vec<ReasonView>,
    /// Effects of the offered version that its author may not expect, like a missing threshold.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// Requests that devices sent to the hub for one reason.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReasonView {
    /// The device's reason, as in receipts.
    pub reason: String,
    /// Requests answered.
    pub requests: u64,
    /// Share of the model's requests that this hub answered, in percent. Requests that devices answer themselves are not
    /// counted: the hub does not see them.
    #[serde(default)]
    pub share_percent: f64,
}

/// One published version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionView {
    /// The version.
    pub version: Version,
    /// Digest of its manifest.
    pub manifest: Digest,
    /// When it was published.
    pub published_unix_ms: u64,
    /// Whether it has never been offered.
    pub held: bool,
    /// Names of its variants, the hub's own last.
    pub variants: Vec<String>,
    /// Whether the hub answers with it now.
    pub loaded: bool,
}

/// One device that follows a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelDeviceView {
    /// The device.
    pub device: DeviceId,
    /// Whether it is connected now.
    pub connected: bool,
    /// What it serves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active: Option<FormView>,
    /// Engine and provider that run it, where the device said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub running: Option<RunningView>,
    /// Its last word on an update.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<ReportView>,
}

/// A blob lies on the hub's disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobStored {
    /// What it is called.
    pub digest: Digest,
    /// How long it is.
    pub bytes: u64,
}

/// Publishes a version whose blobs are all uploaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PublishRequest {
    /// The version.
    pub version: Version,
    /// Digest of its manifest, which was uploaded as a blob.
    pub manifest: Digest,
    /// The newly signed `targets.json`, as text.
    pub targets: String,
    /// Publish without telling devices.
    #[serde(default)]
    pub hold: bool,
    /// Publish although the version is worse than the one in force: no threshold, no golden inputs, other labels, other
    /// inputs or outputs.
    #[serde(default, skip_serializing_if = "is_false")]
    pub force: bool,
}

/// Leaves a switch that is off out of a request, so that an older hub understands it.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde asks for")]
fn is_false(switch: &bool) -> bool {
    !switch
}

/// Tells devices to follow a version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OfferRequest {
    /// The version.
    pub version: Version,
}

/// A version is published or offered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    /// The model.
    pub model: ModelName,
    /// The version.
    pub version: Version,
    /// Devices connected now that were told.
    pub devices_told: usize,
    /// Whether it was there already, with the same content.
    pub unchanged: bool,
    /// Effects that the author may not expect, like a missing threshold.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// Takes a version back that no device took.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WithdrawRequest {
    /// The version.
    pub version: Version,
    /// The newly signed `targets.json` without the version, as text.
    pub targets: String,
}

/// A version is withdrawn: its number can be published again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Withdrawn {
    /// The model.
    pub model: ModelName,
    /// The version.
    pub version: Version,
    /// The version devices are told to follow now; absent when the model has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offered: Option<Version>,
}

/// The hub at one glance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HubStatus {
    /// Version of the program.
    pub version: String,
    /// Seconds since it started.
    pub uptime_s: u64,
    /// Bound addresses.
    pub listening: Listening,
    /// Fingerprint of the CA.
    pub ca: Digest,
    /// The engine, or why there is none.
    pub engine: EngineView,
    /// Devices on record, and of those connected.
    pub devices: usize,
    /// Devices connected now.
    pub devices_connected: usize,
    /// Requests waiting for a session.
    pub requests_waiting: usize,
    /// Requests in a session.
    pub requests_running: usize,
    /// Models published.
    pub models: usize,
    /// Loaded versions, like `digits/2`.
    pub loaded: Vec<String>,
    /// What was met at start that an operator should know, for example a store that was rebuilt.
    pub warnings: Vec<String>,
    /// Where the engine runs; `None` from a hub that does not say.
    #[serde(default)]
    pub isolation: Option<Isolation>,
    /// Child processes of the engine; empty when it runs inside the hub.
    #[serde(default)]
    pub hosts: Vec<HostStatus>,
}

/// What runs models on the hub.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineView {
    /// Its name, like `ort`.
    pub name: String,
    /// Its version.
    pub version: String,
}

/// `listening.json` in the state folder: the addresses that were really bound.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listening {
    /// Process id of the hub.
    pub pid: u32,
    /// The devices' door (UDP).
    pub quic: std::net::SocketAddr,
    /// The operators' door (HTTPS).
    pub admin: std::net::SocketAddr,
    /// Prometheus' door (HTTP).
    pub metrics: std::net::SocketAddr,
    /// Open Inference Protocol over HTTP; `None` where it is off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inference: Option<std::net::SocketAddr>,
    /// Open Inference Protocol over gRPC; `None` where it is off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inference_grpc: Option<std::net::SocketAddr>,
}
