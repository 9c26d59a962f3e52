//! From an engine whose device was lost to the next one, while the updater goes on with its own work.
//!
//! Fed by requests that found the device gone ([`crate::models::Model::tell_lost`]); loads the version that serves once
//! more, on an engine that is left. Meanwhile the lost session answers every request with a failure at once, and the
//! policies ask the hub. When no engine is left the model serves nothing here, and says so.

use std::pin::Pin;
use std::sync::Arc;

use edge_core::update::{Failure, FailureKind, Outcome, Report, Stage};
use tokio::sync::watch;

use super::load::{Trial, Wanted};
use super::task::UpdaterParts;
use super::{disk, trouble};
use crate::board::Failover;
use crate::models::Serving;

type Loading = Pin<Box<dyn Future<Output = Result<Arc<Serving>, Failure>> + Send>>;

/// A model on its way to another engine.
struct UnderWay {
    lost: Arc<Serving>,
    kind: FailureKind,
    why: String,
    loading: Loading,
}

/// What happened.
pub(super) enum Turn {
    /// Some device was found gone.
    Loss,
    /// The next engine has loaded the version, or there is none.
    Loaded(Result<Arc<Serving>, Failure>),
}

/// Keeps one model on an engine that is there.
pub(super) struct Failovers {
    parts: Arc<UpdaterParts>,
    losses: watch::Receiver<u64>,
    under_way: Option<UnderWay>,
}

impl Failovers {
    pub(super) fn new(parts: Arc<UpdaterParts>) -> Self {
        let losses = parts.model.losses();
        Self { parts, losses, under_way: None }
    }

    /// Waits for what happens next.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub(super) async fn next(&mut self) -> Turn {
        let loaded = async {
            match &mut self.under_way {
                Some(under_way) => under_way.loading.as_mut().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            loaded = loaded => Turn::Loaded(loaded),
            // The model holds the other end, so it cannot be closed.
            Ok(()) = self.losses.changed() => Turn::Loss,
        }
    }

    /// Does what follows.
    pub(super) async fn on(&mut self, turn: Turn) {
        match turn {
            Turn::Loss => self.look().await,
            Turn::Loaded(loaded) => self.loaded(loaded).await,
        }
    }

    /// Whether the device that is gone is the one under this model.
    async fn look(&mut self) {
        if self.under_way.is_some() {
            return;
        }
        let Some(lost) = self.parts.model.serving() else { return };
        let condemned = lost.session.condemned();
        let kind = if condemned.is_some() { FailureKind::EngineCrashed } else { FailureKind::EngineLost };
        let Some(why) = condemned.or_else(|| self.parts.engines.lost(lost.engine)) else { return };
        let model = &self.parts.model.name;
        tracing::error!(%model, engine = %lost.engine, why, "a version cannot run any more: another is loaded");
        telemetry::metrics::engine_failed_over(model.as_str(), lost.engine.as_str());
        report(&self.parts, &lost, Outcome::Retrying(trouble::because(kind, why.clone()))).await;
        let loading = Box::pin(load_again(Arc::clone(&self.parts), Arc::clone(&lost)));
        self.under_way = Some(UnderWay { lost, kind, why, loading });
    }

    async fn loaded(&mut self, loaded: Result<Arc<Serving>, Failure>) {
        let Some(UnderWay { lost, kind, why, .. }) = self.under_way.take() else { return };
        let model = &self.parts.model.name;
        let (to, cause, outcome) = match &loaded {
            Ok(serving) => (Some(serving.engine), why, Outcome::Active(serving.installed.clone())),
            Err(failure) => {
                // The hub keeps the last report: it must name the first cause too.
                let cause = format!("{why}; {failure}");
                (None, cause.clone(), Outcome::Retrying(trouble::because(kind, cause)))
            }
        };
        if to.is_none() {
            self.parts.model.set_given_up(Some(format!("version {}: {cause}", lost.installed.version)));
        }
        if !self.parts.model.replace(&lost, loaded.ok()) {
            tracing::info!(%model, "another version serves meanwhile");
            return;
        }
        match to {
            Some(engine) => tracing::info!(%model, %engine, "serves again on this device"),
            None => tracing::error!(%model, cause, "no engine is left for it on this device: only the hub answers"),
        }
        let at_unix_ms = crate::clock::unix_ms();
        let failover = Failover { from: lost.engine, to, cause, at_unix_ms };
        self.parts.board.updater(model, |part| part.failover = Some(failover));
        report(&self.parts, &lost, outcome).await;
    }
}

async fn report(parts: &UpdaterParts, lost: &Serving, outcome: Outcome) {
    let (model, version) = (parts.model.name.clone(), lost.installed.version);
    parts.reports.push(Report { model, version, stage: Stage::Loading, outcome }).await;
}

/// Loads the same version once more, on an engine that is left; the version before it, where this one keeps ending its child
/// process.
async fn load_again(parts: Arc<UpdaterParts>, lost: Arc<Serving>) -> Result<Arc<Serving>, Failure> {
    let loaded = tokio::task::spawn_blocking(move || {
        let load = |version, wanted| {
            let bundle = disk::installed_bundle(&parts.folder, &parts.model.name, version);
            let bundle = bundle.map_err(|error| trouble::of_verify(&error))?;
            super::load(&parts.engines, &parts.load, &parts.attempts, &bundle, wanted, Trial::Proven)
        };
        let wanted = Wanted::by(&parts.model.table);
        if lost.session.condemned().is_none() {
            return load(lost.installed.version, wanted);
        }
        // The engine is well and the version is not: another engine, else the version before it.
        let elsewhere = load(lost.installed.version, Wanted { after: Some(lost.engine), ..wanted });
        elsewhere.or_else(|failure| {
            let slots = disk::read_slots(&parts.folder, &parts.model.name).unwrap_or_default();
            match slots.previous.filter(|previous| previous.version != lost.installed.version) {
                Some(previous) => load(previous.version, wanted),
                None => Err(failure),
            }
        })
    });
    loaded.await.unwrap_or_else(|_stopped| Err(trouble::interrupted()))
}
