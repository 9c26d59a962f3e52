//! Replays the requests of one model, one log after the other.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use edge_core::audit::is_drawn;
use edge_core::policy::{Cost, Ledger, Left, Snapshot, Surroundings, is_escalation, withheld};
use edge_core::route::{HubState, LocalState, RequestInfo};
use types::{ModelName, Place, Policy, Reason, RequestId};

use crate::change::{Changes, Decision};
use crate::moment::{Assumed, NewPolicy, Policies};
use crate::record::{Audit, End, Entry, Event, Request, micros, reason};
use crate::report::{Bound, Figures, Lacking, Report, Wrong};
use crate::samples::{Samples, Times, quantile};
use crate::walk::{Answer, Ended, walk};

/// Maximum number of kept requests that may still have an audit: audits are recorded behind their request, and at most 32 wait.
const AUDITABLE_MAX: usize = 1024;

/// Share of the kept answers that is drawn in thousandths where the hub's own limit is not known: all that were drawn.
const ALL_PER_MILLE: u16 = 1000;

/// Replay of the requests of one model.
#[derive(Debug)]
pub struct Replay {
    model: ModelName,
    new: NewPolicy,
    times: Times,
    /// Virtual time of the first record of a log.
    origin: Instant,
    log: Log,
    tallies: [Tally; 2],
    changes: Changes,
    counts: Counts,
}

/// State of the log that is replayed: each device has budgets of its own.
#[derive(Debug, Default)]
struct Log {
    ledger: Ledger,
    first_ms: Option<u64>,
    now: Option<Instant>,
    /// Requests that the device keeps under the new policy, oldest first by the number.
    kept: BTreeMap<RequestId, (u64, Policy, Surroundings, u64)>,
    number: u64,
}

#[derive(Debug, Default)]
struct Counts {
    requests: u64,
    first_unix_ms: Option<u64>,
    last_unix_ms: u64,
    changed: u64,
    open: u64,
    withdrawn: u64,
    cached: u64,
    reproduced: u64,
    lacking: Lacking,
}

/// Figures of one policy so far.
#[derive(Debug, Default)]
struct Tally {
    device: u64,
    hub: u64,
    failed: u64,
    sent: u64,
    deferred: u64,
    audits: u64,
    hub_bytes: u64,
    times_us: Vec<u64>,
    unknown_times: u64,
    /// Sum of the chances that a kept answer differs, and the number of answers with one.
    differing: (f64, u64),
    unknown_scores: u64,
    uncovered: u64,
    bound: Option<Bound>,
}

/// Recorded or replayed course of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Course {
    place: Option<Place>,
    is_sent: bool,
    is_deferred: bool,
    took: Option<Duration>,
}

impl Replay {
    /// Starts a replay of the requests of a model; `samples` has the times of the same logs.
    #[must_use]
    pub fn new(model: ModelName, new: NewPolicy, samples: &mut Samples, origin: Instant) -> Self {
        let times = samples.times(&model);
        let (log, tallies) = (Log::default(), Default::default());
        Self { model, new, times, origin, log, tallies, changes: Changes::default(), counts: Counts::default() }
    }

    /// Begins the log of another device: its budgets are full.
    pub fn begin_log(&mut self) {
        self.log = Log::default();
    }

    /// Replays a record. Records of other models and of other events change nothing.
    pub fn add(&mut self, entry: &Entry) {
        match &entry.event {
            Event::Request(request) if request.model == self.model => self.request(entry.at_unix_ms, request),
            Event::Audit(audit) if audit.model == self.model => self.audit(entry.at_unix_ms, audit),
            Event::Request(_) | Event::Audit(_) | Event::Started(_) | Event::Stopped => {}
        }
    }

