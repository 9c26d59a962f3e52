//! Memory of what a model did to its hosts: requests that are not run again, and models that are not run again.
//!
//! Plain values with the time handed in. One record for each name of a model, shared by its sessions.

use std::collections::VecDeque;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::{Duration, Instant};

use types::{Digest, NamedTensor};

use super::death::HostDeath;

/// Deaths by the same request until it is not run any more: one may be an accident.
pub const REQUEST_DEATHS_MAX: u32 = 2;

/// Time for which a request is not run after its last death; then it gets one more try. A host that lacked memory for an
/// hour must not lose a request for ever.
pub const REQUEST_QUARANTINE: Duration = Duration::from_secs(3600);

/// Requests of one model that are remembered; the oldest goes first. A hostile client could bring any number.
const REQUESTS_REMEMBERED_MAX: usize = 64;

/// Deaths of a model within [`MODEL_DEATHS_WITHIN`] until it is not run any more.
///
/// A model that fails for one request in a thousand stays; one that fails for most stops the restarts after seconds.
pub const MODEL_DEATHS_MAX: usize = 8;

/// Period in which [`MODEL_DEATHS_MAX`] deaths condemn a model.
pub const MODEL_DEATHS_WITHIN: Duration = Duration::from_secs(600);

/// Deaths while a model is loaded again until it is not loaded any more.
pub(super) const LOAD_DEATHS_MAX: u32 = 2;

/// A request that ended a host.
#[derive(Debug)]
struct Suspect {
    /// Keyed hash, to find it fast.
    hash: u64,
    /// To be sure that it is the same.
    digest: Digest,
    deaths: u32,
    last: Instant,
    cause: HostDeath,
}

/// Deaths of hosts caused by one model.
#[derive(Debug, Default)]
pub(super) struct Record {
    hasher: RandomState,
    suspects: VecDeque<Suspect>,
    deaths: VecDeque<Instant>,
    load_deaths: u32,
    condemned: Option<String>,
}

/// A request that is not run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) deaths: u32,
    pub(super) cause: HostDeath,
}

impl Record {
    /// Returns the reason if the model is not run any more.
    pub(super) fn condemned(&self) -> Option<&str> {
        self.condemned.as_deref()
    }

    /// Checks whether a request may run. Costs nothing while no request is suspect.
    pub(super) fn check(&self, inputs: &[NamedTensor], outputs: &[String], now: Instant) -> Result<(), Refused> {
        if self.suspects.is_empty() {
            return Ok(());
        }
        let hash = self.hash(inputs, outputs);
        let Some(suspect) = self.suspects.iter().find(|suspect| suspect.hash == hash) else { return Ok(()) };
        let is_over = now.saturating_duration_since(suspect.last) >= REQUEST_QUARANTINE;
        if suspect.deaths < REQUEST_DEATHS_MAX || is_over || suspect.digest != digest(inputs, outputs) {
            return Ok(());
        }
        Err(Refused { deaths: suspect.deaths, cause: suspect.cause })
    }

    /// Notes that a request ended a host.
    pub(super) fn request_died(&mut self, inputs: &[NamedTensor], outputs: &[String], cause: HostDeath, now: Instant) {
        let (hash, digest) = (self.hash(inputs, outputs), digest(inputs, outputs));
        if let Some(known) = self.suspects.iter_mut().find(|suspect| suspect.digest == digest) {
            known.deaths = known.deaths.saturating_add(1);
            (known.last, known.cause) = (now, cause);
            return;
        }
        if self.suspects.len() >= REQUESTS_REMEMBERED_MAX {
            self.suspects.pop_front();
        }
        self.suspects.push_back(Suspect { hash, digest, deaths: 1, last: now, cause });
    }

    /// Notes a death during a run of the model; returns whether that condemned it.
    pub(super) fn died(&mut self, cause: HostDeath, now: Instant) -> bool {
        self.deaths.push_back(now);
        while self.deaths.front().is_some_and(|first| now.saturating_duration_since(*first) > MODEL_DEATHS_WITHIN) {
            self.deaths.pop_front();
        }
        if self.deaths.len() < MODEL_DEATHS_MAX || self.condemned.is_some() {
            return false;
        }
        let within = MODEL_DEATHS_WITHIN.as_secs() / 60;
        self.condemned =
            Some(format!("it ended its engine host {MODEL_DEATHS_MAX} times in {within} minutes; {cause}"));
        true
    }

