//! Calls about devices and the tokens that let them join.

use std::sync::Arc;

use super::Refused;
use super::call::Call;
use crate::api::endpoints::{CreateToken, LabelDevice, ListDevices, ReadmitDevice, RevokeDevice, ShowDevice};
use crate::api::{DeviceList, DeviceView, ErrorCode, TOKEN_TTL_S_MAX, TokenCreated};
use crate::app::counters::Counters;
use crate::app::fleet::{Fleet, FleetError};
use crate::app::join_tokens::JoinTokens;
use crate::app::tokens::{CreateTokenError, TokenOrder};

/// Maximum length of the reason of a revocation in bytes: one line.
const REASON_BYTES_MAX: usize = 200;

/// Answers `POST /tokens`: creates a join token.
pub(super) async fn create_token(tokens: Arc<JoinTokens>, call: Call<CreateToken>) -> Result<TokenCreated, Refused> {
    let Call { by, body: request, .. } = call;
    let lifetime_s = request.ttl_s.unwrap_or(TOKEN_TTL_S_MAX);
    let order = TokenOrder { device: request.device, replace: request.replace, lifetime_s };
    tokens.create(&by, order).await.map_err(|error| match &error {
        CreateTokenError::DeviceExists(_) => Refused::new(ErrorCode::Conflict, error.to_string())
            .hint("choose another name, or add --replace to enrol the same machine anew"),
        CreateTokenError::Lifetime(_) => Refused::new(ErrorCode::BadRequest, error.to_string()),
        CreateTokenError::Token(_) => Refused::internal(&error),
        CreateTokenError::Store(cause) => Refused::storage(cause),
    })
}

/// Answers `GET /devices`: filtered, in pages.
pub(super) async fn list(fleet: Arc<Fleet>, call: Call<ListDevices>) -> Result<DeviceList, Refused> {
    fleet.list(&call.query).await.map_err(|error| refuse(&error))
}

/// Answers `GET /devices/{device}`.
pub(super) async fn show(
    parts: Arc<(Arc<Fleet>, Arc<Counters>)>,
    call: Call<ShowDevice>,
) -> Result<DeviceView, Refused> {
    let (fleet, counters) = parts.as_ref();
    let mut view = fleet.show(&call.id).await.map_err(|error| refuse(&error))?;
    for model in &mut view.models {
        let figures = counters.figures(&model.model, Some(&call.id)).await;
        model.figures = figures.map_err(|error| Refused::storage(&error))?;
    }
    Ok(view)
}

/// Answers `POST /devices/{device}/labels`.
pub(super) async fn label(fleet: Arc<Fleet>, call: Call<LabelDevice>) -> Result<DeviceView, Refused> {
    fleet.label(&call.by, &call.id, &call.body).await.map_err(|error| refuse(&error))
}

/// Answers `POST /devices/{device}/revoke`.
pub(super) async fn revoke(fleet: Arc<Fleet>, call: Call<RevokeDevice>) -> Result<DeviceView, Refused> {
    let reason = &call.body.reason;
    if reason.len() > REASON_BYTES_MAX || reason.chars().any(char::is_control) {
        let problem = format!("a reason is at most {REASON_BYTES_MAX} bytes on one line");
        return Err(Refused::new(ErrorCode::BadRequest, problem));
    }
    fleet.revoke(&call.by, &call.id, reason).await.map_err(|error| refuse(&error))
}

/// Answers `POST /devices/{device}/readmit`.
pub(super) async fn readmit(fleet: Arc<Fleet>, call: Call<ReadmitDevice>) -> Result<DeviceView, Refused> {
    fleet.readmit(&call.by, &call.id).await.map_err(|error| refuse(&error))
}

fn refuse(error: &FleetError) -> Refused {
    match error {
        FleetError::Unknown(_) => {
            Refused::new(ErrorCode::NotFound, error.to_string()).hint("see all of them: cloud-hub device list")
        }
        FleetError::NotSeen(_) => Refused::new(ErrorCode::NotFound, error.to_string()).hint(
            "it tries again within the hour, or at once when its agent is started again; or enrol it with a new token",
        ),
        FleetError::Exists(device) => Refused::new(ErrorCode::Conflict, error.to_string())
            .hint(format!("enrol the same machine anew: cloud-hub token create --name {device} --replace")),
        FleetError::Label(_) | FleetError::Filter(_) => Refused::new(ErrorCode::BadRequest, error.to_string()),
        FleetError::Store(cause) => Refused::storage(cause),
    }
}
