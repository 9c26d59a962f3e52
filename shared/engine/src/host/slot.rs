//! One session in a host process, seen from the daemon.
//!
//! A [`Slot`] outlives the processes that its model is loaded in. Fed by a worker's thread through [`HostSession`]; loaded
//! again by [`super::supervisor`], or by the worker itself when that is sooner.

mod round_trip;
mod session;

use std::io;
use std::os::fd::AsFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use types::{NamedTensor, Signature};

use super::death::{DeathCause, HostDeath};
use super::frame::{Described, KEEPSAKE_BYTES_MAX, LoadProblem, Order, PlainOptions, Receiver, Reply, pair};
use super::link::{Link, REGION_BYTES_MAX, garbage, link_process};
use super::memory::{Region, sealed_file};
use super::process::{Death, Process};
use super::record::Record;
use super::supervisor::Host;
use super::{DEATH_WAIT, HostEvent, HostOptions, LOAD_TIME_MAX, START_TIME_MAX};
use crate::session::{Keepsake, LoadError, LoadOptions, ModelSource, RunControl, RunError};

pub(super) use session::HostSession;

/// Bytes of a region that are kept between two runs. Larger requests are rare, and their memory is given back.
const REGION_BYTES_KEPT: usize = 4 * 1024 * 1024;

/// Time between two looks whether a request that waits for its host was cancelled.
const LOOK: Duration = Duration::from_millis(50);

/// Tries of one request: a host may be gone before it sees the request, or end by the request of another model.
const TRIES_MAX: u32 = 3;

/// Keeps the shared host running while an engine or a session needs it.
#[derive(Debug)]
pub(super) struct Lease(pub(super) Arc<Host>);

impl Drop for Lease {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// Parts from which a slot is created.
pub(super) struct SlotParts {
    pub(super) number: u64,
    pub(super) options: LoadOptions,
    pub(super) source: ModelSource,
    pub(super) budget: u64,
    pub(super) host_options: Arc<HostOptions>,
    pub(super) record: Arc<Mutex<Record>>,
    pub(super) lost: Arc<OnceLock<String>>,
    pub(super) shared: Arc<Lease>,
}

/// One session of a process engine, whichever host runs it.
pub(super) struct Slot {
    pub(super) number: u64,
    options: LoadOptions,
    source: ModelSource,
    budget: u64,
    host_options: Arc<HostOptions>,
    record: Arc<Mutex<Record>>,
    /// Set once a host says that the device under its engine is gone.
    lost: Arc<OnceLock<String>>,
    shared: Arc<Lease>,
    described: OnceLock<Described>,
    state: Mutex<State>,
    changed: Condvar,
    /// Held while the model is loaded into a process.
    loading: Mutex<()>,
}

struct State {
    home: Arc<Host>,
    link: Option<Arc<Mutex<Link>>>,
    /// Reason for the failure of the last load.
    problem: Option<String>,
}

impl std::fmt::Debug for Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Slot").field("number", &self.number).field("name", &self.options.name).finish_non_exhaustive()
    }
}

/// Reason why a run on one process returned no outputs.
enum Trouble {
    /// The host was gone before it had the request.
    NotSent,
    /// The host ended during the run.
    Died(Death),
    /// Any other error of the run.
    Error(RunError),
}

impl Slot {
    pub(super) fn new(parts: SlotParts, home: Arc<Host>) -> Arc<Self> {
        let SlotParts { number, options, source, budget, host_options, record, lost, shared } = parts;
        Arc::new(Self {
            number,
            options,
            source,
            budget,
            host_options,
            record,
            lost,
            shared,
            described: OnceLock::new(),
            state: Mutex::new(State { home, link: None, problem: None }),
            changed: Condvar::new(),
            loading: Mutex::default(),
        })
    }

