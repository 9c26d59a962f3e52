//! From an engine whose device was lost to the next one, and back when that engine was opened again, while the updater goes on with
//! its own work.
//!
//! Fed by requests that found the device gone ([`crate::models::Model::tell_lost`]); loads the version that serves once
//! more, on an engine that is left. Meanwhile the lost session answers every request with a failure at once, and the
//! policies ask the hub. When no engine is left the model serves nothing here, and says so.

use std::pin::Pin;
use std::sync::Arc;

use edge_core::update::{Failure, FailureKind, Outcome, Report, Stage};
use service::clock;
use tokio::sync::watch;
use types::Version;

use super::load::{Trial, Wanted};
use super::task::UpdaterParts;
use super::{admission, disk, trouble};
use crate::models::{Residency, Serving};
use crate::status::Failover;

type Loading = Pin<Box<dyn Future<Output = Result<Arc<Serving>, Failure>> + Send>>;

/// A model on its way to another engine.
struct UnderWay {
    /// Version and engine that serve now; `None` when nothing serves.
    left: Option<Arc<Serving>>,
    version: Version,
    kind: FailureKind,
    why: String,
    /// Whether an engine was opened again: what serves goes on serving unless a better engine loads the version.
    is_return: bool,
    loading: Loading,
}

/// Reason for a change of the engine.
pub(super) enum Turn {
    /// Some device was found gone.
    Loss,
    /// Some engine was opened again.
    Return,
    /// A client asks that the model be loaded.
    Wanted,
    /// The next engine has loaded the version, or there is none.
    Loaded(Result<Arc<Serving>, Failure>),
}

/// Keeps one model on an engine that is there.
pub(super) struct Failovers {
    parts: Arc<UpdaterParts>,
    losses: watch::Receiver<u64>,
    returns: watch::Receiver<u64>,
    residency: watch::Receiver<Residency>,
    under_way: Option<UnderWay>,
    /// Whether an engine was opened again while another one was loading the version.
    return_waits: bool,
}

impl Failovers {
    pub(super) fn new(parts: Arc<UpdaterParts>) -> Self {
        let (losses, returns) = (parts.model.losses(), parts.shared.engines.returns());
        let residency = parts.model.residency();
        Self { parts, losses, returns, residency, under_way: None, return_waits: false }
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
            Ok(_wish) = self.residency.wait_for(|wish| *wish == Residency::Wanted) => Turn::Wanted,
            // The engines hold the other end.
            Ok(()) = self.returns.changed() => Turn::Return,
        }
    }

    /// Carries out the decision. `is_leaving` says that the updater returns to an earlier version.
    pub(super) async fn on(&mut self, turn: Turn, is_leaving: bool) {
        let is_condemned = || self.parts.model.serving().is_some_and(|serving| serving.session.condemned().is_some());
        match turn {
            Turn::Loss if is_leaving && is_condemned() => {}
            Turn::Loss => self.look().await,
            Turn::Return => self.come_back().await,
            Turn::Wanted => self.load_installed().await,
            Turn::Loaded(loaded) => {
                self.loaded(loaded).await;
                if std::mem::take(&mut self.return_waits) {
                    self.come_back().await;
                }
            }
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
        let Some(why) = condemned.or_else(|| lost.on.lost()) else { return };
        let model = &self.parts.model.name;
        tracing::error!(%model, engine = %lost.engine, why, "a version cannot run any more: another is loaded");
        telemetry::metrics::engine_failed_over(model.as_str(), lost.engine.as_str());
        report(&self.parts, lost.installed.version, Outcome::Retrying(trouble::because(kind, why.clone()))).await;
        let loading = Box::pin(load_again(Arc::clone(&self.parts), Arc::clone(&lost)));
        let version = lost.installed.version;
        self.under_way = Some(UnderWay { left: Some(lost), version, kind, why, is_return: false, loading });
    }

    /// Goes to an engine that was opened again, where it comes before the one that the model is on.
    async fn come_back(&mut self) {
        if self.under_way.is_some() {
            self.return_waits = true;
            return;
        }
        if self.parts.model.is_unloaded() {
            return;
        }
        let left = self.parts.model.serving();
        if left.as_ref().is_some_and(|serving| serving.on.lost().is_some()) {
            // No request has found that out yet.
            self.look().await;
            return;
        }
        let version = match &left {
            Some(serving) => Some(serving.installed.version),
            None => self.installed_version().await,
        };
        let Some(version) = version else { return };
        let best = match left.as_ref().and_then(|serving| serving.variant()) {
            Some(variant) => self.parts.wanted().among(&self.parts.shared.engines, &variant.engines).next(),
            None => None,
        };
        let is_there = |serving: &Arc<Serving>| best.is_none_or(|best| best.name() == serving.engine);
        if left.as_ref().is_some_and(is_there) {
            return;
        }
        tracing::info!(model = %self.parts.model.name, "an engine was opened again: the version is loaded on it");
        let loading = Box::pin(load_back(Arc::clone(&self.parts), version, false));
        let why = "the engine that comes before it was opened again".to_owned();
        self.under_way = Some(UnderWay { left, version, kind: FailureKind::EngineLost, why, is_return: true, loading });
    }

    /// Loads the installed version on request of a client.
    async fn load_installed(&mut self) {
        let loaded = match self.installed_version().await {
            Some(version) => {
                let parts = Arc::clone(&self.parts);
                load_back(parts, version, true).await.map_err(|failure| failure.to_string())
            }
            None => Err("no version is installed yet".to_owned()),
        };
        match &loaded {
            Ok(serving) => {
                let version = serving.installed.version;
                tracing::info!(model = %self.parts.model.name, %version, "loaded on request");
            }
            Err(reason) => tracing::warn!(model = %self.parts.model.name, reason, "not loaded on request"),
        }
        self.parts.model.loaded(loaded);
    }

    /// The version that should serve, by the pointers on the disk.
    async fn installed_version(&mut self) -> Option<Version> {
        let parts = Arc::clone(&self.parts);
        let read = tokio::task::spawn_blocking(move || disk::read_slots(&parts.shared.folder, &parts.model.name));
        read.await.ok()?.ok()?.active_version()
    }

    /// Has the version serve on an engine that was opened again; what serves stays where that failed.
    async fn returned(&mut self, left: Option<Arc<Serving>>, version: Version, why: String, loaded: Arc<Serving>) {
        let model = &self.parts.model.name;
        if left.as_ref().is_some_and(|left| left.engine == loaded.engine) {
            return;
        }
        let (to, outcome) = (loaded.engine, Outcome::Active(loaded.installed.clone()));
        let is_taken = match &left {
            Some(left) => self.parts.model.replace(left, Some(loaded)),
            None => self.parts.model.fill(loaded),
        };
        if !is_taken {
            tracing::info!(%model, "another version serves meanwhile");
            return;
        }
        tracing::info!(%model, engine = %to, "serves on the engine that was opened again");
        telemetry::metrics::engine_taken_back(model.as_str(), to.as_str());
        let from = left.map_or(to, |left| left.engine);
        let failover = Failover { from, to: Some(to), cause: why, at_unix_ms: clock::unix_ms() };
        self.parts.shared.shared_status.updater(model, |part| part.failover = Some(failover));
        report(&self.parts, version, outcome).await;
    }

    async fn loaded(&mut self, loaded: Result<Arc<Serving>, Failure>) {
        let Some(UnderWay { left, version, kind, why, is_return, .. }) = self.under_way.take() else { return };
        if is_return {
            match loaded {
                Ok(loaded) => self.returned(left, version, why, loaded).await,
                Err(failure) => tracing::warn!(model = %self.parts.model.name, %failure, "it is not taken back"),
            }
            return;
        }
        let Some(lost) = left else { return };
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
        let at_unix_ms = clock::unix_ms();
        let failover = Failover { from: lost.engine, to, cause, at_unix_ms };
        self.parts.shared.shared_status.updater(model, |part| part.failover = Some(failover));
        report(&self.parts, lost.installed.version, outcome).await;
    }
}

