//! Calls about rollouts, pins and assigned models.

use std::sync::Arc;

use super::Refused;
use super::call::Call;
use crate::api::endpoints::{
    ActOnRollout, AssignModel, CreateRollout, ExplainRollout, ListRollouts, PinDevice, ShowRollout,
};
use crate::api::{AssignmentView, ErrorCode, PinView, RolloutDetail, RolloutExplanation, RolloutList, RolloutView};
use crate::app::rollouts::{RolloutError, Rollouts};

/// Answers `POST /rollouts`: creates a rollout.
pub(super) async fn create(rollouts: Arc<Rollouts>, call: Call<CreateRollout>) -> Result<RolloutView, Refused> {
    rollouts.create(&call.by, call.body).await.map_err(|error| refuse(&error))
}

/// Answers `GET /rollouts`: lists all of them.
pub(super) async fn list(rollouts: Arc<Rollouts>, _call: Call<ListRollouts>) -> Result<RolloutList, Refused> {
    rollouts.list().await.map_err(|error| refuse(&error))
}

/// Answers `GET /rollouts/{rollout}` with its devices.
pub(super) async fn show(rollouts: Arc<Rollouts>, call: Call<ShowRollout>) -> Result<RolloutDetail, Refused> {
    rollouts.show(&call.id).await.map_err(|error| refuse(&error))
}

/// Answers `POST /rollouts/{rollout}/actions`: pause, resume and so on.
pub(super) async fn act(rollouts: Arc<Rollouts>, call: Call<ActOnRollout>) -> Result<RolloutView, Refused> {
    rollouts.act(&call.by, &call.id, &call.body).await.map_err(|error| refuse(&error))
}

/// Answers `GET /rollouts/{rollout}/explanation` with every decision.
pub(super) async fn explain(
    rollouts: Arc<Rollouts>,
    call: Call<ExplainRollout>,
) -> Result<RolloutExplanation, Refused> {
    rollouts.explain(&call.id, call.query.device.as_ref()).await.map_err(|error| refuse(&error))
}

/// Answers `POST /devices/{device}/pins`: sets or ends a pin.
pub(super) async fn pin(rollouts: Arc<Rollouts>, call: Call<PinDevice>) -> Result<PinView, Refused> {
    rollouts.pin(&call.by, &call.id, call.body).await.map_err(|error| refuse(&error))
}

/// Answers `POST /models/{model}/assignment`: sets or ends it.
pub(super) async fn assign(rollouts: Arc<Rollouts>, call: Call<AssignModel>) -> Result<AssignmentView, Refused> {
    rollouts.assign(&call.by, &call.id, &call.body).await.map_err(|error| refuse(&error))
}

fn refuse(error: &RolloutError) -> Refused {
    match error {
        RolloutError::Unknown(_) => {
            Refused::new(ErrorCode::NotFound, error.to_string()).hint("see all of them: cloud-hub rollout list")
        }
        RolloutError::UnknownDevice(_) => {
            Refused::new(ErrorCode::NotFound, error.to_string()).hint("see all of them: cloud-hub device list")
        }
        RolloutError::Spec(_)
        | RolloutError::Cohort(_)
        | RolloutError::Waves(_)
        | RolloutError::Gate(_)
        | RolloutError::Text(_) => {
            Refused::new(ErrorCode::BadRequest, error.to_string())
        }
        RolloutError::Overlap { other, .. } => Refused::new(ErrorCode::Conflict, error.to_string())
            .hint(format!("see it with `cloud-hub rollout show {other}`, end it with `cloud-hub rollout abort {other}`")),
        RolloutError::NotNewer { .. } => Refused::new(ErrorCode::Conflict, error.to_string())
            .hint("an earlier version comes back with `cloud-hub rollout rollback`, or on one device with `cloud-hub device pin`"),
        RolloutError::NotNewest { .. } | RolloutError::NoWayBack(_) | RolloutError::TooMany | RolloutError::Refused(_) => {
            Refused::new(ErrorCode::Conflict, error.to_string())
        }
        RolloutError::Version(cause) => super::models::refuse(cause),
        RolloutError::Store(cause) => Refused::storage(cause),
    }
}
