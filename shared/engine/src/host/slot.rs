//! One session in a host process, seen from the daemon.
//!
//! A [`Slot`] outlives the processes that its model is loaded in. Fed by a worker's thread through [`HostSession`]; loaded
//! again by [`super::supervisor`], or by the worker itself when that is sooner.

use std::io;
use std::os::fd::AsFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use types::{NamedTensor, Signature, TensorError};

use super::death::{DeathCause, HostDeath};
use super::frame::{
    Described, KEEPSAKE_BYTES_MAX, LoadProblem, Order, Placed, PlainOptions, Receiver, Reply, Run, RunProblem, pair,
    send,
};
use super::link::{Link, REGION_BYTES_MAX, garbage, link_process, take};
use super::memory::{Region, aligned, sealed_file};
use super::process::{Death, Process};
use super::record::Record;
use super::supervisor::Host;
use super::{ANSWER_GRACE, DEATH_WAIT, HostEvent, HostOptions, LOAD_TIME_MAX, START_TIME_MAX};
use crate::session::{Hosted, Keepsake, LoadError, LoadOptions, ModelSource, RunControl, RunError, Session};

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

/// What a slot is made of.
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

/// One session.
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
    /// Why the last load failed.
    problem: Option<String>,
}

impl std::fmt::Debug for Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Slot").field("number", &self.number).field("name", &self.options.name).finish_non_exhaustive()
    }
}

/// Why a run on one process gave no answer.
enum Trouble {
    /// The host was gone before it had the request.
    NotSent,
    /// The host ended.
    Died(Death),
    /// Anything else.
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
                let why = crate::chain(&error);
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

    /// One round trip.
    fn run_on(
        &self,
        link: &mut Link,
        inputs: &[NamedTensor],
        outputs: &[String],
        control: &RunControl,
    ) -> Result<Vec<NamedTensor>, Trouble> {
        let failed = |error: io::Error| Trouble::Error(RunError::Failed(error.into()));
        link.runs = link.runs.saturating_add(1);
        let wanted = self.wanted(outputs);
        let request = self.place(link, inputs, &wanted, control).map_err(failed)?;
        let (number, run, process) = (self.number, link.runs, Arc::clone(&link.process));
        process.begin(number);
        if let Err(error) = send(&link.socket, &request, &[], false) {
            return match error.kind() {
                io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset | io::ErrorKind::NotConnected => {
                    process.end(number);
                    Err(Trouble::NotSent)
                }
                io::ErrorKind::FileTooLarge => {
                    process.end(number);
                    Err(failed(error))
                }
                // A host that does not read.
                _ => Err(Trouble::Died(self.ended(&process, &error))),
            };
        }
        let canceller = Arc::clone(&process);
        let guard = control.cancel.on_cancel(Arc::new(move || canceller.cancel(number, run)));
        let reply = link.receiver.receive::<Reply>(&link.socket, self.kill_at(control));
        drop(guard);
        let answer = match reply {
            Ok(Reply::Answer { run: answered, outputs }) if answered == run => take(&mut link.region, &wanted, outputs),
            Ok(Reply::NoAnswer { run: answered, problem }) if answered == run => {
                process.end(number);
                return Err(Trouble::Error(self.no_answer(problem)));
            }
            Ok(_other) => Err(garbage("a reply to another request")),
            Err(error) => Err(error),
        };
        match answer {
            Ok(answer) => {
                process.end(number);
                link.region.release_behind(REGION_BYTES_KEPT);
                Ok(answer)
            }
            Err(error) => Err(Trouble::Died(self.ended(&process, &error))),
        }
    }

    /// Time at which a host that has not answered is killed. Not the deadline of the request alone: an impatient client must
    /// not be able to end hosts.
    fn kill_at(&self, control: &RunControl) -> Option<Instant> {
        let longest = Instant::now().checked_add(self.host_options.run_limit);
        longest.max(control.deadline).and_then(|last| last.checked_add(ANSWER_GRACE))
    }

