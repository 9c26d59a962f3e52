//! Requests that wait for the hub: what their clients are told now.

use edge_core::request_outbox::State;
use types::{Amendment, InferenceResponse, Reason};

use super::{AnswerError, RoutedRequest, RunLimits, Walk};
use crate::outbox::PushError;
use edge_core::route::{Failure, HubFailure};

impl Walk<'_> {
    /// Puts a request whose hub's answer is wanted later into the outbox: its answer is provisional then, and in place of a
    /// failure its client is told where to ask.
    pub(super) async fn queue(
        &self,
        wanted: Option<Reason>,
        result: Result<InferenceResponse, AnswerError>,
    ) -> Result<InferenceResponse, AnswerError> {
        let Some((wanted, outbox)) = wanted.zip(self.limits.outbox.as_ref()) else { return result };
        let pushed = outbox.push(self.request, &self.model.name, wanted).await;
        match (result, pushed) {
            (Ok(mut response), Ok(amendment)) => {
                response.receipt.is_final = false;
                response.receipt.amendment = Some(amendment);
                Ok(response)
            }
            // The answer of the device is all there will be, which its receipt says.
            (Ok(response), Err(error)) => {
                tracing::warn!(id = %self.request.id, error = telemetry::chain(&error), "the hub will not answer later");
                Ok(response)
            }
            (Err(AnswerError::Failed { failure, .. }), Ok(amendment)) => {
                Err(AnswerError::Queued { failure, amendment })
            }
            (Err(AnswerError::Failed { failure, .. }), Err(source)) => Err(not_queued(failure, source)),
            (Err(other @ (AnswerError::Queued { .. } | AnswerError::NotQueued { .. } | AnswerError::Route(_))), _) => {
                Err(other)
            }
        }
    }
}

fn not_queued(failure: Failure, source: PushError) -> AnswerError {
    AnswerError::NotQueued { failure, source }
}

/// Returns the answer to an earlier request with the same id and the same inputs, or where it can be had; `None` if this request
/// is a new one.
pub(super) async fn earlier(
    limits: &RunLimits,
    request: &RoutedRequest,
) -> Option<Result<InferenceResponse, AnswerError>> {
    let outbox = limits.outbox.as_ref()?;
    let view = outbox.find_same(&request.id, &request.inputs)?;
    match view.entry.state {
        State::Answered { .. } => Some(Ok(outbox.answer(&view).await.ok()?)),
        State::Storing | State::Waiting | State::InFlight => {
            let amendment: Amendment = view.detail.amendment();
            let hub = Some(HubFailure::Unreachable);
            let failure = Failure { code: types::ErrorCode::HubUnreachable, device: None, hub };
            Some(Err(AnswerError::Queued { failure, amendment }))
        }
        State::Ended(_) => None,
    }
}
