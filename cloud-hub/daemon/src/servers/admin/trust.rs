//! Calls about the signed metadata: its state, new online keys, new roots and lists.

use std::sync::Arc;

use axum::http::header;
use axum::response::IntoResponse;
use jiff::Timestamp;

use super::Refused;
use super::call::{Call, FileCall};
use crate::api::ErrorCode;
use crate::api::endpoints::{ChangeTrust, MakeOnlineKeys, ReadMetadata, ShowTrust};
use crate::api::trust::{OnlineKeysView, TrustChanged, TrustView};
use crate::app::registry::MetadataName;
use crate::app::registry::metadata::MetadataError;
use crate::app::trust::Trust;

/// Answers `GET /trust`: the state of the metadata.
pub(super) async fn show(trust: Arc<Trust>, _call: Call<ShowTrust>) -> Result<TrustView, Refused> {
    trust.registry.trust_view(Timestamp::now()).map_err(|error| refuse(&error))
}

/// Answers `GET /trust/{file}`.
pub(super) async fn metadata(
    trust: Arc<Trust>,
    call: FileCall<ReadMetadata>,
) -> Result<impl IntoResponse + use<>, Refused> {
    let bad = |error: <MetadataName as std::str::FromStr>::Err| Refused::new(ErrorCode::BadRequest, error.to_string());
    let name: MetadataName = call.id.parse().map_err(bad)?;
    let bytes = trust.registry.metadata(&name).await.map_err(|error| Refused::storage(&error))?;
    let bytes = bytes.ok_or_else(|| Refused::new(ErrorCode::NotFound, "the hub has no such metadata"))?;
    Ok(([(header::CONTENT_TYPE, "application/json")], bytes))
}

/// Answers `POST /trust/online-keys`.
pub(super) async fn make_online_keys(trust: Arc<Trust>, call: Call<MakeOnlineKeys>) -> Result<OnlineKeysView, Refused> {
    trust.next_online_keys(&call.by).await.map_err(|error| refuse(&error))
}

/// Answers `POST /trust/changes`.
pub(super) async fn change(trust: Arc<Trust>, call: Call<ChangeTrust>) -> Result<TrustChanged, Refused> {
    trust.change(&call.by, call.body).await.map_err(|error| refuse(&error))
}

/// Returns the refusal of a call that failed on the signed metadata.
pub(super) fn refuse(error: &MetadataError) -> Refused {
    let problem = telemetry::chain(error);
    match (error.command(), error) {
        (Some(command), _) => Refused::new(ErrorCode::NotTrusted, problem).hint(format!("run: {command}")),
        (None, MetadataError::NotNext(_) | MetadataError::ForeignOnlineKeys) => {
            Refused::new(ErrorCode::Conflict, problem)
                .hint("something was published or renewed meanwhile: prepare the change again")
        }
        (None, error) if error.is_refusal() => Refused::new(ErrorCode::NotTrusted, problem)
            .hint("are the keys those of this hub? see who may sign what: cloud-hub trust status"),
        (None, error) => Refused::storage(error),
    }
}
