//! Puts a request into the outbox: durable before its client is told.

use edge_core::request_outbox::{Event, Offered, Request, State};
use service::clock;
use store::StoreError;
use tokio::sync::oneshot;
use types::{Amend, Amendment, ErrorCode, ModelName, Reason};

use super::files::PayloadFiles;
use super::seal::{Purpose, SealError};
use super::{Detail, Outbox, StoredEntry, key, payload};
use crate::answer::RoutedRequest;

/// Error: a request is not in the outbox.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// The outbox is full.
    #[error("the hub cannot be reached, and the outbox is full ({requests} requests, {bytes} bytes)")]
    Full {
        /// Requests in the outbox.
        requests: usize,
        /// Bytes that they take.
        bytes: u64,
    },
    /// Another request has this id.
    #[error("another request with this id waits for the hub")]
    IdInUse,
    /// The inputs cannot be written.
    #[error("store the request in the outbox")]
    Files(#[from] SealError),
    /// The record cannot be written.
    #[error("store the request in the outbox")]
    Store(#[from] StoreError),
    /// The agent is stopping.
    #[error("the agent is stopping")]
    Stopping,
}

impl PushError {
    /// Returns the kind for the client.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::Full { .. } => ErrorCode::OutboxFull,
            Self::IdInUse => ErrorCode::IdInUse,
            Self::Files(_) | Self::Store(_) | Self::Stopping => ErrorCode::HubUnreachable,
        }
    }
}

impl Outbox {
    /// Puts a request into the outbox; durable when this returns. A request that is there already is not put a second time.
    ///
    /// # Errors
    /// [`PushError`]; nothing of the request is kept then.
    ///
    /// # Cancel safety
    /// A request whose future is dropped is in the outbox wholly or not at all.
    pub async fn push(
        &self,
        request: &RoutedRequest,
        model: &ModelName,
        reason: Reason,
    ) -> Result<Amendment, PushError> {
        let content = payload::write_request(&request.inputs).map_err(|_unwritable| SealError::Form)?;
        let expire_s = self.0.expire_after.as_secs();
        let accepted_unix_s = clock::unix_s();
        let detail = Detail {
            id: request.id.clone(),
            model: model.clone(),
            version: request.version,
            mode: request.policy.mode,
            class: request.policy.class,
            consent: request.asked.rules.consent,
            tags: request.asked.rules.tags.clone(),
            reason,
            outputs: request.outputs.clone(),
            amend: request.asked.rules.amend.clone().unwrap_or(Amend::Poll),
            accepted_unix_s,
            expires_unix_s: accepted_unix_s.saturating_add(expire_s),
            input: self.0.input_key.digest(&request.inputs),
            input_bytes: request.inputs.iter().map(|input| bytes_of(input.tensor.data().len())).sum(),
            hub_bytes: 0,
            notified: false,
            fault: None,
            failures: 0,
        };
        let offer = Request {
            id: request.id.clone(),
            model: model.clone(),
            priority: request.asked.rules.queue_priority,
            bytes: PayloadFiles::size(content.len()),
            expires_s: self.now_s().saturating_add(expire_s),
        };
        let offered = {
            let mut entries = self.lock();
            let offered = entries.core.offer(offer, self.now_s());
            match &offered {
                Offered::Taken { number, .. } => drop(entries.details.insert(*number, detail.clone())),
                Offered::Full => {
                    let figures = entries.core.figures();
                    telemetry::metrics::outbox_outcome("refused");
                    return Err(PushError::Full { requests: figures.requests, bytes: figures.request_bytes });
                }
                Offered::Known(_) => {}
            }
            offered
        };
        match offered {
            Offered::Taken { number, displaced } => {
                // In a task of its own, so that a client that goes away leaves nothing half stored.
                let (done, stored) = oneshot::channel();
                let (outbox, amendment) = (self.clone(), detail.amendment());
                let storing = async move {
                    outbox.ended_all(&displaced).await;
                    let _gone = done.send(outbox.store_new(number, content, detail).await);
                };
                if self.0.tasks.is_closed() {
                    self.forget_new(number);
                    return Err(PushError::Stopping);
                }
                drop(self.0.tasks.spawn(storing));
                stored.await.unwrap_or(Err(PushError::Stopping)).map(|()| amendment)
            }
            Offered::Known(number) => self.known(number, &detail).await,
            Offered::Full => Err(PushError::Stopping),
        }
    }

    async fn store_new(&self, number: u64, content: Vec<u8>, detail: Detail) -> Result<(), PushError> {
        let stored = self.write_new(number, content, detail).await;
        match &stored {
            Ok(()) => {
                // An error is impossible: nobody else may change an entry that is being stored.
                let _stored = self.lock().core.handle(number, Event::Stored, self.now_s());
                telemetry::metrics::outbox_outcome("queued");
                self.changed();
            }
            Err(error) => {
                tracing::warn!(error = telemetry::chain(error), "a request is not put into the outbox");
                self.forget_new(number);
                self.0.files.remove(number);
                self.changed();
            }
        }
        stored
    }

    async fn write_new(&self, number: u64, content: Vec<u8>, detail: Detail) -> Result<(), PushError> {
        self.0.files.write(number, Purpose::Request, content, detail.is_sealed()).await?;
        let entry = self.lock().core.entry(number).cloned();
        let Some(entry) = entry else { return Err(PushError::Stopping) };
        Ok(self.0.table.put(&key(number), &StoredEntry { entry, detail }).await?)
    }

    fn forget_new(&self, number: u64) {
        let mut entries = self.lock();
        let _forgotten = entries.core.handle(number, Event::NotStored, self.now_s());
        entries.details.remove(&number);
    }

    /// Returns the reference to an earlier request with the same id and inputs, once it is durable.
    async fn known(&self, number: u64, detail: &Detail) -> Result<Amendment, PushError> {
        let mut changes = self.changes();
        loop {
            let now = {
                let entries = self.lock();
                let state = entries.core.entry(number).map(|entry| entry.state);
                state.zip(entries.details.get(&number).cloned())
            };
            match now {
                Some((_state, known)) if known.input != detail.input || known.model != detail.model => {
                    return Err(PushError::IdInUse);
                }
                Some((State::Storing, _known)) => {}
                Some((_state, known)) => {
                    telemetry::metrics::outbox_outcome("repeated");
                    return Ok(known.amendment());
                }
                // The first one was not stored; the client may try again.
                None => return Err(PushError::Stopping),
            }
            if changes.changed().await.is_err() {
                return Err(PushError::Stopping);
            }
        }
    }
}

fn bytes_of(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}
