//! The task of one model: feeds its update machine and does what it says, one job at a time.

use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bundle::{Bundle, Verified};
use edge_core::slots::{Installed, Slots};
use edge_core::update::{
    Event, Failure, FailureKind, OfferKind, OnDisk, Outcome, Report, Stage, Step, Updater as Machine, resume,
};
use store::{StoreError, Table};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use types::Version;

use super::failover::Failovers;
use super::jobs::{self, Candidate, Done};
use super::load::{Trial, Wanted};
use super::{Attempts, LoadTable, Transfers, disk, fetch, trouble};
use crate::config::UpdatesTable;
use crate::crash::{CrashPoint, crash_at};
use crate::engines::Engines;
use crate::models::{Model, Serving};
use crate::records::v1::FailedVersion as FailedRecord;
use crate::reports::Reports;
use crate::state::Folder;
use crate::status::{FailedVersion, SharedStatus};
use crate::trust::DeviceTrust;
use crate::uplink::Link;

/// Parts that the updater of one model uses.
#[derive(Debug)]
pub struct UpdaterParts {
    /// Model that is updated.
    pub model: Arc<Model>,
    /// State folder with the versions.
    pub folder: Folder,
    /// Trust in versions; `None` on a device that was never enrolled.
    pub trust: Option<Arc<DeviceTrust>>,
    /// The way to the hub.
    pub link: Link,
    /// Engines that can run the model.
    pub engines: Arc<Engines>,
    /// Configuration of its loads.
    pub load: LoadTable,
    /// Limits of the configuration.
    pub updates: UpdatesTable,
    /// The downloads of all models.
    pub transfers: Arc<Transfers>,
    /// Outbox of reports to the hub.
    pub reports: Arc<Reports>,
    /// Versions that were given up, by `<model>/<version>`.
    pub failed: Table<FailedRecord>,
    /// Loads that were begun.
    pub attempts: Attempts,
    /// Status of the agent, updated at each change.
    pub shared_status: Arc<SharedStatus>,
}

impl UpdaterParts {
    /// Writes down how far a download is.
    pub(super) fn note_bytes(&self, done: u64, total: u64) {
        self.shared_status.updater(&self.model.name, |part| {
            part.update.bytes_done = done;
            part.update.bytes_total = total;
        });
    }

    fn key(&self, version: Version) -> String {
        format!("{}/{version}", self.model.name)
    }
}

/// A job under way, and how to tell it to stop.
struct Job {
    work: Pin<Box<dyn Future<Output = Result<Done, Failure>> + Send>>,
    abandoned: CancellationToken,
}

/// Results of the jobs of the version under way.
#[derive(Debug, Default)]
struct Made {
    candidate: Option<Candidate>,
    bundle: Option<Bundle<Verified>>,
    serving: Option<Arc<Serving>>,
}

/// The task of one model.
pub struct ModelUpdater {
    parts: Arc<UpdaterParts>,
    machine: Machine,
    made: Made,
    job: Option<Job>,
    failovers: Failovers,
}

impl std::fmt::Debug for ModelUpdater {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ModelUpdater").field("machine", &self.machine).finish_non_exhaustive()
    }
}

