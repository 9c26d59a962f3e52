//! The audit log in the store: one event for each change, in the same durable write as the change where that is in the store.
//!
//! Fed by the use cases; [`hub_core::audit`] makes the chain of hashes and checks it. Events are only added. When there are
//! more than [`EVENTS_MAX`], the oldest are removed and the hash of the last removed one is kept, so that the rest can be
//! checked. Housekeeping (expired tokens, what devices report of themselves, renewed certificates) is not recorded.

use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use hub_core::audit::{self, Change, EVENTS_MAX, Event, Link};
use store::{Batch, Entry, Record, Store, StoreError, Table};
use tokio::sync::{Mutex, RwLock};

use crate::api::audit::{AuditEvent, AuditPage, AuditVerification};
use crate::records::v1;

/// Audit log on disk. Clones share it.
#[derive(Clone)]
pub struct AuditLog {
    events: Table<v1::AuditEvent>,
    links: Table<v1::AuditLink>,
    /// End of the log with the events that are on their way to the disk; `None` when only the store knows it. Held while an
    /// event is numbered and handed to the store, and not until it is durable: the events of many writers share one fsync.
    tail: Arc<Mutex<Option<Tail>>>,
    /// Held for reading by each writer, and for writing by whoever needs a log that nobody is writing to.
    writers: Arc<RwLock<()>>,
}

/// Both ends of the log.
#[derive(Debug, Clone)]
struct Tail {
    /// Link of the newest event; `None` in an empty log.
    newest: Option<Entry<Link>>,
    /// Link of the newest event that was removed.
    oldest: Link,
}

impl fmt::Debug for AuditLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuditLog").finish_non_exhaustive()
    }
}

