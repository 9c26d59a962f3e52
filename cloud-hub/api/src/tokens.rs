//! Requests and responses of join tokens.

use std::fmt;

use serde::{Deserialize, Serialize};
use types::DeviceId;

/// Maximum life of a join token in seconds: long enough to carry it to a device, too short to be worth stealing.
pub const TOKEN_TTL_S_MAX: u64 = 3600;

/// Request for a join token.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenRequest {
    /// Name of the device that may join; the hub invents one without it.
    pub device: Option<DeviceId>,
    /// Whether the name may be on record already: the same machine, enrolled again.
    #[serde(default)]
    pub replace: bool,
    /// Life of the token in seconds, at most [`TOKEN_TTL_S_MAX`] (the default).
    pub ttl_s: Option<u64>,
}

/// Response with a new join token. The hub stores only a hash of its secret.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenCreated {
    /// Token for `edge-agent enroll`.
    pub token: String,
    /// Name that the device will have.
    pub device: DeviceId,
    /// Time at which the token expires.
    pub expires_unix_ms: u64,
    /// Warnings about addresses in the token that no device can reach, each with the change that is needed on the hub.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

impl fmt::Debug for TokenCreated {
    /// Prints everything but the token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenCreated").field("device", &self.device).finish_non_exhaustive()
    }
}
