//! Errors that the server itself raises, before or after the service: one constructor for each.

use std::time::Duration;

use types::{ErrorCode, InferenceError};

use crate::codec::CodecError;
use crate::limits::Limits;

/// Time after which a server that is busy is worth asking again: queues here drain in less.
pub const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Longest part of a client's own text that an error repeats, in characters.
const QUOTED_CHARS_MAX: usize = 80;

/// Shortens a client's text for an error: a hostile one must not fill the log it is refused in.
fn quoted(text: &str) -> String {
    text.chars().take(QUOTED_CHARS_MAX).collect()
}

/// Refuses a request that cannot be used as it is.
pub(crate) fn bad_request(message: impl Into<String>) -> InferenceError {
    InferenceError::new(ErrorCode::BadInput, message)
}

/// Refuses a model that is not known here.
pub(crate) fn unknown_model(name: &str, known: &str) -> InferenceError {
    let name = quoted(name);
    InferenceError::new(ErrorCode::UnknownModel, format!("there is no model {name:?} here: the models are {known}"))
}

/// Refuses a version that cannot answer.
pub(crate) fn unknown_version(model: &str, version: &str, serving: &str) -> InferenceError {
    let version = quoted(version);
    let message = format!("model {model:?} version {version:?} does not serve here: {serving}");
    InferenceError::new(ErrorCode::UnknownModel, message)
}

/// Refuses a body over the limit.
pub(crate) fn too_large(limits: &Limits) -> InferenceError {
    let message = format!(
        "the request is over the limit of {} bytes: send tensors as binary data, send fewer at once{}",
        limits.body_bytes_max,
        limits.or_raise(&["body_bytes_max"])
    );
    InferenceError::new(ErrorCode::TooLarge, message)
}

/// Refuses a body that does not arrive in time.
pub(crate) fn too_slow(limits: &Limits) -> InferenceError {
    let message = format!(
        "the body did not arrive in time: send it within {:?} and at no less than {} bytes per second{}",
        limits.body_timeout,
        limits.rate_min_bytes,
        limits.or_raise(&["body_timeout", "rate_min_bytes"])
    );
    InferenceError::new(ErrorCode::TooSlow, message)
}

/// Refuses a request whose memory other requests use.
pub(crate) fn memory_full(limits: &Limits) -> InferenceError {
    let message = format!(
        "other requests use the memory for requests: send again in a second, send smaller requests{}",
        limits.or_raise(&["memory_bytes_max"])
    );
    InferenceError::new(ErrorCode::Busy, message).retry_after(RETRY_AFTER)
}

/// Refuses a request that takes more memory than one request may.
pub(crate) fn memory_never(limits: &Limits) -> InferenceError {
    let message = format!(
        "the request takes more memory than one request may: send tensors as binary data, send fewer at once{}",
        limits.or_raise(&["memory_bytes_max"])
    );
    InferenceError::new(ErrorCode::TooLarge, message)
}

/// Refuses a request because as many are worked on as may be.
pub(crate) fn busy(limits: &Limits) -> InferenceError {
    let message = format!(
        "{} requests are being worked on: send fewer at once{}",
        limits.requests_max,
        limits.or_raise(&["requests_max"])
    );
    InferenceError::new(ErrorCode::Busy, message).retry_after(RETRY_AFTER)
}

/// Refuses a body whose content type is not accepted.
pub(crate) fn unsupported_type(given: &str) -> InferenceError {
    let message = format!(
        "content type {:?} is not accepted: send application/json, or application/octet-stream for binary tensors (curl: -H \
         'Content-Type: application/json')",
        quoted(given)
    );
    InferenceError::new(ErrorCode::UnsupportedMedia, message)
}

/// Refuses a body whose encoding is not accepted.
pub(crate) fn unsupported_encoding(encoding: &str) -> InferenceError {
    let message = format!(
        "content encoding {:?} is not supported: send the body as it is, or compressed by gzip or deflate",
        quoted(encoding)
    );
    InferenceError::new(ErrorCode::UnsupportedMedia, message)
}

/// Refuses shared memory: a path into this process's memory from a request is how other servers were broken into.
pub(crate) fn no_shared_memory() -> InferenceError {
    let message = "shared memory regions are not supported here: send tensors in the request";
    InferenceError::new(ErrorCode::Unsupported, message)
}

/// Reports a fault of this program; its log has the cause.
pub(crate) fn internal() -> InferenceError {
    InferenceError::new(ErrorCode::Internal, "the server failed on this request: see its log")
}

/// Converts an error of the codec, whose message already says what to change.
pub(crate) fn codec(error: &CodecError) -> InferenceError {
    let code = match error {
        CodecError::Unsupported { .. } => ErrorCode::Unsupported,
        CodecError::HeaderNotANumber(_)
        | CodecError::HeaderTooLong { .. }
        | CodecError::Json(_)
        | CodecError::Id(_)
        | CodecError::Parameter { .. }
        | CodecError::Tensor { .. }
        | CodecError::NameTooLong(_)
        | CodecError::DataSource { .. }
        | CodecError::BinaryShort { .. }
        | CodecError::BinaryLeft(_)
        | CodecError::Elements { .. }
        | CodecError::NotInJson { .. }
        | CodecError::Classes { .. }
        | CodecError::RawContents { .. }
        | CodecError::TooMany { .. }
        | CodecError::Sequence
        | CodecError::OutputTwice(_) => ErrorCode::BadInput,
        // Replaced by the budget's own error, which knows why.
        CodecError::NoRoom => ErrorCode::Busy,
    };
    InferenceError::new(code, telemetry::chain(error))
}
