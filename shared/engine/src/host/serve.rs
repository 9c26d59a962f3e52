//! The host's side: opens the engine, gives up privileges, loads and runs what it is ordered to.
//!
//! Called by the hidden verb of the daemons before they do anything else. The main thread reads orders; each session has a
//! thread that reads its own socket. When the daemon is gone the control socket ends, and so does the process.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use types::{NamedTensor, Tensor, TensorError};

use super::frame::{
    Computed, Described, KEEPSAKE_BYTES_MAX, Kept, LoadProblem, Opening, Order, Placed, Receiver, Reply, Run,
    RunProblem, SIGNATURE_BYTES_MAX, bounded, send,
};
use super::memory::{Region, aligned, sealed_bytes};
use super::{confine, privileges};
use crate::session::{CancelFlag, Engine, Keepsake, LoadError, LoadOptions, ModelBytes, RunControl, RunError, Session};
use telemetry::chain;

/// Bytes of the stack of a session's thread: ONNX Runtime recurses over graphs.
const STACK_BYTES: usize = 8 * 1024 * 1024;

/// Reason why a host does not start.
#[derive(Debug, thiserror::Error)]
enum ServeError {
    #[error("standard input is no socket of a daemon: only daemons start engine hosts")]
    NoDaemon(#[source] io::Error),
    #[error("the daemon sent something else than the order to open an engine")]
    NotOpen,
}

/// Runs a host on standard input until the daemon is gone. `open` opens the engine of a configuration, with what an earlier
/// host of the engine wanted to find again.
///
/// Must be called while the process has one thread.
pub fn serve(open: impl FnOnce(&serde_json::Value, Option<Keepsake>) -> Result<Arc<dyn Engine>, String>) -> ExitCode {
    let notes = confine::at_start();
    match run(open, notes) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = &error as &dyn std::error::Error, "the engine host does not start");
            ExitCode::FAILURE
        }
    }
}

fn run(
    open: impl FnOnce(&serde_json::Value, Option<Keepsake>) -> Result<Arc<dyn Engine>, String>,
    mut notes: Vec<String>,
) -> Result<(), ServeError> {
    let control = control_socket().map_err(ServeError::NoDaemon)?;
    let mut receiver = Receiver::new();
    let (first, kept) = receiver.receive_with::<Order>(&control).map_err(ServeError::NoDaemon)?;
    let Order::Open { config, needs_files, region_bytes_max, models_bytes_max, keepsake } = first else {
        return Err(ServeError::NotOpen);
    };
    let keepsake = keepsake.zip(kept.first()).and_then(|(name, file)| {
        let bytes = sealed_bytes(file).ok()?.to_vec();
        Some(Keepsake { name, bytes })
    });
    drop(kept);
    let opened = catch_unwind(AssertUnwindSafe(|| open(&config, keepsake)));
    let engine = match opened.unwrap_or_else(|_panic| Err("the engine panicked while it was opened".to_owned())) {
        Ok(engine) => engine,
        Err(why) => {
            let told = send(&control, &Opening::Failed { why: bounded(why) }, &[], true);
            return told.map_err(ServeError::NoDaemon);
        }
    };
    let before = data_bytes().unwrap_or(0);
    let most = models_bytes_max.map(|models| before.saturating_add(models));
    notes.extend(confine::once_open(needs_files, region_bytes_max, most));
    let description = engine.describe();
    let opening = Opening::Opened { description, data_bytes: before, notes };
    send(&control, &opening, &[], true).map_err(ServeError::NoDaemon)?;
    obey(&control, &mut receiver, &engine);
    // Without the destructors of libraries: they would wait for runs that nobody wants any more.
    privileges::end_process()
}

/// Takes the socket from standard input and leaves nothing there.
fn control_socket() -> io::Result<OwnedFd> {
    let control = io::stdin().as_fd().try_clone_to_owned()?;
    if rustix::net::sockopt::socket_type(&control)? != rustix::net::SocketType::SEQPACKET {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a socket of another type"));
    }
    rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
    Ok(control)
}