    fn request(&mut self, at_unix_ms: u64, request: &Request) {
        if !request.is_decided() {
            self.counts.withdrawn = self.counts.withdrawn.saturating_add(1);
            return;
        }
        if request.is_cached() {
            self.counts.cached = self.counts.cached.saturating_add(1);
            return;
        }
        let start = self.log.advance(self.origin, at_unix_ms.saturating_sub(request.total_us / 1000));
        let surroundings = request.surroundings(at_unix_ms);
        let Policies { old, new } = request.policies(&self.new);
        let knows_score = request.knows_score();
        let before = self.replayed(request, &old, surroundings, start, Assumed::Unsure, None);
        let unix_s = at_unix_ms / 1000;
        let ledger = self.log.ledger.clone();
        let mut unsure_ledger = ledger.clone();
        let unsure =
            self.replayed(request, &new, surroundings, start, Assumed::Unsure, Some((&mut unsure_ledger, unix_s)));
        let mut sure_ledger = ledger;
        let sure = if knows_score {
            unsure
        } else {
            self.replayed(request, &new, surroundings, start, Assumed::Sure, Some((&mut sure_ledger, unix_s)))
        };
        if (sure.answer, sure.is_sent) != (unsure.answer, unsure.is_sent) {
            self.counts.open = self.counts.open.saturating_add(1);
            return;
        }
        self.log.ledger = unsure_ledger;
        self.compare(at_unix_ms, request, before, unsure, &new, surroundings);
    }

    /// Lets the router decide once more. Without a ledger, what was left of the budgets is what was recorded.
    fn replayed(
        &self,
        request: &Request,
        policy: &Policy,
        surroundings: Surroundings,
        start: Instant,
        assumed: Assumed,
        ledger: Option<(&mut Ledger, u64)>,
    ) -> Ended {
        let course = request.course(assumed, &self.times);
        let Some((ledger, unix_s)) = ledger.filter(|_| policy.budget.is_counted()) else {
            let left = if policy.budget.is_counted() { request.left() } else { Left::default() };
            return walk(request.snapshot(*policy, left, surroundings, start), &course, start, &mut |_reason| Ok(()));
        };
        let left = ledger.left(&policy.budget, surroundings.is_metered, unix_s, start);
        let bytes = request.input_bytes();
        let mut take = |reason: Reason| {
            let cost = Cost { bytes, is_metered: surroundings.is_metered, is_escalation: is_escalation(reason) };
            ledger.take(&policy.budget, cost, unix_s, start).map(|_stored| ())
        };
        walk(request.snapshot(*policy, left, surroundings, start), &course, start, &mut take)
    }

    fn compare(
        &mut self,
        at_unix_ms: u64,
        request: &Request,
        before: Ended,
        after: Ended,
        new: &Policy,
        surroundings: Surroundings,
    ) {
        let (recorded, decision) = recorded(request);
        // A decision that stays keeps its recorded figures: only what the policy changes is predicted. A record that contradicts
        // itself never makes a policy send what it forbids.
        let is_forbidden = recorded.is_sent && new.forbids(request.input_bytes()).is_some();
        let is_same = (before.answer, before.is_sent) == (after.answer, after.is_sent) && !is_forbidden;
        let (course, to) =
            if is_same { (recorded, decision.clone()) } else { (Course::of(after), after.answer.into()) };
        self.count(at_unix_ms, request, new);
        let counts = &mut self.counts;
        let is_reproduced = Decision::from(before.answer) == decision;
        counts.reproduced = counts.reproduced.saturating_add(u64::from(is_reproduced));
        let is_changed = (recorded.place, recorded.is_sent) != (course.place, course.is_sent);
        counts.changed = counts.changed.saturating_add(u64::from(is_changed));
        if is_changed || decision != to {
            self.changes.add(decision, to, &request.request);
        }
        let [old_tally, new_tally] = &mut self.tallies;
        old_tally.add(request, recorded, request.hub_bytes);
        new_tally.add(request, course, if is_same { request.hub_bytes } else { sent_bytes(request, course) });
        if course.place == Some(Place::Device) {
            self.log.keep(request, new, surroundings);
        }
    }

