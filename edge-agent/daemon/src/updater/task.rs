//! The task of one model: feeds its update machine and does what it says, one job at a time.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use bundle::{Bundle, Verified};
use edge_core::update::{Event, Failure, FailureKind, Step, Updater as Machine};
use store::Table;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use types::Version;

use super::commands::{self, Command, HubOrder, NotOrdered};
use super::failover::Failovers;
use super::forms::Choice;
use super::gate::Gate;
use super::jobs::{self, Candidate, Done};
use super::keep;
use super::observe::{self, Observer};
use super::shared::SharedParts;
use super::{disk, fetch, measure, shadow, trouble};
use crate::crash::{CrashPoint, crash_at};
use crate::models::{Model, Serving};
use crate::records::v1::{ChosenForm, FailedVersion as FailedRecord, OnProbation, StandingOrders};
use crate::status::{FailedVersion, OrdersStatus, ProbationStatus};

/// Parts that the updater of one model uses.
#[derive(Debug)]
pub struct UpdaterParts {
    /// Model that is updated.
    pub model: Arc<Model>,
    /// Parts that it shares with the updaters of the other models.
    pub shared: SharedParts,
    /// Versions that were given up, by `<model>/<version>`.
    pub failed: Table<FailedRecord>,
    /// Orders of owner and hub, by model.
    pub orders: Table<StandingOrders>,
    /// Probations, by model.
    pub probations: Table<OnProbation>,
    /// Measured choices of a form, by model.
    pub choices: Table<ChosenForm>,
    /// The choice of this model, as it is stored.
    pub choice: RwLock<Option<Choice>>,
}

impl UpdaterParts {
    /// Writes down how far a download is.
    pub(super) fn note_bytes(&self, done: u64, total: u64) {
        self.shared.shared_status.updater(&self.model.name, |part| {
            part.update.bytes_done = done;
            part.update.bytes_total = total;
        });
    }

    pub(super) fn key(&self, version: Version) -> String {
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
    /// Variants that the bundle is measured against.
    others: Vec<Bundle<Verified>>,
    serving: Option<Arc<Serving>>,
}

/// The task of one model.
pub struct ModelUpdater {
    pub(super) parts: Arc<UpdaterParts>,
    pub(super) machine: Machine,
    made: Made,
    job: Option<Job>,
    failovers: Failovers,
    observer: Observer,
    gate: Gate,
    /// Session of the version before the one on probation, ready to serve again.
    standby: Option<Arc<Serving>>,
}

impl std::fmt::Debug for ModelUpdater {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ModelUpdater").field("machine", &self.machine).finish_non_exhaustive()
    }
}

impl ModelUpdater {
    /// Takes offers and works on them until `stop` is cancelled. What is under way then is taken up at the next start.
    pub(super) async fn run(mut self, mut commands: mpsc::Receiver<Command>, stop: CancellationToken) {
        let mut link = self.parts.shared.link.clone();
        if link.is_online() {
            self.handle(Event::HubOnline).await;
        }
        loop {
            let timeout = self.machine.poll_timeout().map(|(until, _why)| until);
            let event = tokio::select! {
                () = stop.cancelled() => {
                    // A stop in good order is no fault of the version on probation.
                    if let Some(probation) = self.machine.probation() {
                        keep::keep_probation(&self.parts, Some(probation.clone()), false).await;
                    }
                    return;
                }
                online = link.changed() => if online { Event::HubOnline } else { Event::HubAway },
                Some(command) = commands.recv() => {
                    self.on_command(command).await;
                    continue;
                }
                ended = job_end(&mut self.job) => {
                    let event = self.job_ended(ended);
                    // The version before is what the new one is held against on probation.
                    let median = self.parts.model.serving().and_then(|serving| serving.vitals.median());
                    self.handle(Event::Baseline(median)).await;
                    event
                }
                turn = self.failovers.next() => {
                    // A version on probation that its engine will not run again is left, and not moved.
                    self.observe().await;
                    self.failovers.on(turn, self.machine.orders().leaving.is_some()).await;
                    continue;
                }
                () = observe::due(self.machine.probation().is_some()) => {
                    self.observe().await;
                    continue;
                }
                () = sleep_until(timeout) => Event::Tick,
            };
            self.handle_gated(event).await;
        }
    }

