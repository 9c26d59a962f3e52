//! Calls about models: publish, offer, look.

use std::sync::Arc;

use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use axum::{Extension, Json};
use hub_core::registry::RegistryError;
use types::ModelName;

use super::Refused;
use super::auth::Operator;
use super::error::{JsonBody, Named};
use crate::api::{
    ErrorCode, ModelList, ModelView, OfferRequest, PublishRequest, Published, WithdrawRequest, Withdrawn,
};
use crate::hub::Hub;
use crate::registry::MetadataName;
use crate::registry::publish::PublishError;

/// `GET /models`.
pub(super) async fn list(State(hub): State<Arc<Hub>>) -> Result<Json<ModelList>, Refused> {
    Ok(Json(ModelList { models: hub.models().await? }))
}

/// `GET /models/{m}`.
pub(super) async fn show(
    State(hub): State<Arc<Hub>>,
    Named(model): Named<ModelName>,
) -> Result<Json<ModelView>, Refused> {
    hub.model(&model).await?.map(Json).ok_or_else(|| {
        Refused::new(ErrorCode::NotFound, format!("no model is called {model}"))
            .hint("see all of them: cloud-hub model list")
    })
}

/// `POST /models/{m}/versions`.
pub(super) async fn publish(
    State(hub): State<Arc<Hub>>,
    Extension(Operator(by)): Extension<Operator>,
    Named(model): Named<ModelName>,
    JsonBody(request): JsonBody<PublishRequest>,
) -> Result<Json<Published>, Refused> {
    let version = request.version;
    let published = match hub.publish(&model, request).await {
        Ok(published) => published,
        Err(error) => {
            let refused = refuse(&error);
            if refused.code() == ErrorCode::Storage {
                super::make_room(&hub).await;
            }
            return Err(refused);
        }
    };
    tracing::info!(operator = by, %model, %version, unchanged = published.unchanged, "version published");
    Ok(Json(published))
}

/// `POST /models/{m}/offer`.
pub(super) async fn offer(
    State(hub): State<Arc<Hub>>,
    Extension(Operator(by)): Extension<Operator>,
    Named(model): Named<ModelName>,
    JsonBody(request): JsonBody<OfferRequest>,
) -> Result<Json<Published>, Refused> {
    let version = request.version;
    let offered = hub.offer(&model, version).await.map_err(|error| refuse(&error))?;
    tracing::info!(operator = by, %model, %version, "version offered");
    Ok(Json(offered))
}

/// `POST /models/{m}/withdraw`.
pub(super) async fn withdraw(
    State(hub): State<Arc<Hub>>,
    Extension(Operator(by)): Extension<Operator>,
    Named(model): Named<ModelName>,
    JsonBody(request): JsonBody<WithdrawRequest>,
) -> Result<Json<Withdrawn>, Refused> {
    let version = request.version;
    let withdrawn = hub.withdraw(&model, request).await.map_err(|error| refuse(&error))?;
    tracing::info!(operator = by, %model, %version, "version withdrawn");
    Ok(Json(withdrawn))
}

/// `GET /trust/{file}`.
pub(super) async fn metadata(
    State(hub): State<Arc<Hub>>,
    Named(name): Named<MetadataName>,
) -> Result<impl IntoResponse, Refused> {
    let bytes = hub.registry.metadata(&name).await.map_err(|error| Refused::storage(&error))?;
    let bytes = bytes.ok_or_else(|| Refused::new(ErrorCode::NotFound, "the hub has no such metadata"))?;
    Ok(([(header::CONTENT_TYPE, "application/json")], bytes))
}

fn refuse(error: &PublishError) -> Refused {
    match error {
        PublishError::Registry(RegistryError::UnknownModel(_) | RegistryError::UnknownVersion { .. }) => {
            Refused::new(ErrorCode::NotFound, error.to_string()).hint("see what there is: cloud-hub model list")
        }
        PublishError::Registry(RegistryError::Taken { .. } | RegistryError::NotNewer { .. }) => {
            Refused::new(ErrorCode::Conflict, error.to_string())
                .hint("raise `version` in model.toml and push that; cloud-hub model status shows what there is")
        }
        PublishError::Taken { .. } => Refused::new(ErrorCode::Conflict, error.to_string()).hint(
            "a version that a device has is followed by a higher one: raise `version` in model.toml and push that",
        ),
        PublishError::Moved => {
            Refused::new(ErrorCode::Conflict, error.to_string()).hint("push again: somebody else published meanwhile")
        }
        PublishError::MissingBlob { .. } => {
            Refused::new(ErrorCode::BadRequest, error.to_string()).hint("push again: the upload was not complete")
        }
        PublishError::Manifest(_) | PublishError::Mismatch(_) => {
            Refused::new(ErrorCode::BadRequest, telemetry::chain(error))
        }
        PublishError::NotTrusted(_) => Refused::new(ErrorCode::NotTrusted, telemetry::chain(error))
            .hint("were the keys made by `cloud-hub init` of this hub? give their folder with --keys"),
        PublishError::Load { .. } => Refused::new(ErrorCode::NotTrusted, telemetry::chain(error))
            .hint("the hub publishes only what it can run itself: mend the variant that runs on the hub"),
        PublishError::Crashes { .. } => Refused::new(ErrorCode::NotTrusted, telemetry::chain(error))
            .hint("mend the model; `--hold` publishes it without offering it to a device"),
        PublishError::Hostile { .. } => Refused::new(ErrorCode::NotTrusted, telemetry::chain(error))
            .hint("every device would refuse it: mend that variant, or leave it out of model.toml"),
        PublishError::NotForGpu { .. } => Refused::new(ErrorCode::NotTrusted, error.to_string())
            .hint("take \"wgpu\" out of its `engines` in model.toml; `cloud-hub model check` lists what is missing"),
        PublishError::Memory { .. } => Refused::new(ErrorCode::NotTrusted, error.to_string())
            .hint("make the model smaller, or raise inference.run_memory_max_bytes in hub.toml"),
        PublishError::Score { .. } => Refused::new(ErrorCode::BadRequest, error.to_string())
            .hint("correct [score] in model.toml: with a wrong rule a device keeps every answer, or none"),
        PublishError::Worse { .. } => Refused::new(ErrorCode::Conflict, error.to_string())
            .hint("correct model.toml, or publish it as it is with: cloud-hub model push DIR --force"),
        PublishError::Stopped(cause) => super::trust::refuse(cause),
        PublishError::Blob(cause) => Refused::storage(cause),
        PublishError::Metadata(cause) => Refused::storage(cause),
        PublishError::Store(cause) => Refused::storage(cause),
    }
}