/// `VmData` of this process in bytes: what counts against the limit of memory.
fn data_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmData:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// Runs of all sessions that can be cancelled.
type Cancels = Arc<Mutex<BTreeMap<u64, Cancel>>>;

/// Cancellation of one session's run.
#[derive(Debug, Default)]
struct Cancel {
    /// Highest run that was cancelled: the order may come before the run.
    cancelled: u64,
    /// The run that goes on.
    running: Option<(u64, CancelFlag)>,
}

fn obey(control: &OwnedFd, receiver: &mut Receiver, engine: &Arc<dyn Engine>) {
    let cancels = Cancels::default();
    loop {
        let (order, descriptors) = match receiver.receive_with::<Order>(control) {
            Ok(received) => received,
            Err(error) => {
                if error.kind() != io::ErrorKind::UnexpectedEof {
                    tracing::error!(%error, "an order of the daemon is unreadable");
                }
                return;
            }
        };
        match order {
            Order::Load { session, options } => {
                if let Err(error) = start_session(session, options.into(), descriptors, engine, &cancels) {
                    // The daemon sees the session's socket closed.
                    tracing::error!(%error, "a session was not started");
                }
            }
            Order::Cancel { session, run } => cancel(&cancels, session, run),
            Order::Limit { bytes } => {
                if let Err(error) = confine::limit_memory(bytes) {
                    tracing::error!(%error, "memory is not limited");
                }
            }
            Order::Open { .. } => tracing::error!("the engine is open already"),
        }
    }
}

fn cancel(cancels: &Cancels, session: u64, run: u64) {
    let flag = {
        let mut cancels = cancels.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(cancel) = cancels.get_mut(&session) else { return };
        cancel.cancelled = cancel.cancelled.max(run);
        cancel.running.as_ref().filter(|(running, _)| *running == run).map(|(_, flag)| flag.clone())
    };
    if let Some(flag) = flag {
        flag.cancel();
    }
}

fn start_session(
    session: u64,
    options: LoadOptions,
    descriptors: Vec<OwnedFd>,
    engine: &Arc<dyn Engine>,
    cancels: &Cancels,
) -> io::Result<()> {
    let missing = || io::Error::new(io::ErrorKind::InvalidData, "an order to load without its three descriptors");
    let [model, region, socket] = <[OwnedFd; 3]>::try_from(descriptors).map_err(|_other| missing())?;
    cancels.lock().unwrap_or_else(PoisonError::into_inner).insert(session, Cancel::default());
    let host = Hosting { number: session, socket, region: Region::adopt(region), cancels: Arc::clone(cancels) };
    let engine = Arc::clone(engine);
    let thread = thread::Builder::new().name(format!("session-{session}")).stack_size(STACK_BYTES);
    thread.spawn(move || host.run(model, &options, engine.as_ref()))?;
    Ok(())
}

/// One session of this host.
struct Hosting {
    number: u64,
    socket: OwnedFd,
    region: Region,
    cancels: Cancels,
}

impl Drop for Hosting {
    fn drop(&mut self) {
        self.cancels.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.number);
    }
}

impl Hosting {
    fn run(mut self, model: OwnedFd, options: &LoadOptions, engine: &dyn Engine) {
        let loaded = catch_unwind(AssertUnwindSafe(|| load(model, options, engine)));
        let loaded = loaded.unwrap_or_else(|_panic| Err(failed_to_load("the engine panicked".to_owned())));
        let told = match loaded {
            Ok(session) => self.describe(session.as_ref(), engine.keepsake()).map(|reply| (reply, Some(session))),
            Err(problem) => Ok((Reply::NotLoaded(problem), None)),
        };
        let (reply, session) = told.unwrap_or_else(|error| (Reply::NotLoaded(failed_to_load(error.to_string())), None));
        match (send(&self.socket, &reply, &[], true), session) {
            (Ok(()), Some(session)) => self.answer(session),
            (Ok(()), None) | (Err(_), _) => {}
        }
    }