async fn report(parts: &UpdaterParts, version: Version, outcome: Outcome) {
    let model = parts.model.name.clone();
    parts.shared.reports.push(Report { model, version, stage: Stage::Loading, outcome }).await;
}

/// Loads a version on the first engine that takes it; with `is_wish` only where the memory is free.
async fn load_back(parts: Arc<UpdaterParts>, version: Version, is_wish: bool) -> Result<Arc<Serving>, Failure> {
    let loaded = tokio::task::spawn_blocking(move || {
        let bundle = disk::installed_bundle(&parts.shared.folder, &parts.model.name, version);
        let bundle = bundle.map_err(|error| trouble::of_verify(&error))?;
        let _reserved = is_wish.then(|| admission::reserve(&parts, bundle.variant())).transpose()?;
        let wanted = parts.wanted();
        super::load(&parts.shared.engines, &parts.shared.load, &parts.shared.attempts, &bundle, wanted, Trial::Proven)
    });
    loaded.await.unwrap_or_else(|_stopped| Err(trouble::interrupted()))
}

/// Loads the same version once more, on an engine that is left; the version before it, where this one keeps ending its child
/// process.
async fn load_again(parts: Arc<UpdaterParts>, lost: Arc<Serving>) -> Result<Arc<Serving>, Failure> {
    let loaded = tokio::task::spawn_blocking(move || {
        let load = |version, wanted| {
            let bundle = disk::installed_bundle(&parts.shared.folder, &parts.model.name, version);
            let bundle = bundle.map_err(|error| trouble::of_verify(&error))?;
            super::load(
                &parts.shared.engines,
                &parts.shared.load,
                &parts.shared.attempts,
                &bundle,
                wanted,
                Trial::Proven,
            )
        };
        let wanted = parts.wanted();
        if lost.session.condemned().is_none() {
            return load(lost.installed.version, wanted);
        }
        // The engine is well and the version is not: another engine, else the version before it.
        let elsewhere = load(lost.installed.version, Wanted { after: Some(lost.engine), ..wanted });
        elsewhere.or_else(|failure| {
            let slots = disk::read_slots(&parts.shared.folder, &parts.model.name).unwrap_or_default();
            match slots.previous.into_iter().find(|previous| previous.version != lost.installed.version) {
                Some(previous) => load(previous.version, wanted),
                None => Err(failure),
            }
        })
    });
    loaded.await.unwrap_or_else(|_stopped| Err(trouble::interrupted()))
}
