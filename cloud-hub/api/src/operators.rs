//! Operators and their tokens.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::Role;

/// Returns whether a role is the default: it is left out of a request then, so that an older hub understands it.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde asks for")]
fn is_admin(role: &Role) -> bool {
    *role == Role::Admin
}

/// Request for a new operator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OperatorRequest {
    /// Name, as in the hub's logs. No two operators have the same.
    pub name: String,
    /// Life of the token in days.
    pub ttl_days: u32,
    /// Role; `admin` without it, as for clients of 0.1.0.
    #[serde(default, skip_serializing_if = "is_admin")]
    pub role: Role,
}

/// Request for the next token of an operator.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OperatorRenewal {
    /// Name of the operator; the caller without it. Only an admin may name another operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Life of the new token in days; that of the earlier one without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_days: Option<u32>,
}

/// Response with a new operator token. The hub stores only its hash.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperatorCreated {
    /// Name of the operator.
    pub name: String,
    /// Secret of the operator, for `operator.toml`.
    pub token: String,
    /// Time at which the token expires.
    pub expires_unix_ms: u64,
    /// Role of the operator.
    #[serde(default)]
    pub role: Role,
}

/// Page of operators, by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperatorList {
    /// The operators of this page.
    pub operators: Vec<OperatorView>,
    /// Cursor of the next page; absent on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// One operator token, without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperatorView {
    /// Name in the hub's logs.
    pub name: String,
    /// Role of the operator.
    #[serde(default)]
    pub role: Role,
    /// Time of its creation.
    pub created_unix_ms: u64,
    /// Time from which the token is refused.
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

/// Result of revoking an operator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperatorRevoked {
    /// Name of the operator.
    pub name: String,
    /// Number of its tokens that were removed.
    pub tokens: usize,
}

impl fmt::Debug for OperatorCreated {
    /// Prints everything but the token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OperatorCreated").field("name", &self.name).finish_non_exhaustive()
    }
}
