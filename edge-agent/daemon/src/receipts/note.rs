//! Notes of requests and audits, and the records that are made of them.
//!
//! Made by [`crate::answer`] and [`crate::audits`] with cheap copies; turned into records by [`super::task`] beside the requests.

use std::time::Duration;

use edge_core::policy::{Quantiles, Snapshot};
use edge_core::route::{Failure, HubFailure, HubState, LocalFailure};
use types::policy::{PolicyLayer, PrivacyClass};
use types::{
    Calibration, Digest, EngineName, ModelName, NamedTensor, Place, Policy, Reason, Receipt, RequestId, VariantName,
    Version,
};

use super::input::InputKey;
use crate::answer::{Asked, MadeBy};
use crate::records::v1::{
    AmendmentRecord, AskedRecord, AuditRecord, CalibrationRecord, ContentRecord, DeviceRecord, EndRecord, FormRecord,
    HubRecord, LeftRecord, LogEvent, MomentRecord, PolicyRecord, RequestRecord, Word,
};
use crate::surroundings::second_of_day_at;

/// Maximum length of the name of a provider in characters; the hub's comes from another machine.
const PROVIDER_CHARS_MAX: usize = 128;

/// Event that is to be recorded.
#[derive(Debug)]
pub enum Note {
    /// A request has ended.
    Request(Box<RequestNote>),
    /// An audit has ended.
    Audit(Box<AuditNote>),
    /// A request of the outbox was sent.
    Amendment(Box<AmendmentNote>),
}

/// Tensors whose digest is recorded.
#[derive(Debug)]
pub struct Content {
    /// Size of all tensors in bytes.
    pub bytes: u64,
    /// The tensors; empty if their digest is not recorded.
    pub tensors: Vec<NamedTensor>,
}

/// Version and engine of a place.
#[derive(Debug)]
pub struct Form {
    /// Version of the model.
    pub version: Version,
    /// Variant of the version.
    pub variant: VariantName,
    /// Digest of its model file.
    pub digest: Digest,
    /// Engine of the session.
    pub engine: EngineName,
    /// Execution provider or adapter.
    pub provider: String,
    /// Minimum score at which the device keeps its answer.
    pub threshold: Option<f32>,
    /// Guarantee behind the threshold.
    pub calibration: Calibration,
}

/// End of the work at one place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome<F> {
    /// The place gave an answer.
    Answered,
    /// The place gave no answer, for this reason.
    Failed(F),
    /// It was withdrawn: the other place was first, or the client went away.
    Cancelled,
}

/// Work of the device.
#[derive(Debug, Clone, Copy)]
pub struct DeviceWork {
    /// End of the work.
    pub outcome: Outcome<LocalFailure>,
    /// Confidence of the answer.
    pub score: Option<f32>,
    /// Share of the calibration's answers with such a score that differ from the full model's.
    pub differs: Option<f32>,
    /// Time in the queue of the session.
    pub queue: Duration,
    /// Time in the engine.
    pub compute: Duration,
    /// Time from the order to run to the end of the work.
    pub took: Duration,
}

/// Work of the hub.
#[derive(Debug, Clone, Copy)]
pub struct HubWork {
    /// Reason for asking the hub.
    pub reason: Reason,
    /// End of the work.
    pub outcome: Outcome<HubFailure>,
    /// Time that the hub was given.
    pub wait: Duration,
    /// Time from asking the hub to the end of its work.
    pub took: Duration,
}

/// End of a request.
#[derive(Debug)]
pub enum End {
    /// The client got an answer.
    Answered {
        /// Receipt of the answer.
        receipt: Box<Receipt>,
        /// The answer, if it is recorded.
        output: Option<Content>,
    },
    /// The client got an error.
    Failed(Failure),
    /// The client got the error of a fault in this program.
    Broken,
    /// The client went away.
    Cancelled,
}

