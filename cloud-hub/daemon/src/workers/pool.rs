//! One loaded version: its sessions, and the line of requests before them.
//!
//! [`hub_core::admission`] decides the order and the limits; here requests wait for their turn, run, and leave. A
//! request whose future is dropped leaves the line, or has its run stopped.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bundle::manifest::score::Verdict;
use engine::{InferError, SessionHandle};
use hub_core::admission::{Admission, Cancelled, JobId, Limits, Next, NotAdmitted, Priority, Request};
use tokio::sync::oneshot;
use types::{Caller, Digest, EngineName, Mismatch, ModelName, NamedTensor, Signature, VariantName, Version};

use crate::config::{GatewayTable, InferenceTable};

/// Jobs of one device in a round: enough to keep a session busy while its next one travels, few enough that a device
/// with a flood delays another's next request by a handful of runs.
const SHARE: u32 = 4;

/// Version that a pool runs.
#[derive(Debug, Clone)]
pub struct PoolFacts {
    /// Name of the model.
    pub model: ModelName,
    /// Version of the format.
    pub version: Version,
    /// The form of it.
    pub variant: VariantName,
    /// Digest of the model file.
    pub digest: Digest,
    /// Session that runs it.
    pub engine: EngineName,
    /// Verdicts on the manifest's rule for scores, by this session and its golden answers; the registry reads them.
    pub score: Vec<Verdict>,
}

/// Request of a caller.
#[derive(Debug)]
pub struct PoolRequest {
    /// Device that asks, by its certificate.
    pub caller: Caller,
    /// Input tensors by name.
    pub inputs: Vec<NamedTensor>,
    /// Outputs wanted; empty for all.
    pub outputs: Vec<String>,
    /// Deadline after which the response is useless.
    pub deadline: Option<Instant>,
    /// Whether nobody waits for the answer: the request then gives way to all others.
    pub is_background: bool,
}

/// An answer and what it cost.
#[derive(Debug)]
pub struct Answer {
    /// Output tensors by name.
    pub outputs: Vec<NamedTensor>,
    /// Time before the run.
    pub queue: Duration,
    /// Time of the run.
    pub compute: Duration,
}