    /// Name of the model.
    pub(super) fn name(&self) -> &str {
        &self.options.name
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Loads the model for the first time, from bytes that are at hand.
    ///
    /// # Errors
    /// When the host refuses the model or ends.
    pub(super) fn load_first(self: &Arc<Self>, bytes: &[u8]) -> Result<(), LoadError> {
        let home = Arc::clone(&self.lock().home);
        let (process, _description) = home.process_within(START_TIME_MAX)?;
        let loading = self.loading.lock().unwrap_or_else(PoisonError::into_inner);
        let link = self.connect(&process, bytes)?;
        self.lock().link = Some(Arc::new(Mutex::new(link)));
        drop(loading);
        home.adopt(self);
        Ok(())
    }

    /// Loads the model again, into a new process of the host that it is in.
    pub(super) fn load_again(&self, host: &Arc<Host>, process: &Arc<Process>) {
        let _loading = self.loading.lock().unwrap_or_else(PoisonError::into_inner);
        {
            let state = self.lock();
            let is_there =
                state.link.as_ref().is_some_and(|link| link_process(link).is_none_or(|at| Arc::ptr_eq(&at, process)));
            if !Arc::ptr_eq(&state.home, host) || is_there || self.record().condemned().is_some() {
                return;
            }
        }
        let loaded = (self.source)().map_err(|error| LoadError::Host(error.into()));
        let loaded = loaded.and_then(|bytes| self.connect(process, &bytes));
        let mut state = self.lock();
        match loaded {
            Ok(link) => {
                (state.link, state.problem) = (Some(Arc::new(Mutex::new(link))), None);
                self.record().loaded();
            }
            Err(error) => {
                let why = telemetry::chain(&error);
                tracing::error!(model = self.name(), error = why, "a model was not loaded again");
                if let LoadError::Died(death) = error {
                    if self.record().load_died(death) {
                        self.say_condemned();
                    }
                } else {
                    state.problem = Some(why);
                }
            }
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Moves to another host, which loads the model again.
    pub(super) fn move_to(&self, home: Arc<Host>) {
        let mut state = self.lock();
        state.home = home;
        state.link = None;
    }

    fn say_condemned(&self) {
        let why = self.record().condemned().unwrap_or_default().to_owned();
        tracing::error!(model = self.name(), why, "a model is not run any more");
        self.host_options.observe(&HostEvent::Condemned { model: self.name().to_owned(), why });
    }

    /// Loads the model into a process and learns its signature.
    fn connect(&self, process: &Arc<Process>, bytes: &[u8]) -> Result<Link, LoadError> {
        let no_room = |error: io::Error| LoadError::Host(error.into());
        let model = sealed_file(bytes).map_err(no_room)?;
        let region = Region::create().map_err(no_room)?;
        let (socket, theirs) = pair().map_err(no_room)?;
        process.set_budget(self.number, Some(self.budget));
        process.begin(self.number);
        let order = Order::Load { session: self.number, options: PlainOptions::from(&self.options) };
        let ordered = process.order(&order, &[model.as_fd(), region.file(), theirs.as_fd()]);
        drop((model, theirs));
        let mut link = Link { process: Arc::clone(process), socket, region, receiver: Receiver::new(), runs: 0 };
        let until = Instant::now().checked_add(LOAD_TIME_MAX);
        let reply = ordered.and_then(|()| link.receiver.receive(&link.socket, until));
        let described = match reply {
            Ok(Reply::Loaded { length }) => link.described(length),
            Ok(Reply::NotLoaded(problem)) => {
                process.end(self.number);
                process.set_budget(self.number, None);
                return Err(self.not_loaded(problem));
            }
            Ok(Reply::Answer { .. } | Reply::NoAnswer { .. }) => Err(garbage("a reply to a request that nobody sent")),
            Err(error) => Err(error),
        };
        match described {
            Ok(described) => {
                process.end(self.number);
                self.keep(&mut link, &described);
                // A host that says something else after a restart has been taken over.
                if self.described.get_or_init(|| described.clone()).signature == described.signature {
                    return Ok(link);
                }
                Err(LoadError::Died(self.ended(process, &garbage("another signature than before")).death))
            }
            Err(error) => Err(LoadError::Died(self.ended(process, &error).death)),
        }
    }

    /// Keeps what the engine wants to find again; what a host says of it may be wrong.
    fn keep(&self, link: &mut Link, described: &Described) {
        let (Some(keeper), Some(kept)) = (&self.host_options.keeper, &described.keepsake) else { return };
        let end = kept.offset.checked_add(kept.length).filter(|&end| end <= REGION_BYTES_MAX);
        if kept.length <= KEEPSAKE_BYTES_MAX && end.is_some_and(|end| link.region.reserve(end, false).is_ok()) {
            if let Some(bytes) = link.region.read(kept.offset, kept.length) {
                keeper.keep(&Keepsake { name: kept.name.clone(), bytes: bytes.to_vec() });
            }
            link.region.release_behind(REGION_BYTES_KEPT);
        }
    }

    fn not_loaded(&self, problem: LoadProblem) -> LoadError {
        match problem {
            LoadProblem::Unsupported { is_input, name, what } => {
                LoadError::Unsupported { kind: if is_input { "input" } else { "output" }, name, what }
            }
            LoadProblem::Provider { provider, cause } => LoadError::Provider { provider, cause: cause.into() },
            LoadProblem::Failed { cause } => LoadError::Failed(cause.into()),
            LoadProblem::Lost { cause } => {
                self.lost.get_or_init(|| cause.clone());
                LoadError::Failed(cause.into())
            }
        }
    }

    /// Makes sure that a process that did not answer as it must has ended, and returns how.
    fn ended(&self, process: &Process, error: &io::Error) -> Death {
        let why = match error.kind() {
            io::ErrorKind::TimedOut => Some(DeathCause::Silent),
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => None,
            _ => Some(DeathCause::Garbage),
        };
        if let Some(why) = why {
            tracing::error!(%error, model = self.name(), pid = process.pid(), "an engine host is killed");
            process.kill(why, Some(self.number));
        }
        if let Some(death) = process.death_within(DEATH_WAIT) {
            return death;
        }
        // It closed one socket and lives on.
        process.kill(DeathCause::Garbage, Some(self.number));
        let unknown = || Death { death: HostDeath { cause: DeathCause::Unknown }, suspects: vec![self.number] };
        process.death_within(DEATH_WAIT).unwrap_or_else(unknown)
    }

    /// Waits until the model is loaded in a process.
    fn link(&self, control: &RunControl) -> Result<Arc<Mutex<Link>>, RunError> {
        let patience = Instant::now().checked_add(START_TIME_MAX);
        let until = [patience, control.deadline].into_iter().flatten().min();
        loop {
            let home = {
                let state = self.lock();
                if let Some(link) = &state.link {
                    return Ok(Arc::clone(link));
                }
                if let Some(why) = self.record().condemned() {
                    return Err(RunError::Condemned(why.to_owned()));
                }
                if let Some(problem) = &state.problem {
                    return Err(RunError::Failed(problem.clone().into()));
                }
                Arc::clone(&state.home)
            };
            if control.cancel.is_cancelled() {
                return Err(RunError::Cancelled);
            }
            let left = until.map_or(LOOK, |until| until.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                let is_late = control.deadline.is_some_and(|deadline| deadline <= Instant::now());
                let cause = "its engine host was not ready in time";
                return Err(if is_late { RunError::Deadline } else { RunError::Failed(cause.into()) });
            }
            match home.process_within(left.min(LOOK)) {
                Ok((process, _description)) if process.death().is_none() => self.load_again(&home, &process),
                Ok(_ended) => drop(self.wait_changed(left.min(LOOK))),
                Err(_not_yet) => {}
            }
        }
    }

    fn wait_changed(&self, most: Duration) -> MutexGuard<'_, State> {
        let waited = self.changed.wait_timeout(self.lock(), most);
        waited.unwrap_or_else(PoisonError::into_inner).0
    }

    /// Forgets a process that has ended.
    fn forget(&self, link: &Arc<Mutex<Link>>) {
        let mut state = self.lock();
        if state.link.as_ref().is_some_and(|current| Arc::ptr_eq(current, link)) {
            state.link = None;
        }
    }

    fn run(
        &self,
        inputs: &[NamedTensor],
        outputs: &[String],
        control: &RunControl,
    ) -> Result<Vec<NamedTensor>, RunError> {
        if let Err(refused) = self.record().check(inputs, outputs, Instant::now()) {
            self.host_options.observe(&HostEvent::RequestRefused { model: self.name().to_owned() });
            return Err(RunError::Quarantined { deaths: refused.deaths, cause: refused.cause });
        }
        let mut tries = 0;
        loop {
            tries += 1;
            let link = self.link(control)?;
            let ran = self.run_on(&mut link.lock().unwrap_or_else(PoisonError::into_inner), inputs, outputs, control);
            match ran {
                Ok(answer) => return Ok(answer),
                Err(Trouble::Error(error)) => return Err(error),
                Err(Trouble::NotSent) => {
                    self.forget(&link);
                    if tries >= TRIES_MAX {
                        return Err(RunError::Failed("its engine host was gone each time".into()));
                    }
                }
                Err(Trouble::Died(death)) => {
                    self.forget(&link);
                    // Nobody knows which of several requests it was: each is tried again, in a host of its own.
                    let is_sure = death.suspects == [self.number];
                    // Nor who sent a signal from outside: that is not to cost a request.
                    let is_first = death.death.cause.is_from_outside() && tries == 1;
                    if (is_sure && !is_first) || tries >= TRIES_MAX {
                        self.blame(inputs, outputs, death.death);
                        return Err(RunError::Died(death.death));
                    }
                }
            }
        }
    }

    /// Notes that a request of this model ended its host.
    fn blame(&self, inputs: &[NamedTensor], outputs: &[String], death: HostDeath) {
        let now = Instant::now();
        let mut record = self.record();
        if !death.cause.is_from_outside() {
            record.request_died(inputs, outputs, death, now);
        }
        let is_condemned = record.died(death, now);
        drop(record);
        if is_condemned {
            self.say_condemned();
            let home = Arc::clone(&self.lock().home);
            home.release(self.number);
        }
    }

    fn signature(&self) -> &Signature {
        static NOTHING: Signature = Signature { inputs: Vec::new(), outputs: Vec::new() };
        self.described.get().map_or(&NOTHING, |described| &described.signature)
    }
}

impl Slot {
    /// Moves a session on trial to the shared host; see [`crate::Hosted::promote`].
    fn promote(self: &Arc<Self>) -> Result<(), LoadError> {
        let (shared, own) = (Arc::clone(&self.shared.0), Arc::clone(&self.lock().home));
        if own.is_shared || self.record().condemned().is_some() {
            return Ok(());
        }
        let (process, _description) = shared.process_within(START_TIME_MAX)?;
        let bytes = (self.source)().map_err(|error| LoadError::Host(error.into()))?;
        let loading = self.loading.lock().unwrap_or_else(PoisonError::into_inner);
        let link = self.connect(&process, &bytes)?;
        // First known there, so that it is loaded again if that process ends now.
        shared.adopt(self);
        let mut state = self.lock();
        state.home = shared;
        let old = state.link.replace(Arc::new(Mutex::new(link)));
        drop(state);
        drop(loading);
        if let Some(old) = old {
            // A run that goes on in the old process is waited for.
            drop(old.lock().unwrap_or_else(PoisonError::into_inner));
        }
        own.release(self.number);
        Ok(())
    }
}