/// Request that has ended.
#[derive(Debug)]
pub struct RequestNote {
    /// Id of the request.
    pub request: RequestId,
    /// Name of the model.
    pub model: ModelName,
    /// Version that the request asked for.
    pub version: Option<Version>,
    /// Input of the request.
    pub input: Content,
    /// Routing rules in force.
    pub policy: Policy,
    /// Time left at the start of the route.
    pub deadline: Option<Duration>,
    /// Connection to the hub at the start of the route.
    pub link: HubState,
    /// Version and engine of the device; `None` where no version was ready.
    pub form: Option<Form>,
    /// Recent time of the device from queue to answer.
    pub expected: Option<Duration>,
    /// Work of the device, where it was used.
    pub device: Option<DeviceWork>,
    /// Work of the hub, where it was asked.
    pub hub: Option<HubWork>,
    /// Bytes of input that were handed to the connection to the hub.
    pub hub_bytes: u64,
    /// End of the request.
    pub end: End,
    /// Time from the arrival of the whole request to its end.
    pub total: Duration,
    /// State of everything that decided the place.
    pub moment: Moment,
}

/// State of everything that decided the place of a request.
#[derive(Debug)]
pub struct Moment {
    /// State that the router decided on.
    pub snapshot: Snapshot,
    /// Layer of the application.
    pub asked: Asked,
    /// Layer of the author.
    pub author: Option<PolicyLayer>,
    /// Layer of the owner.
    pub owner: PolicyLayer,
    /// Standing consent of the owner.
    pub consent: bool,
    /// Whether the owner keeps all inputs on the device.
    pub device_only: bool,
    /// Whether the link was metered; `None` where nobody had asked for it.
    pub metered: Option<bool>,
}

/// Audit that has ended.
#[derive(Debug)]
pub struct AuditNote {
    /// Id of the request.
    pub request: RequestId,
    /// Name of the model.
    pub model: ModelName,
    /// Privacy class of the input.
    pub class: PrivacyClass,
    /// Input of the request.
    pub input: Content,
    /// Bytes of input that were handed to the connection to the hub.
    pub hub_bytes: u64,
    /// Whether both answers agree; `None` if they were not compared.
    pub agrees: Option<bool>,
}

/// Request of the outbox that was sent to the hub, or that has failed.
#[derive(Debug)]
pub struct AmendmentNote {
    /// Id of the request.
    pub request: RequestId,
    /// Name of the model.
    pub model: ModelName,
    /// Privacy class of the input.
    pub class: PrivacyClass,
    /// Reason for asking the hub.
    pub reason: Reason,
    /// Input of the request.
    pub input: Content,
    /// Bytes of input that were handed to the connection to the hub this time.
    pub hub_bytes: u64,
    /// `answered`, `sent-back` or `failed`.
    pub outcome: &'static str,
    /// Version and engine that answered.
    pub made: Option<MadeBy>,
    /// Time in the outbox so far, in seconds.
    pub waited_s: u64,
}

impl Note {
    /// Returns the bytes of tensors that the note holds.
    #[must_use]
    pub fn held_bytes(&self) -> u64 {
        let held = |content: &Content| if content.tensors.is_empty() { 0 } else { content.bytes };
        match self {
            Self::Request(note) => match &note.end {
                End::Answered { output: Some(output), .. } => held(&note.input).saturating_add(held(output)),
                End::Answered { .. } | End::Failed(_) | End::Broken | End::Cancelled => held(&note.input),
            },
            Self::Audit(note) => held(&note.input),
            Self::Amendment(note) => held(&note.input),
        }
    }

    /// Releases the tensors: their digests are not recorded then.
    pub fn release(&mut self) {
        match self {
            Self::Request(note) => {
                note.input.tensors.clear();
                if let End::Answered { output: Some(output), .. } = &mut note.end {
                    output.tensors.clear();
                }
            }
            Self::Audit(note) => note.input.tensors.clear(),
            Self::Amendment(note) => note.input.tensors.clear(),
        }
    }

