//! Course of one request: the figures of its receipt that no single place knows, and its note for the log of receipts.
//!
//! A request whose client goes away is dropped with its future: the note is then made by [`Drop`].

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use edge_core::policy::Snapshot;
use edge_core::refit::Source;
use edge_core::route::LocalState;
use types::{Calibration, InferenceResponse, NamedTensor, Place, Reason};

use super::{AnswerError, HubAnswer, Local, LocalFault, NotAnswered, Walk, bytes_of};
use crate::receipts::Note;
use crate::receipts::note::{Content, DeviceWork, End, Form, HubWork, Moment, Outcome, RequestNote};

/// Course of one request so far.
pub(super) struct Trace<'a> {
    walk: &'a Walk<'a>,
    /// State of everything at the start of the route.
    snapshot: Snapshot,
    /// Time at the start of the route.
    began: Instant,
    device: Option<Work<DeviceWork>>,
    hub: Option<Work<HubWork>>,
    is_recorded: bool,
}

/// Work of one place: `begun` until it is over.
struct Work<T> {
    begun: Instant,
    is_over: bool,
    work: T,
}

impl<'a> Trace<'a> {
    /// Starts with a request that no place was asked for yet.
    pub(super) fn new(walk: &'a Walk<'a>, snapshot: Snapshot) -> Self {
        Self { walk, snapshot, began: Instant::now(), device: None, hub: None, is_recorded: false }
    }

    /// Notes that the device runs the model now.
    pub(super) fn runs_local(&mut self) {
        let none = Duration::ZERO;
        let outcome = Outcome::Cancelled;
        let work = DeviceWork { outcome, score: None, differs: None, queue: none, compute: none, took: none };
        self.device = Some(Work { begun: Instant::now(), is_over: false, work });
    }

    /// Notes that the hub is asked now and has time until `until`.
    pub(super) fn asks_hub(&mut self, until: Instant, reason: Reason) {
        let begun = Instant::now();
        let wait = until.saturating_duration_since(begun);
        let work = HubWork { reason, outcome: Outcome::Cancelled, wait, took: Duration::ZERO };
        self.hub = Some(Work { begun, is_over: false, work });
    }

    /// Notes the end of the run on the device.
    pub(super) fn local_ended(&mut self, result: &Result<Local, LocalFault>) {
        let Some(Work { begun, is_over, work }) = &mut self.device else { return };
        (*is_over, work.took) = (true, begun.elapsed());
        match result {
            Ok(local) => {
                work.outcome = Outcome::Answered;
                (work.score, work.queue, work.compute) = (local.score, local.queue, local.compute);
            }
            Err(fault) => work.outcome = Outcome::Failed(fault.failure),
        }
    }

    /// Notes the end of the request to the hub.
    pub(super) fn hub_ended(&mut self, result: &Result<HubAnswer, NotAnswered>) {
        let Some(Work { begun, is_over, work }) = &mut self.hub else { return };
        (*is_over, work.took) = (true, begun.elapsed());
        work.outcome = result.as_ref().map_or_else(|error| Outcome::Failed(error.failure), |_answer| Outcome::Answered);
    }

    /// Notes that the work of a place was withdrawn.
    pub(super) fn cancelled(&mut self, place: Place) {
        match place {
            Place::Device => self.device.iter_mut().for_each(|device| {
                (device.is_over, device.work.took) = (true, device.begun.elapsed());
            }),
            Place::Hub => self.hub.iter_mut().for_each(|hub| {
                (hub.is_over, hub.work.took) = (true, hub.begun.elapsed());
            }),
        }
    }

    /// Returns the time that the hub has taken; zero if it was not asked.
    pub(super) fn at_hub(&self) -> Duration {
        let took = |hub: &Work<HubWork>| if hub.is_over { hub.work.took } else { hub.begun.elapsed() };
        self.hub.as_ref().map(took).unwrap_or_default()
    }

    /// Returns the bytes of input that were handed to the connection to the hub.
    pub(super) fn sent(&self) -> u64 {
        self.walk.sent.load(Ordering::Relaxed)
    }

