//! What is said about operators and their tokens.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Asks for a further operator token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OperatorRequest {
    /// Who it is for, as the hub's log will name them.
    pub name: String,
    /// Days it is good for.
    pub ttl_days: u32,
}

/// Asks for a new token of an operator who has one.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OperatorRenewal {
    /// Name of the operator; the caller itself without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Days the new token is good for; as many as the earlier one without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_days: Option<u32>,
}

/// A fresh operator token. The hub keeps only its hash.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperatorCreated {
    /// Who it is for.
    pub name: String,
    /// The secret, for `operator.toml`.
    pub token: String,
    /// When it stops being good.
    pub expires_unix_ms: u64,
}

/// Every operator on record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperatorList {
    /// Sorted by name.
    pub operators: Vec<OperatorView>,
}

/// One operator token, without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperatorView {
    /// Name in the hub's log.
    pub name: String,
    /// Time of its creation.
    pub created_unix_ms: u64,
    /// Time from which on it is refused.
    pub expires_unix_ms: u64,
    /// Time of the last call with it; absent when there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_used_unix_ms: Option<u64>,
    /// Warning that it ends soon or has ended, with the command that renews it; absent while nothing need be done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warning: Option<String>,
    /// First 16 hexadecimal digits of the SHA-256 of the token: finds the operator of a context file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
}

/// An operator is revoked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperatorRevoked {
    /// Its name.
    pub name: String,
    /// Number of its tokens that were removed.
    pub tokens: usize,
}

impl fmt::Debug for OperatorCreated {
    /// Leaves the token out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OperatorCreated").field("name", &self.name).finish_non_exhaustive()
    }
}
