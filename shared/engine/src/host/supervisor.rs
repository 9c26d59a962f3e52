//! Starts hosts again after their end, loads their sessions again, and gives suspects a host of their own.
//!
//! One [`Host`] is a place for sessions that outlives its processes; a thread for each keeps it running. Fed by
//! [`super::engine`] with new hosts and by [`super::slot`] with sessions.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use super::death::DeathCause;
use super::process::{Death, Process, SMALL_STACK_BYTES};
use super::slot::Slot;
use super::{HostEvent, HostOptions};
use crate::session::{EngineDescription, HostStatus, LoadError};

/// A host that lived shorter than this counts as one that ended at once.
const SHORT_LIFE: Duration = Duration::from_secs(10);

/// Restarts without a wait after short lives: a request that ends its host is answered by an error within its second try.
const RESTARTS_AT_ONCE: u32 = 3;

/// First wait before a restart after more short lives; it doubles up to [`RESTART_WAIT_MAX`].
const RESTART_WAIT: Duration = Duration::from_millis(100);

/// Longest wait before a restart.
const RESTART_WAIT_MAX: Duration = Duration::from_secs(30);

/// All hosts of one engine.
#[derive(Debug)]
pub(super) struct Hosts {
    /// Options with which each host is started.
    pub(super) options: Arc<HostOptions>,
    /// Those of single models, to be shown.
    own: Mutex<Vec<Weak<Host>>>,
}

impl Hosts {
    pub(super) fn new(options: Arc<HostOptions>) -> Self {
        Self { options, own: Mutex::default() }
    }

    /// Hosts of single models that are there now.
    pub(super) fn own(&self) -> Vec<Arc<Host>> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner).iter().filter_map(Weak::upgrade).collect()
    }
}

/// A place for sessions: one host process at a time.
#[derive(Debug)]
pub(super) struct Host {
    /// Whether proven sessions share it; otherwise it ends with its last session.
    pub(super) is_shared: bool,
    hosts: Arc<Hosts>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    process: Option<Arc<Process>>,
    slots: Vec<Weak<Slot>>,
    description: Option<EngineDescription>,
    /// Reason for the failure of the last start.
    problem: Option<String>,
    is_closed: bool,
    starts: u64,
    last_death: Option<String>,
}

impl Host {
    /// Creates a host and has it started by a thread of its own.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub(super) fn create(hosts: &Arc<Hosts>, is_shared: bool, first: Option<&Arc<Slot>>) -> io::Result<Arc<Self>> {
        let slots = first.map(Arc::downgrade).into_iter().collect();
        let host = Arc::new(Self {
            is_shared,
            hosts: Arc::clone(hosts),
            state: Mutex::new(State { slots, ..State::default() }),
            changed: Condvar::new(),
        });
        if !is_shared {
            let mut own = hosts.own.lock().unwrap_or_else(PoisonError::into_inner);
            own.retain(|host| host.strong_count() > 0);
            own.push(Arc::downgrade(&host));
        }
        let kept = Arc::clone(&host);
        let thread = thread::Builder::new().name("engine-hosts".to_owned()).stack_size(SMALL_STACK_BYTES * 4);
        thread.spawn(move || keep(&kept))?;
        Ok(host)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until a process is ready, for at most `most`.
    ///
    /// # Errors
    /// When the last start failed, the host is closed, or the time is over.
    pub(super) fn process_within(&self, most: Duration) -> Result<(Arc<Process>, EngineDescription), LoadError> {
        let state = self.lock();
        let is_open = |state: &mut State| state.process.is_none() && state.problem.is_none() && !state.is_closed;
        let waited = self.changed.wait_timeout_while(state, most, is_open);
        let state = waited.unwrap_or_else(PoisonError::into_inner).0;
        match (&state.process, &state.description, &state.problem) {
            (Some(process), Some(description), _) => Ok((Arc::clone(process), description.clone())),
            (_, _, Some(problem)) => Err(LoadError::Host(problem.clone().into())),
            (_, _, None) => Err(LoadError::Host("it was not ready in time".into())),
        }
    }

    /// Lets a session in: it is loaded again whenever the process is started again.
    pub(super) fn adopt(&self, slot: &Arc<Slot>) {
        let mut state = self.lock();
        state.slots.retain(|known| known.strong_count() > 0);
        state.slots.push(Arc::downgrade(slot));
    }

    /// Lets a session go; a host of its own ends with its last one.
    pub(super) fn release(&self, number: u64) {
        let mut state = self.lock();
        state.slots.retain(|known| known.upgrade().is_some_and(|slot| slot.number != number));
        let is_over = !self.is_shared && state.slots.is_empty();
        if let Some(process) = &state.process {
            process.set_budget(number, None);
        }
        drop(state);
        if is_over {
            self.close();
        }
    }