    /// Puts what is to be known of the model into the region, and behind it what the engine wants to find again.
    fn describe(&mut self, session: &dyn Session, keepsake: Option<Keepsake>) -> io::Result<Reply> {
        let keepsake = keepsake.filter(|keepsake| keepsake.bytes.len() <= KEEPSAKE_BYTES_MAX);
        let kept = keepsake.as_ref().map(|keepsake| Kept {
            name: keepsake.name.clone(),
            offset: SIGNATURE_BYTES_MAX,
            length: keepsake.bytes.len(),
        });
        let end = kept.as_ref().map(|kept| kept.offset.saturating_add(kept.length));
        let (signature, provider) = (session.signature().clone(), session.provider().to_owned());
        let json = serde_json::to_vec(&Described { signature, provider, keepsake: kept })?;
        if json.len() > SIGNATURE_BYTES_MAX {
            return Err(io::Error::other("the names and shapes of its inputs and outputs are too long"));
        }
        self.region.reserve(end.unwrap_or(json.len()), true)?;
        self.region.write(0, &json)?;
        if let Some(keepsake) = keepsake {
            self.region.write(SIGNATURE_BYTES_MAX, &keepsake.bytes)?;
        }
        Ok(Reply::Loaded { length: json.len() })
    }

    /// Answers runs until the daemon closes the socket.
    fn answer(mut self, mut session: Box<dyn Session>) {
        let mut receiver = Receiver::new();
        loop {
            let run = match receiver.receive::<Run>(&self.socket, None) {
                Ok(run) => run,
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return,
                Err(error) => {
                    tracing::error!(%error, "a request of the daemon is unreadable");
                    return;
                }
            };
            let number = run.run;
            let ran = catch_unwind(AssertUnwindSafe(|| self.run_once(session.as_mut(), &run)));
            let ran = ran.unwrap_or_else(|_panic| Err(failed_to_run("the engine panicked".to_owned())));
            let reply = match ran {
                Ok(outputs) => Reply::Answer { run: number, outputs },
                Err(problem) => Reply::NoAnswer { run: number, problem },
            };
            if send(&self.socket, &reply, &[], true).is_err() {
                return;
            }
        }
    }

    fn run_once(&mut self, session: &mut dyn Session, run: &Run) -> Result<Vec<Computed>, RunProblem> {
        let control = RunControl {
            deadline: run.left_us.and_then(|left| Instant::now().checked_add(Duration::from_micros(left))),
            cancel: self.begin(run.run),
        };
        let answer = self.inputs(session, run).and_then(|inputs| {
            let wanted = outputs(session, run)?;
            session.run(&inputs, &wanted, &control).map_err(run_problem)
        });
        self.end();
        self.place(answer?, run.outputs_at)
    }

    /// Registers a run for cancellation; its flag is raised already if the order came first.
    fn begin(&self, run: u64) -> CancelFlag {
        let flag = CancelFlag::default();
        let mut cancels = self.cancels.lock().unwrap_or_else(PoisonError::into_inner);
        let cancel = cancels.entry(self.number).or_default();
        cancel.running = Some((run, flag.clone()));
        let is_cancelled = cancel.cancelled >= run;
        drop(cancels);
        if is_cancelled {
            flag.cancel();
        }
        flag
    }

    fn end(&self) {
        if let Some(cancel) = self.cancels.lock().unwrap_or_else(PoisonError::into_inner).get_mut(&self.number) {
            cancel.running = None;
        }
    }

    /// Makes tensors of the request, without copying their bytes.
    fn inputs(&mut self, session: &dyn Session, run: &Run) -> Result<Vec<NamedTensor>, RunProblem> {
        let end = run.inputs.iter().filter_map(|placed| placed.offset.checked_add(placed.length)).max().unwrap_or(0);
        self.region.reserve(end, false).map_err(|error| failed_to_run(error.to_string()))?;
        let unknown = || failed_to_run("an input that the model does not have".to_owned());
        let outside = || failed_to_run("an input outside of the shared region".to_owned());
        let tensor = |placed: &Placed| {
            let spec = session.signature().inputs.get(placed.input).ok_or_else(unknown)?;
            let data = self.region.view(placed.offset, placed.length).ok_or_else(outside)?;
            let tensor = Tensor::new(spec.dtype, placed.shape.clone(), data);
            let tensor = tensor.map_err(|error| failed_to_run(error.to_string()))?;
            Ok(NamedTensor { name: spec.name.clone(), tensor })
        };
        run.inputs.iter().map(tensor).collect()
    }

