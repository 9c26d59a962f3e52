//! A session on its own thread, behind a bounded queue.
//!
//! Fed by asynchronous callers through [`SessionHandle::infer`]; feeds one [`Session`] a request at a time. A dedicated
//! thread, because ONNX Runtime wants one caller at a time, blocks it for as long as the model takes, and its own
//! asynchronous run fails with one thread.

mod queue;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{fmt, io, thread};

use tokio::sync::{oneshot, watch};
use types::{Mismatch, NamedTensor, Signature, TensorError};

use crate::host::HostDeath;
use crate::session::{Hosted, LoadError, RunControl, RunError, Session};

use queue::{Job, PushError, Queue};

/// Queue length and thread name of a worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerOptions {
    /// Requests that may wait; one more is answered [`InferError::Busy`]. 0 lets none wait while one runs.
    pub queue: usize,
    /// Name of the thread, as debuggers and `top` show it (Linux keeps 15 bytes).
    pub name: String,
}

impl Default for WorkerOptions {
    /// 32 waiting requests: at 10 ms each the last one waits a third of a second, about what a caller tolerates.
    fn default() -> Self {
        Self { queue: 32, name: "session".to_owned() }
    }
}

/// An answer and what it cost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The outputs, as asked for.
    pub outputs: Vec<NamedTensor>,
    /// Time between the ask and the start of the run.
    pub queue: Duration,
    /// Time the run took.
    pub compute: Duration,
}

/// Reason why a worker returned no outputs.
#[derive(Debug, thiserror::Error)]
pub enum InferError {
    /// The queue is full.
    #[error("the model is busy: {waiting} requests are waiting already")]
    Busy {
        /// Number of requests that are waiting.
        waiting: usize,
    },
    /// The deadline passed, waiting or running.
    #[error("the deadline passed before the model returned its outputs")]
    Deadline,
    /// The run was cancelled.
    #[error("the request was cancelled")]
    Cancelled,
    /// The request does not fit the model.
    #[error(transparent)]
    Mismatch(#[from] Mismatch),
    /// The engine failed to run the model.
    #[error("the model gave no answer")]
    Failed(#[source] RunError),
    /// The worker was stopped, because another version took its place or the daemon ends.
    #[error("the session was stopped")]
    Stopped,
}

impl From<RunError> for InferError {
    fn from(error: RunError) -> Self {
        match error {
            RunError::Mismatch(mismatch) => Self::Mismatch(mismatch),
            RunError::Deadline => Self::Deadline,
            RunError::Cancelled => Self::Cancelled,
            RunError::NotText { .. }
            | RunError::Output { .. }
            | RunError::Refused(_)
            | RunError::Failed(_)
            | RunError::Lost(_)
            | RunError::Died(_)
            | RunError::Quarantined { .. }
            | RunError::Condemned(_) => Self::Failed(error),
        }
    }
}

impl InferError {
    /// Returns what the sender of the request must change, where the request is at fault; `None` where this machine is.
    #[must_use]
    pub fn fault_of_request(&self) -> Option<String> {
        match self {
            Self::Mismatch(mismatch) => Some(mismatch.to_string()),
            Self::Failed(refused @ (RunError::NotText { .. } | RunError::Refused(_))) => Some(refused.to_string()),
            Self::Failed(RunError::Output { output, cause: cause @ TensorError::TooLarge { .. } }) => {
                Some(format!("output {output:?} is too large ({cause}): send fewer or smaller inputs"))
            }
            Self::Busy { .. } | Self::Deadline | Self::Cancelled | Self::Failed(_) | Self::Stopped => None,
        }
    }

    /// Whether the session can never answer again: the device under its engine is gone, or its model keeps killing its
    /// host process.
    #[must_use]
    pub const fn is_lost(&self) -> bool {
        matches!(self, Self::Failed(RunError::Lost(_) | RunError::Condemned(_)))
    }

    /// Returns how the host process of the engine ended, if that is why there is no answer.
    #[must_use]
    pub const fn host_death(&self) -> Option<&HostDeath> {
        match self {
            Self::Failed(RunError::Died(death)) => Some(death),
            Self::Failed(_)
            | Self::Busy { .. }
            | Self::Deadline
            | Self::Cancelled
            | Self::Mismatch(_)
            | Self::Stopped => None,
        }
    }
}

/// Starts sessions on threads of their own.
#[derive(Debug)]
pub struct SessionWorker;

impl SessionWorker {
    /// Puts one session on its own thread.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(session: Box<dyn Session>, options: &WorkerOptions) -> io::Result<SessionHandle> {
        Self::start_pool(vec![session], options)
    }

    /// Puts several sessions of the same model on a thread each, behind one queue.
    ///
    /// # Errors
    /// When there is no session, or the system gives no thread.
    pub fn start_pool(sessions: Vec<Box<dyn Session>>, options: &WorkerOptions) -> io::Result<SessionHandle> {
        let Some(first) = sessions.first() else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a worker needs at least one session"));
        };
        let hosted = sessions.iter().filter_map(|session| session.hosted()).collect();
        let (signature, provider) = (first.signature().clone(), first.provider().to_owned());
        let shared = Shared { signature, provider, hosted, workers: sessions.len() };
        let queue = Arc::new(Queue::new(options.queue, sessions.len()));
        let (alive, ended) = watch::channel(());
        // Made before the threads: if one cannot be started, dropping it ends those that were.
        let handle = SessionHandle { owner: Arc::new(Owner { queue: Arc::clone(&queue), shared }), ended };
        for session in sessions {
            let (queue, alive) = (Arc::clone(&queue), alive.clone());
            thread::Builder::new().name(options.name.clone()).spawn(move || {
                serve(session, &queue);
                drop(alive);
            })?;
        }
        Ok(handle)
    }
}

