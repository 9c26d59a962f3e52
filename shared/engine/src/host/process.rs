//! One host process: started, opened, limited, killed, and its end reported.
//!
//! Fed by [`super::supervisor`] and [`super::slot`]. A thread of its own starts the process, forwards what it writes to its
//! standard error, and waits for its end: the kernel kills a host when the thread that started it ends, so that thread must
//! live as long as the host.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::mpsc::{Receiver as Incoming, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};

use super::death::{DeathCause, HostDeath};
use super::frame::{Opening, Order, Receiver, pair, send};
use super::memory::sealed_file;
use super::{HostOptions, START_TIME_MAX, budget};
use crate::probe;
use crate::session::EngineDescription;

/// Variables of the environment that libraries of engines read; everything else stays with the daemon.
const ENVIRONMENT: [&str; 5] = ["LD_LIBRARY_PATH", "PATH", "XDG_RUNTIME_DIR", "TZ", "LLVM_PROFILE_FILE"];

/// Beginnings of such names: Vulkan, Mesa, CUDA, OpenVINO, OpenMP.
const ENVIRONMENT_PREFIXES: [&str; 12] =
    ["VK_", "MESA_", "LIBGL_", "GALLIUM_", "EGL_", "LP_", "__EGL", "__GLX", "CUDA_", "NVIDIA_", "OPENVINO_", "OMP_"];

/// Pools of the C library's allocator. More would keep more memory and make it no faster: a session has few threads.
const ALLOCATOR_POOLS: &str = "2";

/// Longest line of a host that is forwarded, in bytes.
const LINE_BYTES_MAX: u64 = 4096;

/// Lines of a host that are forwarded in [`LINES_PERIOD`]; what is more is dropped, so that no model floods the log.
const LINES_MAX: u32 = 100;

/// Period to which [`LINES_MAX`] applies.
const LINES_PERIOD: Duration = Duration::from_secs(10);

/// Bytes of the stack of the thread of a host: it copies lines.
pub(super) const SMALL_STACK_BYTES: usize = 256 * 1024;

/// The end of a process, and what it was doing.
#[derive(Debug, Clone)]
pub(super) struct Death {
    /// Cause of the end of the process.
    pub(super) death: HostDeath,
    /// Sessions that ran or loaded at that moment, or the one that it was killed for.
    pub(super) suspects: Vec<u64>,
}

/// Reason why a host did not start.
#[derive(Debug, thiserror::Error)]
pub(super) enum StartError {
    /// The system refuses a socket, a thread or a process.
    #[error("start an engine host")]
    System(#[source] io::Error),
    /// It ended or was silent.
    #[error("open the engine in its host")]
    Silent(#[source] io::Error),
    /// Its engine cannot be had.
    #[error("{0}")]
    Engine(String),
}

/// One running host process, seen from the daemon.
#[derive(Debug)]
pub(super) struct Process {
    pid: Pid,
    control: Mutex<OwnedFd>,
    options: Arc<HostOptions>,
    /// Bytes of memory that it had before any model.
    before: u64,
    /// Bytes of memory for each of its sessions.
    budgets: Mutex<BTreeMap<u64, u64>>,
    shared: Arc<Shared>,
}

/// State that a process shares with the thread that waits for it.
#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Sessions that run or load.
    active: Vec<u64>,
    /// Cause and session of a kill by the daemon.
    killed: Option<(DeathCause, Option<u64>)>,
    death: Option<Death>,
    /// Whether the system may give its number to another process.
    reaped: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill(DeathCause::Unknown, None);
    }
}

impl Process {
    /// Starts a host and waits until its engine is open.
    ///
    /// # Errors
    /// When the system refuses, the host is silent, or its engine cannot be had.
    pub(super) fn start(options: &Arc<HostOptions>) -> Result<(Self, EngineDescription), StartError> {
        let (control, theirs) = pair().map_err(StartError::System)?;
        let shared = Arc::new(Shared::default());
        let (started, starting) = sync_channel(1);
        let (starter, watched) = (Arc::clone(options), Arc::clone(&shared));
        let thread = thread::Builder::new().name("engine-host".to_owned()).stack_size(SMALL_STACK_BYTES);
        thread.spawn(move || live(&starter, theirs, &watched, &started)).map_err(StartError::System)?;
        let pid = pid_of(&starting).map_err(StartError::System)?;
        let mut process = Self {
            pid,
            control: Mutex::new(control),
            options: Arc::clone(options),
            before: 0,
            budgets: Mutex::default(),
            shared,
        };
        let description = process.open()?;
        Ok((process, description))
    }

