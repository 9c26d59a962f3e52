//! Sends the requests of the outbox while the hub is there: a few at once, behind all live requests, and fewer while the hub has
//! no room.
//!
//! Privacy, conditions and budgets are looked at again when a request is sent: the policy may have been tightened meanwhile.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use edge_core::policy::{Snapshot, withheld};
use edge_core::request_outbox::{Back, State};
use edge_core::route::{HubFailure, HubState, LocalState, RequestInfo};
use service::clock;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use types::{NamedTensor, Policy, Timings};

use super::{Detail, LaterAnswer, Outbox};
use crate::models::Models;
use crate::permits::Permits;
use crate::receipts::note::{AmendmentNote, Content, hub_failure};
use crate::receipts::{Note, Recorder};
use crate::uplink::{DeferredRequest, HubAnswer, Link, NotAnswered};

/// Maximum wait for one answer of the hub, which runs queued requests behind all others.
const ANSWERED_WITHIN: Duration = Duration::from_secs(300);

/// Interval between looks for what is too old, and between writes of the age clock.
const TICK: Duration = Duration::from_secs(10);

/// Interval between looks whether a silent hub speaks again.
const LOOK: Duration = Duration::from_secs(1);

/// Number of failures of the hub itself after which a request is given up. Failures of the connection do not count.
const FAILURES_MAX: u32 = 5;

/// Task that sends what waits.
#[derive(Debug)]
pub struct Drain {
    /// The outbox.
    pub outbox: Outbox,
    /// Connection to the hub.
    pub link: Link,
    /// Models of this device, for their policies.
    pub models: Arc<Models>,
    /// Conditions and budgets.
    pub permits: Permits,
    /// Log of receipts.
    pub receipts: Recorder,
}

/// Result of sending one request.
enum Sent {
    Answered(Box<HubAnswer>),
    Back(Back),
    Failed(String),
}

impl Drain {
    /// Sends until `stop` is cancelled. What is at the hub then is sent again at the next start, and the hub runs it once.
    pub async fn run(self, stop: CancellationToken) {
        let this = Arc::new(self);
        let mut link = this.link.clone();
        let mut sending = JoinSet::new();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut was_online = false;
        loop {
            let is_online = matches!(this.link.hub_state(), HubState::Online { .. });
            if is_online && !was_online {
                this.outbox.lock().core.online();
            }
            was_online = is_online;
            while is_online && let Some((number, detail)) = this.outbox.next() {
                let this = Arc::clone(&this);
                sending.spawn(async move { this.send(number, detail).await });
            }
            let again = this.outbox.lock().core.poll_timeout().map(|(at, _why)| at);
            let look = Instant::now() + LOOK;
            let again = again.filter(|at| *at > Instant::now()).unwrap_or(look).min(look);
            tokio::select! {
                () = stop.cancelled() => break,
                _changed = link.changed() => {}
                () = this.outbox.0.wake.notified() => {}
                Some(_ended) = sending.join_next() => {}
                _ = tick.tick() => {
                    this.outbox.expire().await;
                    this.outbox.store_clock().await;
                    this.outbox.measure();
                }
                () = tokio::time::sleep_until(again.into()) => {}
            }
        }
        sending.shutdown().await;
        this.outbox.store_clock().await;
    }

    async fn send(&self, number: u64, detail: Detail) {
        let sent = AtomicU64::new(0);
        let inputs = match self.outbox.inputs(number).await {
            Ok(inputs) => inputs,
            Err(error) => {
                tracing::warn!(id = %detail.id, error = telemetry::chain(&error), "a request of the outbox is lost");
                return self.outbox.failed(number, &telemetry::chain(&error)).await;
            }
        };
        let result = self.ask(&detail, &inputs, &sent).await;
        let bytes = sent.into_inner();
        self.outbox.note_sent(number, bytes);
        let result = match result {
            Sent::Back(Back::Busy { retry_after: None }) if self.outbox.note_failure(number) >= FAILURES_MAX => {
                Sent::Failed("the hub failed on the request several times; its log holds the cause".to_owned())
            }
            other => other,
        };
        match result {
            Sent::Back(why) => {
                self.record(&detail, inputs, bytes, None, "sent-back");
                self.outbox.back(number, why);
            }
            Sent::Failed(fault) => {
                tracing::warn!(id = %detail.id, model = %detail.model, fault, "a request of the outbox has failed");
                self.record(&detail, inputs, bytes, None, "failed");
                self.outbox.failed(number, &fault).await;
            }
            Sent::Answered(answer) => {
                let HubAnswer { outputs, mut made } = *answer;
                let waited = clock::unix_s().saturating_sub(detail.accepted_unix_s);
                made.timings = Timings { total: Duration::from_secs(waited), ..made.timings };
                let hub_bytes = detail.hub_bytes.saturating_add(bytes);
                let answer = LaterAnswer { outputs, made, hub_bytes };
                self.record(&detail, inputs, bytes, Some(&answer), "answered");
                if self.outbox.answered(number, &detail, &answer).await {
                    self.link.settle(&detail.id).await;
                }
            }
        }
    }

