//! Audits: a share of the answers that the device keeps is compared with the full model's answers.
//!
//! Fed by [`crate::answer`] after the client has its answer; asks the hub in the background, with the lowest priority, one
//! audit at a time, and counts in [`crate::counters`]. An audit that finds the queue full or the hub away is dropped.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use edge_core::agreement::{Compared, agree};
use edge_core::policy::{Snapshot, withheld};
use edge_core::route::{LocalState, RequestInfo};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use types::{NamedTensor, Policy, Reason, RequestId, VariantName, Version};

use crate::models::Model;
use crate::permits::Permits;
use crate::receipts::note::{AuditNote, Content};
use crate::receipts::{Note, Recorder};
use crate::uplink::{DeferredRequest, Link};

/// Maximum number of audits that wait for the hub; at 5 % of 100 requests a second that is some seconds of a slow hub.
const WAITING_MAX: usize = 32;

/// Maximum bytes of the inputs and outputs of audits that wait.
const WAITING_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// Maximum wait for the full model's answer: nobody waits for it.
const ANSWERED_WITHIN: Duration = Duration::from_secs(30);

/// An answer that the device has given and that is to be compared.
#[derive(Debug)]
pub struct Audit {
    /// Model that answered.
    pub model: Arc<Model>,
    /// Version that answered.
    pub version: Version,
    /// Policy of the request.
    pub policy: Policy,
    /// Id of the request.
    pub id: RequestId,
    /// Inputs of the request.
    pub inputs: Vec<NamedTensor>,
    /// Answer of the device.
    pub outputs: Vec<NamedTensor>,
    /// Rule of the comparison.
    pub rule: Compared,
    /// Score of the answer, where the hub watches the threshold of its variant.
    pub scored: Option<ScoredAudit>,
}

/// Score of an audited answer.
#[derive(Debug, Clone, PartialEq)]
pub struct ScoredAudit {
    /// Variant that answered.
    pub variant: VariantName,
    /// Highest threshold of its curve that the score reaches; `None` if it reaches none.
    pub reached: Option<f32>,
}

impl Audit {
    fn bytes(&self) -> u64 {
        bytes_of(&self.inputs).saturating_add(bytes_of(&self.outputs))
    }
}