    fn open(&mut self) -> Result<EngineDescription, StartError> {
        let control = self.control.get_mut().unwrap_or_else(PoisonError::into_inner);
        let keepsake = self.options.keeper.as_ref().and_then(|keeper| keeper.take());
        let kept =
            keepsake.as_ref().map(|keepsake| sealed_file(&keepsake.bytes)).transpose().map_err(StartError::System)?;
        let order = Order::Open {
            keepsake: keepsake.map(|keepsake| keepsake.name),
            config: self.options.config.clone(),
            needs_files: self.options.needs_files,
            region_bytes_max: u64::try_from(super::link::REGION_BYTES_MAX).unwrap_or(u64::MAX),
            models_bytes_max: budget::of_all(self.options.memory_max, probe::memory_bytes()),
        };
        let kept: Vec<BorrowedFd<'_>> = kept.iter().map(AsFd::as_fd).collect();
        send(&*control, &order, &kept, true).map_err(StartError::Silent)?;
        let until = Instant::now().checked_add(START_TIME_MAX);
        match Receiver::new().receive(&*control, until).map_err(StartError::Silent)? {
            Opening::Opened { description, data_bytes, notes } => {
                for note in notes {
                    tracing::debug!(note, "an engine host could not give everything up");
                }
                self.before = data_bytes;
                Ok(description)
            }
            Opening::Failed { why } => Err(StartError::Engine(why)),
        }
    }

