//! Reasons for a request without an answer.

use edge_core::route::Failure;
use types::{Amendment, ErrorCode};

use crate::outbox::PushError;

/// Reason for a request without an answer.
#[derive(Debug, thiserror::Error)]
pub enum AnswerError {
    /// The route ended without one.
    #[error("{failure}{}", cause(.detail))]
    Failed {
        /// The kind, and what failed where.
        failure: Failure,
        /// Fault of the request, where a place named one.
        detail: Option<String>,
    },
    /// The request waits for the hub, and there is no answer meanwhile.
    #[error("the request waits for the hub")]
    Queued {
        /// Reason for no answer now.
        failure: Failure,
        /// Reference to the later answer.
        amendment: Amendment,
    },
    /// The request is to wait for the hub, and cannot.
    #[error("{failure}, and the request cannot wait for it")]
    NotQueued {
        /// Reason for no answer now.
        failure: Failure,
        /// Reason for not waiting.
        #[source]
        source: PushError,
    },
    /// The machine and the shell disagree about what happened: a mistake in this program.
    #[error("route the request")]
    Route(#[source] edge_core::Refused),
}

fn cause(detail: &Option<String>) -> String {
    detail.as_deref().map_or_else(String::new, |detail| format!(": {detail}"))
}

impl AnswerError {
    /// The label in metrics and logs.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Failed { failure, .. } => failure.code.as_str(),
            Self::Queued { .. } => ErrorCode::Queued.as_str(),
            Self::NotQueued { source, .. } => source.code().as_str(),
            Self::Route(_) => "internal",
        }
    }

    /// The kind; `None` for a mistake in this program.
    #[must_use]
    pub fn failure(&self) -> Option<ErrorCode> {
        match self {
            Self::Failed { failure, .. } => Some(failure.code),
            Self::Queued { .. } => Some(ErrorCode::Queued),
            Self::NotQueued { source, .. } => Some(source.code()),
            Self::Route(_) => None,
        }
    }
}