    pub(super) fn new(parts: Arc<UpdaterParts>, machine: Machine) -> Self {
        let failovers = Failovers::new(Arc::clone(&parts));
        let gate = Gate::new(&parts.shared.updates);
        Self {
            parts,
            machine,
            made: Made::default(),
            job: None,
            failovers,
            observer: Observer::default(),
            gate,
            standby: None,
        }
    }

    /// Tells the machine what the version on probation did.
    async fn observe(&mut self) {
        match self.machine.probation().map(|probation| probation.version) {
            Some(version) => {
                let sample = self.observer.sample(version, self.parts.model.serving());
                self.handle(Event::Observed(sample)).await;
            }
            None => self.observer.end(),
        }
    }

    async fn on_command(&mut self, command: Command) {
        let enabled = self.parts.shared.updates.enabled;
        match command {
            Command::Offered(version, _kind) if !enabled => {
                tracing::info!(model = %self.parts.model.name, %version, "updates are switched off: not taken");
            }
            Command::Offered(version, kind) => self.handle_gated(Event::Offered { version, kind }).await,
            Command::Hub(_, done) if !enabled => drop(done.send(Err(NotOrdered::Disabled))),
            Command::Hub(order, done) => {
                match order {
                    HubOrder::Return { from, to, reason } => self.handle(Event::Return { from, to, reason }).await,
                    HubOrder::Pin(version) => self.handle(Event::Pinned(version)).await,
                }
                drop(done.send(Ok(())));
            }
            Command::Owner(order, done) => {
                let checked = self.machine.check_order(&order);
                let effect = commands::effect(&self.parts.model.name, &order, &self.machine);
                if checked.is_ok() {
                    self.handle(Event::Ordered(order)).await;
                }
                drop(done.send(checked.map(|()| effect).map_err(NotOrdered::Refused)));
            }
        }
    }

    /// Handles an event that may begin an update, after a look at the settings that put updates off.
    async fn handle_gated(&mut self, event: Event) {
        if let Some(changed) = self.gate.look().await {
            self.handle(Event::Postponed(changed)).await;
        }
        self.handle(event).await;
    }

