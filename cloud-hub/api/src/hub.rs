//! Status of the hub.

use serde::{Deserialize, Serialize};
use types::{Digest, HostStatus, Isolation};

/// Summary of the hub's state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HubStatus {
    /// Version of the program.
    pub version: String,
    /// Seconds since the hub started.
    pub uptime_s: u64,
    /// Addresses that the servers are bound to.
    pub listening: Listening,
    /// Fingerprint of the CA.
    pub ca: Digest,
    /// Engine that runs models.
    pub engine: EngineView,
    /// Number of devices on record.
    pub devices: usize,
    /// Number of devices that are connected.
    pub devices_connected: usize,
    /// Number of requests that wait for a session.
    pub requests_waiting: usize,
    /// Number of requests in a session.
    pub requests_running: usize,
    /// Number of models in the registry.
    pub models: usize,
    /// Loaded versions, like `digits/2`.
    pub loaded: Vec<String>,
    /// Sentences about problems that an operator should see to, for example a store that was rebuilt.
    pub warnings: Vec<String>,
    /// Isolation of the engine; `None` from a hub of an earlier release.
    #[serde(default)]
    pub isolation: Option<Isolation>,
    /// Child processes of the engine; empty when it runs inside the hub.
    #[serde(default)]
    pub hosts: Vec<HostStatus>,
}

/// Engine that runs models on the hub.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineView {
    /// Name of the engine, like `ort`.
    pub name: String,
    /// Version of its runtime.
    pub version: String,
}

/// Addresses that a hub has bound: `listening.json` in its state folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listening {
    /// Process id of the hub.
    pub pid: u32,
    /// Address of the device server (QUIC over UDP).
    pub quic: std::net::SocketAddr,
    /// Address of the admin server (HTTPS).
    pub admin: std::net::SocketAddr,
    /// Address of the metrics server (HTTP).
    pub metrics: std::net::SocketAddr,
    /// Address of the Open Inference Protocol over HTTP; `None` where it is off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inference: Option<std::net::SocketAddr>,
    /// Address of the Open Inference Protocol over gRPC; `None` where it is off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inference_grpc: Option<std::net::SocketAddr>,
}
