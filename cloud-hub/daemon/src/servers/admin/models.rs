//! Calls about models and their versions.

use std::sync::Arc;

use hub_core::registry::RegistryError;
use types::ModelName;

use super::Refused;
use super::call::Call;
use crate::api::endpoints::{
    CollectGarbage, DeleteVersion, ListModels, OfferVersion, PublishVersion, ShowFigures, ShowModel, WithdrawVersion,
};
use crate::api::{Deleted, ErrorCode, Garbage, ModelFigures, ModelList, ModelView, Published, Withdrawn};
use crate::app::models::Models;
use crate::app::registry::publish::PublishError;
use crate::app::uploads::Uploads;

/// Answers `GET /models`, in pages.
pub(super) async fn list(models: Arc<Models>, call: Call<ListModels>) -> Result<ModelList, Refused> {
    Ok(models.list(&call.query))
}

/// Answers `GET /models/{model}`.
pub(super) async fn show(models: Arc<Models>, call: Call<ShowModel>) -> Result<ModelView, Refused> {
    let mut view = models.show(&call.id).ok_or_else(|| unknown(&call.id))?;
    view.figures = models.counters.figures(&call.id, None).await.map_err(|error| Refused::storage(&error))?;
    Ok(view)
}

/// Answers `GET /models/{model}/figures`.
pub(super) async fn figures(models: Arc<Models>, call: Call<ShowFigures>) -> Result<ModelFigures, Refused> {
    if models.show(&call.id).is_none() {
        return Err(unknown(&call.id));
    }
    models.counters.model_figures(&call.id).await.map_err(|error| Refused::storage(&error))
}

fn unknown(model: &ModelName) -> Refused {
    Refused::new(ErrorCode::NotFound, format!("no model is called {model}"))
        .hint("see all of them: cloud-hub model list")
}

/// Answers `POST /models/{model}/versions`; on a full disk the files of failed pushes are removed.
pub(super) async fn publish(
    parts: Arc<(Arc<Models>, Arc<Uploads>)>,
    call: Call<PublishVersion>,
) -> Result<Published, Refused> {
    let (models, uploads) = parts.as_ref();
    let refused = match models.publish(&call.by, &call.id, call.body).await {
        Ok(published) => return Ok(published),
        Err(error) => refuse(&error),
    };
    if refused.code() == ErrorCode::Storage {
        uploads.make_room().await;
    }
    Err(refused)
}

/// Answers `POST /models/{model}/offer`.
pub(super) async fn offer(models: Arc<Models>, call: Call<OfferVersion>) -> Result<Published, Refused> {
    models.offer(&call.by, &call.id, call.body.version).await.map_err(|error| refuse(&error))
}

/// Answers `POST /models/{model}/withdraw`.
pub(super) async fn withdraw(models: Arc<Models>, call: Call<WithdrawVersion>) -> Result<Withdrawn, Refused> {
    models.withdraw(&call.by, &call.id, call.body).await.map_err(|error| refuse(&error))
}

/// Answers `POST /models/{model}/delete`.
pub(super) async fn delete(models: Arc<Models>, call: Call<DeleteVersion>) -> Result<Deleted, Refused> {
    models.delete(&call.by, &call.id, call.body).await.map_err(|error| refuse(&error))
}

/// Answers `POST /garbage`.
pub(super) async fn collect_garbage(models: Arc<Models>, call: Call<CollectGarbage>) -> Result<Garbage, Refused> {
    let collected = models.collect_garbage(&call.by, call.body.dry_run).await;
    collected.map_err(|error| Refused::storage(&error))
}

pub(super) fn refuse(error: &PublishError) -> Refused {
    match error {
        PublishError::Registry(RegistryError::UnknownModel(_) | RegistryError::UnknownVersion { .. }) => {
            Refused::new(ErrorCode::NotFound, error.to_string()).hint("see what there is: cloud-hub model list")
        }
        PublishError::Registry(RegistryError::Taken { .. } | RegistryError::NotNewer { .. }) => {
            Refused::new(ErrorCode::Conflict, error.to_string())
                .hint("raise `version` in model.toml and push that; cloud-hub model status shows what there is")
        }
        PublishError::Registry(RegistryError::Current { .. }) => Refused::new(ErrorCode::Conflict, error.to_string())
            .hint("offer devices a higher version first: cloud-hub model push, cloud-hub model offer"),
        PublishError::Kept { .. } => Refused::new(ErrorCode::Conflict, error.to_string()).hint(
            "wait until they have moved on, or revoke devices that do not come back; cloud-hub model gc --dry-run lists \
             versions that no device holds",
        ),
        PublishError::Newest { .. } => Refused::new(ErrorCode::Conflict, error.to_string())
            .hint("publish a higher version first: a number that a device knew never gets other content"),
        PublishError::Taken { .. } => Refused::new(ErrorCode::Conflict, error.to_string()).hint(
            "a version that a device has is followed by a higher one: raise `version` in model.toml and push that",
        ),
        PublishError::InRollout { rollout, .. } => Refused::new(ErrorCode::Conflict, error.to_string()).hint(format!(
            "see it with `cloud-hub rollout show {rollout}`, end it with `cloud-hub rollout abort {rollout}`"
        )),
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
        PublishError::Strict { .. } => Refused::new(ErrorCode::Conflict, error.to_string())
            .hint("correct model.toml (docs/reference/model.md), or push without --strict"),
        PublishError::Stopped(cause) => super::trust::refuse(cause),
        PublishError::Blob(cause) => Refused::storage(cause),
        PublishError::Metadata(cause) => Refused::storage(cause),
        PublishError::Store(cause) => Refused::storage(cause),
    }
}
