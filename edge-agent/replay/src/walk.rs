//! Lets the router decide one request in virtual time, with places that take as long as was measured or is predicted.

use std::time::{Duration, Instant};

use edge_core::policy::{Snapshot, is_escalation};
use edge_core::route::{Event, HubFailure, LocalFailure, Route, Step};
use types::{ErrorCode, Place, Reason};

/// Maximum number of events of one route. A route has at most a tick, an end of each place and a budget that is spent.
const EVENTS_MAX: usize = 16;

/// Work of one place, as it was measured or is predicted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Work<T, F> {
    /// Time until the answer or the failure; `None` where nothing is known.
    pub(crate) took: Option<Duration>,
    pub(crate) outcome: Result<T, F>,
}

/// Both places for one request.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Course {
    pub(crate) device: Work<Option<f32>, LocalFailure>,
    pub(crate) hub: Work<(), HubFailure>,
    pub(crate) threshold: Option<f32>,
}

/// Place and reason of a request, or the kind of its failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    By(Place, Reason),
    Failed(ErrorCode),
}

/// End of a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) answer: Answer,
    /// Whether the input was sent to the hub.
    pub(crate) is_sent: bool,
    /// Whether it was sent because the device's answer was not sure.
    pub(crate) is_deferred: bool,
    /// Time of the route; `None` where a place that it waited for has no known time.
    pub(crate) took: Option<Duration>,
}

/// Budgets: takes a request to the hub for this reason, or refuses it.
pub(crate) type Take<'a> = &'a mut dyn FnMut(Reason) -> Result<(), Reason>;

struct Pending {
    at: Instant,
    event: Event,
    is_timed: bool,
}

/// Follows the route of a request to its end.
pub(crate) fn walk(snapshot: Snapshot, course: &Course, start: Instant, take: Take<'_>) -> Ended {
    let (mut route, mut steps) = Route::begin(snapshot, start);
    let mut now = start;
    let (mut device, mut hub): (Option<Pending>, Option<Pending>) = (None, None);
    let (mut is_sent, mut is_deferred, mut is_timed) = (false, false, true);
    let end = |answer, is_sent, is_deferred, is_timed: bool, now: Instant| Ended {
        answer,
        is_sent,
        is_deferred,
        took: is_timed.then(|| now.saturating_duration_since(start)),
    };
    for _ in 0..EVENTS_MAX {
        for step in steps {
            match step {
                Step::RunLocal { until } => device = Some(run(course, now, until)),
                Step::AskHub { until, reason } => {
                    hub = Some(match take(reason) {
                        Ok(()) => {
                            (is_sent, is_deferred) = (true, is_escalation(reason));
                            ask(course, now, until)
                        }
                        Err(spent) => {
                            let event = Event::HubFailed(HubFailure::of_policy(spent));
                            Pending { at: now, event, is_timed: true }
                        }
                    });
                }
                // The hub's later answer is no part of the route.
                Step::Queue { .. } => {}
                Step::Cancel(Place::Device) => device = None,
                Step::Cancel(Place::Hub) => hub = None,
                Step::Answer { place, reason } => {
                    return end(Answer::By(place, reason), is_sent, is_deferred, is_timed, now);
                }
                Step::Fail(failure) => return end(Answer::Failed(failure.code), is_sent, is_deferred, is_timed, now),
            }
        }
        let tick = route.poll_timeout().map(|(at, _why)| at);
        let first = [device.as_ref().map(|work| work.at), hub.as_ref().map(|work| work.at), tick];
        let Some(at) = first.iter().flatten().min().copied() else { break };
        let is_due = |work: &Option<Pending>| work.as_ref().is_some_and(|work| work.at == at);
        let next = if is_due(&device) {
            device.take()
        } else if is_due(&hub) {
            hub.take()
        } else {
            Some(Pending { at, event: Event::Tick, is_timed: true })
        };
        let Some(Pending { event, is_timed: knows, .. }) = next else { break };
        (now, is_timed) = (now.max(at), is_timed && knows);
        match route.handle(event, now) {
            Ok(next) => steps = next,
            Err(_refused) => break,
        }
    }
    end(Answer::Failed(ErrorCode::Internal), is_sent, is_deferred, false, now)
}

/// Returns the end of a run on the device that begins now.
fn run(course: &Course, now: Instant, until: Option<Instant>) -> Pending {
    let Work { took, outcome } = course.device;
    let event = match outcome {
        Ok(score) => Event::LocalAnswered { score, threshold: course.threshold },
        Err(why) => Event::LocalFailed(why),
    };
    limited(took, event, now, until, Event::LocalFailed(LocalFailure::TooLate))
}

/// Returns the end of a request to the hub that is sent now.
fn ask(course: &Course, now: Instant, until: Instant) -> Pending {
    let Work { took, outcome } = course.hub;
    let event = match outcome {
        Ok(()) => Event::HubAnswered,
        Err(why) => Event::HubFailed(why),
    };
    limited(took, event, now, Some(until), Event::HubFailed(HubFailure::TooLate))
}

fn limited(took: Option<Duration>, event: Event, now: Instant, until: Option<Instant>, late: Event) -> Pending {
    // A place of which nothing is known answers at once; the time of the request is unknown then.
    let at = now.checked_add(took.unwrap_or_default()).or(until).unwrap_or(now);
    match until.filter(|until| *until < at) {
        Some(until) => Pending { at: until, event: late, is_timed: true },
        None => Pending { at, event, is_timed: took.is_some() },
    }
}
