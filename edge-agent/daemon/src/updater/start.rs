//! Start of one model's updates: what the disk holds, what the last run left, and the session that served.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};

use bundle::{Bundle, Verified};
use edge_core::slots::{Installed, Slots};
use edge_core::update::{Failure, FailureKind, LastEnd, OnDisk, Outcome, Report, Stage, Step, before_load, resume};
use store::StoreError;
use types::Version;

use super::load::{Trial, Wanted};
use super::task::{ModelUpdater, UpdaterParts};
use super::{disk, jobs, keep, trouble};
use crate::models::Serving;

impl ModelUpdater {
    /// Takes up where the last run was cut off, and loads what served then.
    ///
    /// # Errors
    /// When the store does not read.
    pub(super) async fn resume(parts: UpdaterParts) -> Result<Self, StoreError> {
        let parts = Arc::new(parts);
        let settings = parts.shared.updates.settings();
        let orders = keep::orders(&parts).await?;
        let (mut found, last_end) = look(&parts, &orders).await?;
        let first;
        (found, first) = before_load(&parts.model.name, &settings, found, last_end);
        for step in first {
            write(&parts, step).await;
        }
        // Before the machine is told what is there: a version that cannot be loaded without harm is not.
        let (serving, crashed) = load_what_served(&parts, &found.slots, &found.complete).await;
        for (version, failure) in crashed {
            found.complete.retain(|installed| installed.version != version);
            keep::remember(&parts, version, &failure).await;
            found.failed.insert(version, failure);
        }
        let (machine, steps) = resume(parts.model.name.clone(), settings, found);
        let mut updater = Self::new(parts, machine);
        match serving {
            Some(serving) => drop(updater.parts.model.switch(Some(serving))),
            None => tracing::info!(model = %updater.parts.model.name, "no version is installed yet"),
        }
        for step in steps {
            updater.obey(step).await;
        }
        updater.note();
        Ok(updater)
    }
}

/// Carries out a step that comes before anything is loaded.
async fn write(parts: &Arc<UpdaterParts>, step: Step) {
    match step {
        Step::Repair { slots } => keep::repair(parts, slots).await,
        Step::Remember { version, failure } => keep::remember(parts, version, &failure).await,
        Step::KeepOrders { orders } => keep::keep_orders(parts, &orders).await,
        Step::KeepProbation { probation } => keep::keep_probation(parts, probation, true).await,
        Step::Report(report) => keep::send_report(parts, report).await,
        other => tracing::error!(step = ?other, "this step is not for the start of the agent"),
    }
}

/// Looks at everything there is of a model.
async fn look(
    parts: &Arc<UpdaterParts>,
    orders: &edge_core::update::orders::Orders,
) -> Result<(OnDisk, LastEnd), StoreError> {
    let failed = failed_versions(parts).await?;
    let probation = parts.probations.get(parts.model.name.as_str()).await?;
    let choice = parts.choices.get(parts.model.name.as_str()).await?;
    *parts.choice.write().unwrap_or_else(PoisonError::into_inner) = choice;
    let last_end = probation.as_ref().map_or(LastEnd::Orderly, |stored| stored.last_end(&keep::boot()));
    let looker = Arc::clone(parts);
    let found = tokio::task::spawn_blocking(move || {
        let (folder, model) = (&looker.shared.folder, &looker.model.name);
        let slots = disk::read_slots(folder, model).unwrap_or_else(|error| {
            tracing::error!(%model, error = telemetry::chain(&error), "the pointers of a model cannot be read");
            Slots::default()
        });
        let found = disk::look(folder, model);
        let trusted = looker.shared.trust.as_ref().and_then(|trust| trust.current());
        let is_listed = |version: &Version| {
            let target = trusted.as_ref().and_then(|trusted| trusted.manifest(model, *version).ok());
            target.is_some_and(|target| disk::is_pinned_to(folder, model, *version, target.digest))
        };
        let listed = found.complete.iter().map(|installed| installed.version).filter(is_listed).collect();
        (slots, found, listed)
    });
    let (slots, found, listed) = found.await.unwrap_or_default();
    let found = OnDisk {
        slots,
        complete: found.complete,
        partial: found.partial,
        listed,
        failed,
        orders: orders.clone(),
        probation: probation.map(|stored| stored.probation),
    };
    Ok((found, last_end))
}

/// Loads the active version; where that does not load any more, the one before it. Also returns the versions that ended their
/// child process, or the agent, so often that they are given up.
async fn load_what_served(
    parts: &Arc<UpdaterParts>,
    slots: &Slots,
    complete: &[Installed],
) -> (Option<Arc<Serving>>, Vec<(Version, Failure)>) {
    let mut crashed = Vec::new();
    let slots = slots.all();
    for installed in slots.filter(|installed| complete.contains(installed)) {
        let loader = Arc::clone(parts);
        let version = installed.version;
        let loaded = tokio::task::spawn_blocking(move || {
            let bundle = disk::installed_bundle(&loader.shared.folder, &loader.model.name, version);
            let bundle = bundle.map_err(|error| trouble::of_verify(&error))?;
            let wanted = loader.wanted();
            let serving = super::load(
                &loader.shared.engines,
                &loader.shared.load,
                &loader.shared.attempts,
                &bundle,
                wanted,
                Trial::Proven,
            )?;
            Ok((bundle, serving))
        });
        match loaded.await.unwrap_or_else(|_stopped| Err(trouble::interrupted())) {
            Ok((bundle, serving)) => {
                let serving = prove(parts, bundle, serving).await;
                let (engine, provider) = (serving.engine, serving.session.provider());
                tracing::info!(model = %parts.model.name, %version, %engine, provider, "serving");
                return (Some(serving), crashed);
            }
            Err(failure) if failure.kind == FailureKind::EngineCrashed => {
                tracing::error!(model = %parts.model.name, %version, %failure, "an installed version is given up");
                crashed.push((version, failure));
            }
            Err(failure) => {
                tracing::error!(model = %parts.model.name, %version, %failure, "an installed version does not load");
                let outcome = Outcome::Retrying(failure);
                let model = parts.model.name.clone();
                parts.shared.reports.push(Report { model, version, stage: Stage::Active, outcome }).await;
            }
        }
    }
    (None, crashed)
}

/// Where there is a choice of engines, the configuration or a driver may have changed since the golden inputs were
/// answered. The last engine serves what it was trusted with before.
async fn prove(parts: &Arc<UpdaterParts>, bundle: Bundle<Verified>, serving: Arc<Serving>) -> Arc<Serving> {
    let behind = Wanted { after: Some(serving.engine), ..parts.wanted() };
    if behind.among(&parts.shared.engines, &bundle.variant().engines).next().is_none() {
        return serving;
    }
    jobs::proven(parts, &bundle, serving).await.unwrap_or_else(|(serving, failure)| {
        tracing::error!(model = %parts.model.name, %failure, "no engine gives the golden answers");
        serving
    })
}

async fn failed_versions(parts: &UpdaterParts) -> Result<BTreeMap<Version, Failure>, StoreError> {
    let prefix = format!("{}/", parts.model.name);
    let all = parts.failed.list().await?.records;
    let of_model = |(key, failure): (String, Failure)| Some((key.strip_prefix(&prefix)?.parse().ok()?, failure));
    Ok(all.into_iter().filter_map(of_model).collect())
}
