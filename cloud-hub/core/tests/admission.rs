//! Promises of the inference queue.
#![expect(clippy::unwrap_used, reason = "a test ends at its first surprise")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use hub_core::admission::{
    Admission, Cancelled, JobId, Limits, Next, NotAdmitted, Priority, RETRY_AFTER_MAX, RETRY_AFTER_MIN, Request,
};
use proptest::prelude::*;
use types::Caller;

const LIMITS: Limits = Limits { running: 2, queued: 24, queued_bytes: 1000, queued_per_device: 6, share: 2 };

fn device(number: u8) -> Caller {
    Caller::Device(format!("device-{number}").parse().unwrap())
}

fn request(number: u8, deadline: Option<Instant>) -> Request {
    Request { caller: device(number), priority: Priority::Interactive, deadline, bytes: 1 }
}

fn run(queue: &mut Admission, now: Instant) -> Option<(JobId, Request)> {
    match queue.next(now) {
        Next::Run(job, request) => Some((job, request)),
        Next::Expired(..) | Next::Idle => None,
    }
}

/// Runs everything one after the other and says whose job was run each time.
fn order(queue: &mut Admission, now: Instant) -> Vec<String> {
    std::iter::from_fn(|| {
        let (job, request) = run(queue, now)?;
        queue.finish(job, Duration::from_millis(1)).unwrap();
        let Caller::Device(device) = request.caller else { return None };
        Some(device.to_string())
    })
    .collect()
}

#[test]
fn the_earliest_deadline_goes_first_and_no_deadline_last() {
    let now = Instant::now();
    let mut queue = Admission::new(LIMITS);
    for (number, left) in [(1, None), (2, Some(30)), (3, Some(10)), (4, Some(20))] {
        queue.submit(request(number, left.map(|s| now + Duration::from_secs(s))), now).unwrap();
    }
    assert_eq!(order(&mut queue, now), ["device-3", "device-4", "device-2", "device-1"]);
}

#[test]
fn background_work_runs_only_when_nobody_waits() {
    let now = Instant::now();
    let mut queue = Admission::new(LIMITS);
    let background = Request { priority: Priority::Background, ..request(1, Some(now + Duration::from_secs(1))) };
    queue.submit(background, now).unwrap();
    queue.submit(request(2, None), now).unwrap();
    assert_eq!(order(&mut queue, now), ["device-2", "device-1"]);
}

#[test]
fn a_device_that_floods_is_met_by_everyone_elses_next_job() {
    let now = Instant::now();
    let mut queue = Admission::new(LIMITS);
    let soon = Some(now + Duration::from_secs(1));
    for _ in 0..6 {
        queue.submit(request(1, soon), now).unwrap();
    }
    assert!(matches!(queue.submit(request(1, soon), now), Err(NotAdmitted::DeviceBusy { .. })));
    queue.submit(request(2, None), now).unwrap();
    let order = order(&mut queue, now);
    assert_eq!(order.iter().position(|device| device == "device-2"), Some(2), "{order:?}");
}

#[test]
fn a_device_that_keeps_one_job_waiting_does_not_starve_one_that_sent_many() {
    let now = Instant::now();
    let mut queue = Admission::new(Limits { running: 1, ..LIMITS });
    for _ in 0..6 {
        queue.submit(request(1, None), now).unwrap();
    }
    let soon = Some(now + Duration::from_secs(1));
    let mut running = run(&mut queue, now).unwrap().0;
    let mut served = 0;
    for _ in 0..12 {
        // The next one is sent while the last one runs: nothing of this device ever waits when it is served.
        queue.submit(request(2, soon), now).unwrap();
        queue.finish(running, Duration::ZERO).unwrap();
        let (job, request) = run(&mut queue, now).unwrap();
        served += usize::from(request.caller == device(1));
        running = job;
        if request.caller == device(1) {
            queue.finish(running, Duration::ZERO).unwrap();
            running = run(&mut queue, now).unwrap().0;
        }
    }
    assert!(served >= 3, "the first device was served {served} times");
}