/// The asynchronous side of a worker. Clones share it; when the last one goes, what waits is still answered, then the
/// thread ends and the session is freed.
#[derive(Clone)]
pub struct SessionHandle {
    owner: Arc<Owner>,
    /// Closes when the last thread has freed its session.
    ended: watch::Receiver<()>,
}

/// Closes the queue when the last handle is dropped.
struct Owner {
    queue: Arc<Queue>,
    shared: Shared,
}

struct Shared {
    signature: Signature,
    provider: String,
    /// Controls of the sessions that live in host processes.
    hosted: Vec<Arc<dyn Hosted>>,
    /// Number of sessions behind the queue, at least 1.
    workers: usize,
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.queue.close();
    }
}

impl fmt::Debug for SessionHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionHandle").field("waiting", &self.waiting()).finish_non_exhaustive()
    }
}

impl SessionHandle {
    /// Returns the inputs and outputs of the model.
    #[must_use]
    pub fn signature(&self) -> &Signature {
        &self.owner.shared.signature
    }

    /// The execution provider that runs the model, as [`Session::provider`].
    #[must_use]
    pub fn provider(&self) -> &str {
        &self.owner.shared.provider
    }

    /// Moves sessions on trial to the host process that proven models share; see [`Hosted::promote`]. Blocks for as long as
    /// loading takes.
    ///
    /// # Errors
    /// When the model does not load there; the sessions answer from where they are.
    pub fn promote(&self) -> Result<(), LoadError> {
        self.owner.shared.hosted.iter().try_for_each(|session| session.promote())
    }

    /// Returns the reason if no session of this model will ever run again; see [`Hosted::condemned`].
    #[must_use]
    pub fn condemned(&self) -> Option<String> {
        self.owner.shared.hosted.iter().find_map(|session| session.condemned())
    }

    /// Returns the number of sessions that take requests from the queue, at least 1.
    #[must_use]
    pub fn workers(&self) -> usize {
        self.owner.shared.workers.max(1)
    }

