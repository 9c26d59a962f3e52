//! Refusals of the API.

use serde::{Deserialize, Serialize};

/// Reason why a call was refused. The text names no path and no address of the hub.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiError {
    /// One clause for the operator.
    pub error: String,
    /// Code of the refusal, for programs.
    pub code: ErrorCode,
    /// Advice for the next step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// Kinds of refusal of a call. New ones are added at the end; a client treats one that it does not
/// know as [`ErrorCode::Unknown`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The token is missing, unknown or malformed.
    NotAuthorised,
    /// The token has expired.
    TokenExpired,
    /// The request is not valid.
    BadRequest,
    /// Nothing has that name.
    NotFound,
    /// Other content exists under that name, or another call changed it meanwhile.
    Conflict,
    /// The body is over its limit.
    TooLarge,
    /// Signatures, digests or golden outputs are wrong.
    NotTrusted,
    /// The hub's disk is full or broken.
    Storage,
    /// The hub is stopping or overloaded.
    Unavailable,
    /// The hub has a fault; its log has the cause under the same id.
    Internal,
    /// Too many failed logins from one address, or too many concurrent calls of one operator.
    TooMany,
    /// The operator's role does not allow the call.
    Forbidden,
    /// A code of a later release. Servers never send it.
    #[serde(other)]
    Unknown,
}

impl ErrorCode {
    /// Every code that a server sends.
    pub const ALL: [Self; 12] = [
        Self::NotAuthorised,
        Self::TokenExpired,
        Self::Forbidden,
        Self::BadRequest,
        Self::NotFound,
        Self::Conflict,
        Self::TooLarge,
        Self::NotTrusted,
        Self::Storage,
        Self::Unavailable,
        Self::Internal,
        Self::TooMany,
    ];

    /// Returns the HTTP status of a refusal with this code.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::NotAuthorised | Self::TokenExpired => 401,
            Self::Forbidden => 403,
            Self::BadRequest => 400,
            Self::NotFound => 404,
            Self::Conflict => 409,
            Self::TooLarge => 413,
            Self::NotTrusted => 422,
            Self::Storage => 507,
            Self::TooMany => 429,
            Self::Unavailable => 503,
            Self::Internal | Self::Unknown => 500,
        }
    }

    /// Returns the name in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotAuthorised => "not_authorised",
            Self::TokenExpired => "token_expired",
            Self::BadRequest => "bad_request",
            Self::NotFound => "not_found",
            Self::Conflict => "conflict",
            Self::TooLarge => "too_large",
            Self::NotTrusted => "not_trusted",
            Self::Storage => "storage",
            Self::Unavailable => "unavailable",
            Self::Internal => "internal",
            Self::TooMany => "too_many",
            Self::Forbidden => "forbidden",
            Self::Unknown => "unknown",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_of_codes_are_those_in_json_and_a_later_code_is_read_as_unknown() {
        for code in ErrorCode::ALL {
            assert_eq!(serde_json::to_value(code).ok(), Some(code.as_str().into()));
        }
        let later: ApiError = serde_json::from_str(r#"{"error":"e","code":"of_tomorrow"}"#).unwrap();
        assert_eq!(later.code, ErrorCode::Unknown);
    }
}