/// Error of a request.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    /// The inputs do not fit the model.
    #[error(transparent)]
    Mismatch(#[from] Mismatch),
    /// The model cannot compute this input.
    #[error("{0}")]
    Input(String),
    /// The queue is full.
    #[error("too many requests are waiting")]
    Busy {
        /// Time after which to try again.
        retry_after: Option<Duration>,
    },
    /// The deadline of the request passed.
    #[error("the deadline passed before the model returned its outputs")]
    Deadline,
    /// The engine reported an error.
    #[error("the model gave no answer")]
    Failed(#[source] InferError),
    /// The version was let go meanwhile.
    #[error("the session was stopped")]
    Stopped,
}

/// Version that is loaded, with its queue.
#[derive(Debug)]
pub struct Pool {
    facts: PoolFacts,
    handle: SessionHandle,
    run_limit: Duration,
    line: Mutex<Line>,
}

/// Waiting requests with the channels to answer them.
#[derive(Debug)]
struct Line {
    admission: Admission,
    waiting: HashMap<JobId, oneshot::Sender<Turn>>,
}

/// Notice to a waiting request.
#[derive(Debug)]
enum Turn {
    Run,
    Expired,
}

impl Pool {
    /// A pool over sessions that are ready.
    #[must_use]
    pub fn new(facts: PoolFacts, handle: SessionHandle, inference: &InferenceTable, gateway: &GatewayTable) -> Self {
        let limits = Limits {
            running: inference.sessions,
            queued: inference.queue,
            queued_bytes: gateway.request_bytes_max,
            queued_per_device: gateway.requests_per_device_max,
            share: SHARE,
        };
        let line = Mutex::new(Line { admission: Admission::new(limits), waiting: HashMap::new() });
        Self { facts, handle, run_limit: inference.run_limit, line }
    }

    /// Returns the version that it runs.
    #[must_use]
    pub fn facts(&self) -> &PoolFacts {
        &self.facts
    }

    /// Name of the model.
    #[must_use]
    pub fn model(&self) -> &ModelName {
        &self.facts.model
    }

    /// Version of the format.
    #[must_use]
    pub fn version(&self) -> Version {
        self.facts.version
    }

    /// Returns the inputs and outputs of the loaded version.
    #[must_use]
    pub fn signature(&self) -> &Signature {
        self.handle.signature()
    }

    /// The execution provider that really runs.
    #[must_use]
    pub fn provider(&self) -> &str {
        self.handle.provider()
    }

    /// Returns the reason if the version is not run any more, because it kept ending its child process.
    #[must_use]
    pub fn condemned(&self) -> Option<String> {
        self.handle.condemned()
    }

    /// Requests that wait, and requests that run.
    #[must_use]
    pub fn load(&self) -> (usize, usize) {
        let line = self.line();
        (line.admission.waiting(), line.admission.running())
    }

    /// Returns how far the oldest run is over the run limit; zero while every run is within it.
    #[must_use]
    pub fn overdue(&self, now: Instant) -> Duration {
        // Of the session itself: a request whose device has gone leaves the queue, and not a session that hangs.
        let oldest = self.handle.oldest_run();
        oldest.map_or(Duration::ZERO, |since| now.duration_since(since).saturating_sub(self.run_limit))
    }

    /// Answers one request in its turn.
    ///
    /// # Errors
    /// [`PoolError`] says why not.
    ///
    /// # Cancel safety
    /// Dropping the future takes the request out of the line, or stops its run between two nodes.
    pub async fn infer(&self, ask: PoolRequest) -> Result<Answer, PoolError> {
        // Before it takes a place: what cannot be answered must not keep others waiting.
        self.handle.signature().check_inputs(&ask.inputs)?;
        self.handle.signature().check_outputs(ask.outputs.iter().map(String::as_str))?;
        let asked = Instant::now();
        let bytes = ask.inputs.iter().map(|input| input.tensor.data().len()).sum::<usize>();
        let request = Request {
            caller: ask.caller,
            priority: if ask.is_background { Priority::Background } else { Priority::Interactive },
            deadline: ask.deadline,
            bytes: u64::try_from(bytes).unwrap_or(u64::MAX),
        };
        let (mut place, turn) = self.queue_up(request, asked)?;
        // The line looks at deadlines when something moves; this looks when nothing does.
        let called = match ask.deadline {
            Some(deadline) => tokio::time::timeout_at(deadline.into(), turn).await.unwrap_or(Ok(Turn::Expired)),
            None => turn.await,
        };
        match called {
            Ok(Turn::Run) => {}
            Ok(Turn::Expired) => return Err(PoolError::Deadline),
            Err(_let_go) => return Err(PoolError::Stopped),
        }
        let started = Instant::now();
        place.since = started;
        let limit = started.checked_add(self.run_limit);
        let deadline = [ask.deadline, limit].into_iter().flatten().min();
        let outcome = self.handle.infer(ask.inputs, ask.outputs, deadline).await;
        drop(place);
        let outcome = outcome.map_err(PoolError::from)?;
        let queue = started.duration_since(asked) + outcome.queue;
        Ok(Answer { outputs: outcome.outputs, queue, compute: outcome.compute })
    }

    fn queue_up(&self, request: Request, now: Instant) -> Result<(Place<'_>, oneshot::Receiver<Turn>), PoolError> {
        let (call, turn) = oneshot::channel();
        let mut line = self.line();
        let job = line.admission.submit(request, now).map_err(|refused| match refused {
            NotAdmitted::Busy { retry_after } | NotAdmitted::DeviceBusy { retry_after } => {
                PoolError::Busy { retry_after: Some(retry_after) }
            }
            NotAdmitted::Expired => PoolError::Deadline,
        })?;
        line.waiting.insert(job, call);
        line.call_next(now);
        Ok((Place { pool: self, job, since: now }, turn))
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Line {
    /// Calls everybody whose turn it is, or whose time is over.
    fn call_next(&mut self, now: Instant) {
        loop {
            let (job, turn) = match self.admission.next(now) {
                Next::Run(job, _request) => (job, Turn::Run),
                Next::Expired(job, _request) => (job, Turn::Expired),
                Next::Idle => return,
            };
            // Whoever is not there any more has a `Place` that is about to be dropped and tidies up.
            if self.waiting.remove(&job).is_none_or(|call| call.send(turn).is_err()) {
                tracing::trace!("a request left as its turn came");
            }
        }
    }
}

/// A request's place in the line or at a session, given back when dropped.
struct Place<'a> {
    pool: &'a Pool,
    job: JobId,
    since: Instant,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let now = Instant::now();
        let mut line = self.pool.line();
        line.waiting.remove(&self.job);
        match line.admission.cancel(self.job) {
            Cancelled::Running => {
                if let Err(error) = line.admission.finish(self.job, now.duration_since(self.since)) {
                    tracing::error!(%error, "the line has lost count");
                }
            }
            Cancelled::Queued | Cancelled::Unknown => {}
        }
        line.call_next(now);
    }
}

impl From<InferError> for PoolError {
    fn from(error: InferError) -> Self {
        match error {
            InferError::Busy { .. } => Self::Busy { retry_after: None },
            InferError::Deadline => Self::Deadline,
            InferError::Mismatch(mismatch) => Self::Mismatch(mismatch),
            InferError::Stopped => Self::Stopped,
            InferError::Cancelled | InferError::Failed(_) => match error.fault_of_request() {
                Some(fault) => Self::Input(fault),
                None => Self::Failed(error),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use engine::fake::Gate;
    use engine::{Engine, FakeEngine, LoadOptions, ModelBytes, SessionWorker, WorkerOptions};
    use tokio_util::task::TaskTracker;
    use types::Tensor;

    use super::*;

    fn pool(engine: &FakeEngine, queue: usize, per_device: usize) -> Arc<Pool> {
        let session = engine.load(ModelBytes::from(b"1".to_vec()), &LoadOptions::default()).unwrap();
        let options = WorkerOptions { queue: 1, name: "test".to_owned() };
        let handle = SessionWorker::start(session, &options).unwrap();
        let facts = PoolFacts {
            model: "sum".parse().unwrap(),
            version: Version::new(1).unwrap(),
            variant: "full".parse().unwrap(),
            digest: Digest::of(b"1"),
            engine: EngineName::Fake,
            score: Vec::new(),
        };
        let inference = InferenceTable { queue, ..InferenceTable::default() };
        let gateway = GatewayTable { requests_per_device_max: per_device, ..GatewayTable::default() };
        Arc::new(Pool::new(facts, handle, &inference, &gateway))
    }

    fn ask(device: &str, deadline: Option<Duration>) -> PoolRequest {
        let tensor = Tensor::from_f32(vec![1, 1], &[1.0]).unwrap();
        PoolRequest {
            caller: Caller::Device(device.parse().unwrap()),
            inputs: vec![NamedTensor { name: "x".to_owned(), tensor }],
            outputs: Vec::new(),
            deadline: deadline.map(|left| Instant::now() + left),
            is_background: false,
        }
    }

    async fn until(holds: impl Fn() -> bool) {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    #[tokio::test]
    async fn requests_are_answered_in_turn() {
        let pool = pool(&FakeEngine::new(1), 40, 10);
        let asks = (0..10).map(|_| pool.infer(ask("a", None)));
        for answer in futures_util::future::join_all(asks).await {
            assert_eq!(answer.unwrap().outputs[0].tensor.to_f32().unwrap(), [2.0]);
        }
        assert_eq!(pool.load(), (0, 0));
    }

    #[tokio::test]
    async fn a_full_line_says_busy_and_when_to_come_again() {
        let gate = Gate::default();
        let pool = pool(&FakeEngine::new(1).gated(gate.clone()), 8, 2);
        let tasks = TaskTracker::new();
        let spawn = |device: &'static str| {
            let pool = Arc::clone(&pool);
            tasks.spawn(async move { pool.infer(ask(device, None)).await })
        };
        let running = spawn("a");
        until(|| pool.load() == (0, 1)).await;
        let waiting = [spawn("a"), spawn("a")];
        until(|| pool.load() == (2, 1)).await;
        // A device has its share of the line, the line has its end.
        for device in ["a", "b", "c"] {
            let answer = pool.infer(ask(device, Some(Duration::ZERO))).await;
            assert!(matches!(answer, Err(PoolError::Deadline)), "{answer:?}");
        }
        assert!(matches!(pool.infer(ask("a", None)).await, Err(PoolError::Busy { retry_after: Some(_) })));
        let last = ["b", "c", "d", "e", "f", "g"].map(spawn);
        until(|| pool.load() == (8, 1)).await;
        assert!(matches!(pool.infer(ask("h", None)).await, Err(PoolError::Busy { retry_after: Some(_) })));
        gate.open();
        for task in [running].into_iter().chain(last).chain(waiting) {
            task.await.unwrap().unwrap();
        }
    }

    #[tokio::test]
    async fn a_withdrawn_request_leaves_the_line_and_its_run_ends() {
        let gate = Gate::default();
        let pool = pool(&FakeEngine::new(1).gated(gate.clone()), 10, 10);
        let tasks = TaskTracker::new();
        let spawn = || {
            let pool = Arc::clone(&pool);
            tasks.spawn(async move { pool.infer(ask("a", None)).await })
        };
        let (running, waiting, last) = (spawn(), spawn(), spawn());
        until(|| pool.load() == (2, 1)).await;
        waiting.abort();
        until(|| pool.load() == (1, 1)).await;
        // The one that runs goes too: the last gets the session although the gate never opened for the first.
        running.abort();
        until(|| pool.load() == (0, 1)).await;
        gate.open();
        last.await.unwrap().unwrap();
        assert_eq!(pool.load(), (0, 0));
    }

    #[tokio::test]
    async fn a_deadline_that_passes_in_the_line_is_told_at_once() {
        let gate = Gate::default();
        let pool = pool(&FakeEngine::new(1).gated(gate.clone()), 10, 10);
        let tasks = TaskTracker::new();
        let first = Arc::clone(&pool);
        let running = tasks.spawn(async move { first.infer(ask("a", None)).await });
        until(|| pool.load() == (0, 1)).await;
        // Nothing else moves: the session is held at the gate all the while.
        let late = pool.infer(ask("a", Some(Duration::from_millis(20)))).await;
        assert!(matches!(late, Err(PoolError::Deadline)), "{late:?}");
        assert_eq!(pool.load(), (0, 1));
        gate.open();
        running.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn an_input_that_does_not_fit_takes_no_place() {
        let pool = pool(&FakeEngine::new(2), 10, 10);
        let answer = pool.infer(ask("a", None)).await;
        assert!(matches!(answer, Err(PoolError::Mismatch(_))), "{answer:?}");
    }
}