    fn count(&mut self, at_unix_ms: u64, request: &Request, new: &Policy) {
        let counts = &mut self.counts;
        counts.requests = counts.requests.saturating_add(1);
        counts.first_unix_ms = Some(counts.first_unix_ms.map_or(at_unix_ms, |first| first.min(at_unix_ms)));
        counts.last_unix_ms = counts.last_unix_ms.max(at_unix_ms);
        let lacking = &mut counts.lacking;
        let add = |count: &mut u64, is_so: bool| *count = count.saturating_add(u64::from(is_so));
        add(&mut lacking.moment, request.moment.is_none());
        add(&mut lacking.later, request.has_unread_layer());
        let budget = &new.budget;
        let asks_link = new.conditions.is_unmetered
            || budget.metered_bytes_per_day.is_some()
            || budget.unmetered_bytes_per_day.is_some();
        add(&mut lacking.link_cost, asks_link && !request.knows_link());
    }

    fn audit(&mut self, at_unix_ms: u64, audit: &Audit) {
        let [old, new] = &mut self.tallies;
        old.add_audit(audit.hub_bytes);
        let Some((_number, policy, surroundings, bytes)) = self.log.kept.remove(&audit.request) else { return };
        let allowed = policy.audit_share_max.map_or(ALL_PER_MILLE, types::share::Share::per_mille);
        if !is_drawn(&policy, bytes, ALL_PER_MILLE, allowed, &audit.request) {
            return;
        }
        let now = self.log.advance(self.origin, at_unix_ms);
        let (unix_s, is_metered) = (at_unix_ms / 1000, surroundings.is_metered);
        let left = self.log.ledger.left(&policy.budget, is_metered, unix_s, now);
        let info = RequestInfo { policy, deadline: None, local: LocalState::NoModel, input_bytes: bytes };
        let hub = HubState::Online { round_trip: Duration::ZERO };
        let snapshot = Snapshot { surroundings, left, ..Snapshot::of(info, hub) };
        let cost = Cost { bytes, is_metered, is_escalation: false };
        if withheld(&snapshot, Reason::Policy).is_none()
            && self.log.ledger.take(&policy.budget, cost, unix_s, now).is_ok()
        {
            new.add_audit(audit.hub_bytes);
        }
    }

    /// Returns the name of the model.
    #[must_use]
    pub fn model(&self) -> &ModelName {
        &self.model
    }

    /// Ends the replay.
    #[must_use]
    pub fn finish(self) -> Report {
        let Self { model, counts, changes, tallies: [recorded, new], .. } = self;
        let requests = counts.requests;
        Report {
            model,
            requests,
            first_unix_ms: counts.first_unix_ms.unwrap_or_default(),
            last_unix_ms: counts.last_unix_ms,
            recorded: recorded.figures(requests),
            new: new.figures(requests),
            changed: counts.changed,
            changes: changes.into_groups(),
            open: counts.open,
            withdrawn: counts.withdrawn,
            cached: counts.cached,
            reproduced: counts.reproduced,
            lacking: counts.lacking,
        }
    }
}

impl Log {
    /// Returns the virtual time of a moment; a clock that was set back stands still meanwhile.
    fn advance(&mut self, origin: Instant, at_ms: u64) -> Instant {
        let first = *self.first_ms.get_or_insert(at_ms);
        let now = self.now.unwrap_or(origin);
        let at = origin.checked_add(Duration::from_millis(at_ms.saturating_sub(first))).unwrap_or(now).max(now);
        self.now = Some(at);
        at
    }

    fn keep(&mut self, request: &Request, policy: &Policy, surroundings: Surroundings) {
        self.number = self.number.saturating_add(1);
        self.kept.insert(request.request.clone(), (self.number, *policy, surroundings, request.input_bytes()));
        if self.kept.len() > AUDITABLE_MAX {
            // Half of them at once, so that not every request searches for the oldest one.
            let oldest = self.number.saturating_sub(u64::try_from(AUDITABLE_MAX / 2).unwrap_or(u64::MAX));
            self.kept.retain(|_request, (number, ..)| *number > oldest);
        }
    }
}

impl Course {
    fn of(ended: Ended) -> Self {
        let place = match ended.answer {
            Answer::By(place, _reason) => Some(place),
            Answer::Failed(_code) => None,
        };
        Self { place, is_sent: ended.is_sent, is_deferred: ended.is_deferred, took: ended.took }
    }
}