fn bytes_of(tensors: &[NamedTensor]) -> u64 {
    let bytes = tensors.iter().map(|tensor| tensor.tensor.data().len()).sum::<usize>();
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

/// Queue of the audits. Clones share it.
#[derive(Debug, Clone)]
pub struct Audits {
    queue: mpsc::Sender<Audit>,
    bytes: Arc<AtomicU64>,
}

/// Worker that takes audits from the queue.
#[derive(Debug)]
pub struct Auditor {
    queue: mpsc::Receiver<Audit>,
    bytes: Arc<AtomicU64>,
    link: Link,
    receipts: Recorder,
    permits: Permits,
}

impl Audits {
    /// Creates an empty queue and its worker, which asks over `link` as far as `permits` allows, and records what it sends.
    #[must_use]
    pub fn new(link: Link, receipts: Recorder, permits: Permits) -> (Self, Auditor) {
        let (send, receive) = mpsc::channel(WAITING_MAX);
        let bytes = Arc::<AtomicU64>::default();
        (Self { queue: send, bytes: Arc::clone(&bytes) }, Auditor { queue: receive, bytes, link, receipts, permits })
    }

    /// Queues an audit, or drops it if too many wait. Never waits.
    pub fn add(&self, audit: Audit) {
        let bytes = audit.bytes();
        let waiting = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let fits = waiting.saturating_add(bytes) <= WAITING_BYTES_MAX;
        if !fits || self.queue.try_send(audit).is_err() {
            self.bytes.fetch_sub(bytes, Ordering::Relaxed);
            tracing::debug!("an audit is dropped: too many wait for the hub");
        }
    }
}

impl Audits {
    /// Returns whether an audit that is added now would wait for its turn. Deferred answers are counted only then, so that a queue that
    /// is full leaves out kept and deferred answers alike.
    #[must_use]
    pub fn have_room(&self) -> bool {
        self.queue.capacity() > 0 && self.bytes.load(Ordering::Relaxed) < WAITING_BYTES_MAX
    }
}

impl Auditor {
    /// Compares the answers that wait, one at a time, until `stop` is cancelled.
    pub async fn run(mut self, stop: CancellationToken) {
        while let Some(Some(audit)) = stop.run_until_cancelled(self.queue.recv()).await {
            self.bytes.fetch_sub(audit.bytes(), Ordering::Relaxed);
            // Recorded also when the agent stops meanwhile: some bytes may have left the device.
            let sent = AtomicU64::new(0);
            let agrees = stop.run_until_cancelled(self.compare(&audit, &sent)).await;
            self.record(audit, sent.into_inner(), agrees.flatten());
            if agrees.is_none() {
                return;
            }
        }
    }

    fn record(&self, audit: Audit, hub_bytes: u64, agrees: Option<bool>) {
        if hub_bytes == 0 || !self.receipts.is_on() {
            return;
        }
        let bytes = audit.inputs.iter().map(|input| u64::try_from(input.tensor.data().len()).unwrap_or(u64::MAX));
        let input = Content { bytes: bytes.sum(), tensors: audit.inputs };
        let (request, model, class) = (audit.id, audit.model.name.clone(), audit.policy.class);
        self.receipts.add(Note::Audit(Box::new(AuditNote { request, model, class, input, hub_bytes, agrees })));
    }

    /// Takes the audit from the budgets if the policy allows the hub at this moment.
    async fn is_permitted(&self, audit: &Audit) -> bool {
        let (model, policy, input_bytes) = (&audit.model.name, audit.policy, bytes_of(&audit.inputs));
        let (surroundings, left) = self.permits.look(model, &policy);
        let info = RequestInfo { policy, deadline: None, local: LocalState::NoModel, input_bytes };
        let snapshot = Snapshot { surroundings, left, ..Snapshot::of(info, self.link.hub_state()) };
        withheld(&snapshot, Reason::Policy).is_none()
            && self.permits.take(model, &policy, input_bytes, Reason::Policy).await.is_ok()
    }

    /// Asks the hub and counts whether the answers agree; `None` if they cannot be compared.
    async fn compare(&self, audit: &Audit, sent: &AtomicU64) -> Option<bool> {
        if !self.is_permitted(audit).await {
            tracing::debug!(model = %audit.model.name, "the policy allows no audit now");
            return None;
        }
        let wanted: Vec<String> = audit.outputs.iter().map(|output| output.name.clone()).collect();
        let request = DeferredRequest {
            id: &audit.id,
            model: &audit.model.name,
            // The hub's present full model, whichever version that is: it is what the answer is held against.
            version: None,
            reason: Reason::Policy,
            until: Instant::now() + ANSWERED_WITHIN,
            inputs: &audit.inputs,
            outputs: &wanted,
            traceparent: None,
            is_background: true,
            is_queued: false,
            sent,
        };
        let answer = match self.link.infer(request).await {
            Ok(answer) => answer,
            Err(error) => {
                tracing::debug!(failure = ?error.failure, "an audit got no answer of the hub");
                return None;
            }
        };
        let Some(agrees) = agree(&audit.rule, &answer.outputs, &audit.outputs) else {
            tracing::debug!(model = %audit.model.name, "the answers of device and hub cannot be compared");
            return None;
        };
        audit.model.counters.count(&audit.model.name, audit.version, |tally| {
            tally.audited = tally.audited.saturating_add(1);
            tally.agreed = tally.agreed.saturating_add(u64::from(agrees));
        });
        if let Some(ScoredAudit { variant, reached }) = &audit.scored {
            audit.model.counters.count_score((&audit.model.name, audit.version, variant), *reached, agrees);
        }
        Some(agrees)
    }
}
