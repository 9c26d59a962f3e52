//! The audit log: events in a chain of hashes, so that a change or a gap is found and named.
//!
//! Fed by the use cases of the hub, one event for each change. The shell stores each [`Event`], the [`Link`] of the newest
//! one and, once old events are removed, the link of the last removed one (the anchor). The chain proves order and
//! completeness against whoever changes single records. Whoever can rewrite the whole log and its newest link can make a
//! consistent other one: compare the newest hash with one that was kept elsewhere.

use types::Digest;

/// Maximum length of the state before or after a change in bytes; longer texts are cut.
pub const STATE_BYTES_MAX: usize = 2048;

/// Maximum number of events that are kept; the oldest are removed and the hash of the last removed one stays.
///
/// An event has about 600 bytes, at most about 5 kB: the log takes at most a third of the store.
pub const EVENTS_MAX: u64 = 10_000;

/// First text of each hash: the version of the format.
const FORMAT: &str = "sanderling audit 1";

/// Change that is to be recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Time in milliseconds since 1970.
    pub at_unix_ms: u64,
    /// Name of the operator or device that makes the change.
    pub actor: String,
    /// Kind of the change, like `device.revoke`.
    pub action: String,
    /// Name of the thing that is changed.
    pub object: String,
    /// State before; `None` where there was none.
    pub before: Option<String>,
    /// State after; `None` where there is none.
    pub after: Option<String>,
}

/// Place in the chain: an event's number and hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// Number of the event; 0 before the first one.
    pub number: u64,
    /// Hash of the event.
    pub hash: Digest,
}

/// Recorded change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Number, from 1 without gaps.
    pub number: u64,
    /// The change.
    pub change: Change,
    /// Hash of the event before.
    pub previous: Digest,
    /// Hash of this event.
    pub hash: Digest,
}

/// First place at which a log is not the one that was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// An event is not there.
    #[error("event {0} is missing")]
    Missing(u64),
    /// The content of an event is not what its hash says.
    #[error("event {0} was changed")]
    Changed(u64),
    /// An event does not follow the one before it.
    #[error("event {0} does not follow event {before}: one of them was replaced", before = .0.saturating_sub(1))]
    Unlinked(u64),
    /// The newest event is not the one that was written last.
    #[error("event {found} is the newest, and event {wanted} was written last")]
    Head {
        /// Newest event in the log.
        found: u64,
        /// Event that was written last.
        wanted: u64,
    },
    /// An event is there that was never written.
    #[error("event {0} is behind the newest one")]
    Extra(u64),
}

impl Change {
    /// Creates a change without states.
    pub fn new(at_unix_ms: u64, actor: impl Into<String>, action: &str, object: impl Into<String>) -> Self {
        let (actor, object) = (actor.into(), object.into());
        Self { at_unix_ms, actor, action: action.to_owned(), object, before: None, after: None }
    }

    /// Sets the states before and after the change.
    #[must_use]
    pub fn states(self, before: Option<String>, after: Option<String>) -> Self {
        Self { before, after, ..self }
    }
}

impl Link {
    /// Returns the place before the first event.
    #[must_use]
    pub fn start() -> Self {
        Self { number: 0, hash: Digest::of(FORMAT.as_bytes()) }
    }
}

impl Event {
    /// Makes the event that follows a place of the chain.
    #[must_use]
    pub fn following(place: Link, change: Change) -> Self {
        let change = Change { before: change.before.map(cut), after: change.after.map(cut), ..change };
        let number = place.number.saturating_add(1);
        let hash = hash(number, &change, &place.hash);
        Self { number, change, previous: place.hash, hash }
    }

    /// Returns the place of this event.
    #[must_use]
    pub fn link(&self) -> Link {
        Link { number: self.number, hash: self.hash }
    }
}

fn cut(mut text: String) -> String {
    if text.len() > STATE_BYTES_MAX {
        text.truncate(text.floor_char_boundary(STATE_BYTES_MAX.saturating_sub('…'.len_utf8())));
        text.push('…');
    }
    text
}

/// Hashes an event: each part with its length before it, so that no two events have the same bytes.
fn hash(number: u64, change: &Change, previous: &Digest) -> Digest {
    let Change { at_unix_ms, actor, action, object, before, after } = change;
    let mut bytes = Vec::new();
    let mut part = |part: Option<&str>| match part {
        Some(text) => {
            bytes.push(1);
            bytes.extend_from_slice(&u64::try_from(text.len()).unwrap_or(u64::MAX).to_be_bytes());
            bytes.extend_from_slice(text.as_bytes());
        }
        None => bytes.push(0),
    };
    part(Some(FORMAT));
    part(Some(&number.to_string()));
    part(Some(&at_unix_ms.to_string()));
    for text in [actor, action, object] {
        part(Some(text));
    }
    part(before.as_deref());
    part(after.as_deref());
    part(Some(&previous.to_string()));
    Digest::of(&bytes)
}