fn sent_bytes(request: &Request, course: Course) -> u64 {
    if course.is_sent { request.input_bytes() } else { 0 }
}

/// Returns the course of a request as it was recorded, and its decision.
fn recorded(request: &Request) -> (Course, Decision) {
    let (place, decision) = match &request.end {
        End::Answered { place, reason } => {
            let by = if place == Place::Hub.as_str() { Place::Hub } else { Place::Device };
            (Some(by), Decision::new(place, reason))
        }
        End::Failed { code } => (None, Decision::new("none", code)),
        End::Cancelled => (None, Decision::new("none", "cancelled")),
    };
    let is_sent = request.hub_bytes > 0;
    let asked = request.hub.as_ref().and_then(|hub| reason(&hub.reason));
    let is_deferred = is_sent && asked.is_some_and(is_escalation);
    (Course { place, is_sent, is_deferred, took: Some(micros(request.total_us)) }, decision)
}

impl Request {
    fn input_bytes(&self) -> u64 {
        self.input.bytes
    }

    /// Returns the bound that holds for the device's answer if it is kept; `None` below the threshold and without a bound.
    fn bound(&self) -> Option<Bound> {
        let (threshold, score) = (self.threshold()?, self.device.as_ref()?.score?);
        let calibration = self.calibration.as_ref()?;
        let bound = Bound { alpha: calibration.alpha?, confidence: calibration.confidence? };
        (score >= threshold).then_some(bound)
    }
}

impl Tally {
    fn add(&mut self, request: &Request, course: Course, bytes: u64) {
        let more = |count: &mut u64, is_so: bool| *count = count.saturating_add(u64::from(is_so));
        more(&mut self.device, course.place == Some(Place::Device));
        more(&mut self.hub, course.place == Some(Place::Hub));
        more(&mut self.failed, course.place.is_none());
        more(&mut self.sent, course.is_sent);
        more(&mut self.deferred, course.is_deferred);
        self.hub_bytes = self.hub_bytes.saturating_add(bytes);
        match course.took {
            Some(took) => self.times_us.push(u64::try_from(took.as_micros()).unwrap_or(u64::MAX)),
            None => more(&mut self.unknown_times, true),
        }
        if course.place != Some(Place::Device) {
            return;
        }
        match request.device.as_ref().and_then(|device| device.differs).filter(|chance| (0.0..=1.0).contains(chance)) {
            Some(chance) => {
                self.differing.0 += f64::from(chance);
                self.differing.1 = self.differing.1.saturating_add(1);
            }
            None => more(&mut self.unknown_scores, true),
        }
        match (request.bound(), self.bound) {
            (None, _) => more(&mut self.uncovered, true),
            // Several versions have several bounds: the largest one holds for all of them.
            (Some(bound), Some(known)) if bound.alpha <= known.alpha => {}
            (Some(bound), _) => self.bound = Some(bound),
        }
    }

    fn add_audit(&mut self, bytes: u64) {
        self.audits = self.audits.saturating_add(1);
        self.hub_bytes = self.hub_bytes.saturating_add(bytes);
    }

    fn figures(mut self, requests: u64) -> Figures {
        self.times_us.sort_unstable();
        let (sum, known) = self.differing;
        let expected_share = match (self.device, known) {
            (0, _) => Some(0.0),
            (_, 0) => None,
            _some => Some(sum / real(requests)),
        };
        Figures {
            device: self.device,
            hub: self.hub,
            failed: self.failed,
            sent: self.sent,
            deferred: self.deferred,
            share_deferred: if requests == 0 { 0.0 } else { real(self.deferred) / real(requests) },
            audits: self.audits,
            hub_bytes: self.hub_bytes,
            p95_us: quantile(&self.times_us, 0.95),
            unknown_times: self.unknown_times,
            wrong: Wrong {
                expected_share,
                unknown: self.unknown_scores,
                bound: self.bound.filter(|_| self.uncovered == 0),
                uncovered: self.uncovered,
            },
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "numbers of requests, far below 2^52")]
fn real(count: u64) -> f64 {
    count as f64
}