impl AuditLog {
    /// Returns the audit log in a store.
    #[must_use]
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self {
            events: Table::new(Arc::clone(&store)),
            links: Table::new(store),
            tail: Arc::default(),
            writers: Arc::default(),
        }
    }

    /// Writes a batch and the event about it, both or none.
    ///
    /// On a full disk a batch that only removes records, like the revocation of an operator, is applied without its event,
    /// which is logged instead: a right must be withdrawn even then.
    ///
    /// # Errors
    /// As [`Store::apply`]; [`StoreError::Conflict`] only when a condition of the batch itself does not hold.
    ///
    /// # Cancel safety
    /// Batch and event are written or neither.
    pub async fn commit(&self, batch: Batch, change: Change) -> Result<Link, StoreError> {
        let _writer = self.writers.read().await;
        let newest_key = format!("{}/{}", v1::AuditLink::TABLE, v1::NEWEST);
        loop {
            let mut tail = self.tail.lock().await;
            let before = match tail.take() {
                Some(known) => known,
                None => self.stored_tail().await?,
            };
            let place = before.newest.as_ref().map_or_else(audit::start, |entry| entry.value);
            let event = Event::following(place, change.clone());
            let extended = self.events.put_in(batch.clone(), &key(event.number), &event)?;
            let extended = self.links.expect_in(extended, v1::NEWEST, before.newest.as_ref())?;
            let extended = self.links.put_in(extended, v1::NEWEST, &event.link())?;
            let (extended, oldest) = self.without_oldest(extended, before.oldest, event.number).await?;
            let mut applying = self.events.store().apply(extended);
            // The first poll puts the batch into the store's queue, behind those of earlier events.
            let at_once = poll_fn(|context| Poll::Ready(applying.as_mut().poll(context))).await;
            *tail = Some(Tail { newest: Some(self.links.entry_of(v1::NEWEST, event.link())?), oldest });
            drop(tail);
            let applied = match at_once {
                Poll::Ready(applied) => applied,
                Poll::Pending => applying.await,
            };
            if applied.is_err() {
                // Later events expect this one, so they conflict and are numbered anew.
                *self.tail.lock().await = None;
            }
            match applied {
                Ok(()) => {
                    let Event { number, change, hash, .. } = event;
                    let Change { actor, action, object, .. } = change;
                    tracing::info!(number, actor, action, object, %hash, "audit event");
                    return Ok(Link { number, hash });
                }
                Err(error) if error.is_disk_full() && batch.is_removal() => {
                    self.events.store().apply(batch).await?;
                    let Change { actor, action, object, .. } = change;
                    tracing::error!(actor, action, object, "the disk is full: a change is missing in the audit log");
                    return Ok(place);
                }
                // Another log of the same store was faster, or an earlier event was not written: number the event anew.
                Err(StoreError::Conflict { key }) if key == newest_key.as_bytes() => {}
                Err(error) => return Err(error),
            }
        }
    }

    async fn stored_tail(&self) -> Result<Tail, StoreError> {
        let newest = self.links.entry(v1::NEWEST).await?;
        let oldest = self.links.get(v1::OLDEST).await?.unwrap_or_else(audit::start);
        Ok(Tail { newest, oldest })
    }

    /// Records a change that is not in the store, like one of signed metadata. A failure is only logged: the change is made.
    pub async fn record(&self, change: Change) {
        let (action, object) = (change.action.clone(), change.object.clone());
        if let Err(error) = self.commit(Batch::new(), change).await {
            tracing::error!(action, object, error = telemetry::chain(&error), "a change is missing in the audit log");
        }
    }

    /// Changes one record and records that, both or none; begins again when another call changed the record meanwhile.
    ///
    /// # Errors
    /// As `change`, which gets the record, and the store's errors turned into `E`.
    ///
    /// # Cancel safety
    /// The change is made and recorded, or neither.
    pub async fn update<R: Record, E: From<StoreError>>(
        &self,
        table: &Table<R>,
        key: &str,
        mut change: impl FnMut(Option<&R::Value>) -> Result<(R::Value, Change), E>,
    ) -> Result<(), E> {
        loop {
            let entry = table.entry(key).await?;
            let (value, event) = change(entry.as_ref().map(|entry| &entry.value))?;
            let batch = table.expect_in(Batch::new(), key, entry.as_ref())?;
            match self.commit(table.put_in(batch, key, &value)?, event).await {
                Ok(_recorded) => return Ok(()),
                // Another call made progress: this loop ends.
                Err(error) if error.is_conflict() => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Removes the oldest event from the log when the event of this number makes it one too many. Returns the link of the
    /// newest event that is removed then.
    async fn without_oldest(&self, batch: Batch, oldest: Link, number: u64) -> Result<(Batch, Link), StoreError> {
        if number.saturating_sub(oldest.number) <= EVENTS_MAX {
            return Ok((batch, oldest));
        }
        let removed = oldest.number.saturating_add(1);
        let place = match self.events.get(&key(removed)).await? {
            Some(event) => event.link(),
            // It was set aside because it is unreadable: the event after it has its hash.
            None => match self.events.get(&key(removed.saturating_add(1))).await? {
                Some(next) => Link { number: removed, hash: next.previous },
                None => Link { number: removed, hash: oldest.hash },
            },
        };
        let batch = self.events.delete_in(batch, &key(removed))?;
        Ok((self.links.put_in(batch, v1::OLDEST, &place)?, place))
    }

    /// Returns events, newest first, from before a number (the newest without it).
    ///
    /// # Errors
    /// When the store cannot be read. An unreadable event is left out; [`AuditLog::verification`] names it.
    pub async fn page(&self, before: Option<u64>, limit: u32) -> Result<AuditPage, StoreError> {
        let newest = self.links.get(v1::NEWEST).await?.map_or(0, |link| link.number);
        let oldest = self.links.get(v1::OLDEST).await?.map_or(0, |link| link.number);
        let mut next = before.unwrap_or(u64::MAX).min(newest.saturating_add(1));
        let mut events = Vec::new();
        while events.len() < limit as usize && next > oldest.saturating_add(1) {
            next -= 1;
            match self.events.get(&key(next)).await {
                Ok(event) => events.extend(event.map(view)),
                Err(StoreError::Unreadable { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(AuditPage { events, next: Some(next).filter(|next| *next > oldest.saturating_add(1)) })
    }

    /// Checks the whole log.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn verification(&self) -> Result<AuditVerification, StoreError> {
        let _no_writer = self.writers.write().await;
        let newest = self.links.get(v1::NEWEST).await?.unwrap_or_else(audit::start);
        let oldest = self.links.get(v1::OLDEST).await?.unwrap_or_else(audit::start);
        let events = self.events.list().await?.records;
        let checked = audit::verify(oldest, events.iter().map(|(_key, event)| event), newest);
        Ok(AuditVerification {
            intact: checked.is_ok(),
            checked: checked.unwrap_or_else(|_broken| u64::try_from(events.len()).unwrap_or(u64::MAX)),
            first: events.first().map_or(0, |(_key, event)| event.number),
            last: newest.number,
            head: newest.hash,
            problem: checked.err().map(|broken| broken.to_string()),
        })
    }
}

/// Returns the key of an event: ordered by number, also as text.
fn key(number: u64) -> String {
    format!("{number:020}")
}

fn view(event: Event) -> AuditEvent {
    let Event { number, change, previous, hash } = event;
    let Change { at_unix_ms, actor, action, object, before, after } = change;
    AuditEvent { number, at_unix_ms, actor, action, object, before, after, previous, hash }
}

#[cfg(test)]
mod tests {
    use store::MemoryStore;

    use super::*;

    fn change(number: u64) -> Change {
        Change::new(number, "me", "device.label", format!("device-{number}")).states(None, Some("site=a".into()))
    }

    async fn log(events: u64) -> (Arc<MemoryStore>, AuditLog) {
        let store = Arc::new(MemoryStore::new());
        let log = AuditLog::new(store.clone());
        for number in 1..=events {
            log.commit(Batch::new(), change(number)).await.unwrap();
        }
        (store, log)
    }

    #[tokio::test]
    async fn a_changed_byte_and_a_dropped_event_are_named() {
        let (store, log) = log(6).await;
        let whole = log.verification().await.unwrap();
        assert!(whole.intact && whole.checked == 6 && whole.problem.is_none(), "{whole:?}");
        let at = format!("audit/{}", key(3));
        let stored = store.get(at.as_bytes()).await.unwrap().unwrap();
        let text = String::from_utf8(stored.to_vec()).unwrap();
        for (from, to) in [("device-3", "device-4"), ("site=a", "site=b"), ("\"me\"", "\"ma\""), (":3,", ":4,")] {
            assert!(text.contains(from), "{text}");
            store.apply(Batch::new().put(at.clone(), text.replacen(from, to, 1))).await.unwrap();
            let broken = log.verification().await.unwrap();
            let problem = broken.problem.unwrap();
            assert!(!broken.intact && problem.contains("event 3"), "{from}: {problem}");
        }
        store.apply(Batch::new().put(at.clone(), stored)).await.unwrap();
        assert!(log.verification().await.unwrap().intact);
        for number in [1, 4, 6] {
            let at = format!("audit/{}", key(number));
            let kept = store.get(at.as_bytes()).await.unwrap().unwrap();
            store.apply(Batch::new().delete(at.clone())).await.unwrap();
            let problem = log.verification().await.unwrap().problem.unwrap();
            assert_eq!(problem, format!("event {number} is missing"));
            store.apply(Batch::new().put(at, kept)).await.unwrap();
        }
        store.apply(Batch::new().put(at, "{")).await.unwrap();
        assert_eq!(log.verification().await.unwrap().problem.unwrap(), "event 3 is missing");
        assert_eq!(log.page(None, 10).await.unwrap().events.len(), 5, "an unreadable event hides no other");
    }

    #[tokio::test]
    async fn pages_go_back_to_the_first_event() {
        let (_store, log) = log(5).await;
        let numbers = |page: &AuditPage| page.events.iter().map(|event| event.number).collect::<Vec<_>>();
        let first = log.page(None, 2).await.unwrap();
        assert_eq!((numbers(&first), first.next), (vec![5, 4], Some(4)));
        let second = log.page(first.next, 2).await.unwrap();
        assert_eq!((numbers(&second), second.next), (vec![3, 2], Some(2)));
        let last = log.page(second.next, 2).await.unwrap();
        assert_eq!((numbers(&last), last.next), (vec![1], None));
    }

    #[tokio::test]
    async fn concurrent_writers_make_one_chain_and_a_condition_that_fails_records_nothing() {
        let (store, log) = log(0).await;
        let other = AuditLog::new(store.clone());
        let writing = (0..20).map(|number| {
            let log = if number % 2 == 0 { log.clone() } else { other.clone() };
            async move { log.commit(Batch::new().put(format!("x/{number}"), "1"), change(number)).await }
        });
        for written in futures_util::future::join_all(writing).await {
            written.unwrap();
        }
        let refused = log.commit(Batch::new().expect("x/1", None).put("x/1", "2"), change(0)).await;
        assert!(refused.unwrap_err().is_conflict());
        let whole = log.verification().await.unwrap();
        assert_eq!((whole.intact, whole.checked), (true, 20));
    }

    #[tokio::test]
    async fn the_log_is_bounded_and_still_whole_when_old_events_are_gone() {
        let (store, log) = log(3).await;
        // As if as many events as that had been removed before: the bound counts from the anchor.
        for number in 4..=EVENTS_MAX + 5 {
            log.commit(Batch::new(), change(number)).await.unwrap();
        }
        let whole = log.verification().await.unwrap();
        assert_eq!((whole.intact, whole.checked, whole.first), (true, EVENTS_MAX, 6), "{whole:?}");
        assert_eq!(log.page(Some(7), 10).await.unwrap().next, None);
        store.apply(Batch::new().delete(format!("audit/{}", key(6)))).await.unwrap();
        assert_eq!(log.verification().await.unwrap().problem.unwrap(), "event 6 is missing");
    }
}