    /// Makes the record of the note of an event at a time in milliseconds since 1970.
    #[must_use]
    pub fn into_event(self, at_unix_ms: u64, key: Option<&InputKey>) -> LogEvent {
        match self {
            Self::Request(note) => LogEvent::Request(Box::new(record_of(*note, at_unix_ms, key))),
            Self::Audit(note) => {
                let AuditNote { request, model, class, input, hub_bytes, agrees } = *note;
                let (class, input) = (class.as_str().into(), content_of(&input, key));
                LogEvent::Audit(AuditRecord { request, model, class, input, hub_bytes, agrees })
            }
            Self::Amendment(note) => {
                let AmendmentNote { request, model, class, reason, input, hub_bytes, outcome, made, waited_s } = *note;
                LogEvent::Amendment(Box::new(AmendmentRecord {
                    request,
                    model,
                    class: class.as_str().into(),
                    reason: reason.as_str().into(),
                    input: content_of(&input, key),
                    hub_bytes,
                    outcome: outcome.into(),
                    form: made.map(|made| FormRecord {
                        version: made.version,
                        variant: made.variant,
                        digest: made.digest,
                        engine: made.engine.as_str().into(),
                        provider: cut(&made.provider),
                    }),
                    waited_s,
                }))
            }
        }
    }
}

fn record_of(note: RequestNote, at_unix_ms: u64, key: Option<&InputKey>) -> RequestRecord {
    let RequestNote { request, model, version, input, policy, deadline, link, form, expected, .. } = note;
    let calibration = form.as_ref().map(calibration_of);
    let receipt = match &note.end {
        End::Answered { receipt, .. } => Some(receipt.as_ref()),
        End::Failed(_) | End::Broken | End::Cancelled => None,
    };
    let hub = note.hub.map(|hub| hub_of(&hub, receipt.filter(|receipt| receipt.place == Place::Hub)));
    RequestRecord {
        request,
        model,
        version,
        input: content_of(&input, key),
        policy: PolicyRecord {
            mode: policy.mode.as_str().into(),
            class: policy.class.as_str().into(),
            deadline_us: deadline.map(micros),
            hedge_us: policy.hedge.map(micros),
            hub_bytes_max: policy.budget.hub_bytes,
        },
        link_us: match link {
            HubState::Away => None,
            HubState::Online { round_trip } => Some(micros(round_trip)),
        },
        form: form.map(|form| FormRecord {
            version: form.version,
            variant: form.variant,
            digest: form.digest,
            engine: form.engine.as_str().into(),
            provider: cut(&form.provider),
        }),
        calibration,
        expected_us: expected.map(micros),
        device: note.device.map(|work| device_of(&work)),
        hub,
        hub_bytes: note.hub_bytes,
        end: end_of(note.end, key),
        total_us: micros(note.total),
        moment: Some(Box::new(moment_of(note.moment, second_of_day_at(at_unix_ms)))),
    }
}

fn moment_of(moment: Moment, local_s: u32) -> MomentRecord {
    let Moment { snapshot, asked, author, owner, consent, device_only, metered } = moment;
    let Asked { mode, has_deadline, rules } = asked;
    let quantiles = |of: Quantiles| [of.fast, of.typical, of.slow].map(micros);
    let layer = |layer: &PolicyLayer| serde_json::to_value(layer).ok().filter(|_| *layer != PolicyLayer::default());
    MomentRecord {
        asked: AskedRecord {
            mode: mode.map(|mode| mode.as_str().into()),
            deadline: has_deadline,
            hedge_us: rules.hedge_after.map(micros),
            privacy: rules.privacy.map(|class| class.as_str().into()),
            consent: rules.consent,
            tags: rules.tags,
            offline: rules.offline.map(|offline| offline.as_str().into()),
        },
        author: author.as_ref().and_then(layer),
        owner: layer(&owner),
        consent,
        device_only,
        metered,
        battery: snapshot.surroundings.battery_percent,
        local_s,
        device_us: snapshot.device_times.map(quantiles),
        device_queue: snapshot.device_queue,
        hub_us: snapshot.hub_times.map(quantiles),
        hub_queue_us: snapshot.hub_queue.map(micros),
        left: LeftRecord {
            bytes: snapshot.left.bytes,
            calls: snapshot.left.calls,
            escalations: snapshot.left.escalations,
        },
        drifted: snapshot.is_drifted,
        downloading: snapshot.is_downloading,
    }
}

fn content_of(content: &Content, key: Option<&InputKey>) -> ContentRecord {
    let key = key.filter(|_| !content.tensors.is_empty());
    ContentRecord { bytes: content.bytes, digest: key.map(|key| key.digest(&content.tensors)) }
}

