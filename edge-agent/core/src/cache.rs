//! Answers that may be given again: bounded by bytes and age, the least recently used ones leave first.
//!
//! Fed by the shell with a digest of everything that an answer depends on, the version on the device included. Answers of the hub
//! are of a version of its own: once a newer version of the model was seen, answers of older ones are never given again.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use types::{Digest, ModelName, Version};

/// Bytes that an entry takes beside its answer: keys, names, receipt.
pub const ENTRY_BYTES: u64 = 1024;

/// Minimum number of answers that fit into a cache: a larger answer would push out too many others.
const PARTS_MIN: u64 = 8;

/// Limits of a cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Maximum bytes of all answers; 0 keeps none.
    pub bytes_max: u64,
    /// Age from which an answer is not given again.
    pub age_max: Duration,
}

/// Counts of a cache, for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Requests that were answered from the cache.
    pub hits: u64,
    /// Requests that were looked up and not found.
    pub misses: u64,
    /// Answers that were removed to make room, or because of their age or version.
    pub evictions: u64,
}

/// Cached answers of all models.
#[derive(Debug)]
pub struct Cache<T> {
    limits: Limits,
    entries: HashMap<Digest, Entry<T>>,
    /// Keys by the time of their last use, oldest first.
    used: BTreeMap<u64, Digest>,
    /// Newest version of each model that was seen at any place.
    newest: BTreeMap<ModelName, Version>,
    bytes: u64,
    tick: u64,
    counts: Counts,
}

#[derive(Debug)]
struct Entry<T> {
    value: T,
    model: ModelName,
    /// Version at the hub; `None` for an answer of the device, whose version is in the key.
    version: Option<Version>,
    bytes: u64,
    stored: Instant,
    tick: u64,
}

impl<T: Clone> Cache<T> {
    /// Creates an empty cache.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        let (entries, used, newest) = (HashMap::new(), BTreeMap::new(), BTreeMap::new());
        Self { limits, entries, used, newest, bytes: 0, tick: 0, counts: Counts::default() }
    }

    /// Returns the answer under a key, if it is young enough and of the newest version.
    pub fn find(&mut self, key: &Digest, now: Instant) -> Option<T> {
        let is_good = |entry: &Entry<T>, newest: &BTreeMap<ModelName, Version>| {
            now.saturating_duration_since(entry.stored) < self.limits.age_max
                && is_newest(newest, &entry.model, entry.version)
        };
        match self.entries.get(key).map(|entry| is_good(entry, &self.newest)) {
            Some(true) => {}
            found => {
                if found.is_some() {
                    self.remove(key);
                }
                self.counts.misses = self.counts.misses.saturating_add(1);
                return None;
            }
        }
        self.tick = self.tick.saturating_add(1);
        let entry = self.entries.get_mut(key)?;
        self.used.remove(&entry.tick);
        entry.tick = self.tick;
        self.used.insert(self.tick, *key);
        self.counts.hits = self.counts.hits.saturating_add(1);
        Some(entry.value.clone())
    }

    /// Keeps an answer of so many bytes; `version` is that of the hub, or `None` for an answer of the device. An answer of an
    /// old version, or one that takes more than an eighth of the cache, is not kept: it would push out many others.
    pub fn keep(
        &mut self,
        key: Digest,
        model: &ModelName,
        version: Option<Version>,
        value: T,
        bytes: u64,
        now: Instant,
    ) {
        if let Some(version) = version {
            self.saw(model, version);
        }
        let bytes = bytes.saturating_add(ENTRY_BYTES);
        if !is_newest(&self.newest, model, version) || bytes > self.limits.bytes_max / PARTS_MIN {
            return;
        }
        if self.entries.contains_key(&key) {
            self.remove(&key);
        }
        while self.bytes.saturating_add(bytes) > self.limits.bytes_max {
            let Some(oldest) = self.used.first_key_value().map(|(_tick, key)| *key) else { break };
            self.remove(&oldest);
        }
        self.tick = self.tick.saturating_add(1);
        self.bytes = self.bytes.saturating_add(bytes);
        self.used.insert(self.tick, key);
        let entry = Entry { value, model: model.clone(), version, bytes, stored: now, tick: self.tick };
        self.entries.insert(key, entry);
    }

    /// Notes a version of a model: answers of older ones are never given again.
    pub fn saw(&mut self, model: &ModelName, version: Version) {
        match self.newest.get_mut(model) {
            Some(newest) if *newest >= version => {}
            Some(newest) => *newest = version,
            None => drop(self.newest.insert(model.clone(), version)),
        }
    }

    /// Returns the bytes of all answers, and their number.
    #[must_use]
    pub fn size(&self) -> (u64, usize) {
        (self.bytes, self.entries.len())
    }

    /// Returns the counts since the start.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts
    }

    fn remove(&mut self, key: &Digest) {
        let Some(entry) = self.entries.remove(key) else { return };
        self.used.remove(&entry.tick);
        self.bytes = self.bytes.saturating_sub(entry.bytes);
        self.counts.evictions = self.counts.evictions.saturating_add(1);
    }
}