    /// Asks the hub, if the policy allows it at this moment.
    async fn ask(&self, detail: &Detail, inputs: &[NamedTensor], sent: &AtomicU64) -> Sent {
        // The owner may have taken the model out of the configuration, and may put it back.
        let Some(model) = self.models.find(detail.model.as_str()) else { return Sent::Back(Back::Withheld) };
        let policy = model.policy(Some(detail.mode), &detail.rules());
        if let Some(held) = self.held_back(detail, &policy) {
            return held;
        }
        if let Err(spent) = self.permits.take(&detail.model, &policy, detail.input_bytes, detail.reason).await {
            return held(HubFailure::of_policy(spent));
        }
        let request = DeferredRequest {
            id: &detail.id,
            model: &detail.model,
            version: detail.version,
            reason: detail.reason,
            until: Instant::now() + ANSWERED_WITHIN,
            inputs,
            outputs: &detail.outputs,
            traceparent: None,
            is_background: true,
            is_queued: true,
            sent,
        };
        match self.link.infer(request).await {
            Ok(answer) => Sent::Answered(Box::new(answer)),
            Err(refused) => after(refused),
        }
    }

    /// Returns what happens to a request that its policy keeps from the hub now.
    fn held_back(&self, detail: &Detail, policy: &Policy) -> Option<Sent> {
        let (surroundings, left) = self.permits.look(&detail.model, policy);
        let local = LocalState::NoModel;
        let info = RequestInfo { policy: *policy, deadline: None, local, input_bytes: detail.input_bytes };
        let snapshot = Snapshot { surroundings, left, ..Snapshot::of(info, self.link.hub_state()) };
        withheld(&snapshot, detail.reason).map(|reason| held(HubFailure::of_policy(reason)))
    }

    fn record(
        &self,
        detail: &Detail,
        inputs: Vec<NamedTensor>,
        hub_bytes: u64,
        answer: Option<&LaterAnswer>,
        outcome: &'static str,
    ) {
        // An attempt that sent nothing changes nothing that the log is asked for.
        if !self.receipts.is_on() || (hub_bytes == 0 && outcome == "sent-back") {
            return;
        }
        let note = AmendmentNote {
            request: detail.id.clone(),
            model: detail.model.clone(),
            class: detail.class,
            reason: detail.reason,
            input: Content { bytes: detail.input_bytes, tensors: inputs },
            hub_bytes,
            outcome,
            made: answer.map(|answer| answer.made.clone()),
            waited_s: clock::unix_s().saturating_sub(detail.accepted_unix_s),
        };
        self.receipts.add(Note::Amendment(Box::new(note)));
    }
}

fn held(why: HubFailure) -> Sent {
    match why.passes() {
        true => Sent::Back(Back::Withheld),
        false => Sent::Failed(why.reason().sentence().to_owned()),
    }
}

/// Returns what follows when the hub has not answered.
fn after(refused: NotAnswered) -> Sent {
    let NotAnswered { failure, detail, retry_after } = refused;
    tracing::debug!(?failure, detail, "the hub gave no answer to a queued request");
    match failure {
        HubFailure::Unreachable => Sent::Back(Back::Away),
        HubFailure::Busy | HubFailure::NotAuthorised => {
            Sent::Back(Back::Busy { retry_after: Some(retry_after.unwrap_or_default()) })
        }
        HubFailure::TooLate => Sent::Back(Back::Busy { retry_after: Some(Duration::ZERO) }),
        // A hub that was restored may have to be given the model again.
        HubFailure::UnknownModel => Sent::Back(Back::Withheld),
        HubFailure::Failed => Sent::Back(Back::Busy { retry_after: None }),
        HubFailure::BadInput => Sent::Failed(detail.unwrap_or_else(|| hub_failure(HubFailure::BadInput).to_owned())),
        HubFailure::Forbidden | HubFailure::Withheld(_) | HubFailure::PredictedLate => held(failure),
    }
}

/// Returns whether an entry has an end that its client can be told.
pub(super) const fn is_settled(state: State) -> bool {
    matches!(state, State::Answered { .. } | State::Ended(_))
}