    /// Names and numbers of the wanted outputs.
    fn wanted<'a>(&'a self, outputs: &[String]) -> Vec<(usize, &'a str)> {
        let specs = &self.signature().outputs;
        if outputs.is_empty() {
            return specs.iter().enumerate().map(|(at, spec)| (at, spec.name.as_str())).collect();
        }
        let find = |name: &String| {
            let at = specs.iter().position(|spec| spec.name == *name)?;
            Some((at, specs.get(at)?.name.as_str()))
        };
        outputs.iter().filter_map(find).collect()
    }

    /// Copies the inputs into the region and describes them.
    fn place(
        &self,
        link: &mut Link,
        inputs: &[NamedTensor],
        wanted: &[(usize, &str)],
        control: &RunControl,
    ) -> io::Result<Run> {
        let too_large = || io::Error::new(io::ErrorKind::FileTooLarge, "the inputs are too large");
        let mut placed = Vec::with_capacity(inputs.len());
        let mut end = 0;
        for input in inputs {
            let Some(at) = self.signature().inputs.iter().position(|spec| spec.name == input.name) else { continue };
            let length = input.tensor.data().len();
            placed.push(Placed { input: at, shape: input.tensor.shape().to_vec(), offset: end, length });
            end = end
                .checked_add(length)
                .and_then(aligned)
                .filter(|&end| end <= REGION_BYTES_MAX)
                .ok_or_else(too_large)?;
        }
        link.region.reserve(end, true)?;
        for (input, placed) in inputs.iter().zip(&placed) {
            link.region.write(placed.offset, input.tensor.data())?;
        }
        let left = control.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        Ok(Run {
            run: link.runs,
            left_us: left.map(|left| u64::try_from(left.as_micros()).unwrap_or(u64::MAX)),
            inputs: placed,
            outputs: wanted.iter().map(|(at, _)| *at).collect(),
            outputs_at: end,
        })
    }

    fn no_answer(&self, problem: RunProblem) -> RunError {
        match problem {
            RunProblem::Deadline => RunError::Deadline,
            RunProblem::Cancelled => RunError::Cancelled,
            RunProblem::NotText { input, element } => RunError::NotText { input, element },
            RunProblem::TooLarge { output, dtype, shape } => match dtype.parse() {
                Ok(dtype) => RunError::Output { output, cause: TensorError::TooLarge { dtype, shape } },
                Err(_unknown) => RunError::Failed(format!("output {output:?} is too large").into()),
            },
            RunProblem::Failed { cause } => RunError::Failed(cause.into()),
            RunProblem::Refused { text } => RunError::Refused(text),
            RunProblem::Lost { cause } => {
                self.lost.get_or_init(|| cause.clone());
                RunError::Lost(cause.into())
            }
        }
    }
}

impl Slot {
    /// Moves a session on trial to the shared host; see [`Hosted::promote`].
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

/// A session for workers.
#[derive(Debug)]
pub(super) struct HostSession(pub(super) Arc<Slot>);

impl Drop for HostSession {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.link = None;
        let home = Arc::clone(&state.home);
        drop(state);
        home.release(self.0.number);
    }
}

impl Session for HostSession {
    fn signature(&self) -> &Signature {
        self.0.signature()
    }

    fn provider(&self) -> &str {
        self.0.described.get().map_or("", |described| &described.provider)
    }

    fn run(
        &mut self,
        inputs: &[NamedTensor],
        outputs: &[String],
        control: &RunControl,
    ) -> Result<Vec<NamedTensor>, RunError> {
        self.0.signature().check_inputs(inputs)?;
        self.0.signature().check_outputs(outputs.iter().map(String::as_str))?;
        self.0.run(inputs, outputs, control)
    }

    fn hosted(&self) -> Option<Arc<dyn Hosted>> {
        Some(Arc::new(Controls(Arc::downgrade(&self.0))))
    }
}

/// Controls of a session, for whoever does not keep it alive.
#[derive(Debug)]
struct Controls(std::sync::Weak<Slot>);

impl Hosted for Controls {
    fn promote(&self) -> Result<(), LoadError> {
        self.0.upgrade().map_or(Ok(()), |slot| slot.promote())
    }

    fn condemned(&self) -> Option<String> {
        self.0.upgrade()?.record().condemned().map(str::to_owned)
    }
}