#[test]
fn a_full_queue_says_when_to_come_back() {
    let now = Instant::now();
    let mut queue = Admission::new(Limits { queued: 4, queued_per_device: 4, running: 1, ..LIMITS });
    let (first, _) = {
        queue.submit(request(1, None), now).unwrap();
        run(&mut queue, now).unwrap()
    };
    for number in 0..4 {
        queue.submit(request(number, None), now).unwrap();
    }
    let retry_after = |queue: &mut Admission| match queue.submit(request(9, None), now) {
        Err(NotAdmitted::Busy { retry_after }) => retry_after,
        other => panic!("{other:?}"),
    };
    let before = retry_after(&mut queue);
    assert!((RETRY_AFTER_MIN..=RETRY_AFTER_MAX).contains(&before));
    queue.finish(first, Duration::from_secs(20)).unwrap();
    assert!(retry_after(&mut queue) > before, "a slower hub asks for more patience");
}

/// Fills a queue of `queued` places, as many devices as there are taking all they can; returns what each one got.
fn greedy(queued: usize, devices: u8) -> Vec<usize> {
    let now = Instant::now();
    let mut queue = Admission::new(Limits { queued, queued_per_device: 32, ..LIMITS });
    let mut take = |number| (0..100).take_while(|_| queue.submit(request(number, None), now).is_ok()).count();
    (0..devices).map(&mut take).collect()
}

#[test]
fn a_device_has_a_share_of_the_queue_however_short_it_is_configured() {
    assert_eq!(greedy(256, 1), [32], "a long queue: the configured number");
    assert_eq!(greedy(32, 1), [8], "a quarter");
    assert_eq!(greedy(8, 1), [2]);
    assert_eq!(greedy(1, 2), [1, 0], "the last place goes to whoever holds none");
    for queued in [8, 32, 64, 256] {
        let got = greedy(queued, 6);
        assert!(got.iter().all(|got| *got >= 1), "{queued}: somebody got nothing: {got:?}");
        assert!(got.iter().sum::<usize>() <= queued);
        let left = greedy(queued, 3).iter().sum::<usize>();
        assert!(left < queued, "{queued}: three devices took it all");
    }
    // What one gives up another may take.
    let now = Instant::now();
    let mut queue = Admission::new(Limits { queued: 8, ..LIMITS });
    let first: Vec<JobId> = (0..2).map(|_| queue.submit(request(1, None), now).unwrap()).collect();
    assert!(matches!(queue.submit(request(1, None), now), Err(NotAdmitted::DeviceBusy { .. })));
    queue.cancel(first[0]);
    assert!(queue.submit(request(1, None), now).is_ok());
}

#[test]
fn input_bytes_are_bounded_as_jobs_are() {
    let now = Instant::now();
    let mut queue = Admission::new(LIMITS);
    let big = Request { bytes: 600, ..request(1, None) };
    let job = queue.submit(big.clone(), now).unwrap();
    assert!(matches!(queue.submit(big.clone(), now), Err(NotAdmitted::Busy { .. })));
    assert_eq!(queue.cancel(job), Cancelled::Queued);
    assert!(queue.submit(big, now).is_ok(), "a cancelled job gives its bytes back");
}

#[derive(Debug, Clone)]
enum Act {
    Submit { device: u8, background: bool, left_ms: Option<u64>, bytes: u64 },
    Next,
    Finish { which: usize, took_ms: u64 },
    Cancel { which: usize },
    Pass { ms: u64 },
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => (0..5_u8, any::<bool>(), proptest::option::of(0..50_u64), 0..200_u64)
            .prop_map(|(device, background, left_ms, bytes)| Act::Submit { device, background, left_ms, bytes }),
        4 => Just(Act::Next),
        2 => (any::<usize>(), 0..100_u64).prop_map(|(which, took_ms)| Act::Finish { which, took_ms }),
        1 => any::<usize>().prop_map(|which| Act::Cancel { which }),
        1 => (0..40_u64).prop_map(|ms| Act::Pass { ms }),
    ]
}

/// What the test itself knows of the queue.
#[derive(Default)]
struct Seen {
    waiting: BTreeMap<JobId, Request>,
    running: BTreeSet<JobId>,
    over: BTreeSet<JobId>,
}

