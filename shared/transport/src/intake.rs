//! Admission of new connections, decided before any cryptography is computed for them.
//!
//! A listener calls its [`Intake`] for every new connection. The hub's own implementation is in its daemon and divides
//! the permits by address; [`FirstCome`] is used by a listener without one.

use std::fmt::Debug;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A peer that sent its first packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Newcomer {
    /// Source address of the packet.
    pub address: SocketAddr,
    /// Whether the peer proved that the address is its own (QUIC Retry, or a token of an earlier connection).
    pub is_proven: bool,
}

/// Decision about a new connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judgement {
    /// Begin the handshake. The permit is returned with [`Intake::left`] when the handshake ends.
    Admit {
        /// Number of the permit.
        place: u64,
    },
    /// End another handshake, whose permit is already free, then begin this one.
    Replace {
        /// Number of the new connection's permit.
        place: u64,
        /// Number of the permit of the handshake to end.
        evicted: u64,
    },
    /// Request a proof of the address (QUIC Retry), which needs no memory here.
    Prove,
    /// Refuse the connection.
    Refuse,
}

/// Decides about new connections. Called for every first packet, so it must be fast and must not block.
pub trait Intake: Send + Sync + Debug {
    /// Decides about one new connection.
    fn arrived(&self, newcomer: Newcomer) -> Judgement;

    /// Frees a permit: its handshake has ended, with or without success.
    fn left(&self, place: u64);
}

/// Admits connections in the order of their arrival, up to a number of handshakes.
#[derive(Debug)]
pub(crate) struct FirstCome {
    handshakes: usize,
    before_retry: usize,
    busy: AtomicUsize,
}

impl FirstCome {
    pub(crate) fn new(handshakes: usize, before_retry: usize) -> Self {
        Self { handshakes, before_retry, busy: AtomicUsize::new(0) }
    }
}

impl Intake for FirstCome {
    fn arrived(&self, newcomer: Newcomer) -> Judgement {
        let busy = self.busy.load(Ordering::Relaxed);
        if busy >= self.handshakes {
            Judgement::Refuse
        } else if busy >= self.before_retry && !newcomer.is_proven {
            Judgement::Prove
        } else {
            self.busy.fetch_add(1, Ordering::Relaxed);
            Judgement::Admit { place: 0 }
        }
    }

    fn left(&self, _place: u64) {
        self.busy.fetch_sub(1, Ordering::Relaxed);
    }
}
