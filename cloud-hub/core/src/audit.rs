//! The audit log: events in a chain of hashes, so that a change or a gap is found and named.
//!
//! Fed by the use cases of the hub, one event for each change. The shell stores each [`Event`], the [`Link`] of the newest
//! one and, once old events are removed, the link of the last removed one (the anchor). The chain proves order and
//! completeness against whoever changes single records. Whoever can rewrite the whole log and its newest link can make a
//! consistent other one: compare the newest hash with one that was kept elsewhere.

use types::Digest;
use types::chain::{Broken, Check, Fault, PartsHash, Stated};

pub use types::chain::Link;

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

/// Returns the place before the first event.
#[must_use]
pub fn start() -> Link {
    Link::start(FORMAT)
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

/// Hashes an event.
fn hash(number: u64, change: &Change, previous: &Digest) -> Digest {
    let Change { at_unix_ms, actor, action, object, before, after } = change;
    let texts = [FORMAT, &number.to_string(), &at_unix_ms.to_string(), actor, action, object];
    let hash = texts.iter().fold(PartsHash::new(), |hash, text| hash.part(text.as_bytes()));
    let states = hash.optional(before.as_ref().map(String::as_bytes)).optional(after.as_ref().map(String::as_bytes));
    states.part(previous.to_string().as_bytes()).finish()
}

/// Checks the events after an anchor up to the place that was written last. Returns the number of events.
///
/// # Errors
/// [`Broken`]: the first place at which the log is not the one that was written.
pub fn verify<'e>(anchor: Link, events: impl IntoIterator<Item = &'e Event>, newest: Link) -> Result<u64, Broken> {
    let mut check = Check::after("event", anchor);
    for event in events {
        if check.place().number >= newest.number {
            return Err(check.broken(Fault::Extra(event.number)));
        }
        let stated = Stated { number: event.number, previous: event.previous, hash: event.hash };
        check.entry(stated, hash(event.number, &event.change, &event.previous))?;
    }
    check.end(newest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log() -> (Vec<Event>, Link) {
        let mut place = start();
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
        assert_eq!(verify(start(), &events, newest), Ok(5));
        assert_eq!(verify(events[1].link(), &events[2..], newest), Ok(3));
        assert_eq!(verify(start(), &[], start()), Ok(0));
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
                assert_eq!(
                    verify(start(), &tampered, newest).map_err(|broken| broken.fault),
                    Err(Fault::Changed(at as u64 + 1))
                );
            }
            let mut without = events.clone();
            without.remove(at);
            assert_eq!(
                verify(start(), &without, newest).map_err(|broken| broken.fault),
                Err(Fault::Missing(at as u64 + 1))
            );
        }
        // An event that is replaced by another one of its own making is found at the next one.
        let mut replaced = events.clone();
        let other = Change { actor: "you".into(), ..events[2].change.clone() };
        replaced[2] = Event::following(events[1].link(), other);
        assert_eq!(verify(start(), &replaced, newest).map_err(|broken| broken.fault), Err(Fault::Unlinked(4)));
        let last = Event::following(events[3].link(), Change { actor: "you".into(), ..events[4].change.clone() });
        let replaced = [&events[..4], &[last]].concat();
        assert_eq!(
            verify(start(), &replaced, newest).map_err(|broken| broken.fault),
            Err(Fault::Head { found: 5, wanted: 5 })
        );
        assert_eq!(verify(start(), &events, events[3].link()).map_err(|broken| broken.fault), Err(Fault::Extra(5)));
    }

    #[test]
    fn the_hash_of_an_event_never_changes() {
        let (events, _newest) = log();
        let hashes = [start().hash, events[0].hash, events[1].hash].map(|hash| hash.to_string());
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
        let after = Event::following(start(), long).change.after.unwrap();
        assert!(after.len() <= STATE_BYTES_MAX && after.ends_with("ä…"));
    }
}
