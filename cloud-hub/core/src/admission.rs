//! Which inference request runs next, and which is turned away.
//!
//! Fed by the gateway ([`Admission::submit`], [`Admission::cancel`]) and the workers ([`Admission::next`],
//! [`Admission::finish`]); holds no payload, only a number for each job. One value stands for one pool of workers.
//!
//! The order: higher priority first. Within a priority, by rounds: a caller has at most [`Limits::share`] jobs in
//! each, so one that sends a thousand at once is met by everyone else's next job after at most a share of its own.
//! Within a round, the earliest deadline first, and those without a deadline last, in order of arrival. A lower
//! priority runs only when no higher one waits. A job whose deadline has passed is answered, not run.

mod rounds;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use types::Caller;

use rounds::Rounds;

use crate::shares::FREE_PER_HELD;

/// Shortest and longest `retry_after` of a refusal: below, a device would ask again before anything has changed;
/// above, it would be silent long after the rush is over.
pub const RETRY_AFTER_MIN: Duration = Duration::from_millis(50);
/// See [`RETRY_AFTER_MIN`].
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(10);

/// What a job is thought to take before the first was measured.
pub const SERVICE_TIME_UNKNOWN: Duration = Duration::from_millis(50);

/// Weight of the newest measurement in the smoothed service time: one part in this many, as TCP smooths round trips.
const SMOOTHING: u32 = 8;

/// Limits for waiting and running jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most jobs that run at once: the number of sessions.
    pub running: usize,
    /// Most jobs that wait.
    pub queued: usize,
    /// Most input bytes of the jobs that wait.
    pub queued_bytes: u64,
    /// Maximum number of jobs of one device that wait, beside its share of `queued`.
    pub queued_per_device: usize,
    /// Most jobs of one device in a round, at least one.
    pub share: u32,
}

/// Priority of a job. The order of the variants is the order of running.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Priority {
    /// Someone waits for the answer.
    Interactive,
    /// Nobody does: audits, provisional answers that are amended later.
    Background,
}

/// Names a job from its submission to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId(u64);

/// Job to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Caller that asks; a device by its certificate, an operator by its token.
    pub caller: Caller,
    /// Priority of the job.
    pub priority: Priority,
    /// Deadline after which the response is useless.
    pub deadline: Option<Instant>,
    /// Input bytes that are held while it waits.
    pub bytes: u64,
}

/// Refusal of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotAdmitted {
    /// The queue is full.
    #[error("the hub's queue is full: try again in {} ms", retry_after.as_millis())]
    Busy {
        /// Time after which a place is likely to be free.
        retry_after: Duration,
    },
    /// This device's part of the queue is full.
    #[error("this device has too many requests waiting: try again in {} ms", retry_after.as_millis())]
    DeviceBusy {
        /// Time after which a place is likely to be free.
        retry_after: Duration,
    },
    /// The deadline has passed.
    #[error("the deadline has passed")]
    Expired,
}

/// Next step of a free worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Run this job, then [`Admission::finish`] it.
    Run(JobId, Request),
    /// Answer this job that its deadline has passed; it is over. Then ask again.
    Expired(JobId, Request),
    /// Nothing waits, or every session is at work.
    Idle,
}

/// Result of a cancellation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cancelled {
    /// It was waiting and is gone.
    Queued,
    /// It runs: stop it, then finish it as any other.
    Running,
    /// It is over, or never was.
    Unknown,
}

/// A job was finished that does not run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("job {} does not run", job.0)]
pub struct NotRunning {
    /// Number of the job.
    pub job: JobId,
}

/// What became of all jobs so far. `submitted` is the sum of the others, what waits and what runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Asked for.
    pub submitted: u64,
    /// Turned away because a limit was reached.
    pub busy: u64,
    /// Answered late: the deadline passed before they ran.
    pub expired: u64,
    /// Cancelled while they waited.
    pub cancelled: u64,
    /// Run to an end, whichever.
    pub finished: u64,
}

/// Where a job stands in the order; `deadline` puts those without one last.
type Rank = (Priority, u64, Deadline, JobId);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Deadline {
    At(Instant),
    Never,
}

/// Jobs that wait and jobs that run.
#[derive(Debug)]
pub struct Admission {
    limits: Limits,
    waiting: BTreeMap<Rank, Request>,
    ranks: BTreeMap<JobId, Rank>,
    deadlines: BTreeSet<(Instant, JobId)>,
    waiting_bytes: u64,
    running: BTreeSet<JobId>,
    rounds: Rounds,
    last: u64,
    service_time: Duration,
    counters: Counters,
}