impl Seen {
    fn pick(&self, which: usize) -> Option<JobId> {
        let all: Vec<_> = self.waiting.keys().chain(&self.running).chain(&self.over).copied().collect();
        (!all.is_empty()).then(|| all[which % all.len()])
    }

    fn check(&self, queue: &Admission) {
        assert_eq!((queue.waiting(), queue.running()), (self.waiting.len(), self.running.len()));
        assert!(queue.running() <= LIMITS.running && queue.waiting() <= LIMITS.queued);
        assert!(self.waiting.values().map(|request| request.bytes).sum::<u64>() <= LIMITS.queued_bytes);
        for number in 0..5 {
            let of_device = self.waiting.values().filter(|request| request.caller == device(number)).count();
            assert!(of_device <= LIMITS.queued_per_device);
        }
        let counters = queue.counters();
        let ended = counters.busy + counters.expired + counters.cancelled + counters.finished;
        let held = u64::try_from(queue.waiting() + queue.running()).unwrap();
        assert_eq!(counters.submitted, ended + held, "every job is somewhere: {counters:?}");
    }
}

proptest! {
    #[test]
    fn limits_hold_jobs_are_conserved_and_no_expired_job_runs(acts in proptest::collection::vec(act(), 0..200)) {
        let mut now = Instant::now();
        let mut queue = Admission::new(LIMITS);
        let mut seen = Seen::default();
        for act in acts {
            match act {
                Act::Submit { device: number, background, left_ms, bytes } => {
                    let deadline = left_ms.map(|ms| now + Duration::from_millis(ms));
                    let priority = if background { Priority::Background } else { Priority::Interactive };
                    let request = Request { priority, bytes, ..request(number, deadline) };
                    if let Ok(job) = queue.submit(request.clone(), now) {
                        prop_assert!(seen.waiting.insert(job, request).is_none() && !seen.over.contains(&job));
                    }
                }
                Act::Next => match queue.next(now) {
                    Next::Run(job, request) => {
                        prop_assert!(request.deadline.is_none_or(|deadline| deadline > now), "expired and run");
                        prop_assert_eq!(seen.waiting.remove(&job), Some(request.clone()));
                        prop_assert!(seen.waiting.values().all(|other| other.priority >= request.priority));
                        seen.running.insert(job);
                    }
                    Next::Expired(job, request) => {
                        prop_assert!(request.deadline.is_some_and(|deadline| deadline <= now));
                        prop_assert_eq!(seen.waiting.remove(&job), Some(request));
                        seen.over.insert(job);
                    }
                    Next::Idle => {
                        let expired = |request: &Request| request.deadline.is_some_and(|deadline| deadline <= now);
                        prop_assert!(!seen.waiting.values().any(expired));
                        prop_assert!(seen.waiting.is_empty() || seen.running.len() == LIMITS.running);
                    }
                },
                Act::Finish { which, took_ms } => if let Some(job) = seen.pick(which) {
                    let runs = seen.running.remove(&job);
                    prop_assert_eq!(queue.finish(job, Duration::from_millis(took_ms)).is_ok(), runs);
                    if runs {
                        seen.over.insert(job);
                    }
                },
                Act::Cancel { which } => if let Some(job) = seen.pick(which) {
                    let expected = if seen.waiting.remove(&job).is_some() {
                        seen.over.insert(job);
                        Cancelled::Queued
                    } else if seen.running.contains(&job) {
                        Cancelled::Running
                    } else {
                        Cancelled::Unknown
                    };
                    prop_assert_eq!(queue.cancel(job), expected);
                },
                Act::Pass { ms } => now += Duration::from_millis(ms),
            }
            seen.check(&queue);
        }
    }
}

#[test]
fn an_operator_shares_nothing_with_a_device_of_the_same_name() {
    let (mut queue, now) = (Admission::new(LIMITS), Instant::now());
    let of = |caller| Request { caller, priority: Priority::Interactive, deadline: None, bytes: 1 };
    let name = "ci".to_owned();
    while queue.submit(of(Caller::Device(name.parse().unwrap())), now).is_ok() {}
    assert!(queue.submit(of(Caller::Operator(name)), now).is_ok());
    assert!(queue.submit(of(Caller::Application), now).is_ok());
}