    /// Requests that wait now.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.owner.queue.waiting()
    }

    /// Returns the time since which the oldest run goes on, also when nobody waits for its answer any more; `None` while
    /// nothing runs.
    #[must_use]
    pub fn oldest_run(&self) -> Option<Instant> {
        self.owner.queue.oldest_run()
    }

    /// Runs the model once and waits for the answer. Empty `outputs` asks for all.
    ///
    /// # Errors
    /// [`InferError`] says which of its reasons it was; a request that does not fit the model or finds the queue full
    /// is refused at once.
    ///
    /// # Cancel safety
    /// Dropping the future cancels the request: it leaves the queue, or its run is stopped between two nodes.
    ///
    /// # Panics
    /// As `tokio::time::timeout_at`: with a deadline it must run inside a tokio runtime with its clock enabled.
    pub async fn infer(
        &self,
        inputs: Vec<NamedTensor>,
        outputs: Vec<String>,
        deadline: Option<Instant>,
    ) -> Result<Outcome, InferError> {
        self.signature().check_inputs(&inputs)?;
        self.signature().check_outputs(outputs.iter().map(String::as_str))?;
        if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            return Err(InferError::Deadline);
        }
        let control = RunControl { deadline, ..RunControl::default() };
        let (answer, answered) = oneshot::channel();
        let job = Job { inputs, outputs, control: control.clone(), asked: Instant::now(), answer };
        let number = self.owner.queue.push(job).map_err(|error| match error {
            PushError::Full { waiting } => InferError::Busy { waiting },
            PushError::Closed => InferError::Stopped,
        })?;
        let _withdraw = Withdraw { queue: &self.owner.queue, number, control };
        let answer = match deadline {
            None => answered.await,
            // The run is stopped by its deadline too; this answers in time even when one kernel takes long.
            Some(deadline) => match tokio::time::timeout_at(deadline.into(), answered).await {
                Ok(answer) => answer,
                Err(_elapsed) => return Err(InferError::Deadline),
            },
        };
        answer.unwrap_or(Err(InferError::Stopped))
    }

    /// Takes no more requests; those that wait are still answered. Returns at once.
    pub fn stop(&self) {
        self.owner.queue.close();
    }

    /// Waits until the worker was stopped, has answered what waited and has freed its sessions.
    ///
    /// # Cancel safety
    /// Safe to drop and call again.
    pub async fn stopped(&self) {
        let mut ended = self.ended.clone();
        while ended.changed().await.is_ok() {}
    }
}

/// Withdraws a request whose asker has gone; does nothing to one that was answered.
struct Withdraw<'a> {
    queue: &'a Queue,
    number: u64,
    control: RunControl,
}

impl Drop for Withdraw<'_> {
    fn drop(&mut self) {
        self.queue.withdraw(self.number);
        self.control.cancel.cancel();
    }
}

/// Answers requests until the queue is closed and empty.
fn serve(mut session: Box<dyn Session>, queue: &Queue) {
    while let Some((number, job)) = queue.pop() {
        let Job { inputs, outputs, control, asked, answer } = job;
        let started = Instant::now();
        let result = if control.cancel.is_cancelled() {
            Err(InferError::Cancelled)
        } else if control.deadline.is_some_and(|deadline| deadline <= started) {
            Err(InferError::Deadline)
        } else {
            let run = run_unpanicked(session.as_mut(), &inputs, &outputs, &control);
            run.map_err(InferError::from).map(|outputs| Outcome {
                outputs,
                queue: started.saturating_duration_since(asked),
                compute: started.elapsed(),
            })
        };
        // Freed before the answer, so that an asker who counts waiting requests finds the place free.
        queue.done(number);
        if answer.send(result).is_err() {
            tracing::debug!("an answer came after its asker had gone");
        }
    }
}

/// A panic of an engine costs one request, not the thread that all requests wait for.
fn run_unpanicked(
    session: &mut dyn Session,
    inputs: &[NamedTensor],
    outputs: &[String],
    control: &RunControl,
) -> Result<Vec<NamedTensor>, RunError> {
    catch_unwind(AssertUnwindSafe(|| session.run(inputs, outputs, control))).unwrap_or_else(|_panic| {
        tracing::error!("an engine panicked while running a model");
        Err(RunError::Failed("the engine panicked".into()))
    })
}

#[cfg(test)]
mod tests;