impl Admission {
    /// Creates an empty queue.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            waiting: BTreeMap::new(),
            ranks: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            waiting_bytes: 0,
            running: BTreeSet::new(),
            rounds: Rounds::new(limits.share),
            last: 0,
            service_time: SERVICE_TIME_UNKNOWN,
            counters: Counters::default(),
        }
    }

    /// Takes a job, or says why not.
    ///
    /// # Errors
    /// [`NotAdmitted`]; nothing is held of the job.
    pub fn submit(&mut self, request: Request, now: Instant) -> Result<JobId, NotAdmitted> {
        self.counters.submitted += 1;
        if request.deadline.is_some_and(|deadline| deadline <= now) {
            self.counters.expired += 1;
            return Err(NotAdmitted::Expired);
        }
        if let Err(busy) = self.room_for(&request) {
            self.counters.busy += 1;
            return Err(busy);
        }
        self.last += 1;
        let job = JobId(self.last);
        let round = self.rounds.join(&request.caller, request.priority);
        let rank = (request.priority, round, request.deadline.map_or(Deadline::Never, Deadline::At), job);
        self.deadlines.extend(request.deadline.map(|deadline| (deadline, job)));
        self.waiting_bytes = self.waiting_bytes.saturating_add(request.bytes);
        self.ranks.insert(job, rank);
        self.waiting.insert(rank, request);
        Ok(job)
    }

    /// What to do next. Call it until it says [`Next::Idle`]: after a submission, after a finish and at the time of
    /// [`Admission::poll_timeout`].
    pub fn next(&mut self, now: Instant) -> Next {
        if let Some(&(deadline, job)) = self.deadlines.first()
            && deadline <= now
            && let Some(request) = self.take(job)
        {
            self.counters.expired += 1;
            return Next::Expired(job, request);
        }
        if self.running.len() >= self.limits.running {
            return Next::Idle;
        }
        let Some(&(priority, round, _, job)) = self.waiting.first_key_value().map(|(rank, _)| rank) else {
            return Next::Idle;
        };
        let Some(request) = self.take(job) else { return Next::Idle };
        self.rounds.reached(priority, round);
        self.running.insert(job);
        Next::Run(job, request)
    }

    /// The job does not run any more; `took` is how long it did.
    ///
    /// # Errors
    /// [`NotRunning`].
    pub fn finish(&mut self, job: JobId, took: Duration) -> Result<(), NotRunning> {
        if !self.running.remove(&job) {
            return Err(NotRunning { job });
        }
        self.counters.finished += 1;
        self.service_time = (self.service_time * (SMOOTHING - 1) / SMOOTHING).saturating_add(took / SMOOTHING);
        Ok(())
    }

    /// The device does not want the answer any more.
    pub fn cancel(&mut self, job: JobId) -> Cancelled {
        if self.running.contains(&job) {
            return Cancelled::Running;
        }
        match self.take(job) {
            Some(_) => {
                self.counters.cancelled += 1;
                Cancelled::Queued
            }
            None => Cancelled::Unknown,
        }
    }

    /// When to ask [`Admission::next`] again without other cause, and why.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        self.deadlines.first().map(|(deadline, _)| (*deadline, "deadline of a waiting job"))
    }

    /// Returns the number of waiting jobs.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Returns the number of running jobs.
    #[must_use]
    pub fn running(&self) -> usize {
        self.running.len()
    }

    /// Returns the number of jobs by their result.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters
    }

    fn room_for(&self, request: &Request) -> Result<(), NotAdmitted> {
        let of_caller = self.rounds.waiting_of(&request.caller);
        let busy = |jobs| NotAdmitted::Busy { retry_after: self.retry_after(jobs) };
        let bytes = self.waiting_bytes.saturating_add(request.bytes);
        let free_after =
            self.limits.queued.checked_sub(self.waiting.len() + 1).ok_or_else(|| busy(self.waiting.len()))?;
        if of_caller >= self.limits.queued_per_device || Self::is_over_share(of_caller, free_after) {
            return Err(NotAdmitted::DeviceBusy { retry_after: self.retry_after(of_caller) });
        }
        if bytes > self.limits.queued_bytes {
            return Err(busy(self.waiting.len()));
        }
        Ok(())
    }

    /// Returns whether one more job would give a device more of the queue than its share, by the rule of [`crate::shares`]: however
    /// short the configured queue is, one device leaves three quarters of it to the others. A first job is never over it.
    fn is_over_share(of_caller: usize, free_after: usize) -> bool {
        let per_held = usize::try_from(FREE_PER_HELD).unwrap_or(usize::MAX);
        of_caller > 0 && (of_caller + 1).saturating_mul(per_held) > free_after
    }

    /// The time in which half of `jobs` are done at the present pace: by then there is room for who comes back.
    fn retry_after(&self, jobs: usize) -> Duration {
        let jobs = u32::try_from(jobs).unwrap_or(u32::MAX);
        let sessions = u32::try_from(self.limits.running).unwrap_or(u32::MAX).max(1);
        let all_done = self.service_time.saturating_mul(jobs) / sessions;
        (all_done / 2).clamp(RETRY_AFTER_MIN, RETRY_AFTER_MAX)
    }

    /// Takes a job out of the queue.
    fn take(&mut self, job: JobId) -> Option<Request> {
        let rank = self.ranks.remove(&job)?;
        let request = self.waiting.remove(&rank)?;
        if let Some(deadline) = request.deadline {
            self.deadlines.remove(&(deadline, job));
        }
        self.waiting_bytes = self.waiting_bytes.saturating_sub(request.bytes);
        self.rounds.leave(&request.caller);
        Some(request)
    }
}