fn is_newest(newest: &BTreeMap<ModelName, Version>, model: &ModelName, version: Option<Version>) -> bool {
    version.is_none_or(|version| newest.get(model).is_none_or(|newest| version >= *newest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: Limits = Limits { bytes_max: 64 * ENTRY_BYTES, age_max: Duration::from_secs(60) };

    fn key(number: u64) -> Digest {
        Digest::of(&number.to_le_bytes())
    }

    fn version(number: u64) -> Option<Version> {
        Version::new(number)
    }

    fn model(name: &str) -> ModelName {
        name.parse().unwrap()
    }

    #[test]
    fn an_answer_of_an_old_version_is_never_given_once_a_newer_one_was_seen() {
        let (m, now) = (model("m"), Instant::now());
        let mut cache = Cache::new(LIMITS);
        cache.keep(key(1), &m, version(1), 'a', 10, now);
        assert_eq!(cache.find(&key(1), now), Some('a'));
        cache.saw(&model("other"), version(7).unwrap());
        assert_eq!(cache.find(&key(1), now), Some('a'), "a version of another model says nothing");
        cache.saw(&m, version(2).unwrap());
        assert_eq!(cache.find(&key(1), now), None);
        cache.keep(key(1), &m, version(1), 'b', 10, now);
        assert_eq!(cache.find(&key(1), now), None, "a late answer of the old version is not kept");
        cache.saw(&m, version(1).unwrap());
        cache.keep(key(1), &m, version(2), 'c', 10, now);
        assert_eq!(cache.find(&key(1), now), Some('c'));
        // The version of the device is part of the key.
        cache.keep(key(2), &m, None, 'd', 10, now);
        assert_eq!(cache.find(&key(2), now), Some('d'));
    }

    #[test]
    fn old_and_large_answers_are_not_given_and_the_least_used_ones_leave() {
        let (m, now) = (model("m"), Instant::now());
        let mut cache = Cache::new(LIMITS);
        cache.keep(key(1), &m, version(1), 1, LIMITS.bytes_max / 8, now);
        assert_eq!(cache.size(), (0, 0), "with the entry itself it is over an eighth");
        for number in 0..64 {
            cache.keep(key(number), &m, version(1), number, 0, now);
        }
        assert_eq!(cache.find(&key(0), now), Some(0));
        cache.keep(key(99), &m, version(1), 99, 0, now);
        assert_eq!((cache.find(&key(1), now), cache.find(&key(0), now)), (None, Some(0)), "1 was used least recently");
        assert_eq!(cache.find(&key(2), now + LIMITS.age_max), None);
        assert_eq!(cache.counts(), Counts { hits: 2, misses: 2, evictions: 2 });
        let mut off = Cache::new(Limits { bytes_max: 0, ..LIMITS });
        off.keep(key(1), &m, version(1), 1, 0, now);
        assert_eq!(off.size(), (0, 0));
    }

    proptest! {
        #[test]
        fn a_cache_stays_within_its_limits_and_gives_what_was_kept_last(
            steps in prop::collection::vec((0_u64..100, 0_u64..20_000, 1_u64..4, 0_u64..30), 1..300),
        ) {
            let (m, mut now) = (model("m"), Instant::now());
            let mut cache = Cache::new(LIMITS);
            let mut kept: HashMap<Digest, (u64, u64, Instant)> = HashMap::new();
            let mut newest = 0;
            for (number, (id, bytes, of, wait)) in (0_u64..).zip(steps) {
                now += Duration::from_secs(wait);
                if let Some(found) = cache.find(&key(id), now) {
                    let (value, version, at) = kept[&key(id)];
                    prop_assert_eq!(found, value);
                    prop_assert!(version >= newest && now - at < LIMITS.age_max);
                }
                newest = newest.max(of);
                cache.keep(key(id), &m, version(of), number, bytes, now);
                if of == newest && bytes + ENTRY_BYTES <= LIMITS.bytes_max / 8 {
                    kept.insert(key(id), (number, of, now));
                    prop_assert_eq!(cache.find(&key(id), now), Some(number));
                }
                let (held, count) = cache.size();
                prop_assert!(held <= LIMITS.bytes_max && count <= 64);
                prop_assert!(held >= u64::try_from(count).unwrap() * ENTRY_BYTES);
            }
        }
    }
}