    pub(super) async fn handle(&mut self, event: Event) {
        let is_switched = event == Event::Switched;
        if let Event::Failed(failure) = &event {
            tracing::warn!(model = %self.parts.model.name, state = self.machine.state().name(), %failure, "update");
            let said = failure.to_string();
            self.parts.shared.shared_status.updater(&self.parts.model.name, |part| part.update.last_error = Some(said));
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
            self.parts.shared.shared_status.updater(&self.parts.model.name, |part| part.update.last_error = None);
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
            Ok(Done::Verified(bundle, others)) => {
                let installed = disk::installed(&bundle);
                (self.made.bundle, self.made.others) = (Some(*bundle), others);
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
            Ok(Done::Measured(compared, bundle, serving)) => {
                (self.made.bundle, self.made.serving) = (Some(*bundle), Some(serving));
                Event::Measured(compared)
            }
            Ok(Done::Shadowed(tally)) => Event::Shadowed(tally),
            Ok(Done::Switched(before)) => {
                self.made = Made::default();
                self.standby = before;
                Event::Switched
            }
            Err(failure) => Event::Failed(failure),
        }
    }

    pub(super) async fn obey(&mut self, step: Step) {
        tracing::debug!(model = %self.parts.model.name, ?step, "update");
        match step {
            Step::Recall { version } => {
                self.made = Made::default();
                self.begin(jobs::recall(self.parts(), version), CancellationToken::new());
            }
            Step::RefreshTrust { version } => {
                let abandoned = CancellationToken::new();
                // What an order wants serves as soon as it can.
                let measures = self.machine.orders().anchor() != Some(version);
                self.begin(jobs::trust(self.parts(), version, measures, abandoned.clone()), abandoned);
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
            Step::Load { installed } => match self.made.bundle.clone() {
                Some(bundle) => {
                    let ready = self.standby.clone().filter(|standby| standby.is_ready(&installed));
                    self.begin(jobs::load(self.parts(), bundle, ready), CancellationToken::new());
                }
                None => self.begin_lost(),
            },
            Step::CheckGolden { .. } => match (self.made.bundle.clone(), self.made.serving.clone()) {
                (Some(bundle), Some(serving)) => {
                    self.begin(jobs::golden(self.parts(), bundle, serving), CancellationToken::new());
                }
                (None, _) | (_, None) => self.begin_lost(),
            },
            Step::Measure { .. } => match (self.made.bundle.clone(), self.made.serving.clone()) {
                (Some(bundle), Some(serving)) => {
                    let others = std::mem::take(&mut self.made.others);
                    self.begin(measure::measure(self.parts(), bundle, others, serving), CancellationToken::new());
                }
                (None, _) | (_, None) => self.begin_lost(),
            },
            Step::Shadow { .. } => match (self.made.bundle.clone(), self.made.serving.clone()) {
                (Some(bundle), Some(serving)) => {
                    let abandoned = CancellationToken::new();
                    self.begin(shadow::shadow(self.parts(), bundle, serving, abandoned.clone()), abandoned);
                }
                (None, _) | (_, None) => self.begin_lost(),
            },
            Step::Switch { slots, probation, .. } => match self.made.serving.clone() {
                Some(serving) => {
                    let job = jobs::switch(self.parts(), serving, slots, probation);
                    self.begin(job, CancellationToken::new());
                }
                None => self.begin_lost(),
            },
            Step::Abandon { .. } => {
                if let Some(job) = &self.job {
                    job.abandoned.cancel();
                }
            }
            Step::Unload { .. } => self.made.serving = None,
            Step::Remove { version } => self.remove(version).await,
            Step::KeepOrders { orders } => {
                keep::keep_orders(&self.parts, &orders).await;
                crash_at(CrashPoint::OrdersStored);
            }
            Step::KeepProbation { probation } => {
                if probation.is_none() {
                    self.proven().await;
                }
                keep::keep_probation(&self.parts, probation, true).await;
            }
            Step::Repair { slots } => keep::repair(&self.parts, slots).await,
            Step::Report(report) => keep::send_report(&self.parts, report).await,
            Step::Remember { version, failure } => keep::remember(&self.parts, version, &failure).await,
            Step::Forget { version } => {
                let kept = self.parts.failed.delete(&self.parts.key(version)).await;
                keep::say_if_not_kept(kept);
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
            tokio::task::spawn_blocking(move || disk::remove(&parts.shared.folder, &parts.model.name, version)).await;
        if let Ok(Err(error)) = removed {
            // Found again at the next start.
            tracing::warn!(error = telemetry::chain(&error), %version, "a version was not removed");
        }
    }

    /// Ends what a probation needed: the session of the version before, and the process of the version's own.
    async fn proven(&mut self) {
        self.standby = None;
        if let Some(serving) = self.parts.model.serving() {
            jobs::share_host(serving).await;
        }
    }

    /// Writes down where the update stands.
    pub(super) fn note(&self) {
        let state = self.machine.state();
        self.parts.model.set_updating(state.target().is_some());
        if self.machine.slots().active_version().is_none() {
            let newest = self.machine.failed().last_key_value();
            self.parts.model.set_given_up(newest.map(|(version, failure)| format!("version {version}: {failure}")));
        }
        self.parts.shared.shared_status.updater(&self.parts.model.name, |part| {
            part.previous.clone_from(&self.machine.slots().previous);
            part.orders = OrdersStatus::of(self.machine.orders());
            part.probation = self.machine.probation().map(ProbationStatus::from);
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
