//! Decides which newcomer gets one of a limited number of places, and whose place it takes when all are in use.
//!
//! Fed by everything that accepts strangers: QUIC handshakes, enrolments, connections of the admin and metrics servers.
//! A place is held until the newcomer is known (its handshake is complete, its token is checked) or gone.
//!
//! Places are shared by source address: a source holds at most as many places as remain free. When no place is left for a
//! newcomer, the oldest place of the source with the most places is evicted. A flood therefore evicts mostly itself, and an
//! honest newcomer from the same source gets in as long as its handshake takes less time than the flood needs to fill the
//! source's places once. With `n` colluding sources each holds at most `places / n`; sources that are known keep their
//! precedence over all others.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Most sources that are remembered as known; the one that was seen least recently is forgotten first.
pub const KNOWN_SOURCES_MAX: usize = 16_384;

/// An address, as shares are counted: an IPv4 address, or the /64 network of an IPv6 address, which is what one host gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// An IPv4 address.
    V4(u32),
    /// The upper 64 bits of an IPv6 address.
    V6(u64),
}

impl From<IpAddr> for Source {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address.to_bits()),
            // The upper half of 128 bits always fits.
            IpAddr::V6(address) => Self::V6(u64::try_from(address.to_bits() >> 64).unwrap_or(u64::MAX)),
        }
    }
}

/// Limits of one intake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Maximum number of places held at once.
    pub places: usize,
    /// Number of held places from which a newcomer must first prove its address.
    pub prove_from: usize,
    /// Age from which a place may be evicted for a newcomer of the same weight.
    pub settled: Duration,
}

/// Names a place from its admission to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PlaceId(pub u64);

/// A stranger that wants a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Newcomer {
    /// Network address of the newcomer.
    pub source: Source,
    /// Whether the address was proven to be its own, so that it cannot be forged.
    pub is_proven: bool,
}

/// Decision about a newcomer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// The newcomer is served.
    Admit(PlaceId),
    /// Serve it after ending the holder of another place.
    Replace {
        /// Number of the newcomer's permit.
        admitted: PlaceId,
        /// The place to end; it is free already.
        evicted: PlaceId,
    },
    /// Ask it to prove its address and hold nothing for it.
    Prove,
    /// The newcomer is turned away.
    Refuse,
}

/// Places and their holders.
#[derive(Debug)]
pub struct Intake {
    limits: Limits,
    last: u64,
    held: BTreeMap<PlaceId, (Source, Instant)>,
    by_source: BTreeMap<Source, BTreeSet<PlaceId>>,
    known: Known,
}

impl Intake {
    /// Creates an intake with all places free.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self { limits, last: 0, held: BTreeMap::new(), by_source: BTreeMap::new(), known: Known::default() }
    }

    /// Decides about a newcomer.
    pub fn arrive(&mut self, newcomer: Newcomer, now: Instant) -> Decision {
        if !newcomer.is_proven && self.held.len() >= self.limits.prove_from {
            return Decision::Prove;
        }
        let source = newcomer.source;
        let own = self.held_by(source);
        let free = self.limits.places.saturating_sub(self.held.len());
        if free > 0 && (own == 0 || own < free) {
            return Decision::Admit(self.admit(source, now));
        }
        match self.victim(source, own, now) {
            Some(evicted) => {
                self.leave(evicted);
                Decision::Replace { admitted: self.admit(source, now), evicted }
            }
            None => Decision::Refuse,
        }
    }

    /// Frees a place; no effect when it is free already.
    pub fn leave(&mut self, place: PlaceId) {
        let Some((source, _since)) = self.held.remove(&place) else { return };
        if let Some(places) = self.by_source.get_mut(&source) {
            places.remove(&place);
            if places.is_empty() {
                self.by_source.remove(&source);
            }
        }
    }

    /// Remembers a source from which someone was authenticated: it goes before sources that are not known.
    pub fn know(&mut self, source: Source) {
        self.known.insert(source);
    }

    /// Returns the number of places held.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// Returns the number of places that a source holds.
    #[must_use]
    pub fn held_by(&self, source: Source) -> usize {
        self.by_source.get(&source).map_or(0, BTreeSet::len)
    }

    fn admit(&mut self, source: Source, now: Instant) -> PlaceId {
        self.last += 1;
        let place = PlaceId(self.last);
        self.held.insert(place, (source, now));
        self.by_source.entry(source).or_default().insert(place);
        place
    }

    /// Chooses whose place a newcomer takes that finds none; `None` when every place has a better right.
    fn victim(&self, source: Source, own: usize, now: Instant) -> Option<PlaceId> {
        let is_known = self.known.contains(source);
        let strangers = self.by_source.iter().filter(|(other, _)| !is_known || !self.known.contains(**other));
        let heaviest = strangers.max_by_key(|(other, places)| (places.len(), **other == source));
        if let Some((other, places)) = heaviest {
            // A share is moved from who has more; a known source moves a stranger's whatever its size.
            if places.len() > own + 1 || (is_known && !self.known.contains(*other)) {
                return places.first().copied();
            }
        }
        let own_oldest = self.by_source.get(&source).and_then(BTreeSet::first).copied();
        let oldest = own_oldest.or_else(|| self.oldest_unknown());
        oldest.filter(|place| {
            self.held.get(place).is_some_and(|(_, since)| now.duration_since(*since) >= self.limits.settled)
        })
    }

    /// Place numbers grow with time, so the first one is the oldest.
    fn oldest_unknown(&self) -> Option<PlaceId> {
        self.held.iter().find(|(_, (source, _))| !self.known.contains(*source)).map(|(place, _)| *place)
    }
}

/// Sources in order of their last sighting, at most [`KNOWN_SOURCES_MAX`].
#[derive(Debug, Default)]
struct Known {
    seen: BTreeMap<Source, u64>,
    order: VecDeque<(Source, u64)>,
    last: u64,
}

impl Known {
    fn contains(&self, source: Source) -> bool {
        self.seen.contains_key(&source)
    }

    fn insert(&mut self, source: Source) {
        self.last += 1;
        self.seen.insert(source, self.last);
        self.order.push_back((source, self.last));
        while self.seen.len() > KNOWN_SOURCES_MAX || self.order.len() > 2 * KNOWN_SOURCES_MAX {
            let Some((oldest, at)) = self.order.pop_front() else { return };
            // A source that was seen again later has a newer entry behind this one.
            if self.seen.get(&oldest) == Some(&at) && self.seen.len() > KNOWN_SOURCES_MAX {
                self.seen.remove(&oldest);
            } else if self.seen.get(&oldest) == Some(&at) {
                self.order.push_back((oldest, at));
            }
        }
    }
}
