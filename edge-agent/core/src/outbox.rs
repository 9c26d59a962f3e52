//! Reports on their way to the hub: in order, at least once, in bounded space.
//!
//! Fed by the shell, which keeps every entry durably before it tells anyone ([`Outbox::push`] names what to store and
//! what to delete) and gives them back after a restart ([`Outbox::restore`]). One entry is on its way at a time; it is
//! gone only when the hub has acknowledged it. Whoever receives must bear seeing an entry twice.
//!
//! What is dropped, and only when the limit is reached: the oldest entry. A newer report about the same subject
//! replaces an older one that is not on its way, because only the last state of a version matters.

use std::collections::VecDeque;

/// Most reports that wait.
///
/// With one entry for each version of each model, this is a hundred models that changed ten times while the hub was
/// away; at 2 kB each it is 2 MB.
pub const ENTRIES_MAX: usize = 1000;

/// Names an entry among those that wait, across restarts; rises with each one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryId(pub u64);

/// One report on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry<T> {
    /// Its place in the order.
    pub id: EntryId,
    /// Subject of the report, like `digits/2`: a later report on it replaces this one.
    pub subject: String,
    /// Report to deliver.
    pub report: T,
}

/// Result of a push.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pushed {
    /// The new entry: store it.
    pub id: EntryId,
    /// An entry that is gone: delete it in the same batch.
    pub gone: Option<(EntryId, Gone)>,
}

/// Reason for the removal of an entry that was not delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gone {
    /// A newer report says more.
    Replaced,
    /// The limit was reached: count it and log it.
    Dropped,
}

/// Reports in the order they are sent.
#[derive(Debug, Clone)]
pub struct Outbox<T> {
    entries: VecDeque<Entry<T>>,
    on_its_way: Option<EntryId>,
    last: EntryId,
    limit: usize,
    dropped: u64,
}

impl<T> Outbox<T> {
    /// An empty outbox of at most `limit` entries, at least one. See [`ENTRIES_MAX`].
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { entries: VecDeque::new(), on_its_way: None, last: EntryId(0), limit: limit.max(1), dropped: 0 }
    }

    /// The outbox as it was stored, in any order. Of more entries than the limit the newest are kept; the ids of the
    /// others come back for deletion.
    #[must_use]
    pub fn restore(limit: usize, mut stored: Vec<Entry<T>>) -> (Self, Vec<EntryId>) {
        stored.sort_by_key(|entry| entry.id);
        let mut outbox = Self::new(limit);
        let over = stored.len().saturating_sub(outbox.limit);
        let dropped: Vec<EntryId> = stored.drain(..over).map(|entry| entry.id).collect();
        outbox.last = stored.last().map_or(outbox.last, |entry| entry.id);
        outbox.dropped = u64::try_from(over).unwrap_or(u64::MAX);
        outbox.entries = stored.into();
        (outbox, dropped)
    }

    /// Adds a report behind the others.
    pub fn push(&mut self, subject: String, report: T) -> Pushed {
        self.last = EntryId(self.last.0.saturating_add(1));
        let id = self.last;
        let gone = self.replaced(&subject).or_else(|| self.overflowing());
        self.entries.push_back(Entry { id, subject, report });
        Pushed { id, gone }
    }

    /// The oldest entry, which is on its way from now on; `None` while another one is, or when there is none.
    pub fn send(&mut self) -> Option<&Entry<T>> {
        if self.on_its_way.is_some() {
            return None;
        }
        let entry = self.entries.front()?;
        self.on_its_way = Some(entry.id);
        Some(entry)
    }

    /// The hub has it, and says so: delete the stored entry. Returns false for one that is not here any more.
    pub fn acknowledged(&mut self, id: EntryId) -> bool {
        if self.on_its_way == Some(id) {
            self.on_its_way = None;
        }
        let before = self.entries.len();
        self.entries.retain(|entry| entry.id != id);
        self.entries.len() < before
    }

    /// The one on its way did not arrive, or nobody knows: it is sent again.
    pub fn not_delivered(&mut self) {
        self.on_its_way = None;
    }

    /// Returns the number of waiting entries, including the one in flight.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Returns whether the hub has acknowledged everything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Returns the number of entries that were dropped at the limit since the start.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    fn replaced(&mut self, subject: &str) -> Option<(EntryId, Gone)> {
        let waits = |entry: &Entry<T>| entry.subject == subject && self.on_its_way != Some(entry.id);
        let at = self.entries.iter().position(waits)?;
        self.entries.remove(at).map(|entry| (entry.id, Gone::Replaced))
    }

    fn overflowing(&mut self) -> Option<(EntryId, Gone)> {
        if self.entries.len() < self.limit {
            return None;
        }
        self.dropped = self.dropped.saturating_add(1);
        let gone = self.entries.pop_front()?;
        // It may still arrive; then its acknowledgement finds nothing, which is lawful.
        if self.on_its_way == Some(gone.id) {
            self.on_its_way = None;
        }
        Some((gone.id, Gone::Dropped))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids<T>(outbox: &Outbox<T>) -> Vec<u64> {
        outbox.entries.iter().map(|entry| entry.id.0).collect()
    }

    #[test]
    fn a_report_is_sent_again_until_it_is_acknowledged() {
        let mut outbox = Outbox::new(10);
        let id = outbox.push("digits/1".into(), "active").id;
        assert_eq!(outbox.send().map(|entry| entry.id), Some(id));
        assert_eq!(outbox.send(), None, "one at a time");
        outbox.not_delivered();
        assert_eq!(outbox.send().map(|entry| entry.id), Some(id));
        assert!(outbox.acknowledged(id));
        assert!(!outbox.acknowledged(id), "an acknowledgement that comes twice does no harm");
        assert!(outbox.is_empty() && outbox.send().is_none());
    }

    #[test]
    fn a_newer_report_replaces_an_older_one_unless_it_is_on_its_way() {
        let mut outbox = Outbox::new(10);
        let first = outbox.push("digits/1".into(), "started").id;
        outbox.send();
        let second = outbox.push("digits/1".into(), "delayed");
        assert_eq!(second.gone, None);
        let third = outbox.push("digits/1".into(), "active");
        assert_eq!(third.gone, Some((second.id, Gone::Replaced)));
        assert_eq!(ids(&outbox), [first.0, third.id.0]);
    }

    #[test]
    fn at_the_limit_the_oldest_report_is_dropped_and_counted() {
        let mut outbox = Outbox::new(2);
        let first = outbox.push("a/1".into(), ()).id;
        outbox.send();
        outbox.push("b/1".into(), ());
        assert_eq!(outbox.push("c/1".into(), ()).gone, Some((first, Gone::Dropped)));
        assert_eq!((outbox.len(), outbox.dropped()), (2, 1));
        assert!(!outbox.acknowledged(first));
        assert_eq!(outbox.send().map(|entry| entry.subject.as_str()), Some("b/1"));
    }

    #[test]
    fn the_order_survives_a_restart() {
        let mut outbox = Outbox::new(3);
        for subject in ["a/1", "b/1", "c/1"] {
            outbox.push(subject.into(), ());
        }
        let mut stored: Vec<_> = outbox.entries.iter().cloned().collect();
        stored.reverse();
        let (mut restored, dropped) = Outbox::restore(2, stored);
        assert_eq!(dropped, [EntryId(1)]);
        assert_eq!(ids(&restored), [2, 3]);
        assert_eq!(restored.push("d/1".into(), ()).id, EntryId(4), "no two entries that wait share an id");
    }
}