impl ModelUpdater {
    /// Takes up where the last run was cut off, and loads what served then.
    ///
    /// # Errors
    /// When the store does not read.
    pub async fn resume(parts: UpdaterParts) -> Result<Self, StoreError> {
        let parts = Arc::new(parts);
        let mut failed = failed_versions(&parts).await?;
        let looker = Arc::clone(&parts);
        let found = tokio::task::spawn_blocking(move || {
            let (folder, model) = (&looker.folder, &looker.model.name);
            let slots = disk::read_slots(folder, model).unwrap_or_else(|error| {
                tracing::error!(%model, error = telemetry::chain(&error), "the pointers of a model cannot be read");
                Slots::default()
            });
            (slots, disk::look(folder, model))
        });
        let (slots, mut found) = found.await.unwrap_or_default();
        // Before the machine is told what is there: a version that cannot be loaded without harm is not.
        let (serving, crashed) = load_what_served(&parts, &slots, &found.complete).await;
        for (version, failure) in crashed {
            found.complete.retain(|installed| installed.version != version);
            if let Err(error) = parts.failed.put(&parts.key(version), &failure).await {
                tracing::warn!(error = telemetry::chain(&error), "what failed is remembered in memory only");
            }
            failed.insert(version, failure);
        }
        let on_disk = OnDisk { slots, complete: found.complete, partial: found.partial, failed };
        let (machine, steps) = resume(parts.model.name.clone(), on_disk);
        let failovers = Failovers::new(Arc::clone(&parts));
        let mut updater = Self { parts, machine, made: Made::default(), job: None, failovers };
        for step in steps {
            updater.obey(step).await;
        }
        match serving {
            Some(serving) => drop(updater.parts.model.switch(Some(serving))),
            None => tracing::info!(model = %updater.parts.model.name, "no version is installed yet"),
        }
        updater.note();
        Ok(updater)
    }

    /// Takes offers and works on them until `stop` is cancelled. What is under way then is taken up at the next start.
    pub async fn run(mut self, mut offers: mpsc::Receiver<(Version, OfferKind)>, stop: CancellationToken) {
        let mut link = self.parts.link.clone();
        if link.is_online() {
            self.handle(Event::HubOnline).await;
        }
        loop {
            let timeout = self.machine.poll_timeout().map(|(until, _why)| until);
            let event = tokio::select! {
                () = stop.cancelled() => return,
                online = link.changed() => if online { Event::HubOnline } else { Event::HubAway },
                Some((version, kind)) = offers.recv() => {
                    if !self.parts.updates.enabled {
                        tracing::info!(model = %self.parts.model.name, %version, "updates are switched off: not taken");
                        continue;
                    }
                    Event::Offered { version, kind }
                }
                ended = job_end(&mut self.job) => self.job_ended(ended),
                turn = self.failovers.next() => {
                    self.failovers.on(turn).await;
                    continue;
                }
                () = sleep_until(timeout) => Event::Tick,
            };
            self.handle(event).await;
        }
    }

    async fn handle(&mut self, event: Event) {
        let is_switched = event == Event::Switched;
        if let Event::Failed(failure) = &event {
            tracing::warn!(model = %self.parts.model.name, state = self.machine.state().name(), %failure, "update");
            let said = failure.to_string();
            self.parts.shared_status.updater(&self.parts.model.name, |part| part.update.last_error = Some(said));
        }
        let mut steps: VecDeque<Step> = match self.machine.handle(event, Instant::now(), rand::random()) {
            Ok(steps) => steps.into(),
            Err(refused) => {
                tracing::error!(
                    error = telemetry::chain(&refused),
                    "event is invalid in the current state of the update"
                );
                return;
            }
        };
        while let Some(step) = steps.pop_front() {
            self.obey(step).await;
        }
        if is_switched {
            crash_at(CrashPoint::Collected);
            self.parts
                .shared_status
                .updater(&self.parts.model.name, |part| (part.update.last_error, part.failover) = (None, None));
        }
        self.note();
    }

    fn job_ended(&mut self, ended: Result<Done, Failure>) -> Event {
        self.job = None;
        match ended {
            Ok(Done::Trusted(candidate)) => {
                self.made = Made { candidate: Some(*candidate), ..Made::default() };
                Event::Trusted
            }
            Ok(Done::Fetched) => Event::Fetched,
            Ok(Done::Verified(bundle)) => {
                let installed = disk::installed(&bundle);
                self.made.bundle = Some(*bundle);
                Event::Verified(installed)
            }
            Ok(Done::Loaded(serving)) => {
                self.made.serving = Some(serving);
                Event::Loaded
            }
            Ok(Done::GoldenMatched(serving)) => {
                // Not always the engine that it was loaded on first.
                self.made.serving = Some(serving);
                Event::GoldenMatched
            }
            Ok(Done::Switched) => {
                self.made = Made::default();
                Event::Switched
            }
            Err(failure) => Event::Failed(failure),
        }
    }