    /// Returns the guarantee of the device's variant. While an alarm of drift stands its bound holds for other inputs than these.
    pub(super) fn calibration(&self) -> Calibration {
        let serving = self.walk.serving.as_ref();
        let stated = serving.and_then(|serving| serving.variant()).map(|variant| variant.guarantee());
        let source = serving.map(|serving| self.walk.model.in_force(serving).source).unwrap_or_default();
        match stated.unwrap_or(Calibration::NotCalibrated) {
            // Shown by audits of the inputs that come.
            Calibration::Certified { alpha, confidence } if source == Source::Refitted => {
                Calibration::Refitted { alpha, confidence }
            }
            Calibration::Certified { .. } if source == Source::Withdrawn => Calibration::Uncertified,
            Calibration::Certified { .. } if serving.is_some_and(|serving| serving.drift.is_alarmed()) => {
                Calibration::Uncertified
            }
            stated => stated,
        }
    }

    /// Records the end of the request.
    pub(super) fn end(mut self, result: &Result<InferenceResponse, AnswerError>) {
        let end = match result {
            Ok(response) => {
                let records_answers = self.walk.limits.receipts.records_answers();
                let output = records_answers.then(|| content(&response.outputs));
                End::Answered { receipt: Box::new(response.receipt.clone()), output }
            }
            Err(
                AnswerError::Failed { failure, .. }
                | AnswerError::Queued { failure, .. }
                | AnswerError::NotQueued { failure, .. },
            ) => End::Failed(*failure),
            Err(AnswerError::Route(_)) => End::Broken,
        };
        self.record(end);
    }

    fn record(&mut self, end: End) {
        if std::mem::replace(&mut self.is_recorded, true) || !self.walk.limits.receipts.is_on() {
            return;
        }
        let (request, model) = (self.walk.request, self.walk.model);
        let note = RequestNote {
            request: request.id.clone(),
            model: model.name.clone(),
            version: request.version,
            input: content(&request.inputs),
            policy: self.snapshot.info.policy,
            deadline: self.deadline_left(),
            link: self.snapshot.hub,
            form: self.form(),
            expected: match self.snapshot.info.local {
                LocalState::Ready { expected } => expected,
                LocalState::NoModel => None,
            },
            device: self.device.as_ref().map(|device| {
                let took = if device.is_over { device.work.took } else { device.begun.elapsed() };
                DeviceWork { took, differs: self.chance_of_difference(device.work.score), ..device.work }
            }),
            hub: self.hub.as_ref().map(|hub| HubWork { took: self.at_hub(), ..hub.work }),
            hub_bytes: self.sent(),
            end,
            total: request.arrived.elapsed(),
            moment: self.moment(),
        };
        self.walk.limits.receipts.add(Note::Request(Box::new(note)));
    }

    fn deadline_left(&self) -> Option<Duration> {
        let info = &self.snapshot.info;
        let asked = info.deadline.map(|deadline| deadline.saturating_duration_since(self.began));
        asked.or(info.policy.deadline)
    }

    /// Returns the share of the calibration's answers with such a score that differ from the full model's.
    fn chance_of_difference(&self, score: Option<f32>) -> Option<f32> {
        self.walk.serving.as_ref()?.variant()?.chance_of_difference(score?)
    }

    /// Returns what a replay under another policy needs.
    fn moment(&self) -> Moment {
        let model = self.walk.model;
        let (author, owner) = model.layers();
        Moment {
            snapshot: self.snapshot,
            asked: self.walk.request.asked.clone(),
            author,
            owner,
            consent: model.table.consent,
            device_only: model.table.device_only,
            metered: self.walk.limits.permits.link_cost(),
        }
    }

    fn form(&self) -> Option<Form> {
        let serving = self.walk.serving.as_ref()?;
        Some(Form {
            version: serving.installed.version,
            variant: serving.installed.variant.clone(),
            digest: serving.installed.digest,
            engine: serving.engine,
            provider: serving.session.provider().to_owned(),
            threshold: self.walk.model.in_force(serving).threshold,
            calibration: self.calibration(),
        })
    }
}

impl Drop for Trace<'_> {
    fn drop(&mut self) {
        self.record(End::Cancelled);
    }
}

fn content(tensors: &[NamedTensor]) -> Content {
    let bytes = tensors.iter().map(|named| bytes_of(&named.tensor)).sum();
    Content { bytes, tensors: tensors.to_vec() }
}