    /// Returns the number of the process.
    pub(super) fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Sends an order to the host. Never waits: a host that leaves hundreds of orders unread is killed.
    ///
    /// # Errors
    /// When the host is gone or was killed.
    pub(super) fn order(&self, order: &Order, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let control = self.control.lock().unwrap_or_else(PoisonError::into_inner);
        let sent = send(&*control, order, descriptors, false);
        drop(control);
        if let Err(error) = &sent
            && error.kind() == io::ErrorKind::WouldBlock
        {
            tracing::error!(pid = self.pid(), "an engine host reads no orders: it is killed");
            self.kill(DeathCause::Silent, None);
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        sent
    }

    /// Orders the host to stop a run. Never waits: a host that does not read its orders is stopped by its deadline.
    pub(super) fn cancel(&self, session: u64, run: u64) {
        let Ok(control) = self.control.try_lock() else { return };
        if let Err(error) = send(&*control, &Order::Cancel { session, run }, &[], false) {
            tracing::debug!(%error, "a run was not cancelled in its host");
        }
    }

    /// Gives a session its share of memory, or takes it back with `None`.
    pub(super) fn set_budget(&self, session: u64, bytes: Option<u64>) {
        let mut budgets = self.budgets.lock().unwrap_or_else(PoisonError::into_inner);
        match bytes {
            Some(bytes) => budgets.insert(session, bytes),
            None => budgets.remove(&session),
        };
        // By the host itself: a daemon without privileges over another user cannot.
        let limit = Order::Limit { bytes: self.memory_max_of(&budgets) };
        if let Err(error) = self.order(&limit, &[]) {
            tracing::debug!(%error, pid = self.pid(), "an engine host has ended before its memory was limited");
        }
    }

    /// Returns the bytes of memory that the host may use now.
    pub(super) fn memory_max(&self) -> u64 {
        self.memory_max_of(&self.budgets.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn memory_max_of(&self, budgets: &BTreeMap<u64, u64>) -> u64 {
        let machine = probe::memory_bytes();
        budget::of_host(self.before, budgets.values().copied(), self.options.memory_max, machine)
    }

    /// Notes that a session runs or loads from now on: if the process ends, it is a suspect.
    pub(super) fn begin(&self, session: u64) {
        self.shared.lock().active.push(session);
    }

    /// Notes that a session's run or load is over.
    pub(super) fn end(&self, session: u64) {
        let mut state = self.shared.lock();
        if let Some(at) = state.active.iter().position(|active| *active == session) {
            state.active.swap_remove(at);
        }
    }

    /// Kills the process; `blamed` is the session whose fault that is. Does nothing to one that has ended.
    pub(super) fn kill(&self, why: DeathCause, blamed: Option<u64>) {
        let mut state = self.shared.lock();
        if state.reaped || state.killed.is_some() {
            return;
        }
        state.killed = Some((why, blamed));
        if let Err(error) = rustix::process::kill_process(self.pid, Signal::KILL) {
            tracing::debug!(%error, "an engine host could not be killed");
        }
    }

    /// Returns how the process ended, if it did.
    pub(super) fn death(&self) -> Option<Death> {
        self.shared.lock().death.clone()
    }

    /// Waits for the end of the process, for at most `most`.
    pub(super) fn death_within(&self, most: Duration) -> Option<Death> {
        let state = self.shared.lock();
        let waited = self.shared.changed.wait_timeout_while(state, most, |state| state.death.is_none());
        waited.unwrap_or_else(PoisonError::into_inner).0.death.clone()
    }

    /// Waits for the end of the process.
    pub(super) fn wait(&self) -> Death {
        loop {
            if let Some(death) = self.death_within(Duration::from_secs(3600)) {
                return death;
            }
        }
    }
}

fn pid_of(starting: &Incoming<io::Result<Pid>>) -> io::Result<Pid> {
    starting.recv().unwrap_or_else(|_ended| Err(io::Error::other("the thread of an engine host ended")))
}

/// Life of one process, from its start to its end.
fn live(options: &HostOptions, control: OwnedFd, shared: &Shared, started: &SyncSender<io::Result<Pid>>) {
    let told = match spawn(options, control) {
        Ok((child, pid)) => {
            let told = started.send(Ok(pid));
            watch(child, pid, shared);
            told
        }
        Err(error) => started.send(Err(error)),
    };
    if told.is_err() {
        tracing::debug!("nobody waited for an engine host");
    }
}

fn spawn(options: &HostOptions, control: OwnedFd) -> io::Result<(Child, Pid)> {
    let is_passed =
        |name: &str| ENVIRONMENT.contains(&name) || ENVIRONMENT_PREFIXES.iter().any(|prefix| name.starts_with(prefix));
    let passed = std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(is_passed));
    let mut command = Command::new(&options.program);
    command
        .arg0(super::HOST_VERB)
        .args(&options.arguments)
        .env_clear()
        .envs(passed)
        .env("MALLOC_ARENA_MAX", ALLOCATOR_POOLS)
        .env("ORT_DISABLE_TELEMETRY", "1")
        .envs(options.environment.iter().map(|(name, value)| (name, value)))
        .current_dir("/")
        .stdin(Stdio::from(control))
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let child = command.spawn()?;
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| io::Error::other("a process without a number"))?;
    Ok((child, pid))
}

fn watch(mut child: Child, pid: Pid, shared: &Shared) {
    if let Some(lines) = child.stderr.take() {
        forward(lines, pid);
    }
    // Waits without taking the number away, so that nobody kills another process by it.
    let wait = || rustix::process::waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
    while wait().is_err_and(|error| error == rustix::io::Errno::INTR) {}
    let mut state = shared.lock();
    let status = child.wait();
    state.reaped = true;
    let by_itself = status.map_or(DeathCause::Unknown, |status| {
        use std::os::unix::process::ExitStatusExt as _;
        match (status.signal(), status.code()) {
            (Some(signal), _) => DeathCause::Signal(signal),
            (None, Some(code)) => DeathCause::Exit(code),
            (None, None) => DeathCause::Unknown,
        }
    });
    let (cause, suspects) = match state.killed {
        Some((cause, blamed)) => (cause, blamed.map_or_else(|| state.active.clone(), |blamed| vec![blamed])),
        None => (by_itself, state.active.clone()),
    };
    state.death = Some(Death { death: HostDeath { cause }, suspects });
    drop(state);
    shared.changed.notify_all();
}

/// Forwards what a host writes into the log of the daemon, line by line, until it closes its end.
fn forward(lines: ChildStderr, pid: Pid) {
    let mut lines = BufReader::new(lines);
    let (mut since, mut count) = (Instant::now(), 0_u32);
    loop {
        let mut line = Vec::new();
        match (&mut lines).take(LINE_BYTES_MAX).read_until(b'\n', &mut line) {
            Ok(0) => return,
            Ok(_length) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                tracing::debug!(%error, "the log of an engine host ended");
                return;
            }
        }
        if since.elapsed() >= LINES_PERIOD {
            (since, count) = (Instant::now(), 0);
        }
        count = count.saturating_add(1);
        let line = String::from_utf8_lossy(&line);
        let line = line.trim_end();
        if count <= LINES_MAX && !line.is_empty() {
            tracing::warn!(pid = pid.as_raw_nonzero().get(), line, "engine host");
        } else if count == LINES_MAX + 1 {
            tracing::warn!(pid = pid.as_raw_nonzero().get(), "an engine host writes too much: its lines are dropped");
        }
    }
}