fn calibration_of(form: &Form) -> CalibrationRecord {
    let bound = form.calibration.bound();
    CalibrationRecord {
        state: form.calibration.as_str().into(),
        threshold: form.threshold.filter(|threshold| threshold.is_finite()),
        alpha: bound.map(|(alpha, _)| alpha),
        confidence: bound.map(|(_, confidence)| confidence),
    }
}

fn device_of(work: &DeviceWork) -> DeviceRecord {
    let (outcome, failure) = outcome_of(work.outcome, local_failure);
    DeviceRecord {
        outcome,
        failure,
        score: work.score.filter(|score| score.is_finite()),
        differs: work.differs.filter(|share| share.is_finite()),
        queue_us: micros(work.queue),
        compute_us: micros(work.compute),
        took_us: micros(work.took),
    }
}

fn hub_of(work: &HubWork, receipt: Option<&Receipt>) -> HubRecord {
    let (outcome, failure) = outcome_of(work.outcome, hub_failure);
    HubRecord {
        reason: work.reason.as_str().into(),
        outcome,
        failure,
        wait_us: micros(work.wait),
        took_us: micros(work.took),
        queue_us: receipt.map_or(0, |receipt| micros(receipt.timings.queue)),
        compute_us: receipt.map_or(0, |receipt| micros(receipt.timings.compute)),
    }
}

fn outcome_of<F>(outcome: Outcome<F>, name: impl Fn(F) -> &'static str) -> (Word, Option<Word>) {
    match outcome {
        Outcome::Answered => ("answered".into(), None),
        Outcome::Failed(why) => ("failed".into(), Some(name(why).into())),
        Outcome::Cancelled => ("cancelled".into(), None),
    }
}

fn end_of(end: End, key: Option<&InputKey>) -> EndRecord {
    match end {
        End::Answered { receipt, output } => EndRecord::Answered {
            place: receipt.place.as_str().into(),
            reason: receipt.reason.as_str().into(),
            is_final: receipt.is_final,
            output: output.map(|output| content_of(&output, key)),
            form: FormRecord {
                version: receipt.version,
                variant: receipt.variant,
                digest: receipt.digest,
                engine: receipt.engine.as_str().into(),
                provider: cut(&receipt.provider),
            },
        },
        End::Failed(Failure { code, device, hub }) => EndRecord::Failed {
            code: code.as_str().into(),
            device: device.map(|why| local_failure(why).into()),
            hub: hub.map(|why| hub_failure(why).into()),
        },
        End::Broken => EndRecord::Failed { code: "internal".into(), device: None, hub: None },
        End::Cancelled => EndRecord::Cancelled,
    }
}

/// Cuts text of an engine or a hub.
fn cut(text: &str) -> String {
    text.chars().take(PROVIDER_CHARS_MAX).collect()
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// Returns the name of a failure of the device in records.
#[must_use]
pub const fn local_failure(why: LocalFailure) -> &'static str {
    match why {
        LocalFailure::NoModel => "no-model",
        LocalFailure::Busy => "busy",
        LocalFailure::Failed => "failed",
        LocalFailure::Crashed => "crashed",
        LocalFailure::Quarantined => "quarantined",
        LocalFailure::TooLate => "too-late",
        LocalFailure::BadInput => "bad-input",
        LocalFailure::Refused => "refused",
    }
}

/// Returns the name of a failure of the hub in records.
#[must_use]
pub const fn hub_failure(why: HubFailure) -> &'static str {
    match why {
        HubFailure::Unreachable => "unreachable",
        HubFailure::TooLate => "too-late",
        HubFailure::Busy => "busy",
        HubFailure::UnknownModel => "unknown-model",
        HubFailure::BadInput => "bad-input",
        HubFailure::NotAuthorised => "not-authorised",
        HubFailure::Failed => "failed",
        HubFailure::Forbidden => "forbidden",
        HubFailure::Withheld(reason) => reason.as_str(),
        HubFailure::PredictedLate => Reason::HubPredictedLate.as_str(),
    }
}

#[cfg(test)]
mod tests;