    /// Ends the process, for good.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.is_closed = true;
        if let Some(process) = &state.process {
            process.kill(DeathCause::Unknown, None);
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Shows the host to people.
    pub(super) fn status(&self) -> Option<HostStatus> {
        let state = self.lock();
        if state.is_closed {
            return None;
        }
        let names = state.slots.iter().filter_map(|slot| Some(slot.upgrade()?.name().to_owned()));
        Some(HostStatus {
            pid: state.process.as_ref().map(|process| process.pid()),
            shared: self.is_shared,
            sessions: names.collect(),
            restarts: state.starts.saturating_sub(1),
            last_death: state.last_death.clone(),
            memory_max_bytes: state.process.as_ref().map(|process| process.memory_max()),
        })
    }

    fn live_slots(&self) -> Vec<Arc<Slot>> {
        self.lock().slots.iter().filter_map(Weak::upgrade).collect()
    }

    /// Waits for `wait` or until the host is closed; returns whether it is.
    fn is_closed_within(&self, wait: Duration) -> bool {
        let state = self.lock();
        let waited = self.changed.wait_timeout_while(state, wait, |state| !state.is_closed);
        waited.unwrap_or_else(PoisonError::into_inner).0.is_closed
    }
}

/// Keeps one host running until it is closed.
fn keep(host: &Arc<Host>) {
    let mut short_lives = 0_u32;
    loop {
        let wait = match short_lives.checked_sub(RESTARTS_AT_ONCE) {
            None => Duration::ZERO,
            Some(over) => {
                RESTART_WAIT.saturating_mul(1_u32.checked_shl(over).unwrap_or(u32::MAX)).min(RESTART_WAIT_MAX)
            }
        };
        if host.is_closed_within(wait) {
            return;
        }
        let started = Instant::now();
        if let Some(death) = one_life(host) {
            mourn(host, &death);
        }
        short_lives = if started.elapsed() < SHORT_LIFE { short_lives.saturating_add(1) } else { 0 };
    }
}

/// Runs one process from its start to its end; `None` when it did not start or was closed.
fn one_life(host: &Arc<Host>) -> Option<Death> {
    let started = Process::start(&host.hosts.options);
    let mut state = host.lock();
    state.starts = state.starts.saturating_add(1);
    let is_restart = state.starts > 1;
    let process = match started {
        Ok((process, description)) => {
            let process = Arc::new(process);
            (state.process, state.description, state.problem) = (Some(Arc::clone(&process)), Some(description), None);
            process
        }
        Err(error) => {
            let why = telemetry::chain(&error);
            tracing::error!(engine = %host.hosts.options.engine, error = why, "an engine host does not start");
            state.problem = Some(why);
            drop(state);
            host.changed.notify_all();
            return None;
        }
    };
    if state.is_closed {
        return None;
    }
    drop(state);
    host.changed.notify_all();
    if is_restart {
        tracing::info!(engine = %host.hosts.options.engine, pid = process.pid(), "an engine host was started again");
        host.hosts.options.observe(&HostEvent::Restarted { engine: host.hosts.options.engine });
    }
    // One after the other: the one that ends the process is then known.
    for slot in host.live_slots() {
        if process.death().is_some() {
            break;
        }
        slot.load_again(host, &process);
    }
    let death = process.wait();
    let mut state = host.lock();
    state.process = None;
    let is_closed = state.is_closed;
    if !is_closed {
        state.last_death = Some(death.death.cause.to_string());
    }
    (!is_closed).then_some(death)
}

/// Reports the end of a process, and moves suspects out of the shared host.
fn mourn(host: &Arc<Host>, death: &Death) {
    let cause = death.death.cause;
    let suspects: Vec<Arc<Slot>> =
        host.live_slots().into_iter().filter(|slot| death.suspects.contains(&slot.number)).collect();
    let names: Vec<&str> = suspects.iter().map(|slot| slot.name()).collect();
    tracing::error!(engine = %host.hosts.options.engine, %cause, running = ?names, "an engine host ended: it is started again");
    host.hosts.options.observe(&HostEvent::Died { engine: host.hosts.options.engine, cause });
    if !host.is_shared {
        return;
    }
    for slot in suspects {
        match Host::create(&host.hosts, false, Some(&slot)) {
            Ok(own) => {
                tracing::warn!(model = slot.name(), "the model gets an engine host of its own");
                slot.move_to(own);
                host.release(slot.number);
            }
            Err(error) => tracing::error!(%error, "a model stays in the shared engine host"),
        }
    }
}