/// Checks the events after an anchor up to the place that was written last. Returns the number of events.
///
/// # Errors
/// [`Broken`]: the first place at which the log is not the one that was written.
pub fn verify<'e>(anchor: Link, events: impl IntoIterator<Item = &'e Event>, newest: Link) -> Result<u64, Broken> {
    let mut place = anchor;
    let mut checked: u64 = 0;
    for event in events {
        let expected = place.number.saturating_add(1);
        if expected > newest.number {
            return Err(Broken::Extra(event.number));
        }
        if event.number != expected {
            return Err(Broken::Missing(expected));
        }
        if event.hash != hash(event.number, &event.change, &event.previous) {
            return Err(Broken::Changed(event.number));
        }
        if event.previous != place.hash {
            return Err(Broken::Unlinked(event.number));
        }
        place = event.link();
        checked = checked.saturating_add(1);
    }
    if place.number < newest.number {
        return Err(Broken::Missing(place.number.saturating_add(1)));
    }
    if place != newest {
        return Err(Broken::Head { found: place.number, wanted: newest.number });
    }
    Ok(checked)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log() -> (Vec<Event>, Link) {
        let mut place = Link::start();
        let mut events = Vec::new();
        for number in 0..5_u64 {
            let change = Change {
                at_unix_ms: 1_800_000_000_000 + number,
                actor: "me".into(),
                action: "device.label".into(),
                object: format!("device-{number}"),
                before: (number > 0).then(|| "site=a".into()),
                after: Some("site=b".into()),
            };
            let event = Event::following(place, change);
            place = event.link();
            events.push(event);
        }
        (events, place)
    }

    #[test]
    fn a_whole_log_is_accepted_also_from_an_anchor() {
        let (events, newest) = log();
        assert_eq!(verify(Link::start(), &events, newest), Ok(5));
        assert_eq!(verify(events[1].link(), &events[2..], newest), Ok(3));
        assert_eq!(verify(Link::start(), &[], Link::start()), Ok(0));
    }

    #[test]
    fn every_change_of_every_part_and_every_gap_is_named() {
        let (events, newest) = log();
        let changes: [fn(&mut Event); 8] = [
            |event| event.change.at_unix_ms += 1,
            |event| event.change.actor.push('x'),
            |event| event.change.action.push('x'),
            |event| event.change.object.push('x'),
            |event| event.change.before = Some("other".into()),
            |event| event.change.after = None,
            |event| event.previous = Digest::of(b"other"),
            |event| event.hash = Digest::of(b"other"),
        ];
        for at in 0..5 {
            for change in changes {
                let mut tampered = events.clone();
                change(&mut tampered[at]);
                assert_eq!(verify(Link::start(), &tampered, newest), Err(Broken::Changed(at as u64 + 1)));
            }
            let mut without = events.clone();
            without.remove(at);
            assert_eq!(verify(Link::start(), &without, newest), Err(Broken::Missing(at as u64 + 1)));
        }
        // An event that is replaced by another one of its own making is found at the next one.
        let mut replaced = events.clone();
        let other = Change { actor: "you".into(), ..events[2].change.clone() };
        replaced[2] = Event::following(events[1].link(), other);
        assert_eq!(verify(Link::start(), &replaced, newest), Err(Broken::Unlinked(4)));
        let last = Event::following(events[3].link(), Change { actor: "you".into(), ..events[4].change.clone() });
        let replaced = [&events[..4], &[last]].concat();
        assert_eq!(verify(Link::start(), &replaced, newest), Err(Broken::Head { found: 5, wanted: 5 }));
        assert_eq!(verify(Link::start(), &events, events[3].link()), Err(Broken::Extra(5)));
    }

    #[test]
    fn the_hash_of_an_event_never_changes() {
        let (events, _newest) = log();
        let hashes = [Link::start().hash, events[0].hash, events[1].hash].map(|hash| hash.to_string());
        assert_eq!(
            hashes,
            [
                "sha256:de3d17de776cbfc5c1b8d4badbf1e42cf293cd3c9f6a4c3f3fce3372feaf3e1a",
                "sha256:4eb84acec35587e90bfda49477589d479191a788ff1e2f785c4faca4e5951767",
                "sha256:7367d61577420f528fcb27d95e8e091c444dde118de826e754ad130c377d675a"
            ]
        );
    }

    #[test]
    fn a_long_state_is_cut_at_a_character() {
        let long = Change { after: Some("ä".repeat(2000)), ..log().0[0].change.clone() };
        let after = Event::following(Link::start(), long).change.after.unwrap();
        assert!(after.len() <= STATE_BYTES_MAX && after.ends_with("ä…"));
    }
}