    async fn obey(&mut self, step: Step) {
        tracing::debug!(model = %self.parts.model.name, ?step, "update");
        match step {
            Step::RefreshTrust { version } => {
                let abandoned = CancellationToken::new();
                self.begin(jobs::trust(self.parts(), version, abandoned.clone()), abandoned);
            }
            Step::Fetch { .. } => match self.made.candidate.clone() {
                Some(candidate) => {
                    let abandoned = CancellationToken::new();
                    self.begin(fetch::fetch(self.parts(), candidate, abandoned.clone()), abandoned);
                }
                None => self.begin_lost(),
            },
            Step::Verify { .. } => match self.made.candidate.clone() {
                Some(candidate) => self.begin(jobs::verify(self.parts(), candidate), CancellationToken::new()),
                None => self.begin_lost(),
            },
            Step::Load { .. } => match self.made.bundle.clone() {
                Some(bundle) => self.begin(jobs::load(self.parts(), bundle), CancellationToken::new()),
                None => self.begin_lost(),
            },
            Step::CheckGolden { .. } => match (self.made.bundle.clone(), self.made.serving.clone()) {
                (Some(bundle), Some(serving)) => {
                    self.begin(jobs::golden(self.parts(), bundle, serving), CancellationToken::new());
                }
                (None, _) | (_, None) => self.begin_lost(),
            },
            Step::Switch { slots, .. } => match self.made.serving.clone() {
                Some(serving) => self.begin(jobs::switch(self.parts(), serving, slots), CancellationToken::new()),
                None => self.begin_lost(),
            },
            Step::Abandon { .. } => {
                if let Some(job) = &self.job {
                    job.abandoned.cancel();
                }
            }
            Step::Unload { .. } => self.made.serving = None,
            Step::Remove { version } => self.remove(version).await,
            Step::Repair { slots } => self.repair(slots).await,
            Step::Report(report) => self.report(report).await,
            Step::Remember { version, failure } => {
                let kept = self.parts.failed.put(&self.parts.key(version), &failure).await;
                self.say_if_not_kept(kept);
            }
            Step::Forget { version } => {
                let kept = self.parts.failed.delete(&self.parts.key(version)).await;
                self.say_if_not_kept(kept);
            }
            // The loop asks the machine for its next time-out.
            Step::WaitUntil(_) => {}
        }
    }

    fn parts(&self) -> Arc<UpdaterParts> {
        Arc::clone(&self.parts)
    }

    fn begin(
        &mut self,
        work: impl Future<Output = Result<Done, Failure>> + Send + 'static,
        abandoned: CancellationToken,
    ) {
        self.job = Some(Job { work: Box::pin(work), abandoned });
    }

    /// Begins a version again when the result of an earlier job is gone.
    fn begin_lost(&mut self) {
        let failure = trouble::because(FailureKind::Interrupted, "what an earlier step made is gone");
        self.begin(async { Err(failure) }, CancellationToken::new());
    }

    async fn remove(&mut self, version: Version) {
        self.made = Made::default();
        let parts = self.parts();
        let removed =
            tokio::task::spawn_blocking(move || disk::remove(&parts.folder, &parts.model.name, version)).await;
        if let Ok(Err(error)) = removed {
            // Found again at the next start.
            tracing::warn!(error = telemetry::chain(&error), %version, "a version was not removed");
        }
    }

    async fn repair(&mut self, slots: Slots) {
        tracing::warn!(model = %self.parts.model.name, ?slots, "the pointers are repaired");
        let parts = self.parts();
        let written =
            tokio::task::spawn_blocking(move || disk::write_slots(&parts.folder, &parts.model.name, &slots)).await;
        if let Ok(Err(failure)) = written {
            tracing::error!(%failure, "repaired pointers were not written: they are repaired again at the next start");
        }
    }

    async fn report(&mut self, report: Report) {
        if report.outcome.is_final() {
            telemetry::metrics::update_ended(self.parts.model.name.as_str(), report.outcome.as_str());
        }
        tracing::info!(
            model = %report.model,
            version = %report.version,
            stage = %report.stage,
            outcome = report.outcome.as_str(),
            "update"
        );
        self.parts.reports.push(report).await;
        crash_at(CrashPoint::ReportStored);
    }

