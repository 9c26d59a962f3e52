//! Places for strangers, and guards that free them.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hub_core::intake::{Decision, Intake, Limits, Newcomer, PlaceId};
use tokio_util::sync::CancellationToken;
use transport::Judgement;

use super::locked;

/// Age from which a place may be evicted for a newcomer of the same weight: an honest handshake across the world takes
/// three round trips of 0.3 s and some CPU time.
const SETTLED: Duration = Duration::from_secs(1);

/// Places that newcomers compete for; see [`hub_core::intake`].
#[derive(Debug)]
pub struct Places {
    what: &'static str,
    intake: Mutex<Intake>,
    evictions: Mutex<HashMap<PlaceId, CancellationToken>>,
}

impl Places {
    /// Creates `places` places for newcomers whose address needs no proof.
    #[must_use]
    pub fn new(what: &'static str, places: usize) -> Arc<Self> {
        Self::with_proof(what, places, places)
    }

    /// Creates `places` places; from `prove_from` on a newcomer must prove its address.
    #[must_use]
    pub fn with_proof(what: &'static str, places: usize, prove_from: usize) -> Arc<Self> {
        let intake = Intake::new(Limits { places, prove_from, settled: SETTLED });
        Arc::new(Self { what, intake: Mutex::new(intake), evictions: Mutex::default() })
    }

    /// Takes a place for a newcomer whose address is its own; `None` when there is none.
    #[must_use]
    pub fn enter(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let decision = self.decide(address, true);
        let (id, evicted) = match decision {
            Decision::Admit(id) => (id, None),
            Decision::Replace { admitted, evicted } => (admitted, Some(evicted)),
            Decision::Prove | Decision::Refuse => return None,
        };
        let end = CancellationToken::new();
        let mut evictions = locked(&self.evictions);
        if let Some(ending) = evicted.and_then(|evicted| evictions.remove(&evicted)) {
            ending.cancel();
        }
        evictions.insert(id, end.clone());
        Some(Place { places: Arc::clone(self), id, evicted: end })
    }

    /// Remembers an address from which someone was authenticated: it goes before those that are not known.
    pub fn know(&self, address: IpAddr) {
        locked(&self.intake).know(address.into());
    }

    /// Returns the number of places held now.
    #[must_use]
    pub fn held(&self) -> usize {
        locked(&self.intake).held()
    }

    fn decide(&self, address: IpAddr, is_proven: bool) -> Decision {
        let newcomer = Newcomer { source: address.into(), is_proven };
        let decision = locked(&self.intake).arrive(newcomer, Instant::now());
        match decision {
            Decision::Admit(_) | Decision::Prove => {}
            Decision::Replace { .. } => telemetry::metrics::place_contended(self.what, "evicted"),
            Decision::Refuse => telemetry::metrics::place_contended(self.what, "refused"),
        }
        decision
    }
}

impl transport::Intake for Places {
    fn arrived(&self, newcomer: transport::Newcomer) -> Judgement {
        match self.decide(newcomer.address.ip(), newcomer.is_proven) {
            Decision::Admit(PlaceId(place)) => Judgement::Admit { place },
            Decision::Replace { admitted: PlaceId(place), evicted: PlaceId(evicted) } => {
                Judgement::Replace { place, evicted }
            }
            Decision::Prove => Judgement::Prove,
            Decision::Refuse => Judgement::Refuse,
        }
    }

    fn left(&self, place: u64) {
        locked(&self.intake).leave(PlaceId(place));
    }
}

/// A place, freed when this is dropped.
#[derive(Debug)]
#[must_use = "the place is freed when this is dropped"]
pub struct Place {
    places: Arc<Places>,
    id: PlaceId,
    evicted: CancellationToken,
}

impl Place {
    /// Remembers the address that the place was taken for; see [`Places::know`].
    pub fn know(&self, address: IpAddr) {
        self.places.know(address);
    }

    /// Returns what is cancelled when a newcomer takes this place.
    #[must_use]
    pub fn evicted(&self) -> CancellationToken {
        self.evicted.clone()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        locked(&self.places.intake).leave(self.id);
        locked(&self.places.evictions).remove(&self.id);
    }
}
