//! The status of each error code in both protocols.
//!
//! The reference page of the API lists this table; a test compares them.

use http::StatusCode;
use tonic::Code;
use types::ErrorCode;

/// Status of a request that the client gave up, as nginx logs it; nobody reads it.
const CLIENT_CLOSED_REQUEST: u16 = 499;

/// Returns the HTTP status of an error code.
#[must_use]
pub fn http_status(code: ErrorCode) -> StatusCode {
    match code {
        ErrorCode::BadInput => StatusCode::BAD_REQUEST,
        ErrorCode::Queued => StatusCode::ACCEPTED,
        ErrorCode::IdInUse => StatusCode::CONFLICT,
        ErrorCode::Unauthenticated => StatusCode::UNAUTHORIZED,
        ErrorCode::Forbidden => StatusCode::FORBIDDEN,
        ErrorCode::UnknownModel | ErrorCode::UnknownPath => StatusCode::NOT_FOUND,
        ErrorCode::WrongMethod => StatusCode::METHOD_NOT_ALLOWED,
        ErrorCode::TooSlow => StatusCode::REQUEST_TIMEOUT,
        ErrorCode::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        ErrorCode::UnsupportedMedia => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        ErrorCode::TooManyLogins => StatusCode::TOO_MANY_REQUESTS,
        ErrorCode::Cancelled => StatusCode::from_u16(CLIENT_CLOSED_REQUEST).unwrap_or(StatusCode::BAD_REQUEST),
        ErrorCode::DeviceFailed | ErrorCode::HubFailed | ErrorCode::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        ErrorCode::Unsupported => StatusCode::NOT_IMPLEMENTED,
        ErrorCode::NotReady
        | ErrorCode::Busy
        | ErrorCode::DeviceBusy
        | ErrorCode::HubBusy
        | ErrorCode::HubUnreachable
        | ErrorCode::OutboxFull
        | ErrorCode::NotAuthorised => StatusCode::SERVICE_UNAVAILABLE,
        ErrorCode::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
    }
}

/// Returns the gRPC status of an error code.
#[must_use]
pub fn grpc_status(code: ErrorCode) -> Code {
    match code {
        ErrorCode::BadInput | ErrorCode::UnsupportedMedia => Code::InvalidArgument,
        ErrorCode::Unauthenticated => Code::Unauthenticated,
        ErrorCode::Forbidden => Code::PermissionDenied,
        ErrorCode::UnknownModel => Code::NotFound,
        ErrorCode::UnknownPath | ErrorCode::WrongMethod | ErrorCode::Unsupported => Code::Unimplemented,
        ErrorCode::TooLarge | ErrorCode::TooManyLogins => Code::ResourceExhausted,
        ErrorCode::TooSlow => Code::Aborted,
        ErrorCode::Cancelled => Code::Cancelled,
        ErrorCode::IdInUse => Code::AlreadyExists,
        ErrorCode::DeviceFailed | ErrorCode::HubFailed | ErrorCode::Internal => Code::Internal,
        ErrorCode::NotReady
        | ErrorCode::Busy
        | ErrorCode::DeviceBusy
        | ErrorCode::HubBusy
        | ErrorCode::HubUnreachable
        | ErrorCode::Queued
        | ErrorCode::OutboxFull
        | ErrorCode::NotAuthorised => Code::Unavailable,
        ErrorCode::DeadlineExceeded => Code::DeadlineExceeded,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_lists_every_code_with_its_statuses_and_its_advice() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/reference/api.md");
        let page = std::fs::read_to_string(path).unwrap();
        let rows: Vec<&str> = page.lines().filter(|line| line.starts_with("| `")).collect();
        for code in ErrorCode::ALL {
            let row =
                format!("| `{code}` | {} | {:?} | {} |", http_status(code).as_u16(), grpc_status(code), code.advice());
            assert!(rows.contains(&row.as_str()), "docs/reference/api.md lacks the row\n{row}");
        }
    }
}