    /// Puts the outputs into the region, behind the inputs.
    fn place(&mut self, outputs: Vec<NamedTensor>, first: usize) -> Result<Vec<Computed>, RunProblem> {
        let too_large = || failed_to_run("the outputs are too large".to_owned());
        let mut placed = Vec::with_capacity(outputs.len());
        let mut offset = aligned(first).ok_or_else(too_large)?;
        for output in &outputs {
            let length = output.tensor.data().len();
            placed.push(Computed {
                dtype: output.tensor.dtype().as_str().to_owned(),
                shape: output.tensor.shape().to_vec(),
                offset,
                length,
            });
            offset = offset.checked_add(length).and_then(aligned).ok_or_else(too_large)?;
        }
        self.region.reserve(offset, true).map_err(|error| failed_to_run(error.to_string()))?;
        for (output, placed) in outputs.iter().zip(&placed) {
            let written = self.region.write(placed.offset, output.tensor.data());
            written.map_err(|error| failed_to_run(error.to_string()))?;
        }
        Ok(placed)
    }
}

fn load(model: OwnedFd, options: &LoadOptions, engine: &dyn Engine) -> Result<Box<dyn Session>, LoadProblem> {
    let bytes = sealed_bytes(&model).map_err(|error| failed_to_load(error.to_string()))?;
    drop(model);
    engine.load(ModelBytes::from(bytes), options).map_err(|error| load_problem(error, engine))
}

fn outputs(session: &dyn Session, run: &Run) -> Result<Vec<String>, RunProblem> {
    let unknown = || failed_to_run("an output that the model does not have".to_owned());
    let specs = &session.signature().outputs;
    run.outputs.iter().map(|&at| specs.get(at).map(|spec| spec.name.clone()).ok_or_else(unknown)).collect()
}

fn failed_to_load(cause: String) -> LoadProblem {
    LoadProblem::Failed { cause: bounded(cause) }
}

fn failed_to_run(cause: String) -> RunProblem {
    RunProblem::Failed { cause: bounded(cause) }
}

fn load_problem(error: LoadError, engine: &dyn Engine) -> LoadProblem {
    if engine.lost().is_some() {
        return LoadProblem::Lost { cause: bounded(chain(&error)) };
    }
    match error {
        LoadError::Unsupported { kind, name, what } => {
            LoadProblem::Unsupported { is_input: kind == "input", name: bounded(name), what: bounded(what) }
        }
        LoadError::Provider { provider, cause } => {
            LoadProblem::Provider { provider, cause: bounded(chain(cause.as_ref())) }
        }
        LoadError::Failed(cause) | LoadError::Host(cause) => failed_to_load(chain(cause.as_ref())),
        LoadError::Refused(_) | LoadError::Died(_) => failed_to_load(chain(&error)),
    }
}

fn run_problem(error: RunError) -> RunProblem {
    match error {
        RunError::Deadline => RunProblem::Deadline,
        RunError::Cancelled => RunProblem::Cancelled,
        RunError::NotText { input, element } => RunProblem::NotText { input: bounded(input), element },
        RunError::Lost(cause) => RunProblem::Lost { cause: bounded(chain(cause.as_ref())) },
        RunError::Failed(cause) => failed_to_run(chain(cause.as_ref())),
        RunError::Refused(text) => RunProblem::Refused { text: bounded(text) },
        RunError::Output { output, cause: TensorError::TooLarge { dtype, shape } } => {
            RunProblem::TooLarge { output: bounded(output), dtype: dtype.as_str().to_owned(), shape }
        }
        RunError::Mismatch(mismatch) => RunProblem::Refused { text: bounded(mismatch.to_string()) },
        RunError::Output { .. } | RunError::Died(_) | RunError::Quarantined { .. } | RunError::Condemned(_) => {
            failed_to_run(chain(&error))
        }
    }
}