    fn say_if_not_kept(&self, kept: Result<(), StoreError>) {
        if let Err(error) = kept {
            tracing::warn!(error = telemetry::chain(&error), "what failed is remembered in memory only");
        }
    }

    /// Writes down where the update stands.
    fn note(&self) {
        let state = self.machine.state();
        if self.machine.slots().active_version().is_none() {
            let newest = self.machine.failed().last_key_value();
            self.parts.model.set_given_up(newest.map(|(version, failure)| format!("version {version}: {failure}")));
        }
        self.parts.shared_status.updater(&self.parts.model.name, |part| {
            part.previous = self.machine.slots().previous.clone();
            state.name().clone_into(&mut part.update.state);
            part.update.version = state.target();
            if state.target().is_none() {
                (part.update.bytes_done, part.update.bytes_total) = (0, 0);
            }
            let failed = |(version, failure): (&Version, &Failure)| FailedVersion {
                version: *version,
                kind: failure.kind.as_str().to_owned(),
                detail: failure.detail.clone(),
            };
            part.failed = self.machine.failed().iter().map(failed).collect();
        });
    }
}

/// Loads the active version; where that does not load any more, the one before it. Also returns the versions that ended their
/// child process, or the agent, so often that they are given up.
async fn load_what_served(
    parts: &Arc<UpdaterParts>,
    slots: &Slots,
    complete: &[Installed],
) -> (Option<Arc<Serving>>, Vec<(Version, Failure)>) {
    let mut crashed = Vec::new();
    let slots = [&slots.active, &slots.previous].into_iter().flatten();
    for installed in slots.filter(|installed| complete.contains(installed)) {
        let loader = Arc::clone(parts);
        let version = installed.version;
        let loaded = tokio::task::spawn_blocking(move || {
            let bundle = disk::installed_bundle(&loader.folder, &loader.model.name, version);
            let bundle = bundle.map_err(|error| trouble::of_verify(&error))?;
            let wanted = Wanted::by(&loader.model.table);
            let serving = super::load(&loader.engines, &loader.load, &loader.attempts, &bundle, wanted, Trial::Proven)?;
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
                parts.reports.push(Report { model, version, stage: Stage::Active, outcome }).await;
            }
        }
    }
    (None, crashed)
}

/// Where there is a choice of engines, the configuration or a driver may have changed since the golden inputs were
/// answered. The last engine serves what it was trusted with before.
async fn prove(parts: &Arc<UpdaterParts>, bundle: Bundle<Verified>, serving: Arc<Serving>) -> Arc<Serving> {
    let behind = Wanted { after: Some(serving.engine), ..Wanted::by(&parts.model.table) };
    if behind.among(&parts.engines, &bundle.variant().engines).next().is_none() {
        return serving;
    }
    jobs::proven(parts, &bundle, serving).await.unwrap_or_else(|(serving, failure)| {
        tracing::error!(model = %parts.model.name, %failure, "no engine gives the golden answers");
        serving
    })
}

/// Ends when the job does; never, when there is none.
async fn job_end(job: &mut Option<Job>) -> Result<Done, Failure> {
    match job {
        Some(job) => job.work.as_mut().await,
        None => std::future::pending().await,
    }
}

async fn sleep_until(instant: Option<Instant>) {
    match instant {
        // Never in the past by much: a machine that asks for a moment gone by must not spin the task.
        Some(instant) => tokio::time::sleep_until(instant.max(Instant::now() + Duration::from_millis(1)).into()).await,
        None => std::future::pending().await,
    }
}

async fn failed_versions(parts: &UpdaterParts) -> Result<BTreeMap<Version, Failure>, StoreError> {
    let prefix = format!("{}/", parts.model.name);
    let all = parts.failed.list().await?.records;
    let of_model = |(key, failure): (String, Failure)| Some((key.strip_prefix(&prefix)?.parse().ok()?, failure));
    Ok(all.into_iter().filter_map(of_model).collect())
}