    /// Notes a death while the model was loaded again; returns whether that condemned it.
    pub(super) fn load_died(&mut self, cause: HostDeath) -> bool {
        self.load_deaths = self.load_deaths.saturating_add(1);
        if self.load_deaths < LOAD_DEATHS_MAX || self.condemned.is_some() {
            return false;
        }
        self.condemned = Some(format!("loading it again ended its engine host {LOAD_DEATHS_MAX} times; {cause}"));
        true
    }

    /// Notes that the model was loaded again.
    pub(super) fn loaded(&mut self) {
        self.load_deaths = 0;
    }

    fn hash(&self, inputs: &[NamedTensor], outputs: &[String]) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        visit(inputs, outputs, |bytes| hasher.write(bytes));
        hasher.finish()
    }
}

/// Digest of a request: names, types, shapes, bytes and wanted outputs.
fn digest(inputs: &[NamedTensor], outputs: &[String]) -> Digest {
    let mut parts = Vec::new();
    visit(inputs, outputs, |bytes| parts.extend_from_slice(Digest::of(bytes).to_hex().as_bytes()));
    Digest::of(&parts)
}

/// Shows every part of a request; lengths keep neighbours apart.
fn visit(inputs: &[NamedTensor], outputs: &[String], mut see: impl FnMut(&[u8])) {
    for input in inputs {
        see(input.name.as_bytes());
        see(input.tensor.dtype().as_str().as_bytes());
        see(format!("{:?}", input.tensor.shape()).as_bytes());
        see(input.tensor.data());
    }
    for output in outputs {
        see(output.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use types::Tensor;

    use super::super::death::DeathCause;
    use super::*;

    const CRASH: HostDeath = HostDeath { cause: DeathCause::Signal(8) };

    fn row(value: f32) -> Vec<NamedTensor> {
        vec![NamedTensor { name: "x".into(), tensor: Tensor::from_f32(vec![1], &[value]).unwrap() }]
    }

    #[test]
    fn a_request_is_refused_after_two_deaths_and_no_other_is() {
        let (mut record, now) = (Record::default(), Instant::now());
        record.request_died(&row(1.0), &[], CRASH, now);
        assert_eq!(record.check(&row(1.0), &[], now), Ok(()), "one may be an accident");
        record.request_died(&row(1.0), &[], CRASH, now);
        assert_eq!(record.check(&row(1.0), &[], now), Err(Refused { deaths: 2, cause: CRASH }));
        assert_eq!(record.check(&row(2.0), &[], now), Ok(()));
        assert_eq!(record.check(&row(1.0), &["y".into()], now), Ok(()), "other outputs may run other nodes");
    }

    #[test]
    fn a_quarantine_ends_and_one_more_death_renews_it() {
        let (mut record, start) = (Record::default(), Instant::now());
        record.request_died(&row(1.0), &[], CRASH, start);
        record.request_died(&row(1.0), &[], CRASH, start);
        let later = start + REQUEST_QUARANTINE;
        assert_eq!(record.check(&row(1.0), &[], later), Ok(()));
        record.request_died(&row(1.0), &[], CRASH, later);
        assert!(record.check(&row(1.0), &[], later).is_err());
    }

    #[test]
    fn any_number_of_requests_takes_bounded_memory() {
        let (mut record, now) = (Record::default(), Instant::now());
        for number in 0_u8..200 {
            record.request_died(&row(f32::from(number)), &[], CRASH, now);
        }
        assert_eq!(record.suspects.len(), REQUESTS_REMEMBERED_MAX);
    }

    #[test]
    fn many_deaths_in_a_short_time_condemn_a_model_and_few_in_a_long_time_do_not() {
        let (mut record, start) = (Record::default(), Instant::now());
        for number in 0..100_u32 {
            assert!(!record.died(CRASH, start + MODEL_DEATHS_WITHIN / 4 * number));
        }
        let later = start + MODEL_DEATHS_WITHIN * 100;
        let condemned: Vec<bool> = (0..MODEL_DEATHS_MAX).map(|_| record.died(CRASH, later)).collect();
        assert_eq!(condemned.iter().position(|condemned| *condemned), Some(MODEL_DEATHS_MAX - 1));
        assert!(record.condemned().unwrap().contains("SIGFPE"));
    }

    #[test]
    fn a_model_that_kills_its_host_at_each_load_is_condemned() {
        let mut record = Record::default();
        assert!(!record.load_died(CRASH));
        record.loaded();
        assert!(!record.load_died(CRASH), "it loaded in between");
        assert!(record.load_died(CRASH));
        assert!(record.condemned().is_some());
    }
}
